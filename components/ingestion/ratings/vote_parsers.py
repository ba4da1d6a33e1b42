"""The votes in a table of ratings: each form has its own way to tell what the people who rated a photo gave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.ratings import forms, maximum_entropy
from components.ingestion.ratings.column_detection import MEAN, SCORE, Names, Photos, no_column
from components.ingestion.ratings.scales import TEN, Scale, scale_of
from components.ingestion.ratings.table_reader import Sheet
from components.scorer.parameters import scale_limits
from components.scorer.quoting import listed, shown
from components.scorer.settings import SCORES, Ingestion


@dataclass
class Votes:
    """What the people who rated a photo gave: the part that each form has its own way to find.

    Attributes:
        shares: [photos, 10], each row summing to 1; not to be read where there is a reason to leave out.
        raters: int [photos], 0 where the file does not tell.
        reasons: why photos are left out, by their position: reason and detail.
        notes: sentences for the report.
        single: the ratings that count, with the photo's position as ``photo``.
    """

    shares: np.ndarray
    raters: np.ndarray
    reasons: dict[int, tuple[str, str]]
    notes: list[str]
    single: pd.DataFrame | None = None


def _one_row_a_rating(sheet: Sheet, names: Names, photos: Photos, settings: Ingestion) -> Votes:
    """The form "ratings"."""
    if names.score is None:
        raise no_column(sheet, "a score", SCORE)
    rows = np.arange(len(sheet.rows))
    raters, known = _raters(sheet, names.rater)
    given = names.mean if names.mean != names.score else None
    votes = _of_single_scores(sheet, photos, settings, given, _Scores(rows, sheet.numbers(names.score), raters, known))
    if names.rater is None:
        votes.notes.append(
            "The file names no raters (in a column called rater, user, worker, annotator, participant, …): every "
            "rating counts as another rater's."
        )
    return votes


def _one_column_a_rater(sheet: Sheet, names: Names, photos: Photos, settings: Ingestion) -> Votes:
    """The form "wide"."""
    if not names.raters:
        raise no_column(sheet, "one rater's scores, two or more of them", ("rater1", "rater2", "…"))
    cells = np.stack([sheet.numbers(name) for name in names.raters], axis=1)
    rows, columns = np.nonzero(~np.isnan(cells))
    raters = pd.Categorical.from_codes(columns, list(names.raters))
    scores = _Scores(rows, cells[rows, columns], raters, np.ones(len(rows), bool))
    votes = _of_single_scores(sheet, photos, settings, names.mean, scores)
    votes.notes.insert(0, f"{len(names.raters):,} columns hold one rater's scores each: {listed(names.raters)}.")
    return votes


@dataclass(frozen=True)
class _Scores:
    """Single scores, [n] each.

    Attributes:
        rows: the row of each, int.
        scores: float, NaN where there is none.
        raters: who gave it.
        known: whether that is known, bool; a rater who is not known is nobody else.
    """

    rows: np.ndarray
    scores: np.ndarray
    raters: pd.Categorical
    known: np.ndarray


def _of_single_scores(sheet: Sheet, photos: Photos, settings: Ingestion, mean: str | None, single: _Scores) -> Votes:
    """The votes that single scores are; their means have to be those in the column `mean`."""
    rows, scores, raters, known = single.rows, single.scores, single.raters, single.known
    given, codes = ~np.isnan(scores), photos.codes[rows]
    scale, notes = scale_of(scores[given], settings.rating_scale, True, sheet.uri)
    outside = given & ~scale.has(scores)
    reasons = _out_of_range(sheet, codes, rows, scores, outside)

    repeated = np.zeros(len(rows), bool)
    again = pd.DataFrame({"photo": codes, "rater": raters.codes})[given & known].duplicated(keep="last")
    repeated[np.flatnonzero(given & known)] = again
    counts = given & ~outside & ~repeated
    ten = scale.to_ten(scores[counts])
    lower = np.minimum(np.floor(ten), SCORES[-1] - 1).astype(int)
    above = ten - lower
    cells = codes[counts] * len(SCORES) + lower - SCORES[0]
    size = len(photos.names) * len(SCORES)
    votes = np.bincount(cells, 1 - above, size) + np.bincount(cells + 1, above, size)[:size]
    number = np.bincount(codes[counts], minlength=len(photos.names))
    for position in np.flatnonzero(number == 0):
        reasons.setdefault(int(position), ("no rating", f"{sheet.place(photos.first[position])}: no score"))

    if repeated.any():
        notes.append(f"{repeated.sum()} scores were given again by the same rater for the same photo: the last counts.")
    if not given.all():
        notes.append(f"{(~given).sum()} rows have no score and were passed over.")
    if scale == TEN and (parted := int(((above > 0) & (above < 1)).sum())):
        notes.append(f"{parted} scores lie between two whole ones and are shared between these in proportion.")
    sums = np.bincount(codes[counts], scores[counts], len(photos.names))
    means = np.divide(sums, number, out=np.full(len(number), np.nan), where=number > 0)
    means[list(reasons)] = np.nan
    _check_means(sheet, mean, photos, means, scale)
    table = pd.DataFrame({"photo": codes[counts], "rater": raters[counts], "score": ten})
    return Votes(_shares(votes.reshape(-1, len(SCORES))), number, reasons, notes, table)


def _raters(sheet: Sheet, column: str | None) -> tuple[pd.Categorical, np.ndarray]:
    """Who gave each row's score, and whether the file says so."""
    rows = len(sheet.rows)
    unknown = np.ones(rows, bool) if column is None else np.asarray(sheet.texts(column) == "")
    if unknown.all():
        return pd.Categorical(sheet.numbered(np.arange(rows)).astype(str)), ~unknown
    raters = sheet.texts(column)
    if unknown.any():  # each of them is someone else
        anonymous = np.char.add("\0", sheet.numbered(np.flatnonzero(unknown)).astype(str))
        everyone = raters.categories.append(pd.Index(anonymous))
        codes = raters.codes.astype(np.int64)
        codes[unknown] = len(raters.categories) + np.arange(unknown.sum())
        raters = pd.Categorical.from_codes(codes, everyone)
    return raters, ~unknown


def _vote_counts(sheet: Sheet, names: Names, photos: Photos, settings: Ingestion) -> Votes:
    """The forms "counts", "ava" and "idealo"."""
    if not names.votes:
        raise no_column(sheet, "vote counts, one for each score", ("1 … 10", "p1 … p10", "votes_1 … votes_10"))
    counts = np.stack([_from_zero(sheet, name) for name in names.votes], axis=1)
    for row, column in np.argwhere(np.isnan(counts))[:1]:
        raise sheet.error(
            row, f"expected a vote count in column {shown(names.votes[column])}, got an empty cell; write 0, or set "
            "rating_format to wide if the columns are raters"
        )  # fmt: skip
    _same_again(sheet, photos, np.column_stack([counts, _numbers_or_zeros(sheet, names.count)]))
    counts = counts[photos.first]
    totals = counts.sum(axis=1)
    empty = totals == 0
    reasons = {int(at): ("no rating", f"{sheet.place(photos.first[at])}: no votes") for at in np.flatnonzero(empty)}

    scale, notes = _scale_of_levels(sheet, names, settings)
    _check_means(sheet, names.mean, photos, forms.level_means(counts, names.levels), scale)
    shares = bool((counts % 1 > 0).any()) and (
        np.allclose(totals[~empty], 1, atol=0.01) or np.allclose(totals[~empty], 100, atol=1)
    )
    raters = np.rint(totals).astype(int)
    if shares:
        raters = np.rint(_numbers_or_zeros(sheet, names.count)[photos.first]).astype(int)
        notes.append("The votes are shares that add up to 1 or 100 %, not counts.")
        notes += _unknown_raters(raters)
    return Votes(_shares(counts @ _weights(scale, names.levels)), raters, reasons, notes)


def _scale_of_levels(sheet: Sheet, names: Names, settings: Ingestion) -> tuple[Scale, list[str]]:
    """The scale from the first to the last score that has a column, and what to say of it."""
    scale = Scale(names.levels[0], names.levels[-1])
    if (limits := scale_limits(settings.rating_scale)) and Scale(*limits) != scale:
        raise ValueError(
            f"{sheet.uri}: expected votes for the scores {Scale(*limits)}, as rating_scale says, got votes for "
            f"{scale.low} to {scale.high}; number the columns by their scores, or leave rating_scale on auto"
        )
    rule = f" A vote for the score s counts as one for {scale.rule} of 1-10." if scale.rule else ""
    return scale, [f"The votes are for the scores {scale.low} to {scale.high}.{rule}"]


def _weights(scale: Scale, levels: Sequence[int]) -> np.ndarray:
    """What a vote for each score of a scale is worth in votes for 1 to 10, [levels, 10]: see `scales`."""
    return np.maximum(0, 1 - np.abs(scale.to_ten(np.array(levels))[:, None] - np.array(SCORES)))


def _means(sheet: Sheet, names: Names, photos: Photos, settings: Ingestion) -> Votes:
    """The form "means"."""
    if names.mean is None:
        raise no_column(sheet, "a mean", MEAN)
    means = sheet.numbers(names.mean)
    stds = _from_zero(sheet, names.std) if names.std else np.full(len(means), np.nan)
    counts = _numbers_or_zeros(sheet, names.count)
    scale, notes = scale_of(means[~np.isnan(means)], settings.rating_scale, False, sheet.uri)
    outside = ~np.isnan(means) & ~scale.has(means)
    reasons = _out_of_range(sheet, photos.codes, np.arange(len(means)), means, outside)
    _same_again(sheet, photos, np.column_stack([means, stds, counts]))
    means, stds, counts = means[photos.first], stds[photos.first], counts[photos.first]
    for position in np.flatnonzero(np.isnan(means)):
        reasons[int(position)] = ("no rating", f"{sheet.place(photos.first[position])}: no mean")

    usable = np.ones(len(means), bool)
    usable[list(reasons)] = False
    shares = np.zeros((len(means), len(SCORES)))
    ten = scale.to_ten(means[usable])
    spread = stds[usable] * (TEN.width / scale.width)
    shares[usable], assumed = _likeliest(ten, spread, counts[usable], settings)
    raters = np.rint(counts).astype(int)
    return Votes(shares, raters, reasons, [*notes, *assumed, *_unknown_raters(raters[usable])])


def _check_means(sheet: Sheet, column: str | None, photos: Photos, means: np.ndarray, scale: Scale) -> None:
    """Refuse a table whose own column of means says something else than its votes.

    Args:
        sheet: the table.
        column: of the means; None, or no numbers: there is nothing to check.
        photos: the photos that its rows are about.
        means: of each photo's votes, on their own scale, float [photos]; NaN where there are none.
        scale: of the votes.

    Raises:
        ValueError: names the first row, how many there are, and what to do.
    """
    if column is None or not sheet.is_numeric(column):
        return
    given = sheet.numbers(column)[photos.first]
    wrong = np.flatnonzero(~forms.agree(given, means, scale.width))
    for position in wrong[:1]:
        raise sheet.error(
            photos.first[position],
            f"expected the mean of the votes, {means[position]:.3g}, in column {shown(column)}, got "
            f"{given[position]:g} ({len(wrong):,} of {len(means):,} photos differ so); correct the votes or the means, "
            "or rename the column if it is something else",
        )


def _likeliest(
    means: np.ndarray, stds: np.ndarray, counts: np.ndarray, settings: Ingestion
) -> tuple[np.ndarray, list[str]]:
    """Votes of maximum entropy [n, 10], and what was assumed."""
    known = ~np.isnan(stds)
    notes = ["Each photo's votes are the distribution of maximum entropy with its mean and its standard deviation."]
    # The pooled variance: each photo's, weighted with its raters where all photos tell their number.
    weights = counts if (counts[known] > 0).all() else np.ones(len(counts))
    pooled = np.sqrt(np.average(stds[known] ** 2, weights=weights[known])) if known.any() else settings.rater_std
    if not known.all():
        source = "the pooled one of the other photos" if known.any() else "the setting rater_std"
        notes.append(f"{(~known).sum()} means come without a standard deviation: {pooled:.2f} is taken, {source}.")
    stds = np.where(known, stds, pooled)
    _, greatest = maximum_entropy.possible_stds(means)
    shares = maximum_entropy.from_means_and_stds(means, stds)
    # Near 1 or 10 the pooled spread would need votes on 1 and 10 alone, which nobody has said.
    free = ~known & (stds > greatest)
    if free.any():
        shares[free] = maximum_entropy.from_means(means[free])
        notes.append(f"{free.sum()} of these means lie too near 1 or 10 for that: their spread is left open.")
    if moved := int((known & (np.abs(shares @ np.square(SCORES) - means**2 - stds**2) > 0.01)).sum()):
        notes.append(f"{moved} standard deviations are impossible with their mean: the nearest possible one is taken.")
    return shares, notes


def _same_again(sheet: Sheet, photos: Photos, values: np.ndarray) -> None:
    """ValueError where a photo's rows differ in their values, float [rows, columns]: which is right?"""
    first = photos.first[photos.codes]
    again = np.flatnonzero(first != np.arange(len(first)))
    same = np.isclose(values[again], values[first[again]], equal_nan=True).all(axis=1)
    for row in again[~same][:1]:
        raise sheet.error(
            row, f"expected one row for a photo, got another one for the photo of {sheet.place(first[row])}, with "
            "other values; keep one, or set rating_format to ratings if each row is one person's rating"
        )  # fmt: skip


def _out_of_range(
    sheet: Sheet, codes: np.ndarray, rows: np.ndarray, scores: np.ndarray, outside: np.ndarray
) -> dict[int, tuple[str, str]]:
    """The photos (by `codes`) with a score outside the scale, and the row where the first such score stands."""
    wrong = np.flatnonzero(outside)
    positions, firsts = np.unique(codes[wrong], return_index=True)
    return {
        int(position): ("score out of range", f"{sheet.place(rows[first])}: {scores[first]:g}")
        for position, first in zip(positions, wrong[firsts], strict=True)
    }


def _numbers_or_zeros(sheet: Sheet, column: str | None) -> np.ndarray:
    """A column of counts, float [rows], 0 where a cell is empty or there is no such column."""
    if column is None:
        return np.zeros(len(sheet.rows))
    return np.nan_to_num(_from_zero(sheet, column))


def _from_zero(sheet: Sheet, column: str) -> np.ndarray:
    """A column of numbers that cannot be negative, NaN where a cell is empty."""
    values = sheet.numbers(column)
    for row in np.flatnonzero(values < 0)[:1]:
        raise sheet.error(row, f"expected a number from 0 in column {shown(column)}, got {values[row]:g}; correct it")
    return values


def _unknown_raters(raters: np.ndarray) -> list[str]:
    unknown = int((raters == 0).sum())
    if not unknown:
        return []
    return [f"How many people rated is not known for {unknown} photos; minimum_raters does not apply to them."]


def _shares(votes: np.ndarray) -> np.ndarray:
    """Votes [n, 10] as shares of each row's sum; a row without votes stays 0."""
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=np.zeros(votes.shape), where=totals > 0)


READERS: MappingProxyType[str, Callable[[Sheet, Names, Photos, Ingestion], Votes]] = MappingProxyType(
    {
        "ratings": _one_row_a_rating,
        "wide": _one_column_a_rater,
        "counts": _vote_counts,
        "means": _means,
        "ava": _vote_counts,
        "idealo": _vote_counts,
    }
)
"""How each form of a ratings file (`ratings.SCHEMAS`) gives its votes."""
