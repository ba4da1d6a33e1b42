"""A photo in any common format becomes an upright 8-bit sRGB picture of bounded size.

Ingestion, scoring from the command line and the server read photos through this module, so the same bytes give
the same pixels in all of them. Decoding is done by Pillow, HEIC by libheif through pillow-heif, colour
profiles by LittleCMS; `scaling` scales.
"""

import warnings
from functools import lru_cache
from io import BytesIO
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms

from components.scorer import scaling
from components.scorer.settings import Ingestion

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "GIF", "TIFF", "BMP")
"""Pillow's names of the formats that are read; what else it can open is of no use here and a larger target."""

LONGEST_SIDE = 65_500
"""Pixels: the longest side that libjpeg writes (JPEG_MAX_DIMENSION)."""

_SCANS = 100  # of a JPEG: progressive ones have some ten; each may cost as much as decoding the whole photo again
_DRAFT = 1.5  # times the size to come: JPEGs scaled while decoding then differ from the full decode by 48-57 dB
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space, as Pillow's mode
_TRANSPOSES = {  # what sets a photo with this EXIF orientation upright (CIPA DC-008, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

pillow_heif.register_heif_opener()
# What Pillow warns of is judged here, photo by photo (its error at twice the pixels stays, as a second wall), or
# is broken metadata, which spoils no pixel.
for _category in (Image.DecompressionBombWarning, UserWarning):
    warnings.filterwarnings("ignore", category=_category, module="PIL")


class Unusable(ValueError):
    """Bytes that do not become a photo.

    Attributes:
        reason: ``"unreadable"``, ``"bomb"`` (too many pixels) or ``"too small"``.
        detail: what was expected and what came.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keeps both as the exception's arguments, so that it can be pickled."""
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        """Reason and detail in one line."""
        return f"{self.reason}: {self.detail}"


class Photo(NamedTuple):
    """A decoded photo.

    Attributes:
        image: upright 8-bit sRGB (mode RGB) without metadata, shrunk as the settings ask.
        width: pixels of the upright original.
        height: pixels of the upright original.
    """

    image: Image.Image
    width: int
    height: int


def is_photo(name: str) -> bool:
    """Whether a path below an address ends as one of `FORMATS` does, and nothing of it is hidden."""
    visible = not any(part.startswith(".") for part in name.split("/"))
    return visible and Image.registered_extensions().get(PurePosixPath(name).suffix.lower()) in FORMATS


def decode(data: bytes, settings: Ingestion) -> Photo:
    """Decode a photo, set it upright, bring it to sRGB and shrink it; it is never enlarged.

    Transparency is laid over white, as a web page would show it. Of an animation the first frame is taken.
    16-bit samples keep their higher byte. An embedded colour profile is applied, a broken one ignored, as is
    broken EXIF. JPEGs of several times the size are scaled while they are decoded.

    Args:
        data: an encoded photo in one of `FORMATS`.
        settings: ``shorter_side``, ``minimum_side`` and ``maximum_pixels`` are read.

    Returns:
        The photo and the size that it had.

    Raises:
        Unusable: the bytes are no photo in one of `FORMATS`, or are cut off or damaged; the header tells of more
            than ``maximum_pixels`` (no pixel is decoded then), or of a side below ``minimum_side``.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > _SCANS:
                raise Unusable("bomb", f"expected at most {_SCANS} scans of a JPEG, got {scans}")
            return _decoded(image, settings)
    except Unusable:
        raise
    except Image.UnidentifiedImageError:
        raise Unusable("unreadable", _unidentified(data)) from None
    except Image.DecompressionBombError as error:
        raise Unusable("bomb", str(error)) from None
    except Exception as error:  # on damaged files the decoders raise nearly anything, from KeyError to SyntaxError
        raise Unusable("unreadable", f"cut off or damaged: {type(error).__name__}: {error}") from error


def upright(data: bytes, settings: Ingestion) -> Image.Image:
    """The upright 8-bit sRGB picture of a photo, shorter side at most ``settings.shorter_side``; see `decode`."""
    return decode(data, settings).image


def encode(image: Image.Image, settings: Ingestion) -> bytes:
    """A picture as a JPEG of ``settings.jpeg_quality``; the same picture gives the same bytes."""
    stream = BytesIO()
    image.save(stream, "JPEG", quality=settings.jpeg_quality)
    return stream.getvalue()


def normalise(data: bytes, settings: Ingestion) -> bytes:
    """A photo in any format as an upright sRGB JPEG without metadata (position, camera, thumbnail); see `decode`."""
    return encode(upright(data, settings), settings)


def _unidentified(data: bytes) -> str:
    if not data:
        return "expected a photo, got an empty file"
    return f"expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {len(data)} bytes that begin with {data[:8]!r}"


def _decoded(image: Image.Image, settings: Ingestion) -> Photo:
    _check(image, settings)
    width, height = image.size
    size = _shrunk(width, height, settings.shorter_side)
    if image.format in (
        "JPEG",
        "MPO",
    ):  # pillow-heif's draft takes the embedded thumbnail, which may be another picture
        image.draft(None, (round(size[0] * _DRAFT), round(size[1] * _DRAFT)))
    image.load()
    profile, orientation = image.info.get("icc_profile"), _orientation(image)
    photo = _opaque(image)
    if photo.size != size:
        photo = scaling.shrink(photo, size)
    photo = _srgb(photo, profile)
    if orientation in _TRANSPOSES:
        photo = photo.transpose(_TRANSPOSES[orientation])
        if orientation >= 5:
            width, height = height, width
    photo.info = {}  # Pillow writes the source's comment into a JPEG unless told otherwise
    return Photo(photo, width, height)


def _check(image: Image.Image, settings: Ingestion) -> None:
    """Judge the header, before any pixel is decoded."""
    width, height = image.size
    if width * height > settings.maximum_pixels:
        raise Unusable("bomb", f"expected at most {settings.maximum_pixels} pixels, got {width} x {height}")
    if min(width, height) < settings.minimum_side:
        raise Unusable("too small", f"expected sides of {settings.minimum_side} pixels or more, got {width} x {height}")
    if max(_shrunk(width, height, settings.shorter_side)) > LONGEST_SIDE:
        raise Unusable("unreadable", f"expected a photo, got a strip of {width} x {height} pixels")


def _shrunk(width: int, height: int, side: int) -> tuple[int, int]:
    """The size with the shorter side at most ``side``."""
    scale = min(1.0, side / min(width, height))
    return round(width * scale), round(height * scale)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied: TIFF and HEIC are already upright when loaded."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block spoils no pixel
        return 1


def _opaque(image: Image.Image) -> Image.Image:
    """The picture as 8-bit L, RGB or CMYK."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would clip
    if image.mode in ("I", "F"):
        raise Unusable("unreadable", "expected samples of 8 or 16 bits, got 32, whose range no file states")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An L, RGB or CMYK picture in sRGB, as its colour profile asks."""
    space, transform = _transform(profile) if profile else ("", None)
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if transform and _SPACES[space] == image.mode:
        return ImageCms.applyTransform(image, transform)
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """A profile's colour space and the way from it to sRGB; None where there is none or nothing to do."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = _SPACES[space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, KeyError, ImageCms.PyCMSError):
        return "", None
    return space, None if space == "RGB" and _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether no colour of a coarse lattice moves by more than rounding: the profile is sRGB by some name."""
    steps = np.linspace(0, 255, 9, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(9, 81, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(lattice), transform))
    return int(np.abs(moved.astype(int) - lattice).max()) <= 1
