"""Advice queue: each worker searches advice for one photo at a time.

A search takes up to two seconds. Requests for scores are answered in between.
"""

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

_SECONDS = 2  # of one search, for the Retry-After header


class Advising:
    """The thread that searches advice and the limit of its queue. The first request starts the thread."""

    def __init__(self, settings: Settings, batching: Batching, metrics: Metrics) -> None:
        self._settings, self._batching, self._metrics = settings, batching, metrics
        self._pool = ThreadPoolExecutor(1, "advising")
        self._under_way = 0

    async def advise(self, served: Served, data: bytes, photo: Photo) -> Advice:
        """Return advice on a photo.

        Args:
            served: Version that scores.
            data: The photo's bytes as sent.
            photo: The same photo after scoring.

        Raises:
            Problem: 429 if `Settings.advising` requests for advice are under way.
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
        # The network scores each picture while this thread resizes the next one and analyses its face.
        score, hold = scorers(portable, lambda pictures: served.network.ask(pictures, photo.job)["mean"])
        image = self._batching.alone_when_large(
            data, portable.settings, lambda: search.working(data, settings, portable.settings)
        )
        analysis = see(portable, photo)
        return search.advise(
            image, score, analysis.faces if analysis else None, settings, side=portable.settings.shorter_side,
            find_faces=portable.detector.find if portable.detector else None,
            hold=hold,
        )  # fmt: skip


def scorers(portable: Portable, ask: Callable[[Iterable[Given]], np.ndarray]) -> tuple[Score, Hold | None]:
    """Return the score function for edited pictures, and the factory of score functions with a fixed face.

    The factory is None if the network uses no faces.

    Args:
        portable: Version that scores.
        ask: Function from the model inputs of pictures to their mean scores.
    """

    def score(pictures: list[Image.Image], held: Seen | None = None) -> np.ndarray:
        return ask(portable.given(picture, _by(portable, picture, held)) for picture in pictures)

    def hold(picture: Image.Image) -> Score:
        return partial(score, held=portable.look(picture))

    return score, hold if portable.reads.faces else None


def _by(portable: Portable, picture: Image.Image, fixed: Seen | None) -> Seen | None:
    """Return the face analysis for a picture that is scored with a fixed embedding.

    If the network has a face crop as a second view, the picture's own face is detected anew for the crop.
    """
    if fixed is None or not portable.reads.view:
        return fixed
    return Seen(portable.look(picture, embedded=False).faces if fixed.found else (), fixed.embedding)


def told(found: Advice) -> dict[str, Any]:
    """Return advice as JSON."""
    return {
        "advice": [_suggestion(edit) for edit in found.suggestions],
        "together": _suggestion(found.together) if found.together else None,
        "refused": [asdict(edit) for edit in found.refused],
    }


def _suggestion(suggestion: Suggestion | Together) -> dict[str, Any]:
    preview = "data:image/jpeg;base64," + base64.b64encode(suggestion.preview).decode()
    return {**asdict(suggestion), "preview": preview}
