"""Attribution of a photo's score: heat maps (Grad-CAM) and guided gradients.

Models are flat: pixels float ``[n, crop, crop, 3]``, 0..255, to votes float32 ``[n, 10]`` that sum to 1. If a scorer
uses the face as well, only the whole photo is explained, and the face inputs stay fixed (``held``).

Maps have the height and width of the last feature map. Their values are not normalised: a value is the contribution of
a position to a class's logit. Only ``overlay`` scales them to 0..1, for display. The receptive field of a position is
larger than its cell; in deep networks it is the whole photo.

Sources: Grad-CAM, Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391, whose closed form is in
``resolve_model.serving_outputs``; guided backpropagation, Springenberg et al., "Striving for Simplicity", 2015,
https://arxiv.org/abs/1412.6806.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.scorer.artifacts import batching
from components.scorer.artifacts.batching import ExplanationOutputs
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.model import network as networks
from components.scorer.model import serving_outputs
from components.scorer.model.inputs import PIXELS, order_inputs
from components.scorer.settings import SCORES

HIGH_SCORES = (8, 9, 10)
"""High scores, whose classes are explained by guided gradients."""

_BATCH_SIZE = 16  # photos of a batch: a gradient keeps the activations of all of them in memory
FixedInputs = Mapping[str, np.ndarray]
"""Inputs of a scorer other than the pixels, by name, with a batch axis; see `split_pixels`."""

NO_FIXED_INPUTS: FixedInputs = MappingProxyType({})


def split_pixels(inputs: Mapping[str, Any]) -> tuple[np.ndarray, FixedInputs]:
    """Split a scorer's inputs (``TrainedScorer.build_inputs``) into the pixels and the other inputs."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return arrays.pop(PIXELS), arrays


# Heat maps and gradients


def heatmaps(model: keras.Model, pixels: np.ndarray, fixed_inputs: FixedInputs = NO_FIXED_INPUTS) -> np.ndarray:
    """Compute Grad-CAM maps of each of the ten scores, by gradients, for any flat network.

    The weight of a feature is the mean over all positions of the gradient of the class's logit by that feature. A
    class's map is the weighted sum of the features, with negative values set to 0 (Selvaraju et al., equations 1, 2).

    Args:
        model: A network with feature maps ``[n, h, w, c]`` that ends in a softmax.
        pixels: Photos, float ``[n, crop, crop, 3]``, 0..255.
        fixed_inputs: Other inputs of the model, which stay fixed.

    Returns:
        Maps float32 ``[n, h, w, 10]`` of the last feature map of the whole photo; 0 or more, not normalised.

    Raises:
        ValueError: The network has no feature maps, or does not end in a softmax.
    """
    logit_model = _copy_with_activations(model, _linear_last_layer(model))
    maps = _last_feature_maps(logit_model)
    if maps is None:
        raise ValueError(f"expected a network with feature maps [n, h, w, c], found none in {model.name}")
    network = keras.Model(logit_model.inputs, [maps, logit_model.output])

    @tf.function(reduce_retracing=True)
    def of_batch(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch[PIXELS])
            features, logits = network(order_inputs(network, batch), training=False)
            classes = tf.unstack(logits, axis=-1)
        weights = tf.stack([tf.reduce_mean(tape.gradient(logit, features), [1, 2]) for logit in classes], axis=-1)
        return (tf.nn.relu(tf.einsum("nhwk,nkc->nhwc", features, weights)),)

    return run_in_batches(of_batch, pixels, fixed_inputs, (*maps.shape[1:3], len(SCORES)))[0]


def _last_feature_maps(model: keras.Model) -> keras.KerasTensor | None:
    """Return the feature maps of the whole photo that are pooled at the end; without pooling, the last feature maps."""
    if (pooled := networks.feature_maps(model)) is not None:
        return pooled
    maps = [layer.output for layer in model.layers[1:] if len(getattr(layer.output, "shape", ())) == 4]
    return maps[-1] if maps else None


def vote_weighted_heatmap(class_heatmaps: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Return the average of the classes' maps, weighted by the predicted votes.

    Args:
        class_heatmaps: Maps ``[n, h, w, 10]``.
        votes: Predicted votes ``[n, 10]``.

    Returns:
        Maps ``[n, h, w]``.
    """
    return np.einsum("nhwc,nc->nhw", class_heatmaps, votes)


def has_relu(model: keras.Model) -> bool:
    """Return whether guided backpropagation applies: whether some layer is or ends in ReLU or ReLU6."""
    return any(_relu_of(layer) for layer in model.layers)


def guided_gradients(
    model: keras.Model,
    pixels: np.ndarray,
    scores: Sequence[int] = HIGH_SCORES,
    fixed_inputs: FixedInputs = NO_FIXED_INPUTS,
) -> np.ndarray:
    """Compute guided gradients, which show the details of a photo that raise the logits of the given scores.

    This is the gradient of a class's logit by the pixels. Each ReLU passes only positive gradients, and only where its
    input was positive (Springenberg et al., section 3.4). Edges are sharp, but they show a network's early layers more
    than its last ones (Adebayo et al., "Sanity Checks for Saliency Maps", 2018). The result illustrates details, and
    proves nothing.

    Args:
        model: A network with ReLU or ReLU6 that ends in a softmax.
        pixels: Photos, float ``[n, crop, crop, 3]``, 0..255.
        scores: Scores 1..10 whose classes are explained.
        fixed_inputs: Other inputs of the model, which stay fixed.

    Returns:
        Gradients float32 ``[n, len(scores), crop, crop, 3]``, logit per 1 of 255.

    Raises:
        ValueError: The network has no ReLU, or does not end in a softmax.
    """
    guided_relus = {layer.name: _guided_relu(relu) for layer in model.layers if (relu := _relu_of(layer))}
    if not guided_relus:
        raise ValueError(f"expected a network with ReLU or ReLU6, by which backpropagation is guided: {model.name}")
    network = _copy_with_activations(model, guided_relus | _linear_last_layer(model))

    @tf.function(reduce_retracing=True)
    def of_batch(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch[PIXELS])
            logits = network(order_inputs(network, batch), training=False)
            classes = [logits[:, SCORES.index(score)] for score in scores]
        return (tf.stack([tape.gradient(logit, batch[PIXELS]) for logit in classes], axis=1),)

    return run_in_batches(of_batch, pixels, fixed_inputs, (len(scores), *pixels.shape[1:]))[0]


def explain(bundle: TrainedScorer, photos: Sequence[bytes], batch_size: int = 32) -> ExplanationOutputs:
    """Return scores and maps of encoded, upright photos, equal to those of the published version.

    Args:
        bundle: The scorer.
        photos: Encoded photos, at least one.
        batch_size: Photos of a batch.

    Returns:
        The arrays of ``serving_outputs.build_cam_model``.

    Raises:
        ValueError: The network has no maps in closed form, or there is no photo.
    """
    network = serving_outputs.build_cam_model(bundle.model)
    maps = tf.function(lambda inputs: network(order_inputs(network, inputs), training=False), reduce_retracing=True)
    return batching.in_batches(lambda batch: maps(bundle.build_inputs(batch)), photos, batch_size)


def run_in_batches(
    function: Callable, pixels: np.ndarray, fixed_inputs: FixedInputs, *shapes: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Call a function with one batch at a time, and return its concatenated outputs, float32.

    Args:
        function: Function from a dict of input tensors to a tuple of outputs.
        pixels: Photos, float ``[n, crop, crop, 3]``, 0..255.
        fixed_inputs: Other inputs, by name.
        *shapes: Shape of each output, without the batch axis.
    """
    inputs = {PIXELS: np.asarray(pixels, "float32"), **fixed_inputs}
    outputs = [
        function({name: tf.constant(values[start : start + _BATCH_SIZE]) for name, values in inputs.items()})
        for start in range(0, len(pixels), _BATCH_SIZE)
    ]
    return tuple(
        np.concatenate(
            [np.empty((0, *shape), "float32"), *(batch_outputs[index] for batch_outputs in outputs)], dtype="float32"
        )
        for index, shape in enumerate(shapes)
    )


# Changes of the network


def _linear_last_layer(model: keras.Model) -> dict[str, Callable]:
    """Return a linear activation by the name of the last layer, which makes the network give logits."""
    last = model.layers[-1]
    if (
        not isinstance(last, keras.layers.Softmax)
        and getattr(last, "activation", None) is not keras.activations.softmax
    ):
        raise ValueError(f"expected a network that ends in a softmax, found {last.name} at the end of {model.name}")
    return {last.name: keras.activations.linear}


def _relu_of(layer: keras.Layer) -> Callable | None:
    """Return the activation of a layer that is or ends in ReLU or ReLU6; otherwise None."""
    if isinstance(layer, keras.layers.ReLU):
        return None if layer.negative_slope or layer.threshold else layer.call
    activation = getattr(layer, "activation", None)
    return activation if activation in (keras.activations.relu, keras.activations.relu6) else None


def _guided_relu(relu: Callable) -> Callable:
    """Return a ReLU whose gradient also blocks negative gradients."""

    @tf.custom_gradient
    def gate(active: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(active), tf.nn.relu

    return lambda inputs: gate(relu(inputs))


def _copy_with_activations(model: keras.Model, activations: dict[str, Callable]) -> keras.Model:
    """Return a copy of a model with the same weights, and with other activations in the layers of these names."""

    @cache  # a layer that is used twice is copied once
    def copy(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.layers.ReLU | keras.layers.Softmax) and layer.name in activations:
            return keras.layers.Activation(activations[layer.name], name=layer.name)
        twin = layer.__class__.from_config(layer.get_config())
        if layer.name in activations:
            twin.activation = activations[layer.name]
        return twin

    twin = keras.models.clone_model(model, clone_function=copy)
    twin.set_weights(model.get_weights())
    return twin
