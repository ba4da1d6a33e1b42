"""The network: a backbone of ``keras.applications`` as encoder, and NIMA's head on it.

Both models are flat (no model inside a model), so that gradients can be taken at any layer, and both read
pixels 0..255: the backbone's own scaling is their first layer and travels with the weights. A scorer may see more than
the whole photo, see ``sight``.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from components.scorer import quadratic
from components.scorer import sight as seeing
from components.scorer.settings import SCORES, Pretraining
from components.scorer.sight import PRINCIPAL, STAND_IN, WHOLE, Sight
from components.scorer.stages import EMBEDDING, FACE, FOUND

_MOMENTUM = 0.9
"""Of the running statistics of new batch norms, as in PyTorch: they follow within 40 steps, Keras's 0.99 within 400."""

_POOLED, _POOLED_FACE = "pooled", "pooled_face"

_HEAD = (PRINCIPAL, STAND_IN, quadratic.NAME, "votes")
"""The layers of the head that have weights."""

_FULL_PRECISION = {
    "pixels", FACE, EMBEDDING, FOUND, _POOLED, _POOLED_FACE, "features", "dropout", *_HEAD, "photo",
}  # fmt: skip
"""Layers that stay in float32 under mixed precision."""


@keras.saving.register_keras_serializable("portrait_scorer")
class Scaling(keras.layers.Layer):
    """Pixels 0..255 to the range that the backbone was trained on.

    Args:
        mode: ``"tf"`` (-1..1), ``"torch"`` (ImageNet mean and deviation), ``"caffe"`` (BGR less the mean) as in
            ``keras.applications.imagenet_utils.preprocess_input``, or ``"none"``.
    """

    def __init__(self, mode: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, pixels):
        """Scale ``[n, height, width, 3]``."""
        if self.mode == "none":
            return pixels
        return keras.applications.imagenet_utils.preprocess_input(pixels, mode=self.mode)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the layer."""
        return {**super().get_config(), "mode": self.mode}


def build_encoder(settings: Pretraining, weights: Path | None = None) -> keras.Model:
    """The backbone without its classifier, from random, given or ImageNet weights.

    Args:
        settings: names the backbone, its options, the side of the crop, the scaling and the start.
        weights: a ``.keras`` file of a whole network (cut before its global pooling or, without one, used up
            to its last feature map) or a ``.weights.h5`` file for ``settings.backbone``. Without one, and
            with ``settings.start == "imagenet"``, keras.applications fetches its own.

    Returns:
        A flat model: float ``[n, crop, crop, 3]``, 0..255, to features ``[n, h, w, c]``.

    Raises:
        ValueError: the backbone is unknown, its options do not fit, or the weights do not.
    """
    keras.utils.set_random_seed(settings.seed)
    pixels = keras.Input((settings.crop, settings.crop, 3), name="pixels")
    scaled = Scaling(_scaling(settings), name="scaling")(pixels)
    if weights is not None and weights.suffix == ".keras":
        features = _load_backbone(weights).call(scaled)
    else:
        features = _new_backbone(settings, scaled, weights).output
    return keras.Model(pixels, features, name="encoder")


def build_scorer(encoder: keras.Model, dropout: float, sight: Sight = WHOLE, form: int = 0) -> keras.Model:
    """NIMA: the encoder, global average pooling, dropout and a ten-way softmax (NIMA, section III).

    What is seen of the face is appended to the pooled features of the whole photo, which come first.

    Args:
        encoder: from ``build_encoder``; its layers are shared with the result.
        dropout: share of the features dropped in training.
        sight: what it sees beside the whole photo.
        form: components of the features whose pairs are weighed, see ``quadratic``; 0: features are weighed alone.

    Returns:
        A flat model: float ``[n, crop, crop, 3]``, 0..255, and what ``sight`` reads, to votes float32 ``[n, 10]`` that
        sum to 1.
    """
    given = {_POOLED: _pooling(_POOLED)(encoder.output)}
    inputs = [encoder.input]
    if sight.view:
        face = keras.Input(encoder.input_shape[1:], name=FACE)
        inputs.append(face)
        given[_POOLED_FACE] = _pooling(_POOLED_FACE)(_applied(encoder, face))
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
    names = (_POOLED, _POOLED_FACE) if sight.view else (_POOLED,)
    given = {name: keras.Input((channels,), name=name) for name in names} | _embedded(sight)
    return keras.Model([*given.values()], _votes(given, dropout, sight, form), name="head")


def pooling(encoder: keras.Model, sight: Sight) -> keras.Model:
    """What `build_head` reads of pixels: the encoder's pooled features, by the names of the head's inputs.

    Returns:
        A flat model of ``pixels`` and, with a view of the face, ``face``.
    """
    outputs, inputs = {_POOLED: _pooling(_POOLED)(encoder.output)}, [encoder.input]
    if sight.view:
        inputs.append(keras.Input(encoder.input_shape[1:], name=FACE))
        outputs[_POOLED_FACE] = _pooling(_POOLED_FACE)(_applied(encoder, inputs[-1]))
    return keras.Model(inputs, outputs, name="pooling")


def hand_over(head: keras.Model, scorer: keras.Model) -> None:
    """Give a scorer the weights of a head that was fitted alone."""
    there = {layer.name for layer in head.layers}
    for name in _HEAD:
        if name in there:
            scorer.get_layer(name).set_weights(head.get_layer(name).get_weights())


def features(scorer: keras.Model) -> keras.KerasTensor:
    """What a scorer's last layer reads, before dropout: ``[n, c]``.

    They begin with the pooled features of the whole photo, unless those are weighed in pairs (``quadratic``).
    """
    return _before_the_last(scorer).output


def pairing(scorer: keras.Model) -> quadratic.Quadratic | None:
    """The layer by which a scorer weighs pairs of features; None where it weighs them alone."""
    last = _before_the_last(scorer)
    return last if isinstance(last, quadratic.Quadratic) else None


def maps(scorer: keras.Model) -> keras.KerasTensor | None:
    """The feature maps ``[n, h, w, c]`` of the whole photo that are pooled at the end; None where none are.

    What is read of the photo, by the last layer or in `pairing`, begins with their means.
    """
    last = _before_the_last(scorer)
    if isinstance(last, quadratic.Quadratic):
        last = _maker(scorer, last.input)
    if isinstance(last, keras.layers.Concatenate):
        last = _maker(scorer, last.input[0])
    return last.input if isinstance(last, keras.layers.GlobalAveragePooling2D) else None


def _maker(scorer: keras.Model, made: keras.KerasTensor) -> keras.Layer | None:
    """The layer of a scorer, of those between its maps and its last one, that gives something."""
    between = (layer for layer in scorer.layers if layer.name in (_POOLED, "features"))
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
    parts = [given[name] for name in (_POOLED, _POOLED_FACE) if name in given]
    if sight.embedding:
        parts.append(seeing.build_face(given[EMBEDDING], given[FOUND], sight))
    joined = keras.layers.Concatenate(name="features", dtype="float32")(parts) if len(parts) > 1 else parts[0]
    if form:
        joined = quadratic.Quadratic(form, name=quadratic.NAME, dtype="float32")(joined)
    dropped = keras.layers.Dropout(dropout, name="dropout", dtype="float32")(joined)
    return keras.layers.Dense(len(SCORES), activation="softmax", name="votes", dtype="float32")(dropped)


def freeze_batch_norms(model: keras.Model) -> None:
    """Keep the statistics of pretraining: a batch of portraits is too small and too alike to replace them."""
    for norm in _batch_norms(model):
        norm.trainable = False


def settle_batch_norms(model: keras.Model, pixels: keras.KerasTensor) -> None:
    """Set the running statistics of a new network from one batch of photos.

    They start at mean 0 and variance 1. The true variances of an untrained network are so much smaller that, layer
    after layer, its answers would fade to a constant until hundreds of steps have brought the statistics in line,
    and whatever judges the first epochs (the validation loss, the choice of the best epoch) would judge a constant.

    Args:
        model: not yet trained.
        pixels: ``[n, crop, crop, 3]``, 0..255.
    """
    norms = _batch_norms(model)
    for norm in norms:
        norm.momentum = 0.0  # forget the start
    model(pixels, training=True)
    for norm in norms:
        norm.momentum = _MOMENTUM


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """The same network and weights computing in another precision, e.g. ``"mixed_float16"``.

    Layers that are kept in float32 for their range (pooling, softmax, the reconstruction) stay so.
    """
    if all(layer.dtype_policy.name == policy for layer in model.layers if layer.name not in _FULL_PRECISION):
        return model

    @cache  # a layer that works at two places stays one
    def convert(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # such as the conversion to a tensor before given weights
            return layer
        config = layer.get_config()
        if layer.name not in _FULL_PRECISION:
            config["dtype"] = policy
        return layer.__class__.from_config(config)

    converted = keras.models.clone_model(model, clone_function=convert)
    converted.set_weights(model.get_weights())
    return converted


def _new_backbone(settings: Pretraining, scaled: keras.KerasTensor, weights: Path | None) -> keras.Model:
    """The backbone from keras.applications on top of the scaled pixels."""
    build = getattr(keras.applications, settings.backbone, None)
    if not inspect.isfunction(build):
        names = [name for name, value in vars(keras.applications).items() if inspect.isfunction(value)]
        raise ValueError(f"backbone must be one of keras.applications {sorted(names)}, got {settings.backbone!r}")
    start = str(weights) if weights else "imagenet" if settings.start == "imagenet" else None
    try:
        return build(input_tensor=scaled, include_top=False, weights=start, **settings.backbone_options)
    except (TypeError, ValueError) as error:
        given = f"backbone {settings.backbone}, backbone_options {settings.backbone_options}, weights {start}"
        raise ValueError(f"the backbone cannot be built: {error} ({given})") from error


def _load_backbone(file: Path) -> keras.Model:
    """A saved network up to its last feature map."""
    network = keras.saving.load_model(file, compile=False)
    # A file of this project's own scales the pixels itself; here that is the setting's part.
    own = [layer for layer in network.layers if isinstance(layer, Scaling)]
    inputs = own[0].output if own else network.inputs[0]
    for layer in network.layers:
        if isinstance(layer, keras.layers.GlobalAveragePooling2D | keras.layers.GlobalMaxPooling2D):
            return keras.Model(inputs, layer.input)
    if len(network.output_shape) != 4:
        raise ValueError(
            f"{file.name} must hold a network with global pooling or with feature maps [n, h, w, c] as output,"
            f" got output {network.output_shape}"
        )
    return keras.Model(inputs, network.output)


def _scaling(settings: Pretraining) -> str:
    """The scaling mode: as set, or the one whose numbers the backbone's own ``preprocess_input`` gives."""
    if settings.scaling != "backbone":
        return settings.scaling
    module = inspect.getmodule(getattr(keras.applications, settings.backbone, None))
    own = getattr(module, "preprocess_input", None)
    probe = np.linspace(0, 255, 12, dtype="float32").reshape(1, 2, 2, 3)
    for mode in ("tf", "torch", "caffe") if own else ():
        if np.allclose(own(probe.copy()), keras.applications.imagenet_utils.preprocess_input(probe.copy(), mode=mode)):
            return mode
    return "none"
