"""Random crop, flip, camera faults and noise.

Every random choice is drawn from the seed, the epoch and the photo's index, so a restart repeats it.
"""

import tensorflow as tf

_MAX_BLUR = 0.012  # standard deviation over the side: 1.5 times the slightest blur that evaluation tries
_EXPOSURE_STOPS = (-2.5, 2.5)  # exposure change: a fifth of the light to five times the light, clipped at white


def crop_and_flip(photo: tf.Tensor, crop: int, seed: tf.Tensor) -> tf.Tensor:
    """Return a random crop of a square photo, mirrored with probability 0.5 (NIMA, section III).

    Args:
        photo: ``[scale, scale, 3]``, 0..255.
        crop: Side of the result, pixels, at most ``scale``.
        seed: int ``[2]``; equal seeds give equal crops.

    Returns:
        ``[crop, crop, 3]``, 0..255.
    """
    return random_flip(tf.image.stateless_random_crop(photo, [crop, crop, 3], seed), seed)


def random_flip(photo: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror a photo with probability 0.5. All parts of a photo flip alike under one seed."""
    return tf.image.stateless_random_flip_left_right(photo, seed)


def camera_fault(photo: tf.Tensor, fraction: float, seed: tf.Tensor, full_side: tf.Tensor | None = None) -> tf.Tensor:
    """Blur some photos slightly and expose some wrongly, so that neither fault raises a score.

    A slight blur hides skin. A scorer that was never trained on blurred photos prefers them. Exposure changes in linear
    light, approximated by the display's gamma of 2.2.

    Args:
        photo: ``[side, side, 3]``, 0..255.
        fraction: Probability that a photo gets one of the two faults, 0 to 1. Each fault gets half of it.
        seed: int ``[2]``; equal seeds give equal faults.
        full_side: Side of the full photo at the scale of ``photo``, if ``photo`` is a part of it; at most 25 times the
            side of ``photo``. None means that ``photo`` is the full photo.

    Returns:
        The same shape, 0..255.
    """
    side = photo.shape[0] if full_side is None else full_side
    reach = int(3 * _MAX_BLUR * side) + 1 if full_side is None else tf.cast(3 * _MAX_BLUR * side, tf.int32) + 1
    chance, strength = _chance_and_strength(seed)
    stops = _EXPOSURE_STOPS[0] + strength * (_EXPOSURE_STOPS[1] - _EXPOSURE_STOPS[0])
    return tf.case(
        [
            (chance < fraction / 2, lambda: _gaussian_blur(photo, strength * _MAX_BLUR * side, reach)),
            (chance < fraction, lambda: tf.minimum(photo * 2.0 ** (stops / 2.2), 255.0)),
        ],
        default=lambda: photo,
    )


def is_faulty(fraction: float, seed: tf.Tensor) -> tf.Tensor:
    """Return whether `camera_fault` changes a photo, for equal ``fraction`` and ``seed``."""
    return _chance_and_strength(seed)[0] < fraction


def _chance_and_strength(seed: tf.Tensor) -> list[tf.Tensor]:
    return tf.unstack(tf.random.stateless_uniform([2], seed))


def _gaussian_blur(photo: tf.Tensor, radius: tf.Tensor, reach: int | tf.Tensor) -> tf.Tensor:
    """Return the photo blurred by a Gaussian of standard deviation ``radius`` pixels.

    The kernel ends at ``reach`` pixels; the edges are mirrored.
    """
    offsets = tf.range(-reach, reach + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-tf.square(offsets) / (2 * tf.square(tf.maximum(radius, 0.1))))
    blurred = tf.pad(photo, [[reach, reach], [reach, reach], [0, 0]], "SYMMETRIC")[None]
    for shape in ([-1, 1], [1, -1]):
        kernel = tf.tile(tf.reshape(weights, [*shape, 1, 1]), [1, 1, 3, 1])
        blurred = tf.nn.depthwise_conv2d(blurred, kernel, [1, 1, 1, 1], "VALID")
    return blurred[0]


def add_noise(pixels: tf.Tensor, stddev: float, seed: tf.Tensor) -> tf.Tensor:
    """Add Gaussian noise to pixels, the corruption of a denoising autoencoder.

    Source: Vincent et al., "Extracting and composing robust features with denoising autoencoders", 2008.

    Args:
        pixels: ``[n, h, w, 3]``, 0..255.
        stddev: Standard deviation of the noise, as a fraction of the pixel range.
        seed: int ``[2]``; equal seeds give equal noise.

    Returns:
        The same shape, clipped to 0..255.
    """
    noise = tf.random.stateless_normal(tf.shape(pixels), seed, stddev=stddev * 255)
    return tf.clip_by_value(pixels + noise, 0, 255)
