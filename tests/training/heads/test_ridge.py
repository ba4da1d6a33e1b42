"""The ridge head: kernel ridge regression on pairs of features, exported as an ordinary network."""

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

pytestmark = pytest.mark.slow

CHANNELS, SIZE = 7, 12
BOTH = ModelInputs(view=True, embedding_size=SIZE, n_components=SIZE)
SETTINGS = Training(pairs=30)


def drawn(photos: int, seed: int = 0, with_faces: float = 1.0) -> dict[str, np.ndarray]:
    """Return random head inputs of photos."""
    rng = np.random.default_rng(seed)
    has_face = (rng.random(photos) < with_faces).astype("float32")
    return {
        "pooled": rng.gamma(2, 1, (photos, CHANNELS)).astype("float32"),
        "pooled_face": rng.gamma(2, 1, (photos, CHANNELS)).astype("float32"),
        "embedding": (rng.normal(size=(photos, SIZE)) * has_face[:, None]).astype("float32"),
        "found": has_face,
    }


def components_of(given: dict[str, np.ndarray]):
    return principal_components(given["embedding"][given["found"] > 0], SIZE)


def rated(given: dict[str, np.ndarray], pair: float = 1.0) -> np.ndarray:
    """Return votes whose mean depends on the product of the first two embedding values."""
    first, second = given["embedding"][:, 0], given["embedding"][:, 1]
    return np.stack([votes_around(mean) for mean in np.clip(5.5 + pair * first * second + (1 - pair) * first, 2, 9)])


def asked(head: keras.Model, given: dict[str, np.ndarray]) -> np.ndarray:
    return head.predict([given[tensor.name] for tensor in head.inputs], verbose=0)


@pytest.fixture(scope="module")
def learnt() -> dict[str, np.ndarray]:
    return drawn(160)


@pytest.fixture(scope="module")
def head(learnt) -> keras.Model:
    return fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS)[0]


# The solution


def test_the_head_equals_kernel_ridge_regression(learnt, head, monkeypatch):
    chosen = ridge.HeadHyperparameters(view_weight=0.25, penalty=0.5, loss=0.0)
    monkeypatch.setattr(ridge, "_choose_hyperparameters", lambda *arguments: chosen)
    head, _ = fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS, quadratic_ratio=2.0)
    all_features = {name: np.concatenate([values, drawn(20, seed=1)[name]]) for name, values in learnt.items()}
    features = keras.Model(head.inputs, head.get_layer(QUADRATIC_LAYER).output)(
        [all_features[tensor.name] for tensor in head.inputs]
    )
    projected = np.asarray(features, float)[:, : head.get_layer(QUADRATIC_LAYER).rank]
    kernel = projected @ projected.T + 2.0 * (projected @ projected.T) ** 2 + 100.0
    base, tilts = fit_base_and_tilts(rated(learnt))
    counts = ridge._fisher_weights(base, tilts)
    expected = kernel[160:, :160] @ np.linalg.solve(kernel[:160, :160] + np.diag(0.5 / counts), tilts)
    votes = base * np.exp(expected[:, None] * (np.array(SCORES) - 5.5))
    np.testing.assert_allclose(asked(head, all_features)[160:], votes / votes.sum(1, keepdims=True), atol=2e-4)


def test_the_leave_one_out_loss_equals_that_of_refitted_heads():
    rng = np.random.default_rng(0)
    points, votes = rng.normal(size=(25, 4)), np.stack([votes_around(mean) for mean in rng.uniform(3, 8, 25)])
    base, tilts = fit_base_and_tilts(votes)
    kernel = points @ points.T + 100.0
    counts = rng.uniform(0.5, 2, 25)
    penalty, loss = ridge._leave_one_out(kernel, votes, base, tilts, counts)
    refitted = np.empty(25)
    for index in range(25):
        others = np.arange(25) != index
        coefficients = np.linalg.solve(
            kernel[np.ix_(others, others)] + np.diag(penalty / counts[others]), tilts[others]
        )
        refitted[index] = kernel[index, others] @ coefficients
    assert loss == pytest.approx(ridge._loss(base, refitted, votes), rel=1e-6)


def test_tilts_reproduce_the_mean_scores_and_the_mean_votes():
    votes = np.stack([votes_around(mean) for mean in np.linspace(2.5, 8, 40)])
    base, tilts = fit_base_and_tilts(votes)
    tilted = ridge._apply_tilt(base, tilts)
    np.testing.assert_allclose(tilted @ np.array(SCORES), votes @ np.array(SCORES), atol=0.01)
    np.testing.assert_allclose(tilted.mean(0), votes.mean(0), atol=0.01)


def test_the_head_learns_products_of_features(head):
    test_features = drawn(100, seed=2)
    truth = rated(test_features) @ np.array(SCORES)
    assert spearmanr(asked(head, test_features) @ np.array(SCORES), truth).statistic > 0.5


def test_a_linear_head_does_not_learn_products_of_features(learnt):
    head, _ = fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS, quadratic_ratio=0.0)
    test_features = drawn(100, seed=2)
    truth = rated(test_features) @ np.array(SCORES)
    assert abs(spearmanr(asked(head, test_features) @ np.array(SCORES), truth).statistic) < 0.3


def test_the_head_learns_the_effect_of_a_missing_face():
    features = drawn(160, with_faces=0.7)
    missing = features["found"] == 0
    votes = np.stack([votes_around(3.0 if is_missing else 6.5) for is_missing in missing])
    head, _ = fit_ridge_head(features, votes, BOTH, components_of(features), SETTINGS)
    test_features = drawn(60, seed=3, with_faces=0.7)
    scores = asked(head, test_features) @ np.array(SCORES)
    assert scores[test_features["found"] == 0].max() < scores[test_features["found"] == 1].min()


def test_the_same_photos_give_the_same_head(learnt, head):
    refitted, _ = fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS)
    for weights, refitted_weights in zip(head.get_weights(), refitted.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, refitted_weights)


def test_a_sample_is_drawn_from_too_many_photos(learnt, monkeypatch, capsys):
    monkeypatch.setattr(ridge, "MAX_PHOTOS", 100)
    fit_ridge_head(learnt, rated(learnt), BOTH, components_of(learnt), SETTINGS)
    assert "100 of 160 photos are drawn" in capsys.readouterr().out


def test_constant_features_have_no_effect(learnt):
    features = learnt | {"pooled": np.ones_like(learnt["pooled"])}
    head, _ = fit_ridge_head(features, rated(features), BOTH, components_of(features), SETTINGS)
    shifted = features | {"pooled": features["pooled"] + 5}
    np.testing.assert_allclose(asked(head, features), asked(head, shifted), atol=1e-5)


def test_degraded_copies_are_trained_on_and_do_not_select_hyperparameters(learnt):
    votes, components = rated(learnt), components_of(learnt)
    degraded = {name: values[:80].copy() for name, values in learnt.items()}
    degraded["embedding"][:, 0] += 3
    combined = {name: np.concatenate([learnt[name], degraded[name]]) for name in learnt}
    head, curves = fit_ridge_head(
        combined, np.concatenate([votes, votes[:80]]), BOTH, components, SETTINGS, n_originals=160
    )
    head_without_copies, curves_without_copies = fit_ridge_head(learnt, votes, BOTH, components, SETTINGS)
    assert curves["val_loss"] == pytest.approx(curves_without_copies["val_loss"], rel=1e-4)
    error, error_without_copies = (
        np.abs(asked(fitted_head, degraded) - votes[:80]).mean() for fitted_head in (head, head_without_copies)
    )
    assert error < 0.9 * error_without_copies


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
    rng, features = np.random.default_rng(5), drawn(photos, seed=5)
    pixels, face = rng.uniform(0, 255, (2, photos, 32, 32, 3)).astype("float32")
    return [pixels, face, features["embedding"], features["found"]]


def test_slopes_equal_the_gradient(head):
    import tensorflow as tf

    layer, kernel = head.get_layer(QUADRATIC_LAYER), head.get_layer("votes").kernel
    features = tf.Variable(np.random.default_rng(4).normal(size=(1, layer.mean.shape[0])).astype("float32"))
    with tf.GradientTape() as tape:
        logits = layer(features) @ kernel
    gradient = tape.jacobian(logits, features)[0, :, 0].numpy().T[:CHANNELS]
    np.testing.assert_allclose(layer.input_gradient(features, kernel, CHANNELS)[0], gradient, rtol=1e-3, atol=1e-6)


def test_class_activation_maps_equal_gradient_heatmaps(scorer):
    model_inputs = dict(zip((tensor.name for tensor in scorer.inputs), seen(3), strict=True))
    outputs = serving_outputs.build_cam_model(scorer)(list(model_inputs.values()))
    expected = attribution.heatmaps(scorer, *attribution.split_pixels(model_inputs))
    np.testing.assert_allclose(outputs["class_heatmaps"], expected, rtol=1e-3, atol=1e-6)


def test_quadratic_layer_finds_the_layer_of_quadratic_networks_only(scorer, encoder):
    assert isinstance(networks.quadratic_layer(scorer), QuadraticFeatures)
    assert networks.quadratic_layer(build_scorer(encoder, 0.5, BOTH)) is None


# Training


def test_the_given_share_of_photos_is_copied_with_changed_pixels(small_dataset):
    from components.scorer.data import photos

    originals = {record["votes"].tobytes(): record["photo"] for record in photos.records(small_dataset, "train")}
    copies = [*degraded_copies(small_dataset, "train", 0.5, seed=1)]
    assert 0.2 * len(originals) < len(copies) < 0.8 * len(originals)
    for data, votes, _ in copies:
        copy, photo = (np.asarray(Image.open(io.BytesIO(encoded))) for encoded in (data, originals[votes.tobytes()]))
        assert copy.shape == photo.shape
        assert np.abs(copy.astype(int) - photo).mean() > 0.1


def test_the_same_seed_gives_the_same_degraded_copies(small_dataset):
    first, second = ([data for data, *_ in degraded_copies(small_dataset, "train", 0.3, seed=2)] for _ in range(2))
    assert first == second


@pytest.fixture(scope="module")
def trained(small_dataset, tmp_path_factory) -> Path:
    """Folder with the files of a trained scorer with a ridge head."""
    folder = tmp_path_factory.mktemp("fitted")
    pixels = keras.Input((32, 32, 3), name="pixels")
    network = keras.Model(pixels, keras.layers.Conv2D(9, 8, strides=8, activation="relu", name="coarse")(pixels))
    bundle.save_encoder(network, from_parameters(Pretraining, start="none", crop=32), folder / "encoder")
    settings = from_parameters(Training, scale=36, fitting="closed", batch_size=8)
    locations = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    figures = train(
        small_dataset, folder / "encoder", folder / "scorer", folder / "report.html", settings=settings, **locations
    )
    assert figures["training_epochs"] == 0
    return folder


@pytest.fixture(scope="module")
def fitted(trained) -> bundle.TrainedScorer:
    return bundle.load(trained / "scorer")


@pytest.fixture(scope="module")
def page(trained) -> str:
    return (trained / "report.html").read_text()


def test_a_scorer_with_a_ridge_head_is_loaded_from_its_bundle(fitted, small_dataset):
    from components.scorer.data import photos

    scored = fitted.score([record["photo"] for record in photos.records(small_dataset, "test")])
    np.testing.assert_allclose(scored.sum(1), 1, atol=1e-5)
    assert networks.quadratic_layer(fitted.model) is not None


def test_the_training_report_of_a_ridge_head_has_no_kept_epoch(page):
    assert "in closed form" in page
    assert "was kept" not in page


def test_the_training_report_of_one_epoch_names_the_kept_epoch(tmp_path):
    curves = {"loss": [0.02], "val_loss": [0.03], "seconds": [1.0]}
    write_report(tmp_path / "page", Training(), HeadSpec(), "", curves, {}, is_ridge=False)
    assert "Epoch 1 of 1 was kept" in (tmp_path / "page").read_text()


def test_the_history_of_a_ridge_head_holds_its_leave_one_out_loss(fitted):
    assert fitted.history["head_val_loss"][0] > fitted.history["head_loss"][0] > 0


@pytest.mark.parametrize(
    ("fitting", "embedding", "expected"),
    [("auto", 5, True), ("auto", 0, False), ("closed", 0, True), ("gradient", 5, False)],
)
def test_the_ridge_head_is_the_default_for_models_with_an_embedding(fitting, embedding, expected):
    assert (
        uses_ridge_head(Training(fitting=fitting), ModelInputs(embedding_size=embedding, n_components=embedding))
        is expected
    )


def test_photos_with_a_tiny_weight_have_no_effect():
    features = drawn(200)
    votes, has_wrong_votes = rated(features), np.arange(200) >= 100
    votes[has_wrong_votes] = rated(
        {**features, "embedding": -features["embedding"][:, [1, 0, *range(2, SIZE)]]}, pair=0.0
    )[has_wrong_votes]
    head, _ = fit_ridge_head(
        features, votes, BOTH, components_of(features), SETTINGS, weights=np.where(has_wrong_votes, 1e-6, 1.0)
    )
    unweighted_head, _ = fit_ridge_head(features, votes, BOTH, components_of(features), SETTINGS)
    test_features = drawn(100, seed=1)
    truth = rated(test_features) @ SCORES
    weighted_srcc, unweighted_srcc = (
        spearmanr(asked(fitted_head, test_features) @ SCORES, truth).statistic
        for fitted_head in (head, unweighted_head)
    )
    assert weighted_srcc > unweighted_srcc + 0.1


@pytest.mark.parametrize("name", ["embedding", "pooled", "votes", "weights of the photos"])
def test_non_finite_input_is_named_before_the_fit(learnt, name):
    features, votes, weights = dict(learnt), rated(learnt), np.ones(160)
    values = {**features, "votes": votes, "weights of the photos": weights}[name].copy()
    values.flat[3] = np.nan
    features[name] = values
    votes, weights = features.pop("votes", votes), features.pop("weights of the photos", weights)
    with pytest.raises(ValueError, match=rf"expected finite numbers as the {name} of 160 photos, got 1 of [\d,]+ that"):
        fit_ridge_head(features, votes, BOTH, components_of(learnt), SETTINGS, weights=weights)
