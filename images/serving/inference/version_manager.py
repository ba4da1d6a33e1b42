"""Which version answers: follows a channel, and switches to a new version without dropping a request."""

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
from components.scorer.artifacts.litert_model import Portable
from images.serving import json_log, sockets
from images.serving.inference import version_source
from images.serving.inference.micro_batcher import Network, Photo, decode
from images.serving.inference.version_source import Answered, Source
from images.serving.problem_details import Problem, not_ready
from images.serving.prometheus_metrics import Metrics
from images.serving.settings import DRAINING, Settings

_LOOK = 0.2  # seconds between two looks whether other workers answer
_LONGEST_WAIT = 300.0  # seconds between two tries of a version that cannot be loaded


class Served:
    """A version that answers, and how many requests it is answering."""

    def __init__(self, network: Network, uri: str, place: str) -> None:
        """Begins with none."""
        self.network, self.uri, self.place = network, uri, place
        self.portable = network.portable
        self.requests = 0
        self.retired = False

    @property
    def version(self) -> str:
        """Its number as a text; "1" for a folder that is not named by one, for clients that want a number."""
        return str(self.portable.version or 1)

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that it knows."""
        return self.portable.jobs

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that it has learnt."""
        return self.portable.attributes


class Models:
    """The version in charge.

    Attributes:
        source: what the server was told to serve.
        current: the version that answers; None before the first is loaded.
        failure: of the last attempt to load a version: ``version`` (its address) and ``why``; None when all is well.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Nothing is loaded before `follow`."""
        self._settings, self._metrics = settings, metrics
        self.source: Source | None = None
        self.current: Served | None = None
        self.failure: dict[str, str] | None = None
        self.labels: dict[str, int] = {}
        self.loaded = asyncio.Event()  # or failed for the first time
        self.answers = asyncio.Event()  # a version is loaded
        self._answered: Answered | None = None  # as it was written down, or tried, last
        self._tries, self._next_try = 0, 0.0
        self._freed = False  # a version, since memory was last given back

    @property
    def draining(self) -> bool:
        """Whether the server was told to end: then this file is there."""
        return bool(self._settings.run) and Path(self._settings.run, DRAINING).exists()

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: a version answers, and the server was not told to end."""
        return self.current is not None and not self.draining

    async def welcome(self) -> None:
        """Wait until a version answers, or no other worker has one either: this one would take their requests."""
        while not self.current and self._others_answer():
            await asyncio.sleep(_LOOK)

    def _others_answer(self) -> bool:
        run = self._settings.run
        return bool(run) and self._settings.nginx and sockets.taken(run, self._settings.workers)

    async def follow(self) -> None:
        """Load what is wanted, and look again and again whether another version is; ends when cancelled.

        What answered last in this run is taken first, without asking anybody: this worker takes the place of one that
        has died.
        """
        try:
            await self._fall_back(self._settings.run)
            if self.current:
                self.loaded.set()
            while True:
                await self.look()
                self.loaded.set()
                await asyncio.sleep(self._settings.interval)
        finally:
            if self.current:
                self._retire(self.current)

    async def look(self) -> None:
        """Ask the source once, and switch where it names another version."""
        if self._freed:
            self._freed = False
            await asyncio.to_thread(_give_back_memory)
        try:
            wanted = await asyncio.to_thread(self._ask)
        except Exception as error:  # an outage of the store, say: what answers goes on answering
            self._failed(self.source.uri if self.source else self._settings.model, error)
            await self._fall_back()
            return
        if self.current and self.current.uri == wanted:
            self._well()
            await self._remember()
            return
        if self.failure and self.failure["version"] == wanted and time.monotonic() < self._next_try:
            await self._fall_back()
            return
        try:
            place = await asyncio.to_thread(version_source.fetch, wanted, self._settings)
            served = await asyncio.to_thread(self._load, wanted, place)
        except Exception as error:
            self._metrics.loads["failed"].inc()
            self._failed(wanted, error)
            self._tries += 1
            wait = min(self._settings.interval * 2**self._tries, _LONGEST_WAIT)
            self._next_try = time.monotonic() + wait
            await self._fall_back()
            return
        self._tries = 0
        self._well()
        self._switch(served)
        await self._remember()

    def _switch(self, served: Served) -> None:
        before, self.current = self.current, served
        self._metrics.loads["served"].inc()
        self._metrics.version.set(served.portable.version or 0)
        json_log.event("serving", version=served.version, before=before.version if before else None)
        self.answers.set()
        if before:
            self._retire(before)

    async def _fall_back(self, run: str | None = None) -> None:
        """Where no version answers, take the one that did last, of a run or of any."""
        if self.current:
            return
        last = await asyncio.to_thread(version_source.recall, self._settings)
        if not last or last == self._answered or run not in (None, last.run):
            return
        self._answered = last
        try:
            served = await asyncio.to_thread(self._load, last.uri, last.place)
        except Exception as error:
            self._metrics.loads["failed"].inc()
            self._failed(last.uri, error)
            return
        self.labels = last.labels
        self._switch(served)

    async def _remember(self) -> None:
        """Write down what answers, where that has changed."""
        served = self.current
        answered = Answered(served.uri, served.place, self.labels, self._settings.run)
        if answered != self._answered:
            self._answered = answered
            try:
                await asyncio.to_thread(version_source.remember, answered, self._settings)
            except OSError as error:  # a full disk, say, which does not keep this worker from answering
                json_log.event("forgetting", level="error", why=str(error))

    @asynccontextmanager
    async def using(
        self, name: str | None = None, version: str | None = None, label: str | None = None
    ) -> AsyncIterator[Served]:
        """Hold the version that is asked for while a request is answered by it: it is not freed before.

        Args:
            name: of the model; None: whichever it is.
            version: its number; None: whichever answers.
            label: a channel that must name it; None: whichever does.

        Raises:
            Problem: 404, it is not what is served; 503, nothing is yet.
        """
        if not self.current:
            await self._first()
        served = self.current
        if served is None:
            why = (
                "the version that is wanted cannot be loaded, see the server's log"
                if self.failure
                else "none is loaded yet"
            )
            raise not_ready(f"expected a version to answer: {why}")
        if name is not None and name != served.portable.name:
            raise Problem(404, "unknown-model", f"expected the model {served.portable.name!r}, got {name[:100]!r}")
        if version is not None and version != served.version:
            detail = f"expected the version {served.version!r}, which is served, got {version[:40]!r}"
            raise Problem(404, "unknown-version", detail)
        if label is not None and self.labels.get(label) != served.portable.version:
            own = sorted(each for each, number in self.labels.items() if number == served.portable.version)
            raise Problem(404, "unknown-label", f"expected a label of the served version ({own}), got {label[:100]!r}")
        served.requests += 1  # without an await since it was read, or it might be freed by now
        try:
            yield served
        finally:
            served.requests -= 1
            self._free(served)

    async def _first(self) -> None:
        """Wait for the first version as long as a request may wait."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.loaded.wait(), self._settings.seconds)

    def _ask(self) -> str:
        if self.source is None:
            self.source = version_source.find(self._settings)
        self.labels = self.source.labels()
        return self.source.current()

    def _load(self, uri: str, place: str) -> Served:
        """A version, loaded from its copy and tried."""
        loaded = litert_model.load(place)
        pixels = min(loaded.settings.maximum_pixels, self._settings.pixels)
        limited = replace(loaded, uri=uri, settings=replace(loaded.settings, maximum_pixels=pixels))
        network = Network(limited, self._settings, self._metrics)
        try:
            check(network, loaded)
        except BaseException:
            network.close()
            raise
        return Served(network, uri, place)

    def _retire(self, served: Served) -> None:
        served.retired = True
        self._free(served)

    def _free(self, served: Served) -> None:
        if served.retired and not served.requests:
            served.network.close()
            self._freed = True

    def _failed(self, version: str, error: Exception) -> None:
        why = str(error) or type(error).__name__
        if self.failure != {"version": version, "why": why}:
            json_log.event("failing", level="error", version=version, why=why)
        self.failure = {"version": version, "why": why}
        self._metrics.failing.set(1)

    def _well(self) -> None:
        self.failure = None
        self._metrics.failing.set(0)


def _give_back_memory() -> None:
    """Let the allocator return what a freed version has left: 60 MB that it would keep for itself."""
    with contextlib.suppress(AttributeError):  # another C library than glibc keeps less
        ctypes.CDLL(None).malloc_trim(0)


def check(network: Network, loaded: Portable) -> None:
    """Let a version answer the warm-up photos, each alone and all at once, before people ask it.

    Args:
        network: that answers.
        loaded: its version, by whose own limits the photos are normalised.

    Raises:
        ValueError: an answer cannot be right: a number that is none, a score outside 1 to 10, votes that do not sum
            to 1, or other answers together than alone.
    """
    photos = [Photo(data) for data in warmup.photos()]
    for photo in photos:
        decode(loaded, photo)
    alone = [network.answer([photo]) for photo in photos]
    together = network.answer(photos)
    for place, answer in enumerate(alone):
        _check(answer, place)
        if not np.allclose(answer["mean"][0], together["mean"][place], atol=1e-3):
            raise ValueError(
                f"expected the same score for a photo alone and among others, got another for photo {place}"
            )


def _check(answer: dict[str, Any], place: int) -> None:
    mean, votes = float(answer["mean"][0]), answer["distribution"][0]
    if not math.isfinite(mean) or not 1 - 1e-3 <= mean <= 10 + 1e-3:
        raise ValueError(f"expected a score from 1 to 10 for warm-up photo {place}, got {mean}")
    if not abs(float(votes.sum()) - 1) <= 1e-3:
        raise ValueError(f"expected votes that sum to 1 for warm-up photo {place}, got {float(votes.sum())}")
