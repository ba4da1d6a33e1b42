"""Heat maps and gradients that show why a photo gets its score.

Models are flat: pixels float ``[n, crop, crop, 3]``, 0..255, to votes float32 ``[n, 10]`` that sum to 1. Of a scorer
that takes the face as well, the whole photo alone is explained: what is ``held`` of the face, inputs by their names,
stays as it is. Maps have the height and width of the last feature map, and are as large as they come out: a place's
part of a class's logit. Only ``overlay`` brings them to 0..1, for the eye. A place sees more of the photo than its
share, in deep networks all of it.

Sources: Grad-CAM, Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391, whose closed form is in
``model.serving_outputs``; guided backpropagation, Springenberg et al., "Striving for Simplicity", 2015,
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
from components.scorer.artifacts.batching import Explained
from components.scorer.artifacts.bundle import Bundle
from components.scorer.model import network as networks
from components.scorer.model import serving_outputs
from components.scorer.model.inputs import PIXELS, in_order
from components.scorer.settings import SCORES

HIGH = (8, 9, 10)
"""The scores whose classes are asked what in a photo speaks for a high one."""

_BATCH = 16  # photos whose activations are held at a time for a gradient
Held = Mapping[str, np.ndarray]
"""What a scorer takes beside the pixels, by its inputs' names, a row a photo; see `hold`."""

NOTHING: Held = MappingProxyType({})


def hold(given: Mapping[str, Any]) -> tuple[np.ndarray, Held]:
    """The pixels of what a scorer takes (``Bundle.given``), and the rest."""
    arrays = {name: np.asarray(value) for name, value in given.items()}
    return arrays.pop(PIXELS), arrays


# Where in a photo


def heatmaps(model: keras.Model, pixels: np.ndarray, held: Held = NOTHING) -> np.ndarray:
    """Grad-CAM: which places of a photo speak for each of the ten scores, by gradients, for any flat network.

    The weight of a feature is the mean over all places of the gradient of the class's logit by that feature; a
    class's map is the weighted sum of the features, less what speaks against it (Selvaraju et al., equations 1, 2).

    Args:
        model: a network with feature maps ``[n, h, w, c]`` somewhere and a softmax at its end.
        pixels: float ``[n, crop, crop, 3]``, 0..255.
        held: what it takes beside.

    Returns:
        float32 ``[n, h, w, 10]``, from 0 on, not normalised; of the last feature map of the whole photo.

    Raises:
        ValueError: the network has no feature maps, or does not end in a softmax.
    """
    copy = _copy(model, _without_softmax(model))
    maps = _last_maps(copy)
    if maps is None:
        raise ValueError(f"expected a network with feature maps [n, h, w, c], found none in {model.name}")
    network = keras.Model(copy.inputs, [maps, copy.output])

    @tf.function(reduce_retracing=True)
    def of_batch(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch[PIXELS])
            features, logits = network(in_order(network, batch), training=False)
            classes = tf.unstack(logits, axis=-1)
        weights = tf.stack([tf.reduce_mean(tape.gradient(one, features), [1, 2]) for one in classes], axis=-1)
        return (tf.nn.relu(tf.einsum("nhwk,nkc->nhwc", features, weights)),)

    return batched(of_batch, pixels, held, (*maps.shape[1:3], len(SCORES)))[0]


def _last_maps(model: keras.Model) -> keras.KerasTensor | None:
    """The feature maps of the whole photo that are pooled at the end, or else the last ones."""
    if (pooled := networks.maps(model)) is not None:
        return pooled
    maps = [layer.output for layer in model.layers[1:] if len(getattr(layer.output, "shape", ())) == 4]
    return maps[-1] if maps else None


def weighted(class_heatmaps: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The average of the classes' maps, each weighted by the share of votes predicted for it.

    Args:
        class_heatmaps: ``[n, h, w, 10]``.
        votes: ``[n, 10]``, predicted.

    Returns:
        ``[n, h, w]``.
    """
    return np.einsum("nhwc,nc->nhw", class_heatmaps, votes)


def has_relu(model: keras.Model) -> bool:
    """Whether backpropagation through a network can be guided: some layer is or ends in ReLU or ReLU6."""
    return any(_relu(layer) for layer in model.layers)


def guided_gradients(
    model: keras.Model, pixels: np.ndarray, scores: Sequence[int] = HIGH, held: Held = NOTHING
) -> np.ndarray:
    """Guided backpropagation: which details speak for the given scores.

    The gradient of a class's logit by the pixels, in which each ReLU lets only positive gradients through where its
    input was positive (Springenberg et al., section 3.4). It shows edges sharply, but a network's early layers more
    than its last ones (Adebayo et al., "Sanity Checks for Saliency Maps", 2018): a picture of details, no proof.

    Args:
        model: a network with ReLU or ReLU6 and a softmax at its end.
        pixels: float ``[n, crop, crop, 3]``, 0..255.
        scores: of 1..10, whose classes are asked.
        held: what the network takes beside.

    Returns:
        float32 ``[n, len(scores), crop, crop, 3]``: logit per 1 of 255.

    Raises:
        ValueError: the network has no ReLU, or does not end in a softmax.
    """
    guided = {layer.name: _guided(relu) for layer in model.layers if (relu := _relu(layer))}
    if not guided:
        raise ValueError(f"expected a network with ReLU or ReLU6, by which backpropagation is guided: {model.name}")
    network = _copy(model, guided | _without_softmax(model))

    @tf.function(reduce_retracing=True)
    def of_batch(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(batch[PIXELS])
            logits = network(in_order(network, batch), training=False)
            classes = [logits[:, SCORES.index(score)] for score in scores]
        return (tf.stack([tape.gradient(one, batch[PIXELS]) for one in classes], axis=1),)

    return batched(of_batch, pixels, held, (len(scores), *pixels.shape[1:]))[0]


def explain(bundle: Bundle, photos: Sequence[bytes], batch_size: int = 32) -> Explained:
    """Scores and maps of encoded, upright photos by a scorer, as its published version gives them.

    Args:
        bundle: the scorer.
        photos: at least one.
        batch_size: photos at a time.

    Returns:
        What ``serving_outputs.closed_form`` gives.

    Raises:
        ValueError: the network has no maps in closed form, or there is no photo.
    """
    network = serving_outputs.closed_form(bundle.model)
    maps = tf.function(lambda given: network(in_order(network, given), training=False), reduce_retracing=True)
    return batching.in_batches(lambda batch: maps(bundle.given(batch)), photos, batch_size)


def batched(function: Callable, pixels: np.ndarray, held: Held, *shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """A function's outputs, of these shapes for each photo, for what is given to it a few photos at a time."""
    given = {PIXELS: np.asarray(pixels, "float32"), **held}
    parts = [
        function({name: tf.constant(values[start : start + _BATCH]) for name, values in given.items()})
        for start in range(0, len(pixels), _BATCH)
    ]
    return tuple(
        np.concatenate([np.empty((0, *shape), "float32"), *(part[place] for part in parts)], dtype="float32")
        for place, shape in enumerate(shapes)
    )


# The network


def _without_softmax(model: keras.Model) -> dict[str, Callable]:
    """The activation that makes the network give logits, by the name of its last layer."""
    last = model.layers[-1]
    if (
        not isinstance(last, keras.layers.Softmax)
        and getattr(last, "activation", None) is not keras.activations.softmax
    ):
        raise ValueError(f"expected a network that ends in a softmax, found {last.name} at the end of {model.name}")
    return {last.name: keras.activations.linear}


def _relu(layer: keras.Layer) -> Callable | None:
    """The activation of a layer that is or ends in ReLU or ReLU6."""
    if isinstance(layer, keras.layers.ReLU):
        return None if layer.negative_slope or layer.threshold else layer.call
    activation = getattr(layer, "activation", None)
    return activation if activation in (keras.activations.relu, keras.activations.relu6) else None


def _guided(relu: Callable) -> Callable:
    """The same, but what of the gradient is negative ends here; the ReLU's own gradient does the rest."""

    @tf.custom_gradient
    def gate(active: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(active), tf.nn.relu

    return lambda given: gate(relu(given))


def _copy(model: keras.Model, activations: dict[str, Callable]) -> keras.Model:
    """A copy with the same weights and, in the layers of these names, other activations."""

    @cache  # a layer that works at two places stays one
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
