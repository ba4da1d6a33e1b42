"""The head in closed form: it is ridge regression on pairs of features, and a network like any other."""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from components.scorer.artifacts import bundle
from components.scorer.explain import attribution
from components.scorer.model import network as networks
from components.scorer.model import serving_outputs
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import ModelInputs
from components.scorer.model.layers import QUADRATIC_LAYER, QuadraticFeatures
from components.scorer.model.network import build_scorer, copy_head_weights
from components.scorer.parameters import from_parameters
from components.scorer.settings import SCORES, Pretraining, Training
from components.training.examples.degraded_copies import degraded_copies
from components.training.heads import ridge
from components.training.heads.pca import principal_components
from components.training.heads.ridge import fit_base_and_tilts, fit_ridge_head
from components.training.report import write_report
from components.training.train import train, uses_ridge_head
from tests.conftest import votes_around

CHANNELS, SIZE = 7, 12
BOTH = ModelInputs(view=True, embedding_size=SIZE, n_components=SIZE)
SETTINGS = Training(pairs=30)


def drawn(photos: int, seed: int = 0, with_faces: float = 1.0) -> dict[str, np.ndarray]:
    """What a head is given of photos."""
    rng = np.random.default_rng(seed)
    found = (rng.random(photos) < with_faces).astype("float32")
    return {
        "pooled": rng.gamma(2, 1, (photos, CHANNELS)).astype("float32"),
        "pooled_face": rng.gamma(2, 1, (photos, CHANNELS)).astype("float32"),
        "embedding": (rng.normal(size=(photos, SIZE)) * found[:, None]).astype("float32"),
        "found": found,
    }


def components_of(given: dict[str, np.ndarray]):
    return principal_components(given["embedding"][given["found"] > 0], SIZE)


def rated(given: dict[str, np.ndarray], pair: float = 1.0) -> np.ndarray:
    """Votes for photos whose first number of the embedding counts for more, or less, by the second."""
    first, second = given["embedding"][:, 0], given["embedding"][:, 1]
    return np.stack([votes_around(mean) for mean in np.clip(5.5 + pair * first * second + (1 - pair) * first, 2, 9)])


def asked(head: keras.Model, given: dict[str, np.ndarray]) -> np.ndarray:
    return head.predict([given[each.name] for each in head.inputs], verbose=0)


@pytest.fixture(scope="module")
def learnt() -> dict[str, np.ndarray]:
    return drawn(160)


@pytest.fixture(scope="module")
def head(learnt) -> keras.Model:
    return fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS)[0]


# The solution


def test_the_head_answers_as_ridge_regression_under_the_kernel_does(learnt, head, monkeypatch):
    chosen = ridge.HeadHyperparameters(view_weight=0.25, penalty=0.5, loss=0.0)
    monkeypatch.setattr(ridge, "_choose_hyperparameters", lambda *given: chosen)
    head, _ = fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS, quadratic_ratio=2.0)
    both = {name: np.concatenate([values, drawn(20, seed=1)[name]]) for name, values in learnt.items()}
    joined = keras.Model(head.inputs, head.get_layer(QUADRATIC_LAYER).output)([both[each.name] for each in head.inputs])
    z = np.asarray(joined, float)[:, : head.get_layer(QUADRATIC_LAYER).rank]
    kernel = z @ z.T + 2.0 * (z @ z.T) ** 2 + 100.0
    base, tilts = fit_base_and_tilts(rated(learnt))
    counts = ridge._fisher_weights(base, tilts)
    expected = kernel[160:, :160] @ np.linalg.solve(kernel[:160, :160] + np.diag(0.5 / counts), tilts)
    votes = base * np.exp(expected[:, None] * (np.array(SCORES) - 5.5))
    np.testing.assert_allclose(asked(head, both)[160:], votes / votes.sum(1, keepdims=True), atol=2e-4)


def test_what_photos_left_out_would_get_is_what_they_get_when_they_are_left_out():
    rng = np.random.default_rng(0)
    points, votes = rng.normal(size=(25, 4)), np.stack([votes_around(mean) for mean in rng.uniform(3, 8, 25)])
    base, tilts = fit_base_and_tilts(votes)
    kernel = points @ points.T + 100.0
    counts = rng.uniform(0.5, 2, 25)
    penalty, loss = ridge._leave_one_out(kernel, votes, base, tilts, counts)
    refitted = np.empty(25)
    for place in range(25):
        rest = np.arange(25) != place
        shares = np.linalg.solve(kernel[np.ix_(rest, rest)] + np.diag(penalty / counts[rest]), tilts[rest])
        refitted[place] = kernel[place, rest] @ shares
    assert loss == pytest.approx(ridge._loss(base, refitted, votes), rel=1e-6)


def test_tilts_give_people_s_means_and_all_votes_together():
    votes = np.stack([votes_around(mean) for mean in np.linspace(2.5, 8, 40)])
    base, tilts = fit_base_and_tilts(votes)
    told = ridge._apply_tilt(base, tilts)
    np.testing.assert_allclose(told @ np.array(SCORES), votes @ np.array(SCORES), atol=0.01)
    np.testing.assert_allclose(told.mean(0), votes.mean(0), atol=0.01)


def test_what_is_in_pairs_of_features_is_learnt(head):
    others = drawn(100, seed=2)
    truth = rated(others) @ np.array(SCORES)
    assert spearmanr(asked(head, others) @ np.array(SCORES), truth).statistic > 0.5


def test_features_alone_do_not_tell_what_is_in_pairs(learnt):
    head, _ = fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS, quadratic_ratio=0.0)
    others = drawn(100, seed=2)
    truth = rated(others) @ np.array(SCORES)
    assert abs(spearmanr(asked(head, others) @ np.array(SCORES), truth).statistic) < 0.3


def test_what_the_absence_of_a_face_says_is_learnt():
    given = drawn(160, with_faces=0.7)
    missing = given["found"] == 0
    votes = np.stack([votes_around(3.0 if gone else 6.5) for gone in missing])
    head, _ = fit_ridge_head(given, votes, BOTH, components_of(given), SETTINGS)
    others = drawn(60, seed=3, with_faces=0.7)
    scores = asked(head, others) @ np.array(SCORES)
    assert scores[others["found"] == 0].max() < scores[others["found"] == 1].min()


def test_the_same_photos_give_the_same_head(learnt, head):
    again, _ = fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS)
    for one, other in zip(head.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_too_many_photos_some_are_drawn(learnt, monkeypatch, capsys):
    monkeypatch.setattr(ridge, "MAX_PHOTOS", 100)
    fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS)
    assert "100 of 160 photos are drawn" in capsys.readouterr().out


def test_features_that_never_vary_count_for_nothing(learnt):
    given = learnt | {"pooled": np.ones_like(learnt["pooled"])}
    head, _ = fit_ridge_head(given, rated(given), BOTH, components_of(given), SETTINGS)
    strange = given | {"pooled": given["pooled"] + 5}
    np.testing.assert_allclose(asked(head, given), asked(head, strange), atol=1e-5)


def test_copies_that_were_made_worse_are_learnt_from_and_choose_nothing(learnt):
    votes, components = rated(learnt), components_of(learnt)
    worse = {name: values[:80].copy() for name, values in learnt.items()}
    worse["embedding"][:, 0] += 3
    both = {name: np.concatenate([learnt[name], worse[name]]) for name in learnt}
    head, curves = fit_ridge_head(
        both, np.concatenate([votes, votes[:80]]), BOTH, components, SETTINGS, n_originals=160
    )
    alone, before = fit_ridge_head(learnt, votes, BOTH, components, SETTINGS)
    assert curves["val_loss"] == pytest.approx(before["val_loss"], rel=1e-4)
    moved, was = (np.abs(asked(each, worse) - votes[:80]).mean() for each in (head, alone))
    assert moved < 0.9 * was


# The network


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3), name="pixels")
    convolved = keras.layers.Conv2D(CHANNELS, 4, strides=8, activation="relu", name="convolved")(pixels)
    return keras.Model(pixels, convolved, name="encoder")


@pytest.fixture(scope="module")
def scorer(encoder, head) -> keras.Model:
    model = build_scorer(encoder, 0.5, BOTH, head.get_layer(QUADRATIC_LAYER).rank)
    copy_head_weights(head, model)
    return model


def seen(photos: int) -> list[np.ndarray]:
    rng, given = np.random.default_rng(5), drawn(photos, seed=5)
    pixels, face = rng.uniform(0, 255, (2, photos, 32, 32, 3)).astype("float32")
    return [pixels, face, given["embedding"], given["found"]]


def test_slopes_are_the_gradient(head):
    import tensorflow as tf

    layer, kernel = head.get_layer(QUADRATIC_LAYER), head.get_layer("votes").kernel
    features = tf.Variable(np.random.default_rng(4).normal(size=(1, layer.mean.shape[0])).astype("float32"))
    with tf.GradientTape() as tape:
        logits = layer(features) @ kernel
    gradient = tape.jacobian(logits, features)[0, :, 0].numpy().T[:CHANNELS]
    np.testing.assert_allclose(layer.input_gradient(features, kernel, CHANNELS)[0], gradient, rtol=1e-3, atol=1e-6)


def test_its_maps_are_those_of_the_gradient(scorer):
    taken = dict(zip((each.name for each in scorer.inputs), seen(3), strict=True))
    found = serving_outputs.build_cam_model(scorer)(list(taken.values()))
    expected = attribution.heatmaps(scorer, *attribution.split_pixels(taken))
    np.testing.assert_allclose(found["class_heatmaps"], expected, rtol=1e-3, atol=1e-6)


def test_pairs_are_told_from_features_alone(scorer, encoder):
    assert isinstance(networks.quadratic_layer(scorer), QuadraticFeatures)
    assert networks.quadratic_layer(build_scorer(encoder, 0.5, BOTH)) is None


# Training


def test_some_photos_are_copied_with_a_fault_that_moves_their_pixels(small_dataset):
    from components.scorer.data import photos

    known = {record["votes"].tobytes(): record["photo"] for record in photos.records(small_dataset, "train")}
    copies = [*degraded_copies(small_dataset, "train", 0.5, seed=1)]
    assert 0.2 * len(known) < len(copies) < 0.8 * len(known)
    for data, votes, _ in copies:
        copy, photo = (np.asarray(Image.open(io.BytesIO(each))) for each in (data, known[votes.tobytes()]))
        assert copy.shape == photo.shape
        assert np.abs(copy.astype(int) - photo).mean() > 0.1


def test_the_same_seed_spoils_the_same_photos_alike(small_dataset):
    one, other = ([data for data, *_ in degraded_copies(small_dataset, "train", 0.3, seed=2)] for _ in range(2))
    assert one == other


@pytest.fixture(scope="module")
def trained(small_dataset, tmp_path_factory) -> Path:
    """What training wrote of a scorer in closed form."""
    folder = tmp_path_factory.mktemp("fitted")
    pixels = keras.Input((32, 32, 3), name="pixels")
    network = keras.Model(pixels, keras.layers.Conv2D(9, 8, strides=8, activation="relu", name="coarse")(pixels))
    bundle.save_encoder(network, from_parameters(Pretraining, start="none", crop=32), folder / "encoder")
    settings = from_parameters(Training, scale=36, fitting="closed", batch_size=8)
    places = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    figures = train(
        small_dataset, folder / "encoder", folder / "scorer", folder / "report.html", settings=settings, **places
    )
    assert figures["training_epochs"] == 0
    return folder


@pytest.fixture(scope="module")
def fitted(trained) -> bundle.TrainedScorer:
    return bundle.load(trained / "scorer")


@pytest.fixture(scope="module")
def page(trained) -> str:
    return (trained / "report.html").read_text()


def test_a_scorer_in_closed_form_is_a_bundle_like_any_other(fitted, small_dataset):
    from components.scorer.data import photos

    scored = fitted.score([record["photo"] for record in photos.records(small_dataset, "test")])
    np.testing.assert_allclose(scored.sum(1), 1, atol=1e-5)
    assert networks.quadratic_layer(fitted.model) is not None


def test_its_page_says_so_and_draws_no_curve(page):
    assert "in closed form" in page
    assert "was kept" not in page


def test_a_head_of_one_epoch_is_not_taken_for_one_in_closed_form(tmp_path):
    curves = {"loss": [0.02], "val_loss": [0.03], "seconds": [1.0]}
    write_report(tmp_path / "page", Training(), HeadSpec(), "", curves, {}, is_ridge=False)
    assert "Epoch 1 of 1 was kept" in (tmp_path / "page").read_text()


def test_its_curves_tell_the_loss_on_photos_left_out(fitted):
    assert fitted.history["head_val_loss"][0] > fitted.history["head_loss"][0] > 0


@pytest.mark.parametrize(
    ("fitting", "embedding", "expected"),
    [("auto", 5, True), ("auto", 0, False), ("closed", 0, True), ("gradient", 5, False)],
)
def test_the_closed_form_is_taken_where_an_embedding_is_read_unless_told_otherwise(fitting, embedding, expected):
    assert (
        uses_ridge_head(Training(fitting=fitting), ModelInputs(embedding_size=embedding, n_components=embedding))
        is expected
    )


def test_a_photo_that_counts_for_next_to_nothing_is_not_learnt_from():
    given = drawn(200)
    votes, wrong = rated(given), np.arange(200) >= 100
    votes[wrong] = rated({**given, "embedding": -given["embedding"][:, [1, 0, *range(2, SIZE)]]}, pair=0.0)[wrong]
    head, _ = fit_ridge_head(given, votes, BOTH, components_of(given), SETTINGS, weights=np.where(wrong, 1e-6, 1.0))
    plain, _ = fit_ridge_head(given, votes, BOTH, components_of(given), SETTINGS)
    others = drawn(100, seed=1)
    truth = rated(others) @ SCORES
    weighed, as_they_are = (spearmanr(asked(each, others) @ SCORES, truth).statistic for each in (head, plain))
    assert weighed > as_they_are + 0.1


@pytest.mark.parametrize("name", ["embedding", "pooled", "votes", "weights of the photos"])
def test_what_is_not_finite_is_named_before_anything_is_solved(learnt, name):
    given, votes, weights = dict(learnt), rated(learnt), np.ones(160)
    spoiled = {**given, "votes": votes, "weights of the photos": weights}[name].copy()
    spoiled.flat[3] = np.nan
    given[name] = spoiled
    votes, weights = given.pop("votes", votes), given.pop("weights of the photos", weights)
    with pytest.raises(ValueError, match=rf"expected finite numbers as the {name} of 160 photos, got 1 of [\d,]+ that"):
        fit_ridge_head(given, votes, BOTH, components_of(learnt), SETTINGS, weights=weights)
