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
from components.scorer.advice.edit_session import FixFaceFn, ScoreFn
from components.scorer.advice.search import Advice, CombinedSuggestion, Suggestion
from components.scorer.artifacts.litert_model import LiteRTScorer
from components.scorer.faces.analyzer import FaceAnalysis
from components.scorer.faces.face_inputs import NamedInputs
from components.scorer.settings import AdviceSettings
from images.serving.inference.micro_batcher import MicroBatcher, PhotoRequest, cached_faces
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import busy_problem
from images.serving.prometheus_metrics import ServerMetrics
from images.serving.settings import ServerSettings

_SEARCH_SECONDS = 2  # of one search, for the Retry-After header


class AdviceQueue:
    """The thread that searches advice and the limit of its queue. The first request starts the thread."""

    def __init__(self, settings: ServerSettings, batcher: MicroBatcher, metrics: ServerMetrics) -> None:
        self._settings, self._batcher, self._metrics = settings, batcher, metrics
        self._pool = ThreadPoolExecutor(1, "advising")
        self._under_way = 0

    async def advise(self, served: LoadedVersion, data: bytes, photo: PhotoRequest) -> Advice:
        """Return advice on a photo.

        Args:
            served: Version that scores.
            data: The photo's bytes as sent.
            photo: The same photo after scoring.

        Raises:
            ProblemDetails: 429 if `ServerSettings.advising` requests for advice are under way.
        """
        if self._under_way >= self._settings.advising:
            self._metrics.refused["advice"].inc()
            detail = f"expected fewer than {self._settings.advising} requests for advice under way"
            raise busy_problem(detail, _SEARCH_SECONDS * self._under_way)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._advise, served, data, photo)
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _advise(self, served: LoadedVersion, data: bytes, photo: PhotoRequest) -> Advice:
        portable, settings = served.scorer, AdviceSettings()
        # The network scores each picture while this thread resizes the next one and analyses its face.
        score, hold = score_functions(
            portable, lambda pictures: served.network.score_blocking(pictures, photo.job)["mean"]
        )
        image = self._batcher.run_large_alone(
            data, portable.settings, lambda: search.working_copy(data, settings, portable.settings)
        )
        analysis = cached_faces(portable, photo)
        return search.advise(
            image, score, analysis.faces if analysis else None, settings, scored_side=portable.settings.shorter_side,
            find_faces=portable.detector.find if portable.detector else None,
            fix_face=hold,
        )  # fmt: skip


def score_functions(
    scorer: LiteRTScorer, predict_means: Callable[[Iterable[NamedInputs]], np.ndarray]
) -> tuple[ScoreFn, FixFaceFn | None]:
    """Return the score function for edited pictures, and the factory of score functions with a fixed face.

    The factory is None if the network uses no faces.

    Args:
        scorer: Version that scores.
        predict_means: Function from the model inputs of pictures to their mean scores.
    """

    def score(pictures: list[Image.Image], held: FaceAnalysis | None = None) -> np.ndarray:
        return predict_means(
            scorer.build_inputs(picture, _with_fixed_embedding(scorer, picture, held)) for picture in pictures
        )

    def hold(picture: Image.Image) -> ScoreFn:
        return partial(score, held=scorer.analyze_faces(picture))

    return score, hold if scorer.face_input_spec.uses_faces else None


def _with_fixed_embedding(
    portable: LiteRTScorer, picture: Image.Image, fixed: FaceAnalysis | None
) -> FaceAnalysis | None:
    """Return the face analysis for a picture that is scored with a fixed embedding.

    If the network has a face crop as a second view, the picture's own face is detected anew for the crop.
    """
    if fixed is None or not portable.face_input_spec.view:
        return fixed
    detected = portable.analyze_faces(picture, embed=False) if fixed.has_face else None
    return FaceAnalysis(detected.faces if detected else (), fixed.embedding)


def advice_to_json(advice: Advice) -> dict[str, Any]:
    """Return advice as JSON."""
    return {
        "advice": [_suggestion_to_json(edit) for edit in advice.suggestions],
        "together": _suggestion_to_json(advice.together) if advice.together else None,
        "refused": [asdict(edit) for edit in advice.refused],
    }


def _suggestion_to_json(suggestion: Suggestion | CombinedSuggestion) -> dict[str, Any]:
    preview = "data:image/jpeg;base64," + base64.b64encode(suggestion.preview).decode()
    return {**asdict(suggestion), "preview": preview}
