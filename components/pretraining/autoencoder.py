"""Convolutional autoencoder that pretrains an encoder without labels."""

import keras
from keras import ops

from components.scorer.settings import Pretraining

BOTTLENECK = 64
"""Channels of the code. At a stride of 32 the code has 1/48 of the photo's numbers, so that it must summarise."""

_WIDTHS = (128, 64, 32, 24, 16)


def build_autoencoder(encoder: keras.Model, settings: Pretraining) -> keras.Model:
    """Build the autoencoder: the encoder, a narrow code, and a decoder that doubles the side up to the photo's.

    Args:
        encoder: Encoder of ``encoder.build_encoder``. Its layers are shared: training the autoencoder trains the
            encoder.
        settings: Pretraining settings; name the side of the crop.

    Returns:
        Model from float ``[n, crop, crop, 3]``, 0..255, to the same shape, 0..1.

    Raises:
        ValueError: The crop is not the encoder's output side times a power of two, so the decoder cannot reach it.
    """
    code = keras.layers.Conv2D(BOTTLENECK, 1, name="code")(encoder.output)
    side = code.shape[1]
    if settings.crop % side or (settings.crop // side) & (settings.crop // side - 1):
        raise ValueError(
            f"crop must be the encoder's {side} times a power of two for an autoencoder, got {settings.crop};"
            " take a multiple of 32"
        )
    doublings = (settings.crop // side).bit_length() - 1
    decoded = code
    for width in _WIDTHS[-doublings:] if doublings <= len(_WIDTHS) else (_WIDTHS[0],) * doublings:
        decoded = keras.layers.UpSampling2D(2, interpolation="nearest")(decoded)
        decoded = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(decoded)
        decoded = keras.layers.BatchNormalization()(decoded)
        decoded = keras.layers.ReLU()(decoded)
    photo = keras.layers.Conv2D(3, 3, padding="same", activation="sigmoid", dtype="float32", name="photo")(decoded)
    return keras.Model(encoder.input, photo, name="autoencoder")


@keras.saving.register_keras_serializable("portrait_scorer")
def reconstruction_error(pixels, photo):
    """Return the mean squared error ``[n]`` between pixels 0..255 ``[n, h, w, 3]`` and their reconstruction 0..1."""
    return ops.mean(ops.square(ops.cast(pixels, "float32") / 255 - photo), axis=(1, 2, 3))
