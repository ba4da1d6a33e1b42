"""YuNet face detector, run by OpenCV.

Source: Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023. The
weights are an ONNX file of 0.3 MB from OpenCV's model zoo. The client stores it where the pipeline can read it.
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
"""Confidence threshold; detections below it are discarded.

At .7 each of 1,989 portraits has a face, as at .3 and .8. False detections in leaves, in stone or a second time within
a face reach at most .69, with three exceptions.
"""

LONGEST_SIDE = 640
"""Longest side for detection, pixels. Larger photos are scaled down, so a panorama costs at most four portraits.

Scored photos, 320 pixels on the shorter side, are searched at full size: 4 ms on one core. Half that size also finds a
face on all of 1,989 portraits. On 698 drawn portraits, flawed and rotated by up to 40°, the full size misses 42; half
the size finds 15 of these. So half the size is tried when the full size finds no face.
"""

_NMS_THRESHOLD = 0.3  # IoU threshold of non-maximum suppression: OpenCV's default
_MAX_CANDIDATES = 5000  # OpenCV's default
_PROBE_SIDE = 64  # pixels: side of the blank photo on which a network must run to be accepted as YuNet


class FaceDetector:
    """YuNet face detector. Threads may share it; a lock runs one detection at a time."""

    def __init__(
        self, weights: bytes | str | Path, *, confidence: float = CONFIDENCE, sha256: str = "", threads: int = 1
    ) -> None:
        """Load the network and run it on a blank photo.

        Args:
            weights: YuNet's ONNX file, or its content.
            confidence: Confidence threshold of a face, above 0 and at most 1.
            sha256: Expected SHA-256 of the content, hexadecimal; "" accepts any content.
            threads: Number of OpenCV threads in the whole process; 0 uses one per core. Choose 1 if one process runs
                per core.

        Raises:
            ValueError: The content has another SHA-256 or is not YuNet, or a number is out of its range.
            OSError: The file cannot be read.
        """
        if not 0 < confidence <= 1:
            raise ValueError(f"confidence must be above 0 and at most 1, got {confidence}")
        content = weights if isinstance(weights, bytes) else Path(weights).read_bytes()
        got = hashlib.sha256(content).hexdigest()
        if sha256 and got != sha256.lower():
            raise ValueError(
                f"expected face detector weights with the SHA-256 {sha256}, got {got}: name the file that the digest "
                f"was taken of, or its own digest"
            )
        self.sha256 = got
        cv2.setNumThreads(threads or -1)
        self._lock = Lock()
        self._network = _load(content, confidence)

    def find(self, image: Image.Image) -> list[Face]:
        """Return the faces on a photo, largest first.

        Args:
            image: Upright photo of any size. Modes other than RGB are converted.
        """
        pixels = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
        if max(image.size) > LONGEST_SIDE:
            pixels = geometry.resize(pixels, LONGEST_SIDE / max(image.size))
        return self._search(pixels) or self._search(geometry.resize(pixels, 0.5))

    def _search(self, pixels: np.ndarray) -> list[Face]:
        height, width = pixels.shape[:2]
        with self._lock:
            rows = _search(self._network, pixels)
        return sorted((_face(row, width, height) for row in rows), key=lambda face: face.area, reverse=True)


def _load(content: bytes, confidence: float) -> cv2.FaceDetectorYN:
    buffer, no_config = np.frombuffer(content, np.uint8), np.empty(0, np.uint8)
    try:
        with silence_opencv():
            network = cv2.FaceDetectorYN.create(
                "onnx", buffer, no_config, (_PROBE_SIDE, _PROBE_SIDE), confidence, _NMS_THRESHOLD, _MAX_CANDIDATES
            )
            _search(network, np.zeros((_PROBE_SIDE, _PROBE_SIDE, 3), np.uint8))
    except (cv2.error, SystemError, TypeError) as error:
        raise ValueError(
            f"expected the ONNX file of YuNet, the face detector of OpenCV's model zoo "
            f"(face_detection_yunet), got {len(content)} bytes that OpenCV cannot use as such"
        ) from error
    return network


def _search(network: cv2.FaceDetectorYN, pixels: np.ndarray) -> np.ndarray:
    """Return the detections in pixels, a row each: box, landmarks, confidence: [n, 15]."""
    network.setInputSize(pixels.shape[1::-1])
    rows = network.detect(pixels)[1]
    return np.empty((0, 15)) if rows is None else rows


def _face(row: np.ndarray, width: int, height: int) -> Face:
    fractions = (row[:14].astype(float) / np.tile((width, height), 7)).tolist()
    return Face(
        Box(*fractions[:4]), tuple(zip(fractions[4::2], fractions[5::2], strict=True)), min(1.0, float(row[14]))
    )


@contextmanager
def silence_opencv() -> Iterator[None]:
    """Silence OpenCV's log within the context.

    OpenCV logs errors that it raises anyway, and warns that it ignores a target that it set itself.
    """
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
