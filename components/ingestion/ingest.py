"""From photos and ratings to a data set: what is wrong with the input stops it before anything is written."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from components.ingestion import split_assignment
from components.ingestion.exclusions import REASONS, LeftOut
from components.ingestion.input_listing import Inputs, read_inputs
from components.ingestion.photos import photo_inspection
from components.ingestion.photos.face_crops import shown_faces
from components.ingestion.ratings.ratings import SCHEMAS, VOTES, Ratings, read_ratings
from components.ingestion.report import page
from components.ingestion.summary import Outcome, Side
from components.scorer import storage
from components.scorer.faces import analyzer, embedder, weight_files
from components.scorer.metrics import rater_agreement
from components.scorer.run.paths import Workspace
from components.scorer.settings import Faces, Ingestion

SHARD_BYTES = 64 * 2**20
"""Bytes of photos in a file of the data set: few files, yet enough for several to be read or written at once."""

ADVICE = MappingProxyType(
    {
        "unreadable": "check that the photos were copied whole",
        "bomb": "save these photos smaller, or raise maximum_pixels if it is their number of pixels alone",
        "too small": "give larger photos, or lower minimum_side",
        "no rating": "name the folder under unlabelled too, if its other photos are to be used without ratings",
        "no photo": "check that the paths in the ratings start from the folder given as photos",
        "score out of range": "correct these scores, or set rating_scale to the scale on which they were given (0-100)",
        "path outside the folder": "give paths from the folder of photos on, and files instead of links that lead out",
        "too few raters": "collect more ratings, or lower minimum_raters",
        "bridges two splits": "check the given splits and groups, or name a new workspace to draw every split anew",
    }
)
"""What to do about photos that are left out for a reason."""

_MADE = ("tfds:", "sample:")  # photos that are downloaded or drawn

NO_FACES = Faces()
"""Faces are not looked for."""

_HARMLESS = "near a rated photo"  # says nothing of the input: a folder of all photos contains the rated ones


def ingest(
    photos: str,
    ratings: str,
    dataset: str,
    report: str,
    *,
    unlabelled: str = "",
    attributes: str = "",
    workspace: Workspace,
    settings: Ingestion,
    faces: Faces = NO_FACES,
    show_photos: bool = False,
) -> dict[str, Any]:
    """Make a checked, grouped and split data set of photos and ratings, with a report.

    Photos are inspected in parallel into files in the workspace; an ingestion of the same run that was killed
    goes on from those that are complete, and inspects a photo that was replaced meanwhile again. They are removed at
    the end.

    Args:
        photos: folder, ``gs://``, ``s3://``, ``tfds:`` or ``sample:`` address of the rated photos.
        ratings: ratings file in one of the forms of `ratings`; may be empty for ``sample:``.
        dataset: local directory that becomes the data set (TFDS, with ``ingestion.json``).
        report: local path of the page to write.
        unlabelled: address of photos without ratings, or ``""``.
        attributes: table of attributes, splits and groups by photo, or ``""``.
        workspace: where the run keeps the inspected photos, and all runs the register of splits.
        settings: of the ingestion.
        faces: what finds and reads the faces of the rated photos; the weights are kept with the data set.
        show_photos: whether the report shows faces.

    Returns:
        The figures for the pipeline's metrics, and ``fingerprint``: a hash of the records and of what shapes the
        stored photos, the same whatever the order of the input and the engine.

    Raises:
        FileNotFoundError: an input is not there.
        ValueError: the input or the weights cannot be understood, more photos are left out than
            ``settings.maximum_left_out`` allows, or a split stays without photos. Nothing is written then but, in
            the second case, the list of these photos, nor entered into the register. No message names a photo.
    """
    with _scratch(dataset, workspace, settings) as (spool, sources, weights):
        about = weight_files.prepare(faces, weights)
        address = _reachable(weights, about, spool) if about else ""
        inputs = read_inputs(photos, ratings, unlabelled, attributes, sources, settings)
        _check_inputs(inputs, settings, workspace.left_out)
        table, left_out = _inspected(inputs, spool, settings, address)

        def check(assigned: split_assignment.Assigned) -> None:
            for what, side in zip(("rated", "unlabelled"), _sides(inputs, left_out, assigned.left_out), strict=True):
                _check_left_out(what, side, settings, workspace.left_out, inputs.hint)
            _check_splits(assigned.table, settings)

        assigned = split_assignment.register_and_assign(workspace.splits, table, settings, check)
        rated, others = _sides(inputs, left_out, assigned.left_out)
        outcome = Outcome(
            schema=inputs.rated.schema,
            table=assigned.table,
            attributes=inputs.attributes,
            rated=rated,
            unlabelled=others,
            reliability=_reliability(inputs.rated, assigned.table),
            notes=[*inputs.notes, *_drawn_validation(table, assigned.table)],
            settings=settings,
            people=_people(inputs.rated, assigned.table),
            faces=about,
        )
        shown = page(outcome, shown_faces(outcome) if about and show_photos else None)
        _write(dataset, outcome, spool, weights if about else "")
        shown.write(report)
    return outcome.figures() | {"fingerprint": outcome.fingerprint}


@contextmanager
def _scratch(dataset: str, workspace: Workspace, settings: Ingestion) -> Iterator[tuple[str, str, str]]:
    """Addresses for the inspected photos, for sources that have to be written to be read, and for weights of faces.

    They stay when the work was cut short, for the next attempt; not when the input was wrong, or the next attempt
    would see what has been mended meanwhile as it was.
    """
    spool = workspace.checkpoints("ingestion")
    local, weights = Path(f"{dataset}.sources"), Path(f"{dataset}.faces")
    # Beam's workers, maybe on other machines, must reach these photos as well.
    sources = storage.join(spool, "sources") if settings.beam_options else str(local)
    try:
        yield storage.join(spool, "photos"), sources, str(weights)
    except (ValueError, FileNotFoundError):
        _remove(spool, local, weights)
        raise
    _remove(spool, local, weights)


def _remove(spool: str, *local: Path) -> None:
    storage.delete_tree(spool)
    for folder in local:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable(weights: str, about: dict[str, Any], spool: str) -> str:
    """Copy the weights of faces to where all workers reach them, to an address that tells them from others."""
    address = storage.join(spool, "faces", hashlib.sha256(storage.to_json(about)).hexdigest()[:16])
    embedder.copy(weights, address)
    return address


def _inspected(
    inputs: Inputs, spool: str, settings: Ingestion, faces: str
) -> tuple[pd.DataFrame, tuple[list[LeftOut], list[LeftOut]]]:
    """The photos that can be used, in the order of the data set, and the others: of the rated, of the unlabelled.

    Faces are looked for on the rated ones: pretraining has no use for them.
    """
    labelled = int(inputs.photos["labelled"].sum())
    print(f"inspecting {labelled:,} rated and {len(inputs.photos) - labelled:,} unlabelled photos", flush=True)
    # In the order of the data set, so that each of its files is written from a few spool files read in turn.
    ordered = inputs.photos.assign(key=[_key(photo) for photo in inputs.photos["photo"]]).sort_values("key")
    tables, left_out = [], []
    for labelled, before in zip((True, False), inputs.left_out, strict=True):
        photos = ordered[ordered["labelled"] == labelled]
        found = photo_inspection.inspect_all(
            zip(photos["photo"], photos["uri"], photos["version"], strict=True), settings, spool,
            beam_options=settings.beam_options, faces=faces if labelled else "",
        )  # fmt: skip
        tables.append(photos.merge(found.table, on="photo").drop(columns=["uri", "version", "key"]))
        left_out.append([*before, *found.left_out])
    table = pd.concat(tables, ignore_index=True)
    ratings = inputs.rated.table[[*VOTES, "raters"]].reindex(table["photo"], fill_value=0).reset_index(drop=True)
    return table.join(ratings.where(table["labelled"], 0)), tuple(left_out)


def _key(photo: str) -> str:
    """Puts photos into an order that has nothing to do with their names, and is the same in every run."""
    return hashlib.sha256(photo.encode()).hexdigest()


def _sides(inputs: Inputs, left_out: tuple[list[LeftOut], list[LeftOut]], grouped: list[LeftOut]) -> tuple[Side, Side]:
    """What was considered and left out of the rated photos, and of the unlabelled ones, and in grouping both."""
    late = [entry for entry in grouped if entry.reason != _HARMLESS]
    twins = [entry for entry in grouped if entry.reason == _HARMLESS]
    sides = []
    for labelled, entries in ((True, [*left_out[0], *late]), (False, [*left_out[1], *twins])):
        once = {entry.photo: entry for entry in reversed(entries)}  # the reason that was found first
        photos = inputs.photos.loc[inputs.photos["labelled"] == labelled, "photo"]
        sides.append(Side(len(once.keys() | set(photos)), list(once.values())))
    return sides[0], sides[1]


def examine(photos: str, ratings: str, unlabelled: str, attributes: str, settings: Ingestion) -> str:
    """Find out whether an ingestion would take photos and ratings, as far as names and ratings tell.

    Args:
        photos: address of the rated photos, as all others as for `ingest`. Photos that would have to be downloaded or
            drawn (``tfds:``, ``sample:``) are not looked at.
        ratings: ratings file.
        unlabelled: address of photos without ratings, or ``""``.
        attributes: table of attributes, or ``""``.
        settings: of the ingestion.

    Returns:
        How many photos have ratings, and how these were read.

    Raises:
        FileNotFoundError: an input is not there.
        ValueError: as `ingest` would raise it before it opens any photo.
    """
    if photos.startswith(_MADE):
        given = read_ratings(ratings, settings)
        return f"are {SCHEMAS[given.schema]}, of {len(given.table):,} photos. {' '.join(given.notes)}".rstrip()
    inputs = read_inputs(photos, ratings, "" if unlabelled.startswith(_MADE) else unlabelled, attributes, "", settings)
    _check_inputs(inputs, settings, "")
    number = len(inputs.rated.table)
    return f"are {SCHEMAS[inputs.rated.schema]}, of {number:,} photos that are there. {' '.join(inputs.notes)}".rstrip()


def _check_inputs(inputs: Inputs, settings: Ingestion, listing: str) -> None:
    """Stop before any photo is opened where no rating can be used, or too few.

    Raises:
        ValueError: says why, with examples, the likely cause and what to do.
    """
    rated, unlabelled = _sides(inputs, inputs.left_out, [])
    if inputs.rated.table.empty:
        unusable = inputs.rated.left_out
        reasons = Counter(entry.reason for entry in unusable).most_common()
        counts = "; ".join(f"{number:,} for {reason!r}: {REASONS[reason]}" for reason, number in reasons)
        details = [entry.detail for entry in unusable if entry.reason == reasons[0][0] and entry.detail][:3]
        hint = inputs.hint or f"For example: {'; '.join(details)}. What to do: {ADVICE[reasons[0][0]]}."
        _list_left_out(unusable, listing)
        raise ValueError(
            f"expected ratings of the photos, got none that can be used; of {len(unusable):,} rated photos are left "
            f"out {counts} {hint} No data set was written."
        )
    for what, side in (("rated", rated), ("unlabelled", unlabelled)):
        _check_left_out(what, side, settings, listing, inputs.hint)


def _list_left_out(entries: list[LeftOut], listing: str) -> str:
    """Write a list of photos for the operator; says where it is. Without an address nothing is written or said."""
    if not listing:
        return ""
    storage.write_bytes(listing, pd.DataFrame(entries).to_csv(index=False).encode())
    return f"Which ones and why stands in {listing}. "


def _check_left_out(what: str, side: Side, settings: Ingestion, listing: str, hint: str) -> None:
    """Stop when too many photos are left out, and list them.

    `hint` says why names in the ratings may not be those of photos.

    Raises:
        ValueError: says how many, the commonest reason, where the list is, and what to do about it.
    """
    faults = [entry for entry in side.left_out if entry.reason != _HARMLESS]
    if len(faults) <= settings.maximum_left_out * side.considered:
        return
    reasons = Counter(entry.reason for entry in faults)
    reason, number = reasons.most_common(1)[0]
    strangers = reasons["no photo"] + reasons["path outside the folder"]  # and as many photos may lack their ratings
    advice = f"{ADVICE[reason]}. {hint}" if hint and 3 * strangers >= len(faults) else f"{ADVICE[reason]}."
    rest = ", ".join(f"{count:,} {other!r}" for other, count in reasons.most_common()[1:])
    raise ValueError(
        f"{len(faults):,} of {side.considered:,} {what} photos ({100 * len(faults) / side.considered:.3g} %) would be "
        f"left out, more than maximum_left_out allows ({100 * settings.maximum_left_out:.3g} %). "
        f"Most, {number:,}, for {reason!r}: {REASONS[reason]} "
        + (f"Others: {rest}. " if rest else "")
        + f"{_list_left_out(faults, listing)}What to do: {advice} If this is meant, raise maximum_left_out. "
        "No data set was written."
    )


def _check_splits(table: pd.DataFrame, settings: Ingestion) -> None:
    """Stop when a split is empty.

    Raises:
        ValueError: says which, what there is, and what to do.
    """
    rated = table[table["split"] != "unlabelled"]
    counts = {split: int((rated["split"] == split).sum()) for split in split_assignment.HELD}
    for split, number in counts.items():
        if not number:
            found = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise ValueError(
                f"expected rated photos in every split, got none for {split!r} ({found}): {len(rated):,} photos in "
                f"{rated['group'].nunique():,} groups, shares of {settings.validation_share:.0%} validation and "
                f"{settings.test_share:.0%} test. Rate more photos, raise the share, or give them a column 'split'. "
                "Nothing was written."
            )


def _drawn_validation(photos: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    if not split_assignment.lacks_validation(photos):
        return []
    number = int((table["split"] == "validation").sum())
    return [f"The given splits have no validation photos: {number:,} were drawn, mostly from those given to training."]


def _people(rated: Ratings, table: pd.DataFrame) -> int | None:
    """How many people rated the photos of the data set, where the ratings tell."""
    if rated.single is None:
        return None
    entered = set(table.loc[table["split"] != "unlabelled", "photo"])
    return int(rated.single.loc[rated.single["photo"].isin(entered), "rater"].nunique())


def _reliability(rated: Ratings, table: pd.DataFrame) -> rater_agreement.Reliability | None:
    """How well people agree on the photos of the data set, where the ratings tell."""
    entered = table[table["split"] != "unlabelled"]
    if rated.single is not None:
        single = rated.single[rated.single["photo"].isin(set(entered["photo"]))]
        return rater_agreement.reliability(single["photo"], single["rater"], single["score"])
    if rated.schema == "means":
        return None  # their votes are a model's, not people's
    return rater_agreement.reliability_of_counts(entered[list(VOTES)].to_numpy(float) * entered[["raters"]].to_numpy())


def _write(dataset: str, outcome: Outcome, spool: str, weights: str) -> None:
    """Write the data set, in files of about ``SHARD_BYTES``."""
    from components.ingestion import tfds_writer  # not before the inspection is over: TensorFlow takes half a gigabyte

    splits, size = {}, embedder.size(weights) if weights else None
    for split, photos in outcome.table.groupby("split"):
        number = (photos["length"].cumsum() - 1) // SHARD_BYTES
        splits[split] = [_Stored(shard, size) for _, shard in photos.groupby(number)]
    tfds_writer.write(
        dataset,
        splits,
        outcome.attributes,
        outcome.record(),
        faces=weights,
        beam_options=outcome.settings.beam_options,
        shared=storage.join(spool, "written"),
    )


class _Stored:
    """Some photos of the data set as examples, each read when it is its turn."""

    def __init__(self, photos: pd.DataFrame, embedding_size: int | None):
        self._photos, self._size = photos, embedding_size

    def __len__(self) -> int:
        return len(self._photos)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        votes = self._photos[list(VOTES)].to_numpy(np.float32)
        columns = ["photo", "raters", "group", "attributes", "spool", "offset", "length"]
        rows = self._photos[[*columns, *photo_inspection.UNSEEN]]
        for row, shares in zip(rows.itertuples(index=False), votes, strict=True):
            yield {
                "photo": photo_inspection.read_photo(row.spool, row.offset, row.length),
                "photo_id": row.photo,
                "votes": shares,
                "raters": row.raters,
                "group": row.group,
                "attributes": row.attributes,
                **(self._faces(row) if self._size is not None else {}),
            }

    def _faces(self, row: Any) -> dict[str, Any]:
        """What was seen of a photo's faces; nothing where they were not looked for."""
        if row.face_place == photo_inspection.UNSEEN["face_place"]:
            return analyzer.record(analyzer.unseen(self._size))
        face = {
            "count": row.face_count,
            "confidence": np.float32(row.face_confidence),
            "box": np.array(row.face_box, "float32"),
            "landmarks": np.array(row.face_landmarks, "float32"),
        }
        read = {"embedding": photo_inspection.read_embedding(row.spool, int(row.face_place), self._size)}
        return {"face": face, **(read if self._size else {})}
