"""From what the settings name to the folder of weights that ``embedding.Reader`` loads.

A network comes as LiteRT (``.tflite``) or ONNX and is kept as it is, or as Keras (``.keras``), which is exported to
LiteRT once, cut at ``face_layers``: no later room needs Keras to read a face, and the server has none. What the
package ``deepface`` builds is a network of Keras as well.
"""

import difflib
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer import deepface_models, embedding, integrity, litert, storage
from components.scorer.embedding import About, Embedder, LiteNetwork
from components.scorer.faces import Detector
from components.scorer.settings import FacePrecision, Faces, check_faces

SUFFIXES = (".keras", ".tflite", ".onnx")
AGREEMENT = {"int8": 0.99, "float16": 0.9999, "float32": -1.0}
"""Cosine to what Keras says, on noise, that an export has to reach by the precision of its weights; else they have more
bits. At 8 bits FaceNet's inner layers reach .999 on faces."""

_LIKE = 5  # names of layers that an unknown one may have meant
_PROBES = 4  # crops of noise on which an export is held against Keras


@dataclass(frozen=True)
class Given:
    """An embedder as it was given, tried as far as that goes without Keras.

    Attributes:
        suffix: of its file; empty: ``deepface_models`` builds it.
        content: of it.
        about: how it wants its crops; of a Keras network without the size of an embedding, of one that is yet to be
            built without the side of a crop.
        sha256: of the content; empty: of its weights, once it is built.
        precision: of its weights, where it was exported; empty: they are as they came.
    """

    suffix: str
    content: bytes = field(repr=False)
    about: About
    sha256: str
    precision: str = ""


def prepare(settings: Faces, folder: str | Path) -> dict[str, Any] | None:
    """Write the folder of weights that the settings name.

    Args:
        settings: of faces.
        folder: local; receives the files.

    Returns:
        What ``faces.json`` holds; None where faces are not looked for, and nothing is written.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it is not what it should be, has another digest, lacks a layer, or the settings contradict each
            other; the message names the setting.
    """
    check_faces(settings)
    if not settings.face_detector:
        return None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in embedding.EMBEDDERS.values():
        (folder / old).unlink(missing_ok=True)
    detector = _named("face_detector", settings.face_detector, read_detector, settings)
    (folder / embedding.DETECTOR).write_bytes(detector)
    about: dict[str, Any] = {"sha256": {"detector": hashlib.sha256(detector).hexdigest()}}
    if settings.face_embedder:
        given = _named("face_embedder", settings.face_embedder, read_embedder, settings)
        written = _named("face_embedder", settings.face_embedder, _write_embedder, given, settings, folder)
        about = {
            **asdict(written.about),
            "layers": [*settings.face_layers],
            "precision": written.precision,
            "sha256": {**about["sha256"], "embedder": written.sha256},
        }
    storage.write_json(str(folder / embedding.ABOUT), about)
    return about


def read_detector(settings: Faces) -> bytes:
    """The face detector, tried.

    Raises:
        FileNotFoundError: there is none at its address.
        ValueError: it is no YuNet, or has another digest.
    """
    content = _fetch(settings.face_detector, "face_detector_sha256", settings.face_detector_sha256)
    Detector(content)
    return content


def read_embedder(settings: Faces) -> Given:
    """The embedder, tried; of a Keras network only what can be told without Keras.

    Raises:
        FileNotFoundError: there is none at its address.
        ValueError: it is no network that reads square RGB pictures, has another digest or lacks a layer.
    """
    suffix = Path(settings.face_embedder).suffix
    about = About(
        kind="onnx" if suffix == ".onnx" else "litert",
        preprocessing=settings.face_preprocessing,
        side=0,
        scales=settings.face_scales,
        mirror=settings.face_mirror,
        size=0,
    )
    if settings.face_embedder.startswith(deepface_models.PREFIX):
        deepface_models.check(settings.face_embedder.removeprefix(deepface_models.PREFIX))
        return Given("", b"", about, "")
    if suffix not in SUFFIXES:
        raise ValueError(f"expected a file that ends in {', '.join(SUFFIXES)} or {deepface_models.PREFIX}NAME")
    content = _fetch(settings.face_embedder, "face_embedder_sha256", settings.face_embedder_sha256)
    side, channels_first = _square(
        {".keras": _keras_input, ".tflite": _lite_input, ".onnx": _onnx_input}[suffix](content)
    )
    about = replace(about, side=side, channels_first=channels_first)
    if suffix == ".keras":
        _check_layers(list(_keras_layers(content)), settings.face_layers)
    else:
        about = replace(about, size=Embedder(content, about).size)
    return Given(suffix, content, about, hashlib.sha256(content).hexdigest())


def _named(name: str, uri: str, read: Any, *arguments: Any) -> Any:
    """The result of a call, whose errors are told with the setting that they are about."""
    try:
        return read(*arguments)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} {uri}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name} {uri}: {error}") from error


def _fetch(uri: str, name: str, wanted: str) -> bytes:
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError("there is nothing at this address") from None
    integrity.expect(hashlib.sha256(content).hexdigest(), wanted, name)
    return content


def _square(shape: list[int]) -> tuple[int, bool]:
    """The side and whether channels come first, of an input's shape, unknown lengths 0.

    Raises:
        ValueError: it is not that of square RGB pictures.
    """
    if len(shape) == 4 and shape[0] in (0, 1):
        if shape[3] == 3 and shape[1] == shape[2] > 0:
            return shape[1], False
        if shape[1] == 3 and shape[2] == shape[3] > 0:
            return shape[2], True
    shown = ", ".join(str(length or "?") for length in shape)
    raise ValueError(f"expected a network of square RGB pictures, float32 [n, side, side, 3], got one of [{shown}]")


def _lite_input(content: bytes) -> list[int]:
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


def _onnx_input(content: bytes) -> list[int]:
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


def _keras_layers(content: bytes) -> dict[str, dict[str, Any]]:
    """The layers of a ``.keras`` file by name, read without Keras."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        return {layer["config"]["name"]: layer for layer in layers}
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected a .keras file of a network of layers, got {len(content)} bytes that are none"
        ) from error


def _keras_input(content: bytes) -> list[int]:
    inputs = [each for each in _keras_layers(content).values() if each["class_name"] == "InputLayer"]
    if len(inputs) != 1:
        raise ValueError(f"expected a network with one input, got {len(inputs)}")
    told = inputs[0]["config"]
    shape = told.get("batch_shape") or told.get("batch_input_shape")
    return [length or 0 for length in shape]


def _check_layers(known: list[str], wanted: tuple[str, ...]) -> None:
    for name in wanted:
        if name not in known:
            folded = {each.lower(): each for each in known}
            like = [folded[each] for each in difflib.get_close_matches(name.lower(), folded, _LIKE, 0.4)]
            raise ValueError(f"expected face_layers among its {len(known)} layers, got {name!r}; like it are {like}")


def _write_embedder(given: Given, settings: Faces, folder: Path) -> Given:
    """Write the embedder's file; what is known of it then."""
    file = folder / embedding.EMBEDDERS[given.about.kind]
    if given.suffix in (".tflite", ".onnx"):
        file.write_bytes(given.content)
        return given
    if given.suffix == ".keras":
        network, about, digest = _loaded(given.content), given.about, given.sha256
    else:
        network = deepface_models.build(settings.face_embedder.removeprefix(deepface_models.PREFIX))
        digest = deepface_models.digest(network)
        integrity.expect(digest, settings.face_embedder_sha256, "face_embedder_sha256", "weights")
        about = replace(given.about, side=_square([length or 0 for length in network.input_shape])[0])
        _check_layers([layer.name for layer in network.layers], settings.face_layers)
    precision = _export(_cut(network, settings.face_layers), about.side, file, settings.face_precision)
    about = replace(about, size=Embedder(str(file), about).size)
    return replace(given, about=about, sha256=digest, precision=precision)


def _loaded(content: bytes) -> Any:
    """The network of a ``.keras`` file."""
    import keras  # with TensorFlow half a gigabyte, which only this form of file needs

    with tempfile.NamedTemporaryFile(suffix=".keras") as saved:
        saved.write(content)
        saved.flush()
        try:
            return keras.saving.load_model(saved.name, compile=False)
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"expected a .keras file that Keras {keras.__version__} can load, got: {error}") from error


def _export(network: Any, side: int, file: Path, precision: FacePrecision) -> str:
    """Export a network to LiteRT with weights of this precision, or of the next that says what Keras says; which."""
    noise = np.random.default_rng(0).normal(size=(_PROBES, side, side, 3)).astype("float32")
    expected = np.asarray(network(noise, training=False))
    for tried in [*AGREEMENT][[*AGREEMENT].index(precision) :]:
        network.export(str(file), format="litert", verbose=False, **_options(tried))
        if _cosine(expected, LiteNetwork(str(file))(noise)) >= AGREEMENT[tried]:
            break
    return tried


def _options(precision: FacePrecision) -> dict[str, Any]:
    """The options of TensorFlow's converter for weights of this precision."""
    import tensorflow as tf

    smaller = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    half = smaller | {"target_spec": {"supported_types": [tf.float16]}}
    return {"int8": smaller, "float16": half, "float32": {}}[precision]


def _cut(network: Any, layers: tuple[str, ...]) -> Any:
    """A network of float ``[n, side, side, 3]`` to ``[n, size]``: its output, or those of its layers."""
    import keras

    read = [network.get_layer(name).output for name in layers] or [network.output]
    parts = [part for output in read for part in _flat(output)]
    return keras.Model(network.inputs[0], keras.layers.Concatenate(name="embedding")(parts) if parts[1:] else parts[0])


def _flat(output: Any) -> list[Any]:
    """A layer's output ``[n, c]`` as it is; the means and the standard deviations of one of maps ``[n, h, w, c]``."""
    from keras import ops

    if len(output.shape) == 2:
        return [output]
    if len(output.shape) != 4:
        raise ValueError(f"expected layers that give [n, c] or maps [n, h, w, c], got {list(output.shape)}")
    mean = ops.mean(output, axis=(1, 2), keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(output - mean), axis=(1, 2)))
    return [ops.mean(output, axis=(1, 2)), deviation]


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The least cosine of two arrays' rows."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.min((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)))
