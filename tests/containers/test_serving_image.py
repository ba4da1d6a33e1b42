"""The server image: its size, its content, and requests, version switches and shutdown of a confined container."""

import base64
import json
import math
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from components.scorer import storage
from components.scorer.artifacts import litert_model
from components.scorer.registry import channels
from tests.benchmarks import serving_load
from tests.conftest import drawn_photo
from tests.containers.conftest import readable
from tests.containers.engine import Container, container, docker, revision

LIMIT = 700e6  # bytes
PATIENCE = 180.0  # seconds for a container to get ready or to answer on a busy machine
NAME = "anna-muster.jpg"
PHOTO = drawn_photo(0.6, seed=4, size=(300, 400))
get, post = (partial(call, timeout=PATIENCE) for call in (httpx.get, httpx.post))


@pytest.fixture(scope="session")
def models(tmp_path_factory, small_scorer) -> Path:
    """Models folder with one model of two versions with different scores; version 1 is the champion."""
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import integrity

    folder = tmp_path_factory.mktemp("models")
    scorer = bundle.load(small_scorer)
    for version in (1, 2):
        uri = channels.address(str(folder), "portraits", version)
        saved_model.export(scorer, uri, "portraits")
        saved_model.export_litert(scorer, uri, "portraits")
        integrity.write_record(uri, {})
        votes = scorer.model.get_layer("votes")
        votes.set_weights([weight + 0.5 * np.linspace(-1, 1, weight.shape[-1]) for weight in votes.get_weights()])
    channels.promote_pushed(str(folder), "portraits", 1, why="the first")
    return readable(folder)


def promote(models: Path, version: int) -> None:
    channels.set_channel(str(models), "portraits", version, why="a test")
    readable(models)


def ready(served: Container) -> str:
    """Wait until the container is ready and return its address."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if get(f"{served.url}/ready").status_code == 200:
                return served.url
        except (httpx.HTTPError, ValueError, AssertionError):
            assert served.state["Running"], served.logs()
        time.sleep(0.1)
    raise AssertionError(f"not ready after {PATIENCE} s\n{served.logs()}")


PUBLISHED = ("--publish", "127.0.0.1::8080")


@pytest.fixture(scope="module")
def served(serving, models) -> Iterator[Container]:
    """A confined container that follows the champion."""
    words = ("--model", "/models/portraits", "--interval", "0.2", "--drain", "1")
    with container(serving.tag, *words, options=PUBLISHED, mounts={models: "/models:ro"}) as started:
        ready(started)
        yield started


def score(url: str, photo: bytes = PHOTO) -> dict:
    answer = post(f"{url}/score", files={"photos": (NAME, photo, "image/jpeg")})
    assert answer.status_code == 200, answer.text
    return answer.json()


def under_way(url: str) -> float:
    """Return the number of photos in flight in the server."""
    (value,) = re.findall(r"^\w*photos_in_flight (\S+)$", get(f"{url}/metrics").text, re.MULTILINE)
    return float(value)


def expected(models: Path, version: int) -> float:
    """Return the score of the same version outside the container."""
    scorer = litert_model.load(channels.address(str(models), "portraits", version))
    return float(scorer.predict(scorer.pixels(scorer.normalise(PHOTO))[None])["mean"][0])


def test_the_image_is_within_its_size_limit(serving, capsys):
    with capsys.disabled():
        print(f"\nserving: {serving.bytes / 1e6:.0f} MB of {LIMIT / 1e6:.0f} MB, built in {serving.seconds:.0f} s")
    assert serving.bytes <= LIMIT


def test_the_image_runs_as_a_numeric_user_and_has_a_revision_label_and_a_health_check(serving):
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", serving.tag))
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == revision()
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_the_image_holds_neither_a_compiler_nor_tensorflow_nor_training(serving):
    code = """
import importlib.util as found, shutil
print([tool for tool in ("gcc", "cc", "make") if shutil.which(tool)])
print([name for name in ("tensorflow", "keras", "kfp", "pip", "components.training") if found.find_spec(name)])
"""
    options = ("--entrypoint", "python", "--network", "none")
    with container(serving.tag, "-c", code, options=options) as running:
        assert running.wait() == 0, running.logs()
        assert running.logs().split("\n")[:2] == ["[]", "[]"]


def test_without_a_model_the_server_names_the_missing_option(serving):
    with container(serving.tag) as running:
        assert running.wait() == 2
        assert "give --model" in running.logs()


def test_the_container_gives_the_score_of_the_version_outside_the_container(served, models):
    assert abs(score(served.url)["photos"][0]["mean"] - expected(models, 1)) < 1e-3


def test_the_server_answers_the_protocols_of_sagemaker_and_kserve(served):
    url, encoded = served.url, base64.b64encode(PHOTO).decode()
    assert get(f"{url}/ping").status_code == 200
    body = {"instances": [{"image_bytes": {"b64": encoded}}]}
    for address in ("/invocations", "/v1/models/portraits:predict"):
        answer = post(url + address, json=body)
        assert 1 <= answer.json()["predictions"][0]["mean"] <= 10, answer.text
    assert get(f"{url}/v2/health/ready").status_code == 200


def test_the_server_gives_prometheus_metrics_and_the_desk(served):
    assert "# TYPE" in get(f"{served.url}/metrics").text
    assert "text/html" in get(served.url, headers={"Accept": "text/html"}).headers["content-type"]


def test_dockers_health_check_passes(serving, models):
    options = (*PUBLISHED, "--health-interval", "1s")
    with container(serving.tag, "--model", "/models", options=options, mounts={models: "/models:ro"}) as started:
        end = time.monotonic() + PATIENCE
        while (health := started.state["Health"]["Status"]) != "healthy" and time.monotonic() < end:
            time.sleep(0.5)
        assert health == "healthy", started.logs()


def test_nginx_answers_413_to_a_body_that_is_too_large(served):
    answer = post(f"{served.url}/score", content=bytes(33 * 2**20), headers={"content-type": "image/jpeg"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_server_withstands_load_within_its_memory(served, capsys):
    """Send the benchmark's requests through Nginx; print the rate only, because the machine may be busy."""
    port = int(served.url.rsplit(":", 1)[1])
    assert get(f"{served.url}/ready").headers["server"] == "nginx"
    load = serving_load._ask(SimpleNamespace(port=port), serving_load._predict("portraits"), serving_load.CLIENTS, 5.0)
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", served.id).split("/")[0].strip()
    with capsys.disabled():
        print(f"\nload: {load.rate:.0f} photos/s, median {load.median:.3f} s, 99 % {load.p99:.3f} s; {used}")
    assert set(load.statuses) == {200}
    assert used.endswith("MiB")  # all workers, Nginx and what is in /tmp: the manifests allow 2 GiB
    assert float(used.removesuffix("MiB")) < 1024


def test_versions_are_switched_under_load_without_a_failed_request(served, models):
    url, answers, stop = served.url, [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while not stop.is_set():
                answer = client.post(f"{url}/score", files={"photos": (NAME, PHOTO, "image/jpeg")})
                answers.append((answer.status_code, answer.json().get("model", {}).get("version")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 1, 2):
            promote(models, version)
            end = time.monotonic() + PATIENCE
            while str(score(url)["model"]["version"]) != str(version):
                assert time.monotonic() < end, served.logs()
                time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert {str(version) for _, version in answers} == {"1", "2"}
    assert abs(score(url)["photos"][0]["mean"] - expected(models, 2)) < 1e-3


def test_a_request_in_flight_is_answered_before_the_container_stops(served):
    url, files = served.url, [("photos", (NAME, PHOTO, "image/jpeg"))] * 32
    with ThreadPoolExecutor(1) as client:
        requests: list[Future] = []
        while not under_way(url):
            assert len(requests) < 50, "no request was ever seen in flight"
            if not requests or requests[-1].done():  # answered between two checks
                requests.append(client.submit(post, f"{url}/score", files=files))
        code = served.stop()
    assert code == 0, served.logs()
    assert {request.result().status_code for request in requests} == {200}


def test_the_log_is_lines_of_json_without_file_names_of_photos(served):
    # Every worker writes LiteRT's own messages in pieces; LiteRT has no switch for them.
    text = re.sub(r"INFO: |Created TensorFlow Lite XNNPACK delegate for CPU\.", "", served.logs())
    entries = [json.loads(line) for line in text.splitlines() if line]
    assert {"started", "serving", "draining", "stopped"} <= {entry["event"] for entry in entries}
    assert NAME not in text
    # A request of a test, and requests that Nginx gave to the next worker because the first was not up yet.
    harmless = ("too large body", "while connecting to upstream")
    errors = [entry.get("message", "") for entry in entries if entry["level"] == "error"]
    assert [message for message in errors if not message.endswith(harmless[1]) and harmless[0] not in message] == []


def test_the_server_loads_its_model_from_a_bucket(serving, models, google):
    storage.upload_tree(models, "gs://bucket/models")
    options = ("--network", "host", "--env", f"STORAGE_EMULATOR_HOST={google.url}")
    words = ("--model", "gs://bucket/models/portraits", "--port", "18080", "--host", "127.0.0.1")
    with container(serving.tag, *words, options=options) as started:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if get("http://127.0.0.1:18080/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end, started.logs()
            time.sleep(0.1)
        assert 1 <= score("http://127.0.0.1:18080")["photos"][0]["mean"] <= 10


def test_sagemaker_starts_the_server_with_the_word_serve(serving, models):
    with container(serving.tag, "serve", options=PUBLISHED, mounts={models: "/opt/ml/model:ro"}) as started:
        answer = post(f"{ready(started)}/invocations", content=PHOTO, headers={"content-type": "application/x-image"})
        assert math.isfinite(answer.json()["predictions"][0]["mean"])


def test_the_server_does_not_switch_to_a_broken_version(serving, models, tmp_path):
    models_copy = tmp_path / "models"
    shutil.copytree(models, models_copy)
    (models_copy / "portraits" / "3" / "portable").mkdir(parents=True)
    (models_copy / "portraits" / "3" / "saved_model.pb").write_bytes(b"")
    promote(models_copy, 1)
    words = ("--model", "/models/portraits", "--interval", "0.2")
    with container(serving.tag, *words, options=PUBLISHED, mounts={readable(models_copy): "/models:ro"}) as started:
        url = ready(started)
        promote(models_copy, 3)
        end = time.monotonic() + PATIENCE
        while not get(f"{url}/ready").json()["failing"]:
            assert time.monotonic() < end, started.logs()
            time.sleep(0.1)
        assert str(score(url)["model"]["version"]) == "1"
