"""Pages of listed origins may call the whole server from a browser and read its errors; no other page may."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.builders import unready
from tests.builders.servers import NGINX, Request, Server, started, until
from tests.conftest import drawn_photo

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
KEY = {"x-api-key": "open"}
LISTED, OTHER = "https://market.example", "https://market.example.stranger.example"
BODY = 100_000
OPTIONS = ("--workers", "1", "--body", str(BODY), "--seconds", "1", "--origins", f"{LISTED},https://second.example")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NGINX, reason="Nginx is not installed")]


@pytest.fixture(scope="module")
def server(small_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with started(small_models, folder, *OPTIONS, module="tests.builders.unready", SCORER_KEYS="open") as running:
        yield running


def ask(server: Server, method: str, path: str, origin: str, **options) -> httpx.Response:
    headers = {"origin": origin, **options.pop("headers", {})}
    return httpx.request(method, f"{server.url}{path}", headers=headers, timeout=None, **options)


def allowed(answer: httpx.Response) -> list[str]:
    """Return the origins that may read an answer; with two of them browsers let nobody read the answer."""
    return answer.headers.get_list("access-control-allow-origin")


def preflight(server: Server, origin: str, headers: str = "x-api-key, content-type") -> httpx.Response:
    request_headers = {"access-control-request-method": "POST", "access-control-request-headers": headers}
    return ask(server, "OPTIONS", "/score", origin, headers=request_headers)


def test_preflight_allows_a_key_and_a_photo_from_a_listed_origin(server):
    answer = preflight(server, LISTED)
    assert (answer.status_code, allowed(answer)) == (200, [LISTED])
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert {"authorization", "content-type", "x-api-key"} <= {
        name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")
    }


def test_preflight_refuses_another_origin(server):
    answer = preflight(server, OTHER)
    assert (answer.status_code, allowed(answer)) == (400, [])


def test_answers_can_be_read_by_listed_origins_only(server):
    for method, path, options in (("GET", "/about", {}), ("POST", "/score", {"files": {"photos": PHOTO}})):
        for origin, readers in (
            (LISTED, [LISTED]),
            ("https://second.example", ["https://second.example"]),
            (OTHER, []),
        ):
            answer = ask(server, method, path, origin, headers=KEY, **options)
            assert (answer.status_code, allowed(answer)) == (200, readers)
            assert "Origin" in answer.headers["vary"]


@contextmanager
def no_version(server: Server):
    (worker,) = server.workers()
    unready.make(server.run(), worker)
    yield
    (server.run() / f"unready-{worker}").unlink()


def too_large(server: Server, origin: str) -> httpx.Response:
    return ask(server, "POST", "/score", origin, headers=KEY, content=bytes(BODY + 1))


def stranger(server: Server, origin: str) -> httpx.Response:
    return ask(server, "POST", "/score", origin, content=PHOTO)


def not_ready(server: Server, origin: str) -> httpx.Response:
    with no_version(server):
        return ask(server, "POST", "/score", origin, headers=KEY, files={"photos": PHOTO})


def nowhere(server: Server, origin: str) -> httpx.Response:
    return ask(server, "GET", "/nowhere", origin, headers=KEY)


@pytest.mark.parametrize("origin", [LISTED, OTHER])
@pytest.mark.parametrize(("fail", "status"), [(too_large, 413), (stranger, 401), (not_ready, 503), (nowhere, 404)])
def test_errors_of_nginx_and_of_workers_can_be_read_by_listed_origins_only(server, fail, status, origin):
    answer = fail(server, origin)
    assert answer.status_code == answer.json()["status"] == status
    assert allowed(answer) == ([LISTED] if origin == LISTED else [])


@pytest.mark.parametrize("origin", [LISTED, OTHER])
def test_the_error_of_a_late_body_can_be_read_by_listed_origins_only(server, origin):
    with Request(server, 100, b"x", X_API_Key="open", Origin=origin) as request:
        request.socket.settimeout(0.4)
        for _ in range(50):
            request.socket.sendall(b"x")
            try:
                answer = request.socket.recv(10_000)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")
    assert (b"Access-Control-Allow-Origin: %b\r\n" % LISTED.encode() in answer) == (origin == LISTED)


def test_retry_after_can_be_read_by_a_listed_origin_when_no_worker_is_left(small_models, tmp_path):
    with started(small_models, tmp_path, *OPTIONS) as server:
        gunicorn, workers = server.gunicorn(), server.workers()
        server.process.send_signal(signal.SIGSTOP)  # otherwise it would end everything with Gunicorn
        try:
            os.kill(gunicorn, signal.SIGKILL)
            until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "no worker is left")
            answers = {origin: ask(server, "GET", "/about", origin) for origin in (LISTED, OTHER)}
        finally:
            server.process.send_signal(signal.SIGCONT)
    assert {answer.status_code for answer in answers.values()} == {502}
    assert {origin: allowed(answer) for origin, answer in answers.items()} == {LISTED: [LISTED], OTHER: []}
    assert answers[LISTED].headers["retry-after"] == "1"
    assert "Retry-After" in answers[LISTED].headers["access-control-expose-headers"]
    assert "Origin" in answers[LISTED].headers["vary"]
