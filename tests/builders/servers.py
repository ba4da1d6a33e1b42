"""The server for tests: the application in this process, or the whole server with Nginx and Gunicorn."""

import ast
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from http.client import HTTPResponse
from operator import or_
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter

from images.serving.http import schemas
from images.serving.http.worker_state import WorkerState
from images.serving.process.app import create_app
from images.serving.settings import ServerSettings

ROOT = Path(__file__).resolve().parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
Answer = tuple[int, dict[str, Any], HTTPResponse]
PATIENCE = 120.0  # seconds for waits of about a second on an idle machine


def imports_of_a_server(models: Path, names: set[str]) -> tuple[list[int], list[str]]:
    """Return the statuses of each route of a server in a new process, and which of the modules it imported."""
    code = (
        "import sys; from tests.builders.servers import Here; from images.serving.settings import ServerSettings\n"
        "from tests.conftest import drawn_photo\n"
        f"with Here(ServerSettings(model={str(models)!r}, workers=1)) as here:\n"
        "    files = {'photo': drawn_photo(0.5, size=(90, 120))}\n"
        "    paths = ('/score', '/rank', '/explain', '/advise')\n"
        "    print([here.post(path, files=files).status_code for path in paths])\n"
        f"print(sorted({names!r} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    statuses, loaded = process.stdout.split("\n")[:2]
    return json.loads(statuses), ast.literal_eval(loaded)


class Here:
    """The application without a socket; its event loop runs in a thread, so that requests may overlap."""

    def __init__(self, settings: ServerSettings) -> None:
        self.app = create_app(settings)
        self.state: WorkerState = self.app.state.server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Here":
        self._thread.start()
        self._context = self.app.router.lifespan_context(self.app)
        self.run(self._context.__aenter__())
        self.run(self.state.version_manager.first_attempt_done.wait())
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://scorer")
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the application's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def begin(self, method: str, path: str, **options: Any) -> Any:
        """Begin a request; its ``result()`` is the answer."""
        return asyncio.run_coroutine_threadsafe(self._client.request(method, path, **options), self._loop)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.begin("GET", path, **options).result(PATIENCE)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.begin("POST", path, **options).result(PATIENCE)


class Server:
    """A process of ``python -m images.serving``."""

    def __init__(self, process: subprocess.Popen, host: str, port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://{host}:{port}"

    def log(self) -> list[dict[str, Any]]:
        """Return the log's entries."""
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]

    def text(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def run(self) -> Path:
        """Return the run folder."""
        (folder,) = (self._log.parent / "scorer").glob("run-*")
        return folder

    def gunicorn(self) -> int:
        """Return Gunicorn's process id."""
        return next(child for child in children(self.process.pid) if b"gunicorn" in command(child))

    def workers(self) -> list[int]:
        """Return the worker processes' ids."""
        return children(self.gunicorn())

    def stop(self) -> int:
        """Return the exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


class Request:
    """A handwritten request."""

    def __init__(self, server: Server, size: int | None, sent: bytes = b"", path: str = "/invocations", **more: str):
        length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        headers = {"Host": "localhost", "Content-Type": "image/jpeg", **length, **more}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        self.socket.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + sent)

    def __enter__(self) -> "Request":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def answer(self) -> Answer:
        """Return status, document and the whole answer."""
        answer = HTTPResponse(self.socket)
        answer.begin()
        return answer.status, json.loads(answer.read()), answer


class Load:
    """Clients that repeat requests over keep-alive connections until they are stopped."""

    def __init__(self, server: Server, photo: bytes, clients: int = 4) -> None:
        self.statuses: list[int | str] = []
        self.versions: set[int] = set()
        self.closed: Counter[int] = Counter()  # answers that closed their connection, by client
        self._server, self._photo, self._stop = server, photo, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=PATIENCE) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/score", files={"photos": self._photo})
                    self.statuses.append(answer.status_code)
                    self.closed[threading.get_ident()] += "close" in answer.headers.get("connection", "")
                    if answer.status_code == 200:
                        self.versions.add(answer.json()["model"]["version"])
                except httpx.HTTPError as error:
                    self.statuses.append(type(error).__name__)


def strictly(data: bytes, *models: Any) -> Any:
    """Parse JSON by one of the models; raise if it fits none: additional fields and other types are faults."""
    return TypeAdapter(reduce(or_, models)).validate_json(data, strict=True, extra="forbid")


def as_told(document: dict[str, Any], path: str, answer: httpx.Response) -> Any:
    """Parse an answer by the models that the OpenAPI document names for it."""
    responses = document["paths"][path][answer.request.method.lower()]["responses"]
    media = answer.headers["content-type"].partition(";")[0]
    schema = responses[str(answer.status_code)]["content"][media]["schema"]
    return strictly(answer.content, *models_of(schema))


def models_of(schema: dict[str, Any]) -> list[Any]:
    """Return the models that a schema of the OpenAPI document refers to."""
    return [getattr(schemas, name) for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(schema))]


def children(process: int) -> list[int]:
    """Return the ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started(
    model: str | Path,
    folder: Path,
    *options: str,
    module: str = "images.serving",
    host: str = "127.0.0.1",
    **environment: str,
) -> Iterator[Server]:
    """Start the server, or another module with its options, wait until it is ready, and stop it at the end.

    Args:
        model: Address of the model.
        folder: Folder of everything that the server writes.
        options: Options of the command line.
        module: Module to run.
        host: Host to listen on.
        environment: Additional environment variables."""
    port = free_port()
    arguments = ["--model", str(model), "--port", str(port), "--host", host, "--folder", str(folder / "scorer")]
    arguments += ["--drain", "0", "--interval", "0.2", *options]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, stderr=file, env={**os.environ, **environment}
        )
    server = Server(process, host, port, log)
    try:
        until(lambda: answers(server) or process.poll() is not None, "the server is ready")
        assert process.poll() is None, server.text()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def until(true: Any, what: str) -> None:
    """Wait until a function returns a true value; raise after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain until {what}"
        time.sleep(0.02)
