"""The scorer's network: an encoder with NIMA's head, and the embedding of a face beside it.

Encoder and scorer are flat (no model inside a model), so that gradients can be taken at any layer, and both read pixels
0..255. A scorer may take more than the whole photo, see ``inputs``.
"""

from collections.abc import Mapping

import keras

from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.model import inputs as seeing
from components.scorer.model import layers
from components.scorer.model.inputs import PRINCIPAL, STAND_IN, WHOLE, Sight
from components.scorer.settings import SCORES

POOLED, POOLED_FACE = "pooled", "pooled_face"
HEAD = (PRINCIPAL, STAND_IN, layers.NAME, "votes")
"""The layers of the head that have weights."""


def build_scorer(encoder: keras.Model, dropout: float, sight: Sight = WHOLE, form: int = 0) -> keras.Model:
    """NIMA: the encoder, global average pooling, dropout and a ten-way softmax (NIMA, section III).

    What is seen of the face is appended to the pooled features of the whole photo, which come first.

    Args:
        encoder: from ``build_encoder``; its layers are shared with the result.
        dropout: share of the features dropped in training.
        sight: what it sees beside the whole photo.
        form: components of the features whose pairs are weighed, see ``layers``; 0: features are weighed alone.

    Returns:
        A flat model: float ``[n, crop, crop, 3]``, 0..255, and what ``inputs`` reads, to votes float32 ``[n, 10]`` that
        sum to 1.
    """
    given = {POOLED: _pooling(POOLED)(encoder.output)}
    inputs = [encoder.input]
    if sight.view:
        face = keras.Input(encoder.input_shape[1:], name=FACE)
        inputs.append(face)
        given[POOLED_FACE] = _pooling(POOLED_FACE)(_applied(encoder, face))
    inputs += (embedded := _embedded(sight)).values()
    return keras.Model(
        inputs if sight else encoder.input, _votes(given | embedded, dropout, sight, form), name="scorer"
    )


def build_head(channels: int, dropout: float, sight: Sight = WHOLE, form: int = 0) -> keras.Model:
    """The head alone, which training fits first, on features that are computed once.

    Args:
        channels: of the encoder's features.
        dropout: see `build_scorer`.
        sight: likewise.
        form: likewise.

    Returns:
        A model of ``pooled`` ``[n, channels]`` and, with a view of the face, ``pooled_face`` likewise and, with an
        embedding, ``embedding`` and ``found``, to votes; its layers have the names of the scorer's.
    """
    names = (POOLED, POOLED_FACE) if sight.view else (POOLED,)
    given = {name: keras.Input((channels,), name=name) for name in names} | _embedded(sight)
    return keras.Model([*given.values()], _votes(given, dropout, sight, form), name="head")


def pooling(encoder: keras.Model, sight: Sight) -> keras.Model:
    """What `build_head` reads of pixels: the encoder's pooled features, by the names of the head's inputs.

    Returns:
        A flat model of ``pixels`` and, with a view of the face, ``face``.
    """
    outputs, inputs = {POOLED: _pooling(POOLED)(encoder.output)}, [encoder.input]
    if sight.view:
        inputs.append(keras.Input(encoder.input_shape[1:], name=FACE))
        outputs[POOLED_FACE] = _pooling(POOLED_FACE)(_applied(encoder, inputs[-1]))
    return keras.Model(inputs, outputs, name="pooling")


def hand_over(head: keras.Model, scorer: keras.Model) -> None:
    """Give a scorer the weights of a head that was fitted alone."""
    there = {layer.name for layer in head.layers}
    for name in HEAD:
        if name in there:
            scorer.get_layer(name).set_weights(head.get_layer(name).get_weights())


def features(scorer: keras.Model) -> keras.KerasTensor:
    """What a scorer's last layer reads, before dropout: ``[n, c]``.

    They begin with the pooled features of the whole photo, unless those are weighed in pairs (``layers``).
    """
    return _before_the_last(scorer).output


def pairing(scorer: keras.Model) -> layers.Quadratic | None:
    """The layer by which a scorer weighs pairs of features; None where it weighs them alone."""
    last = _before_the_last(scorer)
    return last if isinstance(last, layers.Quadratic) else None


def maps(scorer: keras.Model) -> keras.KerasTensor | None:
    """The feature maps ``[n, h, w, c]`` of the whole photo that are pooled at the end; None where none are.

    What is read of the photo, by the last layer or in `pairing`, begins with their means.
    """
    last = _before_the_last(scorer)
    if isinstance(last, layers.Quadratic):
        last = _maker(scorer, last.input)
    if isinstance(last, keras.layers.Concatenate):
        last = _maker(scorer, last.input[0])
    return last.input if isinstance(last, keras.layers.GlobalAveragePooling2D) else None


def _maker(scorer: keras.Model, made: keras.KerasTensor) -> keras.Layer | None:
    """The layer of a scorer, of those between its maps and its last one, that gives something."""
    between = (layer for layer in scorer.layers if layer.name in (POOLED, "features"))
    return next((layer for layer in between if layer.output is made), None)


def _before_the_last(scorer: keras.Model) -> keras.Layer:
    """The layer that the last one reads, dropout passed over."""
    return [layer for layer in scorer.layers[:-1] if not isinstance(layer, keras.layers.Dropout)][-1]


def _applied(encoder: keras.Model, view: keras.KerasTensor) -> keras.KerasTensor:
    """The features of another view by the encoder's own layers, each of which then works at two places of the graph."""
    return keras.models.clone_model(encoder, input_tensors=view, clone_function=lambda layer: layer).output


def _pooling(name: str) -> keras.layers.Layer:
    return keras.layers.GlobalAveragePooling2D(name=name, dtype="float32")


def _embedded(sight: Sight) -> dict[str, keras.KerasTensor]:
    """The inputs for embeddings, by name."""
    if not sight.embedding:
        return {}
    return {EMBEDDING: keras.Input((sight.embedding,), name=EMBEDDING), FOUND: keras.Input((), name=FOUND)}


def _votes(given: Mapping[str, keras.KerasTensor], dropout: float, sight: Sight, form: int) -> keras.KerasTensor:
    """Dropout and softmax on all features together; float32 under mixed precision too."""
    parts = [given[name] for name in (POOLED, POOLED_FACE) if name in given]
    if sight.embedding:
        parts.append(seeing.build_face(given[EMBEDDING], given[FOUND], sight))
    joined = keras.layers.Concatenate(name="features", dtype="float32")(parts) if len(parts) > 1 else parts[0]
    if form:
        joined = layers.Quadratic(form, name=layers.NAME, dtype="float32")(joined)
    dropped = keras.layers.Dropout(dropout, name="dropout", dtype="float32")(joined)
    return keras.layers.Dense(len(SCORES), activation="softmax", name="votes", dtype="float32")(dropped)
