"""EMA of weights (Polyak averaging), which scores better than the weights of the last step.

Steps on small batches scatter around the optimum for all photos; their mean does not (Polyak and Juditsky,
"Acceleration of Stochastic Approximation by Averaging", 1992). Training continues from the last step's weights. The
averaged weights are evaluated after each epoch, and kept at the end.
"""

import contextlib
from collections.abc import Iterator

import keras


@keras.saving.register_keras_serializable("portrait_scorer")
class AdamWithEMA(keras.optimizers.Adam):
    """Adam that keeps an EMA of the weights and does not change the weights themselves."""

    def finalize_variable_values(self, var_list) -> None:
        """Do nothing.

        Keras would replace the weights by their EMA after each ``fit``, and here one ``fit`` is one epoch of several.
        """

    def apply_ema(self, variables: list) -> None:
        """Replace the weights by their EMA."""
        super().finalize_variable_values(variables)


def adam(learning_rate: float, ema_steps: float) -> keras.optimizers.Optimizer:
    """Return Adam, with or without an EMA of the weights.

    Args:
        learning_rate: Learning rate.
        ema_steps: Length of the EMA in steps; the momentum is ``1 - 1 / steps``. Below 1 there is no EMA.
    """
    if ema_steps < 1:
        return keras.optimizers.Adam(learning_rate)
    return AdamWithEMA(learning_rate, use_ema=True, ema_momentum=1 - 1 / ema_steps)


def _ema_optimizer(model: keras.Model) -> AdamWithEMA | None:
    """Return the optimizer of a compiled model if it keeps an EMA, otherwise None."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # mixed precision wraps the optimizer
    return optimizer if isinstance(optimizer, AdamWithEMA) else None


def ema_callbacks(model: keras.Model) -> list[keras.callbacks.Callback]:
    """Return the callbacks with which ``resolve_model.fit`` evaluates the EMA weights; none without an EMA."""
    return [keras.callbacks.SwapEMAWeights()] if _ema_optimizer(model) else []


@contextlib.contextmanager
def ema_weights(model: keras.Model) -> Iterator[None]:
    """Replace the model's weights by their EMA within a ``with`` block.

    A model without an EMA keeps its weights.
    """
    swap_callbacks = ema_callbacks(model)
    for callback in swap_callbacks:
        callback.set_model(model)
        callback.on_test_begin()
    try:
        yield
    finally:
        for callback in swap_callbacks:
            callback.on_test_end()


def apply_ema(model: keras.Model) -> None:
    """Replace a trained model's weights by their EMA for good.

    A model without an EMA, or one that was never trained, keeps its weights.
    """
    optimizer = _ema_optimizer(model)
    if optimizer and optimizer.built:
        optimizer.apply_ema(model.trainable_variables)
