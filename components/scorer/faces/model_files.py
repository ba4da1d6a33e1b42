"""The input shapes of network files (LiteRT, ONNX, Keras), read from their bytes."""

import difflib
import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np

from components.scorer import litert

_LIKE = 5  # names of layers that an unknown one may have meant


def lite_input(content: bytes) -> list[int]:
    """Return the input shape of a LiteRT network; raise ValueError if it is no embedder of pictures."""
    try:
        interpreter = litert.load(content, 1)
    except ValueError as error:
        raise ValueError(
            f"expected a LiteRT network, got {len(content)} bytes that cannot be loaded: {error}"
        ) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0]["dtype"] is not np.float32:
        types = [each["dtype"].__name__ for each in inputs]
        raise ValueError(f"expected one float32 input and one output, got inputs {types} and {len(outputs)} outputs")
    shape = [max(0, int(length)) for length in inputs[0]["shape_signature"]]
    if shape[1:2] == [3] and shape[3:] != [3]:
        raise ValueError(f"expected a LiteRT network of pictures [n, side, side, 3], got one of {shape}")
    return shape


def onnx_input(content: bytes) -> list[int]:
    """The shape of an ONNX file's one input; its weights are no input, though older files list them as such."""
    try:
        graphs = [value for number, value in _wire(memoryview(content)) if number == 7]
        parts = list(_wire(graphs[0]))
        weights = {_text(part, 8) for number, part in parts if number == 5}
        inputs = [part for number, part in parts if number == 11 and _text(part, 1) not in weights]
        shapes = [_onnx_shape(part) for part in inputs]
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"expected an ONNX network, got {len(content)} bytes that are none") from error
    if len(shapes) != 1:
        raise ValueError(f"expected a network with one input, got {len(shapes)}")
    return shapes[0]


def _onnx_shape(value_info: memoryview) -> list[int]:
    """Of a ValueInfoProto: type (2), tensor_type (1), shape (2), dim (1), dim_value (1)."""
    place = value_info
    for number in (2, 1, 2):
        place = next(part for each, part in _wire(place) if each == number)
    dims = [part for number, part in _wire(place) if number == 1]
    return [next((part for number, part in _wire(dim) if number == 1), 0) for dim in dims]


def _text(message: memoryview, number: int) -> str:
    return next((bytes(part).decode() for each, part in _wire(message) if each == number), "")


def _wire(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers, and messages or texts as they are (protobuf.dev, "Encoding").

    Raises:
        ValueError: it is no such message.
    """
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(message) or shift > 63:
                raise ValueError("cut off")
            byte = message[place]
            value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
            if byte < 128:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = {1: 8, 5: 4}[kind] if kind in (1, 5) else varint() if kind == 2 else -1
        if not 0 <= length <= len(message) - place:
            raise ValueError("cut off")
        yield number, message[place : place + length]
        place += length


def keras_layers(content: bytes) -> dict[str, dict[str, Any]]:
    """The layers of a ``.keras`` file by name, read without Keras."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        return {layer["config"]["name"]: layer for layer in layers}
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected a .keras file of a network of layers, got {len(content)} bytes that are none"
        ) from error


def keras_input(content: bytes) -> list[int]:
    """Return the input shape of a ``.keras`` file; raise ValueError if it has not exactly one input."""
    inputs = [each for each in keras_layers(content).values() if each["class_name"] == "InputLayer"]
    if len(inputs) != 1:
        raise ValueError(f"expected a network with one input, got {len(inputs)}")
    told = inputs[0]["config"]
    shape = told.get("batch_shape") or told.get("batch_input_shape")
    return [length or 0 for length in shape]


def check_layers(known: list[str], wanted: tuple[str, ...]) -> None:
    """Raise ValueError if a wanted layer is not among the known ones; the message names similar layers."""
    for name in wanted:
        if name not in known:
            folded = {each.lower(): each for each in known}
            like = [folded[each] for each in difflib.get_close_matches(name.lower(), folded, _LIKE, 0.4)]
            raise ValueError(f"expected face_layers among its {len(known)} layers, got {name!r}; like it are {like}")
