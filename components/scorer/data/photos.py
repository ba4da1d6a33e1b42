"""The data set's photos as batches, and its records as a table."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

from components.scorer import storage
from components.scorer.data.sharding import Share
from components.scorer.faces import geometry
from components.scorer.imaging import augmentation, preprocessing_tf
from components.scorer.settings import SCORES

_LARGEST = 8.0
"""Sides of a face's crop that the whole photo may have: a fault of the camera is no stronger on a smaller face."""

_SHUFFLED = 16_384
"""Encoded photos held for shuffling: about 400 MB at 25 KB each; a smaller split is shuffled whole."""


class Reading(NamedTuple):
    """What the records of a data set carry of faces.

    Attributes:
        embedding: size of ``embedding``; 0: there is none.
        face: whether there is ``face``.
    """

    embedding: int
    face: bool


@dataclass(frozen=True)
class View:
    """An upright crop of the face, beside the photo; see ``geometry.crop``.

    Attributes:
        side: of it, pixels.
        scale: share of its side that the face's template takes.
    """

    side: int
    scale: float


def builder(dataset: str | Path) -> tfds.core.DatasetBuilder:
    """The data set in a TFDS directory, which is read as data: none of its files says what is imported.

    Raises:
        ValueError: it names a class of features that is not TFDS's own.
    """
    check_features(dataset)
    return tfds.builder_from_directory(str(dataset))


def check_features(dataset: str | Path) -> None:
    """Raise ValueError where ``features.json`` in a TFDS directory names a class that is not TFDS's own.

    TFDS imports the module of whatever class is named there.
    """
    file = Path(dataset, "features.json")
    for name in _classes(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else ():
        if not re.fullmatch(r"tensorflow_datasets\.core\.features(\.\w+)+", name):
            raise ValueError(f"expected only features of tensorflow_datasets in {file}, got the class {name!r}")


def _classes(value: Any) -> Iterator[str]:
    """What TFDS takes for a class's name in ``features.json``, in its present form and the one before."""
    if isinstance(value, dict):
        names = ("pythonClassName", "python_class_name", *(("type",) if "content" in value else ()))
        yield from (value[name] for name in names if isinstance(value.get(name), str))
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _classes(inner)


def reading(dataset: str | Path) -> Reading:
    """What the records of a data set directory carry of faces."""
    known = builder(dataset).info.features
    return Reading(known["embedding"].shape[0] if "embedding" in known else 0, "face" in known)


def counts(dataset: str | Path) -> dict[str, int]:
    """Number of records of each split of a data set directory."""
    return {name: split.num_examples for name, split in builder(dataset).info.splits.items()}


def fingerprint(dataset: str | Path) -> str:
    """Of a data set, as ingestion wrote it beside; empty for a data set from elsewhere."""
    try:
        return storage.read_json(str(Path(dataset, "ingestion.json"))).get("fingerprint", "")
    except FileNotFoundError:
        return ""


def encoded(dataset: str | Path, split: str) -> tf.data.Dataset:
    """The records of a split, in the order in which they are stored, with the photo still encoded.

    Args:
        dataset: TFDS directory.
        split: ``train``, or several as ``train+unlabelled`` (TFDS's split syntax).
    """
    found = builder(dataset)
    return found.as_dataset(
        split=split,
        decoders={"photo": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )


def records(dataset: str | Path, split: str) -> Iterator[dict]:
    """The records of a split as plain values: photo (bytes), photo_id, votes ``[10]``, raters, group, attributes.

    Where there are, also ``face`` and ``embedding``; see ``ingestion.builder.features``.
    """
    for record in encoded(dataset, split).as_numpy_iterator():
        attributes = {name: value.decode() for name, value in record.get("attributes", {}).items()}
        texts = {name: record[name].decode() for name in ("photo_id", "group")}
        yield {**record, **texts, "raters": int(record["raters"]), "attributes": attributes}


def table(dataset: str | Path, split: str) -> pd.DataFrame:
    """The records of a split without their photos, a row each: photo_id, p1..p10, raters, group and attributes.

    Where faces were looked for, also ``face_count`` and ``face_confidence``, of the largest face, 0 without one.
    """
    rows = []
    for record in records(dataset, split):
        votes = {f"p{score}": float(share) for score, share in enumerate(record["votes"], 1)}
        plain = {name: record[name] for name in ("photo_id", "raters", "group")}
        face = {}
        if "face" in record:
            face = {"face_count": int(record["face"]["count"]), "face_confidence": float(record["face"]["confidence"])}
        rows.append({**plain, **votes, **face, **record["attributes"]})
    return pd.DataFrame(rows)


def attributes(dataset: str | Path, split: str) -> pd.DataFrame:
    """The attributes of a split's records, a row each, in stored order: texts, empty where unknown."""
    # With the raters, for there may be no attribute, and a pipeline of nothing is none.
    told = encoded(dataset, split).map(lambda record: (record["raters"], record.get("attributes", {})))
    return pd.DataFrame(
        [{name: value.decode() for name, value in each.items()} for _, each in told.as_numpy_iterator()], dtype=str
    )


def votes(dataset: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """People's votes on a split's photos, in stored order.

    Returns:
        The votes, float32 ``[n, 10]``, and how many people they are of, int ``[n]``, 0 where unknown.
    """
    told = encoded(dataset, split).map(lambda record: (record["votes"], record["raters"]))
    found = [*told.as_numpy_iterator()]
    return np.array([each for each, _ in found]).reshape(-1, len(SCORES)), np.array([each for _, each in found])


def _photo_and_votes(pixels: tf.Tensor, record: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    return pixels, record["votes"]


Example = Callable[[tf.Tensor, dict[str, Any]], Any]
"""What a network is given and has to answer, of a photo's pixels and its record."""


def batches(
    dataset: str | Path,
    split: str,
    *,
    scale: int,
    crop: int,
    batch_size: int,
    only: int = 1,
    view: View | None = None,
    example: Example = _photo_and_votes,
    share: Share | None = None,
) -> tf.data.Dataset:
    """The middle of each photo, once, in stored order.

    Args:
        dataset: TFDS directory.
        split: as in ``encoded``.
        scale: side of the square that a photo is scaled to.
        crop: side of the middle that is kept.
        batch_size: photos a batch; the last one may be smaller.
        only: read one photo in so many.
        view: of the face, which the example then finds in its record as ``face_pixels``, float32
            ``[side, side, 3]``, 0..255; without a face the middle of the photo.
        example: what is made of each photo.
        share: of one worker among several; see `batched`.

    Returns:
        Batches of examples, by default ``(pixels float32 [b, crop, crop, 3] 0..255, votes float32 [b, 10])``.
    """

    def read(record):
        decoded = preprocessing_tf.decode(record["photo"])
        if view:
            record = {**record, "face_pixels": _face(decoded, record, view)[0]}
        return example(preprocessing_tf.centre(preprocessing_tf.square(decoded, scale), crop), record)

    return batched(encoded(dataset, split).shard(only, 0), batch_size, read, share)


def augmented(
    dataset: str | Path,
    split: str,
    *,
    scale: int,
    crop: int,
    batch_size: int,
    seed: int,
    epoch: int,
    leave: int = 0,
    camera_faults: float = 0.0,
    view: View | None = None,
    example: Example = _photo_and_votes,
    share: Share | None = None,
) -> tf.data.Dataset:
    """One epoch in random order, randomly cropped and mirrored: the same for the same seed and epoch.

    Args:
        dataset: TFDS directory.
        split: as in ``encoded``.
        scale: side of the square that a photo is scaled to.
        crop: side of the random part of it that is kept.
        batch_size: photos a batch; the last one may be smaller.
        seed: of the whole training.
        epoch: number of the epoch, from 0.
        leave: leave out the photos that ``batches(..., only=leave)`` reads.
        camera_faults: share of photos slightly blurred or wrongly exposed; the example finds in its record, as
            ``fault``, whether this is one.
        view: as in `batches`; mirrored, blurred and exposed as its photo is.
        example: what is made of each photo.
        share: of one worker among several; see `batched`.

    Returns:
        Batches of examples, by default ``(pixels float32 [b, crop, crop, 3] 0..255, votes float32 [b, 10])``.
    """

    def read(place, record):
        decoded = preprocessing_tf.decode(record["photo"])
        photo = preprocessing_tf.square(decoded, scale)
        drawn = tf.stack([tf.constant(seed * 100_003 + epoch, tf.int64), place])
        record = {**record, "fault": augmentation.is_faulty(camera_faults, drawn)}
        if camera_faults:
            photo = augmentation.camera_fault(photo, camera_faults, drawn)
        if view:
            face, whole = _face(decoded, record, view)
            if camera_faults:
                face = augmentation.camera_fault(face, camera_faults, drawn, whole)
            record = {**record, "face_pixels": augmentation.flip(face, drawn)}
        return example(augmentation.crop_and_flip(photo, crop, drawn), record)

    order = encoded(dataset, split).enumerate()
    if leave:
        left = -(-len(order) // leave)
        kept = order.filter(lambda place, record: place % leave != 0)
        order = kept.apply(tf.data.experimental.assert_cardinality(len(order) - left))
    order = order.shuffle(_SHUFFLED, seed=seed + epoch, reshuffle_each_iteration=False)
    return batched(order, batch_size, read, share)


def batched(
    elements: tf.data.Dataset, batch_size: int, read: Callable[..., Any] | None = None, share: Share | None = None
) -> tf.data.Dataset:
    """Elements read and put into batches.

    Args:
        elements: a finite number of them, the same for every worker.
        batch_size: elements a batch; the last one may be smaller.
        read: what is made of each; None: it is an example already.
        share: with it, only one worker's part of each batch is read, and given with weights; see `Share.level`.
    """
    own = share.of(elements) if share else elements
    made = own.map(read, tf.data.AUTOTUNE) if read else own
    batches = made.batch(share.rows(batch_size) if share else batch_size)
    if share:
        batches = share.level(batches, int(elements.cardinality()), batch_size)
    return batches.prefetch(tf.data.AUTOTUNE)


def _face(photo: tf.Tensor, record: dict[str, Any], view: View) -> tuple[tf.Tensor, tf.Tensor]:
    """The view of a decoded photo's face, float32 ``[side, side, 3]``, and the side of the whole photo at its scale."""

    def cut(pixels: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.float32]:
        height, width = pixels.shape[:2]
        whole = geometry.enlarged((width, height), landmarks, view.side, view.scale) * np.sqrt(width * height)
        return geometry.crop(pixels, landmarks, view.side, view.scale), np.float32(min(whole, _LARGEST * view.side))

    pixels, whole = tf.numpy_function(cut, [photo, record["face"]["landmarks"]], [tf.uint8, tf.float32], stateful=False)
    return tf.cast(tf.ensure_shape(pixels, [view.side, view.side, 3]), tf.float32), tf.ensure_shape(whole, [])
