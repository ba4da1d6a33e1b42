"""Photos a second of sharded ranking, relative to the bare runtime.

    python -m tests.benchmarks.ranking_rate [2048]

The bare runtime is one warm process a core that reads, normalises, scales and scores the same photos with the LiteRT
network and stores nothing. Ranking is the whole command: start of Beam's processes on Dask, loading, scoring, writing
shards, sorting. Its start weighs more for few photos. Photos have 640 x 800 pixels, and the network is the default one
with random weights. The bare rate is measured before and after every ranking, so that other load on the machine affects
both, and the median of the ratios is printed.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from components.ingestion.photos.parallel_map import available_cores
from components.scorer import progress
from components.scorer.artifacts import litert_model
from components.scorer.batch.score_many import score_and_rank
from components.scorer.registry.channels import COMPLETE
from tests.benchmarks.ingestion_rate import drawn_photos

SIZE, PHOTOS, ROUNDS = (640, 800), 2048, 3
BARE, LIMIT = 15.0, 300.0  # seconds of the measurement of the bare rate; most seconds to wait for its processes
TARGET = 0.8
MANY = 200_000


def main() -> int:
    """Print the rates and their ratio; return 1 if it misses the target."""
    photos = int(sys.argv[1]) if sys.argv[1:] else PHOTOS
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In a subprocess: TensorFlow's memory and threads must not be measured.
        exporting = multiprocessing.get_context("spawn").Process(target=_export, args=(folder / "models",))
        exporting.start()
        paths = [path for _, path in drawn_photos(folder / "photos", *SIZE, photos)]
        exporting.join()
        model, ratios = str(folder / "models" / "1"), []
        bares = [_bare(model, paths)]
        for turn in range(ROUNDS):
            began = time.perf_counter()
            summary = score_and_rank(model, str(folder / "photos"), str(folder / f"out{turn}"))
            seconds = time.perf_counter() - began
            if summary.scored != photos:
                raise RuntimeError(f"expected {photos} photos to be scored, {summary.scored} were")
            bares.append(_bare(model, paths))
            ratios.append(photos / seconds / statistics.mean(bares[-2:]))
            around = f"bare {bares[-2]:.1f} and {bares[-1]:.1f}/s"
            print(f"{around}, ranking {photos / seconds:.1f}/s, ratio {ratios[-1]:.2f}", flush=True)
    ratio = statistics.median(ratios)
    duration = progress.duration(MANY / (ratio * statistics.median(bares)))
    print(f"ranking / bare, {photos:,} photos on {available_cores()} cores: {ratio:.2f} (target: at least {TARGET})")
    print(f"{MANY:,} photos at this rate: {duration} (extrapolated)")
    return int(ratio < TARGET)


def _export(folder: Path) -> None:
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.model.encoder import build_encoder
    from components.scorer.model.network import build_scorer
    from components.scorer.model.surgery import calibrate_batch_norms
    from components.scorer.parameters import from_parameters
    from components.scorer.registry import integrity
    from components.scorer.settings import Pretraining, Training

    settings = from_parameters(Pretraining, start="none")
    encoder = build_encoder(settings)
    pixels = np.random.default_rng(1).uniform(0, 255, (16, settings.crop, settings.crop, 3)).astype("float32")
    calibrate_batch_norms(encoder, pixels)
    scorer = bundle.TrainedScorer(build_scorer(encoder, dropout=0.5), settings, Training())
    saved_model.export_litert(scorer, folder / "1", "portraits", error=0.7)
    (folder / "1" / COMPLETE).touch()
    integrity.write_record(folder / "1", {})


def _bare(model: str, paths: list[str]) -> float:
    """Return photos a second of all cores together."""
    context = multiprocessing.get_context("spawn")
    ready, rates, number = context.Barrier(available_cores()), context.Queue(), available_cores()
    workers = [
        context.Process(target=_answer, args=(model, paths[worker_index::number], ready, rates))
        for worker_index in range(number)
    ]
    for worker in workers:
        worker.start()
    total = sum(rates.get(timeout=LIMIT) for _ in workers)
    for worker in workers:
        worker.join(LIMIT)
    return total


def _answer(model: str, paths: list[str], ready: Any, told: Any) -> None:
    scorer, scored = litert_model.load(model), 0

    def score(path: str) -> None:
        scorer.predict(scorer.pixels(scorer.normalise(Path(path).read_bytes()))[None])

    for path in paths[:5]:
        score(path)
    ready.wait(LIMIT)
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < BARE:
        score(paths[scored % len(paths)])
        scored += 1
    told.put(scored / seconds)


if __name__ == "__main__":
    sys.exit(main())
