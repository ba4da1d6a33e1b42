"""A running mean of a network's weights, which scores better than the weights of the last step.

Steps on small batches scatter around what all photos together ask for; their mean does not (Polyak and Juditsky,
"Acceleration of Stochastic Approximation by Averaging", 1992). Training goes on from the last step's weights; what is
judged after each epoch, and kept in the end, is the mean.
"""

import contextlib
from collections.abc import Iterator

import keras


@keras.saving.register_keras_serializable("portrait_scorer")
class AveragingAdam(keras.optimizers.Adam):
    """Adam that keeps an exponential moving average of the weights beside them, and leaves them alone."""

    def finalize_variable_values(self, var_list) -> None:
        """Keras would put the mean in the weights' place after each ``fit``; here a ``fit`` is one epoch of several."""

    def settle(self, variables: list) -> None:
        """Put the mean in the weights' place."""
        super().finalize_variable_values(variables)


def adam(rate: float, steps: float) -> keras.optimizers.Optimizer:
    """Adam, with a running mean of the weights or without.

    Args:
        rate: of learning.
        steps: over which the mean reaches: each step moves it by 1 of so many. Below 1 no mean is kept.
    """
    if steps < 1:
        return keras.optimizers.Adam(rate)
    return AveragingAdam(rate, use_ema=True, ema_momentum=1 - 1 / steps)


def _averaging(model: keras.Model) -> AveragingAdam | None:
    """The optimizer of a compiled model, where it keeps a mean."""
    found = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # with mixed precision one is in another
    return found if isinstance(found, AveragingAdam) else None


def callbacks(model: keras.Model) -> list[keras.callbacks.Callback]:
    """What makes ``network.fit`` judge by the mean."""
    return [keras.callbacks.SwapEMAWeights()] if _averaging(model) else []


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Meanwhile the model has the mean as its weights; nothing changes for one that keeps none."""
    swaps = callbacks(model)
    for swap in swaps:
        swap.set_model(model)
        swap.on_test_begin()
    try:
        yield
    finally:
        for swap in swaps:
            swap.on_test_end()


def settle(model: keras.Model) -> None:
    """Give a trained model the mean for good; nothing changes for one that keeps none, or was never trained."""
    found = _averaging(model)
    if found and found.built:
        found.settle(model.trainable_variables)
