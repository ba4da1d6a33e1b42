"""Training that can be killed at any moment: an epoch that was completed is never trained again.

A checkpoint is two files, ``epoch-0003.keras`` (network, optimiser, loss) and then ``epoch-0003.json`` (its
checksum, the curves so far, the fingerprint of the settings). One whose second file is missing, unreadable or
does not match was cut off in the writing and is passed over; one of other settings is not this training's.
"""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import tensorflow as tf

# Keras finds the classes of a saved network by their registration, which these modules do.
import components.scorer.model.auxiliary_heads
import components.scorer.model.encoder
import components.scorer.model.layers
import components.scorer.model.losses
import components.scorer.model.serving_outputs  # noqa: F401
from components.scorer import storage
from components.scorer.fit import ema
from components.scorer.fit.distributed import Run, Workers
from components.scorer.model.losses import expect_finite
from components.scorer.progress import duration, line

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training.

    Attributes:
        uri: folder that outlives the process (local, ``gs://`` or ``s3://``).
        fingerprint: what the training depends on; see ``fingerprint_of``.
    """

    uri: str
    fingerprint: str

    def save(self, model: keras.Model, epoch: int, curves: Curves, keep: set[int], write: bool = True) -> None:
        """Write the checkpoint of a completed epoch, then remove those not in ``keep``.

        Without ``write`` nothing comes of it but what Keras does as it saves: it makes variables, which in the scope of
        a strategy all workers have to make together.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.keras")
            model.save(file)
            data = file.read_bytes()
        if not write:
            return
        about = {
            "epoch": epoch,
            "sha256": hashlib.sha256(data).hexdigest(),
            "fingerprint": self.fingerprint,
            "curves": curves,
        }
        storage.write_bytes(self._file(epoch, "keras"), data)
        storage.write_bytes(self._file(epoch, "json"), json.dumps(about).encode())
        for old in set(self._epochs()) - keep - {epoch}:
            storage.delete_tree(self._file(old, "json"))
            storage.delete_tree(self._file(old, "keras"))

    def latest(self) -> tuple[int, Curves] | None:
        """The last complete epoch and the curves up to it; None when there is nothing to go on from."""
        for epoch in sorted(self._epochs(), reverse=True):
            about = self._read(epoch)
            if about is not None:
                return epoch, about["curves"]
        return None

    def load(self, epoch: int) -> keras.Model:
        """The compiled model as it was at the end of an epoch."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.keras")
            file.write_bytes(storage.read_bytes(self._file(epoch, "keras")))
            return keras.saving.load_model(file)

    def _read(self, epoch: int) -> dict | None:
        """What a checkpoint says of itself; None, and a line in the log, when it cannot be used."""
        try:
            about = json.loads(storage.read_bytes(self._file(epoch, "json")))
            found = hashlib.sha256(storage.read_bytes(self._file(epoch, "keras"))).hexdigest()
        except (json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError):
            about, found = {}, None
        if not about or about["sha256"] != found:
            flaw = "it is incomplete"
        elif about["fingerprint"] != self.fingerprint:
            flaw = "it was trained with other settings or data"
        else:
            return about
        print(f"checkpoint of epoch {epoch} passed over: {flaw}", flush=True)
        return None

    def _epochs(self) -> list[int]:
        """Epochs of which any file is there."""
        matches = (re.fullmatch(r"epoch-(\d+)\.(?:keras|json)", file.name) for file in storage.files(self.uri))
        return sorted({int(match[1]) for match in matches if match})

    def _file(self, epoch: int, suffix: str) -> str:
        return storage.join(self.uri, f"epoch-{epoch:04d}.{suffix}")


def fingerprint_of(*parts: object) -> str:
    """A short digest of JSON values: settings, data fingerprint, the start's weights."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fit(
    model: keras.Model,
    epochs: int,
    data: Callable[[int], tf.data.Dataset],
    *,
    what: str,
    checkpoints: Checkpoints,
    seed: int,
    validation: tf.data.Dataset | None = None,
    workers: Workers | None = None,
) -> tuple[keras.Model, Curves]:
    """Train to ``epochs``, from the last complete epoch if there is one.

    Every epoch seeds its order, its augmentation and its dropout from ``seed`` and its own number, so that a
    training that was interrupted sees what it would have seen otherwise.

    Args:
        model: compiled; where its optimizer keeps a mean of the weights (``ema``), that is judged and returned.
        epochs: number of epochs in all.
        data: the batches of an epoch, by its number from 0.
        what: name of the work in the log.
        checkpoints: where epochs are kept.
        seed: of all randomness.
        validation: with it, the epoch with the lowest ``val_loss`` is returned; without, the last.
        workers: with whom this training is shared; the model is made in their strategy's scope, in which this is
            called too. The chief alone writes.

    Returns:
        The compiled model and its curves (``loss``, ``val_loss``, ``seconds``, …), a value an epoch.

    Raises:
        ValueError: a loss is not finite; said after the batch of which it is, and nothing is written of its epoch.
    """
    found = checkpoints.latest()
    first, curves = found or (0, {})
    if found:
        print(f"{what}: going on from epoch {first} of {epochs}", flush=True)
        model = checkpoints.load(first)
    if workers:
        workers.agree(first, "the epochs that are done")
    train = workers.epochs(model) if workers else _by_keras(model)
    progress = _Progress(what, epochs)
    for epoch in range(first, epochs):
        _seed_noise(model, seed + epoch)
        began = time.monotonic()
        progress.epoch = epoch
        values = train(data(epoch), validation, progress)
        expect_finite([*values.values()], what, f"losses of epoch {epoch + 1}")
        for name, value in {**values, "seconds": time.monotonic() - began}.items():
            curves.setdefault(name, []).append(value)
        checkpoints.save(model, epoch + 1, curves, {best_epoch(curves)}, write=workers is None or workers.chief)
        if workers:  # none goes on before the chief has written
            workers.agree(epoch + 1, "the epochs that are done")
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{what}: epoch {epoch + 1} of {epochs}, {shown}, {duration(curves['seconds'][-1])}", flush=True)
    best = best_epoch(curves)
    if best != len(curves.get("loss", [])):
        model = checkpoints.load(best)
    ema.settle(model)
    return model, curves


def best_epoch(curves: Curves) -> int:
    """Number, from 1, of the epoch to keep: the lowest ``val_loss``, or the last without one."""
    losses = curves.get("val_loss")
    return 1 + losses.index(min(losses)) if losses else len(curves.get("loss", []))


def _by_keras(model: keras.Model) -> Run:
    """Epochs by ``network.fit``."""

    def run(
        data: tf.data.Dataset, validation: tf.data.Dataset | None, told: keras.callbacks.Callback
    ) -> dict[str, float]:
        callbacks = [told, *ema.callbacks(model)]
        fitted = model.fit(data, validation_data=validation, shuffle=False, verbose=0, callbacks=callbacks)
        return {name: float(values[0]) for name, values in fitted.history.items()}

    return run


def _seed_noise(model: keras.Model, seed: int) -> None:
    """Set the random state of layers that draw numbers: ``.keras`` files do not carry it."""
    for place, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([seed, place])


@dataclass
class _Progress(keras.callbacks.Callback):
    """A line in the log now and then, with the time that all epochs together still need; no loss that is not finite."""

    what: str
    epochs: int
    epoch: int = 0
    every: float = 15.0
    _batches: int | None = field(default=None, init=False)

    def __post_init__(self):
        super().__init__()
        self._began = self._printed = time.monotonic()
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._batch = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._batch, self._done = batch + 1, self._done + 1
        expect_finite(logs["loss"], self.what, f"loss of epoch {self.epoch + 1}, batch {self._batch}")
        now = time.monotonic()
        if now - self._printed < self.every:
            return
        self._printed = now
        total = self._batches and self._done + self._batches * (self.epochs - self.epoch) - self._batch
        where = f"epoch {self.epoch + 1} of {self.epochs}, batch {self._batch}"
        print(f"{self.what}: {where}; {line(self._done, total, now - self._began)}", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._batches = self._batch
