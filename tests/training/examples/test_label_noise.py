"""The label noise model: weights and smoothed votes by the number of raters."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingestion.ratings.ratings import VOTE_COLUMNS, read_ratings
from components.scorer.settings import SCORES, Ingestion, Training
from components.training.examples.label_noise import LabelNoiseModel, fit_label_noise, rater_noise_ratio

WITHIN, BETWEEN = 1.4**2 + 1 / 12, 0.7**2  # rounding to whole scores adds a variance of 1/12


@pytest.fixture(scope="module")
def rated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True means, votes and numbers of raters of 4000 photos."""
    rng = np.random.default_rng(0)
    raters, truth = rng.integers(2, 20, 4000), rng.normal(5.5, BETWEEN**0.5, 4000)
    scores = [
        np.clip(np.rint(rng.normal(mean, 1.4, n_raters)), 1, 10).astype(int)
        for mean, n_raters in zip(truth, raters, strict=True)
    ]
    return (
        truth,
        np.stack([np.bincount(photo_scores, minlength=11)[1:] / len(photo_scores) for photo_scores in scores]),
        raters,
    )


def test_the_noise_ratio_is_the_variance_within_photos_over_the_variance_between_them(rated):
    _, votes, raters = rated
    assert rater_noise_ratio(votes, raters) == pytest.approx(WITHIN / BETWEEN, rel=0.1)


def weights(votes: np.ndarray, raters: np.ndarray) -> np.ndarray:
    return fit_label_noise(votes, raters, Training()).targets_and_weights(votes, raters)[1]


def test_the_weight_of_a_photo_is_the_reliability_of_its_mean_score(rated):
    truth, votes, raters = rated
    reliabilities = weights(votes, raters) * fit_label_noise(votes, raters, Training()).mean_reliability
    means = votes @ np.array(SCORES)
    for few, many in ((2, 5), (5, 10), (10, 20)):
        selected = (raters >= few) & (raters < many)
        explained = np.corrcoef(truth[selected], means[selected])[0, 1] ** 2
        assert reliabilities[selected].mean() == pytest.approx(explained, abs=0.06)


def test_photos_with_one_rater_each_have_equal_weights():
    votes = np.eye(10)[[2, 5, 7]]
    assert rater_noise_ratio(votes, np.ones(3)) is None
    assert weights(votes, np.ones(3)).tolist() == [1, 1, 1]


def test_photos_with_one_rater_weigh_less_than_photos_with_several(rated):
    _, votes, raters = rated
    rater_counts = np.where(np.arange(len(raters)) % 2, raters, 1)
    assert np.isfinite(rater_noise_ratio(votes, rater_counts))
    photo_weights = weights(votes, rater_counts)
    assert photo_weights[rater_counts == 1].max() < photo_weights[rater_counts > 1].min()


def test_the_mean_weight_is_1(rated):
    _, votes, raters = rated
    assert weights(votes, raters).mean() == pytest.approx(1)


def test_without_rater_weighting_all_photos_have_weight_1(rated):
    _, votes, raters = rated
    _, photo_weights = fit_label_noise(votes, raters, Training(rater_weighting=False)).targets_and_weights(
        votes, raters
    )
    assert set(photo_weights) == {1}


def test_smoothing_keeps_votes_of_many_raters_and_moves_votes_of_few_toward_the_prior():
    votes = np.eye(10)[[2, 2]]
    model = LabelNoiseModel(
        noise_ratio=4.0, prior=np.full(10, 0.1), mean_reliability=0.5, default_raters=1, weighting=False, smoothing=True
    )
    targets, _ = model.targets_and_weights(votes, np.array([1, 10_000]))
    np.testing.assert_allclose(targets.sum(1), 1)
    np.testing.assert_allclose(targets[0], 0.2 * votes[0] + 0.8 * model.prior)
    np.testing.assert_allclose(targets[1], votes[1], atol=1e-3)


def test_one_photo_gets_the_same_target_and_weight_alone_and_in_a_batch(rated):
    _, votes, raters = rated
    raters = np.where(np.arange(len(raters)) % 7, raters, 0)  # unknown for some photos
    model = fit_label_noise(votes, raters, Training(rater_smoothing=True))
    batch = model.targets_and_weights(votes.astype("float32"), raters.astype("float32"))
    for index in (0, 7):
        single = model.targets_and_weights(
            tf.constant(votes[index], tf.float32), tf.constant(raters[index], tf.float32)
        )
        np.testing.assert_allclose(single[0], batch[0][index], rtol=1e-5)
        np.testing.assert_allclose(single[1], batch[1][index], rtol=1e-5)


def test_a_photo_with_an_unknown_number_of_raters_weighs_as_one_with_the_median_number(rated):
    _, votes, raters = rated
    rater_counts = np.where(np.arange(len(raters)) % 3, raters, 0)
    photo_weights = weights(votes, rater_counts)
    assert set(photo_weights[rater_counts == 0]) == set(
        photo_weights[rater_counts == np.median(rater_counts[rater_counts > 0])]
    )
    assert photo_weights.mean() == pytest.approx(1)


FORMS = {
    "means.csv": "photo,mean\na,4.2\nb,6.1\nc,7.5\n",
    "idealo.json": json.dumps([{"image_id": n, "label": np.eye(10)[[n, 7]].mean(0).tolist()} for n in (2, 4, 5)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_photos_of_a_file_without_rater_counts_weigh_1_and_keep_their_votes(tmp_path, name, smoothing):
    (tmp_path / name).write_text(FORMS[name])
    table = read_ratings(str(tmp_path / name), Ingestion()).table
    votes, raters = table[list(VOTE_COLUMNS)].to_numpy(float), table["raters"].to_numpy()
    targets, photo_weights = fit_label_noise(votes, raters, Training(rater_smoothing=smoothing)).targets_and_weights(
        votes, raters
    )
    assert photo_weights.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(targets, votes)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=20), st.integers(0, 100))
def test_for_any_rater_counts_all_weights_are_positive_and_average_to_1(raters, seed):
    votes = np.random.default_rng(seed).dirichlet(np.ones(10), len(raters))
    photo_weights = weights(votes, np.array(raters))
    assert (photo_weights > 0).all()
    assert photo_weights.mean() == pytest.approx(1)


@pytest.mark.parametrize(("votes", "raters"), [(np.nan, 5), (0.0, 5), (0.2, 5), (0.1, -1)])
def test_invalid_votes_and_rater_counts_are_refused_and_counted(votes, raters):
    all_votes = np.full((4, 10), 0.1)
    all_votes[2] = votes
    with pytest.raises(ValueError, match=r"for each of 4 rated photos, got others for 1: make the data set anew"):
        fit_label_noise(all_votes, np.array([3, 3, raters, 3]), Training())
