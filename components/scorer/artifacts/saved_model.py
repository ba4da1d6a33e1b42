"""Export and loading of published versions: a SavedModel that takes encoded photos, preprocessing included.

    <models>/<name>/<version>/  saved_model.pb  variables/  version.json;
                                assets.extra/tf_serving_warmup_requests;
                                portable/scorer.tflite  portable/portable.json;
                                portable/faces/  only if faces are detected;
                                bundle/scorer.keras  bundle/bundle.json.

Signatures:

* ``serving_default`` takes ``image_bytes`` (string ``[n]``, encoded upright photos). It gives ``mean`` (float32
  ``[n]``, 1..10), ``std`` (float32 ``[n]``) and ``distribution`` (float32 ``[n, 10]``, sums 1).
* ``explain`` takes the same and also gives the maps of ``serving_outputs.build_cam_model``: ``heatmap`` and ``gains``
  (float32 ``[n, h, w]``) and ``class_heatmaps`` (float32 ``[n, h, w, 10]``).
* ``with_job``, only if the scorer has heads, takes ``image_bytes`` and ``job`` (string ``[n]``; "" and unknown names
  count as unknown). It gives ``attributes`` (float32 ``[n, k]``) beside the scores.

Detecting and embedding a face cannot run in a TensorFlow graph. So if the scorer uses faces, each signature takes its
face inputs too: ``face`` (float32 ``[n, side, side, 3]``), ``embedding`` (float32 ``[n, size]``) and ``found`` (float32
``[n]``). A request with a photo alone then fails instead of getting a worse score. `SavedModelScorer.predict` takes
photos alone and computes the face inputs (``face_inputs``), as this project's server does.

A version also holds the LiteRT network for servers without TensorFlow (``litert_model``). And it holds the bundle it
was exported from, for gradients and further training.
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
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.faces import embedder, face_inputs
from components.scorer.faces.analyzer import FaceAnalyzer
from components.scorer.faces.face_inputs import NO_FACE_INPUTS, FaceInputSpec, NamedInputs
from components.scorer.jobs import check_jobs_known
from components.scorer.model import serving_outputs
from components.scorer.parameters import from_parameters
from components.scorer.registry import integrity
from components.scorer.registry.channels import COMPLETE, version_of
from components.scorer.settings import SCORES, Ingestion

SIGNATURE = "serving_default"
EXPLAIN = "explain"
WITH_JOB = "with_job"
BUNDLE_FOLDER = "bundle"  # name of the bundle's folder in a version
TOLERANCE = 1e-3
"""Largest difference of a published version from its bundle's scorer, in score points and in fractions of votes."""


@dataclass(frozen=True)
class SavedModelScorer:
    """Loaded SavedModel of a published version.

    Attributes:
        uri: Folder of the version.
        version: Version number; None if the folder is not named by a number.
        jobs: Names of the known jobs.
        face_input_spec: Specification of the inputs that are computed from the face.
        face_analyzer: Face detector and embedder; None if the scorer uses no faces.
        settings: Ingestion settings that normalise photos.
    """

    uri: str
    version: int | None
    _score_signature: Callable[..., dict[str, tf.Tensor]] = field(repr=False)
    _explain_signature: Callable[..., dict[str, tf.Tensor]] | None = field(repr=False)
    _saved_model: Any = field(repr=False)  # owns the signatures' variables
    jobs: tuple[str, ...] = ()
    face_input_spec: FaceInputSpec = NO_FACE_INPUTS
    face_analyzer: FaceAnalyzer | None = field(default=None, repr=False)
    settings: Ingestion = field(default_factory=Ingestion)

    def predict(
        self, photos: list[bytes], batch_size: int = 32, jobs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Score encoded, upright photos with the exported signature.

        Args:
            photos: Encoded photos, n of them.
            batch_size: Photos of a batch.
            jobs: Job names, n of them, "" unknown; None: all are unknown. If the version knows no job, all count as
                unknown.

        Returns:
            ``mean`` and ``std`` float32 ``[n]``, and ``distribution`` float32 ``[n, 10]``.

        Raises:
            ValueError: A job is not one of `jobs`.
        """
        known_jobs = jobs if jobs is not None and self.jobs else None
        if known_jobs is not None:
            check_jobs_known(known_jobs, self.jobs)
        signature = self._score_signature if known_jobs is None else self._saved_model.signatures[WITH_JOB]
        batches = []
        for start in range(0, len(photos), batch_size):
            rows = slice(start, start + batch_size)
            job = {} if known_jobs is None else {"job": tf.constant(known_jobs[rows])}
            batches.append(signature(**self._signature_inputs(photos[rows]), **job))
        empty = {"mean": np.empty(0), "std": np.empty(0), "distribution": np.empty((0, len(SCORES)))}
        return {
            name: np.concatenate([array.astype("float32"), *(batch[name].numpy() for batch in batches)])
            for name, array in empty.items()
        }

    def score(self, photos: list[bytes]) -> np.ndarray:
        """Return votes float32 ``[n, 10]`` for encoded, upright photos."""
        return self.predict(photos)["distribution"]

    def explain(self, photos: list[bytes], batch_size: int = 32) -> batching.ExplanationOutputs:
        """Return scores and maps of encoded, upright photos by the exported signature ``explain``.

        Args:
            photos: Encoded photos, at least one.
            batch_size: Photos of a batch.

        Returns:
            The arrays that ``attribution.explain`` gives.

        Raises:
            ValueError: The version has no such signature, or there is no photo.
        """
        if (signature := self._explain_signature) is None:
            raise ValueError(f"{self.uri} was published without the signature {EXPLAIN!r}: publish its scorer again")
        return batching.in_batches(lambda batch: signature(**self._signature_inputs(batch)), photos, batch_size)

    def _signature_inputs(self, photos: list[bytes]) -> dict[str, tf.Tensor]:
        """Return the inputs of a signature for encoded photos: their bytes and the face inputs."""
        inputs = {"image_bytes": photos, **self.compute_face_inputs(photos)}
        return {name: tf.constant(value) for name, value in inputs.items()}

    def compute_face_inputs(self, photos: list[bytes]) -> NamedInputs:
        """Return the face inputs of encoded, upright photos; see ``face_inputs.face_inputs_of``."""
        return face_inputs.face_inputs_of(photos, self.face_analyzer, self.face_input_spec)


def export(bundle: TrainedScorer, folder: str | Path, name: str = "scorer") -> None:
    """Write a scorer as a SavedModel with its preprocessing, its warm-up requests and the files of its face detector.

    The signature ``explain`` is left out if `serving_outputs.is_pooled` is false, and ``with_job`` if there are no
    heads.

    Args:
        bundle: The scorer.
        folder: Folder of the new version.
        name: Name of the model in the warm-up requests.
    """

    archive = keras.export.ExportArchive()
    networks = {SIGNATURE: serving_outputs.build_score_model(bundle.model)}
    if serving_outputs.is_pooled(bundle.model):
        networks[EXPLAIN] = serving_outputs.build_cam_model(bundle.model)
    face_input_spec = bundle.face_input_spec
    photos, job = (tf.TensorSpec([None], tf.string, name) for name in ("image_bytes", "job"))
    faces = [tf.TensorSpec([None, *shape], tf.float32, name) for name, shape in face_input_spec.shapes.items()]
    for signature, network in networks.items():
        archive.track(network)
        archive.add_endpoint(signature, _from_encoded(network, bundle), [photos, *faces])
    if bundle.heads is not None:
        network = serving_outputs.build_score_model(bundle.model, bundle.heads)
        archive.track(network)
        archive.add_endpoint(WITH_JOB, _from_encoded_with_job(network, bundle), [photos, *faces, job])
    archive.write_out(str(folder), verbose=False)
    warmup.write(folder, name, face_input_spec)
    if face_input_spec.uses_faces:
        _write_metadata(bundle, Path(folder), name)


def export_litert(
    bundle: TrainedScorer,
    folder: str | Path,
    name: str = "scorer",
    *,
    error: float | None = None,
    ingestion: Mapping[str, Any] | None = None,
) -> None:
    """Write a scorer for servers without TensorFlow, beside its SavedModel; see ``litert_model``.

    Args:
        bundle: The scorer.
        folder: Folder of the version; ``portable/`` is written into it.
        name: Name of the model.
        error: Root mean square difference from people's scores on the test photos, score points; None if unknown.
        ingestion: Settings that normalised the data set's photos, by name.
    """
    portable = Path(folder, litert_model.FOLDER)
    portable.mkdir(parents=True, exist_ok=True)
    network = serving_outputs.build_serving_model(bundle.model, bundle.heads)
    inputs = [keras.Input(bundle.model.inputs[0].shape[1:], name="pixels")]  # the signature's names of the inputs
    inputs += [keras.Input(shape, name=name) for name, shape in bundle.face_input_spec.shapes.items()]
    if bundle.heads is not None:
        inputs.append(keras.Input((), dtype="int32", name="job"))
    renamed = keras.Model(inputs, network(inputs), name=network.name)
    renamed.export(str(portable / litert_model.NETWORK_FILE), format="litert", verbose=False)
    _write_metadata(bundle, Path(folder), name, error, ingestion)
    if bundle.norms:
        (portable / litert_model.NORMS_FILE).write_bytes(bundle.norms)


def _write_metadata(
    bundle: TrainedScorer,
    folder: Path,
    name: str,
    error: float | None = None,
    ingestion: Mapping[str, Any] | None = None,
) -> None:
    """Write ``portable.json``, and the files of the face detector and embedder, into a version."""
    portable = folder / litert_model.FOLDER
    for file, content in bundle.faces.items():
        storage.write_bytes(str(portable / embedder.FOLDER / file), content)
    metadata = litert_model.build_metadata(
        name, bundle.training.scale, bundle.pretraining.crop, error, ingestion, bundle.jobs, bundle.attributes,
        face_input_spec=bundle.face_input_spec,
        face_metadata=bundle.face_analyzer.metadata if bundle.face_analyzer else None,
    )  # fmt: skip
    storage.write_json(str(portable / litert_model.METADATA_FILE), metadata)


def _from_encoded(network: keras.Model, bundle: TrainedScorer) -> Callable[..., dict[str, tf.Tensor]]:
    """Return a function of encoded photos and face inputs that decodes the photos and runs a network."""

    def score(image_bytes: tf.Tensor, *faces: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = bundle.pixels(image_bytes)
        return network([pixels, *faces] if faces else pixels, training=False)

    return score


def _from_encoded_with_job(network: keras.Model, bundle: TrainedScorer) -> Callable[..., dict[str, tf.Tensor]]:
    """Return a function like that of `_from_encoded` that takes job names as its last argument."""
    names = tf.constant(["", *bundle.jobs])

    def score(image_bytes: tf.Tensor, *rest: tf.Tensor) -> dict[str, tf.Tensor]:
        *faces, job = rest
        # A name that matches none of them gives index 0, unknown.
        index = tf.argmax(tf.cast(job[:, None] == names, tf.int32), axis=-1, output_type=tf.int32)
        return network([bundle.pixels(image_bytes), *faces, index], training=False)

    return score


def load(uri: str, verify_all: bool = False) -> SavedModelScorer:
    """Load a published version.

    Args:
        uri: Folder of the version, local, ``gs://`` or ``s3://``; see ``channels.resolve``.
        verify_all: True verifies the digests of all files; False only of the files that are loaded.

    Raises:
        FileNotFoundError: There is no complete version.
        ValueError: The folder is no version of this project, or its files differ from those that were published.
    """
    if not storage.exists(storage.join(uri, COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {COMPLETE} in it")
    excluded = () if verify_all else (BUNDLE_FOLDER, f"{litert_model.FOLDER}/{litert_model.NETWORK_FILE}")
    with integrity.local_copy(uri, exclude=excluded) as folder:
        metadata = _read_metadata(folder)
        face_input_spec = FaceInputSpec(**metadata.get("reads", {}))
        reader = litert_model.load_face_analyzer(folder, face_input_spec) if face_input_spec.uses_faces else None
        try:
            loaded = tf.saved_model.load(folder)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ValueError(f"expected a SavedModel at {uri}, which cannot be read: {error}") from error
    signature = loaded.signatures.get(SIGNATURE)
    outputs = set(signature.structured_outputs) if signature else set()
    if not outputs >= {"mean", "std", "distribution"}:
        raise ValueError(
            f"expected the signature {SIGNATURE} with mean, std and distribution at {uri},"
            f" found {sorted(loaded.signatures)} with {sorted(outputs)}"
        )
    settings = from_parameters(Ingestion, **metadata.get("ingestion", {}))
    jobs = tuple(metadata.get("jobs", ()))
    explain = loaded.signatures.get(EXPLAIN)
    return SavedModelScorer(uri, version_of(uri), signature, explain, loaded, jobs, face_input_spec, reader, settings)


def _read_metadata(uri: str) -> dict[str, Any]:
    """Read ``portable.json`` of a version; empty if the version is older than the file."""
    try:
        return storage.read_json(storage.join(uri, litert_model.FOLDER, litert_model.METADATA_FILE))
    except FileNotFoundError:
        return {}


def load_bundle(uri: str) -> TrainedScorer:
    """Load the bundle that a version was exported from.

    Args:
        uri: Folder of the version, local, ``gs://`` or ``s3://``; see ``channels.resolve``.

    Raises:
        FileNotFoundError: The version has no bundle; old versions do not.
        ValueError: The bundle differs from the one that was published.
    """
    if not storage.exists(storage.join(uri, BUNDLE_FOLDER, "bundle.json")):
        raise FileNotFoundError(f"expected the bundle of a published version in {uri}/{BUNDLE_FOLDER}, found none")
    with integrity.local_copy(uri, BUNDLE_FOLDER) as folder:
        return bundles.load(Path(folder, BUNDLE_FOLDER))


def load_bundle_folder(uri: str) -> TrainedScorer:
    """Load a bundle from a local, ``gs://`` or ``s3://`` folder."""
    with tempfile.TemporaryDirectory() as folder:
        storage.download_tree(uri, folder)
        return bundles.load(folder)
