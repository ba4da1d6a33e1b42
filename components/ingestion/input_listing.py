"""What is known of the photos before any of them is opened: where they are, how they were rated, what they show."""

from dataclasses import dataclass

import pandas as pd

from components.ingestion.exclusions import LeftOut
from components.ingestion.photos.name_matching import likely_cause, spellings, surplus
from components.ingestion.photos.sources import Source, open_source
from components.ingestion.ratings.ratings import Ratings, read_attributes, read_ratings
from components.scorer.settings import Ingestion


@dataclass(frozen=True)
class Inputs:
    """The photos to inspect, and those that are already left out.

    Attributes:
        rated: the ratings under the ids of the photos that are there.
        photos: a row for each photo to inspect. Columns ``photo`` (id), ``uri``, ``version`` (a text that changes when
            the file is replaced), ``labelled`` (bool), ``split`` and ``group`` (as given, or ``""``) and
            ``attributes`` (a dict of text, ``""`` where unknown).
        attributes: names of the attributes; every photo has each of them.
        left_out: photos, and rated names, that are not to be inspected; first of the rated folder, then of the
            unlabelled one.
        notes: sentences for the report.
        hint: where ratings name photos that are not there: examples of both, and why that may be so.
    """

    rated: Ratings
    photos: pd.DataFrame
    attributes: tuple[str, ...]
    left_out: tuple[list[LeftOut], list[LeftOut]]
    notes: list[str]
    hint: str = ""


def read_inputs(
    photos: str, ratings: str, unlabelled: str, attributes: str, scratch: str, settings: Ingestion
) -> Inputs:
    """List the photos and read what is known of them.

    Args:
        photos: address of the rated photos, see `sources`. ``sample:`` brings the other three with it.
        ratings: the ratings file.
        unlabelled: address of photos without ratings, or ``""``. It may be that of the rated photos or a folder
            above: then those without ratings are taken from it.
        attributes: a table of attributes, splits and groups of the photos, or ``""``. What it says goes before
            what the ratings file says.
        scratch: folder for photos that have to be written to be read, see `sources`.
        settings: of the ingestion.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: there are no photos, or a file cannot be understood; the message names file and line.
    """
    source = open_source(photos, scratch)
    ratings, attributes = ratings or source.ratings, attributes or source.attributes
    unlabelled = unlabelled or source.unlabelled
    if not ratings:
        raise ValueError(f"expected the address of a ratings file for the photos in {photos}, got an empty one")
    given = read_ratings(ratings, settings)  # first of all, for it is quick and often wrong
    about = read_attributes(attributes) if attributes else pd.DataFrame()
    listed = dict(source.photos())
    rated = given.matched(listed, settings.maximum_left_out)
    others = open_source(unlabelled, scratch) if unlabelled else Source("")
    spare = dict(others.photos()) if unlabelled else {}

    begin = surplus(about.index, spellings([*listed, *spare]), settings.maximum_left_out) if len(about) else ""
    about = about.rename(index=lambda name: name.removeprefix(begin)) if begin else about
    used = {photo: listed[photo] for photo in rated.table.index}
    addresses, taken = set(spare.values()), set(used.values())
    free = {photo: uri for photo, uri in spare.items() if uri not in taken}
    told = {entry.photo for entry in rated.left_out} | rated.unused | set(used)
    unrated = [
        LeftOut(photo, "no rating") for photo, uri in listed.items() if photo not in told and uri not in addresses
    ]
    columns = {"split", "group", *rated.attributes} & set(rated.table)
    names = tuple(dict.fromkeys(c for c in (*about, *rated.attributes) if c not in ("split", "group")))
    notes = [*rated.notes, *about.attrs.get("notes", [])]
    notes += _strangers(about, [*used, *free], attributes)
    tables = [
        _table(used, True, _known(about, used, rated.table[[c for c in rated.table if c in columns]]), names),
        _table(free, False, _known(about, free), names),
    ]
    return Inputs(
        rated=rated,
        photos=_versioned(tables, source.versions | others.versions),
        attributes=names,
        left_out=([*source.left_out, *rated.left_out, *unrated], list(others.left_out)),
        notes=notes,
        hint=_hint(rated, listed, photos),
    )


def _hint(rated: Ratings, listed: dict[str, str], uri: str) -> str:
    missing = [entry.photo for entry in rated.left_out if entry.reason in ("no photo", "path outside the folder")]
    return likely_cause(missing, rated.places, listed, uri) if missing else ""


def _known(about: pd.DataFrame, photos: dict[str, str], rated: pd.DataFrame | None = None) -> pd.DataFrame:
    """Split, group and attributes by photo: as the attributes' file has them, or else as the ratings' file does."""
    names = spellings(photos)
    ids = [names.get(name) for name in about.index]
    here = about[[bool(photo) for photo in ids]].set_axis([photo for photo in ids if photo])
    known = here[~here.index.duplicated()].reindex(list(photos)).fillna("")
    for column in () if rated is None else rated:
        own = rated[column].reindex(known.index).fillna("").astype(str)
        known[column] = known[column].where(known[column] != "", own) if column in known else own
    return known


def _table(photos: dict[str, str], labelled: bool, known: pd.DataFrame, attributes: tuple[str, ...]) -> pd.DataFrame:
    known = known.reindex(columns=["split", "group", *attributes], fill_value="")
    return pd.DataFrame(
        {
            "photo": list(photos),
            "uri": list(photos.values()),
            "labelled": labelled,
            "split": known["split"].tolist(),
            "group": known["group"].tolist(),
            "attributes": known[list(attributes)].to_dict("records"),
        }
    )


def _versioned(tables: list[pd.DataFrame], versions: dict[str, str]) -> pd.DataFrame:
    """Return the tables as one, with the version of each photo by its address."""
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    return table.assign(version=[versions[uri] for uri in table["uri"]])


def _strangers(about: pd.DataFrame, photos: list[str], uri: str) -> list[str]:
    """A note on rows of the attributes' file that are about none of the photos."""
    names = spellings(photos)
    number = sum(not names.get(name) for name in about.index)
    return [f"{number:,} of {len(about):,} rows of {uri} name none of the photos that are used."] if number else []
