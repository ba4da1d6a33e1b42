"""Limits of the whole server: keys before bodies, bounded bodies, and limits for each client."""

import json
import re
import signal
import socket
import time
from contextlib import ExitStack
from http.client import HTTPResponse
from os import kill
from pathlib import Path
from select import select

import httpx
import pytest

from images.serving.http import middleware
from images.serving.process import nginx
from images.serving.settings import ServerSettings, key_digests
from tests.builders.servers import NGINX, PATIENCE, Answer, Request, Server, started, until
from tests.conftest import drawn_photo

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
KEY = {"x-api-key": "open"}
BODY = 3_000_000

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NGINX, reason="Nginx is not installed")]


@pytest.fixture(scope="module")
def locked(small_models, tmp_path_factory):
    """Start a server that needs a key and allows each client three concurrent requests."""
    folder = tmp_path_factory.mktemp("locked")
    options = ("--workers", "2", "--body", str(BODY), "--seconds", "3", "--connections", "3")
    with started(small_models, folder, *options, SCORER_KEYS="open,another") as running:
        yield running


@pytest.fixture(scope="module")
def unlocked(small_models, tmp_path_factory):
    """Start a server without keys behind a proxy on this machine.

    Each client has two concurrent requests and ten a second. All bodies together have two megabytes."""
    folder = tmp_path_factory.mktemp("unlocked")
    options = ("--workers", "1", "--connections", "2", "--rate", "10", "--proxies", "127.0.0.0/8")
    options += ("--held", "2000000", "--body", "1500000")
    with started(small_models, folder, *options) as running:
        yield running


# The key


@pytest.mark.parametrize("size", [100, BODY, None], ids=["small", "large", "in chunks"])
@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_request_without_a_known_key_is_refused_before_its_body_is_sent(locked, size, key):
    with Request(locked, size, **({"X_API_Key": key} if key else {})) as request:
        status, document, answer = request.answer()
    assert status == 401
    assert document == middleware.key_problem().to_document()
    assert answer.headers.get_all("www-authenticate") == ["Bearer"]


def test_a_known_key_allows_bodies_of_any_size(locked):
    for key in (KEY, {"authorization": "Bearer another"}):
        answer = httpx.post(f"{locked.url}/score", files={"photos": PHOTO}, headers=key)
        assert answer.status_code == 200
        large = {"photos": PHOTO + b"\0" * 2_000_000}
        assert httpx.post(f"{locked.url}/score", files=large, headers=key).status_code == 200


def test_probes_and_pages_need_no_key_and_take_no_body(locked):
    for path in ("/live", "/ready", "/ping", "/v2/health/ready", "/docs", "/docs/reference.css", "/"):
        assert httpx.get(f"{locked.url}{path}").status_code == 200
    with Request(locked, 100_000, path="/live") as request:
        assert request.answer()[0] == 413


def test_clients_cannot_reach_nginxs_internal_key_check(locked):
    answer = httpx.get(f"{locked.url}/key")
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


# Bodies


@pytest.mark.parametrize("size", [100, BODY, None], ids=["small", "large", "in chunks"])
def test_a_body_that_arrives_byte_by_byte_is_refused_after_the_time_limit(locked, size):
    """Each byte comes in time, but the whole body does not."""
    with Request(locked, size, X_API_Key="open") as request:
        request.socket.settimeout(0.5)
        received = b""
        for _ in range(2 * int(PATIENCE)):
            request.socket.sendall(b"x" if size else b"1\r\nx\r\n")
            try:
                received = request.socket.recv(10_000)
                break
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408")
    assert b"expected the whole body within 3 s" in received


@pytest.mark.parametrize("size", [100, BODY])
def test_a_connection_whose_body_stops_is_closed(locked, size):
    with Request(locked, size, b"x", X_API_Key="open") as request:
        assert request.socket.recv(1) == b""  # Nginx closes a silent connection without an answer


@pytest.mark.parametrize("size", [900_000, BODY, None])
def test_no_body_is_written_to_a_disk(locked, size):
    length, folder = size or BODY, locked.run() / "body"
    before = folder.stat().st_mtime_ns
    sent = b"x" * (length - 1)
    with Request(locked, size, sent if size else b"%x\r\n%b\r\n" % (length - 1, sent), X_API_Key="open") as request:
        request.socket.sendall(b"x" if size else b"1\r\nx\r\n0\r\n\r\n")
        assert request.answer()[0] == 422
    assert folder.stat().st_mtime_ns == before  # no file was added or removed


def test_a_body_beyond_the_total_limit_is_refused_until_other_requests_end(unlocked):
    clients = (f"198.51.{number // 250}.{number % 250 + 1}" for number in range(10_000))  # each sends one request

    def more(size: int = 1_000_000, sent: int = 1_000_000) -> Request:
        return Request(unlocked, size, b"x" * sent, X_Forwarded_For=next(clients))

    def ask_once() -> Answer:
        with more() as request:
            return request.answer()

    with ExitStack() as stack:

        def holds_room() -> bool:
            """Return whether one large body is held; if two arrive at once, either may be refused."""
            large = stack.enter_context(more(1_500_000, 1_400_000))
            return ask_once()[0] == 429 and not select([large.socket], [], [], 0)[0]

        until(holds_room, "there is no room")
        _, document, answer = ask_once()
        assert "requests of 2000000 bytes are under way" in document["detail"]
        assert answer.headers["retry-after"] == "1"
        assert post(unlocked, {"x-forwarded-for": "192.0.2.6"}).status_code == 200
    until(lambda: ask_once()[0] == 422, "there is room again")


def test_metrics_files_are_kept_in_shared_memory_and_worker_deaths_add_none(locked):
    environment = dict(
        variable.split(b"=", 1)
        for variable in Path(f"/proc/{locked.workers()[0]}/environ").read_bytes().split(b"\0")
        if variable
    )
    folder = Path(environment[b"PROMETHEUS_MULTIPROC_DIR"].decode())
    assert folder.parent == Path("/dev/shm")
    files = {path.name for path in folder.iterdir()}

    def pings() -> float:
        text = httpx.get(f"{locked.url}/metrics", headers=KEY).text
        return float(re.search(r'requests_total\{route="/ping",status="200"\} (\S+)', text)[1])

    for _ in range(8):
        httpx.get(f"{locked.url}/ping")
    before = pings()
    for _ in range(2):
        victim = locked.workers()[0]
        kill(victim, signal.SIGKILL)
        until(lambda victim=victim: victim not in locked.workers() and len(locked.workers()) == 2, "it is replaced")
    until(lambda: {path.name for path in folder.iterdir()} == files, "the files are those of before")
    assert pings() == before


# Each client's limits


def test_a_client_at_its_concurrency_limit_is_refused_while_others_are_answered(locked):
    with ExitStack() as stack:
        for size in (100, 100, BODY):
            stack.enter_context(Request(locked, size, b"x", X_API_Key="open"))
        until(lambda: post(locked, KEY).status_code == 429, "all its places are taken")
        answer = post(locked, KEY)
        assert "at most 3 requests at once" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"
        assert post(locked, {"x-api-key": "another"}).status_code == 200
        assert httpx.get(f"{locked.url}/ready").status_code == 200
    until(lambda: post(locked, KEY).status_code == 200, "its places are free again")


def test_requests_without_a_known_key_do_not_count_towards_a_clients_limit(locked):
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(Request(locked, 100, b"x", X_API_Key="wrong"))
        assert post(locked, KEY).status_code == 200


def test_without_keys_a_client_is_an_address_as_the_proxy_forwards_it(unlocked):
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Request(unlocked, 100, b"x", X_Forwarded_For="192.0.2.1", X_API_Key=str(time.time())))
        until(lambda: post(unlocked, {"x-forwarded-for": "192.0.2.1"}).status_code == 429, "all places are taken")
        assert post(unlocked, {"x-forwarded-for": "192.0.2.2"}).status_code == 200


def test_a_client_above_its_rate_limit_is_refused(unlocked):
    with httpx.Client(base_url=unlocked.url, headers={"x-forwarded-for": "192.0.2.3"}) as client:
        statuses = [client.get("/about").status_code for _ in range(60)]
    assert set(statuses) <= {200, 429}
    assert statuses[:10] == [200] * 10
    assert 429 in statuses


def post(server: Server, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{server.url}/score", files={"photos": PHOTO}, headers=headers)


# Nginx's own errors


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.1\r\nBad Header: x", 400),
        ("GET /problems/400 HTTP/1.1\r\nHost: localhost", 404),
        ("TRACE /about HTTP/1.1\r\nHost: localhost", 405),
        (f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY + 1}", 413),
        (f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: localhost", 431),
        (f"GET /about HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * 20_000}", 431),
        ("POST /score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip", 501),
        ("GET /about HTTP/3.0\r\nHost: localhost", 501),
    ],
)
def test_nginxs_own_errors_are_problem_documents_with_the_security_headers(locked, line, status):
    with socket.create_connection(("127.0.0.1", locked.port), timeout=PATIENCE) as connection:
        connection.sendall(f"{line}\r\n\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        document = json.loads(answer.read())
    assert answer.status == document["status"] == status
    assert document["error"] == document["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    for name, value in middleware.SECURITY_HEADERS.items():
        assert answer.headers.get_all(name) == [value]


def test_the_configuration_has_no_placeholder_left():
    settings = ServerSettings(
        run="/tmp/run", workers=2, keys=key_digests(["x"]), rate=5, proxies=("10.0.0.0/8",), host="::1"
    )
    for name in (nginx.FRONT, nginx.INSIDE):
        assert not re.search("<<|>>", nginx.configuration(settings, name))
