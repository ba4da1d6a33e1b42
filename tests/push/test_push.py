import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.push.push import Provenance
from components.scorer import storage
from components.scorer.artifacts import bundle, saved_model, warmup
from components.scorer.explain import attribution
from components.scorer.metrics import regression
from components.scorer.model import serving_outputs
from components.scorer.model.encoder import build_encoder
from components.scorer.model.network import build_scorer
from components.scorer.registry import channels, integrity
from components.scorer.run import decision
from components.scorer.run.decision import Decision, GateResult, decide
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Policy
from tests.builders.pushes import PASSED, SETTINGS, Place, bundle_of, judged, tiny
from tests.fakes import gcs, model_registry, s3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tiny(4), tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tiny(5), tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def nima(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The production network at a quarter of its width."""
    return bundle_of(build_scorer(build_encoder(SETTINGS), dropout=0.5), tmp_path_factory.mktemp("nima"))


FAILED = GateResult("srcc", "Ranks as people do", "SRCC", 0.3, 0.5, "failed", "SRCC is .3; it has to be at least .5.")
FORCE = Policy(force_publish=True, force_reason="the champion is broken")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluation results of a scorer that passed its gates."""
    return judged(tmp_path_factory.mktemp("results"), decide([PASSED], Policy()))


@pytest.fixture(scope="module")
def version(nima: Path, results: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a published version."""
    place = Place(str(tmp_path_factory.mktemp("published")), results)
    return place.push(nima)


@pytest.fixture
def place(tmp_path: Path, results: Path) -> Place:
    return Place(str(tmp_path), results)


FILES = {
    "saved_model.pb",
    "fingerprint.pb",
    "version.json",
    "model_card.md",
    "model_card.html",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    warmup.FILE,
    "bundle/scorer.keras",
    "bundle/bundle.json",
    "portable/scorer.tflite",
    "portable/portable.json",
}


# Publishing


@pytest.mark.parametrize(("uri", "server"), [("gs://bucket", "google"), ("s3://bucket", "amazon")])
def test_a_scorer_is_published_to_a_bucket(
    uri: str, server: str, scorer: Path, results: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(server)
    place = Place(uri, results)
    assert place.push(scorer) == f"{uri}/models/portraits/1"
    assert place.files(1) == FILES
    assert place.channels == {"champion": 1, "previous": None}
    assert place.said() == {"version": 1, "uri": f"{uri}/models/portraits/1"}


def test_each_run_publishes_the_next_version_and_moves_the_champion(place: Place, scorer: Path, other: Path) -> None:
    place.push(scorer, "monday")
    assert place.push(other, "tuesday").endswith("/portraits/2")
    assert place.channels == {"champion": 2, "previous": 1}
    assert place.files(1) == place.files(2) == FILES
    assert place.said("tuesday")["version"] == 2


@pytest.fixture(scope="module")
def whole(scorer: Path, results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Provenance]:
    """Publisher and provenance of a published version with a complete record."""
    folder = tmp_path_factory.mktemp("whole")
    storage.write_json(str(folder / "dataset" / "ingestion.json"), {"counts": {"train": 1456}})
    storage.write_bytes(str(folder / "checks" / "profile.json"), b'{"photos": 1989}\n')
    origin = Provenance(
        dataset=folder / "dataset",
        checks=folder / "checks",
        sources={"photos": "gs://the/photos"},
        consent="terms of use, 4",
        images={"steps": "steps@sha256:0"},
    )
    place = Place(str(folder), results)
    place.push(scorer, provenance=origin)
    return place, origin


def test_a_version_carries_the_digest_of_each_of_its_files(whole: tuple[Place, Provenance]) -> None:
    place, _ = whole
    uri = place.said()["uri"]
    digests = {name: hashlib.sha256(storage.read_bytes(f"{uri}/{name}")).hexdigest() for name in place.files(1)}
    del digests["version.json"]
    assert storage.read_json(f"{uri}/version.json")["files"] == digests


def test_a_version_records_its_provenance(whole: tuple[Place, Provenance], scorer: Path) -> None:
    place, origin = whole
    record = storage.read_json(place.said()["uri"] + "/version.json")
    assert record["decision"] == place.decision()
    assert (record["version"], record["run"]) == (1, "run")
    assert (record["revision"], record["data_fingerprint"]) == ("revision", "fingerprint of the data")
    assert (record["sources"], record["consent"]) == (origin.sources, origin.consent)
    assert record["images"] == origin.images
    assert record["settings"] == bundle.load(scorer).settings


def test_the_model_card_holds_facts_of_the_earlier_steps(whole: tuple[Place, Provenance]) -> None:
    uri = whole[0].said()["uri"]
    for name in ("model_card.md", "model_card.html"):
        card = storage.read_bytes(f"{uri}/{name}").decode()
        for fact in ("portraits, version 1", "1,456", "terms of use, 4", "gs://the/photos", "0.671", "revision", uri):
            assert fact in card


def test_the_data_profile_is_a_file_of_the_version(whole: tuple[Place, Provenance]) -> None:
    place, _ = whole
    assert storage.read_bytes(f"{place.said()['uri']}/profile.json") == b'{"photos": 1989}\n'
    assert place.files(1) == FILES | {"profile.json"}


def test_a_version_is_published_without_a_profile_or_any_data_record(
    place: Place, scorer: Path, tmp_path: Path
) -> None:
    origin = Provenance(dataset=tmp_path / "no data set", checks=tmp_path / "no checks")
    bare = tmp_path / "bare"
    decision.write(str(bare / "decision.json"), decision.read(str(place.results / "decision.json")))
    place.push(scorer, provenance=origin, results=bare)
    assert place.files(1) == FILES
    assert place.channels["champion"] == 1


def test_the_model_registry_gets_the_version_and_its_metrics(place: Place, scorer: Path) -> None:
    with model_registry.Server() as registry:
        uri = place.push(scorer, registry=registry.url)
        properties = registry.properties("1")
        assert (properties["run_id"], properties["git_commit"], properties["srcc"]) == ("run", "revision", 0.671)
        assert (properties["data_fingerprint"], properties["decision"]) == ("fingerprint of the data", "published")
        assert [artifact["uri"] for artifact in registry.artifacts] == [uri]
        changes = list(registry.changes)
        place.push(scorer, registry=registry.url)
        assert registry.changes == changes


def test_a_push_succeeds_with_the_registry_down_and_the_next_push_registers_its_version(
    place: Place, scorer: Path, other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("components.scorer.registry.kubeflow.RETRY_SECONDS", 0.0)
    uri = place.push(scorer, "monday", registry="http://127.0.0.1:9")
    assert "push: the model registry was not told everything" in capsys.readouterr().out
    assert place.channels == {"champion": 1, "previous": None}
    assert place.decision("monday")["verdict"] == "published"
    monkeypatch.undo()
    with model_registry.Server() as registry:
        place.push(other, "tuesday", registry=registry.url)
        assert registry.labels() == {"1": {"previous"}, "2": {"champion"}}
        assert uri in [artifact["uri"] for artifact in registry.artifacts]


# The decision


def test_the_decision_names_the_version_that_was_published(whole: tuple[Place, Provenance]) -> None:
    place, _ = whole
    before, after = decision.read(str(place.results / "decision.json")), place.decision()
    assert (after["verdict"], after["published"]) == ("published", place.said())
    assert after == decision.with_publication(before, **place.said())


def test_a_forced_version_is_marked_in_its_decision_its_record_and_its_card(
    place: Place, scorer: Path, tmp_path: Path
) -> None:
    uri = place.push(scorer, results=judged(tmp_path / "forced", decide([FAILED], FORCE)))
    record = storage.read_json(f"{uri}/version.json")["decision"]
    for decision_record in (place.decision(), record):
        assert (decision_record["verdict"], decision_record["override"]) == ("forced", "the champion is broken")
        assert decision_record["published"] == {"version": 1, "uri": uri}
    for card in ("model_card.md", "model_card.html"):
        text = storage.read_bytes(f"{uri}/{card}").decode()
        assert "Forced by a person: the champion is broken" in text
        assert "SRCC is .3; it has to be at least .5." in text


def test_a_push_that_breaks_off_leaves_a_failed_decision_with_the_reason(
    place: Place, scorer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_model, "export", lambda *_: (_ for _ in ()).throw(RuntimeError("disk full\nand more")))
    with pytest.raises(RuntimeError, match="disk full"):
        place.push(scorer)
    failed = place.decision()
    assert (failed["verdict"], failed["published"], failed["publish"]) == ("failed", None, False)
    assert failed["reasons"] == ["push broke off: RuntimeError: disk full"]
    assert [gate["key"] for gate in failed["gates"]] == ["emd"]
    monkeypatch.undo()
    assert place.push(scorer).endswith("/portraits/1")
    assert place.decision()["verdict"] == "published"


def test_an_unwritable_decision_does_not_hide_the_error_of_the_push(
    place: Place, scorer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(place.workspace, "runs", "run", "decision.json").mkdir(parents=True)
    monkeypatch.setattr(saved_model, "export", lambda *_: (_ for _ in ()).throw(RuntimeError("disk full")))
    with pytest.raises(RuntimeError, match="disk full"):
        place.push(scorer)


# Uploading


def test_saved_model_pb_is_the_last_file_to_be_uploaded(google: gcs.Server, scorer: Path, results: Path) -> None:
    Place("gs://bucket", results).push(scorer)
    uploads = [json.loads(request.body.split(b"\r\n\r\n")[1].split(b"\r\n")[0]) for request in google.requests
               if request.query.get("uploadType") == "multipart"]  # fmt: skip
    arrived = [upload["name"] for upload in uploads if "/portraits/1/" in upload["name"]]
    assert len(arrived) == len(FILES)
    assert arrived[-1].endswith("/saved_model.pb")


def test_concurrent_pushes_lose_no_version(place: Place, scorer: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        uris = list(pool.map(lambda run: place.push(scorer, f"run-{run}"), range(3)))
    assert sorted(uri.rsplit("/", 1)[-1] for uri in uris) == ["1", "2", "3"]
    assert [place.files(version) for version in (1, 2, 3)] == [FILES] * 3
    assert place.channels["champion"] == 3


# Refused publications


def test_a_saved_model_with_other_scores_is_removed_and_the_champion_stays(
    place: Place, scorer: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.push(scorer, "good")
    export, wrong_scorer = saved_model.export, bundle.load(scorer)
    monkeypatch.setattr(saved_model, "export", lambda _, folder, name: export(wrong_scorer, folder, name))
    with pytest.raises(
        ValueError, match=r"expected the SavedModel of .*/portraits/2 to answer as the scorer does to within 0.001, but"
    ):
        place.push(other, "bad")
    assert place.files(2) == set()
    assert place.channels == {"champion": 1, "previous": None}
    assert not storage.exists(RunPaths(place.workspace, "bad").published)


def test_a_litert_model_with_other_scores_is_not_published(
    place: Place, scorer: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, wrong_scorer = saved_model.export_litert, bundle.load(scorer)
    monkeypatch.setattr(
        saved_model, "export_litert", lambda _, *folders, **metadata: export(wrong_scorer, *folders, **metadata)
    )
    with pytest.raises(ValueError, match=r"expected the portable network of .*/portraits/1 to answer as the scorer"):
        place.push(other)
    assert place.files(1) == set()


def test_the_test_error_and_the_ingestion_settings_are_published(whole: tuple[Place, Provenance]) -> None:
    metadata = storage.read_json(f"{whole[0].models}/portraits/1/portable/portable.json")
    assert (metadata["error"], metadata["ingestion"]["shorter_side"]) == (0.8, 320)


def test_photos_of_the_caller_are_compared_too(
    place: Place, scorer: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, wrong_scorer = saved_model.export, bundle.load(scorer)
    monkeypatch.setattr(saved_model, "export", lambda _, folder, name: export(wrong_scorer, folder, name))
    monkeypatch.setattr(warmup, "photos", lambda: ())
    with pytest.raises(ValueError, match="on 1 photos"):
        place.push(other, photos=[png(200)])


def test_a_scorer_that_answers_nan_is_not_published(place: Place, scorer: Path, tmp_path: Path) -> None:
    broken = bundle.load(scorer)
    broken.model.get_layer("votes").bias.assign([np.nan] * 10)
    broken.save(tmp_path / "broken")
    with pytest.raises(ValueError, match="differs by nan"):
        place.push(tmp_path / "broken")
    assert place.channels == {}
    assert place.files(1) == set()


def test_a_folder_without_a_bundle_takes_no_version(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no scorer bundle"):
        place.push(tmp_path / "nothing")
    assert not storage.exists(place.models)


def test_a_model_name_with_a_path_is_refused(place: Place, scorer: Path) -> None:
    with pytest.raises(ValueError, match="expected a model name"):
        place.push(scorer, name="../x")


@pytest.mark.parametrize("made", [decide([FAILED], Policy()), Decision("skipped", ["3 new labels."])])
def test_a_refused_or_skipped_scorer_is_not_published(
    place: Place, scorer: Path, tmp_path: Path, made: Decision
) -> None:
    with pytest.raises(ValueError, match=f"expected a decision to publish in .*, got '{made.verdict}'"):
        place.push(scorer, results=judged(tmp_path / "refused", made))
    assert not storage.exists(place.models)
    assert place.decision() is None


def test_without_a_decision_nothing_is_published(place: Place, scorer: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected the decision to publish at .*/decision\.json, found none"):
        place.push(scorer, results=tmp_path)
    assert not storage.exists(place.models)


# Retries


def test_a_run_that_pushes_again_finds_its_own_version(google: gcs.Server, scorer: Path, results: Path) -> None:
    place = Place("gs://bucket", results)
    first_uri = place.push(scorer)
    stored = google.data("bucket")
    for record in ("published", "decision"):  # as if killed just before the last writes
        storage.delete_tree(getattr(RunPaths(place.workspace, "run"), record))
    assert place.push(scorer) == first_uri
    assert google.data("bucket") == stored


def test_a_repeated_older_push_keeps_the_newer_champion(place: Place, scorer: Path, other: Path) -> None:
    place.push(scorer, "monday")
    place.push(other, "tuesday")
    place.push(scorer, "monday")
    assert place.channels == {"champion": 2, "previous": 1}


def test_an_interrupted_upload_leaves_no_file_and_can_be_repeated(
    google: gcs.Server, scorer: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("gs://bucket", results)
    monkeypatch.setattr(storage, "DEADLINE", 0.5)
    google.fail(lambda request: b"/1/saved_model.pb" in request.body[:500], *[503] * 20)
    with pytest.raises(storage.StorageError, match=r"cannot write .*/portraits/1/saved_model\.pb"):
        place.push(scorer)
    assert place.files(1) == set()
    assert place.channels == {}
    google.calm()
    assert place.push(scorer).endswith("/portraits/1")
    assert place.files(1) == FILES


def test_files_of_a_killed_push_are_replaced(place: Place, scorer: Path) -> None:
    export_of_a_killed_push = f"{place.models}/portraits/1/variables/variables.data-00000-of-00002"
    fingerprint = storage.read_json(place.push(scorer, "first") + "/version.json")["scorer"]
    storage.delete_tree(f"{place.models}/portraits")
    assert channels.reserve_version(place.models, "portraits", "second", fingerprint) == 1
    storage.write_bytes(export_of_a_killed_push, b"half")
    assert place.push(scorer, "second").endswith("/portraits/1")
    assert place.files(1) == FILES


# The bundle of a version


@pytest.mark.parametrize(("uri", "server"), [("gs://bucket", "google"), ("s3://bucket", "amazon")])
def test_a_versions_bundle_is_the_published_bundle(
    uri: str, server: str, scorer: Path, results: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(server)
    version = Place(uri, results).push(scorer)
    photos = list(warmup.photos())
    np.testing.assert_array_equal(saved_model.load_bundle(version).score(photos), bundle.load(scorer).score(photos))
    storage.download_tree(f"{version}/bundle", tmp_path / "bundle")
    republished = Place(str(tmp_path), results).push(tmp_path / "bundle")
    assert (
        storage.read_json(f"{republished}/version.json")["scorer"]
        == storage.read_json(f"{version}/version.json")["scorer"]
    )


def test_a_version_is_loaded_without_fetching_unneeded_files(
    version: str, amazon: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.upload_tree(version, "s3://bucket/1")
    fetched_files = []
    download = storage.download_tree

    def recording_download(uri: str, folder: str, *arguments: object) -> None:
        download(uri, folder, *arguments)
        fetched_files.extend(file.name for file in storage.list_files(str(folder)))

    monkeypatch.setattr(storage, "download_tree", recording_download)
    saved_model.load("s3://bucket/1")
    assert set(fetched_files) == {file for file in FILES if not file.startswith(("bundle/", "portable/scorer"))}


def test_a_version_without_its_bundle_is_named_in_the_error(version: str, tmp_path: Path) -> None:
    storage.download_tree(version, tmp_path / "1", exclude=["bundle"])
    with pytest.raises(
        FileNotFoundError, match=r"expected the bundle of a published version in .*/1/bundle, found none"
    ):
        saved_model.load_bundle(str(tmp_path / "1"))


# Explanations


def test_the_explain_signature_has_the_agreed_inputs_and_outputs(version: str) -> None:
    signature = tf.saved_model.load(version).signatures["explain"]
    assert {name: spec.dtype for name, spec in signature.structured_input_signature[1].items()} == {
        "image_bytes": tf.string
    }
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in signature.structured_outputs.items()} == {
        "mean": ([None], tf.float32),
        "std": ([None], tf.float32),
        "distribution": ([None, 10], tf.float32),
        "heatmap": ([None, 1, 1], tf.float32),
        "gains": ([None, 1, 1], tf.float32),
        "class_heatmaps": ([None, 1, 1, 10], tf.float32),
    }


def test_an_explanation_equals_the_scorers_and_holds_the_served_scores(place: Place, scorer: Path) -> None:
    model = saved_model.load(place.push(scorer))
    photos = [*warmup.photos(), png(40), png(200)]
    explained, answers = model.explain(photos, batch_size=2), model.predict(photos)
    for name, values in attribution.explain(bundle.load(scorer), photos).items():
        np.testing.assert_allclose(explained[name], values, atol=1e-5, err_msg=name)
    for name, values in answers.items():
        np.testing.assert_allclose(explained[name], values, atol=1e-5, err_msg=name)
    assert explained["gains"].shape == (5, 7, 7)


def test_explaining_adds_no_copy_of_the_weights(scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_model.export(bundle.load(scorer), tmp_path / "1")
    monkeypatch.setattr(serving_outputs, "is_pooled", lambda model: False)
    saved_model.export(bundle.load(scorer), tmp_path / "2")
    with_maps, without_maps = (
        (tmp_path / number / "variables/variables.data-00000-of-00001").stat().st_size for number in "12"
    )
    assert with_maps < without_maps + 1000


def test_a_version_without_the_explain_signature_scores_and_refuses_to_explain(
    scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_outputs, "is_pooled", lambda model: False)
    saved_model.export(bundle.load(scorer), tmp_path / "1")
    integrity.write_record(tmp_path / "1", {})
    model = saved_model.load(str(tmp_path / "1"))
    assert model.score(list(warmup.photos())).shape == (3, 10)
    with pytest.raises(ValueError, match="published without the signature 'explain'"):
        model.explain(list(warmup.photos()))


# The published model


def png(brightness: int, size: tuple[int, int] = (50, 70)) -> bytes:
    pixels = np.random.default_rng(brightness).normal(brightness, 20, (*size, 3)).clip(0, 255).astype("uint8")
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def test_the_saved_model_gives_the_scorers_votes_for_every_size_and_format(version: str, nima: Path) -> None:
    photos = [*warmup.photos(), *(png(brightness, size) for brightness in (40, 200) for size in ((33, 90), (400, 32)))]
    votes = bundle.load(nima).score(photos)
    answers = saved_model.load(version).predict(photos)
    assert np.ptp(answers["mean"]) > 0.05, "photos that all get the same answer prove nothing"
    np.testing.assert_allclose(answers["distribution"], votes, atol=1e-4)
    np.testing.assert_allclose(answers["mean"], regression.mean_scores(votes), atol=1e-4)
    np.testing.assert_allclose(answers["std"], regression.vote_deviations(votes), atol=1e-4)


def test_the_serving_signature_has_the_agreed_inputs_and_outputs(version: str) -> None:
    signature = tf.saved_model.load(version).signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in inputs.items()} == {
        "image_bytes": ([None], tf.string)
    }
    outputs = signature.structured_outputs
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in outputs.items()} == {
        "mean": ([None], tf.float32),
        "std": ([None], tf.float32),
        "distribution": ([None, 10], tf.float32),
    }


def test_a_photo_gets_the_same_score_in_any_batch(version: str) -> None:
    model = saved_model.load(version)
    photos = [png(brightness) for brightness in range(20, 220, 5)]
    batch_scores = model.score(photos)
    assert batch_scores.shape == (40, 10)
    assert batch_scores.dtype == np.float32
    np.testing.assert_allclose(np.concatenate([model.score([photo]) for photo in photos]), batch_scores, atol=1e-4)


def test_no_photos_get_no_scores(version: str) -> None:
    assert saved_model.load(version).score([]).shape == (0, 10)


def fields(message: bytes) -> dict[int, list[bytes]]:
    """Return the length-delimited fields of a protobuf message by number, without the message's definition."""
    values_by_number: dict[int, list[bytes]] = {}
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = number()
        assert tag & 7 == 2, "expected texts, bytes and messages only"
        length = number()
        values_by_number.setdefault(tag >> 3, []).append(message[position : position + length])
        position += length
    return values_by_number


def test_the_signature_answers_the_warm_up_requests(version: str) -> None:
    model = tf.saved_model.load(version).signatures["serving_default"]
    sizes = []
    for record in tf.data.TFRecordDataset(f"{version}/{warmup.FILE}").as_numpy_iterator():
        # PredictionLog.predict_log = 6, PredictLog.request = 1
        # PredictRequest.model_spec = 1, .inputs = 2; ModelSpec.name = 1, .signature_name = 3
        request = fields(fields(fields(record)[6][0])[1][0])
        assert fields(request[1][0]) == {1: [b"portraits"], 3: [b"serving_default"]}
        entry = fields(request[2][0])
        assert entry[1] == [b"image_bytes"]
        tensor = tf.io.parse_tensor(entry[2][0], tf.string)
        answer = model(image_bytes=tensor)
        assert np.isfinite(answer["mean"].numpy()).all()
        sizes.append(len(tensor))
    assert sizes == [1, 1, 1, 3]


# Finding and loading


def test_a_version_a_model_and_the_folder_of_one_model_all_lead_to_the_version(version: str) -> None:
    model = version.rsplit("/", 1)[0]
    assert [channels.resolve(uri) for uri in (version, model, model.rsplit("/", 1)[0])] == [version] * 3


def test_resolving_a_folder_of_several_models_asks_for_a_name(tmp_path: Path) -> None:
    for name in ("portraits", "pets"):
        channels.promote_pushed(str(tmp_path), name, 1)
    with pytest.raises(ValueError, match=r"expected one model in .*, found \['pets', 'portraits'\]; name one"):
        channels.resolve(str(tmp_path))


def test_resolving_a_folder_without_a_version_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a published version"):
        channels.resolve(str(tmp_path))


def test_a_version_knows_its_number(version: str) -> None:
    assert saved_model.load(version).version == 1


def test_an_incomplete_version_is_not_loaded(version: str, tmp_path: Path) -> None:
    storage.download_tree(version, tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no saved_model\.pb in it"):
        saved_model.load(str(tmp_path / "1"))


def test_a_broken_saved_model_is_named_in_the_error(version: str, tmp_path: Path) -> None:
    storage.download_tree(version, tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a graph")
    integrity.write_record(tmp_path / "1", {})
    with pytest.raises(ValueError, match=r"expected a SavedModel at .*/1, which cannot be read"):
        saved_model.load(str(tmp_path / "1"))


def test_a_saved_model_with_another_signature_is_refused(tmp_path: Path) -> None:
    module = tf.Module()
    module.answer = tf.function(lambda x: {"score": x}, input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.answer})
    integrity.write_record(tmp_path / "1", {})
    with pytest.raises(ValueError, match=r"expected the signature serving_default .* found .* with \['score'\]"):
        saved_model.load(str(tmp_path / "1"))
