"""Cost of face reading for a server's worker: ``PORTRAITS_DATA=… python -m tests.benchmarks.faces_cost``.

The default network has random weights, once without faces and once with YuNet's faces and the FaceNet in the folder of
the real portraits. Two processes load a version, as two workers do. Each reports the processor time until it was ready,
including Python's start and imports, and the processor time a photo from its bytes to its score, on one thread. Other
work on the machine hardly changes processor time. Memory is measured while both run: resident, and private, as the
embedder's file is mapped and shared. The photos are real.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

PHOTOS = 40
WORKERS = 2


def main() -> int:
    """Print the figures; return 2 without the real portraits."""
    from tests.benchmarks.advice_time import exported  # the workers do not need it

    data_folder = os.environ.get("PORTRAITS_DATA", "")
    if not data_folder:
        print("set PORTRAITS_DATA to the folder that holds data/mebeauty and weights", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        versions = {"photo alone": exported(f"{folder}/plain"), "with faces": exported(f"{folder}/faces", data_folder)}
        results = {kind: _measured(version, data_folder) for kind, version in versions.items()}
        for kind, version in versions.items():
            size = sum(file.stat().st_size for file in Path(version, "portable").rglob("*") if file.is_file()) / 1e6
            print(f"{kind}: {size:.1f} MB of files; " + "; ".join(map(_told, results[kind])), flush=True)
    photo_only, faces = (min(worker["milliseconds"] for worker in results[kind]) for kind in versions)
    print(f"a photo with its face over one without: {faces / photo_only:.2f} ({photo_only:.1f} and {faces:.1f} ms)")
    return 0


def _told(worker: dict[str, Any]) -> str:
    return (
        f"a worker: ready after {worker['seconds']:.2f} s of a processor; {worker['resident']:.0f} MB resident,"
        f" of which {worker['own']:.0f} MB its own; {worker['milliseconds']:.1f} ms a photo, of which its face"
        f" {worker['face']:.1f} ms"
    )


def _measured(version: str, place: str) -> list[dict[str, Any]]:
    """Return the reports of all workers, measured while all of them run."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(version, place)) for _ in range(WORKERS)]
        reports = [json.loads(worker.stdout.readline()) for worker in workers]
        return [report | _memory(worker.pid) for report, worker in zip(reports, workers, strict=True)]


@contextmanager
def _worker(version: str, place: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", __spec__.name, version, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.stdin.close()  # which ends the worker


def _memory(process: int) -> dict[str, float]:
    """Return the resident megabytes, and the private ones: pages that no other process maps."""
    lines = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    kilobytes = {name: int(value) for name, value, *_ in lines}
    return {
        "resident": kilobytes["Rss:"] * 1.024e-3,
        "own": (kilobytes["Private_Clean:"] + kilobytes["Private_Dirty:"]) * 1.024e-3,
    }


def _work(version: str, place: str) -> None:
    """Run a worker: load, score, report, and wait until standard input ends."""
    from components.scorer.artifacts import litert_model
    from components.scorer.faces import face_inputs

    scorer = litert_model.load(version)
    seconds = time.process_time()  # since the process began
    photos = [file.read_bytes() for file in sorted(Path(place, "data", "mebeauty", "photos").rglob("*.jpg"))[:PHOTOS]]

    def score(photo: bytes) -> tuple[float, float]:
        start = time.process_time()
        normalised = scorer.normalise(photo)
        image = Image.open(io.BytesIO(normalised)).convert("RGB")
        started_at = time.process_time()
        analysis = scorer.analyze_faces(image) if scorer.face_input_spec.uses_faces else None
        face = time.process_time() - started_at
        scorer.predict(face_inputs.stack_inputs([scorer.build_inputs(image, analysis)]))
        return time.process_time() - start, face

    for photo in photos[:3]:
        score(photo)
    times = sorted(score(photo) for photo in photos)
    total, face = times[len(times) // 2]
    print(json.dumps({"seconds": seconds, "milliseconds": 1e3 * total, "face": 1e3 * face}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    sys.exit(_work(*sys.argv[1:]) if len(sys.argv) > 1 else main())
