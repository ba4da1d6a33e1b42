"""Rater ceiling: the best metric a perfect scorer can reach, and the metric of one human rater."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from components.evaluation.checks.rater_ceiling import measure_ceiling
from components.scorer.metrics import rater_agreement, regression
from components.scorer.settings import SCORES, Evaluation

pytestmark = pytest.mark.slow

SETTINGS = Evaluation()


def rated(truth, raters, seed=0, noise=1.9):
    """Return counts [n, 10] of raters' whole scores around the truth, and the mean of infinitely many raters."""
    rng = np.random.default_rng(seed)
    edges = np.arange(1.5, 10)
    cumulative = stats.norm.cdf((edges - truth[:, None]) / noise)
    probabilities = np.diff(cumulative, axis=1, prepend=0, append=1)
    return rng.multinomial(raters, probabilities), probabilities @ np.array(SCORES)


def shares(counts):
    return (counts / counts.sum(axis=1, keepdims=True)).astype("float32")


def found_for(counts):
    return measure_ceiling(shares(counts), counts.sum(axis=1), SETTINGS)


@pytest.mark.parametrize("name", ["lcc", "srcc", "krcc"])
@pytest.mark.parametrize("raters", [6, 20])
def test_a_perfect_scorer_reaches_the_ceiling_with_equal_numbers_of_raters(name, raters):
    truth = np.random.default_rng(1).normal(5.5, 1.2, 800)
    counts, perfect = rated(truth, np.full(800, raters))
    metric_of_perfect = float(getattr(regression, name)(regression.mean_scores(counts), perfect))
    assert found_for(counts).perfect[name] == pytest.approx(metric_of_perfect, abs=0.02)


@pytest.mark.parametrize("name", ["lcc", "srcc", "krcc"])
def test_a_perfect_scorer_reaches_the_ceiling_with_different_numbers_of_raters(name):
    rng = np.random.default_rng(2)
    counts, perfect = rated(rng.uniform(2, 9, 800), rng.integers(5, 51, 800))
    metric_of_perfect = float(getattr(regression, name)(regression.mean_scores(counts), perfect))
    assert found_for(counts).perfect[name] == pytest.approx(metric_of_perfect, abs=0.02)


@pytest.mark.parametrize("name", ["lcc", "srcc", "krcc"])
def test_the_human_metric_is_that_of_a_new_rater_against_the_others(name):
    truth = np.random.default_rng(3).normal(5.5, 1.2, 800)
    counts, _ = rated(truth, np.full(800, 20))
    new_rater, _ = rated(truth, np.full(800, 1), seed=9)
    other_raters, _ = rated(truth, np.full(800, 19), seed=8)
    expected = float(getattr(regression, name)(regression.mean_scores(other_raters), regression.mean_scores(new_rater)))
    assert found_for(counts).human[name] == pytest.approx(expected, abs=0.03)


def test_the_human_metric_is_below_the_ceiling():
    counts, _ = rated(np.random.default_rng(4).normal(5.5, 1.2, 300), np.full(300, 15))
    ceiling = found_for(counts)
    assert all(ceiling.human[name] < ceiling.perfect[name] for name in ceiling.perfect)


def test_the_lcc_ceiling_is_that_of_the_reliability_of_counts():
    counts, _ = rated(np.random.default_rng(5).normal(5.5, 1.2, 200), np.full(200, 12))
    assert rater_agreement.correlation_ceilings(counts)["lcc"] == pytest.approx(
        rater_agreement.reliability_of_counts(counts).ceiling
    )


def test_raters_in_full_agreement_give_a_ceiling_of_1():
    counts = 8 * np.eye(10, dtype=int)[np.arange(50) % 10]
    assert found_for(counts).perfect == pytest.approx({"lcc": 1, "srcc": 1, "krcc": 1})


def test_raters_without_agreement_give_a_low_ceiling():
    counts = np.random.default_rng(6).multinomial(10, np.full(10, 0.1), 2000)
    ceiling = found_for(counts)
    assert ceiling.perfect["lcc"] < 0.3
    assert abs(ceiling.human["lcc"]) < 0.05


def test_votes_that_are_not_counts_have_no_ceiling():
    votes = np.random.default_rng(7).dirichlet(np.ones(10), 100)
    assert measure_ceiling(votes, np.full(100, 20), SETTINGS) is None


def test_photos_with_a_single_rater_have_no_ceiling():
    votes = np.eye(10)[np.arange(100) % 10]
    assert measure_ceiling(votes, np.ones(100, int), SETTINGS) is None


def test_photos_whose_votes_are_not_counts_are_left_out_of_the_ceiling():
    counts, _ = rated(np.random.default_rng(8).normal(5.5, 1.2, 100), np.full(100, 12))
    votes = shares(counts)
    votes[:20] = np.random.default_rng(0).dirichlet(np.ones(10), 20)
    ceiling = measure_ceiling(votes, np.full(100, 12), SETTINGS)
    assert (ceiling.photos, ceiling.raters) == (80, 12)


def test_photos_with_equal_means_have_no_ceiling():
    assert found_for(np.tile(4 * np.eye(10, dtype=int)[4], (30, 1))) is None


def test_the_same_seed_gives_the_same_ceiling():
    counts, _ = rated(np.random.default_rng(5).normal(5.5, 1.2, 60), np.full(60, 12))
    assert found_for(counts) == found_for(counts)


def test_the_mebeauty_ratings_give_their_known_ceiling(portraits):
    ratings = pd.read_csv(portraits / "data" / "mebeauty" / "ratings.csv")
    counts = pd.crosstab(ratings["photo"], ratings["score"]).reindex(columns=list(SCORES), fill_value=0).to_numpy()
    assert found_for(counts).perfect["lcc"] == pytest.approx(0.94, abs=0.015)
