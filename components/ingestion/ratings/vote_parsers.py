"""Parsers that turn each form of a ratings table into votes and rater counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.ratings import forms, maximum_entropy
from components.ingestion.ratings.column_detection import (
    MEAN_NAMES,
    SCORE_NAMES,
    ColumnRoles,
    PhotoIndex,
    missing_column_error,
)
from components.ingestion.ratings.scales import SCALE_1_TO_10, Scale, find_scale
from components.ingestion.ratings.table_reader import RatingTable
from components.scorer.parameters import scale_limits
from components.scorer.quoting import quoted, quoted_list
from components.scorer.settings import SCORES, Ingestion


@dataclass
class ParsedVotes:
    """The votes for each photo of a table, as a parser returns them.

    Attributes:
        shares: Share of each score, float [photos, 10], each row summing to 1. Rows of photos in `exclusions` are
            undefined.
        raters: Number of raters, int [photos], 0 if the file does not state it.
        exclusions: Reason and detail of each exclusion by the photo's position.
        notes: Sentences for the report.
        single_scores: Scores that count, one row each, columns ``photo`` (position), ``rater`` and ``score`` (1 to 10).
            None if the file has no single scores.
    """

    shares: np.ndarray
    raters: np.ndarray
    exclusions: dict[int, tuple[str, str]]
    notes: list[str]
    single_scores: pd.DataFrame | None = None


def _parse_ratings(table: RatingTable, roles: ColumnRoles, photos: PhotoIndex, settings: Ingestion) -> ParsedVotes:
    """Parse the form "ratings"."""
    if roles.score is None:
        raise missing_column_error(table, "a score", SCORE_NAMES)
    rows = np.arange(len(table.rows))
    raters, rater_known = _read_raters(table, roles.rater)
    mean_column = roles.mean if roles.mean != roles.score else None
    votes = _count_scores(
        table, photos, settings, mean_column, _SingleScores(rows, table.numbers(roles.score), raters, rater_known)
    )
    if roles.rater is None:
        votes.notes.append(
            "The file names no raters (in a column called rater, user, worker, annotator, participant, …): every "
            "rating counts as another rater's."
        )
    return votes


def _parse_wide(table: RatingTable, roles: ColumnRoles, photos: PhotoIndex, settings: Ingestion) -> ParsedVotes:
    """Parse the form "wide"."""
    if not roles.raters:
        raise missing_column_error(table, "one rater's scores, two or more of them", ("rater1", "rater2", "…"))
    cells = np.stack([table.numbers(name) for name in roles.raters], axis=1)
    rows, columns = np.nonzero(~np.isnan(cells))
    raters = pd.Categorical.from_codes(columns, list(roles.raters))
    scores = _SingleScores(rows, cells[rows, columns], raters, np.ones(len(rows), bool))
    votes = _count_scores(table, photos, settings, roles.mean, scores)
    votes.notes.insert(0, f"{len(roles.raters):,} columns hold one rater's scores each: {quoted_list(roles.raters)}.")
    return votes


@dataclass(frozen=True)
class _SingleScores:
    """Single scores, arrays of length n.

    Attributes:
        rows: Row of each score, int.
        scores: Scores, float, NaN for an empty cell.
        raters: Rater of each score.
        rater_known: True if the file names the rater, bool. Each unnamed rater counts as a different person.
    """

    rows: np.ndarray
    scores: np.ndarray
    raters: pd.Categorical
    rater_known: np.ndarray


def _count_scores(
    table: RatingTable, photos: PhotoIndex, settings: Ingestion, mean_column: str | None, single: _SingleScores
) -> ParsedVotes:
    """Count single scores as votes.

    Raises:
        ValueError: The column `mean_column` contradicts the scores, or the scores fit no scale.
    """
    rows, scores, raters, rater_known = single.rows, single.scores, single.raters, single.rater_known
    filled, codes = ~np.isnan(scores), photos.codes[rows]
    scale, notes = find_scale(scores[filled], settings.rating_scale, True, table.uri)
    outside = filled & ~scale.contains(scores)
    reasons = _exclude_out_of_range(table, codes, rows, scores, outside)

    repeated = np.zeros(len(rows), bool)
    duplicated = pd.DataFrame({"photo": codes, "rater": raters.codes})[filled & rater_known].duplicated(keep="last")
    repeated[np.flatnonzero(filled & rater_known)] = duplicated
    counted = filled & ~outside & ~repeated
    ten = scale.to_ten(scores[counted])
    lower = np.minimum(np.floor(ten), SCORES[-1] - 1).astype(int)
    upper_share = ten - lower
    cells = codes[counted] * len(SCORES) + lower - SCORES[0]
    n_cells = len(photos.names) * len(SCORES)
    votes = np.bincount(cells, 1 - upper_share, n_cells) + np.bincount(cells + 1, upper_share, n_cells)[:n_cells]
    n_raters = np.bincount(codes[counted], minlength=len(photos.names))
    for position in np.flatnonzero(n_raters == 0):
        reasons.setdefault(int(position), ("no rating", f"{table.row_location(photos.first_rows[position])}: no score"))

    if repeated.any():
        notes.append(f"{repeated.sum()} scores were given again by the same rater for the same photo: the last counts.")
    if not filled.all():
        notes.append(f"{(~filled).sum()} rows have no score and were passed over.")
    if scale == SCALE_1_TO_10 and (n_split := int(((upper_share > 0) & (upper_share < 1)).sum())):
        notes.append(f"{n_split} scores lie between two whole ones and are shared between these in proportion.")
    sums = np.bincount(codes[counted], scores[counted], len(photos.names))
    means = np.divide(sums, n_raters, out=np.full(len(n_raters), np.nan), where=n_raters > 0)
    means[list(reasons)] = np.nan
    _check_means(table, mean_column, photos, means, scale)
    single_scores = pd.DataFrame({"photo": codes[counted], "rater": raters[counted], "score": ten})
    return ParsedVotes(_normalise_votes(votes.reshape(-1, len(SCORES))), n_raters, reasons, notes, single_scores)


def _read_raters(table: RatingTable, column: str | None) -> tuple[pd.Categorical, np.ndarray]:
    """Return the rater of each row's score, and whether the file names the rater, bool [rows]."""
    n_rows = len(table.rows)
    unknown = np.ones(n_rows, bool) if column is None else np.asarray(table.texts(column) == "")
    if column is None or unknown.all():
        return pd.Categorical(table.row_numbers(np.arange(n_rows)).astype(str)), ~unknown
    raters = table.texts(column)
    if unknown.any():  # each unnamed rater counts as another person
        anonymous = np.char.add("\0", table.row_numbers(np.flatnonzero(unknown)).astype(str))
        categories = raters.categories.append(pd.Index(anonymous))
        codes = raters.codes.astype(np.int64)
        codes[unknown] = len(raters.categories) + np.arange(unknown.sum())
        raters = pd.Categorical.from_codes(codes, categories)
    return raters, ~unknown


def _parse_counts(table: RatingTable, roles: ColumnRoles, photos: PhotoIndex, settings: Ingestion) -> ParsedVotes:
    """Parse the forms "counts", "ava" and "idealo"."""
    if not roles.votes:
        raise missing_column_error(
            table, "vote counts, one for each score", ("1 … 10", "p1 … p10", "votes_1 … votes_10")
        )
    counts = np.stack([_non_negative_numbers(table, name) for name in roles.votes], axis=1)
    for row, column in np.argwhere(np.isnan(counts))[:1]:
        raise table.error(
            row, f"expected a vote count in column {quoted(roles.votes[column])}, got an empty cell; write 0, or set "
            "rating_format to wide if the columns are raters"
        )  # fmt: skip
    _check_repeated_rows(table, photos, np.column_stack([counts, _counts_or_zeros(table, roles.count)]))
    counts = counts[photos.first_rows]
    totals = counts.sum(axis=1)
    empty = totals == 0
    reasons = {
        int(position): ("no rating", f"{table.row_location(photos.first_rows[position])}: no votes")
        for position in np.flatnonzero(empty)
    }

    scale, notes = _level_scale(table, roles, settings)
    _check_means(table, roles.mean, photos, forms.level_means(counts, roles.levels), scale)
    are_shares = bool((counts % 1 > 0).any()) and (
        np.allclose(totals[~empty], 1, atol=0.01) or np.allclose(totals[~empty], 100, atol=1)
    )
    raters = np.rint(totals).astype(int)
    if are_shares:
        raters = np.rint(_counts_or_zeros(table, roles.count)[photos.first_rows]).astype(int)
        notes.append("The votes are shares that add up to 1 or 100 %, not counts.")
        notes += _unknown_raters_note(raters)
    return ParsedVotes(_normalise_votes(counts @ _level_weights(scale, roles.levels)), raters, reasons, notes)


def _level_scale(table: RatingTable, roles: ColumnRoles, settings: Ingestion) -> tuple[Scale, list[str]]:
    """Return the scale from the first to the last score that has a column, and notes about it."""
    scale = Scale(roles.levels[0], roles.levels[-1])
    if (limits := scale_limits(settings.rating_scale)) and Scale(*limits) != scale:
        raise ValueError(
            f"{table.uri}: expected votes for the scores {Scale(*limits)}, as rating_scale says, got votes for "
            f"{scale.low} to {scale.high}; number the columns by their scores, or leave rating_scale on auto"
        )
    rule = f" A vote for the score s counts as one for {scale.formula} of 1-10." if scale.formula else ""
    return scale, [f"The votes are for the scores {scale.low} to {scale.high}.{rule}"]


def _level_weights(scale: Scale, levels: Sequence[int]) -> np.ndarray:
    """Return the votes for 1 to 10 that one vote for each score counts as, float [levels, 10].

    A vote is split by linear interpolation, see `scales`.
    """
    return np.maximum(0, 1 - np.abs(scale.to_ten(np.array(levels))[:, None] - np.array(SCORES)))


def _parse_means(table: RatingTable, roles: ColumnRoles, photos: PhotoIndex, settings: Ingestion) -> ParsedVotes:
    """Parse the form "means"."""
    if roles.mean is None:
        raise missing_column_error(table, "a mean", MEAN_NAMES)
    means = table.numbers(roles.mean)
    stds = _non_negative_numbers(table, roles.std) if roles.std else np.full(len(means), np.nan)
    counts = _counts_or_zeros(table, roles.count)
    scale, notes = find_scale(means[~np.isnan(means)], settings.rating_scale, False, table.uri)
    outside = ~np.isnan(means) & ~scale.contains(means)
    reasons = _exclude_out_of_range(table, photos.codes, np.arange(len(means)), means, outside)
    _check_repeated_rows(table, photos, np.column_stack([means, stds, counts]))
    means, stds, counts = means[photos.first_rows], stds[photos.first_rows], counts[photos.first_rows]
    for position in np.flatnonzero(np.isnan(means)):
        reasons[int(position)] = ("no rating", f"{table.row_location(photos.first_rows[position])}: no mean")

    usable = np.ones(len(means), bool)
    usable[list(reasons)] = False
    shares = np.zeros((len(means), len(SCORES)))
    ten = scale.to_ten(means[usable])
    spread = stds[usable] * (SCALE_1_TO_10.width / scale.width)
    shares[usable], assumptions = _maximum_entropy_votes(ten, spread, counts[usable], settings)
    raters = np.rint(counts).astype(int)
    return ParsedVotes(shares, raters, reasons, [*notes, *assumptions, *_unknown_raters_note(raters[usable])])


def _check_means(table: RatingTable, column: str | None, photos: PhotoIndex, means: np.ndarray, scale: Scale) -> None:
    """Raise ValueError if a table's column of means contradicts its votes.

    Args:
        table: The table.
        column: Column of means. If it is None or not numeric, nothing is checked.
        photos: The photos of the table's rows.
        means: Mean of each photo's votes on their own scale, float [photos], NaN for a photo without votes.
        scale: Scale of the votes.

    Raises:
        ValueError: A mean differs. The message names the first such row, the number of photos that differ, and the
            remedy.
    """
    if column is None or not table.is_numeric(column):
        return
    stated = table.numbers(column)[photos.first_rows]
    bad = np.flatnonzero(~forms.means_agree(stated, means, scale.width))
    for position in bad[:1]:
        raise table.error(
            photos.first_rows[position],
            f"expected the mean of the votes, {means[position]:.3g}, in column {quoted(column)}, got "
            f"{stated[position]:g} ({len(bad):,} of {len(means):,} photos differ so); correct the votes or the means, "
            "or rename the column if it is something else",
        )


def _maximum_entropy_votes(
    means: np.ndarray, stds: np.ndarray, counts: np.ndarray, settings: Ingestion
) -> tuple[np.ndarray, list[str]]:
    """Return the maximum-entropy votes [n, 10] for means and standard deviations, and notes on the assumptions."""
    std_known = ~np.isnan(stds)
    notes = ["Each photo's votes are the distribution of maximum entropy with its mean and its standard deviation."]
    # Pooled variance: the photos' variances weighted by their raters, if every photo states its number of raters.
    weights = counts if (counts[std_known] > 0).all() else np.ones(len(counts))
    pooled_std = (
        np.sqrt(np.average(stds[std_known] ** 2, weights=weights[std_known])) if std_known.any() else settings.rater_std
    )
    if not std_known.all():
        source = "the pooled one of the other photos" if std_known.any() else "the setting rater_std"
        notes.append(
            f"{(~std_known).sum()} means come without a standard deviation: {pooled_std:.2f} is taken, {source}."
        )
    stds = np.where(std_known, stds, pooled_std)
    _, greatest = maximum_entropy.possible_stds(means)
    shares = maximum_entropy.from_means_and_stds(means, stds)
    # Near 1 or 10 the pooled spread would imply votes on 1 and 10 alone, which no rater gave.
    too_wide = ~std_known & (stds > greatest)
    if too_wide.any():
        shares[too_wide] = maximum_entropy.from_means(means[too_wide])
        notes.append(f"{too_wide.sum()} of these means lie too near 1 or 10 for that: their spread is left open.")
    if n_moved := int((std_known & (np.abs(shares @ np.square(SCORES) - means**2 - stds**2) > 0.01)).sum()):
        notes.append(
            f"{n_moved} standard deviations are impossible with their mean: the nearest possible one is taken."
        )
    return shares, notes


def _check_repeated_rows(table: RatingTable, photos: PhotoIndex, values: np.ndarray) -> None:
    """Raise ValueError if two rows of a photo differ in their values, float [rows, columns]."""
    first_rows = photos.first_rows[photos.codes]
    later_rows = np.flatnonzero(first_rows != np.arange(len(first_rows)))
    equal = np.isclose(values[later_rows], values[first_rows[later_rows]], equal_nan=True).all(axis=1)
    for row in later_rows[~equal][:1]:
        raise table.error(
            row,
            f"expected one row for a photo, got another one for the photo of {table.row_location(first_rows[row])}, "
            "with other values; keep one, or set rating_format to ratings if each row is one person's rating",
        )


def _exclude_out_of_range(
    table: RatingTable, codes: np.ndarray, rows: np.ndarray, scores: np.ndarray, outside: np.ndarray
) -> dict[int, tuple[str, str]]:
    """Return an exclusion for each photo with a score outside the scale, located at its first such row.

    Args:
        table: The table.
        codes: Position of the photo of each score.
        rows: Row of each score.
        scores: The scores.
        outside: True for each score outside the scale, bool.
    """
    out_of_range = np.flatnonzero(outside)
    positions, firsts = np.unique(codes[out_of_range], return_index=True)
    return {
        int(position): ("score out of range", f"{table.row_location(rows[first])}: {scores[first]:g}")
        for position, first in zip(positions, out_of_range[firsts], strict=True)
    }


def _counts_or_zeros(table: RatingTable, column: str | None) -> np.ndarray:
    """Return a column of counts, float [rows]. An empty cell or a missing column gives 0."""
    if column is None:
        return np.zeros(len(table.rows))
    return np.nan_to_num(_non_negative_numbers(table, column))


def _non_negative_numbers(table: RatingTable, column: str) -> np.ndarray:
    """Return a column of non-negative numbers, NaN for an empty cell. Raise ValueError for a negative number."""
    values = table.numbers(column)
    for row in np.flatnonzero(values < 0)[:1]:
        raise table.error(row, f"expected a number from 0 in column {quoted(column)}, got {values[row]:g}; correct it")
    return values


def _unknown_raters_note(raters: np.ndarray) -> list[str]:
    n_unknown = int((raters == 0).sum())
    if not n_unknown:
        return []
    return [f"How many people rated is not known for {n_unknown} photos; minimum_raters does not apply to them."]


def _normalise_votes(votes: np.ndarray) -> np.ndarray:
    """Divide votes [n, 10] by their row sums. A row without votes stays 0."""
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=np.zeros(votes.shape), where=totals > 0)


PARSERS: MappingProxyType[str, Callable[[RatingTable, ColumnRoles, PhotoIndex, Ingestion], ParsedVotes]] = (
    MappingProxyType(
        {
            "ratings": _parse_ratings,
            "wide": _parse_wide,
            "counts": _parse_counts,
            "means": _parse_means,
            "ava": _parse_counts,
            "idealo": _parse_counts,
        }
    )
)
"""Parser of each form of a ratings file, by its key in `ratings.SCHEMAS`."""
