"""A photo in any common format becomes an upright 8-bit sRGB picture of bounded size.

Ingestion, scoring from the command line and the server read photos through this module, so the same bytes give
the same pixels in all of them. Decoding is done by Pillow, HEIC by libheif through pillow-heif, colour
profiles by LittleCMS; `resizing` scales.
"""

import hashlib
import math
import threading
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from components.scorer.imaging import decoding_memory, jpeg, png, resizing
from components.scorer.settings import Ingestion

pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "TIFF", "BMP")
"""Pillow's names of the formats that are read; what else it can open is of no use here and a larger target."""

_JPEG = ("JPEG", "MPO")
SUFFIXES = tuple(
    sorted(suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS + _JPEG)
)
"""Endings of photos' names, in small letters; capital ones count too."""

LONGEST_SIDE = 65_500
"""Pixels: the longest side that libjpeg writes (JPEG_MAX_DIMENSION)."""

MEMORY = 384 * 2**20
"""Bytes that a photo may take while it is decoded, by what its header tells: 100 million pixels of 4 bytes."""

_LIMIT = 3 * MEMORY  # bytes that the process may take besides: a second wall, where a header tells less than there is
_SCANS = 100  # of a JPEG: progressive ones have some ten; each may cost as much as decoding the whole photo again
_DRAFT = 1.5  # times the size to come: JPEGs scaled while decoding then differ from the full decode by 48-57 dB
_PROFILE = 4 * 2**20  # bytes: a larger colour profile is passed over; those of printing presses have 2 MB
_FILLINGS = bytes.fromhex("b7e151628aed2a6b") * 99, bytes.fromhex("e43f6a8885a308d3") * 99  # many bits, no marker
_PAGES, _TAGS = 100, 2000  # of a TIFF that are looked at for the largest page
_REDUCED, _BITS, _STRIP_ROWS, _TILE = 254, 258, 278, (322, 323)  # tags of TIFF 6.0
_KEPT = 16  # ways between colours that are kept, by the digest of their profile
_transforms: "dict[bytes, tuple[str, ImageCms.ImageCmsTransform | None]]" = {}
_building = threading.Lock()
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

PngImagePlugin.MAX_TEXT_CHUNK = 2 * _PROFILE  # larger ones do not come to it, see `png`; its own takes them for damage
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


def is_photo(name: str, beginning: Callable[[], bytes] | None = None) -> bool:
    """Whether a file is taken for a photo; what it is of is decided when it is decoded, by its content.

    Args:
        name: path below an address; of what is hidden nothing is a photo.
        beginning: gives the file's first 32 bytes, by which it is decided where the name has no suffix.
    """
    if any(part.startswith(".") and part != ".." for part in name.split("/")):
        return False
    suffix = PurePosixPath(name).suffix.lower()
    if suffix or not beginning:
        return suffix in SUFFIXES
    start = beginning()[:32]
    return any(Image.OPEN[format][1](start) for format in FORMATS)


def decode(data: bytes, settings: Ingestion) -> Photo:
    """Decode a photo, set it upright, bring it to sRGB and shrink it; it is never enlarged.

    Transparency is laid over white, as a web page would show it. Of an animation the first frame is taken.
    Of a TIFF's pages the largest is taken. 16-bit samples keep their higher byte. An embedded colour profile is
    applied; a broken one, or one of more than 4 MiB, is ignored, as is broken EXIF. JPEGs of several times the size are
    scaled while they are decoded.

    Args:
        data: an encoded photo in one of `FORMATS`.
        settings: ``shorter_side``, ``minimum_side`` and ``maximum_pixels`` are read.

    Returns:
        The photo and the size that it had.

    Raises:
        Unusable: the bytes are no photo in one of `FORMATS`, or are cut off or damaged; the header tells of more
            than ``maximum_pixels``, or of pixels that take more than `MEMORY` to decode (none is decoded then), or of a
            side below ``minimum_side``.
    """
    decoding_memory.give_back()
    try:
        with decoding_memory.limited(_LIMIT), _opened(data) as image:
            return _decoded(image, data, settings)
    except Unusable:
        raise
    except Image.UnidentifiedImageError:
        raise Unusable("unreadable", _unidentified(data)) from None
    except Image.DecompressionBombError as error:
        raise Unusable("bomb", str(error)) from None
    except MemoryError:
        raise Unusable("bomb", f"expected a photo that is decoded in {_LIMIT} bytes, got one that takes more") from None
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


def _opened(data: bytes) -> Image.Image:
    """The photo as its header tells of it; no pixel is decoded yet."""
    if data.startswith(png.SIGNATURE):
        data = png.without_large_texts(data, _PROFILE)
    image = Image.open(BytesIO(data), formats=FORMATS)
    return _largest_page(image, data) if image.format == "TIFF" else image


def _largest_page(image: Image.Image, data: bytes) -> Image.Image:
    """A TIFF at its largest page, of several the first; what is marked as a reduced copy of another does not count."""
    largest, most, tags = None, 0, 0
    for page in range(_PAGES):
        try:
            image.seek(page)
        except Exception:  # there is none, or a broken one, which spoils no other
            break
        reduced = image.tag_v2.get(_REDUCED, 0)
        if not (isinstance(reduced, int) and reduced & 1) and image.width * image.height > most:
            largest, most = page, image.width * image.height
        tags += len(image.tag_v2)
        if tags > _TAGS:
            break
    if largest is None:
        raise Unusable(
            "unreadable", "expected a photo, got a TIFF of previews alone, as cameras' raw files are: save it as JPEG"
        )
    image = Image.open(BytesIO(data), formats=("TIFF",))
    image.seek(largest)
    return image


def _decoded(image: Image.Image, data: bytes, settings: Ingestion) -> Photo:
    _check(image, settings)
    width, height = image.size
    size = _shrunk(width, height, settings.shorter_side)
    outline, draft = jpeg.Outline(1, True, True), (round(size[0] * _DRAFT), round(size[1] * _DRAFT))
    if image.format in _JPEG:  # pillow-heif's draft takes the embedded thumbnail, which may be another picture
        outline = jpeg.outline(data, _SCANS)
        if outline.scans > _SCANS:
            raise Unusable("bomb", f"expected at most {_SCANS} scans of a JPEG, got more")
        image.draft(None, draft)
    _check_memory(image, (width, height), outline.scans)
    if outline.complete and not outline.ended:
        image = _ended(data, draft)
    image.load()
    profile, orientation = image.info.get("icc_profile"), _orientation(image)
    photo = _srgb(_plain(image, size), profile)
    if orientation in _TRANSPOSES:
        photo = photo.transpose(_TRANSPOSES[orientation])
        if orientation >= 5:
            width, height = height, width
    photo.info = {}  # Pillow writes the source's comment into a JPEG unless told otherwise
    return Photo(photo, width, height)


def _ended(data: bytes, draft: tuple[int, int]) -> Image.Image:
    """A JPEG that lacks its end, with it.

    The end says nothing of the pixels, and the decoder fills up what else is missing with grey. So the pixels are held
    against those that come when something else stands there: where nothing is missing, nothing is filled up.

    Raises:
        Unusable: it lacks more.
    """
    stem = data.rstrip(b"\0")
    if stem.endswith(b"\xff"):  # half of the end, or a byte 255 among the coefficients, which a 0 follows
        stem = stem + b"\0" if len(stem) < len(data) else stem[:-1]
    digests = set()
    for filling in (b"", *_FILLINGS):
        with Image.open(BytesIO(stem + filling + jpeg.END), formats=("JPEG",)) as image:
            image.draft(None, draft)
            digest = hashlib.sha256()
            for _, strip in resizing.strips(image):
                digest.update(strip.tobytes())
            digests.add(digest.digest())
    if len(digests) > 1:
        raise Unusable("unreadable", "cut off or damaged: the last rows of the JPEG are missing")
    image = Image.open(BytesIO(stem + jpeg.END), formats=("JPEG",))
    image.draft(None, draft)
    return image


def _check(image: Image.Image, settings: Ingestion) -> None:
    """Judge the header, before any pixel is decoded."""
    width, height = image.size
    if width * height > settings.maximum_pixels:
        raise Unusable("bomb", f"expected at most {settings.maximum_pixels} pixels, got {width} x {height}")
    if min(width, height) < settings.minimum_side:
        raise Unusable("too small", f"expected sides of {settings.minimum_side} pixels or more, got {width} x {height}")
    if max(_shrunk(width, height, settings.shorter_side)) > LONGEST_SIDE:
        raise Unusable("unreadable", f"expected a photo, got a strip of {width} x {height} pixels")


def _check_memory(image: Image.Image, size: tuple[int, int], scans: int) -> None:
    needed = _memory(image, size, scans)
    if needed > MEMORY:
        raise Unusable(
            "bomb",
            f"expected a photo that takes at most {MEMORY >> 20} MiB to decode, got {size[0]} x {size[1]} pixels of"
            f" {image.format}, which take {needed >> 20}: save it smaller, or as a JPEG that is not progressive",
        )


def needed(data: bytes, settings: Ingestion) -> tuple[int, int]:
    """Pixels of a photo, and bytes of memory that decoding it takes, by its header; 0 where that cannot be read."""
    try:
        with _opened(data) as image:
            size = image.size
            if image.format in _JPEG:
                image.draft(None, tuple(round(side * _DRAFT) for side in _shrunk(*size, settings.shorter_side)))
            return math.prod(size), _memory(image, size, 2 if image.info.get("progressive") else 1)
    except Exception:  # decoding will say it better
        return 0, 0


def _memory(image: Image.Image, size: tuple[int, int], scans: int) -> int:
    """Bytes that loading a photo takes at its peak, from what its header tells; measured by `decode_memory`.

    Args:
        image: opened and, where that is done, reduced by ``draft``.
        size: width and height that it has unreduced.
        scans: of a JPEG.
    """
    pixels, stored = image.width * image.height, _stored(image.mode)
    if image.format in _JPEG:
        return pixels * stored + (_coefficients(image, *size) if scans > 1 else 0)
    if image.format == "TIFF":
        return pixels * stored + _tiff_buffers(image, stored)
    if image.format == "BMP" and stored == 1:  # runs are unpacked by Pillow's own code, and copied twice
        return pixels * 3
    if image.format in ("WEBP", "AVIF"):  # two frames and a copy of RGBA beside the picture; AVIF: planes of 16 bits
        return pixels * 17
    if image.format == "HEIF":
        return round(pixels * _heif(image))
    return pixels * stored


def _stored(mode: str) -> int:
    """Bytes of a pixel in Pillow's memory."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def _coefficients(image: Image.Image, width: int, height: int) -> int:
    """Bytes of all coefficients of a JPEG, which libjpeg holds when there are several scans, at whatever scale."""
    across, down = (max(sampling) for sampling in list(zip(*image.layer, strict=True))[1:3])
    blocks = math.ceil(width / 8 / across) * math.ceil(height / 8 / down)
    return blocks * sum(layer[1] * layer[2] for layer in image.layer) * 64 * 2


def _tiff_buffers(image: Image.Image, stored: int) -> int:
    """Bytes that libtiff unpacks at a time: a tile or a strip, which may be all; and a copy where it is turned."""
    turned = image.width * image.height * stored if image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1 else 0
    if image.info.get("compression") == "raw":
        return turned
    bits = image.tag_v2.get(_BITS, (1,))
    tile = [image.tag_v2.get(tag) for tag in _TILE]
    width, height = tile if all(tile) else (image.width, min(image.height, image.tag_v2.get(_STRIP_ROWS, 2**32)))
    return width * height * max(sum(bits) // 8, 4) + turned


def _heif(image: Image.Image) -> float:
    """Bytes of a pixel at the peak of libheif: the decoder's planes, its copy of them, and what that is made into."""
    deep = 2 if image.info.get("bit_depth", 8) > 8 else 1
    planes = deep * ({420: 1.5, 422: 2}.get(image.info.get("chroma"), 3) + (image.mode == "RGBA"))
    return 1 + max(2 * planes + (planes / 2 if deep > 1 else 3), len(image.mode) + _stored(image.mode))


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


def _plain(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture as 8-bit L, RGB or CMYK of this size, made strip by strip: no copy of its own size is ever there."""
    if "A" in image.getbands() and not image.getbbox(alpha_only=True):
        if image.format != "BMP":
            raise Unusable("unreadable", "expected a photo, got one whose every pixel is transparent")
        opaque = _without_alpha  # many programs leave the fourth byte of a BMP's pixels at 0
    else:
        opaque = _opaque
    if image.size != size:
        return resizing.shrink(image, size, opaque)
    if image.mode in ("L", "RGB", "CMYK") and not image.has_transparency_data:
        return image
    whole = None
    for top, strip in resizing.strips(image):
        strip = opaque(strip)
        whole = whole or Image.new(strip.mode, size)
        whole.paste(strip, (0, top))
    return whole


def _without_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


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
    space, transform = _transform(profile) if profile and len(profile) <= _PROFILE else ("", None)
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if transform and _SPACES[space] == image.mode:
        return ImageCms.applyTransform(image, transform)
    return image.convert("RGB")


def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """A profile's colour space and the way from it to sRGB; None where there is none or nothing to do."""
    digest = hashlib.sha256(profile).digest()
    with _building:
        if digest not in _transforms:
            if len(_transforms) == _KEPT:
                del _transforms[next(iter(_transforms))]
            _transforms[digest] = _built(profile)
        return _transforms[digest]


def _built(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
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
