"""Adversarial changes of a photo's pixels that raise its score: gradient ascent, and a PGD attack within a budget.

Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
https://arxiv.org/abs/1706.06083.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from components.scorer.explain import attribution
from components.scorer.explain.attribution import NO_FIXED_INPUTS, FixedInputs
from components.scorer.model.inputs import PIXELS, order_inputs
from components.scorer.settings import SCORES

_TOTAL_STEP_LENGTH = 2.5  # sum of all step lengths, in budgets (code of Madry et al.): enough to come back from an edge
STEP_SIZE = 0.05  # of 255: root mean square change of a photo by one step of `gradient_ascent`


@dataclass(frozen=True)
class AscentResult:
    """Photos changed for a higher score.

    Attributes:
        pixels: Changed photos, float32 ``[n, crop, crop, 3]``, 0..255.
        means: Mean scores before the first step, after it, …, after the last: float32 ``[steps + 1, n]``.
    """

    pixels: np.ndarray
    means: np.ndarray

    @property
    def before(self) -> np.ndarray:
        """Mean scores of the original photos, float32 ``[n]``."""
        return self.means[0]

    @property
    def after(self) -> np.ndarray:
        """Mean scores of the changed photos, float32 ``[n]``."""
        return self.means[-1]


def gradient_ascent(
    model: keras.Model,
    pixels: np.ndarray,
    steps: int = 100,
    rate: float = STEP_SIZE,
    fixed_inputs: FixedInputs = NO_FIXED_INPUTS,
) -> AscentResult:
    """Raise the mean scores of photos by plain gradient ascent on their pixels.

    The change is not limited to edits that a photographer could make. Most of the gain is noise fitted to this network.

    Args:
        model: A scorer.
        pixels: Photos, float ``[n, crop, crop, 3]``, 0..255.
        steps: Number of steps along the gradient.
        rate: Root mean square change of a photo by one step, of 255, before clipping to 0..255.
        fixed_inputs: Other inputs of the scorer, which stay fixed.

    Returns:
        The changed photos and their mean scores after each step.

    Raises:
        ValueError: The rate or the number of steps is negative.
    """
    _check_not_negative("rate", rate, steps)
    changed = np.asarray(pixels, "float32")
    ascent = _mean_and_gradient(model, fixed_inputs)
    means = []
    for step in range(steps + 1):
        mean, gradient = ascent(changed)
        means.append(mean)
        if step < steps:
            norm = np.sqrt(np.mean(np.square(gradient), axis=(1, 2, 3), keepdims=True))
            changed = np.clip(changed + rate * gradient / np.maximum(norm, 1e-12), 0, 255, dtype="float32")
    return AscentResult(changed, np.stack(means))


def pgd_attack(
    model: keras.Model, pixels: np.ndarray, budget: float, steps: int = 100, fixed_inputs: FixedInputs = NO_FIXED_INPUTS
) -> np.ndarray:
    """Raise the mean scores of photos as far as imperceptible changes can: a PGD attack.

    Projected gradient ascent by signs, started from the photo itself (Madry et al., section 2.1, with the mean score in
    place of the loss). Each photo's best step is returned, so no score is lower than before.

    Args:
        model: A scorer.
        pixels: Photos, float ``[n, crop, crop, 3]``, 0..255.
        budget: Largest change of any pixel's red, green or blue, of 255.
        steps: Number of steps.
        fixed_inputs: Other inputs of the scorer, which stay fixed.

    Returns:
        Changed photos, float32 like ``pixels``, within ``budget`` of the originals and within 0..255, not rounded to
        integers. The same photos give the same result on one machine.

    Raises:
        ValueError: The budget or the number of steps is negative.
    """
    _check_not_negative("budget", budget, steps)
    origin = np.asarray(pixels, "float32")
    low, high = np.maximum(origin - budget, 0), np.minimum(origin + budget, 255)
    step_length = np.float32(_TOTAL_STEP_LENGTH * budget / max(steps, 1))
    ascent = _mean_and_gradient(model, fixed_inputs)
    best, highest = origin.copy(), np.full(len(origin), -np.inf)
    changed = origin
    for step in range(steps + 1):
        means, gradient = ascent(changed)
        improved = means > highest
        best[improved], highest[improved] = changed[improved], means[improved]
        if step < steps:
            changed = np.clip(changed + step_length * np.sign(gradient), low, high)
    return best


def _check_not_negative(name: str, value: float, steps: int) -> None:
    """Raise ValueError if a value or the number of steps is negative; the ascent would descend or not end."""
    if not value >= 0 or steps < 0:
        raise ValueError(f"expected a {name} and a number of steps that are not negative, got {value} and {steps}")


def _mean_and_gradient(
    model: keras.Model, fixed_inputs: FixedInputs
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function of pixels float32 ``[n, crop, crop, 3]`` that gives mean scores ``[n]`` and their gradients.

    The gradients have the shape of the pixels.
    """
    shapes = {PIXELS if len(model.inputs) == 1 else tensor.name: tensor.shape for tensor in model.inputs}

    @tf.function(input_signature=[{name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}])
    def of_batch(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch[PIXELS])
            votes = tf.cast(model(order_inputs(model, batch), training=False), tf.float32)
            means = tf.linalg.matvec(votes, tf.constant(SCORES, tf.float32))
        return means, tape.gradient(means, batch[PIXELS])

    def of_photos(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means, gradients = attribution.run_in_batches(of_batch, pixels, fixed_inputs, (), shapes[PIXELS][1:])
        return means, gradients

    return of_photos
