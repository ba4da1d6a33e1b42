"""Photos scaled down: the work that takes most of a photo's time, by vector instructions where there is a wheel.

fast_image_resize (Rust, through cykooz-resizer) convolves with Pillow's own filters, nine times as fast as Pillow, and
without Python's lock. In 8 bits it rounds otherwise than Pillow: 3 of 1,000 samples of real portraits by 1 of 255,
hardly any by 2, and the same ones whatever vector instructions a processor has. In 32 bits it is Pillow to the last
bits. Linux on ARM has no wheel of it, and Pillow scales there. Between the two, scores of a real scorer differ by .003
(root mean square of 60 portraits, .01 at most): a quarter of what one step of the JPEG's quality moves them.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

_GAP = 3.0  # Pillow's reducing_gap: above this factor a box filter goes first; no visible difference (its docs)
_STRIP = 2**20  # pixels of a strip: 4 MB, in which a processor's caches still help


def _options(name: str, **more: object) -> "simd.ResizeOptions":
    return simd.ResizeOptions(simd.ResizeAlg.convolution(simd.FilterType[name]), use_alpha=False, **more)


def strips(image: Image.Image, rows: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Pieces of a picture as wide as it, from its top to its bottom, of some megabytes each.

    Args:
        image: of any mode.
        rows: the height of a piece is a multiple of it.

    Yields:
        The row at which a piece begins, and the piece.
    """
    width, height = image.size
    step = max(1, _STRIP // width // rows) * rows
    for top in range(0, height, step):
        yield top, image.crop((0, top, width, min(top + step, height)))


def shrink(
    image: Image.Image, size: tuple[int, int], plain: Callable[[Image.Image], Image.Image] = lambda strip: strip
) -> Image.Image:
    """A picture scaled down by Lanczos' filter (of three lobes).

    It is scaled strip by strip, to the bit as it would be whole, so that nothing else of its size is ever in memory.

    Args:
        image: of any mode that ``plain`` takes.
        size: width and height of the result, at least 1 each.
        plain: makes mode L, RGB or CMYK of a strip.

    Returns:
        The picture, of the mode that ``plain`` makes.
    """
    across, down = (max(1, int(was / new / _GAP)) for was, new in zip(image.size, size, strict=True))
    half = None
    # In Pillow's order, first across, then down: what overshoots is cut off between the two.
    for top, strip in strips(image, down):
        strip = plain(strip)
        reduced = strip.reduce((across, down)) if across > 1 or down > 1 else strip
        if half is None:
            half = Image.new(reduced.mode, (size[0], -(-image.height // down)))
        half.paste(_scaled(reduced, (size[0], reduced.height), image.width / across, reduced.height), (0, top // down))
    return _scaled(half, size, size[0], image.height / down)


def _scaled(image: Image.Image, size: tuple[int, int], width: float, height: float) -> Image.Image:
    """The upper left part of a picture, of this width and height, at another size."""
    if simd is None:
        return image.resize(size, Image.Resampling.LANCZOS, box=(0, 0, width, height))
    result = Image.new(image.mode, size)
    simd.Resizer().resize_pil(image, result, _options("lanczos3", crop_box=simd.CropBox(0, 0, width, height)))
    return result


def middle(image: Image.Image, scale: int, crop: int) -> np.ndarray:
    """The middle of a picture that is scaled to a square by a triangle as wide as a pixel of the result.

    Args:
        image: of mode RGB.
        scale: side of the square.
        crop: side of its middle that is kept; of an odd margin the larger part is at the right and at the bottom.

    Returns:
        float32 ``[crop, crop, 3]``, 0..255, not rounded.
    """
    margin = (scale - crop) // 2
    if simd is None:
        box = (margin, margin, margin + crop, margin + crop)
        channels = (channel.convert("F") for channel in image.split())
        squares = (channel.resize((scale, scale), Image.Resampling.BILINEAR) for channel in channels)
        return np.stack([np.asarray(square.crop(box)) for square in squares], -1)
    sides = []
    for side in image.size:
        start = margin * side / scale
        sides.append((start, min(crop * side / scale, side - start)))  # not beyond the edge by rounding
    (left, width), (top, height) = sides
    box = simd.CropBox(left, top, width, height)
    kind = simd.PixelType.F32x3
    source = simd.ImageData(*image.size, kind, np.asarray(image, "float32").tobytes())
    result = simd.ImageData(crop, crop, kind)
    simd.Resizer().resize(source, result, _options("bilinear", crop_box=box))
    return np.frombuffer(result.get_buffer(), "float32").reshape(crop, crop, 3)
