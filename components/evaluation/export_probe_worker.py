"""The fresh process that loads an exported scorer and answers: ``python -m`` this module."""

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
"""Photos answered together, as ``Published.answers`` does unless told otherwise."""

_WARM_UP = 3  # answers before the clock counts: the first ones still arrange the graph


def answer(model: str, photos: Sequence[bytes]) -> dict[str, Any]:
    """Load an exported scorer, ask it about photos one at a time and in batches, and take the times.

    Args:
        model: folder of the export.
        photos: encoded, upright photos, at least one.

    Returns:
        ``alone`` and ``together`` (lists by output: mean, std, distribution), ``alone_seconds`` (a photo),
        ``together_seconds`` (a batch), ``load_seconds``, ``first_seconds``, ``faces_seconds`` (of a photo alone, what
        finds and reads its face; empty where none is read) and ``memory_megabytes`` (the largest resident memory of
        this process).
    """
    scorer, load_seconds = _timed(lambda: saved_model.load(model))
    first_seconds = _timed(lambda: scorer.answers([photos[0]]))[1]
    alone, alone_seconds = _asked(scorer, photos, 1)
    together, together_seconds = _asked(scorer, photos, BATCH)
    faces = [_timed(lambda photo=photo: scorer.read([photo]))[1] for photo in photos] if scorer.reads.faces else []
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kibibytes elsewhere (getrusage(2))
    return {
        "alone": alone,
        "together": together,
        "alone_seconds": alone_seconds,
        "together_seconds": together_seconds,
        "load_seconds": load_seconds,
        "first_seconds": first_seconds,
        "faces_seconds": faces,
        "memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def _asked(
    scorer: saved_model.Published, photos: Sequence[bytes], size: int
) -> tuple[dict[str, list[Any]], list[float]]:
    """The answers by output, and the seconds of each batch."""
    batches = [list(photos[start : start + size]) for start in range(0, len(photos), size)]
    for _ in range(_WARM_UP):
        scorer.answers(batches[0])
    answers, seconds = zip(*(_timed(lambda batch=batch: scorer.answers(batch)) for batch in batches), strict=True)
    return {name: np.concatenate([each[name] for each in answers]).tolist() for name in answers[0]}, list(seconds)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What came out, and after how many seconds."""
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    model, questions, answers = sys.argv[1:]
    found = answer(model, [file.read_bytes() for file in sorted(Path(questions).iterdir())])
    Path(answers).write_text(json.dumps(found))
