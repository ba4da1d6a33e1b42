"""The clients of Triton and KServe as they are published ask the whole server: they are answered, or told why not."""

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

pytestmark = pytest.mark.skipif(not NGINX, reason="Nginx is not installed")


@pytest.fixture(scope="module")
def server(small_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with started(small_models, folder, "--workers", "1", "--body", str(BODY), SCORER_KEYS="open") as running:
        yield running


@pytest.fixture(scope="module")
def mean(server) -> float:
    """The photo's score by the product's own address."""
    answer = httpx.post(f"{server.url}/score", files={"photos": PHOTO}, headers=KEY, timeout=None)
    return answer.json()["photos"][0]["mean"]


# Triton's


@pytest.fixture
def triton(server):
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=None) as client:
        yield client


def infer(client: Any, photo: bytes, model: str = "portraits", shape: tuple[int, ...] = (1,), key: Any = KEY) -> Any:
    asked = tritonclient.http.InferInput("image_bytes", shape, "BYTES")
    asked.set_data_from_numpy(np.full(shape, photo, object))
    return client.infer(model, [asked], headers=key)


def test_tritons_client_finds_server_and_model_ready(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("portraits", headers=KEY)
    assert not triton.is_model_ready("other", headers=KEY)


def test_tritons_client_gets_the_score_of_a_photo_of_any_size(triton, mean):
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
def test_tritons_client_tells_an_error_in_the_servers_words(triton, asked, told):
    with pytest.raises(InferenceServerException) as caught:
        infer(triton, **{"photo": PHOTO, **asked})
    assert str(caught.value) == told


# KServe's


@pytest.fixture(scope="module")
def kserve(server, tmp_path_factory) -> dict[str, Any]:
    """What KServe's client was answered, by protocol and question, in one go: it takes seconds to load."""
    if not KSERVE.exists():
        pytest.skip("run make manifests first: it makes .venv-kserve, with KServe's own client")
    file = tmp_path_factory.mktemp("photo") / "photo.jpg"
    file.write_bytes(PHOTO)
    command = [str(KSERVE), str(ROOT / "tests" / "builders" / "kserve_client.py"), server.url, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserves_client_finds_server_and_model_ready(kserve, protocol):
    told = kserve[protocol]
    assert (told["live"], told["model"]) == (True, True)
    assert told["ready"] is (True if protocol == "v2" else None)  # of which version 1 knows nothing
    assert told["other model"] is False if protocol == "v2" else OTHER in told["other model"]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserves_client_gets_the_score(kserve, protocol, mean):
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
def test_kserves_client_tells_an_error_in_the_servers_words(kserve, protocol, asked, status, told):
    text, sentence = kserve[protocol][asked]
    expected = told[protocol] if isinstance(told, dict) else told
    assert f"'{status} " in text
    assert sentence.startswith(expected)
    assert text.startswith(expected)
