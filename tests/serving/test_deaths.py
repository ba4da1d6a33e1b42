"""A worker dies while storage or the version fails: every request is still answered."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from components.scorer import storage
from components.scorer.registry import channels
from pipeline.cli import main as pipeline
from tests.builders import unready
from tests.builders.servers import NGINX, Load, Request, Server, started, until
from tests.conftest import drawn_photo, large_photo
from tests.fakes import gcs

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
LARGE = large_photo()
WORKERS = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NGINX, reason="needs Nginx, without which a client's own connection dies with it"),
]


@pytest.fixture
def own(small_models, tmp_path) -> Path:
    """Copy all models to a folder that the test may change."""
    folder = tmp_path / "models"
    shutil.copytree(small_models, folder)
    return folder


def answering(server: Server, workers: int) -> None:
    """Wait until this number of workers has loaded a version since the server began."""
    until(lambda: [entry["event"] for entry in server.log()].count("serving") == workers, f"{workers} have answered")


def kill_each_worker(server: Server, load: Load) -> None:
    """Kill one worker after the other; wait each time until the new worker answers."""
    for deaths, victim in enumerate(server.workers(), start=1):
        os.kill(victim, signal.SIGKILL)
        answering(server, WORKERS + deaths)
        before = len(load.statuses)
        until(lambda before=before: len(load.statuses) > before + 20, "requests are answered")


def damaged(models: Path) -> None:
    (models / "portraits" / "1" / "portable" / "scorer.tflite").write_bytes(b"no network")


def half_copied(models: Path) -> None:
    shutil.rmtree(models / "portraits" / "1" / "portable")
    (models / "portraits" / "1" / channels.COMPLETE).unlink()


def half_copied_when_promoted(models: Path) -> None:
    (models / "portraits" / "2" / channels.COMPLETE).unlink()
    channels.set_channel(str(models), "portraits", 2, why="a test")


def without_channels(models: Path) -> None:
    (models / "portraits" / "channels.json").unlink()


@pytest.mark.parametrize("spoil", [damaged, half_copied, half_copied_when_promoted, without_channels])
def test_workers_that_die_while_the_champion_is_damaged_fail_no_request(own, tmp_path, spoil: Callable[[Path], None]):
    with started(own, tmp_path, "--workers", str(WORKERS)) as server, Load(server, PHOTO) as load:
        answering(server, WORKERS)
        spoil(own)
        kill_each_worker(server, load)
    assert set(load.statuses) == {200}
    assert load.versions == {1}


def test_workers_that_die_while_the_bucket_fails_fail_no_request(small_models, tmp_path, monkeypatch):
    with gcs.Server("bucket") as bucket:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
        storage.upload_tree(small_models, "gs://bucket/models")
        with started("gs://bucket/models", tmp_path, "--workers", str(WORKERS)) as server, Load(server, PHOTO) as load:
            answering(server, WORKERS)
            bucket.fail(lambda request: True, *[503] * 100_000)
            kill_each_worker(server, load)
    assert set(load.statuses) == {200}
    assert load.versions == {1}


def test_a_worker_without_a_version_takes_no_request_until_it_has_one(own, tmp_path):
    network = own / "portraits" / "1" / "portable" / "scorer.tflite"
    intact = network.read_bytes()
    with started(own, tmp_path, "--workers", str(WORKERS)) as server, Load(server, PHOTO) as load:
        answering(server, WORKERS)
        damaged(own)
        (copies,) = (tmp_path / "scorer").glob("run-*/versions")
        shutil.rmtree(copies)
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: any(entry["event"] == "failing" for entry in server.log()), "the new worker has no version")
        before = len(load.statuses)
        until(lambda: len(load.statuses) > before + 50, "the other one answers")
        network.write_bytes(intact)
        answering(server, WORKERS + 1)
    assert set(load.statuses) == {200}


def test_a_restarted_server_serves_its_last_version_when_the_bucket_is_empty(small_models, tmp_path, monkeypatch):
    with gcs.Server("bucket") as bucket:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
        storage.upload_tree(small_models, "gs://bucket/models")
        with started("gs://bucket/models", tmp_path, "--workers", "1") as server:
            answering(server, 1)
        storage.delete_tree("gs://bucket/models/portraits")
        with started("gs://bucket/models", tmp_path, "--workers", "1") as server:
            readiness = httpx.get(f"{server.url}/ready").json()
            assert httpx.post(f"{server.url}/score", files={"photos": PHOTO}, timeout=None).status_code == 200
    assert readiness["version"] == "1"
    assert readiness["failing"]


def test_workers_that_die_while_a_large_photo_arrives_fail_no_request(small_models, tmp_path):
    with started(small_models, tmp_path, "--workers", str(WORKERS)) as server:
        answering(server, WORKERS)
        with Request(server, len(LARGE), LARGE[:-1000], Content_Type="image/jpeg") as request:
            for deaths, victim in enumerate(server.workers(), start=1):
                os.kill(victim, signal.SIGKILL)
                answering(server, WORKERS + deaths)
            request.socket.sendall(LARGE[-1000:])
            status, document, _ = request.answer()
    assert status == 200
    assert 1 < document["predictions"][0]["mean"] < 10


def test_a_large_photo_that_reaches_a_worker_without_a_version_is_answered_by_another_worker(small_models, tmp_path):
    with started(small_models, tmp_path, "--workers", str(WORKERS), module="tests.builders.unready") as server:
        answering(server, WORKERS)
        unready.make(server.run(), server.workers()[0])
        with httpx.Client(base_url=server.url, timeout=None) as client:
            statuses = [client.post("/score", files={"photos": LARGE}).status_code for _ in range(6)]
            metrics = client.get("/metrics").text
    assert statuses == [200] * 6
    assert 'scorer_requests_total{route="/score",status="503"}' in metrics


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_server_of_a_fixed_version_survives_its_removal_and_worker_deaths(own, tmp_path, google, place):
    for version in (2, 3):
        channels.set_channel(str(own), "portraits", version, why="a test")
    models = str(own)
    if place == "bucket":
        models = "gs://bucket/models"
        storage.upload_tree(own, models)
    with started(models, tmp_path, "--workers", str(WORKERS), "--version", "1") as server, Load(server, PHOTO) as load:
        answering(server, WORKERS)
        assert pipeline.main(["models", "gc", f"{models}/portraits", "--keep", "0"]) == 0
        assert not storage.exists(f"{models}/portraits/1/{channels.COMPLETE}")
        kill_each_worker(server, load)
    assert set(load.statuses) == {200}
    assert load.versions == {1}
