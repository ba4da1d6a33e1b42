"""Images of heat maps and pixels for people.

Colours are matplotlib's ``viridis``, whose brightness rises with the value, and ``PuOr``, from purple to orange. Both
can be read with any kind of colour vision. Under a map the photo is grey, so all colour belongs to the map. The tables
come from OpenCV and ColorBrewer, because matplotlib is too large for a server.
"""

import io
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

_PUOR = (  # from purple to orange, evenly spaced (https://colorbrewer2.org, Apache License 2.0)
    (45, 0, 75), (84, 39, 136), (128, 115, 172), (178, 171, 210), (216, 218, 235), (247, 247, 247),
    (254, 224, 182), (253, 184, 99), (224, 130, 20), (179, 88, 6), (127, 59, 8),
)  # fmt: skip
_OPACITY = 0.55  # opacity of a heat map: the photo shows through
_MAX_SIGNED_OPACITY = 0.8  # opacity where a signed map is largest; it is 0 where the map is 0
_MARGIN_BRIGHTNESS = 0.5  # brightness of the margin that the network does not see
_WHITE_PERCENTILE = (
    99.5  # percentile of a gradient's size that is drawn white: a few extreme pixels would hide the rest
)
_QUALITY = 90
_TABLE_SIZE = 256  # size of a colour table

_HEAT_TABLE = (
    cv2.applyColorMap(np.arange(_TABLE_SIZE, dtype=np.uint8), cv2.COLORMAP_VIRIDIS)
    .reshape(-1, 3)[:, ::-1]
    .astype(float)
)
_TABLE_POSITIONS = np.linspace(0, len(_PUOR) - 1, _TABLE_SIZE)
_GAINS_TABLE = np.stack(
    [np.interp(_TABLE_POSITIONS, range(len(_PUOR)), channel) for channel in zip(*_PUOR, strict=True)], -1
)


def overlay(
    photo: bytes,
    heatmap: npt.ArrayLike,
    *,
    visible_fraction: float = 1.0,
    max_value: float | None = None,
    signed: bool = False,
    image_format: Literal["JPEG", "PNG"] = "JPEG",
) -> bytes:
    """Draw a map on the photo, stretched over the part of the photo that the network sees; the margin is darkened.

    The network reads the middle of the photo resized to a square, so its map is a square too. Here the map is stretched
    back to the photo's own width and height.

    Args:
        photo: Encoded, upright photo.
        heatmap: Map, float ``[h, w]``, 0 or more, or of either sign if ``signed``.
        visible_fraction: Fraction of the photo's width and height that the network sees, 0..1
            (``TrainedScorer.visible_fraction``).
        max_value: Absolute value that gets the strongest colour; by default the map's own maximum. Maps can only be
            compared if they are drawn with the same value. A map of zeros gets the weakest colour.
        signed: True draws values above 0 orange, values below 0 purple, and 0 without colour.
        image_format: File format of the result.

    Returns:
        An image as large as the photo.

    Raises:
        ValueError: The map is not ``[h, w]``.
        PIL.UnidentifiedImageError: The bytes are no photo.
    """
    values = np.asarray(heatmap, "float32")
    if values.ndim != 2:
        raise ValueError(f"expected a map [h, w], got shape {values.shape}: draw one map at a time")
    with Image.open(io.BytesIO(photo)) as opened:
        grey = np.asarray(opened.convert("L"), "float32")[..., None].repeat(3, axis=2)
    max_value = np.abs(values).max() if max_value is None else max_value
    middle = _visible_slices(grey.shape, visible_fraction)
    height, width = grey[middle].shape[:2]
    smooth = Image.fromarray(values / (max_value or 1)).resize((width, height), Image.Resampling.BICUBIC)
    clipped = np.asarray(smooth).clip(-1 if signed else 0, 1)
    colours = _apply_table((clipped + 1) / 2, _GAINS_TABLE) if signed else _apply_table(clipped, _HEAT_TABLE)
    opacity = _MAX_SIGNED_OPACITY * np.abs(clipped)[..., None] if signed else _OPACITY
    blended = _MARGIN_BRIGHTNESS * grey
    blended[middle] = (1 - opacity) * grey[middle] + opacity * colours
    return _encode_image(blended, image_format, None, **({"quality": _QUALITY} if image_format == "JPEG" else {}))


def pixels_png(pixels: npt.ArrayLike, size: tuple[int, int] | None = None) -> bytes:
    """Return pixels, as the network reads them, as a PNG.

    Args:
        pixels: Pixels ``[h, w, 3]``, 0..255.
        size: Width and height to resize to, e.g. the photo's own; None keeps the size.
    """
    return _encode_image(np.asarray(pixels), "PNG", size)


def gradient_png(gradient: npt.ArrayLike, size: tuple[int, int] | None = None) -> bytes:
    """Return the absolute gradient by the pixels, black to white, as a PNG.

    Args:
        gradient: Gradient ``[h, w, 3]``; the largest of the three colours is drawn.
        size: Width and height to resize to; None keeps the size.
    """
    strength = np.abs(gradient).max(axis=-1)
    white = np.percentile(strength, _WHITE_PERCENTILE) or 1
    return _encode_image((255 * strength / white)[..., None].repeat(3, axis=2), "PNG", size)


def difference_png(
    before: npt.ArrayLike, after: npt.ArrayLike, amplification: float, size: tuple[int, int] | None = None
) -> bytes:
    """Return the difference of two images, amplified, around middle grey, as a PNG.

    Args:
        before: Pixels ``[h, w, 3]``, 0..255.
        after: Changed pixels ``[h, w, 3]``, 0..255.
        amplification: Amplification of the difference.
        size: Width and height to resize to; None keeps the size.
    """
    return _encode_image(128 + amplification * (np.asarray(after) - np.asarray(before)), "PNG", size)


def _apply_table(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the colours 0..255 ``[…, 3]`` of values 0..1, by the table entry that each value falls in."""
    return table[np.minimum((values * _TABLE_SIZE).astype(int), _TABLE_SIZE - 1)]


def _visible_slices(shape: tuple[int, ...], fraction: float) -> tuple[slice, slice]:
    """Return the slices of the middle of a photo, by a fraction of its height and width; at least one pixel."""
    height, width = shape[:2]
    top, left = (min(round(side * (1 - fraction) / 2), (side - 1) // 2) for side in (height, width))
    return slice(top, height - top), slice(left, width - left)


def _encode_image(pixels: np.ndarray, form: str, size: tuple[int, int] | None = None, **options: int) -> bytes:
    image = Image.fromarray(pixels.round().clip(0, 255).astype("uint8"))
    data = io.BytesIO()
    (image.resize(size, Image.Resampling.BICUBIC) if size else image).save(data, form, **options)
    return data.getvalue()
