"""Export probe: exports the scorer, loads it in a fresh process as a server would, and measures its answers.

A probe in the process that built the scorer would prove nothing about the export. That process still holds the Python
code, the custom layers and the functions that a server does not have.
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
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.faces import embedder
from components.scorer.metrics import regression
from components.scorer.quoting import one_line
from components.scorer.registry import integrity
from components.scorer.run.decision import GateResult, gate_outcome
from components.scorer.settings import Evaluation, GateKey

BATCH_TOLERANCE = 1e-4
"""Tolerance of a photo's mean score and fractions of votes between a batch of 1 and a batch of 32.

Sums in another order differ by 1e-6; a network that depends on the other photos of the batch differs by far more."""

TIMEOUT = 300.0
"""Time limit of the process in seconds: on a busy machine it needs less than a minute; no server is given longer."""

_PACKAGES = Path(__file__).resolve().parents[2]  # PYTHONPATH entry, so that this package need not be installed


@dataclass(frozen=True)
class ExportProbeResult:
    """Result of the export probe; numbers that could not be measured are NaN.

    Attributes:
        photos: Number of photos scored, one at a time and in batches.
        batch_difference: Largest difference in mean scores and fractions of votes between batches of 1 and 32.
        agreement_difference: Largest difference in mean scores and fractions of votes between exported and trained
            scorer.
        load_seconds: Time to load the exported model, with its libraries already imported.
        first_milliseconds: Time of the first prediction, which a server makes in its warm-up.
        latency_median: Median time to score one photo, milliseconds.
        latency_95: 95th percentile of the time to score one photo, milliseconds.
        batch_milliseconds: Median time to score a batch of 32 photos.
        memory_megabytes: Largest resident memory of the process.
        size_megabytes: Size of the exported model's files.
        faces_milliseconds: Median time to find and embed the face of a photo, included in `latency_median`; 0 for a
            model without face inputs.
        faces_megabytes: Size of the face detector and embedder files, included in `size_megabytes`.
        error: Reason why the process did not answer, or how it failed afterwards; empty without an error.
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


def probe(
    bundle: TrainedScorer, photos: Sequence[bytes], settings: Evaluation, name: str = "scorer"
) -> ExportProbeResult:
    """Export a scorer, load it in a fresh process without an accelerator, and measure its predictions.

    Args:
        bundle: The trained scorer.
        photos: Encoded, upright photos; repeated up to a full batch if they are fewer.
        settings: Evaluation settings.
        name: Name of the model.

    Returns:
        The measurements. A scorer that cannot be exported, or a process that dies or hangs, is reported in ``error``
        and raises nothing.

    Raises:
        ValueError: There is no photo.
    """
    if not photos:
        raise ValueError("expected photos to ask the exported scorer about, got none")
    batch_photos = list(islice(cycle(photos), max(len(photos), export_probe_worker.BATCH)))
    result = ExportProbeResult(len(batch_photos))
    with tempfile.TemporaryDirectory() as folder:
        exported, photo_folder, answer_file = (
            Path(folder, file_name) for file_name in ("model", "photos", "answers.json")
        )
        print("serving: exporting the scorer", flush=True)
        try:
            saved_model.export(bundle, exported, name)
            integrity.write_record(exported, {})
        except Exception as error:  # any layer of a network may fail to export
            return replace(result, error=f"the scorer could not be exported: {one_line(error)}")
        faces = exported / litert_model.FOLDER / embedder.FOLDER
        result = replace(result, size_megabytes=_megabytes(exported), faces_megabytes=_megabytes(faces))
        photo_folder.mkdir()
        for index, photo in enumerate(batch_photos):
            (photo_folder / f"{index:06d}").write_bytes(photo)
        print(f"serving: asking a fresh process about {len(batch_photos)} photos", flush=True)
        fault = _run_worker(exported, photo_folder, answer_file)
        if not answer_file.exists():
            return replace(result, error=fault or "the process ended without an answer")
        outputs = json.loads(answer_file.read_text())
    return _with_measurements(replace(result, error=fault), outputs, bundle.score(batch_photos))


def gates(result: ExportProbeResult, settings: Evaluation) -> list[GateResult]:
    """Return the gates on loading, batch independence, agreement, latency and size; an unmeasured value fails."""
    on_photos = f"on {result.photos} photos"
    return [
        _load_gate(result),
        _limit_gate(
            "batch", "A photo's score does not depend on its batch", "largest difference", BATCH_TOLERANCE, result,
            result.batch_difference,
            f"photos alone and in batches of {export_probe_worker.BATCH} differ by {result.batch_difference:.1e}"
            f" at most {on_photos}; {BATCH_TOLERANCE:g} is allowed.",
        ),
        _limit_gate(
            "agreement", "The exported scorer answers as the trained one", "largest difference", saved_model.TOLERANCE,
            result, result.agreement_difference,
            f"the exported and the trained scorer differ by {result.agreement_difference:.1e} at most {on_photos};"
            f" {saved_model.TOLERANCE:g} is allowed.",
        ),
        _limit_gate(
            "latency", "Answers in time", "milliseconds, 95th percentile", settings.maximum_latency, result,
            result.latency_95,
            f"19 of 20 photos are answered within {result.latency_95:.0f} ms (median {result.latency_median:.0f} ms"
            f"{_face_part(result.faces_milliseconds, 'ms')}; {result.photos} photos one at a time on this CPU);"
            f" {settings.maximum_latency:g} ms are allowed.",
        ),
        _limit_gate(
            "size", "Is small enough to be served", "megabytes", settings.maximum_size, result,
            result.size_megabytes,
            f"the exported model has {result.size_megabytes:.1f} MB{_face_part(result.faces_megabytes, 'MB')};"
            f" {settings.maximum_size:g} MB are allowed.",
        ),
    ]  # fmt: skip


def _face_part(faces: float, unit: str) -> str:
    """Return the part of a figure that is due to face detection and embedding, in words; empty if it is 0."""
    return f", of which {faces:.{0 if unit == 'ms' else 1}f} {unit} find and read the face" if faces else ""


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _run_worker(exported: Path, photo_folder: Path, answer_file: Path) -> str:
    """Run the probe worker in a fresh process; return why it failed, in one line, or "" on success."""
    command = [sys.executable, "-m", export_probe_worker.__name__, str(exported), str(photo_folder), str(answer_file)]
    paths = [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        completed = subprocess.run(
            command, env={**os.environ, **environment}, cwd=photo_folder, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it was not done within {TIMEOUT:g} seconds"
    if completed.returncode == 0:
        return ""
    last = next((line for line in reversed(completed.stderr.splitlines()) if line.strip()), "")
    return f"it ended with exit status {completed.returncode}: {last.strip()[:300]}"


def _with_measurements(result: ExportProbeResult, outputs: Mapping[str, Any], trained: np.ndarray) -> ExportProbeResult:
    alone, batched = (
        {name: np.array(values) for name, values in outputs[mode].items()} for mode in ("alone", "together")
    )
    expected = {"mean": regression.mean_scores(trained), "distribution": trained}
    milliseconds = [1000 * seconds for seconds in outputs["alone_seconds"]]
    return replace(
        result,
        batch_difference=_largest_difference(alone, batched),
        agreement_difference=_largest_difference(expected, batched),
        load_seconds=outputs["load_seconds"],
        first_milliseconds=1000 * outputs["first_seconds"],
        latency_median=statistics.median(milliseconds),
        latency_95=float(np.percentile(milliseconds, 95)),
        batch_milliseconds=1000 * statistics.median(outputs["together_seconds"]),
        memory_megabytes=outputs["memory_megabytes"],
        faces_milliseconds=1000 * statistics.median(outputs["faces_seconds"] or [0.0]),
    )


def _largest_difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """Return the largest absolute difference over all outputs; NaN if any output is NaN."""
    return float(np.max([np.abs(first[name] - second[name]).max() for name in first]))


def _load_gate(serving: ExportProbeResult) -> GateResult:
    passed = not serving.error
    reason = (
        f"a fresh process loaded the exported model in {serving.load_seconds:.1f} s and answered, with"
        f" {serving.memory_megabytes:.0f} MB of memory at most."
        if passed
        else f"a fresh process did not serve the exported model: {serving.error}."
    )
    name = "Loads and answers in a fresh process"
    return GateResult(
        "fresh_process", name, "seconds to load", serving.load_seconds, math.nan, gate_outcome(passed), reason
    )


def _limit_gate(
    key: GateKey, name: str, metric: str, limit: float, serving: ExportProbeResult, value: float, reason: str
) -> GateResult:
    if not math.isfinite(value):
        reason = f"it could not be measured ({serving.error or 'an answer is no number'}), and that fails."
    return GateResult(key, name, metric, value, limit, gate_outcome(value <= limit), reason)
