"""Changes to a built network: freezing or calibrating batch normalisation, and changing the precision of layers."""

from functools import cache

import keras

from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.model.network import HEAD_LAYERS, POOLED, POOLED_FACE

_MOMENTUM = 0.9
"""Momentum of the running statistics of new batch norms, as in PyTorch.

The statistics follow within 40 steps; with Keras's 0.99 within 400.
"""

_FULL_PRECISION = {
    "pixels", FACE, EMBEDDING, FOUND, POOLED, POOLED_FACE, "features", "dropout", *HEAD_LAYERS, "photo",
}  # fmt: skip
"""Names of the layers that stay in float32 under mixed precision."""


def freeze_batch_norms(model: keras.Model) -> None:
    """Keep the batch norm statistics of pretraining.

    A batch of portraits is too small, and its photos too similar, to replace them.
    """
    for norm in _batch_norms(model):
        norm.trainable = False


def calibrate_batch_norms(model: keras.Model, pixels: keras.KerasTensor) -> None:
    """Calibrate the running batch norm statistics of a new network from one batch of photos.

    They start at mean 0 and variance 1, and the true variances of an untrained network are much smaller. So, layer
    after layer, its outputs would fade to a constant until hundreds of steps have corrected the statistics. The
    validation loss and the choice of the best epoch would judge that constant in the first epochs.

    Args:
        model: A network that is not yet trained.
        pixels: Photos ``[n, crop, crop, 3]``, 0..255.
    """
    norms = _batch_norms(model)
    for norm in norms:
        norm.momentum = 0.0  # drop the initial statistics
    model(pixels, training=True)
    for norm in norms:
        norm.momentum = _MOMENTUM


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """Return the same network and weights computing in another precision.

    Layers that need the range of float32 (pooling, softmax, the reconstruction) keep it.

    Args:
        model: A flat model.
        policy: Keras dtype policy, e.g. ``"mixed_float16"``.
    """
    if all(layer.dtype_policy.name == policy for layer in model.layers if layer.name not in _FULL_PRECISION):
        return model

    @cache  # a layer that is used twice is converted once
    def convert(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # such as the conversion to a tensor before saved weights
            return layer
        config = layer.get_config()
        if layer.name not in _FULL_PRECISION:
            config["dtype"] = policy
        return layer.__class__.from_config(config)

    converted = keras.models.clone_model(model, clone_function=convert)
    converted.set_weights(model.get_weights())
    return converted
