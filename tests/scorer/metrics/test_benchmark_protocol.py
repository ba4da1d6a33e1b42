"""The experiments' protocol: nobody is asked about what he learnt from, and what is there is not computed again."""

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
    """Votes around people's means, off by so much."""
    rng = np.random.default_rng(1)
    means = np.clip(known.truth + size * rng.normal(size=(seeds, PHOTOS)), 2, 9)
    return np.array([[votes_around(mean) for mean in every] for every in means])


def test_each_photo_is_in_one_fold_and_no_group_in_two(known):
    found = np.array([*protocol.folds(known.groups, seed=0)])
    assert len(found) == FOLDS
    assert (found.sum(0) == 1).all()
    for group in range(known.groups.max() + 1):
        assert len({tuple(fold) for fold in found[:, known.groups == group].T}) == 1


def test_whoever_answers_has_not_learnt_from_what_is_asked_nor_from_a_near_duplicate(known, tmp_path):
    def answer(learnt: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
        assert not set(known.groups[learnt]) & set(known.groups[asked])
        return np.full((asked.sum(), 10), 0.1)

    found = protocol.held_out(tmp_path, "a name", known, 2, answer)
    assert found.shape == (2, PHOTOS, 10)
    np.testing.assert_allclose(found, 0.1)


def test_a_run_that_was_cut_short_goes_on_from_the_folds_that_are_there(known, tmp_path):
    asked = []

    def answer(learnt: np.ndarray, fold: np.ndarray, seed: int) -> np.ndarray:
        if len(asked) == FOLDS + 2:
            asked.append("cut short")
            raise KeyboardInterrupt
        asked.append(seed)
        return np.full((fold.sum(), 10), seed, "float32")

    with pytest.raises(KeyboardInterrupt):
        protocol.held_out(tmp_path, "a name", known, 2, answer)
    found = protocol.held_out(tmp_path, "a name", known, 2, answer)
    assert asked == [0] * FOLDS + [1, 1, "cut short", 1, 1, 1]
    np.testing.assert_array_equal(found, np.broadcast_to([[[0.0]], [[1.0]]], found.shape))
    assert len([*tmp_path.iterdir()]) == 2
    assert protocol.is_kept(tmp_path, "a name", 2)
    assert not protocol.is_kept(tmp_path, "a name", 3)


def test_a_smaller_share_is_part_of_a_larger_one():
    learnt = np.arange(PHOTOS) % 3 > 0
    some, more = (set(protocol.drawn(learnt, share, seed=3)) for share in (0.25, 0.5))
    assert len(some) == 10
    assert some < more <= set(np.flatnonzero(learnt))


def test_the_figures_of_a_redraw_are_those_of_photos_named_several_times(known):
    scores = regression.mean_scores(noisy(known, 1.0, seeds=1)[0])
    times = np.random.default_rng(0).integers(0, 4, PHOTOS)
    places = np.repeat(np.arange(PHOTOS), times)
    found = protocol._weighted(known.truth, scores[None], times[None].astype(float))[:, 0]
    expected = [
        measure(known.truth[places], scores[places]) for measure in (regression.lcc, regression.srcc, regression.mae)
    ]
    np.testing.assert_allclose(found, expected)


def test_a_gain_is_surely_above_zero_where_one_is_much_better_and_holds_zero_against_an_equal(known):
    predicted = {"poor": noisy(known, 3.0), "good": noisy(known, 0.3), "as poor": noisy(known, 3.0)}
    found = protocol.compared(known, predicted, "poor")
    assert "gain" not in found["poor"]
    assert found["good"]["gain"]["lcc"][1] > 0
    assert found["good"]["gain"]["mae"][2] < 0
    assert found["as poor"]["gain"]["srcc"] == [0, 0, 0]


def test_what_is_learnt_by_the_protocol_answers_for_photos_that_it_has_not_seen(seen, known, tmp_path):
    answer = protocol.learning(Variant("photo"), seen, known.votes, Training(pairs=20))
    votes = protocol.held_out(tmp_path, "photo", known, 1, answer)
    assert regression.lcc(known.truth, regression.mean_scores(votes[0])) > 0.8


def test_a_face_alone_is_learnt_from_as_a_photo_alone(seen):
    given = protocol.visible(protocol.FACE, seen)
    assert [*given] == ["pooled"]
    np.testing.assert_array_equal(given["pooled"], seen["pooled_face"])


def test_of_a_photo_s_raters_some_are_drawn_and_none_is_made_up():
    counts = np.array([[0, 0, 5, 3, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]])
    found = label_curve.some_raters(counts, 3, seed=0)
    assert [*found.sum(1)] == [3, 2]
    assert (found <= counts).all()
    np.testing.assert_array_equal(label_curve.some_raters(counts, 0, seed=0), counts)


def test_the_lower_bound_has_the_share_of_photos_below_it_here_and_about_that_share_elsewhere():
    rng = np.random.default_rng(0)
    higher = rng.uniform(3, 8, 400)
    lower = higher - rng.gamma(2, 0.2, 400)
    intercept, slope = whole_or_face.lower_bound(higher, lower, share=0.1)
    assert 36 <= (lower < intercept + slope * higher - 1e-9).sum() <= 40
    assert slope == pytest.approx(1, abs=0.1)
    assert whole_or_face.below(higher, lower, np.arange(400), seed=0) == pytest.approx(0.05, abs=0.03)


def test_equal_scores_are_within_the_bound_and_one_half_as_high_again_is_not(known):
    scores = regression.mean_scores(noisy(known, 0.5, seeds=1)[0])[None]
    found = whole_or_face.statistics(known, scores, scores * np.where(np.arange(PHOTOS) % 4, 1, 1.5))
    assert found["within"]["both"][0] == pytest.approx(0.75)
    assert found["within"]["photo_at_most"][0] == 1


def test_every_number_of_raters_has_its_line():
    found = {"lcc": 0.5, "interval": {"lcc": [0.4, 0.6]}}
    cells = {
        f"{share:.0%} of the photos, {raters or 'all'} raters": found | {"ratings": share * (raters or 20)}
        for share in label_curve.SHARES
        for raters in label_curve.RATERS
    }
    axes = label_curve.draw(cells, PHOTOS).axes[0]
    assert [line.get_label() for line in axes.lines] == [
        "1 rater a photo", "3 raters a photo", "6 raters a photo", "12 raters a photo", "all raters a photo"
    ]  # fmt: skip
    assert all(len(line.get_xdata()) == len(label_curve.SHARES) for line in axes.lines)


def test_a_head_by_the_gradient_learns_with_a_changed_loss_and_averaged_weights(seen, known):
    given = {**seen, "embedding": seen["pooled"], "found": np.ones(PHOTOS, "float32")}
    training = Training(head_epochs=60, dropout=0.0, head_learning_rate=0.03, rank_term=what_helps.TERM)
    components = principal_components(given["embedding"][:40], CHANNELS)
    learnt = {name: values[:40] for name, values in given.items()}
    head = what_helps.stepped(learnt, known.votes[:40], np.full(40, 9), components, training)
    told = regression.mean_scores(protocol.said(head, given, np.arange(PHOTOS) >= 40))
    assert regression.lcc(known.truth[40:], told) > 0.7


def test_what_is_said_of_pretraining_follows_from_the_intervals():
    def found(lcc: float, low: float) -> dict:
        return {"lcc": lcc, "gain": {"lcc": [low + 0.02, low, low + 0.04]}}

    shares = {
        "10%": {"nothing": {"lcc": 0.3}, "autoencoder": found(0.31, -0.01), "ImageNet": found(0.5, 0.1)},
        "100%": {"nothing": {"lcc": 0.45}, "autoencoder": found(0.44, -0.01), "ImageNet": found(0.6, 0.1)},
    }
    epochs = {"100%": {"nothing": [0.3, 0.4, 0.5], "autoencoder": [0.2, 0.3, 0.4], "ImageNet": [0.4, 0.55, 0.6]}}
    said = pretraining_curve.said(shares, epochs)
    assert "From autoencoder frozen features are better than from nothing surely nowhere" in said
    assert "From ImageNet frozen features are better than from nothing at every share" in said
    assert "0.450, it gives with no share of them. From ImageNet" in said
    assert "from autoencoder: LCC 0.400 at best, the 0.500 that nothing reaches at best never in 2 epochs" in said
    assert "from ImageNet: LCC 0.600 at best, the 0.500 that nothing reaches at best after 1 epochs" in said
    assert "in fewer epochs does not hold for autoencoder here." in said
    assert said.endswith("in fewer epochs holds for ImageNet here.")
