"""Maps and pixels as pictures that people can read.

Colours are matplotlib's ``viridis``, whose brightness rises with the value, and ``PuOr``, from purple to orange: both
are told apart with any kind of colour vision. Under a map the photo is grey, so that all colour is the map's. The
tables are OpenCV's and ColorBrewer's own, for matplotlib is a burden on a server.
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
_OPACITY = 0.55  # of a heat map: the photo shows through
_STRONGEST = 0.8  # opacity where a signed map is largest; where it is nothing, so is its colour
_UNSEEN = 0.5  # brightness of what the network does not see
_OUTLIERS = 99.5  # percentile of a gradient's size that is drawn white: single pixels would hide the rest
_QUALITY = 90
_STEPS = 256  # of a colour table

_HEAT = cv2.applyColorMap(np.arange(_STEPS, dtype=np.uint8), cv2.COLORMAP_VIRIDIS).reshape(-1, 3)[:, ::-1].astype(float)
_PLACES = np.linspace(0, len(_PUOR) - 1, _STEPS)
_GAINS = np.stack([np.interp(_PLACES, range(len(_PUOR)), channel) for channel in zip(*_PUOR, strict=True)], -1)


def overlay(
    photo: bytes,
    heatmap: npt.ArrayLike,
    *,
    seen: float = 1.0,
    largest: float | None = None,
    signed: bool = False,
    form: Literal["JPEG", "PNG"] = "JPEG",
) -> bytes:
    """Draw a map on the photo, stretched over the part of it that the network sees; the rest is darkened.

    The network reads the middle of the photo scaled to a square, so its map is a square too; here it is brought back
    to the photo's own width and height.

    Args:
        photo: encoded and upright.
        heatmap: float ``[h, w]``, from 0 on, or of either sign where ``signed``.
        seen: share of the photo's width and height that the network sees, 0..1 (``Bundle.seen``).
        largest: size of a value that gets the strongest colour; by default the map's own largest, so that maps are
            only to be compared when they are given the same. A map of zeros gets the weakest colour.
        signed: orange for values above 0, purple for those below, none at 0.
        form: of the result.

    Returns:
        A picture as large as the photo.

    Raises:
        ValueError: the map is not ``[h, w]``.
        PIL.UnidentifiedImageError: the bytes are no photo.
    """
    values = np.asarray(heatmap, "float32")
    if values.ndim != 2:
        raise ValueError(f"expected a map [h, w], got shape {values.shape}: draw one map at a time")
    with Image.open(io.BytesIO(photo)) as opened:
        grey = np.asarray(opened.convert("L"), "float32")[..., None].repeat(3, axis=2)
    largest = np.abs(values).max() if largest is None else largest
    part = _middle(grey.shape, seen)
    height, width = grey[part].shape[:2]
    smooth = Image.fromarray(values / (largest or 1)).resize((width, height), Image.Resampling.BICUBIC)
    shown = np.asarray(smooth).clip(-1 if signed else 0, 1)
    colours = _coloured((shown + 1) / 2, _GAINS) if signed else _coloured(shown, _HEAT)
    opacity = _STRONGEST * np.abs(shown)[..., None] if signed else _OPACITY
    drawn = _UNSEEN * grey
    drawn[part] = (1 - opacity) * grey[part] + opacity * colours
    return _encoded(drawn, form, **({"quality": _QUALITY} if form == "JPEG" else {}))


def picture(pixels: npt.ArrayLike, size: tuple[int, int] | None = None) -> bytes:
    """Pixels as the network reads them, as a PNG.

    Args:
        pixels: ``[h, w, 3]``, 0..255.
        size: width and height to stretch them to, such as the photo's own; by default they stay.
    """
    return _encoded(np.asarray(pixels), "PNG", size)


def details(gradient: npt.ArrayLike, size: tuple[int, int] | None = None) -> bytes:
    """The size of a gradient by the pixels, black to white, as a PNG.

    Args:
        gradient: ``[h, w, 3]``; the largest of the three colours is drawn.
        size: as for `picture`.
    """
    strength = np.abs(gradient).max(axis=-1)
    white = np.percentile(strength, _OUTLIERS) or 1
    return _encoded((255 * strength / white)[..., None].repeat(3, axis=2), "PNG", size)


def change(before: npt.ArrayLike, after: npt.ArrayLike, times: float, size: tuple[int, int] | None = None) -> bytes:
    """What was changed, several times as strong and around middle grey, as a PNG.

    Args:
        before: ``[h, w, 3]``, 0..255.
        after: the same.
        times: how much stronger.
        size: as for `picture`.
    """
    return _encoded(128 + times * (np.asarray(after) - np.asarray(before)), "PNG", size)


def _coloured(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Colours 0..255 ``[…, 3]`` of values 0..1, each that of the step it falls in."""
    return table[np.minimum((values * _STEPS).astype(int), _STEPS - 1)]


def _middle(shape: tuple[int, ...], seen: float) -> tuple[slice, slice]:
    """The middle of a photo, by this share of its height and width, at least one pixel."""
    margins = [min(round(side * (1 - seen) / 2), (side - 1) // 2) for side in shape[:2]]
    return tuple(slice(margin, side - margin) for margin, side in zip(margins, shape, strict=False))


def _encoded(pixels: np.ndarray, form: str, size: tuple[int, int] | None = None, **options: int) -> bytes:
    image = Image.fromarray(pixels.round().clip(0, 255).astype("uint8"))
    data = io.BytesIO()
    (image.resize(size, Image.Resampling.BICUBIC) if size else image).save(data, form, **options)
    return data.getvalue()
