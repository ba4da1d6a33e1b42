"""Random crop, flip and noise, drawn from the seed, the epoch and the photo's place: the same again after a restart."""

import tensorflow as tf


def crop_and_flip(photo: tf.Tensor, crop: int, seed: tf.Tensor) -> tf.Tensor:
    """A random crop of a square photo, mirrored half of the time (NIMA, section III).

    Args:
        photo: ``[scale, scale, 3]``, 0..255.
        crop: side of the result, at most ``scale``.
        seed: int ``[2]``; the same seed gives the same crop.

    Returns:
        ``[crop, crop, 3]``, 0..255.
    """
    photo = tf.image.stateless_random_crop(photo, [crop, crop, 3], seed)
    return tf.image.stateless_random_flip_left_right(photo, seed)


def add_noise(pixels: tf.Tensor, deviation: float, seed: tf.Tensor) -> tf.Tensor:
    """Gaussian noise on pixels 0..255, for a denoising autoencoder (Vincent et al., "Extracting and composing
    robust features with denoising autoencoders", 2008).

    Args:
        pixels: ``[n, h, w, 3]``, 0..255.
        deviation: of the noise, where the pixels' range counts as 1.
        seed: int ``[2]``; the same seed gives the same noise.

    Returns:
        The same shape, clipped to 0..255.
    """
    noise = tf.random.stateless_normal(tf.shape(pixels), seed, stddev=deviation * 255)
    return tf.clip_by_value(pixels + noise, 0, 255)
