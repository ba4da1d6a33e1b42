"""Slices are held to be scored unfairly when they are, and not because a scorer knows little or people differ."""

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
    """Votes [n, 10] with exactly these means, by raters who agree to a point."""
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
    """People's means and the slice of each photo; slices differ by ``apart`` points from one to the next."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(np.arange(photos) % len(values))
    truth = np.clip(5.5 + apart * (place - (len(values) - 1) / 2) + rng.normal(0, 1.1, photos), 1.2, 9.8)
    return truth, np.array(values)[place], rng


def verdicts(of, with_settings=QUICK):
    found = slices.gates(slices.measure_slices(of, with_settings), with_settings)
    return {gate.key: gate for gate in found}


def failing(of, with_settings=QUICK):
    judged = slices.gates(slices.measure_slices(of, with_settings), with_settings)
    judged += calibration.gates(calibration.calibrate(of, with_settings), with_settings)
    return [gate.key for gate in judged if gate.verdict == "failed"]


def slice_of(found, value):
    return next(each for each in found.slices if each.value == value)


@pytest.mark.parametrize(("offset", "side"), [(-0.8, "too low"), (0.8, "too high")])
def test_a_scorer_unfair_to_one_slice_fails_the_gap_only_and_the_reason_names_it(offset, side):
    truth, value, rng = world()
    unfair = predictions(truth, truth + rng.normal(0, 0.6, 600) + offset * (value == "b"), job=value)
    assert failing(unfair) == ["slice_gap"]
    reason = verdicts(unfair)["slice_gap"].reason
    assert reason.startswith("job = b is scored")
    assert side in reason


def test_a_fair_scorer_fails_nothing():
    truth, value, rng = world(apart=1.0)
    assert failing(predictions(truth, truth + rng.normal(0, 0.6, 600), job=value)) == []


def test_a_scorer_that_keeps_to_the_middle_of_all_is_not_unfair_although_mean_errors_differ():
    truth, value, rng = world(apart=1.2)
    shrunk = predictions(truth, 5.5 + 0.5 * (truth - 5.5) + rng.normal(0, 0.2, 600), job=value)
    low = slice_of(slices.measure_slices(shrunk, QUICK), "a")
    assert low.difference.low > 0.5
    assert [gate.verdict for gate in verdicts(shrunk).values()] == ["passed", "passed"]


def test_a_scorer_that_keeps_to_the_mean_of_the_slice_is_not_unfair_but_it_is_told():
    truth, value, rng = world(apart=1.2)
    mean = pd.Series(truth).groupby(value).transform("mean").to_numpy()
    shrunk = predictions(truth, mean + 0.5 * (truth - mean) + rng.normal(0, 0.2, 600), job=value)
    gate = verdicts(shrunk)["slice_gap"]
    assert gate.verdict == "passed"
    assert "among photos that people rate alike, job = a is scored 0." in gate.reason


def test_a_slice_set_further_apart_than_people_set_it_is_scored_too_low():
    truth, value, rng = world(apart=0.6)
    further = predictions(truth, truth + rng.normal(0, 0.5, 600) - 0.6 * (value == "a"), job=value)
    gate = verdicts(further)["slice_gap"]
    assert gate.verdict == "failed"
    assert gate.value == pytest.approx(-0.6, abs=0.15)


def test_of_two_slices_that_mirror_each_other_the_one_scored_too_low_is_named():
    truth, value, rng = world(values=("a", "b"))
    gate = verdicts(predictions(truth, truth + rng.normal(0, 0.5, 600) + 0.5 * (value == "a"), job=value))["slice_gap"]
    assert gate.reason.startswith("job = b is scored")


def test_a_perfect_scorer_does_not_seem_to_favour_slices_because_raters_are_few():
    rng = np.random.default_rng(0)
    place = np.arange(3000) % 2
    mean = np.clip(4.5 + 2 * place + rng.normal(0, 0.8, 3000), 2, 9)
    votes = np.array([np.bincount(np.clip(np.rint(rng.normal(m, 1.2, 5)), 1, 10).astype(int), minlength=11)[1:]
                      for m in mean]) / 5  # fmt: skip
    perfect = replace(
        predictions(mean, mean, side=np.array(["low", "high"])[place]), truth=votes, raters=np.full(3000, 5)
    )
    found = slices.measure_slices(perfect, replace(QUICK, bootstrap=20))
    assert slice_of(found, "high").adjusted.value == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("known", "as_if"), [(0, 1_000_000), (0.5, 5)])
def test_an_unknown_number_of_raters_is_a_typical_one_and_where_none_is_known_people_are_taken_at_their_word(
    known, as_if
):
    truth, value, rng = world(photos=300, apart=1)
    of = predictions(truth, truth + rng.normal(0, 0.5, 300), job=value)
    unknown, said = (
        slices.measure_slices(replace(of, raters=raters), replace(QUICK, bootstrap=20)).slopes["job"]
        for raters in (np.where(np.arange(300) < 300 * known, 5, 0), np.full(300, as_if))
    )
    assert unknown == pytest.approx(said, rel=1e-5)


def failures(gate, predict, photos, trials):
    """How many of so many simulated test splits, of eight slices of so many photos, fail a gate."""
    value, failed = np.repeat(list("abcdefgh"), photos), 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        truth = np.clip(rng.normal(5.5, 1.2, len(value)), 1, 10)
        scored = predictions(truth, predict(truth, value, rng), job=value)
        failed += verdicts(scored, replace(QUICK, bootstrap=200))[gate].verdict == "failed"
    return failed


def test_fair_slices_of_forty_photos_fail_by_chance_at_most_once_in_twenty():
    def fair(truth, value, rng):
        return 5.5 + 0.6 * (truth - 5.5) + rng.normal(0, 0.9, len(truth))

    assert failures("slice_gap", fair, photos=40, trials=200) <= 10


def test_a_slice_of_sixty_scored_a_point_too_low_is_found_nearly_always():
    def unfair(truth, value, rng):
        return 5.8 + 0.6 * (truth - 5.5) + rng.normal(0, 0.9, len(truth)) - 1.0 * (value == "a")

    assert failures("slice_gap", unfair, photos=60, trials=30) >= 27


def test_a_slice_ranked_by_chance_fails_the_floor_only():
    truth, value, rng = world()
    predicted = truth + rng.normal(0, 0.5, 600)
    predicted[value == "c"] = rng.permutation(predicted[value == "c"])
    blind = predictions(truth, predicted, job=value)
    assert failing(blind) == ["slice_floor"]
    assert "job = c has an SRCC of 0.0" in verdicts(blind)["slice_floor"].reason


def test_a_slice_surely_below_the_floor_fails_although_the_others_are_no_better():
    truth, value, rng = world(photos=900)
    weak = predictions(truth, 5.5 + rng.normal(0, 1, 900), job=value)
    assert verdicts(weak)["slice_floor"].verdict == "failed"


def test_a_slice_below_the_floor_by_what_may_be_chance_passes_and_is_named():
    truth, value, rng = world(photos=240, values=tuple("abcdefgh"), seed=3)
    found = slices.measure_slices(
        predictions(truth, 5.5 + 0.5 * (truth - 5.5) + rng.normal(0, 0.7, 240), job=value), QUICK
    )
    lowest = min(found.judged, key=lambda each: each.metrics["srcc"].value)
    gate = slices.gates(found, replace(QUICK, minimum_slice_srcc=lowest.metrics["srcc"].value + 1e-9))[0]
    assert gate.verdict == "passed"
    assert f"{lowest.title} has the lowest SRCC" in gate.reason
    assert "by chance" in gate.reason


def test_slices_that_are_ranked_alike_fail_the_floor_by_chance_at_most_once_in_twenty():
    def alike(truth, value, rng):
        return 5.5 + 0.6 * (truth - 5.5) + rng.normal(0, 1.1, len(truth))

    assert failures("slice_floor", alike, photos=40, trials=100) <= 5


@pytest.mark.parametrize(
    ("predicted", "why"), [(5.0, "every photo gets the same score"), (np.nan, "a prediction is no number")]
)
def test_scores_that_cannot_be_measured_fail_both_gates_and_say_why(predicted, why):
    truth, value, _ = world()
    of = predictions(truth, truth, job=value)
    unusable = replace(of, scorer=np.full((600, 10), np.nan) if np.isnan(predicted) else shares(np.full(600, 5.0)))
    for gate in verdicts(unusable).values():
        assert gate.verdict == "failed"
        assert why in gate.reason


def test_a_single_prediction_that_is_no_number_fails_both_gates():
    truth, value, _ = world()
    of = predictions(truth, truth, job=value)
    of.scorer[0] = np.nan
    assert [gate.verdict for gate in verdicts(of).values()] == ["failed", "failed"]


def test_without_attributes_both_gates_pass_and_say_that_there_was_nothing_to_slice_by():
    truth, _, _ = world()
    for gate in verdicts(predictions(truth, truth)).values():
        assert gate.verdict == "passed"
        assert "no attributes" in gate.reason


def test_a_slice_smaller_than_the_minimum_is_shown_and_not_judged():
    truth, _, rng = world()
    value = np.where(np.arange(600) < 29, "few", "many")
    of = predictions(truth, truth + rng.normal(0, 0.3, 600) - 2.0 * (value == "few"), job=value)
    found = slices.measure_slices(of, QUICK)
    assert not slice_of(found, "few").judged
    assert slice_of(found, "few").metrics["bias"].value == pytest.approx(-2, abs=0.3)
    assert slices.gates(found, QUICK)[1].verdict == "passed"


def test_nor_is_a_slice_judged_that_has_too_few_others_beside_it():
    truth, _, _ = world()
    found = slices.measure_slices(predictions(truth, truth, job=["all"] * 600), QUICK)
    assert found.judged == []
    assert all(gate.verdict == "passed" and "none of 1 slice" in gate.reason for gate in slices.gates(found, QUICK))


def test_a_large_gap_that_may_be_chance_passes_and_names_the_slice_and_how_many_photos_would_tell():
    truth, _, rng = world(photos=200)
    value = np.where(np.arange(200) < 30, "few", "many")
    error = rng.normal(0, 1.5, 200)
    error[:30] += -0.5 - error[:30].mean() + error[30:].mean()
    gate = verdicts(predictions(np.clip(truth, 3, 8), np.clip(truth, 3, 8) + error, job=value))["slice_gap"]
    assert gate.verdict == "passed"
    assert gate.reason.startswith("job = few is scored 0.")
    assert "may be chance: about " in gate.reason


def test_slices_too_small_for_an_interval_have_values_only():
    truth, _, _ = world()
    found = slices.measure_slices(predictions(truth, truth + 1, job=["few"] * 9 + ["many"] * 591), QUICK)
    few = slice_of(found, "few")
    assert few.metrics["mae"].value > 0.9
    assert np.isnan([few.metrics["mae"].low, few.adjusted.low]).all()


def test_an_empty_value_is_unknown_and_crossed_attributes_are_sliced_together():
    truth, _, _ = world(photos=8)
    of = predictions(truth, truth, sex=["f", "m", "f", ""] * 2, job=["x", "x", "y", "y"] * 2)
    found = slices.measure_slices(of, replace(QUICK, crossings=("sex*job",)))
    assert {each.value for each in found.slices if each.attribute == "sex"} == {"f", "m", "unknown"}
    crossed = {each.value for each in found.slices if each.attribute == "sex*job"}
    assert crossed == {"f, x", "m, x", "f, y", "unknown, y"}


@pytest.mark.parametrize("crossing", ["sex*age", "age", "sex", "sex*sex", ""])
def test_a_crossing_of_what_there_is_not_is_refused_with_the_attributes_there_are(crossing):
    attributes = pd.DataFrame({"sex": ["f"], "job": ["x"]})
    with pytest.raises(ValueError, match=r"among \['sex', 'job'\]"):
        slices.check_crossings(attributes, replace(QUICK, crossings=(crossing,)))


def test_of_an_attribute_with_many_values_the_twenty_most_frequent_are_shown():
    truth, _, _ = world(photos=130)
    value = [f"v{number}" for number in range(25) for _ in range(number % 5 + 3)][:125] + ["v24"] * 5
    found = slices.measure_slices(predictions(truth, truth, job=value), replace(QUICK, bootstrap=20))
    assert len(found.slices) == 20
    assert found.slices[0].value == "v24"


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.5, 0.5), st.integers(0, 1000))
def test_a_constant_added_to_all_scores_moves_the_mean_error_and_no_gap(constant, seed):
    truth, value, rng = world(photos=90, seed=seed)
    truth, noise = np.clip(truth, 3, 8), rng.uniform(-1, 1, 90)
    few = replace(QUICK, bootstrap=20)
    before, after = (
        slices.measure_slices(predictions(truth, truth + noise + add, job=value), few) for add in (0, constant)
    )
    for one, other in zip(before.slices, after.slices, strict=True):
        assert other.metrics["bias"].value - one.metrics["bias"].value == pytest.approx(constant, abs=1e-9)
        for name in ("difference", "adjusted", "gap"):
            assert getattr(other, name).value == pytest.approx(getattr(one, name).value, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_gap_is_never_larger_than_either_allowance_leaves(seed):
    truth, value, rng = world(photos=90, apart=1, seed=seed)
    of = predictions(truth, truth + rng.normal(0, 2, 90), job=value)
    for each in slices.measure_slices(of, replace(QUICK, bootstrap=20)).slices:
        assert abs(each.gap.value) <= min(abs(each.difference.value), abs(each.adjusted.value)) + 1e-12
        assert each.gap.low <= each.gap.value <= each.gap.high


def test_the_slope_is_that_of_regression_with_a_level_for_each_slice():
    truth, value, rng = world(apart=1)
    predicted = np.clip(2 + 0.6 * truth + rng.normal(0, 0.5, 600), 1, 10)
    dummies = (value[:, None] == np.unique(value)).astype(float)
    expected = np.linalg.lstsq(np.column_stack([truth, dummies]), predicted, rcond=None)[0][0]
    found = slices.measure_slices(predictions(truth, predicted, job=value), replace(QUICK, bootstrap=20))
    assert found.slopes["job"] == pytest.approx(expected, rel=1e-3)


def test_the_same_seed_gives_the_same_intervals():
    truth, value, rng = world()
    of = predictions(truth, truth + rng.normal(0, 1, 600), job=value)
    assert slices.measure_slices(of, QUICK) == slices.measure_slices(of, QUICK)


def test_photos_of_one_person_count_as_one_piece_of_evidence():
    truth, value, rng = world(photos=150)
    noise = rng.normal(0, 1, 150)
    truth, value, noise = (np.repeat(each, 4) for each in (truth, value, noise))
    person = [str(number // 4) for number in range(600)]
    alone, grouped = (
        slice_of(slices.measure_slices(predictions(truth, truth + noise, job=value, groups=groups), QUICK), "a")
        for groups in ((), person)
    )
    assert grouped.gap.high - grouped.gap.low > 1.6 * (alone.gap.high - alone.gap.low)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12))
def test_a_weighted_rank_correlation_is_that_of_photos_repeated(rows):
    truth, predicted, weights = np.array(rows).T
    t, p = np.repeat(truth, weights).astype(float), np.repeat(predicted, weights).astype(float)
    expected = regression.srcc(t, p) if len(t) else np.nan
    found = bootstrap.weighted_srcc(truth.astype(float), predicted.astype(float), weights[None].astype(float))[0]
    assert found == pytest.approx(float(expected), abs=1e-9, nan_ok=True)


def test_redraws_take_as_many_clusters_as_there_are_and_those_whole():
    of_photo = np.array([0, 0, 1, 2, 2, 2])
    drawn = np.concatenate(list(bootstrap.resample_counts(of_photo, 50, 1)))
    assert drawn.shape == (50, 6)
    assert (drawn[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 3] == drawn[:, 5]).all()
