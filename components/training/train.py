"""Fit the score head on a pretrained encoder, then the whole network (NIMA)."""

import contextlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from components.scorer import bundle, photos, storage
from components.scorer.bundle import Bundle
from components.scorer.checkpoints import Checkpoints, Curves, best_epoch, fingerprint_of, fit
from components.scorer.losses import squared_emd
from components.scorer.model import build_head, build_scorer, freeze_batch_norms, with_precision
from components.scorer.progress import track
from components.scorer.settings import Pretraining, Training, as_parameters, check_together
from components.training.report import write_report


def train(
    dataset: str | Path,
    encoder: str | Path,
    scorer: str | Path,
    report: str | Path,
    *,
    settings: Training,
    checkpoints: str,
    fingerprint: str,
    revision: str = "",
) -> dict[str, float]:
    """Train a scorer on the split ``train``; the epoch with the lowest loss on ``validation`` is kept.

    Args:
        dataset: TFDS directory.
        encoder: folder of the pretrained encoder.
        scorer: folder to write the bundle to.
        report: file to write the page to.
        settings: how to train.
        checkpoints: URI of the folder of this step's checkpoints.
        fingerprint: of the data set, written into the bundle.
        revision: git revision of the code, written into the bundle.

    Returns:
        ``training_loss`` and ``validation_loss`` of the epoch that was kept (squared EMD), ``training_epochs``,
        ``training_photos`` and ``training_minutes``.

    Raises:
        ValueError: the data set has no photo to train or to validate on, or the settings contradict each other.
    """
    network, pretraining = bundle.load_encoder(encoder)
    check(settings, pretraining, photos.counts(dataset))
    keras.utils.set_random_seed(settings.seed)
    identity = fingerprint_of(as_parameters(pretraining), as_parameters(settings), fingerprint)
    reader = _Reader(dataset, pretraining.crop, settings)
    with _devices(settings):
        network = with_precision(network, "mixed_float16" if settings.mixed_precision else "float32")
        head, head_curves = _fit_head(
            network, reader, settings, Checkpoints(storage.join(checkpoints, "head"), identity)
        )
        model, curves = _fit_all(
            network, head, pretraining, reader, settings, Checkpoints(storage.join(checkpoints, "all"), identity)
        )
        model = with_precision(model, "float32")
    history = {**{f"head_{name}": values for name, values in head_curves.items()}, **curves}
    Bundle(model, pretraining, settings, fingerprint, revision, history).save(scorer)
    write_report(report, settings, head_curves, curves)
    return _metrics(history, photos.counts(dataset)["train"])


def check(settings: Training, pretraining: Pretraining, sizes: dict[str, int]) -> None:
    """Refuse what cannot be trained, before anything is computed."""
    for split in ("train", "validation"):
        if not sizes.get(split):
            raise ValueError(f"training needs rated photos in the split {split!r}, the data set has none: {sizes}")
    check_together(pretraining, settings.scale)
    if settings.head_epochs + settings.epochs == 0:
        raise ValueError("head_epochs and epochs are both 0: nothing would be trained; set one of them to 1 or more")


class _Reader:
    """The data set as this training reads it."""

    def __init__(self, dataset: str | Path, crop: int, settings: Training):
        self.dataset, self.settings = dataset, settings
        self._read = {"scale": settings.scale, "crop": crop, "batch_size": settings.batch_size}

    def plain(self, split: str) -> tf.data.Dataset:
        return photos.batches(self.dataset, split, **self._read)

    def epoch(self, number: int) -> tf.data.Dataset:
        return photos.augmented(
            self.dataset, "train", **self._read, seed=self.settings.seed, epoch=number,
            camera_faults=self.settings.camera_faults,
        )  # fmt: skip

    def pooled(self, network: keras.Model, split: str) -> tf.data.Dataset:
        """The encoder's pooled features of each photo, computed once: ``([b, c], votes [b, 10])``."""
        encode = keras.Model(network.input, keras.layers.GlobalAveragePooling2D(dtype="float32")(network.output))
        batches = -(-photos.counts(self.dataset)[split] // self.settings.batch_size)
        features, votes = [], []
        for pixels, truth in track(self.plain(split), f"features of {split}", batches):
            features.append(encode.predict_on_batch(pixels))
            votes.append(truth.numpy())
        return tf.data.Dataset.from_tensor_slices((np.concatenate(features), np.concatenate(votes)))


def _fit_head(
    network: keras.Model, reader: _Reader, settings: Training, place: Checkpoints
) -> tuple[keras.Model | None, Curves]:
    """The head alone, on features that are computed once: minutes instead of hours for the same epochs."""
    if not settings.head_epochs:
        return None, {}
    train, validation = reader.pooled(network, "train"), reader.pooled(network, "validation")
    pooled = keras.Input((network.output_shape[-1],), name="features")
    head = keras.Model(pooled, build_head(pooled, settings.dropout), name="head")
    head.compile(keras.optimizers.Adam(settings.head_learning_rate), loss=squared_emd)

    def epoch(number: int) -> tf.data.Dataset:
        shuffled = train.shuffle(train.cardinality(), seed=settings.seed + number, reshuffle_each_iteration=False)
        return shuffled.batch(settings.batch_size)

    return fit(
        head,
        settings.head_epochs,
        epoch,
        what="training the head",
        checkpoints=place,
        seed=settings.seed,
        validation=validation.batch(settings.batch_size),
    )


def _fit_all(
    network: keras.Model,
    head: keras.Model | None,
    pretraining: Pretraining,
    reader: _Reader,
    settings: Training,
    place: Checkpoints,
) -> tuple[keras.Model, Curves]:
    """The whole network, from the trained head."""
    model = build_scorer(network, settings.dropout)
    if head is not None:
        model.get_layer("votes").set_weights(head.get_layer("votes").get_weights())
    if pretraining.start != "none":
        freeze_batch_norms(model)
    model.compile(keras.optimizers.Adam(settings.learning_rate), loss=squared_emd)
    return fit(
        model,
        settings.epochs,
        reader.epoch,
        what="training the network",
        checkpoints=place,
        seed=settings.seed,
        validation=reader.plain("validation"),
    )


def _devices(settings: Training) -> contextlib.AbstractContextManager:
    """One device, or every GPU of the machine by ``tf.distribute``."""
    return tf.distribute.MirroredStrategy().scope() if settings.devices == "all" else contextlib.nullcontext()


def _metrics(history: Curves, size: int) -> dict[str, float]:
    """The numbers for the pipeline's UI; of the head when the network as a whole was not trained."""
    prefix = "" if "loss" in history else "head_"
    kept = best_epoch({"val_loss": history[f"{prefix}val_loss"]}) - 1
    seconds = sum(sum(history.get(name, [])) for name in ("seconds", "head_seconds"))
    return {
        "training_loss": history[f"{prefix}loss"][kept],
        "validation_loss": history[f"{prefix}val_loss"][kept],
        "training_epochs": float(len(history.get("loss", []))),
        "training_photos": float(size),
        "training_minutes": seconds / 60,
    }
