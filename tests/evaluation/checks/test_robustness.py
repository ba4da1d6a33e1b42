"""Robustness gates: each gate fails for the one scorer that was built to fail it, and for no other."""

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
    """Return a PNG of dim greys with coarse waves, noise and stripes one pixel wide; overexposure does not burn it.

    The width is odd. So a mirrored photo keeps the parity of its columns, and a shifted photo does not.
    """
    rng = np.random.default_rng(seed)
    width, height = 97, 64
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    slope = 70 + rng.uniform(-5, 5) + rng.uniform(-12, 12) * (x / width - 0.5)
    waves = 10 * np.sin(2 * np.pi * (x / 24 + rng.uniform())) * np.sin(2 * np.pi * (y / 16 + rng.uniform()))
    stripes = 3 * (1 - 2 * ((x + seed) % 2))  # half of the photos begin with a bright column
    grey = slope + waves + stripes + rng.normal(0, 6, (height, width))
    return png(Image.fromarray(np.clip(np.rint(grey), 0, 255).astype("uint8")).convert("RGB"))


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


class Eye:
    """A scorer that adds points for one property of a photo to the middle score 5.5."""

    def __init__(self, points):
        self.points = points

    def score(self, photos: list[bytes]) -> np.ndarray:
        return np.array([votes_around(np.clip(5.5 + self.points(photo), 2, 9)) for photo in photos])


def grey(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)


def detail(data: bytes) -> float:
    """Return log2 of fine contrast over coarse contrast; it does not depend on brightness."""
    pixels = grey(data)
    smooth = gaussian_filter(pixels, 2)
    return float(np.log2((np.std(pixels - smooth) + 0.1) / (np.std(smooth) + 0.1)))


def brightness(data: bytes) -> float:
    return float(np.median(grey(data)) / 70)


def blocks(data: bytes) -> float:
    """Return the difference of neighbours across JPEG block borders over that within blocks; about 1 without blocks."""
    steps = np.abs(np.diff(grey(data), axis=0)).mean(axis=1)
    border = np.arange(len(steps)) % 8 == 7
    return float((steps[border].mean() + 1) / (steps[~border].mean() + 1))


def leaning(data: bytes) -> float:
    """Return the brightness difference of left and right half, as a fraction of the mean brightness."""
    pixels = grey(data)
    half = pixels.shape[1] // 2
    return float((pixels[:, :half].mean() - pixels[:, -half:].mean()) / pixels.mean())


def parity(data: bytes) -> float:
    """Return the brightness difference of even and odd columns, as a fraction of the mean brightness."""
    pixels = grey(data)
    return float((pixels[:, ::2].mean() - pixels[:, 1::2].mean()) / pixels.mean())


FAULTS = {
    "blur": lambda photo: -0.6 * detail(photo) - 0.5 * blocks(photo),  # likes smoothness, dislikes blocks
    "darkening": lambda photo: -brightness(photo),
    "overexposure": lambda photo: brightness(photo),
    "compression": lambda photo: 0.2 * blocks(photo),
    "noise": lambda photo: 0.6 * detail(photo),
    "mirror": lambda photo: 5 * leaning(photo),
    "shift": lambda photo: 3 * parity(photo),
    "reencoding": lambda photo: -float(photo.startswith(b"\xff\xd8")),  # scores a JPEG lower than a PNG
}
"""Each faulty scorer's points, by the gate that it fails."""


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [textured_photo(seed) for seed in range(PHOTOS)]


def checkered(points: float) -> TrainedScorer:
    """Return a Keras scorer that reacts only to a chessboard of single pixels, which no photo contains."""
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


@pytest.mark.slow
@pytest.mark.parametrize("key", FAULTS)
def test_a_scorer_with_one_fault_fails_only_the_gate_of_that_fault(key, photos):
    judged_gates = judged(photos, Eye(FAULTS[key]))
    assert failed(judged_gates) == {key}


@pytest.mark.slow
def test_a_scorer_raised_by_an_invisible_perturbation_fails_only_the_perturbation_gate(photos):
    assert failed(judged(photos, checkered(points=2.0))) == {"perturbation"}


@pytest.mark.slow
def test_a_scorer_without_a_fault_passes_every_gate(photos):
    gates = judged(photos, checkered(points=0.2))
    assert {gate.verdict for gate in gates} == {"passed"}
    assert [gate.key for gate in gates] == [*MADE_WORSE, "mirror", "shift", "reencoding", "perturbation"]


@pytest.mark.slow
def test_a_perturbation_raises_a_linear_scorer_by_its_slope_times_the_budget(photos):
    perturbation = robustness.measure_robustness(photos, checkered(points=0.5), SETTINGS).perturbation
    assert perturbation.rise == pytest.approx(0.5 * SETTINGS.perturbation_budget, rel=0.05)
    assert len(perturbation.before) == len(perturbation.after) == SETTINGS.perturbation_photos
    assert perturbation.largest >= perturbation.rise


def test_a_scorer_without_gradients_is_not_judged_on_perturbations(photos):
    gates = {gate.key: gate for gate in judged(photos[:4], Eye(lambda photo: 0.0))}
    assert gates["perturbation"].verdict == "not judged"


@pytest.mark.slow
def test_a_slight_blur_that_raises_scores_fails_even_if_a_strong_blur_lowers_them(photos):
    results = robustness.measure_robustness(photos, Eye(lambda photo: -abs(detail(photo) - 0.2)), SETTINGS)
    slight, strong = (response for response in results.responses if response.key == "blur")
    assert slight.mean > 0.1 > 0 > strong.mean
    (gate,) = (gate for gate in robustness.gates(results, SETTINGS) if gate.key == "blur")
    assert gate.verdict == "failed"
    assert gate.value == slight.mean


@pytest.mark.slow
def test_each_photos_change_does_not_depend_on_its_batch(photos):
    results = robustness.measure_robustness([*photos, photos[0]], Eye(detail), SETTINGS)
    assert {len(results.before), *(len(response.changes) for response in results.responses)} == {PHOTOS + 1}
    for response in results.responses:
        is_equal = response.changes[-1] == pytest.approx(response.changes[0], abs=1e-9)
        assert is_equal == (response.key != "noise")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_noise_and_another_seed_gives_other_noise(photos):
    def noise(seed: int) -> list:
        results = robustness.measure_robustness(photos[:4], Eye(detail), replace(SETTINGS, seed=seed))
        return [response.changes for response in results.responses if response.key == "noise"]

    assert noise(1) == noise(1)
    assert noise(1) != noise(2)


def test_a_scorer_that_returns_nan_fails_with_a_reason(photos):
    gates = judged(photos[:4], Eye(lambda photo: float("nan")))
    assert failed(gates) == {gate.key for gate in gates} - {"perturbation"}
    assert all("could not be measured" in gate.reason for gate in gates if gate.verdict == "failed")


def test_with_one_photo_the_gates_on_averages_fail(photos):
    assert failed(judged(photos[:1], Eye(lambda photo: 0.0))) == set(MADE_WORSE)


def test_robustness_without_photos_is_an_error(photos):
    with pytest.raises(ValueError, match="expected photos"):
        robustness.measure_robustness([], Eye(detail), SETTINGS)


@pytest.mark.slow
def test_robustness_results_are_written_as_json(photos):
    record = decision.to_json_value(robustness.measure_robustness(photos[:3], checkered(0.2), SETTINGS))
    assert record["responses"][0]["key"] == "blur"
    assert len(record["responses"][0]["changes"]) == 3
    assert record["perturbation"]["budget"] == SETTINGS.perturbation_budget


@pytest.mark.slow
def test_the_interval_of_a_response_is_that_of_students_t_test(photos):
    response = robustness.measure_robustness(photos, Eye(detail), SETTINGS).responses[0]
    expected = stats.ttest_1samp(response.changes, 0).confidence_interval(SETTINGS.confidence)
    assert (response.low, response.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.slow
def test_reasons_give_the_change_the_value_and_the_number_of_photos(photos):
    gates = {gate.key: gate for gate in judged(photos, Eye(FAULTS["darkening"]))}
    assert "an exposure 2 stops down" in gates["darkening"].reason
    assert f"{gates['darkening'].value:+.3f}" in gates["darkening"].reason
    assert f"of {PHOTOS} photos" in gates["darkening"].reason
    assert "0.2 on average" in gates["mirror"].reason


# Changes to the photos


def test_decoding_and_encoding_a_photo_keeps_the_pixels_that_the_scorer_reads():
    data = drawn_photo(0.5, size=(60, 45))
    encoded = robustness._encode_png(robustness._decode_image(data))
    np.testing.assert_array_equal(
        preprocessing_tf.decode(tf.constant(encoded)), preprocessing_tf.decode(tf.constant(data))
    )


def test_two_stops_down_leave_a_quarter_of_the_light():
    table = np.array(robustness._exposure_table(-2)[:256])
    assert table[188] == 99  # in sRGB, 188 is half of the light, 99 an eighth and 137 a quarter
    assert table[255] == 137
    assert (np.diff(table) >= 0).all()


def test_two_stops_up_clip_values_with_a_quarter_of_the_light():
    table = robustness._exposure_table(2)
    assert table[137] == 255
    assert table[99] == pytest.approx(188, abs=1)


def test_a_shift_moves_each_pixel_by_one_and_keeps_the_size():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    shifted = np.asarray(robustness._shift_one_pixel(Image.fromarray(pixels)))
    np.testing.assert_array_equal(shifted[1:, 1:], pixels[:-1, :-1])
    assert shifted.shape == pixels.shape


# Sampling of photos


def records(total: int):
    return iter([{"photo": str(number).encode(), "photo_id": f"{number}.jpg"} for number in range(total)])


def test_a_sample_has_each_photo_once_in_the_order_of_the_split_and_depends_on_the_seed():
    drawn = [int(photo) for photo in robustness.sample_photos(lambda: records(200), 200, SETTINGS)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == SETTINGS.behaviour_photos
    assert drawn == [int(photo) for photo in robustness.sample_photos(lambda: records(200), 200, SETTINGS)]
    assert drawn != [
        int(photo) for photo in robustness.sample_photos(lambda: records(200), 200, replace(SETTINGS, seed=2))
    ]


def test_a_small_split_is_sampled_completely():
    assert len(robustness.sample_photos(lambda: records(7), 7, SETTINGS)) == 7


def test_records_after_the_last_sampled_photo_are_not_read():
    read_ids = []

    def recording():
        for record in records(1000):
            read_ids.append(record["photo_id"])
            yield record

    last = int(robustness.sample_photos(recording, 1000, replace(SETTINGS, behaviour_photos=3))[-1])
    assert len(read_ids) == last + 1


# Statistical confidence of the gates


def test_holms_correction_equals_rs_p_adjust():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R
    assert robustness._holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_p_value_equals_scipys_one_sided_t_test():
    changes = np.random.default_rng(0).normal(0.1, 0.5, 40)
    expected = stats.ttest_1samp(changes, 0, alternative="greater").pvalue
    assert robustness._p_value(changes) == pytest.approx(expected)


def rising(by: float, rng: np.random.Generator, spread: float = 0.5, photos: int = 128) -> robustness.RobustnessResults:
    """Return simulated results of a scorer whose scores rise on every degraded photo, on average by ``by``."""
    changes = [change for change in robustness._changes() if change.worse]
    means = rng.normal(by, spread, (len(changes), photos))
    responses = [
        robustness._summarize_response(change, row, SETTINGS) for change, row in zip(changes, means, strict=True)
    ]
    return robustness.RobustnessResults((5.0,) * photos, responses, None)


@pytest.mark.slow
def test_a_scorer_without_a_mean_response_is_refused_by_chance_at_most_once_in_twenty():
    rng = np.random.default_rng(1)
    strict_settings = replace(SETTINGS, maximum_rise=0.0)
    refused_count = sum(bool(failed(robustness.gates(rising(0, rng), strict_settings))) for _ in range(400))
    assert 0 < refused_count / 400 <= SETTINGS.significance + 0.02  # two standard errors of 400 draws


def test_a_mean_rise_of_a_fifth_of_a_point_fails_with_the_default_number_of_photos():
    rng = np.random.default_rng(1)
    simulations = [rising(0.2, rng, photos=Evaluation().behaviour_photos) for _ in range(50)]
    assert sum(failed(robustness.gates(results, SETTINGS)) == set(MADE_WORSE) for results in simulations) / 50 >= 0.8


def test_a_significant_rise_below_the_limit_passes():
    results = rising(0.03, np.random.default_rng(1), spread=0.05, photos=1000)
    assert results.responses[0].low > 0
    assert not failed(robustness.gates(results, SETTINGS))
