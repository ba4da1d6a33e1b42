"""Random crop, flip, camera faults and noise, drawn from seed, epoch and a photo's place: the same after a restart."""

import tensorflow as tf

_BLUR = 0.012  # radius over the side: half as much again as the slightest blur that evaluation tries
_STOPS = (-2.5, 2.5)  # darker and lighter than taken: a fifth of the light to five times as much, burnt out


def crop_and_flip(photo: tf.Tensor, crop: int, seed: tf.Tensor) -> tf.Tensor:
    """A random crop of a square photo, mirrored half of the time (NIMA, section III).

    Args:
        photo: ``[scale, scale, 3]``, 0..255.
        crop: side of the result, at most ``scale``.
        seed: int ``[2]``; the same seed gives the same crop.

    Returns:
        ``[crop, crop, 3]``, 0..255.
    """
    return flip(tf.image.stateless_random_crop(photo, [crop, crop, 3], seed), seed)


def flip(photo: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A photo, mirrored half of the time: by one seed, all parts of it or none."""
    return tf.image.stateless_random_flip_left_right(photo, seed)


def camera_fault(photo: tf.Tensor, share: float, seed: tf.Tensor, whole: tf.Tensor | None = None) -> tf.Tensor:
    """Some photos slightly out of focus, some wrongly exposed, so that neither raises a score.

    A slight blur hides skin, and a scorer that never saw it done to a photo likes it. The exposure is changed in
    linear light, for which the display's gamma of 2.2 stands.

    Args:
        photo: ``[side, side, 3]``, 0..255.
        share: of photos that get one of the two, from 0 to 1.
        seed: int ``[2]``; the same seed gives the same fault.
        whole: of a part of a photo, the side that the whole one would have, at most 25 times the part's; None: it is
            the whole one.

    Returns:
        The same shape, 0..255.
    """
    side = photo.shape[0] if whole is None else whole
    reach = int(3 * _BLUR * side) + 1 if whole is None else tf.cast(3 * _BLUR * side, tf.int32) + 1
    chance, strength = _chance_and_strength(seed)
    stops = _STOPS[0] + strength * (_STOPS[1] - _STOPS[0])
    return tf.case(
        [
            (chance < share / 2, lambda: _blurred(photo, strength * _BLUR * side, reach)),
            (chance < share, lambda: tf.minimum(photo * 2.0 ** (stops / 2.2), 255.0)),
        ],
        default=lambda: photo,
    )


def is_faulty(share: float, seed: tf.Tensor) -> tf.Tensor:
    """Whether `camera_fault` changes a photo, by the same share and seed."""
    return _chance_and_strength(seed)[0] < share


def _chance_and_strength(seed: tf.Tensor) -> list[tf.Tensor]:
    return tf.unstack(tf.random.stateless_uniform([2], seed))


def _blurred(photo: tf.Tensor, radius: tf.Tensor, reach: int | tf.Tensor) -> tf.Tensor:
    """A Gaussian blur of this radius in pixels, cut off at the reach, the edges repeated."""
    places = tf.range(-reach, reach + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-tf.square(places) / (2 * tf.square(tf.maximum(radius, 0.1))))
    padded = tf.pad(photo, [[reach, reach], [reach, reach], [0, 0]], "SYMMETRIC")[None]
    for shape in ([-1, 1], [1, -1]):
        kernel = tf.tile(tf.reshape(weights, [*shape, 1, 1]), [1, 1, 3, 1])
        padded = tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")
    return padded[0]


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
