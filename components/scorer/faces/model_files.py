"""Input shapes and layers of network files (LiteRT, ONNX, Keras), read from their bytes."""

import difflib
import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np

from components.scorer import litert

_MAX_SIMILAR = 5  # number of similar layer names that an error message lists


def litert_input_shape(content: bytes) -> list[int]:
    """Return the input shape of a LiteRT network, dynamic lengths 0; raise ValueError if it takes no images."""
    try:
        interpreter = litert.load_interpreter(content, 1)
    except ValueError as error:
        raise ValueError(
            f"expected a LiteRT network, got {len(content)} bytes that cannot be loaded: {error}"
        ) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0]["dtype"] is not np.float32:
        types = [tensor["dtype"].__name__ for tensor in inputs]
        raise ValueError(f"expected one float32 input and one output, got inputs {types} and {len(outputs)} outputs")
    shape = [max(0, int(length)) for length in inputs[0]["shape_signature"]]
    if shape[1:2] == [3] and shape[3:] != [3]:
        raise ValueError(f"expected a LiteRT network of pictures [n, side, side, 3], got one of {shape}")
    return shape


def onnx_input_shape(content: bytes) -> list[int]:
    """Return the shape of an ONNX file's only input, unknown lengths 0.

    Weights are not counted as inputs, although older files list them there.

    Raises:
        ValueError: The content is not ONNX, or the network does not have exactly one input.
    """
    try:
        graphs = [value for number, value in _protobuf_fields(memoryview(content)) if number == 7]
        parts = list(_protobuf_fields(graphs[0]))
        weights = {_text_field(part, 8) for number, part in parts if number == 5}
        inputs = [part for number, part in parts if number == 11 and _text_field(part, 1) not in weights]
        shapes = [_onnx_shape(part) for part in inputs]
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"expected an ONNX network, got {len(content)} bytes that are none") from error
    if len(shapes) != 1:
        raise ValueError(f"expected a network with one input, got {len(shapes)}")
    return shapes[0]


def _onnx_shape(value_info: memoryview) -> list[int]:
    """Read the shape of a ValueInfoProto by the fields type (2), tensor_type (1), shape (2), dim (1), dim_value (1)."""
    message = value_info
    for number in (2, 1, 2):
        message = next(part for key, part in _protobuf_fields(message) if key == number)
    dims = [part for number, part in _protobuf_fields(message) if number == 1]
    return [next((part for number, part in _protobuf_fields(dim) if number == 1), 0) for dim in dims]


def _text_field(message: memoryview, number: int) -> str:
    return next((bytes(part).decode() for key, part in _protobuf_fields(message) if key == number), "")


def _protobuf_fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protobuf message: field number and value (protobuf.dev, "Encoding").

    A varint is yielded as an integer, any other value as its bytes.

    Raises:
        ValueError: The bytes are not a protobuf message.
    """
    offset = 0

    def varint() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            if offset >= len(message) or shift > 63:
                raise ValueError("cut off")
            byte = message[offset]
            value, shift, offset = value | (byte & 127) << shift, shift + 7, offset + 1
            if byte < 128:
                return value

    while offset < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = {1: 8, 5: 4}[kind] if kind in (1, 5) else varint() if kind == 2 else -1
        if not 0 <= length <= len(message) - offset:
            raise ValueError("cut off")
        yield number, message[offset : offset + length]
        offset += length


def keras_layers(content: bytes) -> dict[str, dict[str, Any]]:
    """Return the layers of a ``.keras`` file by name, read without Keras.

    Raises:
        ValueError: The content is not a ``.keras`` file of a network of layers.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        return {layer["config"]["name"]: layer for layer in layers}
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected a .keras file of a network of layers, got {len(content)} bytes that are none"
        ) from error


def keras_input_shape(content: bytes) -> list[int]:
    """Return the input shape of a ``.keras`` file; raise ValueError if it has not exactly one input."""
    inputs = [layer for layer in keras_layers(content).values() if layer["class_name"] == "InputLayer"]
    if len(inputs) != 1:
        raise ValueError(f"expected a network with one input, got {len(inputs)}")
    config = inputs[0]["config"]
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    return [length or 0 for length in shape]


def check_layers(available: list[str], required: tuple[str, ...]) -> None:
    """Raise ValueError if a wanted layer is not among the known ones; the message names similar layers."""
    for name in required:
        if name not in available:
            folded = {layer.lower(): layer for layer in available}
            similar = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, _MAX_SIMILAR, 0.4)]
            raise ValueError(
                f"expected face_layers among its {len(available)} layers, got {name!r}; like it are {similar}"
            )
