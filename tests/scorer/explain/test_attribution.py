"""Explanations: Grad-CAM, guided backpropagation, gradient ascent, PGD, overlays, and the page that shows them."""

import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.scorer.artifacts import bundle, saved_model
from components.scorer.explain import adversarial, attribution
from components.scorer.explain.overlay import difference_png, gradient_png, overlay, pixels_png
from components.scorer.model import serving_outputs
from components.scorer.parameters import from_parameters
from components.scorer.registry import channels, integrity
from components.scorer.settings import Pretraining, Training
from pipeline.cli.main import main
from tests.conftest import drawn_photo

SCORES = np.arange(1, 11)


def network(activation: str = "relu", pooled: bool = True, dtype: str = "float32") -> keras.Model:
    """Return a small scorer whose predictions differ from photo to photo."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3), dtype=dtype)
    maps = keras.layers.Rescaling(1 / 127.5, -1, dtype=dtype)(pixels)
    for filters in (6, 8):
        maps = keras.layers.Conv2D(filters, 3, strides=2, activation=activation, dtype=dtype)(maps)
    if pooled:
        pooled_features = keras.layers.GlobalAveragePooling2D(name="pooled", dtype=dtype)(maps)
    else:
        pooled_features = keras.layers.Dense(12, "tanh", dtype=dtype)(keras.layers.Flatten(dtype=dtype)(maps))
    dropped = keras.layers.Dropout(0.5, dtype=dtype)(pooled_features)
    initializer = keras.initializers.RandomNormal(stddev=2, seed=1)
    votes = keras.layers.Dense(10, "softmax", kernel_initializer=initializer, name="votes", dtype=dtype)(dropped)
    return keras.Model(pixels, votes)


def pictures(number: int = 3, seed: int = 0) -> np.ndarray:
    """Return random pixels that reach both ends of the range, float32 [number, 32, 32, 3]."""
    return np.random.default_rng(seed).uniform(-40, 295, (number, 32, 32, 3)).clip(0, 255).astype("float32")


def means(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(model(pixels, training=False)) @ SCORES


def features(model: keras.Model) -> keras.KerasTensor:
    """Return the last feature map."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][-1].output


def kernel(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases of the layer `votes`."""
    return tuple(np.asarray(weight, float) for weight in model.get_layer("votes").get_weights())


def logits(model: keras.Model, tail: keras.Model, feature_maps: np.ndarray) -> np.ndarray:
    """Return the logits of the ten scores for feature maps; `tail` computes the input of the last layer."""
    weights, biases = kernel(model)
    return np.asarray(tail(feature_maps, training=False), float) @ weights + biases


def closed(model: keras.Model, pixels: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in serving_outputs.build_cam_model(model)(tf.constant(pixels)).items()}


def scorer_of(model: keras.Model) -> bundle.TrainedScorer:
    return bundle.TrainedScorer(model, from_parameters(Pretraining, start="none", crop=32), Training(scale=40))


# Maps


@pytest.mark.slow
@pytest.mark.parametrize("pooled", [True, False])
def test_grad_cam_agrees_with_finite_differences_of_the_feature_map(pooled):
    """The reference is equations 1 and 2 of Selvaraju et al. with central differences as gradients, in float64."""
    model = network(pooled=pooled, dtype="float64")
    pixels = pictures(1)
    maps = np.asarray(keras.Model(model.input, features(model))(pixels), float)
    tail = keras.Model(features(model), model.get_layer("votes").input)
    _, height, width, depth = maps.shape
    nudges = 1e-4 * np.eye(maps.size).reshape(maps.size, height, width, depth)
    gradient = (logits(model, tail, maps + nudges) - logits(model, tail, maps - nudges)) / 2e-4
    weights = gradient.reshape(height * width, depth, 10).mean(axis=0)
    expected = np.maximum(np.einsum("hwk,kc->hwc", maps[0], weights), 0)
    heatmaps = attribution.heatmaps(model, pixels)
    assert expected.max() > 0.01
    np.testing.assert_allclose(heatmaps[0], expected, atol=1e-6 * expected.max())


@pytest.mark.slow
def test_the_closed_form_equals_grad_cam():
    model, pixels = network(), pictures()
    maps = attribution.heatmaps(model, pixels)
    assert maps.shape == (3, 7, 7, 10)
    assert maps.dtype == np.float32
    assert maps.min() == 0 < maps.max()
    np.testing.assert_allclose(closed(model, pixels)["class_heatmaps"], maps, atol=1e-5 * maps.max())


@pytest.mark.slow
def test_the_closed_form_equals_grad_cam_on_a_trained_scorer(small_scorer):
    scorer = bundle.load(small_scorer)
    pixels = np.concatenate([pictures(2), np.full((1, 32, 32, 3), 90, "float32")])
    heatmaps, expected = closed(scorer.model, pixels)["class_heatmaps"], attribution.heatmaps(scorer.model, pixels)
    assert expected.max() > 0
    np.testing.assert_allclose(heatmaps, expected, atol=1e-4 * expected.max())  # float32 rounding over twenty layers


def test_the_heat_map_is_the_mean_of_the_score_maps_weighted_by_the_predicted_votes():
    outputs = closed(network(), pictures())
    np.testing.assert_allclose(
        outputs["heatmap"],
        attribution.vote_weighted_heatmap(outputs["class_heatmaps"], outputs["distribution"]),
        atol=1e-6,
    )
    single_score_map = attribution.vote_weighted_heatmap(outputs["class_heatmaps"], np.eye(10)[[6, 6, 6]])
    np.testing.assert_allclose(single_score_map, outputs["class_heatmaps"][..., 6])


@pytest.mark.slow
def test_a_gain_is_the_score_lost_by_leaving_a_location_out_of_the_pooling():
    model, pixels = network(dtype="float64"), pictures()
    maps = np.asarray(keras.Model(model.input, features(model))(pixels), float).reshape(3, 49, 8)
    weights, biases = kernel(model)
    expected = np.empty((3, 49))
    for location in range(49):
        logits_without = np.delete(maps, location, axis=1).mean(axis=1) @ weights + biases
        expected[:, location] = means(model, pixels) - np.exp(logits_without) @ SCORES / np.exp(logits_without).sum(
            axis=1
        )
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(closed(model, pixels)["gains"].reshape(3, 49), expected, atol=1e-5)


def test_the_gain_of_a_feature_map_with_one_location_is_zero():
    pixels = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 32)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(10, "softmax")(pooled))
    np.testing.assert_allclose(closed(model, pictures() / 255)["gains"], np.zeros((3, 1, 1)), atol=1e-5)


def test_the_maps_are_largest_where_the_photo_raises_the_score():
    """The score of the network rises with brightness, and the photo is bright at the upper right."""
    pixels = keras.Input((32, 32, 3))
    brightness = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(pixels))
    pooled = keras.layers.GlobalAveragePooling2D()(brightness)
    votes = keras.layers.Dense(10, "softmax")
    model = keras.Model(pixels, votes(pooled))
    votes.set_weights([np.tile(np.linspace(-3, 3, 10), (3, 1)), np.zeros(10)])
    photo = np.full((1, 32, 32, 3), 30, "float32")
    photo[0, :8, 24:] = 250
    outputs = closed(model, photo)
    for map_of_photo in (outputs["gains"][0], outputs["class_heatmaps"][0, ..., 9]):
        assert np.unravel_index(map_of_photo.argmax(), map_of_photo.shape) == (0, 3)
        assert map_of_photo[0, 3] > 3 * np.delete(map_of_photo.ravel(), 3).max()
    assert not outputs["class_heatmaps"][0, ..., 0].any()


@pytest.mark.slow
def test_explaining_in_batches_gives_the_maps_of_the_closed_form():
    scorer = scorer_of(network())
    photos = [drawn_photo(0.2 + 0.2 * number, number) for number in range(3)]
    explained_maps = attribution.explain(scorer, photos, batch_size=2)
    for name, values in closed(scorer.model, scorer.pixels(tf.constant(photos)).numpy()).items():
        np.testing.assert_allclose(explained_maps[name], values, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(explained_maps["mean"], scorer.score(photos) @ SCORES, atol=1e-4)


def test_explaining_an_empty_list_of_photos_is_refused():
    with pytest.raises(ValueError, match="expected at least one photo"):
        attribution.explain(scorer_of(network()), [])


def test_heat_maps_of_a_network_without_feature_maps_are_refused():
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    with pytest.raises(ValueError, match=r"expected a network with feature maps \[n, h, w, c\]"):
        attribution.heatmaps(model, pictures())


def test_a_network_without_a_final_softmax_or_global_average_pooling_is_refused():
    model = network()
    with pytest.raises(ValueError, match="expected a network that ends in a softmax, found pooled"):
        attribution.heatmaps(keras.Model(model.input, model.get_layer("pooled").output), pictures())
    assert not serving_outputs.is_pooled(network(pooled=False))
    with pytest.raises(ValueError, match="expected a network that ends in global average pooling"):
        serving_outputs.build_cam_model(network(pooled=False))


# Guided backpropagation


def rectified(relu: str, units: int, name: str, before: keras.KerasTensor) -> keras.KerasTensor:
    """Return a 1 x 1 convolution with a ReLU, built in the way that `relu` names."""
    if relu == "within":
        return keras.layers.Conv2D(units, 1, activation="relu", name=name)(before)
    convolved = keras.layers.Conv2D(units, 1, name=name)(before)
    if relu == "layer":
        return keras.layers.ReLU()(convolved)
    return keras.layers.ReLU(6.0)(convolved) if relu == "layer of 6" else keras.layers.Activation("relu6")(convolved)


@pytest.mark.slow
@pytest.mark.parametrize("relu", ["within", "layer", "layer of 6", "activation of 6"])
def test_guided_backpropagation_lets_only_positive_gradients_through_active_units(relu):
    keras.utils.set_random_seed(3)
    pixels = keras.Input((4, 4, 3))
    scaled = keras.layers.Rescaling(1 / 12, -10)(pixels)
    second = rectified(relu, 7, "second", rectified(relu, 5, "first", scaled))
    votes = keras.layers.Dense(10, "softmax", name="votes")(keras.layers.GlobalAveragePooling2D()(second))
    model = keras.Model(pixels, votes)
    photo = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    expected = backward(model, photo, 6.0 if "6" in relu else np.inf)
    gradients = attribution.guided_gradients(model, photo)
    assert gradients.shape == (2, 3, 4, 4, 3)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(gradients, expected, atol=1e-4 * np.abs(expected).max())


def backward(model: keras.Model, photo: np.ndarray, limit: float) -> np.ndarray:
    """Compute guided backpropagation by hand (Springenberg et al., section 3.4).

    At each ReLU, R = 1[0 < f < limit] 1[R' > 0] R'.
    """
    (first, first_bias), (second, second_bias) = (model.get_layer(name).get_weights() for name in ("first", "second"))
    first, second = first[0, 0], second[0, 0]
    below = (photo / 12 - 10) @ first + first_bias
    above = below.clip(0, limit) @ second + second_bias
    maps = []
    for score in (8, 9, 10):
        gradient = np.broadcast_to(model.get_layer("votes").get_weights()[0][:, score - 1] / 16, above.shape)
        gradient = np.where((above > 0) & (above < limit), np.maximum(gradient, 0), 0) @ second.T
        maps.append(np.where((below > 0) & (below < limit), np.maximum(gradient, 0), 0) @ first.T / 12)
    return np.stack(maps, axis=1)


@pytest.mark.slow
def test_guided_backpropagation_does_not_change_the_network():
    model, pixels = network(), pictures()
    votes_before = np.asarray(model(pixels))
    perturbed = adversarial.pgd_attack(model, pixels, 2.0, steps=2)
    attribution.guided_gradients(model, pixels)
    np.testing.assert_array_equal(np.asarray(model(pixels)), votes_before)
    np.testing.assert_array_equal(adversarial.pgd_attack(model, pixels, 2.0, steps=2), perturbed)


def test_guided_backpropagation_of_a_network_without_relu_is_refused():
    assert not attribution.has_relu(network("tanh"))
    with pytest.raises(ValueError, match="expected a network with ReLU or ReLU6"):
        attribution.guided_gradients(network("tanh"), pictures())


# Gradient ascent


def test_gradient_ascent_records_the_score_of_each_step_and_raises_it():
    model, pixels = network(), pictures()
    enhanced = adversarial.gradient_ascent(model, pixels, steps=30)
    assert enhanced.means.shape == (31, 3)
    np.testing.assert_allclose(enhanced.before, means(model, pixels), atol=1e-3)
    np.testing.assert_allclose(enhanced.after, means(model, enhanced.pixels), atol=1e-3)
    assert (enhanced.after > enhanced.before + 0.01).all()
    assert enhanced.pixels.min() >= 0
    assert enhanced.pixels.max() <= 255


def test_a_step_of_gradient_ascent_follows_the_gradient_of_the_mean_score():
    """The gradient is estimated by central differences at twelve pixels of a smooth network."""
    model, pixels = network("softplus", dtype="float64"), np.full((1, 32, 32, 3), 128, "float32")
    pixels += np.random.default_rng(0).uniform(-60, 60, pixels.shape).astype("float32")
    step = adversarial.gradient_ascent(model, pixels, steps=1, rate=1.0).pixels - pixels
    locations = [tuple(location) for location in np.random.default_rng(1).integers((31, 31, 3), size=(12, 3))]
    nudges = np.zeros((12, 32, 32, 3))
    for number, location in enumerate(locations):
        nudges[(number, *location)] = 0.5
    gradient = means(model, pixels + nudges) - means(model, pixels - nudges)
    moved = np.array([step[(0, *location)] for location in locations])
    size = (moved @ gradient) / (gradient @ gradient)
    assert size > 0
    np.testing.assert_allclose(moved, size * gradient, atol=1e-3 * np.abs(moved).max())
    assert np.sqrt(np.mean(step**2)) == pytest.approx(1, abs=1e-3)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="expected a rate and a number of steps"):
        adversarial.gradient_ascent(network(), pictures(1), steps=-1)


# PGD


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.5, 2.0, 300.0])
def test_pgd_raises_the_score_within_its_budget_and_the_range_of_pixels(budget):
    model, pixels = network(), pictures()
    changed = adversarial.pgd_attack(model, pixels, budget, steps=20)
    assert (means(model, changed) > means(model, pixels) + 0.001).all()
    assert np.abs(changed - pixels).max() <= budget + 1e-4
    assert changed.min() >= 0
    assert changed.max() <= 255


@pytest.mark.slow
def test_pgd_is_deterministic():
    model, pixels = network(), pictures()
    perturbed = adversarial.pgd_attack(model, pixels, 2.0, steps=10)
    np.testing.assert_array_equal(perturbed, adversarial.pgd_attack(model, pixels, 2.0, steps=10))


@pytest.mark.slow
def test_pgd_on_a_photo_does_not_depend_on_the_rest_of_the_batch():
    model, pixels = network(), pictures(19)
    together = adversarial.pgd_attack(model, pixels, 2.0, steps=5)
    np.testing.assert_allclose(
        means(model, together)[-1:], means(model, adversarial.pgd_attack(model, pixels[-1:], 2.0, 5)), atol=1e-3
    )


def test_pgd_with_a_budget_of_zero_changes_nothing():
    pixels = pictures()
    np.testing.assert_array_equal(adversarial.pgd_attack(network(), pixels, 0.0, steps=3), pixels)


@pytest.mark.slow
def test_a_larger_budget_raises_the_score_more():
    model, pixels = network(), pictures()
    small, large = (means(model, adversarial.pgd_attack(model, pixels, budget, steps=20)) for budget in (1.0, 8.0))
    assert (large > small).all()


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="expected a budget"):
        adversarial.pgd_attack(network(), pictures(1), -1.0)


def test_pgd_on_an_empty_batch_returns_an_empty_batch():
    assert adversarial.pgd_attack(network(), pictures(0), 2.0, steps=2).shape == (0, 32, 32, 3)


# Pictures


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)


def colour(pixels: np.ndarray) -> np.ndarray:
    """Return the range over the channels of each pixel; 0 is grey."""
    return np.ptp(pixels, axis=-1)


PHOTO = drawn_photo(0.5, size=(200, 300))


def test_an_overlay_has_the_size_of_the_photo_and_colours_only_the_visible_fraction():
    drawn = opened(overlay(PHOTO, np.ones((5, 5)), visible_fraction=0.8))
    assert drawn.shape == (300, 200, 3)
    assert colour(drawn[34:266, 24:176]).min() > 30
    outside = np.ones((300, 200), bool)
    outside[26:274, 16:184] = False
    assert colour(drawn)[outside].max() < 20


def test_the_overlay_is_yellow_at_the_largest_value_and_purple_at_zero():
    heat = np.zeros((4, 4))
    heat[3, 0] = 7
    drawn = opened(overlay(PHOTO, heat))
    hot, cold = drawn[290, 10], drawn[10, 190]
    assert hot[0] > hot[2] + 80, "viridis ends in yellow"
    assert cold[2] > cold[1] + 20, "and begins in purple"
    np.testing.assert_allclose(drawn, opened(overlay(PHOTO, heat / 100)), atol=2)


def test_overlays_with_the_same_max_value_share_a_colour_scale():
    weak, strong = (opened(overlay(PHOTO, np.full((3, 3), value), max_value=1.0)) for value in (0.2, 1.0))
    assert strong[..., 1].mean() > weak[..., 1].mean() + 20


def test_a_signed_overlay_draws_gains_orange_losses_purple_and_zero_grey():
    signed = np.zeros((3, 3))
    signed[0, 0], signed[2, 2] = 1, -1
    drawn = opened(overlay(PHOTO, signed, signed=True))
    gain, loss, middle = drawn[20, 20], drawn[280, 180], drawn[280, 20]
    assert gain[0] > gain[1] > gain[2]
    assert loss[2] > loss[0] > loss[1]
    assert np.ptp(middle) < 15


def test_a_signed_map_of_zeros_can_be_drawn():
    assert opened(overlay(PHOTO, np.zeros((1, 1)), signed=True)).shape == (300, 200, 3)


def test_an_overlay_of_several_maps_is_refused():
    with pytest.raises(ValueError, match=r"expected a map \[h, w\], got shape \(2, 3, 3\)"):
        overlay(PHOTO, np.zeros((2, 3, 3)))


def test_the_png_of_pixels_is_lossless():
    pixels = pictures(1)[0].round()
    np.testing.assert_array_equal(opened(pixels_png(pixels)), pixels)
    assert opened(pixels_png(pixels, (20, 30))).shape == (30, 20, 3)


def test_the_png_of_a_gradient_is_bright_where_the_gradient_is_large():
    gradient = np.full((16, 16, 3), 1e-6)
    gradient[2:8, 3] = -1e-3
    drawn = opened(gradient_png(gradient))
    assert drawn[4, 3, 0] == 255
    assert drawn[12, 12, 0] < 2


def test_the_png_of_a_difference_is_grey_where_nothing_changed():
    before, after = np.full((4, 4, 3), 100.0), np.full((4, 4, 3), 100.0)
    after[1, 1] += (2, 0, -3)
    drawn = opened(difference_png(before, after, 20))
    np.testing.assert_array_equal(drawn[1, 1], (168, 128, 68))
    np.testing.assert_array_equal(drawn[0, 0], (128, 128, 128))


# The command


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Path:
    """Return a bundle whose feature maps are 7 x 7."""
    folder = tmp_path_factory.mktemp("scorer")
    scorer_of(network()).save(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, scorer) -> Path:
    """Return a folder of models whose champion is version 3."""
    folder = tmp_path_factory.mktemp("models")
    saved_model.export(bundle.load(scorer), folder / "portraits" / "3")
    bundle.load(scorer).save(folder / "portraits" / "3" / "bundle")
    integrity.write_record(folder / "portraits" / "3", {})
    channels.promote_pushed(str(folder), "portraits", 3)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Return the paths of two photos of the same name; the second has an EXIF rotation."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    paths = [folder / "a <b>.jpg", folder / "more" / "a <b>.jpg"]
    for number, path in enumerate(paths):
        path.write_bytes(drawn_photo(0.3 + 0.4 * number, number, size=(90, 120)))
    exif = Image.Exif()
    exif[274] = 6
    Image.open(paths[1]).save(paths[1], exif=exif, quality=92)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def explained(models, photos, tmp_path_factory) -> Path:
    """Return the folder that the command wrote."""
    out = tmp_path_factory.mktemp("out") / "new"
    assert main(["explain", str(models), *photos, "--out", str(out), "--steps", "5"]) == 0
    return out


@pytest.mark.slow
def test_the_page_shows_all_maps_of_each_photo_and_loads_no_other_file(explained):
    html = (explained / "index.html").read_text()
    assert len(re.findall("<img ", html)) == 2 * (3 + 10 + 3 + 3)
    assert len(re.findall("<svg ", html)) == 2 * 2
    assert "a &lt;b&gt;.jpg" in html
    assert "<b>" not in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)


@pytest.mark.slow
def test_the_page_shows_the_scores_before_and_after_and_says_that_it_is_no_advice(explained, models, photos):
    html = (explained / "index.html").read_text()
    data = [Path(photos[0]).read_bytes()]
    mean = float(saved_model.load(f"{models}/portraits/3").predict(data)["mean"][0])
    assert f"Score {mean:.2f};" in html
    scores = re.search(r"the photo scores ([\d.]+) instead of ([\d.]+)", html)
    assert float(scores[1]) > float(scores[2]) == pytest.approx(mean, abs=0.02)
    assert "This is no advice" in html
    assert "version 3" in html


@pytest.mark.slow
def test_the_pictures_are_written_in_one_folder_per_photo_beside_the_page(explained):
    names = {"photo.jpg", "heat.jpg", "gains.jpg", "before.png", "after.png", "change.png"}
    names |= {f"score-{score}.jpg" for score in SCORES} | {f"details-{score}.png" for score in (8, 9, 10)}
    folders = sorted(path for path in explained.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["01-a <b>", "02-a <b>"]
    assert {path.name for path in folders[1].iterdir()} == names
    assert Image.open(folders[0] / "heat.jpg").size == (90, 120)
    assert Image.open(folders[1] / "heat.jpg").size == (120, 90), "photos are set upright first"


@pytest.mark.slow
def test_the_command_accepts_an_unpublished_bundle(scorer, photos, tmp_path):
    assert main(["explain", str(scorer), photos[0], "--out", str(tmp_path), "--steps", "1"]) == 0
    assert (tmp_path / "index.html").exists()


@pytest.mark.slow
def test_the_page_of_a_network_without_relu_has_no_maps_of_details(tmp_path, photos):
    scorer_of(network("tanh")).save(tmp_path / "scorer")
    assert main(["explain", str(tmp_path / "scorer"), photos[0], "--out", str(tmp_path), "--steps", "1"]) == 0
    html = (tmp_path / "index.html").read_text()
    assert "No map of details" in html
    assert len(re.findall("<img ", html)) == 3 + 10 + 3


@pytest.mark.slow
def test_a_failed_explanation_prints_one_line_and_writes_nothing(models, photos, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(Path(photos[0]).read_bytes()[:300])
    out, without_bundle = tmp_path / "out", tmp_path / "old"
    saved_model.export(bundle.load(f"{models}/portraits/3/bundle"), without_bundle / "1")
    integrity.write_record(without_bundle / "1", {})
    for model, photo_paths, steps, message in [
        (models, [photos[0], str(tmp_path / "broken.jpg")], "5", "photo 2 cannot be used: unreadable"),
        (models, [str(tmp_path / "none.jpg")], "5", "none.jpg"),
        (tmp_path / "nowhere", photos, "5", "expected a published version"),
        (without_bundle / "1", photos, "5", "expected the bundle of a published version"),
        (models, photos, "0", "expected at least 1 step, got 0"),
        (models, photos[:1] * 21, "5", "expected 1 to 20 photos"),
    ]:
        assert main(["explain", str(model), *photo_paths, "--out", str(out), "--steps", steps]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert len(printed.splitlines()) == 1
        assert not out.exists()
