"""The votes in a table of ratings: each form has its own way to tell what the people who rated a photo gave."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion import maximum_entropy
from components.ingestion.columns import MEAN, SCORE, Names, Photos, no_column
from components.ingestion.sheet import Sheet
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
    scores = sheet.numbers(names.score)
    given = ~np.isnan(scores)
    outside = given & ~((scores >= SCORES[0]) & (scores <= SCORES[-1]))
    reasons = _out_of_range(sheet, photos, scores, outside)

    raters, repeated = _raters(sheet, names.rater, photos, given)
    counts = given & ~outside & ~repeated
    lower = np.minimum(np.floor(scores[counts]), SCORES[-1] - 1).astype(int)
    above = scores[counts] - lower
    cells = photos.codes[counts] * len(SCORES) + lower - SCORES[0]
    size = len(photos.names) * len(SCORES)
    votes = np.bincount(cells, 1 - above, size) + np.bincount(cells + 1, above, size)[:size]
    number = np.bincount(photos.codes[counts], minlength=len(photos.names))
    for position in np.flatnonzero(number == 0):
        reasons.setdefault(int(position), ("no rating", f"{sheet.place(photos.first[position])}: no score"))

    notes = []
    if repeated.any():
        notes.append(f"{repeated.sum()} scores were given again by the same rater for the same photo: the last counts.")
    if not given.all():
        notes.append(f"{(~given).sum()} rows have no score and were passed over.")
    if parted := int(((above > 0) & (above < 1)).sum()):
        notes.append(f"{parted} scores lie between two whole ones and are shared between these in proportion.")
    if names.rater is None:
        notes.append("The file names no raters: every rating counts as another rater's.")
    single = pd.DataFrame({"photo": photos.codes[counts], "rater": raters[counts], "score": scores[counts]})
    return Votes(_shares(votes.reshape(-1, len(SCORES))), number, reasons, notes, single)


def _raters(sheet: Sheet, column: str | None, photos: Photos, given: np.ndarray) -> tuple[pd.Categorical, np.ndarray]:
    """Who gave each row's score, and whether a later row has another one of the same rater for the same photo."""
    rows = len(sheet.rows)
    unknown = np.ones(rows, bool) if column is None else np.asarray(sheet.texts(column) == "")
    repeated = np.zeros(rows, bool)
    if unknown.all():
        return pd.Categorical(sheet.numbered(np.arange(rows)).astype(str)), repeated
    raters = sheet.texts(column)
    known = pd.DataFrame({"photo": photos.codes, "rater": raters.codes})[given & ~unknown]
    repeated[np.flatnonzero(given & ~unknown)] = known.duplicated(keep="last")
    if unknown.any():  # each of them is someone else
        anonymous = np.char.add("\0", sheet.numbered(np.flatnonzero(unknown)).astype(str))
        everyone = raters.categories.append(pd.Index(anonymous))
        codes = raters.codes.astype(np.int64)
        codes[unknown] = len(raters.categories) + np.arange(unknown.sum())
        raters = pd.Categorical.from_codes(codes, everyone)
    return raters, repeated


def _ten_counts(sheet: Sheet, names: Names, photos: Photos, settings: Ingestion) -> Votes:
    """The forms "counts", "ava" and "idealo"."""
    if not names.votes:
        raise no_column(sheet, "ten vote counts", ("1 … 10", "p1 … p10", "votes_1 … votes_10"))
    counts = np.stack([_from_zero(sheet, name) for name in names.votes], axis=1)
    for row, column in np.argwhere(np.isnan(counts))[:1]:
        raise sheet.error(row, f"expected a vote count in column {names.votes[column]!r}, got an empty cell; write 0")
    _same_again(sheet, photos, np.column_stack([counts, _numbers_or_zeros(sheet, names.count)]))
    counts = counts[photos.first]
    totals = counts.sum(axis=1)
    empty = totals == 0
    reasons = {int(at): ("no rating", f"{sheet.place(photos.first[at])}: no votes") for at in np.flatnonzero(empty)}

    notes = []
    shares = bool(np.allclose(totals[~empty], 1, atol=0.01) and (counts % 1 > 0).any())
    raters = np.rint(totals).astype(int)
    if shares:
        raters = np.rint(_numbers_or_zeros(sheet, names.count)[photos.first]).astype(int)
        notes.append("The votes are shares that add up to 1, not counts.")
        notes += _unknown_raters(raters)
    return Votes(_shares(counts), raters, reasons, notes)


def _means(sheet: Sheet, names: Names, photos: Photos, settings: Ingestion) -> Votes:
    """The form "means"."""
    if names.mean is None:
        raise no_column(sheet, "a mean", MEAN)
    means = sheet.numbers(names.mean)
    stds = _from_zero(sheet, names.std) if names.std else np.full(len(means), np.nan)
    counts = _numbers_or_zeros(sheet, names.count)
    _same_again(sheet, photos, np.column_stack([means, stds, counts]))
    outside = ~np.isnan(means) & ~((means >= SCORES[0]) & (means <= SCORES[-1]))
    reasons = _out_of_range(sheet, photos, means, outside)
    means, stds, counts = means[photos.first], stds[photos.first], counts[photos.first]
    for position in np.flatnonzero(np.isnan(means)):
        reasons[int(position)] = ("no rating", f"{sheet.place(photos.first[position])}: no mean")

    usable = np.ones(len(means), bool)
    usable[list(reasons)] = False
    shares = np.zeros((len(means), len(SCORES)))
    shares[usable], notes = _likeliest(means[usable], stds[usable], counts[usable], settings)
    raters = np.rint(counts).astype(int)
    return Votes(shares, raters, reasons, [*notes, *_unknown_raters(raters[usable])])


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
            row,
            f"expected one row for a photo, got another one with other values than {sheet.place(first[row])}; keep one",
        )


def _out_of_range(sheet: Sheet, photos: Photos, scores: np.ndarray, outside: np.ndarray) -> dict[int, tuple[str, str]]:
    """The photos with a score outside 1 to 10, and where its first such score stands."""
    rows = np.flatnonzero(outside)
    positions, firsts = np.unique(photos.codes[rows], return_index=True)
    return {
        int(position): ("score out of range", f"{sheet.place(row)}: {scores[row]:g}")
        for position, row in zip(positions, rows[firsts], strict=True)
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
        raise sheet.error(row, f"expected a number from 0 in column {column!r}, got {values[row]:g}; correct the cell")
    return values


def _unknown_raters(raters: np.ndarray) -> list[str]:
    unknown = int((raters == 0).sum())
    if not unknown:
        return []
    return [f"How many people rated is not known for {unknown} photos; minimum_raters does not apply to them."]


def _shares(votes: np.ndarray) -> np.ndarray:
    """Votes [n, 10] as shares of each row's sum; a row without votes stays 0."""
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=np.zeros_like(votes), where=totals > 0)


READERS: MappingProxyType[str, Callable[[Sheet, Names, Photos, Ingestion], Votes]] = MappingProxyType(
    {
        "ratings": _one_row_a_rating,
        "counts": _ten_counts,
        "means": _means,
        "ava": _ten_counts,
        "idealo": _ten_counts,
    }
)
"""How each form of a ratings file (`ratings.SCHEMAS`) gives its votes."""
