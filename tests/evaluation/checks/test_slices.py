"""Slice gates: they fail for an unfair scorer, and not for a weak scorer or slices that people rate differently."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.checks import calibration, slices
from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import bootstrap, regression
from components.scorer.settings import Evaluation

QUICK = Evaluation(bootstrap=300)


def shares(means):
    """Return votes [n, 10] with exactly these means, on the two nearest whole scores."""
    means = np.asarray(means, float)
    below = np.clip(np.floor(means), 1, 9).astype(int)
    votes = np.zeros((len(means), 10))
    votes[np.arange(len(means)), below - 1] = below + 1 - means
    votes[np.arange(len(means)), below] = means - below
    return votes


def predictions(truth, predicted, *, groups=(), **attributes):
    truth, predicted = np.asarray(truth, float), np.asarray(predicted, float)
    return Predictions(
        photo_ids=[f"{number}.jpg" for number in range(len(truth))],
        truth=shares(truth),
        raters=np.full(len(truth), 1000),
        attributes=pd.DataFrame({name: list(values) for name, values in attributes.items()}, index=range(len(truth))),
        scorer=shares(np.clip(predicted, 1, 10)),
        groups=groups,
    )


def world(photos=600, values=("a", "b", "c"), apart=0.0, seed=0):
    """Return people's means and each photo's slice; neighbouring slices differ by ``apart`` points."""
    rng = np.random.default_rng(seed)
    slice_index = rng.permutation(np.arange(photos) % len(values))
    truth = np.clip(5.5 + apart * (slice_index - (len(values) - 1) / 2) + rng.normal(0, 1.1, photos), 1.2, 9.8)
    return truth, np.array(values)[slice_index], rng


def verdicts(of, with_settings=QUICK):
    judged_gates = slices.gates(slices.measure_slices(of, with_settings), with_settings)
    return {gate.key: gate for gate in judged_gates}


def failing(of, with_settings=QUICK):
    judged_gates = slices.gates(slices.measure_slices(of, with_settings), with_settings)
    judged_gates += calibration.gates(calibration.calibrate(of, with_settings), with_settings)
    return [gate.key for gate in judged_gates if gate.verdict == "failed"]


def slice_of(found, value):
    return next(photo_slice for photo_slice in found.slices if photo_slice.value == value)


@pytest.mark.parametrize(("offset", "side"), [(-0.8, "too low"), (0.8, "too high")])
def test_a_scorer_unfair_to_one_slice_fails_only_the_gap_and_the_reason_names_the_slice(offset, side):
    truth, value, rng = world()
    unfair = predictions(truth, truth + rng.normal(0, 0.6, 600) + offset * (value == "b"), job=value)
    assert failing(unfair) == ["slice_gap"]
    reason = verdicts(unfair)["slice_gap"].reason
    assert reason.startswith("job = b is scored")
    assert side in reason


def test_a_fair_scorer_fails_no_gate():
    truth, value, rng = world(apart=1.0)
    assert failing(predictions(truth, truth + rng.normal(0, 0.6, 600), job=value)) == []


def test_a_scorer_that_shrinks_to_the_overall_mean_passes_although_mean_errors_differ():
    truth, value, rng = world(apart=1.2)
    shrunk = predictions(truth, 5.5 + 0.5 * (truth - 5.5) + rng.normal(0, 0.2, 600), job=value)
    low_slice = slice_of(slices.measure_slices(shrunk, QUICK), "a")
    assert low_slice.difference.low > 0.5
    assert [gate.verdict for gate in verdicts(shrunk).values()] == ["passed", "passed"]


def test_a_scorer_that_shrinks_to_the_slice_mean_passes_and_the_reason_reports_the_gap():
    truth, value, rng = world(apart=1.2)
    slice_means = pd.Series(truth).groupby(value).transform("mean").to_numpy()
    shrunk = predictions(truth, slice_means + 0.5 * (truth - slice_means) + rng.normal(0, 0.2, 600), job=value)
    gate = verdicts(shrunk)["slice_gap"]
    assert gate.verdict == "passed"
    assert "among photos that people rate alike, job = a is scored 0." in gate.reason


def test_a_slice_scored_further_below_the_others_than_people_rate_it_fails_the_gap():
    truth, value, rng = world(apart=0.6)
    too_far_apart = predictions(truth, truth + rng.normal(0, 0.5, 600) - 0.6 * (value == "a"), job=value)
    gate = verdicts(too_far_apart)["slice_gap"]
    assert gate.verdict == "failed"
    assert gate.value == pytest.approx(-0.6, abs=0.15)


def test_of_two_slices_with_opposite_gaps_the_slice_scored_too_low_is_named():
    truth, value, rng = world(values=("a", "b"))
    gate = verdicts(predictions(truth, truth + rng.normal(0, 0.5, 600) + 0.5 * (value == "a"), job=value))["slice_gap"]
    assert gate.reason.startswith("job = b is scored")


def test_few_raters_do_not_make_a_perfect_scorer_look_unfair():
    rng = np.random.default_rng(0)
    slice_index = np.arange(3000) % 2
    true_means = np.clip(4.5 + 2 * slice_index + rng.normal(0, 0.8, 3000), 2, 9)
    votes = np.array([np.bincount(np.clip(np.rint(rng.normal(true_mean, 1.2, 5)), 1, 10).astype(int), minlength=11)[1:]
                      for true_mean in true_means]) / 5  # fmt: skip
    perfect = replace(
        predictions(true_means, true_means, side=np.array(["low", "high"])[slice_index]),
        truth=votes,
        raters=np.full(3000, 5),
    )
    result = slices.measure_slices(perfect, replace(QUICK, bootstrap=20))
    assert slice_of(result, "high").adjusted.value == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("known", "as_if"), [(0, 1_000_000), (0.5, 5)])
def test_an_unknown_number_of_raters_counts_as_typical_or_as_many_if_none_is_known(known, as_if):
    truth, value, rng = world(photos=300, apart=1)
    data = predictions(truth, truth + rng.normal(0, 0.5, 300), job=value)
    slope_of_unknown, slope_of_assumed = (
        slices.measure_slices(replace(data, raters=raters), replace(QUICK, bootstrap=20)).slopes["job"]
        for raters in (np.where(np.arange(300) < 300 * known, 5, 0), np.full(300, as_if))
    )
    assert slope_of_unknown == pytest.approx(slope_of_assumed, rel=1e-5)


def failures(gate, predict, photos, trials):
    """Return how many of ``trials`` simulated test splits, each with eight slices of ``photos``, fail a gate."""
    value, failure_count = np.repeat(list("abcdefgh"), photos), 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        truth = np.clip(rng.normal(5.5, 1.2, len(value)), 1, 10)
        scored = predictions(truth, predict(truth, value, rng), job=value)
        failure_count += verdicts(scored, replace(QUICK, bootstrap=200))[gate].verdict == "failed"
    return failure_count


@pytest.mark.slow
def test_fair_slices_of_forty_photos_fail_the_gap_by_chance_at_most_once_in_twenty():
    def fair(truth, value, rng):
        return 5.5 + 0.6 * (truth - 5.5) + rng.normal(0, 0.9, len(truth))

    assert failures("slice_gap", fair, photos=40, trials=200) <= 10


@pytest.mark.slow
def test_a_slice_of_sixty_photos_scored_one_point_too_low_nearly_always_fails_the_gap():
    def unfair(truth, value, rng):
        return 5.8 + 0.6 * (truth - 5.5) + rng.normal(0, 0.9, len(truth)) - 1.0 * (value == "a")

    assert failures("slice_gap", unfair, photos=60, trials=30) >= 27


def test_a_slice_ranked_by_chance_fails_only_the_slice_floor():
    truth, value, rng = world()
    predicted = truth + rng.normal(0, 0.5, 600)
    predicted[value == "c"] = rng.permutation(predicted[value == "c"])
    data = predictions(truth, predicted, job=value)
    assert failing(data) == ["slice_floor"]
    assert "job = c has an SRCC of 0.0" in verdicts(data)["slice_floor"].reason


def test_a_slice_significantly_below_the_floor_fails_even_if_all_slices_are_as_low():
    truth, value, rng = world(photos=900)
    data = predictions(truth, 5.5 + rng.normal(0, 1, 900), job=value)
    assert verdicts(data)["slice_floor"].verdict == "failed"


def test_a_slice_below_the_floor_by_chance_passes_and_the_reason_names_it():
    truth, value, rng = world(photos=240, values=tuple("abcdefgh"), seed=3)
    result = slices.measure_slices(
        predictions(truth, 5.5 + 0.5 * (truth - 5.5) + rng.normal(0, 0.7, 240), job=value), QUICK
    )
    lowest = min(result.judged, key=lambda photo_slice: photo_slice.metrics["srcc"].value)
    gate = slices.gates(result, replace(QUICK, minimum_slice_srcc=lowest.metrics["srcc"].value + 1e-9))[0]
    assert gate.verdict == "passed"
    assert f"{lowest.title} has the lowest SRCC" in gate.reason
    assert "by chance" in gate.reason


@pytest.mark.slow
def test_slices_ranked_equally_well_fail_the_floor_by_chance_at_most_once_in_twenty():
    def equally_good(truth, value, rng):
        return 5.5 + 0.6 * (truth - 5.5) + rng.normal(0, 1.1, len(truth))

    assert failures("slice_floor", equally_good, photos=40, trials=100) <= 5


@pytest.mark.parametrize(
    ("predicted", "why"), [(5.0, "every photo gets the same score"), (np.nan, "a prediction is no number")]
)
def test_constant_or_nan_scores_fail_both_gates_and_the_reason_says_why(predicted, why):
    truth, value, _ = world()
    data = predictions(truth, truth, job=value)
    unusable = replace(data, scorer=np.full((600, 10), np.nan) if np.isnan(predicted) else shares(np.full(600, 5.0)))
    for gate in verdicts(unusable).values():
        assert gate.verdict == "failed"
        assert why in gate.reason


def test_a_single_nan_prediction_fails_both_gates():
    truth, value, _ = world()
    data = predictions(truth, truth, job=value)
    data.scorer[0] = np.nan
    assert [gate.verdict for gate in verdicts(data).values()] == ["failed", "failed"]


def test_without_attributes_both_gates_pass_and_the_reason_says_so():
    truth, _, _ = world()
    for gate in verdicts(predictions(truth, truth)).values():
        assert gate.verdict == "passed"
        assert "no attributes" in gate.reason


def test_a_slice_below_the_minimum_size_is_measured_but_not_judged():
    truth, _, rng = world()
    value = np.where(np.arange(600) < 29, "few", "many")
    data = predictions(truth, truth + rng.normal(0, 0.3, 600) - 2.0 * (value == "few"), job=value)
    result = slices.measure_slices(data, QUICK)
    assert not slice_of(result, "few").judged
    assert slice_of(result, "few").metrics["bias"].value == pytest.approx(-2, abs=0.3)
    assert slices.gates(result, QUICK)[1].verdict == "passed"


def test_a_slice_with_too_few_other_photos_is_not_judged():
    truth, _, _ = world()
    result = slices.measure_slices(predictions(truth, truth, job=["all"] * 600), QUICK)
    assert result.judged == []
    assert all(gate.verdict == "passed" and "none of 1 slice" in gate.reason for gate in slices.gates(result, QUICK))


def test_a_large_gap_that_may_be_chance_passes_and_the_reason_gives_the_photos_needed():
    truth, _, rng = world(photos=200)
    value = np.where(np.arange(200) < 30, "few", "many")
    error = rng.normal(0, 1.5, 200)
    error[:30] += -0.5 - error[:30].mean() + error[30:].mean()
    gate = verdicts(predictions(np.clip(truth, 3, 8), np.clip(truth, 3, 8) + error, job=value))["slice_gap"]
    assert gate.verdict == "passed"
    assert gate.reason.startswith("job = few is scored 0.")
    assert "may be chance: about " in gate.reason


def test_slices_too_small_for_an_interval_have_values_without_bounds():
    truth, _, _ = world()
    result = slices.measure_slices(predictions(truth, truth + 1, job=["few"] * 9 + ["many"] * 591), QUICK)
    small_slice = slice_of(result, "few")
    assert small_slice.metrics["mae"].value > 0.9
    assert np.isnan([small_slice.metrics["mae"].low, small_slice.adjusted.low]).all()


def test_an_empty_value_is_called_unknown_and_crossed_attributes_form_joint_slices():
    truth, _, _ = world(photos=8)
    data = predictions(truth, truth, sex=["f", "m", "f", ""] * 2, job=["x", "x", "y", "y"] * 2)
    result = slices.measure_slices(data, replace(QUICK, crossings=("sex*job",)))
    assert {photo_slice.value for photo_slice in result.slices if photo_slice.attribute == "sex"} == {
        "f",
        "m",
        "unknown",
    }
    crossed_values = {photo_slice.value for photo_slice in result.slices if photo_slice.attribute == "sex*job"}
    assert crossed_values == {"f, x", "m, x", "f, y", "unknown, y"}


@pytest.mark.parametrize("crossing", ["sex*age", "age", "sex", "sex*sex", ""])
def test_a_crossing_of_unknown_attributes_is_refused_with_the_known_attributes(crossing):
    attributes = pd.DataFrame({"sex": ["f"], "job": ["x"]})
    with pytest.raises(ValueError, match=r"among \['sex', 'job'\]"):
        slices.check_crossings(attributes, replace(QUICK, crossings=(crossing,)))


def test_only_the_twenty_most_frequent_values_of_an_attribute_are_slices():
    truth, _, _ = world(photos=130)
    value = [f"v{number}" for number in range(25) for _ in range(number % 5 + 3)][:125] + ["v24"] * 5
    result = slices.measure_slices(predictions(truth, truth, job=value), replace(QUICK, bootstrap=20))
    assert len(result.slices) == 20
    assert result.slices[0].value == "v24"


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.floats(-0.5, 0.5), st.integers(0, 1000))
def test_a_constant_added_to_all_scores_changes_the_mean_error_and_no_gap(constant, seed):
    truth, value, rng = world(photos=90, seed=seed)
    truth, noise = np.clip(truth, 3, 8), rng.uniform(-1, 1, 90)
    few_resamples = replace(QUICK, bootstrap=20)
    before, after = (
        slices.measure_slices(predictions(truth, truth + noise + offset, job=value), few_resamples)
        for offset in (0, constant)
    )
    for slice_before, slice_after in zip(before.slices, after.slices, strict=True):
        assert slice_after.metrics["bias"].value - slice_before.metrics["bias"].value == pytest.approx(
            constant, abs=1e-9
        )
        for name in ("difference", "adjusted", "gap"):
            assert getattr(slice_after, name).value == pytest.approx(getattr(slice_before, name).value, abs=1e-9)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_gap_is_never_larger_than_the_difference_or_the_adjusted_difference(seed):
    truth, value, rng = world(photos=90, apart=1, seed=seed)
    data = predictions(truth, truth + rng.normal(0, 2, 90), job=value)
    for photo_slice in slices.measure_slices(data, replace(QUICK, bootstrap=20)).slices:
        assert (
            abs(photo_slice.gap.value)
            <= min(abs(photo_slice.difference.value), abs(photo_slice.adjusted.value)) + 1e-12
        )
        assert photo_slice.gap.low <= photo_slice.gap.value <= photo_slice.gap.high


def test_the_slope_is_that_of_regression_with_an_intercept_for_each_slice():
    truth, value, rng = world(apart=1)
    predicted = np.clip(2 + 0.6 * truth + rng.normal(0, 0.5, 600), 1, 10)
    dummies = (value[:, None] == np.unique(value)).astype(float)
    expected = np.linalg.lstsq(np.column_stack([truth, dummies]), predicted, rcond=None)[0][0]
    result = slices.measure_slices(predictions(truth, predicted, job=value), replace(QUICK, bootstrap=20))
    assert result.slopes["job"] == pytest.approx(expected, rel=1e-3)


def test_the_same_seed_gives_the_same_intervals():
    truth, value, rng = world()
    data = predictions(truth, truth + rng.normal(0, 1, 600), job=value)
    assert slices.measure_slices(data, QUICK) == slices.measure_slices(data, QUICK)


def test_photos_of_one_person_widen_the_interval_of_the_gap():
    truth, value, rng = world(photos=150)
    noise = rng.normal(0, 1, 150)
    truth, value, noise = (np.repeat(values, 4) for values in (truth, value, noise))
    person = [str(number // 4) for number in range(600)]
    ungrouped, grouped = (
        slice_of(slices.measure_slices(predictions(truth, truth + noise, job=value, groups=groups), QUICK), "a")
        for groups in ((), person)
    )
    assert grouped.gap.high - grouped.gap.low > 1.6 * (ungrouped.gap.high - ungrouped.gap.low)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12))
def test_a_weighted_rank_correlation_equals_that_of_repeated_photos(rows):
    truth, predicted, weights = np.array(rows).T
    repeated_truth, repeated_predictions = (
        np.repeat(truth, weights).astype(float),
        np.repeat(predicted, weights).astype(float),
    )
    expected = regression.srcc(repeated_truth, repeated_predictions) if len(repeated_truth) else np.nan
    weighted = bootstrap.weighted_srcc(truth.astype(float), predicted.astype(float), weights[None].astype(float))[0]
    assert weighted == pytest.approx(float(expected), abs=1e-9, nan_ok=True)


def test_resamples_draw_whole_clusters_and_as_many_as_there_are():
    cluster_of_photo = np.array([0, 0, 1, 2, 2, 2])
    counts = np.concatenate(list(bootstrap.resample_counts(cluster_of_photo, 50, 1)))
    assert counts.shape == (50, 6)
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
