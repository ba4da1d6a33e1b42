"""Decoding of photos in any common format to upright 8-bit sRGB images of bounded size.

Ingestion, command-line scoring and the server decode through this module, so equal bytes give equal pixels. Pillow
decodes, libheif decodes HEIC (through pillow-heif), LittleCMS applies colour profiles, and `resizing` scales.
"""

import hashlib
import math
import threading
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import PurePosixPath
from typing import NamedTuple, cast

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from components.scorer.imaging import decoding_memory, jpeg, png, resizing
from components.scorer.settings import Ingestion

pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "TIFF", "BMP")
"""Accepted formats, by Pillow's names. Pillow's other formats are left out to keep the attack surface small."""

_JPEG_FORMATS = ("JPEG", "MPO")
SUFFIXES = tuple(
    sorted(suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS + _JPEG_FORMATS)
)
"""File-name suffixes of photos, in lower case; the comparison ignores case."""

LONGEST_SIDE = 65_500
"""Longest side that libjpeg writes, pixels (JPEG_MAX_DIMENSION)."""

MAX_DECODING_BYTES = 384 * 2**20
"""Limit of a photo's decoding memory, bytes, estimated from its header: 100 million pixels of 4 bytes."""

# Bytes that decoding may add to the process: a second limit for headers that understate the photo.
_MAX_PROCESS_BYTES = 3 * MAX_DECODING_BYTES
_MAX_SCANS = 100  # limit for a JPEG: progressive ones have about 10, and each may cost as much as a full decode
_DRAFT_FACTOR = 1.5  # times the target size: JPEGs scaled while decoding then have 48-57 dB to the full decode
_MAX_PROFILE_BYTES = 4 * 2**20  # bytes: a larger colour profile is ignored; profiles of printing presses have 2 MB
_FILLINGS = bytes.fromhex("b7e151628aed2a6b") * 99, bytes.fromhex("e43f6a8885a308d3") * 99  # many bits, no marker
_MAX_PAGES, _MAX_TAGS = 100, 2000  # limits of the search for the largest page of a TIFF
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _ROWS_PER_STRIP, _TILE_SIZE = 254, 258, 278, (322, 323)  # tags of TIFF 6.0
_CACHE_SIZE = 16  # size of the cache of colour transforms, keyed by the digest of the profile
_transform_cache: "dict[bytes, tuple[str, ImageCms.ImageCmsTransform | None]]" = {}
_transform_lock = threading.Lock()
_COLOUR_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space, as Pillow's mode
_TRANSPOSES = {  # the operation that makes an EXIF orientation upright (CIPA DC-008, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PngImagePlugin.MAX_TEXT_CHUNK = 2 * _MAX_PROFILE_BYTES  # `png` removes larger chunks; Pillow would report damage
# This module checks the size itself, and broken metadata harms no pixel, so Pillow's warnings are ignored. Pillow's
# error at twice the pixels stays as a second limit.
for _category in (Image.DecompressionBombWarning, UserWarning):
    warnings.filterwarnings("ignore", category=_category, module="PIL")


class UnusablePhotoError(ValueError):
    """Error for bytes that cannot be decoded to a photo.

    Attributes:
        reason: ``"unreadable"``, ``"bomb"`` (too many pixels) or ``"too small"``.
        detail: Text that states the expected and the actual input.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Pass both values to ValueError as arguments, so that the exception can be pickled."""
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        """Return reason and detail in one line."""
        return f"{self.reason}: {self.detail}"


class DecodedPhoto(NamedTuple):
    """Decoded photo.

    Attributes:
        image: Upright 8-bit sRGB image (mode RGB) without metadata, shrunk to the settings' size.
        width: Width of the upright original, pixels.
        height: Height of the upright original, pixels.
    """

    image: Image.Image
    width: int
    height: int


def is_photo(name: str, read_header: Callable[[], bytes] | None = None) -> bool:
    """Return whether a file is taken for a photo, by its name. Decoding checks the content.

    Args:
        name: Path below an address. Hidden files and files in hidden folders are not photos.
        read_header: Function that returns the file's first 32 bytes. They decide if the name has no suffix.
    """
    if any(part.startswith(".") and part != ".." for part in name.split("/")):
        return False
    suffix = PurePosixPath(name).suffix.lower()
    if suffix or not read_header:
        return suffix in SUFFIXES
    header = read_header()[:32]
    return any(accept(header) for format_name in FORMATS if (accept := Image.OPEN[format_name][1]))


def decode(data: bytes, settings: Ingestion) -> DecodedPhoto:
    """Decode a photo to an upright sRGB image and shrink it to the settings' size; never enlarge it.

    Transparency is composited over white, as on a web page. An animation gives its first frame, a TIFF its largest
    page. 16-bit samples keep their higher byte. An embedded colour profile is applied. Broken EXIF, broken colour
    profiles and profiles above 4 MiB are ignored. Much larger JPEGs are scaled while they are decoded.

    Args:
        data: Encoded photo in one of `FORMATS`.
        settings: Uses ``shorter_side``, ``minimum_side`` and ``maximum_pixels``.

    Returns:
        The photo and its original size.

    Raises:
        UnusablePhotoError: The bytes are not a photo in one of `FORMATS`, or are truncated or damaged. Or the header
            states more than ``maximum_pixels``, pixels that need more than `MAX_DECODING_BYTES`, or a side below
            ``minimum_side``; then no pixel is decoded.
    """
    decoding_memory.return_freed_blocks()
    try:
        with decoding_memory.memory_limit(_MAX_PROCESS_BYTES), _open(data) as image:
            return _decode(image, data, settings)
    except UnusablePhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise UnusablePhotoError("unreadable", _unidentified_message(data)) from None
    except Image.DecompressionBombError as error:
        raise UnusablePhotoError("bomb", str(error)) from None
    except MemoryError:
        raise UnusablePhotoError(
            "bomb", f"expected a photo that is decoded in {_MAX_PROCESS_BYTES} bytes, got one that takes more"
        ) from None
    except Exception as error:  # on damaged files decoders raise nearly anything, from KeyError to SyntaxError
        raise UnusablePhotoError("unreadable", f"cut off or damaged: {type(error).__name__}: {error}") from error


def decode_image(data: bytes, settings: Ingestion) -> Image.Image:
    """Return only the image of `decode`: upright 8-bit sRGB, shorter side at most ``parse_settings.shorter_side``
    pixels.
    """
    return decode(data, settings).image


def encode(image: Image.Image, settings: Ingestion) -> bytes:
    """Return an image as a JPEG of ``parse_settings.jpeg_quality``. Equal images give equal bytes."""
    stream = BytesIO()
    image.save(stream, "JPEG", quality=settings.jpeg_quality)
    return stream.getvalue()


def normalise(data: bytes, settings: Ingestion) -> bytes:
    """Convert a photo in any format to an upright sRGB JPEG by `decode` and `encode`.

    Metadata (position, camera, thumbnail) is removed.
    """
    return encode(decode_image(data, settings), settings)


def _unidentified_message(data: bytes) -> str:
    if not data:
        return "expected a photo, got an empty file"
    return f"expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {len(data)} bytes that begin with {data[:8]!r}"


def _open(data: bytes) -> Image.Image:
    """Open a photo by its header, without decoding a pixel."""
    if data.startswith(png.SIGNATURE):
        data = png.drop_large_text_chunks(data, _MAX_PROFILE_BYTES)
    image = Image.open(BytesIO(data), formats=FORMATS)
    return _largest_page(image, data) if isinstance(image, TiffImagePlugin.TiffImageFile) else image


def _largest_page(image: TiffImagePlugin.TiffImageFile, data: bytes) -> Image.Image:
    """Open a TIFF at its largest page, the first if several are equal.

    Pages marked as a reduced copy of another page are skipped.
    """
    largest, largest_area, tags = None, 0, 0
    for page in range(_MAX_PAGES):
        try:
            image.seek(page)
        except Exception:  # no such page, or a broken one; earlier pages stay usable
            break
        reduced = image.tag_v2.get(_SUBFILE_TYPE, 0)
        if not (isinstance(reduced, int) and reduced & 1) and image.width * image.height > largest_area:
            largest, largest_area = page, image.width * image.height
        tags += len(image.tag_v2)
        if tags > _MAX_TAGS:
            break
    if largest is None:
        raise UnusablePhotoError(
            "unreadable", "expected a photo, got a TIFF of previews alone, as cameras' raw files are: save it as JPEG"
        )
    opened = Image.open(BytesIO(data), formats=("TIFF",))
    opened.seek(largest)
    return opened


def _decode(image: Image.Image, data: bytes, settings: Ingestion) -> DecodedPhoto:
    _check_size(image, settings)
    width, height = image.size
    size = _target_size(width, height, settings.shorter_side)
    structure, draft = (
        jpeg.JpegStructure(1, True, True),
        (round(size[0] * _DRAFT_FACTOR), round(size[1] * _DRAFT_FACTOR)),
    )
    if image.format in _JPEG_FORMATS:  # pillow-heif's draft takes the embedded thumbnail, which may be another picture
        structure = jpeg.read_structure(data, _MAX_SCANS)
        if structure.scans > _MAX_SCANS:
            raise UnusablePhotoError("bomb", f"expected at most {_MAX_SCANS} scans of a JPEG, got more")
        image.draft(None, draft)
    _check_memory(image, (width, height), structure.scans)
    if structure.complete and not structure.has_end_marker:
        image = _with_end_marker(data, draft)
    image.load()
    profile, orientation = image.info.get("icc_profile"), _orientation(image)
    photo = _to_srgb(_to_plain_mode(image, size), profile)
    if orientation in _TRANSPOSES:
        photo = photo.transpose(_TRANSPOSES[orientation])
        if orientation >= 5:
            width, height = height, width
    photo.info = {}  # Pillow writes the source's comment into a JPEG unless told otherwise
    return DecodedPhoto(photo, width, height)


def _with_end_marker(data: bytes, draft: tuple[int, int]) -> Image.Image:
    """Append the missing end-of-image marker to a JPEG that lacks nothing else.

    The decoder fills missing data with grey. So the pixels are decoded with different bytes in front of the marker: if
    nothing else is missing, all decodes agree.

    Raises:
        UnusablePhotoError: More than the marker is missing.
    """
    stem = data.rstrip(b"\0")
    if stem.endswith(b"\xff"):  # half of the marker, or a 255 byte among the coefficients, which a 0 byte follows
        stem = stem + b"\0" if len(stem) < len(data) else stem[:-1]
    digests = set()
    for filling in (b"", *_FILLINGS):
        with Image.open(BytesIO(stem + filling + jpeg.END_OF_IMAGE), formats=("JPEG",)) as image:
            image.draft(None, draft)
            digest = hashlib.sha256()
            for _, strip in resizing.strips(image):
                digest.update(strip.tobytes())
            digests.add(digest.digest())
    if len(digests) > 1:
        raise UnusablePhotoError("unreadable", "cut off or damaged: the last rows of the JPEG are missing")
    image = Image.open(BytesIO(stem + jpeg.END_OF_IMAGE), formats=("JPEG",))
    image.draft(None, draft)
    return image


def _check_size(image: Image.Image, settings: Ingestion) -> None:
    """Raise UnusablePhotoError if the header's size is out of the settings' bounds; no pixel is decoded yet."""
    width, height = image.size
    if width * height > settings.maximum_pixels:
        raise UnusablePhotoError("bomb", f"expected at most {settings.maximum_pixels} pixels, got {width} x {height}")
    if min(width, height) < settings.minimum_side:
        raise UnusablePhotoError(
            "too small", f"expected sides of {settings.minimum_side} pixels or more, got {width} x {height}"
        )
    if max(_target_size(width, height, settings.shorter_side)) > LONGEST_SIDE:
        raise UnusablePhotoError("unreadable", f"expected a photo, got a strip of {width} x {height} pixels")


def _check_memory(image: Image.Image, size: tuple[int, int], scans: int) -> None:
    memory_bytes = _decoding_bytes(image, size, scans)
    if memory_bytes > MAX_DECODING_BYTES:
        raise UnusablePhotoError(
            "bomb",
            f"expected a photo that takes at most {MAX_DECODING_BYTES >> 20} MiB to decode, got {size[0]} x {size[1]}"
            f" pixels of {image.format}, which take {memory_bytes >> 20}: save it smaller, or as a JPEG that is not"
            " progressive",
        )


def decoding_cost(data: bytes, settings: Ingestion) -> tuple[int, int]:
    """Return a photo's pixel count and its decoding memory in bytes, from the header; 0 and 0 if unreadable."""
    try:
        with _open(data) as image:
            size = image.size
            if image.format in _JPEG_FORMATS:
                width, height = _target_size(*size, settings.shorter_side)
                image.draft(None, (round(width * _DRAFT_FACTOR), round(height * _DRAFT_FACTOR)))
            return math.prod(size), _decoding_bytes(image, size, 2 if image.info.get("progressive") else 1)
    except Exception:  # decoding gives the precise error
        return 0, 0


def _decoding_bytes(image: Image.Image, size: tuple[int, int], scans: int) -> int:
    """Return the peak memory of loading a photo, bytes, from its header; measured by `decode_memory`.

    Args:
        image: Opened image, already reduced by ``draft`` where that applies.
        size: Width and height before the reduction, pixels.
        scans: Number of scans, for a JPEG.
    """
    pixels, pixel_bytes = image.width * image.height, _bytes_per_pixel(image.mode)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return pixels * pixel_bytes + (_coefficient_bytes(image, *size) if scans > 1 else 0)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return pixels * pixel_bytes + _tiff_buffer_bytes(image, pixel_bytes)
    if image.format == "BMP" and pixel_bytes == 1:  # Pillow's own code unpacks run-length data and copies it twice
        return pixels * 3
    if image.format in ("WEBP", "AVIF"):  # two frames and an RGBA copy besides the image; AVIF has 16-bit planes
        return pixels * 17
    if image.format == "HEIF":
        return round(pixels * _heif_bytes_per_pixel(image))
    return pixels * pixel_bytes


def _bytes_per_pixel(mode: str) -> int:
    """Return the bytes per pixel in Pillow's memory."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def _coefficient_bytes(image: JpegImagePlugin.JpegImageFile, width: int, height: int) -> int:
    """Return the bytes of all coefficients of a JPEG.

    If there are several scans, libjpeg holds all coefficients in memory, at any scale.
    """
    x_sampling, y_sampling = (max(sampling) for sampling in list(zip(*image.layer, strict=True))[1:3])
    blocks = math.ceil(width / 8 / x_sampling) * math.ceil(height / 8 / y_sampling)
    return blocks * sum(layer[1] * layer[2] for layer in image.layer) * 64 * 2


def _tiff_buffer_bytes(image: TiffImagePlugin.TiffImageFile, pixel_bytes: int) -> int:
    """Return the bytes that libtiff unpacks at a time: a tile or a strip, which may be the whole image.

    A rotated image adds a copy of itself.
    """
    rotated_copy = (
        image.width * image.height * pixel_bytes if image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1 else 0
    )
    if image.info.get("compression") == "raw":
        return rotated_copy
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
    tile = [image.tag_v2.get(tag, 0) for tag in _TILE_SIZE]
    width, height = tile if all(tile) else (image.width, min(image.height, image.tag_v2.get(_ROWS_PER_STRIP, 2**32)))
    return width * height * max(sum(bits) // 8, 4) + rotated_copy


def _heif_bytes_per_pixel(image: Image.Image) -> float:
    """Return the bytes per pixel at libheif's peak: the decoder's planes, their copy, and the converted image."""
    sample_bytes = 2 if image.info.get("bit_depth", 8) > 8 else 1
    planes = sample_bytes * ({420: 1.5, 422: 2}.get(image.info.get("chroma", 444), 3) + (image.mode == "RGBA"))
    return 1 + max(2 * planes + (planes / 2 if sample_bytes > 1 else 3), len(image.mode) + _bytes_per_pixel(image.mode))


def _target_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the width and height with the shorter side at most ``side`` pixels."""
    scale = min(1.0, side / min(width, height))
    return round(width * scale), round(height * scale)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation still to be applied. TIFF and HEIC are upright after loading."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block harms no pixel
        return 1


def _to_plain_mode(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image as 8-bit L, RGB or CMYK of a size, converted strip by strip to avoid a full-size copy."""
    if "A" in image.getbands() and not image.getbbox(alpha_only=True):
        if image.format != "BMP":
            raise UnusablePhotoError("unreadable", "expected a photo, got one whose every pixel is transparent")
        convert = _without_alpha  # many programs write 0 as the fourth byte of BMP pixels
    else:
        convert = _to_opaque
    if image.size != size:
        return resizing.shrink(image, size, convert)
    if image.mode in ("L", "RGB", "CMYK") and not image.has_transparency_data:
        return image
    result = None
    for top, strip in resizing.strips(image):
        strip = convert(strip)
        result = result or Image.new(strip.mode, size)
        result.paste(strip, (0, top))
    assert result is not None  # an image has at least one strip
    return result


def _without_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _to_opaque(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit L, RGB or CMYK."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would clip
    if image.mode in ("I", "F"):
        raise UnusablePhotoError("unreadable", "expected samples of 8 or 16 bits, got 32, whose range no file states")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an L, RGB or CMYK image to sRGB by its colour profile."""
    space, transform = _srgb_transform(profile) if profile and len(profile) <= _MAX_PROFILE_BYTES else ("", None)
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if transform and _COLOUR_MODES[space] == image.mode:
        return cast(Image.Image, ImageCms.applyTransform(image, transform))  # None only if it works in place
    return image.convert("RGB")


def _srgb_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return a profile's colour space and the transform to sRGB; None if there is no transform or no need for one."""
    digest = hashlib.sha256(profile).digest()
    with _transform_lock:
        if digest not in _transform_cache:
            if len(_transform_cache) == _CACHE_SIZE:
                del _transform_cache[next(iter(_transform_cache))]
            _transform_cache[digest] = _build_transform(profile)
        return _transform_cache[digest]


def _build_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = _COLOUR_MODES[space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, KeyError, ImageCms.PyCMSError):
        return "", None
    return space, None if space == "RGB" and _is_identity(transform) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform moves no colour of a coarse lattice by more than rounding.

    Such a profile is sRGB under another name.
    """
    steps = np.linspace(0, 255, 9, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(9, 81, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(lattice), transform))
    return int(np.abs(moved.astype(int) - lattice).max()) <= 1
