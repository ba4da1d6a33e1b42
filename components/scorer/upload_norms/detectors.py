"""Measurements of a photo for the upload norms: light, blur, faces, dark lenses, screen borders."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from components.scorer.faces.geometry import Face, align


@dataclass(frozen=True)
class PhotoContext:
    """Photo with the data that the detectors use.

    Attributes:
        image: Photo as it is scored, RGB.
        faces: Faces on the photo, largest first; None if face detection did not run.
        attributes: Probability, 0 to 1, that a learnt attribute has the value that counts, by attribute.
        size: Width and height of the uploaded photo, upright, pixels.
    """

    image: Image.Image
    faces: Sequence[Face] | None
    attributes: Mapping[str, float]
    size: tuple[int, int]

    @property
    def face(self) -> Face:
        """Largest face."""
        assert self.faces  # a measure that requires a face is not taken without one
        return self.faces[0]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Photo as uint8 [height, width, 3]."""
        return np.asarray(self.image)

    @cached_property
    def grey(self) -> np.ndarray:
        """Photo as grey levels, float32 [height, width], 0 to 255."""
        return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)

    @cached_property
    def upright_face(self) -> np.ndarray:
        """Linear light of the largest face after `geometry.align`: float32 [112, 112, 3], 0 to 1."""
        return _SRGB_TO_LINEAR[align(self.image, self.face)]

    @cached_property
    def stops(self) -> np.ndarray:
        """Luminance of the upright face in stops relative to white, 0 or below: float32 [112, 112]."""
        return np.log2(self.upright_face @ _LUMINANCE + _NOISE_LEVEL)


_SRGB_LEVELS = np.arange(256, dtype=np.float32) / 255
# sRGB: IEC 61966-2-1.
_SRGB_TO_LINEAR = np.where(_SRGB_LEVELS <= 0.04045, _SRGB_LEVELS / 12.92, ((_SRGB_LEVELS + 0.055) / 1.055) ** 2.4)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # weights of linear red, green and blue: the same source
_NOISE_LEVEL = 1 / 512  # of white: camera noise dominates below this level, so all darker values count alike


def _face_count(scene: PhotoContext) -> float:
    """Return the number of faces."""
    return float(len(scene.faces or ()))


def _prominent_face_count(scene: PhotoContext, share: float, confidence: float) -> float:
    """Return the number of prominent faces: the largest, and each other of sufficient size and confidence.

    Smaller faces belong to people in the background. Other faces need more confidence than the first, because false
    detections in leaves and stones reach .77.

    Args:
        scene: Photo with its faces.
        share: Least side of another face, as a fraction of the side of the largest.
        confidence: Least detector confidence of another face, 0 to 1.
    """
    faces = scene.faces or ()
    smallest = share * scene.face.side(scene.image.size) if faces else 0.0
    confident = [face for face in faces[1:] if face.confidence >= confidence]
    prominent = [face for face in confident if face.side(scene.image.size) >= smallest]
    return float(len(faces[:1]) + len(prominent))


def _face_size(scene: PhotoContext) -> float:
    """Return the side of the largest face over the photo's shorter side."""
    return scene.face.side(scene.image.size) / min(scene.image.size)


def _face_margin(scene: PhotoContext) -> float:
    """Return the distance of the largest face's box from the photo's edge, in box widths or heights.

    Negative if the box extends beyond the photo. The value does not measure how much of the face is missing, because
    YuNet's boxes stick to the left and the upper edge.
    """
    return scene.face.margin


def _eye_shadow(scene: PhotoContext) -> float:
    """Return by how many stops the surroundings of both eyes are darker than the cheeks below them.

    Each eye is compared with the cheek below it, so side light is no shadow and dark skin is not dark. The 75th
    percentile of each region is skin; dark brows, lashes, rims of glasses and beards do not count.
    """
    return float(
        min(_upper_quartile(scene.stops[cheek]) - _upper_quartile(scene.stops[eye]) for eye, cheek in _EYES_AND_CHEEKS)
    )


_EYES_AND_CHEEKS = (
    (np.s_[42:66, 23:54], np.s_[68:84, 26:43]),
    (np.s_[42:66, 58:89], np.s_[68:84, 69:86]),
)
"""Rows and columns of eye and cheek on each side of `geometry.TEMPLATE`'s square."""

_LENSES = (np.s_[46:64, 27:50], np.s_[46:64, 62:85])
"""Rows and columns of the lenses of glasses."""

_LENS_TO_CHEEK = (np.s_[50:74, 28:49], np.s_[50:74, 63:84])
"""Rows and columns from the middle of a lens to the cheek below it."""


def _upper_quartile(values: np.ndarray) -> float:
    return float(np.percentile(values, 75))


def _dark_lenses(scene: PhotoContext) -> float:
    """Return the probability that dark lenses cover the eyes, 0 to 1: logistic regression on `lens_features`."""
    score = float(lens_features(scene) @ LENS_WEIGHTS) + LENS_BIAS
    return 1 / (1 + math.exp(-score))


LENS_WEIGHTS = np.array([0.76, 0.49, -1.63, 1.5, 1.38])
LENS_BIAS = -4.25
"""Coefficients of a logistic regression on half of the photos of the norms benchmark: original portraits, drawn
portraits, and copies with shadows over the eyes or pasted sunglasses (``python -m tests.benchmarks.norms --fit``).
"""


def lens_features(scene: PhotoContext) -> np.ndarray:
    """Return the features that separate dark lenses from eyes and shadows: float [5], stops, clipped to -6..6.

    1. How much darker the bright part of the lenses (75th percentile) is than the cheeks.
    2. How much darker the median of the lenses is than the cheeks.
    3. Contrast between the bright and the dark parts of the lenses: eyes have white and black.
    4. Step from the lens to the cheek, on the side where it is smaller: a shadow has a soft edge.
    5. How much less red, relative to blue, the lenses are than the cheeks: a shadow keeps the colour of the skin.
    """
    sides = []
    for lens, below, (_, cheek) in zip(_LENSES, _LENS_TO_CHEEK, _EYES_AND_CHEEKS, strict=True):
        low, middle, upper, bright = np.percentile(scene.stops[lens], (10, 50, 75, 90))
        skin = np.median(scene.stops[cheek])
        column = scene.stops[below]
        step = np.percentile((column[3:] - column[:-3]).max(0), 25)
        sides.append((skin - upper, skin - middle, bright - low, step, _redness(scene, cheek) - _redness(scene, lens)))
    values = np.array(sides)
    features = values.mean(0)
    features[3] = values[:, 3].min()
    return np.clip(features, -6, 6)


def _redness(scene: PhotoContext, region: tuple[slice, slice]) -> float:
    red, _, blue = scene.upright_face[region].reshape(-1, 3).mean(0) + 2 * _NOISE_LEVEL
    return float(np.log2(red / blue))


def _blur(scene: PhotoContext) -> float:
    """Return the blur of the sharpest edges: Gaussian standard deviation, in hundredths of the photo's shorter side.

    Measured on the largest face, or on the whole photo without a face. An edge blurred by a Gaussian of deviation s is
    blurred again by deviations a and b. The ratio of the two gradients is ``√((s² + b²) / (s² + a²))``, solved for s.
    Source: Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 44, 2011. The steepest edges
    are free of noise, and the sharper quarter of them are not shadows.
    """
    first, second = 0.7, 1.4  # deviations a and b, pixels: the finest that JPEG noise allows
    grey = _face_region(scene.grey, scene.face) if scene.faces else scene.grey
    gradient, blurred_gradient = (_gradient(cv2.GaussianBlur(grey, (0, 0), deviation)) for deviation in (first, second))
    edges = gradient >= np.percentile(gradient, 98)
    ratio = np.clip(gradient[edges] / np.maximum(blurred_gradient[edges], 1e-3), 1.001, second / first)
    deviations = np.sqrt(np.maximum(second**2 - ratio**2 * first**2, 0) / (ratio**2 - 1))
    return float(np.percentile(deviations, 25)) / min(scene.image.size) * 100


def _gradient(grey: np.ndarray) -> np.ndarray:
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _face_region(grey: np.ndarray, face: Face) -> np.ndarray:
    """Return the part of a photo inside the box of a face; the whole photo if that part is narrower than 16 pixels."""
    height, width = grey.shape
    left, right = (round(float(np.clip(x, 0, 1)) * width) for x in (face.box.x, face.box.x + face.box.width))
    top, bottom = (round(float(np.clip(y, 0, 1)) * height) for y in (face.box.y, face.box.y + face.box.height))
    part = grey[top:bottom, left:right]
    return part if min(part.shape) >= 16 else grey


def _darkness(scene: PhotoContext) -> float:
    """Return by how many stops the brightest 2 % of the photo are below white.

    The strongest colour channel of each pixel counts, so red light and a blue wall are bright. The whole photo is
    measured: in good light some part of a portrait is bright for any skin colour, if only the whites of the eyes.
    """
    red, green, blue = cv2.split(scene.pixels)
    counts = cv2.calcHist([cv2.max(cv2.max(red, green), blue)], [0], None, [256], [0, 256])
    level = int(np.searchsorted(np.cumsum(counts), 0.98 * counts.sum()))
    return float(max(0.0, -np.log2(_SRGB_TO_LINEAR[level] + _NOISE_LEVEL)))


def _screen(scene: PhotoContext) -> float:
    """Return the fraction of the width or height along which a straight edge ends a bar of one colour.

    Screens show photos between bars: above, below or beside them. A photo that fills a phone's screen is recognised
    only by the clock and the icons at its upper edge; a status bar returns 1.
    """
    bars = max(_longest_edge(scene.grey), _longest_edge(scene.grey.T))
    return 1.0 if _has_status_bar(scene) else bars


def _longest_edge(grey: np.ndarray) -> float:
    """Return the largest fraction of a row, 0 to 1, that differs from an adjacent bar of one colour."""
    thickness = max(3, round(_MIN_BAR * min(grey.shape)))
    near_median = np.abs(grey - np.median(grey, axis=1, keepdims=True)) <= _FLAT_LEVELS
    flat = near_median.mean(1) >= _FLAT_FRACTION
    bars = np.convolve(flat, np.ones(thickness)) == thickness
    ends, begins = bars[: len(flat)], bars[thickness - 1 :]  # True at rows where a bar ends, or begins
    steps = (np.abs(grey[2:] - grey[:-2]) > _MIN_STEP).mean(1)
    at_bar = ends[:-2] | begins[2:]
    return float((steps * at_bar).max(initial=0.0))


_MIN_BAR = 0.02  # least thickness over the photo's shorter side: thinner bars are a photo's own rim
# A row is flat if 80 % of it is within 3 of 255 levels of its median; it may carry text.
_FLAT_LEVELS, _FLAT_FRACTION = 3, 0.8
_MIN_STEP = 12  # least step at the edge, levels of 255


def _has_status_bar(scene: PhotoContext) -> bool:
    """Return whether a photo as tall as a phone's screen has light or dark signs in both upper corners only."""
    width, height = scene.size
    if height < _PHONE_ASPECT * width:
        return False
    band = scene.pixels[: round(0.085 * scene.image.width)]
    low, high = band.min(2), band.max(2)
    light = (low > 170) & (low > cv2.medianBlur(high, 15).astype(int) + 40)
    dark = (high < 85) & (high < cv2.medianBlur(low, 15).astype(int) - 40)
    signs = (light | dark) & (high - low < 30)
    left, middle, right = (
        signs[:, int(start * signs.shape[1]) : int(end * signs.shape[1])].mean() for start, end in _THIRDS
    )
    return left > _CLOCK and right > _SIGNS and middle < _NO_SIGNS


_PHONE_ASPECT = 1.6  # least height over width: between a camera's 3:2 and the 16:9 of the first phones
_THIRDS = ((0, 0.3), (0.35, 0.65), (0.7, 1))
_CLOCK, _SIGNS, _NO_SIGNS = 0.0015, 0.006, 0.001  # fractions of sign pixels; drawn clocks have .0015 to .015


Requires = Literal["photo", "faces", "face", "attribute"]


@dataclass(frozen=True)
class Measure:
    """Detector: a measurement that a norm compares with its threshold.

    Attributes:
        requires: Required input: ``attribute``, a learnt attribute; ``faces``, that face detection ran; ``face``, a
            detected face; ``photo``, only the photo.
        broken: Side of the threshold on which a value breaks the norm. The threshold itself keeps it.
        unit: Unit of the value.
        lowest: Lowest allowed threshold.
        highest: Highest allowed threshold.
        parameters: Default, lowest and highest value of each parameter, by name.
        measure: Function from the photo and the parameters to the value; None for a learnt attribute's probability.
    """

    requires: Requires
    broken: Literal["above", "below"]
    unit: str
    lowest: float
    highest: float
    parameters: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    measure: Callable[..., float] | None = None


DETECTORS: Mapping[str, Measure] = {
    "attribute": Measure("attribute", "above", "probability", 0, 1),
    "fewest_persons": Measure("faces", "below", "faces", 0, 100, {}, _face_count),
    "most_persons": Measure(
        "faces", "above", "persons", 0, 100, {"share": (0.5, 0, 1), "confidence": (0.8, 0, 1)}, _prominent_face_count
    ),
    "face_size": Measure("face", "below", "of the photo's shorter side", 0, 1, {}, _face_size),
    "face_margin": Measure("face", "below", "of the face's width or height", -1, 1, {}, _face_margin),
    "eye_shadow": Measure("face", "above", "stops", -10, 10, {}, _eye_shadow),
    "dark_lenses": Measure("face", "above", "probability", 0, 1, {}, _dark_lenses),
    "blur": Measure("photo", "above", "hundredths of the photo's shorter side", 0, 100, {}, _blur),
    "darkness": Measure("photo", "above", "stops", 0, 10, {}, _darkness),
    "screen": Measure("photo", "above", "share of an edge", 0, 1, {}, _screen),
}
"""Detectors that a norms file can name."""
