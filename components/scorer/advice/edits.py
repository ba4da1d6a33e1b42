"""Photo edits that advice consists of: the sliders of a phone's editor, as pure functions of pixels.

Pixels are uint8 ``[h, w, 3]``, upright sRGB. Every edit has one value in its own unit. At 0 it returns the same pixels;
the larger the value, the larger the change. Exposure and white balance are computed in linear light (IEC 61966-2-1).
Lengths are fractions of the photo, so that a photo and its small copy are edited alike. No edit enlarges: straightening
and cropping return fewer pixels.

Boxes, like those of faces, are in fractions of the photo's width and height.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from components.scorer.faces.geometry import Box

EditName = Literal[
    "straighten", "crop", "brightness", "highlights", "shadows", "contrast", "warmth", "sharpness"
]  # fmt: skip
"""Names of the edits, in the order in which they are applied: the frame first, then light, colour, detail."""

_MAX_TONE_SHIFT = (
    0.1  # of the range: shift of the middle of the highlights or shadows at 100 %; about a stop in the shadows
)
# Mireds a percent of warmth: 100 % lead from daylight (6500 K) to late afternoon (5150 K) or to shade (8800 K).
_MIREDS_PER_PERCENT = 0.4
# Stops a mired, relative to green: daylight of 5000 to 8000 K (CIE 15, D series) in linear sRGB.
_RED_STOPS_PER_MIRED, _BLUE_STOPS_PER_MIRED = 0.006, -0.009
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # weights of linear red, green and blue (IEC 61966-2-1)
_RADIUS = 1 / 250  # of the shorter side: 1.3 pixels of the 320 that are scored, the finest detail that survives scoring
# Margins of the head around a face's box, which reaches from brows or forehead to chin: ears, hair, neck. In fractions
# of the box's width and height: left and right, above, below.
_HEAD_MARGINS = (0.35, 0.6, 0.35)
_HEAD_POSITION = (0.5, 0.42)  # position of the head's middle in a well cropped frame: centred, eyes on the upper third


class EditedPhoto(NamedTuple):
    """Photo being edited, with its face box, which straightening and cropping move.

    Attributes:
        pixels: Pixels, uint8 ``[h, w, 3]``.
        face: Box of the face; None if there is none.
    """

    pixels: np.ndarray
    face: Box | None


@dataclass(frozen=True)
class EditSpec:
    """Specification of an edit.

    Attributes:
        key: Name of the edit.
        unit: Unit of its values.
        low: Smallest value.
        high: Largest value.
        step: Step of the values, in their unit, as a person sets a slider or a dial.
        first_values: Values that the search scores first.
    """

    key: EditName
    unit: str
    low: float
    high: float
    step: float
    first_values: tuple[float, ...]

    def round_to_step(self, value: float) -> float:
        """Round a value to a whole step within the range.

        >>> EDITS["brightness"].nearest(0.6)
        0.5
        """
        return float(min(max(round(value / self.step) * self.step, self.low), self.high))


EDITS: dict[EditName, EditSpec] = {
    edit.key: edit
    for edit in (
        # The tilt of a hand-held camera. More is intended, or straightening would cut off a third of the photo.
        EditSpec("straighten", "degrees", -15, 15, 1, (-12, -8, -5, -2, 2, 5, 8, 12)),
        # Half the width: the working copy of 640 pixels then still has the scored side of 320.
        EditSpec("crop", "%", 0, 50, 5, (10, 20, 30, 40, 50)),
        # The exposure dial of phones: two stops each way (EXIF's ExposureBiasValue is mostly within).
        EditSpec("brightness", "stops", -2, 2, 0.25, (-2, -1, -0.5, 0.5, 1, 2)),
        EditSpec("highlights", "%", -100, 100, 10, (-100, -50, 50, 100)),
        EditSpec("shadows", "%", -100, 100, 10, (-100, -50, 50, 100)),
        # The change of the slope at the photo's mean: at most half as steep again. More posterises.
        EditSpec("contrast", "%", -30, 50, 5, (-30, -15, 15, 30, 50)),
        EditSpec("warmth", "%", -100, 100, 10, (-100, -60, -30, 30, 60, 100)),
        # 100 %: detail twice as strong. Softening is excluded: it hides skin, which scorers like and people notice.
        EditSpec("sharpness", "%", 0, 100, 10, (30, 60, 100)),
    )
}


def apply_edits(pixels: np.ndarray, values: Mapping[EditName, float], face: Box | None = None) -> EditedPhoto:
    """Apply several edits, in the order of `EditName`.

    Args:
        pixels: Pixels, uint8 ``[h, w, 3]``.
        values: Values by edit; a missing edit counts as 0.
        face: Box of the face, which the crop needs.

    Returns:
        The edited pixels, and the box of the face on them.

    Raises:
        ValueError: An edit is unknown, a value is out of range, or a crop has no face.
    """
    if unknown := sorted(set(values) - set(EDITS)):
        raise ValueError(f"expected edits of {list(EDITS)}, got {unknown[0]!r}")
    photo = EditedPhoto(pixels, face)
    for key in get_args(EditName):
        value, edit = values.get(key, 0), EDITS[key]
        if not edit.low <= value <= edit.high:
            raise ValueError(f"{key} must be from {edit.low:g} to {edit.high:g} {edit.unit}, got {value:g}")
        if value:
            photo = _apply_edit(photo, key, value)
    return photo


def _apply_edit(photo: EditedPhoto, key: EditName, value: float) -> EditedPhoto:
    pixels, face = photo
    match key:
        case "straighten":
            height, width = pixels.shape[:2]
            return EditedPhoto(straighten(pixels, value), face and turn_box(face, value, width, height))
        case "crop":
            if face is None:
                raise ValueError("a crop needs the box of the face that it goes toward, got none")
            frame = crop_frame(value, face)
            return EditedPhoto(crop(pixels, frame), box_in_frame(face, frame))
        case "brightness":
            return EditedPhoto(brighten(pixels, value), face)
        case "highlights":
            return EditedPhoto(highlights(pixels, value), face)
        case "shadows":
            return EditedPhoto(shadows(pixels, value), face)
        case "contrast":
            return EditedPhoto(contrast(pixels, value), face)
        case "warmth":
            return EditedPhoto(warm(pixels, value), face)
        case "sharpness":
            return EditedPhoto(sharpen(pixels, value), face)


# Light and colour


def brighten(pixels: np.ndarray, stops: float) -> np.ndarray:
    """Multiply the light by ``2 ** stops``, as a camera's exposure does; values above white become white."""
    if not stops:
        return pixels
    return cv2.LUT(pixels, _to_levels(_to_srgb(np.minimum(_linear_light() * 2.0**stops, 1))))


def highlights(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Brighten (or, below 0, darken) the brighter half of the luma; mid-grey, white and the colours stay."""
    return _apply_luma_curve(pixels, _half_range_curve(percent, 0.5)) if percent else pixels


def shadows(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Brighten (or, below 0, darken) the darker half of the luma; black, mid-grey and the colours stay."""
    return _apply_luma_curve(pixels, _half_range_curve(percent, 0.0)) if percent else pixels


def contrast(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Apply an S-shaped curve to the luma, ``percent`` steeper (below 0: flatter) at the photo's mean.

    Black, white and the mean stay where they are, so nothing is clipped and the photo as a whole gets no brighter.
    """
    if not percent:
        return pixels
    slope, value = 1 + percent / 100, np.arange(256) / 255
    middle = float(np.clip(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean() / 255, 0.05, 0.95))
    below = middle * np.minimum(value / middle, 1) ** slope
    above = 1 - (1 - middle) * np.minimum((1 - value) / (1 - middle), 1) ** slope
    return _apply_luma_curve(pixels, np.where(value < middle, below, above))


def warm(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Change the white balance along daylight: warmer (more red, less blue) or, below 0, cooler; luminance stays."""
    if not percent:
        return pixels
    stops = np.array([_RED_STOPS_PER_MIRED, 0, _BLUE_STOPS_PER_MIRED]) * _MIREDS_PER_PERCENT * percent
    gains = 2.0**stops / np.dot(_LUMINANCE, 2.0**stops)
    linear = np.minimum(_linear_light()[:, None] * gains, 1)
    return cv2.LUT(pixels, _to_levels(_to_srgb(linear))[None])


def sharpen(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Add ``percent`` of the luma's fine detail (an unsharp mask); colours get no fringes."""
    if not percent:
        return pixels
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = luma - cv2.GaussianBlur(luma, (0, 0), _RADIUS * min(luma.shape))
    return _add_levels(pixels, np.rint(detail * (percent / 100)).astype(np.int16))


def _apply_luma_curve(pixels: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Apply a curve of 256 values, 0..1, to the luma."""
    change = _to_levels(curve).astype(np.int16) - np.arange(256, dtype=np.int16)
    return _add_levels(pixels, change[cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)])


def _add_levels(pixels: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Add a change, int16 ``[h, w]`` levels, to red, green and blue alike, clipped to 0..255.

    The differences between the colours stay.
    """
    increase, decrease = np.maximum(change, 0).astype(np.uint8), np.maximum(-change, 0).astype(np.uint8)
    # Both operations saturate at 0 and 255.
    return cv2.subtract(cv2.add(pixels, cv2.merge([increase] * 3)), cv2.merge([decrease] * 3))


def _half_range_curve(percent: float, start: float) -> np.ndarray:
    """Return a curve that is shifted smoothly in the half of the range from ``start``, most in the middle of that half.

    Its slope is at least ``1 - 2 π _TONE``, above 0, so that brighter stays brighter.
    """
    value = np.arange(256) / 255
    inside = (value >= start) & (value <= start + 0.5)
    return value + _MAX_TONE_SHIFT * percent / 100 * inside * np.sin(2 * np.pi * (value - start)) ** 2


@lru_cache(maxsize=1)
def _linear_light() -> np.ndarray:
    """Return the linear light of the 256 levels, 0..1."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _to_srgb(light: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB values, both 0..1."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_levels(values: np.ndarray) -> np.ndarray:
    """Convert values 0..1 to a table of uint8 levels."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


# Frame


def straighten(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the photo clockwise about its middle.

    The result is the largest upright rectangle of the photo's shape without blank corners.
    """
    if not degrees:
        return pixels
    height, width = pixels.shape[:2]
    fraction = fraction_kept(degrees, width, height)
    size = (max(1, int(fraction * width)), max(1, int(fraction * height)))
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    to_source = np.array([[cosine, sine], [-sine, cosine]])  # image coordinates, y down
    start = np.array([width - 1, height - 1]) / 2 - to_source @ (np.array(size) - 1) / 2
    matrix = np.column_stack([to_source, start])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def fraction_kept(degrees: float, width: float, height: float) -> float:
    """Return the fraction of width and height that `straighten` keeps.

    >>> kept_by_turning(0, 3, 4)
    1.0
    """
    cosine, sine = math.cos(math.radians(degrees)), abs(math.sin(math.radians(degrees)))
    return min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))


def turn_box(box: Box, degrees: float, width: float, height: float) -> Box:
    """Return the box after `straighten`: its middle is turned, and its size in pixels stays.

    Args:
        box: Box on the photo before.
        degrees: Clockwise turn.
        width: Width of the photo before, in any unit.
        height: Height of the photo before, in the same unit.
    """
    fraction = fraction_kept(degrees, width, height)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (box.x + box.width / 2 - 0.5) * width, (box.y + box.height / 2 - 0.5) * height
    x, y = cosine * x - sine * y, sine * x + cosine * y
    turned_width, turned_height = box.width / fraction, box.height / fraction
    return Box(
        x / width / fraction + 0.5 - turned_width / 2,
        y / height / fraction + 0.5 - turned_height / 2,
        turned_width,
        turned_height,
    )


def crop(pixels: np.ndarray, frame: Box) -> np.ndarray:
    """Cut out the part of a photo that a frame shows."""
    height, width = pixels.shape[:2]
    left, top = round(frame.x * width), round(frame.y * height)
    frame_width, frame_height = max(1, round(frame.width * width)), max(1, round(frame.height * height))
    return np.ascontiguousarray(pixels[top : top + frame_height, left : left + frame_width])


def clip_box(box: Box) -> Box:
    """Clip a box to the photo."""
    left, right = np.clip([box.x, box.x + box.width], 0, 1).tolist()
    top, bottom = np.clip([box.y, box.y + box.height], 0, 1).tolist()
    return Box(left, top, right - left, bottom - top)


def head_box(face: Box) -> Box:
    """Return the box of the head around a face, with hair, ears and neck, clipped to the photo."""
    side, above, below = _HEAD_MARGINS
    left, top = face.x - side * face.width, face.y - above * face.height
    return clip_box(Box(left, top, (1 + 2 * side) * face.width, (1 + above + below) * face.height))


def max_crop_percent(face: Box) -> float:
    """Return the strongest crop, in percent, that still shows the full head; 0 if the head fills the photo.

    >>> round(closest(Box(0.4, 0.4, 0.2, 0.2)))
    61
    """
    _, _, width, height = head_box(face)
    return 100 * (1 - min(1.0, max(width, height)))


def crop_frame(percent: float, face: Box) -> Box:
    """Return the frame of a crop that is ``percent`` narrower and lower, with the photo's shape.

    The frame lies within the photo and contains the full head. It brings the head's middle as near as possible to its
    position in good portraits.

    Args:
        percent: Percent of the width and of the height that are cut off.
        face: Box of the face.

    Returns:
        The frame as a box within the photo.

    Raises:
        ValueError: The crop would cut the head; the message gives the strongest crop that does not.
    """
    if percent > max_crop_percent(face) + 1e-6:
        raise ValueError(
            f"a crop of {percent:g} % would cut the head; at most {max_crop_percent(face):.1f} % keep it whole"
        )
    fraction, (x, y, width, height) = 1 - percent / 100, head_box(face)
    corner = []
    for start, length, target in ((x, width, _HEAD_POSITION[0]), (y, height, _HEAD_POSITION[1])):
        position = start + length / 2 - target * fraction
        position = min(max(position, start + length - fraction), start)  # keeps the full head
        corner.append(min(max(position, 0.0), 1 - fraction))
    left, top = corner
    return Box(left, top, fraction, fraction)


def box_in_frame(box: Box, frame: Box) -> Box:
    """Convert a box of the photo to a box of the part that a frame shows."""
    left, top = (box.x - frame.x) / frame.width, (box.y - frame.y) / frame.height
    return Box(left, top, box.width / frame.width, box.height / frame.height)
