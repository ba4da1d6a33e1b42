"""The published clients of Triton and KServe ask the whole server and get its answers and errors."""

import json
import subprocess
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from images.serving.http import middleware
from tests.builders.servers import NGINX, ROOT, started
from tests.conftest import drawn_photo

KSERVE = ROOT / ".venv-kserve" / "bin" / "python"
PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
KEY = {"x-api-key": "open"}
BODY = 3_000_000
NO_KEY = middleware.key_problem().detail
OTHER = "expected the model 'portraits', got 'other'"
TOO_LARGE = f"expected at most {BODY} bytes in a request, got more: send fewer or smaller photos"
SHAPE = "input 'image_bytes': expected the shape [n] or [n, 1], got [1, 2]"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NGINX, reason="Nginx is not installed")]


@pytest.fixture(scope="module")
def server(small_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with started(small_models, folder, "--workers", "1", "--body", str(BODY), SCORER_KEYS="open") as running:
        yield running


@pytest.fixture(scope="module")
def mean(server) -> float:
    """Return the photo's score from the project's own route."""
    answer = httpx.post(f"{server.url}/score", files={"photos": PHOTO}, headers=KEY, timeout=None)
    return answer.json()["photos"][0]["mean"]


# Triton's


@pytest.fixture
def triton(server):
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=None) as client:
        yield client


def infer(client: Any, photo: bytes, model: str = "portraits", shape: tuple[int, ...] = (1,), key: Any = KEY) -> Any:
    tensor = tritonclient.http.InferInput("image_bytes", shape, "BYTES")
    tensor.set_data_from_numpy(np.full(shape, photo, object))
    return client.infer(model, [tensor], headers=key)


def test_triton_client_finds_server_and_model_ready(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("portraits", headers=KEY)
    assert not triton.is_model_ready("other", headers=KEY)


def test_triton_client_gets_the_score_of_a_photo_of_any_size(triton, mean):
    for photo in (PHOTO, PHOTO + b"x" * 2_000_000):
        answer = infer(triton, photo)
        assert answer.as_numpy("mean") == pytest.approx([mean])
        assert answer.as_numpy("distribution").shape == (1, 10)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"model": "other"}, f"[404] {OTHER}"),
        ({"shape": (1, 2)}, f"[400] {SHAPE}"),
        ({"key": {"x-api-key": "wrong"}}, f"[401] {NO_KEY}"),
        ({"photo": b"x" * (BODY + 1)}, f"[413] {TOO_LARGE}"),
    ],
)
def test_triton_client_raises_the_servers_error_message(triton, asked, told):
    with pytest.raises(InferenceServerException) as caught:
        infer(triton, **{"photo": PHOTO, **asked})
    assert str(caught.value) == told


# KServe's


@pytest.fixture(scope="module")
def kserve(server, tmp_path_factory) -> dict[str, Any]:
    """Return the answers of KServe's client, by protocol and question; one process asks all, as it loads slowly."""
    if not KSERVE.exists():
        pytest.skip("run make manifests first: it makes .venv-kserve, with KServe's own client")
    file = tmp_path_factory.mktemp("photo") / "photo.jpg"
    file.write_bytes(PHOTO)
    command = [str(KSERVE), str(ROOT / "tests" / "builders" / "kserve_client.py"), server.url, str(file)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserve_client_finds_server_and_model_ready(kserve, protocol):
    answers = kserve[protocol]
    assert (answers["live"], answers["model"]) == (True, True)
    assert answers["ready"] is (True if protocol == "v2" else None)  # version 1 has no readiness of the server
    assert answers["other model"] is False if protocol == "v2" else OTHER in answers["other model"]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserve_client_gets_the_score(kserve, protocol, mean):
    assert kserve[protocol]["score"] == pytest.approx(mean)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ("of other", 404, OTHER),
        ("misshapen", 400, {"v1": 'instance 0: expected {"image_bytes"', "v2": SHAPE}),
        ("stranger", 401, NO_KEY),
        ("too large", 413, TOO_LARGE),
    ],
)
def test_kserve_client_raises_the_servers_error_message(kserve, protocol, asked, status, told):
    text, sentence = kserve[protocol][asked]
    expected = told[protocol] if isinstance(told, dict) else told
    assert f"'{status} " in text
    assert sentence.startswith(expected)
    assert text.startswith(expected)
