"""Edits: tone changes match their formulas, and crops and rotations keep the aspect ratio and the head."""

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.ingestion.sample import Portrait, draw_portrait
from components.scorer.advice import edits
from components.scorer.advice.edits import EDITS, EditName
from components.scorer.faces.geometry import Box

FACE = Box(0.35, 0.3, 0.3, 0.3)
TONES = ("brightness", "highlights", "shadows", "contrast", "warmth", "sharpness")


def grey_steps() -> np.ndarray:
    """Return all 256 greys side by side, uint8 [8, 256, 3]."""
    return np.repeat(np.tile(np.arange(256, dtype=np.uint8), (8, 1))[..., None], 3, axis=2)


def portrait(side: int = 160, **properties) -> np.ndarray:
    return np.asarray(draw_portrait(Portrait(**properties), side))


def light(levels: np.ndarray) -> np.ndarray:
    encoded = levels / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("key", EDITS)
def test_an_edit_with_value_0_changes_no_pixel(key):
    pixels = portrait()
    np.testing.assert_array_equal(edits.apply_edits(pixels, {key: 0.0}, FACE).pixels, pixels)


@pytest.mark.parametrize("key", EDITS)
def test_an_edit_does_not_change_its_input(key):
    pixels = portrait()
    before = pixels.copy()
    edits.apply_edits(pixels, {key: EDITS[key].high / 2}, FACE)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("key", TONES)
def test_a_larger_value_changes_pixels_more(key):
    pixels, edit = portrait().astype(int), EDITS[key]
    for sign, limit in ((1, edit.high), (-1, -edit.low)):
        differences = [
            np.abs(edits.apply_edits(pixels.astype(np.uint8), {key: sign * limit * share}).pixels - pixels).mean()
            for share in (0.25, 0.5, 0.75, 1)
            if limit
        ]
        assert differences == sorted(differences)
        assert not differences or differences[0] > 0


@pytest.mark.parametrize("key", ["brightness", "highlights", "shadows", "contrast", "warmth"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(share=st.floats(-1, 1))
def test_tone_edits_are_monotonic_in_brightness(key, share):
    edit = EDITS[key]
    value = share * (edit.high if share > 0 else -edit.low)
    after = edits.apply_edits(grey_steps(), {key: value}).pixels[0].astype(int)
    assert (np.diff(after, axis=0) >= 0).all()


@pytest.mark.parametrize("stops", [-2, -1, 0.5, 1, 2])
def test_brightness_multiplies_linear_light(stops):
    before = grey_steps()
    after = light(edits.brighten(before, stops)[0, :, 0])
    np.testing.assert_allclose(after, np.minimum(light(before[0, :, 0]) * 2**stops, 1), atol=0.005)


def test_highlights_and_shadows_each_change_only_their_half_and_keep_its_ends():
    steps = grey_steps()
    bright, dark = edits.highlights(steps, 100)[0, :, 0], edits.shadows(steps, 100)[0, :, 0]
    np.testing.assert_array_equal(bright[:127], steps[0, :127, 0])
    np.testing.assert_array_equal(dark[129:], steps[0, 129:, 0])
    assert (bright[255], dark[0]) == (255, 0)
    assert bright[191] - 191 == pytest.approx(25.5, abs=1)
    assert int(dark[64]) - 64 == pytest.approx(25.5, abs=1)


def test_contrast_raises_the_deviation_and_keeps_the_mean():
    pixels = portrait()
    luma = [np.asarray(Image.fromarray(image).convert("L"), float) for image in (pixels, edits.contrast(pixels, 40))]
    assert luma[1].mean() == pytest.approx(luma[0].mean(), abs=5)
    assert luma[1].std() / luma[0].std() == pytest.approx(1.35, abs=0.1)


def test_warmth_changes_the_ratio_of_red_to_blue_and_keeps_the_luminance():
    grey = np.full((8, 8, 3), 120, np.uint8)
    warm, cool = light(edits.warm(grey, 100)[0, 0]), light(edits.warm(grey, -100)[0, 0])
    assert np.log2(warm[0] / warm[2]) == pytest.approx(0.6, abs=0.03)
    assert np.log2(cool[0] / cool[2]) == pytest.approx(-0.6, abs=0.03)
    for after in (warm, cool):
        assert after @ [0.2126, 0.7152, 0.0722] == pytest.approx(light(np.array(120)), abs=0.003)


def test_cooling_and_warming_by_the_same_value_cancel_out():
    pixels = portrait()
    restored = edits.warm(edits.warm(pixels, -60), 60).astype(int)
    assert np.abs(restored - pixels).mean() < 1


def test_sharpening_a_slightly_blurred_photo_brings_it_nearer_to_the_sharp_one():
    sharp, blurred = portrait(blur=0.0).astype(float), portrait(blur=0.4)
    errors = [np.abs(edits.sharpen(blurred, percent) - sharp).mean() for percent in (0, 50, 100)]
    assert errors[0] > errors[1] > errors[2]


def test_an_edit_has_the_same_effect_on_a_photo_and_on_its_smaller_copy():
    large = Image.fromarray(portrait(480))
    small = np.asarray(large.resize((240, 300), Image.Resampling.LANCZOS))
    for key in TONES:
        values = {key: EDITS[key].high / 2}
        edited = Image.fromarray(edits.apply_edits(np.asarray(large), values).pixels)
        edited_then_shrunk = np.asarray(edited.resize((240, 300), Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(edits.apply_edits(small, values).pixels - edited_then_shrunk).mean() < 1, key


# The frame


def spot(x: float, y: float, size: tuple[int, int] = (300, 400)) -> np.ndarray:
    """Return a photo with a bright spot at `x` and `y`, fractions of width and height."""
    width, height = size
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    distance = np.hypot(across - x * (width - 1), down - y * (height - 1))
    return np.repeat(np.uint8(255 * np.exp(-((distance / 6) ** 2)))[..., None], 3, axis=2)


def place(pixels: np.ndarray) -> tuple[float, float]:
    """Return the position of the spot as fractions of width and height."""
    weights = pixels[..., 0].astype(float)
    down, across = np.indices(weights.shape)
    height, width = weights.shape
    return (
        (across * weights).sum() / weights.sum() / (width - 1),
        (down * weights).sum() / weights.sum() / (height - 1),
    )


@pytest.mark.parametrize("degrees", [-15, -4, 3, 10])
def test_straightening_keeps_the_aspect_ratio_and_shows_no_empty_corner(degrees):
    white = np.full((400, 300, 3), 255, np.uint8)
    after = edits.straighten(white, degrees)
    assert after.min() == 255
    assert after.shape[0] / after.shape[1] == pytest.approx(4 / 3, rel=0.01)
    assert after.shape[0] < 400


def test_straightening_keeps_the_largest_frame_without_empty_corners():
    kept = edits.fraction_kept(10, 300, 400)
    angle = np.radians(10)
    corners = np.array([[x, y] for x, y in itertools.product((-1, 1), (-1, 1))]) * kept * np.array([150, 200])
    extent = np.abs(corners @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).max(axis=0)
    assert max(extent / [150, 200]) == pytest.approx(1)


@pytest.mark.parametrize("degrees", [-12, 5, 15])
def test_a_box_turns_with_the_photo(degrees):
    box = Box(0.55, 0.25, 0.1, 0.1)
    after = edits.straighten(spot(0.6, 0.3), degrees)
    x, y, width, height = edits.turn_box(box, degrees, 300, 400)
    assert place(after) == pytest.approx((x + width / 2, y + height / 2), abs=0.006)


def test_a_positive_angle_rotates_clockwise():
    assert place(edits.straighten(spot(0.8, 0.5), 10))[1] > 0.53


def test_rotating_a_tilted_portrait_back_makes_it_upright():
    upright, leaning = portrait(320, y=0.5), portrait(320, y=0.5, tilt=8)
    errors = {}
    for degrees in (-8, 0, 8):
        after = edits.straighten(leaning, degrees)
        height, width = after.shape[:2]
        top, left = (upright.shape[0] - height) // 2, (upright.shape[1] - width) // 2
        errors[degrees] = np.abs(after.astype(int) - upright[top : top + height, left : left + width]).mean()
    assert errors[-8] < 0.5 * errors[0] < errors[8]


boxes = st.builds(
    lambda x, y, width, height: Box(x - width / 2, y - height / 2, width, height),
    st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.02, 0.6), st.floats(0.02, 0.6),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(face=boxes, share=st.floats(0, 1))
def test_a_crop_keeps_the_head_whole_and_stays_in_the_photo(face, share):
    percent = share * edits.max_crop_percent(face)
    left, top, width, height = edits.crop_frame(percent, face)
    x, y, head_width, head_height = edits.head_box(face)
    assert width == height == pytest.approx(1 - percent / 100)
    assert left >= -1e-9
    assert top >= -1e-9
    assert left + width <= 1 + 1e-9
    assert top + height <= 1 + 1e-9
    assert left <= x + 1e-6
    assert top <= y + 1e-6
    assert left + width >= x + head_width - 1e-6
    assert top + height >= y + head_height - 1e-6


def test_a_crop_centres_a_head_that_is_off_centre():
    face = Box(0.65, 0.3, 0.15, 0.15)
    after = edits.apply_edits(portrait(), {"crop": 40}, face).face
    assert abs(after.x + after.width / 2 - 0.5) < 0.1 < abs(face.x + face.width / 2 - 0.5)


def test_a_crop_that_would_cut_the_head_is_refused_with_the_largest_allowed_crop():
    with pytest.raises(ValueError, match=r"a crop of 45 % would cut the head; at most 41\.5 % keep it whole"):
        edits.crop_frame(45, FACE)


def test_no_edit_enlarges_the_photo():
    pixels = portrait()
    for key, edit in EDITS.items():
        for value in (edit.low, edit.high):
            after = edits.apply_edits(pixels, {key: min(value, 40)}, FACE).pixels
            assert after.shape[0] <= pixels.shape[0], key
            assert after.shape[1] <= pixels.shape[1], key
            assert after.dtype == np.uint8


def test_the_order_in_which_edits_are_named_does_not_matter():
    values = {"straighten": 4, "crop": 20, "brightness": 0.5, "warmth": -30, "sharpness": 40}
    first = edits.apply_edits(portrait(), values, FACE)
    second = edits.apply_edits(portrait(), dict(reversed(values.items())), FACE)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.face == second.face


def test_the_first_values_of_every_edit_are_nonzero_steps_within_its_range():
    assert tuple(EDITS) == get_args(EditName)
    for edit in EDITS.values():
        assert edit.low <= 0 < edit.high
        for value in edit.first_values:
            assert value != 0
            assert edit.round_to_step(value) == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "face", "words"),
    [
        ({"brightnes": 1}, FACE, r"expected edits of \['straighten', .*\], got 'brightnes'"),
        ({"brightness": 3}, FACE, "brightness must be from -2 to 2 stops, got 3"),
        ({"crop": 20}, None, "a crop needs the box of the face"),
    ],
)
def test_an_unknown_edit_a_value_out_of_range_and_a_crop_without_a_face_are_refused(values, face, words):
    with pytest.raises(ValueError, match=words):
        edits.apply_edits(portrait(), values, face)
