"""The encoder: a backbone of ``keras.applications`` that reads pixels 0..255.

The backbone's own scaling of pixels is the first layer, so that it travels with the weights.
"""

import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np

from components.scorer.settings import Pretraining


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
