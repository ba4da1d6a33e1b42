"""Photos slightly out of focus or wrongly exposed, as a scorer would read them: so that neither raises a score.

By epochs each one may spoil another photo; the closed form, which learns from all of them at once, is given copies.
Either learns that they are worth less.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.scorer.data import photos
from components.scorer.imaging import augmentation, preprocessing_tf

FAULT = 0.25
"""Score points that a copy made worse is worth less than its photo.

No rating says how much people mind. With copies worth as much as their photos, a strong blur gained .07 points and two
stops less light .09 on 128 portraits that nothing was learnt from, for what is learnt of a fault goes beyond it; with
.25 no fault gains more than .02, and of the SRCC .003 is lost. By epochs two stops more light gained .10 with as much,
and lose .03 with .25; of the SRCC .009 is lost.
"""

_QUALITY = 95  # of JPEG: what it moves a score by is far below what the fault does


def spoiled(dataset: str | Path, split: str, share: float, seed: int) -> Iterator[tuple[bytes, np.ndarray, int]]:
    """Copies of some photos of a split, each with one of the camera's faults, and how people rated them as taken.

    Args:
        dataset: TFDS directory.
        split: as in ``photos.encoded``.
        share: of the photos that are copied, 0 to 1.
        seed: of the choice and of the faults; the same seed gives the same copies.

    Yields:
        An encoded, upright photo, its votes ``[10]``, and by how many raters.
    """
    for place, record in enumerate(photos.encoded(dataset, split)):
        drawn = tf.constant([seed, place], tf.int64)
        if tf.random.stateless_uniform([], drawn + 1) < share:
            photo = tf.cast(preprocessing_tf.decode(record["photo"]), tf.float32)
            copy = _encoded(augmentation.camera_fault(photo, 1.0, drawn))
            yield copy, record["votes"].numpy(), int(record["raters"])


def _encoded(photo: tf.Tensor) -> bytes:
    pixels = tf.cast(tf.clip_by_value(tf.round(photo), 0, 255), tf.uint8)
    return tf.io.encode_jpeg(pixels, quality=_QUALITY, chroma_downsampling=False).numpy()


def worth_less(votes: tf.Tensor) -> tf.Tensor:
    """Votes ``[10]`` of which each is `FAULT` likely to go to the next lower score, where there is one.

    So the mean falls by `FAULT` points, but for votes of 1.
    """
    lower = tf.concat([votes[:1] + votes[1:2], votes[2:], [0.0]], 0)
    return (1 - FAULT) * votes + FAULT * lower
