"""EMA of weights: it is evaluated and returned, while training continues from the last weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.scorer.fit import ema
from components.scorer.fit.checkpoints import CheckpointStore, fit

STEPS = 4.0
RATE = 0.1


def model(steps: float = STEPS) -> keras.Model:
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    network.compile(ema.adam(RATE, steps), "mse")
    return network


def data(epoch: int) -> tf.data.Dataset:
    rng = np.random.default_rng(epoch)
    return tf.data.Dataset.from_tensor_slices((rng.normal(size=(16, 4)), rng.normal(size=(16, 1)))).batch(4)


def train_to(epochs: int, folder, network: keras.Model, **more) -> tuple[keras.Model, dict]:
    return fit(network, epochs, data, task="a test", checkpoints=CheckpointStore(str(folder), "these"), seed=1, **more)


def by_hand(epochs: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the last weights of Adam without EMA, and their EMA, computed step by step."""
    network = model(steps=0)
    mean: list[np.ndarray] = []
    for epoch in range(epochs):
        for batch in data(epoch):
            network.train_on_batch(*(part.numpy() for part in batch))
            weights = network.get_weights()
            mean = [old + (new - old) / STEPS for old, new in zip(mean, weights, strict=True)] if mean else weights
    return network.get_weights(), mean


def test_training_returns_the_ema_of_the_weights_and_steps_from_the_last_weights(tmp_path):
    trained, _ = train_to(3, tmp_path, model())
    for weight, expected in zip(trained.get_weights(), by_hand(3)[1], strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_the_validation_loss_is_that_of_the_ema_weights(tmp_path):
    validation = data(99)
    _, curves = train_to(1, tmp_path, model(), validation=validation)
    network = model(steps=0)
    network.set_weights(by_hand(1)[1])
    assert curves["val_loss"] == [pytest.approx(network.evaluate(validation, verbose=0), rel=1e-4)]


def test_a_resumed_training_ends_with_the_same_ema_weights(tmp_path):
    train_to(2, tmp_path / "cut", model())
    resumed, _ = train_to(4, tmp_path / "cut", model())
    for weight, expected in zip(resumed.get_weights(), by_hand(4)[1], strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_training_without_ema_returns_the_last_weights(tmp_path):
    trained, _ = train_to(3, tmp_path, model(steps=0))
    for weight, expected in zip(trained.get_weights(), by_hand(3)[0], strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_training_for_zero_epochs_keeps_the_weights(tmp_path):
    network = model()
    before = network.get_weights()
    trained, _ = train_to(0, tmp_path, network)
    np.testing.assert_array_equal(trained.get_weights()[0], before[0])


def test_ema_weights_swaps_in_the_mean_and_restores_the_last_weights():
    network = model()
    network.fit(data(0), shuffle=False, verbose=0)
    last = network.get_weights()
    with ema.ema_weights(network):
        mean = network.get_weights()
    assert not np.allclose(mean[0], last[0])
    for weight, expected in zip(network.get_weights(), last, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


def test_apply_ema_works_within_a_loss_scale_optimizer():
    network = model()
    network.compile(keras.optimizers.LossScaleOptimizer(ema.adam(RATE, STEPS)), "mse")
    network.fit(data(0), shuffle=False, verbose=0)
    last = network.get_weights()
    ema.apply_ema(network)
    assert not np.allclose(network.get_weights()[0], last[0])
