"""Worker process of the export probe: loads an exported scorer and measures it; run by ``python -m``."""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer.artifacts import saved_model

BATCH = 32
"""Batch size of the batched predictions, the default of ``SavedModelScorer.predict``."""

_WARM_UP = 3  # predictions before timing: the first predictions still trace and optimise the graph


def measure_export(model: str, photos: Sequence[bytes]) -> dict[str, Any]:
    """Load an exported scorer, score photos one at a time and in batches, and measure the times.

    Args:
        model: Folder of the export.
        photos: Encoded, upright photos, at least one.

    Returns:
        ``alone`` and ``together``: predictions one at a time and in batches, lists by output (mean, std,
        distribution). ``alone_seconds`` for each photo, ``together_seconds`` for each batch, ``load_seconds`` and
        ``first_seconds``. ``faces_seconds`` for each photo: face detection and embedding; empty for a model without
        face inputs. ``memory_megabytes``: largest resident memory of this process.
    """
    scorer, load_seconds = _timed(saved_model.load, model)
    first_seconds = _timed(scorer.predict, [photos[0]])[1]
    alone, alone_seconds = _predict_batches(scorer, photos, 1)
    together, together_seconds = _predict_batches(scorer, photos, BATCH)
    faces_seconds = (
        [_timed(scorer.compute_face_inputs, [photo])[1] for photo in photos]
        if scorer.face_input_spec.uses_faces
        else []
    )
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes on macOS, kibibytes elsewhere (getrusage(2))
    return {
        "alone": alone,
        "together": together,
        "alone_seconds": alone_seconds,
        "together_seconds": together_seconds,
        "load_seconds": load_seconds,
        "first_seconds": first_seconds,
        "faces_seconds": faces_seconds,
        "memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def _predict_batches(
    scorer: saved_model.SavedModelScorer, photos: Sequence[bytes], size: int
) -> tuple[dict[str, list[Any]], list[float]]:
    """Return the predictions by output, and the duration of each batch in seconds."""
    batches = [list(photos[start : start + size]) for start in range(0, len(photos), size)]
    for _ in range(_WARM_UP):
        scorer.predict(batches[0])
    answers, seconds = zip(*(_timed(scorer.predict, batch) for batch in batches), strict=True)
    return {name: np.concatenate([outputs[name] for outputs in answers]).tolist() for name in answers[0]}, list(seconds)


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Return the result of a function, and its duration in seconds."""
    began = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - began


if __name__ == "__main__":
    model, photo_folder, answers = sys.argv[1:]
    measurements = measure_export(model, [file.read_bytes() for file in sorted(Path(photo_folder).iterdir())])
    Path(answers).write_text(json.dumps(measurements))
