"""Detection of the form of a ratings table by its header, its cells and a column of means.

Columns numbered 1 to 10 may be vote counts for each score or the scores of ten raters. The wrong reading gives a wrong
mean for every photo without an error. So the cells decide between the two, and an ambiguous table is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from components.ingestion.ratings.column_detection import (
    PHOTO_NAMES,
    RATER_NAMES,
    ColumnRoles,
    describes_ratings,
    detect_roles,
    fold_name,
    numbered_columns,
)
from components.ingestion.ratings.scales import SCALE_1_TO_10
from components.ingestion.ratings.table_reader import RatingTable
from components.scorer.quoting import quoted, quoted_list

_RATER_WORDS = frozenset(fold_name(name) for name in RATER_NAMES)
_VOTE_WORDS = frozenset({"vote", "votes", "count", "counts"})
_NON_RATER_COLUMNS = frozenset(
    {"age", "sex", "gender", "race", "ethnicity", "height", "width", "year", "index", "fold"}
)
"""Names of numeric columns that are never a rater's scores."""

_MIN_ROWS = 20  # minimum number of photos for evidence from the absence of zeros
_ZERO_SHARE = 0.1  # share of cells; raters seldom give the score 0, but most scores of a photo get no vote
_UNEVEN_RATIO = 4  # ratio of the column means; the scores of a scale are used unevenly, raters differ by less
_LARGEST_SCORE = 100  # highest score of a usual scale
_MIN_SCORE_RANGE = 3  # score points; minimum assumed range of scores, as a few scores may not span their scale
MEAN_TOLERANCE = 0.02
"""Tolerance for equal means, as a share of the scale's width. A larger difference is not a rounding error."""


def detect_form(table: RatingTable) -> tuple[str, ColumnRoles]:
    """Return the form of a table with a header, and its column roles.

    Raises:
        ValueError: The header fits no form, or the cells are ambiguous. The message names the setting to change.
    """
    roles = detect_roles(table)
    if roles.photo is None:
        raise _unknown_form_error(table)
    if roles.rater and roles.score:
        return "ratings", roles
    if roles.votes:
        return _form_of_numbered(table, roles)
    wide = with_rater_columns(table, roles)
    if roles.mean is None:
        if _common_affix(wide.raters) is None and not _may_share_scale(table, wide.raters):
            raise _unknown_form_error(table)
        return "wide", wide
    if wide.raters and (stated_means := _numeric_column(table, roles.mean)) is not None:
        cells = _stack_columns(table, wide.raters)
        if _agreement(stated_means, row_means(cells), cells) > 0.5:
            return "wide", wide
        if _common_affix(wide.raters) in {"", *_RATER_WORDS}:
            raise _contradiction_error(table, roles, wide.raters)
    if roles.mean == roles.score and _photos_repeat(table, roles.photo, roles.mean):
        return "ratings", roles
    return "means", roles


def with_rater_columns(table: RatingTable, roles: ColumnRoles) -> ColumnRoles:
    """Return the column roles with the columns that may each hold one rater's scores.

    If two or more numbered columns share a name, these are taken. Otherwise all numeric columns without another known
    meaning are taken.
    """
    used = {*replace(roles, votes=(), levels=()).used_columns}
    candidates = [name for name in table.rows.columns if name not in used and fold_name(name) not in ("split", "group")]
    blocks = [tuple(name for _, name in block) for block in numbered_columns(candidates).values() if len(block) > 1]
    blocks = [block for block in blocks if all(map(table.is_numeric, block))]
    if blocks:
        raters = max(blocks, key=lambda block: (_common_affix(block) in _RATER_WORDS, len(block)))
    else:
        unknown = [
            name for name in candidates if fold_name(name) not in _NON_RATER_COLUMNS and not describes_ratings(name)
        ]
        raters = tuple(name for name in unknown if _numeric_column(table, name) is not None)
    return replace(roles, votes=(), levels=(), raters=raters if len(raters) > 1 else ())


def means_agree(first: np.ndarray, second: np.ndarray, width: float) -> np.ndarray:
    """Return which means are equal but for rounding, bool. True if one of the two is NaN."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(first - second) > MEAN_TOLERANCE * width)


def _form_of_numbered(table: RatingTable, roles: ColumnRoles) -> tuple[str, ColumnRoles]:
    """Return the form, "counts" or "wide", of a table with columns numbered as the scores of a scale.

    Raises:
        ValueError: The cells are ambiguous, or the column of means contradicts both readings.
    """
    wide = replace(roles, votes=(), levels=(), raters=roles.votes)
    if not all(map(table.is_numeric, roles.votes)):  # the parser then raises an error that names the cell
        return "counts", roles
    cells = _stack_columns(table, roles.votes)
    if (stated_means := _numeric_column(table, roles.mean)) is not None:
        as_counts = _agreement(stated_means, level_means(cells, roles.levels), np.array(roles.levels))
        as_scores = _agreement(stated_means, row_means(cells), cells)
        if max(as_counts, as_scores) <= 0.5:
            raise _contradiction_error(table, roles, roles.votes)
        if min(as_counts, as_scores) <= 0.5:
            return ("counts", roles) if as_counts > as_scores else ("wide", wide)
    counts, scores = _evidence(cells, _numeric_column(table, roles.count), _common_affix(roles.votes))
    if bool(counts) == bool(scores):
        why = f" ({'; '.join([*counts, *scores])})" if counts else ""
        raise ValueError(
            f"{table.uri}, line {table.first_row_number - 1}: expected to see from the cells whether the columns "
            f"{quoted_list(roles.votes)} are votes for each score or one rater's scores each, which they leave "
            f"open{why}; set rating_format to counts or to wide"
        )
    return ("counts", roles) if counts else ("wide", wide)


def _evidence(cells: np.ndarray, totals: np.ndarray | None, affix: str | None) -> tuple[list[str], list[str]]:
    """Return the evidence for vote counts and the evidence for raters' scores, as sentences.

    Args:
        cells: Cells of the columns, float [photos, columns], NaN for an empty cell.
        totals: Number of raters of each photo, float [photos], or None if the table has none.
        affix: Common column name without the numbers; None if the names differ.
    """
    filled = ~np.isnan(cells).all(axis=1)
    cells, totals = cells[filled], None if totals is None else totals[filled]
    present = ~np.isnan(cells)
    values, sums, n_cells = cells[present], np.where(present, cells, 0).sum(axis=1), present.sum(axis=1)
    if not values.size or values.min() < 0 or values.max() > _LARGEST_SCORE:
        return ["some cells are no scores of a usual scale"], []
    if (values % 1 > 0).any():
        if np.allclose(sums, 1, atol=0.01) or np.allclose(sums, 100, atol=1):
            return ["each row adds up to the same"], []
        return [], ["some cells are no whole numbers"]
    zeros, above_ten = (values == 0).mean(), values.max() > SCALE_1_TO_10.high
    column_means = np.where(present, cells, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    uneven = column_means.max() >= _UNEVEN_RATIO * column_means.min()
    counts = {
        "the columns are called votes": affix in _VOTE_WORDS,
        "many cells are 0": zeros >= _ZERO_SHARE,
        "the columns are used unevenly": uneven and (zeros > 0 or above_ten),
        "all rows have the same sum": len(sums) > 2 and present.all() and len(set(sums)) == 1,
        "each row adds up to its number of raters": totals is not None and (sums == totals).all(),
    }
    scores = {
        "the columns are called raters": affix in _RATER_WORDS,
        "some cells are empty": not present.all(),
        "each row has as many cells as raters": totals is not None and (n_cells == totals).all(),
        "every cell is a score from 1 to 10": len(sums) >= _MIN_ROWS
        and not zeros
        and not above_ten
        and affix not in _VOTE_WORDS,
    }
    return [sentence for sentence, holds in counts.items() if holds], [
        sentence for sentence, holds in scores.items() if holds
    ]


def _stack_columns(table: RatingTable, columns: tuple[str, ...]) -> np.ndarray:
    """Stack columns of numbers, float [rows, columns], NaN for an empty cell."""
    return np.stack([table.numbers(column) for column in columns], axis=1)


def row_means(cells: np.ndarray) -> np.ndarray:
    """Return the mean of each row's cells, float [rows]. NaN if all cells of a row are NaN."""
    present = ~np.isnan(cells)
    n_cells = present.sum(axis=1)
    return np.divide(
        np.where(present, cells, 0).sum(axis=1), n_cells, out=np.full(len(cells), np.nan), where=n_cells > 0
    )


def level_means(counts: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return the mean score of each row of vote counts, float [rows]. NaN for a row without votes.

    Args:
        counts: Vote counts, [rows, levels], NaN counts as 0.
        levels: Score of each column.
    """
    counts = np.nan_to_num(counts)
    totals = counts.sum(axis=1)
    return np.divide(counts @ np.array(levels), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def _agreement(stated_means: np.ndarray, means: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of rows whose stated mean equals the computed mean; 0 if no row has both."""
    both = ~np.isnan(stated_means) & ~np.isnan(means)
    width = np.nanmax(scores) - np.nanmin(scores) if both.any() else 0
    return float(means_agree(stated_means, means, max(width, _MIN_SCORE_RANGE))[both].mean()) if both.any() else 0.0


def _numeric_column(table: RatingTable, column: str | None) -> np.ndarray | None:
    """Return a column of numbers, float [rows], NaN for an empty cell. None if it is missing, empty or not numeric."""
    if column is None or not table.is_numeric(column):
        return None
    values = table.numbers(column)
    return None if np.isnan(values).all() else values


def _photos_repeat(table: RatingTable, photo: str, score: str) -> bool:
    """Return whether most photos have several different scores, so that each row is one rating.

    If only a few photos do, the table is a contradictory table of means. Exact repeats of a row do not count.
    """
    photos, scores = table.texts(photo), table.numbers(score)
    scores_per_photo = (
        pd.DataFrame({"photo": photos.codes, "score": scores}).dropna().drop_duplicates().groupby("photo").size()
    )
    return bool((scores_per_photo > 1).mean() >= 0.5)


def _common_affix(columns: tuple[str, ...]) -> str | None:
    """Return the common name of numbered columns without the numbers. None if the names differ."""
    columns_by_affix = numbered_columns(columns)
    (affix, block), *further = columns_by_affix.items() if columns_by_affix else [(None, [])]
    return affix if not further and len(block) == len(columns) else None


def _may_share_scale(table: RatingTable, columns: tuple[str, ...]) -> bool:
    """Return whether numeric columns may share one scale: at least three, and none far larger than another."""
    if len(columns) < 3:
        return False
    highest = np.nanmax(_stack_columns(table, columns), axis=0)
    return bool((highest > 0).all() and highest.max() <= _UNEVEN_RATIO * highest.min())


def _contradiction_error(table: RatingTable, roles: ColumnRoles, columns: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"{table.uri}, line {table.first_row_number - 1}: expected the column {quoted(roles.mean)} to be the mean of"
        f" the columns {quoted_list(columns)}, read as votes for each score or as one rater's scores each, and it is"
        " neither; remove or rename the column that is something else, or set rating_format to means, counts or wide"
    )


def _unknown_form_error(table: RatingTable) -> ValueError:
    return ValueError(
        f"{table.uri}, line {table.first_row_number - 1}: expected a header with a photo (called "
        f"{', '.join(PHOTO_NAMES)}) and either a rater and a score, or a column a rater (rater1, rater2, …), or vote "
        "counts (1 … 10, p1 … p10, votes_1 … votes_10), or a mean (and std and count if known); got "
        f"{quoted_list(table.rows.columns)}; rename the columns"
    )
