"""Faces in the scorer: what is seen of them counts, photos without one are photos too, and without all is as it was."""

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
"""Numbers of an embedding."""

BOTH = ModelInputs(view=True, embedding_size=SIZE, n_components=3)
SHORT = {"head_epochs": 10, "head_learning_rate": 0.1}
"""Enough for what these photos tell."""

WITHOUT_A_FACE = 2.5
"""How people rate photos without a face."""

# Networks


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    """A tiny network with all that a backbone has: a scaling, a convolution, a batch norm and a ReLU."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3), name="pixels")
    convolved = keras.layers.Conv2D(5, 4, strides=8, name="convolved")(BackboneScaling("tf", name="scaling")(pixels))
    normed = keras.layers.BatchNormalization(name="normed")(convolved)
    return keras.Model(pixels, keras.layers.ReLU(name="rectified")(normed), name="encoder")


@pytest.fixture(scope="module")
def scorer(encoder) -> keras.Model:
    """It sees all there is to see, and was never trained."""
    model = build_scorer(encoder, 0.5, BOTH)
    set_pca_weights(model, principal_components(given(40)["embedding"], BOTH.n_components))
    return model


def given(number: int) -> dict[str, np.ndarray]:
    """What a scorer takes of photos of noise; every third has no face."""
    rng = np.random.default_rng(number)
    pixels, face = rng.uniform(0, 255, (2, number, 32, 32, 3)).astype("float32")
    embedding = rng.normal(3, np.arange(1, SIZE + 1), (number, SIZE)).astype("float32")
    return {"pixels": pixels, "face": face, "embedding": embedding, "found": (np.arange(number) % 3 > 0).astype("f4")}


def asked(model: keras.Model, taken: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(model(order_inputs(model, taken), training=False))


def test_a_scorer_takes_what_it_sees_by_name_in_a_fixed_order(scorer):
    assert [each.name for each in scorer.inputs] == ["pixels", "face", "embedding", "found"] == [*BOTH.input_names]
    assert seeing.infer_inputs(scorer) == BOTH


def test_a_scorer_that_sees_no_face_has_the_layers_and_weights_that_it_always_had(encoder):
    plain = build_scorer(encoder, 0.5)
    assert [layer.name for layer in plain.layers[-3:]] == ["pooled", "dropout", "votes"]
    assert [*map(id, plain.weights[:-2])] == [*map(id, encoder.weights)]
    assert not isinstance(plain.input, list)


def test_both_views_go_through_the_same_weights(encoder, scorer):
    own = {layer.name for layer in scorer.layers} - {layer.name for layer in encoder.layers}
    assert own == {
        "face", "embedding", "found", "pooled", "pooled_face", "embedding_pca", "missing_face_token", "features",
        "dropout", "votes",
    }  # fmt: skip
    assert len(scorer.weights) == len(encoder.weights) + 5
    pooled = keras.Model(scorer.inputs, [scorer.get_layer(name).output for name in ("pooled", "pooled_face")])
    taken = given(2)
    one, other = pooled(order_inputs(scorer, taken | {"face": taken["pixels"]}))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_embedding_counts_only_where_there_is_a_face(scorer):
    taken = given(6)
    moved = np.abs(asked(scorer, taken) - asked(scorer, taken | {"embedding": -taken["embedding"]})).max(axis=1)
    assert (moved[taken["found"] == 1] > 1e-6).all()
    assert (moved[taken["found"] == 0] == 0).all()


def test_a_scorer_with_faces_comes_back_as_it_was_saved(scorer, tmp_path):
    scorer.save(tmp_path / "scorer.keras")
    np.testing.assert_array_equal(
        asked(keras.saving.load_model(tmp_path / "scorer.keras"), given(4)), asked(scorer, given(4))
    )


def test_mixed_precision_keeps_what_is_read_of_the_face_in_float32(scorer):
    mixed = with_precision(scorer, "mixed_bfloat16")
    assert mixed.get_layer("convolved").compute_dtype == "bfloat16"
    assert {mixed.get_layer(name).compute_dtype for name in ("embedding_pca", "missing_face_token", "features")} == {
        "float32"
    }
    taken = given(3)
    np.testing.assert_allclose(asked(mixed, taken), asked(scorer, taken), atol=0.02)
    np.testing.assert_array_equal(asked(with_precision(mixed, "float32"), taken), asked(scorer, taken))


def test_maps_in_closed_form_are_those_of_the_gradient_with_the_face_held(scorer):
    taken = given(3)
    pixels, held = attribution.split_pixels(taken)
    closed = serving_outputs.build_cam_model(scorer)(order_inputs(scorer, taken))
    np.testing.assert_allclose(closed["class_heatmaps"], attribution.heatmaps(scorer, pixels, held), atol=1e-6)


def test_a_perturbation_moves_the_pixels_alone(scorer):
    pixels, held = attribution.split_pixels(given(2))
    before = {name: values.copy() for name, values in held.items()}
    perturbed = adversarial.pgd_attack(scorer, pixels, 2.0, 3, held)
    means = [asked(scorer, {"pixels": each, **held}) @ np.array(SCORES) for each in (pixels, perturbed)]
    assert (means[1] >= means[0]).all()
    assert (perturbed != pixels).any()
    for name, values in held.items():
        np.testing.assert_array_equal(values, before[name])


# Principal components


def test_principal_components_are_those_of_the_standardised_embeddings():
    embeddings = given(200)["embedding"] @ np.random.default_rng(3).normal(size=(SIZE, SIZE))
    mean, axes = principal_components(embeddings, SIZE)
    found = (embeddings - mean) @ axes
    variances = np.linalg.eigvalsh(np.corrcoef(embeddings.T))[::-1]
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.diag(variances / variances.sum()), atol=1e-4)
    assert np.square(found).sum(1).mean() == pytest.approx(1, abs=1e-4)


def test_the_largest_part_of_each_axis_is_positive_and_no_more_axes_are_kept_than_asked_for():
    axes = principal_components(given(50)["embedding"], 4).axes
    assert axes.shape == (SIZE, 4)
    assert (axes[np.abs(axes).argmax(0), range(4)] > 0).all()


def test_what_does_not_vary_among_the_faces_is_not_read():
    embeddings = given(50)["embedding"]
    embeddings[:, 2] = 7
    axes = principal_components(embeddings, SIZE).axes
    assert axes.shape == (SIZE, SIZE - 1)
    assert (axes[2] == 0).all()


@pytest.mark.parametrize("faces_there", [0, 1])
def test_too_few_faces_have_no_principal_components(faces_there):
    assert principal_components(np.ones((faces_there, SIZE)), 3) is None


def test_no_more_components_are_kept_than_faces_differ_by():
    assert principal_components(given(4)["embedding"], SIZE).axes.shape == (SIZE, 3)


# Training


def photo_with_a_face(number: int, light: float) -> tuple[bytes, np.ndarray]:
    """A JPEG of any brightness with a square face of this one, and its landmarks."""
    rng = np.random.default_rng(number)
    image = np.array(Image.open(io.BytesIO(drawn_photo(rng.uniform(0.1, 0.9), number))))
    side, (x, y) = 24, rng.integers(0, (24, 40))
    image[y : y + side, x : x + side] = round(255 * light)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=95)
    return data.getvalue(), (geometry.TEMPLATE / 112 * side + (x, y)) / (48, 64)


def record(number: int, by: str) -> dict:
    """A rated photo whose score is in the embedding of its face alone, or in the light on its face alone.

    By embedding, every fourth photo has no face, and is rated low. Sunglasses are in the embedding, too.
    """
    rng = np.random.default_rng(1000 + number)
    there = by == "light" or number % 4 > 0
    embedding, light = rng.normal(3, np.arange(1, SIZE + 1)), rng.uniform(0.05, 0.95)
    data, landmarks = photo_with_a_face(number, light)
    seen = (embedding[1] - 3) / 2 if by == "embedding" else (light - 0.5) / 0.26
    return {
        "photo": data,
        "photo_id": f"{number:04d}.jpg",
        "votes": votes_around(float(np.clip(5.5 + 1.5 * seen, 1, 10)) if there else WITHOUT_A_FACE),
        "raters": 12,
        "group": f"group-{number}",
        "attributes": {
            "job": ("carer", "tutor")[number % 2],
            "sunglasses": ("yes" if embedding[4] > 3 else "no") if there else "",
        },
        "embedding": there * embedding.astype("float32"),
        "face": {
            "count": np.int32(there * (1 + (number % 8 == 1))),
            "confidence": np.float32(there * (0.8 if number % 8 == 3 else 0.95)),
            "box": np.zeros(4, "float32"),
            "landmarks": there * landmarks.astype("float32"),
        },
    }


def write(folder: Path, by: str, **sizes: int) -> Path:
    weights = folder.with_name(f"{folder.name} weights")
    weights.mkdir(parents=True)
    (weights / "faces.json").write_text(json.dumps({"size": SIZE, "scales": [1]}))
    (weights / "detector.onnx").write_bytes(designed_faces.detector())
    (weights / "embedder.onnx").write_bytes(b"the records hold what it would say")
    numbers = iter(range(10_000))
    splits = {name: [[record(next(numbers), by) for _ in range(n)]] for name, n in sizes.items()}
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
    """An encoder whose features are light, dark and middling."""
    return light_encoder(tmp_path_factory.mktemp("start"))


def trained(dataset: Path, start: Path, folder: Path, **changes) -> bundle.TrainedScorer:
    given = {"scale": 36, "head_epochs": 25, "epochs": 0, "dropout": 0.0, "batch_size": 8, "camera_faults": 0.0}
    given |= {"fitting": "gradient", "face_view": False}
    settings = from_parameters(Training, **{**given, "head_learning_rate": 0.05, **changes})
    places = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    train(dataset, start, folder / "scorer", folder / "report.html", settings=settings, **places)
    return bundle.load(folder / "scorer")


def means(scorer: bundle.TrainedScorer, dataset: Path) -> tuple[np.ndarray, np.ndarray]:
    """The scorer's mean scores of the test split, and people's."""
    view = photos.FaceCropSpec(32, scorer.training.face_view_scale) if scorer.model_inputs.view else None
    read = {"scale": 36, "crop": 32, "batch_size": 60, "view": view, "example": targets.with_votes(scorer.model_inputs)}
    ((taken, truth),) = photos.batches(dataset, "test", **read)
    taken = taken if isinstance(taken, dict) else {"pixels": taken}
    return asked(scorer.model, taken) @ np.array(SCORES), truth.numpy() @ np.array(SCORES)


@pytest.fixture(scope="module")
def reading(embedded, start, tmp_path_factory) -> bundle.TrainedScorer:
    return trained(embedded, start, tmp_path_factory.mktemp("reading"), **SHORT, epochs=1)


def test_what_only_the_embedding_tells_is_learnt(reading, embedded):
    there = np.arange(60) % 4 > 0
    found, truth = means(reading, embedded)
    assert spearmanr(found[there], truth[there]).statistic > 0.9


@pytest.fixture(scope="module")
def unread(embedded, start, tmp_path_factory) -> bundle.TrainedScorer:
    return trained(embedded, start, tmp_path_factory.mktemp("unread"), **SHORT, embedding_size=0)


def test_what_only_the_embedding_tells_is_not_learnt_without(unread, embedded):
    there = np.arange(60) % 4 > 0
    found, truth = means(unread, embedded)
    assert abs(spearmanr(found[there], truth[there]).statistic) < 0.4


def test_a_bundle_carries_the_embedder_only_where_it_reads_embeddings(reading, unread):
    assert {*reading.faces} == {"faces.json", "detector.onnx", "embedder.onnx"}
    assert {*unread.faces} == {"faces.json", "detector.onnx"}


def test_photos_without_a_face_get_a_stand_in_that_is_learnt(reading, embedded):
    missing = np.arange(60) % 4 == 0
    assert np.abs(reading.model.get_layer("missing_face_token").get_weights()[0]).max() > 0.1
    assert np.abs(means(reading, embedded)[0][missing] - WITHOUT_A_FACE).max() < 1


def test_principal_components_are_fitted_on_the_faces_of_the_training_split_alone(reading, embedded):
    known = [each for each in photos.records(embedded, "train") if each["face"]["count"]]
    expected = principal_components(np.stack([each["embedding"] for each in known]), 512)
    for weights, values in zip(reading.model.get_layer("embedding_pca").get_weights(), expected, strict=True):
        np.testing.assert_allclose(weights, values, atol=1e-6)


@pytest.fixture(scope="module")
def blind(lit, start, tmp_path_factory) -> bundle.TrainedScorer:
    """A scorer of photos whose score is in the light on the face, and whose embeddings say nothing of it."""
    return trained(lit, start, tmp_path_factory.mktemp("blind"), **SHORT, embedding_size=4)


def test_what_only_the_view_of_the_face_tells_is_learnt(lit, start, tmp_path):
    scorer = trained(lit, start, tmp_path, **SHORT, face_view=True, face_view_scale=1.2, embedding_size=0)
    assert scorer.model_inputs == ModelInputs(view=True)
    assert spearmanr(*means(scorer, lit)).statistic > 0.9


def test_what_only_the_view_of_the_face_tells_is_not_learnt_without(lit, blind):
    assert abs(spearmanr(*means(blind, lit)).statistic) < 0.4


def test_where_every_photo_has_a_face_the_stand_in_stays_the_mean_of_all(blind):
    (stand_in,) = blind.model.get_layer("missing_face_token").get_weights()
    np.testing.assert_array_equal(stand_in, np.zeros(4))


def test_a_view_of_faces_that_the_data_do_not_know_is_none(small_dataset, start, tmp_path):
    assert not trained(small_dataset, start, tmp_path, face_view=True).model_inputs.view


def test_heads_read_what_is_seen_of_the_face_as_well(reading, embedded):
    known = [each for each in photos.records(embedded, "test") if each["face"]["count"]]
    taken = {
        "pixels": np.zeros((len(known), 32, 32, 3), "float32"),
        "embedding": np.stack([each["embedding"] for each in known]),
        "found": np.ones(len(known), "float32"),
        "job": np.zeros(len(known), "int32"),
    }
    answered = attach_heads(reading.model, reading.heads)(taken)
    wears = np.array([each["attributes"]["sunglasses"] == "yes" for each in known])
    assert reading.attributes == ("sunglasses",)
    assert ((np.asarray(answered["attributes"])[:, 0] > 0.5) == wears).mean() > 0.75
    np.testing.assert_allclose(answered["votes"], asked(reading.model, taken), atol=1e-6)


def test_a_training_that_broke_off_goes_on_with_what_it_saw_of_faces(lit, start, tmp_path, monkeypatch):
    settings = {"head_epochs": 0, "epochs": 2, "face_view": True}
    save, curves = CheckpointStore.save, []

    def broken(place: CheckpointStore, model: keras.Model, epoch: int, found: dict, keep: set[int], **how) -> None:
        if place.uri.endswith("all") and epoch == 2:
            curves.append(found)
            raise KeyboardInterrupt
        save(place, model, epoch, found, keep, **how)

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "save", broken)
        with pytest.raises(KeyboardInterrupt):
            trained(lit, start, tmp_path, **settings)
    resumed = trained(lit, start, tmp_path, **settings).history
    np.testing.assert_allclose(resumed["loss"], curves[0]["loss"], rtol=1e-4)
    np.testing.assert_allclose(resumed["val_loss"], curves[0]["val_loss"], rtol=1e-4)


def test_a_scorer_trained_in_mixed_precision_is_one_of_full_precision(lit, start, tmp_path):
    scorer = trained(lit, start, tmp_path, head_epochs=0, epochs=1, face_view=True, mixed_precision=True)
    assert {layer.compute_dtype for layer in scorer.model.layers} == {"float32"}
    assert np.isfinite(means(scorer, lit)[0]).all()


# The bundle


@pytest.fixture(scope="module")
def faced(encoder, tmp_path_factory) -> bundle.TrainedScorer:
    """A bundle with the designed detector and embedder, saved and loaded again."""
    folder = tmp_path_factory.mktemp("faced")
    weights = folder / "data" / "faces"
    weights.mkdir(parents=True)
    weight_files.prepare(Faces(**designed_faces.write(folder)), weights)
    model = build_scorer(encoder, 0.5, replace(BOTH, embedding_size=designed_faces.READ))
    embeddings = np.random.default_rng(1).normal(0, 20, (30, designed_faces.READ))
    set_pca_weights(model, principal_components(embeddings, BOTH.n_components))
    read = bundle.load_face_files(folder / "data")
    pretraining, training = from_parameters(Pretraining, start="none", crop=32), Training(scale=40)
    bundle.TrainedScorer(model, pretraining, training, faces=read).save(folder / "scorer")
    return bundle.load(folder / "scorer")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Two photos with a face, and one without."""
    plain = [drawn_photo(0.5, number, (96, 128)) for number in range(3)]
    return [designed_faces.marked(plain[0], (0.5, 0.5)), designed_faces.marked(plain[1], (0.4, 0.6)), plain[2]]


def test_a_bundle_takes_photos_alone_and_reads_their_faces(faced, pictures):
    seen = faced.face_analyzer.analyze_all([Image.open(io.BytesIO(photo)) for photo in pictures])
    taken = faced.build_inputs(pictures)
    assert taken["found"].numpy().tolist() == [1, 1, 0]
    np.testing.assert_array_equal(taken["embedding"], [each.embedding for each in seen])
    np.testing.assert_allclose(faced.score(pictures), asked(faced.model, taken), atol=1e-6)


def test_a_bundle_reads_photos_as_training_read_their_records(faced, pictures, tmp_path):
    read = faced.face_analyzer.analyze_all([Image.open(io.BytesIO(photo)) for photo in pictures])
    records = [
        {**record(number, "light"), "photo": photo, **analyzer.to_features(seen)}
        for number, (photo, seen) in enumerate(zip(pictures, read, strict=True))
    ]
    weights = tmp_path / "weights"
    weights.mkdir()
    for name, data in faced.faces.items():
        (weights / name).write_bytes(data)
    tfds_writer.write(tmp_path / "dataset", {"test": [records]}, ["job", "sunglasses"], face_weights=weights)
    view = photos.FaceCropSpec(32, faced.training.face_view_scale)
    how = {"scale": 40, "crop": 32, "batch_size": 3, "view": view, "example": targets.with_votes(faced.model_inputs)}
    ((taken, _),) = photos.batches(tmp_path / "dataset", "test", **how)
    for name, values in faced.build_inputs(pictures).items():
        np.testing.assert_allclose(taken[name], values, atol=1e-4, err_msg=name)


def test_a_bundle_tells_what_reads_faces(faced):
    digests = json.loads(faced.faces["faces.json"])["sha256"]
    assert digests["detector"] in faced.face_summary
    assert digests["embedder"] in faced.face_summary
    assert f"{designed_faces.READ} numbers for it, of which 3 principal components are read" in faced.face_summary


def test_the_model_card_tells_what_reads_faces(faced):
    made = build_card(replace(FACTS, faces=faced.face_summary))
    for words in (readable(made.markdown), readable(made.html)):
        assert faced.face_summary in words


def test_a_bundle_that_sees_faces_and_cannot_read_them_says_so(faced, pictures):
    with pytest.raises(
        ValueError, match=f"reads embeddings of {designed_faces.READ} for each face, and its .* gives none"
    ):
        replace(faced, faces={}).score(pictures)


# The evaluation


def test_photos_are_sliced_by_their_faces_and_by_how_sure_the_detector_is(embedded):
    class Eye:
        def score(self, photos: list[bytes]) -> np.ndarray:
            return np.random.default_rng(1).dirichlet(np.ones(10), len(photos))

    predictions = predict(lambda: photos.records(embedded, "test"), Eye(), 60)
    found = slices.measure_slices(predictions, from_parameters(Evaluation, bootstrap=20)).slices
    assert {(each.attribute, each.value): each.photos for each in found if each.attribute.startswith("face")} == {
        ("faces", "none"): 15, ("faces", "one"): 37, ("faces", "several"): 8,
        ("face confidence", "no face"): 15, ("face confidence", "high"): 37, ("face confidence", "low"): 8,
    }  # fmt: skip
    assert {"face_count", "face_confidence"} <= {*predictions.to_table()}
