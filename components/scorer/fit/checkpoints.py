"""Checkpoints and a training loop that can be killed at any moment: a completed epoch is never trained again.

A checkpoint is two files. ``epoch-0003.keras`` (network, optimizer, loss) is written first, then ``epoch-0003.json``
(its checksum, the curves so far, the fingerprint of the settings). If the second file is missing, unreadable or does
not match, the write was interrupted and the checkpoint is skipped. A checkpoint of other settings is skipped too.
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

# Importing these modules registers the classes of a saved network with Keras.
import components.scorer.model.auxiliary_heads
import components.scorer.model.encoder
import components.scorer.model.layers
import components.scorer.model.losses
import components.scorer.model.serving_outputs  # noqa: F401
from components.scorer import storage
from components.scorer.fit import ema
from components.scorer.fit.distributed import EpochFn, WorkerGroup
from components.scorer.model.losses import check_finite
from components.scorer.model.network import FORMAT
from components.scorer.progress import duration, progress_line

History = dict[str, list[float]]


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints of one training.

    Attributes:
        uri: Folder that outlives the process (local, ``gs://`` or ``s3://``).
        fingerprint: Digest of everything that the training depends on; see ``fingerprint_of``.
    """

    uri: str
    fingerprint: str

    def save(self, model: keras.Model, epoch: int, history: History, keep: set[int], write: bool = True) -> None:
        """Write the checkpoint of a completed epoch, then delete the other epochs that are not in ``keep``.

        Args:
            model: The compiled model.
            epoch: Number of the epoch, from 1.
            history: Curves up to this epoch.
            keep: Epochs whose checkpoints are kept.
            write: If False, nothing is written or deleted. Keras still creates variables as it saves, and in the scope
                of a strategy all workers have to create them together.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.keras")
            model.save(file)
            data = file.read_bytes()
        if not write:
            return
        metadata = {
            "epoch": epoch,
            "sha256": hashlib.sha256(data).hexdigest(),
            "fingerprint": self.fingerprint,
            "curves": history,
        }
        storage.write_bytes(self._file_uri(epoch, "keras"), data)
        storage.write_bytes(self._file_uri(epoch, "json"), json.dumps(metadata).encode())
        for obsolete in set(self._epochs()) - keep - {epoch}:
            storage.delete_tree(self._file_uri(obsolete, "json"))
            storage.delete_tree(self._file_uri(obsolete, "keras"))

    def latest(self) -> tuple[int, History] | None:
        """Return the last complete epoch and the curves up to it; None if no checkpoint can be used."""
        for epoch in sorted(self._epochs(), reverse=True):
            metadata = self._read_metadata(epoch)
            if metadata is not None:
                return epoch, metadata["curves"]
        return None

    def load(self, epoch: int) -> keras.Model:
        """Load the compiled model as it was at the end of an epoch."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.keras")
            file.write_bytes(storage.read_bytes(self._file_uri(epoch, "keras")))
            return keras.saving.load_model(file)

    def _read_metadata(self, epoch: int) -> dict | None:
        """Return the JSON of a checkpoint; None, after a line in the log, if the checkpoint cannot be used."""
        try:
            metadata = json.loads(storage.read_bytes(self._file_uri(epoch, "json")))
            digest = hashlib.sha256(storage.read_bytes(self._file_uri(epoch, "keras"))).hexdigest()
        except (json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError):
            metadata, digest = {}, None
        if not metadata or metadata["sha256"] != digest:
            flaw = "it is incomplete"
        elif metadata["fingerprint"] != self.fingerprint:
            flaw = "it was trained with other settings or data"
        else:
            return metadata
        print(f"checkpoint of epoch {epoch} passed over: {flaw}", flush=True)
        return None

    def _epochs(self) -> list[int]:
        """Return the epochs that have any file, sorted."""
        matches = (re.fullmatch(r"epoch-(\d+)\.(?:keras|json)", file.name) for file in storage.list_files(self.uri))
        return sorted({int(match[1]) for match in matches if match})

    def _file_uri(self, epoch: int, suffix: str) -> str:
        return storage.join(self.uri, f"epoch-{epoch:04d}.{suffix}")


def fingerprint_of(*parts: object) -> str:
    """Return a short digest of JSON values and of the networks' format.

    The values are settings, the data fingerprint and the digest of the initial weights.
    """
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:16]


def fit(
    model: keras.Model,
    epochs: int,
    epoch_batches: Callable[[int], tf.data.Dataset],
    *,
    task: str,
    checkpoints: CheckpointStore,
    seed: int,
    validation: tf.data.Dataset | None = None,
    workers: WorkerGroup | None = None,
) -> tuple[keras.Model, History]:
    """Train to ``epochs``, resuming from the last complete epoch if there is one.

    Every epoch seeds its order, its augmentation and its dropout from ``seed`` and its own number. A resumed training
    therefore sees the same batches as one that was not interrupted.

    Args:
        model: Compiled model. If its optimizer keeps an EMA of the weights (``ema``), the EMA is evaluated and
            returned.
        epochs: Total number of epochs.
        epoch_batches: Function from the number of an epoch, from 0, to its batches.
        task: Name of the training in the log.
        checkpoints: Store of the checkpoints.
        seed: Seed of all randomness.
        validation: Validation batches. With them the epoch with the lowest ``val_loss`` is returned, otherwise the
            last.
        workers: Worker group of a distributed training. The model is built, and this function called, in the scope of
            its strategy. Only the chief writes.

    Returns:
        The compiled model and its curves (``loss``, ``val_loss``, ``seconds``, …), one value an epoch.

    Raises:
        ValueError: A loss is not finite. It is raised after the batch with that loss, and the epoch is not saved.
    """
    resumed = checkpoints.latest()
    first, history = resumed or (0, {})
    if resumed:
        print(f"{task}: going on from epoch {first} of {epochs}", flush=True)
        model = checkpoints.load(first)
    if workers:
        workers.assert_equal_across_workers(first, "the epochs that are done")
    train = workers.make_epoch_fn(model) if workers else _make_keras_epoch_fn(model)
    progress = _ProgressCallback(task, epochs)
    for epoch in range(first, epochs):
        _seed_random_layers(model, seed + epoch)
        began = time.monotonic()
        progress.epoch = epoch
        values = train(epoch_batches(epoch), validation, progress)
        check_finite([*values.values()], task, f"losses of epoch {epoch + 1}")
        for name, value in {**values, "seconds": time.monotonic() - began}.items():
            history.setdefault(name, []).append(value)
        checkpoints.save(model, epoch + 1, history, {best_epoch(history)}, write=workers is None or workers.chief)
        if workers:  # wait until the chief has written
            workers.assert_equal_across_workers(epoch + 1, "the epochs that are done")
        losses = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{task}: epoch {epoch + 1} of {epochs}, {losses}, {duration(history['seconds'][-1])}", flush=True)
    best = best_epoch(history)
    if best != len(history.get("loss", [])):
        model = checkpoints.load(best)
    ema.apply_ema(model)
    return model, history


def best_epoch(history: History) -> int:
    """Return the number, from 1, of the epoch to keep: the one with the lowest ``val_loss``, or without it the last."""
    losses = history.get("val_loss")
    return 1 + losses.index(min(losses)) if losses else len(history.get("loss", []))


def _make_keras_epoch_fn(model: keras.Model) -> EpochFn:
    """Return an epoch function that calls ``resolve_model.fit``."""

    def run(
        data: tf.data.Dataset, validation: tf.data.Dataset | None, progress: keras.callbacks.Callback
    ) -> dict[str, float]:
        callbacks = [progress, *ema.ema_callbacks(model)]
        history = model.fit(data, validation_data=validation, shuffle=False, verbose=0, callbacks=callbacks)
        return {name: float(values[0]) for name, values in history.history.items()}

    return run


def _seed_random_layers(model: keras.Model, seed: int) -> None:
    """Seed the random layers, because ``.keras`` files do not save their state."""
    for index, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([seed, index])


@dataclass
class _ProgressCallback(keras.callbacks.Callback):
    """Callback that prints progress and the time left, and raises ValueError at a loss that is not finite.

    Attributes:
        task: Name of the training in the log.
        epochs: Total number of epochs.
        epoch: Number of the current epoch, from 0.
        interval: Seconds between two lines.
    """

    task: str
    epochs: int
    epoch: int = 0
    interval: float = 15.0
    _batches: int | None = field(default=None, init=False)

    def __post_init__(self):
        super().__init__()
        self._began = self._printed = time.monotonic()
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._batch = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._batch, self._done = batch + 1, self._done + 1
        check_finite(logs["loss"], self.task, f"loss of epoch {self.epoch + 1}, batch {self._batch}")
        now = time.monotonic()
        if now - self._printed < self.interval:
            return
        self._printed = now
        total = self._batches and self._done + self._batches * (self.epochs - self.epoch) - self._batch
        position = f"epoch {self.epoch + 1} of {self.epochs}, batch {self._batch}"
        print(f"{self.task}: {position}; {progress_line(self._done, total, now - self._began)}", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._batches = self._batch
