"""Writes the data set as a TFDS directory, which ``tfds.builder_from_directory`` reads without this project.

TFDS's own writers hold photos in memory to shuffle them: the generator's up to 1 GB of every split, Beam's
whatever its runner holds of all photos. Here the caller gives the examples in their final order and parts
them into shards, so that nothing is shuffled, one photo at a time is in memory, and a data set has the same
bytes whether its shards were written one after the other or on a hundred machines.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from components.ingestion.photos import parallel_map
from components.scorer import progress, storage
from components.scorer.faces import embedder
from components.scorer.settings import SCORES

SPLITS = ("unlabelled", "train", "validation", "test")
NAME = "portraits"
RECORD = "ingestion.json"

Example = Mapping[str, Any]


def features(attributes: Sequence[str] = (), embedding: int | None = None) -> tfds.features.FeaturesDict:
    """The features of an example.

    ``photo`` JPEG bytes, kept as they come; ``photo_id`` and ``group`` text; ``votes`` float32 ``[10]``, summing
    to 1, or zeros where there is no rating; ``raters`` int32, 0 where unknown; ``attributes`` one text each, empty when
    unknown.

    Where faces were looked for, ``face`` holds of the largest one ``confidence`` float32, ``box`` float32 ``[4]`` and
    ``landmarks`` float32 ``[5, 2]`` (see ``geometry.Face``), zeros without a face, and ``count`` int32 of all faces;
    where they were read, too, ``embedding`` is float32 ``[size]``, zeros without a face.

    Args:
        attributes: their names.
        embedding: its size; 0: faces are not read; None: they are not even looked for.
    """
    text, numbers = tfds.features.Text, tfds.features.Tensor
    face = {
        "count": np.int32,
        "confidence": np.float32,
        "box": numbers(shape=(4,), dtype=np.float32),
        "landmarks": numbers(shape=(5, 2), dtype=np.float32),
    }
    seen = {} if embedding is None else {"face": tfds.features.FeaturesDict(face)}
    read = {"embedding": numbers(shape=(embedding,), dtype=np.float32)} if embedding else {}
    return tfds.features.FeaturesDict(
        {
            "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "photo_id": text(),
            "votes": numbers(shape=(len(SCORES),), dtype=np.float32),
            "raters": np.int32,
            "group": text(),
            "attributes": tfds.features.FeaturesDict({name: text() for name in attributes}),
            **seen,
            **read,
        }
    )


def write(
    dataset: str | Path,
    splits: Mapping[str, Sequence[Collection[Example]]],
    attributes: Sequence[str] = (),
    record: Any = None,
    *,
    faces: str | Path = "",
    beam_options: str = "",
    shared: str = "",
) -> None:
    """Write a data set; it appears as a whole or not at all, and takes the place of one that was there.

    >>> write("faces", {"train": [[{"photo": jpeg, "photo_id": "a.jpg", "votes": votes, "raters": 7,
    ...                             "group": "anna", "attributes": {}}]]})  # doctest: +SKIP

    Args:
        dataset: local directory that becomes the data set.
        splits: by the name of the split, its shards in order; a shard is a picklable collection of examples
            (a list, or an object with ``__len__`` and ``__iter__`` that reads them when asked). TFDS cannot
            read a split without examples, so such a split is left out of the directory.
        attributes: names of the attributes; every example has each of them.
        record: a JSON value to lie beside the shards as ``ingestion.json``.
        faces: folder of the weights by which faces were found (see ``scorer.embedding``), which is copied into the
            data set; each example then has a ``face``, and an ``embedding`` where they read faces. Empty: none has.
        beam_options: options of the Apache Beam runner that writes the shards; empty: this process does.
        shared: address that Beam's workers and this machine both reach, for the shards on their way; it
            may be left empty where the workers are on this machine. What was written there is removed.

    Raises:
        ValueError: a split is unknown, or no split has any example.
    """
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ValueError(f"expected splits out of {list(SPLITS)}, got {unknown[0]!r}")
    filled = {split: [s for s in splits.get(split, []) if len(s)] for split in SPLITS}
    filled = {split: shards for split, shards in filled.items() if shards}
    if not filled:
        raise ValueError("expected at least one example in a split, got none: a data set cannot be empty")
    size = embedder.size(faces) if faces else None
    with _appearing(Path(dataset)) as folder:
        place = storage.join(shared, "shards") if beam_options and storage.is_remote(shared) else str(folder)
        shards = [
            _Shard(f"{NAME}-{split}.tfrecord-{index:05d}-of-{len(parts):05d}", place, part, tuple(attributes), size)
            for split, parts in filled.items()
            for index, part in enumerate(parts)
        ]
        if beam_options:
            parallel_map.on_beam(_write_shard, shards, beam_options, "write shards")
        else:
            for shard in progress.track(shards, "writing the data set's shards"):
                _write_shard(shard)
        if place != str(folder):
            storage.download_tree(place, folder)
            storage.delete_tree(place)
        _describe(folder, filled, features(attributes, size))
        if faces:
            embedder.copy(faces, folder / embedder.FOLDER)
        if record is not None:
            storage.write_json(str(folder / RECORD), record)


@dataclass(frozen=True)
class _Shard:
    """One file of the data set, with what it takes to write it elsewhere."""

    name: str
    place: str  # address of the folder
    examples: Collection[Example]
    attributes: tuple[str, ...]
    embedding: int | None


def _write_shard(shard: _Shard) -> None:
    with _local(shard) as path, tf.io.TFRecordWriter(path) as writer:
        known, written = _features(shard.attributes, shard.embedding), 0
        for example in shard.examples:
            votes = np.asarray(example["votes"], np.float32)
            serialised = known.serialize_example({**example, "votes": votes})
            # Once more, with the features in a fixed order: by default it differs from process to process.
            writer.write(tf.train.Example.FromString(serialised).SerializeToString(deterministic=True))
            written += 1
        if written != len(shard.examples):
            raise RuntimeError(f"{shard.name} was announced with {len(shard.examples)} examples and had {written}")


_features = lru_cache(maxsize=4)(features)  # of many shards in one process


@contextmanager
def _local(shard: _Shard) -> Iterator[str]:
    """A local path for the shard, whose file then lies in the shard's place."""
    if not storage.is_remote(shard.place):
        yield os.path.join(shard.place, shard.name)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, shard.name)
        storage.upload_tree(folder, shard.place)


def _describe(
    folder: Path, splits: Mapping[str, Sequence[Collection[Example]]], known: tfds.features.FeaturesDict
) -> None:
    """Write ``dataset_info.json`` and ``features.json``."""
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(shard) for shard in shards],
            num_bytes=sum(path.stat().st_size for path in folder.glob(f"{NAME}-{split}.tfrecord-*")),
        )
        for split, shards in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=known,
        split_infos=infos,
        check_data=False,
        description="Portraits and how people rated them, from 1 to 10.",
    )


@contextmanager
def _appearing(dataset: Path) -> Iterator[Path]:
    """A new folder beside the data set that takes its place when the block ends well, and else vanishes."""
    dataset.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{dataset.name}.", suffix=".partial", dir=dataset.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's own mode would keep others from reading the data set
        if dataset.exists():
            shutil.rmtree(dataset)
        folder.rename(dataset)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
