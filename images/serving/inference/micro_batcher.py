"""Photos of all connections: decoded by some threads, gathered, scored by one thread that alone has the network.

A photo goes from the event loop to a thread that decodes it, from there to the network's thread, and back: three
changes of thread, some 0.2 ms. The network's thread takes what is decoded, up to a batch; it waits for more only while
others are being decoded, and only a moment.
"""

import asyncio
import io
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

import numpy as np
from PIL import Image

from components.scorer.artifacts.litert_model import Portable
from components.scorer.faces import face_inputs
from components.scorer.faces.analyzer import Seen
from components.scorer.faces.face_inputs import Given
from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import Unusable
from components.scorer.settings import Ingestion
from images.serving import attempts
from images.serving.problem_details import Problem, busy
from images.serving.prometheus_metrics import Metrics
from images.serving.settings import Settings

# Above either a worker decodes one photo at a time: many pixels take long, and one photo may take 384 MiB.
_LARGE, _MEMORY = 16_000_000, 64 * 2**20  # pixels; bytes while it is decoded
_APART = 30.0  # seconds that decoding may take in a process of its own, which needs one to begin


@dataclass
class Photo:
    """One photo on its way.

    Attributes:
        data: as it was sent; given up once it is decoded.
        job: that the person offers to do; "" when it is not known.
        jpeg: the photo as the data set holds photos.
        size: width and height that it was sent with, upright.
        given: what the network is given of it; given up once it has answered.
        seen: its faces, where they were looked for; once a photo (see `see`).
        apart: it is decoded in a process of its own.
        answer: what the network says of it, arrays by name.
    """

    data: bytes
    job: str = ""
    jpeg: bytes = b""
    size: tuple[int, int] = (0, 0)
    given: Given | None = field(default=None, repr=False)
    seen: Seen | None = field(default=None, repr=False)
    apart: bool = False
    answer: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    until: float = float("inf")  # of time.monotonic(): from then on nobody waits for it
    done: Callable[[Any], None] | None = field(default=None, repr=False)  # is given this, or an exception

    def finish(self, result: Any) -> None:
        """Hand this photo, or why it has no answer, to who waits for it; once."""
        done, self.done = self.done, None
        if done:
            done(result)

    @property
    def image(self) -> Image.Image:
        """The photo as the data set holds photos, opened."""
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


class Network:
    """A loaded version with the one thread that lets it answer."""

    def __init__(self, portable: Portable, settings: Settings, metrics: Metrics) -> None:
        """Starts the thread."""
        self.portable = portable
        self._coming, self._lock = 0, Lock()  # photos that are being decoded for it
        self._settings, self._metrics = settings, metrics
        self._waiting: SimpleQueue[Photo | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"network-{portable.version}", daemon=True)
        self._thread.start()

    def expect(self, change: int) -> None:
        """Note that a photo begins to be decoded (1), or is decoded or never will be (-1)."""
        with self._lock:
            self._coming += change

    def put(self, photo: Photo) -> None:
        """Let a decoded photo be scored; it is finished then."""
        self._waiting.put(photo)

    def ask(self, pictures: Iterable[Given], job: str = "") -> dict[str, np.ndarray]:
        """Score pictures at once, from another thread; other photos come in between.

        Args:
            pictures: what the network is given of each.
            job: see `Photo`.

        Returns:
            What the network says of them, arrays ``[n, …]`` by name.
        """
        waiting = []
        for given in pictures:
            future: Future[Photo] = Future()
            self.put(Photo(b"", job, given=given, done=partial(_settle, future)))
            waiting.append(future)
        answers = [future.result().answer for future in waiting]
        return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """End the thread when what waits is answered."""
        self._waiting.put(None)

    def answer(self, photos: Sequence[Photo]) -> dict[str, np.ndarray]:
        """What the network says of decoded photos; for its own thread, and before it has begun."""
        return self.portable.answer(
            face_inputs.together([photo.given for photo in photos]), [photo.job for photo in photos]
        )

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = self._gathered(first)
            self._score(batch)
            del first, batch  # or they would be kept until the next ones come
            if ended:
                return

    def _gathered(self, first: Photo) -> tuple[list[Photo], bool]:
        """The first photo and those that are there, or come within the deadline; and whether the end came."""
        batch, until = [first], time.monotonic() + self._settings.deadline
        while len(batch) < self._settings.batch:
            left = until - time.monotonic()
            try:
                wait = self._coming > 0 and left > 0
                photo = self._waiting.get(timeout=left) if wait else self._waiting.get_nowait()
            except Empty:
                break
            if photo is None:
                return batch, True
            batch.append(photo)
        return batch, False

    def _score(self, batch: list[Photo]) -> None:
        began = time.perf_counter()
        try:
            answers = self.answer(batch)
        except BaseException as error:
            for photo in batch:
                photo.finish(error)
            return
        self._metrics.batches.observe(len(batch))
        self._metrics.stages["network"].observe(time.perf_counter() - began)
        for place, photo in enumerate(batch):
            photo.answer = {name: values[place] for name, values in answers.items()}
            photo.given = None
            photo.finish(photo)


class Batching:
    """Everything that the worker's photos have in common: the bound of its queue and its decoding threads."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Starts no thread before the first photo."""
        self.settings, self._metrics = settings, metrics
        self._pool = ThreadPoolExecutor(settings.threads, "decoding")
        self._large = ThreadPoolExecutor(1, "decoding-large")  # with a queue of its own: a small photo waits for none
        self._under_way = 0

    def check(self, photos: int = 1) -> None:
        """Raise Problem, 429, where the queue has no room for so many photos."""
        if self._under_way + photos > self.settings.queue:
            self._metrics.refused["queue"].inc()
            raise busy(
                f"expected to find room for {photos} photos in a queue of {self.settings.queue}, of which"
                f" {self._under_way} are taken"
            )

    async def score(
        self, network: Network, photos: Sequence[bytes], job: Sequence[str] = ("",)
    ) -> list[Photo | Problem]:
        """Score photos.

        Args:
            network: that answers.
            photos: as they were sent.
            job: one a photo, or one for all.

        Returns:
            Each photo with its answer, or why it has none.

        Raises:
            Problem: 429, there is no room in the queue.
        """
        self.check(len(photos))
        loop = asyncio.get_running_loop()
        jobs = list(job) * len(photos) if len(job) == 1 else job
        until = time.monotonic() + self.settings.seconds
        waiting = []
        self._count(len(photos))
        try:
            for data, each in zip(photos, jobs, strict=True):
                future = loop.create_future()
                done = partial(loop.call_soon_threadsafe, _settle_unless_done, future)
                photo = Photo(data, each, apart=attempts.SECOND.get(), until=until, done=done)
                network.expect(1)
                self._pool.submit(self._assign, network, photo)
                waiting.append(future)
            found = (
                await asyncio.gather(*waiting, return_exceptions=True) if len(waiting) > 1 else [await _one(waiting[0])]
            )
        finally:
            self._count(-len(photos))
        return [self._told(each) for each in found]

    async def work(self, function: Any, *arguments: Any) -> Any:
        """The function's result, from one of the threads that decode."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def alone_when_large(self, data: bytes, settings: Ingestion, work: Callable[[], Any]) -> Any:
        """The work's result, for another thread; of photos with very many pixels one at a time is worked on."""
        return self._large.submit(work).result() if _is_large(data, settings) else work()

    def close(self) -> None:
        """End the threads."""
        for pool in (self._pool, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.queue.set(self._under_way)

    def _told(self, found: Any) -> Photo | Problem:
        if isinstance(found, Photo):
            self._metrics.photos["scored"].inc()
            return found
        if isinstance(found, Unusable):
            self._metrics.photos[found.reason.replace(" ", "_")].inc()
            return unusable(found, self.settings)
        if isinstance(found, Problem):
            self._metrics.photos["waited"].inc()
            return found
        raise found

    def _assign(self, network: Network, photo: Photo) -> None:
        """Decode a photo at once, or when it is its turn among those that take long."""
        if photo.apart or _is_large(photo.data, network.portable.settings):
            self._large.submit(self._decode, network, photo)
        else:
            self._decode(network, photo)

    def _decode(self, network: Network, photo: Photo) -> None:
        began = time.perf_counter()
        try:
            if time.monotonic() > photo.until:
                raise busy(f"the photo waited for {self.settings.seconds:g} s and its turn did not come", 5)
            decode(network.portable, photo)
            self._metrics.stages["decoding"].observe(time.perf_counter() - began)
        except BaseException as error:
            network.expect(-1)
            photo.finish(error)
            return
        network.expect(-1)
        network.put(photo)


def decode(portable: Portable, photo: Photo) -> None:
    """Bring a photo to what the network reads, the way of training: normalised, encoded, scaled and cropped.

    Where the network reads faces, the face is found and read here, once for all that is asked of the photo.

    Args:
        portable: knows how.
        photo: receives ``jpeg``, ``size``, ``given`` and, where faces are read, ``seen``, and gives its ``data`` up.

    Raises:
        components.scorer.imaging.decoding.Unusable: it is no photo.
    """
    if photo.apart:
        photo.jpeg, photo.size = attempts.normalise_apart(photo.data, portable.settings, _APART)
    else:
        found = decoding.decode(photo.data, portable.settings)
        photo.jpeg, photo.size = decoding.encode(found.image, portable.settings), (found.width, found.height)
    if portable.reads.faces:
        image = photo.image
        photo.seen = portable.look(image)
        photo.given = portable.given(image, photo.seen)
    else:
        photo.given = portable.given(photo.jpeg)
    photo.data = b""


def see(portable: Portable, photo: Photo) -> Seen | None:
    """The faces on a scored photo, as they were found for its score or, if not for that, are found now.

    None where faces are not looked for.
    """
    if photo.seen is None:
        photo.seen = portable.look(photo.image, embedded=False)
    return photo.seen


def unusable(error: Unusable, settings: Settings) -> Problem:
    """Why a photo cannot be read, as a problem; without any of its bytes."""
    status, kind = {"bomb": (413, "too-many-pixels"), "too small": (422, "photo-too-small")}.get(
        error.reason, (422, "photo-unreadable")
    )
    return Problem(status, kind, error.detail.partition(" that begin with ")[0])


def _settle(future: Any, result: Any) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def _settle_unless_done(future: asyncio.Future, result: Any) -> None:
    if not future.done():
        _settle(future, result)


async def _one(future: asyncio.Future) -> Any:
    try:
        return await future
    except Exception as error:
        return error


def _is_large(data: bytes, settings: Ingestion) -> bool:
    pixels, needed = decoding.needed(data, settings)
    return pixels > _LARGE or needed > _MEMORY
