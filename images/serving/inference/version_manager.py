"""Version manager: follows a channel and switches to a new version without dropping a request."""

import asyncio
import contextlib
import ctypes
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer.artifacts import litert_model, warmup
from components.scorer.artifacts.litert_model import LiteRTScorer
from images.serving import json_log, sockets
from images.serving.inference import version_source
from images.serving.inference.micro_batcher import BatchedModel, PhotoRequest, decode_photo
from images.serving.inference.version_source import ServedRecord, VersionSource
from images.serving.problem_details import ProblemDetails, not_ready_problem
from images.serving.prometheus_metrics import ServerMetrics
from images.serving.settings import DRAINING_FILE, ServerSettings

_POLL_SECONDS = 0.2  # seconds between two checks whether other workers have a version
_MAX_RETRY_SECONDS = 300.0  # seconds at most between two attempts to load a version that failed


class LoadedVersion:
    """A loaded version and its reference count.

    Attributes:
        network: Network of the version, with its thread.
        uri: Address of the version's folder.
        folder: Local folder from which the version was loaded.
        scorer: The version that `network` runs.
        requests: Number of requests that use the version.
        retired: True once another version has replaced this one. The version is freed when `requests` is 0.
    """

    def __init__(self, network: BatchedModel, uri: str, folder: str) -> None:
        self.network, self.uri, self.folder = network, uri, folder
        self.scorer = network.scorer
        self.requests = 0
        self.retired = False

    @property
    def version(self) -> str:
        """Version number as text. "1" if the folder's name is not a number, because clients expect a number."""
        return str(self.scorer.version or 1)

    @property
    def jobs(self) -> tuple[str, ...]:
        """Jobs that the version's head knows."""
        return self.scorer.jobs

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes that the version's auxiliary heads predict."""
        return self.scorer.attributes


class VersionManager:
    """Manager of the served version. `follow` loads the first version.

    Attributes:
        source: Model or version that the settings name. None before it is resolved.
        current: The served version. None before the first is loaded.
        failure: Last failure to load a version: ``version`` (its address) and ``why``. None after a success.
        labels: Version number by channel, as last read.
        first_attempt_done: Event that is set after the first attempt to load a version, successful or not.
        version_loaded: Event that is set once a version is loaded.
    """

    def __init__(self, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.source: VersionSource | None = None
        self.current: LoadedVersion | None = None
        self.failure: dict[str, str] | None = None
        self.labels: dict[str, int] = {}
        self.first_attempt_done = asyncio.Event()
        self.version_loaded = asyncio.Event()
        self._last_record: ServedRecord | None = None  # the record last written, or last tried by `_fall_back`
        self._tries, self._next_try = 0, 0.0
        self._has_freed_memory = False  # True if a version was freed since memory was last returned

    @property
    def draining(self) -> bool:
        """True if the server is shutting down: the supervisor then creates the file `DRAINING_FILE`."""
        return bool(self._settings.run) and Path(self._settings.run, DRAINING_FILE).exists()

    @property
    def ready(self) -> bool:
        """True if a version is loaded and the server is not shutting down."""
        return self.current is not None and not self.draining

    async def wait_for_version(self) -> None:
        """Wait until a version is loaded, or until no other worker has a version either.

        A worker that starts without a version would take requests that other workers can answer.
        """
        while not self.current and self._another_worker_is_ready():
            await asyncio.sleep(_POLL_SECONDS)

    def _another_worker_is_ready(self) -> bool:
        run = self._settings.run
        return bool(run) and self._settings.nginx and sockets.any_worker_ready(run, self._settings.workers)

    async def follow(self) -> None:
        """Load the wanted version, then poll the source every `ServerSettings.interval` seconds until cancelled.

        The version that this run served last is loaded first, without a request to the source. This worker then
        replaces a worker that died.
        """
        try:
            await self._load_last_version(self._settings.run)
            if self.current:
                self.first_attempt_done.set()
            while True:
                await self.poll_once()
                self.first_attempt_done.set()
                await asyncio.sleep(self._settings.interval)
        finally:
            if self.current:
                self._retire(self.current)

    async def poll_once(self) -> None:
        """Poll the source once, and switch if it names another version."""
        if self._has_freed_memory:
            self._has_freed_memory = False
            await asyncio.to_thread(_trim_memory)
        try:
            wanted_uri = await asyncio.to_thread(self._wanted_version)
        except Exception as error:  # an outage of the store, for example: the loaded version keeps answering
            self._set_failure(self.source.uri if self.source else self._settings.model, error)
            await self._load_last_version()
            return
        if self.current and self.current.uri == wanted_uri:
            self._clear_failure()
            await self._write_record(self.current)
            return
        if self.failure and self.failure["version"] == wanted_uri and time.monotonic() < self._next_try:
            await self._load_last_version()
            return
        try:
            folder = await asyncio.to_thread(version_source.fetch_version, wanted_uri, self._settings)
            served = await asyncio.to_thread(self._load, wanted_uri, folder)
        except Exception as error:
            self._metrics.model_loads["failed"].inc()
            self._set_failure(wanted_uri, error)
            self._tries += 1
            delay = min(self._settings.interval * 2**self._tries, _MAX_RETRY_SECONDS)
            self._next_try = time.monotonic() + delay
            await self._load_last_version()
            return
        self._tries = 0
        self._clear_failure()
        self._switch(served)
        await self._write_record(served)

    def _switch(self, served: LoadedVersion) -> None:
        previous, self.current = self.current, served
        self._metrics.model_loads["served"].inc()
        self._metrics.model_version.set(served.scorer.version or 0)
        json_log.log_event("serving", version=served.version, before=previous.version if previous else None)
        self.version_loaded.set()
        if previous:
            self._retire(previous)

    async def _load_last_version(self, run: str | None = None) -> None:
        """If no version is loaded, load the one that was served last.

        Args:
            run: Folder of the run that must have served the version. None accepts any run.
        """
        if self.current:
            return
        record = await asyncio.to_thread(version_source.read_record, self._settings)
        if not record or record == self._last_record or run not in (None, record.run):
            return
        self._last_record = record
        try:
            served = await asyncio.to_thread(self._load, record.uri, record.place)
        except Exception as error:
            self._metrics.model_loads["failed"].inc()
            self._set_failure(record.uri, error)
            return
        self.labels = record.labels
        self._switch(served)

    async def _write_record(self, served: LoadedVersion) -> None:
        """Write the record of the served version if the record has changed."""
        record = ServedRecord(served.uri, served.folder, self.labels, self._settings.run)
        if record != self._last_record:
            self._last_record = record
            try:
                await asyncio.to_thread(version_source.write_record, record, self._settings)
            except OSError as error:  # a full disk, for example: this worker can still answer
                json_log.log_event("forgetting", level="error", why=str(error))

    @asynccontextmanager
    async def lease(
        self, name: str | None = None, version: str | None = None, label: str | None = None
    ) -> AsyncIterator[LoadedVersion]:
        """Lease the served version for one request. The version is not freed before the lease ends.

        Args:
            name: Name of the model. None accepts any name.
            version: Version number as text. None accepts any version.
            label: Channel that must name the served version. None requires no channel.

        Raises:
            ProblemDetails: 404 if another model, version or channel is served; 503 if no version is loaded.
        """
        if not self.current:
            await self._wait_for_first_attempt()
        served = self.current
        if served is None:
            reason = (
                "the version that is wanted cannot be loaded, see the server's log"
                if self.failure
                else "none is loaded yet"
            )
            raise not_ready_problem(f"expected a version to answer: {reason}")
        if name is not None and name != served.scorer.name:
            raise ProblemDetails(404, "unknown-model", f"expected the model {served.scorer.name!r}, got {name[:100]!r}")
        if version is not None and version != served.version:
            detail = f"expected the version {served.version!r}, which is served, got {version[:40]!r}"
            raise ProblemDetails(404, "unknown-version", detail)
        if label is not None and self.labels.get(label) != served.scorer.version:
            own = sorted(channel for channel, number in self.labels.items() if number == served.scorer.version)
            raise ProblemDetails(
                404, "unknown-label", f"expected a label of the served version ({own}), got {label[:100]!r}"
            )
        served.requests += 1  # no await since `current` was read: otherwise the version could be freed by now
        try:
            yield served
        finally:
            served.requests -= 1
            self._release_if_idle(served)

    async def _wait_for_first_attempt(self) -> None:
        """Wait for the first attempt to load a version, for `ServerSettings.seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.first_attempt_done.wait(), self._settings.seconds)

    def _wanted_version(self) -> str:
        if self.source is None:
            self.source = version_source.resolve_source(self._settings)
        self.labels = self.source.labels()
        return self.source.current_uri()

    def _load(self, uri: str, folder: str) -> LoadedVersion:
        """Load a version from its local copy, and check it with the warm-up photos."""
        loaded = litert_model.load(folder)
        pixels = min(loaded.settings.maximum_pixels, self._settings.pixels)
        limited = replace(loaded, uri=uri, settings=replace(loaded.settings, maximum_pixels=pixels))
        network = BatchedModel(limited, self._settings, self._metrics)
        try:
            check_network(network, loaded)
        except BaseException:
            network.close()
            raise
        return LoadedVersion(network, uri, folder)

    def _retire(self, served: LoadedVersion) -> None:
        served.retired = True
        self._release_if_idle(served)

    def _release_if_idle(self, served: LoadedVersion) -> None:
        if served.retired and not served.requests:
            served.network.close()
            self._has_freed_memory = True

    def _set_failure(self, version: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if self.failure != {"version": version, "why": reason}:
            json_log.log_event("failing", level="error", version=version, why=reason)
        self.failure = {"version": version, "why": reason}
        self._metrics.model_failing.set(1)

    def _clear_failure(self) -> None:
        self.failure = None
        self._metrics.model_failing.set(0)


def _trim_memory() -> None:
    """Return the memory of a freed version to the system: 60 MB that glibc's allocator would keep."""
    with contextlib.suppress(AttributeError):  # C libraries other than glibc keep less
        ctypes.CDLL(None).malloc_trim(0)


def check_network(network: BatchedModel, scorer: LiteRTScorer) -> None:
    """Score the warm-up photos, each alone and all in one batch, before the version serves requests.

    Args:
        network: Network to check.
        scorer: The network's version with its own limits, by which the photos are normalised.

    Raises:
        ValueError: A score is not finite or outside 1 to 10, votes do not sum to 1 (±0.001), or a photo's score in
            the batch differs from its score alone by more than 0.001.
    """
    photos = [PhotoRequest(data) for data in warmup.photos()]
    for photo in photos:
        decode_photo(scorer, photo)
    single_outputs = [network.predict([photo]) for photo in photos]
    batch_outputs = network.predict(photos)
    for index, outputs in enumerate(single_outputs):
        _check_outputs(outputs, index)
        if not np.allclose(outputs["mean"][0], batch_outputs["mean"][index], atol=1e-3):
            raise ValueError(
                f"expected the same score for a photo alone and among others, got another for photo {index}"
            )


def _check_outputs(outputs: dict[str, Any], index: int) -> None:
    mean, votes = float(outputs["mean"][0]), outputs["distribution"][0]
    if not math.isfinite(mean) or not 1 - 1e-3 <= mean <= 10 + 1e-3:
        raise ValueError(f"expected a score from 1 to 10 for warm-up photo {index}, got {mean}")
    if not abs(float(votes.sum()) - 1) <= 1e-3:
        raise ValueError(f"expected votes that sum to 1 for warm-up photo {index}, got {float(votes.sum())}")
