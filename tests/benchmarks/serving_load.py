"""The server under load, as ratios from one run: ``python -m tests.benchmarks.serving_load [MODELS]``.

The default network with random weights, which takes as long as a trained one, or the model published at MODELS. Nginx,
Gunicorn and its workers, the clients and whatever is compared with share the machine's cores; the clients are one
process of bare sockets, whose own share of the processor is told. What is compared is measured in turns, and medians
of the rounds are told. Everything is on loopback and bounded: about seven minutes on two cores.

The server and the one over the SavedModel are up at once and take short turns, for photos of several sizes: the part
of a photo that both do alike, reading the request and normalising, grows with the photo. The ratio of processor time a
photo (all workers, user and system) is told beside that of the rates: it hardly moves when other work is about.
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
TURNS, TURN = 5, 2.0  # of each of the two, and seconds
ATTEMPTS = 10_000  # bad inputs
LIMIT = 120.0  # seconds for anything that is waited for


def main() -> None:
    """Print what the server must show, line by line."""
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
                bare, alone = _bare(version, usable_cores(), 4.0), _bare(version, 1, 2.0)
                many, one = _ask(server, request, CLIENTS, 5.0), _ask(server, request, 1, 2.0)
                rates.append((many.rate, bare.rate, many.share))
                medians.append((one.median, alone.median))
            own = statistics.median(rate for rate, *_ in rates)
            ratio = statistics.median(rate / bare for rate, bare, _ in rates)
            slower = statistics.median(one / alone for one, alone in medians)
            share = statistics.median(share for *_, share in rates)
            _told(f"requests a second, {CLIENTS} clients, over bare calls with decoding ({own:.0f}/s)", ratio, ">= 0.8")
            _told("the clients' own share of all cores (within the above)", share)
            _told("median latency of one client over the bare call", slower, "<= 1.5")
            even = _arriving(server, request, 0.7 * own, 15.0, lambda gap: gap)
            tail = even.p99 / even.median
            _told(f"99th percentile over median at 70 % load, evenly ({even.median * 1e3:.0f} ms)", tail, "<= 3")
            chance = _arriving(server, request, 0.7 * own, 15.0, lambda gap: _DRAW.expovariate(1 / gap))
            tail = chance.p99 / chance.median
            _told(f"the same by chance ({chance.median * 1e3:.0f} ms); an ideal queue before two cores has 3.5", tail)
            memory = max(server.resident())
            switches = _switches(server, models, name, request)
            _told(f"failed requests of {switches.total} during ten switches", switches.failed, "0")
            killed, back = _killed(server, request)
            _told(f"failed requests of {killed.total} when a worker is killed, {CLIENTS} clients", killed.failed,
                  f"<= {CLIENTS}")  # fmt: skip
            _told("seconds until another one answers", back, "<= 3")
            refused, growth = _attacked(server)
            _told(f"of {refused.total} bad inputs, those answered with 5xx", refused.failed, "0")
            _told("megabytes by which the workers grew meanwhile", growth)
            memory = max(memory, *server.resident())
        _told("megabytes resident, largest worker", memory, "<= 300")
        _told("seconds from the command to ready", statistics.median(starts), "<= 3")
        _compare_with_saved_model(models, folder, name)


def _compare_with_saved_model(models: Path, folder: Path, name: str) -> None:
    """Tell by how much the server is faster than the same one over the SavedModel, which differs in nothing else."""
    with (
        _server(models, folder / "own", "images.serving") as own,
        _server(models, folder / "other", "tests.benchmarks.serving_savedmodel") as other,
    ):
        for what, size in SIZES.items():
            photo = drawn_photo(0.6, seed=1, size=size)
            request = _predict(name, photo)
            for server in (own, other):
                _ask(server, request, CLIENTS, 1.0)
            turns = [(_turn(own, request), _turn(other, request)) for _ in range(TURNS)]
            rate, processor = (statistics.median(each[place] for each, _ in turns) for place in (0, 1))
            faster = statistics.median(each[0] / slow[0] for each, slow in turns)
            cheaper = statistics.median(slow[1] / each[1] for each, slow in turns)
            _told(f"requests a second over the server with the SavedModel, photos {what} ({len(photo) // 1000} KB,"
                  f" {rate:.0f}/s)", faster, ">= 1.5")  # fmt: skip
            _told(f"processor time a photo of that server over this one's ({processor * 1e3:.1f} ms)", cheaper)
        _told("megabytes resident, largest worker over the SavedModel", max(other.resident()))


def _turn(server: "Server", request: bytes) -> tuple[float, float]:
    """Good answers a second, and seconds of the workers' processors for each."""
    before = server.processor()
    answers = _ask(server, request, CLIENTS, TURN)
    return answers.rate, (server.processor() - before) / answers.statuses[200]


def _told(what: str, value: float, wanted: str = "") -> None:
    number = f"{value:.2f}" if isinstance(value, float) else str(value)
    print(f"{number:>8}  {what}" + (f"  (wanted {wanted})" if wanted else ""), flush=True)


# What is served


def published_models(folder: Path, given: str) -> tuple[Path, str]:
    """A folder of all models of which the test may change the channels, and the one model's name."""
    models = folder / "models"
    if given:
        source = Path(given)
        name = source.name
        champion = channels.resolve(str(source))
        shutil.copytree(champion, models / name / "1")
    else:
        name = "portraits"
        # In a process of its own: this one is to stay light.
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
    """Normalise, scale and answer, again and again, in so many processes at once."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_call, args=(version, seconds, ready, go)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [go.get(timeout=LIMIT) for _ in workers]
    for worker in workers:
        worker.join(LIMIT)
    times = [each for every in found for each in every]
    return Bare(sum(len(every) / sum(every) for every in found), statistics.median(times))


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
        """The processes that answer."""
        (gunicorn,) = [each for each in psutil.Process(self.process.pid).children() if "gunicorn" in each.cmdline()]
        return gunicorn.children()

    def resident(self) -> list[float]:
        """Megabytes of each worker."""
        return [worker.memory_info().rss / 1e6 for worker in self.workers()]

    def processor(self) -> float:
        """Seconds of processor time of all workers, user and system, since they began."""
        times = [worker.cpu_times() for worker in self.workers()]
        return sum(each.user + each.system for each in times)

    def versions(self) -> list[int]:
        """The version of each worker that has one."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=LIMIT).text
        return [int(float(each)) for each in re.findall(r"^scorer_model_version\{.*\} (\S+)$", text, re.MULTILINE)]


@contextmanager
def _server(models: Path, folder: Path, module: str) -> Iterator[Server]:
    """The server, when all of its workers answer."""
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
    """Seconds from the command to the first "ready"."""
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
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, f"waited {LIMIT} s in vain"
        time.sleep(pause)


# Clients


@dataclass
class Answers:
    """What the clients got."""

    seconds: float = 0.0
    processor: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.statuses[200] / self.seconds

    @property
    def total(self) -> int:
        """Requests."""
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        """Requests that the server owes an answer."""
        return sum(number for status, number in self.statuses.items() if not 200 <= status < 500)

    @property
    def share(self) -> float:
        """Of all cores, taken by the clients."""
        return self.processor / self.seconds / usable_cores()

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.latencies)

    @property
    def p99(self) -> float:
        """Seconds."""
        return statistics.quantiles(self.latencies, n=100)[98]


def _request(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: scorer\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _predict(name: str, photo: bytes = PHOTO) -> bytes:
    body = {"instances": [{"image_bytes": {"b64": base64.b64encode(photo).decode()}}]}
    return _request(f"/v1/models/{name}:predict", json.dumps(body).encode(), "application/json")


class Connection:
    """A connection that is kept, and opened again when it was lost."""

    def __init__(self, port: int) -> None:
        """Opens nothing yet."""
        self._port, self._streams = port, None

    async def ask(self, request: bytes) -> int:
        """The answer's status; 0 where the connection was lost."""
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
        """Close it."""
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
    """So many clients, each of which asks anew when it has its answer, for a time or until told to stop."""

    async def one(answers: Answers, until: float) -> None:
        connection = Connection(server.port)
        while (began := time.perf_counter()) < until and not (stop and stop.is_set()):
            answers.statuses[await connection.ask(request)] += 1
            answers.latencies.append(time.perf_counter() - began)
        connection.close()

    async def every(answers: Answers) -> None:
        await asyncio.gather(*(one(answers, time.perf_counter() + seconds) for _ in range(clients)))

    return _run(every)


_DRAW = random.Random(1)


def _arriving(server: Server, request: bytes, rate: float, seconds: float, gap: Callable[[float], float]) -> Answers:
    """Requests that come whether or not others are answered, timed from when they are due.

    Args:
        server: that is asked.
        request: the same each time.
        rate: requests a second.
        seconds: for which they come.
        gap: the seconds to the next one, of the seconds that it is on average.
    """
    free: list[Connection] = []

    async def one(answers: Answers, due: float) -> None:
        connection = free.pop() if free else Connection(server.port)
        answers.statuses[await connection.ask(request)] += 1
        answers.latencies.append(time.perf_counter() - due)
        free.append(connection)

    async def every(answers: Answers) -> None:
        began = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + gap(1 / rate)) < began + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(answers, due))
        for connection in free:
            connection.close()

    return _run(every)


# What must not disturb


@contextmanager
def _load(server: Server, request: bytes) -> Iterator[list[Answers]]:
    """Clients that ask while the block runs; their answers are there when it has ended."""
    stop, told = threading.Event(), []
    thread = threading.Thread(target=lambda: told.append(_ask(server, request, CLIENTS, stop=stop)))
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(LIMIT)


def _switches(server: Server, models: Path, name: str, request: bytes) -> Answers:
    with _load(server, request) as told:
        for number in range(10):
            version = 2 - number % 2
            channels.set_channel(str(models), name, version, why="a switch under load")
            _until(lambda version=version: server.versions() == [version] * usable_cores())
    return told[0]


def _killed(server: Server, request: bytes) -> tuple[Answers, float]:
    """The answers while a worker is killed, and the seconds until another one has a version."""
    with _load(server, request) as told:
        time.sleep(1)
        victim = server.workers()[0]
        began = time.monotonic()
        victim.send_signal(signal.SIGKILL)
        _until(lambda: victim not in server.workers() and len(server.versions()) == usable_cores(), 0.02)
        back = time.monotonic() - began
        time.sleep(1)
    return told[0], back


def _attacked(server: Server) -> tuple[Answers, float]:
    """The answers to bad inputs, and the megabytes by which all workers have grown over the second half of them."""
    draw = random.Random(1)
    spoilt = [
        PHOTO[:3000], PHOTO[:200], b"", b"GIF89a" + bytes(20), b"\x89PNG\r\n\x1a\n" + bytes(40), draw.randbytes(2000),
        b"%PDF-1.7 " + PHOTO[:100], b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(60), PHOTO[:500] + draw.randbytes(1500),
    ]  # fmt: skip
    wrong = [b"", b"{", b"[]", b'{"instances": [{"b64": "&"}]}', b'{"instances": [' + b"[" * 2000, draw.randbytes(500)]
    requests = [_request("/invocations", each, "image/jpeg") for each in spoilt]
    requests += [_request("/invocations", each, "application/json") for each in wrong]
    requests += [_request("/invocations", each, "application/jsonlines") for each in wrong]
    requests += [
        _request("/score", each, "multipart/form-data; boundary=x") for each in (*wrong, b"--x\r\n\r\n\r\n--x--")
    ]
    answers = Answers()

    async def one(times: int) -> None:
        connection = Connection(server.port)
        for _ in range(times):
            answers.statuses[await connection.ask(draw.choice(requests))] += 1
        connection.close()

    async def every() -> None:
        await asyncio.gather(*(one(ATTEMPTS // 2 // CLIENTS) for _ in range(CLIENTS)))

    asyncio.run(every())
    half = sum(server.resident())
    asyncio.run(every())
    return answers, sum(server.resident()) - half


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
