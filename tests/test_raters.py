"""How surely a photo's mean score is known."""

import numpy as np
import pytest

from components.scorer.settings import SCORES
from components.training.raters import noise_of, reliabilities

WITHIN, BETWEEN = 1.4**2 + 1 / 12, 0.7**2  # rounding to whole scores adds a twelfth


@pytest.fixture(scope="module")
def rated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True means, votes and raters of many photos."""
    rng = np.random.default_rng(0)
    raters, truth = rng.integers(2, 20, 4000), rng.normal(5.5, BETWEEN**0.5, 4000)
    drawn = [
        np.clip(np.rint(rng.normal(mean, 1.4, n)), 1, 10).astype(int) for mean, n in zip(truth, raters, strict=True)
    ]
    return truth, np.stack([np.bincount(each, minlength=11)[1:] / len(each) for each in drawn]), raters


def test_the_noise_of_raters_is_the_number_of_them_that_halves_it(rated):
    _, votes, raters = rated
    assert noise_of(votes, raters) == pytest.approx(WITHIN / BETWEEN, rel=0.1)


def test_a_reliability_is_the_share_of_truth_in_the_means_of_photos_with_as_many_raters(rated):
    truth, votes, raters = rated
    found = reliabilities(votes, raters)
    means = votes @ np.array(SCORES)
    for few, many in ((2, 5), (5, 10), (10, 20)):
        some = (raters >= few) & (raters < many)
        share = np.corrcoef(truth[some], means[some])[0, 1] ** 2
        assert found[some].mean() == pytest.approx(share, abs=0.06)


def test_photos_of_one_rater_each_count_alike():
    votes = np.eye(10)[[2, 5, 7]]
    assert noise_of(votes, np.ones(3)) is None
    assert reliabilities(votes, np.ones(3)).tolist() == [1, 1, 1]


def test_one_rater_among_photos_of_several_tells_no_noise_and_counts_least(rated):
    _, votes, raters = rated
    some = np.where(np.arange(len(raters)) % 2, raters, 1)
    assert np.isfinite(noise_of(votes, some))
    assert reliabilities(votes, some)[some == 1].max() < reliabilities(votes, some)[some > 1].min()
