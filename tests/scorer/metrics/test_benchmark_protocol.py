"""The experiments' protocol: no photo is predicted by a model trained on it; finished folds are not computed again."""

import numpy as np
import pytest

from components.scorer.metrics import regression
from components.scorer.settings import Training
from components.training.heads.pca import principal_components
from tests.benchmarks import label_curve, pretraining_curve, protocol, what_helps, whole_or_face
from tests.benchmarks.protocol import FOLDS, Known, Variant
from tests.conftest import votes_around

PHOTOS, CHANNELS = 60, 4


@pytest.fixture(scope="module")
def seen() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(PHOTOS, CHANNELS)).astype("float32") for name in ("pooled", "pooled_face")}


@pytest.fixture(scope="module")
def known(seen) -> Known:
    means = np.clip(5.5 + 1.5 * seen["pooled"][:, 0], 2, 9)
    return Known(np.stack([votes_around(mean) for mean in means]), np.arange(PHOTOS) // 2, {})


def noisy(known: Known, size: float, seeds: int = 2) -> np.ndarray:
    """Return votes around the true means plus noise of this size."""
    rng = np.random.default_rng(1)
    means = np.clip(known.truth + size * rng.normal(size=(seeds, PHOTOS)), 2, 9)
    return np.array([[votes_around(mean) for mean in seed_means] for seed_means in means])


def test_each_photo_is_in_one_fold_and_no_group_is_in_two_folds(known):
    fold_masks = np.array([*protocol.folds(known.groups, seed=0)])
    assert len(fold_masks) == FOLDS
    assert (fold_masks.sum(0) == 1).all()
    for group in range(known.groups.max() + 1):
        assert len({tuple(fold) for fold in fold_masks[:, known.groups == group].T}) == 1


def test_a_photo_is_predicted_without_training_on_it_or_on_a_near_duplicate(known, tmp_path):
    def answer(training: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
        assert not set(known.groups[training]) & set(known.groups[held_out])
        return np.full((held_out.sum(), 10), 0.1)

    votes = protocol.held_out(tmp_path, "a name", known, 2, answer)
    assert votes.shape == (2, PHOTOS, 10)
    np.testing.assert_allclose(votes, 0.1)


def test_an_interrupted_run_resumes_from_the_finished_folds(known, tmp_path):
    calls = []

    def answer(training: np.ndarray, fold: np.ndarray, seed: int) -> np.ndarray:
        if len(calls) == FOLDS + 2:
            calls.append("cut short")
            raise KeyboardInterrupt
        calls.append(seed)
        return np.full((fold.sum(), 10), seed, "float32")

    with pytest.raises(KeyboardInterrupt):
        protocol.held_out(tmp_path, "a name", known, 2, answer)
    votes = protocol.held_out(tmp_path, "a name", known, 2, answer)
    assert calls == [0] * FOLDS + [1, 1, "cut short", 1, 1, 1]
    np.testing.assert_array_equal(votes, np.broadcast_to([[[0.0]], [[1.0]]], votes.shape))
    assert len([*tmp_path.iterdir()]) == 2
    assert protocol.is_kept(tmp_path, "a name", 2)
    assert not protocol.is_kept(tmp_path, "a name", 3)


def test_a_smaller_training_share_is_a_subset_of_a_larger_one():
    training = np.arange(PHOTOS) % 3 > 0
    smaller, larger = (set(protocol.drawn(training, share, seed=3)) for share in (0.25, 0.5))
    assert len(smaller) == 10
    assert smaller < larger <= set(np.flatnonzero(training))


def test_weighted_metrics_equal_metrics_of_repeated_photos(known):
    scores = regression.mean_scores(noisy(known, 1.0, seeds=1)[0])
    repeats = np.random.default_rng(0).integers(0, 4, PHOTOS)
    indices = np.repeat(np.arange(PHOTOS), repeats)
    weighted = protocol._weighted(known.truth, scores[None], repeats[None].astype(float))[:, 0]
    expected = [
        measure(known.truth[indices], scores[indices]) for measure in (regression.lcc, regression.srcc, regression.mae)
    ]
    np.testing.assert_allclose(weighted, expected)


def test_the_interval_of_a_gain_excludes_zero_for_a_better_variant_only(known):
    predicted = {"poor": noisy(known, 3.0), "good": noisy(known, 0.3), "as poor": noisy(known, 3.0)}
    comparison = protocol.compared(known, predicted, "poor")
    assert "gain" not in comparison["poor"]
    assert comparison["good"]["gain"]["lcc"][1] > 0
    assert comparison["good"]["gain"]["mae"][2] < 0
    assert comparison["as poor"]["gain"]["srcc"] == [0, 0, 0]


def test_a_head_trained_by_the_protocol_predicts_held_out_photos(seen, known, tmp_path):
    answer = protocol.learning(Variant("photo"), seen, known.votes, Training(pairs=20))
    votes = protocol.held_out(tmp_path, "photo", known, 1, answer)
    assert regression.lcc(known.truth, regression.mean_scores(votes[0])) > 0.8


def test_the_face_variant_trains_on_the_face_features_alone(seen):
    features = protocol.visible(protocol.FACE, seen)
    assert [*features] == ["pooled"]
    np.testing.assert_array_equal(features["pooled"], seen["pooled_face"])


def test_some_raters_draws_existing_votes_only():
    counts = np.array([[0, 0, 5, 3, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]])
    drawn = label_curve.some_raters(counts, 3, seed=0)
    assert [*drawn.sum(1)] == [3, 2]
    assert (drawn <= counts).all()
    np.testing.assert_array_equal(label_curve.some_raters(counts, 0, seed=0), counts)


def test_the_lower_bound_leaves_the_given_share_of_photos_below_it():
    rng = np.random.default_rng(0)
    higher = rng.uniform(3, 8, 400)
    lower = higher - rng.gamma(2, 0.2, 400)
    intercept, slope = whole_or_face.lower_bound(higher, lower, share=0.1)
    assert 36 <= (lower < intercept + slope * higher - 1e-9).sum() <= 40
    assert slope == pytest.approx(1, abs=0.1)
    assert whole_or_face.below(higher, lower, np.arange(400), seed=0) == pytest.approx(0.05, abs=0.03)


def test_equal_scores_are_within_the_bound_and_scores_half_as_high_again_are_not(known):
    scores = regression.mean_scores(noisy(known, 0.5, seeds=1)[0])[None]
    statistics = whole_or_face.statistics(known, scores, scores * np.where(np.arange(PHOTOS) % 4, 1, 1.5))
    assert statistics["within"]["both"][0] == pytest.approx(0.75)
    assert statistics["within"]["photo_at_most"][0] == 1


def test_the_chart_has_a_line_for_each_number_of_raters():
    metrics = {"lcc": 0.5, "interval": {"lcc": [0.4, 0.6]}}
    cells = {
        f"{share:.0%} of the photos, {raters or 'all'} raters": metrics | {"ratings": share * (raters or 20)}
        for share in label_curve.SHARES
        for raters in label_curve.RATERS
    }
    axes = label_curve.draw(cells, PHOTOS).axes[0]
    assert [line.get_label() for line in axes.lines] == [
        "1 rater a photo", "3 raters a photo", "6 raters a photo", "12 raters a photo", "all raters a photo"
    ]  # fmt: skip
    assert all(len(line.get_xdata()) == len(label_curve.SHARES) for line in axes.lines)


def test_a_head_trained_by_gradient_descent_learns_with_a_rank_term_in_its_loss(seen, known):
    features = {**seen, "embedding": seen["pooled"], "found": np.ones(PHOTOS, "float32")}
    training = Training(head_epochs=60, dropout=0.0, head_learning_rate=0.03, rank_term=what_helps.TERM)
    components = principal_components(features["embedding"][:40], CHANNELS)
    training_features = {name: values[:40] for name, values in features.items()}
    head = what_helps.stepped(training_features, known.votes[:40], np.full(40, 9), components, training)
    means = regression.mean_scores(protocol.said(head, features, np.arange(PHOTOS) >= 40))
    assert regression.lcc(known.truth[40:], means) > 0.7


def test_the_text_on_pretraining_follows_from_the_intervals():
    def measured(lcc: float, low: float) -> dict:
        return {"lcc": lcc, "gain": {"lcc": [low + 0.02, low, low + 0.04]}}

    shares = {
        "10%": {"nothing": {"lcc": 0.3}, "autoencoder": measured(0.31, -0.01), "ImageNet": measured(0.5, 0.1)},
        "100%": {"nothing": {"lcc": 0.45}, "autoencoder": measured(0.44, -0.01), "ImageNet": measured(0.6, 0.1)},
    }
    epochs = {"100%": {"nothing": [0.3, 0.4, 0.5], "autoencoder": [0.2, 0.3, 0.4], "ImageNet": [0.4, 0.55, 0.6]}}
    text = pretraining_curve.said(shares, epochs)
    assert "From autoencoder frozen features are better than from nothing surely nowhere" in text
    assert "From ImageNet frozen features are better than from nothing at every share" in text
    assert "0.450, it gives with no share of them. From ImageNet" in text
    assert "from autoencoder: LCC 0.400 at best, the 0.500 that nothing reaches at best never in 2 epochs" in text
    assert "from ImageNet: LCC 0.600 at best, the 0.500 that nothing reaches at best after 1 epochs" in text
    assert "in fewer epochs does not hold for autoencoder here." in text
    assert text.endswith("in fewer epochs holds for ImageNet here.")
