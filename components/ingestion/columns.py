"""What the columns of a table about photos are, and what they say of each photo."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.sheet import Sheet
from components.scorer.redaction import redacted
from components.scorer.settings import SCORES

ATTRIBUTE_VALUES = 100
"""More distinct values than this in a column make free text or an identifier, not slices to compare."""

# Names of columns, in the order in which they are preferred; case, blanks and dashes do not matter.
PHOTO = (
    "photo", "photo_id", "filename", "file_name", "file", "path", "image_name", "img_name", "image_id", "image",
    "img", "name", "id",
)  # fmt: skip
_RATER = ("rater", "rater_id", "user", "user_id", "worker", "worker_id", "annotator", "annotator_id")
SCORE = ("score", "rating", "vote")
MEAN = ("mean", "mos", "mean_score", "average", *SCORE)
_STD = ("std", "sd", "stddev", "std_dev", "standard_deviation", "mos_std")
_COUNT = ("raters", "count", "n", "number_of_raters", "num_raters", "votes", "ratings")
_SPLITS = MappingProxyType(
    {
        "": "", "train": "train", "training": "train", "validation": "validation", "val": "validation",
        "valid": "validation", "test": "test", "testing": "test",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Names:
    """Which of a sheet's columns is what; None where there is none."""

    photo: str | None
    rater: str | None
    score: str | None
    mean: str | None
    std: str | None
    count: str | None
    votes: tuple[str, ...]  # ten, or none


def names_of(sheet: Sheet) -> Names:
    """What a sheet's columns are, by their names."""
    columns = {re.sub(r"[\W_]+", "_", name.lower()).strip("_"): name for name in sheet.rows.columns}

    def first(names: Iterable[str]) -> str | None:
        return next((columns[name] for name in names if name in columns), None)

    return Names(
        photo=first(PHOTO), rater=first(_RATER), score=first(SCORE), mean=first(MEAN), std=first(_STD),
        count=first(_COUNT), votes=_ten(columns),
    )  # fmt: skip


def _ten(columns: dict[str, str]) -> tuple[str, ...]:
    """The columns numbered 1 to 10 under one prefix, in this order; the shortest prefix when there are several."""
    prefixes: dict[str, dict[int, str]] = {}
    for folded, name in columns.items():
        if found := re.fullmatch(r"(\D*)(\d+)", folded):
            prefixes.setdefault(found[1], {})[int(found[2])] = name
    for prefix in sorted(prefixes, key=len):
        if all(score in prefixes[prefix] for score in SCORES):
            return tuple(prefixes[prefix][score] for score in SCORES)
    return ()


def no_column(sheet: Sheet, what: str, names: Iterable[str]) -> ValueError:
    """The error that a column is missing: what it would hold, and the names that it may have."""
    return ValueError(
        f"{sheet.uri}, line {sheet.first - 1}: expected a column with {what} (called {', '.join(names)}), got "
        f"{redacted(str(list(sheet.rows.columns)))}; rename the column or change rating_format"
    )


@dataclass(frozen=True)
class Photos:
    """The photos that the rows of a sheet are about.

    Attributes:
        names: their names, in the order of their first rows.
        codes: for each row, the position of its photo in `names`, int [rows].
        first: for each photo, its first row, int [photos].
        outside: for each photo, whether its name leads out of the folder of photos, bool [photos].
    """

    names: np.ndarray
    codes: np.ndarray
    first: np.ndarray
    outside: np.ndarray

    @classmethod
    def of(cls, sheet: Sheet, column: str) -> "Photos":
        """The photos that a column names.

        Raises:
            ValueError: a cell is empty.
        """
        texts = sheet.texts(column)
        if (empty := np.flatnonzero(texts == "")).size:
            raise sheet.error(empty[0], f"expected a photo in column {column!r}, got an empty cell; name it")
        paths, distinct = pd.factorize(np.array([path_of(text) for text in texts.categories], object))
        codes, order = pd.factorize(paths[texts.codes])
        names = distinct[order]
        first = np.full(len(names), -1)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        return cls(names, codes, first, np.array([leads_out(name) for name in names], bool))


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

    An attribute that differs between the rows of a photo says nothing of the photo and is passed over, or is
    an error where `strict`; a split or a group that does so is always an error.
    """
    table = pd.DataFrame(index=pd.Index(photos.names, name="photo", dtype=str))
    attributes, notes = [], []
    for column in sheet.rows.columns.difference([name for name in used if name], sort=False):
        role = column.lower() if column.lower() in ("split", "group") else ""
        texts = _splits(sheet, column) if role == "split" else sheet.texts(column)
        values, differing = _one_a_photo(texts, photos)
        if differing.size and (strict or role):
            row = differing[0]
            same = photos.codes == photos.codes[row]
            before = np.flatnonzero(same & np.asarray(texts != ""))[0]
            raise sheet.error(
                row, f"expected one {column} for a photo, got another one than in {sheet.place(before)}; keep one"
            )
        distinct = len(set(values) - {""})
        if not role and (differing.size or distinct > ATTRIBUTE_VALUES):
            why = "differs between a photo's rows" if differing.size else f"has {distinct} different values"
            notes.append(f"The column {column!r} {why}: it is not taken for an attribute of the photos.")
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
        raise sheet.error(row, f"expected train, validation or test in column {column!r}, got {texts[row]!r}")
    codes, names = pd.factorize(np.array(splits, object))
    return pd.Categorical.from_codes(codes[texts.codes], names)


def _one_a_photo(texts: pd.Categorical, photos: Photos) -> tuple[np.ndarray, np.ndarray]:
    """Each photo's first text that is not empty (object [photos]), and the rows that say something else."""
    known = np.asarray(texts != "")
    codes = np.full(len(photos.names), -1)
    codes[photos.codes[known][::-1]] = texts.codes[known][::-1]  # backwards: what is written last is the first row
    values = np.append(np.asarray(texts.categories, object), "")[codes]
    return values, np.flatnonzero(known & (texts.codes != codes[photos.codes]))
