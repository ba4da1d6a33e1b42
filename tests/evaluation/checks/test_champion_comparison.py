"""Champion comparison: both score the same photos, and the challenger passes only if the photos are evidence enough."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from components.evaluation.checks.champion_comparison import (
    COMPARED_METRICS,
    Comparison,
    MetricDifference,
    compare,
    gates,
    photos_needed,
)
from components.evaluation.checks.champion_predictions import ChampionPredictions
from components.scorer.metrics import bootstrap, regression
from components.scorer.run import decision
from components.scorer.settings import Evaluation

SCORES = np.arange(1, 11)
SETTINGS = Evaluation(bootstrap=200)
SUPERIOR = replace(SETTINGS, champion_mode="superiority")
CHAMPION = ChampionPredictions("models/portraits/3", 3, np.full((1, 10), 0.1))
KEYS = ["champion_srcc", "champion_lcc", "champion_emd"]
ALL_PASSED = ["passed"] * 3


def votes_around(means, width=1.5):
    shares = np.exp(-((SCORES - np.asarray(means, float)[:, None]) ** 2) / (2 * width**2))
    return shares / shares.sum(axis=1, keepdims=True)


def people(photos=300, seed=0):
    quality = np.random.default_rng(seed).normal(5.5, 1.2, photos)
    return quality, votes_around(quality)


def scorer(quality, noise, seed=1):
    return votes_around(quality + np.random.default_rng(seed).normal(0, noise, len(quality)))


def verdicts(found):
    return [gate.verdict for gate in found]


def judge(truth, challenger, champion, settings=SETTINGS, groups=None):
    return gates(
        compare(truth, challenger, champion, settings, groups), ChampionPredictions("m/3", 3, champion), settings
    )


def test_the_difference_is_the_challengers_metric_minus_the_champions():
    quality, truth = people()
    challenger, champion = scorer(quality, 1), scorer(quality, 0.5, seed=2)
    comparison = compare(truth, challenger, champion, SETTINGS)
    challenger_metrics, champion_metrics = (
        regression.all_metrics(truth, challenger),
        regression.all_metrics(truth, champion),
    )
    for name, difference in comparison.differences.items():
        assert (difference.challenger, difference.champion) == (challenger_metrics[name], champion_metrics[name])
        assert difference.value == challenger_metrics[name] - champion_metrics[name]
    assert (comparison.photos, comparison.groups) == (300, 300)
    assert comparison.likeness == regression.all_metrics(challenger, champion)["srcc"]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(4, 60), st.floats(0, 2), st.floats(0, 2), st.integers(0, 1000))
def test_swapping_the_models_changes_only_the_sign_of_the_difference(photos, one, other, seed):
    quality, truth = people(photos, seed)
    first_votes, second_votes = scorer(quality, one, seed + 1), scorer(quality, other, seed + 2)
    differences, swapped_differences = (
        compare(truth, *pair, replace(SETTINGS, bootstrap=20)).differences
        for pair in ((first_votes, second_votes), (second_votes, first_votes))
    )
    for name in COMPARED_METRICS:
        assert swapped_differences[name].value == pytest.approx(-differences[name].value)
        assert swapped_differences[name].error == pytest.approx(differences[name].error, nan_ok=True)
        assert swapped_differences[name].lower == pytest.approx(-differences[name].upper, nan_ok=True)
        assert swapped_differences[name].low == pytest.approx(-differences[name].high, nan_ok=True)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(4, 60), st.floats(0, 2), st.integers(0, 1000))
def test_the_interval_encloses_the_bounds_and_the_bounds_enclose_the_difference(photos, noise, seed):
    quality, truth = people(photos, seed)
    comparison = compare(truth, scorer(quality, noise, seed), scorer(quality, 1), replace(SETTINGS, bootstrap=20))
    for difference in comparison.differences.values():
        assert difference.low <= difference.lower <= difference.value <= difference.upper <= difference.high


def test_the_error_of_a_difference_is_smaller_than_that_of_a_single_metric():
    quality, truth = people()
    champion = scorer(quality, 1)
    challenger = votes_around(regression.mean_scores(champion) + np.random.default_rng(5).normal(0, 0.2, 300))
    error_of_one_metric = bootstrap.bootstrap(truth, champion, resamples=200, names=("srcc",))["srcc"].std()
    assert compare(truth, challenger, champion, SETTINGS).srcc.error < error_of_one_metric / 2


@pytest.mark.parametrize("seed", range(5))
def test_bounds_are_the_wider_of_the_bootstrap_bounds_and_williams_bounds(seed):
    quality, truth = people(100, seed)
    challenger, champion = scorer(quality, 0.5, seed + 1), scorer(quality, 0.5, seed + 2)
    comparison = compare(truth, challenger, champion, SETTINGS)
    challenger_draws, champion_draws = (
        bootstrap.bootstrap(truth, votes, resamples=200, names=COMPARED_METRICS) for votes in (challenger, champion)
    )
    for name, difference in comparison.differences.items():
        draws = challenger_draws[name] - champion_draws[name]
        margin = stats.t.ppf(0.95, 99) * difference.error
        assert difference.error == pytest.approx(
            max(draws.std(ddof=1), difference.williams.error if difference.williams else 0)
        )
        assert difference.lower == pytest.approx(min(difference.value - margin, np.quantile(draws, 0.05)))
        assert difference.upper == pytest.approx(max(difference.value + margin, np.quantile(draws, 0.95)))


@pytest.mark.slow
def test_copies_of_a_photo_do_not_shrink_the_error_if_they_are_resampled_as_one_group():
    quality, truth = people(100)
    votes = truth, scorer(quality, 1), scorer(quality, 1, seed=2)
    copies = [np.repeat(photo_votes, 4, axis=0) for photo_votes in votes]
    names = [f"person {number}" for number in np.repeat(np.arange(100), 4)]
    without_copies, grouped = compare(*votes, SETTINGS), compare(*copies, SETTINGS, names)
    ungrouped = compare(*copies, SETTINGS)
    assert (grouped.photos, grouped.groups) == (400, 100)
    for name in COMPARED_METRICS:
        assert grouped.differences[name].error == pytest.approx(without_copies.differences[name].error, rel=0.2)
        assert ungrouped.differences[name].error == pytest.approx(grouped.differences[name].error / 2, rel=0.3)


@pytest.mark.parametrize("groups", [None, (), ["", *"abcdefghi", *[""] * 40]])
def test_a_photo_without_a_group_is_resampled_on_its_own(groups):
    quality, truth = people(50)
    challenger, champion = scorer(quality, 1), scorer(quality, 1, seed=2)
    assert compare(truth, challenger, champion, SETTINGS, groups) == compare(truth, challenger, champion, SETTINGS)


def test_williams_test_gives_a_small_p_for_a_better_challenger():
    quality, truth = people()
    comparison = compare(truth, scorer(quality, 0.3), scorer(quality, 1.5, seed=2), SETTINGS)
    assert comparison.srcc.williams.t > 3
    assert comparison.lcc.williams.p < 0.001
    assert comparison.srcc.williams.degrees == 297
    assert comparison.emd.williams is None


def test_the_gate_compares_the_challenger_with_the_champion_and_not_with_itself():
    quality, truth = people()
    challenger = scorer(quality, 1)
    better_champion, poorer_champion = scorer(quality, 0.2, seed=2), scorer(quality, 2, seed=3)
    assert verdicts(judge(truth, challenger, poorer_champion, SUPERIOR)) == ALL_PASSED
    assert verdicts(judge(truth, challenger, better_champion, SUPERIOR)) == ["failed"] * 3
    self_comparison = compare(truth, challenger, challenger, SETTINGS)
    assert [(difference.value, difference.error) for difference in self_comparison.differences.values()] == [(0, 0)] * 3


def test_an_identical_model_passes_as_not_worse_and_fails_as_superior():
    quality, truth = people()
    votes = scorer(quality, 1)
    assert (
        verdicts(judge(truth, votes, votes, replace(SETTINGS, champion_margin=0, champion_margin_emd=0))) == ALL_PASSED
    )
    judged_gates = judge(truth, votes, votes, SUPERIOR)
    assert verdicts(judged_gates) == ["failed", "passed", "passed"]
    assert "above 0" in judged_gates[0].reason


def test_the_first_model_passes_unopposed_and_the_reason_says_that_other_gates_remain():
    for mode_settings in (SETTINGS, SUPERIOR):
        judged_gates = gates(None, None, mode_settings)
        assert [(gate.key, gate.verdict) for gate in judged_gates] == [(key, "passed") for key in KEYS]
        assert all("unopposed and must pass all others" in gate.reason for gate in judged_gates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("champion", "words"),
    [
        (
            ChampionPredictions("models/portraits/3", 3, error="OSError: gone"),
            "version 3, could not be scored: OSError: gone",
        ),
        (CHAMPION, "version 3, was not scored"),
    ],
)
def test_without_a_scored_champion_the_gates_are_not_judged_and_the_reason_says_why(champion, words):
    judged_gates = gates(None, champion, SETTINGS)
    assert verdicts(judged_gates) == ["not judged"] * 3
    assert all(words in gate.reason and math.isnan(gate.value) for gate in judged_gates)


def test_against_a_constant_champion_the_correlation_gates_are_not_judged():
    quality, truth = people()
    judged_gates = judge(truth, scorer(quality, 1), np.full((300, 10), 0.1))
    assert verdicts(judged_gates) == ["not judged", "not judged", "passed"]
    assert "version 3, could not be computed (every photo gets the same score)" in judged_gates[0].reason


@pytest.mark.parametrize(
    ("votes", "wrong", "why"),
    [
        (np.full((300, 10), 0.1), ["failed", "failed"], "every photo gets the same score"),
        (np.full((300, 10), np.nan), ["failed"] * 3, "a prediction is no number"),
    ],
)
def test_a_challenger_fails_the_gates_of_metrics_that_it_does_not_have(votes, wrong, why):
    quality, truth = people()
    judged_gates = judge(truth, votes, scorer(quality, 1))
    assert verdicts(judged_gates)[: len(wrong)] == wrong
    assert all(why in gate.reason and "missing metric fails" in gate.reason for gate in judged_gates[: len(wrong)])


def test_if_people_rate_all_photos_alike_the_correlation_gates_are_not_judged():
    quality, _ = people()
    judged_gates = judge(np.full((300, 10), 0.1), scorer(quality, 1), scorer(quality, 2, seed=3))
    assert verdicts(judged_gates)[:2] == ["not judged", "not judged"]
    assert "people's mean scores do not vary" in judged_gates[0].reason


@pytest.mark.parametrize("photos", [0, 1, 2, 3, 4, 5])
def test_a_handful_of_photos_raises_no_error_and_passes_no_gate(photos):
    quality, truth = people(photos)
    judged_gates = judge(truth, scorer(quality, 1), scorer(quality, 0.9, seed=2))
    assert "passed" not in verdicts(judged_gates)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [["a"] * 60, ["a", "b", "c"] * 20])
def test_many_photos_of_a_few_people_are_too_few_to_pass(groups):
    quality, truth = people(60)
    judged_gates = judge(truth, scorer(quality, 0.1), scorer(quality, 2, seed=2), groups=groups)
    assert verdicts(judged_gates) == ["failed"] * 3
    assert "too small" in judged_gates[0].reason


def test_votes_or_groups_for_another_number_of_photos_are_refused():
    quality, truth = people(20)
    votes = scorer(quality, 1)
    with pytest.raises(ValueError, match="must be of the same photos"):
        compare(truth, votes[:19], votes, SETTINGS)
    with pytest.raises(ValueError, match="expected a group for each of 20 photos, got 2"):
        compare(truth, votes, votes, SETTINGS, ["a", "b"])


def test_a_scorer_that_shuffles_the_middle_fails_only_the_srcc_gate():
    """Most photos are nearly alike: their order decides the ranks but hardly changes scores or votes."""
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.normal(5.5, 0.01, 400), rng.uniform(2, 9, 100)])
    shuffled = np.concatenate([rng.permutation(means[:400]), means[400:]])
    judged_gates = judge(votes_around(means), votes_around(shuffled), votes_around(means))
    assert verdicts(judged_gates) == ["failed", "passed", "passed"]


def test_a_scorer_that_bends_the_scale_fails_only_the_lcc_gate():
    """The ranks stay the same. Votes as sharp as people's offset the EMD that bending costs."""
    quality, truth = people(500)
    bent_scores = 4 + 5 / (1 + np.exp(-(quality - 7) * 3))
    judged_gates = judge(truth, votes_around(bent_scores), votes_around(quality, width=4))
    assert verdicts(judged_gates) == ["passed", "failed", "passed"]


def test_a_scorer_with_too_wide_votes_fails_only_the_emd_gate():
    quality, truth = people(500)
    predicted_means = np.clip(quality + np.random.default_rng(1).normal(0, 0.5, 500), 3, 8)
    judged_gates = judge(
        truth,
        0.7 * votes_around(predicted_means) + 0.3 * votes_around(predicted_means)[:, ::-1].mean(axis=0),
        votes_around(predicted_means),
    )
    assert verdicts(judged_gates) == ["passed", "passed", "failed"]


def made(value, error, photos=500, metric="srcc", groups=None):
    """Return a comparison that differs in one metric; the other differences are 0 with error 0."""
    settings = SETTINGS

    def difference(value, error, margin):
        return MetricDifference(
            challenger=0.7 + value, champion=0.7, value=value, error=error,
            low=value - 1.96 * error, high=value + 1.96 * error,
            lower=value - 1.645 * error, upper=value + 1.645 * error,
            photos_needed=photos_needed(error, photos, margin, settings.significance),
        )  # fmt: skip

    margins = {"srcc": settings.champion_margin, "lcc": settings.champion_margin, "emd": settings.champion_margin_emd}
    numbers = {name: (value, error) if name == metric else (0.0, 0.0) for name in COMPARED_METRICS}
    return Comparison(
        photos, groups or photos, 0.9, *(difference(*numbers[name], margins[name]) for name in COMPARED_METRICS)
    )


@pytest.mark.slow
@pytest.mark.parametrize("metric", COMPARED_METRICS)
@pytest.mark.parametrize(
    ("gain", "error", "verdict", "words"),
    [
        (0.5, 0.25, "passed", "it has to be at"),
        (0.0, 0.25, "passed", "95 % interval"),
        (-0.5, 0.1, "passed", "within the margin, but it is no chance"),
        (-2.5, 0.25, "failed", "with 95 % confidence"),
        (0.0, 1.5, "failed", "These photos cannot tell: a scorer as good as the champion passes four times in five"),
        (-0.75, 0.3, "failed", "so this one is hardly that"),
    ],
)
def test_a_gate_passes_only_if_a_loss_beyond_the_margin_is_excluded(metric, gain, error, verdict, words):
    margin = -SETTINGS.champion_margin_emd if metric == "emd" else SETTINGS.champion_margin
    judged_gates = gates(made(gain * margin, error * abs(margin), metric=metric), CHAMPION, SETTINGS)
    index = COMPARED_METRICS.index(metric)
    assert verdicts(judged_gates) == [verdict if gate_index == index else "passed" for gate_index in range(3)]
    assert words in judged_gates[index].reason
    assert ("cannot tell" in judged_gates[index].reason) == (error == 1.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gain", "error", "verdict", "words"),
    [
        (0.03, 0.01, "passed", "and it has to be above 0."),
        (0.01, 0.01, "failed", "These photos cannot tell: a scorer that is better by 0.02 passes four times in five"),
        (-0.01, 0.001, "failed", "and it has to be above 0."),
        (0.001, 0.001, "failed", "so this one is hardly that"),
    ],
)
def test_superiority_requires_a_gain_in_srcc_beyond_chance(gain, error, verdict, words):
    judged_gates = gates(made(gain, error), CHAMPION, SUPERIOR)
    assert verdicts(judged_gates) == [verdict, "passed", "passed"]
    assert words in judged_gates[0].reason


@pytest.mark.parametrize("metric", ["lcc", "emd"])
def test_superiority_requires_only_that_lcc_and_emd_are_not_worse(metric):
    judged_gates = gates(made(0.0, 0.001, metric=metric), CHAMPION, SUPERIOR)
    assert verdicts(judged_gates)[1:] == ["passed", "passed"]
    assert [gate.name.split()[-4] == "worse" for gate in judged_gates] == [False, True, True]


def test_a_reason_gives_the_photos_needed_as_a_rounded_number():
    reason = gates(made(0.0, 0.0155), CHAMPION, SETTINGS)[0].reason
    assert photos_needed(0.0155, 500, 0.02, 0.05) == 1857
    assert "only with about 1,900 test photos." in reason


def test_a_reason_has_both_values_the_difference_with_interval_the_margin_and_williams_p():
    quality, truth = people()
    judged_gates = judge(truth, scorer(quality, 1), scorer(quality, 0.9, seed=2))
    challenger, champion = (
        regression.all_metrics(truth, scorer(quality, 1)),
        regression.all_metrics(truth, scorer(quality, 0.9, seed=2)),
    )
    for gate, name in zip(judged_gates, COMPARED_METRICS, strict=True):
        assert (
            f"{name.upper()} {challenger[name]:.3f} against {champion[name]:.3f} of the champion, version 3,"
            in gate.reason
        )
        assert f"{challenger[name] - champion[name]:+.4f} (95 % interval " in gate.reason
        assert f"it has to be at {'most +0.03' if name == 'emd' else 'least -0.02'}" in gate.reason
        assert ("Williams' one-sided p" in gate.reason) == (name != "emd")


@pytest.mark.slow
def test_williams_test_is_omitted_if_photos_are_not_independent():
    quality, truth = people()
    judged_gates = judge(
        truth, scorer(quality, 1), scorer(quality, 2, seed=2), groups=[str(number // 3) for number in range(300)]
    )
    assert "300 photos of 100 groups" in judged_gates[0].reason
    assert "Williams" not in judged_gates[0].reason


def test_a_gate_passes_exactly_if_its_value_is_on_the_right_side_of_its_threshold():
    for metric in COMPARED_METRICS:
        for gain in (-0.03, -0.01, 0.0, 0.01):
            for gate in gates(made(gain, 0.01, metric=metric), CHAMPION, SETTINGS):
                inside = gate.value <= gate.threshold if gate.key == "champion_emd" else gate.value >= gate.threshold
                assert inside == (gate.verdict == "passed")


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(0.0001, 0.1), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_wider_margin_never_fails_a_challenger_that_passes_a_narrower_margin(value, error, one, other):
    narrow_settings, wide_settings = (replace(SETTINGS, champion_margin=margin) for margin in sorted((one, other)))
    passed = [
        gates(made(value, error), CHAMPION, margin)[0].verdict == "passed"
        for margin in (narrow_settings, wide_settings)
    ]
    assert passed != [True, False]


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.2), st.integers(10, 10_000), st.floats(0.001, 0.2), st.floats(0.001, 0.4))
def test_with_the_photos_needed_the_power_is_four_in_five(error, photos, distance, significance):
    needed = photos_needed(error, photos, distance, significance)
    error_with_needed_photos = error * math.sqrt(photos / needed)
    power = stats.norm.cdf(distance / error_with_needed_photos - stats.norm.isf(significance))
    power_with_one_photo_less = stats.norm.cdf(
        distance / (error * math.sqrt(photos / max(needed - 1, 1e-9))) - stats.norm.isf(significance)
    )
    assert power >= 0.8 - 1e-9
    assert power_with_one_photo_less <= 0.8 + 1e-9


def test_with_a_margin_of_0_no_number_of_photos_is_enough():
    assert photos_needed(0.01, 500, 0, 0.05) == math.inf
    assert math.isnan(photos_needed(math.nan, 500, 0.02, 0.05))
    judged_gates = gates(made(0.0, 0.01), CHAMPION, replace(SETTINGS, champion_margin=0))
    assert "needs a margin above 0" in judged_gates[0].reason


@pytest.mark.slow
def test_a_challenger_worse_by_the_margin_passes_about_as_rarely_as_the_significance_says():
    """Check the side and the rough size of the bound; the benchmark measures the exact rate."""
    differences, lower_bounds = [], []
    for seed in range(100):
        quality, truth = people(80, seed)
        votes = scorer(quality, 1.1, 2 * seed + 1), scorer(quality, 0.9, 2 * seed)
        difference = compare(truth, *votes, replace(SETTINGS, bootstrap=40)).srcc
        differences.append(difference.value)
        lower_bounds.append(difference.lower)
    assert 0.01 <= np.mean(np.array(lower_bounds) >= np.mean(differences)) <= 0.1


def test_a_comparison_is_written_as_json_with_null_for_nan():
    quality, truth = people(30)
    comparison = compare(truth, np.full((30, 10), 0.1), scorer(quality, 1), SETTINGS)
    written = json.loads(json.dumps(decision.to_json_value(comparison), allow_nan=False))
    assert written["srcc"]["value"] is None
    assert written["emd"]["champion"] == comparison.emd.champion
