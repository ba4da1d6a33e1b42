"""The server's folder, host and port, given in unusual ways: it answers, or says in a sentence why not."""

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

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))


def score(url: str) -> int:
    return httpx.post(f"{url}/score", files={"photos": PHOTO}, timeout=None).status_code


@pytest.mark.parametrize("name", ["with blanks", "a;b{c}#d'é", "a/b/c"])
def test_a_folder_of_any_name_is_served_from(small_models, tmp_path, name):
    with started(small_models, tmp_path, "--workers", "1", "--folder", str(tmp_path / name)) as server:
        assert score(server.url) == 200


def test_a_folder_is_meant_as_seen_from_where_the_command_is_given(small_models, tmp_path):
    folder = os.path.relpath(tmp_path / "own", ROOT)
    with started(os.path.relpath(small_models, ROOT), tmp_path, "--workers", "1", "--folder", folder) as server:
        assert score(server.url) == 200
        assert list((tmp_path / "own").glob("run-*"))


@pytest.mark.parametrize("options", [(), ("--no-nginx",)])
@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "localhost"])
def test_a_host_is_an_address_of_either_kind_or_a_name(small_models, tmp_path, host, options):
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine does not speak IPv6")
    asked = host if host == "localhost" else "[::1]"
    with started(small_models, tmp_path, "--workers", "1", "--host", host, *options, host=asked) as server:
        assert score(server.url) == 200


@pytest.mark.parametrize("options", [(), ("--no-nginx",)])
def test_prometheus_is_told_without_a_key_at_a_port_of_its_own(small_models, tmp_path, options):
    port = free_port()
    options = ("--workers", "1", "--metrics-port", str(port), *options)
    with started(small_models, tmp_path, *options, SCORER_KEYS="open") as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        told = httpx.get(f"http://127.0.0.1:{port}/metrics")
        asked = httpx.get(f"{server.url}/metrics", headers={"x-api-key": "open"})
    assert told.status_code == 200
    assert 'scorer_requests_total{route="/ready",status="200"}' in told.text
    assert 'scorer_requests_total{route="/ready",status="200"}' in asked.text


def test_a_port_of_the_metrics_that_is_taken_is_refused_in_a_line(small_models, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        options = ("--host", "127.0.0.1", "--metrics-port", taken, "--folder", str(tmp_path))
        assert f"cannot listen at port {taken}" in refused(small_models, "--port", str(free_port()), *options)


def refused(models: Path, *options: str) -> str:
    """What the server says that does not start."""
    words = [sys.executable, "-m", "images.serving", "--model", str(models), *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
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
    (lambda place: place / 'a"b', "without quotation marks"),
    (lambda place: place / "a$b", "without quotation marks, $"),
    (lambda place: place / "a\nb", "without quotation marks"),
    pytest.param(
        lambda place: place / ("x" * 80),
        "give a shorter --folder",
        marks=pytest.mark.skipif(not NGINX, reason="Nginx"),
    ),
]


@pytest.mark.parametrize(("make", "words"), FOLDERS)
def test_a_folder_that_cannot_be_used_is_refused_in_a_line(small_models, tmp_path, make, words):
    said = refused(small_models, "--port", str(free_port()), "--folder", str(make(tmp_path / "place")))
    assert words in said


def test_a_port_that_is_taken_is_refused_in_a_line(small_models, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        options = ("--host", "127.0.0.1", "--port", str(other.getsockname()[1]), "--folder", str(tmp_path))
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
def test_a_host_or_port_that_cannot_be_listened_at_is_refused_in_a_line(small_models, tmp_path, options, words):
    assert words in refused(small_models, "--port", str(free_port()), "--folder", str(tmp_path), *options)
