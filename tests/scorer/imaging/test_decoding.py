"""Decoding and normalising photos of every format and mode, from encoded bytes."""

import pickle
import re
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import numpy as np
import pillow_heif
import pytest
from hypothesis import example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageFile, PngImagePlugin, TiffImagePlugin

from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import UnusablePhotoError, decode, decode_image, encode, normalise
from components.scorer.settings import Ingestion

SETTINGS = Ingestion()
RED, GREEN, BLUE, GREY = (200, 40, 30), (40, 160, 60), (40, 60, 190), (150, 150, 150)
EXACT, LOSSY = 2, 14  # of 255: for lossless and for lossy formats

pillow_heif.register_heif_opener()


def quarters(width=96, height=128, colours=(RED, GREEN, BLUE, GREY)):
    """Return an image with one colour per quarter: upper left, upper right, lower left, lower right.

    No rotation or reflection maps the image to itself.
    """
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(colours):
        left, top = (index % 2) * width // 2, (index // 2) * height // 2
        draw.rectangle((left, top, left + width // 2 - 1, top + height // 2 - 1), fill=colour)
    return image


def encoded(image, format, **options):
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def corners(image):
    """Return the colours at the centres of the quarters."""
    width, height = image.size
    points = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return np.array([image.getpixel(point) for point in points], dtype=int)


def assert_quarters(image, tolerance, colours=(RED, GREEN, BLUE, GREY)):
    assert image.mode == "RGB"
    np.testing.assert_allclose(corners(image), colours, atol=tolerance)


def png(samples, colour_type, chunks=b""):
    """Return a PNG of 16-bit samples, uint16 [height, width, channels]. Pillow cannot write 16-bit colour PNGs."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(samples, order="<"):
    """Return an uncompressed TIFF of 16-bit RGB samples, uint16 [height, width, 3]. Pillow cannot write such TIFFs."""
    height, width = samples.shape[:2]
    pixels = samples.astype(f"{order}u2").tobytes()
    values_offset = 8 + 2 + 9 * 12 + 4
    short, long = 3, 4
    entries = [(256, long, 1, width), (257, long, 1, height), (258, short, 3, values_offset), (259, short, 1, 1)]
    entries += [(262, short, 1, 2), (273, long, 1, values_offset + 6), (277, short, 1, 3), (278, long, 1, height)]
    entries += [(279, long, 1, len(pixels))]
    directory = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == short and count == 1 else struct.pack(f"{order}I", value))
        for tag, kind, count, value in entries
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + struct.pack(f"{order}I", 0) + struct.pack(f"{order}3H", 16, 16, 16) + pixels


def profile(space, tags):
    """Return an ICC profile (version 2) of the given tags."""
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    kind, connection = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"lcms", 0x02100000, kind, space, connection, b"\0" * 12, b"acsp"
    )
    head += b"\0" * 28 + struct.pack(">3I", 0x0000F6D6, 0x00010000, 0x0000D32D)  # illuminant D50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def description(text):
    text += b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78


def matrix_profile(matrix, gamma, more=()):
    """Return an RGB profile with one gamma, and with the columns of ``matrix`` as primaries (XYZ under D50).

    more: Further tags.
    """
    tags = {b"desc": description(b"test"), b"cprt": b"text\0\0\0\0none\0", **dict(more)}
    white = matrix.sum(1)
    for name, xyz in zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), (white, *matrix.T), strict=True):
        tags[name] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in xyz))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return profile(b"RGB ", tags)


def grey_profile(gamma):
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return profile(b"GRAY", {b"desc": description(b"test"), b"wtpt": white, b"kTRC": curve})


def ink_profile(corner):
    """Return a CMYK profile that interpolates linearly between the corners of the ink cube.

    corner: Function of (c, m, y, k), each 0 or 1, that returns the Lab colour of that corner.
    """
    grid = [corner(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    cells = bytes(round(v) for L, a, b in grid for v in (L * 2.55, a + 128, b + 128))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * int(i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0" + struct.pack(">4B", 4, 3, 2, 0) + identity + ramp * 4 + cells + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return profile(b"CMYK", {b"desc": description(b"test"), b"wtpt": white, b"A2B0": table})


DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Primaries in XYZ under D50, from Apple's "Display P3" and the ICC's "sRGB" profiles."""


def to_srgb(colour, matrix, gamma):
    """Convert a colour of an RGB space to 8-bit sRGB by the formula of the standard (IEC 61966-2-1)."""
    light = np.linalg.solve(SRGB, matrix @ (np.array(colour) / 255) ** gamma).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


PLAIN = {
    "jpeg": (lambda im: encoded(im, "JPEG", quality=95), LOSSY),
    "progressive jpeg": (lambda im: encoded(im, "JPEG", quality=95, progressive=True), LOSSY),
    "multi-picture jpeg": (lambda im: encoded(im, "MPO", quality=95, save_all=True, append_images=[im]), LOSSY),
    "adobe cmyk jpeg": (lambda im: encoded(im.convert("CMYK"), "JPEG", quality=95), LOSSY),
    "png": (lambda im: encoded(im, "PNG"), EXACT),
    "palette png": (lambda im: encoded(im.quantize(8), "PNG"), EXACT),
    "opaque alpha png": (lambda im: encoded(im.convert("RGBA"), "PNG"), EXACT),
    "webp": (lambda im: encoded(im, "WEBP", quality=95), LOSSY),
    "lossless webp": (lambda im: encoded(im, "WEBP", lossless=True), EXACT),
    "bmp": (lambda im: encoded(im, "BMP"), EXACT),
    "tiff": (lambda im: encoded(im, "TIFF"), EXACT),
    "lzw tiff": (lambda im: encoded(im, "TIFF", compression="tiff_lzw"), EXACT),
    "deflate tiff": (lambda im: encoded(im, "TIFF", compression="tiff_adobe_deflate"), EXACT),
    "jpeg in tiff": (lambda im: encoded(im, "TIFF", compression="jpeg"), LOSSY),
    "cmyk tiff": (lambda im: encoded(im.convert("CMYK"), "TIFF"), EXACT),
    "gif": (lambda im: encoded(im, "GIF"), EXACT),
    "heic": (lambda im: encoded(im, "HEIF", quality=95), LOSSY),
    "avif": (lambda im: encoded(im, "AVIF", quality=90, speed=10), LOSSY),
}
"""For each format and mode with 8-bit colours: a function that writes it, and the tolerance of its colours."""


@pytest.mark.parametrize("kind", PLAIN)
def test_every_format_is_decoded_to_rgb_with_the_right_colours(kind):
    write, tolerance = PLAIN[kind]
    assert_quarters(decode_image(write(quarters()), SETTINGS), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_every_format_is_normalised_to_a_jpeg_with_the_right_colours(kind):
    data = normalise(PLAIN[kind][0](quarters(800, 1000)), SETTINGS)
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (320, 400))
        assert_quarters(image, LOSSY)


def test_adobe_cmyk_jpegs_are_decoded_with_inverted_inks():
    data = PLAIN["adobe cmyk jpeg"][0](quarters())
    assert b"Adobe" in data[:40]  # the marker that identifies such files
    assert_quarters(decode_image(data, SETTINGS), LOSSY)


def test_the_first_frame_of_an_animation_is_decoded():
    later_frames = [Image.new("RGB", (96, 128), "black")]
    for format, tolerance in (("GIF", EXACT), ("PNG", EXACT), ("WEBP", LOSSY), ("TIFF", EXACT)):
        data = encoded(quarters(), format, save_all=True, append_images=later_frames)
        assert_quarters(decode_image(data, SETTINGS), tolerance)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_images_are_decoded_to_rgb(mode, format):
    image = quarters(colours=((0, 0, 0), (255, 255, 255), (0, 0, 0), (255, 255, 255))).convert(mode)
    grey = decode_image(encoded(image, format), SETTINGS)
    assert_quarters(grey, EXACT, ((0, 0, 0), (255, 255, 255), (0, 0, 0), (255, 255, 255)))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_16_bit_grey_is_scaled_not_clipped(format, options):
    levels = np.repeat(np.linspace(0, 65535, 128).astype(np.uint16)[:, None], 96, 1)
    data = encoded(Image.fromarray(levels), format, **(options if format == "TIFF" else {}))
    grey = np.asarray(decode_image(data, SETTINGS))[:, 48, 0]
    np.testing.assert_allclose(grey, np.linspace(0, 255, 128), atol=1)


@pytest.mark.parametrize(
    "write",
    [lambda s: png(s, 2), lambda s: png(np.dstack([s, np.full(s.shape[:2], 65535)]), 6), tiff, lambda s: tiff(s, ">")],
    ids=["png", "png with alpha", "little-endian tiff", "big-endian tiff"],
)
def test_16_bit_colours_are_scaled_not_clipped(write):
    samples = np.asarray(quarters()).astype(np.uint16) * 257
    assert_quarters(decode_image(write(samples), SETTINGS), EXACT)


def test_32_bit_samples_are_refused():
    data = encoded(Image.fromarray(np.zeros((128, 96), np.float32)), "TIFF")
    with pytest.raises(UnusablePhotoError, match="unreadable: expected samples of 8 or 16 bits, got 32"):
        decode_image(data, SETTINGS)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "HEIF"])
def test_transparent_pixels_are_blended_with_white(format):
    image = quarters().convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 48, 64))  # the red quarter is fully transparent
    alpha.paste(128, (48, 64, 96, 128))  # the grey quarter is half transparent
    image.putalpha(alpha)
    light = tuple(round(v * 128 / 255 + 255 * 127 / 255) for v in GREY)
    assert_quarters(decode_image(encoded(image, format, quality=95), SETTINGS), LOSSY, ((255,) * 3, GREEN, BLUE, light))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_white(format):
    image = quarters().quantize(8)
    data = encoded(image, format, transparency=image.getpixel((10, 10)))
    assert_quarters(decode_image(data, SETTINGS), EXACT, ((255,) * 3, GREEN, BLUE, GREY))


@pytest.mark.slow
def test_transparent_pixels_do_not_bleed_when_the_photo_shrinks():
    image = Image.new("RGBA", (1600, 1600), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (800, 0, 1600, 1600))
    assert np.asarray(decode_image(encoded(image, "PNG"), SETTINGS)).min() >= 254


TURNS = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}  # fmt: skip
"""For each EXIF orientation, the inverse transform: from the upright image to the stored pixels."""


def held(orientation, **size):
    """Return the stored pixels of an upright image, and EXIF with the orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return Image.fromarray(np.ascontiguousarray(TURNS[orientation](np.asarray(quarters(**size))))), exif


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_every_exif_orientation_is_applied(orientation, format):
    stored, exif = held(orientation, width=800, height=1200)
    photo = decode(encoded(stored, format, exif=exif, quality=95), SETTINGS)
    assert (photo.image.size, photo.width, photo.height) == ((320, 480), 800, 1200)
    assert_quarters(photo.image, LOSSY)


@pytest.mark.parametrize("orientation", TURNS)
def test_the_orientation_of_heic_is_applied_once(orientation):
    stored, exif = held(orientation, width=96, height=160)
    # Like iPhones: the container has a rotation as well.
    data = encoded(stored, "HEIF", exif=exif.tobytes(), quality=95)
    if orientation > 1:
        assert b"irot" in data or b"imir" in data
        with Image.open(BytesIO(data)) as image:
            assert image.info["original_orientation"] == orientation
    photo = decode(data, SETTINGS)
    assert (photo.width, photo.height) == (96, 160)
    assert_quarters(photo.image, LOSSY)


def test_broken_exif_is_ignored():
    data = encoded(quarters(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert_quarters(decode_image(data, SETTINGS), LOSSY)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF"])
def test_a_display_p3_profile_is_applied(format):
    p3 = matrix_profile(DISPLAY_P3, 2.2)
    data = encoded(quarters(), format, icc_profile=p3, quality=97)
    expected = [to_srgb(colour, DISPLAY_P3, 2.2) for colour in (RED, GREEN, BLUE, GREY)]
    assert abs(expected[0] - np.array(RED)).max() > 10  # the profile changes colours
    assert_quarters(decode_image(data, SETTINGS), LOSSY if format in ("WEBP", "HEIF") else 4, expected)


def test_an_srgb_profile_does_not_change_pixels():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile, without_profile = (encoded(quarters(), "PNG", icc_profile=icc) for icc in (srgb, None))
    assert normalise(with_profile, SETTINGS) == normalise(without_profile, SETTINGS)


def test_a_grey_profile_is_applied():
    image = quarters(colours=[(v, v, v) for v in (60, 120, 180, 240)]).convert("L")
    data = encoded(image, "PNG", icc_profile=grey_profile(1.0))
    expected = [to_srgb((v, v, v), SRGB, 1.0) for v in (60, 120, 180, 240)]
    assert_quarters(decode_image(data, SETTINGS), 4, expected)


@pytest.mark.slow
def test_a_cmyk_profile_is_applied():
    def corner(c, m, y, k):  # full cyan is a deep blue-green as in print, not (0, 255, 255)
        return (0, 0, 0) if k else (100 - 45 * c - 30 * m - 8 * y, -36 * c + 60 * m, -50 * c + 85 * y)

    image = quarters(colours=((0, 255, 255), (255, 255, 255), (0, 0, 0), (255, 255, 255))).convert("CMYK")
    image.paste((255, 0, 0, 0), (0, 0, 48, 64))
    image.paste((0, 0, 0, 255), (0, 64, 48, 128))
    data = encoded(image, "JPEG", quality=97, icc_profile=ink_profile(corner))
    cyan, white, black, _ = corners(decode_image(data, SETTINGS))
    lab = Image.new("LAB", (1, 1), (round(55 * 2.55), 128 - 36, 128 - 50))
    expected = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    np.testing.assert_allclose(cyan, expected.getpixel((0, 0)), atol=8)
    assert white.min() > 245
    assert black.max() < 15


@pytest.mark.parametrize(
    "broken",
    [b"no profile at all", matrix_profile(DISPLAY_P3, 2.2)[:200], grey_profile(1.0)],
    ids=["rubbish", "cut off", "of another colour space"],
)
def test_a_broken_profile_is_ignored(broken):
    assert_quarters(decode_image(encoded(quarters(), "PNG", icc_profile=broken), SETTINGS), EXACT)


def test_a_normalised_photo_has_no_metadata():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SecretMake"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSDateStamp] = "SecretDate"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(quarters(), "JPEG", exif=exif, comment=b"SecretComment", xmp=b"SecretXmp", icc_profile=srgb)
    assert data.count(b"Secret") == 4
    stored = normalise(data, SETTINGS)
    assert b"Secret" not in stored
    with Image.open(BytesIO(stored)) as image:
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert not decode_image(data, SETTINGS).info


def scenery(width, height):
    """Return an image with detail at all scales, like a photograph."""
    rng = np.random.default_rng(7)
    sum_of_noise = np.zeros((height, width), np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256, 512):
        noise = rng.normal(0, 120 / cells**0.6, (cells, cells)).astype(np.float32)
        sum_of_noise += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    grey = np.clip(128 + sum_of_noise, 0, 255).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(np.roll(grey, shift, 1)) for shift in (0, 9, 21)])


@pytest.mark.slow
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_scaled_while_decoding_differs_little_from_the_full_decode(progressive):
    data = encoded(scenery(4000, 3000), "JPEG", quality=90, progressive=progressive)
    with Image.open(BytesIO(data)) as image:
        full = image.resize((427, 320), Image.Resampling.LANCZOS)
    photo = decode(data, SETTINGS)
    assert (photo.width, photo.height, photo.image.size) == (4000, 3000, (427, 320))
    difference = np.asarray(photo.image).astype(float) - np.asarray(full)
    assert np.sqrt((difference**2).mean()) < 1.0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((200, 300), (200, 300)), ((320, 900), (320, 900)), ((321, 321), (320, 320)), ((1000, 700), (457, 320))],
)
def test_a_photo_is_shrunk_to_the_shorter_side_and_never_enlarged(size, expected):
    for format in ("JPEG", "PNG"):
        assert decode_image(encoded(Image.new("RGB", size), format), SETTINGS).size == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_normalising_a_photo_twice_gives_the_same_bytes(kind):
    data = PLAIN[kind][0](scenery(500, 400))
    assert normalise(data, SETTINGS) == normalise(data, SETTINGS)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "expected a photo, got an empty file"),
        (b"<html>404</html>", r"got 16 bytes that begin with b'<html>40'"),
        (b"\xff\xd8\xff\xe0 and nothing of use", "unreadable"),
        (encoded(Image.new("RGB", (96, 96)), "ICO"), "expected JPEG, PNG, WEBP, HEIF, AVIF, GIF, TIFF or BMP"),
    ],
    ids=["empty", "a web page", "a JPEG's first bytes", "another format"],
)
def test_bytes_without_a_supported_photo_are_unreadable(data, told):
    with pytest.raises(UnusablePhotoError, match=told) as raised:
        normalise(data, SETTINGS)
    assert raised.value.reason == "unreadable"


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_a_photo_cut_to_a_third_of_its_bytes_is_unreadable(kind):
    data = PLAIN[kind][0](scenery(300, 300))
    with pytest.raises(UnusablePhotoError) as raised:
        normalise(data[: len(data) // 3], SETTINGS)
    assert raised.value.reason == "unreadable"


def header_only_png(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + b"\0\0\0\0IDAT\0\0\0\0"
    )


def box(fourcc, body):
    return struct.pack(">I4s", 8 + len(body), fourcc) + body


@pytest.mark.parametrize("progressive", [False, True])
def test_a_video_after_the_photo_is_ignored(progressive):
    data = encoded(quarters(), "JPEG", quality=95, progressive=progressive)
    video = box(b"ftyp", b"mp42\0\0\0\0isommp42") + box(b"mdat", b"\xff\xda" * 500)
    assert normalise(data + video, SETTINGS) == normalise(data, SETTINGS)


def test_only_the_first_photo_of_a_multi_picture_jpeg_is_decoded():
    data = encoded(quarters(), "JPEG", quality=95, progressive=True)
    multi_picture = encoded(
        quarters(), "MPO", save_all=True, append_images=[quarters()] * 40, quality=95, progressive=True
    )
    assert multi_picture.count(b"\xff\xda") > 100
    assert normalise(multi_picture, SETTINGS) == normalise(data, SETTINGS)


def test_jpeg_markers_in_the_metadata_are_ignored():
    data = encoded(quarters(), "JPEG", quality=95, exif=b"Exif\0\0" + b"\xff\xda" * 200 + b"\xff\xd9")
    assert_quarters(decode_image(data, SETTINGS), LOSSY)


@pytest.mark.parametrize(("repeats", "accepted"), [(85, True), (95, False), (5000, False)])
def test_a_jpeg_with_more_than_100_scans_is_refused(repeats, accepted):
    data = encoded(quarters(), "JPEG", quality=95, progressive=True)
    last_scan = data.rindex(b"\xff\xda")
    many_scans = data[:-2] + data[last_scan:-2] * repeats + b"\xff\xd9"
    if accepted:
        assert decode_image(many_scans, SETTINGS).size == (96, 128)
    else:
        with pytest.raises(UnusablePhotoError, match="bomb: expected at most 100 scans of a JPEG, got more"):
            decode_image(many_scans, SETTINGS)


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "adobe cmyk jpeg"])
def test_a_jpeg_without_its_end_marker_is_decoded(kind, cut):
    data = PLAIN[kind][0](scenery(300, 300))
    assert normalise(data[:-cut], SETTINGS) == normalise(data, SETTINGS)
    assert normalise(data[:-cut] + bytes(100), SETTINGS) == normalise(data, SETTINGS)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
@pytest.mark.parametrize("cut", [40, 3000])
@pytest.mark.parametrize("filling", [b"", bytes(200)])
def test_a_jpeg_without_its_last_40_bytes_is_unreadable(kind, cut, filling):
    with pytest.raises(UnusablePhotoError, match="unreadable"):
        normalise(PLAIN[kind][0](scenery(300, 300))[:-cut] + filling, SETTINGS)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
@pytest.mark.parametrize("cut", range(3, 12))
def test_a_jpeg_without_its_last_bytes_is_decoded_only_if_all_pixels_are_right(kind, cut):
    data = PLAIN[kind][0](scenery(300, 300))
    complete = decode_image(data, SETTINGS)
    try:
        truncated = decode_image(data[:-cut], SETTINGS)
    except UnusablePhotoError:
        truncated = complete  # refusing the photo is allowed, too
    assert truncated.tobytes() == complete.tobytes()


def test_a_progressive_jpeg_without_its_last_scan_is_unreadable():
    data = PLAIN["progressive jpeg"][0](scenery(300, 300))
    with pytest.raises(UnusablePhotoError, match="unreadable"):
        normalise(data[: data.rindex(b"\xff\xda")], SETTINGS)


def large_profile(size):
    """Return a valid profile with an unused private tag of `size` bytes."""
    return matrix_profile(DISPLAY_P3, 2.2, more={b"priv": b"text\0\0\0\0" + np.random.default_rng(0).bytes(size)})


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_of_1_5_megabytes_is_applied_in_every_format(format):
    data = encoded(quarters(), format, icc_profile=large_profile(1_500_000), quality=97)
    expected = [to_srgb(colour, DISPLAY_P3, 2.2) for colour in (RED, GREEN, BLUE, GREY)]
    assert_quarters(decode_image(data, SETTINGS), LOSSY if format == "WEBP" else 4, expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_above_4_mib_is_ignored_in_every_format(format):
    data = encoded(quarters(), format, icc_profile=large_profile(5_000_000), quality=97)
    assert_quarters(decode_image(data, SETTINGS), LOSSY)


def test_the_cache_of_colour_transforms_is_bounded_and_keyed_by_digest():
    for number in range(20):
        decode_image(encoded(quarters(), "PNG", icc_profile=large_profile(1000 + number)), SETTINGS)
    assert len(decoding._transform_cache) == 16
    assert {len(digest) for digest in decoding._transform_cache} == {32}


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 2_000_000, 30_000_000])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_png_with_xmp_of_any_size_is_decoded(size, zipped):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>" + " " * size + "</x:xmpmeta>", zip=zipped)
    assert_quarters(decode_image(encoded(quarters(), "PNG", pnginfo=info), SETTINGS), EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True])
def test_a_png_with_many_large_text_chunks_is_decoded(zipped):
    info = PngImagePlugin.PngInfo()
    for number in range(80):
        info.add_text(f"text{number}", " " * 1_000_000, zip=zipped)
    assert_quarters(decode_image(encoded(quarters(), "PNG", pnginfo=info), SETTINGS), EXACT)


def bmp(image):
    """Return a BMP with 32 bits per pixel whose header (BITMAPV4HEADER) has an alpha mask."""
    pixels = image.convert("RGBA").transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    header = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


@pytest.mark.parametrize("size", [(96, 128), (960, 1280)])
def test_a_bmp_whose_fourth_byte_is_always_0_keeps_its_colours(size):
    image = quarters(*size).convert("RGBA")
    image.putalpha(0)
    assert Image.open(BytesIO(bmp(image))).mode == "RGBA"
    assert_quarters(decode_image(bmp(image), SETTINGS), EXACT)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_a_fully_transparent_photo_is_refused(format):
    image = quarters().convert("RGBA")
    image.putalpha(0)
    with pytest.raises(
        UnusablePhotoError, match="unreadable: expected a photo, got one whose every pixel is transparent"
    ):
        decode_image(encoded(image, format), SETTINGS)


def pages(*images, reduced=()):
    """Return a multi-page TIFF; the pages in `reduced` are marked as reduced copies."""
    stream = BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream) as writer:
        for number, image in enumerate(images):
            image.save(writer, "TIFF", tiffinfo={254: 1} if number in reduced else {})
            writer.newFrame()
    return stream.getvalue()


@pytest.mark.parametrize("reduced", [(), (0,)])
def test_the_largest_page_of_a_tiff_is_decoded_and_not_the_thumbnail_before_it(reduced):
    photo = decode(pages(Image.new("RGB", (80, 80)), quarters(480, 640), quarters(96, 128), reduced=reduced), SETTINGS)
    assert (photo.width, photo.height) == (480, 640)
    assert_quarters(photo.image, EXACT)


def test_a_tiff_with_only_previews_is_refused():
    with pytest.raises(
        UnusablePhotoError, match="got a TIFF of previews alone, as cameras' raw files are: save it as JPEG"
    ):
        decode(pages(quarters(), reduced=(0,)), SETTINGS)


def test_a_tiff_with_a_broken_second_page_is_decoded():
    data = bytearray(pages(quarters(), Image.new("RGB", (800, 800))))
    directory = struct.unpack_from("<I", data, 4)[0]
    next_page_offset = directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0]
    struct.pack_into("<I", data, next_page_offset, len(data) - 5)
    assert_quarters(decode_image(bytes(data), SETTINGS), EXACT)


def sized(format, width, height, **options):
    """Return a photo of one colour."""
    return encoded(Image.new(options.pop("mode", "RGB"), (width, height), options.pop("colour", 90)), format, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (lambda: sized("WEBP", 9990, 9990, mode="RGBA", colour=(9, 9, 9, 99), lossless=True, method=0), False),
        (lambda: sized("WEBP", 5500, 5500, method=0), False),
        (lambda: sized("PNG", 10_000, 10_000, mode="P"), True),
        (lambda: sized("GIF", 10_000, 10_000, mode="P"), True),
        (lambda: sized("JPEG", 10_000, 10_000, mode="L", progressive=True), True),
        (lambda: sized("JPEG", 8_000, 8_000, progressive=True), True),
        (lambda: sized("JPEG", 8_500, 8_500, progressive=True, subsampling=0), False),
        (lambda: sized("TIFF", 9_000, 9_000, mode="L", compression="tiff_adobe_deflate", strip_size=2**30), False),
        (lambda: tiles(96, 128, 30_000), False),
    ],
    ids=["webp 100", "webp 30", "png 100 p", "gif 100", "jpeg grey", "jpeg 4:2:0", "jpeg 4:4:4", "strip", "tile"],
)
def test_a_photo_that_needs_too_much_memory_is_refused_before_decoding(monkeypatch, data, accepted):
    data = data()
    if accepted:
        assert decode(data, SETTINGS).width >= 8_000
        return
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it is decoded"))
    with pytest.raises(
        UnusablePhotoError, match=r"bomb: expected a photo that takes at most 384 MiB to decode, got \d+ x \d+"
    ):
        decode(data, SETTINGS)


def tiles(width, height, side):
    """Return a TIFF with a single tile that is far larger than the photo."""
    data = bytearray(encoded(Image.new("RGB", (width, height)), "TIFF", compression="tiff_adobe_deflate"))
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0], 12):
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag == 278:  # overwrite rows per strip by the tile width, and the next tag by the tile height
            struct.pack_into("<HHII", data, entry, 322, 4, 1, side)
        if tag == 279:
            struct.pack_into("<HHII", data, entry, 323, 4, 1, side)
    return bytes(data)


@pytest.mark.slow
def test_a_file_that_exceeds_the_memory_limit_fails_and_the_next_file_is_decoded(tmp_path):
    path = tmp_path / "bomb.webp"
    path.write_bytes(sized("WEBP", 9_990, 9_990, mode="RGBA", colour=(9, 9, 9, 99), lossless=True, method=0))
    code = (
        "import sys; from pathlib import Path; from components.scorer.imaging import decoding\n"
        "from components.scorer.settings import Ingestion\n"
        "decoding.MAX_DECODING_BYTES = 2**40\n"
        "try: decoding.decode(Path(sys.argv[1]).read_bytes(), Ingestion())\n"
        "except decoding.UnusablePhotoError as error: print(error)\n"
        "print(decoding.decode(Path(sys.argv[2]).read_bytes(), Ingestion()).width)\n"
    )
    intact = tmp_path / "photo.jpg"
    intact.write_bytes(encoded(quarters(), "JPEG"))
    process = subprocess.run([sys.executable, "-c", code, path, intact], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"(bomb|unreadable): .*\n96\n", process.stdout), process.stdout


@pytest.mark.parametrize("side", [10_001, 13_000, 20_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    with pytest.raises(UnusablePhotoError, match="bomb") as raised:
        normalise(header_only_png(side, side), SETTINGS)  # the file has a header and no pixels
    assert raised.value.reason == "bomb"


def test_concurrent_calls_keep_their_own_pixel_limit():
    data = encoded(quarters(), "PNG")
    strict, lax = replace(SETTINGS, maximum_pixels=96 * 128 - 1), replace(SETTINGS, maximum_pixels=96 * 128)

    def result(settings):
        try:
            return decode_image(data, settings).size
        except UnusablePhotoError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(result, [strict, lax] * 40)) == ["bomb", (96, 128)] * 40


def test_a_photo_below_the_minimum_side_is_too_small():
    with pytest.raises(
        UnusablePhotoError, match="too small: expected sides of 64 pixels or more, got 63 x 200"
    ) as raised:
        normalise(encoded(Image.new("RGB", (63, 200)), "PNG"), SETTINGS)
    assert raised.value.reason == "too small"


def test_a_strip_longer_than_jpeg_allows_is_refused():
    with pytest.raises(UnusablePhotoError, match="got a strip of 70000 x 64 pixels"):
        normalise(encoded(Image.new("L", (70_000, 64)), "PNG"), SETTINGS)


def test_an_unusable_photo_error_keeps_its_reason_when_pickled():
    error = pickle.loads(pickle.dumps(UnusablePhotoError("bomb", "too much")))
    assert (error.reason, error.detail, str(error)) == ("bomb", "too much", "bomb: too much")


REASONS = ("unreadable", "bomb", "too small")
SMALL = replace(SETTINGS, minimum_side=8, maximum_pixels=100_000)
WHOLE = {kind: write(scenery(40, 48)) for kind, (write, _) in PLAIN.items()}


def outcome(data):
    """Return the image, or the reason of an `UnusablePhotoError`. Other exceptions propagate."""
    try:
        return decode_image(data, SMALL)
    except UnusablePhotoError as error:
        return error.reason


@pytest.mark.slow
@budget(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1))
@example("png", 0.99)
def test_a_truncated_photo_gives_the_full_image_or_is_unreadable(kind, share):
    data = WHOLE[kind]
    result = outcome(data[: int(share * len(data))])
    assert result == "unreadable" or result.tobytes() == decode_image(data, SMALL).tobytes()


@pytest.mark.slow
@budget(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_photo_is_normalised_or_unusable(kind, damages):
    data = bytearray(WHOLE[kind])
    for position, value in damages:
        data[int(position * len(data))] = value
    result = outcome(bytes(data))
    assert result in REASONS or decode_image(encode(result, SMALL), SMALL).mode == "RGB"


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"BM", b"II*\0", b"MM\0*"]
MAGIC += [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"]


@pytest.mark.slow
@budget(max_examples=200, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_any_bytes_are_decoded_or_unusable(start, rest):
    result = outcome(start + rest)
    assert result in REASONS or result.mode == "RGB"
