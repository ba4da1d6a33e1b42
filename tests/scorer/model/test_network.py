"""The network, its loss and its preprocessing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from components.pretraining.autoencoder import build_autoencoder, reconstruction_error
from components.scorer.artifacts import bundle
from components.scorer.imaging import preprocessing_tf
from components.scorer.model.encoder import build_encoder
from components.scorer.model.losses import VoteDistributionLoss, squared_emd
from components.scorer.model.network import build_scorer
from components.scorer.model.surgery import freeze_batch_norms, with_precision
from components.scorer.parameters import from_parameters
from components.scorer.settings import Pretraining
from tests.conftest import SMALL, drawn_photo, votes_around

SCORES = np.arange(1, 11)
votes = st.lists(st.floats(0.01, 1), min_size=10, max_size=10).map(lambda shares: np.array(shares) / np.sum(shares))


def encoder_settings(**changes) -> Pretraining:
    return from_parameters(Pretraining, **{"start": "none", **SMALL, **changes})


@pytest.mark.slow
@given(votes, votes)
@settings(deadline=None, max_examples=50)
def test_squared_emd_is_bounded_by_the_earth_movers_distance(truth, predicted):
    """Σd² ≤ (Σ|d|)² and, by Cauchy-Schwarz, (Σ|d|)² ≤ 10 · Σd²."""
    loss = float(squared_emd(truth[None], predicted[None])[0])
    distance = wasserstein_distance(SCORES, SCORES, truth, predicted)
    assert distance**2 / 100 - 1e-6 <= loss <= distance**2 / 10 + 1e-6


def test_squared_emd_of_one_step_is_one_tenth():
    assert float(squared_emd(np.eye(10)[[3]], np.eye(10)[[4]])[0]) == pytest.approx(0.1)


def test_squared_emd_grows_with_the_distance_of_the_mistake():
    truth = np.repeat(np.eye(10)[[0]], 10, axis=0)
    assert (np.diff(np.asarray(squared_emd(truth, np.eye(10)))) > 0).all()


@pytest.mark.slow
@given(votes, votes)
@settings(deadline=None, max_examples=20)
def test_a_loss_without_terms_is_the_squared_emd(truth, predicted):
    loss = VoteDistributionLoss()(truth[None], predicted[None])
    assert float(loss) == pytest.approx(float(squared_emd(truth[None], predicted[None])[0]), abs=1e-6)


@pytest.mark.parametrize("term", ["correlation_term", "rank_term"])
def test_a_loss_term_penalises_a_wrong_order_and_not_a_perfect_scorer(term):
    truth = np.stack([votes_around(mean) for mean in np.random.default_rng(0).uniform(2, 9, 16)])
    loss = VoteDistributionLoss(**{term: 0.05})
    perfect, reversed_order = (float(loss(truth, predicted)) for predicted in (truth, truth[::-1]))
    without_term = float(VoteDistributionLoss()(truth, truth[::-1]))
    assert perfect < 0.05
    assert reversed_order > without_term + 0.02


@pytest.mark.parametrize("term", ["correlation_term", "rank_term"])
def test_a_loss_term_and_its_gradient_are_finite_if_all_scores_are_equal(term):
    truth, uniform = np.eye(10, dtype="float32")[[1, 4, 8]], np.full((3, 10), 0.1, "float32")
    predicted = tf.Variable(uniform)
    with tf.GradientTape() as tape:
        loss = VoteDistributionLoss(**{term: 1.0})(truth, predicted)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, predicted).numpy()).all()


def test_a_deserialised_loss_has_its_terms():
    loss = keras.losses.deserialize(keras.losses.serialize(VoteDistributionLoss(0.25, 0.5)))
    assert (loss.correlation_term, loss.rank_term) == (0.25, 0.5)


@pytest.mark.slow
def test_the_scorer_predicts_votes_that_sum_to_one():
    model = build_scorer(build_encoder(encoder_settings()), dropout=0.75)
    predicted = np.asarray(model(np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))))
    assert predicted.shape == (3, 10)
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_network_has_no_nested_models():
    model = build_scorer(build_encoder(encoder_settings()), dropout=0.75)
    assert not [layer.name for layer in model.layers if isinstance(layer, keras.Model)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "mode"),
    [("MobileNet", "tf"), ("DenseNet121", "torch"), ("VGG16", "caffe"), ("MobileNetV3Small", "none")],
)
def test_pixels_are_scaled_as_the_backbone_expects(backbone, mode):
    encoder = build_encoder(encoder_settings(backbone=backbone, backbone_options={}))
    assert encoder.get_layer("scaling").mode == mode


def test_an_unknown_backbone_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"backbone must be one of .*MobileNetV2.*, got 'MobileNett'"):
        build_encoder(encoder_settings(backbone="MobileNett"))


def test_options_that_do_not_fit_the_backbone_are_refused():
    with pytest.raises(ValueError, match="the backbone cannot be built"):
        build_encoder(encoder_settings(backbone_options={"width": 3}))


@pytest.mark.slow
def test_a_given_network_is_cut_before_its_pooling_layer(tmp_path):
    network = keras.applications.MobileNet(alpha=0.25, input_shape=(64, 64, 3), weights=None, classes=7)
    network.save(tmp_path / "whole.keras")
    encoder = build_encoder(encoder_settings(scaling="torch"), tmp_path / "whole.keras")
    kernel = network.get_layer("conv1").get_weights()[0]
    np.testing.assert_array_equal(encoder.get_layer("conv1").get_weights()[0], kernel)
    assert encoder.output_shape == (None, 1, 1, 256)


@pytest.mark.slow
def test_a_given_network_gets_pixels_scaled_as_in_its_own_training(tmp_path):
    network = keras.applications.MobileNet(alpha=0.25, input_shape=(32, 32, 3), weights=None, include_top=False)
    network.save(tmp_path / "features.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = network(keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="torch"))
    encoder = build_encoder(encoder_settings(scaling="torch"), tmp_path / "features.keras")
    np.testing.assert_allclose(np.asarray(encoder(pixels)), np.asarray(expected), atol=1e-4)


@pytest.mark.slow
def test_an_encoder_of_this_project_can_be_the_given_network(small_encoder):
    expected = bundle.load_encoder(small_encoder)[0]
    encoder = build_encoder(encoder_settings(), small_encoder / "encoder.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(encoder(pixels)), np.asarray(expected(pixels)), atol=1e-5)


def test_a_network_without_feature_maps_is_refused(tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match=r"feature maps .* got output \(None, 2\)"):
        build_encoder(encoder_settings(), tmp_path / "dense.keras")


@pytest.mark.slow
def test_the_autoencoder_output_has_the_shape_of_its_input():
    autoencoder = build_autoencoder(build_encoder(encoder_settings(crop=64)), encoder_settings(crop=64))
    assert autoencoder.output_shape == (None, 64, 64, 3)


@pytest.mark.slow
def test_a_crop_that_is_not_a_multiple_of_the_stride_is_refused():
    given_settings = encoder_settings(crop=100)
    with pytest.raises(ValueError, match="multiple of 32"):
        build_autoencoder(build_encoder(given_settings), given_settings)


def test_the_reconstruction_error_is_the_mean_squared_difference():
    error = reconstruction_error(np.full((1, 4, 4, 3), 255.0), np.full((1, 4, 4, 3), 0.5, "float32"))
    assert float(error[0]) == pytest.approx(0.25)


@pytest.mark.slow
def test_frozen_batch_norms_keep_their_statistics():
    model = build_scorer(build_encoder(encoder_settings()), dropout=0)
    freeze_batch_norms(model)
    before = model.get_layer("conv1_bn").get_weights()
    model(np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)), training=True)
    for old, new in zip(before, model.get_layer("conv1_bn").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_a_mixed_precision_scorer_keeps_its_weights_and_predicts_in_float32():
    model = build_scorer(build_encoder(encoder_settings()), dropout=0)
    mixed = with_precision(model, "mixed_bfloat16")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    assert mixed.get_layer("conv1").compute_dtype == "bfloat16"
    assert np.asarray(mixed(pixels)).dtype == np.float32
    np.testing.assert_allclose(np.asarray(mixed(pixels)), np.asarray(model(pixels)), atol=0.02)


def test_mixed_precision_works_on_a_given_network(tmp_path):
    pixels = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, strides=4, name="convolved")(pixels))
    keras.Model(pixels, pooled).save(tmp_path / "given.keras")
    encoder = build_encoder(encoder_settings(scaling="tf"), tmp_path / "given.keras")
    mixed = with_precision(encoder, "mixed_bfloat16")
    values = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    assert mixed.get_layer("convolved").compute_dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(mixed(values), "float32"), np.asarray(encoder(values)), atol=0.02)


def test_decoding_gives_rgb_pixels_at_the_size_of_the_photo():
    photo = preprocessing_tf.decode(tf.constant(drawn_photo(0.5, size=(48, 64))))
    assert photo.shape == (64, 48, 3)
    assert photo.dtype == tf.uint8


def test_pixels_of_a_photo_do_not_depend_on_its_batch():
    data = [drawn_photo(0.2, 1), drawn_photo(0.7, 2), drawn_photo(0.9, 3)]
    together = preprocessing_tf.preprocess_photos(tf.constant(data), 40, 32).numpy()
    alone = preprocessing_tf.preprocess_photos(tf.constant(data[1:2]), 40, 32).numpy()
    np.testing.assert_array_equal(together[1:2], alone)


@pytest.mark.slow
def test_a_saved_and_loaded_bundle_predicts_the_same(small_scorer, tmp_path):
    first = bundle.load(small_scorer)
    first.save(tmp_path / "again")
    second = bundle.load(tmp_path / "again")
    photos = [drawn_photo(0.3), drawn_photo(0.8)]
    np.testing.assert_array_equal(first.score(photos), second.score(photos))
    assert (second.settings, second.data_fingerprint, second.history) == (first.settings, "data", {"loss": [0.1]})


def test_loading_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected scorer\.keras and bundle\.json"):
        bundle.load(tmp_path)
