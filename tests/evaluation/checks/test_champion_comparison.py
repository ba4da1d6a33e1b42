"""The challenger stands against the champion, on the same photos, and is let through only where these can tell."""

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


def test_the_difference_is_the_challengers_metric_less_the_champions():
    quality, truth = people()
    challenger, champion = scorer(quality, 1), scorer(quality, 0.5, seed=2)
    found = compare(truth, challenger, champion, SETTINGS)
    ours, theirs = regression.all_metrics(truth, challenger), regression.all_metrics(truth, champion)
    for name, difference in found.differences.items():
        assert (difference.challenger, difference.champion) == (ours[name], theirs[name])
        assert difference.value == ours[name] - theirs[name]
    assert (found.photos, found.groups) == (300, 300)
    assert found.likeness == regression.all_metrics(challenger, champion)["srcc"]


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 60), st.floats(0, 2), st.floats(0, 2), st.integers(0, 1000))
def test_turned_round_the_difference_changes_its_sign_and_nothing_else(photos, one, other, seed):
    quality, truth = people(photos, seed)
    a, b = scorer(quality, one, seed + 1), scorer(quality, other, seed + 2)
    there, back = (compare(truth, *pair, replace(SETTINGS, bootstrap=20)).differences for pair in ((a, b), (b, a)))
    for name in COMPARED_METRICS:
        assert back[name].value == pytest.approx(-there[name].value)
        assert back[name].error == pytest.approx(there[name].error, nan_ok=True)
        assert back[name].lower == pytest.approx(-there[name].upper, nan_ok=True)
        assert back[name].low == pytest.approx(-there[name].high, nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 60), st.floats(0, 2), st.integers(0, 1000))
def test_the_interval_holds_the_bounds_and_these_the_difference(photos, noise, seed):
    quality, truth = people(photos, seed)
    found = compare(truth, scorer(quality, noise, seed), scorer(quality, 1), replace(SETTINGS, bootstrap=20))
    for each in found.differences.values():
        assert each.low <= each.lower <= each.value <= each.upper <= each.high


def test_a_difference_is_surer_than_either_metric_since_both_score_the_same_photos():
    quality, truth = people()
    champion = scorer(quality, 1)
    challenger = votes_around(regression.mean_scores(champion) + np.random.default_rng(5).normal(0, 0.2, 300))
    alone = bootstrap.bootstrap(truth, champion, resamples=200, names=("srcc",))["srcc"].std()
    assert compare(truth, challenger, champion, SETTINGS).srcc.error < alone / 2


@pytest.mark.parametrize("seed", range(5))
def test_bounds_are_the_more_cautious_of_those_of_draws_and_of_williams_error(seed):
    quality, truth = people(100, seed)
    a, b = scorer(quality, 0.5, seed + 1), scorer(quality, 0.5, seed + 2)
    found = compare(truth, a, b, SETTINGS)
    ours, theirs = (bootstrap.bootstrap(truth, votes, resamples=200, names=COMPARED_METRICS) for votes in (a, b))
    for name, each in found.differences.items():
        draws = ours[name] - theirs[name]
        reach = stats.t.ppf(0.95, 99) * each.error
        assert each.error == pytest.approx(max(draws.std(ddof=1), each.williams.error if each.williams else 0))
        assert each.lower == pytest.approx(min(each.value - reach, np.quantile(draws, 0.05)))
        assert each.upper == pytest.approx(max(each.value + reach, np.quantile(draws, 0.95)))


def test_copies_of_a_photo_make_a_difference_no_surer_when_they_are_drawn_together():
    quality, truth = people(100)
    votes = truth, scorer(quality, 1), scorer(quality, 1, seed=2)
    copies = [np.repeat(each, 4, axis=0) for each in votes]
    names = [f"person {place}" for place in np.repeat(np.arange(100), 4)]
    once, together = compare(*votes, SETTINGS), compare(*copies, SETTINGS, names)
    apart = compare(*copies, SETTINGS)
    assert (together.photos, together.groups) == (400, 100)
    for name in COMPARED_METRICS:
        assert together.differences[name].error == pytest.approx(once.differences[name].error, rel=0.2)
        assert apart.differences[name].error == pytest.approx(together.differences[name].error / 2, rel=0.3)


@pytest.mark.parametrize("groups", [None, (), ["", *"abcdefghi", *[""] * 40]])
def test_without_a_group_each_photo_stands_for_itself(groups):
    quality, truth = people(50)
    a, b = scorer(quality, 1), scorer(quality, 1, seed=2)
    assert compare(truth, a, b, SETTINGS, groups) == compare(truth, a, b, SETTINGS)


def test_williams_test_speaks_for_the_challenger_with_a_small_p():
    quality, truth = people()
    found = compare(truth, scorer(quality, 0.3), scorer(quality, 1.5, seed=2), SETTINGS)
    assert found.srcc.williams.t > 3
    assert found.lcc.williams.p < 0.001
    assert found.srcc.williams.degrees == 297
    assert found.emd.williams is None


def test_the_gate_compares_with_the_champion_and_not_with_itself():
    quality, truth = people()
    challenger = scorer(quality, 1)
    better, poorer = scorer(quality, 0.2, seed=2), scorer(quality, 2, seed=3)
    assert verdicts(judge(truth, challenger, poorer, SUPERIOR)) == ALL_PASSED
    assert verdicts(judge(truth, challenger, better, SUPERIOR)) == ["failed"] * 3
    itself = compare(truth, challenger, challenger, SETTINGS)
    assert [(each.value, each.error) for each in itself.differences.values()] == [(0, 0)] * 3


def test_an_identical_model_is_not_worse_and_not_better():
    quality, truth = people()
    same = scorer(quality, 1)
    assert verdicts(judge(truth, same, same, replace(SETTINGS, champion_margin=0, champion_margin_emd=0))) == ALL_PASSED
    found = judge(truth, same, same, SUPERIOR)
    assert verdicts(found) == ["failed", "passed", "passed"]
    assert "above 0" in found[0].reason


def test_the_first_model_passes_unopposed_and_is_told_that_the_other_gates_remain():
    for mode in (SETTINGS, SUPERIOR):
        found = gates(None, None, mode)
        assert [(gate.key, gate.verdict) for gate in found] == [(key, "passed") for key in KEYS]
        assert all("unopposed and must pass all others" in gate.reason for gate in found)


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
def test_a_champion_that_could_not_be_scored_is_not_judged_with_the_reason(champion, words):
    found = gates(None, champion, SETTINGS)
    assert verdicts(found) == ["not judged"] * 3
    assert all(words in gate.reason and math.isnan(gate.value) for gate in found)


def test_a_champion_that_scores_all_alike_is_not_judged_where_it_has_no_correlation():
    quality, truth = people()
    found = judge(truth, scorer(quality, 1), np.full((300, 10), 0.1))
    assert verdicts(found) == ["not judged", "not judged", "passed"]
    assert "version 3, could not be computed (every photo gets the same score)" in found[0].reason


@pytest.mark.parametrize(
    ("votes", "wrong", "why"),
    [
        (np.full((300, 10), 0.1), ["failed", "failed"], "every photo gets the same score"),
        (np.full((300, 10), np.nan), ["failed"] * 3, "a prediction is no number"),
    ],
)
def test_a_challenger_without_a_metric_fails(votes, wrong, why):
    quality, truth = people()
    found = judge(truth, votes, scorer(quality, 1))
    assert verdicts(found)[: len(wrong)] == wrong
    assert all(why in gate.reason and "missing metric fails" in gate.reason for gate in found[: len(wrong)])


def test_where_people_rate_all_photos_alike_nobody_is_judged_by_ranks():
    quality, _ = people()
    found = judge(np.full((300, 10), 0.1), scorer(quality, 1), scorer(quality, 2, seed=3))
    assert verdicts(found)[:2] == ["not judged", "not judged"]
    assert "people's mean scores do not vary" in found[0].reason


@pytest.mark.parametrize("photos", [0, 1, 2, 3, 4, 5])
def test_a_handful_of_photos_raises_nothing_and_lets_nobody_through(photos):
    quality, truth = people(photos)
    found = judge(truth, scorer(quality, 1), scorer(quality, 0.9, seed=2))
    assert "passed" not in verdicts(found)


@pytest.mark.parametrize("groups", [["a"] * 60, ["a", "b", "c"] * 20])
def test_photos_of_a_few_people_are_few_however_many_they_are(groups):
    quality, truth = people(60)
    found = judge(truth, scorer(quality, 0.1), scorer(quality, 2, seed=2), groups=groups)
    assert verdicts(found) == ["failed"] * 3
    assert "too small" in found[0].reason


def test_votes_of_other_photos_or_groups_of_others_are_refused():
    quality, truth = people(20)
    votes = scorer(quality, 1)
    with pytest.raises(ValueError, match="must be of the same photos"):
        compare(truth, votes[:19], votes, SETTINGS)
    with pytest.raises(ValueError, match="expected a group for each of 20 photos, got 2"):
        compare(truth, votes, votes, SETTINGS, ["a", "b"])


def test_a_scorer_that_shuffles_the_middle_fails_in_ranking_only():
    """Most photos are nearly alike: their order decides the ranks and hardly touches scores or votes."""
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.normal(5.5, 0.01, 400), rng.uniform(2, 9, 100)])
    shuffled = np.concatenate([rng.permutation(means[:400]), means[400:]])
    found = judge(votes_around(means), votes_around(shuffled), votes_around(means))
    assert verdicts(found) == ["failed", "passed", "passed"]


def test_a_scorer_that_bends_the_scale_fails_in_scores_only():
    """Ranks stay, and votes as sharp as people's make up for the distance that bending costs."""
    quality, truth = people(500)
    bent = 4 + 5 / (1 + np.exp(-(quality - 7) * 3))
    found = judge(truth, votes_around(bent), votes_around(quality, width=4))
    assert verdicts(found) == ["passed", "failed", "passed"]


def test_a_scorer_whose_votes_are_too_wide_fails_in_votes_only():
    quality, truth = people(500)
    seen = np.clip(quality + np.random.default_rng(1).normal(0, 0.5, 500), 3, 8)
    found = judge(truth, 0.7 * votes_around(seen) + 0.3 * votes_around(seen)[:, ::-1].mean(axis=0), votes_around(seen))
    assert verdicts(found) == ["passed", "passed", "failed"]


def made(value, error, photos=500, metric="srcc", groups=None):
    """A comparison whose other metrics are equal beyond doubt."""
    config = SETTINGS

    def difference(value, error, margin):
        return MetricDifference(
            challenger=0.7 + value, champion=0.7, value=value, error=error,
            low=value - 1.96 * error, high=value + 1.96 * error,
            lower=value - 1.645 * error, upper=value + 1.645 * error,
            photos_needed=photos_needed(error, photos, margin, config.significance),
        )  # fmt: skip

    margins = {"srcc": config.champion_margin, "lcc": config.champion_margin, "emd": config.champion_margin_emd}
    numbers = {name: (value, error) if name == metric else (0.0, 0.0) for name in COMPARED_METRICS}
    return Comparison(photos, groups or photos, 0.9, *(difference(*numbers[n], margins[n]) for n in COMPARED_METRICS))


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
def test_a_gate_passes_only_where_a_loss_beyond_the_margin_is_excluded(metric, gain, error, verdict, words):
    margin = -SETTINGS.champion_margin_emd if metric == "emd" else SETTINGS.champion_margin
    found = gates(made(gain * margin, error * abs(margin), metric=metric), CHAMPION, SETTINGS)
    at = COMPARED_METRICS.index(metric)
    assert verdicts(found) == [verdict if place == at else "passed" for place in range(3)]
    assert words in found[at].reason
    assert ("cannot tell" in found[at].reason) == (error == 1.5)


@pytest.mark.parametrize(
    ("gain", "error", "verdict", "words"),
    [
        (0.03, 0.01, "passed", "and it has to be above 0."),
        (0.01, 0.01, "failed", "These photos cannot tell: a scorer that is better by 0.02 passes four times in five"),
        (-0.01, 0.001, "failed", "and it has to be above 0."),
        (0.001, 0.001, "failed", "so this one is hardly that"),
    ],
)
def test_superiority_asks_for_a_gain_in_ranking_beyond_chance(gain, error, verdict, words):
    found = gates(made(gain, error), CHAMPION, SUPERIOR)
    assert verdicts(found) == [verdict, "passed", "passed"]
    assert words in found[0].reason


@pytest.mark.parametrize("metric", ["lcc", "emd"])
def test_superiority_asks_only_that_scores_and_votes_are_not_worse(metric):
    found = gates(made(0.0, 0.001, metric=metric), CHAMPION, SUPERIOR)
    assert verdicts(found)[1:] == ["passed", "passed"]
    assert [gate.name.split()[-4] == "worse" for gate in found] == [False, True, True]


def test_a_gate_asks_for_a_rounded_number_of_photos():
    reason = gates(made(0.0, 0.0155), CHAMPION, SETTINGS)[0].reason
    assert photos_needed(0.0155, 500, 0.02, 0.05) == 1857
    assert "only with about 1,900 test photos." in reason


def test_a_reason_has_both_values_their_difference_its_interval_the_margin_and_williams_p():
    quality, truth = people()
    found = judge(truth, scorer(quality, 1), scorer(quality, 0.9, seed=2))
    ours, theirs = (
        regression.all_metrics(truth, scorer(quality, 1)),
        regression.all_metrics(truth, scorer(quality, 0.9, seed=2)),
    )
    for gate, name in zip(found, COMPARED_METRICS, strict=True):
        assert f"{name.upper()} {ours[name]:.3f} against {theirs[name]:.3f} of the champion, version 3," in gate.reason
        assert f"{ours[name] - theirs[name]:+.4f} (95 % interval " in gate.reason
        assert f"it has to be at {'most +0.03' if name == 'emd' else 'least -0.02'}" in gate.reason
        assert ("Williams' one-sided p" in gate.reason) == (name != "emd")


def test_williams_test_is_left_out_where_photos_are_not_independent():
    quality, truth = people()
    found = judge(truth, scorer(quality, 1), scorer(quality, 2, seed=2), groups=[str(n // 3) for n in range(300)])
    assert "300 photos of 100 groups" in found[0].reason
    assert "Williams" not in found[0].reason


def test_the_value_of_a_gate_lies_on_the_side_of_its_threshold_that_its_verdict_says():
    for metric in COMPARED_METRICS:
        for gain in (-0.03, -0.01, 0.0, 0.01):
            for gate in gates(made(gain, 0.01, metric=metric), CHAMPION, SETTINGS):
                inside = gate.value <= gate.threshold if gate.key == "champion_emd" else gate.value >= gate.threshold
                assert inside == (gate.verdict == "passed")


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(0.0001, 0.1), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_wider_margin_never_refuses_what_a_narrower_one_lets_through(value, error, one, other):
    narrow, wide = (replace(SETTINGS, champion_margin=margin) for margin in sorted((one, other)))
    passed = [gates(made(value, error), CHAMPION, margin)[0].verdict == "passed" for margin in (narrow, wide)]
    assert passed != [True, False]


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.2), st.integers(10, 10_000), st.floats(0.001, 0.2), st.floats(0.001, 0.4))
def test_at_the_photos_needed_four_in_five_pass(error, photos, distance, significance):
    needed = photos_needed(error, photos, distance, significance)
    there = error * math.sqrt(photos / needed)
    power = stats.norm.cdf(distance / there - stats.norm.isf(significance))
    one_less = stats.norm.cdf(
        distance / (error * math.sqrt(photos / max(needed - 1, 1e-9))) - stats.norm.isf(significance)
    )
    assert power >= 0.8 - 1e-9
    assert one_less <= 0.8 + 1e-9


def test_no_number_of_photos_shows_that_nothing_at_all_is_lost():
    assert photos_needed(0.01, 500, 0, 0.05) == math.inf
    assert math.isnan(photos_needed(math.nan, 500, 0.02, 0.05))
    found = gates(made(0.0, 0.01), CHAMPION, replace(SETTINGS, champion_margin=0))
    assert "needs a margin above 0" in found[0].reason


def test_a_challenger_worse_by_the_margin_passes_about_as_seldom_as_it_should():
    """Guards the side and the size of the bound; the benchmark measures the rate."""
    lost, bounds = [], []
    for seed in range(100):
        quality, truth = people(80, seed)
        votes = scorer(quality, 1.1, 2 * seed + 1), scorer(quality, 0.9, 2 * seed)
        found = compare(truth, *votes, replace(SETTINGS, bootstrap=40)).srcc
        lost.append(found.value)
        bounds.append(found.lower)
    assert 0.01 <= np.mean(np.array(bounds) >= np.mean(lost)) <= 0.1


def test_a_comparison_is_written_as_json():
    quality, truth = people(30)
    found = compare(truth, np.full((30, 10), 0.1), scorer(quality, 1), SETTINGS)
    written = json.loads(json.dumps(decision.to_json_value(found), allow_nan=False))
    assert written["srcc"]["value"] is None
    assert written["emd"]["champion"] == found.emd.champion
