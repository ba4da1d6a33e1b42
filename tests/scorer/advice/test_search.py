"""Advice search: a known flaw gets its correction as advice, and edits that only exploit the scorer are refused."""

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
    """Return a score function that applies `points` to each picture, float ``[h, w, 3]``, 0..255."""
    return lambda pictures: np.array([points(pixels(picture)) for picture in pictures])


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, float)


def misfit(photo: np.ndarray, right: Image.Image) -> float:
    """Return the smallest mean absolute difference, in levels, between a photo and crops of `right`.

    The photo and its mirror image are both compared.
    """
    small = pixels(Image.fromarray(np.uint8(photo)).resize((64, 80)))
    frames = [pixels(right.resize((64, 80), box=_middle(right, kept))) for kept in (1, 0.95, 0.9, 0.85, 0.8, 0.75)]
    return min(float(np.abs(candidate - frame).mean()) for frame in frames for candidate in (small, small[:, ::-1]))


def _middle(image: Image.Image, kept: float) -> tuple[float, float, float, float]:
    aside, above = image.width * (1 - kept) / 2, image.height * (1 - kept) / 2
    return aside, above, image.width - aside, image.height - above


class Noise:
    """A scorer of noise: the score is random for each picture, and the same for identical pixels."""

    def __init__(self, seed: int, deviation: float = 0.3):
        self.seed, self.deviation = seed, deviation

    def __call__(self, pictures: list[Image.Image]) -> np.ndarray:
        return np.array([5 + self.deviation * self._draw(zlib.crc32(picture.tobytes())) for picture in pictures])

    def _draw(self, content: int) -> float:
        return np.random.default_rng([self.seed, content]).standard_normal()


def advised(told: search.Advice) -> dict[str, search.Suggestion]:
    return {suggestion.edit: suggestion for suggestion in told.suggestions}


def reasons(told: search.Advice) -> dict[str, str]:
    return {rejected.edit: rejected.why for rejected in told.refused}


# Known flaws


@pytest.mark.slow
@pytest.mark.parametrize("exposure", [-2.0, -1.0, 1.0])
def test_a_wrongly_exposed_photo_gets_the_missing_stops_as_advice(exposure):
    target = stops(pixels(photo()))
    advice = search.advise(photo(exposure=exposure), each(lambda p: 7 - abs(stops(p) - target)), [face()], SETTINGS)
    first = advice.suggestions[0]
    assert (first.edit, first.unit) == ("brightness", "stops")
    assert first.value == pytest.approx(-exposure, abs=0.25)
    assert first.gain == pytest.approx(abs(exposure), abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("change", [-100, 80])
def test_a_tinted_photo_gets_the_opposite_warmth_as_advice(change):
    target = colour(pixels(photo()))
    tinted = Image.fromarray(edits.warm(np.asarray(photo()), change))
    advice = search.advise(tinted, each(lambda p: 7 - 5 * abs(colour(p) - target)), [face()], SETTINGS)
    assert advised(advice)["warmth"].value == pytest.approx(-change, abs=10)


@pytest.mark.slow
def test_sharpening_is_advised_for_a_blurred_photo_only():
    target = detail(pixels(photo()))
    scorer = each(lambda p: 7 - 100 * abs(detail(p) - target))
    assert advised(search.advise(photo(blur=0.3), scorer, [face()], SETTINGS))["sharpness"].value > 0
    assert "sharpness" not in advised(search.advise(photo(), scorer, [face()], SETTINGS))


@pytest.mark.slow
@pytest.mark.parametrize("tilt", [-8, 6])
def test_a_tilted_photo_gets_the_opposite_rotation_as_advice(tilt):
    upright, leaning = photo(y=0.5), photo(640, y=0.5, tilt=tilt)
    advice = search.advise(leaning, each(lambda p: 7 - 0.3 * misfit(p, upright)), [face(y=0.5, tilt=tilt)], SETTINGS)
    assert advised(advice)["straighten"].value == pytest.approx(-tilt, abs=1)


@pytest.mark.slow
def test_a_photo_with_a_small_face_gets_the_crop_that_makes_the_face_large_enough():
    small, target = {"size": 0.21, "x": 0.6}, photo(size=0.3)
    advice = search.advise(photo(640, **small), each(lambda p: 7 - 0.3 * misfit(p, target)), [face(**small)], SETTINGS)
    assert advised(advice)["crop"].value == pytest.approx(30, abs=5)


@pytest.mark.slow
def test_a_photo_with_two_flaws_gets_a_combined_suggestion_for_both():
    dark, target = photo(exposure=-1.0, warmth=-1.0), pixels(photo(warmth=1.0))
    light, tint = stops(target), colour(target)
    scorer = each(lambda p: 9 - abs(stops(p) - light) - 5 * abs(colour(p) - tint))
    advice = search.advise(dark, scorer, [face()], SETTINGS)
    assert {"brightness", "warmth"} <= advice.together.settings.keys()
    assert advice.together.gain > advice.suggestions[0].gain + 0.3
    assert advice.together.settings["brightness"] == pytest.approx(1, abs=0.5)


@pytest.mark.slow
def test_edits_with_the_same_effect_are_not_combined():
    """Brightness alone corrects this photo. A combination is suggested only if it gains more than the best edit."""
    target = stops(pixels(photo()))
    advice = search.advise(photo(exposure=-1.0), each(lambda p: 7 - abs(stops(p) - target)), [face()], SETTINGS)
    assert len(advice.suggestions) > 1
    assert advice.together is None or advice.together.gain > advice.suggestions[0].gain


@pytest.mark.slow
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(key=st.sampled_from(["highlights", "shadows", "contrast", "warmth"]), share=st.floats(-1, 1))
def test_the_search_finds_a_hidden_optimum_to_within_two_steps(key, share):
    """The score is the similarity of the photo to a copy that was edited with a hidden value."""
    edit, image = EDITS[key], photo(160)
    optimum = share * (edit.high if share > 0 else -edit.low)
    hidden = edits.apply_edits(np.asarray(image), {key: optimum}).pixels.astype(float)
    scorer = each(lambda p: 7 - np.abs(p.mean(axis=1) - hidden.mean(axis=1)).mean() if p.shape == hidden.shape else 3.0)
    advice = search.advise(image, scorer, None, AdviceSettings(minimum_gain=0.1), scored_side=160)
    session = edit_session.EditSession(image, scorer, None, SETTINGS, 160, None)
    gain = 7 - scorer([image])[0]
    if gain > 4 and all(
        session.is_plausible({key: edit.round_to_step(optimum * fraction)}) for fraction in (0.25, 0.5, 0.75, 1)
    ):
        assert advised(advice)[key].value == pytest.approx(optimum, abs=2 * edit.step)


@pytest.mark.slow
def test_brightening_is_advised_for_real_portraits_that_are_two_stops_too_dark(portraits):
    detector = FaceDetector((portraits / "weights/yunet_n_640_640.onnx").read_bytes())
    files = sorted((portraits / "data/mebeauty/photos").rglob("*.jpg"))[::400]
    advice_of_photos = []
    for file in files:
        copy = search.working_copy(file.read_bytes(), AdviceSettings(working_side=320), Ingestion())
        dark = Image.fromarray(edits.brighten(np.asarray(copy), -2))
        target = stops(pixels(copy))
        scorer = each(lambda p, target=target: 7 - abs(stops(p) - target))
        advice_of_photos.append(search.advise(dark, scorer, detector.find(dark), SETTINGS, find_faces=detector.find))
    assert len(advice_of_photos) >= 4
    for advice in advice_of_photos:
        assert advised(advice)["brightness"].value >= 1
        assert advice.suggestions[0].gain >= 1


# Gains that are refused


def test_a_gain_at_one_exact_brightness_is_refused_as_a_spike():
    spike = stops(edits.brighten(np.asarray(photo()), 0.5).astype(float))
    advice = search.advise(photo(), each(lambda p: 5.0 + 2 * (abs(stops(p) - spike) < 0.03)), [face()], SETTINGS)
    assert "brightness" not in advised(advice)
    assert reasons(advice)["brightness"] == "spike"


@pytest.mark.slow
def test_a_true_gain_is_found_beside_a_spike():
    dark = photo(exposure=-2.0)
    start, target = stops(pixels(dark)), stops(pixels(photo()))
    scorer = each(lambda p: 7 - abs(stops(p) - target) + 3 * (abs(stops(p) - start - 1) < 0.03))
    advice = search.advise(dark, scorer, [face()], SETTINGS)
    assert advised(advice)["brightness"].value >= 1.5


@pytest.mark.slow
def test_a_gain_for_one_exact_image_is_refused():
    wanted = edits.brighten(np.asarray(photo()), 0.5).astype(float)
    scorer = each(lambda p: 5 + 3 * np.exp(-np.abs(p - wanted).mean()) if p.shape == wanted.shape else 5.0)
    advice = search.advise(photo(), scorer, [face()], SETTINGS)
    assert not advice.suggestions
    assert reasons(advice)["brightness"] in ("noise", "small")


@pytest.mark.slow
def test_a_scorer_that_compares_single_columns_gives_no_advice():
    """The score changes sign when the photo moves by a pixel, and grows when the photo is sharpened."""
    grain = np.random.default_rng(1).normal(0, 6, (400, 320, 1)) + 2 * (np.arange(320)[None, :, None] % 2)
    grainy = Image.fromarray(np.clip(pixels(photo()) + grain, 0, 255).astype(np.uint8))
    advice = search.advise(grainy, each(lambda p: 5 + p[:, 1::2].mean() - p[:, ::2].mean()), [face()], SETTINGS)
    assert not advice.suggestions


@pytest.mark.parametrize("seed", range(6))
def test_a_scorer_of_pure_noise_gives_no_advice(seed):
    advice = search.advise(photo(128), Noise(seed), [face()], SETTINGS, scored_side=128)
    assert not advice.suggestions
    assert advice.together is None


@pytest.mark.slow
def test_a_true_gain_below_the_noise_of_the_scorer_is_not_suggested():
    quiet, loud = Noise(1, 0.001), Noise(1, 0.8)
    dark = photo(exposure=-0.75)
    for scorer, expected in ((quiet, True), (loud, False)):
        advice = search.advise(
            dark,
            lambda pictures, noise=scorer: noise(pictures) + [0.5 * stops(pixels(picture)) for picture in pictures],
            None,
            SETTINGS,
        )
        assert ("brightness" in advised(advice)) == expected


def test_a_dark_photo_is_not_darkened_even_if_the_scorer_prefers_dark_photos():
    advice = search.advise(photo(exposure=-2.0), each(lambda p: 3 - stops(p)), [face()], SETTINGS)
    assert "brightness" not in advised(advice)


@pytest.mark.slow
def test_a_bright_photo_is_darkened_only_within_the_usual_range():
    advice = search.advise(photo(exposure=0.75), each(lambda p: 3 - stops(p)), [face()], SETTINGS)
    value = advised(advice)["brightness"].value
    after = edits.brighten(np.asarray(photo(exposure=0.75)), value)
    assert value < 0
    assert after.mean() / 255 >= edit_session.USUAL_RANGES["light"][0] - 0.01


def test_brightening_keeps_clipped_highlights_below_the_limit():
    advice = search.advise(photo(exposure=-0.5), each(lambda p: 8 + stops(p)), [face()], SETTINGS)
    after = edits.brighten(np.asarray(photo(exposure=-0.5)), advised(advice)["brightness"].value)
    assert (cv2.cvtColor(after, cv2.COLOR_RGB2GRAY) >= 250).mean() <= SETTINGS.maximum_clipped + 0.01


@pytest.mark.slow
def test_a_dark_photo_is_not_brightened_if_that_would_clip_the_face():
    """The face is a tenth of the photo, so the photo as a whole can be brightened more than the face."""
    levels = np.full((400, 320, 3), 40, np.uint8)
    levels[100:180, 110:210] = (230, 190, 170)
    lit = Face(Box(110 / 320, 0.25, 100 / 320, 0.2), ((0.4, 0.3), (0.6, 0.3), (0.5, 0.35), (0.4, 0.4), (0.6, 0.4)), 0.9)
    scorer = each(lambda p: 8 + stops(p))
    assert "brightness" not in advised(search.advise(Image.fromarray(levels), scorer, [lit], SETTINGS))
    levels[100:180, 110:210] //= 3
    assert "brightness" in advised(search.advise(Image.fromarray(levels), scorer, [lit], SETTINGS))


@pytest.mark.slow
def test_warmth_is_never_suggested_for_a_black_and_white_photo():
    likes_warm = each(lambda p: 5 + 3 * colour(p))
    grey = photo().convert("L").convert("RGB")
    assert "warmth" not in advised(search.advise(grey, likes_warm, [face()], SETTINGS))
    cold = Image.fromarray(edits.warm(np.asarray(photo()), -100))
    assert "warmth" in advised(search.advise(cold, likes_warm, [face()], SETTINGS))


@pytest.mark.slow
def test_the_mildest_of_equally_scored_values_is_suggested():
    start = stops(pixels(photo(exposure=-2.0)))
    scorer = each(lambda p: 5 + min(1.0, stops(p) - start))
    advice = search.advise(photo(exposure=-2.0), scorer, [face()], SETTINGS)
    assert advised(advice)["brightness"].value == pytest.approx(1, abs=0.25)


@pytest.mark.slow
def test_straightening_gets_no_credit_for_the_gain_of_its_crop():
    framed = np.full((800, 640, 3), 255, np.uint8)
    framed[16:-16, 16:-16] = np.asarray(photo(640))[16:-16, 16:-16]
    advice = search.advise(Image.fromarray(framed), each(lambda p: 7 - 20 * (p > 253).mean()), [face()], SETTINGS)
    assert "crop" in advised(advice)
    assert "straighten" not in advised(advice)
    assert reasons(advice)["straighten"] == "frame"


@pytest.mark.slow
def test_a_photo_with_a_large_enough_face_is_hardly_cropped_even_if_the_scorer_prefers_it():
    scorer = each(lambda p: 7 - 0.3 * misfit(p, photo(size=0.6)))
    advice = search.advise(photo(640), scorer, [face()], SETTINGS)
    assert "crop" not in advised(advice) or advised(advice)["crop"].value <= 10


@pytest.mark.slow
def test_a_level_face_is_hardly_rotated_even_if_the_scorer_prefers_tilted_faces():
    tilted = photo(640, y=0.5, tilt=8)
    advice = search.advise(photo(640, y=0.5), each(lambda p: 7 - 0.3 * misfit(p, tilted)), [face(y=0.5)], SETTINGS)
    assert abs(advised(advice)["straighten"].value if "straighten" in advised(advice) else 0) <= 5


def test_an_edit_that_hides_the_face_from_the_detector_is_refused():
    scorer = each(lambda p: 9 + stops(p))
    advice = search.advise(photo(exposure=-1.0), scorer, [face()], SETTINGS, find_faces=lambda image: [])
    assert not advice.suggestions
    assert reasons(advice)["brightness"] == "face"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faces", "words"), [(None, "No face was found"), ([face(size=0.8)], "fills the photo well enough")]
)
def test_a_crop_is_refused_without_a_face_or_without_room_around_it(faces, words):
    advice = search.advise(photo(), each(lambda p: 5.0), faces, SETTINGS)
    (refusal,) = advice.refused
    assert (refusal.edit, refusal.why) == ("crop", "unfit")
    assert words in refusal.reason


# Properties that hold for any photo and scorer


@pytest.mark.slow
@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6), score=st.floats(1, 10))
def test_a_constant_scorer_never_gives_advice(seed, score):
    portrait = random_portrait(np.random.default_rng(seed))
    eager = AdviceSettings(minimum_gain=0, noise_multiple=0, plateau=0)
    advice = search.advise(draw_portrait(portrait, 96), each(lambda p: score), [face()], eager, scored_side=96)
    assert not advice.suggestions
    assert advice.together is None
    assert advice.noise == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6))
def test_suggestions_keep_their_bounds_and_state_the_gain_measured_on_the_edited_photo(seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, (1, 3, 30))
    image = draw_portrait(random_portrait(rng), 256)
    scorer = each(lambda p: 5 + weights @ [stops(p), colour(p), detail(p)])
    settings = AdviceSettings(smallest_crop=128)
    advice = search.advise(image, scorer, [face()], settings, scored_side=160)
    suggestions = [({suggestion.edit: suggestion.value}, suggestion) for suggestion in advice.suggestions]
    suggestions += [(advice.together.settings, advice.together)] if advice.together else []
    for values, suggestion in suggestions:
        assert suggestion.gain >= max(settings.minimum_gain, settings.noise_multiple * suggestion.error)
        assert suggestion.mean == pytest.approx(advice.mean + suggestion.gain)
        after = edits.apply_edits(np.asarray(image), values, face().box).pixels
        scale = 160 / min(after.shape[:2])
        size = (round(after.shape[1] * scale), round(after.shape[0] * scale))
        small = resizing.shrink(Image.fromarray(after), size)
        mean = scorer([Image.fromarray(copy) for copy in edit_session.imperceptible_variants(np.asarray(small))]).mean()
        assert mean == pytest.approx(suggestion.mean, abs=1e-6)
        for key, value in values.items():
            assert EDITS[key].low <= value <= EDITS[key].high
            assert value == EDITS[key].round_to_step(value) != 0
    assert advice.scorings <= settings.scorings


@pytest.mark.slow
def test_advice_does_not_depend_on_how_photos_are_batched():
    scorer = Noise(3, 0.01)

    def one_by_one(pictures: list[Image.Image]) -> np.ndarray:
        reversed_scores = [scorer([picture])[0] + stops(pixels(picture)) for picture in reversed(pictures)]
        return np.array(reversed_scores[::-1])

    def at_once(pictures: list[Image.Image]) -> np.ndarray:
        return scorer(pictures) + [stops(pixels(picture)) for picture in pictures]

    first, second, third = (
        search.advise(photo(exposure=-1.0), batching, [face()], SETTINGS) for batching in (at_once, one_by_one, at_once)
    )
    assert first == second == third
    assert first.suggestions


def test_a_score_of_nan_is_refused():
    with pytest.raises(ValueError, match="expected a finite score for each of 8 pictures"):
        search.advise(photo(), each(lambda p: float("nan")), None, SETTINGS)


# Sentences, previews, working copies


@pytest.mark.slow
def test_the_preview_is_the_edited_photo_at_512_by_640_pixels():
    advice = search.advise(photo(640, exposure=-1.0), each(lambda p: 9 + stops(p)), [face()], SETTINGS)
    suggestion = advised(advice)["brightness"]
    preview = Image.open(io.BytesIO(suggestion.preview))
    edited = Image.fromarray(edits.brighten(np.asarray(photo(640, exposure=-1.0)), suggestion.value))
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
def test_a_suggestion_is_worded_as_a_plain_instruction(values, gain, sentence):
    assert search.sentence(values, gain) == sentence


def test_every_value_that_can_be_suggested_has_a_sentence():
    for key, edit in EDITS.items():
        for step in range(1, 1 + round(edit.high / edit.step)):
            assert search.sentence({key: step * edit.step}, 0.2).endswith(": it would score 0.2 higher.")


def test_the_working_copy_has_the_working_side_or_the_side_of_a_smaller_file():
    for side, expected in ((1000, 640), (500, 500), (200, 200)):
        stream = io.BytesIO()
        photo(320).resize((side, round(side * ASPECT))).save(stream, "JPEG")
        assert min(search.working_copy(stream.getvalue(), SETTINGS, Ingestion()).size) == expected


@pytest.mark.slow
def test_the_working_copy_of_a_strip_is_shortened():
    stream = io.BytesIO()
    Image.new("RGB", (700, 14000)).save(stream, "JPEG")
    assert max(search.working_copy(stream.getvalue(), SETTINGS, Ingestion()).size) == 3 * 640


def test_the_advice_settings_are_validated_like_all_other_settings():
    assert from_parameters(AdviceSettings, **as_parameters(SETTINGS)) == SETTINGS
    with pytest.raises(ValueError, match="minimum_gain must be from 0 to 9, got 10"):
        from_parameters(AdviceSettings, minimum_gain=10)
