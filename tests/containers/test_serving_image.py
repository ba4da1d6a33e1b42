"""The image of the server: its size, what it lacks, and a confined container that is asked, switched and stopped."""

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
PATIENCE = 180.0  # seconds with a container that gets ready, or answers, on a busy machine
NAME = "anna-muster.jpg"
PHOTO = drawn_photo(0.6, seed=4, size=(300, 400))
get, post = (partial(call, timeout=PATIENCE) for call in (httpx.get, httpx.post))


@pytest.fixture(scope="session")
def models(tmp_path_factory, small_scorer) -> Path:
    """The folder of all models: one, with two versions that answer differently; the first is champion."""
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import integrity

    folder = tmp_path_factory.mktemp("models")
    made = bundle.load(small_scorer)
    for version in (1, 2):
        place = channels.address(str(folder), "portraits", version)
        saved_model.export(made, place, "portraits")
        saved_model.export_litert(made, place, "portraits")
        integrity.write_record(place, {})
        votes = made.model.get_layer("votes")
        votes.set_weights([weight + 0.5 * np.linspace(-1, 1, weight.shape[-1]) for weight in votes.get_weights()])
    channels.promote_pushed(str(folder), "portraits", 1, why="the first")
    return readable(folder)


def promote(models: Path, version: int) -> None:
    channels.set_channel(str(models), "portraits", version, why="a test")
    readable(models)


def ready(served: Container) -> str:
    """The container's address, once it is ready."""
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
    """Photos that the server has begun with and not answered."""
    (told,) = re.findall(r"^\w*photos_in_flight (\S+)$", get(f"{url}/metrics").text, re.MULTILINE)
    return float(told)


def expected(models: Path, version: int) -> float:
    """The score by the same version outside the container."""
    own = litert_model.load(channels.address(str(models), "portraits", version))
    return float(own.predict(own.pixels(own.normalise(PHOTO))[None])["mean"][0])


def test_the_image_is_within_its_size(serving, capsys):
    with capsys.disabled():
        print(f"\nserving: {serving.bytes / 1e6:.0f} MB of {LIMIT / 1e6:.0f} MB, built in {serving.seconds:.0f} s")
    assert serving.bytes <= LIMIT


def test_it_runs_as_a_number_names_its_revision_and_tells_its_health(serving):
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", serving.tag))
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == revision()
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_there_is_neither_a_compiler_nor_tensorflow_nor_training_in_it(serving):
    code = """
import importlib.util as found, shutil
print([tool for tool in ("gcc", "cc", "make") if shutil.which(tool)])
print([name for name in ("tensorflow", "keras", "kfp", "pip", "components.training") if found.find_spec(name)])
"""
    options = ("--entrypoint", "python", "--network", "none")
    with container(serving.tag, "-c", code, options=options) as ran:
        assert ran.wait() == 0, ran.logs()
        assert ran.logs().split("\n")[:2] == ["[]", "[]"]


def test_without_a_model_it_says_what_is_missing(serving):
    with container(serving.tag) as ran:
        assert ran.wait() == 2
        assert "give --model" in ran.logs()


def test_it_scores_as_the_version_does_outside_of_it(served, models):
    assert abs(score(served.url)["photos"][0]["mean"] - expected(models, 1)) < 1e-3


def test_it_answers_the_contracts_of_sagemaker_and_kserve(served):
    url, encoded = served.url, base64.b64encode(PHOTO).decode()
    assert get(f"{url}/ping").status_code == 200
    body = {"instances": [{"image_bytes": {"b64": encoded}}]}
    for address in ("/invocations", "/v1/models/portraits:predict"):
        answer = post(url + address, json=body)
        assert 1 <= answer.json()["predictions"][0]["mean"] <= 10, answer.text
    assert get(f"{url}/v2/health/ready").status_code == 200


def test_it_tells_prometheus_and_shows_the_desk(served):
    assert "# TYPE" in get(f"{served.url}/metrics").text
    assert "text/html" in get(served.url, headers={"Accept": "text/html"}).headers["content-type"]


def test_docker_finds_it_healthy(serving, models):
    options = (*PUBLISHED, "--health-interval", "1s")
    with container(serving.tag, "--model", "/models", options=options, mounts={models: "/models:ro"}) as started:
        end = time.monotonic() + PATIENCE
        while (health := started.state["Health"]["Status"]) != "healthy" and time.monotonic() < end:
            time.sleep(0.5)
        assert health == "healthy", started.logs()


def test_nginx_answers_for_a_body_that_is_too_large(served):
    answer = post(f"{served.url}/score", content=bytes(33 * 2**20), headers={"content-type": "image/jpeg"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_it_withstands_load_within_its_memory(served, capsys):
    """The clients of the benchmark, through the container's Nginx; the rate is told, for the machine may be busy."""
    port = int(served.url.rsplit(":", 1)[1])
    assert get(f"{served.url}/ready").headers["server"] == "nginx"
    found = serving_load._ask(SimpleNamespace(port=port), serving_load._predict("portraits"), serving_load.CLIENTS, 5.0)
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", served.id).split("/")[0].strip()
    with capsys.disabled():
        print(f"\nload: {found.rate:.0f} photos/s, median {found.median:.3f} s, 99 % {found.p99:.3f} s; {used}")
    assert set(found.statuses) == {200}
    assert used.endswith("MiB")  # all workers, Nginx and what is in /tmp: the manifests allow 2 GiB
    assert float(used.removesuffix("MiB")) < 1024


def test_versions_are_switched_under_load_without_a_failed_request(served, models):
    url, told, stop = served.url, [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while not stop.is_set():
                answer = client.post(f"{url}/score", files={"photos": (NAME, PHOTO, "image/jpeg")})
                told.append((answer.status_code, answer.json().get("model", {}).get("version")))

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
    assert {status for status, _ in told} == {200}
    assert {str(version) for _, version in told} == {"1", "2"}
    assert abs(score(url)["photos"][0]["mean"] - expected(models, 2)) < 1e-3


def test_a_request_in_flight_is_answered_before_the_container_ends_by_itself(served):
    url, files = served.url, [("photos", (NAME, PHOTO, "image/jpeg"))] * 32
    with ThreadPoolExecutor(1) as client:
        asked: list[Future] = []
        while not under_way(url):
            assert len(asked) < 50, "no request was ever seen in flight"
            if not asked or asked[-1].done():  # answered between two looks
                asked.append(client.submit(post, f"{url}/score", files=files))
        code = served.stop()
    assert code == 0, served.logs()
    assert {each.result().status_code for each in asked} == {200}


def test_the_log_is_lines_of_json_without_a_photos_name(served):
    # LiteRT's own words, written piece by piece by every worker, which cannot be taken from it.
    text = re.sub(r"INFO: |Created TensorFlow Lite XNNPACK delegate for CPU\.", "", served.logs())
    told = [json.loads(line) for line in text.splitlines() if line]
    assert {"started", "serving", "draining", "stopped"} <= {each["event"] for each in told}
    assert NAME not in text
    # What a test has sent; and requests that Nginx gave to the next worker, for the first was not there yet.
    harmless = ("too large body", "while connecting to upstream")
    errors = [each.get("message", "") for each in told if each["level"] == "error"]
    assert [message for message in errors if not message.endswith(harmless[1]) and harmless[0] not in message] == []


def test_it_serves_from_a_bucket(serving, models, google):
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


def test_sagemaker_starts_it_by_one_word(serving, models):
    with container(serving.tag, "serve", options=PUBLISHED, mounts={models: "/opt/ml/model:ro"}) as started:
        answer = post(f"{ready(started)}/invocations", content=PHOTO, headers={"content-type": "application/x-image"})
        assert math.isfinite(answer.json()["predictions"][0]["mean"])


def test_a_broken_version_is_not_switched_to(serving, models, tmp_path):
    own = tmp_path / "models"
    shutil.copytree(models, own)
    (own / "portraits" / "3" / "portable").mkdir(parents=True)
    (own / "portraits" / "3" / "saved_model.pb").write_bytes(b"")
    promote(own, 1)
    words = ("--model", "/models/portraits", "--interval", "0.2")
    with container(serving.tag, *words, options=PUBLISHED, mounts={readable(own): "/models:ro"}) as started:
        url = ready(started)
        promote(own, 3)
        end = time.monotonic() + PATIENCE
        while not get(f"{url}/ready").json()["failing"]:
            assert time.monotonic() < end, started.logs()
            time.sleep(0.1)
        assert str(score(url)["model"]["version"]) == "1"
