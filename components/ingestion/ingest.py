"""Ingestion: turns photos and ratings into a checked, grouped and split data set with a report.

Faulty input stops the ingestion before any output is written.
"""

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
from components.ingestion.exclusions import REASONS, Exclusion
from components.ingestion.input_listing import InputListing, read_inputs
from components.ingestion.photos import photo_inspection
from components.ingestion.photos.face_crops import example_faces
from components.ingestion.ratings.ratings import SCHEMAS, VOTE_COLUMNS, Ratings, read_ratings
from components.ingestion.report import build_page
from components.ingestion.summary import IngestionSummary, PoolSummary
from components.scorer import storage
from components.scorer.faces import analyzer, embedder, weight_files
from components.scorer.metrics import rater_agreement
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Faces, Ingestion

SHARD_BYTES = 64 * 2**20
"""Bytes of photos in a shard: few files, but enough to read or write several in parallel."""

REMEDIES = MappingProxyType(
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
"""Remedy for each exclusion reason."""

_SCRATCH_SCHEMES = ("tfds:", "sample:")  # sources whose photos are downloaded or drawn

NO_FACES = Faces()
"""Settings that turn face analysis off."""

_EXPECTED_REASON = "near a rated photo"  # not a fault of the input: a folder of all photos contains the rated ones


def ingest(
    photos: str,
    ratings: str,
    dataset: str,
    report: str,
    *,
    unlabelled: str = "",
    attributes: str = "",
    workspace: RunPaths,
    settings: Ingestion,
    faces: Faces = NO_FACES,
    show_photos: bool = False,
) -> dict[str, Any]:
    """Turn photos and ratings into a checked, grouped and split data set, with a report.

    Photos are inspected in parallel into files in the workspace. If an ingestion of the same run was killed, the
    complete files are reused. A photo that was replaced meanwhile is inspected again. The files are removed at the end.

    Args:
        photos: Folder, ``gs://``, ``s3://``, ``tfds:`` or ``sample:`` address of the rated photos.
        ratings: Ratings file in one of the forms of `ratings`; may be empty for ``sample:``.
        dataset: Local directory that becomes the data set (TFDS, with ``ingestion.json``).
        report: Local path of the report page to write.
        unlabelled: Address of photos without ratings, or ``""``.
        attributes: Table of attributes, splits and groups by photo, or ``""``.
        workspace: Workspace of the run's inspected photos and of the register of splits, which all runs share.
        settings: Ingestion settings.
        faces: Settings of the face detector and embedder for the rated photos. The weights are stored in the data set.
        show_photos: True to show face crops in the report.

    Returns:
        The pipeline metrics, and ``fingerprint``: a hash of the records and of the settings that shape the stored
        photos. It does not depend on the order of the input or on the engine.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: The input or the weights are invalid, more photos are excluded than
            ``parse_settings.maximum_left_out`` allows, or a split has no photos. Nothing is written or registered then.
            Only in the second case the list of exclusions is written. No message names a photo.
    """
    with _scratch(dataset, workspace, settings) as (spool, sources, weights_folder):
        face_weights = weight_files.prepare(faces, weights_folder)
        shared_weights = _share_face_weights(weights_folder, face_weights, spool) if face_weights else ""
        inputs = read_inputs(photos, ratings, unlabelled, attributes, sources, settings)
        _check_inputs(inputs, settings, workspace.left_out)
        table, left_out = _inspect_photos(inputs, spool, settings, shared_weights)

        def check(assigned: split_assignment.SplitAssignment) -> None:
            for name, pool in zip(
                ("rated", "unlabelled"), _summarize_pools(inputs, left_out, assigned.left_out), strict=True
            ):
                _check_exclusions(name, pool, settings, workspace.left_out, inputs.mismatch_hint)
            _check_splits(assigned.table, settings)

        assigned = split_assignment.register_and_assign(workspace.splits, table, settings, check)
        rated_pool, unlabelled_pool = _summarize_pools(inputs, left_out, assigned.left_out)
        summary = IngestionSummary(
            schema=inputs.ratings.schema,
            table=assigned.table,
            attributes=inputs.attributes,
            rated=rated_pool,
            unlabelled=unlabelled_pool,
            reliability=_reliability(inputs.ratings, assigned.table),
            notes=[*inputs.notes, *_validation_note(table, assigned.table)],
            settings=settings,
            rater_count=_rater_count(inputs.ratings, assigned.table),
            face_weights=face_weights,
        )
        report_page = build_page(summary, example_faces(summary) if face_weights and show_photos else None)
        _write(dataset, summary, spool, weights_folder if face_weights else "")
        report_page.write(report)
    return summary.metrics() | {"fingerprint": summary.fingerprint}


@contextmanager
def _scratch(dataset: str, workspace: RunPaths, settings: Ingestion) -> Iterator[tuple[str, str, str]]:
    """Yield addresses for the inspected photos, for materialised sources, and for the face weights.

    The files stay after an interruption, for the next attempt. They are removed after faulty input, so that the next
    attempt does not read the uncorrected input.
    """
    spool = workspace.checkpoints("ingestion")
    local_sources, weights = Path(f"{dataset}.sources"), Path(f"{dataset}.faces")
    # Beam workers on other machines must reach these photos too.
    sources = storage.join(spool, "sources") if settings.beam_options else str(local_sources)
    try:
        yield storage.join(spool, "photos"), sources, str(weights)
    except (ValueError, FileNotFoundError):
        _remove(spool, local_sources, weights)
        raise
    _remove(spool, local_sources, weights)


def _remove(spool: str, *local: Path) -> None:
    storage.delete_tree(spool)
    for folder in local:
        shutil.rmtree(folder, ignore_errors=True)


def _share_face_weights(weights_folder: str, face_weights: dict[str, Any], spool: str) -> str:
    """Copy the face weights to an address that all workers reach and that depends on the weights."""
    address = storage.join(spool, "faces", hashlib.sha256(storage.to_json(face_weights)).hexdigest()[:16])
    embedder.copy_weights(weights_folder, address)
    return address


def _inspect_photos(
    inputs: InputListing, spool: str, settings: Ingestion, faces: str
) -> tuple[pd.DataFrame, tuple[list[Exclusion], list[Exclusion]]]:
    """Inspect the photos.

    Faces are analysed on rated photos only: pretraining does not use them.

    Returns:
        The usable photos in the order of the data set, and the exclusions of rated and of unlabelled photos.
    """
    labelled = int(inputs.photos["labelled"].sum())
    print(f"inspecting {labelled:,} rated and {len(inputs.photos) - labelled:,} unlabelled photos", flush=True)
    # Sorted in the order of the data set, so that each shard reads few spool files in sequence.
    ordered = inputs.photos.assign(key=[_order_key(photo) for photo in inputs.photos["photo"]]).sort_values("key")
    tables, left_out = [], []
    for labelled, earlier in zip((True, False), inputs.left_out, strict=True):
        photos = ordered[ordered["labelled"] == labelled]
        inspections = photo_inspection.inspect_photos(
            zip(photos["photo"], photos["uri"], photos["version"], strict=True), settings, spool,
            beam_options=settings.beam_options, face_weights=faces if labelled else "",
        )  # fmt: skip
        tables.append(photos.merge(inspections.table, on="photo").drop(columns=["uri", "version", "key"]))
        left_out.append([*earlier, *inspections.left_out])
    table = pd.concat(tables, ignore_index=True)
    ratings = (
        inputs.ratings.table[[*VOTE_COLUMNS, "raters"]].reindex(table["photo"], fill_value=0).reset_index(drop=True)
    )
    return table.join(ratings.where(table["labelled"], 0)), (left_out[0], left_out[1])


def _order_key(photo: str) -> str:
    """Return a sort key that is independent of the photo's name order and equal in every run."""
    return hashlib.sha256(photo.encode()).hexdigest()


def _summarize_pools(
    inputs: InputListing, left_out: tuple[list[Exclusion], list[Exclusion]], by_assignment: list[Exclusion]
) -> tuple[PoolSummary, PoolSummary]:
    """Summarise the rated photos and the unlabelled photos.

    Args:
        inputs: The listed photos.
        left_out: Exclusions by listing and inspection, of rated and of unlabelled photos.
        by_assignment: Exclusions by split assignment, of both.
    """
    rated_late = [entry for entry in by_assignment if entry.reason != _EXPECTED_REASON]
    unlabelled_late = [entry for entry in by_assignment if entry.reason == _EXPECTED_REASON]
    pools = []
    for labelled, entries in ((True, [*left_out[0], *rated_late]), (False, [*left_out[1], *unlabelled_late])):
        unique = {entry.photo: entry for entry in reversed(entries)}  # keeps the first reason of a photo
        photos = inputs.photos.loc[inputs.photos["labelled"] == labelled, "photo"]
        pools.append(PoolSummary(len(unique.keys() | set(photos)), list(unique.values())))
    return pools[0], pools[1]


def check_inputs(photos: str, ratings: str, unlabelled: str, attributes: str, settings: Ingestion) -> str:
    """Check the names and ratings of an ingestion's inputs without opening any photo.

    Args:
        photos: Address of the rated photos. Photos of ``tfds:`` and ``sample:`` are not listed, as they would have to
            be downloaded or drawn.
        ratings: Ratings file, as for `ingest`.
        unlabelled: Address of photos without ratings, or ``""``.
        attributes: Table of attributes, or ``""``.
        settings: Ingestion settings.

    Returns:
        A text with the form of the ratings and the number of rated photos.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: `ingest` would raise this error before it opens any photo.
    """
    if photos.startswith(_SCRATCH_SCHEMES):
        read = read_ratings(ratings, settings)
        return f"are {SCHEMAS[read.schema]}, of {len(read.table):,} photos. {' '.join(read.notes)}".rstrip()
    inputs = read_inputs(
        photos, ratings, "" if unlabelled.startswith(_SCRATCH_SCHEMES) else unlabelled, attributes, "", settings
    )
    _check_inputs(inputs, settings, "")
    n_photos = len(inputs.ratings.table)
    form, notes = SCHEMAS[inputs.ratings.schema], " ".join(inputs.notes)
    return f"are {form}, of {n_photos:,} photos that are there. {notes}".rstrip()


def _check_inputs(inputs: InputListing, settings: Ingestion, listing: str) -> None:
    """Raise ValueError before any photo is opened if no rating or too few ratings can be used.

    Raises:
        ValueError: The message has the reason, examples, the likely cause and the remedy.
    """
    rated_pool, unlabelled_pool = _summarize_pools(inputs, inputs.left_out, [])
    if inputs.ratings.table.empty:
        unusable = inputs.ratings.left_out
        reasons = Counter(entry.reason for entry in unusable).most_common()
        counts = "; ".join(f"{number:,} for {reason!r}: {REASONS[reason]}" for reason, number in reasons)
        details = [entry.detail for entry in unusable if entry.reason == reasons[0][0] and entry.detail][:3]
        hint = inputs.mismatch_hint or f"For example: {'; '.join(details)}. What to do: {REMEDIES[reasons[0][0]]}."
        _write_exclusions(unusable, listing)
        raise ValueError(
            f"expected ratings of the photos, got none that can be used; of {len(unusable):,} rated photos are left "
            f"out {counts} {hint} No data set was written."
        )
    for name, pool in (("rated", rated_pool), ("unlabelled", unlabelled_pool)):
        _check_exclusions(name, pool, settings, listing, inputs.mismatch_hint)


def _write_exclusions(entries: list[Exclusion], listing: str) -> str:
    """Write the exclusions to a CSV file and return a sentence with its address.

    Without an address, nothing is written and the sentence is empty.
    """
    if not listing:
        return ""
    storage.write_bytes(listing, pd.DataFrame(entries).to_csv(index=False).encode())
    return f"Which ones and why stands in {listing}. "


def _check_exclusions(name: str, pool: PoolSummary, settings: Ingestion, listing: str, hint: str) -> None:
    """Raise ValueError if too many photos are excluded, and write their list.

    `hint` explains why names in the ratings match no photos.

    Raises:
        ValueError: The message has the number, the most frequent reason, the address of the list and the remedy.
    """
    faults = [entry for entry in pool.left_out if entry.reason != _EXPECTED_REASON]
    if len(faults) <= settings.maximum_left_out * pool.considered:
        return
    reasons = Counter(entry.reason for entry in faults)
    reason, number = reasons.most_common(1)[0]
    n_unmatched = reasons["no photo"] + reasons["path outside the folder"]  # an equal number of photos may lack ratings
    advice = f"{REMEDIES[reason]}. {hint}" if hint and 3 * n_unmatched >= len(faults) else f"{REMEDIES[reason]}."
    other_reasons = ", ".join(f"{count:,} {other_reason!r}" for other_reason, count in reasons.most_common()[1:])
    raise ValueError(
        f"{len(faults):,} of {pool.considered:,} {name} photos ({100 * len(faults) / pool.considered:.3g} %) would be "
        f"left out, more than maximum_left_out allows ({100 * settings.maximum_left_out:.3g} %). "
        f"Most, {number:,}, for {reason!r}: {REASONS[reason]} "
        + (f"Others: {other_reasons}. " if other_reasons else "")
        + f"{_write_exclusions(faults, listing)}What to do: {advice} If this is meant, raise maximum_left_out. "
        "No data set was written."
    )


def _check_splits(table: pd.DataFrame, settings: Ingestion) -> None:
    """Raise ValueError if a split is empty.

    Raises:
        ValueError: The message has the split, the number of photos in each and the remedy.
    """
    rated = table[table["split"] != "unlabelled"]
    counts = {split: int((rated["split"] == split).sum()) for split in split_assignment.RATED_SPLITS}
    for split, number in counts.items():
        if not number:
            listing = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise ValueError(
                f"expected rated photos in every split, got none for {split!r} ({listing}): {len(rated):,} photos in "
                f"{rated['group'].nunique():,} groups, shares of {settings.validation_share:.0%} validation and "
                f"{settings.test_share:.0%} test. Rate more photos, raise the share, or give them a column 'split'. "
                "Nothing was written."
            )


def _validation_note(photos: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    if not split_assignment.lacks_validation(photos):
        return []
    number = int((table["split"] == "validation").sum())
    return [f"The given splits have no validation photos: {number:,} were drawn, mostly from those given to training."]


def _rater_count(rated: Ratings, table: pd.DataFrame) -> int | None:
    """Return the number of raters of the data set's photos, or None if the file does not state it."""
    if rated.single_ratings is None:
        return None
    photos = set(table.loc[table["split"] != "unlabelled", "photo"])
    return int(rated.single_ratings.loc[rated.single_ratings["photo"].isin(photos), "rater"].nunique())


def _reliability(rated: Ratings, table: pd.DataFrame) -> rater_agreement.RaterReliability | None:
    """Return the agreement of the raters of the data set's photos, or None if the ratings do not allow it."""
    labelled = table[table["split"] != "unlabelled"]
    if rated.single_ratings is not None:
        single = rated.single_ratings[rated.single_ratings["photo"].isin(set(labelled["photo"]))]
        return rater_agreement.reliability_of_ratings(single["photo"], single["rater"], single["score"])
    if rated.schema == "means":
        return None  # their votes are modelled, not observed
    return rater_agreement.reliability_of_counts(
        labelled[list(VOTE_COLUMNS)].to_numpy(float) * labelled[["raters"]].to_numpy()
    )


def _write(dataset: str, summary: IngestionSummary, spool: str, weights: str) -> None:
    """Write the data set in shards of about ``SHARD_BYTES``."""
    from components.ingestion import tfds_writer  # after the inspection: TensorFlow takes half a gigabyte

    splits: dict[str, list[_SpooledExamples]] = {}
    size = embedder.embedding_size(weights) if weights else None
    for split, photos in summary.table.groupby("split"):
        number = (photos["length"].cumsum() - 1) // SHARD_BYTES
        splits[split] = [_SpooledExamples(shard, size) for _, shard in photos.groupby(number)]
    tfds_writer.write(
        dataset,
        splits,
        summary.attributes,
        summary.to_record(),
        face_weights=weights,
        beam_options=summary.settings.beam_options,
        shared_folder=storage.join(spool, "written"),
    )


class _SpooledExamples:
    """Lazily read examples of one shard: each photo is read from its spool file when its example is yielded."""

    def __init__(self, photos: pd.DataFrame, embedding_size: int | None):
        self._photos, self._size = photos, embedding_size

    def __len__(self) -> int:
        return len(self._photos)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        votes = self._photos[list(VOTE_COLUMNS)].to_numpy(np.float32)
        columns = ["photo", "raters", "group", "attributes", "spool", "offset", "length"]
        rows = self._photos[[*columns, *photo_inspection.NO_FACE_ANALYSIS]]
        for row, shares in zip(rows.itertuples(index=False), votes, strict=True):
            yield {
                "photo": photo_inspection.read_photo(row.spool, row.offset, row.length),
                "photo_id": row.photo,
                "votes": shares,
                "raters": row.raters,
                "group": row.group,
                "attributes": row.attributes,
                **(_face_features(row, self._size) if self._size is not None else {}),
            }


def _face_features(row: Any, size: int) -> dict[str, Any]:
    """Return the face features of a photo, or the features without a face if its faces were not analysed."""
    if row.face_place == photo_inspection.NO_FACE_ANALYSIS["face_place"]:
        return analyzer.to_features(analyzer.no_faces(size))
    face = {
        "count": row.face_count,
        "confidence": np.float32(row.face_confidence),
        "box": np.array(row.face_box, "float32"),
        "landmarks": np.array(row.face_landmarks, "float32"),
    }
    features = {"embedding": photo_inspection.read_embedding(row.spool, int(row.face_place), size)}
    return {"face": face, **(features if size else {})}
