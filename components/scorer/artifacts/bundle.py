"""What training hands on: weights with all that is needed to rebuild, audit and use them.

encoder/  encoder.keras  encoder.json   {settings}
scorer/   scorer.keras   bundle.json    {settings, data_fingerprint, revision, history, versions, told, notes}
          heads.keras    where the data told jobs or attributes
          norms.json     the upload norms
          faces/         what finds and reads faces, where one was given; see ``embedder``
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras finds the classes of a saved network by their registration, which these modules do.
import components.scorer.model.auxiliary_heads
import components.scorer.model.encoder
import components.scorer.model.layers
import components.scorer.model.losses
import components.scorer.model.serving_outputs  # noqa: F401
from components.scorer.faces import analyzer, embedder, face_inputs
from components.scorer.faces.face_inputs import Reads
from components.scorer.imaging import preprocessing_tf
from components.scorer.jobs import expect_one_each, numbers
from components.scorer.model import inputs as seeing
from components.scorer.model.auxiliary_heads import Heads, join
from components.scorer.model.inputs import PIXELS, Sight
from components.scorer.parameters import as_parameters, from_parameters
from components.scorer.settings import SCORES, Pretraining, Training

HEADS, NORMS = "heads.keras", "norms.json"
"""Files of a bundle that not every one has."""


@dataclass(frozen=True)
class Bundle:
    """A trained scorer.

    Attributes:
        model: float ``[n, crop, crop, 3]``, 0..255, and what ``inputs`` reads, to votes ``[n, 10]`` that sum to 1.
        pretraining: the settings that built the encoder.
        training: the settings that trained it.
        data_fingerprint: of the data set that it was trained on.
        revision: git revision of the code, or "" when unknown.
        history: a value an epoch: ``loss``, ``val_loss``, ``head_loss``, ``head_val_loss``, …
        told: the jobs that it can be told and the attributes that it can be asked for.
        heads: what the model's last layer reads, float32 ``[n, c]``, and jobs int32 ``[n]``, 0 unknown, to ``votes``
            ``[n, 10]`` and ``attributes`` ``[n, k]``; for job 0 the votes are the model's. None where there is neither.
        norms: the upload norms, as JSON; empty in a bundle that is older than they are.
        faces: the files of what finds and reads faces, by name, see ``embedder``; empty where none was given.
        notes: what training saw and people are to be warned of, a sentence each.
    """

    model: keras.Model
    pretraining: Pretraining
    training: Training
    data_fingerprint: str = ""
    revision: str = ""
    history: dict[str, list[float]] = field(default_factory=dict)
    told: Heads = field(default_factory=Heads)
    heads: keras.Model | None = None
    norms: bytes = b""
    faces: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that it can be told, in the order of their numbers from 1 on."""
        return self.told.jobs

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that it has learnt, in the order of its answers."""
        return tuple(self.told.attributes)

    @property
    def detector(self) -> bytes:
        """What finds faces, as ONNX; empty where none was given."""
        return self.faces.get(embedder.DETECTOR, b"")

    @cached_property
    def sight(self) -> Sight:
        """What the model sees of the face."""
        return seeing.of(self.model)

    @cached_property
    def needs(self) -> Reads:
        """What the stages before it give the model of a face."""
        return self.sight.needs(self.pretraining.crop, self.training.face_view_scale)

    @cached_property
    def reader(self) -> analyzer.Reader | None:
        """What finds and reads faces; None where there is nothing that could."""
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), self.faces)
            return analyzer.Reader.load(folder)

    @property
    def reads(self) -> str:
        """What it reads of faces, and by what, in words."""
        digests = json.loads(self.faces.get(embedder.ABOUT, b"{}")).get("sha256", {})
        return seeing.words(self.sight, digests)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings as plain values, by phase."""
        return {"pretraining": as_parameters(self.pretraining), "training": as_parameters(self.training)}

    @property
    def seen(self) -> float:
        """Share of a photo's width and height that the network sees, in the middle."""
        return self.pretraining.crop / self.training.scale

    def pixels(self, data: tf.Tensor) -> tf.Tensor:
        """Encoded photos, string ``[n]``, as the model reads them: float32 ``[n, crop, crop, 3]``."""
        return preprocessing_tf.pixels(data, self.training.scale, self.pretraining.crop)

    def given(self, photos: Sequence[bytes]) -> dict[str, tf.Tensor]:
        """What the model takes for encoded, normalised photos, by the names of its inputs: see ``inputs``.

        Raises:
            ValueError: it sees faces and has nothing that finds or reads them.
        """
        return {PIXELS: self.pixels(tf.constant(photos)), **self._of_faces(photos)}

    def score(self, photos: list[bytes], jobs: Sequence[str] | None = None, batch_size: int = 32) -> np.ndarray:
        """Votes float32 ``[n, 10]`` for encoded, upright photos, and for the job of each where they are told."""
        if jobs is not None:
            return self.answers(photos, jobs, batch_size)["votes"]
        votes = [
            np.asarray(self._votes(tf.constant(batch), self._of_faces(batch)))
            for batch in (photos[start : start + batch_size] for start in range(0, len(photos), batch_size))
        ]
        return np.concatenate(votes) if votes else np.empty((0, len(SCORES)), "float32")

    def answers(self, photos: list[bytes], jobs: Sequence[str], batch_size: int = 32) -> dict[str, np.ndarray]:
        """Votes for encoded, upright photos and the job of each, and the photos' attributes.

        Args:
            photos: n of them.
            jobs: n names; "" and one that it does not know count as unknown.
            batch_size: photos at a time.

        Returns:
            ``votes`` float32 ``[n, 10]``, ``attributes`` float32 ``[n, k]``, each the probability of yes.

        Raises:
            ValueError: there are more or fewer jobs than photos.
        """
        expect_one_each(jobs, len(photos))
        if self.heads is None:
            return {"votes": self.score(photos, None, batch_size), "attributes": np.empty((len(photos), 0), "float32")}
        told = numbers(jobs, self.jobs)
        batches = [slice(start, start + batch_size) for start in range(0, len(photos), batch_size)]
        found = [
            self._answer(tf.constant(photos[batch]), self._of_faces(photos[batch]), told[batch]) for batch in batches
        ]
        votes = np.concatenate([np.empty((0, len(SCORES)), "float32"), *(batch["votes"] for batch in found)])
        if not self.attributes:
            return {"votes": votes, "attributes": np.empty((len(photos), 0), "float32")}
        none = np.empty((0, len(self.attributes)), "float32")
        return {"votes": votes, "attributes": np.concatenate([none, *(batch["attributes"] for batch in found)])}

    def _of_faces(self, photos: Sequence[bytes]) -> dict[str, tf.Tensor]:
        """What the model takes of the photos' faces; nothing where it does not see them."""
        if not self.sight:
            return {}
        if self.reader is None or (self.sight.embedding and self.reader.size != self.sight.embedding):
            of = f"embeddings of {self.sight.embedding}" if self.sight.embedding else "landmarks"
            raise ValueError(f"the scorer reads {of} for each face, and its bundle's {embedder.FOLDER}/ gives none")
        return {name: tf.constant(value) for name, value in face_inputs.read(photos, self.reader, self.needs).items()}

    @cached_property
    def _votes(self) -> Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor]:
        """Encoded photos, and what is seen of their faces, to votes as one graph: twice as fast as by operations."""
        return tf.function(
            lambda data, seen: self.model(self._in_order(data, seen), training=False),
            input_signature=[tf.TensorSpec([None], tf.string), self._face_specs()],
        )

    @cached_property
    def _answer(self) -> Callable[[tf.Tensor, dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
        """The same and jobs to what the heads say, as one graph."""
        network = join(self.model, self.heads)

        def answer(data: tf.Tensor, seen: dict[str, tf.Tensor], job: tf.Tensor) -> dict[str, tf.Tensor]:
            given = {PIXELS: self.pixels(data), **seen}
            return network([*(given[name] for name in self.sight.reads), job], training=False)

        specs = [tf.TensorSpec([None], tf.string), self._face_specs(), tf.TensorSpec([None], tf.int32)]
        return tf.function(answer, input_signature=specs)

    def _in_order(self, data: tf.Tensor, seen: Mapping[str, tf.Tensor]) -> Any:
        return seeing.in_order(self.model, {PIXELS: self.pixels(data), **seen})

    def _face_specs(self) -> dict[str, tf.TensorSpec]:
        beside = self.model.inputs[1:]
        return {each.name: tf.TensorSpec(each.shape, tf.float32) for each in beside}

    def save(self, folder: str | Path) -> None:
        """Write the bundle into ``folder``, the description last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        untrained(self.model).save(folder / "scorer.keras")
        if self.heads is not None:
            self.heads.save(folder / HEADS)
        if self.norms:
            (folder / NORMS).write_bytes(self.norms)
        if self.faces:
            _write(folder / embedder.FOLDER, self.faces)
        about = {
            "settings": self.settings,
            "data_fingerprint": self.data_fingerprint,
            "revision": self.revision,
            "history": self.history,
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            "told": asdict(self.told),
            "notes": list(self.notes),
        }
        (folder / "bundle.json").write_text(json.dumps(about, indent=1))


def untrained(model: keras.Model) -> keras.Model:
    """The same network and weights without the optimizer's state, which is twice their size."""
    plain = model.__class__.from_config(model.get_config())  # a clone would be compiled as well
    plain.set_weights(model.get_weights())
    return plain


def load(folder: str | Path) -> Bundle:
    """Read a bundle.

    Raises:
        FileNotFoundError: ``folder`` holds no complete bundle.
    """
    folder = Path(folder)
    if not (folder / "bundle.json").exists():
        raise FileNotFoundError(f"{folder} holds no scorer bundle: expected scorer.keras and bundle.json in it")
    about = json.loads((folder / "bundle.json").read_text())
    return Bundle(
        model=keras.saving.load_model(folder / "scorer.keras", compile=False),
        pretraining=from_parameters(Pretraining, **about["settings"]["pretraining"]),
        training=from_parameters(Training, **_still_settings(Training, about["settings"]["training"])),
        data_fingerprint=about["data_fingerprint"],
        revision=about["revision"],
        history=about["history"],
        told=Heads(**{**told, "jobs": tuple(told["jobs"])}) if (told := about.get("told")) else Heads(),
        heads=keras.saving.load_model(folder / HEADS, compile=False) if (folder / HEADS).exists() else None,
        norms=_read(folder / NORMS),
        faces=read_faces(folder) or detector_alone(_read(folder / embedder.DETECTOR)),
        notes=tuple(about.get("notes", ())),
    )


def _still_settings(settings: type, written: dict[str, Any]) -> dict[str, Any]:
    """Of the settings in a bundle those that there are today: a champion may be older than the last one dropped."""
    return {each.name: written[each.name] for each in fields(settings) if each.name in written}


def read_faces(folder: str | Path) -> dict[str, bytes]:
    """The files of what finds and reads faces, which a data set and a bundle keep in ``faces/``; empty without."""
    place = Path(folder, embedder.FOLDER)
    return {file.name: file.read_bytes() for file in sorted(place.iterdir())} if place.is_dir() else {}


def detector_alone(detector: bytes) -> dict[str, bytes]:
    """The same of a face detector, as ONNX, without an embedder; empty without one."""
    about = {"sha256": {"detector": hashlib.sha256(detector).hexdigest()}}
    return {embedder.DETECTOR: detector, embedder.ABOUT: json.dumps(about).encode()} if detector else {}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _read(file: Path) -> bytes:
    """A file's content; empty where there is none, as in bundles that are older than it."""
    return file.read_bytes() if file.exists() else b""


def save_encoder(encoder: keras.Model, settings: Pretraining, folder: str | Path) -> None:
    """Write an encoder and the settings that rebuild it, the settings last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save(folder / "encoder.keras")
    (folder / "encoder.json").write_text(json.dumps({"settings": as_parameters(settings)}, indent=1))


def load_encoder(folder: str | Path) -> tuple[keras.Model, Pretraining]:
    """Read an encoder and its settings.

    Raises:
        FileNotFoundError: ``folder`` holds no complete encoder.
    """
    settings = encoder_settings(folder)
    return keras.saving.load_model(Path(folder, "encoder.keras"), compile=False), settings


def encoder_settings(folder: str | Path) -> Pretraining:
    """How an encoder was pretrained, without loading it.

    Raises:
        FileNotFoundError: ``folder`` holds no complete encoder.
    """
    folder = Path(folder)
    if not (folder / "encoder.json").exists():
        raise FileNotFoundError(f"{folder} holds no encoder: expected encoder.keras and encoder.json in it")
    return from_parameters(Pretraining, **json.loads((folder / "encoder.json").read_text())["settings"])
