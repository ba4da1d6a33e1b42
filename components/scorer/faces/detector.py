"""The face detector YuNet, run by OpenCV.

Source: Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023. Its
weights are 0.3 MB of ONNX, which the client keeps where its pipeline can read them; OpenCV's model zoo publishes them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from PIL import Image

from components.scorer.faces import geometry
from components.scorer.faces.geometry import Box, Face

CONFIDENCE = 0.7
"""Below it a find is no face.

At .7 every one of 1,989 portraits has a face, as it has at .3 and .8; the faces that YuNet sees in leaves, in stone or
a second time within a face came to .69 at most, but for three.
"""

LONGEST_SIDE = 640
"""Pixels: longer photos are searched at this size, so that a panorama costs no more than four portraits.

A photo as it is scored, 320 pixels on its shorter side, is searched as it is: 4 ms on one core. Scaling it down loses
no face: at half that size YuNet finds one on all of 1,989 portraits, too. On 698 drawn ones, flawed and turned by up
to 40°, it misses 42 as they are, of which it finds 15 at half the size; so that is tried where it finds none.
"""

_OVERLAP = 0.3  # of two boxes, above which the less confident is the same face: OpenCV's default
_CANDIDATES = 5000  # OpenCV's default
_PROBE = 64  # pixels: the side of the blank photo on which a network must answer to be taken for YuNet


class Detector:
    """YuNet, ready to find faces. Threads may share it: one at a time searches."""

    def __init__(
        self, weights: bytes | str | Path, *, confidence: float = CONFIDENCE, sha256: str = "", threads: int = 1
    ) -> None:
        """Load the network and try it on a blank photo.

        Args:
            weights: YuNet's ONNX file, or its content.
            confidence: that a find needs to be a face, above 0 and at most 1.
            sha256: that the content must have, as hexadecimal digits; empty: any.
            threads: that OpenCV may use, in all of this process; 0: as many as there are cores. One is right where a
                process serves each core.

        Raises:
            ValueError: the content has another SHA-256 or is not YuNet, or a number is out of its range.
            OSError: the file cannot be read.
        """
        if not 0 < confidence <= 1:
            raise ValueError(f"confidence must be above 0 and at most 1, got {confidence}")
        content = weights if isinstance(weights, bytes) else Path(weights).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if sha256 and found != sha256.lower():
            raise ValueError(
                f"expected face detector weights with the SHA-256 {sha256}, got {found}: name the file that the digest "
                f"was taken of, or its own digest"
            )
        self.sha256 = found
        cv2.setNumThreads(threads or -1)
        self._lock = Lock()
        self._network = _load(content, confidence)

    def find(self, image: Image.Image) -> list[Face]:
        """The faces on a photo, largest first.

        Args:
            image: upright, of any size; other modes than RGB are converted.
        """
        pixels = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
        if max(image.size) > LONGEST_SIDE:
            pixels = geometry.scaled(pixels, LONGEST_SIDE / max(image.size))
        return self._search(pixels) or self._search(geometry.scaled(pixels, 0.5))

    def _search(self, pixels: np.ndarray) -> list[Face]:
        height, width = pixels.shape[:2]
        with self._lock:
            rows = _search(self._network, pixels)
        return sorted((_face(row, width, height) for row in rows), key=lambda face: face.area, reverse=True)


def _load(content: bytes, confidence: float) -> cv2.FaceDetectorYN:
    buffer, no_config = np.frombuffer(content, np.uint8), np.empty(0, np.uint8)
    try:
        with silence():
            network = cv2.FaceDetectorYN.create(
                "onnx", buffer, no_config, (_PROBE, _PROBE), confidence, _OVERLAP, _CANDIDATES
            )
            _search(network, np.zeros((_PROBE, _PROBE, 3), np.uint8))
    except (cv2.error, SystemError, TypeError) as error:
        raise ValueError(
            f"expected the ONNX file of YuNet, the face detector of OpenCV's model zoo "
            f"(face_detection_yunet), got {len(content)} bytes that OpenCV cannot use as such"
        ) from error
    return network


def _search(network: cv2.FaceDetectorYN, pixels: np.ndarray) -> np.ndarray:
    """Rows of box, landmarks and confidence in pixels: [n, 15]."""
    network.setInputSize(pixels.shape[1::-1])
    rows = network.detect(pixels)[1]
    return np.empty((0, 15)) if rows is None else rows


def _face(row: np.ndarray, width: int, height: int) -> Face:
    numbers = (row[:14].astype(float) / np.tile((width, height), 7)).tolist()
    return Face(Box(*numbers[:4]), tuple(zip(numbers[4::2], numbers[5::2], strict=True)), min(1.0, float(row[14])))


@contextmanager
def silence() -> Iterator[None]:
    """Keep OpenCV from printing what it warns of (that it ignores the target it set itself) or raises anyway."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
