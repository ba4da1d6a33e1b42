"""How surely a photo's mean score is known."""

import numpy as np
import pytest
import tensorflow as tf

from components.scorer.settings import SCORES, Training
from components.training.raters import Allowance, allowance, noise_of

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


def weights(votes: np.ndarray, raters: np.ndarray) -> np.ndarray:
    return allowance(votes, raters, Training()).learnt(votes, raters)[1]


def test_a_photo_counts_by_the_share_of_truth_in_the_means_of_photos_with_as_many_raters(rated):
    truth, votes, raters = rated
    found = weights(votes, raters) * allowance(votes, raters, Training()).typical
    means = votes @ np.array(SCORES)
    for few, many in ((2, 5), (5, 10), (10, 20)):
        some = (raters >= few) & (raters < many)
        share = np.corrcoef(truth[some], means[some])[0, 1] ** 2
        assert found[some].mean() == pytest.approx(share, abs=0.06)


def test_photos_of_one_rater_each_count_alike():
    votes = np.eye(10)[[2, 5, 7]]
    assert noise_of(votes, np.ones(3)) is None
    assert weights(votes, np.ones(3)).tolist() == [1, 1, 1]


def test_one_rater_among_photos_of_several_tells_no_noise_and_counts_least(rated):
    _, votes, raters = rated
    some = np.where(np.arange(len(raters)) % 2, raters, 1)
    assert np.isfinite(noise_of(votes, some))
    found = weights(votes, some)
    assert found[some == 1].max() < found[some > 1].min()


def test_photos_count_1_on_average(rated):
    _, votes, raters = rated
    assert weights(votes, raters).mean() == pytest.approx(1)


def test_all_photos_count_alike_where_they_are_not_weighed(rated):
    _, votes, raters = rated
    _, found = allowance(votes, raters, Training(rater_weighting=False)).learnt(votes, raters)
    assert set(found) == {1}


def test_smoothing_leaves_many_raters_alone_and_draws_few_toward_all_photos():
    votes = np.eye(10)[[2, 2]]
    allowed = Allowance(noise=4.0, prior=np.full(10, 0.1), typical=0.5, weighting=False, smoothing=True)
    found, _ = allowed.learnt(votes, np.array([1, 10_000]))
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[0], 0.2 * votes[0] + 0.8 * allowed.prior)
    np.testing.assert_allclose(found[1], votes[1], atol=1e-3)


def test_a_record_is_taught_as_all_photos_together_are(rated):
    _, votes, raters = rated
    allowed = allowance(votes, raters, Training(rater_smoothing=True))
    together = allowed.learnt(votes.astype("float32"), raters.astype("float32"))
    for place in (0, 7):
        alone = allowed.learnt(tf.constant(votes[place], tf.float32), tf.constant(raters[place], tf.float32))
        np.testing.assert_allclose(alone[0], together[0][place], rtol=1e-5)
        np.testing.assert_allclose(alone[1], together[1][place], rtol=1e-5)
