"""Degraded training copies: photos slightly out of focus or wrongly exposed, so that neither fault raises a score.

Training by epochs may degrade other photos in each epoch. The ridge head learns from all photos at once and gets
copies. Both learn lowered votes for them (`lower_votes`).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.scorer.data import photos
from components.scorer.imaging import augmentation, preprocessing_tf

FAULT_POINTS = 0.25
"""Score points by which a degraded copy's mean lies below its photo's.

No rating says how much people mind a fault. With copies rated as their photos, a strong blur gained .07 points and two
stops less light .09, on 128 portraits that nothing was fitted on: the model extrapolates what it learns of a fault.
With .25 no fault gains more than .02, and .003 of the SRCC is lost. By epochs, two stops more light gained .10 with
copies rated as their photos and lose .03 with .25; .009 of the SRCC is lost.
"""

_QUALITY = 95  # JPEG quality: compression moves a score far less than the fault does


def degraded_copies(
    dataset: str | Path, split: str, fraction: float, seed: int
) -> Iterator[tuple[bytes, np.ndarray, int]]:
    """Yield degraded copies of some photos of a split, with the votes of their originals.

    Args:
        dataset: TFDS directory.
        split: Split name, as in ``photos.encoded_records``.
        fraction: Fraction of the photos to copy, 0 to 1.
        seed: Random seed of the choice and of the faults; the same seed gives the same copies.

    Yields:
        An encoded, upright photo, its votes ``[10]``, and its number of raters.
    """
    for index, record in enumerate(photos.encoded_records(dataset, split)):
        random_seed = tf.constant([seed, index], tf.int64)
        if tf.random.stateless_uniform([], random_seed + 1) < fraction:
            photo = tf.cast(preprocessing_tf.decode(record["photo"]), tf.float32)
            copy = _encode_jpeg(augmentation.camera_fault(photo, 1.0, random_seed))
            yield copy, record["votes"].numpy(), int(record["raters"])


def _encode_jpeg(photo: tf.Tensor) -> bytes:
    pixels = tf.cast(tf.clip_by_value(tf.round(photo), 0, 255), tf.uint8)
    return tf.io.encode_jpeg(pixels, quality=_QUALITY, chroma_downsampling=False).numpy()


def lower_votes(votes: tf.Tensor) -> tf.Tensor:
    """Return votes ``[10]`` after moving the fraction `FAULT_POINTS` of each vote to the next lower score.

    The mean falls by `FAULT_POINTS` points. Votes of 1 stay.
    """
    lower = tf.concat([votes[:1] + votes[1:2], votes[2:], [0.0]], 0)
    return (1 - FAULT_POINTS) * votes + FAULT_POINTS * lower
