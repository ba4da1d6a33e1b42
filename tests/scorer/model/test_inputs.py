"""Face inputs of the scorer: the face view, the embedding and its PCA, the missing-face token, and the bundle."""

import io
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from components.evaluation.checks import slices
from components.evaluation.checks.predictions import predict
from components.ingestion import tfds_writer
from components.push.model_card import build_card
from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.explain import adversarial, attribution
from components.scorer.faces import analyzer, geometry, weight_files
from components.scorer.fit.checkpoints import CheckpointStore
from components.scorer.model import inputs as seeing
from components.scorer.model import serving_outputs
from components.scorer.model.auxiliary_heads import attach_heads
from components.scorer.model.encoder import BackboneScaling
from components.scorer.model.inputs import ModelInputs, order_inputs, set_pca_weights
from components.scorer.model.network import build_scorer
from components.scorer.model.surgery import with_precision
from components.scorer.parameters import from_parameters
from components.scorer.settings import SCORES, Evaluation, Faces, Pretraining, Training
from components.training.examples import targets
from components.training.heads.pca import principal_components
from components.training.train import train
from tests.builders import designed_faces
from tests.builders.model_cards import FACTS, readable
from tests.conftest import drawn_photo, light_encoder, votes_around

SIZE = 6
"""Embedding dimension."""

BOTH = ModelInputs(view=True, embedding_size=SIZE, n_components=3)
SHORT = {"head_epochs": 10, "head_learning_rate": 0.1}
"""Training settings that are enough to learn these scores."""

WITHOUT_A_FACE = 2.5
"""Mean score of photos without a face."""

# Networks


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    """Return a tiny backbone: pixel scaling, convolution, batch norm and ReLU."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3), name="pixels")
    convolved = keras.layers.Conv2D(5, 4, strides=8, name="convolved")(BackboneScaling("tf", name="scaling")(pixels))
    normed = keras.layers.BatchNormalization(name="normed")(convolved)
    return keras.Model(pixels, keras.layers.ReLU(name="rectified")(normed), name="encoder")


@pytest.fixture(scope="module")
def scorer(encoder) -> keras.Model:
    """Return an untrained scorer with all face inputs."""
    model = build_scorer(encoder, 0.5, BOTH)
    set_pca_weights(model, principal_components(given(40)["embedding"], BOTH.n_components))
    return model


def given(number: int) -> dict[str, np.ndarray]:
    """Return the model inputs of noise photos; every third photo has no face."""
    rng = np.random.default_rng(number)
    pixels, face = rng.uniform(0, 255, (2, number, 32, 32, 3)).astype("float32")
    embedding = rng.normal(3, np.arange(1, SIZE + 1), (number, SIZE)).astype("float32")
    return {"pixels": pixels, "face": face, "embedding": embedding, "found": (np.arange(number) % 3 > 0).astype("f4")}


def asked(model: keras.Model, taken: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(model(order_inputs(model, taken), training=False))


def test_the_inputs_of_a_scorer_have_fixed_names_and_a_fixed_order(scorer):
    assert (
        [model_input.name for model_input in scorer.inputs]
        == ["pixels", "face", "embedding", "found"]
        == [*BOTH.input_names]
    )
    assert seeing.infer_inputs(scorer) == BOTH


def test_a_scorer_without_face_inputs_has_no_face_layers(encoder):
    photo_scorer = build_scorer(encoder, 0.5)
    assert [layer.name for layer in photo_scorer.layers[-3:]] == ["pooled", "dropout", "votes"]
    assert [*map(id, photo_scorer.weights[:-2])] == [*map(id, encoder.weights)]
    assert not isinstance(photo_scorer.input, list)


def test_photo_and_face_view_share_the_encoder_weights(encoder, scorer):
    added_layers = {layer.name for layer in scorer.layers} - {layer.name for layer in encoder.layers}
    assert added_layers == {
        "face", "embedding", "found", "pooled", "pooled_face", "embedding_pca", "missing_face_token", "features",
        "dropout", "votes",
    }  # fmt: skip
    assert len(scorer.weights) == len(encoder.weights) + 5
    pooled = keras.Model(scorer.inputs, [scorer.get_layer(name).output for name in ("pooled", "pooled_face")])
    model_inputs = given(2)
    photo_features, face_features = pooled(order_inputs(scorer, model_inputs | {"face": model_inputs["pixels"]}))
    np.testing.assert_allclose(photo_features, face_features, atol=1e-6)


def test_the_embedding_changes_the_votes_only_if_a_face_was_found(scorer):
    model_inputs = given(6)
    changes = np.abs(
        asked(scorer, model_inputs) - asked(scorer, model_inputs | {"embedding": -model_inputs["embedding"]})
    ).max(axis=1)
    assert (changes[model_inputs["found"] == 1] > 1e-6).all()
    assert (changes[model_inputs["found"] == 0] == 0).all()


def test_a_saved_and_loaded_scorer_with_face_inputs_predicts_the_same(scorer, tmp_path):
    scorer.save(tmp_path / "scorer.keras")
    np.testing.assert_array_equal(
        asked(keras.saving.load_model(tmp_path / "scorer.keras"), given(4)), asked(scorer, given(4))
    )


def test_mixed_precision_keeps_the_embedding_layers_in_float32(scorer):
    mixed = with_precision(scorer, "mixed_bfloat16")
    assert mixed.get_layer("convolved").compute_dtype == "bfloat16"
    assert {mixed.get_layer(name).compute_dtype for name in ("embedding_pca", "missing_face_token", "features")} == {
        "float32"
    }
    model_inputs = given(3)
    np.testing.assert_allclose(asked(mixed, model_inputs), asked(scorer, model_inputs), atol=0.02)
    np.testing.assert_array_equal(asked(with_precision(mixed, "float32"), model_inputs), asked(scorer, model_inputs))


@pytest.mark.slow
def test_closed_form_maps_equal_grad_cam_with_fixed_face_inputs(scorer):
    model_inputs = given(3)
    pixels, face_inputs = attribution.split_pixels(model_inputs)
    outputs = serving_outputs.build_cam_model(scorer)(order_inputs(scorer, model_inputs))
    np.testing.assert_allclose(outputs["class_heatmaps"], attribution.heatmaps(scorer, pixels, face_inputs), atol=1e-6)


@pytest.mark.slow
def test_pgd_changes_the_pixels_and_not_the_face_inputs(scorer):
    pixels, face_inputs = attribution.split_pixels(given(2))
    before = {name: values.copy() for name, values in face_inputs.items()}
    perturbed = adversarial.pgd_attack(scorer, pixels, 2.0, 3, face_inputs)
    means = [
        asked(scorer, {"pixels": photo_pixels, **face_inputs}) @ np.array(SCORES)
        for photo_pixels in (pixels, perturbed)
    ]
    assert (means[1] >= means[0]).all()
    assert (perturbed != pixels).any()
    for name, values in face_inputs.items():
        np.testing.assert_array_equal(values, before[name])


# Principal components


def test_pca_diagonalises_the_correlations_of_the_embeddings():
    embeddings = given(200)["embedding"] @ np.random.default_rng(3).normal(size=(SIZE, SIZE))
    mean, axes = principal_components(embeddings, SIZE)
    projected = (embeddings - mean) @ axes
    variances = np.linalg.eigvalsh(np.corrcoef(embeddings.T))[::-1]
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.diag(variances / variances.sum()), atol=1e-4)
    assert np.square(projected).sum(1).mean() == pytest.approx(1, abs=1e-4)


def test_pca_keeps_the_requested_number_of_axes_with_positive_largest_entries():
    axes = principal_components(given(50)["embedding"], 4).axes
    assert axes.shape == (SIZE, 4)
    assert (axes[np.abs(axes).argmax(0), range(4)] > 0).all()


def test_pca_ignores_a_constant_entry_of_the_embeddings():
    embeddings = given(50)["embedding"]
    embeddings[:, 2] = 7
    axes = principal_components(embeddings, SIZE).axes
    assert axes.shape == (SIZE, SIZE - 1)
    assert (axes[2] == 0).all()


@pytest.mark.parametrize("faces_there", [0, 1])
def test_pca_of_fewer_than_two_faces_is_none(faces_there):
    assert principal_components(np.ones((faces_there, SIZE)), 3) is None


def test_pca_keeps_fewer_components_than_there_are_faces():
    assert principal_components(given(4)["embedding"], SIZE).axes.shape == (SIZE, 3)


# Training


def photo_with_a_face(number: int, light: float) -> tuple[bytes, np.ndarray]:
    """Return a JPEG of random brightness with a square face of brightness `light`, and the landmarks of the face."""
    rng = np.random.default_rng(number)
    image = np.array(Image.open(io.BytesIO(drawn_photo(rng.uniform(0.1, 0.9), number))))
    side, (x, y) = 24, rng.integers(0, (24, 40))
    image[y : y + side, x : x + side] = round(255 * light)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=95)
    return data.getvalue(), (geometry.TEMPLATE / 112 * side + (x, y)) / (48, 64)


def record(number: int, by: str) -> dict:
    """Return a record whose score depends only on the face embedding, or only on the brightness of the face.

    With `by="embedding"`, every fourth photo has no face and a low score. The embedding determines sunglasses, too.
    """
    rng = np.random.default_rng(1000 + number)
    has_face = by == "light" or number % 4 > 0
    embedding, light = rng.normal(3, np.arange(1, SIZE + 1)), rng.uniform(0.05, 0.95)
    data, landmarks = photo_with_a_face(number, light)
    signal = (embedding[1] - 3) / 2 if by == "embedding" else (light - 0.5) / 0.26
    return {
        "photo": data,
        "photo_id": f"{number:04d}.jpg",
        "votes": votes_around(float(np.clip(5.5 + 1.5 * signal, 1, 10)) if has_face else WITHOUT_A_FACE),
        "raters": 12,
        "group": f"group-{number}",
        "attributes": {
            "job": ("carer", "tutor")[number % 2],
            "sunglasses": ("yes" if embedding[4] > 3 else "no") if has_face else "",
        },
        "embedding": has_face * embedding.astype("float32"),
        "face": {
            "count": np.int32(has_face * (1 + (number % 8 == 1))),
            "confidence": np.float32(has_face * (0.8 if number % 8 == 3 else 0.95)),
            "box": np.zeros(4, "float32"),
            "landmarks": has_face * landmarks.astype("float32"),
        },
    }


def write(folder: Path, by: str, **sizes: int) -> Path:
    weights = folder.with_name(f"{folder.name} weights")
    weights.mkdir(parents=True)
    (weights / "faces.json").write_text(json.dumps({"size": SIZE, "scales": [1]}))
    (weights / "detector.onnx").write_bytes(designed_faces.detector())
    (weights / "embedder.onnx").write_bytes(b"the records hold what it would say")
    numbers = iter(range(10_000))
    splits = {name: [[record(next(numbers), by) for _ in range(size)]] for name, size in sizes.items()}
    tfds_writer.write(folder, splits, ["job", "sunglasses"], face_weights=weights)
    return folder


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("embedded") / "dataset", "embedding", train=120, validation=40, test=60)


@pytest.fixture(scope="module")
def lit(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("lit") / "dataset", "light", train=120, validation=40, test=60)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Return an encoder whose features are light, dark and medium."""
    return light_encoder(tmp_path_factory.mktemp("start"))


def trained(dataset: Path, start: Path, folder: Path, **changes) -> bundle.TrainedScorer:
    defaults = {"scale": 36, "head_epochs": 25, "epochs": 0, "dropout": 0.0, "batch_size": 8, "camera_faults": 0.0}
    defaults |= {"fitting": "gradient", "face_view": False}
    settings = from_parameters(Training, **{**defaults, "head_learning_rate": 0.05, **changes})
    options = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    train(dataset, start, folder / "scorer", folder / "report.html", settings=settings, **options)
    return bundle.load(folder / "scorer")


def means(scorer: bundle.TrainedScorer, dataset: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean scores of the scorer and of people on the test split."""
    view = photos.FaceCropSpec(32, scorer.training.face_view_scale) if scorer.model_inputs.view else None
    options = {
        "scale": 36,
        "crop": 32,
        "batch_size": 60,
        "view": view,
        "example": targets.with_votes(scorer.model_inputs),
    }
    ((model_inputs, truth),) = photos.batches(dataset, "test", **options)
    model_inputs = model_inputs if isinstance(model_inputs, dict) else {"pixels": model_inputs}
    return asked(scorer.model, model_inputs) @ np.array(SCORES), truth.numpy() @ np.array(SCORES)


@pytest.fixture(scope="module")
def reading(embedded, start, tmp_path_factory) -> bundle.TrainedScorer:
    return trained(embedded, start, tmp_path_factory.mktemp("reading"), **SHORT, epochs=1)


@pytest.mark.slow
def test_a_scorer_learns_scores_that_depend_on_the_embedding_alone(reading, embedded):
    has_face = np.arange(60) % 4 > 0
    scores, truth = means(reading, embedded)
    assert spearmanr(scores[has_face], truth[has_face]).statistic > 0.9


@pytest.fixture(scope="module")
def unread(embedded, start, tmp_path_factory) -> bundle.TrainedScorer:
    return trained(embedded, start, tmp_path_factory.mktemp("unread"), **SHORT, embedding_size=0)


@pytest.mark.slow
def test_a_scorer_without_embeddings_does_not_learn_scores_that_depend_on_them(unread, embedded):
    has_face = np.arange(60) % 4 > 0
    scores, truth = means(unread, embedded)
    assert abs(spearmanr(scores[has_face], truth[has_face]).statistic) < 0.4


@pytest.mark.slow
def test_a_bundle_contains_the_embedder_only_if_the_scorer_takes_embeddings(reading, unread):
    assert {*reading.faces} == {"faces.json", "detector.onnx", "embedder.onnx"}
    assert {*unread.faces} == {"faces.json", "detector.onnx"}


@pytest.mark.slow
def test_the_missing_face_token_is_learnt(reading, embedded):
    missing = np.arange(60) % 4 == 0
    assert np.abs(reading.model.get_layer("missing_face_token").get_weights()[0]).max() > 0.1
    assert np.abs(means(reading, embedded)[0][missing] - WITHOUT_A_FACE).max() < 1


@pytest.mark.slow
def test_pca_is_fitted_on_the_faces_of_the_training_split(reading, embedded):
    with_face = [record for record in photos.records(embedded, "train") if record["face"]["count"]]
    expected = principal_components(np.stack([record["embedding"] for record in with_face]), 512)
    for weights, values in zip(reading.model.get_layer("embedding_pca").get_weights(), expected, strict=True):
        np.testing.assert_allclose(weights, values, atol=1e-6)


@pytest.fixture(scope="module")
def blind(lit, start, tmp_path_factory) -> bundle.TrainedScorer:
    """Return a scorer without a face view, trained on scores that depend on the brightness of the face."""
    return trained(lit, start, tmp_path_factory.mktemp("blind"), **SHORT, embedding_size=4)


@pytest.mark.slow
def test_a_scorer_learns_scores_that_depend_on_the_face_view_alone(lit, start, tmp_path):
    scorer = trained(lit, start, tmp_path, **SHORT, face_view=True, face_view_scale=1.2, embedding_size=0)
    assert scorer.model_inputs == ModelInputs(view=True)
    assert spearmanr(*means(scorer, lit)).statistic > 0.9


@pytest.mark.slow
def test_a_scorer_without_a_face_view_does_not_learn_scores_that_depend_on_it(lit, blind):
    assert abs(spearmanr(*means(blind, lit)).statistic) < 0.4


@pytest.mark.slow
def test_the_missing_face_token_stays_zero_if_every_photo_has_a_face(blind):
    (token,) = blind.model.get_layer("missing_face_token").get_weights()
    np.testing.assert_array_equal(token, np.zeros(4))


@pytest.mark.slow
def test_training_on_data_without_faces_makes_no_face_view(small_dataset, start, tmp_path):
    assert not trained(small_dataset, start, tmp_path, face_view=True).model_inputs.view


@pytest.mark.slow
def test_attribute_heads_use_the_face_inputs(reading, embedded):
    with_face = [record for record in photos.records(embedded, "test") if record["face"]["count"]]
    model_inputs = {
        "pixels": np.zeros((len(with_face), 32, 32, 3), "float32"),
        "embedding": np.stack([record["embedding"] for record in with_face]),
        "found": np.ones(len(with_face), "float32"),
        "job": np.zeros(len(with_face), "int32"),
    }
    outputs = attach_heads(reading.model, reading.heads)(model_inputs)
    has_sunglasses = np.array([record["attributes"]["sunglasses"] == "yes" for record in with_face])
    assert reading.attributes == ("sunglasses",)
    assert ((np.asarray(outputs["attributes"])[:, 0] > 0.5) == has_sunglasses).mean() > 0.75
    np.testing.assert_allclose(outputs["votes"], asked(reading.model, model_inputs), atol=1e-6)


@pytest.mark.slow
def test_an_interrupted_training_with_a_face_view_resumes_with_the_same_losses(lit, start, tmp_path, monkeypatch):
    settings = {"head_epochs": 0, "epochs": 2, "face_view": True}
    save, histories = CheckpointStore.save, []

    def interrupted_save(
        store: CheckpointStore, model: keras.Model, epoch: int, history: dict, keep: set[int], **options
    ) -> None:
        if store.uri.endswith("all") and epoch == 2:
            histories.append(history)
            raise KeyboardInterrupt
        save(store, model, epoch, history, keep, **options)

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "save", interrupted_save)
        with pytest.raises(KeyboardInterrupt):
            trained(lit, start, tmp_path, **settings)
    resumed_history = trained(lit, start, tmp_path, **settings).history
    np.testing.assert_allclose(resumed_history["loss"], histories[0]["loss"], rtol=1e-4)
    np.testing.assert_allclose(resumed_history["val_loss"], histories[0]["val_loss"], rtol=1e-4)


@pytest.mark.slow
def test_a_scorer_trained_in_mixed_precision_is_saved_in_float32(lit, start, tmp_path):
    scorer = trained(lit, start, tmp_path, head_epochs=0, epochs=1, face_view=True, mixed_precision=True)
    assert {layer.compute_dtype for layer in scorer.model.layers} == {"float32"}
    assert np.isfinite(means(scorer, lit)[0]).all()


# The bundle


@pytest.fixture(scope="module")
def faced(encoder, tmp_path_factory) -> bundle.TrainedScorer:
    """Return a bundle with the designed detector and embedder, saved and loaded again."""
    folder = tmp_path_factory.mktemp("faced")
    weights = folder / "data" / "faces"
    weights.mkdir(parents=True)
    weight_files.prepare(Faces(**designed_faces.write(folder)), weights)
    model = build_scorer(encoder, 0.5, replace(BOTH, embedding_size=designed_faces.READ))
    embeddings = np.random.default_rng(1).normal(0, 20, (30, designed_faces.READ))
    set_pca_weights(model, principal_components(embeddings, BOTH.n_components))
    face_files = bundle.load_face_files(folder / "data")
    pretraining, training = from_parameters(Pretraining, start="none", crop=32), Training(scale=40)
    bundle.TrainedScorer(model, pretraining, training, faces=face_files).save(folder / "scorer")
    return bundle.load(folder / "scorer")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Return two photos with a face and one without."""
    without_faces = [drawn_photo(0.5, number, (96, 128)) for number in range(3)]
    return [
        designed_faces.marked(without_faces[0], (0.5, 0.5)),
        designed_faces.marked(without_faces[1], (0.4, 0.6)),
        without_faces[2],
    ]


@pytest.mark.slow
def test_a_bundle_computes_the_face_inputs_of_photos(faced, pictures):
    analyses = faced.face_analyzer.analyze_all([Image.open(io.BytesIO(photo)) for photo in pictures])
    model_inputs = faced.build_inputs(pictures)
    assert model_inputs["found"].numpy().tolist() == [1, 1, 0]
    np.testing.assert_array_equal(model_inputs["embedding"], [analysis.embedding for analysis in analyses])
    np.testing.assert_allclose(faced.score(pictures), asked(faced.model, model_inputs), atol=1e-6)


@pytest.mark.slow
def test_a_bundle_builds_the_same_inputs_from_photos_as_training_from_records(faced, pictures, tmp_path):
    analyses = faced.face_analyzer.analyze_all([Image.open(io.BytesIO(photo)) for photo in pictures])
    records = [
        {**record(number, "light"), "photo": photo, **analyzer.to_features(analysis)}
        for number, (photo, analysis) in enumerate(zip(pictures, analyses, strict=True))
    ]
    weights = tmp_path / "weights"
    weights.mkdir()
    for name, data in faced.faces.items():
        (weights / name).write_bytes(data)
    tfds_writer.write(tmp_path / "dataset", {"test": [records]}, ["job", "sunglasses"], face_weights=weights)
    view = photos.FaceCropSpec(32, faced.training.face_view_scale)
    options = {
        "scale": 40,
        "crop": 32,
        "batch_size": 3,
        "view": view,
        "example": targets.with_votes(faced.model_inputs),
    }
    ((model_inputs, _),) = photos.batches(tmp_path / "dataset", "test", **options)
    for name, values in faced.build_inputs(pictures).items():
        np.testing.assert_allclose(model_inputs[name], values, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_the_face_summary_of_a_bundle_names_digests_and_components(faced):
    digests = json.loads(faced.faces["faces.json"])["sha256"]
    assert digests["detector"] in faced.face_summary
    assert digests["embedder"] in faced.face_summary
    assert f"{designed_faces.READ} numbers for it, of which 3 principal components are read" in faced.face_summary


@pytest.mark.slow
def test_the_model_card_contains_the_face_summary(faced):
    card = build_card(replace(FACTS, faces=faced.face_summary))
    for text in (readable(card.markdown), readable(card.html)):
        assert faced.face_summary in text


@pytest.mark.slow
def test_a_bundle_without_its_face_files_refuses_to_score(faced, pictures):
    with pytest.raises(
        ValueError, match=f"reads embeddings of {designed_faces.READ} for each face, and its .* gives none"
    ):
        replace(faced, faces={}).score(pictures)


# The evaluation


@pytest.mark.slow
def test_the_evaluation_slices_photos_by_number_of_faces_and_detector_confidence(embedded):
    class Eye:
        def score(self, photos: list[bytes]) -> np.ndarray:
            return np.random.default_rng(1).dirichlet(np.ones(10), len(photos))

    predictions = predict(lambda: photos.records(embedded, "test"), Eye(), 60)
    measured = slices.measure_slices(predictions, from_parameters(Evaluation, bootstrap=20)).slices
    assert {(part.attribute, part.value): part.photos for part in measured if part.attribute.startswith("face")} == {
        ("faces", "none"): 15, ("faces", "one"): 37, ("faces", "several"): 8,
        ("face confidence", "no face"): 15, ("face confidence", "high"): 37, ("face confidence", "low"): 8,
    }  # fmt: skip
    assert {"face_count", "face_confidence"} <= {*predictions.to_table()}
