"""The scorer as it is published: a SavedModel that takes encoded photos, preprocessing included.

    <models>/<name>/<version>/  saved_model.pb  variables/  version.json
                                assets.extra/tf_serving_warmup_requests
                                portable/scorer.tflite  portable/portable.json
                                portable/faces/  where faces are looked for
                                bundle/scorer.keras  bundle/bundle.json

The signature ``serving_default`` takes ``image_bytes`` (string ``[n]``, encoded upright photos) and gives
``mean`` (float32 ``[n]``, 1..10), ``std`` (float32 ``[n]``) and ``distribution`` (float32 ``[n, 10]``, sums 1).
The signature ``explain`` takes the same and gives the maps of ``serving_outputs.closed_form`` as well: ``heatmap`` and
``gains`` (float32 ``[n, h, w]``) and ``class_heatmaps`` (float32 ``[n, h, w, 10]``). Where the scorer has heads, the
signature ``with_job`` takes ``image_bytes`` and ``job`` (string ``[n]``; "" and a name that it does not know count as
unknown) and gives ``attributes`` (float32 ``[n, k]``) beside the scores.

A scorer that reads faces takes more: finding and embedding a face does not live in a graph, so each signature takes
also those of ``face`` (float32 ``[n, side, side, 3]``), ``embedding`` (float32 ``[n, size]``) and ``found`` (float32
``[n]``) that the scorer reads, and nobody who sends a photo alone gets a worse score unawares. `Published.answers` runs
the stages before them (``face_inputs``) and takes photos alone, as this project's server does.

With it lie the same network for servers without TensorFlow (``litert_model``), and the bundle that was published, for
what needs gradients and for going on from it.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.scorer import storage
from components.scorer.artifacts import batching, litert_model, warmup
from components.scorer.artifacts import bundle as bundles
from components.scorer.artifacts.bundle import Bundle
from components.scorer.faces import embedder, face_inputs
from components.scorer.faces.analyzer import Reader
from components.scorer.faces.face_inputs import PHOTO_ALONE, Given, Reads
from components.scorer.jobs import expect_known
from components.scorer.model import serving_outputs
from components.scorer.parameters import from_parameters
from components.scorer.registry import integrity
from components.scorer.registry.channels import COMPLETE, version_of
from components.scorer.settings import SCORES, Ingestion

SIGNATURE = "serving_default"
EXPLAIN = "explain"
WITH_JOB = "with_job"
BUNDLE = "bundle"  # folder of the bundle within a version
TOLERANCE = 1e-3
"""Score points, and shares of votes, by which a published version may differ from the scorer that it was made of."""


@dataclass(frozen=True)
class Published:
    """A published version, loaded.

    Attributes:
        uri: the version's folder.
        version: its number; None when the folder is not named by one.
        jobs: that it can be told.
        reads: what it reads of a photo's face.
        reader: that reads it; None where it reads none.
        settings: of ingestion, by which photos are normalised.
    """

    uri: str
    version: int | None
    _answer: Callable[..., dict[str, tf.Tensor]] = field(repr=False)
    _explain: Callable[..., dict[str, tf.Tensor]] | None = field(repr=False)
    _loaded: Any = field(repr=False)  # owns the variables that the signatures read
    jobs: tuple[str, ...] = ()
    reads: Reads = PHOTO_ALONE
    reader: Reader | None = field(default=None, repr=False)
    settings: Ingestion = field(default_factory=Ingestion)

    def answers(
        self, photos: list[bytes], batch_size: int = 32, jobs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """What the exported signature says of encoded, upright photos: ``mean``, ``std`` and ``distribution``.

        Args:
            photos: n of them.
            batch_size: photos at a time.
            jobs: n names, "" unknown; a version that knows no job takes all for unknown.

        Raises:
            ValueError: a job is not one of `jobs`.
        """
        told = jobs if jobs is not None and self.jobs else None
        if told is not None:
            expect_known(told, self.jobs)
        answer = self._answer if told is None else self._loaded.signatures[WITH_JOB]
        batches = []
        for start in range(0, len(photos), batch_size):
            several = slice(start, start + batch_size)
            job = {} if told is None else {"job": tf.constant(told[several])}
            batches.append(answer(**self._given(photos[several]), **job))
        empty = {"mean": np.empty(0), "std": np.empty(0), "distribution": np.empty((0, len(SCORES)))}
        return {
            name: np.concatenate([none.astype("float32"), *(batch[name].numpy() for batch in batches)])
            for name, none in empty.items()
        }

    def score(self, photos: list[bytes]) -> np.ndarray:
        """Votes float32 ``[n, 10]`` for encoded, upright photos."""
        return self.answers(photos)["distribution"]

    def explain(self, photos: list[bytes], batch_size: int = 32) -> batching.Explained:
        """What the exported signature ``explain`` says of encoded, upright photos.

        Returns:
            The arrays that ``attribution.explain`` gives.

        Raises:
            ValueError: the version is older than this signature, or there is no photo.
        """
        if self._explain is None:
            raise ValueError(f"{self.uri} was published without the signature {EXPLAIN!r}: publish its scorer again")
        return batching.in_batches(lambda batch: self._explain(**self._given(batch)), photos, batch_size)

    def _given(self, photos: list[bytes]) -> dict[str, tf.Tensor]:
        """What the signatures take of encoded photos, the stages before them run."""
        given = {"image_bytes": photos, **self.read(photos)}
        return {name: tf.constant(value) for name, value in given.items()}

    def read(self, photos: list[bytes]) -> Given:
        """What the signatures take of encoded, upright photos beside their bytes; see ``face_inputs.read``."""
        return face_inputs.read(photos, self.reader, self.reads)


def export(bundle: Bundle, folder: str | Path, name: str = "scorer") -> None:
    """Write a scorer as a SavedModel with its preprocessing, its warm-up requests and what reads faces for it.

    The signature ``explain`` is left out for a network that has no maps in closed form (`serving_outputs.is_pooled`),
    and ``with_job`` for one without heads.

    Args:
        bundle: the scorer.
        folder: receives the version.
        name: of the model, in the warm-up requests.
    """

    archive = keras.export.ExportArchive()
    networks = {SIGNATURE: serving_outputs.scores(bundle.model)}
    if serving_outputs.is_pooled(bundle.model):
        networks[EXPLAIN] = serving_outputs.closed_form(bundle.model)
    reads = bundle.needs
    photos, job = (tf.TensorSpec([None], tf.string, name) for name in ("image_bytes", "job"))
    faces = [tf.TensorSpec([None, *shape], tf.float32, name) for name, shape in reads.shapes.items()]
    for signature, network in networks.items():
        archive.track(network)
        archive.add_endpoint(signature, _of_encoded(network, bundle), [photos, *faces])
    if bundle.heads is not None:
        network = serving_outputs.scores(bundle.model, bundle.heads)
        archive.track(network)
        archive.add_endpoint(WITH_JOB, _of_encoded_and_named(network, bundle), [photos, *faces, job])
    archive.write_out(str(folder), verbose=False)
    warmup.write(folder, name, reads)
    if reads.faces:
        _describe(bundle, Path(folder), name)


def export_portable(
    bundle: Bundle,
    folder: str | Path,
    name: str = "scorer",
    *,
    error: float | None = None,
    ingestion: Mapping[str, Any] | None = None,
) -> None:
    """Write a scorer for servers without TensorFlow, beside its SavedModel; see ``litert_model``.

    Args:
        bundle: the scorer.
        folder: receives ``portable/``.
        name: of the model.
        error: root mean square difference from people's scores on the test photos, points.
        ingestion: settings by which the data set's photos were normalised.
    """
    place = Path(folder, litert_model.FOLDER)
    place.mkdir(parents=True, exist_ok=True)
    network = serving_outputs.fullest(bundle.model, bundle.heads)
    given = [keras.Input(bundle.model.inputs[0].shape[1:], name="pixels")]  # the signature's names for them
    given += [keras.Input(shape, name=name) for name, shape in bundle.needs.shapes.items()]
    if bundle.heads is not None:
        given.append(keras.Input((), dtype="int32", name="job"))
    named = keras.Model(given, network(given), name=network.name)
    named.export(str(place / litert_model.NETWORK), format="litert", verbose=False)
    _describe(bundle, Path(folder), name, error, ingestion)
    if bundle.norms:
        (place / litert_model.NORMS).write_bytes(bundle.norms)


def _describe(
    bundle: Bundle,
    folder: Path,
    name: str,
    error: float | None = None,
    ingestion: Mapping[str, Any] | None = None,
) -> None:
    """Write ``portable.json`` and the weights that find and read faces into a version."""
    place = folder / litert_model.FOLDER
    for file, content in bundle.faces.items():
        storage.write_bytes(str(place / embedder.FOLDER / file), content)
    about = litert_model.about(
        name, bundle.training.scale, bundle.pretraining.crop, error, ingestion, bundle.jobs, bundle.attributes,
        reads=bundle.needs, faces=bundle.reader.about if bundle.reader else None,
    )  # fmt: skip
    storage.write_json(str(place / litert_model.ABOUT), about)


def _of_encoded(network: keras.Model, bundle: Bundle) -> Callable[..., dict[str, tf.Tensor]]:
    """A network of pixels, and of what is read of faces, as a function of encoded photos and of the same."""

    def answer(image_bytes: tf.Tensor, *faces: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = bundle.pixels(image_bytes)
        return network([pixels, *faces] if faces else pixels, training=False)

    return answer


def _of_encoded_and_named(network: keras.Model, bundle: Bundle) -> Callable[..., dict[str, tf.Tensor]]:
    """The same with the names of jobs."""
    names = tf.constant(["", *bundle.jobs])

    def answer(image_bytes: tf.Tensor, *rest: tf.Tensor) -> dict[str, tf.Tensor]:
        *faces, job = rest
        index = tf.argmax(tf.cast(job[:, None] == names, tf.int32), axis=-1, output_type=tf.int32)  # none is like ""
        return network([bundle.pixels(image_bytes), *faces, index], training=False)

    return answer


def load(uri: str, whole: bool = False) -> Published:
    """Load a published version.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``; see ``channels.resolve``.
        whole: compare all its files with their digests, not only those that are loaded.

    Raises:
        FileNotFoundError: there is no complete version.
        ValueError: what is there is not a version of ours, or not as it was published.
    """
    if not storage.exists(storage.join(uri, COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {COMPLETE} in it")
    without = () if whole else (BUNDLE, f"{litert_model.FOLDER}/{litert_model.NETWORK}")
    with integrity.local(uri, without=without) as folder:
        about = _about(folder)
        reads = Reads(**about.get("reads", {}))
        reader = litert_model.reader(folder, reads) if reads.faces else None
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
    settings = from_parameters(Ingestion, **about.get("ingestion", {}))
    jobs = tuple(about.get("jobs", ()))
    explain = loaded.signatures.get(EXPLAIN)
    return Published(uri, version_of(uri), answer, explain, loaded, jobs, reads, reader, settings)


def _about(uri: str) -> dict[str, Any]:
    """What ``portable.json`` says of a version; nothing where it is older than that."""
    try:
        return storage.read_json(storage.join(uri, litert_model.FOLDER, litert_model.ABOUT))
    except FileNotFoundError:
        return {}


def load_bundle(uri: str) -> Bundle:
    """Load the bundle that a version was made of.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``; see ``channels.resolve``.

    Raises:
        FileNotFoundError: there is none, as with versions older than this.
        ValueError: it is not as it was published.
    """
    if not storage.exists(storage.join(uri, BUNDLE, "bundle.json")):
        raise FileNotFoundError(f"expected the bundle of a published version in {uri}/{BUNDLE}, found none")
    with integrity.local(uri, BUNDLE) as folder:
        return bundles.load(Path(folder, BUNDLE))


def read_bundle(uri: str) -> Bundle:
    """Load a bundle from a folder, local, ``gs://`` or ``s3://``."""
    with tempfile.TemporaryDirectory() as folder:
        storage.download_tree(uri, folder)
        return bundles.load(folder)
