"""The edits that advice is made of: what the sliders of a phone's editor do, as pure functions of pixels.

Pixels are uint8 ``[h, w, 3]``, upright sRGB. Every edit has one value in its own unit, leaves the very same pixels at
0, and moves them further the larger the value; what is light (exposure, white balance) is done in linear light
(IEC 61966-2-1). Lengths are shares of the photo, so that a photo and its small copy are edited alike. No edit enlarges:
straightening and cropping give fewer pixels than they were given.

Boxes are in shares of the photo's width and height, as those of faces are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from components.scorer.faces.geometry import Box

EditKey = Literal[
    "straighten", "crop", "brightness", "highlights", "shadows", "contrast", "warmth", "sharpness"
]  # fmt: skip
"""The edits, in the order in which several of them are done: the frame first, then light, colour, detail."""

_TONE = 0.1  # of the range: how far 100 % move the middle of the highlights or shadows; about a stop in the shadows
_MIREDS = 0.4  # a percent of warmth: 100 % lead from daylight (6500 K) to late afternoon (5150 K) or to shade (8800 K)
_RED, _BLUE = 0.006, -0.009  # stops a mired beside green: daylight of 5000 to 8000 K (CIE 15, D series) in linear sRGB
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear red, green and blue (IEC 61966-2-1)
_RADIUS = 1 / 250  # of the shorter side: 1.3 pixels of the 320 that are scored, the finest detail that survives there
# The head around a face's box, which reaches from brows or forehead to chin: hair above, ears, neck. In shares of the
# box's width and height: left and right, above, below.
_HEAD = (0.35, 0.6, 0.35)
_HEAD_AT = (0.5, 0.42)  # where the head's middle is in a portrait cropped well: centred, eyes on the upper third


class Pixels(NamedTuple):
    """A photo being edited, with the face that moves as the frame does.

    Attributes:
        pixels: uint8 ``[h, w, 3]``.
        face: box of the face, None where there is none.
    """

    pixels: np.ndarray
    face: Box | None


@dataclass(frozen=True)
class Edit:
    """What is known of an edit.

    Attributes:
        key: its name.
        unit: of its values.
        low: smallest value.
        high: largest value.
        step: values are told in whole steps: what a slider or a dial is set to by hand.
        tries: values that a search looks at first.
    """

    key: EditKey
    unit: str
    low: float
    high: float
    step: float
    tries: tuple[float, ...]

    def nearest(self, value: float) -> float:
        """The whole step within the range that is nearest to a value.

        >>> EDITS["brightness"].nearest(0.6)
        0.5
        """
        return float(min(max(round(value / self.step) * self.step, self.low), self.high))


EDITS: dict[EditKey, Edit] = {
    edit.key: edit
    for edit in (
        # What a hand-held camera is off by; more is meant, or would cut away a third of the photo.
        Edit("straighten", "degrees", -15, 15, 1, (-12, -8, -5, -2, 2, 5, 8, 12)),
        # Half the width: the scored side of 320 pixels is then still there in the working copy of 640.
        Edit("crop", "%", 0, 50, 5, (10, 20, 30, 40, 50)),
        # The exposure dial of phones: two stops each way (EXIF's ExposureBiasValue is mostly within).
        Edit("brightness", "stops", -2, 2, 0.25, (-2, -1, -0.5, 0.5, 1, 2)),
        Edit("highlights", "%", -100, 100, 10, (-100, -50, 50, 100)),
        Edit("shadows", "%", -100, 100, 10, (-100, -50, 50, 100)),
        # The slope at the photo's mean, so half as steep again at most: posters begin beyond.
        Edit("contrast", "%", -30, 50, 5, (-30, -15, 15, 30, 50)),
        Edit("warmth", "%", -100, 100, 10, (-100, -60, -30, 30, 60, 100)),
        # 100 %: detail twice as strong. Softening is no advice: it hides skin, which scorers like and people see.
        Edit("sharpness", "%", 0, 100, 10, (30, 60, 100)),
    )
}


def edited(pixels: np.ndarray, values: Mapping[EditKey, float], face: Box | None = None) -> Pixels:
    """Do several edits, in the order of `EditKey`.

    Args:
        pixels: uint8 ``[h, w, 3]``.
        values: by edit; what is not named is left as it is.
        face: box of the face, which the crop needs.

    Returns:
        The edited pixels, and where the face is then.

    Raises:
        ValueError: an edit is unknown, a value is out of range, or the crop has no face; says what was expected.
    """
    if unknown := sorted(set(values) - set(EDITS)):
        raise ValueError(f"expected edits of {list(EDITS)}, got {unknown[0]!r}")
    photo = Pixels(pixels, face)
    for key in get_args(EditKey):
        value, edit = values.get(key, 0), EDITS[key]
        if not edit.low <= value <= edit.high:
            raise ValueError(f"{key} must be from {edit.low:g} to {edit.high:g} {edit.unit}, got {value:g}")
        if value:
            photo = _one(photo, key, value)
    return photo


def _one(photo: Pixels, key: EditKey, value: float) -> Pixels:
    pixels, face = photo
    match key:
        case "straighten":
            height, width = pixels.shape[:2]
            return Pixels(straighten(pixels, value), face and turned(face, value, width, height))
        case "crop":
            if face is None:
                raise ValueError("a crop needs the box of the face that it goes toward, got none")
            frame = window(value, face)
            return Pixels(crop(pixels, frame), within(face, frame))
        case "brightness":
            return Pixels(brighten(pixels, value), face)
        case "highlights":
            return Pixels(highlights(pixels, value), face)
        case "shadows":
            return Pixels(shadows(pixels, value), face)
        case "contrast":
            return Pixels(contrast(pixels, value), face)
        case "warmth":
            return Pixels(warm(pixels, value), face)
        case "sharpness":
            return Pixels(sharpen(pixels, value), face)


# Light and colour


def brighten(pixels: np.ndarray, stops: float) -> np.ndarray:
    """As if the camera had been given ``2 ** stops`` times the light; what gets brighter than white is white."""
    if not stops:
        return pixels
    return cv2.LUT(pixels, _levels(_display(np.minimum(_light() * 2.0**stops, 1))))


def highlights(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Brighten (or, below 0, darken) the brighter half of the luma; mid-grey, white and the colours stay."""
    return _by_luma(pixels, _bump(percent, 0.5)) if percent else pixels


def shadows(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Brighten (or, below 0, darken) the darker half of the luma; black, mid-grey and the colours stay."""
    return _by_luma(pixels, _bump(percent, 0.0)) if percent else pixels


def contrast(pixels: np.ndarray, percent: float) -> np.ndarray:
    """An S-shaped curve of the luma about its mean, ``percent`` steeper (below 0: flatter) there.

    Black, white and the mean stay where they are, so nothing is clipped and the photo gets no brighter on the whole.
    """
    if not percent:
        return pixels
    slope, value = 1 + percent / 100, np.arange(256) / 255
    middle = float(np.clip(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean() / 255, 0.05, 0.95))
    below = middle * np.minimum(value / middle, 1) ** slope
    above = 1 - (1 - middle) * np.minimum((1 - value) / (1 - middle), 1) ** slope
    return _by_luma(pixels, np.where(value < middle, below, above))


def warm(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Another white balance: warmer (more red, less blue) or, below 0, cooler, along daylight; luminance stays."""
    if not percent:
        return pixels
    stops = np.array([_RED, 0, _BLUE]) * _MIREDS * percent
    gains = 2.0**stops / np.dot(_LUMINANCE, 2.0**stops)
    light = np.minimum(_light()[:, None] * gains, 1)
    return cv2.LUT(pixels, _levels(_display(light))[None])


def sharpen(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Add ``percent`` of the luma's fine detail once more (an unsharp mask); colours get no fringes."""
    if not percent:
        return pixels
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = luma - cv2.GaussianBlur(luma, (0, 0), _RADIUS * min(luma.shape))
    return _lighter(pixels, np.rint(detail * (percent / 100)).astype(np.int16))


def _by_luma(pixels: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Pixels with their luma led through a curve of 256 values, 0..1."""
    change = _levels(curve).astype(np.int16) - np.arange(256, dtype=np.int16)
    return _lighter(pixels, change[cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)])


def _lighter(pixels: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Pixels whose red, green and blue all change by int16 ``[h, w]`` levels, so that their differences stay."""
    more, less = np.maximum(change, 0).astype(np.uint8), np.maximum(-change, 0).astype(np.uint8)
    return cv2.subtract(cv2.add(pixels, cv2.merge([more] * 3)), cv2.merge([less] * 3))  # both stop at 0 and 255


def _bump(percent: float, start: float) -> np.ndarray:
    """A curve that is moved smoothly in the half of the range from ``start``, most in the middle of that half.

    Its slope is at least ``1 - 2 π _TONE``, above 0, so that brighter stays brighter.
    """
    value = np.arange(256) / 255
    inside = (value >= start) & (value <= start + 0.5)
    return value + _TONE * percent / 100 * inside * np.sin(2 * np.pi * (value - start)) ** 2


@lru_cache(maxsize=1)
def _light() -> np.ndarray:
    """The linear light of the 256 levels, 0..1."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _display(light: np.ndarray) -> np.ndarray:
    """Linear light as sRGB values, both 0..1."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _levels(values: np.ndarray) -> np.ndarray:
    """Values 0..1 as a table of levels."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


# The frame


def straighten(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the photo clockwise about its middle, and keep the largest upright part of its shape without corners."""
    if not degrees:
        return pixels
    height, width = pixels.shape[:2]
    kept = kept_by_turning(degrees, width, height)
    size = (max(1, int(kept * width)), max(1, int(kept * height)))
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    to_source = np.array([[cosine, sine], [-sine, cosine]])  # image coordinates, y down
    start = np.array([width - 1, height - 1]) / 2 - to_source @ (np.array(size) - 1) / 2
    matrix = np.column_stack([to_source, start])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def kept_by_turning(degrees: float, width: float, height: float) -> float:
    """Share of width and height that `straighten` keeps.

    >>> kept_by_turning(0, 3, 4)
    1.0
    """
    cosine, sine = math.cos(math.radians(degrees)), abs(math.sin(math.radians(degrees)))
    return min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))


def turned(box: Box, degrees: float, width: float, height: float) -> Box:
    """Where a box is after `straighten`: about its turned middle, of the size it had."""
    kept = kept_by_turning(degrees, width, height)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (box.x + box.width / 2 - 0.5) * width, (box.y + box.height / 2 - 0.5) * height
    x, y = cosine * x - sine * y, sine * x + cosine * y
    wide, high = box.width / kept, box.height / kept
    return Box(x / width / kept + 0.5 - wide / 2, y / height / kept + 0.5 - high / 2, wide, high)


def crop(pixels: np.ndarray, frame: Box) -> np.ndarray:
    """The part of a photo that a frame shows."""
    height, width = pixels.shape[:2]
    left, top = round(frame.x * width), round(frame.y * height)
    wide, high = max(1, round(frame.width * width)), max(1, round(frame.height * height))
    return np.ascontiguousarray(pixels[top : top + high, left : left + wide])


def inside(box: Box) -> Box:
    """The part of a box that is inside the photo."""
    left, right = np.clip([box.x, box.x + box.width], 0, 1).tolist()
    top, bottom = np.clip([box.y, box.y + box.height], 0, 1).tolist()
    return Box(left, top, right - left, bottom - top)


def head(face: Box) -> Box:
    """The head around a face, with hair, ears and neck, as far as the photo shows it."""
    aside, above, below = _HEAD
    left, top = face.x - aside * face.width, face.y - above * face.height
    return inside(Box(left, top, (1 + 2 * aside) * face.width, (1 + above + below) * face.height))


def closest(face: Box) -> float:
    """The strongest crop, in percent, that still shows the whole head; 0 where the head fills the photo.

    >>> round(closest(Box(0.4, 0.4, 0.2, 0.2)))
    61
    """
    _, _, width, height = head(face)
    return 100 * (1 - min(1.0, max(width, height)))


def window(percent: float, face: Box) -> Box:
    """The frame of a crop that is ``percent`` narrower and lower: the shape stays, the head moves toward its place.

    As near as it can be to having the head's middle where good portraits have it, within the photo and with all of the
    head in it.

    Args:
        percent: of the width and of the height that go.
        face: box of the face.

    Returns:
        The frame as a box within the photo.

    Raises:
        ValueError: the head would be cut; says what is the most.
    """
    if percent > closest(face) + 1e-6:
        raise ValueError(f"a crop of {percent:g} % would cut the head; at most {closest(face):.1f} % keep it whole")
    kept, (x, y, width, height) = 1 - percent / 100, head(face)
    place = []
    for start, length, at in ((x, width, _HEAD_AT[0]), (y, height, _HEAD_AT[1])):
        wanted = start + length / 2 - at * kept
        wanted = min(max(wanted, start + length - kept), start)  # the head is whole
        place.append(min(max(wanted, 0.0), 1 - kept))
    return Box(*place, kept, kept)


def within(box: Box, frame: Box) -> Box:
    """A box of the photo as a box of the part that a frame shows."""
    left, top = (box.x - frame.x) / frame.width, (box.y - frame.y) / frame.height
    return Box(left, top, box.width / frame.width, box.height / frame.height)
