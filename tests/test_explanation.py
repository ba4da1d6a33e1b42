"""Explanations: maps that agree with finite differences, and ascents that keep to their budget."""

import keras
import numpy as np
import pytest

from components.scorer import explanation

SCORES = np.arange(1, 11)


def network(activation: str = "relu", seed: int = 1) -> keras.Model:
    """A small scorer whose answers differ from photo to photo."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((32, 32, 3))
    seen = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    for filters in (6, 8):
        seen = keras.layers.Conv2D(filters, 3, strides=2, activation=activation)(seen)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(seen)
    dropped = keras.layers.Dropout(0.5)(pooled)
    spread = keras.initializers.RandomNormal(stddev=2, seed=seed)
    votes = keras.layers.Dense(10, "softmax", kernel_initializer=spread, name="votes")(dropped)
    return keras.Model(pixels, votes)


def pictures(number: int = 3, seed: int = 0) -> np.ndarray:
    """Pixels that reach both ends of the range."""
    return np.random.default_rng(seed).uniform(-40, 295, (number, 32, 32, 3)).clip(0, 255).astype("float32")


def means(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(model(pixels, training=False)) @ SCORES


# Perturbation


@pytest.mark.parametrize("budget", [0.5, 2.0, 300.0])
def test_a_perturbation_raises_the_score_within_its_budget_and_the_range_of_pixels(budget):
    model, pixels = network(), pictures()
    changed = explanation.perturb(model, pixels, budget, steps=20)
    assert (means(model, changed) > means(model, pixels) + 0.001).all()
    assert np.abs(changed - pixels).max() <= budget + 1e-4
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_a_perturbation_is_the_same_each_time():
    model, pixels = network(), pictures()
    first = explanation.perturb(model, pixels, 2.0, steps=10)
    np.testing.assert_array_equal(first, explanation.perturb(model, pixels, 2.0, steps=10))


def test_a_perturbation_does_not_depend_on_the_other_photos():
    model, pixels = network(), pictures(19)
    together = explanation.perturb(model, pixels, 2.0, steps=5)
    np.testing.assert_allclose(
        means(model, together)[-1:], means(model, explanation.perturb(model, pixels[-1:], 2.0, 5)), atol=1e-3
    )


def test_a_budget_of_nothing_changes_nothing():
    pixels = pictures()
    np.testing.assert_array_equal(explanation.perturb(network(), pixels, 0.0, steps=3), pixels)


def test_more_budget_raises_the_score_more():
    model, pixels = network(), pictures()
    small, large = (means(model, explanation.perturb(model, pixels, budget, steps=20)) for budget in (1.0, 8.0))
    assert (large > small).all()


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="expected a budget"):
        explanation.perturb(network(), pictures(1), -1.0)


def test_no_photos_are_perturbed_to_no_photos():
    assert explanation.perturb(network(), pictures(0), 2.0, steps=2).shape == (0, 32, 32, 3)
