"""Features of a data set's photos, computed by an encoder, that the heads are fitted on."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from components.scorer.data import photos
from components.scorer.data.sharding import Share
from components.scorer.faces import analyzer, embedder, face_inputs
from components.scorer.faces.face_inputs import EMBEDDING, FOUND
from components.scorer.fit.distributed import Workers
from components.scorer.imaging import preprocessing_tf
from components.scorer.model import network as networks
from components.scorer.model.auxiliary_heads import Heads
from components.scorer.model.inputs import PIXELS, Sight, in_order
from components.scorer.progress import track
from components.scorer.settings import Training
from components.training.examples import targets
from components.training.examples.degraded_copies import spoiled, worth_less
from components.training.examples.label_noise import Allowance, allowance

Encode = Callable[[Any], Any]
"""Function from model inputs, as `targets.given` builds them, to a network's outputs as arrays."""


class Seen(NamedTuple):
    """Features and targets of a split, for the auxiliary heads.

    Attributes:
        features: The scorer's pooled features, ``[n, c]``.
        votes: People's votes, ``[n, 10]``.
        jobs: Job ids, ``[n]``.
        attributes: Attribute values, ``[n, k]``: 1 yes, 0 no, -1 unknown.
    """

    features: np.ndarray
    votes: np.ndarray
    jobs: np.ndarray
    attributes: np.ndarray


class Pooled(NamedTuple):
    """Inputs and targets of a split, for the score head.

    Attributes:
        given: Inputs of ``network.build_head`` by name.
        votes: People's votes, ``[n, 10]``.
        raters: Number of raters, ``[n]``.
    """

    given: dict[str, np.ndarray]
    votes: np.ndarray
    raters: np.ndarray


class Reader:
    """Batches and features of the data set, as this training reads it.

    Args:
        dataset: TFDS directory.
        crop: Side of the crop, pixels.
        settings: Training settings.
        told: Auxiliary heads to learn.
        sight: The scorer's inputs.
        workers: Worker group of a distributed training; None for a single process.
    """

    def __init__(
        self,
        dataset: str | Path,
        crop: int,
        settings: Training,
        told: Heads,
        sight: Sight,
        workers: Workers | None = None,
    ):
        self.dataset, self.settings, self.told, self.sight, self.workers = dataset, settings, told, sight, workers
        self._read = {"scale": settings.scale, "crop": crop, "batch_size": settings.batch_size}
        if sight.view:
            self._read["view"] = photos.View(crop, settings.face_view_scale)
        self._reads = sight.needs(crop, settings.face_view_scale)

    @cached_property
    def _faces(self) -> analyzer.Reader | None:
        """The data set's face detector and embedder; None if the data set has neither."""
        return analyzer.Reader.load(Path(self.dataset, embedder.FOLDER))

    @property
    def share(self) -> Share | None:
        """Shard of each batch that this worker reads; None for a single process."""
        return self.workers.share if self.workers else None

    @cached_property
    def allowed(self) -> Allowance:
        """Label-noise model of the training photos."""
        return allowance(*photos.votes(self.dataset, "train"), self.settings)

    def plain(self, split: str, share: Share | None = None) -> tf.data.Dataset:
        """Return a split's centre crops with votes, in stored order; with a `share`, only that shard of each batch."""
        return photos.batches(self.dataset, split, **self._read, example=targets.scored(self.sight), share=share)

    def epoch(self, number: int) -> tf.data.Dataset:
        """Return an epoch of training photos, randomly cropped and mirrored, with target votes and sample weights."""
        label_noise = self.allowed  # computed here: the map function cannot read the data set

        def target_fn(votes: tf.Tensor, raters: tf.Tensor, fault: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            votes, weight = label_noise.learnt(votes, raters)
            return tf.cond(fault, lambda: worth_less(votes), lambda: votes), weight

        return photos.augmented(
            self.dataset, "train", **self._read, seed=self.settings.seed, epoch=number,
            camera_faults=self.settings.camera_faults, example=targets.taught(self.sight, target_fn),
            share=self.share,
        )  # fmt: skip

    def encoding(self, network: keras.Model) -> Encode:
        """Return the encode function for `pooled` and `spoiled`: an encoder's pooled features, by name."""
        return _traced(networks.pooling(network, self.sight))

    def pooled(self, encode: Encode, split: str) -> Pooled:
        """Return a split's features and targets for the score head."""
        batches = photos.batches(self.dataset, split, **self._read, example=targets.rated(self.sight))
        parts = []
        for inputs, (votes, raters) in self._tracked(batches, f"features of {split}", split):
            features = encode(inputs) | _embedded(inputs if self.sight else {})
            parts.append(Pooled(features, votes.numpy(), raters.numpy()))
        return concatenated(parts)

    def spoiled(self, encode: Encode, split: str) -> Pooled | None:
        """Return features and targets of degraded copies, whose faces are analysed anew; None if no copy is made."""
        fraction, batch_size, parts = self.settings.camera_faults, self.settings.batch_size, []
        if not fraction:
            return None
        copies = spoiled(self.dataset, split, fraction, self.settings.seed)
        batches = iter(lambda: [*itertools.islice(copies, batch_size)], [])
        total = round(fraction * photos.counts(self.dataset)[split] / batch_size)
        for batch in track(batches, f"features of copies with faults, {split}", total):
            data, votes, raters = zip(*batch, strict=True)
            face_arrays = face_inputs.read(data, self._faces, self._reads)
            pixels = preprocessing_tf.pixels(tf.constant(data), self.settings.scale, self._read["crop"])
            features = encode({PIXELS: pixels, **face_arrays}) | _embedded(face_arrays)
            parts.append(Pooled(features, np.stack(votes), np.array(raters)))
        return concatenated(parts) if parts else None

    def seen(self, scorer: keras.Model, split: str) -> Seen:
        """Return a trained scorer's pooled features on a split, with the targets of the auxiliary heads."""
        encode = _traced(keras.Model(scorer.inputs, networks.features(scorer)))
        batches = photos.batches(self.dataset, split, **self._read, example=targets.headed(self.sight, self.told))
        parts = [
            (encode(inputs), *(array.numpy() for array in labels))
            for inputs, labels in self._tracked(batches, f"heads: features of {split}", split)
        ]
        return Seen(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _tracked(self, batches: tf.data.Dataset, label: str, split: str) -> Iterator:
        return track(batches, label, -(-photos.counts(self.dataset)[split] // self.settings.batch_size))


def concatenated(parts: list) -> Any:
    """Concatenate the arrays of several batches, in any nested structure."""
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def _embedded(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the embedding inputs among model inputs, as arrays."""
    return {name: np.asarray(inputs[name]) for name in (EMBEDDING, FOUND) if name in inputs}


def _traced(network: keras.Model) -> Encode:
    """Return a network as a function from model inputs to arrays, traced once for batches of any size."""
    specs = {tensor.name: tf.TensorSpec(tensor.shape, tf.float32) for tensor in network.inputs}
    if keras.backend.backend() == "tensorflow":
        # A concrete function: TensorFlow warns of many functions that are traced at their first calls.
        function = tf.function(
            lambda inputs: network(in_order(network, inputs), training=False), input_signature=[specs]
        )
        traced, to_array = function.get_concrete_function(), tf.convert_to_tensor
    else:
        traced, to_array = network.predict_on_batch, np.asarray  # other backends take only arrays

    def encode(inputs: Any) -> Any:
        by_name = inputs if isinstance(inputs, dict) else {PIXELS: inputs}
        return tf.nest.map_structure(np.asarray, traced({name: to_array(by_name[name]) for name in specs}))

    return encode
