"""Changes of a built network: batch normalisation frozen or calibrated, precision of its layers."""

from functools import cache

import keras

from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.model.network import HEAD, POOLED, POOLED_FACE

_MOMENTUM = 0.9
"""Of the running statistics of new batch norms, as in PyTorch: they follow within 40 steps, Keras's 0.99 within 400."""

_FULL_PRECISION = {
    "pixels", FACE, EMBEDDING, FOUND, POOLED, POOLED_FACE, "features", "dropout", *HEAD, "photo",
}  # fmt: skip
"""Layers that stay in float32 under mixed precision."""


def freeze_batch_norms(model: keras.Model) -> None:
    """Keep the statistics of pretraining: a batch of portraits is too small and too alike to replace them."""
    for norm in _batch_norms(model):
        norm.trainable = False


def settle_batch_norms(model: keras.Model, pixels: keras.KerasTensor) -> None:
    """Set the running statistics of a new network from one batch of photos.

    They start at mean 0 and variance 1. The true variances of an untrained network are so much smaller that, layer
    after layer, its answers would fade to a constant until hundreds of steps have brought the statistics in line,
    and whatever judges the first epochs (the validation loss, the choice of the best epoch) would judge a constant.

    Args:
        model: not yet trained.
        pixels: ``[n, crop, crop, 3]``, 0..255.
    """
    norms = _batch_norms(model)
    for norm in norms:
        norm.momentum = 0.0  # forget the start
    model(pixels, training=True)
    for norm in norms:
        norm.momentum = _MOMENTUM


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """The same network and weights computing in another precision, e.g. ``"mixed_float16"``.

    Layers that are kept in float32 for their range (pooling, softmax, the reconstruction) stay so.
    """
    if all(layer.dtype_policy.name == policy for layer in model.layers if layer.name not in _FULL_PRECISION):
        return model

    @cache  # a layer that works at two places stays one
    def convert(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # such as the conversion to a tensor before given weights
            return layer
        config = layer.get_config()
        if layer.name not in _FULL_PRECISION:
            config["dtype"] = policy
        return layer.__class__.from_config(config)

    converted = keras.models.clone_model(model, clone_function=convert)
    converted.set_weights(model.get_weights())
    return converted
