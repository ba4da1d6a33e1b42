"""The encoder: a backbone of ``keras.applications`` that reads pixels 0..255.

The backbone's own pixel normalisation is the first layer, so it is saved with the weights.
"""

import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np

from components.scorer.settings import Pretraining


@keras.saving.register_keras_serializable("portrait_scorer")
class BackboneScaling(keras.layers.Layer):
    """Normalisation of pixels 0..255 to the range that the backbone was trained on.

    Args:
        mode: ``"tf"`` (-1..1), ``"torch"`` (ImageNet mean and deviation), ``"caffe"`` (BGR less the mean) as in
            ``keras.applications.imagenet_utils.preprocess_input``, or ``"none"``.
    """

    def __init__(self, mode: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, pixels):
        """Return normalised pixels ``[n, height, width, 3]``."""
        if self.mode == "none":
            return pixels
        return keras.applications.imagenet_utils.preprocess_input(pixels, mode=self.mode)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "mode": self.mode}


def build_encoder(settings: Pretraining, weights: Path | None = None) -> keras.Model:
    """Build the backbone without its classifier, from random, saved or ImageNet weights.

    Args:
        settings: Pretraining settings: the backbone, its options, the crop side, the scaling and the start.
        weights: File of weights. A ``.keras`` file holds a whole network, which is cut before its global pooling or,
            without one, used up to its last feature map. A ``.weights.h5`` file holds weights of
            ``parse_settings.backbone``. If None, and ``settings.start == "imagenet"``, keras.applications downloads its
            own.

    Returns:
        A flat model: float ``[n, crop, crop, 3]``, 0..255, to features ``[n, h, w, c]``.

    Raises:
        ValueError: The backbone is unknown, its options are invalid, or the weights do not match.
    """
    keras.utils.set_random_seed(settings.seed)
    pixels = keras.Input((settings.crop, settings.crop, 3), name="pixels")
    scaled = BackboneScaling(_scaling_mode(settings), name="scaling")(pixels)
    if weights is not None and weights.suffix == ".keras":
        features = _load_backbone(weights).call(scaled)
    else:
        features = _new_backbone(settings, scaled, weights).output
    return keras.Model(pixels, features, name="encoder")


def _new_backbone(settings: Pretraining, scaled: keras.KerasTensor, weights: Path | None) -> keras.Model:
    """Return the backbone of keras.applications, applied to the normalised pixels."""
    build = getattr(keras.applications, settings.backbone, None)
    if not inspect.isfunction(build):
        names = [name for name, value in vars(keras.applications).items() if inspect.isfunction(value)]
        raise ValueError(f"backbone must be one of keras.applications {sorted(names)}, got {settings.backbone!r}")
    start = str(weights) if weights else "imagenet" if settings.start == "imagenet" else None
    try:
        return build(input_tensor=scaled, include_top=False, weights=start, **settings.backbone_options)
    except (TypeError, ValueError) as error:
        arguments = f"backbone {settings.backbone}, backbone_options {settings.backbone_options}, weights {start}"
        raise ValueError(f"the backbone cannot be built: {error} ({arguments})") from error


def _load_backbone(file: Path) -> keras.Model:
    """Load a saved network up to its last feature map."""
    network = keras.saving.load_model(file, compile=False)
    # This project's own files begin with a scaling layer. It is cut off, because the setting decides on the scaling.
    scaling_layers = [layer for layer in network.layers if isinstance(layer, BackboneScaling)]
    inputs = scaling_layers[0].output if scaling_layers else network.inputs[0]
    for layer in network.layers:
        if isinstance(layer, keras.layers.GlobalAveragePooling2D | keras.layers.GlobalMaxPooling2D):
            return keras.Model(inputs, layer.input)
    if len(network.output_shape) != 4:
        raise ValueError(
            f"{file.name} must hold a network with global pooling or with feature maps [n, h, w, c] as output,"
            f" got output {network.output_shape}"
        )
    return keras.Model(inputs, network.output)


def _scaling_mode(settings: Pretraining) -> str:
    """Return the scaling mode.

    With the setting ``"backbone"`` this is the mode that gives the same numbers as the backbone's ``preprocess_input``.
    """
    if settings.scaling != "backbone":
        return settings.scaling
    module = inspect.getmodule(getattr(keras.applications, settings.backbone, None))
    preprocess = getattr(module, "preprocess_input", None)
    if preprocess is None:
        return "none"
    probe = np.linspace(0, 255, 12, dtype="float32").reshape(1, 2, 2, 3)
    for mode in ("tf", "torch", "caffe"):
        if np.allclose(
            preprocess(probe.copy()), keras.applications.imagenet_utils.preprocess_input(probe.copy(), mode=mode)
        ):
            return mode
    return "none"
