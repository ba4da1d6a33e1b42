"""A scorer that has collapsed, is off scale or tells no more than a constant is recognised, each by its own gate."""

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
    """Votes [n, 10] as a normal distribution around these means."""
    shares = np.exp(-((np.array(SCORES) - np.asarray(means, float)[:, None]) ** 2) / (2 * deviation**2))
    return shares / shares.sum(axis=1, keepdims=True)


def predictions(truth, predicted, groups=()):
    """From votes [n, 10] each, or from mean scores [n] of such."""
    truth, predicted = (np.asarray(each, float) for each in (truth, predicted))
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


def test_a_sound_scorer_passes_all_four():
    truth, rng = people()
    assert list(verdicts(predictions(truth, truth + rng.normal(0, 0.6, 400)))) == [
        "spread", "slope", "outside", "emd_floor"
    ]  # fmt: skip
    assert failing(predictions(truth, truth + rng.normal(0, 0.6, 400))) == []


def test_scores_close_together_fail_the_spread_only_where_people_stay_in_the_middle_too():
    truth, _ = people(deviation=0.4)
    assert failing(predictions(truth, 5.5 + 0.3 * (truth - 5.5))) == ["spread"]


def test_wild_scores_for_some_photos_fail_the_slope_only():
    truth, rng = people(deviation=0.9)
    wild = np.where(rng.random(400) < 0.1, rng.choice([1.5, 9.5], 400), truth)
    assert failing(predictions(truth, wild)) == ["slope"]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 3.0), st.floats(0.0, 2.0), st.integers(0, 100))
def test_a_slope_below_one_half_is_where_a_constant_has_the_smaller_squared_error(stretch, noise, seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, 50)
    predicted = stretch * (truth - truth.mean()) + noise * rng.normal(0, 1, 50)
    predicted += truth.mean() - predicted.mean()
    slope = calibration._estimates_from_sums(
        calibration._summands(truth, predicted, *np.zeros((3, 50))).sum(axis=0, keepdims=True)
    )["slope"][0]
    assert (slope < 0.5) == (np.mean((predicted - truth) ** 2) > np.var(truth))


def test_no_score_outside_the_middle_fails_that_gate_only():
    truth, _ = people()
    assert failing(predictions(truth, np.clip(truth, 4.2, 6.8))) == ["outside"]


def test_votes_no_better_than_a_constant_fail_the_floor_only():
    truth, _ = people()
    sure_of_the_wrong = np.eye(10)[np.clip(np.rint(truth + 1.4), 1, 10).astype(int) - 1]
    assert failing(predictions(truth, sure_of_the_wrong)) == ["emd_floor"]


@pytest.mark.parametrize("constant", ["the mean of the votes", "the median of the cumulative votes"])
def test_a_collapsed_scorer_fails_every_gate_whichever_constant_it_gives(constant):
    truth, _ = people()
    shares = votes(truth)
    mean, median = shares.mean(axis=0), np.diff(np.median(np.cumsum(shares, axis=1), axis=0), prepend=0)
    answer = mean if constant == "the mean of the votes" else median
    assert failing(predictions(truth, np.tile(answer, (400, 1)))) == ["spread", "slope", "outside", "emd_floor"]


def test_no_slope_is_told_of_a_constant_and_the_reason_says_why():
    truth, _ = people()
    gate = verdicts(predictions(truth, np.full(400, 5.0)))["slope"]
    assert np.isnan(gate.value)
    assert "every photo gets the same score" in gate.reason


def test_a_prediction_that_is_no_number_fails_every_gate_and_says_so():
    truth, _ = people()
    broken = votes(truth)
    broken[3] = np.nan
    for gate in verdicts(predictions(truth, broken)).values():
        assert gate.verdict == "failed"
        assert "a prediction is no number" in gate.reason


def test_where_people_rate_nothing_outside_the_middle_the_scorer_need_not():
    truth, _ = people(deviation=0.4)
    gate = verdicts(predictions(truth, truth))["outside"]
    assert gate.verdict == "passed"
    assert "people rate none" in gate.reason


def test_slope_intercept_and_spread_are_those_of_least_squares():
    truth, rng = people()
    of = predictions(truth, 3 + 0.4 * truth + rng.normal(0, 0.5, 400))
    t, p = regression.mean_scores(of.truth), regression.mean_scores(of.scorer)
    line, found = stats.linregress(p, t), calibration.calibrate(of, QUICK)
    assert (found.slope.value, found.intercept.value) == pytest.approx((line.slope, line.intercept))
    assert found.spread.value == pytest.approx(np.std(p) / np.std(t))


def test_the_shares_outside_are_counted():
    truth = np.array([3.9, 4.0, 5.0, 6.0, 7.0, 7.1, 7.2, 5.5, 5.5, 5.5])
    exactly = np.stack([np.interp(np.arange(1, 11), [m - 1, m, m + 1], [0, 1, 0]) for m in truth])
    found = calibration.calibrate(predictions(exactly, np.roll(exactly, 1, axis=0)), QUICK)
    assert found.outside_people.value == pytest.approx(0.3)
    assert found.outside.value == pytest.approx(1.0)


def test_the_floor_is_the_constant_answer_with_the_least_emd():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(10), 60)
    found = calibration.calibrate(predictions(truth, truth), QUICK)
    others = rng.dirichlet(np.ones(10), 300)
    others[0] = truth.mean(axis=0)
    assert min(regression.emd(truth, np.tile(each, (60, 1))) for each in others) >= found.floor.value
    assert found.mean_votes.value == pytest.approx(regression.emd(truth, np.tile(others[0], (60, 1))))


def test_a_perfect_scorer_has_all_the_skill_and_a_calibrated_slope():
    truth, _ = people()
    found = calibration.calibrate(predictions(truth, truth), QUICK)
    assert (found.skill.value, found.slope.value, found.spread.value) == pytest.approx((1, 1, 1))


def test_a_gain_over_the_floor_that_may_be_chance_is_not_enough():
    rng = np.random.default_rng(1)
    truth = rng.dirichlet(np.ones(10), 40)
    constant = np.diff(np.median(np.cumsum(truth, axis=1), axis=0), prepend=0)
    of = predictions(
        truth, np.where(np.arange(40)[:, None] < 2, truth, 0.98 * constant + 0.02 * rng.dirichlet(np.ones(10), 40))
    )
    assert calibration.calibrate(of, QUICK).skill.value > 0
    assert verdicts(of)["emd_floor"].verdict == "failed"


def test_bins_are_tenths_of_the_photos_in_the_order_of_predictions():
    truth, rng = people(photos=105)
    found = calibration.calibrate(predictions(truth, truth + rng.normal(0, 1, 105)), QUICK).bins
    assert [each.photos for each in found] == [11] * 5 + [10] * 5
    assert [each.predicted for each in found] == sorted(each.predicted for each in found)
    assert np.average([each.people for each in found], weights=[each.photos for each in found]) == pytest.approx(
        regression.mean_scores(votes(truth)).mean()
    )


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 2.0), st.floats(-1.0, 1.0), st.integers(0, 100))
def test_scores_stretched_have_that_much_less_slope_and_more_spread(factor, shift, seed):
    rng = np.random.default_rng(seed)
    of = predictions(rng.dirichlet(np.ones(10), 30), rng.dirichlet(np.ones(10), 30))
    t, p = regression.mean_scores(of.truth), regression.mean_scores(of.scorer)
    parts = [calibration._summands(t, scores, *np.zeros((3, 30))) for scores in (p, shift + factor * p)]
    one, other = (calibration._estimates_from_sums(part.sum(axis=0, keepdims=True)) for part in parts)
    assert other["slope"] * factor == pytest.approx(one["slope"], rel=1e-6)
    assert other["spread"] == pytest.approx(factor * one["spread"], rel=1e-6)


def test_photos_of_one_person_count_as_one_piece_of_evidence():
    truth, rng = people(photos=100)
    predicted = truth + rng.normal(0, 1, 100)
    truth, predicted = np.repeat(truth, 4), np.repeat(predicted, 4)
    persons = [str(number // 4) for number in range(400)]
    alone, grouped = (calibration.calibrate(predictions(truth, predicted, groups), QUICK) for groups in ((), persons))
    assert grouped.slope.high - grouped.slope.low > 1.6 * (alone.slope.high - alone.slope.low)


def test_thresholds_are_those_of_the_settings():
    truth, rng = people()
    found = calibration.calibrate(predictions(truth, truth + rng.normal(0, 0.6, 400)), QUICK)
    harder = replace(QUICK, minimum_spread=5, minimum_slope=5, minimum_outside=5)
    assert [gate.verdict for gate in calibration.gates(found, harder)] == ["failed", "failed", "failed", "passed"]
