"""Random crop and flip, drawn from the seed, the epoch and the photo's place: the same again after a restart."""

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
