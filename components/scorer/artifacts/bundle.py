"""The bundle: a trained scorer with everything that is needed to rebuild, audit and use it.

encoder/  encoder.keras  the encoder.
          encoder.json   {format, settings}.
scorer/   scorer.keras   the scorer.
          bundle.json    {format, settings, data_fingerprint, revision, history, versions, heads, notes}.
          heads.keras    the heads, only if the data set has jobs or attributes.
          norms.json     the upload norms.
          faces/         the face detector and embedder, only if configured; see ``embedder``.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Importing these modules registers the classes of a saved network with Keras.
import components.scorer.model.auxiliary_heads
import components.scorer.model.encoder
import components.scorer.model.layers
import components.scorer.model.losses
import components.scorer.model.serving_outputs  # noqa: F401
from components.scorer.faces import analyzer, embedder, face_inputs
from components.scorer.faces.face_inputs import FaceInputSpec
from components.scorer.imaging import preprocessing_tf
from components.scorer.jobs import check_job_count, to_job_ids
from components.scorer.model import inputs as scorer_inputs
from components.scorer.model.auxiliary_heads import HeadSpec, attach_heads
from components.scorer.model.inputs import PIXELS, ModelInputs
from components.scorer.model.network import FORMAT
from components.scorer.parameters import as_parameters, from_parameters
from components.scorer.settings import SCORES, Pretraining, Training

HEADS_FILE, NORMS_FILE = "heads.keras", "norms.json"
"""Names of the optional files of a bundle."""


@dataclass(frozen=True)
class TrainedScorer:
    """Trained scorer.

    Attributes:
        model: Keras model of pixels float ``[n, crop, crop, 3]``, 0..255, and the other inputs of ``inputs``, to votes
            ``[n, 10]`` that sum to 1.
        pretraining: Settings that built the encoder.
        training: Settings of the training.
        data_fingerprint: Fingerprint of the training data set.
        revision: Git revision of the code; "" if unknown.
        history: Learning curves, one value an epoch: ``loss``, ``val_loss``, ``head_loss``, ``head_val_loss``, …
        head_spec: Specification of the heads: the known jobs and the predicted attributes.
        heads: Model of the heads; None without jobs and attributes. It takes the input of the model's last layer,
            float32 ``[n, c]``, and job ids int32 ``[n]``, 0 unknown. It gives ``votes`` ``[n, 10]``, for job 0 the
            model's, and ``attributes`` ``[n, k]``.
        norms: Upload norms as JSON; empty without norms.
        faces: Files of the face detector and embedder by name, see ``embedder``; empty if none is configured.
        notes: Warnings of training for people, one sentence each.
    """

    model: keras.Model
    pretraining: Pretraining
    training: Training
    data_fingerprint: str = ""
    revision: str = ""
    history: dict[str, list[float]] = field(default_factory=dict)
    head_spec: HeadSpec = field(default_factory=HeadSpec)
    heads: keras.Model | None = None
    norms: bytes = b""
    faces: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def jobs(self) -> tuple[str, ...]:
        """Names of the known jobs, in the order of their ids from 1 on."""
        return self.head_spec.jobs

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the predicted attributes, in the order of the outputs."""
        return tuple(self.head_spec.attributes)

    @property
    def detector(self) -> bytes:
        """Face detector as ONNX; empty if none is configured."""
        return self.faces.get(embedder.DETECTOR, b"")

    @cached_property
    def model_inputs(self) -> ModelInputs:
        """Specification of the model's inputs."""
        return scorer_inputs.infer_inputs(self.model)

    @cached_property
    def face_input_spec(self) -> FaceInputSpec:
        """Specification of the model's inputs that are computed from the face."""
        return self.model_inputs.face_input_spec(self.pretraining.crop, self.training.face_view_scale)

    @cached_property
    def face_analyzer(self) -> analyzer.FaceAnalyzer | None:
        """Face detector with its embedder; None if the bundle has no detector."""
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), self.faces)
            return analyzer.FaceAnalyzer.load(folder)

    @property
    def face_summary(self) -> str:
        """English description of the face inputs and of the networks that compute them."""
        digests = json.loads(self.faces.get(embedder.METADATA, b"{}")).get("sha256", {})
        return scorer_inputs.describe_face_inputs(self.model_inputs, digests)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings as plain values, by phase."""
        return {"pretraining": as_parameters(self.pretraining), "training": as_parameters(self.training)}

    @property
    def visible_fraction(self) -> float:
        """Fraction of a photo's width and height that the model sees, a crop from the middle."""
        return self.pretraining.crop / self.training.scale

    def pixels(self, data: tf.Tensor) -> tf.Tensor:
        """Decode and resize photos, string ``[n]``, to the model's input float32 ``[n, crop, crop, 3]``, 0..255."""
        return preprocessing_tf.preprocess_photos(data, self.training.scale, self.pretraining.crop)

    def build_inputs(self, photos: Sequence[bytes]) -> dict[str, tf.Tensor]:
        """Return the model's inputs by name (see ``inputs``) for encoded, normalised photos.

        Raises:
            ValueError: The model uses faces, and the bundle has no detector or not the model's embedder.
        """
        return {PIXELS: self.pixels(tf.constant(photos)), **self._compute_face_inputs(photos)}

    def score(self, photos: list[bytes], jobs: Sequence[str] | None = None, batch_size: int = 32) -> np.ndarray:
        """Return votes float32 ``[n, 10]`` for encoded, upright photos.

        Args:
            photos: Encoded photos, n of them.
            jobs: Job of each photo; None: all are unknown.
            batch_size: Photos of a batch.
        """
        if jobs is not None:
            return self.predict(photos, jobs, batch_size)["votes"]
        votes = [
            np.asarray(self._votes_graph(tf.constant(batch), self._compute_face_inputs(batch)))
            for batch in (photos[start : start + batch_size] for start in range(0, len(photos), batch_size))
        ]
        return np.concatenate(votes) if votes else np.empty((0, len(SCORES)), "float32")

    def predict(self, photos: list[bytes], jobs: Sequence[str], batch_size: int = 32) -> dict[str, np.ndarray]:
        """Return votes and attributes for encoded, upright photos and the job of each.

        Args:
            photos: Encoded photos, n of them.
            jobs: Job names, n of them; "" and unknown names count as unknown.
            batch_size: Photos of a batch.

        Returns:
            ``votes`` float32 ``[n, 10]``, and ``attributes`` float32 ``[n, k]``, each the probability of yes.

        Raises:
            ValueError: The number of jobs is not the number of photos.
        """
        check_job_count(jobs, len(photos))
        if self.heads is None:
            return {"votes": self.score(photos, None, batch_size), "attributes": np.empty((len(photos), 0), "float32")}
        job_ids = to_job_ids(jobs, self.jobs)
        batches = [slice(start, start + batch_size) for start in range(0, len(photos), batch_size)]
        outputs = [
            self._heads_graph(tf.constant(photos[batch]), self._compute_face_inputs(photos[batch]), job_ids[batch])
            for batch in batches
        ]
        votes = np.concatenate([np.empty((0, len(SCORES)), "float32"), *(batch["votes"] for batch in outputs)])
        if not self.attributes:
            return {"votes": votes, "attributes": np.empty((len(photos), 0), "float32")}
        empty = np.empty((0, len(self.attributes)), "float32")
        return {"votes": votes, "attributes": np.concatenate([empty, *(batch["attributes"] for batch in outputs)])}

    def _compute_face_inputs(self, photos: Sequence[bytes]) -> dict[str, tf.Tensor]:
        """Return the inputs that are computed from the photos' faces; empty if the model has none."""
        if not self.model_inputs:
            return {}
        if self.face_analyzer is None or (
            self.model_inputs.embedding_size and self.face_analyzer.size != self.model_inputs.embedding_size
        ):
            required = (
                f"embeddings of {self.model_inputs.embedding_size}" if self.model_inputs.embedding_size else "landmarks"
            )
            raise ValueError(
                f"the scorer reads {required} for each face, and its bundle's {embedder.FOLDER}/ gives none"
            )
        return {
            name: tf.constant(value)
            for name, value in face_inputs.face_inputs_of(photos, self.face_analyzer, self.face_input_spec).items()
        }

    @cached_property
    def _votes_graph(self) -> Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor]:
        """Graph from encoded photos and their face inputs to votes.

        One graph is twice as fast as single operations.
        """
        return tf.function(
            lambda data, face_arrays: self.model(self._order_inputs(data, face_arrays), training=False),
            input_signature=[tf.TensorSpec([None], tf.string), self._face_specs()],
        )

    @cached_property
    def _heads_graph(self) -> Callable[[tf.Tensor, dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
        """Graph from encoded photos, their face inputs and job ids to the outputs of the heads."""
        network = attach_heads(self.model, self.heads)

        def predict(data: tf.Tensor, face_arrays: dict[str, tf.Tensor], job: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = {PIXELS: self.pixels(data), **face_arrays}
            return network([*(inputs[name] for name in self.model_inputs.input_names), job], training=False)

        specs = [tf.TensorSpec([None], tf.string), self._face_specs(), tf.TensorSpec([None], tf.int32)]
        return tf.function(predict, input_signature=specs)

    def _order_inputs(self, data: tf.Tensor, face_arrays: Mapping[str, tf.Tensor]) -> Any:
        return scorer_inputs.order_inputs(self.model, {PIXELS: self.pixels(data), **face_arrays})

    def _face_specs(self) -> dict[str, tf.TensorSpec]:
        face_tensors = self.model.inputs[1:]
        return {tensor.name: tf.TensorSpec(tensor.shape, tf.float32) for tensor in face_tensors}

    def save(self, folder: str | Path) -> None:
        """Write the bundle into ``folder``; ``bundle.json`` is written last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        without_optimizer(self.model).save(folder / "scorer.keras")
        if self.heads is not None:
            self.heads.save(folder / HEADS_FILE)
        if self.norms:
            (folder / NORMS_FILE).write_bytes(self.norms)
        if self.faces:
            _write_files(folder / embedder.FOLDER, self.faces)
        metadata = {
            "format": FORMAT,
            "settings": self.settings,
            "data_fingerprint": self.data_fingerprint,
            "revision": self.revision,
            "history": self.history,
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            "heads": asdict(self.head_spec),
            "notes": list(self.notes),
        }
        (folder / "bundle.json").write_text(json.dumps(metadata, indent=1))


def without_optimizer(model: keras.Model) -> keras.Model:
    """Return the same network and weights without the optimizer's state, which is twice the size of the weights."""
    copy = model.__class__.from_config(model.get_config())  # a clone would be compiled as well
    copy.set_weights(model.get_weights())
    return copy


def load(folder: str | Path) -> TrainedScorer:
    """Read a bundle.

    Raises:
        FileNotFoundError: ``folder`` holds no complete bundle.
        ValueError: Another version of this project wrote the bundle, in another format.
    """
    folder = Path(folder)
    if not (folder / "bundle.json").exists():
        raise FileNotFoundError(f"{folder} holds no scorer bundle: expected scorer.keras and bundle.json in it")
    metadata = json.loads((folder / "bundle.json").read_text())
    _check_format(folder, metadata, "a scorer")
    return TrainedScorer(
        model=keras.saving.load_model(folder / "scorer.keras", compile=False),
        pretraining=from_parameters(Pretraining, **metadata["settings"]["pretraining"]),
        training=from_parameters(Training, **metadata["settings"]["training"]),
        data_fingerprint=metadata["data_fingerprint"],
        revision=metadata["revision"],
        history=metadata["history"],
        head_spec=HeadSpec(**{**metadata["heads"], "jobs": tuple(metadata["heads"]["jobs"])}),
        heads=keras.saving.load_model(folder / HEADS_FILE, compile=False) if (folder / HEADS_FILE).exists() else None,
        norms=_read_optional(folder / NORMS_FILE),
        faces=load_face_files(folder),
        notes=tuple(metadata["notes"]),
    )


def _check_format(folder: Path, metadata: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError if a bundle or an encoder has another format; files without a number have format 1."""
    if (number := metadata.get("format", 1)) != FORMAT:
        raise ValueError(
            f"expected {kind} of format {FORMAT} in {folder}, got format {number}: another version of this project"
            " wrote it; run the pipeline again with this version"
        )


def load_face_files(folder: str | Path) -> dict[str, bytes]:
    """Read the files of the face detector and embedder from ``faces/`` of a data set or bundle; empty without it."""
    faces = Path(folder, embedder.FOLDER)
    return {file.name: file.read_bytes() for file in sorted(faces.iterdir())} if faces.is_dir() else {}


def detector_files(detector: bytes) -> dict[str, bytes]:
    """Return the files of ``faces/`` for a face detector (ONNX) without an embedder; empty without a detector."""
    metadata = {"sha256": {"detector": hashlib.sha256(detector).hexdigest()}}
    return {embedder.DETECTOR: detector, embedder.METADATA: json.dumps(metadata).encode()} if detector else {}


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _read_optional(file: Path) -> bytes:
    """Return a file's content; empty if it does not exist."""
    return file.read_bytes() if file.exists() else b""


def save_encoder(encoder: keras.Model, settings: Pretraining, folder: str | Path) -> None:
    """Write an encoder and the settings that rebuild it; the settings are written last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save(folder / "encoder.keras")
    (folder / "encoder.json").write_text(json.dumps({"format": FORMAT, "settings": as_parameters(settings)}, indent=1))


def load_encoder(folder: str | Path) -> tuple[keras.Model, Pretraining]:
    """Read an encoder and its settings.

    Raises:
        FileNotFoundError: ``folder`` holds no complete encoder.
    """
    settings = encoder_settings(folder)
    return keras.saving.load_model(Path(folder, "encoder.keras"), compile=False), settings


def encoder_settings(folder: str | Path) -> Pretraining:
    """Read the pretraining settings of an encoder without loading it.

    Raises:
        FileNotFoundError: ``folder`` holds no complete encoder.
        ValueError: Another version of this project wrote the encoder, in another format.
    """
    folder = Path(folder)
    if not (folder / "encoder.json").exists():
        raise FileNotFoundError(f"{folder} holds no encoder: expected encoder.keras and encoder.json in it")
    metadata = json.loads((folder / "encoder.json").read_text())
    _check_format(folder, metadata, "an encoder")
    return from_parameters(Pretraining, **metadata["settings"])
