"""The folder of weights that ``analyzer.Reader`` loads, prepared from what the settings name.

A network comes as LiteRT (``.tflite``) or ONNX and is kept as it is. A Keras network (``.keras``, or one that the
package ``deepface`` builds) is exported to LiteRT once, cut at ``face_layers``: no later step needs Keras to read a
face, and the server has none.
"""

import hashlib
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer import storage
from components.scorer.faces import deepface, embedder, model_files
from components.scorer.faces.detector import Detector
from components.scorer.faces.embedder import About, Embedder, LiteNetwork
from components.scorer.parameters import check_faces
from components.scorer.registry import integrity
from components.scorer.settings import FacePrecision, Faces

SUFFIXES = (".keras", ".tflite", ".onnx")
AGREEMENT = {"int8": 0.99, "float16": 0.9999, "float32": -1.0}
"""Cosine to what Keras says, on noise, that an export has to reach by the precision of its weights; else they have more
bits. At 8 bits FaceNet's inner layers reach .999 on faces."""

_PROBES = 4  # crops of noise on which an export is held against Keras


@dataclass(frozen=True)
class Given:
    """An embedder as it was given, tried as far as that goes without Keras.

    Attributes:
        suffix: of its file; empty: ``deepface`` builds it.
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
    for old in embedder.EMBEDDERS.values():
        (folder / old).unlink(missing_ok=True)
    detector = _named("face_detector", settings.face_detector, read_detector, settings)
    (folder / embedder.DETECTOR).write_bytes(detector)
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
    storage.write_json(str(folder / embedder.ABOUT), about)
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
    if settings.face_embedder.startswith(deepface.PREFIX):
        deepface.check(settings.face_embedder.removeprefix(deepface.PREFIX))
        return Given("", b"", about, "")
    if suffix not in SUFFIXES:
        raise ValueError(f"expected a file that ends in {', '.join(SUFFIXES)} or {deepface.PREFIX}NAME")
    content = _fetch(settings.face_embedder, "face_embedder_sha256", settings.face_embedder_sha256)
    side, channels_first = _square(
        {".keras": model_files.keras_input, ".tflite": model_files.lite_input, ".onnx": model_files.onnx_input}[suffix](
            content
        )
    )
    about = replace(about, side=side, channels_first=channels_first)
    if suffix == ".keras":
        model_files.check_layers(list(model_files.keras_layers(content)), settings.face_layers)
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


def _write_embedder(given: Given, settings: Faces, folder: Path) -> Given:
    """Write the embedder's file; what is known of it then."""
    file = folder / embedder.EMBEDDERS[given.about.kind]
    if given.suffix in (".tflite", ".onnx"):
        file.write_bytes(given.content)
        return given
    if given.suffix == ".keras":
        network, about, digest = _loaded(given.content), given.about, given.sha256
    else:
        network = deepface.build(settings.face_embedder.removeprefix(deepface.PREFIX))
        digest = deepface.digest(network)
        integrity.expect(digest, settings.face_embedder_sha256, "face_embedder_sha256", "weights")
        about = replace(given.about, side=_square([length or 0 for length in network.input_shape])[0])
        model_files.check_layers([layer.name for layer in network.layers], settings.face_layers)
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
