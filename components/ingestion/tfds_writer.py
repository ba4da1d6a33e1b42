"""Writer of the data set as a TFDS directory, which ``tfds.builder_from_directory`` reads without this project.

TFDS's own writers hold photos in memory to shuffle them. Its generator-based writer holds up to 1 GB of every split,
its Beam writer as much of all photos as the runner holds. Here the caller passes the examples in their final order, in
shards. So nothing is shuffled, and only one photo at a time is in memory. The bytes of a data set do not depend on the
number of machines that write its shards.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from components.ingestion.photos import parallel_map
from components.scorer import progress, storage
from components.scorer.faces import embedder
from components.scorer.settings import SCORES

SPLITS = ("unlabelled", "train", "validation", "test")
DATASET_NAME = "portraits"
RECORD_FILE = "ingestion.json"

Example = Mapping[str, Any]


class Examples(Protocol):
    """Examples of a shard, whose number is known before they are read."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Example]: ...


def features(attributes: Sequence[str] = (), embedding_size: int | None = None) -> tfds.features.FeaturesDict:
    """Return the TFDS features of an example.

    ``photo`` is JPEG bytes, unchanged. ``photo_id`` and ``group`` are text. ``votes`` is float32 ``[10]``, summing to
    1, or zeros without a rating. ``raters`` is int32, 0 if unknown. ``attributes`` has one text each, empty if unknown.

    If faces were analysed, ``face`` holds ``count`` (int32) of all faces. It also holds ``confidence`` float32, ``box``
    float32 ``[4]`` and ``landmarks`` float32 ``[5, 2]`` of the largest face (see ``geometry.Face``), or zeros without a
    face. If faces were embedded, ``embedding_size`` is float32 ``[size]``, or zeros without a face.

    Args:
        attributes: Names of the attributes.
        embedding_size: Embedding size; 0 if faces are detected but not embedded; None if faces are not analysed.
    """
    text, tensor = tfds.features.Text, tfds.features.Tensor
    face = {
        "count": np.int32,
        "confidence": np.float32,
        "box": tensor(shape=(4,), dtype=np.float32),
        "landmarks": tensor(shape=(5, 2), dtype=np.float32),
    }
    face_feature = {} if embedding_size is None else {"face": tfds.features.FeaturesDict(face)}
    embedding_feature = {"embedding": tensor(shape=(embedding_size,), dtype=np.float32)} if embedding_size else {}
    return tfds.features.FeaturesDict(
        {
            "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "photo_id": text(),
            "votes": tensor(shape=(len(SCORES),), dtype=np.float32),
            "raters": np.int32,
            "group": text(),
            "attributes": tfds.features.FeaturesDict({name: text() for name in attributes}),
            **face_feature,
            **embedding_feature,
        }
    )


def write(
    dataset: str | Path,
    splits: Mapping[str, Sequence[Examples]],
    attributes: Sequence[str] = (),
    record: Any = None,
    *,
    face_weights: str | Path = "",
    beam_options: str = "",
    shared_folder: str = "",
) -> None:
    """Write a data set. It appears as a whole or not at all, and replaces an existing one.

    >>> write("faces", {"train": [[{"photo": jpeg, "photo_id": "a.jpg", "votes": votes, "raters": 7,
    ...                             "group": "anna", "attributes": {}}]]})  # doctest: +SKIP

    Args:
        dataset: Local directory that becomes the data set.
        splits: Shards of each split, in order, by the split's name. A shard is a picklable collection of examples: a
            list, or an object with ``__len__`` and ``__iter__`` that reads them lazily. TFDS cannot read a split
            without examples, so an empty split is omitted.
        attributes: Names of the attributes; every example has all of them.
        record: JSON value of ``ingestion.json`` beside the shards. None: no such file.
        face_weights: Folder of the face weights (see ``scorer.faces.embedder``), which is copied into the data set.
            Each example then has a ``face``, and an ``embedding`` if the weights include an embedder. Empty: no example
            has a ``face``.
        beam_options: Options of the Apache Beam runner that writes the shards. Empty: this process writes them.
        shared_folder: Address for the shards in transit that Beam's workers and this machine both reach. It may be
            empty if the workers are on this machine. Its files are removed afterwards.

    Raises:
        ValueError: A split is unknown, or no split has any example.
    """
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ValueError(f"expected splits out of {list(SPLITS)}, got {unknown[0]!r}")
    filled = {split: [shard for shard in splits.get(split, []) if len(shard)] for split in SPLITS}
    filled = {split: shards for split, shards in filled.items() if shards}
    if not filled:
        raise ValueError("expected at least one example in a split, got none: a data set cannot be empty")
    size = embedder.embedding_size(face_weights) if face_weights else None
    with _replacing_folder(Path(dataset)) as folder:
        shards_folder = (
            storage.join(shared_folder, "shards") if beam_options and storage.is_remote(shared_folder) else str(folder)
        )
        shards = [
            _Shard(
                f"{DATASET_NAME}-{split}.tfrecord-{index:05d}-of-{len(split_shards):05d}",
                shards_folder,
                examples,
                tuple(attributes),
                size,
            )
            for split, split_shards in filled.items()
            for index, examples in enumerate(split_shards)
        ]
        if beam_options:
            parallel_map.on_beam(_write_shard, shards, beam_options, "write shards")
        else:
            for shard in progress.track(shards, "writing the data set's shards"):
                _write_shard(shard)
        if shards_folder != str(folder):
            storage.download_tree(shards_folder, folder)
            storage.delete_tree(shards_folder)
        _write_metadata(folder, filled, features(attributes, size))
        if face_weights:
            embedder.copy_weights(face_weights, folder / embedder.FOLDER)
        if record is not None:
            storage.write_json(str(folder / RECORD_FILE), record)


@dataclass(frozen=True)
class _Shard:
    """One shard file of the data set, complete for another process or machine."""

    name: str
    folder: str  # address of the shard's folder
    examples: Examples
    attributes: tuple[str, ...]
    embedding_size: int | None


def _write_shard(shard: _Shard) -> None:
    with _local_path(shard) as path, tf.io.TFRecordWriter(path) as writer:
        example_features, n_written = _cached_features(shard.attributes, shard.embedding_size), 0
        for example in shard.examples:
            votes = np.asarray(example["votes"], np.float32)
            serialised = example_features.serialize_example({**example, "votes": votes})
            # Serialised again with sorted features: by default their order differs between processes.
            writer.write(tf.train.Example.FromString(serialised).SerializeToString(deterministic=True))
            n_written += 1
        if n_written != len(shard.examples):
            raise RuntimeError(f"{shard.name} was announced with {len(shard.examples)} examples and had {n_written}")


_cached_features = lru_cache(maxsize=4)(features)  # shared by the shards of one process


@contextmanager
def _local_path(shard: _Shard) -> Iterator[str]:
    """Yield a local path for the shard; on exit the file is uploaded if the shard's folder is remote."""
    if not storage.is_remote(shard.folder):
        yield os.path.join(shard.folder, shard.name)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, shard.name)
        storage.upload_tree(folder, shard.folder)


def _write_metadata(
    folder: Path, splits: Mapping[str, Sequence[Examples]], example_features: tfds.features.FeaturesDict
) -> None:
    """Write ``dataset_info.json`` and ``features.json``."""
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(shard) for shard in shards],
            num_bytes=sum(path.stat().st_size for path in folder.glob(f"{DATASET_NAME}-{split}.tfrecord-*")),
        )
        for split, shards in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=example_features,
        split_infos=infos,
        check_data=False,
        description="Portraits and how people rated them, from 1 to 10.",
    )


@contextmanager
def _replacing_folder(dataset: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the data set on success and is deleted on failure."""
    dataset.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{dataset.name}.", suffix=".partial", dir=dataset.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's mode would prevent other users from reading the data set
        if dataset.exists():
            shutil.rmtree(dataset)
        folder.rename(dataset)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
