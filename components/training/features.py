"""The features that heads are fitted on, read from the photos of a data set by an encoder."""

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
"""What a network says of what `targets.given` gives, as arrays."""


class Seen(NamedTuple):
    """A split's photos as the heads learn from them.

    Attributes:
        features: that the scorer pools, ``[n, c]``.
        votes: of people, ``[n, 10]``.
        jobs: by number, ``[n]``.
        attributes: ``[n, k]``: 1 yes, 0 no, -1 unknown.
    """

    features: np.ndarray
    votes: np.ndarray
    jobs: np.ndarray
    attributes: np.ndarray


class Pooled(NamedTuple):
    """Photos as the head learns from them.

    Attributes:
        given: what ``network.build_head`` takes, by name.
        votes: of people, ``[n, 10]``.
        raters: how many they are, ``[n]``.
    """

    given: dict[str, np.ndarray]
    votes: np.ndarray
    raters: np.ndarray


class Reader:
    """The data set as this training reads it."""

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
        """What finds and reads faces; None where the data set has nothing that could."""
        return analyzer.Reader.load(Path(self.dataset, embedder.FOLDER))

    @property
    def share(self) -> Share | None:
        """This worker's part of each batch; None when it is alone."""
        return self.workers.share if self.workers else None

    @cached_property
    def allowed(self) -> Allowance:
        """How few raters are allowed for, by the training photos."""
        return allowance(*photos.votes(self.dataset, "train"), self.settings)

    def plain(self, split: str, share: Share | None = None) -> tf.data.Dataset:
        """The middle of each photo of a split, in stored order, and its votes; with a share that part of each batch."""
        return photos.batches(self.dataset, split, **self._read, example=targets.scored(self.sight), share=share)

    def epoch(self, number: int) -> tf.data.Dataset:
        """The training photos of one epoch, randomly cropped and mirrored, the votes to learn, and what they count."""
        allowed = self.allowed  # found here: within the map nothing can be read

        def learnt(votes: tf.Tensor, raters: tf.Tensor, fault: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            votes, weight = allowed.learnt(votes, raters)
            return tf.cond(fault, lambda: worth_less(votes), lambda: votes), weight

        return photos.augmented(
            self.dataset, "train", **self._read, seed=self.settings.seed, epoch=number,
            camera_faults=self.settings.camera_faults, example=targets.taught(self.sight, learnt),
            share=self.share,
        )  # fmt: skip

    def encoding(self, network: keras.Model) -> Encode:
        """What `pooled` and `spoiled` see photos with: an encoder's pooled features, by name."""
        return _traced(networks.pooling(network, self.sight))

    def pooled(self, encode: Encode, split: str) -> Pooled:
        """A split's photos as the head learns from them."""
        read = photos.batches(self.dataset, split, **self._read, example=targets.rated(self.sight))
        found = []
        for given, (votes, raters) in self._tracked(read, f"features of {split}", split):
            seen = encode(given) | _embedded(given if self.sight else {})
            found.append(Pooled(seen, votes.numpy(), raters.numpy()))
        return concatenated(found)

    def spoiled(self, encode: Encode, split: str) -> Pooled | None:
        """The same of copies with the camera's faults, whose faces are looked for and read anew; None: of none."""
        share, size, found = self.settings.camera_faults, self.settings.batch_size, []
        if not share:
            return None
        copies = spoiled(self.dataset, split, share, self.settings.seed)
        batches = iter(lambda: [*itertools.islice(copies, size)], [])
        total = round(share * photos.counts(self.dataset)[split] / size)
        for batch in track(batches, f"features of copies with faults, {split}", total):
            data, votes, raters = zip(*batch, strict=True)
            read = face_inputs.read(data, self._faces, self._reads)
            pixels = preprocessing_tf.pixels(tf.constant(data), self.settings.scale, self._read["crop"])
            seen = encode({PIXELS: pixels, **read}) | _embedded(read)
            found.append(Pooled(seen, np.stack(votes), np.array(raters)))
        return concatenated(found) if found else None

    def seen(self, scorer: keras.Model, split: str) -> Seen:
        """What a trained scorer sees on a split's photos, and what the data know of them."""
        see = _traced(keras.Model(scorer.inputs, networks.features(scorer)))
        read = photos.batches(self.dataset, split, **self._read, example=targets.headed(self.sight, self.told))
        found = [
            (see(given), *(each.numpy() for each in known))
            for given, known in self._tracked(read, f"heads: features of {split}", split)
        ]
        return Seen(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _tracked(self, batches: tf.data.Dataset, what: str, split: str) -> Iterator:
        return track(batches, what, -(-photos.counts(self.dataset)[split] // self.settings.batch_size))


def concatenated(parts: list) -> Any:
    """Arrays of several batches, in any structure, as those of one."""
    return tf.nest.map_structure(lambda *each: np.concatenate(each), *parts)


def _embedded(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What of that is embeddings."""
    return {name: np.asarray(given[name]) for name in (EMBEDDING, FOUND) if name in given}


def _traced(network: keras.Model) -> Encode:
    """A network as a function of what `targets.given` gives, by arrays, traced once for batches of any size."""
    specs = {each.name: tf.TensorSpec(each.shape, tf.float32) for each in network.inputs}
    if keras.backend.backend() == "tensorflow":
        # As concrete functions: TensorFlow warns of many that are each traced at their first call.
        function = tf.function(lambda given: network(in_order(network, given), training=False), input_signature=[specs])
        traced, array = function.get_concrete_function(), tf.convert_to_tensor
    else:
        traced, array = network.predict_on_batch, np.asarray  # other backends take arrays alone

    def answer(given: Any) -> Any:
        named = given if isinstance(given, dict) else {PIXELS: given}
        return tf.nest.map_structure(np.asarray, traced({name: array(named[name]) for name in specs}))

    return answer
