"""Photos scaled down: the work that takes most of a photo's time, by vector instructions where there is a wheel.

fast_image_resize (Rust, through cykooz-resizer) convolves with Pillow's own filters, nine times as fast as Pillow, and
without Python's lock. In 8 bits it rounds otherwise than Pillow: 3 of 1,000 samples of real portraits by 1 of 255,
hardly any by 2, and the same ones whatever vector instructions a processor has. In 32 bits it is Pillow to the last
bits. Linux on ARM has no wheel of it, and Pillow scales there. Between the two, scores of a real scorer differ by .003
(root mean square of 60 portraits, .01 at most): a quarter of what one step of the JPEG's quality moves them.
"""

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

_GAP = 3.0  # Pillow's reducing_gap: above this factor a box filter goes first; no visible difference (its docs)


def _options(name: str, **more: object) -> "simd.ResizeOptions":
    return simd.ResizeOptions(simd.ResizeAlg.convolution(simd.FilterType[name]), use_alpha=False, **more)


def shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture scaled down by Lanczos' filter (of three lobes).

    Args:
        image: of mode L, RGB or CMYK.
        size: width and height of the result, at least 1 each.

    Returns:
        The picture, of the same mode.
    """
    if simd is None:
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=_GAP)
    across, down = (max(1, int(was / new / _GAP)) for was, new in zip(image.size, size, strict=True))
    image.load()
    reduced = image.reduce((across, down)) if across > 1 or down > 1 else image
    # In Pillow's order, first across, then down: what overshoots is cut off between the two.
    half, result = Image.new(image.mode, (size[0], reduced.height)), Image.new(image.mode, size)
    box = simd.CropBox(0, 0, image.width / across, reduced.height)
    simd.Resizer().resize_pil(reduced, half, _options("lanczos3", crop_box=box))
    box = simd.CropBox(0, 0, size[0], image.height / down)
    simd.Resizer().resize_pil(half, result, _options("lanczos3", crop_box=box))
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
