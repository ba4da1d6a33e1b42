"""How surely a photo's mean score is known."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingestion.ratings.ratings import VOTE_COLUMNS, read_ratings
from components.scorer.settings import SCORES, Ingestion, Training
from components.training.examples.label_noise import LabelNoiseModel, fit_label_noise, rater_noise_ratio

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
    assert rater_noise_ratio(votes, raters) == pytest.approx(WITHIN / BETWEEN, rel=0.1)


def weights(votes: np.ndarray, raters: np.ndarray) -> np.ndarray:
    return fit_label_noise(votes, raters, Training()).targets_and_weights(votes, raters)[1]


def test_a_photo_counts_by_the_share_of_truth_in_the_means_of_photos_with_as_many_raters(rated):
    truth, votes, raters = rated
    found = weights(votes, raters) * fit_label_noise(votes, raters, Training()).mean_reliability
    means = votes @ np.array(SCORES)
    for few, many in ((2, 5), (5, 10), (10, 20)):
        some = (raters >= few) & (raters < many)
        share = np.corrcoef(truth[some], means[some])[0, 1] ** 2
        assert found[some].mean() == pytest.approx(share, abs=0.06)


def test_photos_of_one_rater_each_count_alike():
    votes = np.eye(10)[[2, 5, 7]]
    assert rater_noise_ratio(votes, np.ones(3)) is None
    assert weights(votes, np.ones(3)).tolist() == [1, 1, 1]


def test_one_rater_among_photos_of_several_tells_no_noise_and_counts_least(rated):
    _, votes, raters = rated
    some = np.where(np.arange(len(raters)) % 2, raters, 1)
    assert np.isfinite(rater_noise_ratio(votes, some))
    found = weights(votes, some)
    assert found[some == 1].max() < found[some > 1].min()


def test_photos_count_1_on_average(rated):
    _, votes, raters = rated
    assert weights(votes, raters).mean() == pytest.approx(1)


def test_all_photos_count_alike_where_they_are_not_weighed(rated):
    _, votes, raters = rated
    _, found = fit_label_noise(votes, raters, Training(rater_weighting=False)).targets_and_weights(votes, raters)
    assert set(found) == {1}


def test_smoothing_leaves_many_raters_alone_and_draws_few_toward_all_photos():
    votes = np.eye(10)[[2, 2]]
    allowed = LabelNoiseModel(
        noise_ratio=4.0, prior=np.full(10, 0.1), mean_reliability=0.5, default_raters=1, weighting=False, smoothing=True
    )
    found, _ = allowed.targets_and_weights(votes, np.array([1, 10_000]))
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[0], 0.2 * votes[0] + 0.8 * allowed.prior)
    np.testing.assert_allclose(found[1], votes[1], atol=1e-3)


def test_a_record_is_taught_as_all_photos_together_are(rated):
    _, votes, raters = rated
    raters = np.where(np.arange(len(raters)) % 7, raters, 0)  # of some it is not known
    allowed = fit_label_noise(votes, raters, Training(rater_smoothing=True))
    together = allowed.targets_and_weights(votes.astype("float32"), raters.astype("float32"))
    for place in (0, 7):
        alone = allowed.targets_and_weights(
            tf.constant(votes[place], tf.float32), tf.constant(raters[place], tf.float32)
        )
        np.testing.assert_allclose(alone[0], together[0][place], rtol=1e-5)
        np.testing.assert_allclose(alone[1], together[1][place], rtol=1e-5)


def test_a_photo_whose_number_of_raters_is_unknown_counts_as_one_of_a_typical_number(rated):
    _, votes, raters = rated
    some = np.where(np.arange(len(raters)) % 3, raters, 0)
    found = weights(votes, some)
    assert set(found[some == 0]) == set(found[some == np.median(some[some > 0])])
    assert found.mean() == pytest.approx(1)


FORMS = {
    "means.csv": "photo,mean\na,4.2\nb,6.1\nc,7.5\n",
    "idealo.json": json.dumps([{"image_id": n, "label": np.eye(10)[[n, 7]].mean(0).tolist()} for n in (2, 4, 5)]),
}


@pytest.mark.parametrize("smoothing", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_all_photos_of_a_file_without_numbers_of_raters_count_1_with_their_own_votes(tmp_path, name, smoothing):
    (tmp_path / name).write_text(FORMS[name])
    table = read_ratings(str(tmp_path / name), Ingestion()).table
    votes, raters = table[list(VOTE_COLUMNS)].to_numpy(float), table["raters"].to_numpy()
    learnt, found = fit_label_noise(votes, raters, Training(rater_smoothing=smoothing)).targets_and_weights(
        votes, raters
    )
    assert found.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(learnt, votes)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=20), st.integers(0, 100))
def test_whatever_is_known_of_the_raters_every_photo_counts_and_1_on_average(raters, seed):
    votes = np.random.default_rng(seed).dirichlet(np.ones(10), len(raters))
    found = weights(votes, np.array(raters))
    assert (found > 0).all()
    assert found.mean() == pytest.approx(1)


@pytest.mark.parametrize(("votes", "raters"), [(np.nan, 5), (0.0, 5), (0.2, 5), (0.1, -1)])
def test_votes_and_numbers_of_raters_that_cannot_be_are_refused_and_counted(votes, raters):
    some = np.full((4, 10), 0.1)
    some[2] = votes
    with pytest.raises(ValueError, match=r"for each of 4 rated photos, got others for 1: make the data set anew"):
        fit_label_noise(some, np.array([3, 3, raters, 3]), Training())
