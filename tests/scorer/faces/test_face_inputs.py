"""A scorer that reads faces is published whole: whoever is given a photo alone finds, cuts, reads and scores alike."""

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

SIZE = designed_faces.READ
JOBS = auxiliary_heads.HeadSpec("job", ("carer", "tutor"))
BOTH = ModelInputs(view=True, embedding_size=SIZE, n_components=6)


def weights(folder: Path) -> dict[str, bytes]:
    """The files of what finds and reads the designed faces."""
    settings = from_parameters(Faces, **designed_faces.write(folder), face_preprocessing="none")
    weight_files.prepare(settings, folder / "faces")
    return {file.name: storage.read_bytes(file.uri) for file in storage.list_files(str(folder / "faces"))}


def seeing(what: ModelInputs, files: dict[str, bytes], spread: float = 0.002, seed: int = 1) -> bundle.TrainedScorer:
    """A small scorer whose answers differ from photo to photo, and from face to face on the same photo."""
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
        pairs = model.get_layer(layers.QUADRATIC_LAYER)
        pairs.set_weights([rng.normal(0, 1 / each.shape[0] ** 0.5, each.shape) for each in pairs.weights])
    votes = model.get_layer("votes")
    votes.kernel.assign(rng.normal(0, 2, votes.kernel.shape))
    tilt = [rng.normal(0, 0.1, (len(JOBS.jobs), votes.kernel.shape[0])), np.zeros(len(JOBS.jobs))]
    told = {"head_spec": JOBS, "heads": auxiliary_heads.build_heads(model, JOBS, tilt)} if what else {}
    settings = from_parameters(Pretraining, start="none", crop=32)
    return bundle.TrainedScorer(model, settings, Training(scale=40), "data", "revision", faces=files, **told)


def photo(number: int, face: bool = True) -> bytes:
    """A photo as a person would send it, with a designed face or without one."""
    plain = drawn_photo(0.2 + 0.05 * (number % 12), number, (240, 320))
    return designed_faces.marked(plain, (0.4 + 0.02 * number, 0.5)) if face else plain


SENT = [photo(number, number % 3 > 0) for number in range(6)]
"""Photos of which every third has no face."""


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
    """The mean scores that the bundle gives what was sent, normalised as ingestion does."""
    return regression.mean_scores(scorer.score([decoding.normalise(data, Ingestion()) for data in SENT]))


# Every way


def test_what_is_read_of_a_face_moves_the_score(scorer, expected):
    given = scorer.build_inputs([decoding.normalise(data, Ingestion()) for data in SENT])
    hidden = {**given, "embedding": tf.zeros_like(given["embedding"]), "found": tf.zeros_like(given["found"])}
    without = regression.mean_scores(scorer.model(inputs.order_inputs(scorer.model, hidden)).numpy())
    moved = np.abs(without - expected)
    assert given["found"].numpy().tolist() == [0, 1, 1, 0, 1, 1]
    assert moved[given["found"].numpy() == 1].min() > 20 * saved_model.TOLERANCE
    assert moved[given["found"].numpy() == 0].max() < 1e-5


def test_the_saved_model_and_the_portable_network_answer_photos_alone_as_the_scorer_does(version, expected):
    loaded, served = saved_model.load(str(version)), litert_model.load(str(version))
    normal = [served.normalise(data) for data in SENT]
    np.testing.assert_allclose(loaded.predict(normal)["mean"], expected, atol=saved_model.TOLERANCE)
    given = face_inputs.stack_inputs([served.build_inputs(data) for data in normal])
    np.testing.assert_allclose(served.predict(given)["mean"], expected, atol=saved_model.TOLERANCE)


def test_a_job_is_told_beside_the_face(version, scorer, expected):
    loaded, served = saved_model.load(str(version)), litert_model.load(str(version))
    normal, jobs = [served.normalise(data) for data in SENT], ["tutor", "carer"] * 3
    told = regression.mean_scores(scorer.score(normal, jobs))
    assert np.median(np.abs(told - expected)) > 10 * saved_model.TOLERANCE
    np.testing.assert_allclose(loaded.predict(normal, jobs=jobs)["mean"], told, atol=saved_model.TOLERANCE)
    given = face_inputs.stack_inputs([served.build_inputs(data) for data in normal])
    np.testing.assert_allclose(served.predict(given, jobs)["mean"], told, atol=saved_model.TOLERANCE)


def test_a_folder_is_scored_as_it_was_ingested(version, expected, tmp_path):
    for place, data in enumerate(SENT):
        storage.write_bytes(str(tmp_path / "photos" / f"{place}.jpg"), data)
    score_folder.score_folder(str(version), str(tmp_path / "photos"), tmp_path / "scores.csv")
    found = [float(line.split(",")[1]) for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(found, expected, atol=saved_model.TOLERANCE)


def test_the_maps_of_both_are_alike(version):
    loaded, served = saved_model.load(str(version)), litert_model.load(str(version))
    normal = [served.normalise(data) for data in SENT[:2]]
    found = served.predict(face_inputs.stack_inputs([served.build_inputs(data) for data in normal]))
    for name, maps in loaded.explain(normal).items():
        if name in ("heatmap", "gains"):
            np.testing.assert_allclose(found[name], maps, atol=saved_model.TOLERANCE)


def test_a_photo_gets_the_same_answer_alone_and_among_others(version):
    served = litert_model.load(str(version))
    given = [served.build_inputs(served.normalise(data)) for data in SENT]
    alone = np.concatenate([served.predict(face_inputs.stack_inputs([one]))["distribution"] for one in given])
    np.testing.assert_allclose(served.predict(face_inputs.stack_inputs(given))["distribution"], alone, atol=1e-5)


def test_a_scorer_without_a_second_view_answers_alike_too(files, tmp_path):
    scorer = seeing(ModelInputs(embedding_size=SIZE, n_components=6), files)
    saved_model.export_litert(scorer, tmp_path)
    (tmp_path / channels.COMPLETE).touch()
    integrity.write_record(tmp_path, {})
    served = litert_model.load(str(tmp_path))
    normal = [served.normalise(data) for data in SENT]
    found = served.predict(face_inputs.stack_inputs([served.build_inputs(data) for data in normal]))
    np.testing.assert_allclose(found["distribution"], scorer.score(normal), atol=saved_model.TOLERANCE)
    assert served.face_input_spec.inputs == ("embedding", "found")


# What is published


def test_the_version_names_its_stages_and_what_each_needs(version, files):
    told = storage.read_json(str(version / litert_model.FOLDER / litert_model.METADATA_FILE))
    assert [each["stage"] for each in told["stages"]] == ["normalise", "detect", "align", "embed", "score"]
    by = {each.pop("stage"): each for each in told["stages"]}
    assert by["score"]["inputs"] == ["pixels", "face", "embedding", "found"]
    assert by["embed"]["size"] == designed_faces.SIZE
    for stage in ("detect", "embed"):
        file = version / litert_model.FOLDER / by[stage]["file"]
        assert file.read_bytes() == files[file.name]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == by[stage]["sha256"]


@pytest.mark.parametrize("signature", ["serving_default", "explain"])
def test_the_saved_model_refuses_a_photo_without_what_the_stages_say(version, signature):
    loaded = tf.saved_model.load(str(version)).signatures[signature]
    assert set(loaded.structured_input_signature[1]) == {"image_bytes", "face", "embedding", "found"}
    with pytest.raises(TypeError, match="missing a required argument"):
        loaded(image_bytes=tf.constant(list(warmup.photos())))


def test_tensorflow_serving_is_warmed_up_with_all_that_the_signature_takes(version):
    answer = tf.saved_model.load(str(version)).signatures["serving_default"]
    for record in tf.data.TFRecordDataset(str(version / warmup.FILE)):
        asked = warmup._prediction_log().FromString(record.numpy()).predict_log.request
        given = {name: tf.make_ndarray(TensorProto.FromString(value)) for name, value in asked.inputs.items()}
        means = answer(**{name: tf.constant(value) for name, value in given.items()})["mean"]
        assert len(means) == len(given["image_bytes"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of a scorer that reads no face."""
    folder = tmp_path_factory.mktemp("plain") / "portraits" / "2"
    saved_model.export(seeing(ModelInputs(), {}), folder)
    saved_model.export_litert(seeing(ModelInputs(), {}), folder, "portraits")
    integrity.write_record(folder, {})
    return folder


def test_a_scorer_that_reads_no_face_is_published_as_before(plain):
    found = {file.name for file in storage.list_files(f"{plain}/{litert_model.FOLDER}")}
    assert found == {litert_model.NETWORK_FILE, litert_model.METADATA_FILE}
    assert not {"reads", "stages"} & set(
        storage.read_json(f"{plain}/{litert_model.FOLDER}/{litert_model.METADATA_FILE}")
    )
    loaded = saved_model.load(str(plain))
    assert (loaded.face_input_spec, loaded.face_analyzer) == (face_inputs.NO_FACE_INPUTS, None)
    signature = tf.saved_model.load(str(plain)).signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"image_bytes"}


def test_weights_that_only_norms_ask_for_find_faces_and_leave_the_network_alone(plain, files, tmp_path):
    storage.download_tree(str(plain), str(tmp_path))
    weights = tmp_path / litert_model.FOLDER / embedder.FOLDER
    storage.write_bytes(str(weights / embedder.DETECTOR), files[embedder.DETECTOR])
    storage.write_json(str(weights / embedder.METADATA), {"sha256": {}})
    integrity.write_record(tmp_path, {})
    served = litert_model.load(str(tmp_path))
    normal = served.normalise(SENT[1])
    assert set(served.build_inputs(normal)) == {"pixels"}
    assert len(served.analyze_faces(Image.open(io.BytesIO(normal))).faces) == 1


@pytest.mark.parametrize("lost", ["faces.json", "embedder.onnx", "detector.onnx"])
def test_a_version_that_has_lost_its_weights_is_not_loaded(version, tmp_path, lost):
    storage.download_tree(str(version), str(tmp_path))
    (tmp_path / litert_model.FOLDER / embedder.FOLDER / lost).unlink()
    integrity.write_record(tmp_path, {})
    with pytest.raises((ValueError, FileNotFoundError), match=r"faces"):
        litert_model.load(str(tmp_path))


def test_the_weights_of_another_embedder_are_refused(version, tmp_path):
    storage.download_tree(str(version), str(tmp_path))
    place = f"{tmp_path}/{litert_model.FOLDER}/{litert_model.METADATA_FILE}"
    told = storage.read_json(place)
    storage.write_json(place, {**told, "reads": {**told["reads"], "embedding": SIZE + 1}})
    integrity.write_record(tmp_path, {})
    with pytest.raises(ValueError, match=rf"expected a portable network at .*{SIZE + 1} numbers, got {SIZE} numbers"):
        litert_model.load(str(tmp_path))


def test_what_is_given_has_to_be_what_the_network_reads(version):
    served = litert_model.load(str(version))
    given = face_inputs.stack_inputs([served.build_inputs(served.normalise(SENT[1]))])
    with pytest.raises(ValueError, match=r"expected beside pixels .*embedding.*got nothing"):
        served.predict(given["pixels"])
    with pytest.raises(ValueError, match=r"expected beside pixels"):
        served.predict({**given, "embedding": given["embedding"][:, 1:]})


# The server


@pytest.fixture(scope="module")
def models(version: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 reads faces and version 2 none; the champion is 1."""
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
    answer = here.post("/v1/models/portraits:predict", json={"instances": [{"image_bytes": {"b64": b64(data)}}]})
    return answer.json()["predictions"][0]["mean"]


def v2(here: Here, data: bytes) -> float:
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [b64(data)]}
    answer = here.post("/v2/models/portraits/infer", json={"inputs": [tensor]}).json()
    return next(each["data"][0] for each in answer["outputs"] if each["name"] == "mean")


def sagemaker(here: Here, data: bytes) -> float:
    answer = here.post("/invocations", content=data, headers={"content-type": "image/jpeg"})
    return answer.json()["predictions"][0]["mean"]


def product(here: Here, data: bytes) -> float:
    return here.post("/score", files=form(data)).json()["photos"][0]["mean"]


@pytest.mark.parametrize("way", [v1, v2, sagemaker, product])
def test_the_server_takes_a_photo_alone_at_every_address(here, expected, way):
    for place in (0, 1):
        assert way(here, SENT[place]) == pytest.approx(expected[place], abs=saved_model.TOLERANCE)


def test_the_face_that_is_told_is_the_one_that_is_read_and_it_is_looked_for_once(here, monkeypatch):
    looks = []
    find = detector.FaceDetector.find
    monkeypatch.setattr(detector.FaceDetector, "find", lambda self, image: looks.append(image) or find(self, image))
    told = here.post("/score", files=form(SENT[1])).json()["photos"][0]["face"]
    assert (told["found"], told["count"], len(looks)) == (True, 1, 1)


def test_no_face_is_data_and_no_error(here):
    (told,) = here.post("/score", files=form(SENT[0])).json()["photos"]
    assert told["face"] == {"found": False, "count": 0, "box": None, "confidence": None}
    assert here.post("/explain", files=form(SENT[0], "photo")).status_code == 200


def test_advice_reads_the_face_anew_only_where_that_is_another(here, expected, monkeypatch):
    reads, scored = [], []
    embed, ask = embedder.Embedder.embed, type(here.state.version_manager.current.network).score_blocking
    monkeypatch.setattr(embedder.Embedder, "embed", lambda self, crops: reads.append(1) or embed(self, crops))
    monkeypatch.setattr(
        type(here.state.version_manager.current.network),
        "score_blocking",
        lambda self, given, job="": ask(self, (scored.append(1) or each for each in given), job),
    )
    told = here.post("/advise", files=form(SENT[1], "photo")).json()
    assert told["mean"] == pytest.approx(expected[1], abs=saved_model.TOLERANCE)
    assert 9 <= len(reads) < len(scored) / 2


def test_about_tells_the_stages(here):
    told = here.get("/about").json()
    assert told["stages"] == ["normalise", "detect", "align", "embed", "score"]
    assert told["faces"] is True


def test_the_server_goes_from_a_version_with_faces_to_one_without_and_back(models, expected, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    with Here(ServerSettings(model=str(tmp_path / "models"), workers=1, interval=0.05)) as server:
        first = v1(server, SENT[1])
        for version in (2, 1):
            channels.set_channel(str(tmp_path / "models"), "portraits", version, channel="champion", why="a test")
            until(lambda version=version: server.get("/about").json()["version"] == version, "the version is served")
            assert server.get("/about").json()["faces"] is (version == 1)
            assert (abs(v1(server, SENT[1]) - first) < 1e-6) is (version == 1)
    assert first == pytest.approx(expected[1], abs=saved_model.TOLERANCE)


def test_the_server_needs_no_tensorflow_to_read_faces(models):
    names = {"tensorflow", "keras", "matplotlib", "pandas", "scipy", "kfp", "onnx"}
    assert imports_of_a_server(models, names) == ([200, 200, 200, 200], [])


# Gates, push


def test_what_faces_cost_is_measured_and_told_by_the_gates(version):
    photos = [decoding.normalise(data, Ingestion()) for data in SENT[:3]]
    answered = export_probe_worker.measure_export(str(version), photos)
    np.testing.assert_allclose(
        answered["alone"]["mean"], answered["together"]["mean"], atol=export_probe.BATCH_TOLERANCE
    )
    assert len(answered["faces_seconds"]) == len(photos)
    assert min(answered["faces_seconds"]) > 0
    found = export_probe.ExportProbeResult(
        3, latency_median=30, latency_95=40, faces_milliseconds=20, size_megabytes=33, faces_megabytes=24
    )
    gates = {gate.key: gate.reason for gate in export_probe.gates(found, Evaluation())}
    assert "median 30 ms, of which 20 ms find and read the face" in gates["latency"]
    assert "33.0 MB, of which 24.0 MB find and read the face" in gates["size"]


def test_push_proves_the_whole_way_and_marks_what_the_saved_model_lacks(scorer, tmp_path):
    scorer.save(tmp_path / "scorer")
    results = judged(tmp_path / "results", decide([PASSED], Policy()))
    place = Place(str(tmp_path / "published"), results)
    uri = place.push(tmp_path / "scorer", photos=[decoding.normalise(data, Ingestion()) for data in SENT[:3]])
    record = storage.read_json(f"{uri}/version.json")
    assert record["stages"] == ["normalise", "detect", "align", "embed", "score"]
    assert record["inputs"] == ["image_bytes", "face", "embedding", "found"]
    card = storage.read_bytes(f"{uri}/model_card.md").decode()
    assert "The SavedModel is not all of this scorer" in card
    assert "portable/faces" in card
    assert saved_model.load_bundle(uri).face_input_spec == scorer.face_input_spec


def test_push_refuses_a_version_that_cuts_faces_otherwise_than_training(scorer, version, tmp_path):
    storage.download_tree(str(version), str(tmp_path))
    place = f"{tmp_path}/{litert_model.FOLDER}/{litert_model.METADATA_FILE}"
    told = storage.read_json(place)
    storage.write_json(place, {**told, "reads": {**told["reads"], "view_scale": 0.9}})
    integrity.write_record(tmp_path, {})
    with pytest.raises(ValueError, match=r"expected the SavedModel of .* to answer as the scorer does"):
        _check_agreement(scorer, str(tmp_path), [decoding.normalise(SENT[1], Ingestion())])


# Real faces


def test_real_photos_score_alike_from_their_own_bytes_on_every_way(portraits, tmp_path):
    names = {"face_detector": "yunet_n_640_640.onnx", "face_embedder": "facenet_512.tflite"}
    given = {name: str(portraits / "weights" / file) for name, file in names.items()}
    weight_files.prepare(from_parameters(Faces, **given), tmp_path / "weights")
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
    normal = [decoding.normalise(data, Ingestion()) for data in sent]
    expected = regression.mean_scores(scorer.score(normal))
    assert scorer.build_inputs(normal)["found"].numpy().sum() >= 10
    assert np.ptp(expected) > 100 * saved_model.TOLERANCE
    np.testing.assert_allclose(saved_model.load(str(uri)).predict(normal)["mean"], expected, atol=saved_model.TOLERANCE)
    with Here(ServerSettings(model=str(uri), workers=1, interval=60.0)) as server:
        found = [sagemaker(server, data) for data in sent]
    np.testing.assert_allclose(found, expected, atol=saved_model.TOLERANCE)
