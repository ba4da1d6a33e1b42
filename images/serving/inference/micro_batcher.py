"""Micro-batcher: a thread pool decodes the photos of all connections, and one thread scores them in batches.

A photo goes from the event loop to a decoding thread, then to the network's thread, then back to the event loop.
These three changes of thread take about 0.2 ms. The network's thread takes all decoded photos, up to
`ServerSettings.batch`. It waits for more photos only while others are being decoded, and for `ServerSettings.deadline`
seconds at most.
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
from typing import Any, cast

import numpy as np
from PIL import Image

from components.scorer.artifacts.litert_model import LiteRTScorer
from components.scorer.faces import face_inputs
from components.scorer.faces.analyzer import FaceAnalysis
from components.scorer.faces.face_inputs import NamedInputs
from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import UnusablePhotoError
from components.scorer.settings import Ingestion
from images.serving import attempts
from images.serving.problem_details import ProblemDetails, busy_problem
from images.serving.prometheus_metrics import ServerMetrics
from images.serving.settings import ServerSettings

# Above either limit a worker decodes one photo at a time: many pixels take long, and one photo may take 384 MiB.
_LARGE_PIXELS, _LARGE_BYTES = 16_000_000, 64 * 2**20  # pixels; bytes of memory while decoding
_SUBPROCESS_SECONDS = 30.0  # seconds for decoding in a separate process, of which its start takes one


@dataclass
class PhotoRequest:
    """One photo of a request, from its bytes to its score.

    Attributes:
        data: The file's bytes as sent. Empty after decoding.
        job: Job that the person offers to do. "" means that the job is unknown.
        jpeg: The photo after normalisation and encoding, as the data set stores photos.
        original_size: Width and height of the sent photo, upright, pixels.
        inputs: Model inputs. None before decoding and after scoring.
        face_analysis: Face analysis. None while faces were not looked for; `cached_faces` fills it in.
        in_subprocess: True if the photo is decoded in a separate process.
        outputs: Model outputs, arrays by name.
        deadline: Time of ``time.monotonic()`` at which the request stops waiting.
        on_finished: Callback that receives this photo or an exception.
    """

    data: bytes
    job: str = ""
    jpeg: bytes = b""
    original_size: tuple[int, int] = (0, 0)
    inputs: NamedInputs | None = field(default=None, repr=False)
    face_analysis: FaceAnalysis | None = field(default=None, repr=False)
    in_subprocess: bool = False
    outputs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    deadline: float = float("inf")
    on_finished: Callable[[Any], None] | None = field(default=None, repr=False)

    def finish(self, result: Any) -> None:
        """Call `done` with this photo or an exception. Later calls do nothing."""
        done, self.on_finished = self.on_finished, None
        if done:
            done(result)

    @property
    def image(self) -> Image.Image:
        """The photo of `jpeg`, decoded to RGB."""
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


class BatchedModel:
    """A loaded version and the one thread that runs its network, started by the constructor."""

    def __init__(self, scorer: LiteRTScorer, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.scorer = scorer
        self._pending, self._lock = 0, Lock()  # photos that are being decoded for this network
        self._settings, self._metrics = settings, metrics
        self._queue: SimpleQueue[PhotoRequest | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"network-{scorer.version}", daemon=True)
        self._thread.start()

    def adjust_pending(self, change: int) -> None:
        """Adjust the count of photos being decoded: 1 when decoding begins, -1 when decoding ends or fails."""
        with self._lock:
            self._pending += change

    def enqueue(self, photo: PhotoRequest) -> None:
        """Enqueue a decoded photo. The network's thread scores it and calls `PhotoRequest.finish`."""
        self._queue.put(photo)

    def score_blocking(self, model_inputs: Iterable[NamedInputs], job: str = "") -> dict[str, np.ndarray]:
        """Score pictures and block until all have scores. For other threads than the network's.

        The network's thread may score photos of other requests in between.

        Args:
            model_inputs: Model inputs of each picture.
            job: Job that the person offers to do. "" means that the job is unknown.

        Returns:
            Model outputs, arrays ``[n, …]`` by name.

        Raises:
            BaseException: The exception that scoring raised.
        """
        futures = []
        for inputs in model_inputs:
            future: Future[PhotoRequest] = Future()
            self.enqueue(PhotoRequest(b"", job, inputs=inputs, on_finished=partial(_set_result, future)))
            futures.append(future)
        outputs = [future.result().outputs for future in futures]
        return {name: np.stack([answer[name] for answer in outputs]) for name in outputs[0]}

    def close(self) -> None:
        """End the thread after it has scored the photos that wait."""
        self._queue.put(None)

    def predict(self, photos: Sequence[PhotoRequest]) -> dict[str, np.ndarray]:
        """Return the model outputs of decoded photos, arrays ``[n, …]`` by name.

        Only for the network's thread, or before the first photo is enqueued.
        """
        return self.scorer.predict(
            face_inputs.stack_inputs([cast(NamedInputs, photo.inputs) for photo in photos]),
            [photo.job for photo in photos],
        )

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = self._gather_batch(first)
            self._score(batch)
            del first, batch  # otherwise their memory stays in use until the next batch
            if ended:
                return

    def _gather_batch(self, first: PhotoRequest) -> tuple[list[PhotoRequest], bool]:
        """Return a batch of the first photo and those that arrive before the deadline, and whether to end."""
        batch, deadline = [first], time.monotonic() + self._settings.deadline
        while len(batch) < self._settings.batch:
            remaining = deadline - time.monotonic()
            try:
                wait = self._pending > 0 and remaining > 0
                photo = self._queue.get(timeout=remaining) if wait else self._queue.get_nowait()
            except Empty:
                break
            if photo is None:
                return batch, True
            batch.append(photo)
        return batch, False

    def _score(self, batch: list[PhotoRequest]) -> None:
        began = time.perf_counter()
        try:
            outputs = self.predict(batch)
        except BaseException as error:
            for photo in batch:
                photo.finish(error)
            return
        self._metrics.batch_sizes.observe(len(batch))
        self._metrics.stages["network"].observe(time.perf_counter() - began)
        for index, photo in enumerate(batch):
            photo.outputs = {name: values[index] for name, values in outputs.items()}
            photo.inputs = None
            photo.finish(photo)


class MicroBatcher:
    """A worker's decoding threads and the limit of its queue. The first photo starts the threads."""

    def __init__(self, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.settings, self._metrics = settings, metrics
        self._pool = ThreadPoolExecutor(settings.threads, "decoding")
        # A separate queue: small photos never wait for large.
        self._large_pool = ThreadPoolExecutor(1, "decoding-large")
        self._under_way = 0

    def check_capacity(self, photos: int = 1) -> None:
        """Raise `ProblemDetails` 429 if the queue has no room for this number of photos."""
        if self._under_way + photos > self.settings.queue:
            self._metrics.refused["queue"].inc()
            raise busy_problem(
                f"expected to find room for {photos} photos in a queue of {self.settings.queue}, of which"
                f" {self._under_way} are taken"
            )

    async def score(
        self, network: BatchedModel, photos: Sequence[bytes], job_names: Sequence[str] = ("",)
    ) -> list[PhotoRequest | ProblemDetails]:
        """Decode and score photos.

        Args:
            network: Network that scores.
            photos: Files as sent.
            job_names: One job for each photo, or one job for all.

        Returns:
            Each photo with its model outputs, or the problem that prevented them, in the order of `photos`.

        Raises:
            ProblemDetails: 429 if the queue has no room.
        """
        self.check_capacity(len(photos))
        loop = asyncio.get_running_loop()
        call_in_loop: Callable[..., Any] = loop.call_soon_threadsafe  # mypy cannot check its arguments in `partial`
        jobs = list(job_names) * len(photos) if len(job_names) == 1 else job_names
        deadline = time.monotonic() + self.settings.seconds
        futures = []
        self._adjust_under_way(len(photos))
        try:
            for data, photo_job in zip(photos, jobs, strict=True):
                future = loop.create_future()
                done = partial(call_in_loop, _set_result_unless_done, future)
                photo = PhotoRequest(
                    data, photo_job, in_subprocess=attempts.IS_RETRY.get(), deadline=deadline, on_finished=done
                )
                network.adjust_pending(1)
                self._pool.submit(self._decode_in_turn, network, photo)
                futures.append(future)
            results = (
                await asyncio.gather(*futures, return_exceptions=True)
                if len(futures) > 1
                else [await _result_or_error(futures[0])]
            )
        finally:
            self._adjust_under_way(-len(photos))
        return [self._count_result(result) for result in results]

    async def run_in_pool(self, function: Any, *arguments: Any) -> Any:
        """Run a function in a decoding thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def run_large_alone(self, data: bytes, settings: Ingestion, work: Callable[[], Any]) -> Any:
        """Return the result of `work`. Work on large photos runs one at a time; see `_LARGE_PIXELS`.

        Blocks, so it is only for other threads than the event loop's.
        """
        return self._large_pool.submit(work).result() if _is_large(data, settings) else work()

    def close(self) -> None:
        """End the threads."""
        for pool in (self._pool, self._large_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def _adjust_under_way(self, change: int) -> None:
        self._under_way += change
        self._metrics.photos_in_flight.set(self._under_way)

    def _count_result(self, result: Any) -> PhotoRequest | ProblemDetails:
        if isinstance(result, PhotoRequest):
            self._metrics.photos["scored"].inc()
            return result
        if isinstance(result, UnusablePhotoError):
            self._metrics.photos[result.reason.replace(" ", "_")].inc()
            return unusable_photo_problem(result, self.settings)
        if isinstance(result, ProblemDetails):
            self._metrics.photos["waited"].inc()
            return result
        raise result

    def _decode_in_turn(self, network: BatchedModel, photo: PhotoRequest) -> None:
        """Decode a photo now, or queue it with the large photos, which are decoded one at a time."""
        if photo.in_subprocess or _is_large(photo.data, network.scorer.settings):
            self._large_pool.submit(self._decode, network, photo)
        else:
            self._decode(network, photo)

    def _decode(self, network: BatchedModel, photo: PhotoRequest) -> None:
        began = time.perf_counter()
        try:
            if time.monotonic() > photo.deadline:
                raise busy_problem(f"the photo waited for {self.settings.seconds:g} s and its turn did not come", 5)
            decode_photo(network.scorer, photo)
            self._metrics.stages["decoding"].observe(time.perf_counter() - began)
        except BaseException as error:
            network.adjust_pending(-1)
            photo.finish(error)
            return
        network.adjust_pending(-1)
        network.enqueue(photo)


def decode_photo(scorer: LiteRTScorer, photo: PhotoRequest) -> None:
    """Turn a photo into model inputs with the steps of training: normalise, encode, resize and crop.

    If the network uses faces, they are analysed here once, and every later step reuses the analysis.

    Args:
        scorer: Version that scores the photo.
        photo: Photo to decode. Its `jpeg`, `size` and `given` are set, and its `seen` if the network uses faces.
            Its `data` is emptied.

    Raises:
        components.scorer.imaging.decoding.UnusablePhotoError: The bytes are not a usable photo.
    """
    if photo.in_subprocess:
        photo.jpeg, photo.original_size = attempts.normalise_in_subprocess(
            photo.data, scorer.settings, _SUBPROCESS_SECONDS
        )
    else:
        decoded = decoding.decode(photo.data, scorer.settings)
        photo.jpeg, photo.original_size = (
            decoding.encode(decoded.image, scorer.settings),
            (decoded.width, decoded.height),
        )
    if scorer.face_input_spec.uses_faces:
        image = photo.image
        photo.face_analysis = scorer.analyze_faces(image)
        photo.inputs = scorer.build_inputs(image, photo.face_analysis)
    else:
        photo.inputs = scorer.build_inputs(photo.jpeg)
    photo.data = b""


def cached_faces(scorer: LiteRTScorer, photo: PhotoRequest) -> FaceAnalysis | None:
    """Return the face analysis of a scored photo: the one made for its score, or else a new one without embedding.

    None if the version has no face detector.
    """
    if photo.face_analysis is None:
        photo.face_analysis = scorer.analyze_faces(photo.image, embed=False)
    return photo.face_analysis


def unusable_photo_problem(error: UnusablePhotoError, settings: ServerSettings) -> ProblemDetails:
    """Return the problem document for an unusable photo, without any of the photo's bytes."""
    status, problem_kind = {"bomb": (413, "too-many-pixels"), "too small": (422, "photo-too-small")}.get(
        error.reason, (422, "photo-unreadable")
    )
    return ProblemDetails(status, problem_kind, error.detail.partition(" that begin with ")[0])


def _set_result(future: Any, result: Any) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def _set_result_unless_done(future: asyncio.Future, result: Any) -> None:
    if not future.done():
        _set_result(future, result)


async def _result_or_error(future: asyncio.Future) -> Any:
    try:
        return await future
    except Exception as error:
        return error


def _is_large(data: bytes, settings: Ingestion) -> bool:
    pixels, needed = decoding.decoding_cost(data, settings)
    return pixels > _LARGE_PIXELS or needed > _LARGE_BYTES
