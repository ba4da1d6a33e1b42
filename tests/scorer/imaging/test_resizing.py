"""Resizing: cykooz-resizer gives the pixels that Pillow gives."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.scorer.imaging import resizing

needs_wheel = pytest.mark.skipif(resizing.simd is None, reason="cykooz-resizer has no wheel for this machine")

LARGEST, RARE = 2, 0.03  # largest difference, of 255; largest fraction of samples that differ
BANDS = {"L": 1, "RGB": 3, "CMYK": 4}
sides = st.integers(32, 400)


def patches(width: int, height: int, mode: str, seed: int) -> Image.Image:
    """Return an image with hard edges between saturated colours, where resizing overshoots most."""
    samples = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, BANDS[mode]), "uint8")
    image = Image.fromarray(samples.squeeze(-1) if mode == "L" else samples, mode)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def by_pillow(function, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "simd", None)
        return function(*arguments)


@needs_wheel
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from(sorted(BANDS)), st.floats(0.1, 1), st.floats(0.1, 1), st.integers(0, 1000))
def test_shrinking_agrees_with_pillow_up_to_rounding(width, height, mode, across, down, seed):
    size = max(16, round(width * across)), max(16, round(height * down))
    image = patches(width, height, mode, seed)
    shrunk = resizing.shrink(image, size)
    difference = np.abs(np.asarray(shrunk, int) - np.asarray(by_pillow(resizing.shrink, image, size)))
    assert (shrunk.mode, shrunk.size) == (mode, size)
    assert difference.max() <= LARGEST
    assert (difference > 0).mean() <= RARE


@needs_wheel
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(8, 256), st.floats(0.1, 1), st.integers(0, 1000))
def test_resizing_and_center_cropping_agrees_with_pillow_up_to_1e_4(width, height, scale, share, seed):
    image, crop = patches(width, height, "RGB", seed), max(1, round(scale * share))
    cropped = resizing.resize_and_center_crop(image, scale, crop)
    assert (cropped.shape, cropped.dtype) == ((crop, crop, 3), np.float32)
    np.testing.assert_allclose(cropped, by_pillow(resizing.resize_and_center_crop, image, scale, crop), atol=1e-4)


@needs_wheel
def test_shrinking_a_large_photo_uses_a_box_filter_first_as_pillow_does():
    image = patches(1600, 1201, "RGB", 1)
    difference = np.asarray(resizing.shrink(image, (160, 120)), int) - by_pillow(resizing.shrink, image, (160, 120))
    assert np.abs(difference).max() <= LARGEST


@needs_wheel
def test_every_set_of_vector_instructions_gives_the_same_image(monkeypatch):
    image, results = patches(300, 400, "RGB", 1), {}
    resizer = resizing.simd.Resizer
    for extensions in ("none", "sse4_1", "avx2"):

        def limited_resizer(extensions=extensions):
            new_resizer = resizer()
            new_resizer.cpu_extensions = resizing.simd.CpuExtensions[extensions]
            return new_resizer

        monkeypatch.setattr(resizing.simd, "Resizer", limited_resizer)
        results[extensions] = resizing.shrink(image, (120, 160)).tobytes()
    assert len(set(results.values())) == 1


@pytest.mark.parametrize("wheel", [True, False])
@pytest.mark.parametrize("size", [(320, 213), (320, 40), (31, 640), (959, 639), (960, 640)])
def test_shrinking_in_strips_gives_the_same_image_as_shrinking_at_once(monkeypatch, size, wheel):
    if not wheel:
        monkeypatch.setattr(resizing, "simd", None)
    image = patches(961, 641, "RGB", 3)
    expected = resizing.shrink(image, size)
    monkeypatch.setattr(resizing, "_STRIP_PIXELS", 961 * 3)
    assert resizing.shrink(image, size).tobytes() == expected.tobytes()


def test_shrinking_in_strips_by_pillow_equals_pillow_resize(monkeypatch):
    monkeypatch.setattr(resizing, "simd", None)
    image = patches(1961, 1641, "RGB", 3)
    for size in ((320, 213), (900, 700), (1900, 100)):
        expected = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        assert resizing.shrink(image, size).tobytes() == expected.tobytes()


def test_threads_can_shrink_an_image_concurrently():
    image = patches(400, 300, "RGB", 1)
    with ThreadPoolExecutor(8) as pool:
        results = {shrunk.tobytes() for shrunk in pool.map(lambda _: resizing.shrink(image, (120, 90)), range(64))}
    assert results == {resizing.shrink(image, (120, 90)).tobytes()}


def test_an_opened_photo_without_loaded_pixels_can_be_shrunk(tmp_path):
    patches(200, 300, "RGB", 1).save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as image:
        assert resizing.shrink(image, (100, 150)).size == (100, 150)


def test_pillow_is_used_where_cykooz_resizer_is_missing():
    code = """
import sys
sys.modules["cykooz_resizer"] = None
from PIL import Image
from components.scorer.imaging import resizing
assert resizing.simd is None
print(resizing.shrink(Image.new("RGB", (40, 60), "red"), (20, 30)).getpixel((5, 5)), resizing.resize_and_center_crop(
    Image.new("RGB", (40, 60), "red"), 32, 28)[3, 3].tolist())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split("\n")[0] == "(255, 0, 0) [255.0, 0.0, 0.0]"
