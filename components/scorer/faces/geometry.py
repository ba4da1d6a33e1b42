"""Face boxes and landmarks: sizes, mirroring, face crops and alignment."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

RIGHT_EYE, LEFT_EYE, NOSE, RIGHT_MOUTH, LEFT_MOUTH = range(5)
"""Indices of the landmarks. Right and left are the person's: the right eye is on the left of the photo."""

TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Landmarks of a frontal face on a square of 112 pixels, ``[5, 2]`` (InsightFace's template, as in ArcFace)."""

UP_SHIFT = 0.03
"""Upward shift of a crop, as a fraction of its side, so that the embedding sees more of the hair."""

_TEMPLATE_SIDE = 112
_ALIASING = 0.5  # bilinear sampling reads four pixels: below this scale it would skip pixels


class Box(NamedTuple):
    """Rectangle in fractions of the photo's width and height; it may extend beyond the photo."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Face:
    """Detected face.

    Lengths are fractions of the photo's width and height; values below 0 or above 1 are outside the photo.

    Attributes:
        box: x and y of the upper left corner, width, height.
        landmarks: x and y of the right eye, the left eye, the tip of the nose, the right and the left corner of the
            mouth. Right and left are the person's.
        confidence: Detector's confidence, 0 to 1.
    """

    box: Box
    landmarks: tuple[tuple[float, float], ...]
    confidence: float

    @property
    def area(self) -> float:
        """Area of the box over the area of the photo; parts outside the photo count."""
        return self.box.width * self.box.height

    @property
    def outside_fraction(self) -> float:
        """Fraction of the box that is outside the photo, 0 to 1."""
        inside = _length_inside(self.box.x, self.box.width) * _length_inside(self.box.y, self.box.height)
        return 1 - inside / self.area

    @property
    def margin(self) -> float:
        """Distance of the box from the nearest photo edge, in box widths or heights.

        Negative if the box extends beyond the photo.
        """
        x, y, width, height = self.box
        return min(x / width, (1 - x) / width - 1, y / height, (1 - y) / height - 1)

    def points(self, size: tuple[int, int]) -> np.ndarray:
        """Return the landmarks in pixels, float64 [5, 2], for a photo of ``size`` (width, height)."""
        return np.multiply(self.landmarks, size)

    def side(self, size: tuple[int, int]) -> float:
        """Return the square root of the box area, pixels, for a photo of ``size`` (width, height)."""
        return math.sqrt(self.area * size[0] * size[1])

    def eye_distance(self, size: tuple[int, int]) -> float:
        """Return the distance between the eyes, pixels, for a photo of ``size`` (width, height).

        The distance shrinks as the face turns aside.
        """
        return math.hypot(*self._between_eyes(size))

    def tilt(self, size: tuple[int, int]) -> float:
        """Return the clockwise rotation of the eye line, degrees from -180 to 180, for a photo of ``size``."""
        dx, dy = self._between_eyes(size)
        return math.degrees(math.atan2(dy, dx))

    def _between_eyes(self, size: tuple[int, int]) -> np.ndarray:
        points = self.points(size)
        return points[LEFT_EYE] - points[RIGHT_EYE]


def _length_inside(start: float, length: float) -> float:
    """Return the length of an interval's part within 0 to 1."""
    return max(0.0, min(1.0, start + length) - max(0.0, start))


def mirror(face: Face) -> Face:
    """Return the face on the mirror image of its photo."""
    flipped = [(1 - x, y) for x, y in face.landmarks]
    order = (LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH)
    box = face.box._replace(x=1 - face.box.x - face.box.width)
    return Face(box, tuple(flipped[index] for index in order), face.confidence)


def align(image: Image.Image, face: Face) -> np.ndarray:
    """Return the upright face, its landmarks fitted to `TEMPLATE` by rotation, scale and translation.

    Args:
        image: RGB photo.
        face: Face on the photo.

    Returns:
        uint8 [112, 112, 3], RGB. The photo's edge is repeated outside the photo.
    """
    return crop(np.asarray(image), face.landmarks, _TEMPLATE_SIDE, 1.0, up_shift=0.0)


def crop(pixels: np.ndarray, landmarks: ArrayLike, side: int, scale: float, up_shift: float = UP_SHIFT) -> np.ndarray:
    """Return an upright square around a face, with `TEMPLATE` centred on it at a relative scale.

    Args:
        pixels: Photo, uint8 [height, width, 3], RGB.
        landmarks: float [5, 2], x and y as fractions of the photo's width and height; all 0 if no face was found.
        side: Side of the square, pixels.
        scale: Fraction of the side that the template takes: 1 is as tight as ArcFace's; smaller values show hair and
            neck.
        up_shift: Upward shift toward the hair, as a fraction of the side.

    Returns:
        uint8 [side, side, 3], RGB. The photo's edge is repeated outside the photo. If the crop shrinks the photo to
        less than half, the photo is averaged first. Without a face the result is the photo's centre square.
    """
    if not np.any(landmarks):
        return _centre_square(pixels, side)
    matrix = _crop_transform(landmarks, pixels.shape[1::-1], side, scale, up_shift)
    factor = math.hypot(*matrix[:, 0])
    if 0 < factor < _ALIASING:
        pixels = resize(pixels, factor)
        matrix = _crop_transform(landmarks, pixels.shape[1::-1], side, scale, up_shift)
    return cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def crop_scale(size: tuple[int, int], landmarks: ArrayLike, side: int, scale: float) -> float:
    """Return the scale factor of `crop`: crop pixels per photo pixel.

    Args:
        size: Width and height of the photo, pixels.
        landmarks: float [5, 2], fractions of the photo's width and height; all 0 if no face was found.
        side: Side of the crop, pixels.
        scale: Fraction of the side that the template takes.
    """
    if not np.any(landmarks):
        return side / min(size)
    return math.hypot(*_crop_transform(landmarks, size, side, scale, UP_SHIFT)[:, 0])


def _crop_transform(landmarks: ArrayLike, size: tuple[int, int], side: int, scale: float, up: float) -> np.ndarray:
    """Return the similarity transform [2, 3] from pixels of a photo of ``size`` (width, height) to crop pixels."""
    margin = side * (1 - scale) / 2
    target = TEMPLATE * (side * scale / _TEMPLATE_SIDE) + (margin, margin + side * up)
    return _similarity_transform(np.multiply(landmarks, size), target)


def _centre_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return the centre square of a photo, resized to ``side`` pixels."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = pixels[top : top + shorter, left : left + shorter]
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if side < shorter else cv2.INTER_LINEAR)


def template_transform(image: Image.Image, face: Face) -> np.ndarray:
    """Return the transform from photo pixels to `TEMPLATE` pixels: float64 [2, 3], for ``(x, y, 1)``."""
    return _similarity_transform(face.points(image.size), TEMPLATE)


def _similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the least-squares similarity transform (rotation, scale, translation) between points: [2, 3].

    With points as complex numbers the transform is ``target = a * source + b``, a linear regression.
    """
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w) / max(np.vdot(centred, centred).real, 1e-9)  # all points coincide: the scale is undefined
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def resize(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Return pixels uint8 ``[h, w, 3]`` with both sides multiplied by ``scale``, at least 1."""
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
