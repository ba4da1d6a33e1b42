"""Networks that detect and embed faces by design, for tests that do not need the real ones.

OpenCV runs the detector as YuNet, with the same twelve outputs. A magenta square of 16 pixels is the centre of a face
of 32 pixels, a yellow square of 32 pixels that of a face of 64. The embedder has random weights.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from components.scorer.faces.geometry import TEMPLATE
from components.scorer.settings import Faces

MAGENTA, YELLOW = (255, 0, 255), (255, 255, 0)
SIDE, SIZE = 24, 12
"""Side of the embedder's crops, pixels; length of an embedding."""

_FACES = {8: (MAGENTA, 32), 16: (YELLOW, 64), 32: (None, 64)}  # stride: colour of the centre and side of the face
_MIDDLE = 0.8  # fraction of a face's side that the landmarks' template takes


def marked(data: bytes, *places: tuple[float, float], colour: tuple[int, int, int] = MAGENTA) -> bytes:
    """Return a JPEG of the same size with a face at each place; places are fractions of its width and height."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    half = next(side for centre_colour, side in _FACES.values() if centre_colour == colour) // 4
    for x, y in places:
        x, y = round(x * image.width), round(y * image.height)
        ImageDraw.Draw(image).rectangle((x - half, y - half, x + half - 1, y + half - 1), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def detector() -> bytes:
    """Return the detector as ONNX."""
    nodes, weights, outputs = [], [], []
    for stride, (colour, side) in _FACES.items():
        half_side = side / 2 / stride
        points = ((TEMPLATE / 112 - 0.5) * _MIDDLE * side / stride + 0.5).ravel()
        constants = {"bbox": [0.5, 0.5, np.log(2 * half_side), np.log(2 * half_side)], "kps": points, "obj": [1.0]}
        filter_ = np.zeros((1, 3, side // 2, side // 2))
        if colour:  # 1 if all pixels have the colour; OpenCV's order is blue, green, red
            signs = np.where(np.array(colour[::-1]) > 0, 0.5, -1.0)
            filter_ += signs[:, None, None] / 255 / filter_[0, 0].size
        for name, kernel, bias in [
            ("cls", filter_, np.zeros(1)),
            *((name, np.zeros((len(values), *filter_.shape[1:])), values) for name, values in constants.items()),
        ]:
            rows = _rows(f"{name}_{stride}", np.asarray(kernel), np.asarray(bias), stride)
            nodes += rows[0]
            weights += rows[1]
            outputs.append(helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, None, len(bias)]))
    outputs.sort(key=lambda output: ["cls", "obj", "bbox", "kps"].index(output.name.partition("_")[0]))
    return _model(nodes, weights, helper.make_tensor_value_info("input", 1, [1, 3, "height", "width"]), outputs)


def embedder(seed: int = 0, shape: tuple[Any, ...] = ("n", 3, SIDE, SIDE)) -> bytes:
    """Return the embedder as ONNX: one convolution over a crop's quarters."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.1, (SIZE // 4, shape[1], SIDE // 2, SIDE // 2)).astype("float32")
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["parts"], strides=[SIDE // 2, SIDE // 2]),
        helper.make_node("Flatten", ["parts"], ["embedding"]),
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [shape[0], None])
    return _model(
        nodes, [numpy_helper.from_array(kernel, "kernel")], helper.make_tensor_value_info("input", 1, shape), [output]
    )


def write_keras(file: Path, shape: tuple[int | None, ...] = (SIDE, SIDE, 3)) -> None:
    """Write an embedder in Keras's format: an input and the layers ``first``, ``pooled`` and ``answer``."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    maps = layers.Conv2D(8, 5, strides=2, activation="relu", name="first")(inputs)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(maps)
    keras.Model(inputs, layers.Dense(SIZE, name="answer")(pooled)).save(file)


READ = SIZE * len(Faces().face_scales)
"""Length of a face's embedding at the default scales."""


def write(folder: Path) -> dict[str, str]:
    """Write detector and embedder to files, and return the settings that name the files."""
    files = {"face_detector": (folder / "detector.onnx", detector()), "face_embedder": (folder / "e.onnx", embedder())}
    for file, content in files.values():
        file.write_bytes(content)
    return {name: str(file) for name, (file, _) in files.items()}


def _rows(name: str, kernel: np.ndarray, bias: np.ndarray, stride: int) -> tuple[list, list]:
    """Return a convolution whose outputs [1, k, h, w] become rows [1, h * w, k]."""
    pad = (kernel.shape[-1] - stride) // 2
    tensors = {
        "kernel": kernel.astype("float32"),
        "bias": bias.astype("float32"),
        "shape": np.array([1, -1, len(bias)]),
    }
    names = [f"{name}_{part}" for part in tensors]
    nodes = [
        helper.make_node("Conv", ["input", *names[:2]], [f"{name}_maps"], strides=[stride] * 2, pads=[pad] * 4),
        helper.make_node("Clip", [f"{name}_maps", "low", "high"], [f"{name}_clipped"])
        if name.startswith("cls")
        else helper.make_node("Identity", [f"{name}_maps"], [f"{name}_clipped"]),
        helper.make_node("Transpose", [f"{name}_clipped"], [f"{name}_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{name}_last", names[2]], [name]),
    ]
    return nodes, [
        numpy_helper.from_array(value, tensor_name) for tensor_name, value in zip(names, tensors.values(), strict=True)
    ]


def _model(nodes: list, weights: list, given: Any, outputs: list) -> bytes:
    limits = [
        numpy_helper.from_array(np.array(value, "float32"), limit_name)
        for limit_name, value in {"low": 0, "high": 1}.items()
    ]
    graph = helper.make_graph(nodes, "designed", [given], outputs, weights + limits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
