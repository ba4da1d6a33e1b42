"""The scorer's network: an encoder with NIMA's head, and the embedding of a face beside it.

Encoder and scorer are flat (no model inside a model), so that gradients can be taken at any layer. Both read pixels
0..255. A scorer may take more inputs than the whole photo, see ``inputs``.
"""

from collections.abc import Mapping

import keras

from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.model import inputs as scorer_inputs
from components.scorer.model import layers
from components.scorer.model.inputs import MISSING_FACE_LAYER, PCA_LAYER, PHOTO_ONLY, ModelInputs
from components.scorer.settings import SCORES

POOLED, POOLED_FACE = "pooled", "pooled_face"

FORMAT = 2
"""Number of the format of saved scorers, encoders and checkpoints, raised with every change of names in their files.

Among the names are keys of JSON files, settings that are removed, layers, and classes that are registered with Keras.
Version 0.1 wrote format 1, without a number.
"""

HEAD_LAYERS = (PCA_LAYER, MISSING_FACE_LAYER, layers.QUADRATIC_LAYER, "votes")
"""Names of the head's layers that have weights."""


def build_scorer(
    encoder: keras.Model, dropout: float, model_inputs: ModelInputs = PHOTO_ONLY, quadratic_rank: int = 0
) -> keras.Model:
    """Build a scorer: the encoder, global average pooling, dropout and a ten-way softmax (NIMA, section III).

    Face features are appended to the pooled features of the whole photo.

    Args:
        encoder: Model of ``build_encoder``; its layers are shared with the result.
        dropout: Fraction of the features that is dropped in training.
        model_inputs: Specification of the inputs.
        quadratic_rank: Rank of the quadratic features: the number of components whose pairs get weights, see
            ``layers``. 0: the head is linear.

    Returns:
        A flat model: float ``[n, crop, crop, 3]``, 0..255, and the other inputs of ``inputs``, to votes float32
        ``[n, 10]`` that sum to 1.
    """
    features = {POOLED: _average_pooling(POOLED)(encoder.output)}
    inputs = [encoder.input]
    if model_inputs.view:
        face = keras.Input(encoder.input_shape[1:], name=FACE)
        inputs.append(face)
        features[POOLED_FACE] = _average_pooling(POOLED_FACE)(_apply_shared(encoder, face))
    inputs += (embedding_inputs := _embedding_inputs(model_inputs)).values()
    return keras.Model(
        inputs if model_inputs else encoder.input,
        _build_votes(features | embedding_inputs, dropout, model_inputs, quadratic_rank),
        name="scorer",
    )


def build_head(
    channels: int, dropout: float, model_inputs: ModelInputs = PHOTO_ONLY, quadratic_rank: int = 0
) -> keras.Model:
    """Build the head alone. Training fits it first, on features that are computed once.

    Args:
        channels: Number of the encoder's feature channels.
        dropout: Fraction of the features that is dropped in training.
        model_inputs: Specification of the inputs.
        quadratic_rank: Rank of the quadratic features; 0: the head is linear.

    Returns:
        A model to votes ``[n, 10]``, whose layers have the names of the scorer's. Its inputs are ``pooled``
        ``[n, channels]``; with a second view, ``pooled_face`` ``[n, channels]``; with an embedding, ``embedding`` and
        ``found``.
    """
    names = (POOLED, POOLED_FACE) if model_inputs.view else (POOLED,)
    inputs = {name: keras.Input((channels,), name=name) for name in names} | _embedding_inputs(model_inputs)
    return keras.Model([*inputs.values()], _build_votes(inputs, dropout, model_inputs, quadratic_rank), name="head")


def build_pooling(encoder: keras.Model, model_inputs: ModelInputs) -> keras.Model:
    """Build the model that computes the head's inputs from pixels: the encoder's pooled features.

    Args:
        encoder: Model of ``build_encoder``; its layers are shared with the result.
        model_inputs: Specification of the inputs.

    Returns:
        A flat model of ``pixels`` and, with a second view, ``face``. Its outputs have the names of the head's inputs.
    """
    outputs, inputs = {POOLED: _average_pooling(POOLED)(encoder.output)}, [encoder.input]
    if model_inputs.view:
        inputs.append(keras.Input(encoder.input_shape[1:], name=FACE))
        outputs[POOLED_FACE] = _average_pooling(POOLED_FACE)(_apply_shared(encoder, inputs[-1]))
    return keras.Model(inputs, outputs, name="pooling")


def copy_head_weights(head: keras.Model, scorer: keras.Model) -> None:
    """Copy the weights of a head that was fitted alone into a scorer."""
    head_layers = {layer.name for layer in head.layers}
    for name in HEAD_LAYERS:
        if name in head_layers:
            scorer.get_layer(name).set_weights(head.get_layer(name).get_weights())


def last_layer_input(scorer: keras.Model) -> keras.KerasTensor:
    """Return the input ``[n, c]`` of the scorer's last dense layer, before dropout.

    It begins with the pooled features of the whole photo, unless the head is quadratic (`quadratic_layer`).
    """
    return _last_hidden_layer(scorer).output


def quadratic_layer(scorer: keras.Model) -> layers.QuadraticFeatures | None:
    """Return the quadratic layer of a scorer; None if its head is linear."""
    last = _last_hidden_layer(scorer)
    return last if isinstance(last, layers.QuadraticFeatures) else None


def feature_maps(scorer: keras.Model) -> keras.KerasTensor | None:
    """Return the feature maps ``[n, h, w, c]`` of the whole photo that are pooled at the end; None if there are none.

    The input of the quadratic layer or, without one, of the last layer begins with their means.
    """
    last = _last_hidden_layer(scorer)
    if isinstance(last, layers.QuadraticFeatures):
        last = _producer_of(scorer, last.input)
    if isinstance(last, keras.layers.Concatenate):
        last = _producer_of(scorer, last.input[0])
    return last.input if isinstance(last, keras.layers.GlobalAveragePooling2D) else None


def _producer_of(scorer: keras.Model, output: keras.KerasTensor) -> keras.Layer | None:
    """Return the layer between the feature maps and the last layer that outputs a tensor; None if none does."""
    candidates = (layer for layer in scorer.layers if layer.name in (POOLED, "features"))
    return next((layer for layer in candidates if layer.output is output), None)


def _last_hidden_layer(scorer: keras.Model) -> keras.Layer:
    """Return the layer before the last one, without dropout."""
    return [layer for layer in scorer.layers[:-1] if not isinstance(layer, keras.layers.Dropout)][-1]


def _apply_shared(encoder: keras.Model, view: keras.KerasTensor) -> keras.KerasTensor:
    """Return the encoder's features of another view.

    The encoder's own layers are applied again, so both views share the weights.
    """
    return keras.models.clone_model(encoder, input_tensors=view, clone_function=lambda layer: layer).output


def _average_pooling(name: str) -> keras.layers.Layer:
    return keras.layers.GlobalAveragePooling2D(name=name, dtype="float32")


def _embedding_inputs(model_inputs: ModelInputs) -> dict[str, keras.KerasTensor]:
    """Return the embedding inputs by name; empty without an embedding."""
    if not model_inputs.embedding_size:
        return {}
    return {EMBEDDING: keras.Input((model_inputs.embedding_size,), name=EMBEDDING), FOUND: keras.Input((), name=FOUND)}


def _build_votes(
    inputs: Mapping[str, keras.KerasTensor], dropout: float, model_inputs: ModelInputs, quadratic_rank: int
) -> keras.KerasTensor:
    """Return the votes: dropout and softmax on all features together.

    The layers compute in float32 even under mixed precision.
    """
    parts = [inputs[name] for name in (POOLED, POOLED_FACE) if name in inputs]
    if model_inputs.embedding_size:
        parts.append(scorer_inputs.build_face_features(inputs[EMBEDDING], inputs[FOUND], model_inputs))
    joined = keras.layers.Concatenate(name="features", dtype="float32")(parts) if len(parts) > 1 else parts[0]
    if quadratic_rank:
        joined = layers.QuadraticFeatures(quadratic_rank, name=layers.QUADRATIC_LAYER, dtype="float32")(joined)
    dropped = keras.layers.Dropout(dropout, name="dropout", dtype="float32")(joined)
    return keras.layers.Dense(len(SCORES), activation="softmax", name="votes", dtype="float32")(dropped)
