"""The whole server with Nginx and Gunicorn on loopback: load, version switches, worker deaths, shutdown, attacks."""

import asyncio
import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import checks

from components.scorer.registry import channels
from images.serving import json_log
from images.serving.http import schemas
from images.serving.process import nginx, supervisor
from images.serving.process.app import create_app
from images.serving.settings import ServerSettings
from tests.builders import deadly
from tests.builders.servers import (
    NGINX,
    PATIENCE,
    ROOT,
    Load,
    Server,
    as_told,
    children,
    command,
    free_port,
    started,
    strictly,
    until,
)
from tests.conftest import drawn_photo, large_photo

pytestmark = pytest.mark.slow

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
LARGE = large_photo()
NAME = "anna-muster-7f3a.jpg"
QUERY = "map=heat&who=anna-muster-7f3a"
BODY = 400_000
V1 = {"instances": [{"image_bytes": {"b64": base64.b64encode(PHOTO).decode()}}]}
WORKERS = 2


@pytest.fixture(scope="module")
def models(small_models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "models"
    shutil.copytree(small_models, folder)
    return folder


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """Start the server that most tests share; with Nginx if it is installed."""
    folder = tmp_path_factory.mktemp("server")
    options = ("--workers", str(WORKERS), "--body", str(BODY), "--photos", "4", "--seconds", "20")
    with started(models, folder, *options) as running:
        yield running


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


def promote(folder: Path, version: int) -> None:
    channels.set_channel(str(folder), "portraits", version, why="a test")


def versions(server: Server) -> set[int]:
    """Return the versions that the workers serve, from their metrics."""
    text = httpx.get(f"{server.url}/metrics").text
    return {int(float(number)) for number in re.findall(r"^scorer_model_version\{.*\} (\S+)$", text, re.MULTILINE)}


def test_nginx_and_gunicorn_answer_every_protocol(client):
    assert client.get("/ping").status_code == 200
    rows = client.post("/v1/models/portraits:predict", json=V1).json()["predictions"]
    lines = client.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg"}).json()["predictions"]
    tensor = {
        "name": "image_bytes",
        "shape": [1],
        "datatype": "BYTES",
        "data": [V1["instances"][0]["image_bytes"]["b64"]],
    }
    mean = client.post("/v2/models/portraits/infer", json={"inputs": [tensor]}).json()["outputs"][0]["data"]
    (photo,) = client.post("/score", files={"photos": PHOTO}).json()["photos"]
    assert rows[0]["mean"] == lines[0]["mean"] == mean[0] == photo["mean"]


def test_metrics_add_up_over_all_workers(server, client):
    def pings() -> float:
        text = client.get("/metrics").text
        match = re.search(r'scorer_requests_total\{route="/ping",status="200"\} (\S+)', text)
        return float(match[1]) if match else 0.0

    before = pings()
    for _ in range(20):  # each on its own connection
        httpx.get(f"{server.url}/ping")
    assert pings() - before == 20
    assert len(server.workers()) == WORKERS


def test_ten_version_switches_under_load_fail_no_request(server, models):
    with Load(server, PHOTO) as load:
        for number in range(10):
            version = 2 + number % 2
            promote(models, version)
            until(lambda version=version: versions(server) == {version}, f"all workers serve version {version}")
    assert set(load.statuses) == {200}
    assert load.versions >= {2, 3}


@pytest.mark.skipif(not NGINX, reason="needs Nginx, without which a client's own connection dies with the worker")
def test_a_killed_worker_fails_only_its_own_requests_and_is_replaced(server):
    victim, survivor = server.workers()
    with Load(server, PHOTO) as load:
        until(lambda: len(load.statuses) > 20, "the load is on")
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(server.workers()) == WORKERS and victim not in server.workers(), "another one is there")
        until(lambda: len(versions(server)) == 1 and len(load.statuses) > 60, "it goes on")
    failed = [status for status in load.statuses if status != 200]
    assert len(failed) <= 4  # one for each client, which has one request under way
    assert set(failed) <= {502}
    assert survivor in server.workers()


@pytest.mark.skipif(not NGINX, reason="needs Nginx, which hands requests on")
@pytest.mark.parametrize("photo", [PHOTO, LARGE], ids=["small", "large"])
def test_a_photo_that_crashes_its_worker_crashes_only_one_and_is_answered_by_a_subprocess(models, tmp_path, photo):
    with started(models, tmp_path, "--workers", "3", module="tests.builders.deadly") as server:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            for _ in range(40):  # keep-alive connections: with any of them Nginx might try again
                assert client.post("/score", files={"photos": PHOTO}).status_code == 200
            before = set(server.workers())
            answer = client.post("/score", files={"photos": photo + deadly.DEADLY})
            until(lambda: len(server.workers()) == 3, "the dead one is replaced")
        assert 1 < answer.json()["photos"][0]["mean"] < 10
        assert len(before - set(server.workers())) == 1
        assert not list((tmp_path / "scorer").glob("run-*/request-*"))


def raw(server: Server, head: str, *chunks: bytes) -> http.client.HTTPResponse:
    """Return the answer to a handwritten request."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(head.encode())
    try:
        for chunk in chunks:
            connection.sendall(chunk)
    except OSError:
        pass  # the server has stopped reading
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_large_is_refused_with_a_problem(server, told):
    size = f"Content-Length: {BODY + 1}" if told else "Transfer-Encoding: chunked"
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n{size}\r\n\r\n"
    chunk = b"x" * 100_000
    answer = raw(server, head, *([] if told else [b"186a0\r\n" + chunk + b"\r\n"] * 6))
    assert answer.status == 413
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.read())
    assert problem["type"].endswith("body-too-large")
    assert str(BODY) in problem["detail"]


@pytest.mark.parametrize(
    "request_line", ["GET /\xff HTTP/1.1", "GET / HTTP/x", "NONSENSE", "GET /%00%ff/../.. HTTP/1.1", "POST / HTTP/1.1"]
)
def test_malformed_requests_get_a_4xx(server, request_line):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(request_line.encode("latin-1") + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    status = re.search(rb"(?:HTTP/1.1 |<h1>)(\d+)", connection.recv(1000))
    assert 400 <= int(status[1]) < 500


# The OpenAPI document


DOCUMENT = schemathesis.openapi.from_dict(create_app(ServerSettings(model="any", workers=1)).openapi())
OPERATIONS = [(path, method) for path, operations in DOCUMENT.raw_schema["paths"].items() for method in operations]
CHECKS = [
    getattr(checks, name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
]
JSON = "application/json"
TENSOR = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [V1["instances"][0]["image_bytes"]["b64"]]}
ASKED = {
    ":predict": {"json": V1},
    "/infer": {"json": {"inputs": [TENSOR]}},
    "/invocations": {"json": V1},
    "/score": {"files": {"photos": PHOTO}},
    "/rank": {"files": {"photos": PHOTO}},
    "/advise": {"files": {"photo": PHOTO}},
}
"""Request options, by the end of the route."""


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for path, method in OPERATIONS
        if JSON in DOCUMENT.raw_schema["paths"][path][method]["responses"]["200"].get("content", {})
    ],
)
def test_every_json_answer_matches_its_schema_and_has_no_other_fields(client, path, method):
    version = client.get("/about").json()["version"]
    address = path.format(name="portraits", version=version, label="champion")
    answer = client.request(
        method, address, **next((options for suffix, options in ASKED.items() if path.endswith(suffix)), {})
    )
    assert answer.status_code == 200, answer.text
    as_told(DOCUMENT.raw_schema, path, answer)


# Attacks


SESSION = requests.Session()
FUZZ = settings(
    max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
@pytest.mark.parametrize("path", [path for path, method in OPERATIONS if method == "post"])
def test_fuzzed_bodies_are_answered_as_the_openapi_document_says(client, path, mode):
    names = {"name": "portraits", "version": "1", "label": "champion"}
    path_parameters = {name: value for name, value in names.items() if f"{{{name}}}" in path}
    ask(client, DOCUMENT[path]["POST"].as_strategy(generation_mode=mode, path_parameters=path_parameters or None))


@pytest.mark.parametrize("path", [path for path, method in OPERATIONS if method == "get"])
def test_fuzzed_path_names_are_answered_as_the_openapi_document_says(client, path):
    ask(client, DOCUMENT[path]["GET"].as_strategy())


def ask(client, cases) -> None:
    @FUZZ
    @given(case=cases)
    def check(case):
        case.call_and_validate(base_url=str(client.base_url), checks=CHECKS, session=SESSION)

    check()


KINDS = {
    "/invocations": ["application/json", "application/jsonlines", "image/jpeg"],
    "/v1/models/portraits:predict": ["application/json"],
    "/v2/models/portraits/infer": ["application/json"],
    "/score": ["multipart/form-data; boundary=x"],
    "/rank": ["multipart/form-data; boundary=x"],
    "/explain": ["multipart/form-data; boundary=x"],
    "/advise": ["multipart/form-data; boundary=x"],
}


def refused(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        as_json = answer.request.url.path.startswith(("/v1/", "/v2/"))
        assert answer.headers["content-type"] == ("application/json" if as_json else "application/problem+json")
        assert strictly(answer.content, schemas.Problem, schemas.NothingScored, schemas.NothingRanked)["detail"]


WORDS = (
    "instances",
    "inputs",
    "b64",
    "image_bytes",
    "job",
    "name",
    "shape",
    "datatype",
    "data",
    "outputs",
    "parameters",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
)
PART = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
BODIES = (
    st.binary(max_size=400)
    | st.text(max_size=100).map(lambda text: json.dumps({"instances": [{"b64": text}]}).encode())
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=200).map(lambda part: PART % part)
)


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, kinds in KINDS.items() for kind in kinds])
@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_any_bytes_are_refused_without_a_server_error(client, path, kind, data):
    body = data.draw(BODIES)
    refused(client.post(path, content=body, headers={"content-type": kind}))


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def progressive() -> bytes:
    """Return a JPEG that repeats one scan a thousand times: small, and as slow as a thousand photos."""
    stream = io.BytesIO()
    Image.effect_noise((600, 800), 60).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2][:300] * 1000 + data[-2:]


ATTACKS = {
    "a bomb of pixels": png(60_000, 60_000, zlib.compress(b"\0" * 1000)),
    "a bomb of zeros": png(9_000, 9_000, zlib.compress(b"\0" * 30_000_000, 9)),
    "a thousand scans": progressive(),
    "a page that is a photo": b"<script>alert(1)</script>" + PHOTO,
    "a photo that is a page": PHOTO + b"<script>alert(1)</script>",
    "an archive after a photo": PHOTO + b"PK\x03\x04" + b"\0" * 100,
    "a PDF": b"%PDF-1.4\n" + PHOTO,
    "an SVG with an address": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/x"/></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file\n",
    "a GIF of no size": b"GIF89a\0\0\0\0\0\0\0",
    "a TIFF that refers to itself": b"II*\0\x08\0\0\0\x01\0\x00\x01\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "an empty file": b"",
    "a path": b"/etc/passwd",
    "an address": b"http://127.0.0.1:1/photo.jpg",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_answered_in_time(client, name):
    began = time.monotonic()
    answer = client.post("/invocations", content=ATTACKS[name], headers={"content-type": "image/jpeg"})
    refused(answer)
    assert (answer.status_code == 200) == (name in ("a photo that is a page", "an archive after a photo"))
    assert time.monotonic() - began < 10
    if answer.status_code != 200:
        assert answer.json()["status"] in (413, 422)


def test_a_photo_truncated_anywhere_is_refused_or_scored(client):
    for size in range(0, len(PHOTO), len(PHOTO) // 40):
        refused(client.post("/invocations", content=PHOTO[:size], headers={"content-type": "image/jpeg"}))


def resident(server: Server) -> float:
    """Return the resident memory of all workers, megabytes."""
    pages = [int(Path(f"/proc/{worker}/statm").read_text().split()[1]) for worker in server.workers()]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_bad_inputs_leak_no_memory(server):
    requests_sent = []
    for body in (*ATTACKS.values(), PHOTO[:300], PHOTO[: len(PHOTO) // 2]):
        if len(body) < 5000:
            lines = (
                "POST /invocations HTTP/1.1",
                "Host: x",
                "Content-Type: image/jpeg",
                f"Content-Length: {len(body)}",
            )
            requests_sent.append("\r\n".join([*lines, "\r\n"]).encode() + body)

    async def ask(times: int) -> set[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        statuses = set()
        for number in range(times):
            writer.write(requests_sent[number % len(requests_sent)])
            head = await reader.readuntil(b"\r\n\r\n")
            statuses.add(int(head[9:12]))
            await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
        writer.close()
        return statuses

    async def ask_in_parallel(times: int) -> set[int]:
        return set().union(*await asyncio.gather(*(ask(times) for _ in range(4))))

    asyncio.run(ask_in_parallel(100))
    before = resident(server)
    assert asyncio.run(ask_in_parallel(300)) <= {200, 413, 422}
    assert resident(server) - before < 10


# Shutdown


@pytest.mark.parametrize("options", [(), ("--no-nginx",)])
def test_a_server_told_to_stop_drains_its_requests_and_leaves_no_files(models, tmp_path, options):
    options = ("--workers", "1", "--drain", "600", "--queue", "8", *options)
    with started(models, tmp_path, *options) as server, Load(server, PHOTO, 2) as load:
        until(lambda: len(load.statuses) > 5, "the load is on")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/ready").status_code == 503, "it is not ready any more")
        assert httpx.get(f"{server.url}/live").status_code == 200
        before = load.closed.copy()
        until(lambda: len(load.closed - before) == 2, "every client is still answered, and no connection kept")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        load._stop.set()
    # New connections are refused once nobody listens; a connection that was answered is never closed under a request.
    assert set(load.statuses) <= {200, "ConnectError", "ReadError"}
    assert load.statuses.count("ReadError") <= 2
    assert not list((tmp_path / "scorer").glob("run-*"))
    events = [entry["event"] for entry in server.log()]
    assert events.index("started") < events.index("draining") < events.index("stopped")


@pytest.mark.parametrize("which", ["gunicorn", nginx.FRONT, nginx.INSIDE])
def test_if_one_child_process_ends_the_whole_server_ends(models, tmp_path, which):
    if which != "gunicorn" and not NGINX:
        pytest.skip("Nginx is not installed")
    with started(models, tmp_path, "--workers", "1") as server:
        processes = [child for parent in (server.process.pid, server.gunicorn()) for child in children(parent)]
        victim = next(child for child in children(server.process.pid) if which.encode() in command(child))
        os.kill(victim, signal.SIGKILL)
        assert server.process.wait(PATIENCE) == 1
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in processes), "no child is left")
        assert {"child": which, "event": "ended"}.items() <= next(
            entry for entry in server.log() if entry["event"] == "ended"
        ).items()


def test_gunicorn_alone_answers_too(models, tmp_path):
    with started(models, tmp_path, "--no-nginx", "--workers", "1", SCORER_KEYS="open") as server:
        assert len(children(server.process.pid)) == 1
        assert httpx.get(f"{server.url}/about").status_code == 401
        assert httpx.get(f"{server.url}/about", headers={"x-api-key": "open"}).json()["version"] in (1, 2, 3)
        environment = Path(f"/proc/{server.workers()[0]}/environ").read_bytes()
        assert b"SCORER_KEYS=sha256:" in environment
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "/nowhere"], "expected a published version"),
        ([], "give --model"),
        (["--model", "x", "--queue", "0"], "queue must be a whole number from 1 to 100000, got '0'"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(words, told):
    process = subprocess.run([sys.executable, "-m", "images.serving", *words], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert told in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_no_module_is_imported_from_the_working_directory(models, tmp_path, monkeypatch):
    (tmp_path / "fastapi.py").write_text("raise SystemExit('taken')\n")
    (tmp_path / "relative").symlink_to(models)
    monkeypatch.setattr("tests.builders.servers.ROOT", tmp_path)
    with started("relative", tmp_path, "--workers", "1", PYTHONPATH=str(ROOT), PYTHONSAFEPATH="1") as server:
        assert httpx.get(f"{server.url}/about").status_code == 200


def test_a_folder_that_others_may_write_to_is_refused(models, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    options = ["--model", str(models), "--folder", str(tmp_path / "open"), "--port", str(free_port())]
    process = subprocess.run(
        [sys.executable, "-m", "images.serving", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "expected a folder that no other account may write to" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_nothing_from_a_request_is_logged(server, client):
    client.post(f"/explain?{QUERY}", files={"photo": (NAME, PHOTO)})
    client.post(f"/score?{QUERY}", files={"photos": (NAME, PHOTO[:99])})
    client.get(f"/{NAME}?{QUERY}")
    client.post(f"/invocations?{QUERY}", content=b"x" * (BODY + 1), headers={"content-type": "image/jpeg"})
    text = server.text()
    assert "anna-muster" not in text
    assert base64.b64encode(PHOTO[:60]).decode() not in text
    native = "INFO: Created TensorFlow Lite"  # LiteRT's own message
    for line in text.splitlines():
        assert line.startswith((native, "{")), line
    assert not [entry for entry in server.log() if entry["event"] == "error"]


# Configuration and logs


def test_nginxs_errors_are_logged_without_the_request(capsys):
    line = (
        '2026/11/24 19:12:33 [error] 12#13: *14 upstream prematurely closed connection, client: 10.0.0.1, server: , '
        'request: "POST /explain?who=anna HTTP/1.1", upstream: "http://unix:/x:/explain?who=anna", host: "h"\n'
    )  # fmt: skip

    class Child:
        stderr = (line,)

    supervisor._log_nginx_messages(Child())
    entry = json.loads(capsys.readouterr().err)
    assert (entry["level"], entry["message"]) == ("error", "upstream prematurely closed connection")


@pytest.mark.parametrize("name", [nginx.FRONT, nginx.INSIDE])
def test_nginx_writes_only_below_the_run_folder(name):
    text = nginx.configuration(ServerSettings(run="/tmp/run", workers=3), name)
    assert "<<" not in text
    targets = re.findall(r'(?:_temp_path|pid|access_log|error_log) "?([^;"]+)"?;', text)
    assert all(target.startswith("/tmp/run/") or target in ("off", "stderr error") for target in targets)
    assert text.count('server "unix:/tmp/run/worker-') == 3


def test_an_errors_place_is_told_without_what_it_says():
    try:
        raise ValueError("anna")
    except ValueError as error:
        frames = json_log.error_frames(error)
    assert frames[-1].endswith("test_an_errors_place_is_told_without_what_it_says")
    assert "anna" not in str(frames)
