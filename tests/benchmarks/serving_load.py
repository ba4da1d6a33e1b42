"""The server under load, in ratios of one run: ``python -m tests.benchmarks.serving_load [MODELS]``.

The network is the default one with random weights, which takes as long as a trained one, or the model published at
MODELS. Nginx, Gunicorn and its workers, the clients and every baseline share the machine's cores. The clients are one
process of bare sockets, whose share of the processor is printed. Baselines are measured in turn, and medians of the
rounds are printed. Everything runs on loopback and is bounded: about seven minutes on two cores.

The server and the one with the SavedModel run at the same time and take short turns, for photos of several sizes.
Reading the request and normalising take the same time in both and grow with the photo. The ratio of processor time a
photo (all workers, user and system) is printed next to the ratio of the rates: other work hardly changes it.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from components.scorer.registry import channels
from images.serving.settings import usable_cores
from tests.builders.servers import free_port
from tests.conftest import drawn_photo

ROUNDS = 3
CLIENTS = 8
PHOTO = drawn_photo(0.6, seed=1, size=(900, 1200))
SIZES = {  # of the photos by which the two servers are compared
    "as the data set holds photos": (320, 427),
    "of a small profile": (480, 640),
    "as web pages ask for": (900, 1200),
    "of a phone, 12 MP": (3024, 4032),
}
TURNS, TURN = 5, 2.0  # for each of the two servers; seconds
ATTEMPTS = 10_000  # bad inputs
LIMIT = 120.0  # seconds to wait at most


def main() -> None:
    """Print the measurements of the server, line by line."""
    with tempfile.TemporaryDirectory(prefix="serving-load-") as temporary:
        folder = Path(temporary)
        models, name = published_models(folder, sys.argv[1] if len(sys.argv) > 1 else "")
        version = str(models / name / "1")
        request = _predict(name)
        print(f"{usable_cores()} cores, a photo of {len(PHOTO) // 1000} KB, {ROUNDS} rounds", flush=True)
        starts = [_cold_start(models, folder) for _ in range(ROUNDS)]
        with _server(models, folder, "images.serving") as server:
            rates, medians = [], []
            for _ in range(ROUNDS):
                bare, one_process = _bare(version, usable_cores(), 4.0), _bare(version, 1, 2.0)
                many_clients, one_client = _ask(server, request, CLIENTS, 5.0), _ask(server, request, 1, 2.0)
                rates.append((many_clients.rate, bare.rate, many_clients.share))
                medians.append((one_client.median, one_process.median))
            own_rate = statistics.median(rate for rate, *_ in rates)
            ratio = statistics.median(rate / bare for rate, bare, _ in rates)
            slower = statistics.median(server_median / bare_median for server_median, bare_median in medians)
            share = statistics.median(share for *_, share in rates)
            _told(
                f"requests a second, {CLIENTS} clients, over bare calls with decoding ({own_rate:.0f}/s)",
                ratio,
                ">= 0.8",
            )
            _told("the clients' own share of all cores (within the above)", share)
            _told("median latency of one client over the bare call", slower, "<= 1.5")
            evenly = _arriving(server, request, 0.7 * own_rate, 15.0, lambda gap: gap)
            tail = evenly.p99 / evenly.median
            _told(f"99th percentile over median at 70 % load, evenly ({evenly.median * 1e3:.0f} ms)", tail, "<= 3")
            randomly = _arriving(server, request, 0.7 * own_rate, 15.0, lambda gap: _DRAW.expovariate(1 / gap))
            tail = randomly.p99 / randomly.median
            _told(f"the same by chance ({randomly.median * 1e3:.0f} ms); an ideal queue before two cores has 3.5", tail)
            memory = max(server.resident())
            switches = _switches(server, models, name, request)
            _told(f"failed requests of {switches.total} during ten switches", switches.failed, "0")
            answers, recovery = _killed(server, request)
            _told(f"failed requests of {answers.total} when a worker is killed, {CLIENTS} clients", answers.failed,
                  f"<= {CLIENTS}")  # fmt: skip
            _told("seconds until another one answers", recovery, "<= 3")
            attack_answers, growth = _attacked(server)
            _told(f"of {attack_answers.total} bad inputs, those answered with 5xx", attack_answers.failed, "0")
            _told("megabytes by which the workers grew meanwhile", growth)
            memory = max(memory, *server.resident())
        _told("megabytes resident, largest worker", memory, "<= 300")
        _told("seconds from the command to ready", statistics.median(starts), "<= 3")
        _compare_with_saved_model(models, folder, name)


def _compare_with_saved_model(models: Path, folder: Path, name: str) -> None:
    """Print how much faster the server is than the same server with the SavedModel."""
    with (
        _server(models, folder / "own", "images.serving") as own_server,
        _server(models, folder / "other", "tests.benchmarks.serving_savedmodel") as saved_model_server,
    ):
        for size_name, size in SIZES.items():
            photo = drawn_photo(0.6, seed=1, size=size)
            request = _predict(name, photo)
            for server in (own_server, saved_model_server):
                _ask(server, request, CLIENTS, 1.0)
            turns = [(_turn(own_server, request), _turn(saved_model_server, request)) for _ in range(TURNS)]
            rate, processor = (statistics.median(own_turn[index] for own_turn, _ in turns) for index in (0, 1))
            faster = statistics.median(own_turn[0] / saved_model_turn[0] for own_turn, saved_model_turn in turns)
            cheaper = statistics.median(saved_model_turn[1] / own_turn[1] for own_turn, saved_model_turn in turns)
            _told(f"requests a second over the server with the SavedModel, photos {size_name} ({len(photo) // 1000} KB,"
                  f" {rate:.0f}/s)", faster, ">= 1.5")  # fmt: skip
            _told(f"processor time a photo of that server over this one's ({processor * 1e3:.1f} ms)", cheaper)
        _told("megabytes resident, largest worker over the SavedModel", max(saved_model_server.resident()))


def _turn(server: "Server", request: bytes) -> tuple[float, float]:
    """Return successful answers a second, and seconds of the workers' processors for each."""
    before = server.processor()
    answers = _ask(server, request, CLIENTS, TURN)
    return answers.rate, (server.processor() - before) / answers.statuses[200]


def _told(what: str, value: float, wanted: str = "") -> None:
    number = f"{value:.2f}" if isinstance(value, float) else str(value)
    print(f"{number:>8}  {what}" + (f"  (wanted {wanted})" if wanted else ""), flush=True)


# Models


def published_models(folder: Path, given: str) -> tuple[Path, str]:
    """Return a folder of all models whose channels the benchmark may change, and the model's name."""
    models = folder / "models"
    if given:
        source = Path(given)
        name = source.name
        champion = channels.resolve(str(source))
        shutil.copytree(champion, models / name / "1")
    else:
        name = "portraits"
        # In a subprocess, to keep TensorFlow out of this process.
        subprocess.run([sys.executable, "-c", _EXPORT, str(models / name / "1")], check=True, stderr=subprocess.DEVNULL)
    shutil.copytree(models / name / "1", models / name / "2")
    channels.promote_pushed(str(models), name, 1, why="the first")
    return models, name


_EXPORT = """
import sys
import numpy as np
from components.scorer.artifacts import bundle, saved_model
from components.scorer.registry import integrity
from components.scorer.model.encoder import build_encoder
from components.scorer.model.network import build_scorer
from components.scorer.model.surgery import calibrate_batch_norms
from components.scorer.parameters import from_parameters
from components.scorer.settings import Pretraining, Training

settings = from_parameters(Pretraining, start="none")
encoder = build_encoder(settings)
calibrate_batch_norms(encoder, np.random.default_rng(1).uniform(0, 255, (16, settings.crop, settings.crop, 3)))
scorer = bundle.TrainedScorer(build_scorer(encoder, 0.5), settings, Training())
saved_model.export(scorer, sys.argv[1], "portraits")
saved_model.export_litert(scorer, sys.argv[1], "portraits", error=0.7)
integrity.write_record(sys.argv[1], {})
"""


# Bare calls


@dataclass(frozen=True)
class Bare:
    """Calls without a server."""

    rate: float
    median: float


def _bare(version: str, processes: int, seconds: float) -> Bare:
    """Normalise, scale and predict in a loop, in this number of processes at once."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_call, args=(version, seconds, ready, go)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    times_by_process = [go.get(timeout=LIMIT) for _ in workers]
    for worker in workers:
        worker.join(LIMIT)
    times = [seconds_of_call for process_times in times_by_process for seconds_of_call in process_times]
    return Bare(
        sum(len(process_times) / sum(process_times) for process_times in times_by_process), statistics.median(times)
    )


def _call(version: str, seconds: float, ready: "multiprocessing.Barrier", told: "multiprocessing.Queue") -> None:
    from components.scorer.artifacts import litert_model

    loaded = litert_model.load(version)
    for _ in range(5):
        loaded.predict(loaded.pixels(loaded.normalise(PHOTO))[None])
    ready.wait(LIMIT)
    times, until = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        loaded.predict(loaded.pixels(loaded.normalise(PHOTO))[None])
        times.append(time.perf_counter() - began)
    told.put(times)


# The server


@dataclass(frozen=True)
class Server:
    """The server as a process."""

    process: subprocess.Popen
    port: int

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        (gunicorn,) = [child for child in psutil.Process(self.process.pid).children() if "gunicorn" in child.cmdline()]
        return gunicorn.children()

    def resident(self) -> list[float]:
        """Return the resident megabytes of each worker."""
        return [worker.memory_info().rss / 1e6 for worker in self.workers()]

    def processor(self) -> float:
        """Return the seconds of processor time of all workers, user and system, since they began."""
        times = [worker.cpu_times() for worker in self.workers()]
        return sum(cpu.user + cpu.system for cpu in times)

    def versions(self) -> list[int]:
        """Return the version of each worker that has one."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=LIMIT).text
        return [int(float(number)) for number in re.findall(r"^scorer_model_version\{.*\} (\S+)$", text, re.MULTILINE)]


@contextmanager
def _server(models: Path, folder: Path, module: str) -> Iterator[Server]:
    """Start the server and wait until all of its workers answer."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    options = ["--port", str(port), "--host", "127.0.0.1", "--drain", "0", "--interval", "0.2"]
    command = [sys.executable, "-m", module, "--model", str(models), "--folder", str(folder / "scorer"), *options]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log)
    server = Server(process, port)
    try:
        _until(lambda: _is_ready(server), 0.02)
        _until(lambda: len(server.versions()) == usable_cores())
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)


def _cold_start(models: Path, folder: Path) -> float:
    """Return the seconds from the command to the first "ready"."""
    began = time.monotonic()
    with _server(models, folder, "images.serving") as server:
        del server
        return time.monotonic() - began


def _is_ready(server: Server) -> bool:
    assert server.process.poll() is None, "the server has ended"
    try:
        return httpx.get(f"http://127.0.0.1:{server.port}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _until(true: Callable[[], bool], pause: float = 0.1) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, f"waited {LIMIT} s in vain"
        time.sleep(pause)


# Clients


@dataclass
class Answers:
    """Answers that the clients received."""

    seconds: float = 0.0
    processor: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Return successful answers a second."""
        return self.statuses[200] / self.seconds

    @property
    def total(self) -> int:
        """Return the number of requests."""
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        """Return the number of requests that failed by the server's fault."""
        return sum(number for status, number in self.statuses.items() if not 200 <= status < 500)

    @property
    def share(self) -> float:
        """Return the clients' fraction of all cores."""
        return self.processor / self.seconds / usable_cores()

    @property
    def median(self) -> float:
        """Return the median latency, seconds."""
        return statistics.median(self.latencies)

    @property
    def p99(self) -> float:
        """Return the 99th percentile of the latency, seconds."""
        return statistics.quantiles(self.latencies, n=100)[98]


def _request(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: scorer\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _predict(name: str, photo: bytes = PHOTO) -> bytes:
    body = {"instances": [{"image_bytes": {"b64": base64.b64encode(photo).decode()}}]}
    return _request(f"/v1/models/{name}:predict", json.dumps(body).encode(), "application/json")


class Connection:
    """A keep-alive connection that is reopened after a loss."""

    def __init__(self, port: int) -> None:
        """Open nothing yet."""
        self._port, self._streams = port, None

    async def ask(self, request: bytes) -> int:
        """Return the answer's status; 0 if the connection was lost."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
            if b"close" in head.lower().partition(b"connection: ")[2][:5]:
                self.close()
            return int(head[9:12])
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


def _run(clients: Callable[[Answers], "asyncio.Future"]) -> Answers:
    answers = Answers()
    began, used = time.perf_counter(), time.process_time()
    asyncio.run(clients(answers))
    answers.seconds, answers.processor = time.perf_counter() - began, time.process_time() - used
    return answers


def _ask(
    server: Server, request: bytes, clients: int, seconds: float = LIMIT, stop: threading.Event | None = None
) -> Answers:
    """Run clients that each repeat the request after its answer, for a time or until an event is set."""

    async def run_client(answers: Answers, until: float) -> None:
        connection = Connection(server.port)
        while (began := time.perf_counter()) < until and not (stop and stop.is_set()):
            answers.statuses[await connection.ask(request)] += 1
            answers.latencies.append(time.perf_counter() - began)
        connection.close()

    async def run_clients(answers: Answers) -> None:
        await asyncio.gather(*(run_client(answers, time.perf_counter() + seconds) for _ in range(clients)))

    return _run(run_clients)


_DRAW = random.Random(1)


def _arriving(server: Server, request: bytes, rate: float, seconds: float, gap: Callable[[float], float]) -> Answers:
    """Send requests at due times, whether or not earlier ones are answered; latency counts from the due time.

    Args:
        server: The server.
        request: Request to repeat.
        rate: Requests a second.
        seconds: Duration.
        gap: Function from the mean gap to the next gap, seconds.
    """
    free: list[Connection] = []

    async def send(answers: Answers, due: float) -> None:
        connection = free.pop() if free else Connection(server.port)
        answers.statuses[await connection.ask(request)] += 1
        answers.latencies.append(time.perf_counter() - due)
        free.append(connection)

    async def send_all(answers: Answers) -> None:
        began = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + gap(1 / rate)) < began + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(send(answers, due))
        for connection in free:
            connection.close()

    return _run(send_all)


# Disturbances


@contextmanager
def _load(server: Server, request: bytes) -> Iterator[list[Answers]]:
    """Run clients while the block runs; the list has their answers after it."""
    stop, results = threading.Event(), []
    thread = threading.Thread(target=lambda: results.append(_ask(server, request, CLIENTS, stop=stop)))
    thread.start()
    try:
        yield results
    finally:
        stop.set()
        thread.join(LIMIT)


def _switches(server: Server, models: Path, name: str, request: bytes) -> Answers:
    with _load(server, request) as results:
        for number in range(10):
            version = 2 - number % 2
            channels.set_channel(str(models), name, version, why="a switch under load")
            _until(lambda version=version: server.versions() == [version] * usable_cores())
    return results[0]


def _killed(server: Server, request: bytes) -> tuple[Answers, float]:
    """Return the answers while a worker is killed, and the seconds until the new worker has a version."""
    with _load(server, request) as results:
        time.sleep(1)
        victim = server.workers()[0]
        began = time.monotonic()
        victim.send_signal(signal.SIGKILL)
        _until(lambda: victim not in server.workers() and len(server.versions()) == usable_cores(), 0.02)
        recovery = time.monotonic() - began
        time.sleep(1)
    return results[0], recovery


def _attacked(server: Server) -> tuple[Answers, float]:
    """Return the answers to bad inputs, and the workers' growth over the second half of them, megabytes."""
    draw = random.Random(1)
    bad_images = [
        PHOTO[:3000], PHOTO[:200], b"", b"GIF89a" + bytes(20), b"\x89PNG\r\n\x1a\n" + bytes(40), draw.randbytes(2000),
        b"%PDF-1.7 " + PHOTO[:100], b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(60), PHOTO[:500] + draw.randbytes(1500),
    ]  # fmt: skip
    bad_bodies = [
        b"",
        b"{",
        b"[]",
        b'{"instances": [{"b64": "&"}]}',
        b'{"instances": [' + b"[" * 2000,
        draw.randbytes(500),
    ]
    requests = [_request("/invocations", body, "image/jpeg") for body in bad_images]
    requests += [_request("/invocations", body, "application/json") for body in bad_bodies]
    requests += [_request("/invocations", body, "application/jsonlines") for body in bad_bodies]
    requests += [
        _request("/score", body, "multipart/form-data; boundary=x") for body in (*bad_bodies, b"--x\r\n\r\n\r\n--x--")
    ]
    answers = Answers()

    async def run_client(times: int) -> None:
        connection = Connection(server.port)
        for _ in range(times):
            answers.statuses[await connection.ask(draw.choice(requests))] += 1
        connection.close()

    async def run_clients() -> None:
        await asyncio.gather(*(run_client(ATTEMPTS // 2 // CLIENTS) for _ in range(CLIENTS)))

    asyncio.run(run_clients())
    resident_halfway = sum(server.resident())
    asyncio.run(run_clients())
    return answers, sum(server.resident()) - resident_halfway


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
