"""People's ratings of photos, in whichever of the usual forms they come, as votes over the scores 1 to 10.

The forms, recognised from the file or named by the setting ``rating_format`` (tables may use commas, tabs or
semicolons, and may be gzipped):

* ``ratings``: a header with a photo, a rater and a score; one row a rating. Without a rater, and where
  photos repeat, every row is another rater's.
* ``counts``: a header with a photo and ten columns numbered 1 to 10, bare or with one prefix (``p1``,
  ``votes_1``, …): how many raters gave each score, or which share of them.
* ``means``: a header with a photo and a mean or mos (or a score, where each photo stands once), and if known
  std and count (raters, n).
* ``ava``: ``AVA.txt`` of the AVA data set (Murray, Marchesotti and Perronnin, 2012), no header: index, image
  id, ten counts, two semantic tags, challenge. Of the package around it, ``aesthetics_image_lists/`` is read
  too: its ``*train.jpgl`` and ``*test.jpgl`` (the generic lists are the large ones; a category's lists, such as
  ``portrait_test.jpgl``, are parts of them) give the photos' splits. ``style_image_lists/`` is another
  experiment's and is not.
* ``idealo``: a JSON list of ``{"image_id": …, "label": [ten counts]}``, as idealo/image-quality-assessment
  and its imitators use.
"""

import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion import maximum_entropy
from components.ingestion.left_out import LeftOut
from components.ingestion.sheet import Sheet, read_columns, read_table, read_text
from components.scorer import storage
from components.scorer.settings import SCORES, Ingestion

VOTES = tuple(f"p{score}" for score in SCORES)
"""Columns of the shares of votes in `Ratings.table`."""

SCHEMAS = MappingProxyType(
    {
        "ratings": "one row a rating",
        "counts": "ten vote counts a photo",
        "means": "a mean score a photo",
        "ava": "AVA.txt: ten vote counts, two semantic tags and a challenge a photo",
        "idealo": "a JSON list of image_id and ten vote counts",
    }
)
"""The forms of a ratings file and what they are called in a report."""

ATTRIBUTE_VALUES = 100
"""More distinct values than this in a column make free text or an identifier, not slices to compare."""

# Names of columns, in the order in which they are preferred; case, blanks and dashes do not matter.
_PHOTO = (
    "photo", "photo_id", "filename", "file_name", "file", "path", "image_name", "img_name", "image_id", "image",
    "img", "name", "id",
)  # fmt: skip
_RATER = ("rater", "rater_id", "user", "user_id", "worker", "worker_id", "annotator", "annotator_id")
_SCORE = ("score", "rating", "vote")
_MEAN = ("mean", "mos", "mean_score", "average", *_SCORE)
_STD = ("std", "sd", "stddev", "std_dev", "standard_deviation", "mos_std")
_COUNT = ("raters", "count", "n", "number_of_raters", "num_raters", "votes", "ratings")
_SPLITS = MappingProxyType(
    {
        "": "", "train": "train", "training": "train", "validation": "validation", "val": "validation",
        "valid": "validation", "test": "test", "testing": "test",
    }
)  # fmt: skip

_AVA_COLUMNS = ("index", "image_id", *map(str, SCORES), "tag", "second_tag", "challenge")
_AVA_LISTS = "aesthetics_image_lists"


@dataclass(frozen=True)
class Ratings:
    """What people gave.

    Attributes:
        schema: the form that the file came in, a key of `SCHEMAS`.
        table: one row a photo, indexed by ``photo``. Columns ``p1`` to ``p10`` (float, from 0, sum 1), ``raters``
            (int, 0 where the file does not tell); where the file has them ``split`` (``""``, ``train``,
            ``validation`` or ``test``), ``group`` and the attributes (text, ``""`` where unknown).
        attributes: names of the attributes' columns.
        notes: sentences for the report: what was assumed, shared out or passed over.
        left_out: photos of the file that are not in the table, and why.
        single: the ratings that count, one row each (``photo``, ``rater``, ``score``), where the file has them.
        unused: photos of the file that the settings put aside (AVA's tags): neither rated nor left out.
    """

    schema: str
    table: pd.DataFrame
    attributes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    single: pd.DataFrame | None = None
    unused: frozenset[str] = frozenset()

    def matched(self, photos: Iterable[str]) -> "Ratings":
        """The same ratings under the ids of the photos that are there.

        A file may call a photo by its path in the folder or, where that is unambiguous, without folders,
        without suffix, or without both. Ratings of photos that are not there are left out: "no photo".
        """
        names = spellings(photos)
        found: dict[str, str] = {}
        taken: dict[str, str] = {}
        missing = []
        for name in self.table.index:
            photo = names.get(name)
            if not photo:
                detail = "no photo is called so" if photo is None else "several photos are called so: give their paths"
                missing.append(LeftOut(name, "no photo", detail))
            elif photo in taken:
                missing.append(LeftOut(name, "no photo", f"its photo is already rated as {taken[photo]}"))
            else:
                found[name], taken[photo] = photo, name
        single = self.single
        if single is not None:
            single = single[single["photo"].isin(list(found))].copy()
            single["photo"] = single["photo"].cat.remove_unused_categories().cat.rename_categories(found)
        return replace(
            self,
            table=self.table.loc[list(found)].rename(index=found),
            left_out=[*(replace(left, photo=names.get(left.photo) or left.photo) for left in self.left_out), *missing],
            single=single,
            unused=frozenset(names.get(name) or name for name in self.unused),
        )


def read_ratings(uri: str, settings: Ingestion) -> Ratings:
    """Read a file of ratings.

    Of a rater's repeated scores for a photo the last counts. A score between two whole ones is shared between
    them in proportion to its nearness. A mean without a standard deviation takes the pooled one of the means
    that have theirs, or else ``settings.rater_std``.

    Args:
        uri: the file, local, ``gs://`` or ``s3://``.
        settings: ``rating_format``, ``minimum_raters``, ``rater_std`` and ``ava_tags`` are read.

    Returns:
        The ratings, photos named as in the file: `Ratings.matched` finds them among the photos.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be understood, contradicts itself, or a cell is not what its column says;
            the message names the file, the line, what was expected and what came.
    """
    text = read_text(uri)
    schema = settings.rating_format
    sheet: Sheet | None = None
    if schema == "auto":
        schema = _schema_of_text(text)
    if schema == "auto":
        sheet = read_table(uri, text)
        schema = _schema_of_table(sheet)
    if schema == "ava":
        return _read_ava(uri, text, settings)
    if schema == "idealo":
        sheet, names = _read_idealo(uri, text)
    else:
        sheet = sheet or read_table(uri, text)
        names = _names(sheet)
    return _read(schema, sheet, names, settings)


def read_attributes(uri: str) -> pd.DataFrame:
    """Read what is known of the photos besides their ratings.

    Args:
        uri: a table with a header, a photo's row each.

    Returns:
        A table of text indexed by ``photo`` as the file names it (`spellings` finds it among the photos). Columns
        ``split`` (``""``, ``train``, ``validation`` or ``test``) and ``group`` where the file has them; all others
        are attributes, ``""`` where unknown.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be understood or contradicts itself; the message names file and line.
    """
    sheet = read_table(uri, read_text(uri))
    names = _names(sheet)
    if names.photo is None:
        raise _no_column(sheet, "a photo", _PHOTO)
    photos = _Photos.of(sheet, names.photo)
    about = _about(sheet, photos, [names.photo], strict=True)
    return about.table.loc[[not outside for outside in photos.outside]]


def spellings(photos: Iterable[str]) -> dict[str, str]:
    """What a file may call the photos, and which photo each name means.

    Args:
        photos: ids: paths in the folder of photos, with ``/``.

    Returns:
        By name: the id, or ``""`` where several photos could be meant. Names are in Unicode's composed form
        (NFC), as `read_ratings` and `read_attributes` give them; a Mac's folders list the decomposed one.
    """
    names: dict[str, str] = {}
    whole = {}
    for photo in photos:
        path = unicodedata.normalize("NFC", photo)
        whole[path] = photo
        base = path.rpartition("/")[2]
        for name in {base, posixpath.splitext(path)[0], posixpath.splitext(base)[0]}:
            names[name] = photo if name not in names else ""
    return names | whole


@dataclass(frozen=True)
class _Names:
    """Which of a sheet's columns is what; None where there is none."""

    photo: str | None
    rater: str | None
    score: str | None
    mean: str | None
    std: str | None
    count: str | None
    votes: tuple[str, ...]  # ten, or none


@dataclass(frozen=True)
class _Photos:
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
    def of(cls, sheet: Sheet, column: str) -> "_Photos":
        """The photos that a column names.

        Raises:
            ValueError: a cell is empty.
        """
        texts = sheet.texts(column)
        if (empty := np.flatnonzero(texts == "")).size:
            raise sheet.error(empty[0], f"expected a photo in column {column!r}, got an empty cell; name it")
        paths, distinct = pd.factorize(np.array([_path(text) for text in texts.categories], object))
        codes, order = pd.factorize(paths[texts.codes])
        names = distinct[order]
        first = np.full(len(names), -1)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        return cls(names, codes, first, np.array([_leads_out(name) for name in names], bool))


@dataclass
class _Votes:
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


@dataclass
class _About:
    """What else a file says of its photos: one row a photo, columns split, group and attributes."""

    table: pd.DataFrame
    attributes: tuple[str, ...]
    notes: list[str]


def _read(schema: str, sheet: Sheet, names: _Names, settings: Ingestion) -> Ratings:
    """The ratings in a sheet whose form is known."""
    read = _READERS[schema]
    if names.photo is None:
        raise _no_column(sheet, "a photo", _PHOTO)
    photos = _Photos.of(sheet, names.photo)
    votes = read(sheet, names, photos, settings)
    used = [names.photo, names.rater, names.score, names.mean, names.std, names.count, *names.votes]
    about = _about(sheet, photos, [*used, *VOTES, "raters"])

    for position in np.flatnonzero((votes.raters > 0) & (votes.raters < settings.minimum_raters)):
        detail = f"{votes.raters[position]} where at least {settings.minimum_raters} are asked for"
        votes.reasons.setdefault(int(position), ("too few raters", detail))
    for position in np.flatnonzero(photos.outside):
        votes.reasons[int(position)] = ("path outside the folder", sheet.place(photos.first[position]))
    kept = np.ones(len(photos.names), bool)
    kept[list(votes.reasons)] = False

    table = pd.DataFrame(votes.shares, index=about.table.index, columns=list(VOTES))
    table["raters"] = votes.raters
    single = votes.single
    if single is not None:
        single = single[kept[single["photo"]]].reset_index(drop=True)
        single["photo"] = pd.Categorical.from_codes(single["photo"], photos.names).remove_unused_categories()
    return Ratings(
        schema=schema,
        table=pd.concat([table, about.table], axis=1)[kept],
        attributes=about.attributes,
        notes=[*votes.notes, *about.notes],
        left_out=[LeftOut(photos.names[at], *reason) for at, reason in sorted(votes.reasons.items())],
        single=single,
    )


def _one_row_a_rating(sheet: Sheet, names: _Names, photos: _Photos, settings: Ingestion) -> _Votes:
    """The form "ratings"."""
    if names.score is None:
        raise _no_column(sheet, "a score", _SCORE)
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
    return _Votes(_shares(votes.reshape(-1, len(SCORES))), number, reasons, notes, single)


def _raters(sheet: Sheet, column: str | None, photos: _Photos, given: np.ndarray) -> tuple[pd.Categorical, np.ndarray]:
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


def _ten_counts(sheet: Sheet, names: _Names, photos: _Photos, settings: Ingestion) -> _Votes:
    """The forms "counts", "ava" and "idealo"."""
    if not names.votes:
        raise _no_column(sheet, "ten vote counts", ("1 … 10", "p1 … p10", "votes_1 … votes_10"))
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
        notes += _unknown_raters(raters, settings)
    return _Votes(_shares(counts), raters, reasons, notes)


def _means(sheet: Sheet, names: _Names, photos: _Photos, settings: Ingestion) -> _Votes:
    """The form "means"."""
    if names.mean is None:
        raise _no_column(sheet, "a mean", _MEAN)
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
    return _Votes(shares, raters, reasons, [*notes, *_unknown_raters(raters[usable], settings)])


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


_READERS: dict[str, Callable[[Sheet, _Names, _Photos, Ingestion], _Votes]] = {
    "ratings": _one_row_a_rating,
    "counts": _ten_counts,
    "means": _means,
    "ava": _ten_counts,
    "idealo": _ten_counts,
}


def _read_ava(uri: str, text: str, settings: Ingestion) -> Ratings:
    """The form "ava": the photos with the wanted tags, in their published splits where the lists are at hand."""
    sheet = read_columns(uri, text, list(_AVA_COLUMNS))
    photos = sheet.texts("image_id")
    wanted = np.ones(len(photos), bool)
    if settings.ava_tags:
        wanted = np.isin(sheet.numbers("tag"), settings.ava_tags)
        wanted |= np.isin(sheet.numbers("second_tag"), settings.ava_tags)
    tags = ", ".join(map(str, settings.ava_tags))
    if not wanted.any():
        raise ValueError(f"{uri}: expected photos with one of the semantic tags {tags}, got none; change ava_tags")
    rows = sheet.rows.loc[wanted, list(_AVA_COLUMNS[1:12])]
    notes = [f"{wanted.sum()} of {len(wanted)} photos carry one of the semantic tags {tags}."] if tags else []

    splits, lists = _published_splits(uri)
    if splits:
        rows["split"] = pd.Categorical([splits.get(photo, "") for photo in photos[wanted]])
        notes.append(f"The splits are those of {lists} lists in {_AVA_LISTS}; a photo on both kinds is a test photo.")
    sheet = replace(sheet, rows=rows)
    ratings = _read("ava", sheet, _names(sheet), settings)
    return replace(ratings, notes=[*notes, *ratings.notes], unused=frozenset(map(_path, photos[~wanted])))


def _published_splits(uri: str) -> tuple[dict[str, str], int]:
    """The split of each image id on the lists beside AVA.txt, and the number of lists; none without them."""
    folder = storage.join(uri.rpartition("/")[0] or ".", _AVA_LISTS)
    files = list(storage.files(folder))
    splits: dict[str, str] = {}
    lists = 0
    for split in ("train", "test"):
        for file in files:
            if file.name.endswith(f"{split}.jpgl"):
                splits.update(dict.fromkeys(read_text(file.uri).split(), split))
                lists += 1
    return splits, lists


def _read_idealo(uri: str, text: str) -> tuple[Sheet, _Names]:
    """The form "idealo" as a sheet whose rows are the list's items, counted from 1."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{uri}, line {error.lineno}: expected JSON, got {error.msg} in column {error.colno}"
        ) from None
    if not isinstance(items, list) or not items:
        raise ValueError(f"{uri}: expected a list of image_id and label, got {text.strip()[:40]!r}")
    for number, item in enumerate(items, 1):
        label = item.get("label") if isinstance(item, dict) else None
        if not isinstance(label, list) or len(label) != len(SCORES) or not all(map(_is_number, label)):
            raise ValueError(
                f"{uri}, item {number}: expected an image_id and a label of ten counts, got {json.dumps(item)[:80]}"
            )
        if not isinstance(item.get("image_id"), str | int):
            raise ValueError(f"{uri}, item {number}: expected an image_id, got {item.get('image_id')!r}")
    # Prefixed, so that no key beside image_id and label can be taken for a count.
    votes = pd.DataFrame([item["label"] for item in items], columns=list(VOTES), dtype=float)
    rest = [{key: value for key, value in item.items() if key != "label"} for item in items]
    rows = pd.DataFrame(rest).fillna("").astype(str).astype("category")
    sheet = Sheet(uri, pd.concat([rows.drop(columns=votes.columns, errors="ignore"), votes], axis=1), 1, unit="item")
    return sheet, replace(_names(sheet), photo="image_id", votes=VOTES)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _schema_of_text(text: str) -> str:
    """The form of a file that is no table with a header, or "auto"."""
    start = text.lstrip()
    if start[0] in "[{":
        return "idealo"
    cells = start.partition("\n")[0].split()
    return "ava" if len(cells) == len(_AVA_COLUMNS) and all(cell.isdigit() for cell in cells) else "auto"


def _schema_of_table(sheet: Sheet) -> str:
    """The form of a table with a header."""
    names = _names(sheet)
    if names.photo and names.votes:
        return "counts"
    if names.photo and names.rater and names.score:
        return "ratings"
    if names.photo and names.mean and names.mean != names.score:
        return "means"
    if names.photo and names.score:
        return "ratings" if sheet.texts(names.photo).value_counts().max() > 1 else "means"
    raise ValueError(
        f"{sheet.uri}, line {sheet.first - 1}: expected a header with a photo and either a rater and a score, or ten "
        "vote counts (1 … 10, p1 … p10, votes_1 … votes_10), or a mean (and std and count if known); "
        f"got {list(sheet.rows.columns)}; rename the columns"
    )


def _names(sheet: Sheet) -> _Names:
    """What a sheet's columns are, by their names."""
    columns = {re.sub(r"[\W_]+", "_", name.lower()).strip("_"): name for name in sheet.rows.columns}

    def first(names: Iterable[str]) -> str | None:
        return next((columns[name] for name in names if name in columns), None)

    return _Names(
        photo=first(_PHOTO), rater=first(_RATER), score=first(_SCORE), mean=first(_MEAN), std=first(_STD),
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


def _no_column(sheet: Sheet, what: str, names: Iterable[str]) -> ValueError:
    return ValueError(
        f"{sheet.uri}, line {sheet.first - 1}: expected a column with {what} (called {', '.join(names)}), got "
        f"{list(sheet.rows.columns)}; rename the column or change rating_format"
    )


def _about(sheet: Sheet, photos: _Photos, used: Iterable[str | None], strict: bool = False) -> _About:
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
            raise sheet.error(
                row, f"expected one {column} for {photos.names[photos.codes[row]]}, got {texts[row]!r} beside "
                f"{values[photos.codes[row]]!r}; keep one"
            )  # fmt: skip
        distinct = len(set(values) - {""})
        if not role and (differing.size or distinct > ATTRIBUTE_VALUES):
            why = "differs between a photo's rows" if differing.size else f"has {distinct} different values"
            notes.append(f"The column {column!r} {why}: it is not taken for an attribute of the photos.")
            continue
        table[role or column] = pd.array(values, dtype=str)
        if not role:
            attributes.append(column)
    return _About(table, tuple(attributes), notes)


def _splits(sheet: Sheet, column: str) -> pd.Categorical:
    """A column of splits under their own names; ValueError where a cell is none."""
    texts = sheet.texts(column)
    splits = [_SPLITS.get(text.lower()) for text in texts.categories]
    if (wrong := np.flatnonzero(np.array([split is None for split in splits], bool)[texts.codes])).size:
        row = wrong[0]
        raise sheet.error(row, f"expected train, validation or test in column {column!r}, got {texts[row]!r}")
    codes, names = pd.factorize(np.array(splits, object))
    return pd.Categorical.from_codes(codes[texts.codes], names)


def _one_a_photo(texts: pd.Categorical, photos: _Photos) -> tuple[np.ndarray, np.ndarray]:
    """Each photo's first text that is not empty (object [photos]), and the rows that say something else."""
    known = np.asarray(texts != "")
    codes = np.full(len(photos.names), -1)
    codes[photos.codes[known][::-1]] = texts.codes[known][::-1]  # backwards: what is written last is the first row
    values = np.append(np.asarray(texts.categories, object), "")[codes]
    return values, np.flatnonzero(known & (texts.codes != codes[photos.codes]))


def _same_again(sheet: Sheet, photos: _Photos, values: np.ndarray) -> None:
    """ValueError where a photo's rows differ in their values, float [rows, columns]: which is right?"""
    first = photos.first[photos.codes]
    again = np.flatnonzero(first != np.arange(len(first)))
    same = np.isclose(values[again], values[first[again]], equal_nan=True).all(axis=1)
    for row in again[~same][:1]:
        raise sheet.error(
            row, f"expected one row for {photos.names[photos.codes[row]]}, got another one with other values than "
            f"{sheet.place(first[row])}; keep one"
        )  # fmt: skip


def _out_of_range(sheet: Sheet, photos: _Photos, scores: np.ndarray, outside: np.ndarray) -> dict[int, tuple[str, str]]:
    """The photos with a score outside 1 to 10, and where its first such score stands."""
    reasons: dict[int, tuple[str, str]] = {}
    for row in np.flatnonzero(outside):
        detail = f"{sheet.place(row)}: {scores[row]:g}"
        reasons.setdefault(int(photos.codes[row]), ("score out of range", detail))
    return reasons


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


def _unknown_raters(raters: np.ndarray, settings: Ingestion) -> list[str]:
    unknown = int((raters == 0).sum())
    if not unknown:
        return []
    return [f"How many people rated is not known for {unknown} photos; minimum_raters does not apply to them."]


def _shares(votes: np.ndarray) -> np.ndarray:
    """Votes [n, 10] as shares of each row's sum; a row without votes stays 0."""
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=np.zeros_like(votes), where=totals > 0)


def _path(name: str) -> str:
    """A photo's path as a source of photos would call it: composed Unicode, ``/``, no detours."""
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def _leads_out(path: str) -> bool:
    """Whether a path is absolute, on a drive or in a bucket, or leads upwards out of the folder."""
    return path.startswith("/") or path.split("/")[0] == ".." or bool(re.match(r"[A-Za-z][\w+.-]*:/", path))
