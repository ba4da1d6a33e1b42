"""Unusual folders, hosts and ports: the server starts, or says in one line why it cannot."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.builders.servers import NGINX, ROOT, free_port, started
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))


def score(url: str) -> int:
    return httpx.post(f"{url}/score", files={"photos": PHOTO}, timeout=None).status_code


@pytest.mark.parametrize("name", ["with blanks", "a;b{c}#d'é", "a/b/c"])
def test_a_server_starts_in_a_folder_of_any_name(small_models, tmp_path, name):
    with started(small_models, tmp_path, "--workers", "1", "--folder", str(tmp_path / name)) as server:
        assert score(server.url) == 200


def test_a_relative_folder_is_relative_to_the_working_directory(small_models, tmp_path):
    folder = os.path.relpath(tmp_path / "own", ROOT)
    with started(os.path.relpath(small_models, ROOT), tmp_path, "--workers", "1", "--folder", folder) as server:
        assert score(server.url) == 200
        assert list((tmp_path / "own").glob("run-*"))


@pytest.mark.parametrize("options", [(), ("--no-nginx",)])
@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "localhost"])
def test_a_host_is_an_ipv4_or_ipv6_address_or_a_name(small_models, tmp_path, host, options):
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine does not speak IPv6")
    client_host = host if host == "localhost" else "[::1]"
    with started(small_models, tmp_path, "--workers", "1", "--host", host, *options, host=client_host) as server:
        assert score(server.url) == 200


@pytest.mark.parametrize("options", [(), ("--no-nginx",)])
def test_the_metrics_port_needs_no_key(small_models, tmp_path, options):
    port = free_port()
    options = ("--workers", "1", "--metrics-port", str(port), *options)
    with started(small_models, tmp_path, *options, SCORER_KEYS="open") as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        scraped = httpx.get(f"http://127.0.0.1:{port}/metrics")
        answer = httpx.get(f"{server.url}/metrics", headers={"x-api-key": "open"})
    assert scraped.status_code == 200
    assert 'scorer_requests_total{route="/ready",status="200"}' in scraped.text
    assert 'scorer_requests_total{route="/ready",status="200"}' in answer.text


def test_a_metrics_port_in_use_is_refused_in_one_line(small_models, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        options = ("--host", "127.0.0.1", "--metrics-port", port, "--folder", str(tmp_path))
        assert f"cannot listen at port {port}" in refused(small_models, "--port", str(free_port()), *options)


def refused(models: Path, *options: str) -> str:
    """Return the error line of a server that does not start."""
    command = [sys.executable, "-m", "images.serving", "--model", str(models), *options]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    return line


def a_file(place: Path) -> Path:
    place.write_text("x")
    return place


def below_a_file(place: Path) -> Path:
    return a_file(place) / "folder"


def of_another(place: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("gives a folder away, which root alone may")
    place.mkdir()
    os.chown(place, 12345, 12345)
    return place


FOLDERS: list[tuple[Callable[[Path], Path], str]] = [
    (a_file, "File exists"),
    (below_a_file, "Not a directory"),
    (of_another, "is another's: give another --folder"),
    (lambda path: path / 'a"b', "without quotation marks"),
    (lambda path: path / "a$b", "without quotation marks, $"),
    (lambda path: path / "a\nb", "without quotation marks"),
    pytest.param(
        lambda path: path / ("x" * 80),
        "give a shorter --folder",
        marks=pytest.mark.skipif(not NGINX, reason="Nginx"),
    ),
]


@pytest.mark.parametrize(("make", "words"), FOLDERS)
def test_an_unusable_folder_is_refused_in_one_line(small_models, tmp_path, make, words):
    message = refused(small_models, "--port", str(free_port()), "--folder", str(make(tmp_path / "place")))
    assert words in message


def test_a_port_in_use_is_refused_in_one_line(small_models, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = ("--host", "127.0.0.1", "--port", str(listener.getsockname()[1]), "--folder", str(tmp_path))
        assert "Address already in use; give another --port" in refused(small_models, *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "192.0.2.1"), "Cannot assign requested address"),
        (("--host", "no such host"), "expected an address or a name of this machine as host, got 'no such host'"),
        (("--host", "999.1.1.1"), "expected an address or a name of this machine as host, got '999.1.1.1'"),
        (("--port", "9090", "--metrics-port", "9090"), "expected another port for the metrics, got 9090 for both"),
        (("--port", "0"), "port must be a whole number from 1 to 65535, got '0'"),
    ],
)
def test_a_host_or_port_that_cannot_be_bound_is_refused_in_one_line(small_models, tmp_path, options, words):
    assert words in refused(small_models, "--port", str(free_port()), "--folder", str(tmp_path), *options)
