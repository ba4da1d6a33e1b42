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
from components.scorer.data.sharding import WorkerShard
from components.scorer.faces import analyzer, embedder, face_inputs
from components.scorer.faces.face_inputs import EMBEDDING, FOUND
from components.scorer.fit.distributed import WorkerGroup
from components.scorer.imaging import preprocessing_tf
from components.scorer.model import network as networks
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import PIXELS, ModelInputs, order_inputs
from components.scorer.progress import track
from components.scorer.settings import Training
from components.training.examples import targets
from components.training.examples.degraded_copies import degraded_copies, lower_votes
from components.training.examples.label_noise import LabelNoiseModel, fit_label_noise

EncodeFn = Callable[[Any], Any]
"""Function from model inputs, as `targets.inputs` builds them, to a network's outputs as arrays."""


class HeadFeatures(NamedTuple):
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


class PooledFeatures(NamedTuple):
    """Inputs and targets of a split, for the score head.

    Attributes:
        inputs: Inputs of ``network.build_head`` by name.
        votes: People's votes, ``[n, 10]``.
        raters: Number of raters, ``[n]``.
    """

    inputs: dict[str, np.ndarray]
    votes: np.ndarray
    raters: np.ndarray


class FeatureExtractor:
    """Batches and features of the data set, as this training reads it.

    Args:
        dataset: TFDS directory.
        crop: Side of the crop, pixels.
        settings: Training settings.
        head_spec: Auxiliary heads to learn.
        model_inputs: The scorer's inputs.
        workers: Worker group of a distributed training; None for a single process.
    """

    def __init__(
        self,
        dataset: str | Path,
        crop: int,
        settings: Training,
        head_spec: HeadSpec,
        model_inputs: ModelInputs,
        workers: WorkerGroup | None = None,
    ):
        self.dataset, self.settings, self.head_spec, self.model_inputs, self.workers = (
            dataset,
            settings,
            head_spec,
            model_inputs,
            workers,
        )
        self._batch_options: dict[str, Any] = {"scale": settings.scale, "crop": crop, "batch_size": settings.batch_size}
        if model_inputs.view:
            self._batch_options["view"] = photos.FaceCropSpec(crop, settings.face_view_scale)
        self._face_inputs = model_inputs.face_input_spec(crop, settings.face_view_scale)

    @cached_property
    def _face_analyzer(self) -> analyzer.FaceAnalyzer | None:
        """The data set's face detector and embedder; None if the data set has neither."""
        return analyzer.FaceAnalyzer.load(Path(self.dataset, embedder.FOLDER))

    @property
    def shard(self) -> WorkerShard | None:
        """Shard of each batch that this worker reads; None for a single process."""
        return self.workers.shard if self.workers else None

    @cached_property
    def label_noise(self) -> LabelNoiseModel:
        """Label-noise model of the training photos."""
        return fit_label_noise(*photos.votes(self.dataset, "train"), self.settings)

    def eval_batches(self, split: str, shard: WorkerShard | None = None) -> tf.data.Dataset:
        """Return a split's centre crops with votes, in stored order; with a `shard`, only that shard of each batch."""
        return photos.batches(
            self.dataset, split, **self._batch_options, example=targets.with_votes(self.model_inputs), shard=shard
        )

    def train_epoch(self, number: int) -> tf.data.Dataset:
        """Return an epoch of training photos, randomly cropped and mirrored, with target votes and sample weights."""
        label_noise = self.label_noise  # computed here: the map function cannot read the data set

        def target_fn(votes: tf.Tensor, raters: tf.Tensor, fault: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            votes, weight = label_noise.targets_and_weights(votes, raters)
            return tf.cond(fault, lambda: lower_votes(votes), lambda: votes), weight

        return photos.augmented_batches(
            self.dataset, "train", **self._batch_options, seed=self.settings.seed, epoch=number,
            camera_faults=self.settings.camera_faults, example=targets.with_weights(self.model_inputs, target_fn),
            shard=self.shard,
        )  # fmt: skip

    def encode_fn(self, network: keras.Model) -> EncodeFn:
        """Return the encode function for `pooled` and `spoiled`: an encoder's pooled features, by name."""
        return _trace(networks.build_pooling(network, self.model_inputs))

    def pooled_features(self, encode: EncodeFn, split: str) -> PooledFeatures:
        """Return a split's features and targets for the score head."""
        batches = photos.batches(
            self.dataset, split, **self._batch_options, example=targets.with_votes_and_raters(self.model_inputs)
        )
        parts = []
        for inputs, (votes, raters) in self._with_progress(batches, f"features of {split}", split):
            features = encode(inputs) | _embedding_inputs(inputs if self.model_inputs else {})
            parts.append(PooledFeatures(features, votes.numpy(), raters.numpy()))
        return concatenate_batches(parts)

    def degraded_features(self, encode: EncodeFn, split: str) -> PooledFeatures | None:
        """Return features and targets of degraded copies, whose faces are analysed anew; None if no copy is made."""
        fraction, batch_size, parts = self.settings.camera_faults, self.settings.batch_size, []
        if not fraction:
            return None
        copies = degraded_copies(self.dataset, split, fraction, self.settings.seed)
        batches = iter(lambda: [*itertools.islice(copies, batch_size)], [])
        total = round(fraction * photos.counts(self.dataset)[split] / batch_size)
        for batch in track(batches, f"features of copies with faults, {split}", total):
            data, votes, raters = zip(*batch, strict=True)
            face_arrays = face_inputs.face_inputs_of(data, self._face_analyzer, self._face_inputs)
            pixels = preprocessing_tf.preprocess_photos(
                tf.constant(data), self.settings.scale, self._batch_options["crop"]
            )
            features = encode({PIXELS: pixels, **face_arrays}) | _embedding_inputs(face_arrays)
            parts.append(PooledFeatures(features, np.stack(votes), np.array(raters)))
        return concatenate_batches(parts) if parts else None

    def head_features(self, scorer: keras.Model, split: str) -> HeadFeatures:
        """Return a trained scorer's pooled features on a split, with the targets of the auxiliary heads."""
        encode = _trace(keras.Model(scorer.inputs, networks.last_layer_input(scorer)))
        batches = photos.batches(
            self.dataset,
            split,
            **self._batch_options,
            example=targets.with_head_targets(self.model_inputs, self.head_spec),
        )
        parts = [
            (encode(inputs), *(array.numpy() for array in labels))
            for inputs, labels in self._with_progress(batches, f"heads: features of {split}", split)
        ]
        return HeadFeatures(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _with_progress(self, batches: tf.data.Dataset, label: str, split: str) -> Iterator:
        return track(batches, label, -(-photos.counts(self.dataset)[split] // self.settings.batch_size))


def concatenate_batches(parts: list) -> Any:
    """Concatenate the arrays of several batches, in any nested structure."""
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def _embedding_inputs(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the embedding inputs among model inputs, as arrays."""
    return {name: np.asarray(inputs[name]) for name in (EMBEDDING, FOUND) if name in inputs}


def _trace(network: keras.Model) -> EncodeFn:
    """Return a network as a function from model inputs to arrays, traced once for batches of any size."""
    specs = {tensor.name: tf.TensorSpec(tensor.shape, tf.float32) for tensor in network.inputs}
    if keras.backend.backend() == "tensorflow":
        # A concrete function: TensorFlow warns of many functions that are traced at their first calls.
        function = tf.function(
            lambda inputs: network(order_inputs(network, inputs), training=False), input_signature=[specs]
        )
        traced, to_array = function.get_concrete_function(), tf.convert_to_tensor
    else:
        traced, to_array = network.predict_on_batch, np.asarray  # other backends take only arrays

    def encode(inputs: Any) -> Any:
        by_name = inputs if isinstance(inputs, dict) else {PIXELS: inputs}
        return tf.nest.map_structure(np.asarray, traced({name: to_array(by_name[name]) for name in specs}))

    return encode
