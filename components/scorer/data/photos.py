"""Photos of the data set as tf.data batches, and records as tables."""

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
from components.scorer.data.sharding import WorkerShard
from components.scorer.faces import geometry
from components.scorer.imaging import augmentation, preprocessing_tf
from components.scorer.settings import SCORES

_MAX_FULL_SIDE = 8.0
"""Largest side of the full photo, in sides of its face crop. It limits the strength of a camera fault on a small face.
"""

_SHUFFLE_BUFFER = 16_384
"""Size of the shuffle buffer, encoded photos: about 400 MB at 25 KB each. A smaller split is shuffled completely."""


class FaceFeatures(NamedTuple):
    """Face features in the records of a data set.

    Attributes:
        embedding: Size of the feature ``embedding``; 0 if absent.
        face: True if the feature ``face`` is present.
    """

    embedding: int
    face: bool


@dataclass(frozen=True)
class FaceCropSpec:
    """Specification of the upright face crop used besides the photo; see ``geometry.crop``.

    Attributes:
        side: Side of the crop, pixels.
        scale: Fraction of the side that the face template takes.
    """

    side: int
    scale: float


def builder(dataset: str | Path) -> tfds.core.DatasetBuilder:
    """Return the TFDS builder of a data set directory, which is read as data: its files import no code.

    Raises:
        ValueError: A feature's class is not one of TFDS.
    """
    check_features(dataset)
    return tfds.builder_from_directory(str(dataset))


def check_features(dataset: str | Path) -> None:
    """Raise ValueError if ``features.json`` in a TFDS directory names a class that is not one of TFDS.

    TFDS would import the module of any class named there.
    """
    path = Path(dataset, "features.json")
    for name in _class_names(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ():
        if not re.fullmatch(r"tensorflow_datasets\.core\.features(\.\w+)+", name):
            raise ValueError(f"expected only features of tensorflow_datasets in {path}, got the class {name!r}")


def _class_names(value: Any) -> Iterator[str]:
    """Yield the strings of ``features.json`` that TFDS takes for class names, in its current and its previous
    form.
    """
    if isinstance(value, dict):
        names = ("pythonClassName", "python_class_name", *(("type",) if "content" in value else ()))
        yield from (value[name] for name in names if isinstance(value.get(name), str))
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _class_names(inner)


def face_features(dataset: str | Path) -> FaceFeatures:
    """Return the face features in the records of a data set directory."""
    features = builder(dataset).info.features
    return FaceFeatures(features["embedding"].shape[0] if "embedding" in features else 0, "face" in features)


def counts(dataset: str | Path) -> dict[str, int]:
    """Return the number of records of each split of a data set directory."""
    return {name: split.num_examples for name, split in builder(dataset).info.splits.items()}


def fingerprint(dataset: str | Path) -> str:
    """Return the fingerprint of a data set from its ``ingestion.json``; "" without such a file."""
    try:
        return storage.read_json(str(Path(dataset, "ingestion.json"))).get("fingerprint", "")
    except FileNotFoundError:
        return ""


def encoded_records(dataset: str | Path, split: str) -> tf.data.Dataset:
    """Return the records of a split in stored order, photos still encoded.

    Args:
        dataset: TFDS directory.
        split: Split, or several such as ``train+unlabelled`` (TFDS split syntax).
    """
    tfds_builder = builder(dataset)
    return tfds_builder.as_dataset(
        split=split,
        decoders={"photo": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )


def records(dataset: str | Path, split: str) -> Iterator[dict]:
    """Yield the records of a split as plain values.

    Each has photo (bytes), photo_id, votes ``[10]``, raters, group and attributes; with face features also ``face`` and
    ``embedding``. See ``ingestion.builder.features``.
    """
    for record in encoded_records(dataset, split).as_numpy_iterator():
        attributes = {name: value.decode() for name, value in record.get("attributes", {}).items()}
        texts = {name: record[name].decode() for name in ("photo_id", "group")}
        yield {**record, **texts, "raters": int(record["raters"]), "attributes": attributes}


def table(dataset: str | Path, split: str) -> pd.DataFrame:
    """Return the records of a split without their photos: photo_id, p1..p10, raters, group and attributes.

    With face features also ``face_count``, and ``face_confidence`` of the largest face, 0 without a face.
    """
    rows = []
    for record in records(dataset, split):
        votes = {f"p{score}": float(fraction) for score, fraction in enumerate(record["votes"], 1)}
        plain = {name: record[name] for name in ("photo_id", "raters", "group")}
        face = {}
        if "face" in record:
            face = {"face_count": int(record["face"]["count"]), "face_confidence": float(record["face"]["confidence"])}
        rows.append({**plain, **votes, **face, **record["attributes"]})
    return pd.DataFrame(rows)


def attributes(dataset: str | Path, split: str) -> pd.DataFrame:
    """Return the attributes of a split's records as text columns, in stored order; "" if unknown."""
    # Includes the raters: a data set may have no attributes, and tf.data needs at least one component.
    labels = encoded_records(dataset, split).map(lambda record: (record["raters"], record.get("attributes", {})))
    return pd.DataFrame(
        [{name: value.decode() for name, value in values.items()} for _, values in labels.as_numpy_iterator()],
        dtype=str,
    )


def votes(dataset: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the votes on a split's photos, in stored order.

    Returns:
        The vote distributions, float32 ``[n, 10]``, and the numbers of raters, int ``[n]``, 0 if unknown.
    """
    labels = encoded_records(dataset, split).map(lambda record: (record["votes"], record["raters"]))
    pairs = [*labels.as_numpy_iterator()]
    return np.array([votes for votes, _ in pairs]).reshape(-1, len(SCORES)), np.array([raters for _, raters in pairs])


def _photo_and_votes(pixels: tf.Tensor, record: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    return pixels, record["votes"]


ExampleFn = Callable[[tf.Tensor, dict[str, Any]], Any]
"""Function from a photo's pixels and its record to a training example: inputs, targets and perhaps weights."""


def batches(
    dataset: str | Path,
    split: str,
    *,
    scale: int,
    crop: int,
    batch_size: int,
    every_nth: int = 1,
    view: FaceCropSpec | None = None,
    example: ExampleFn = _photo_and_votes,
    shard: WorkerShard | None = None,
) -> tf.data.Dataset:
    """Return batches of the centre crop of each photo, once, in stored order.

    Args:
        dataset: TFDS directory.
        split: Split in TFDS split syntax, as in ``encoded_records``.
        scale: Side of the square that a photo is resized to, pixels.
        crop: Side of the centre crop, pixels.
        batch_size: Photos per batch; the last batch may be smaller.
        every_nth: Read every ``every_nth``-th photo; 1 reads all.
        view: Face crop to add to the record as ``face_pixels``, float32 ``[side, side, 3]``, 0..255. Without a face it
            is the centre of the photo. None adds nothing.
        example: Function that makes an example of each photo.
        shard: Shard of one worker; None reads all photos. See `make_batches`.

    Returns:
        Batches of examples, by default ``(pixels float32 [b, crop, crop, 3] 0..255, votes float32 [b, 10])``.
    """

    def to_example(record):
        decoded = preprocessing_tf.decode(record["photo"])
        if view:
            record = {**record, "face_pixels": _face_crop(decoded, record, view)[0]}
        return example(preprocessing_tf.center_crop(preprocessing_tf.resize_square(decoded, scale), crop), record)

    return make_batches(encoded_records(dataset, split).shard(every_nth, 0), batch_size, to_example, shard)


def augmented_batches(
    dataset: str | Path,
    split: str,
    *,
    scale: int,
    crop: int,
    batch_size: int,
    seed: int,
    epoch: int,
    exclude_every_nth: int = 0,
    camera_faults: float = 0.0,
    view: FaceCropSpec | None = None,
    example: ExampleFn = _photo_and_votes,
    shard: WorkerShard | None = None,
) -> tf.data.Dataset:
    """Return one epoch in random order, randomly cropped and mirrored, repeatable by seed and epoch.

    Args:
        dataset: TFDS directory.
        split: Split in TFDS split syntax, as in ``encoded_records``.
        scale: Side of the square that a photo is resized to, pixels.
        crop: Side of the random crop, pixels.
        batch_size: Photos per batch; the last batch may be smaller.
        seed: Seed of the whole training.
        epoch: Epoch number, from 0.
        exclude_every_nth: Exclude the photos that ``batches(..., only=leave)`` reads; 0 excludes none.
        camera_faults: Fraction of photos slightly blurred or wrongly exposed, 0 to 1. The record's ``fault`` tells
            whether the photo is one of them.
        view: Face crop as in `batches`. The crop gets the same mirroring and the same camera fault as its photo.
        example: Function that makes an example of each photo.
        shard: Shard of one worker; None reads all photos. See `make_batches`.

    Returns:
        Batches of examples, by default ``(pixels float32 [b, crop, crop, 3] 0..255, votes float32 [b, 10])``.
    """

    def to_example(index, record):
        decoded = preprocessing_tf.decode(record["photo"])
        photo = preprocessing_tf.resize_square(decoded, scale)
        photo_seed = tf.stack([tf.constant(seed * 100_003 + epoch, tf.int64), index])
        record = {**record, "fault": augmentation.is_faulty(camera_faults, photo_seed)}
        if camera_faults:
            photo = augmentation.camera_fault(photo, camera_faults, photo_seed)
        if view:
            face, full_side = _face_crop(decoded, record, view)
            if camera_faults:
                face = augmentation.camera_fault(face, camera_faults, photo_seed, full_side)
            record = {**record, "face_pixels": augmentation.random_flip(face, photo_seed)}
        return example(augmentation.crop_and_flip(photo, crop, photo_seed), record)

    elements = encoded_records(dataset, split).enumerate()
    if exclude_every_nth:
        n_excluded = -(-len(elements) // exclude_every_nth)
        remaining = elements.filter(lambda index, record: index % exclude_every_nth != 0)
        elements = remaining.apply(tf.data.experimental.assert_cardinality(len(elements) - n_excluded))
    elements = elements.shuffle(_SHUFFLE_BUFFER, seed=seed + epoch, reshuffle_each_iteration=False)
    return make_batches(elements, batch_size, to_example, shard)


def make_batches(
    elements: tf.data.Dataset,
    batch_size: int,
    to_example: Callable[..., Any] | None = None,
    shard: WorkerShard | None = None,
) -> tf.data.Dataset:
    """Map elements to examples and batch them.

    Args:
        elements: Finite data set, equal on all workers.
        batch_size: Elements per batch; the last batch may be smaller.
        to_example: Function from an element to an example; None if elements are examples.
        shard: Shard of one worker: only its part of each batch is read, and weights are added; see
            `WorkerShard.pad_to_equal_batches`.
    """
    shard_elements = shard.take_shard(elements) if shard else elements
    examples = shard_elements.map(to_example, tf.data.AUTOTUNE) if to_example else shard_elements
    batches = examples.batch(shard.local_batch_size(batch_size) if shard else batch_size)
    if shard:
        batches = shard.pad_to_equal_batches(batches, int(elements.cardinality()), batch_size)
    return batches.prefetch(tf.data.AUTOTUNE)


def _face_crop(photo: tf.Tensor, record: dict[str, Any], view: FaceCropSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the face crop of a decoded photo, float32 ``[side, side, 3]``, and the full photo's side at the crop's
    scale.
    """

    def crop_face(pixels: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.float32]:
        height, width = pixels.shape[:2]
        full_side = geometry.crop_scale((width, height), landmarks, view.side, view.scale) * np.sqrt(width * height)
        return geometry.crop(pixels, landmarks, view.side, view.scale), np.float32(
            min(full_side, _MAX_FULL_SIDE * view.side)
        )

    pixels, full_side = tf.numpy_function(
        crop_face, [photo, record["face"]["landmarks"]], [tf.uint8, tf.float32], stateful=False
    )
    return tf.cast(tf.ensure_shape(pixels, [view.side, view.side, 3]), tf.float32), tf.ensure_shape(full_side, [])
