"""A published scorer with face inputs: SavedModel, LiteRT network and server score photos as the bundle does."""

import base64
import hashlib
import io
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.framework.tensor_pb2 import TensorProto

from components.evaluation import export_probe, export_probe_worker
from components.push.push import _check_agreement
from components.scorer import storage
from components.scorer.artifacts import bundle, litert_model, saved_model, warmup
from components.scorer.batch import score_folder
from components.scorer.faces import detector, embedder, face_inputs, weight_files
from components.scorer.imaging import decoding
from components.scorer.metrics import regression
from components.scorer.model import auxiliary_heads, inputs, layers
from components.scorer.model.encoder import BackboneScaling
from components.scorer.model.inputs import ModelInputs
from components.scorer.model.network import build_scorer
from components.scorer.parameters import from_parameters
from components.scorer.registry import channels, integrity
from components.scorer.run.decision import decide
from components.scorer.settings import Evaluation, Faces, Ingestion, Policy, Pretraining, Training
from images.serving.settings import ServerSettings
from tests.builders import designed_faces
from tests.builders.pushes import PASSED, Place, judged
from tests.builders.servers import Here, imports_of_a_server, until
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

SIZE = designed_faces.READ
JOBS = auxiliary_heads.HeadSpec("job", ("carer", "tutor"))
BOTH = ModelInputs(view=True, embedding_size=SIZE, n_components=6)


def weights(folder: Path) -> dict[str, bytes]:
    """Return the files of the designed detector and embedder by name."""
    settings = from_parameters(Faces, **designed_faces.write(folder), face_preprocessing="none")
    weight_files.prepare(settings, folder / "faces")
    return {file.name: storage.read_bytes(file.uri) for file in storage.list_files(str(folder / "faces"))}


def seeing(what: ModelInputs, files: dict[str, bytes], spread: float = 0.002, seed: int = 1) -> bundle.TrainedScorer:
    """Return a small scorer whose predictions depend on the photo and on the face in it."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    pixels = keras.Input((32, 32, 3), name="pixels")
    maps = keras.layers.Conv2D(5, 4, strides=8, activation="relu")(BackboneScaling("tf", name="scaling")(pixels))
    model = build_scorer(keras.Model(pixels, maps, name="encoder"), 0.5, what, quadratic_rank=8 if what else 0)
    if what.embedding_size:
        axes = rng.normal(0, spread, (what.embedding_size, what.n_components)).astype("float32")
        inputs.set_pca_weights(model, inputs.PCABasis(np.zeros(what.embedding_size, "float32"), axes))
        model.get_layer("missing_face_token").set_weights([rng.normal(0, 0.5, what.n_components)])
    if what:
        quadratic = model.get_layer(layers.QUADRATIC_LAYER)
        quadratic.set_weights([rng.normal(0, 1 / weight.shape[0] ** 0.5, weight.shape) for weight in quadratic.weights])
    votes = model.get_layer("votes")
    votes.kernel.assign(rng.normal(0, 2, votes.kernel.shape))
    tilt = [rng.normal(0, 0.1, (len(JOBS.jobs), votes.kernel.shape[0])), np.zeros(len(JOBS.jobs))]
    head_options = {"head_spec": JOBS, "heads": auxiliary_heads.build_heads(model, JOBS, tilt)} if what else {}
    settings = from_parameters(Pretraining, start="none", crop=32)
    return bundle.TrainedScorer(model, settings, Training(scale=40), "data", "revision", faces=files, **head_options)


def photo(number: int, face: bool = True) -> bytes:
    """Return a JPEG that was not normalised, with or without a designed face."""
    plain = drawn_photo(0.2 + 0.05 * (number % 12), number, (240, 320))
    return designed_faces.marked(plain, (0.4 + 0.02 * number, 0.5)) if face else plain


SENT = [photo(number, number % 3 > 0) for number in range(6)]
"""Six photos; every third has no face."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def scorer(files: dict[str, bytes]) -> bundle.TrainedScorer:
    return seeing(BOTH, files)


@pytest.fixture(scope="module")
def version(scorer: bundle.TrainedScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "portraits" / "1"
    saved_model.export(scorer, folder, "portraits")
    saved_model.export_litert(scorer, folder, "portraits", error=0.1)
    integrity.write_record(folder, {})
    return folder


@pytest.fixture(scope="module")
def expected(scorer: bundle.TrainedScorer) -> np.ndarray:
    """Return the bundle's mean scores of the photos in `SENT`, normalised as ingestion does."""
    return regression.mean_scores(scorer.score([decoding.normalise(data, Ingestion()) for data in SENT]))


# Every form of the scorer


def test_the_face_embedding_changes_the_score(scorer, expected):
    model_inputs = scorer.build_inputs([decoding.normalise(data, Ingestion()) for data in SENT])
    inputs_without_faces = {
        **model_inputs,
        "embedding": tf.zeros_like(model_inputs["embedding"]),
        "found": tf.zeros_like(model_inputs["found"]),
    }
    scores_without_faces = regression.mean_scores(
        scorer.model(inputs.order_inputs(scorer.model, inputs_without_faces)).numpy()
    )
    differences = np.abs(scores_without_faces - expected)
    assert model_inputs["found"].numpy().tolist() == [0, 1, 1, 0, 1, 1]
    assert differences[model_inputs["found"].numpy() == 1].min() > 20 * saved_model.TOLERANCE
    assert differences[model_inputs["found"].numpy() == 0].max() < 1e-5


def test_the_saved_model_and_the_litert_network_score_photos_as_the_bundle_does(version, expected):
    saved, litert = saved_model.load(str(version)), litert_model.load(str(version))
    photos = [litert.normalise(data) for data in SENT]
    np.testing.assert_allclose(saved.predict(photos)["mean"], expected, atol=saved_model.TOLERANCE)
    model_inputs = face_inputs.stack_inputs([litert.build_inputs(data) for data in photos])
    np.testing.assert_allclose(litert.predict(model_inputs)["mean"], expected, atol=saved_model.TOLERANCE)


def test_the_job_input_works_together_with_the_face_inputs(version, scorer, expected):
    saved, litert = saved_model.load(str(version)), litert_model.load(str(version))
    photos, jobs = [litert.normalise(data) for data in SENT], ["tutor", "carer"] * 3
    scores_with_jobs = regression.mean_scores(scorer.score(photos, jobs))
    assert np.median(np.abs(scores_with_jobs - expected)) > 10 * saved_model.TOLERANCE
    np.testing.assert_allclose(saved.predict(photos, jobs=jobs)["mean"], scores_with_jobs, atol=saved_model.TOLERANCE)
    model_inputs = face_inputs.stack_inputs([litert.build_inputs(data) for data in photos])
    np.testing.assert_allclose(litert.predict(model_inputs, jobs)["mean"], scores_with_jobs, atol=saved_model.TOLERANCE)


def test_scoring_a_folder_normalises_photos_as_ingestion_does(version, expected, tmp_path):
    for index, data in enumerate(SENT):
        storage.write_bytes(str(tmp_path / "photos" / f"{index}.jpg"), data)
    score_folder.score_folder(str(version), str(tmp_path / "photos"), tmp_path / "scores.csv")
    scores = [float(line.split(",")[1]) for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(scores, expected, atol=saved_model.TOLERANCE)


def test_the_saved_model_and_the_litert_network_give_the_same_maps(version):
    saved, litert = saved_model.load(str(version)), litert_model.load(str(version))
    photos = [litert.normalise(data) for data in SENT[:2]]
    outputs = litert.predict(face_inputs.stack_inputs([litert.build_inputs(data) for data in photos]))
    for name, maps in saved.explain(photos).items():
        if name in ("heatmap", "gains"):
            np.testing.assert_allclose(outputs[name], maps, atol=saved_model.TOLERANCE)


def test_a_photo_gets_the_same_prediction_alone_and_in_a_batch(version):
    litert = litert_model.load(str(version))
    model_inputs = [litert.build_inputs(litert.normalise(data)) for data in SENT]
    alone = np.concatenate(
        [litert.predict(face_inputs.stack_inputs([photo_inputs]))["distribution"] for photo_inputs in model_inputs]
    )
    np.testing.assert_allclose(litert.predict(face_inputs.stack_inputs(model_inputs))["distribution"], alone, atol=1e-5)


def test_the_litert_network_of_a_scorer_without_a_face_view_agrees_with_the_scorer(files, tmp_path):
    scorer = seeing(ModelInputs(embedding_size=SIZE, n_components=6), files)
    saved_model.export_litert(scorer, tmp_path)
    (tmp_path / channels.COMPLETE).touch()
    integrity.write_record(tmp_path, {})
    litert = litert_model.load(str(tmp_path))
    photos = [litert.normalise(data) for data in SENT]
    outputs = litert.predict(face_inputs.stack_inputs([litert.build_inputs(data) for data in photos]))
    np.testing.assert_allclose(outputs["distribution"], scorer.score(photos), atol=saved_model.TOLERANCE)
    assert litert.face_input_spec.inputs == ("embedding", "found")


# The published version


def test_the_version_lists_its_stages_with_the_files_and_inputs_of_each(version, files):
    metadata = storage.read_json(str(version / litert_model.FOLDER / litert_model.METADATA_FILE))
    assert [entry["stage"] for entry in metadata["stages"]] == ["normalise", "detect", "align", "embed", "score"]
    by_stage = {entry.pop("stage"): entry for entry in metadata["stages"]}
    assert by_stage["score"]["inputs"] == ["pixels", "face", "embedding", "found"]
    assert by_stage["embed"]["size"] == designed_faces.SIZE
    for stage in ("detect", "embed"):
        file = version / litert_model.FOLDER / by_stage[stage]["file"]
        assert file.read_bytes() == files[file.name]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == by_stage[stage]["sha256"]


@pytest.mark.parametrize("signature", ["serving_default", "explain"])
def test_the_saved_model_refuses_a_photo_without_its_face_inputs(version, signature):
    function = tf.saved_model.load(str(version)).signatures[signature]
    assert set(function.structured_input_signature[1]) == {"image_bytes", "face", "embedding", "found"}
    with pytest.raises(TypeError, match="missing a required argument"):
        function(image_bytes=tf.constant(list(warmup.photos())))


def test_the_warm_up_requests_have_every_input_of_the_signature(version):
    function = tf.saved_model.load(str(version)).signatures["serving_default"]
    for record in tf.data.TFRecordDataset(str(version / warmup.FILE)):
        request = warmup._prediction_log().FromString(record.numpy()).predict_log.request
        arrays = {name: tf.make_ndarray(TensorProto.FromString(value)) for name, value in request.inputs.items()}
        means = function(**{name: tf.constant(value) for name, value in arrays.items()})["mean"]
        assert len(means) == len(arrays["image_bytes"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a version of a scorer without face inputs."""
    folder = tmp_path_factory.mktemp("plain") / "portraits" / "2"
    saved_model.export(seeing(ModelInputs(), {}), folder)
    saved_model.export_litert(seeing(ModelInputs(), {}), folder, "portraits")
    integrity.write_record(folder, {})
    return folder


def test_a_scorer_without_face_inputs_is_published_without_face_files(plain):
    files = {file.name for file in storage.list_files(f"{plain}/{litert_model.FOLDER}")}
    assert files == {litert_model.NETWORK_FILE, litert_model.METADATA_FILE}
    assert not {"reads", "stages"} & set(
        storage.read_json(f"{plain}/{litert_model.FOLDER}/{litert_model.METADATA_FILE}")
    )
    loaded = saved_model.load(str(plain))
    assert (loaded.face_input_spec, loaded.face_analyzer) == (face_inputs.NO_FACE_INPUTS, None)
    signature = tf.saved_model.load(str(plain)).signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"image_bytes"}


def test_a_detector_for_norms_alone_finds_faces_and_adds_no_model_input(plain, files, tmp_path):
    storage.download_tree(str(plain), str(tmp_path))
    face_folder = tmp_path / litert_model.FOLDER / embedder.FOLDER
    storage.write_bytes(str(face_folder / embedder.DETECTOR), files[embedder.DETECTOR])
    storage.write_json(str(face_folder / embedder.METADATA), {"sha256": {}})
    integrity.write_record(tmp_path, {})
    litert = litert_model.load(str(tmp_path))
    photo_bytes = litert.normalise(SENT[1])
    assert set(litert.build_inputs(photo_bytes)) == {"pixels"}
    assert len(litert.analyze_faces(Image.open(io.BytesIO(photo_bytes))).faces) == 1


@pytest.mark.parametrize("lost", ["faces.json", "embedder.onnx", "detector.onnx"])
def test_a_version_without_one_of_its_face_files_is_refused(version, tmp_path, lost):
    storage.download_tree(str(version), str(tmp_path))
    (tmp_path / litert_model.FOLDER / embedder.FOLDER / lost).unlink()
    integrity.write_record(tmp_path, {})
    with pytest.raises((ValueError, FileNotFoundError), match=r"faces"):
        litert_model.load(str(tmp_path))


def test_the_weights_of_another_embedder_are_refused(version, tmp_path):
    storage.download_tree(str(version), str(tmp_path))
    metadata_file = f"{tmp_path}/{litert_model.FOLDER}/{litert_model.METADATA_FILE}"
    metadata = storage.read_json(metadata_file)
    storage.write_json(metadata_file, {**metadata, "reads": {**metadata["reads"], "embedding": SIZE + 1}})
    integrity.write_record(tmp_path, {})
    with pytest.raises(ValueError, match=rf"expected a portable network at .*{SIZE + 1} numbers, got {SIZE} numbers"):
        litert_model.load(str(tmp_path))


def test_predicting_without_the_face_inputs_is_refused(version):
    litert = litert_model.load(str(version))
    model_inputs = face_inputs.stack_inputs([litert.build_inputs(litert.normalise(SENT[1]))])
    with pytest.raises(ValueError, match=r"expected beside pixels .*embedding.*got nothing"):
        litert.predict(model_inputs["pixels"])
    with pytest.raises(ValueError, match=r"expected beside pixels"):
        litert.predict({**model_inputs, "embedding": model_inputs["embedding"][:, 1:]})


# The server


@pytest.fixture(scope="module")
def models(version: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with version 1, which has face inputs, and version 2, which has none; the champion is 1."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(version, folder / "portraits" / "1")
    shutil.copytree(plain, folder / "portraits" / "2")
    channels.promote_pushed(str(folder), "portraits", 1, why="the first")
    return folder


@pytest.fixture(scope="module")
def here(models: Path):
    with Here(ServerSettings(model=str(models), workers=1, interval=60.0)) as started:
        yield started


def form(data: bytes, field: str = "photos") -> dict:
    return {field: ("me.jpg", data, "image/jpeg")}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def v1(here: Here, data: bytes) -> float:
    response = here.post("/v1/models/portraits:predict", json={"instances": [{"image_bytes": {"b64": b64(data)}}]})
    return response.json()["predictions"][0]["mean"]


def v2(here: Here, data: bytes) -> float:
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [b64(data)]}
    response = here.post("/v2/models/portraits/infer", json={"inputs": [tensor]}).json()
    return next(output["data"][0] for output in response["outputs"] if output["name"] == "mean")


def sagemaker(here: Here, data: bytes) -> float:
    response = here.post("/invocations", content=data, headers={"content-type": "image/jpeg"})
    return response.json()["predictions"][0]["mean"]


def product(here: Here, data: bytes) -> float:
    return here.post("/score", files=form(data)).json()["photos"][0]["mean"]


@pytest.mark.parametrize("way", [v1, v2, sagemaker, product])
def test_every_protocol_of_the_server_scores_a_photo_without_face_inputs(here, expected, way):
    for index in (0, 1):
        assert way(here, SENT[index]) == pytest.approx(expected[index], abs=saved_model.TOLERANCE)


def test_a_score_request_runs_the_face_detector_once(here, monkeypatch):
    searched_images = []
    find = detector.FaceDetector.find
    monkeypatch.setattr(
        detector.FaceDetector, "find", lambda self, image: searched_images.append(image) or find(self, image)
    )
    face = here.post("/score", files=form(SENT[1])).json()["photos"][0]["face"]
    assert (face["found"], face["count"], len(searched_images)) == (True, 1, 1)


def test_a_photo_without_a_face_is_scored_and_explained(here):
    (photo_score,) = here.post("/score", files=form(SENT[0])).json()["photos"]
    assert photo_score["face"] == {"found": False, "count": 0, "box": None, "confidence": None}
    assert here.post("/explain", files=form(SENT[0], "photo")).status_code == 200


def test_advice_embeds_a_face_again_only_where_an_edit_changes_it(here, expected, monkeypatch):
    embeddings, scored_photos = [], []
    embed, score = embedder.Embedder.embed, type(here.state.version_manager.current.network).score_blocking
    monkeypatch.setattr(embedder.Embedder, "embed", lambda self, crops: embeddings.append(1) or embed(self, crops))
    monkeypatch.setattr(
        type(here.state.version_manager.current.network),
        "score_blocking",
        lambda self, photo_inputs, job="": score(
            self, (scored_photos.append(1) or photo_input for photo_input in photo_inputs), job
        ),
    )
    advice = here.post("/advise", files=form(SENT[1], "photo")).json()
    assert advice["mean"] == pytest.approx(expected[1], abs=saved_model.TOLERANCE)
    assert 9 <= len(embeddings) < len(scored_photos) / 2


def test_about_lists_the_stages(here):
    about = here.get("/about").json()
    assert about["stages"] == ["normalise", "detect", "align", "embed", "score"]
    assert about["faces"] is True


def test_the_server_switches_between_versions_with_and_without_face_inputs(models, expected, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    with Here(ServerSettings(model=str(tmp_path / "models"), workers=1, interval=0.05)) as server:
        first = v1(server, SENT[1])
        for version in (2, 1):
            channels.set_channel(str(tmp_path / "models"), "portraits", version, channel="champion", why="a test")
            until(lambda version=version: server.get("/about").json()["version"] == version, "the version is served")
            assert server.get("/about").json()["faces"] is (version == 1)
            assert (abs(v1(server, SENT[1]) - first) < 1e-6) is (version == 1)
    assert first == pytest.approx(expected[1], abs=saved_model.TOLERANCE)


def test_the_server_embeds_faces_without_importing_tensorflow(models):
    names = {"tensorflow", "keras", "matplotlib", "pandas", "scipy", "kfp", "onnx"}
    assert imports_of_a_server(models, names) == ([200, 200, 200, 200], [])


# Gates, push


def test_the_gates_report_the_time_and_size_of_the_face_analysis(version):
    photos = [decoding.normalise(data, Ingestion()) for data in SENT[:3]]
    measured = export_probe_worker.measure_export(str(version), photos)
    np.testing.assert_allclose(
        measured["alone"]["mean"], measured["together"]["mean"], atol=export_probe.BATCH_TOLERANCE
    )
    assert len(measured["faces_seconds"]) == len(photos)
    assert min(measured["faces_seconds"]) > 0
    result = export_probe.ExportProbeResult(
        3, latency_median=30, latency_95=40, faces_milliseconds=20, size_megabytes=33, faces_megabytes=24
    )
    gates = {gate.key: gate.reason for gate in export_probe.gates(result, Evaluation())}
    assert "median 30 ms, of which 20 ms find and read the face" in gates["latency"]
    assert "33.0 MB, of which 24.0 MB find and read the face" in gates["size"]


def test_push_records_the_stages_and_the_card_names_what_the_saved_model_lacks(scorer, tmp_path):
    scorer.save(tmp_path / "scorer")
    results = judged(tmp_path / "results", decide([PASSED], Policy()))
    registry = Place(str(tmp_path / "published"), results)
    uri = registry.push(tmp_path / "scorer", photos=[decoding.normalise(data, Ingestion()) for data in SENT[:3]])
    record = storage.read_json(f"{uri}/version.json")
    assert record["stages"] == ["normalise", "detect", "align", "embed", "score"]
    assert record["inputs"] == ["image_bytes", "face", "embedding", "found"]
    card = storage.read_bytes(f"{uri}/model_card.md").decode()
    assert "The SavedModel is not all of this scorer" in card
    assert "portable/faces" in card
    assert saved_model.load_bundle(uri).face_input_spec == scorer.face_input_spec


def test_push_refuses_a_version_whose_face_crop_differs_from_training(scorer, version, tmp_path):
    storage.download_tree(str(version), str(tmp_path))
    metadata_file = f"{tmp_path}/{litert_model.FOLDER}/{litert_model.METADATA_FILE}"
    metadata = storage.read_json(metadata_file)
    storage.write_json(metadata_file, {**metadata, "reads": {**metadata["reads"], "view_scale": 0.9}})
    integrity.write_record(tmp_path, {})
    with pytest.raises(ValueError, match=r"expected the SavedModel of .* to answer as the scorer does"):
        _check_agreement(scorer, str(tmp_path), [decoding.normalise(SENT[1], Ingestion())])


# Real faces


def test_the_bundle_the_saved_model_and_the_server_give_real_photos_the_same_scores(portraits, tmp_path):
    names = {"face_detector": "yunet_n_640_640.onnx", "face_embedder": "facenet_512.tflite"}
    face_settings = {name: str(portraits / "weights" / file) for name, file in names.items()}
    weight_files.prepare(from_parameters(Faces, **face_settings), tmp_path / "weights")
    files = {file.name: file.read_bytes() for file in (tmp_path / "weights").iterdir()}
    scorer = seeing(
        ModelInputs(view=True, embedding_size=embedder.embedding_size(tmp_path / "weights"), n_components=64),
        files,
        spread=0.01,
    )
    uri = tmp_path / "models" / "portraits" / "1"
    saved_model.export(scorer, uri, "portraits")
    saved_model.export_litert(scorer, uri, "portraits")
    integrity.write_record(uri, {})
    sent = [path.read_bytes() for path in sorted((portraits / "data" / "mebeauty" / "photos").rglob("*.jpg"))[:240:20]]
    normalised = [decoding.normalise(data, Ingestion()) for data in sent]
    expected = regression.mean_scores(scorer.score(normalised))
    assert scorer.build_inputs(normalised)["found"].numpy().sum() >= 10
    assert np.ptp(expected) > 100 * saved_model.TOLERANCE
    np.testing.assert_allclose(
        saved_model.load(str(uri)).predict(normalised)["mean"], expected, atol=saved_model.TOLERANCE
    )
    with Here(ServerSettings(model=str(uri), workers=1, interval=60.0)) as server:
        served_scores = [sagemaker(server, data) for data in sent]
    np.testing.assert_allclose(served_scores, expected, atol=saved_model.TOLERANCE)
