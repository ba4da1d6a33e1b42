"""Whether the exported scorer serves: in a process of its own, as a server would start it.

A process that has built a scorer proves nothing about its export: the process still holds the Python code, the
custom layers and the functions that a server does not have.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluation import export_probe_worker
from components.scorer.artifacts import litert_model, saved_model
from components.scorer.artifacts.bundle import Bundle
from components.scorer.faces import embedder
from components.scorer.metrics import regression
from components.scorer.quoting import in_short
from components.scorer.registry import integrity
from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Evaluation, GateKey

BATCH_TOLERANCE = 1e-4
"""By which a photo's mean score and shares of votes may differ between a batch of 1 and one of 32: sums in another
order differ by 1e-6; a network that looks at a photo's neighbours differs by far more."""

TIMEOUT = 300.0
"""Seconds for the whole process: on a busy machine it answers within one minute, and no server is waited for longer."""

_PACKAGES = Path(__file__).resolve().parents[2]  # where the process finds this package, installed or not


@dataclass(frozen=True)
class Serving:
    """How the exported scorer serves; NaN where it could not be measured.

    Attributes:
        photos: how many it was asked about, one at a time and together.
        batch_difference: largest between a photo alone and in a batch of 32, of mean scores and shares of votes.
        agreement_difference: largest between the exported scorer and the trained one, likewise.
        load_seconds: until the exported model is loaded, its libraries being so already.
        first_milliseconds: of the first answer, which a server gives in its warm-up.
        latency_median: milliseconds to answer for one photo.
        latency_95: their 95th percentile.
        batch_milliseconds: median to answer for 32 photos together.
        memory_megabytes: the process's largest resident memory.
        size_megabytes: of the exported model's files.
        faces_milliseconds: median to find and read the face of a photo, of `latency_median`; 0 where none is read.
        faces_megabytes: of the files that find and read faces, of `size_megabytes`.
        error: why the process did not answer, or how it ended after it had; empty when all is well.
    """

    photos: int
    batch_difference: float = math.nan
    agreement_difference: float = math.nan
    load_seconds: float = math.nan
    first_milliseconds: float = math.nan
    latency_median: float = math.nan
    latency_95: float = math.nan
    batch_milliseconds: float = math.nan
    memory_megabytes: float = math.nan
    size_megabytes: float = math.nan
    faces_milliseconds: float = 0.0
    faces_megabytes: float = 0.0
    error: str = ""


def probe(bundle: Bundle, photos: Sequence[bytes], settings: Evaluation, name: str = "scorer") -> Serving:
    """Export a scorer, load it in a fresh process without an accelerator, and let it answer.

    Args:
        bundle: the trained scorer.
        photos: encoded, upright photos; repeated up to a full batch where they are fewer.
        settings: of the evaluation.
        name: of the model.

    Returns:
        What was measured. A scorer that cannot be exported, and a process that dies or hangs, are findings and not
        errors.

    Raises:
        ValueError: there is no photo.
    """
    if not photos:
        raise ValueError("expected photos to ask the exported scorer about, got none")
    asked = list(islice(cycle(photos), max(len(photos), export_probe_worker.BATCH)))
    found = Serving(len(asked))
    with tempfile.TemporaryDirectory() as folder:
        exported, questions, answers = (Path(folder, each) for each in ("model", "photos", "answers.json"))
        print("serving: exporting the scorer", flush=True)
        try:
            saved_model.export(bundle, exported, name)
            integrity.write(exported, {})
        except Exception as error:  # whatever a network is made of
            return replace(found, error=f"the scorer could not be exported: {in_short(error)}")
        faces = exported / litert_model.FOLDER / embedder.FOLDER
        found = replace(found, size_megabytes=_megabytes(exported), faces_megabytes=_megabytes(faces))
        questions.mkdir()
        for place, photo in enumerate(asked):
            (questions / f"{place:06d}").write_bytes(photo)
        print(f"serving: asking a fresh process about {len(asked)} photos", flush=True)
        error = _fresh_process(exported, questions, answers)
        if not answers.exists():
            return replace(found, error=error or "the process ended without an answer")
        answered = json.loads(answers.read_text())
    return _measured(replace(found, error=error), answered, bundle.score(asked))


def gates(serving: Serving, settings: Evaluation) -> list[Gate]:
    """Hold what was measured against the limits; what could not be measured fails."""
    asked = f"on {serving.photos} photos"
    return [
        _fresh(serving),
        _limited(
            "batch", "A photo's score does not depend on its batch", "largest difference", BATCH_TOLERANCE, serving,
            serving.batch_difference,
            f"photos alone and in batches of {export_probe_worker.BATCH} differ by {serving.batch_difference:.1e}"
            f" at most {asked}; {BATCH_TOLERANCE:g} is allowed.",
        ),
        _limited(
            "agreement", "The exported scorer answers as the trained one", "largest difference", saved_model.TOLERANCE,
            serving, serving.agreement_difference,
            f"the exported and the trained scorer differ by {serving.agreement_difference:.1e} at most {asked};"
            f" {saved_model.TOLERANCE:g} is allowed.",
        ),
        _limited(
            "latency", "Answers in time", "milliseconds, 95th percentile", settings.maximum_latency, serving,
            serving.latency_95,
            f"19 of 20 photos are answered within {serving.latency_95:.0f} ms (median {serving.latency_median:.0f} ms"
            f"{_of(serving.faces_milliseconds, 'ms')}; {serving.photos} photos one at a time on this CPU);"
            f" {settings.maximum_latency:g} ms are allowed.",
        ),
        _limited(
            "size", "Is small enough to be served", "megabytes", settings.maximum_size, serving,
            serving.size_megabytes,
            f"the exported model has {serving.size_megabytes:.1f} MB{_of(serving.faces_megabytes, 'MB')};"
            f" {settings.maximum_size:g} MB are allowed.",
        ),
    ]  # fmt: skip


def _of(faces: float, unit: str) -> str:
    """What of a figure is owed to finding and reading faces; nothing where none are read."""
    return f", of which {faces:.{0 if unit == 'ms' else 1}f} {unit} find and read the face" if faces else ""


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _fresh_process(exported: Path, questions: Path, answers: Path) -> str:
    """Let a process of its own answer; why it did not end well, in one line, or nothing."""
    command = [sys.executable, "-m", export_probe_worker.__name__, str(exported), str(questions), str(answers)]
    paths = [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]
    without_accelerator = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(
            command, env={**os.environ, **without_accelerator}, cwd=questions, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it was not done within {TIMEOUT:g} seconds"
    if done.returncode == 0:
        return ""
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
    return f"it ended with exit status {done.returncode}: {last.strip()[:300]}"


def _measured(found: Serving, answered: Mapping[str, Any], trained: np.ndarray) -> Serving:
    alone, together = ({name: np.array(each) for name, each in answered[how].items()} for how in ("alone", "together"))
    expected = {"mean": regression.mean_scores(trained), "distribution": trained}
    milliseconds = [1000 * seconds for seconds in answered["alone_seconds"]]
    return replace(
        found,
        batch_difference=_largest(alone, together),
        agreement_difference=_largest(expected, together),
        load_seconds=answered["load_seconds"],
        first_milliseconds=1000 * answered["first_seconds"],
        latency_median=statistics.median(milliseconds),
        latency_95=float(np.percentile(milliseconds, 95)),
        batch_milliseconds=1000 * statistics.median(answered["together_seconds"]),
        memory_megabytes=answered["memory_megabytes"],
        faces_milliseconds=1000 * statistics.median(answered["faces_seconds"] or [0.0]),
    )


def _largest(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any output; NaN when there is one."""
    return float(np.max([np.abs(one[name] - other[name]).max() for name in one]))


def _fresh(serving: Serving) -> Gate:
    passed = not serving.error
    reason = (
        f"a fresh process loaded the exported model in {serving.load_seconds:.1f} s and answered, with"
        f" {serving.memory_megabytes:.0f} MB of memory at most."
        if passed
        else f"a fresh process did not serve the exported model: {serving.error}."
    )
    name = "Loads and answers in a fresh process"
    return Gate("fresh_process", name, "seconds to load", serving.load_seconds, math.nan, outcome(passed), reason)


def _limited(key: GateKey, name: str, metric: str, limit: float, serving: Serving, value: float, reason: str) -> Gate:
    if not math.isfinite(value):
        reason = f"it could not be measured ({serving.error or 'an answer is no number'}), and that fails."
    return Gate(key, name, metric, value, limit, outcome(value <= limit), reason)
