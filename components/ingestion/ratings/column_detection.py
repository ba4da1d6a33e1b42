"""Detection of column roles by column names, and of the split, group and attributes of each photo.

The modules of this folder call it for every table about photos: a ratings table or an attributes table.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.ratings.table_reader import RatingTable
from components.scorer.quoting import quoted, quoted_list
from components.scorer.settings import SCORES

MAX_ATTRIBUTE_VALUES = 100
"""Maximum distinct values of an attribute. A column with more is free text or an identifier, not slices to compare."""

RESERVED_COLUMNS = frozenset(
    {"photo_id", "raters", "group", "face_count", "face_confidence", *(f"p{score}" for score in SCORES)}
)
"""Columns that `scorer.data.photos.table` creates for every data set; an attribute must not replace them."""

# Column names in order of preference. Case, blanks, dashes and underscores are ignored.
PHOTO_NAMES = (
    "photo", "photo_id", "filename", "file", "path", "image_name", "img_name", "image_id", "image", "img", "name", "id",
)  # fmt: skip
RATER_NAMES = tuple(
    word + ending
    for word in (
        "rater", "user", "worker", "annotator", "participant", "respondent", "observer", "judge", "assessor",
        "evaluator", "reviewer", "voter", "labeler", "labeller",
    )
    for ending in ("", "_id", "_name")
)  # fmt: skip
SCORE_NAMES = ("score", "rating", "vote")
MEAN_NAMES = (
    "mean", "mos", "mean_score", "mean_rating", "average", "average_score", "average_rating", "avg", "avg_score",
    "avg_rating", "mean_opinion_score", *SCORE_NAMES,
)  # fmt: skip
_STD_NAMES = ("std", "sd", "stddev", "stdev", "standard_deviation", "mos_std", "std_mos", "score_std")
_COUNT_NAMES = (
    "raters", "count", "n", "number_of_raters", "num_raters", "n_raters", "votes", "number_of_votes", "num_votes",
    "n_votes", "total_votes", "vote_count", "ratings", "number_of_ratings", "num_ratings", "n_ratings", "rating_count",
    "total", "c_total",
)  # fmt: skip
_SPLIT_NAMES = MappingProxyType(
    {
        "": "", "train": "train", "training": "train", "validation": "validation", "val": "validation",
        "valid": "validation", "test": "test", "testing": "test",
    }
)  # fmt: skip
# Words that mark a column as a description of the ratings. As an attribute, such a column would slice by the label.
_RATING_WORDS = frozenset(
    {
        "mean", "mos", "median", "average", "avg", "std", "sd", "stddev", "stdev", "variance", "var", "zscore", "score",
        "scores", "rating", "ratings", "vote", "votes", "raters",
    }
)  # fmt: skip
_LEVEL_COUNTS = range(3, len(SCORES) + 2)  # number of vote-count columns of a scale; 0 to 10 has eleven


@dataclass(frozen=True)
class ColumnRoles:
    """The roles of a table's columns. A role that no column has is None or an empty tuple.

    Attributes:
        photo, rater, score, mean, std, count: Column names.
        votes: Columns with a vote count for each score of a scale, in the order of the scores.
        levels: Scores that the `votes` columns count, in the same order.
        raters: Columns that each hold the scores of one rater.
    """

    photo: str | None
    rater: str | None
    score: str | None
    mean: str | None
    std: str | None
    count: str | None
    votes: tuple[str, ...]
    levels: tuple[int, ...]
    raters: tuple[str, ...] = ()

    @property
    def used_columns(self) -> tuple[str, ...]:
        """All columns that have a role: photo, rater, score, mean, std, count, votes and raters."""
        single = (self.photo, self.rater, self.score, self.mean, self.std, self.count)
        return tuple(name for name in (*single, *self.votes, *self.raters) if name)


def detect_roles(table: RatingTable) -> ColumnRoles:
    """Return the roles of a table's columns by their names.

    The role `raters` depends on the cells, so it stays empty here; `forms.with_rater_columns` fills it.
    """
    columns = {fold_name(name): name for name in reversed(table.rows.columns)}

    def first(names: Iterable[str]) -> str | None:
        return next((columns[fold_name(name)] for name in names if fold_name(name) in columns), None)

    votes, levels = _vote_count_columns(numbered_columns(table.rows.columns))
    return ColumnRoles(
        photo=first(PHOTO_NAMES), rater=first(RATER_NAMES), score=first(SCORE_NAMES), mean=first(MEAN_NAMES),
        std=first(_STD_NAMES), count=first(_COUNT_NAMES), votes=votes, levels=levels,
    )  # fmt: skip


def fold_name(name: str) -> str:
    """Return a column name in lower case without punctuation: ``userId``, ``User ID`` and ``user_id`` become equal."""
    return re.sub(r"[\W_]+", "", name.lower())


def numbered_columns(columns: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """Group the numbered columns by the text around their numbers.

    Args:
        columns: Column names such as ``rater 1``, ``p10`` or ``7``.

    Returns:
        The (number, column name) pairs by the folded name without its number, e.g. ``rater``, ``p`` or the empty text.
    """
    columns_by_affix: dict[str, list[tuple[int, str]]] = {}
    for name in columns:
        if match := re.fullmatch(r"(\D*)(\d{1,9})(\D*)", fold_name(name)):
            columns_by_affix.setdefault(match[1] + match[3], []).append((int(match[2]), name))
    return columns_by_affix


def _vote_count_columns(blocks: dict[str, list[tuple[int, str]]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the columns numbered as a scale's scores, in order, and these scores.

    The scale starts at 0 or 1 and ends at most at 10. The longest run of numbers is taken. Among runs of equal length,
    the run with the shortest text around its numbers is taken.
    """
    longest: list[tuple[int, str]] = []
    for affix in sorted(blocks, key=len):
        block = sorted(blocks[affix])
        numbers = [number for number, _ in block]
        consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)
        if consecutive and len(block) in _LEVEL_COUNTS and numbers[-1] <= SCORES[-1] and len(block) > len(longest):
            longest = block
    return tuple(name for _, name in longest), tuple(number for number, _ in longest)


def describes_ratings(column: str) -> bool:
    """Return whether a column describes the ratings by its name, as ``MOS_zscore`` does."""
    return not _RATING_WORDS.isdisjoint(re.split(r"[\W_]+", column.lower()))


def missing_column_error(table: RatingTable, content: str, names: Iterable[str]) -> ValueError:
    """Return the error for a missing column. It names the expected content and the accepted column names."""
    return ValueError(
        f"{table.uri}, line {table.first_row_number - 1}: expected a column with {content} (called"
        f" {', '.join(names)}), got {quoted_list(table.rows.columns)}; rename the column or change rating_format"
    )


@dataclass(frozen=True)
class PhotoIndex:
    """Index of the photos in a table's rows.

    Attributes:
        names: Photo names in the order of their first rows, object [photos].
        codes: Position of each row's photo in `names`, int [rows].
        first_rows: First row of each photo, int [photos].
    """

    names: np.ndarray
    codes: np.ndarray
    first_rows: np.ndarray

    @classmethod
    def from_column(cls, table: RatingTable, column: str) -> "PhotoIndex":
        """Index the photos that a column names.

        Raises:
            ValueError: A cell is empty.
        """
        texts = table.texts(column)
        if (empty := np.flatnonzero(texts == "")).size:
            raise table.error(empty[0], f"expected a photo in column {quoted(column)}, got an empty cell; name it")
        paths, distinct = pd.factorize(np.array([normalise_path(text) for text in texts.categories], object))
        codes, order = pd.factorize(paths[texts.codes])
        names = distinct[order]
        first = np.full(len(names), -1)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        return cls(names, codes, first)


def normalise_path(name: str) -> str:
    """Return a photo's path as a photo source names it.

    The path has composed Unicode (NFC), ``/`` as separator, and no ``.`` or ``..`` detours.
    """
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def is_outside_folder(path: str) -> bool:
    """Return whether a path is absolute, names a drive or a bucket, or leads upwards out of the folder."""
    return path.startswith("/") or path.split("/")[0] == ".." or bool(re.match(r"[A-Za-z][\w+.-]*:/", path))


@dataclass
class PhotoMetadata:
    """Metadata of the photos: one row a photo, columns ``split``, ``group`` and attributes."""

    table: pd.DataFrame
    attributes: tuple[str, ...]
    notes: list[str]


def read_photo_metadata(
    table: RatingTable, photos: PhotoIndex, used_columns: Iterable[str | None], strict: bool = False
) -> PhotoMetadata:
    """Return the metadata of the photos from the columns that are not `used_columns`.

    An attribute named in `RESERVED_COLUMNS` is skipped. An attribute that differs between the rows of a photo is
    skipped, or raises ValueError if `strict`. A split or a group that differs between the rows of a photo always raises
    ValueError.
    """
    metadata = pd.DataFrame(index=pd.Index(photos.names, name="photo", dtype=str))
    attributes, notes = [], []
    for column in table.rows.columns.difference([name for name in used_columns if name], sort=False):
        role = column.lower() if column.lower() in ("split", "group") else ""
        if not role and column in RESERVED_COLUMNS:
            reason = "has the name of a column that each data set has of its own: it is not taken for an attribute"
            notes.append(f"The column {quoted(column)} {reason}; rename it to count by it.")
            continue
        if not role and describes_ratings(column):
            notes.append(f"The column {quoted(column)} tells of the ratings: it is not taken for an attribute.")
            continue
        cells = _standard_splits(table, column) if role == "split" else table.texts(column)
        values, differing = _first_text_per_photo(cells, photos)
        if differing.size and (strict or role):
            row = differing[0]
            same_photo = photos.codes == photos.codes[row]
            first_row = np.flatnonzero(same_photo & np.asarray(cells != ""))[0]
            column_name = quoted(column)[1:-1]
            raise table.error(
                row,
                f"expected one {column_name} for a photo, got another one than in"
                f" {table.row_location(first_row)}; keep one",
            )
        distinct = len(set(values) - {""})
        if not role and (differing.size or distinct > MAX_ATTRIBUTE_VALUES):
            reason = "differs between a photo's rows" if differing.size else f"has {distinct} different values"
            notes.append(f"The column {quoted(column)} {reason}: it is not taken for an attribute of the photos.")
            continue
        metadata[role or column] = pd.array(values, dtype=str)
        if not role:
            attributes.append(column)
    return PhotoMetadata(metadata, tuple(attributes), notes)


def _standard_splits(table: RatingTable, column: str) -> pd.Categorical:
    """Return a column of splits under their standard names. Raise ValueError if a cell names no split."""
    texts = table.texts(column)
    splits = [_SPLIT_NAMES.get(text.lower()) for text in texts.categories]
    if (unknown := np.flatnonzero(np.array([split is None for split in splits], bool)[texts.codes])).size:
        row = unknown[0]
        raise table.error(
            row, f"expected train, validation or test in column {quoted(column)}, got {quoted(texts[row])}; correct it"
        )
    codes, names = pd.factorize(np.array(splits, object))
    return pd.Categorical.from_codes(codes[texts.codes], names)


def _first_text_per_photo(texts: pd.Categorical, photos: PhotoIndex) -> tuple[np.ndarray, np.ndarray]:
    """Return each photo's first non-empty text (object [photos]) and the rows that contradict it."""
    filled = np.asarray(texts != "")
    first_codes = np.full(len(photos.names), -1)
    # Backwards, so that the first row is written last.
    first_codes[photos.codes[filled][::-1]] = texts.codes[filled][::-1]
    values = np.append(np.asarray(texts.categories, object), "")[first_codes]
    return values, np.flatnonzero(filled & (texts.codes != first_codes[photos.codes]))
