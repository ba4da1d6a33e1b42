"""Listing of an ingestion's inputs before any photo is opened: addresses, ratings, attributes and exclusions."""

from dataclasses import dataclass

import pandas as pd

from components.ingestion.exclusions import Exclusion
from components.ingestion.photos.name_matching import extra_prefix, likely_cause, photo_ids_by_name
from components.ingestion.photos.sources import PhotoSource, open_source
from components.ingestion.ratings.ratings import Ratings, read_attributes, read_ratings
from components.scorer.settings import Ingestion


@dataclass(frozen=True)
class InputListing:
    """The photos to inspect, and the exclusions so far.

    Attributes:
        ratings: Ratings under the ids of the existing photos.
        photos: One row a photo to inspect. Columns are ``photo`` (id), ``uri``, ``version`` (a text that changes when
            the file is replaced), ``labelled`` (bool), ``split`` and ``group`` (from the input, or ``""``) and
            ``attributes`` (a dict of text, ``""`` if unknown).
        attributes: Names of the attributes; every photo has all of them.
        left_out: Excluded photos and rated names, first of the rated folder, then of the unlabelled folder.
        notes: Sentences for the report.
        mismatch_hint: Likely cause of ratings without a photo, with examples of both names. Empty if all are matched.
    """

    ratings: Ratings
    photos: pd.DataFrame
    attributes: tuple[str, ...]
    left_out: tuple[list[Exclusion], list[Exclusion]]
    notes: list[str]
    mismatch_hint: str = ""


def read_inputs(
    photos: str, ratings: str, unlabelled: str, attributes: str, scratch: str, settings: Ingestion
) -> InputListing:
    """List the photos and read their ratings and attributes.

    Args:
        photos: Address of the rated photos, see `sources`. ``sample:`` provides the other three inputs too.
        ratings: Address of the ratings file.
        unlabelled: Address of photos without ratings, or ``""``. If it is the folder of the rated photos or a parent
            folder, the photos without ratings are taken from it.
        attributes: Address of a table of attributes, splits and groups by photo, or ``""``. Its values take precedence
            over the ratings file's.
        scratch: Folder for downloaded or drawn photos, see `sources`.
        settings: Ingestion settings.

    Raises:
        FileNotFoundError: A file or folder does not exist.
        ValueError: There are no photos, or a file is malformed. The message names file and line.
    """
    source = open_source(photos, scratch)
    ratings, attributes = ratings or source.ratings, attributes or source.attributes
    unlabelled = unlabelled or source.unlabelled
    if not ratings:
        raise ValueError(f"expected the address of a ratings file for the photos in {photos}, got an empty one")
    all_ratings = read_ratings(ratings, settings)  # read first, as it is quick and fails often
    metadata = read_attributes(attributes) if attributes else pd.DataFrame()
    listed = dict(source.photos())
    rated = all_ratings.match_photos(listed, settings.maximum_left_out)
    spare_source = open_source(unlabelled, scratch) if unlabelled else PhotoSource("")
    spare = dict(spare_source.photos()) if unlabelled else {}

    metadata = _without_prefix(metadata, [*listed, *spare], settings)
    rated_photos = {photo: listed[photo] for photo in rated.table.index}
    spare_uris, rated_uris = set(spare.values()), set(rated_photos.values())
    unlabelled_photos = {photo: uri for photo, uri in spare.items() if uri not in rated_uris}
    accounted_for = {entry.photo for entry in rated.left_out} | rated.filtered_out | set(rated_photos)
    unrated = [
        Exclusion(photo, "no rating")
        for photo, uri in listed.items()
        if photo not in accounted_for and uri not in spare_uris
    ]
    columns = {"split", "group", *rated.attributes} & set(rated.table)
    names = tuple(
        dict.fromkeys(column for column in (*metadata, *rated.attributes) if column not in ("split", "group"))
    )
    notes = [*rated.notes, *metadata.attrs.get("notes", [])]
    notes += _unmatched_note(metadata, [*rated_photos, *unlabelled_photos], attributes)
    tables = [
        _photo_table(
            rated_photos,
            True,
            _metadata_by_photo(
                metadata, rated_photos, rated.table[[column for column in rated.table if column in columns]]
            ),
            names,
        ),
        _photo_table(unlabelled_photos, False, _metadata_by_photo(metadata, unlabelled_photos), names),
    ]
    return InputListing(
        ratings=rated,
        photos=_with_versions(tables, source.versions | spare_source.versions),
        attributes=names,
        left_out=([*source.left_out, *rated.left_out, *unrated], list(spare_source.left_out)),
        notes=notes,
        mismatch_hint=_mismatch_hint(rated, listed, photos),
    )


def _without_prefix(metadata: pd.DataFrame, photos: list[str], settings: Ingestion) -> pd.DataFrame:
    """Return the attributes without a folder that their names have in front and the photos' do not."""
    if not len(metadata):
        return metadata
    prefix = extra_prefix(metadata.index, photo_ids_by_name(photos), settings.maximum_left_out)
    return metadata.rename(index=lambda name: name.removeprefix(prefix)) if prefix else metadata


def _mismatch_hint(rated: Ratings, photos: dict[str, str], uri: str) -> str:
    missing = [entry.photo for entry in rated.left_out if entry.reason in ("no photo", "path outside the folder")]
    return likely_cause(missing, rated.locations, photos, uri) if missing else ""


def _metadata_by_photo(
    metadata: pd.DataFrame, photos: dict[str, str], rated: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return split, group and attributes by photo.

    A value of the attributes file takes precedence over the value of the ratings file.
    """
    names = photo_ids_by_name(photos)
    ids = [names.get(name) for name in metadata.index]
    matched = metadata[[bool(photo) for photo in ids]].set_axis([photo for photo in ids if photo])
    values = matched[~matched.index.duplicated()].reindex(list(photos)).fillna("")
    for column, cells in () if rated is None else rated.items():
        rated_values = cells.reindex(values.index).fillna("").astype(str)
        values[column] = values[column].where(values[column] != "", rated_values) if column in values else rated_values
    return values


def _photo_table(
    photos: dict[str, str], labelled: bool, metadata: pd.DataFrame, attributes: tuple[str, ...]
) -> pd.DataFrame:
    metadata = metadata.reindex(columns=["split", "group", *attributes], fill_value="")
    return pd.DataFrame(
        {
            "photo": list(photos),
            "uri": list(photos.values()),
            "labelled": labelled,
            "split": metadata["split"].tolist(),
            "group": metadata["group"].tolist(),
            "attributes": metadata[list(attributes)].to_dict("records"),
        }
    )


def _with_versions(tables: list[pd.DataFrame], versions: dict[str, str]) -> pd.DataFrame:
    """Concatenate the tables and add the version of each photo by its address."""
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    return table.assign(version=[versions[uri] for uri in table["uri"]])


def _unmatched_note(metadata: pd.DataFrame, photos: list[str], uri: str) -> list[str]:
    """Return a note on rows of the attributes file that match no photo."""
    names = photo_ids_by_name(photos)
    n_unmatched = sum(not names.get(name) for name in metadata.index)
    return (
        [f"{n_unmatched:,} of {len(metadata):,} rows of {uri} name none of the photos that are used."]
        if n_unmatched
        else []
    )
