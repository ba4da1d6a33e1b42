"""Pretraining of the scorer's backbone without labels, by a convolutional autoencoder on portraits."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from components.pretraining.autoencoder import build_autoencoder, reconstruction_error
from components.pretraining.report import write_report
from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.fit.checkpoints import CheckpointStore, History, best_epoch, fingerprint_of, fit
from components.scorer.imaging import augmentation
from components.scorer.model.encoder import build_encoder
from components.scorer.model.surgery import calibrate_batch_norms
from components.scorer.parameters import as_parameters, check_pretraining
from components.scorer.registry import integrity
from components.scorer.settings import Pretraining

HOLD_OUT_STRIDE = 20
"""Every 20th photo of the pool is held out for the validation curve. The splits validation and test are not read."""


def pretrain(
    dataset: str | Path,
    encoder: str | Path,
    report: str | Path,
    *,
    settings: Pretraining,
    scale: int,
    checkpoints: str,
    fingerprint: str,
    show_photos: bool = False,
) -> dict[str, float]:
    """Build the encoder and train it as an autoencoder, unless ImageNet or random weights are requested.

    Args:
        dataset: TFDS directory; the splits ``unlabelled`` and ``train`` are read.
        encoder: Folder to write the encoder to.
        report: Path of the HTML report.
        settings: Pretraining settings.
        scale: Side of the square that photos are resized to before the crop, at least ``parse_settings.crop``, pixels.
        checkpoints: URI of the folder of this step's checkpoints.
        fingerprint: Fingerprint of the data set; checkpoints of another data set are not resumed.
        show_photos: True to show originals and reconstructions in the report.

    Returns:
        ``pretraining_loss`` and ``pretraining_held_out_loss`` (mean squared error, pixels 0..1), ``pretraining_photos``
        and ``pretraining_epochs``; empty if nothing was trained.

    Raises:
        ValueError: The settings contradict each other, there is no photo to train on, or ``parse_settings.weights`` has
            an unknown suffix or a SHA-256 other than ``parse_settings.weights_sha256``.
        FileNotFoundError: ``parse_settings.weights`` does not exist.
    """
    check_pretraining(settings, scale)
    network = build_encoder(settings, _fetch_weights(settings.weights, settings.weights_sha256))
    if settings.start == "none" and not settings.weights:
        calibrate_batch_norms(network, _first_batch(dataset, settings, scale))
    curves: History = {}
    panel: tuple[np.ndarray, np.ndarray] | None = None
    metrics: dict[str, float] = {}
    if settings.unsupervised:
        store = CheckpointStore(checkpoints, fingerprint_of(as_parameters(settings), scale, fingerprint))
        network, curves, panel = _train(dataset, network, settings, scale, store)
        metrics = {
            "pretraining_loss": curves["loss"][best_epoch(curves) - 1],
            "pretraining_held_out_loss": min(curves["val_loss"]),
            "pretraining_photos": float(_pool_size(dataset)),
            "pretraining_epochs": float(len(curves["loss"])),
        }
    bundle.save_encoder(network, settings, encoder)
    write_report(report, settings, curves, panel if show_photos else None)
    return metrics


def _train(
    dataset: str | Path, encoder: keras.Model, settings: Pretraining, scale: int, store: CheckpointStore
) -> tuple[keras.Model, History, tuple[np.ndarray, np.ndarray]]:
    """Train the autoencoder; return its encoder, its curves and a panel of originals and reconstructions."""
    network = build_autoencoder(encoder, settings)
    calibrate_batch_norms(network, _first_batch(dataset, settings, scale))
    network.compile(keras.optimizers.Adam(settings.learning_rate), loss=reconstruction_error)
    held_out = _held_out(dataset, settings, scale)
    network, curves = fit(
        network,
        settings.epochs,
        lambda epoch: _train_epoch(dataset, settings, scale, epoch),
        task="pretraining",
        checkpoints=store,
        seed=settings.seed,
        validation=held_out,
    )
    originals = next(iter(held_out))[0].numpy()[:8]
    panel = originals / 255, np.asarray(network(originals, training=False))
    features = network.get_layer("code").input
    return keras.Model(network.input, features, name="encoder"), curves, panel


def _pool_splits(dataset: str | Path) -> str:
    """Return the splits to pretrain on, joined by "+"."""
    sizes = photos.counts(dataset)
    return "+".join(split for split in ("unlabelled", "train") if sizes.get(split))


def _pool_size(dataset: str | Path) -> int:
    sizes = photos.counts(dataset)
    return sizes.get("unlabelled", 0) + sizes.get("train", 0)


def _train_epoch(dataset: str | Path, settings: Pretraining, scale: int, epoch: int) -> tf.data.Dataset:
    """Return an epoch of the pool without held-out photos; the target is the photo, the input may be a noisy copy."""

    def pair(index: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, _ = batch
        if settings.start != "denoising":
            return pixels, pixels
        seed = tf.stack([tf.constant(settings.seed * 100_003 + epoch, tf.int64), index])
        return augmentation.add_noise(pixels, settings.noise, seed), pixels

    batches = photos.augmented_batches(
        dataset,
        _pool_splits(dataset),
        scale=scale,
        crop=settings.crop,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epoch=epoch,
        exclude_every_nth=HOLD_OUT_STRIDE,
    )
    return batches.enumerate().map(pair, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _first_batch(dataset: str | Path, settings: Pretraining, scale: int) -> tf.Tensor:
    """Return the first training batch; raise ValueError if the data set has no photos."""
    if not _pool_size(dataset):
        raise ValueError(
            'pretraining needs photos: the data set has none; give unlabelled photos or set start to "none"'
        )
    return next(iter(_train_epoch(dataset, settings, scale, 0)))[1]


def _held_out(dataset: str | Path, settings: Pretraining, scale: int) -> tf.data.Dataset:
    """Return the held-out photos of the pool."""
    return photos.batches(
        dataset, _pool_splits(dataset), scale=scale, crop=settings.crop, batch_size=settings.batch_size,
        every_nth=HOLD_OUT_STRIDE,
    ).map(lambda pixels, votes: (pixels, pixels))  # fmt: skip


def _fetch_weights(weights: str, digest: str) -> Path | None:
    """Return a local copy of the encoder's initial weights with the expected SHA-256; None if none are requested."""
    if not weights:
        return None
    if not weights.endswith((".keras", ".weights.h5")):
        raise ValueError(f"weights must name a .keras or .weights.h5 file, got {weights!r}")
    if not storage.is_remote(weights):
        path = Path(weights.removeprefix("file://"))
        if not path.is_file():
            raise FileNotFoundError(f"weights: expected a file at {weights!r}, there is none")
    else:
        path = Path(tempfile.mkdtemp(prefix="weights-"), weights.rsplit("/", 1)[1])
        path.write_bytes(storage.read_bytes(weights))
    integrity.check_sha256(integrity.sha256(path), digest, "weights_sha256")
    return path
