"""Scorers on changed photos: each gate fails for the scorer that was made to fail it, and for no other."""

import io
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats
from scipy.ndimage import gaussian_filter

from components.evaluation.checks import robustness
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.imaging import preprocessing_tf
from components.scorer.parameters import from_parameters
from components.scorer.run import decision
from components.scorer.settings import SCORES, Evaluation, Pretraining, Training
from tests.conftest import drawn_photo, votes_around

SETTINGS = Evaluation(behaviour_photos=32, perturbation_photos=4)
PHOTOS = 32
MADE_WORSE = ("blur", "darkening", "overexposure", "compression", "noise")


def textured_photo(seed: int) -> bytes:
    """A PNG of dim greys that eight times the light does not burn: coarse waves, noise, and stripes a pixel wide.

    Its width is odd, so that a mirror image has its columns at the same parity as before, and a shifted one not.
    """
    rng = np.random.default_rng(seed)
    width, height = 97, 64
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    slope = 70 + rng.uniform(-5, 5) + rng.uniform(-12, 12) * (x / width - 0.5)
    waves = 10 * np.sin(2 * np.pi * (x / 24 + rng.uniform())) * np.sin(2 * np.pi * (y / 16 + rng.uniform()))
    stripes = 3 * (1 - 2 * ((x + seed) % 2))  # as many photos begin with a bright column as with a dark one
    grey = slope + waves + stripes + rng.normal(0, 6, (height, width))
    return png(Image.fromarray(np.clip(np.rint(grey), 0, 255).astype("uint8")).convert("RGB"))


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


class Eye:
    """A scorer in a few lines: points for one property of a photo, on top of the middle."""

    def __init__(self, points):
        self.points = points

    def score(self, photos: list[bytes]) -> np.ndarray:
        return np.array([votes_around(np.clip(5.5 + self.points(photo), 2, 9)) for photo in photos])


def grey(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)


def detail(data: bytes) -> float:
    """Fine contrast over coarse contrast, in powers of two: the light does not matter."""
    pixels = grey(data)
    smooth = gaussian_filter(pixels, 2)
    return float(np.log2((np.std(pixels - smooth) + 0.1) / (np.std(smooth) + 0.1)))


def brightness(data: bytes) -> float:
    return float(np.median(grey(data)) / 70)


def blocks(data: bytes) -> float:
    """How much more neighbours differ across the borders of JPEG's blocks than within; about 1 without blocks."""
    steps = np.abs(np.diff(grey(data), axis=0)).mean(axis=1)
    border = np.arange(len(steps)) % 8 == 7
    return float((steps[border].mean() + 1) / (steps[~border].mean() + 1))


def leaning(data: bytes) -> float:
    """Which half is brighter, of the whole light."""
    pixels = grey(data)
    half = pixels.shape[1] // 2
    return float((pixels[:, :half].mean() - pixels[:, -half:].mean()) / pixels.mean())


def parity(data: bytes) -> float:
    """What an eye sees that looks at every second column only."""
    pixels = grey(data)
    return float((pixels[:, ::2].mean() - pixels[:, 1::2].mean()) / pixels.mean())


FAULTS = {
    "blur": lambda photo: -0.6 * detail(photo) - 0.5 * blocks(photo),  # likes smoothness, and sees blocks
    "darkening": lambda photo: -brightness(photo),
    "overexposure": lambda photo: brightness(photo),
    "compression": lambda photo: 0.2 * blocks(photo),
    "noise": lambda photo: 0.6 * detail(photo),
    "mirror": lambda photo: 5 * leaning(photo),
    "shift": lambda photo: 3 * parity(photo),
    "reencoding": lambda photo: -float(photo.startswith(b"\xff\xd8")),  # takes a JPEG for worse than a PNG
}
"""What each faulty scorer gives points for."""


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [textured_photo(seed) for seed in range(PHOTOS)]


def checkered(points: float) -> TrainedScorer:
    """A Keras scorer that sees nothing but a chessboard of single pixels, which no photo holds."""
    pixels = keras.Input((32, 32, 3), name="pixels")
    board = keras.layers.Conv2D(1, 2, strides=2, name="board")
    head = keras.layers.Dense(len(SCORES), activation="softmax", name="votes")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(board(pixels))
    model = keras.Model(pixels, head(pooled), name="scorer")
    board.set_weights([np.tile(np.array([[1.0, -1.0], [-1.0, 1.0]])[..., None, None], (1, 1, 3, 1)) / 12, np.zeros(1)])
    scores = np.array(SCORES, float)
    head.set_weights([points * scores[None], 5.5 * scores - scores**2 / 2])  # a discretised normal distribution
    return TrainedScorer(model, from_parameters(Pretraining, start="none", crop=32), Training(scale=36))


def failed(gates: list[decision.GateResult]) -> set[str]:
    return {gate.key for gate in gates if gate.verdict == "failed"}


def judged(photos: list[bytes], scorer, settings: Evaluation = SETTINGS) -> list[decision.GateResult]:
    return robustness.gates(robustness.measure_robustness(photos, scorer, settings), settings)


@pytest.mark.parametrize("key", FAULTS)
def test_a_scorer_with_one_fault_fails_the_gate_of_that_fault_alone(key, photos):
    gates = judged(photos, Eye(FAULTS[key]))
    assert failed(gates) == {key}


def test_a_scorer_that_an_invisible_perturbation_raises_fails_that_gate_alone(photos):
    assert failed(judged(photos, checkered(points=2.0))) == {"perturbation"}


def test_a_scorer_without_a_fault_passes_every_gate(photos):
    gates = judged(photos, checkered(points=0.2))
    assert {gate.verdict for gate in gates} == {"passed"}
    assert [gate.key for gate in gates] == [*MADE_WORSE, "mirror", "shift", "reencoding", "perturbation"]


def test_the_perturbation_rises_by_what_the_budget_gives_a_linear_scorer(photos):
    found = robustness.measure_robustness(photos, checkered(points=0.5), SETTINGS).perturbation
    assert found.rise == pytest.approx(0.5 * SETTINGS.perturbation_budget, rel=0.05)
    assert len(found.before) == len(found.after) == SETTINGS.perturbation_photos
    assert found.largest >= found.rise


def test_a_scorer_without_gradients_is_not_judged_on_perturbations(photos):
    gates = {gate.key: gate for gate in judged(photos[:4], Eye(lambda photo: 0.0))}
    assert gates["perturbation"].verdict == "not judged"


def test_a_slight_blur_that_raises_scores_is_found_though_a_strong_one_lowers_them(photos):
    fond_of_smooth_skin = robustness.measure_robustness(photos, Eye(lambda photo: -abs(detail(photo) - 0.2)), SETTINGS)
    slight, strong = (response for response in fond_of_smooth_skin.responses if response.key == "blur")
    assert slight.mean > 0.1 > 0 > strong.mean
    (gate,) = (gate for gate in robustness.gates(fond_of_smooth_skin, SETTINGS) if gate.key == "blur")
    assert gate.verdict == "failed"
    assert gate.value == slight.mean


def test_each_photo_has_its_own_change_whatever_the_batches(photos):
    found = robustness.measure_robustness([*photos, photos[0]], Eye(detail), SETTINGS)
    assert {len(found.before), *(len(response.changes) for response in found.responses)} == {PHOTOS + 1}
    for response in found.responses:
        again = response.changes[-1] == pytest.approx(response.changes[0], abs=1e-9)
        assert again == (response.key != "noise")


def test_the_same_seed_gives_the_same_noise_and_another_seed_another(photos):
    def noise(seed: int) -> list:
        found = robustness.measure_robustness(photos[:4], Eye(detail), replace(SETTINGS, seed=seed))
        return [response.changes for response in found.responses if response.key == "noise"]

    assert noise(1) == noise(1)
    assert noise(1) != noise(2)


def test_a_scorer_that_gives_no_numbers_fails_with_a_reason(photos):
    gates = judged(photos[:4], Eye(lambda photo: float("nan")))
    assert failed(gates) == {gate.key for gate in gates} - {"perturbation"}
    assert all("could not be measured" in gate.reason for gate in gates if gate.verdict == "failed")


def test_one_photo_says_nothing_of_the_average(photos):
    assert failed(judged(photos[:1], Eye(lambda photo: 0.0))) == set(MADE_WORSE)


def test_no_photo_is_an_error(photos):
    with pytest.raises(ValueError, match="expected photos"):
        robustness.measure_robustness([], Eye(detail), SETTINGS)


def test_what_was_observed_is_json(photos):
    found = decision.to_json_value(robustness.measure_robustness(photos[:3], checkered(0.2), SETTINGS))
    assert found["responses"][0]["key"] == "blur"
    assert len(found["responses"][0]["changes"]) == 3
    assert found["perturbation"]["budget"] == SETTINGS.perturbation_budget


def test_the_interval_is_that_of_students_t(photos):
    response = robustness.measure_robustness(photos, Eye(detail), SETTINGS).responses[0]
    expected = stats.ttest_1samp(response.changes, 0).confidence_interval(SETTINGS.confidence)
    assert (response.low, response.high) == pytest.approx((expected.low, expected.high))


def test_reasons_give_the_figures(photos):
    gates = {gate.key: gate for gate in judged(photos, Eye(FAULTS["darkening"]))}
    assert "an exposure 2 stops down" in gates["darkening"].reason
    assert f"{gates['darkening'].value:+.3f}" in gates["darkening"].reason
    assert f"of {PHOTOS} photos" in gates["darkening"].reason
    assert "0.2 on average" in gates["mirror"].reason


# What is done to the photos


def test_an_unchanged_picture_has_the_very_pixels_that_the_scorer_reads():
    data = drawn_photo(0.5, size=(60, 45))
    again = robustness._encode_png(robustness._decode_image(data))
    np.testing.assert_array_equal(
        preprocessing_tf.decode(tf.constant(again)), preprocessing_tf.decode(tf.constant(data))
    )


def test_two_stops_down_leave_a_quarter_of_the_light():
    table = np.array(robustness._exposure_table(-2)[:256])
    assert table[188] == 99  # of sRGB's values, 188 is half of the light, 99 an eighth and 137 a quarter
    assert table[255] == 137
    assert (np.diff(table) >= 0).all()


def test_two_stops_up_burn_out_whatever_had_a_quarter_of_the_light():
    table = robustness._exposure_table(2)
    assert table[137] == 255
    assert table[99] == pytest.approx(188, abs=1)


def test_a_shift_moves_each_pixel_by_one_and_keeps_the_size():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    shifted = np.asarray(robustness._shift_one_pixel(Image.fromarray(pixels)))
    np.testing.assert_array_equal(shifted[1:, 1:], pixels[:-1, :-1])
    assert shifted.shape == pixels.shape


# What is drawn


def records(total: int):
    return iter([{"photo": str(number).encode(), "photo_id": f"{number}.jpg"} for number in range(total)])


def test_a_sample_is_drawn_once_in_the_order_of_the_split_and_by_the_seed():
    drawn = [int(photo) for photo in robustness.sample_photos(lambda: records(200), 200, SETTINGS)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == SETTINGS.behaviour_photos
    assert drawn == [int(photo) for photo in robustness.sample_photos(lambda: records(200), 200, SETTINGS)]
    assert drawn != [
        int(photo) for photo in robustness.sample_photos(lambda: records(200), 200, replace(SETTINGS, seed=2))
    ]


def test_a_small_split_is_taken_whole():
    assert len(robustness.sample_photos(lambda: records(7), 7, SETTINGS)) == 7


def test_records_after_the_last_drawn_one_are_not_read():
    read = []

    def watched():
        for record in records(1000):
            read.append(record["photo_id"])
            yield record

    last = int(robustness.sample_photos(watched, 1000, replace(SETTINGS, behaviour_photos=3))[-1])
    assert len(read) == last + 1


# How sure the gates are


def test_holms_correction_is_that_of_the_worked_example():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R
    assert robustness._holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_chance_is_that_of_scipys_one_sided_test():
    changes = np.random.default_rng(0).normal(0.1, 0.5, 40)
    expected = stats.ttest_1samp(changes, 0, alternative="greater").pvalue
    assert robustness._p_value(changes) == pytest.approx(expected)


def rising(by: float, rng: np.random.Generator, spread: float = 0.5, photos: int = 128) -> robustness.RobustnessResults:
    """What would be observed of a scorer that all photos made worse gain from, on average by so much."""
    changes = [change for change in robustness._changes() if change.worse]
    means = rng.normal(by, spread, (len(changes), photos))
    responses = [
        robustness._summarize_response(change, row, SETTINGS) for change, row in zip(changes, means, strict=True)
    ]
    return robustness.RobustnessResults((5.0,) * photos, responses, None)


def test_a_scorer_that_does_not_react_on_average_is_refused_by_chance_at_most_once_in_twenty():
    rng = np.random.default_rng(1)
    every_rise_counts = replace(SETTINGS, maximum_rise=0.0)
    refused = sum(bool(failed(robustness.gates(rising(0, rng), every_rise_counts))) for _ in range(400))
    assert 0 < refused / 400 <= SETTINGS.significance + 0.02  # two standard errors of 400 draws


def test_a_rise_by_a_fifth_of_a_point_is_found_on_the_photos_that_are_drawn_by_default():
    rng = np.random.default_rng(1)
    drawn = [rising(0.2, rng, photos=Evaluation().behaviour_photos) for _ in range(50)]
    assert sum(failed(robustness.gates(each, SETTINGS)) == set(MADE_WORSE) for each in drawn) / 50 >= 0.8


def test_a_certain_rise_that_does_not_matter_passes():
    found = rising(0.03, np.random.default_rng(1), spread=0.05, photos=1000)
    assert found.responses[0].low > 0
    assert not failed(robustness.gates(found, SETTINGS))
