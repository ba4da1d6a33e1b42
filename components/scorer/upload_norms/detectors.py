"""What the upload norms measure on a photo: light, blur, faces, lenses, borders, screens."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from components.scorer.faces.geometry import Face, aligned

# ---- detectors


@dataclass(frozen=True)
class Scene:
    """What the detectors look at."""

    image: Image.Image
    faces: Sequence[Face] | None
    attributes: Mapping[str, float]
    size: tuple[int, int]

    @property
    def face(self) -> Face:
        """The largest face."""
        return self.faces[0]

    @cached_property
    def pixels(self) -> np.ndarray:
        """The photo: uint8 [height, width, 3]."""
        return np.asarray(self.image)

    @cached_property
    def grey(self) -> np.ndarray:
        """The photo: float32 [height, width], 0 to 255."""
        return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)

    @cached_property
    def upright_face(self) -> np.ndarray:
        """The light of the largest face, as `geometry.aligned` turns it: linear, 0 to 1, float32 [112, 112, 3]."""
        return _LINEAR[aligned(self.image, self.face)]

    @cached_property
    def stops(self) -> np.ndarray:
        """The luminance of the upright face in stops below white: float32 [112, 112]."""
        return np.log2(self.upright_face @ _LUMINANCE + _NOISE)


_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)  # sRGB: IEC 61966-2-1
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear red, green and blue: the same
_NOISE = 1 / 512  # of white: what is darker differs by the camera's noise, so it counts as equally dark


def _fewest_persons(scene: Scene) -> float:
    """The number of faces."""
    return float(len(scene.faces))


def _most_persons(scene: Scene, share: float, confidence: float) -> float:
    """The number of faces whose side is at least ``share`` of the largest's, found with at least this confidence.

    Who is smaller stands in the background. Other faces have to be surer than the first: leaves and stones that YuNet
    takes for a face come to .77.
    """
    smallest = share * scene.face.side(scene.image.size) if scene.faces else 0.0
    others = [face for face in scene.faces[1:] if face.confidence >= confidence]
    beside = [face for face in others if face.side(scene.image.size) >= smallest]
    return float(len(scene.faces[:1]) + len(beside))


def _face_size(scene: Scene) -> float:
    """The side of the largest face over the photo's shorter side."""
    return scene.face.side(scene.image.size) / min(scene.image.size)


def _face_margin(scene: Scene) -> float:
    """The distance of the largest face's box from the photo's edge, in widths and heights of the box.

    It is negative where the box sticks out. That is no measure of how much of the face is missing: YuNet's boxes hug
    the left and the upper edge.
    """
    return scene.face.margin


def _eye_shadow(scene: Scene) -> float:
    """Stops by which the surroundings of both eyes are darker than the cheeks below them.

    An eye is held against the cheek below it, so that light from aside is no shadow and no skin is dark. What counts is
    the brighter part of either, which is skin: dark brows, lashes and rims of glasses do not matter, nor does a beard.
    """
    return float(min(_brighter(scene.stops[cheek]) - _brighter(scene.stops[eye]) for eye, cheek in _SIDES))


_SIDES = (
    (np.s_[42:66, 23:54], np.s_[68:84, 26:43]),
    (np.s_[42:66, 58:89], np.s_[68:84, 69:86]),
)
"""Rows and columns of eye and cheek on either side of `geometry.TEMPLATE`'s square."""

_LENSES = (np.s_[46:64, 27:50], np.s_[46:64, 62:85])
"""Where the lenses of glasses are."""

_BELOW = (np.s_[50:74, 28:49], np.s_[50:74, 63:84])
"""From the middle of a lens to the cheek below it."""


def _brighter(values: np.ndarray) -> float:
    return float(np.percentile(values, 75))


def _dark_lenses(scene: Scene) -> float:
    """The probability that the eyes are behind dark lenses, 0 to 1, from `lens_features`."""
    score = float(lens_features(scene) @ LENS_WEIGHTS) + LENS_BIAS
    return 1 / (1 + math.exp(-score))


LENS_WEIGHTS = np.array([0.76, 0.49, -1.63, 1.5, 1.38])
LENS_BIAS = -4.25
"""Of a logistic regression on half of the photos that the benchmark of the norms makes: portraits as they are, drawn
ones, the same with shadows over the eyes, and with sunglasses pasted on (``python -m tests.benchmarks.norms --fit``).
"""


def lens_features(scene: Scene) -> np.ndarray:
    """What tells dark lenses from eyes and from shadows: float [5].

    1. Stops by which the brighter part of the lenses is darker than the cheeks,
    2. and by which their middle is.
    3. Stops between the bright and the dark parts of the lenses: eyes have white and black.
    4. Stops of the step from the lens to the cheek, on the side where it is smaller: a shadow ends softly.
    5. Stops by which the lenses are less red, against blue, than the cheeks: a shadow keeps the skin's colour.
    """
    sides = []
    for lens, below, (_, cheek) in zip(_LENSES, _BELOW, _SIDES, strict=True):
        dark, middle, high, bright = np.percentile(scene.stops[lens], (10, 50, 75, 90))
        skin = np.median(scene.stops[cheek])
        column = scene.stops[below]
        step = np.percentile((column[3:] - column[:-3]).max(0), 25)
        sides.append((skin - high, skin - middle, bright - dark, step, _redness(scene, cheek) - _redness(scene, lens)))
    values = np.array(sides)
    features = values.mean(0)
    features[3] = values[:, 3].min()
    return np.clip(features, -6, 6)


def _redness(scene: Scene, region: tuple[slice, slice]) -> float:
    red, _, blue = scene.upright_face[region].reshape(-1, 3).mean(0) + 2 * _NOISE
    return float(np.log2(red / blue))


def _blur(scene: Scene) -> float:
    """How blurred the sharpest edges are: standard deviation of a Gaussian, in hundredths of the photo's shorter side.

    It is measured on the largest face, and on the whole photo where there is none. An edge that a Gaussian of deviation
    s has blurred gets less steep by the factor ``√((s² + b²) / (s² + a²))`` between two more Gaussians, a and b, from
    which s follows (Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 44, 2011). The
    steepest edges are free of noise, and the sharper ones among them are no shadows.
    """
    first, second = 0.7, 1.4  # pixels: as fine as a JPEG's noise lets it be
    grey = _within(scene.grey, scene.face) if scene.faces else scene.grey
    steep, less = (_steepness(cv2.GaussianBlur(grey, (0, 0), deviation)) for deviation in (first, second))
    edges = steep >= np.percentile(steep, 98)
    ratio = np.clip(steep[edges] / np.maximum(less[edges], 1e-3), 1.001, second / first)
    deviations = np.sqrt(np.maximum(second**2 - ratio**2 * first**2, 0) / (ratio**2 - 1))
    return float(np.percentile(deviations, 25)) / min(scene.image.size) * 100


def _steepness(grey: np.ndarray) -> np.ndarray:
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _within(grey: np.ndarray, face: Face) -> np.ndarray:
    """The part of a photo that is inside the box of a face; the whole where that is hardly any."""
    height, width = grey.shape
    left, right = (round(float(np.clip(x, 0, 1)) * width) for x in (face.box.x, face.box.x + face.box.width))
    top, bottom = (round(float(np.clip(y, 0, 1)) * height) for y in (face.box.y, face.box.y + face.box.height))
    part = grey[top:bottom, left:right]
    return part if min(part.shape) >= 16 else grey


def _darkness(scene: Scene) -> float:
    """Stops by which the bright parts of the photo, its lightest fiftieth, are below white.

    Of each pixel the strongest colour counts, so that red light and a blue wall are bright. The whole photo is judged:
    on a portrait in good light something is bright whatever the colour of the skin, be it the whites of the eyes.
    """
    red, green, blue = cv2.split(scene.pixels)
    counts = cv2.calcHist([cv2.max(cv2.max(red, green), blue)], [0], None, [256], [0, 256])
    level = int(np.searchsorted(np.cumsum(counts), 0.98 * counts.sum()))
    return float(max(0.0, -np.log2(_LINEAR[level] + _NOISE)))


def _screen(scene: Scene) -> float:
    """Share of the width, or height, along which a straight edge ends a bar of one colour; 1 under a status bar.

    Screens put photos between bars: above them, below or beside. Where a photo fills a phone's whole screen, only the
    clock and the signs at its upper edge tell.
    """
    bars = max(_longest_edge(scene.grey), _longest_edge(scene.grey.T))
    return 1.0 if _has_status_bar(scene) else bars


def _longest_edge(grey: np.ndarray) -> float:
    """The largest share of a row, 0 to 1, that differs from a bar of one colour next to it."""
    thick = max(3, round(_BAR * min(grey.shape)))
    even = np.abs(grey - np.median(grey, axis=1, keepdims=True)) <= _EVEN
    flat = even.mean(1) >= _FLAT
    bars = np.convolve(flat, np.ones(thick)) == thick
    ends, begins = bars[: len(flat)], bars[thick - 1 :]  # whether a bar ends, or begins, at a row
    steps = (np.abs(grey[2:] - grey[:-2]) > _STEP).mean(1)
    beside = ends[:-2] | begins[2:]
    return float((steps * beside).max(initial=0.0))


_BAR = 0.02  # of the photo's shorter side: what is thinner is a photo's own rim
_EVEN, _FLAT = 3, 0.8  # levels of 255 by which a share of a row differs from its median at most; text may be on it
_STEP = 12  # levels of 255


def _has_status_bar(scene: Scene) -> bool:
    """Whether a photo as high as a phone's screen has light or dark signs in both upper corners and not between."""
    width, height = scene.size
    if height < _PHONE * width:
        return False
    band = scene.pixels[: round(0.085 * scene.image.width)]
    low, high = band.min(2), band.max(2)
    light = (low > 170) & (low > cv2.medianBlur(high, 15).astype(int) + 40)
    dark = (high < 85) & (high < cv2.medianBlur(low, 15).astype(int) - 40)
    ink = (light | dark) & (high - low < 30)
    left, middle, right = (ink[:, int(a * ink.shape[1]) : int(b * ink.shape[1])].mean() for a, b in _THIRDS)
    return left > _CLOCK and right > _SIGNS and middle < _NOTHING


_PHONE = 1.6  # height over width: between a camera's 3:2 and the 16:9 of the first phones
_THIRDS = ((0, 0.3), (0.35, 0.65), (0.7, 1))
_CLOCK, _SIGNS, _NOTHING = 0.0015, 0.006, 0.001  # shares that are ink; drawn clocks have .0015 to .015


Needs = Literal["photo", "faces", "face", "attribute"]


@dataclass(frozen=True)
class Detector:
    """A way of measuring.

    Attributes:
        needs: an attribute that the scorer has learnt; that faces were looked for; that one was found; or no more
            than the photo.
        broken: on which side of the threshold a value breaks the norm; the threshold itself keeps it.
        unit: what the value is.
        lowest: threshold that makes sense.
        highest: threshold that makes sense.
        parameters: default, lowest and highest value by name.
        measure: the value on a photo.
    """

    needs: Needs
    broken: Literal["above", "below"]
    unit: str
    lowest: float
    highest: float
    parameters: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    measure: Callable[..., float] | None = None


DETECTORS: Mapping[str, Detector] = {
    "attribute": Detector("attribute", "above", "probability", 0, 1),
    "fewest_persons": Detector("faces", "below", "faces", 0, 100, {}, _fewest_persons),
    "most_persons": Detector(
        "faces", "above", "persons", 0, 100, {"share": (0.5, 0, 1), "confidence": (0.8, 0, 1)}, _most_persons
    ),
    "face_size": Detector("face", "below", "of the photo's shorter side", 0, 1, {}, _face_size),
    "face_margin": Detector("face", "below", "of the face's width or height", -1, 1, {}, _face_margin),
    "eye_shadow": Detector("face", "above", "stops", -10, 10, {}, _eye_shadow),
    "dark_lenses": Detector("face", "above", "probability", 0, 1, {}, _dark_lenses),
    "blur": Detector("photo", "above", "hundredths of the photo's shorter side", 0, 100, {}, _blur),
    "darkness": Detector("photo", "above", "stops", 0, 10, {}, _darkness),
    "screen": Detector("photo", "above", "share of an edge", 0, 1, {}, _screen),
}
"""The detectors that a norms file can name."""
