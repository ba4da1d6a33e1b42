"""Micro-batcher: a thread pool decodes the photos of all connections, and one thread scores them in batches.

A photo goes from the event loop to a decoding thread, then to the network's thread, then back to the event loop.
These three changes of thread take about 0.2 ms. The network's thread takes all decoded photos, up to `Settings.batch`.
It waits for more photos only while others are being decoded, and for `Settings.deadline` seconds at most.
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

# Above either limit a worker decodes one photo at a time: many pixels take long, and one photo may take 384 MiB.
_LARGE, _MEMORY = 16_000_000, 64 * 2**20  # pixels; bytes of memory while decoding
_APART = 30.0  # seconds for decoding in a separate process, of which its start takes one


@dataclass
class Photo:
    """One photo of a request, from its bytes to its score.

    Attributes:
        data: The file's bytes as sent. Empty after decoding.
        job: Job that the person offers to do. "" means that the job is unknown.
        jpeg: The photo after normalisation and encoding, as the data set stores photos.
        size: Width and height of the sent photo, upright, pixels.
        given: Model inputs. None before decoding and after scoring.
        seen: Face analysis. None while faces were not looked for; `see` fills it in.
        apart: True if the photo is decoded in a separate process.
        answer: Model outputs, arrays by name.
        until: Time of ``time.monotonic()`` at which the request stops waiting.
        done: Callback that receives this photo or an exception.
    """

    data: bytes
    job: str = ""
    jpeg: bytes = b""
    size: tuple[int, int] = (0, 0)
    given: Given | None = field(default=None, repr=False)
    seen: Seen | None = field(default=None, repr=False)
    apart: bool = False
    answer: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    until: float = float("inf")
    done: Callable[[Any], None] | None = field(default=None, repr=False)

    def finish(self, result: Any) -> None:
        """Call `done` with this photo or an exception. Later calls do nothing."""
        done, self.done = self.done, None
        if done:
            done(result)

    @property
    def image(self) -> Image.Image:
        """The photo of `jpeg`, decoded to RGB."""
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


class Network:
    """A loaded version and the one thread that runs its network, started by the constructor."""

    def __init__(self, portable: Portable, settings: Settings, metrics: Metrics) -> None:
        self.portable = portable
        self._coming, self._lock = 0, Lock()  # photos that are being decoded for this network
        self._settings, self._metrics = settings, metrics
        self._waiting: SimpleQueue[Photo | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"network-{portable.version}", daemon=True)
        self._thread.start()

    def expect(self, change: int) -> None:
        """Adjust the count of photos being decoded: 1 when decoding begins, -1 when decoding ends or fails."""
        with self._lock:
            self._coming += change

    def put(self, photo: Photo) -> None:
        """Enqueue a decoded photo. The network's thread scores it and calls `Photo.finish`."""
        self._waiting.put(photo)

    def ask(self, pictures: Iterable[Given], job: str = "") -> dict[str, np.ndarray]:
        """Score pictures and block until all have scores. For other threads than the network's.

        The network's thread may score photos of other requests in between.

        Args:
            pictures: Model inputs of each picture.
            job: Job that the person offers to do. "" means that the job is unknown.

        Returns:
            Model outputs, arrays ``[n, …]`` by name.

        Raises:
            BaseException: The exception that scoring raised.
        """
        futures = []
        for inputs in pictures:
            future: Future[Photo] = Future()
            self.put(Photo(b"", job, given=inputs, done=partial(_settle, future)))
            futures.append(future)
        outputs = [future.result().answer for future in futures]
        return {name: np.stack([answer[name] for answer in outputs]) for name in outputs[0]}

    def close(self) -> None:
        """End the thread after it has scored the photos that wait."""
        self._waiting.put(None)

    def answer(self, photos: Sequence[Photo]) -> dict[str, np.ndarray]:
        """Return the model outputs of decoded photos, arrays ``[n, …]`` by name.

        Only for the network's thread, or before the first photo is enqueued.
        """
        return self.portable.answer(
            face_inputs.together([photo.given for photo in photos]), [photo.job for photo in photos]
        )

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = self._gathered(first)
            self._score(batch)
            del first, batch  # otherwise their memory stays in use until the next batch
            if ended:
                return

    def _gathered(self, first: Photo) -> tuple[list[Photo], bool]:
        """Return a batch of the first photo and those that arrive before the deadline, and whether to end."""
        batch, deadline = [first], time.monotonic() + self._settings.deadline
        while len(batch) < self._settings.batch:
            remaining = deadline - time.monotonic()
            try:
                wait = self._coming > 0 and remaining > 0
                photo = self._waiting.get(timeout=remaining) if wait else self._waiting.get_nowait()
            except Empty:
                break
            if photo is None:
                return batch, True
            batch.append(photo)
        return batch, False

    def _score(self, batch: list[Photo]) -> None:
        began = time.perf_counter()
        try:
            outputs = self.answer(batch)
        except BaseException as error:
            for photo in batch:
                photo.finish(error)
            return
        self._metrics.batches.observe(len(batch))
        self._metrics.stages["network"].observe(time.perf_counter() - began)
        for index, photo in enumerate(batch):
            photo.answer = {name: values[index] for name, values in outputs.items()}
            photo.given = None
            photo.finish(photo)


class Batching:
    """A worker's decoding threads and the limit of its queue. The first photo starts the threads."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self._metrics = settings, metrics
        self._pool = ThreadPoolExecutor(settings.threads, "decoding")
        self._large = ThreadPoolExecutor(1, "decoding-large")  # a separate queue: small photos never wait for large
        self._under_way = 0

    def check(self, photos: int = 1) -> None:
        """Raise `Problem` 429 if the queue has no room for this number of photos."""
        if self._under_way + photos > self.settings.queue:
            self._metrics.refused["queue"].inc()
            raise busy(
                f"expected to find room for {photos} photos in a queue of {self.settings.queue}, of which"
                f" {self._under_way} are taken"
            )

    async def score(
        self, network: Network, photos: Sequence[bytes], job: Sequence[str] = ("",)
    ) -> list[Photo | Problem]:
        """Decode and score photos.

        Args:
            network: Network that scores.
            photos: Files as sent.
            job: One job for each photo, or one job for all.

        Returns:
            Each photo with its model outputs, or the problem that prevented them, in the order of `photos`.

        Raises:
            Problem: 429 if the queue has no room.
        """
        self.check(len(photos))
        loop = asyncio.get_running_loop()
        jobs = list(job) * len(photos) if len(job) == 1 else job
        deadline = time.monotonic() + self.settings.seconds
        futures = []
        self._count(len(photos))
        try:
            for data, photo_job in zip(photos, jobs, strict=True):
                future = loop.create_future()
                done = partial(loop.call_soon_threadsafe, _settle_unless_done, future)
                photo = Photo(data, photo_job, apart=attempts.SECOND.get(), until=deadline, done=done)
                network.expect(1)
                self._pool.submit(self._assign, network, photo)
                futures.append(future)
            results = (
                await asyncio.gather(*futures, return_exceptions=True) if len(futures) > 1 else [await _one(futures[0])]
            )
        finally:
            self._count(-len(photos))
        return [self._told(result) for result in results]

    async def work(self, function: Any, *arguments: Any) -> Any:
        """Run a function in a decoding thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def alone_when_large(self, data: bytes, settings: Ingestion, work: Callable[[], Any]) -> Any:
        """Return the result of `work`. Work on large photos runs one at a time; see `_LARGE`.

        Blocks, so it is only for other threads than the event loop's.
        """
        return self._large.submit(work).result() if _is_large(data, settings) else work()

    def close(self) -> None:
        """End the threads."""
        for pool in (self._pool, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.queue.set(self._under_way)

    def _told(self, result: Any) -> Photo | Problem:
        if isinstance(result, Photo):
            self._metrics.photos["scored"].inc()
            return result
        if isinstance(result, Unusable):
            self._metrics.photos[result.reason.replace(" ", "_")].inc()
            return unusable(result, self.settings)
        if isinstance(result, Problem):
            self._metrics.photos["waited"].inc()
            return result
        raise result

    def _assign(self, network: Network, photo: Photo) -> None:
        """Decode a photo now, or queue it with the large photos, which are decoded one at a time."""
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
    """Turn a photo into model inputs with the steps of training: normalise, encode, resize and crop.

    If the network uses faces, they are analysed here once, and every later step reuses the analysis.

    Args:
        portable: Version that scores the photo.
        photo: Photo to decode. Its `jpeg`, `size` and `given` are set, and its `seen` if the network uses faces.
            Its `data` is emptied.

    Raises:
        components.scorer.imaging.decoding.Unusable: The bytes are not a usable photo.
    """
    if photo.apart:
        photo.jpeg, photo.size = attempts.normalise_apart(photo.data, portable.settings, _APART)
    else:
        decoded = decoding.decode(photo.data, portable.settings)
        photo.jpeg, photo.size = decoding.encode(decoded.image, portable.settings), (decoded.width, decoded.height)
    if portable.reads.faces:
        image = photo.image
        photo.seen = portable.look(image)
        photo.given = portable.given(image, photo.seen)
    else:
        photo.given = portable.given(photo.jpeg)
    photo.data = b""


def see(portable: Portable, photo: Photo) -> Seen | None:
    """Return the face analysis of a scored photo: the one made for its score, or else a new one without embedding.

    None if the version has no face detector.
    """
    if photo.seen is None:
        photo.seen = portable.look(photo.image, embedded=False)
    return photo.seen


def unusable(error: Unusable, settings: Settings) -> Problem:
    """Return the problem document for an unusable photo, without any of the photo's bytes."""
    status, problem_kind = {"bomb": (413, "too-many-pixels"), "too small": (422, "photo-too-small")}.get(
        error.reason, (422, "photo-unreadable")
    )
    return Problem(status, problem_kind, error.detail.partition(" that begin with ")[0])


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
