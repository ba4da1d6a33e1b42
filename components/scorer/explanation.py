"""Why a photo gets its score, and what would raise it, by the gradients of the scorer.

Models are flat: pixels float ``[n, crop, crop, 3]``, 0..255, to votes float32 ``[n, 10]`` that sum to 1.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from components.scorer.settings import SCORES

_BATCH = 16  # photos whose activations are held at a time for a gradient
_REACH = 2.5  # times the budget, what all steps reach together (code of Madry et al.): enough to come back from an edge


def perturb(model: keras.Model, pixels: np.ndarray, budget: float, steps: int = 100) -> np.ndarray:
    """Raise the mean score as far as changes too small to be seen can.

    Projected gradient ascent by signs, from the photo itself (Madry et al., "Towards Deep Learning Models Resistant
    to Adversarial Attacks", 2018, https://arxiv.org/abs/1706.06083, section 2.1, with the mean score in place of the
    loss). Each photo's best step is returned, so that none scores lower than before.

    Args:
        model: a scorer.
        pixels: float ``[n, crop, crop, 3]``, 0..255.
        budget: largest change of any pixel's red, green or blue, of 255.
        steps: of the ascent.

    Returns:
        float32 like ``pixels``, within ``budget`` of them and within 0..255, not rounded to whole numbers. The
        same photos give the same result on one machine.

    Raises:
        ValueError: the budget or the steps are negative.
    """
    if not budget >= 0 or steps < 0:
        raise ValueError(f"expected a budget and a number of steps that are not negative, got {budget} and {steps}")
    origin = np.asarray(pixels, "float32")
    low, high = np.maximum(origin - budget, 0), np.minimum(origin + budget, 255)
    length = _REACH * budget / max(steps, 1)
    ascent = _mean_and_gradient(model)
    best, highest = origin.copy(), np.full(len(origin), -np.inf)
    changed = origin
    for step in range(steps + 1):
        means, gradient = ascent(changed)
        better = means > highest
        best[better], highest[better] = changed[better], means[better]
        if step < steps:
            changed = np.clip(changed + np.float32(length) * np.sign(gradient), low, high)
    return best


def _mean_and_gradient(model: keras.Model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of pixels float32 ``[n, crop, crop, 3]``: mean scores ``[n]`` and their gradients, like the pixels."""

    @tf.function(input_signature=[tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)])
    def of_batch(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(pixels)
            means = tf.linalg.matvec(model(pixels, training=False), tf.constant(SCORES, tf.float32))
        return means, tape.gradient(means, pixels)

    def of_all(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [of_batch(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)]
        means, gradients = zip(*parts, strict=True) if parts else ([np.empty(0, "float32")], [pixels])
        return np.concatenate(means), np.concatenate(gradients)

    return of_all
