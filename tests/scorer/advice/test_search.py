"""Advice: the flaw that a photo has is found, and what only fools the scorer is refused."""

import io
import zlib
from collections.abc import Callable
from functools import cache

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from components.ingestion.sample import Portrait, draw_portrait, random_portrait
from components.ingestion.sample.portrait import ASPECT
from components.scorer.advice import edit_session, edits, search
from components.scorer.advice.edits import EDITS
from components.scorer.faces.detector import FaceDetector
from components.scorer.faces.geometry import Box, Face
from components.scorer.imaging import resizing
from components.scorer.parameters import as_parameters, from_parameters
from components.scorer.settings import AdviceSettings, Ingestion
from tests.builders.advised_photos import GOOD, colour, detail, face, stops

SETTINGS = AdviceSettings()


@cache
def photo(side: int = 320, **properties) -> Image.Image:
    return draw_portrait(Portrait(**{**GOOD, **properties}), side)


def each(points: Callable[[np.ndarray], float]) -> search.ScoreFn:
    """A scorer that looks at one picture at a time: float ``[h, w, 3]``, 0..255."""
    return lambda pictures: np.array([points(pixels(one)) for one in pictures])


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, float)


def misfit(photo: np.ndarray, right: Image.Image) -> float:
    """How far a photo, or its mirror image, is from the right one, however tight its frame: mean of levels."""
    small = pixels(Image.fromarray(np.uint8(photo)).resize((64, 80)))
    frames = [pixels(right.resize((64, 80), box=_middle(right, kept))) for kept in (1, 0.95, 0.9, 0.85, 0.8, 0.75)]
    return min(float(np.abs(each - frame).mean()) for frame in frames for each in (small, small[:, ::-1]))


def _middle(image: Image.Image, kept: float) -> tuple[float, float, float, float]:
    aside, above = image.width * (1 - kept) / 2, image.height * (1 - kept) / 2
    return aside, above, image.width - aside, image.height - above


class Noise:
    """A scorer that tells nothing: for every picture another number, for the same picture the same."""

    def __init__(self, seed: int, deviation: float = 0.3):
        self.seed, self.deviation = seed, deviation

    def __call__(self, pictures: list[Image.Image]) -> np.ndarray:
        return np.array([5 + self.deviation * self._draw(zlib.crc32(one.tobytes())) for one in pictures])

    def _draw(self, content: int) -> float:
        return np.random.default_rng([self.seed, content]).standard_normal()


def advised(told: search.Advice) -> dict[str, search.Suggestion]:
    return {one.edit: one for one in told.suggestions}


def reasons(told: search.Advice) -> dict[str, str]:
    return {one.edit: one.why for one in told.refused}


# A known flaw is found


@pytest.mark.parametrize("exposure", [-2.0, -1.0, 1.0])
def test_a_photo_exposed_wrongly_is_told_the_stops_that_are_missing(exposure):
    right = stops(pixels(photo()))
    told = search.advise(photo(exposure=exposure), each(lambda p: 7 - abs(stops(p) - right)), [face()], SETTINGS)
    first = told.suggestions[0]
    assert (first.edit, first.unit) == ("brightness", "stops")
    assert first.value == pytest.approx(-exposure, abs=0.25)
    assert first.gain == pytest.approx(abs(exposure), abs=0.25)


@pytest.mark.parametrize("change", [-100, 80])
def test_a_photo_of_the_wrong_colour_is_told_how_much_warmer_or_cooler(change):
    right = colour(pixels(photo()))
    tinted = Image.fromarray(edits.warm(np.asarray(photo()), change))
    told = search.advise(tinted, each(lambda p: 7 - 5 * abs(colour(p) - right)), [face()], SETTINGS)
    assert advised(told)["warmth"].value == pytest.approx(-change, abs=10)


def test_a_blurred_photo_is_told_to_be_sharpened_and_a_sharp_one_is_not():
    right = detail(pixels(photo()))
    scorer = each(lambda p: 7 - 100 * abs(detail(p) - right))
    assert advised(search.advise(photo(blur=0.3), scorer, [face()], SETTINGS))["sharpness"].value > 0
    assert "sharpness" not in advised(search.advise(photo(), scorer, [face()], SETTINGS))


@pytest.mark.parametrize("tilt", [-8, 6])
def test_a_photo_that_leans_is_told_to_be_turned_back(tilt):
    upright, leaning = photo(y=0.5), photo(640, y=0.5, tilt=tilt)
    told = search.advise(leaning, each(lambda p: 7 - 0.3 * misfit(p, upright)), [face(y=0.5, tilt=tilt)], SETTINGS)
    assert advised(told)["straighten"].value == pytest.approx(-tilt, abs=1)


def test_a_face_too_small_is_told_the_crop_that_makes_it_as_large_as_it_should_be():
    small, right = {"size": 0.21, "x": 0.6}, photo(size=0.3)
    told = search.advise(photo(640, **small), each(lambda p: 7 - 0.3 * misfit(p, right)), [face(**small)], SETTINGS)
    assert advised(told)["crop"].value == pytest.approx(30, abs=5)


def test_a_photo_with_two_flaws_is_told_to_mend_both_together():
    dark, right = photo(exposure=-1.0, warmth=-1.0), pixels(photo(warmth=1.0))
    light, tint = stops(right), colour(right)
    scorer = each(lambda p: 9 - abs(stops(p) - light) - 5 * abs(colour(p) - tint))
    told = search.advise(dark, scorer, [face()], SETTINGS)
    assert {"brightness", "warmth"} <= told.together.settings.keys()
    assert told.together.gain > told.suggestions[0].gain + 0.3
    assert told.together.settings["brightness"] == pytest.approx(1, abs=0.5)


def test_several_edits_that_do_the_same_are_not_told_together():
    """Where brightness alone gives all there is to gain, nothing beside it is worth doing."""
    right = stops(pixels(photo()))
    told = search.advise(photo(exposure=-1.0), each(lambda p: 7 - abs(stops(p) - right)), [face()], SETTINGS)
    assert len(told.suggestions) > 1
    assert told.together is None or told.together.gain > told.suggestions[0].gain


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(key=st.sampled_from(["highlights", "shadows", "contrast", "warmth"]), share=st.floats(-1, 1))
def test_a_peak_anywhere_is_found_within_two_steps(key, share):
    """The scorer sees how near the photo is to one edited by a hidden value."""
    edit, image = EDITS[key], photo(160)
    at = share * (edit.high if share > 0 else -edit.low)
    hidden = edits.apply_edits(np.asarray(image), {key: at}).pixels.astype(float)
    scorer = each(lambda p: 7 - np.abs(p.mean(axis=1) - hidden.mean(axis=1)).mean() if p.shape == hidden.shape else 3.0)
    told = search.advise(image, scorer, None, AdviceSettings(minimum_gain=0.1), scored_side=160)
    sound = edit_session.EditSession(image, scorer, None, SETTINGS, 160, None)
    gain = 7 - scorer([image])[0]
    if gain > 4 and all(sound.is_plausible({key: edit.round_to_step(at * part)}) for part in (0.25, 0.5, 0.75, 1)):
        assert advised(told)[key].value == pytest.approx(at, abs=2 * edit.step)


def test_real_portraits_two_stops_too_dark_are_told_to_be_brightened_and_keep_their_face(portraits):
    detector = FaceDetector((portraits / "weights/yunet_n_640_640.onnx").read_bytes())
    files = sorted((portraits / "data/mebeauty/photos").rglob("*.jpg"))[::400]
    told = []
    for file in files:
        right = search.working_copy(file.read_bytes(), AdviceSettings(working_side=320), Ingestion())
        dark = Image.fromarray(edits.brighten(np.asarray(right), -2))
        light = stops(pixels(right))
        scorer = each(lambda p, light=light: 7 - abs(stops(p) - light))
        told.append(search.advise(dark, scorer, detector.find(dark), SETTINGS, find_faces=detector.find))
    assert len(told) >= 4
    for one in told:
        assert advised(one)["brightness"].value >= 1
        assert one.suggestions[0].gain >= 1


# What only fools the scorer is refused


def test_a_gain_at_one_exact_brightness_is_refused_by_name():
    at = stops(edits.brighten(np.asarray(photo()), 0.5).astype(float))
    told = search.advise(photo(), each(lambda p: 5.0 + 2 * (abs(stops(p) - at) < 0.03)), [face()], SETTINGS)
    assert "brightness" not in advised(told)
    assert reasons(told)["brightness"] == "spike"


def test_beside_a_spike_the_gain_that_is_true_is_told():
    dark = photo(exposure=-2.0)
    start, right = stops(pixels(dark)), stops(pixels(photo()))
    scorer = each(lambda p: 7 - abs(stops(p) - right) + 3 * (abs(stops(p) - start - 1) < 0.03))
    told = search.advise(dark, scorer, [face()], SETTINGS)
    assert advised(told)["brightness"].value >= 1.5


def test_a_gain_of_one_pattern_of_pixels_is_refused():
    wanted = edits.brighten(np.asarray(photo()), 0.5).astype(float)
    scorer = each(lambda p: 5 + 3 * np.exp(-np.abs(p - wanted).mean()) if p.shape == wanted.shape else 5.0)
    told = search.advise(photo(), scorer, [face()], SETTINGS)
    assert not told.suggestions
    assert reasons(told)["brightness"] in ("noise", "small")


def test_a_scorer_of_single_columns_is_not_followed():
    """What it sees changes its sign when the photo moves by a pixel, and grows when the photo is sharpened."""
    grain = np.random.default_rng(1).normal(0, 6, (400, 320, 1)) + 2 * (np.arange(320)[None, :, None] % 2)
    grainy = Image.fromarray(np.clip(pixels(photo()) + grain, 0, 255).astype(np.uint8))
    told = search.advise(grainy, each(lambda p: 5 + p[:, 1::2].mean() - p[:, ::2].mean()), [face()], SETTINGS)
    assert not told.suggestions


@pytest.mark.parametrize("seed", range(6))
def test_a_scorer_of_pure_noise_gives_no_advice(seed):
    told = search.advise(photo(128), Noise(seed), [face()], SETTINGS, scored_side=128)
    assert not told.suggestions
    assert told.together is None


def test_a_true_gain_that_drowns_in_noise_is_not_told():
    quiet, loud = Noise(1, 0.001), Noise(1, 0.8)
    dark = photo(exposure=-0.75)
    for scorer, found in ((quiet, True), (loud, False)):
        told = search.advise(
            dark, lambda some, s=scorer: s(some) + [0.5 * stops(pixels(p)) for p in some], None, SETTINGS
        )
        assert ("brightness" in advised(told)) == found


def test_a_dark_photo_is_not_told_to_be_darker_by_a_scorer_that_likes_it_so():
    told = search.advise(photo(exposure=-2.0), each(lambda p: 3 - stops(p)), [face()], SETTINGS)
    assert "brightness" not in advised(told)


def test_a_bright_photo_may_be_darkened_but_not_beyond_what_is_usual():
    told = search.advise(photo(exposure=0.75), each(lambda p: 3 - stops(p)), [face()], SETTINGS)
    value = advised(told)["brightness"].value
    after = edits.brighten(np.asarray(photo(exposure=0.75)), value)
    assert value < 0
    assert after.mean() / 255 >= edit_session.USUAL_RANGES["light"][0] - 0.01


def test_a_scorer_that_likes_light_does_not_burn_the_photo_out():
    told = search.advise(photo(exposure=-0.5), each(lambda p: 8 + stops(p)), [face()], SETTINGS)
    after = edits.brighten(np.asarray(photo(exposure=-0.5)), advised(told)["brightness"].value)
    assert (cv2.cvtColor(after, cv2.COLOR_RGB2GRAY) >= 250).mean() <= SETTINGS.maximum_clipped + 0.01


def test_the_skin_of_a_lit_face_is_not_burnt_out_to_brighten_a_dark_photo():
    """The face is a tenth of the photo, so that the photo as a whole bears more light than the face."""
    levels = np.full((400, 320, 3), 40, np.uint8)
    levels[100:180, 110:210] = (230, 190, 170)
    lit = Face(Box(110 / 320, 0.25, 100 / 320, 0.2), ((0.4, 0.3), (0.6, 0.3), (0.5, 0.35), (0.4, 0.4), (0.6, 0.4)), 0.9)
    scorer = each(lambda p: 8 + stops(p))
    assert "brightness" not in advised(search.advise(Image.fromarray(levels), scorer, [lit], SETTINGS))
    levels[100:180, 110:210] //= 3
    assert "brightness" in advised(search.advise(Image.fromarray(levels), scorer, [lit], SETTINGS))


def test_a_black_and_white_photo_is_not_tinted():
    likes_warm = each(lambda p: 5 + 3 * colour(p))
    grey = photo().convert("L").convert("RGB")
    assert "warmth" not in advised(search.advise(grey, likes_warm, [face()], SETTINGS))
    cold = Image.fromarray(edits.warm(np.asarray(photo()), -100))
    assert "warmth" in advised(search.advise(cold, likes_warm, [face()], SETTINGS))


def test_of_values_that_score_alike_the_mildest_is_told():
    start = stops(pixels(photo(exposure=-2.0)))
    scorer = each(lambda p: 5 + min(1.0, stops(p) - start))
    told = search.advise(photo(exposure=-2.0), scorer, [face()], SETTINGS)
    assert advised(told)["brightness"].value == pytest.approx(1, abs=0.25)


def test_the_crop_that_comes_with_turning_is_not_owed_to_turning():
    framed = np.full((800, 640, 3), 255, np.uint8)
    framed[16:-16, 16:-16] = np.asarray(photo(640))[16:-16, 16:-16]
    told = search.advise(Image.fromarray(framed), each(lambda p: 7 - 20 * (p > 253).mean()), [face()], SETTINGS)
    assert "crop" in advised(told)
    assert "straighten" not in advised(told)
    assert reasons(told)["straighten"] == "frame"


def test_a_face_that_is_large_enough_is_not_cropped_closer_by_a_scorer_that_likes_it_so():
    likes = each(lambda p: 7 - 0.3 * misfit(p, photo(size=0.6)))
    told = search.advise(photo(640), likes, [face()], SETTINGS)
    assert "crop" not in advised(told) or advised(told)["crop"].value <= 10


def test_a_level_face_is_not_turned_off_level():
    tilted = photo(640, y=0.5, tilt=8)
    told = search.advise(photo(640, y=0.5), each(lambda p: 7 - 0.3 * misfit(p, tilted)), [face(y=0.5)], SETTINGS)
    assert abs(advised(told)["straighten"].value if "straighten" in advised(told) else 0) <= 5


def test_an_edit_after_which_the_face_is_not_found_is_refused():
    scorer = each(lambda p: 9 + stops(p))
    told = search.advise(photo(exposure=-1.0), scorer, [face()], SETTINGS, find_faces=lambda image: [])
    assert not told.suggestions
    assert reasons(told)["brightness"] == "face"


@pytest.mark.parametrize(
    ("faces", "words"), [(None, "No face was found"), ([face(size=0.8)], "fills the photo well enough")]
)
def test_without_room_around_a_face_there_is_no_crop(faces, words):
    told = search.advise(photo(), each(lambda p: 5.0), faces, SETTINGS)
    (refusal,) = told.refused
    assert (refusal.edit, refusal.why) == ("crop", "unfit")
    assert words in refusal.reason


# Whatever the photo and the scorer


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6), score=st.floats(1, 10))
def test_a_constant_scorer_never_gives_advice(seed, score):
    portrait = random_portrait(np.random.default_rng(seed))
    eager = AdviceSettings(minimum_gain=0, noise_multiple=0, plateau=0)
    told = search.advise(draw_portrait(portrait, 96), each(lambda p: score), [face()], eager, scored_side=96)
    assert not told.suggestions
    assert told.together is None
    assert told.noise == pytest.approx(0, abs=1e-9)


@hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6))
def test_advice_keeps_its_bounds_and_tells_the_gain_that_is_measured_on_its_edit(seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, (1, 3, 30))
    image = draw_portrait(random_portrait(rng), 256)
    scorer = each(lambda p: 5 + weights @ [stops(p), colour(p), detail(p)])
    settings = AdviceSettings(smallest_crop=128)
    told = search.advise(image, scorer, [face()], settings, scored_side=160)
    several = [({one.edit: one.value}, one) for one in told.suggestions]
    several += [(told.together.settings, told.together)] if told.together else []
    for values, one in several:
        assert one.gain >= max(settings.minimum_gain, settings.noise_multiple * one.error)
        assert one.mean == pytest.approx(told.mean + one.gain)
        after = edits.apply_edits(np.asarray(image), values, face().box).pixels
        scale = 160 / min(after.shape[:2])
        size = (round(after.shape[1] * scale), round(after.shape[0] * scale))
        small = resizing.shrink(Image.fromarray(after), size)
        again = scorer(
            [Image.fromarray(copy) for copy in edit_session.imperceptible_variants(np.asarray(small))]
        ).mean()
        assert again == pytest.approx(one.mean, abs=1e-6)
        for key, value in values.items():
            assert EDITS[key].low <= value <= EDITS[key].high
            assert value == EDITS[key].round_to_step(value) != 0
    assert told.scorings <= settings.scorings


def test_the_same_photo_is_told_the_same_in_whatever_batches_it_is_scored():
    scorer = Noise(3, 0.01)

    def one_by_one(pictures: list[Image.Image]) -> np.ndarray:
        backward = [scorer([one])[0] + stops(pixels(one)) for one in reversed(pictures)]
        return np.array(backward[::-1])

    def at_once(pictures: list[Image.Image]) -> np.ndarray:
        return scorer(pictures) + [stops(pixels(one)) for one in pictures]

    first, second, third = (
        search.advise(photo(exposure=-1.0), each_way, [face()], SETTINGS) for each_way in (at_once, one_by_one, at_once)
    )
    assert first == second == third
    assert first.suggestions


def test_a_score_that_is_no_number_is_one_clear_error():
    with pytest.raises(ValueError, match="expected a finite score for each of 8 pictures"):
        search.advise(photo(), each(lambda p: float("nan")), None, SETTINGS)


# What the person reads and sees


def test_the_preview_is_the_edited_photo_of_a_size_for_phones():
    told = search.advise(photo(640, exposure=-1.0), each(lambda p: 9 + stops(p)), [face()], SETTINGS)
    first = advised(told)["brightness"]
    preview = Image.open(io.BytesIO(first.preview))
    edited = Image.fromarray(edits.brighten(np.asarray(photo(640, exposure=-1.0)), first.value))
    assert (preview.format, preview.size) == ("JPEG", (512, 640))
    assert np.abs(pixels(preview) - pixels(edited.resize(preview.size, Image.Resampling.LANCZOS))).mean() < 2


@pytest.mark.parametrize(
    ("values", "gain", "sentence"),
    [
        ({"brightness": 0.5}, 0.4, "Brighten the photo a little (about half a stop): it would score 0.4 higher."),
        ({"brightness": -1.5}, 1.23, "Darken the photo a lot (about one and a half stops): it would score 1.2 higher."),
        ({"warmth": -50.0}, 0.3, "Make the colours cooler (warmth about −50): it would score 0.3 higher."),  # noqa: RUF001
        ({"straighten": 5.0}, 0.3, "Turn the photo 5° clockwise: it would score 0.3 higher."),
        (
            {"crop": 20.0, "shadows": 30.0, "sharpness": 30.0},
            0.8,
            "Crop closer to the face, leaving off about 20 % of width and height, lift the shadows a little (to about"
            " +30) and sharpen the photo a little (sharpness about +30): it would score 0.8 higher.",
        ),
    ],
)
def test_the_sentence_is_what_one_would_say_to_a_friend(values, gain, sentence):
    assert search.sentence(values, gain) == sentence


def test_every_value_that_can_be_advised_has_its_words():
    for key, edit in EDITS.items():
        for step in range(1, 1 + round(edit.high / edit.step)):
            assert search.sentence({key: step * edit.step}, 0.2).endswith(": it would score 0.2 higher.")


def test_the_working_copy_is_larger_than_the_scored_photo_as_far_as_the_file_goes():
    for side, expected in ((1000, 640), (500, 500), (200, 200)):
        stream = io.BytesIO()
        photo(320).resize((side, round(side * ASPECT))).save(stream, "JPEG")
        assert min(search.working_copy(stream.getvalue(), SETTINGS, Ingestion()).size) == expected


def test_a_strip_is_not_worked_on_in_its_whole_length():
    stream = io.BytesIO()
    Image.new("RGB", (700, 14000)).save(stream, "JPEG")
    assert max(search.working_copy(stream.getvalue(), SETTINGS, Ingestion()).size) == 3 * 640


def test_the_settings_are_checked_as_all_others():
    assert from_parameters(AdviceSettings, **as_parameters(SETTINGS)) == SETTINGS
    with pytest.raises(ValueError, match="minimum_gain must be from 0 to 9, got 10"):
        from_parameters(AdviceSettings, minimum_gain=10)
