"""Image resizing, by SIMD instructions where fast_image_resize has a wheel, otherwise by Pillow.

Resizing takes most of a photo's time. fast_image_resize (Rust, through cykooz-resizer) uses Pillow's filters, is nine
times as fast as Pillow and releases the GIL. Linux on ARM has no wheel; Pillow resizes there.

In 8 bits the rounding differs from Pillow's: 3 of 1,000 samples of real portraits by 1 of 255, hardly any by 2. The
result is the same for all vector instruction sets. In 32 bits it equals Pillow's to the last bits. Scores of a real
scorer differ by .003 between the two (root mean square over 60 portraits, .01 at most). One step of JPEG quality moves
scores four times as much.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

_REDUCING_GAP = (
    3.0  # Pillow's reducing_gap: above this factor a box filter runs first; no visible difference (Pillow docs)
)
_STRIP_PIXELS = 2**20  # pixels of a strip: 4 MB, which still fits the processor's caches


def _options(filter_name: str, **options: object) -> "simd.ResizeOptions":
    return simd.ResizeOptions(simd.ResizeAlg.convolution(simd.FilterType[filter_name]), use_alpha=False, **options)


def strips(image: Image.Image, multiple_of: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Split an image from top to bottom into full-width strips of some megabytes each.

    Args:
        image: Image of any mode.
        multiple_of: Divisor of the strip height; only the last strip may have another height.

    Yields:
        The first row of the strip, and the strip.
    """
    width, height = image.size
    strip_rows = max(1, _STRIP_PIXELS // width // multiple_of) * multiple_of
    for top in range(0, height, strip_rows):
        yield top, image.crop((0, top, width, min(top + strip_rows, height)))


def shrink(
    image: Image.Image, size: tuple[int, int], convert: Callable[[Image.Image], Image.Image] = lambda strip: strip
) -> Image.Image:
    """Scale an image down with the Lanczos filter (three lobes).

    The image is scaled strip by strip, so no other image of its full size is ever in memory. The result is
    bit-identical to scaling it at once.

    Args:
        image: Image of any mode that ``convert`` accepts.
        size: Width and height of the result, at least 1 each.
        convert: Function that converts a strip to mode L, RGB or CMYK.

    Returns:
        The scaled image, of the mode that ``convert`` returns.
    """
    x_factor, y_factor = (
        max(1, int(old / target / _REDUCING_GAP)) for old, target in zip(image.size, size, strict=True)
    )
    narrowed = None
    # Pillow's order, horizontal before vertical: Lanczos overshoot is clipped between the two.
    for top, strip in strips(image, y_factor):
        strip = convert(strip)
        reduced = strip.reduce((x_factor, y_factor)) if x_factor > 1 or y_factor > 1 else strip
        if narrowed is None:
            narrowed = Image.new(reduced.mode, (size[0], -(-image.height // y_factor)))
        narrowed.paste(
            _lanczos(reduced, (size[0], reduced.height), image.width / x_factor, reduced.height), (0, top // y_factor)
        )
    assert narrowed is not None  # an image has at least one strip
    return _lanczos(narrowed, size, size[0], image.height / y_factor)


def _lanczos(image: Image.Image, size: tuple[int, int], width: float, height: float) -> Image.Image:
    """Resize the upper left ``width`` × ``height`` pixels of an image to ``size``, with the Lanczos filter."""
    if simd is None:
        return image.resize(size, Image.Resampling.LANCZOS, box=(0, 0, width, height))
    result = Image.new(image.mode, size)
    simd.Resizer().resize_pil(image, result, _options("lanczos3", crop_box=simd.CropBox(0, 0, width, height)))
    return result


def resize_and_center_crop(image: Image.Image, scale: int, crop: int) -> np.ndarray:
    """Resize an image to a square and return its centre, with a triangle filter as wide as one output pixel.

    Args:
        image: RGB image.
        scale: Side of the square, pixels.
        crop: Side of the centre crop, pixels. If the margin is odd, the larger part is at the right and the bottom.

    Returns:
        float32 ``[crop, crop, 3]``, 0..255, not rounded.
    """
    margin = (scale - crop) // 2
    if simd is None:
        box = (margin, margin, margin + crop, margin + crop)
        channels = (channel.convert("F") for channel in image.split())
        squares = (channel.resize((scale, scale), Image.Resampling.BILINEAR) for channel in channels)
        return np.stack([np.asarray(square.crop(box)) for square in squares], -1)
    intervals = []
    for length in image.size:
        start = margin * length / scale
        intervals.append((start, min(crop * length / scale, length - start)))  # rounding must not pass the edge
    (left, width), (top, height) = intervals
    box = simd.CropBox(left, top, width, height)
    pixel_type = simd.PixelType.F32x3
    source = simd.ImageData(*image.size, pixel_type, np.asarray(image, "float32").tobytes())
    result = simd.ImageData(crop, crop, pixel_type)
    simd.Resizer().resize(source, result, _options("bilinear", crop_box=box))
    return np.frombuffer(result.get_buffer(), "float32").reshape(crop, crop, 3)
