"""Pretrain the scorer's backbone without labels: a convolutional autoencoder on portraits."""

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
from components.scorer.fit.checkpoints import Checkpoints, Curves, best_epoch, fingerprint_of, fit
from components.scorer.imaging import augmentation
from components.scorer.model.encoder import build_encoder
from components.scorer.model.surgery import settle_batch_norms
from components.scorer.parameters import as_parameters, check_together
from components.scorer.registry import integrity
from components.scorer.settings import Pretraining

HELD_OUT = 20
"""One in so many photos of the pool is not trained on, for the second curve. Validation and test stay unseen."""


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
    """Build the encoder and, unless ImageNet or random weights are asked for, train it as an autoencoder.

    Args:
        dataset: TFDS directory; the splits ``unlabelled`` and ``train`` are read.
        encoder: folder to write the encoder to.
        report: file to write the page to.
        settings: what to build and how long to train it.
        scale: side of the square that photos are scaled to before the crop, at least ``settings.crop``.
        checkpoints: URI of the folder of this step's checkpoints.
        fingerprint: of the data set: checkpoints of another one are not gone on from.
        show_photos: whether the page shows originals and reconstructions.

    Returns:
        ``pretraining_loss`` and ``pretraining_held_out_loss`` (mean squared error, pixels 0..1),
        ``pretraining_photos`` and ``pretraining_epochs``; empty when nothing was trained.

    Raises:
        ValueError: the settings contradict each other, there is no photo to train on, or ``settings.weights`` is of no
            known kind or has another SHA-256 than ``settings.weights_sha256``.
        FileNotFoundError: ``settings.weights`` is not there.
    """
    check_together(settings, scale)
    network = build_encoder(settings, _fetch(settings.weights, settings.weights_sha256))
    if settings.start == "none" and not settings.weights:
        settle_batch_norms(network, _some_photos(dataset, settings, scale))
    curves, panel, metrics = {}, None, {}
    if settings.unsupervised:
        place = Checkpoints(checkpoints, fingerprint_of(as_parameters(settings), scale, fingerprint))
        network, curves, panel = _train(dataset, network, settings, scale, place)
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
    dataset: str | Path, encoder: keras.Model, settings: Pretraining, scale: int, place: Checkpoints
) -> tuple[keras.Model, Curves, tuple[np.ndarray, np.ndarray]]:
    """Train the autoencoder; its encoder, its curves and a panel of originals and reconstructions."""
    network = build_autoencoder(encoder, settings)
    settle_batch_norms(network, _some_photos(dataset, settings, scale))
    network.compile(keras.optimizers.Adam(settings.learning_rate), loss=reconstruction_error)
    held_out = _held_out(dataset, settings, scale)
    network, curves = fit(
        network,
        settings.epochs,
        lambda epoch: _epoch(dataset, settings, scale, epoch),
        what="pretraining",
        checkpoints=place,
        seed=settings.seed,
        validation=held_out,
    )
    originals = next(iter(held_out))[0].numpy()[:8]
    panel = originals / 255, np.asarray(network(originals, training=False))
    features = network.get_layer("code").input
    return keras.Model(network.input, features, name="encoder"), curves, panel


def _pool(dataset: str | Path) -> str:
    """The splits that may be pretrained on."""
    sizes = photos.counts(dataset)
    return "+".join(split for split in ("unlabelled", "train") if sizes.get(split))


def _pool_size(dataset: str | Path) -> int:
    sizes = photos.counts(dataset)
    return sizes.get("unlabelled", 0) + sizes.get("train", 0)


def _epoch(dataset: str | Path, settings: Pretraining, scale: int, epoch: int) -> tf.data.Dataset:
    """The pool less what is held out; the target is the photo itself, the input perhaps a noisy copy of it."""

    def pair(place: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, _ = batch
        if settings.start != "denoising":
            return pixels, pixels
        seed = tf.stack([tf.constant(settings.seed * 100_003 + epoch, tf.int64), place])
        return augmentation.add_noise(pixels, settings.noise, seed), pixels

    batches = photos.augmented(
        dataset,
        _pool(dataset),
        scale=scale,
        crop=settings.crop,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epoch=epoch,
        leave=HELD_OUT,
    )
    return batches.enumerate().map(pair, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _some_photos(dataset: str | Path, settings: Pretraining, scale: int) -> tf.Tensor:
    """The first batch that is trained on."""
    if not _pool_size(dataset):
        raise ValueError(
            'pretraining needs photos: the data set has none; give unlabelled photos or set start to "none"'
        )
    return next(iter(_epoch(dataset, settings, scale, 0)))[1]


def _held_out(dataset: str | Path, settings: Pretraining, scale: int) -> tf.data.Dataset:
    """Every twentieth photo of the pool, for the second curve."""
    return photos.batches(
        dataset, _pool(dataset), scale=scale, crop=settings.crop, batch_size=settings.batch_size, only=HELD_OUT
    ).map(lambda pixels, votes: (pixels, pixels))  # fmt: skip


def _fetch(weights: str, digest: str) -> Path | None:
    """A local copy of the weights that the encoder starts from, once they are known to be those asked for."""
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
    integrity.expect(integrity.sha256(path), digest, "weights_sha256")
    return path
