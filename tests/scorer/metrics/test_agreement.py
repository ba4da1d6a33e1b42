"""The metrics agree with SciPy, return NaN for undefined values, and measure the agreement of raters."""

import csv
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from components.scorer.metrics import bootstrap, classification, rater_agreement, regression, significance

SCORES = np.arange(1, 11)
distributions = hnp.arrays(float, (6, 10), elements=st.floats(0.01, 1)).map(lambda v: v / v.sum(axis=1, keepdims=True))


def votes_around(means, sharpness=2.0):
    shares = np.exp(-((SCORES - np.asarray(means, float)[:, None]) ** 2) / sharpness)
    return shares / shares.sum(axis=1, keepdims=True)


def people_and_model(photos=60, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.uniform(2, 9, photos)
    return votes_around(latent), votes_around(latent + rng.normal(0, noise, photos))


@pytest.mark.slow
@given(distributions, distributions)
def test_emd_is_scipys_wasserstein_distance_averaged_over_photos(truth, predicted):
    expected = [
        stats.wasserstein_distance(SCORES, SCORES, true_votes, predicted_votes)
        for true_votes, predicted_votes in zip(truth, predicted, strict=True)
    ]
    assert regression.emd(truth, predicted) == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.slow
@given(distributions)
def test_mean_and_standard_deviation_equal_numpys_weighted_ones(votes):
    assert regression.mean_scores(votes) == pytest.approx(
        [np.average(SCORES, weights=photo_votes) for photo_votes in votes]
    )
    variance = [
        np.average((SCORES - np.average(SCORES, weights=photo_votes)) ** 2, weights=photo_votes)
        for photo_votes in votes
    ]
    assert regression.vote_deviations(votes) == pytest.approx(np.sqrt(variance))


def test_counts_and_shares_give_the_same_means():
    counts = np.random.default_rng(0).integers(0, 9, (5, 10)) + 1
    assert regression.mean_scores(counts) == pytest.approx(
        regression.mean_scores(counts / counts.sum(1, keepdims=True))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("lcc", lambda t, p: stats.pearsonr(t, p).statistic),
        ("srcc", lambda t, p: stats.spearmanr(t, p).statistic),
        ("krcc", lambda t, p: stats.kendalltau(t, p).statistic),
        ("rmse", lambda t, p: math.sqrt(np.mean((t - p) ** 2))),
        ("mae", lambda t, p: np.mean(np.abs(t - p))),
        ("bias", lambda t, p: np.mean(p) - np.mean(t)),
        ("spread", lambda t, p: np.std(p) / np.std(t)),
        ("accuracy", lambda t, p: np.mean((t >= 5.5) == (p >= 5.5))),
    ],
)
def test_each_metric_of_means_equals_its_definition_also_with_ties(name, reference):
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 11, 80) / 1.0
    predicted = np.round(truth + rng.normal(0, 2, 80))
    value = getattr(regression, name)(truth, predicted)
    assert value == pytest.approx(reference(truth, predicted))


def test_a_photo_at_the_threshold_counts_as_high():
    assert regression.accuracy(np.array([5.5, 5.5]), np.array([5.5, 5.4]), 5.5) == 0.5


def test_a_mean_at_the_threshold_is_high_despite_rounding_of_the_shares():
    counts = np.random.default_rng(0).multinomial(14, np.full(5, 0.2), 200)
    votes = np.concatenate([counts, counts[:, ::-1]], axis=1)  # symmetric around 5.5
    means = regression.mean_scores((votes / votes.sum(1, keepdims=True)).astype("float32"))
    assert (means < 5.5).any()
    assert regression.accuracy(means, np.full(len(means), 6.0), 5.5) == 1


def test_all_metrics_returns_every_metric_as_a_float():
    metrics = regression.all_metrics(*people_and_model())
    assert tuple(metrics) == regression.METRICS
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())


def test_constant_predictions_have_no_correlation_and_no_spread_and_raise_no_warning():
    truth, _ = people_and_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = regression.all_metrics(truth, np.repeat(truth[:1], len(truth), axis=0))
        bootstrap.bootstrap(truth, np.repeat(truth[:1], len(truth), axis=0), resamples=5)
    assert all(math.isnan(metrics[name]) for name in ("lcc", "srcc", "krcc"))
    assert metrics["spread"] == pytest.approx(0)
    assert math.isfinite(metrics["emd"])


def test_predictions_that_differ_by_rounding_only_are_constant():
    truth, _ = people_and_model()
    predicted = votes_around(5 + np.arange(len(truth)) * 1e-9)
    assert math.isnan(regression.all_metrics(truth, predicted)["srcc"])


def test_a_nan_prediction_makes_every_metric_nan_and_raises_nothing():
    truth, predicted = people_and_model()
    predicted[3] = np.nan
    assert all(math.isnan(value) for value in regression.all_metrics(truth, predicted).values())


def test_metrics_of_no_photos_are_nan():
    no_votes = np.empty((0, 10))
    assert all(math.isnan(value) for value in regression.all_metrics(no_votes, no_votes).values())
    assert math.isnan(bootstrap.percentile_interval(bootstrap.bootstrap(no_votes, no_votes, resamples=3)["srcc"])[0])


@pytest.mark.parametrize("photos", [1, 2, 3])
def test_metrics_of_few_photos_are_finite_where_they_are_defined(photos):
    truth, predicted = people_and_model(photos=photos)
    metrics = regression.all_metrics(truth, predicted)
    assert math.isfinite(metrics["mae"])
    assert math.isfinite(metrics["krcc"]) == (photos > 1)
    assert len(bootstrap.bootstrap(truth, predicted, resamples=20)["krcc"]) == 20


def test_votes_of_another_shape_are_refused_with_the_expected_shape():
    with pytest.raises(ValueError, match=r"expected votes of shape \[n, 10\], got \[4, 9\]"):
        regression.mean_scores(np.ones((4, 9)))
    with pytest.raises(ValueError, match="must be of the same photos"):
        regression.all_metrics(np.ones((4, 10)), np.ones((5, 10)))


def test_the_bootstrap_measures_whole_photos_drawn_with_replacement():
    truth, predicted = people_and_model(photos=12)
    draws = bootstrap.bootstrap(truth, predicted, resamples=4, seed=7)
    indices = np.random.default_rng(7).integers(12, size=(4, 12))
    for resample, index in enumerate(indices):
        expected = regression.all_metrics(truth[index], predicted[index])
        assert {name: draws[name][resample] for name in regression.METRICS} == pytest.approx(expected)


def test_the_chunk_size_does_not_change_the_bootstrap(monkeypatch):
    truth, predicted = people_and_model(photos=12)
    unchunked = bootstrap.bootstrap(truth, predicted, resamples=9)["mae"]
    monkeypatch.setattr(bootstrap, "_CHUNK", 30)
    assert bootstrap.bootstrap(truth, predicted, resamples=9)["mae"] == pytest.approx(unchunked)


def test_two_scorers_are_resampled_on_the_same_photos_so_their_difference_is_paired():
    truth, predicted = people_and_model()
    shifted = votes_around(regression.mean_scores(truth) + 0.5)
    first, second = (bootstrap.bootstrap(truth, votes, resamples=50) for votes in (predicted, predicted))
    assert (first["srcc"] - second["srcc"] == 0).all()
    difference = (
        bootstrap.bootstrap(truth, shifted, resamples=200)["mae"]
        - bootstrap.bootstrap(truth, truth, resamples=200)["mae"]
    )
    low, high = bootstrap.percentile_interval(difference)
    assert low > 0.2
    assert high < 0.6


def test_the_interval_covers_the_true_value_at_its_nominal_rate():
    covered = 0
    for seed in range(60):
        truth, predicted = people_and_model(photos=80, seed=seed)
        errors = regression.mean_scores(predicted) - regression.mean_scores(truth)
        low, high = bootstrap.percentile_interval(
            bootstrap.bootstrap(truth, predicted, resamples=200, names=("bias",))["bias"], 0.9
        )
        covered += low <= 0 <= high
        assert low <= errors.mean() <= high
    assert 47 <= covered <= 60  # of 60, 54 expected


@given(hnp.arrays(int, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.integers(0, 12)))
def test_integer_ranks_equal_scipys(places):
    assert (regression.rank_integers(places) == stats.rankdata(places, axis=-1)).all()
    assert (regression.rank_integers(places[0]) == stats.rankdata(places[0])).all()


def test_the_bootstrap_draws_whole_groups():
    truth, predicted = people_and_model(photos=6)
    groups = ["a", "b", "a", "c", "b", "a"]
    draws = bootstrap.bootstrap(truth, predicted, resamples=20, seed=7, names=("mae",), groups=groups)["mae"]
    rng, members = np.random.default_rng(7), [[0, 2, 5], [1, 4], [3]]
    for value in draws:
        index = [photo for group in rng.integers(3, size=3) for photo in members[group]]
        assert value == pytest.approx(regression.all_metrics(truth[index], predicted[index])["mae"])


def test_each_photo_without_a_group_is_its_own_group():
    assert bootstrap.group_indices(["x", "", "x", "", "y"], 5).tolist() == [0, 1, 0, 2, 3]
    assert bootstrap.group_indices([], 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="expected a group for each of 3 photos, got 2"):
        bootstrap.group_indices(["x", "y"], 3)


@pytest.mark.parametrize(
    ("first", "second", "between", "photos", "t", "both_sides"),
    [
        # Howell, "Statistical Methods for Psychology", 6th edition, p. 262; figures as computed by B. Weaver's
        # Williams1959.sps (MRC CBU statistics wiki, FAQ/Will).
        (0.80, 0.72, 0.89, 26, 1.361, 0.187),
        # depcor (Silver, Hittner and May, Applied Psychological Measurement 30, 2006), which the tests of the R package
        # cocor (Diedenhofen and Musch, PLoS ONE 10, 2015) take as their reference.
        (0.30, 0.40, 0.50, 100, -1.0767, 0.2843),
        # Steiger (1980), case A on p. 249, as the R package psych works it out: r.test(103, .4, .5, .1).
        (0.40, 0.50, 0.10, 103, -0.89, 0.37),
    ],
)
def test_williams_test_gives_the_values_of_published_examples(first, second, between, photos, t, both_sides):
    result = significance.williams_test(first, second, between, photos)
    digits = len(str(t).split(".")[1])
    assert round(result.t, digits) == t
    assert 2 * min(result.p, 1 - result.p) == pytest.approx(both_sides, abs=0.5 * 10 ** -len(str(both_sides)[2:]))
    assert result.degrees == photos - 3
    assert result.error == pytest.approx((first - second) / result.t)


@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.integers(4, 5000))
def test_williams_test_changes_its_sign_when_the_scorers_are_swapped(first, second, between, photos):
    forward, swapped = (
        significance.williams_test(*pair, between, photos) for pair in ((first, second), (second, first))
    )
    assert swapped.t == pytest.approx(-forward.t, nan_ok=True)
    assert swapped.p == pytest.approx(1 - forward.p, nan_ok=True)
    assert swapped.error == pytest.approx(forward.error)


def test_p_values_of_williams_test_are_uniform_for_equal_scorers():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(400):
        truth, shared, first_noise, second_noise = rng.normal(size=(4, 60))
        first, second = truth + shared + first_noise, truth + shared + second_noise
        correlations = (float(regression.lcc(*pair)) for pair in ((truth, first), (truth, second), (first, second)))
        p_values.append(significance.williams_test(*correlations, 60).p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    "given", [(0.5, 0.4, 0.3, 3), (0.5, 0.4, 0.3, 0), (math.nan, 0.4, 0.3, 50), (0.5, 0.5, 1.0, 50), (0, 0, -1, 50)]
)
def test_an_undefined_williams_test_is_nan(given):
    result = significance.williams_test(*given)
    assert math.isnan(result.t)
    assert math.isnan(result.p)
    assert math.isnan(result.error)


def test_the_confusion_matrix_has_people_in_rows_and_the_scorer_in_columns():
    truth, predicted = np.array([2.0, 2, 2, 8, 8]), np.array([3.0, 3, 9, 9, np.nan])
    assert classification.confusion_matrix(truth, predicted) == [[2, 1], [0, 1]]


def test_the_area_under_the_roc_curve_is_mann_whitneys_u_divided_by_the_pairs():
    rng = np.random.default_rng(3)
    truth = rng.uniform(1, 10, 400)
    predicted = truth + rng.normal(0, 2, 400)
    curve = classification.roc_curve(truth, predicted, points=10_000)
    x, y = curve["false_positive_rate"], curve["true_positive_rate"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    high = truth >= 5.5
    expected = stats.mannwhitneyu(predicted[high], predicted[~high]).statistic / (high.sum() * (~high).sum())
    assert np.trapezoid(y, x) == pytest.approx(expected)
    assert len(classification.roc_curve(truth, predicted)["threshold"]) <= 200


@pytest.mark.parametrize("predicted", [[2.0, np.nan], [2.0, 3.0]])
def test_an_undefined_roc_curve_is_empty(predicted):
    truth = np.array([2.0, 9.0]) if np.isnan(predicted).any() else np.array([2.0, 3.0])
    assert classification.roc_curve(truth, np.array(predicted)) == {
        "false_positive_rate": [],
        "true_positive_rate": [],
        "threshold": [],
    }


def simulated_ratings(photos=400, raters_each=10, noise=1.5, seed=0):
    """Ratings of known reliability: latent quality of deviation 1, rater noise of deviation ``noise``."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(5.5, 1, photos)
    photo = np.repeat(np.arange(photos), raters_each)
    rater = np.concatenate([rng.permutation(40)[:raters_each] for _ in range(photos)])
    return photo, rater, latent[photo] + rng.normal(0, noise, len(photo))


def test_the_reliability_of_simulated_ratings_is_their_true_one():
    reliability = rater_agreement.reliability_of_ratings(*simulated_ratings())
    expected = 1 / (1 + 1.5**2 / 10)
    assert reliability.spearman_brown == pytest.approx(expected, abs=0.03)
    assert reliability.ceiling == pytest.approx(math.sqrt(expected), abs=0.02)
    assert reliability.split_half < reliability.spearman_brown < reliability.ceiling


def test_the_ceiling_is_the_correlation_of_a_perfect_scorer():
    rng = np.random.default_rng(0)
    latent = rng.normal(5.5, 1, 400)
    photo, rater, scores = simulated_ratings()
    observed = np.bincount(photo, scores) / np.bincount(photo)
    perfect = np.corrcoef(latent, observed)[0, 1]
    assert rater_agreement.reliability_of_ratings(photo, rater, scores).ceiling == pytest.approx(perfect, abs=0.02)


def test_reliability_of_counts_agrees_with_reliability_of_their_ratings():
    photo, rater, scores = simulated_ratings()
    scores = np.clip(np.rint(scores), 1, 10).astype(int)
    counts = np.zeros((400, 10))
    np.add.at(counts, (photo, scores - 1), 1)
    of_ratings, of_counts = (
        rater_agreement.reliability_of_ratings(photo, rater, scores),
        rater_agreement.reliability_of_counts(counts),
    )
    assert of_ratings.spearman_brown == pytest.approx(of_counts.spearman_brown, abs=0.02)
    assert of_counts.photos == 400


@given(hnp.arrays(np.int64, (5, 10), elements=st.integers(0, 30)), st.integers(0, 2**31))
def test_a_random_half_takes_half_of_each_photos_votes(votes, seed):
    half = rater_agreement._random_half(votes, np.random.default_rng(seed))
    assert (half >= 0).all()
    assert (half <= votes).all()
    assert (np.abs(2 * half.sum(axis=1) - votes.sum(axis=1)) <= 1).all()


def test_the_halves_keep_a_harsh_rater_on_one_side():
    # Rater 0 gives each photo 3, rater 1 gives each photo 8: no photo is better than another.
    photo, rater = np.repeat(np.arange(50), 2), np.tile([0, 1], 50)
    assert rater_agreement.reliability_of_ratings(photo, rater, np.where(rater == 0, 3.0, 8.0)) is None


def test_raters_who_agree_on_nothing_have_no_reliability():
    rng = np.random.default_rng(0)
    photo, rater = np.repeat(np.arange(200), 8), np.tile(np.arange(8), 200)
    reliability = rater_agreement.reliability_of_ratings(photo, rater, rng.uniform(1, 10, 1600))
    assert reliability.spearman_brown < 0.15
    opposed = rater_agreement.reliability_of_ratings(
        photo[::4], rater[::4] // 4, np.where(rater[::4] == 0, photo[::4], -photo[::4])
    )
    assert (opposed.spearman_brown, opposed.ceiling) == (0, 0)


@pytest.mark.parametrize("raters_each", [0, 1])
def test_without_a_second_rater_there_is_no_reliability(raters_each):
    photo = np.repeat(np.arange(20), raters_each)
    assert rater_agreement.reliability_of_ratings(photo, photo, photo * 0.4) is None
    assert rater_agreement.reliability_of_counts(np.eye(10)[np.arange(20) % 10] * raters_each) is None


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match=r"expected counts \[n, 10\]"):
        rater_agreement.reliability_of_counts(np.full((3, 10), -1.0))


@pytest.mark.slow
def test_the_reliability_of_mebeauty_is_as_measured(portraits):
    file = portraits / "data" / "mebeauty" / "ratings.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    of_ratings = rater_agreement.reliability_of_ratings(
        *([row[name] for row in rows] for name in ("photo", "rater", "score"))
    )
    counts = np.zeros((len({row["photo"] for row in rows}), 10))
    indices = {photo: index for index, photo in enumerate(sorted({row["photo"] for row in rows}))}
    for row in rows:
        counts[indices[row["photo"]], int(row["score"]) - 1] += 1
    for reliability in (of_ratings, rater_agreement.reliability_of_counts(counts)):
        assert reliability.split_half == pytest.approx(0.78, abs=0.015)
        assert reliability.spearman_brown == pytest.approx(0.88, abs=0.015)
        assert reliability.ceiling == pytest.approx(0.94, abs=0.01)
