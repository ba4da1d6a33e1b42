"""The scorer as it is published: a SavedModel that takes encoded photos, preprocessing included.

    <models>/<name>/<version>/  saved_model.pb  variables/  version.json
                                assets.extra/tf_serving_warmup_requests
                                bundle/scorer.keras  bundle/bundle.json

The signature ``serving_default`` takes ``image_bytes`` (string ``[n]``, encoded upright photos) and gives
``mean`` (float32 ``[n]``, 1..10), ``std`` (float32 ``[n]``) and ``distribution`` (float32 ``[n, 10]``, sums 1).
The signature ``explain`` takes the same and gives the maps of ``explanation.closed_form`` as well: ``heatmap`` and
``gains`` (float32 ``[n, h, w]``) and ``class_heatmaps`` (float32 ``[n, h, w, 10]``). Beside them lies the bundle that
was published, for what needs gradients and for going on from it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.scorer import bundle as bundles
from components.scorer import explanation, storage, warmup
from components.scorer.bundle import Bundle
from components.scorer.channels import COMPLETE
from components.scorer.settings import SCORES

SIGNATURE = "serving_default"
EXPLAIN = "explain"
BUNDLE = "bundle"  # folder of the bundle within a version
TOLERANCE = 1e-3
"""Score points, and shares of votes, by which a published version may differ from the scorer that it was made of."""


@dataclass(frozen=True)
class Published:
    """A published version, loaded.

    Attributes:
        uri: the version's folder.
        version: its number; None when the folder is not named by one.
    """

    uri: str
    version: int | None
    _answer: Callable[..., dict[str, tf.Tensor]] = field(repr=False)
    _explain: Callable[..., dict[str, tf.Tensor]] | None = field(repr=False)
    _loaded: Any = field(repr=False)  # owns the variables that the signatures read

    def answers(self, photos: list[bytes], batch_size: int = 32) -> dict[str, np.ndarray]:
        """What the exported signature says of encoded, upright photos: ``mean``, ``std`` and ``distribution``."""
        batches = [
            self._answer(image_bytes=tf.constant(photos[start : start + batch_size]))
            for start in range(0, len(photos), batch_size)
        ]
        empty = {"mean": np.empty(0), "std": np.empty(0), "distribution": np.empty((0, len(SCORES)))}
        return {
            name: np.concatenate([none.astype("float32"), *(batch[name].numpy() for batch in batches)])
            for name, none in empty.items()
        }

    def score(self, photos: list[bytes]) -> np.ndarray:
        """Votes float32 ``[n, 10]`` for encoded, upright photos."""
        return self.answers(photos)["distribution"]

    def explain(self, photos: list[bytes], batch_size: int = 32) -> explanation.Explained:
        """What the exported signature ``explain`` says of encoded, upright photos.

        Returns:
            The arrays that ``explanation.explain`` gives.

        Raises:
            ValueError: the version is older than this signature, or there is no photo.
        """
        if self._explain is None:
            raise ValueError(f"{self.uri} was published without the signature {EXPLAIN!r}: publish its scorer again")
        return explanation.in_batches(lambda batch: self._explain(image_bytes=batch), photos, batch_size)


def export(bundle: Bundle, folder: str | Path, name: str = "scorer") -> None:
    """Write a scorer as a SavedModel with its preprocessing and its warm-up requests.

    The signature ``explain`` is left out for a network that has no maps in closed form (`explanation.is_pooled`).

    Args:
        bundle: the scorer.
        folder: receives the version.
        name: of the model, in the warm-up requests.
    """

    def answer(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _told(bundle.model(bundle.pixels(image_bytes), training=False))

    archive = keras.export.ExportArchive()
    archive.track(bundle.model)
    photos = tf.TensorSpec([None], tf.string, name="image_bytes")
    archive.add_endpoint(SIGNATURE, answer, [photos])
    if explanation.is_pooled(bundle.model):
        maps = explanation.closed_form(bundle.model)

        def explain(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            found = maps(bundle.pixels(image_bytes))
            return found | _told(found["distribution"])

        archive.add_endpoint(EXPLAIN, explain, [photos])
    archive.write_out(str(folder), verbose=False)
    warmup.write(folder, name)


def resolve(uri: str) -> str:
    """The version that an address means.

    Args:
        uri: a version's folder; a model's folder, for its champion; or the folder of all models, when there
            is just one.

    Returns:
        The version's folder.

    Raises:
        FileNotFoundError: there is no version at the address.
        ValueError: several models are.
    """
    if storage.exists(storage.join(uri, COMPLETE)):
        return uri
    if (champion := _champion(uri)) is not None:
        return storage.join(uri, str(champion))
    models = {name: champion for name in storage.folders(uri) if (champion := _champion(storage.join(uri, name)))}
    if len(models) > 1:
        raise ValueError(f"expected one model in {uri}, found {sorted(models)}; name one: {uri}/{min(models)}")
    for name, champion in models.items():
        return storage.join(uri, name, str(champion))
    raise FileNotFoundError(
        f"expected a published version ({COMPLETE}) or a model's folder (channels.json with a champion) at {uri},"
        " found neither"
    )


def load(uri: str) -> Published:
    """Load a published version.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``; see `resolve`.

    Raises:
        FileNotFoundError: there is no complete version.
        ValueError: what is there is not a version of ours.
    """
    if not storage.exists(storage.join(uri, COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {COMPLETE} in it")
    with tempfile.TemporaryDirectory() as folder:
        storage.download_tree(uri, folder, without=[BUNDLE])
        try:
            loaded = tf.saved_model.load(folder)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ValueError(f"expected a SavedModel at {uri}, which cannot be read: {error}") from error
    answer = loaded.signatures.get(SIGNATURE)
    outputs = set(answer.structured_outputs) if answer else set()
    if not outputs >= {"mean", "std", "distribution"}:
        raise ValueError(
            f"expected the signature {SIGNATURE} with mean, std and distribution at {uri},"
            f" found {sorted(loaded.signatures)} with {sorted(outputs)}"
        )
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    version = int(last) if last.isdecimal() else None
    return Published(uri, version, answer, loaded.signatures.get(EXPLAIN), loaded)


def load_bundle(uri: str) -> Bundle:
    """Load the bundle that a version was made of.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``; see `resolve`.

    Raises:
        FileNotFoundError: there is none, as with versions older than this.
    """
    if not storage.exists(storage.join(uri, BUNDLE, "bundle.json")):
        raise FileNotFoundError(f"expected the bundle of a published version in {uri}/{BUNDLE}, found none")
    return read_bundle(storage.join(uri, BUNDLE))


def read_bundle(uri: str) -> Bundle:
    """Load a bundle from a folder, local, ``gs://`` or ``s3://``."""
    with tempfile.TemporaryDirectory() as folder:
        storage.download_tree(uri, folder)
        return bundles.load(folder)


def _told(distribution: tf.Tensor) -> dict[str, tf.Tensor]:
    """Predicted votes ``[n, 10]`` with their mean and standard deviation."""
    scores = tf.constant(SCORES, tf.float32)
    mean = tf.linalg.matvec(distribution, scores)
    variance = tf.reduce_sum(distribution * tf.square(scores - mean[:, None]), axis=-1)
    return {"mean": mean, "std": tf.sqrt(variance), "distribution": distribution}


def _champion(uri: str) -> int | None:
    try:
        return storage.read_json(storage.join(uri, "channels.json")).get("champion")
    except FileNotFoundError:
        return None
