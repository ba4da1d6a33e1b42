"""Face embedder network, and the folder of weights from which detector and embedder are loaded.

    faces/  detector.onnx                       YuNet (``detector``)
            embedder.tflite or embedder.onnx    network that embeds an aligned face; only if the settings name one
            faces.json                          {"kind", "preprocessing", "side", "scales", "mirror", "size", "layers",
                                                "channels_first", "precision", "sha256": {"detector", "embedder"}};
                                                without an embedder only its sha256

``weight_files.prepare`` writes the folder from the settings. Ingestion stores it with the data set, and each later step
copies it on with `copy_weights`. An embedding concatenates the network's outputs for one face cropped at each scale. It
is not normalised; training fits the scaling that it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from components.scorer import litert, storage
from components.scorer.faces import detector

FOLDER = "faces"
METADATA, DETECTOR = "faces.json", "detector.onnx"
EMBEDDERS = {"litert": "embedder.tflite", "onnx": "embedder.onnx"}
"""File name of the embedder, by kind."""

BATCH = 8
"""Number of faces embedded at a time; mirror images double it. Larger batches are no faster and take more memory."""

_PREPROCESSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    # FaceNet (Schroff et al., 2015; prewhiten of D. Sandberg's code): each crop by its own mean and deviation.
    "facenet": lambda crops: (
        (crops - crops.mean((1, 2, 3), keepdims=True))
        / np.maximum(crops.std((1, 2, 3), keepdims=True), 1 / np.sqrt(crops[0].size))
    ),
    # ArcFace (Deng et al., 2019, section 3.1).
    "arcface": lambda crops: (crops - 127.5) / 128,
    # VGG-Face (Parkhi et al., 2015): BGR minus the channel means of its training photos.
    "vggface": lambda crops: crops[..., ::-1] - np.array([93.5940, 104.7624, 129.1863], "float32"),
    # The modes "tf" and "torch" of keras.applications.imagenet_utils, and no preprocessing.
    "tf": lambda crops: crops / 127.5 - 1,
    "torch": lambda crops: (
        (crops / 255 - np.array([0.485, 0.456, 0.406], "float32")) / np.array([0.229, 0.224, 0.225], "float32")
    ),
    "none": lambda crops: crops,
}


@dataclass(frozen=True)
class EmbedderSpec:
    """Embedder configuration: the crops that it takes and its output size.

    Attributes:
        kind: Key of `EMBEDDERS`.
        preprocessing: Pixel normalisation, key of `_PREPROCESSING`; see ``parse_settings.Faces``.
        side: Crop side, pixels.
        scales: Scale of each crop of a face, the argument of ``geometry.crop``.
        mirror: True averages the outputs of a crop and its mirror image.
        size: Output values for one crop; 0 accepts any number.
        channels_first: True if the network takes ``[n, 3, side, side]``, as many ONNX networks do.
    """

    kind: str
    preprocessing: str
    side: int
    scales: tuple[float, ...]
    mirror: bool
    size: int
    channels_first: bool = False


class Embedder:
    """Network that embeds aligned faces. Threads may share it; a lock runs one at a time."""

    def __init__(self, network: bytes | str, spec: EmbedderSpec, threads: int = 1) -> None:
        """Load the network and run it on a blank crop.

        Args:
            network: Content of the network file, or its path.
            spec: Configuration of the crops.
            threads: Number of threads of one run. An ONNX network uses OpenCV's threads (see
                ``detector.FaceDetector``).

        Raises:
            ValueError: The network cannot be loaded, refuses such crops, or gives another size than
                ``build_metadata.size``.
        """
        self.spec = spec
        self._lock = Lock()
        self._run = (
            LiteRTNetwork(network, threads) if spec.kind == "litert" else OnnxNetwork(network, spec.channels_first)
        )
        self.size = self._batch(np.zeros((1, spec.side, spec.side, 3), np.uint8)).shape[-1]
        if spec.size and spec.size != self.size:
            raise ValueError(f"expected an embedder that gives {spec.size} values, got one that gives {self.size}")

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embed crops, `BATCH` at a time.

        Args:
            crops: uint8 ``[n, side, side, 3]``, RGB.

        Returns:
            float32 ``[n, size]``.

        Raises:
            ValueError: The crops have another shape.
        """
        side = self.spec.side
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3):
            raise ValueError(f"expected crops [n, {side}, {side}, 3], got {list(crops.shape)}")
        parts = [self._batch(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, self.size), "float32"), *parts])

    def _batch(self, crops: np.ndarray) -> np.ndarray:
        if self.spec.mirror:
            crops = np.concatenate([crops, crops[:, :, ::-1]])
        inputs = _PREPROCESSING[self.spec.preprocessing](crops.astype("float32"))
        with self._lock:
            outputs = self._run(np.ascontiguousarray(inputs, "float32"))
        return outputs.reshape(-1, len(crops) // (2 if self.spec.mirror else 1), outputs.shape[-1]).mean(axis=0)


def embedding_size(folder: str | Path) -> int:
    """Return the embedding dimension of a weights folder; 0 if it holds a detector but no embedder.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    metadata = storage.read_json(storage.join(str(folder), METADATA))
    return metadata.get("size", 0) * len(metadata.get("scales", ()))


def copy_weights(source: str | Path, target: str | Path) -> bool:
    """Copy a folder of weights, local or remote, and return True; return False if ``source`` has no weights."""
    files = [storage.join(str(source), name) for name in (DETECTOR, *EMBEDDERS.values(), METADATA)]
    if not storage.exists(files[-1]):
        return False
    for file in files:  # in this order: faces.json last, so that it marks a complete copy
        if storage.exists(file):
            storage.write_bytes(storage.join(str(target), file.rpartition("/")[2]), storage.read_bytes(file))
    return True


class LiteRTNetwork:
    """LiteRT network as a function of float32 ``[n, side, side, 3]``."""

    def __init__(self, network: bytes | str, threads: int = 1) -> None:
        self._interpreter = litert.load_interpreter(network, threads)
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._dynamic_batch = self._input["shape_signature"][0] < 0  # the batch dimension is dynamic

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run the network and return its outputs, float32 ``[n, size]``."""
        if not self._dynamic_batch and len(inputs) > 1:
            return np.concatenate([self(inputs[row : row + 1]) for row in range(len(inputs))])
        index = self._input["index"]
        if self._interpreter.get_input_details()[0]["shape"][0] != len(inputs):
            self._interpreter.resize_tensor_input(index, inputs.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(index, inputs)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"]).reshape(len(inputs), -1)


class OnnxNetwork:
    """ONNX network, run by OpenCV, as a function of float32 ``[n, side, side, 3]``."""

    def __init__(self, network: bytes | str, channels_first: bool) -> None:
        content = network if isinstance(network, bytes) else Path(network).read_bytes()
        self._channels_first = channels_first
        try:
            with detector.silence_opencv():
                self._network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        except (cv2.error, SystemError) as error:
            raise ValueError(f"expected an ONNX file that OpenCV can run, got {_first_line(error)}") from error

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs, float32 ``[n, size]``; raise ValueError if OpenCV cannot run the network."""
        if self._channels_first:
            inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
        # Many ONNX files fix the batch size at 1, and larger batches are no faster on a CPU.
        outputs = []
        try:
            with detector.silence_opencv():
                for row in range(len(inputs)):
                    self._network.setInput(inputs[row : row + 1])
                    outputs.append(self._network.forward().reshape(1, -1).copy())
        except (cv2.error, SystemError) as error:
            raise ValueError(f"expected an ONNX file that OpenCV can run, got {_first_line(error)}") from error
        return np.concatenate(outputs)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
