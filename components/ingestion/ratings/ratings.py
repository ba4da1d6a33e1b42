"""People's ratings of photos, in whichever of the usual forms they come, as votes over the scores 1 to 10.

The forms, recognised from the file or named by the setting ``rating_format`` (tables may use commas, tabs or
semicolons, and may be gzipped):

* ``ratings``: a header with a photo, a rater and a score; one row a rating. Without a rater, and where
  photos repeat with other scores, every row is another rater's.
* ``wide``: a header with a photo and a column for each rater (``rater1``, ``rater2``, …, or any names), empty where a
  rater did not rate the photo. `forms` tells it from counts.
* ``counts``: a header with a photo and columns numbered by the scores of a scale, from 0 or 1 to at most 10, bare or
  with one prefix (``p1``, ``votes_1``, …): how many raters gave each score, or which share of them.
* ``means``: a header with a photo and a mean or mos (or a score, where each photo stands once), and if known
  std and count (raters, n).
* ``ava``: ``AVA.txt`` of the AVA data set (Murray, Marchesotti and Perronnin, 2012), no header: index, image
  id, ten counts, two semantic tags, challenge. Of the package around it, ``aesthetics_image_lists/`` is read
  too: its ``*train.jpgl`` and ``*test.jpgl`` (the generic lists are the large ones; a category's lists, such as
  ``portrait_test.jpgl``, are parts of them) give the photos' splits. ``style_image_lists/`` is another
  experiment's and is not.
* ``idealo``: a JSON list of ``{"image_id": …, "label": [ten counts]}``, as idealo/image-quality-assessment
  and its imitators use.

A column of means beside votes has to be their mean. Scores of any scale are brought to 1 to 10 by the rule of `scales`;
which scale it is, the scores tell, or the numbers of the columns, or the setting ``rating_scale``.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.exclusions import LeftOut
from components.ingestion.photos.name_matching import spellings, surplus
from components.ingestion.ratings import forms
from components.ingestion.ratings.column_detection import (
    PHOTO,
    Names,
    Photos,
    about_photos,
    leads_out,
    names_of,
    no_column,
    path_of,
)
from components.ingestion.ratings.table_reader import Sheet, read_columns, read_table, read_text
from components.ingestion.ratings.vote_parsers import READERS
from components.scorer import storage
from components.scorer.quoting import shown
from components.scorer.settings import SCORES, Ingestion

VOTES = tuple(f"p{score}" for score in SCORES)
"""Columns of the shares of votes in `Ratings.table`."""

SCHEMAS = MappingProxyType(
    {
        "ratings": "one row a rating",
        "wide": "one column a rater",
        "counts": "a vote count for each score",
        "means": "a mean score a photo",
        "ava": "AVA.txt: ten vote counts, two semantic tags and a challenge a photo",
        "idealo": "a JSON list of image_id and ten vote counts",
    }
)
"""The forms of a ratings file and what they are called in a report."""

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
        places: where each photo of the file stands in it first, e.g. ``ratings.csv line 17``.
    """

    schema: str
    table: pd.DataFrame
    attributes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    single: pd.DataFrame | None = None
    unused: frozenset[str] = frozenset()
    places: dict[str, str] = field(default_factory=dict)

    def matched(self, photos: Iterable[str], missing: float = 0.0) -> "Ratings":
        """The same ratings under the ids of the photos that are there.

        A file may call a photo by its path in the folder or, where that is unambiguous, without folders, without
        suffix, or without both. Folders that all its names begin with are dropped where the photos are found so.
        Ratings of photos that are not there are left out: "no photo".

        Args:
            photos: ids.
            missing: share of the photos of the file that may not be there.
        """
        known = spellings(photos)
        begin = surplus(self.table.index, known, missing)
        names = {name: known.get(name.removeprefix(begin)) for name in (*self.places, *self.unused)}
        notes = list(self.notes)
        if begin:
            notes.append(f"All photos in the ratings begin with {shown(begin)}, which was dropped to find them.")
        found: dict[str, str] = {}
        taken: dict[str, str] = {}
        missing_photos = []
        for name in self.table.index:
            photo = names.get(name)
            if not photo and leads_out(name):
                missing_photos.append(LeftOut(name, "path outside the folder", self.places[name]))
            elif not photo:
                detail = "no photo is called so" if photo is None else "several photos are called so: give their paths"
                missing_photos.append(LeftOut(name, "no photo", detail))
            elif photo in taken:
                missing_photos.append(LeftOut(name, "no photo", f"its photo is already rated as {taken[photo]}"))
            else:
                found[name], taken[photo] = photo, name
        single = self.single
        if single is not None:
            single = single[single["photo"].isin(list(found))].copy()
            single["photo"] = single["photo"].cat.remove_unused_categories().cat.rename_categories(found)
        return replace(
            self,
            table=self.table.loc[list(found)].rename(index=found),
            left_out=[
                *(replace(left, photo=names.get(left.photo) or left.photo) for left in self.left_out),
                *missing_photos,
            ],
            single=single,
            notes=notes,
            unused=frozenset(names.get(name) or name for name in self.unused),
        )


def read_ratings(uri: str, settings: Ingestion) -> Ratings:
    """Read a file of ratings.

    Of a rater's repeated scores for a photo the last counts. A score between two whole ones is shared between
    them in proportion to its nearness. Rows that repeat another one word for word are dropped, but for single ratings
    of people who are not named. A mean without a standard deviation takes the pooled one of the means
    that have theirs, or else ``settings.rater_std``.

    Args:
        uri: the file, local, ``gs://`` or ``s3://``.
        settings: ``rating_format``, ``rating_scale``, ``minimum_raters``, ``rater_std`` and ``ava_tags`` are read.

    Returns:
        The ratings, photos named as in the file: `Ratings.matched` finds them among the photos.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be understood, contradicts itself, or a cell is not what its column says;
            the message names the file, the line, what was expected and what came.
    """
    text = read_text(uri)
    schema = settings.rating_format
    if schema == "auto":
        schema = _schema_of_text(text)
    if schema == "ava":
        return _read_ava(uri, text, settings)
    if schema == "idealo":
        return _read(schema, *_read_idealo(uri, text), settings)
    sheet = read_table(uri, text)
    names = names_of(sheet)
    if schema == "auto":
        schema, names = forms.form_of(sheet)
    elif schema == "wide":
        names = forms.with_raters(sheet, names)
    return _read(schema, sheet, names, settings)


def read_attributes(uri: str) -> pd.DataFrame:
    """Read what is known of the photos besides their ratings.

    Args:
        uri: a table with a header, a photo's row each.

    Returns:
        A table of text indexed by ``photo`` as the file names it (`spellings` finds it among the photos). Columns
        ``split`` (``""``, ``train``, ``validation`` or ``test``) and ``group`` where the file has them; all others
        are attributes, ``""`` where unknown. ``attrs["notes"]`` says in sentences what was passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be understood or contradicts itself; the message names file and line.
    """
    sheet = read_table(uri, read_text(uri))
    names = names_of(sheet)
    if names.photo is None:
        raise no_column(sheet, "a photo", PHOTO)
    photos = Photos.of(sheet, names.photo)
    about = about_photos(sheet, photos, [names.photo], strict=True)
    table = about.table
    table.attrs["notes"] = about.notes
    return table


def _read(schema: str, sheet: Sheet, names: Names, settings: Ingestion) -> Ratings:
    """The ratings in a sheet whose form is known."""
    read, notes = READERS[schema], []
    if names.photo is None:
        raise no_column(sheet, "a photo", PHOTO)
    if schema != "ratings":  # where people are not named, two of them may say the same
        sheet, doubled = sheet.distinct()
        notes += [f"{doubled:,} rows repeat another one word for word and were dropped."] if doubled else []
    photos = Photos.of(sheet, names.photo)
    votes = read(sheet, names, photos, settings)
    about = about_photos(sheet, photos, [*names.used, *VOTES, "raters"])

    for position in np.flatnonzero((votes.raters > 0) & (votes.raters < settings.minimum_raters)):
        detail = f"{votes.raters[position]} where at least {settings.minimum_raters} are asked for"
        votes.reasons.setdefault(int(position), ("too few raters", detail))
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
        notes=[*notes, *votes.notes, *about.notes],
        left_out=[LeftOut(photos.names[at], *reason) for at, reason in sorted(votes.reasons.items())],
        single=single,
        places=dict(zip(photos.names, sheet.places(photos.first), strict=True)),
    )


def _read_ava(uri: str, text: str, settings: Ingestion) -> Ratings:
    """The form "ava": the photos with the wanted tags, in their published splits where the lists are at hand."""
    sheet = read_columns(uri, text, list(_AVA_COLUMNS))
    for row in np.flatnonzero(sheet.texts(_AVA_COLUMNS[-1]) == "")[:1]:
        raise sheet.error(row, f"expected {len(_AVA_COLUMNS)} cells parted by blanks, as in AVA.txt, got fewer")
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
    ratings = _read("ava", sheet, names_of(sheet), settings)
    return replace(ratings, notes=[*notes, *ratings.notes], unused=frozenset(map(path_of, photos[~wanted])))


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


def _read_idealo(uri: str, text: str) -> tuple[Sheet, Names]:
    """The form "idealo" as a sheet whose rows are the list's items, counted from 1."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{uri}, line {error.lineno}: expected JSON, got {error.msg} in column {error.colno}"
        ) from None
    if not isinstance(items, list) or not items:
        raise ValueError(f"{uri}: expected a list of image_id and label, got {_described(items)}")
    for number, item in enumerate(items, 1):
        label = item.get("label") if isinstance(item, dict) else None
        if not isinstance(label, list) or len(label) != len(SCORES) or not all(map(_is_number, label)):
            raise ValueError(
                f"{uri}, item {number}: expected an image_id and a label of ten counts, got {_described(item)}"
            )
        if not isinstance(item.get("image_id"), str | int):
            kind = type(item.get("image_id")).__name__
            raise ValueError(f"{uri}, item {number}: expected an image_id that is a text or a number, got {kind}")
    # Prefixed, so that no key beside image_id and label can be taken for a count.
    votes = pd.DataFrame([item["label"] for item in items], columns=list(VOTES), dtype=float)
    rest = [{key: value for key, value in item.items() if key != "label"} for item in items]
    rows = pd.DataFrame(rest, dtype=object).fillna("").astype(str).astype("category")  # else 7 beside a blank is 7.0
    sheet = Sheet(uri, pd.concat([rows.drop(columns=votes.columns, errors="ignore"), votes], axis=1), 1, unit="item")
    return sheet, replace(names_of(sheet), photo="image_id", votes=VOTES, levels=SCORES)


def _described(value: object) -> str:
    """What a JSON value is, without what it says of a photo."""
    if isinstance(value, dict):
        label = value.get("label")
        return f"an object with {f'a label of {len(label)}' if isinstance(label, list) else 'no list as label'}"
    return f"a list of {len(value)} values" if isinstance(value, list) else f"a {type(value).__name__}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _schema_of_text(text: str) -> str:
    """The form of a file that is no table with a header, or "auto"."""
    start = text.lstrip()
    if start[0] in "[{":
        return "idealo"
    cells = start.partition("\n")[0].split()
    return "ava" if len(cells) == len(_AVA_COLUMNS) and all(cell.isdigit() for cell in cells) else "auto"
