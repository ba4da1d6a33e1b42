"""The served version: resolved, fetched once, switched to if valid, and freed after its last request."""

import asyncio
import base64
import gc
import json
import os
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from components.scorer import storage
from components.scorer.faces.face_inputs import NO_FACE_INPUTS, FaceInputSpec
from components.scorer.registry import channels, integrity
from components.scorer.settings import Ingestion
from images.serving.inference import version_manager, version_source
from images.serving.inference.micro_batcher import BatchedModel, MicroBatcher, PhotoRequest
from images.serving.problem_details import ProblemDetails
from images.serving.prometheus_metrics import ServerMetrics
from images.serving.settings import ServerSettings
from tests.builders.servers import PATIENCE, Here, until
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
B64 = base64.b64encode(PHOTO).decode()
SETTINGS = ServerSettings(workers=1, interval=0.05)


@pytest.fixture
def own(small_models, tmp_path) -> Path:
    """Copy all models to a folder that the test may change."""
    folder = tmp_path / "models"
    shutil.copytree(small_models, folder)
    return folder


def promote(folder: str | Path, version: int) -> None:
    channels.set_channel(str(folder), "portraits", version, why="a test")


def version(here: Here) -> str:
    return here.get("/ready").json()["version"]


def failing(here: Here) -> dict[str, str] | None:
    """Return which version could not be loaded and why; `/ready` shows no reason to strangers."""
    return here.state.version_manager.failure


def score(here: Here) -> dict:
    return here.post("/score", files={"photos": PHOTO}).json()


# Addresses of versions


def test_each_kind_of_address_resolves_to_its_version(own):
    model, pinned = str(own / "portraits"), str(own / "portraits" / "2")
    for address, current in (
        (str(own), f"{model}/1"),
        (model, f"{model}/1"),
        (pinned, pinned),
        (f"file://{pinned}/", pinned),
    ):
        assert version_source.resolve_source(ServerSettings(model=address)).current_uri() == current
    assert version_source.resolve_source(ServerSettings(model=model, version=3)).current_uri() == f"{model}/3"
    promote(own, 2)
    assert version_source.resolve_source(ServerSettings(model=model)).labels() == {"champion": 2, "previous": 1}
    assert version_source.resolve_source(ServerSettings(model=model, channel="previous")).current_uri() == f"{model}/1"


def test_a_model_without_channels_is_served_by_number(own):
    (own / "portraits" / "channels.json").unlink()
    assert version_source.resolve_source(ServerSettings(model=str(own / "portraits"), version=2)).current_uri() == str(
        own / "portraits" / "2"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"model": ""}, "give --model"),
        ({"model": "{own}/nowhere"}, "found neither"),
        ({"model": "{own}", "channel": "challenger"}, "to name a challenger"),
        ({"model": "{own}", "version": 9}, "no saved_model.pb"),
        ({"model": "{own}/portraits/1", "version": 2}, "leave --version 2 out"),
    ],
)
def test_an_address_without_a_version_is_refused_with_what_was_expected(own, more, told):
    more = {name: value.format(own=own) if isinstance(value, str) else value for name, value in more.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        version_source.resolve_source(ServerSettings(**more))


def test_one_of_several_models_must_be_named(own):
    shutil.copytree(own / "portraits", own / "others")
    with pytest.raises(ValueError, match=r"found \['others', 'portraits'\]; name one"):
        version_source.resolve_source(ServerSettings(model=str(own)))


# Fetching


def test_workers_that_need_a_version_at_once_fetch_it_once(small_models, google, tmp_path):
    storage.upload_tree(small_models, "gs://bucket/models")
    google.requests.clear()
    settings = ServerSettings(model="gs://bucket/models", folder=str(tmp_path))
    with ThreadPoolExecutor(4) as pool:  # a lock is its file description's: threads exclude each other as processes do
        folders = set(pool.map(version_source.fetch_version, ["gs://bucket/models/portraits/1"] * 4, [settings] * 4))
    (folder,) = folders
    assert Path(folder, "portable", "scorer.tflite").is_file()
    downloads = [
        request
        for request in google.requests
        if "scorer.tflite" in request.path and request.query.get("alt") == "media"
    ]
    assert len(downloads) == 1


def test_an_interrupted_download_starts_again(small_models, amazon, tmp_path, monkeypatch):
    storage.upload_tree(small_models, "s3://bucket/models")
    uri, original = "s3://bucket/models/portraits/1", storage.download_tree
    settings = ServerSettings(model=uri, folder=str(tmp_path))

    def broken(*arguments):
        original(*arguments)
        raise storage.StorageError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "download_tree", broken)
        with pytest.raises(storage.StorageError):
            version_source.fetch_version(uri, settings)
    assert not list(tmp_path.rglob("*.tflite"))
    folder = version_source.fetch_version(uri, settings)
    assert Path(folder).name == "1"
    assert version_source.fetch_version(uri, settings) == folder


def test_only_the_newest_fetched_versions_are_kept(small_models, amazon, tmp_path):
    for number in range(1, 6):
        storage.upload_tree(small_models / "portraits" / "1", f"s3://bucket/portraits/{number}")
        version_source.fetch_version(
            f"s3://bucket/portraits/{number}", ServerSettings(model="s3://bucket", folder=str(tmp_path))
        )
    assert sorted(path.parent.parent.name for path in tmp_path.rglob("scorer.tflite")) == ["3", "4", "5"]


def test_an_incomplete_version_is_not_fetched(small_models, amazon, tmp_path):
    storage.upload_tree(small_models / "portraits" / "1", "s3://bucket/portraits/1")
    storage.delete_tree("s3://bucket/portraits/1/saved_model.pb")
    with pytest.raises(FileNotFoundError, match=r"found no saved_model.pb"):
        version_source.fetch_version(
            "s3://bucket/portraits/1", ServerSettings(model="s3://bucket", folder=str(tmp_path))
        )


# The last version that answered


@pytest.fixture
def answered(small_models, google, tmp_path) -> ServerSettings:
    """Serve version 1 from a bucket, delete the bucket, and return the settings."""
    storage.upload_tree(small_models, "gs://bucket/models")
    settings = replace(SETTINGS, model="gs://bucket/models/portraits", folder=str(tmp_path / "folder"))
    with Here(settings) as here:
        assert version(here) == "1"
    storage.delete_tree("gs://bucket/models")
    return settings


def test_the_last_version_is_served_when_the_bucket_is_empty(answered):
    with Here(answered) as here:
        assert score(here)["model"]["version"] == 1
        until(lambda: failing(here), "the bucket was polled")  # the last version is loaded before
        assert "found neither" in failing(here)["why"]
        rows = here.post("/v1/models/portraits/labels/champion:predict", json={"instances": [{"b64": B64}]})
        assert rows.status_code == 200


def test_the_last_version_that_answered_is_kept_when_later_ones_are_fetched(answered):
    for number in range(1, 6):
        storage.upload_tree(Path(version_source.read_record(answered).place), f"gs://bucket/others/{number}")
        storage.write_bytes(f"gs://bucket/others/{number}/{channels.COMPLETE}", b"")
        version_source.fetch_version(f"gs://bucket/others/{number}", answered)
    assert Path(version_source.read_record(answered).place, "portable", "scorer.tflite").is_file()


def foreign(copies: Path) -> None:
    os.chown(copies, 12345, -1)


def open_to_all(copies: Path) -> None:
    copies.chmod(0o777)


def linked(copies: Path) -> None:
    copies.rename(copies.with_name("elsewhere"))
    copies.symlink_to("elsewhere")


def half_written(copies: Path) -> None:
    (record,) = copies.glob("answered-*.json")
    record.write_bytes(record.read_bytes()[:20])


def leading_elsewhere(copies: Path) -> None:
    (record,) = copies.glob("answered-*.json")
    record.write_text(record.read_text().replace(str(copies), "/tmp"))


@pytest.mark.parametrize("spoil", [foreign, open_to_all, linked, half_written, leading_elsewhere])
def test_the_last_version_is_not_read_from_an_unsafe_folder_or_a_broken_record(answered, spoil):
    if spoil is foreign and os.geteuid() != 0:
        pytest.skip("gives a folder away, which root alone may")
    assert version_source.read_record(answered).uri.endswith("/1")
    spoil(Path(answered.folder, "versions"))
    assert version_source.read_record(answered) is None


def test_another_address_has_no_last_version(answered):
    assert version_source.read_record(replace(answered, model="gs://bucket/models/others")) is None
    assert version_source.read_record(replace(answered, version=1)) is None


# Following a channel


def test_the_server_follows_its_channel_forth_and_back(own):
    with Here(replace(SETTINGS, model=str(own))) as here:
        for number in ("2", "3", "1"):
            promote(own, int(number))
            until(lambda number=number: version(here) == number, f"version {number} answers")
            assert score(here)["model"]["version"] == int(number)
        labels = here.post("/v1/models/portraits/labels/previous:predict", json={"instances": []})
        assert labels.status_code == 404


def test_the_server_follows_its_channel_in_a_bucket(small_models, google, tmp_path):
    storage.upload_tree(small_models, "gs://bucket/models")
    settings = replace(SETTINGS, model="gs://bucket/models/portraits", folder=str(tmp_path))
    with Here(settings) as here:
        assert score(here)["model"] == {"name": "portraits", "version": 1}
        promote("gs://bucket/models", 2)
        until(lambda: version(here) == "2", "version 2 answers")


def broken_network(folder: Path) -> None:
    (folder / "portable" / "scorer.tflite").write_bytes(b"no network")


def incomplete(folder: Path) -> None:
    (folder / channels.COMPLETE).unlink()


def of_another_kind(folder: Path) -> None:
    (folder / "portable" / "portable.json").write_text("{}")


def of_wrong_norms(folder: Path) -> None:
    (folder / "portable" / "norms.json").write_text('{"norms": [{"key": "x"}]}')


@pytest.mark.parametrize("spoil", [broken_network, incomplete, of_another_kind, of_wrong_norms])
def test_a_version_that_cannot_be_loaded_is_reported_and_the_old_one_stays(own, spoil):
    with Here(replace(SETTINGS, model=str(own))) as here:
        spoil(own / "portraits" / "2")
        integrity.write_record(own / "portraits" / "2", {})  # as if it had been published like this
        promote(own, 2)
        until(lambda: failing(here), "the failure is told")
        assert failing(here)["version"] == str(own / "portraits" / "2")
        assert failing(here)["why"]
        assert here.get("/ready").json()["failing"] is True
        assert here.get("/ready").status_code == 200
        assert score(here)["model"]["version"] == 1
        text = here.get("/metrics").text
        assert "scorer_model_failing 1.0" in text
        assert 'model_loads_total{outcome="failed"}' in text
        promote(own, 3)
        until(lambda: version(here) == "3" and failing(here) is None, "a sound version heals it")


def test_a_version_with_impossible_scores_is_not_switched_to(own, monkeypatch):
    original = BatchedModel.predict

    def predict_nan(self, photos):
        outputs = original(self, photos)
        if self.scorer.version == 2:
            outputs["mean"] = np.full_like(outputs["mean"], np.nan)
        return outputs

    monkeypatch.setattr(BatchedModel, "predict", predict_nan)
    with Here(replace(SETTINGS, model=str(own))) as here:
        promote(own, 2)
        until(lambda: failing(here), "the failure is told")
        assert "expected a score from 1 to 10 for warm-up photo 0, got nan" in failing(here)["why"]
        assert score(here)["model"]["version"] == 1


def test_a_storage_failure_does_not_disturb_the_served_version(own):
    with Here(replace(SETTINGS, model=str(own))) as here:
        file = own / "portraits" / "channels.json"
        text = file.read_text()
        file.write_text("{")
        until(lambda: failing(here), "the outage is told")
        assert score(here)["model"]["version"] == 1
        file.write_text(text)
        until(lambda: failing(here) is None, "it is over")


def test_a_failing_version_is_retried_but_not_at_every_poll(own, monkeypatch):
    tries = []
    load = version_manager.VersionManager._load

    def counting_load(self, uri, folder):
        tries.append(uri)
        return load(self, uri, folder)

    monkeypatch.setattr(version_manager.VersionManager, "_load", counting_load)
    with Here(replace(SETTINGS, model=str(own), interval=0.05)) as here:
        network = own / "portraits" / "2" / "portable" / "scorer.tflite"
        intact = network.read_bytes()
        network.write_bytes(b"")
        promote(own, 2)
        until(lambda: failing(here), "the failure is told")
        for _ in range(5):
            here.run(here.state.version_manager.poll_once())
        assert tries.count(str(own / "portraits" / "2")) <= 2
        network.write_bytes(intact)
        until(lambda: version(here) == "2", "the mended version answers")


def test_a_request_ends_on_the_version_it_started_on_which_is_then_freed(own, monkeypatch):
    entered, may_continue = threading.Event(), threading.Event()
    original = BatchedModel.predict

    def slow_predict(self, photos):
        if self.scorer.version == 1 and self.scorer.uri == str(own / "portraits" / "1") and armed:
            entered.set()
            assert may_continue.wait(PATIENCE)
        return original(self, photos)

    armed = []
    monkeypatch.setattr(BatchedModel, "predict", slow_predict)
    with Here(replace(SETTINGS, model=str(own))) as here:
        armed.append(True)
        old_version = weakref.ref(here.state.version_manager.current)
        pending = here.begin("POST", "/score", files={"photos": PHOTO})
        assert entered.wait(PATIENCE)
        promote(own, 2)
        until(lambda: version(here) == "2", "version 2 answers")
        assert score(here)["model"]["version"] == 2
        assert old_version() is not None
        may_continue.set()
        assert pending.result(PATIENCE).json()["model"]["version"] == 1
        del pending

        def freed() -> bool:
            gc.collect()
            return old_version() is None

        until(freed, "the old version is freed")
        until(
            lambda: not [thread for thread in threading.enumerate() if thread.name == "network-1"],
            "its thread has ended",
        )


# Batching


@dataclass
class Counting:
    """A loaded version for `BatchedModel` that records its batch sizes and waits for an event."""

    sizes: list[int] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    settings: Ingestion = field(default_factory=Ingestion)
    version: int = 1
    jobs: tuple[str, ...] = ()

    face_input_spec: FaceInputSpec = NO_FACE_INPUTS

    def build_inputs(self, photo, analysis=None):
        return {"pixels": np.zeros((4, 4, 3), "float32")}

    def predict(self, inputs, jobs=None):
        assert self.go_on.wait(PATIENCE)
        self.sizes.append(len(inputs["pixels"]))
        return {"mean": np.arange(len(inputs["pixels"]), dtype="float32")}


def put(network: BatchedModel, number: int) -> list:
    """Enqueue photos and return the list that receives them when they are finished."""
    finished: list = []
    for _ in range(number):
        network.enqueue(
            PhotoRequest(b"", inputs={"pixels": np.zeros((4, 4, 3), "float32")}, on_finished=finished.append)
        )
    return finished


def test_waiting_photos_are_scored_together_up_to_the_batch_size():
    portable = Counting()
    network = BatchedModel(portable, ServerSettings(batch=4, workers=1), ServerMetrics())
    first = put(network, 1)
    until(lambda: network._queue.empty(), "the first is being scored")
    later = put(network, 6)
    portable.go_on.set()
    until(lambda: len(first) + len(later) == 7, "all are scored")
    network.close()
    assert portable.sizes == [1, 4, 2]
    assert [float(photo.outputs["mean"]) for photo in later] == [0, 1, 2, 3, 0, 1]  # each photo has its own row


def test_a_single_photo_is_scored_without_waiting():
    portable = Counting()
    portable.go_on.set()
    network = BatchedModel(portable, ServerSettings(deadline=2 * PATIENCE, workers=1), ServerMetrics())
    finished = put(network, 1)
    until(lambda: finished, "it is scored")
    network.close()


def test_a_photo_waits_for_one_being_decoded_up_to_the_deadline():
    portable = Counting()
    portable.go_on.set()
    network = BatchedModel(portable, ServerSettings(deadline=0.3, workers=1), ServerMetrics())
    network.adjust_pending(1)
    put(network, 1)
    put(network, 1)
    until(lambda: sum(portable.sizes) == 2, "both are scored")
    assert portable.sizes == [2]
    put(network, 1)  # no other photo follows
    until(lambda: sum(portable.sizes) == 3, "it is scored alone")
    network.close()


def test_a_network_error_fails_its_photos_and_the_queue_continues():
    portable = Counting()
    portable.go_on.set()
    network = BatchedModel(portable, ServerSettings(workers=1), ServerMetrics())
    failed: list = []
    network.enqueue(PhotoRequest(b"", inputs={"pixels": np.zeros((5, 5, 3))}, on_finished=failed.append))
    until(lambda: failed, "the first is told")
    finished = put(network, 1)
    until(lambda: finished, "the next is scored")
    network.close()
    assert isinstance(finished[0], PhotoRequest)


async def _waited(batching: MicroBatcher, network: BatchedModel) -> list:
    return await batching.score(network, [PHOTO])


def test_a_photo_that_waits_too_long_is_refused_with_retry_after():
    batching = MicroBatcher(ServerSettings(workers=1, seconds=0.1), ServerMetrics())
    portable = Counting()
    portable.go_on.set()
    network = BatchedModel(portable, batching.settings, ServerMetrics())
    batching.settings = replace(batching.settings, seconds=-1.0)  # over before it begins
    (problem,) = asyncio.run(_waited(batching, network))
    assert isinstance(problem, ProblemDetails)
    assert (problem.status, problem.headers["Retry-After"]) == (429, "5")
    assert json.loads(problem.to_response().body)["title"] == "Too Many Requests"
    network.close()
    batching.close()
