"""Advice on photos, one at a time in each worker: it takes up to two seconds, and scores come in between."""

import asyncio
import base64
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from components.scorer.advice import search
from components.scorer.advice.edit_session import Hold, Score
from components.scorer.advice.search import Advice, Suggestion, Together
from components.scorer.artifacts.litert_model import Portable
from components.scorer.faces.analyzer import Seen
from components.scorer.faces.face_inputs import Given
from components.scorer.settings import Advising as Believed
from images.serving.inference.micro_batcher import Batching, Photo, see
from images.serving.inference.version_manager import Served
from images.serving.problem_details import busy
from images.serving.prometheus_metrics import Metrics
from images.serving.settings import Settings

_SECONDS = 2  # that one takes, for who is told to come again


class Advising:
    """The one thread that searches advice, and who waits for it."""

    def __init__(self, settings: Settings, batching: Batching, metrics: Metrics) -> None:
        """Starts no thread before the first photo."""
        self._settings, self._batching, self._metrics = settings, batching, metrics
        self._pool = ThreadPoolExecutor(1, "advising")
        self._under_way = 0

    async def advise(self, served: Served, data: bytes, photo: Photo) -> Advice:
        """Advice on a photo.

        Args:
            served: the version that scores.
            data: the photo as it was sent.
            photo: the same, scored.

        Raises:
            Problem: 429, too many wait.
        """
        if self._under_way >= self._settings.advising:
            self._metrics.refused["advice"].inc()
            detail = f"expected fewer than {self._settings.advising} requests for advice under way"
            raise busy(detail, _SECONDS * self._under_way)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._advise, served, data, photo)
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _advise(self, served: Served, data: bytes, photo: Photo) -> Advice:
        portable, settings = served.portable, Believed()
        # Each picture is scored while the next one is being scaled, and its face read.
        score, hold = scorers(portable, lambda pictures: served.network.ask(pictures, photo.job)["mean"])
        image = self._batching.alone_when_large(
            data, portable.settings, lambda: search.working(data, settings, portable.settings)
        )
        seen = see(portable, photo)
        return search.advise(
            image, score, seen.faces if seen else None, settings, side=portable.settings.shorter_side,
            find_faces=portable.detector.find if portable.detector else None,
            hold=hold,
        )  # fmt: skip


def scorers(portable: Portable, ask: Callable[[Iterable[Given]], np.ndarray]) -> tuple[Score, Hold | None]:
    """What scores pictures for advice, and what holds the face of one; None where no face is read.

    Args:
        portable: the version that scores.
        ask: gives the mean scores of what the network is given of pictures.
    """

    def score(pictures: list[Image.Image], held: Seen | None = None) -> np.ndarray:
        return ask(portable.given(picture, _by(portable, picture, held)) for picture in pictures)

    def hold(picture: Image.Image) -> Score:
        return partial(score, held=portable.look(picture))

    return score, hold if portable.reads.faces else None


def _by(portable: Portable, picture: Image.Image, held: Seen | None) -> Seen | None:
    """What is known of a picture's face where another one's embedding is held: a second view is cut out of it anew."""
    if held is None or not portable.reads.view:
        return held
    return Seen(portable.look(picture, embedded=False).faces if held.found else (), held.embedding)


def told(found: Advice) -> dict[str, Any]:
    """Advice as JSON."""
    return {
        "advice": [_suggestion(each) for each in found.suggestions],
        "together": _suggestion(found.together) if found.together else None,
        "refused": [asdict(each) for each in found.refused],
    }


def _suggestion(found: Suggestion | Together) -> dict[str, Any]:
    preview = "data:image/jpeg;base64," + base64.b64encode(found.preview).decode()
    return {**asdict(found), "preview": preview}
