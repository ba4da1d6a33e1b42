"""Which form a table of ratings has: by its header, and where that leaves a choice, by its cells and a given mean.

Columns numbered 1 to 10 may be counts of the votes for each score, or the scores of ten raters. Read the wrong way,
both give a mean for every photo, and a wrong one. So the cells decide, and what they leave open is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from components.ingestion.ratings.column_detection import PHOTO, RATER, Names, folded, names_of, numbered, of_ratings
from components.ingestion.ratings.scales import TEN
from components.ingestion.ratings.table_reader import Sheet
from components.scorer.quoting import listed, shown

_RATERS = frozenset(folded(name) for name in RATER)
_VOTES = frozenset({"vote", "votes", "count", "counts"})
_KNOWN = frozenset({"age", "sex", "gender", "race", "ethnicity", "height", "width", "year", "index", "fold"})
"""Columns of numbers that are surely no rater's."""

_ROWS = 20  # of fewer photos, what is missing among the cells says little
_ZEROS = 0.1  # share of cells: people seldom give a scale's 0, while most scores of a photo get no vote
_UNEVEN = 4  # times the least mean of a column: the scores of a scale are used unevenly, raters differ by less
_LARGEST = 100  # score of a usual scale
_NARROWEST = 3  # score points: what scores differ by at least, where few of them are known
MEANS_AGREE = 0.02
"""Of the scale's width: two means that differ by more are not the same mean, rounded."""


def form_of(sheet: Sheet) -> tuple[str, Names]:
    """The form of a table with a header, and what its columns are.

    Raises:
        ValueError: the header fits no form, or the cells leave open which; the message says what to set.
    """
    names = names_of(sheet)
    if names.photo is None:
        raise _unknown(sheet)
    if names.rater and names.score:
        return "ratings", names
    if names.votes:
        return _of_numbered(sheet, names)
    wide = with_raters(sheet, names)
    if names.mean is None:
        if _rest_of(wide.raters) is None and not _alike(sheet, wide.raters):
            raise _unknown(sheet)
        return "wide", wide
    if wide.raters and (given := _numbers(sheet, names.mean)) is not None:
        cells = _cells(sheet, wide.raters)
        if _agreement(given, row_means(cells), cells) > 0.5:
            return "wide", wide
        if _rest_of(wide.raters) in {"", *_RATERS}:
            raise _contradiction(sheet, names, wide.raters)
    return ("ratings" if names.mean == names.score and _repeats(sheet, names) else "means"), names


def with_raters(sheet: Sheet, names: Names) -> Names:
    """The same names with the columns that may be one rater's scores each.

    These are the numbered columns where there are two or more under one name, or else all columns of numbers whose
    names are not known to tell of anything else.
    """
    used = {*replace(names, votes=(), levels=()).used}
    rest = [name for name in sheet.rows.columns if name not in used and folded(name) not in ("split", "group")]
    blocks = [tuple(name for _, name in block) for block in numbered(rest).values() if len(block) > 1]
    blocks = [block for block in blocks if all(map(sheet.is_numeric, block))]
    if blocks:
        raters = max(blocks, key=lambda block: (_rest_of(block) in _RATERS, len(block)))
    else:
        free = [name for name in rest if folded(name) not in _KNOWN and not of_ratings(name)]
        raters = tuple(name for name in free if _numbers(sheet, name) is not None)
    return replace(names, votes=(), levels=(), raters=raters if len(raters) > 1 else ())


def agree(one: np.ndarray, other: np.ndarray, width: float) -> np.ndarray:
    """Which means are the same but for rounding, bool; True where one is not known."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(one - other) > MEANS_AGREE * width)


def _of_numbered(sheet: Sheet, names: Names) -> tuple[str, Names]:
    """The form of a table with columns that are numbered as the scores of a scale."""
    wide = replace(names, votes=(), levels=(), raters=names.votes)
    if not all(map(sheet.is_numeric, names.votes)):  # the reader names the cell
        return "counts", names
    cells = _cells(sheet, names.votes)
    if (given := _numbers(sheet, names.mean)) is not None:
        as_counts = _agreement(given, level_means(cells, names.levels), np.array(names.levels))
        as_scores = _agreement(given, row_means(cells), cells)
        if max(as_counts, as_scores) <= 0.5:
            raise _contradiction(sheet, names, names.votes)
        if min(as_counts, as_scores) <= 0.5:
            return ("counts", names) if as_counts > as_scores else ("wide", wide)
    counts, scores = _evidence(cells, _numbers(sheet, names.count), _rest_of(names.votes))
    if bool(counts) == bool(scores):
        why = f" ({'; '.join([*counts, *scores])})" if counts else ""
        raise ValueError(
            f"{sheet.uri}, line {sheet.first - 1}: expected to see from the cells whether the columns "
            f"{listed(names.votes)} are votes for each score or one rater's scores each, which they leave open{why}; "
            "set rating_format to counts or to wide"
        )
    return ("counts", names) if counts else ("wide", wide)


def _evidence(cells: np.ndarray, totals: np.ndarray | None, rest: str) -> tuple[list[str], list[str]]:
    """What speaks for counts of votes, and what for raters' scores.

    Args:
        cells: float [photos, columns], NaN where empty.
        totals: float [photos], how many people rated each photo, where the table has it.
        rest: what the columns' names have beside their numbers.
    """
    rows = ~np.isnan(cells).all(axis=1)
    cells, totals = cells[rows], None if totals is None else totals[rows]
    known = ~np.isnan(cells)
    values, sums, number = cells[known], np.where(known, cells, 0).sum(axis=1), known.sum(axis=1)
    if not values.size or values.min() < 0 or values.max() > _LARGEST:
        return ["some cells are no scores of a usual scale"], []
    if (values % 1 > 0).any():
        if np.allclose(sums, 1, atol=0.01) or np.allclose(sums, 100, atol=1):
            return ["each row adds up to the same"], []
        return [], ["some cells are no whole numbers"]
    zeros, beyond = (values == 0).mean(), values.max() > TEN.high
    columns = np.where(known, cells, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    uneven = columns.max() >= _UNEVEN * columns.min()
    counts = {
        "the columns are called votes": rest in _VOTES,
        "many cells are 0": zeros >= _ZEROS,
        "the columns are used unevenly": uneven and (zeros > 0 or beyond),
        "all rows have the same sum": len(sums) > 2 and known.all() and len(set(sums)) == 1,
        "each row adds up to its number of raters": totals is not None and (sums == totals).all(),
    }
    scores = {
        "the columns are called raters": rest in _RATERS,
        "some cells are empty": not known.all(),
        "each row has as many cells as raters": totals is not None and (number == totals).all(),
        "every cell is a score from 1 to 10": len(sums) >= _ROWS and not zeros and not beyond and rest not in _VOTES,
    }
    return [why for why, so in counts.items() if so], [why for why, so in scores.items() if so]


def _cells(sheet: Sheet, columns: tuple[str, ...]) -> np.ndarray:
    """Columns of numbers side by side, float [rows, columns], NaN where empty."""
    return np.stack([sheet.numbers(column) for column in columns], axis=1)


def row_means(cells: np.ndarray) -> np.ndarray:
    """The mean of each row's cells, float [rows]; NaN where all are NaN."""
    known = ~np.isnan(cells)
    number = known.sum(axis=1)
    return np.divide(np.where(known, cells, 0).sum(axis=1), number, out=np.full(len(cells), np.nan), where=number > 0)


def level_means(counts: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The mean score of each row of counts [rows, levels], float [rows]; NaN where there are none."""
    counts = np.nan_to_num(counts)
    totals = counts.sum(axis=1)
    return np.divide(counts @ np.array(levels), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def _agreement(given: np.ndarray, means: np.ndarray, scores: np.ndarray) -> float:
    """The share of rows whose given mean is the one that was reckoned from these scores; 0 where none has both."""
    known = ~np.isnan(given) & ~np.isnan(means)
    width = np.nanmax(scores) - np.nanmin(scores) if known.any() else 0
    return float(agree(given, means, max(width, _NARROWEST))[known].mean()) if known.any() else 0.0


def _numbers(sheet: Sheet, column: str | None) -> np.ndarray | None:
    """A column of numbers, float [rows], NaN where empty; None where there is no number or no such column."""
    if column is None or not sheet.is_numeric(column):
        return None
    values = sheet.numbers(column)
    return None if np.isnan(values).all() else values


def _repeats(sheet: Sheet, names: Names) -> bool:
    """Whether photos stand in several rows with several scores: then each row is a rating.

    A few such photos among many that stand once are a table of means that contradicts itself. Rows that say the same
    again say nothing of this.
    """
    photos, scores = sheet.texts(names.photo), sheet.numbers(names.score)
    each = pd.DataFrame({"photo": photos.codes, "score": scores}).dropna().drop_duplicates().groupby("photo").size()
    return bool((each > 1).mean() >= 0.5)


def _rest_of(columns: tuple[str, ...]) -> str | None:
    """What the names of numbered columns have beside their numbers; None where it is not one and the same."""
    blocks = numbered(columns)
    (rest, block), *others = blocks.items() if blocks else [(None, [])]
    return rest if not others and len(block) == len(columns) else None


def _alike(sheet: Sheet, columns: tuple[str, ...]) -> bool:
    """Whether columns of numbers may all be scores on one scale: three or more, none far larger than another."""
    if len(columns) < 3:
        return False
    highest = np.nanmax(_cells(sheet, columns), axis=0)
    return bool((highest > 0).all() and highest.max() <= _UNEVEN * highest.min())


def _contradiction(sheet: Sheet, names: Names, columns: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"{sheet.uri}, line {sheet.first - 1}: expected the column {shown(names.mean)} to be the mean of the columns "
        f"{listed(columns)}, read as votes for each score or as one rater's scores each, and it is neither; remove or "
        "rename the column that is something else, or set rating_format to means, counts or wide"
    )


def _unknown(sheet: Sheet) -> ValueError:
    return ValueError(
        f"{sheet.uri}, line {sheet.first - 1}: expected a header with a photo (called {', '.join(PHOTO)}) and either a "
        "rater and a score, or a column a rater (rater1, rater2, …), or vote counts (1 … 10, p1 … p10, votes_1 … "
        f"votes_10), or a mean (and std and count if known); got {listed(sheet.rows.columns)}; rename the columns"
    )
