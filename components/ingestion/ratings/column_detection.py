"""What the columns of a table about photos are, and what they say of each photo."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.ratings.table_reader import Sheet
from components.scorer.quoting import listed, shown
from components.scorer.settings import SCORES

ATTRIBUTE_VALUES = 100
"""More distinct values than this in a column make free text or an identifier, not slices to compare."""

OWN = frozenset({"photo_id", "raters", "group", "face_count", "face_confidence", *(f"p{score}" for score in SCORES)})
"""Columns that `scorer.photos.table` gives of any data set: an attribute of such a name would take their place."""

# Names of columns, in the order in which they are preferred; case, blanks, dashes and underscores do not matter.
PHOTO = (
    "photo", "photo_id", "filename", "file", "path", "image_name", "img_name", "image_id", "image", "img", "name", "id",
)  # fmt: skip
RATER = tuple(
    word + ending
    for word in (
        "rater", "user", "worker", "annotator", "participant", "respondent", "observer", "judge", "assessor",
        "evaluator", "reviewer", "voter", "labeler", "labeller",
    )
    for ending in ("", "_id", "_name")
)  # fmt: skip
SCORE = ("score", "rating", "vote")
MEAN = (
    "mean", "mos", "mean_score", "mean_rating", "average", "average_score", "average_rating", "avg", "avg_score",
    "avg_rating", "mean_opinion_score", *SCORE,
)  # fmt: skip
_STD = ("std", "sd", "stddev", "stdev", "standard_deviation", "mos_std", "std_mos", "score_std")
_COUNT = (
    "raters", "count", "n", "number_of_raters", "num_raters", "n_raters", "votes", "number_of_votes", "num_votes",
    "n_votes", "total_votes", "vote_count", "ratings", "number_of_ratings", "num_ratings", "n_ratings", "rating_count",
    "total", "c_total",
)  # fmt: skip
_SPLITS = MappingProxyType(
    {
        "": "", "train": "train", "training": "train", "validation": "validation", "val": "validation",
        "valid": "validation", "test": "test", "testing": "test",
    }
)  # fmt: skip
# A word of a column's name that says that it tells of the ratings: as an attribute of the photo it would make slices of
# the label.
_OF_RATINGS = frozenset(
    {
        "mean", "mos", "median", "average", "avg", "std", "sd", "stddev", "stdev", "variance", "var", "zscore", "score",
        "scores", "rating", "ratings", "vote", "votes", "raters",
    }
)  # fmt: skip
_LEVELS = range(3, len(SCORES) + 2)  # scores that a scale may have to be counted one by one: 0 to 10 has eleven


@dataclass(frozen=True)
class Names:
    """Which of a sheet's columns is what; None where there is none.

    Attributes:
        photo, rater, score, mean, std, count: columns.
        votes: the columns with a count of votes for each score of a scale, or none.
        levels: these scores, in the columns' order.
        raters: the columns with one rater's scores each, or none.
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
    def used(self) -> tuple[str, ...]:
        """The columns that tell of photo and ratings."""
        single = (self.photo, self.rater, self.score, self.mean, self.std, self.count)
        return tuple(name for name in (*single, *self.votes, *self.raters) if name)


def names_of(sheet: Sheet) -> Names:
    """What a sheet's columns are, by their names; which of them are raters only the cells tell."""
    columns = {folded(name): name for name in reversed(sheet.rows.columns)}

    def first(names: Iterable[str]) -> str | None:
        return next((columns[folded(name)] for name in names if folded(name) in columns), None)

    votes, levels = _counted(numbered(sheet.rows.columns))
    return Names(
        photo=first(PHOTO), rater=first(RATER), score=first(SCORE), mean=first(MEAN), std=first(_STD),
        count=first(_COUNT), votes=votes, levels=levels,
    )  # fmt: skip


def folded(name: str) -> str:
    """A column's name without what people write in different ways: ``userId``, ``User ID`` and ``user_id`` are one."""
    return re.sub(r"[\W_]+", "", name.lower())


def numbered(columns: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """The numbered columns: number and name of each, by what stands before and after the number.

    Args:
        columns: names such as ``rater 1``, ``p10`` or ``7``.

    Returns:
        By the folded rest of the names, e.g. ``rater``, ``p`` and the empty text.
    """
    blocks: dict[str, list[tuple[int, str]]] = {}
    for name in columns:
        if found := re.fullmatch(r"(\D*)(\d{1,9})(\D*)", folded(name)):
            blocks.setdefault(found[1] + found[3], []).append((int(found[2]), name))
    return blocks


def _counted(blocks: dict[str, list[tuple[int, str]]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The columns numbered as the scores of a scale from 0 or 1 to at most 10, in order, and these scores.

    The longest such run is taken, and of several the one with the shortest rest of its names.
    """
    best: list[tuple[int, str]] = []
    for rest in sorted(blocks, key=len):
        block = sorted(blocks[rest])
        numbers = [number for number, _ in block]
        whole = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)
        if whole and len(block) in _LEVELS and numbers[-1] <= SCORES[-1] and len(block) > len(best):
            best = block
    return tuple(name for _, name in best), tuple(number for number, _ in best)


def of_ratings(column: str) -> bool:
    """Whether a column tells of the ratings by its name, as ``MOS_zscore`` does."""
    return not _OF_RATINGS.isdisjoint(re.split(r"[\W_]+", column.lower()))


def no_column(sheet: Sheet, what: str, names: Iterable[str]) -> ValueError:
    """The error that a column is missing: what it would hold, and the names that it may have."""
    return ValueError(
        f"{sheet.uri}, line {sheet.first - 1}: expected a column with {what} (called {', '.join(names)}), got "
        f"{listed(sheet.rows.columns)}; rename the column or change rating_format"
    )


@dataclass(frozen=True)
class Photos:
    """The photos that the rows of a sheet are about.

    Attributes:
        names: their names, in the order of their first rows.
        codes: for each row, the position of its photo in `names`, int [rows].
        first: for each photo, its first row, int [photos].
    """

    names: np.ndarray
    codes: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, sheet: Sheet, column: str) -> "Photos":
        """The photos that a column names.

        Raises:
            ValueError: a cell is empty.
        """
        texts = sheet.texts(column)
        if (empty := np.flatnonzero(texts == "")).size:
            raise sheet.error(empty[0], f"expected a photo in column {shown(column)}, got an empty cell; name it")
        paths, distinct = pd.factorize(np.array([path_of(text) for text in texts.categories], object))
        codes, order = pd.factorize(paths[texts.codes])
        names = distinct[order]
        first = np.full(len(names), -1)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        return cls(names, codes, first)


def path_of(name: str) -> str:
    """A photo's path as a source of photos would call it: composed Unicode, ``/``, no detours."""
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def leads_out(path: str) -> bool:
    """Whether a path is absolute, on a drive or in a bucket, or leads upwards out of the folder."""
    return path.startswith("/") or path.split("/")[0] == ".." or bool(re.match(r"[A-Za-z][\w+.-]*:/", path))


@dataclass
class About:
    """What else a file says of its photos: one row a photo, columns split, group and attributes."""

    table: pd.DataFrame
    attributes: tuple[str, ...]
    notes: list[str]


def about_photos(sheet: Sheet, photos: Photos, used: Iterable[str | None], strict: bool = False) -> About:
    """What the columns that are not `used` say of the photos.

    An attribute of a name out of `OWN` is passed over. One that differs between the rows of a photo says nothing of the
    photo and is passed over, or is an error where `strict`; a split or a group that does so is always an error.
    """
    table = pd.DataFrame(index=pd.Index(photos.names, name="photo", dtype=str))
    attributes, notes = [], []
    for column in sheet.rows.columns.difference([name for name in used if name], sort=False):
        role = column.lower() if column.lower() in ("split", "group") else ""
        if not role and column in OWN:
            why = "has the name of a column that each data set has of its own: it is not taken for an attribute"
            notes.append(f"The column {shown(column)} {why}; rename it to count by it.")
            continue
        if not role and of_ratings(column):
            notes.append(f"The column {shown(column)} tells of the ratings: it is not taken for an attribute.")
            continue
        texts = _splits(sheet, column) if role == "split" else sheet.texts(column)
        values, differing = _one_a_photo(texts, photos)
        if differing.size and (strict or role):
            row = differing[0]
            same = photos.codes == photos.codes[row]
            before = np.flatnonzero(same & np.asarray(texts != ""))[0]
            what = shown(column)[1:-1]
            raise sheet.error(
                row, f"expected one {what} for a photo, got another one than in {sheet.place(before)}; keep one"
            )
        distinct = len(set(values) - {""})
        if not role and (differing.size or distinct > ATTRIBUTE_VALUES):
            why = "differs between a photo's rows" if differing.size else f"has {distinct} different values"
            notes.append(f"The column {shown(column)} {why}: it is not taken for an attribute of the photos.")
            continue
        table[role or column] = pd.array(values, dtype=str)
        if not role:
            attributes.append(column)
    return About(table, tuple(attributes), notes)


def _splits(sheet: Sheet, column: str) -> pd.Categorical:
    """A column of splits under their own names; ValueError where a cell is none."""
    texts = sheet.texts(column)
    splits = [_SPLITS.get(text.lower()) for text in texts.categories]
    if (wrong := np.flatnonzero(np.array([split is None for split in splits], bool)[texts.codes])).size:
        row = wrong[0]
        raise sheet.error(
            row, f"expected train, validation or test in column {shown(column)}, got {shown(texts[row])}; correct it"
        )
    codes, names = pd.factorize(np.array(splits, object))
    return pd.Categorical.from_codes(codes[texts.codes], names)


def _one_a_photo(texts: pd.Categorical, photos: Photos) -> tuple[np.ndarray, np.ndarray]:
    """Each photo's first text that is not empty (object [photos]), and the rows that say something else."""
    known = np.asarray(texts != "")
    codes = np.full(len(photos.names), -1)
    codes[photos.codes[known][::-1]] = texts.codes[known][::-1]  # backwards: what is written last is the first row
    values = np.append(np.asarray(texts.categories, object), "")[codes]
    return values, np.flatnonzero(known & (texts.codes != codes[photos.codes]))
