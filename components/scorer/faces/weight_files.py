"""Preparation of the folder of face weights from the settings; ``analyzer.FaceAnalyzer`` loads the folder.

A LiteRT (``.tflite``) or ONNX network is kept unchanged. A Keras network (``.keras``, or built by the package
``deepface``) is cut at ``face_layers`` and exported to LiteRT once. Later steps need no Keras to embed a face, and the
server has none.
"""

import hashlib
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer import storage
from components.scorer.faces import deepface, embedder, model_files
from components.scorer.faces.detector import FaceDetector
from components.scorer.faces.embedder import Embedder, EmbedderSpec, LiteRTNetwork
from components.scorer.parameters import check_faces
from components.scorer.registry import integrity
from components.scorer.settings import FacePrecision, Faces

SUFFIXES = (".keras", ".tflite", ".onnx")
MIN_COSINE: dict[FacePrecision, float] = {"int8": 0.99, "float16": 0.9999, "float32": -1.0}
"""Least cosine similarity to the Keras output on noise that an export must reach, by weight precision.

An export below it is repeated at the next higher precision. At 8 bits FaceNet's inner layers reach .999 on faces.
"""

_NOISE_CROPS = 4  # noise crops on which an export is compared with Keras


@dataclass(frozen=True)
class EmbedderCandidate:
    """Embedder candidate named by the settings, checked as far as possible without Keras.

    Attributes:
        suffix: Suffix of the embedder's file; "" if ``deepface`` builds the network.
        content: Content of the file.
        spec: Embedder configuration. ``size`` is 0 for a Keras network; ``side`` is 0 for a network yet to be built.
        sha256: SHA-256 of the content; for a ``deepface`` network, of its weights once they are built ("" before).
        precision: Weight precision of the export; "" if the file is used unchanged.
    """

    suffix: str
    content: bytes = field(repr=False)
    spec: EmbedderSpec
    sha256: str
    precision: str = ""


def prepare(settings: Faces, folder: str | Path) -> dict[str, Any] | None:
    """Write the folder of face weights that the settings name.

    Args:
        settings: Face settings.
        folder: Local folder that receives the files.

    Returns:
        The content of ``faces.json``; None if face detection is off, and then no file is written.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is of the wrong kind, has another digest or lacks a layer, or the settings contradict each
            other. The message names the setting.
    """
    check_faces(settings)
    if not settings.face_detector:
        return None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in embedder.EMBEDDERS.values():
        (folder / name).unlink(missing_ok=True)
    detector = _with_setting_name("face_detector", settings.face_detector, read_detector, settings)
    (folder / embedder.DETECTOR).write_bytes(detector)
    metadata: dict[str, Any] = {"sha256": {"detector": hashlib.sha256(detector).hexdigest()}}
    if settings.face_embedder:
        candidate = _with_setting_name("face_embedder", settings.face_embedder, read_embedder, settings)
        exported = _with_setting_name(
            "face_embedder", settings.face_embedder, _write_embedder, candidate, settings, folder
        )
        metadata = {
            **asdict(exported.spec),
            "layers": [*settings.face_layers],
            "precision": exported.precision,
            "sha256": {**metadata["sha256"], "embedder": exported.sha256},
        }
    storage.write_json(str(folder / embedder.METADATA), metadata)
    return metadata


def read_detector(settings: Faces) -> bytes:
    """Return the content of the face detector's file, after loading it once.

    Raises:
        FileNotFoundError: There is no file at its address.
        ValueError: The file is not YuNet or has another digest.
    """
    content = _fetch(settings.face_detector, "face_detector_sha256", settings.face_detector_sha256)
    FaceDetector(content)
    return content


def read_embedder(settings: Faces) -> EmbedderCandidate:
    """Return the embedder candidate, after checking it; a Keras network is checked without Keras.

    Raises:
        FileNotFoundError: There is no file at its address.
        ValueError: The file is no network of square RGB images, has another digest or lacks a layer.
    """
    suffix = Path(settings.face_embedder).suffix
    spec = EmbedderSpec(
        kind="onnx" if suffix == ".onnx" else "litert",
        preprocessing=settings.face_preprocessing,
        side=0,
        scales=settings.face_scales,
        mirror=settings.face_mirror,
        size=0,
    )
    if settings.face_embedder.startswith(deepface.PREFIX):
        deepface.check_available(settings.face_embedder.removeprefix(deepface.PREFIX))
        return EmbedderCandidate("", b"", spec, "")
    if suffix not in SUFFIXES:
        raise ValueError(f"expected a file that ends in {', '.join(SUFFIXES)} or {deepface.PREFIX}NAME")
    content = _fetch(settings.face_embedder, "face_embedder_sha256", settings.face_embedder_sha256)
    side, channels_first = _side_and_layout(
        {
            ".keras": model_files.keras_input_shape,
            ".tflite": model_files.litert_input_shape,
            ".onnx": model_files.onnx_input_shape,
        }[suffix](content)
    )
    spec = replace(spec, side=side, channels_first=channels_first)
    if suffix == ".keras":
        model_files.check_layers(list(model_files.keras_layers(content)), settings.face_layers)
    else:
        spec = replace(spec, size=Embedder(content, spec).size)
    return EmbedderCandidate(suffix, content, spec, hashlib.sha256(content).hexdigest())


def _with_setting_name(name: str, uri: str, read: Any, *arguments: Any) -> Any:
    """Call a function; prefix the message of its FileNotFoundError or ValueError with the setting's name and value."""
    try:
        return read(*arguments)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} {uri}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name} {uri}: {error}") from error


def _fetch(uri: str, name: str, sha256: str) -> bytes:
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError("there is nothing at this address") from None
    integrity.check_sha256(hashlib.sha256(content).hexdigest(), sha256, name)
    return content


def _side_and_layout(shape: list[int]) -> tuple[int, bool]:
    """Return the side of an input shape and whether channels come first.

    Args:
        shape: Input shape, unknown lengths 0.

    Raises:
        ValueError: The shape is not that of square RGB images.
    """
    if len(shape) == 4 and shape[0] in (0, 1):
        if shape[3] == 3 and shape[1] == shape[2] > 0:
            return shape[1], False
        if shape[1] == 3 and shape[2] == shape[3] > 0:
            return shape[2], True
    shape_text = ", ".join(str(length or "?") for length in shape)
    raise ValueError(
        f"expected a network of square RGB pictures, float32 [n, side, side, 3], got one of [{shape_text}]"
    )


def _write_embedder(candidate: EmbedderCandidate, settings: Faces, folder: Path) -> EmbedderCandidate:
    """Write the embedder's file and return the candidate completed with side, size, digest and precision."""
    path = folder / embedder.EMBEDDERS[candidate.spec.kind]
    if candidate.suffix in (".tflite", ".onnx"):
        path.write_bytes(candidate.content)
        return candidate
    if candidate.suffix == ".keras":
        network, spec, digest = _load_keras(candidate.content), candidate.spec, candidate.sha256
    else:
        network = deepface.build(settings.face_embedder.removeprefix(deepface.PREFIX))
        digest = deepface.digest(network)
        integrity.check_sha256(digest, settings.face_embedder_sha256, "face_embedder_sha256", "weights")
        spec = replace(candidate.spec, side=_side_and_layout([length or 0 for length in network.input_shape])[0])
        model_files.check_layers([layer.name for layer in network.layers], settings.face_layers)
    precision = _export(_cut_at_layers(network, settings.face_layers), spec.side, path, settings.face_precision)
    spec = replace(spec, size=Embedder(str(path), spec).size)
    return replace(candidate, spec=spec, sha256=digest, precision=precision)


def _load_keras(content: bytes) -> Any:
    """Load the network of a ``.keras`` file."""
    import keras  # imported here: with TensorFlow it takes half a gigabyte, and only .keras files need it

    with tempfile.NamedTemporaryFile(suffix=".keras") as saved:
        saved.write(content)
        saved.flush()
        try:
            return keras.saving.load_model(saved.name, compile=False)
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"expected a .keras file that Keras {keras.__version__} can load, got: {error}") from error


def _export(network: Any, side: int, path: Path, precision: FacePrecision) -> str:
    """Export a network to LiteRT and return the weight precision used.

    The precision is raised until the export agrees with Keras (see `MIN_COSINE`).
    """
    noise = np.random.default_rng(0).normal(size=(_NOISE_CROPS, side, side, 3)).astype("float32")
    expected = np.asarray(network(noise, training=False))
    for attempt in [*MIN_COSINE][[*MIN_COSINE].index(precision) :]:
        network.export(str(path), format="litert", verbose=False, **_converter_options(attempt))
        if _least_cosine(expected, LiteRTNetwork(str(path))(noise)) >= MIN_COSINE[attempt]:
            break
    return attempt


def _converter_options(precision: FacePrecision) -> dict[str, Any]:
    """Return the options of TensorFlow's converter for a weight precision."""
    import tensorflow as tf

    smaller: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    half = smaller | {"target_spec": {"supported_types": [tf.float16]}}
    return {"int8": smaller, "float16": half, "float32": {}}[precision]


def _cut_at_layers(network: Any, layers: tuple[str, ...]) -> Any:
    """Return the network from ``[n, side, side, 3]`` to ``[n, size]``, cut at ``layers`` or, without any, at its
    output.
    """
    import keras

    outputs = [network.get_layer(name).output for name in layers] or [network.output]
    features = [part for output in outputs for part in _flatten(output)]
    return keras.Model(
        network.inputs[0], keras.layers.Concatenate(name="embedding")(features) if features[1:] else features[0]
    )


def _flatten(output: Any) -> list[Any]:
    """Return a layer output as a list of ``[n, c]`` tensors.

    ``[n, c]`` is returned unchanged; feature maps ``[n, h, w, c]`` become their means and standard deviations.
    """
    from keras import ops

    if len(output.shape) == 2:
        return [output]
    if len(output.shape) != 4:
        raise ValueError(f"expected layers that give [n, c] or maps [n, h, w, c], got {list(output.shape)}")
    mean = ops.mean(output, axis=(1, 2), keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(output - mean), axis=(1, 2)))
    return [ops.mean(output, axis=(1, 2)), deviation]


def _least_cosine(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the least cosine similarity between corresponding rows of two arrays."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return float(np.min((expected * actual).sum(axis=1) / np.maximum(lengths, 1e-12)))
