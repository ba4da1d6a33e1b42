"""What reading faces costs a server's worker: ``PORTRAITS_DATA=… python -m tests.benchmarks.faces_cost``.

The default network with random weights, once as it is and once so that it reads YuNet's faces by the FaceNet that lies
with the real portraits. Two processes load a version, as two workers do; each tells how much processor time it took to
be ready, Python's start and imports included, and how much a photo takes from its bytes to its score, on one thread:
processor time hardly moves when other work is about. Memory is what both hold while they live: resident, and what of it
is their own, for the embedder's file is mapped and shared. Photos are real ones.
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
    """Print the figures; 2 where the real portraits are not there."""
    from tests.benchmarks.advice_time import exported  # a worker has no need of it

    place = os.environ.get("PORTRAITS_DATA", "")
    if not place:
        print("set PORTRAITS_DATA to the folder that holds data/mebeauty and weights", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        versions = {"photo alone": exported(f"{folder}/plain"), "with faces": exported(f"{folder}/faces", place)}
        found = {what: _measured(version, place) for what, version in versions.items()}
        for what, version in versions.items():
            size = sum(file.stat().st_size for file in Path(version, "portable").rglob("*") if file.is_file()) / 1e6
            print(f"{what}: {size:.1f} MB of files; " + "; ".join(map(_told, found[what])), flush=True)
    alone, faces = (min(each["milliseconds"] for each in found[what]) for what in versions)
    print(f"a photo with its face over one without: {faces / alone:.2f} ({alone:.1f} and {faces:.1f} ms)")
    return 0


def _told(worker: dict[str, Any]) -> str:
    return (
        f"a worker: ready after {worker['seconds']:.2f} s of a processor; {worker['resident']:.0f} MB resident,"
        f" of which {worker['own']:.0f} MB its own; {worker['milliseconds']:.1f} ms a photo, of which its face"
        f" {worker['face']:.1f} ms"
    )


def _measured(version: str, place: str) -> list[dict[str, Any]]:
    """What each of the workers tells while all of them live."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(version, place)) for _ in range(WORKERS)]
        told = [json.loads(worker.stdout.readline()) for worker in workers]
        return [each | _memory(worker.pid) for each, worker in zip(told, workers, strict=True)]


@contextmanager
def _worker(version: str, place: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", __spec__.name, version, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.stdin.close()  # which lets it end


def _memory(process: int) -> dict[str, float]:
    """Megabytes resident, and of its own: pages that no other process maps."""
    lines = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    kilobytes = {name: int(value) for name, value, *_ in lines}
    return {
        "resident": kilobytes["Rss:"] * 1.024e-3,
        "own": (kilobytes["Private_Clean:"] + kilobytes["Private_Dirty:"]) * 1.024e-3,
    }


def _work(version: str, place: str) -> None:
    """A worker: loads, scores, tells, and stays until its standard input ends."""
    from components.scorer.artifacts import litert_model
    from components.scorer.faces import face_inputs

    scorer = litert_model.load(version)
    seconds = time.process_time()  # since the process began
    photos = [file.read_bytes() for file in sorted(Path(place, "data", "mebeauty", "photos").rglob("*.jpg"))[:PHOTOS]]

    def score(photo: bytes) -> tuple[float, float]:
        start = time.process_time()
        normal = scorer.normalise(photo)
        image = Image.open(io.BytesIO(normal)).convert("RGB")
        looked = time.process_time()
        seen = scorer.analyze_faces(image) if scorer.face_input_spec.uses_faces else None
        face = time.process_time() - looked
        scorer.predict(face_inputs.stack_inputs([scorer.build_inputs(image, seen)]))
        return time.process_time() - start, face

    for photo in photos[:3]:
        score(photo)
    times = sorted(score(photo) for photo in photos)
    whole, face = times[len(times) // 2]
    print(json.dumps({"seconds": seconds, "milliseconds": 1e3 * whole, "face": 1e3 * face}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    sys.exit(_work(*sys.argv[1:]) if len(sys.argv) > 1 else main())
