"""Reader of rating files: every common form becomes votes over the scores 1 to 10.

The form is detected from the file or set by ``rating_format``. Tables may use commas, tabs or semicolons, and may be
gzipped. The forms:

* ``ratings``: A header with a photo, a rater and a score; one row a rating. Without a rater column, if photos repeat
  with different scores, each row counts as another rater's.
* ``wide``: A header with a photo and one column a rater (``rater1``, ``rater2``, …, or any names). A cell is empty if
  the rater did not rate the photo. `forms` distinguishes it from counts.
* ``counts``: A header with a photo and columns numbered by the scores of a scale, from 0 or 1 to at most 10. The
  columns are bare or have one prefix (``p1``, ``votes_1``, …). A cell is the number or the share of raters who gave the
  score.
* ``means``: A header with a photo and a mean or mos (or a score, if no photo repeats), and optionally std and count
  (raters, n).
* ``ava``: ``AVA.txt`` of the AVA data set (Murray, Marchesotti and Perronnin, 2012), without a header. Its columns are
  index, image id, ten counts, two semantic tags and challenge. The lists ``*train.jpgl`` and ``*test.jpgl`` of
  ``aesthetics_image_lists/`` beside it give the photos' splits. The generic lists are the large ones. A category's
  lists, such as ``portrait_test.jpgl``, are parts of them. ``style_image_lists/`` belongs to another experiment and is
  not read.
* ``idealo``: A JSON list of ``{"image_id": …, "label": [ten counts]}``, as in idealo/image-quality-assessment and its
  imitators.

A column of means beside votes must equal their mean. Scores of any scale are converted to 1 to 10, see `scales`. The
scale is detected from the scores or the numbers of the columns, or set by ``rating_scale``.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from components.ingestion.exclusions import Exclusion
from components.ingestion.photos.name_matching import extra_prefix, photo_ids_by_name
from components.ingestion.ratings import forms
from components.ingestion.ratings.column_detection import (
    PHOTO_NAMES,
    ColumnRoles,
    PhotoIndex,
    detect_roles,
    is_outside_folder,
    missing_column_error,
    normalise_path,
    read_photo_metadata,
)
from components.ingestion.ratings.table_reader import RatingTable, read_blank_separated, read_table, read_text
from components.ingestion.ratings.vote_parsers import PARSERS
from components.scorer import storage
from components.scorer.quoting import quoted
from components.scorer.settings import SCORES, Ingestion

VOTE_COLUMNS = tuple(f"p{score}" for score in SCORES)
"""Columns of the vote shares in `Ratings.table`."""

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
"""The forms of a ratings file and their names in a report."""

_AVA_COLUMNS = ("index", "image_id", *map(str, SCORES), "tag", "second_tag", "challenge")
_AVA_LISTS = "aesthetics_image_lists"


@dataclass(frozen=True)
class Ratings:
    """The ratings of a file.

    Attributes:
        schema: Form of the file, a key of `SCHEMAS`.
        table: One row a photo, indexed by ``photo``. Columns ``p1`` to ``p10`` (float, from 0, sum 1) and ``raters``
            (int, 0 if unknown). If the file has them, also ``split`` (``""``, ``train``, ``validation`` or ``test``),
            ``group`` and the attributes (text, ``""`` if unknown).
        attributes: Names of the attribute columns.
        notes: Sentences for the report on assumptions, split scores and skipped columns.
        left_out: Photos of the file that are not in the table, with the reason.
        single_ratings: Single ratings that count, one row each (``photo``, ``rater``, ``score``). None if the file has
            none.
        filtered_out: Photos of the file that the setting ``ava_tags`` filters out. They are neither rated nor excluded.
        locations: Location of each photo's first row in the file, e.g. ``ratings.csv line 17``.
    """

    schema: str
    table: pd.DataFrame
    attributes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: list[Exclusion] = field(default_factory=list)
    single_ratings: pd.DataFrame | None = None
    filtered_out: frozenset[str] = frozenset()
    locations: dict[str, str] = field(default_factory=dict)

    def match_photos(self, photos: Iterable[str], missing_share: float = 0.0) -> "Ratings":
        """Return the ratings under the ids of the existing photos.

        A file may name a photo by its path in the folder. If this is unambiguous, the name may lack folders, the
        suffix, or both. A common folder prefix of all names is dropped if the photos are found that way. A rating
        without a photo is excluded with the reason "no photo".

        Args:
            photos: Photo ids.
            missing_share: Share of the file's photos that may be missing.
        """
        ids_by_name = photo_ids_by_name(photos)
        prefix = extra_prefix(self.table.index, ids_by_name, missing_share)
        names = {name: ids_by_name.get(name.removeprefix(prefix)) for name in (*self.locations, *self.filtered_out)}
        notes = list(self.notes)
        if prefix:
            notes.append(f"All photos in the ratings begin with {quoted(prefix)}, which was dropped to find them.")
        photo_by_name: dict[str, str] = {}
        name_by_photo: dict[str, str] = {}
        exclusions = []
        for name in self.table.index:
            photo = names.get(name)
            if not photo and is_outside_folder(name):
                exclusions.append(Exclusion(name, "path outside the folder", self.locations[name]))
            elif not photo:
                detail = "no photo is called so" if photo is None else "several photos are called so: give their paths"
                exclusions.append(Exclusion(name, "no photo", detail))
            elif photo in name_by_photo:
                exclusions.append(Exclusion(name, "no photo", f"its photo is already rated as {name_by_photo[photo]}"))
            else:
                photo_by_name[name], name_by_photo[photo] = photo, name
        single = self.single_ratings
        if single is not None:
            single = single[single["photo"].isin(list(photo_by_name))].copy()
            single["photo"] = single["photo"].cat.remove_unused_categories().cat.rename_categories(photo_by_name)
        return replace(
            self,
            table=self.table.loc[list(photo_by_name)].rename(index=photo_by_name),
            left_out=[
                *(
                    replace(exclusion, photo=names.get(exclusion.photo) or exclusion.photo)
                    for exclusion in self.left_out
                ),
                *exclusions,
            ],
            single_ratings=single,
            notes=notes,
            filtered_out=frozenset(names.get(name) or name for name in self.filtered_out),
        )


def read_ratings(uri: str, settings: Ingestion) -> Ratings:
    """Read a file of ratings.

    If a rater scores a photo repeatedly, the last score counts. A score between two whole scores is split by linear
    interpolation. Rows that repeat another row exactly are dropped, except single ratings of unnamed people. A mean
    without a standard deviation takes the pooled standard deviation of the other means, or ``parse_settings.rater_std``
    if no mean has one.

    Args:
        uri: Address of the file: a local path, ``gs://`` or ``s3://``.
        settings: Ingestion settings; ``rating_format``, ``rating_scale``, ``minimum_raters``, ``rater_std`` and
            ``ava_tags`` are used.

    Returns:
        The ratings, with the photo names of the file. `Ratings.match_photos` maps them to photo ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is malformed or contradicts itself, or a cell does not fit its column. The message names
            the file, the line, the expected and the actual value.
    """
    text = read_text(uri)
    schema: str = settings.rating_format
    if schema == "auto":
        schema = _detect_schema(text)
    if schema == "ava":
        return _read_ava(uri, text, settings)
    if schema == "idealo":
        return _read_form(schema, *_read_idealo(uri, text), settings)
    table = read_table(uri, text)
    roles = detect_roles(table)
    if schema == "auto":
        schema, roles = forms.detect_form(table)
    elif schema == "wide":
        roles = forms.with_rater_columns(table, roles)
    return _read_form(schema, table, roles, settings)


def read_attributes(uri: str) -> pd.DataFrame:
    """Read a table of attributes, splits and groups of the photos.

    Args:
        uri: Address of a table with a header and one row a photo.

    Returns:
        A table of text indexed by ``photo`` as the file names it; `spellings` maps these names to photo ids. Columns
        are ``split`` (``""``, ``train``, ``validation`` or ``test``) and ``group``, if the file has them. All other
        columns are attributes, ``""`` if unknown. ``attrs["notes"]`` lists the skipped columns in sentences.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is malformed or contradicts itself. The message names file and line.
    """
    source_table = read_table(uri, read_text(uri))
    roles = detect_roles(source_table)
    if roles.photo is None:
        raise missing_column_error(source_table, "a photo", PHOTO_NAMES)
    photos = PhotoIndex.from_column(source_table, roles.photo)
    metadata = read_photo_metadata(source_table, photos, [roles.photo], strict=True)
    table = metadata.table
    table.attrs["notes"] = metadata.notes
    return table


def _read_form(schema: str, source_table: RatingTable, roles: ColumnRoles, settings: Ingestion) -> Ratings:
    """Return the ratings in a table of known form."""
    parse, notes = PARSERS[schema], []
    if roles.photo is None:
        raise missing_column_error(source_table, "a photo", PHOTO_NAMES)
    if schema != "ratings":  # two unnamed people may give the same rating
        source_table, n_repeated = source_table.drop_duplicates()
        notes += [f"{n_repeated:,} rows repeat another one word for word and were dropped."] if n_repeated else []
    photos = PhotoIndex.from_column(source_table, roles.photo)
    votes = parse(source_table, roles, photos, settings)
    metadata = read_photo_metadata(source_table, photos, [*roles.used_columns, *VOTE_COLUMNS, "raters"])

    for position in np.flatnonzero((votes.raters > 0) & (votes.raters < settings.minimum_raters)):
        detail = f"{votes.raters[position]} where at least {settings.minimum_raters} are asked for"
        votes.exclusions.setdefault(int(position), ("too few raters", detail))
    included = np.ones(len(photos.names), bool)
    included[list(votes.exclusions)] = False

    table = pd.DataFrame(votes.shares, index=metadata.table.index, columns=list(VOTE_COLUMNS))
    table["raters"] = votes.raters
    single = votes.single_scores
    if single is not None:
        single = single[included[single["photo"]]].reset_index(drop=True)
        single["photo"] = pd.Categorical.from_codes(single["photo"], photos.names).remove_unused_categories()
    return Ratings(
        schema=schema,
        table=pd.concat([table, metadata.table], axis=1)[included],
        attributes=metadata.attributes,
        notes=[*notes, *votes.notes, *metadata.notes],
        left_out=[Exclusion(photos.names[position], *reason) for position, reason in sorted(votes.exclusions.items())],
        single_ratings=single,
        locations=dict(zip(photos.names, source_table.row_locations(photos.first_rows), strict=True)),
    )


def _read_ava(uri: str, text: str, settings: Ingestion) -> Ratings:
    """Read the form "ava": the photos with the wanted tags.

    Published splits are used if the lists of the AVA package lie beside the file.
    """
    table = read_blank_separated(uri, text, list(_AVA_COLUMNS))
    for row in np.flatnonzero(table.texts(_AVA_COLUMNS[-1]) == "")[:1]:
        raise table.error(row, f"expected {len(_AVA_COLUMNS)} cells parted by blanks, as in AVA.txt, got fewer")
    photos = table.texts("image_id")
    wanted = np.ones(len(photos), bool)
    if settings.ava_tags:
        wanted = np.isin(table.numbers("tag"), settings.ava_tags)
        wanted |= np.isin(table.numbers("second_tag"), settings.ava_tags)
    tags = ", ".join(map(str, settings.ava_tags))
    if not wanted.any():
        raise ValueError(f"{uri}: expected photos with one of the semantic tags {tags}, got none; change ava_tags")
    rows = table.rows.loc[wanted, list(_AVA_COLUMNS[1:12])]
    notes = [f"{wanted.sum()} of {len(wanted)} photos carry one of the semantic tags {tags}."] if tags else []

    splits, lists = _published_splits(uri)
    if splits:
        rows["split"] = pd.Categorical([splits.get(photo, "") for photo in photos[wanted]])
        notes.append(f"The splits are those of {lists} lists in {_AVA_LISTS}; a photo on both kinds is a test photo.")
    table = replace(table, rows=rows)
    ratings = _read_form("ava", table, detect_roles(table), settings)
    return replace(
        ratings, notes=[*notes, *ratings.notes], filtered_out=frozenset(map(normalise_path, photos[~wanted]))
    )


def _published_splits(uri: str) -> tuple[dict[str, str], int]:
    """Return the split of each image id in the lists beside AVA.txt, and the number of lists.

    Without the lists, the result is empty and 0.
    """
    folder = storage.join(uri.rpartition("/")[0] or ".", _AVA_LISTS)
    files = list(storage.list_files(folder))
    splits: dict[str, str] = {}
    lists = 0
    for split in ("train", "test"):
        for file in files:
            if file.name.endswith(f"{split}.jpgl"):
                splits.update(dict.fromkeys(read_text(file.uri).split(), split))
                lists += 1
    return splits, lists


def _read_idealo(uri: str, text: str) -> tuple[RatingTable, ColumnRoles]:
    """Read the form "idealo" as a table whose rows are the list's items, counted from 1."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{uri}, line {error.lineno}: expected JSON, got {error.msg} in column {error.colno}"
        ) from None
    if not isinstance(items, list) or not items:
        raise ValueError(f"{uri}: expected a list of image_id and label, got {_describe_json(items)}")
    for number, item in enumerate(items, 1):
        label = item.get("label") if isinstance(item, dict) else None
        if not isinstance(label, list) or len(label) != len(SCORES) or not all(map(_is_number, label)):
            raise ValueError(
                f"{uri}, item {number}: expected an image_id and a label of ten counts, got {_describe_json(item)}"
            )
        if not isinstance(item.get("image_id"), str | int):
            kind = type(item.get("image_id")).__name__
            raise ValueError(f"{uri}, item {number}: expected an image_id that is a text or a number, got {kind}")
    # The columns have a prefix, so that no other key can be detected as a count.
    votes = pd.DataFrame([item["label"] for item in items], columns=list(VOTE_COLUMNS), dtype=float)
    other_keys = [{key: value for key, value in item.items() if key != "label"} for item in items]
    # As objects: pandas would turn 7 into 7.0 in a column with blanks.
    rows = pd.DataFrame(other_keys, dtype=object).fillna("").astype(str).astype("category")
    table = RatingTable(
        uri, pd.concat([rows.drop(columns=votes.columns, errors="ignore"), votes], axis=1), 1, unit="item"
    )
    return table, replace(detect_roles(table), photo="image_id", votes=VOTE_COLUMNS, levels=SCORES)


def _describe_json(value: object) -> str:
    """Describe a JSON value by its type and size, without its content."""
    if isinstance(value, dict):
        label = value.get("label")
        return f"an object with {f'a label of {len(label)}' if isinstance(label, list) else 'no list as label'}"
    return f"a list of {len(value)} values" if isinstance(value, list) else f"a {type(value).__name__}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _detect_schema(text: str) -> str:
    """Return the form of a file that is no table with a header, or "auto"."""
    start = text.lstrip()
    if start[0] in "[{":
        return "idealo"
    cells = start.partition("\n")[0].split()
    return "ava" if len(cells) == len(_AVA_COLUMNS) and all(cell.isdigit() for cell in cells) else "auto"
