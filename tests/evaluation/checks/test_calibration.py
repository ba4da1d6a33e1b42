"""Calibration gates: a collapsed scorer, an off-scale scorer and a useless scorer each fail their own gate."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from components.evaluation.checks import calibration
from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import regression
from components.scorer.settings import SCORES, Evaluation

QUICK = Evaluation(bootstrap=200)


def votes(means, deviation=1.4):
    """Return votes [n, 10] normally distributed around the means."""
    shares = np.exp(-((np.array(SCORES) - np.asarray(means, float)[:, None]) ** 2) / (2 * deviation**2))
    return shares / shares.sum(axis=1, keepdims=True)


def predictions(truth, predicted, groups=()):
    """Build predictions from votes [n, 10] or from mean scores [n] of the truth and the scorer."""
    truth, predicted = (np.asarray(values, float) for values in (truth, predicted))
    return Predictions(
        photo_ids=[f"{number}.jpg" for number in range(len(truth))],
        truth=truth if truth.ndim == 2 else votes(truth),
        raters=np.full(len(truth), 20),
        attributes=pd.DataFrame(index=range(len(truth))),
        scorer=predicted if predicted.ndim == 2 else votes(predicted),
        groups=groups,
    )


def people(photos=400, deviation=1.2, seed=0):
    rng = np.random.default_rng(seed)
    return 5.5 + deviation * stats.norm.ppf((rng.permutation(photos) + 0.5) / photos), rng


def verdicts(of):
    return {gate.key: gate for gate in calibration.gates(calibration.calibrate(of, QUICK), QUICK)}


def failing(of):
    return [key for key, gate in verdicts(of).items() if gate.verdict == "failed"]


def test_a_sound_scorer_passes_all_four_calibration_gates():
    truth, rng = people()
    assert list(verdicts(predictions(truth, truth + rng.normal(0, 0.6, 400)))) == [
        "spread", "slope", "outside", "emd_floor"
    ]  # fmt: skip
    assert failing(predictions(truth, truth + rng.normal(0, 0.6, 400))) == []


def test_scores_close_together_fail_only_the_spread_if_people_stay_in_the_middle_too():
    truth, _ = people(deviation=0.4)
    assert failing(predictions(truth, 5.5 + 0.3 * (truth - 5.5))) == ["spread"]


def test_wild_scores_for_some_photos_fail_only_the_slope():
    truth, rng = people(deviation=0.9)
    scores = np.where(rng.random(400) < 0.1, rng.choice([1.5, 9.5], 400), truth)
    assert failing(predictions(truth, scores)) == ["slope"]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 3.0), st.floats(0.0, 2.0), st.integers(0, 100))
def test_a_constant_has_the_smaller_squared_error_exactly_if_the_slope_is_below_one_half(stretch, noise, seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, 50)
    predicted = stretch * (truth - truth.mean()) + noise * rng.normal(0, 1, 50)
    predicted += truth.mean() - predicted.mean()
    slope = calibration._estimates_from_sums(
        calibration._summands(truth, predicted, *np.zeros((3, 50))).sum(axis=0, keepdims=True)
    )["slope"][0]
    assert (slope < 0.5) == (np.mean((predicted - truth) ** 2) > np.var(truth))


def test_scores_that_never_leave_the_middle_fail_only_the_outside_gate():
    truth, _ = people()
    assert failing(predictions(truth, np.clip(truth, 4.2, 6.8))) == ["outside"]


def test_votes_no_better_than_a_constant_fail_only_the_emd_floor():
    truth, _ = people()
    certain_but_wrong = np.eye(10)[np.clip(np.rint(truth + 1.4), 1, 10).astype(int) - 1]
    assert failing(predictions(truth, certain_but_wrong)) == ["emd_floor"]


@pytest.mark.parametrize("constant", ["the mean of the votes", "the median of the cumulative votes"])
def test_a_constant_scorer_fails_every_gate_for_each_best_constant(constant):
    truth, _ = people()
    shares = votes(truth)
    mean, median = shares.mean(axis=0), np.diff(np.median(np.cumsum(shares, axis=1), axis=0), prepend=0)
    constant_votes = mean if constant == "the mean of the votes" else median
    assert failing(predictions(truth, np.tile(constant_votes, (400, 1)))) == ["spread", "slope", "outside", "emd_floor"]


def test_a_constant_scorer_has_no_slope_and_the_reason_says_why():
    truth, _ = people()
    gate = verdicts(predictions(truth, np.full(400, 5.0)))["slope"]
    assert np.isnan(gate.value)
    assert "every photo gets the same score" in gate.reason


def test_a_nan_prediction_fails_every_gate_and_the_reason_says_so():
    truth, _ = people()
    broken = votes(truth)
    broken[3] = np.nan
    for gate in verdicts(predictions(truth, broken)).values():
        assert gate.verdict == "failed"
        assert "a prediction is no number" in gate.reason


def test_the_outside_gate_passes_if_people_rate_nothing_outside_the_middle():
    truth, _ = people(deviation=0.4)
    gate = verdicts(predictions(truth, truth))["outside"]
    assert gate.verdict == "passed"
    assert "people rate none" in gate.reason


def test_slope_and_intercept_are_those_of_linear_regression():
    truth, rng = people()
    data = predictions(truth, 3 + 0.4 * truth + rng.normal(0, 0.5, 400))
    truth_means, predicted_means = regression.mean_scores(data.truth), regression.mean_scores(data.scorer)
    regression_line, result = stats.linregress(predicted_means, truth_means), calibration.calibrate(data, QUICK)
    assert (result.slope.value, result.intercept.value) == pytest.approx(
        (regression_line.slope, regression_line.intercept)
    )
    assert result.spread.value == pytest.approx(np.std(predicted_means) / np.std(truth_means))


def test_the_fractions_outside_the_middle_are_counted():
    truth = np.array([3.9, 4.0, 5.0, 6.0, 7.0, 7.1, 7.2, 5.5, 5.5, 5.5])
    votes_with_these_means = np.stack(
        [np.interp(np.arange(1, 11), [mean - 1, mean, mean + 1], [0, 1, 0]) for mean in truth]
    )
    result = calibration.calibrate(
        predictions(votes_with_these_means, np.roll(votes_with_these_means, 1, axis=0)), QUICK
    )
    assert result.outside_people.value == pytest.approx(0.3)
    assert result.outside.value == pytest.approx(1.0)


def test_the_emd_floor_is_the_emd_of_the_best_constant_votes():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(10), 60)
    result = calibration.calibrate(predictions(truth, truth), QUICK)
    constants = rng.dirichlet(np.ones(10), 300)
    constants[0] = truth.mean(axis=0)
    assert min(regression.emd(truth, np.tile(constant, (60, 1))) for constant in constants) >= result.floor.value
    assert result.mean_votes.value == pytest.approx(regression.emd(truth, np.tile(constants[0], (60, 1))))


def test_a_perfect_scorer_has_skill_slope_and_spread_1():
    truth, _ = people()
    result = calibration.calibrate(predictions(truth, truth), QUICK)
    assert (result.skill.value, result.slope.value, result.spread.value) == pytest.approx((1, 1, 1))


def test_a_gain_over_the_emd_floor_that_may_be_chance_fails():
    rng = np.random.default_rng(1)
    truth = rng.dirichlet(np.ones(10), 40)
    constant = np.diff(np.median(np.cumsum(truth, axis=1), axis=0), prepend=0)
    data = predictions(
        truth, np.where(np.arange(40)[:, None] < 2, truth, 0.98 * constant + 0.02 * rng.dirichlet(np.ones(10), 40))
    )
    assert calibration.calibrate(data, QUICK).skill.value > 0
    assert verdicts(data)["emd_floor"].verdict == "failed"


def test_bins_hold_a_tenth_of_the_photos_each_in_the_order_of_predictions():
    truth, rng = people(photos=105)
    bins = calibration.calibrate(predictions(truth, truth + rng.normal(0, 1, 105)), QUICK).bins
    assert [calibration_bin.photos for calibration_bin in bins] == [11] * 5 + [10] * 5
    assert [calibration_bin.predicted for calibration_bin in bins] == sorted(
        calibration_bin.predicted for calibration_bin in bins
    )
    assert np.average(
        [calibration_bin.people for calibration_bin in bins],
        weights=[calibration_bin.photos for calibration_bin in bins],
    ) == pytest.approx(regression.mean_scores(votes(truth)).mean())


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 2.0), st.floats(-1.0, 1.0), st.integers(0, 100))
def test_stretching_the_scores_divides_the_slope_and_multiplies_the_spread(factor, shift, seed):
    rng = np.random.default_rng(seed)
    data = predictions(rng.dirichlet(np.ones(10), 30), rng.dirichlet(np.ones(10), 30))
    truth_means, predicted_means = regression.mean_scores(data.truth), regression.mean_scores(data.scorer)
    parts = [
        calibration._summands(truth_means, scores, *np.zeros((3, 30)))
        for scores in (predicted_means, shift + factor * predicted_means)
    ]
    original, stretched = (calibration._estimates_from_sums(part.sum(axis=0, keepdims=True)) for part in parts)
    assert stretched["slope"] * factor == pytest.approx(original["slope"], rel=1e-6)
    assert stretched["spread"] == pytest.approx(factor * original["spread"], rel=1e-6)


def test_photos_of_one_person_widen_the_interval_of_the_slope():
    truth, rng = people(photos=100)
    predicted = truth + rng.normal(0, 1, 100)
    truth, predicted = np.repeat(truth, 4), np.repeat(predicted, 4)
    persons = [str(number // 4) for number in range(400)]
    ungrouped, grouped = (
        calibration.calibrate(predictions(truth, predicted, groups), QUICK) for groups in ((), persons)
    )
    assert grouped.slope.high - grouped.slope.low > 1.6 * (ungrouped.slope.high - ungrouped.slope.low)


def test_gate_thresholds_are_those_of_the_settings():
    truth, rng = people()
    result = calibration.calibrate(predictions(truth, truth + rng.normal(0, 0.6, 400)), QUICK)
    strict_settings = replace(QUICK, minimum_spread=5, minimum_slope=5, minimum_outside=5)
    assert [gate.verdict for gate in calibration.gates(result, strict_settings)] == [
        "failed",
        "failed",
        "failed",
        "passed",
    ]
