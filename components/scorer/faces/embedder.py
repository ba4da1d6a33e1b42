"""The network that embeds an aligned face, and the folder of weights that it is loaded from.

    faces/  detector.onnx                       YuNet (``detector``)
            embedder.tflite or embedder.onnx    the network that reads an aligned face; only where one was given
            faces.json                          {"kind", "preprocessing", "side", "scales", "mirror", "size", "layers",
                                                "channels_first", "precision", "sha256": {"detector", "embedder"}};
                                                without an embedder its sha256 alone

``weight_files.prepare`` writes such a folder from the settings. Ingestion keeps it with the data set, and each later
step takes it along with `copy`. An embedding is the output of the network for a face, cut out at each of the scales and
joined. It is neither scaled to length 1 nor otherwise; training fits what it needs.
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
ABOUT, DETECTOR = "faces.json", "detector.onnx"
EMBEDDERS = {"litert": "embedder.tflite", "onnx": "embedder.onnx"}
"""The embedder's file, by kind."""

BATCH = 8
"""Faces that are read at a time, with their mirror images twice as many: more is no faster, and takes memory."""

_PREPROCESSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    # FaceNet (Schroff and others, 2015; prewhiten of D. Sandberg's code): each crop by its own mean and deviation.
    "facenet": lambda crops: (
        (crops - crops.mean((1, 2, 3), keepdims=True))
        / np.maximum(crops.std((1, 2, 3), keepdims=True), 1 / np.sqrt(crops[0].size))
    ),
    # ArcFace (Deng and others, 2019, section 3.1).
    "arcface": lambda crops: (crops - 127.5) / 128,
    # VGG-Face (Parkhi and others, 2015): blue, green and red less the means of its training photos.
    "vggface": lambda crops: crops[..., ::-1] - np.array([93.5940, 104.7624, 129.1863], "float32"),
    # The two of keras.applications, and none.
    "tf": lambda crops: crops / 127.5 - 1,
    "torch": lambda crops: (
        (crops / 255 - np.array([0.485, 0.456, 0.406], "float32")) / np.array([0.229, 0.224, 0.225], "float32")
    ),
    "none": lambda crops: crops,
}


@dataclass(frozen=True)
class About:
    """How an embedder wants its crops, and what it gives.

    Attributes:
        kind: a key of `EMBEDDERS`.
        preprocessing: see ``settings.Faces``.
        side: of a crop, pixels.
        scales: of the crops of a face; see ``geometry.crop``.
        mirror: whether what is said of a crop and of its mirror image is averaged.
        size: of what is said of one crop; 0: as many values as there come.
        channels_first: whether it takes ``[n, 3, side, side]``, as many an ONNX network does.
    """

    kind: str
    preprocessing: str
    side: int
    scales: tuple[float, ...]
    mirror: bool
    size: int
    channels_first: bool = False


class Embedder:
    """A network that reads aligned faces. Threads may share it: one at a time is served."""

    def __init__(self, network: bytes | str, about: About, threads: int = 1) -> None:
        """Load the network and try it on a blank crop.

        Args:
            network: the content of its file, or the path.
            about: how it wants its crops.
            threads: that one run may use; an ONNX network uses OpenCV's (see ``detector.Detector``).

        Raises:
            ValueError: it cannot be loaded, or does not take such crops or give such embeddings.
        """
        self.about = about
        self._lock = Lock()
        self._run = (
            LiteNetwork(network, threads) if about.kind == "litert" else OnnxNetwork(network, about.channels_first)
        )
        self.size = self._batch(np.zeros((1, about.side, about.side, 3), np.uint8)).shape[-1]
        if about.size and about.size != self.size:
            raise ValueError(f"expected an embedder that gives {about.size} values, got one that gives {self.size}")

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """What the network says of crops.

        Args:
            crops: uint8 ``[n, side, side, 3]``, RGB.

        Returns:
            float32 ``[n, size]``.

        Raises:
            ValueError: the crops have another shape.
        """
        side = self.about.side
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3):
            raise ValueError(f"expected crops [n, {side}, {side}, 3], got {list(crops.shape)}")
        parts = [self._batch(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, self.size), "float32"), *parts])

    def _batch(self, crops: np.ndarray) -> np.ndarray:
        if self.about.mirror:
            crops = np.concatenate([crops, crops[:, :, ::-1]])
        given = _PREPROCESSING[self.about.preprocessing](crops.astype("float32"))
        with self._lock:
            answers = self._run(np.ascontiguousarray(given, "float32"))
        return answers.reshape(-1, len(crops) // (2 if self.about.mirror else 1), answers.shape[-1]).mean(axis=0)


def size(folder: str | Path) -> int:
    """Of the embeddings that the weights in a folder give; 0: they find faces and read none.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    about = storage.read_json(storage.join(str(folder), ABOUT))
    return about.get("size", 0) * len(about.get("scales", ()))


def copy(source: str | Path, target: str | Path) -> bool:
    """Copy a folder of weights, local or not; whether there was one."""
    known = [storage.join(str(source), name) for name in (DETECTOR, *EMBEDDERS.values(), ABOUT)]
    if not storage.exists(known[-1]):
        return False
    for file in known:  # the description last
        if storage.exists(file):
            storage.write_bytes(storage.join(str(target), file.rpartition("/")[2]), storage.read_bytes(file))
    return True


class LiteNetwork:
    """A LiteRT network as a function of float32 ``[n, side, side, 3]``."""

    def __init__(self, network: bytes | str, threads: int = 1) -> None:
        self._interpreter = litert.load(network, threads)
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._many = self._input["shape_signature"][0] < 0  # any number of crops at a time

    def __call__(self, given: np.ndarray) -> np.ndarray:
        """Its answers, float32 ``[n, size]``."""
        if not self._many and len(given) > 1:
            return np.concatenate([self(given[place : place + 1]) for place in range(len(given))])
        index = self._input["index"]
        if self._interpreter.get_input_details()[0]["shape"][0] != len(given):
            self._interpreter.resize_tensor_input(index, given.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(index, given)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"]).reshape(len(given), -1)


class OnnxNetwork:
    """An ONNX network, run by OpenCV, as a function of float32 ``[n, side, side, 3]``."""

    def __init__(self, network: bytes | str, channels_first: bool) -> None:
        content = network if isinstance(network, bytes) else Path(network).read_bytes()
        self._channels_first = channels_first
        try:
            with detector.silence():
                self._network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        except (cv2.error, SystemError) as error:
            raise ValueError(f"expected an ONNX file that OpenCV can run, got {_first_line(error)}") from error

    def __call__(self, given: np.ndarray) -> np.ndarray:
        """Its answers, float32 ``[n, size]``; ValueError where OpenCV cannot run it."""
        if self._channels_first:
            given = np.ascontiguousarray(given.transpose(0, 3, 1, 2))
        # One at a time: of many such files the batch is fixed at 1, and on a CPU more are no faster.
        answers = []
        try:
            with detector.silence():
                for place in range(len(given)):
                    self._network.setInput(given[place : place + 1])
                    answers.append(self._network.forward().reshape(1, -1).copy())
        except (cv2.error, SystemError) as error:
            raise ValueError(f"expected an ONNX file that OpenCV can run, got {_first_line(error)}") from error
        return np.concatenate(answers)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
