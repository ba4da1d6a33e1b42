"""Boxes and landmarks of faces: sizes, mirroring, and the crops and alignment that they define."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

RIGHT_EYE, LEFT_EYE, NOSE, RIGHT_MOUTH, LEFT_MOUTH = range(5)
"""Places of the landmarks. Right and left are the person's: the right eye is on the left of the photo."""

TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Where the landmarks of a face from the front are on a square of 112 pixels (InsightFace's, as ArcFace uses it)."""

UP = 0.03
"""Share of a crop's side by which it reaches further up than down: an embedding then sees more of the hair."""

_SQUARE = 112
_ALIASING = 0.5  # bilinear sampling reads four pixels: below this scale it would skip some


class Box(NamedTuple):
    """A rectangle in shares of the photo's width and height; it may stick out of the photo."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Face:
    """A face. Lengths are shares of the photo's width and height; what is below 0 or above 1 is outside the photo.

    Attributes:
        box: x and y of its upper left corner, width, height.
        landmarks: x and y of the right eye, the left eye, the tip of the nose, the right and the left corner of the
            mouth; right and left are the person's.
        confidence: that it is a face, 0 to 1.
    """

    box: Box
    landmarks: tuple[tuple[float, float], ...]
    confidence: float

    @property
    def area(self) -> float:
        """The box's area over the photo's; parts outside the photo count."""
        return self.box.width * self.box.height

    @property
    def outside(self) -> float:
        """Share of the box that is outside the photo, 0 to 1."""
        inside = _inside(self.box.x, self.box.width) * _inside(self.box.y, self.box.height)
        return 1 - inside / self.area

    @property
    def margin(self) -> float:
        """Distance of the box from the nearest edge of the photo, in widths or heights of the box; negative outside."""
        x, y, width, height = self.box
        return min(x / width, (1 - x) / width - 1, y / height, (1 - y) / height - 1)

    def points(self, size: tuple[int, int]) -> np.ndarray:
        """The landmarks in pixels of a photo of this width and height: float64 [5, 2]."""
        return np.multiply(self.landmarks, size)

    def side(self, size: tuple[int, int]) -> float:
        """Pixels: the side of the square that is as large as the box, on a photo of this width and height."""
        return math.sqrt(self.area * size[0] * size[1])

    def eye_distance(self, size: tuple[int, int]) -> float:
        """Pixels between the eyes on a photo of this width and height; it is shorter where the face turns aside."""
        return math.hypot(*self._between_eyes(size))

    def tilt(self, size: tuple[int, int]) -> float:
        """Degrees by which the line of the eyes is turned clockwise, -180 to 180, on a photo of this size."""
        across, down = self._between_eyes(size)
        return math.degrees(math.atan2(down, across))

    def _between_eyes(self, size: tuple[int, int]) -> np.ndarray:
        points = self.points(size)
        return points[LEFT_EYE] - points[RIGHT_EYE]


def _inside(start: float, length: float) -> float:
    """How much of an interval is within 0 to 1."""
    return max(0.0, min(1.0, start + length) - max(0.0, start))


def mirrored(face: Face) -> Face:
    """The same face on the photo's mirror image."""
    flipped = [(1 - x, y) for x, y in face.landmarks]
    order = (LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH)
    box = face.box._replace(x=1 - face.box.x - face.box.width)
    return Face(box, tuple(flipped[place] for place in order), face.confidence)


def aligned(image: Image.Image, face: Face) -> np.ndarray:
    """The face upright, its landmarks as near to `TEMPLATE` as turning, scaling and moving brings them.

    Args:
        image: RGB photo.
        face: on it.

    Returns:
        uint8 [112, 112, 3], RGB; what is outside the photo repeats its edge.
    """
    return crop(np.asarray(image), face.landmarks, _SQUARE, 1.0, up=0.0)


def crop(pixels: np.ndarray, landmarks: ArrayLike, side: int, scale: float, up: float = UP) -> np.ndarray:
    """An upright square around a face, so that `TEMPLATE` takes a share of it in the middle.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        landmarks: float [5, 2], x and y in shares of the photo's width and height; all 0 where no face was found.
        side: of the square, pixels.
        scale: share of its side that the template takes: 1 is as tight as ArcFace's, below it hair and neck show.
        up: share of its side by which it reaches further up, where the hair is.

    Returns:
        uint8 [side, side, 3], RGB; what is outside the photo repeats its edge. Where it is less than half as large as
        in the photo, the photo is averaged first. Without a face it is the middle square of the photo.
    """
    if not np.any(landmarks):
        return _middle(pixels, side)
    way = _to_square(landmarks, pixels.shape[1::-1], side, scale, up)
    shrunk = math.hypot(*way[:, 0])
    if 0 < shrunk < _ALIASING:
        pixels = scaled(pixels, shrunk)
        way = _to_square(landmarks, pixels.shape[1::-1], side, scale, up)
    return cv2.warpAffine(pixels, way, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def enlarged(size: tuple[int, int], landmarks: ArrayLike, side: int, scale: float) -> float:
    """How many pixels of a crop one pixel of the photo takes, for a photo of this width and height; see `crop`."""
    if not np.any(landmarks):
        return side / min(size)
    return math.hypot(*_to_square(landmarks, size, side, scale, UP)[:, 0])


def _to_square(landmarks: ArrayLike, size: tuple[int, int], side: int, scale: float, up: float) -> np.ndarray:
    """The way from pixels of a photo of this width and height to those of a crop."""
    margin = side * (1 - scale) / 2
    target = TEMPLATE * (side * scale / _SQUARE) + (margin, margin + side * up)
    return _similarity(np.multiply(landmarks, size), target)


def _middle(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a photo, scaled to this side."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = pixels[top : top + shorter, left : left + shorter]
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if side < shorter else cv2.INTER_LINEAR)


def to_template(image: Image.Image, face: Face) -> np.ndarray:
    """The way from pixels of a photo to `TEMPLATE`'s: float64 [2, 3], for ``(x, y, 1)``."""
    return _similarity(face.points(image.size), TEMPLATE)


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The turn, scaling and shift that brings points nearest to others by least squares: [2, 3].

    With points as complex numbers it is ``target = a * source + b``, a line through points.
    """
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w) / max(np.vdot(centred, centred).real, 1e-9)  # five points in one: no size to scale by
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def scaled(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Return pixels uint8 ``[h, w, 3]`` with both sides multiplied by ``scale``, at least 1."""
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
