"""Photos a second of each stage of face reading, on all cores at once, and of ingestions with and without faces.

    PORTRAITS_DATA=… python -m tests.benchmarks.face_rates

The photos are real portraits as the data set stores them. Stages: decoding, detecting, cropping and aligning, embedding
by FaceNet without and with the mirror image; ``face_scales`` sets the number of crops a face. Each core runs one
process with one thread, as in ingestion and in the server, and the stages begin in all processes at the same time. Then
inspections without faces, with detected faces, and with embedded faces are timed in turn.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.ingestion.photos import parallel_map
from components.ingestion.photos.photo_inspection import CHUNK_SIZE, inspect_photos
from components.scorer.faces import embedder, weight_files
from components.scorer.faces.analyzer import FaceAnalyzer
from components.scorer.faces.embedder import BATCH, Embedder
from components.scorer.imaging import decoding
from components.scorer.settings import Faces, Ingestion
from tests.benchmarks.ingestion_rate import rate

PHOTOS = 256
SECONDS = 5.0  # for each stage
ROUNDS = 3
EMBEDDERS = {
    "FaceNet-128, Keras, two layers": {
        "face_embedder": "facenet_128.keras",
        "face_layers": ("AvgPool", "Block17_10_Activation"),
    },
    "FaceNet-128, Keras, its output": {"face_embedder": "facenet_128.keras"},
    "FaceNet-512, LiteRT as given": {"face_embedder": "facenet_512.tflite"},
}


def main() -> int:
    """Print the rates; return 2 without the portraits."""
    data = Path(os.environ.get("PORTRAITS_DATA", "/nowhere"))
    if not (data / "weights").is_dir():
        print("set PORTRAITS_DATA to the folder that holds data/mebeauty and weights", file=sys.stderr)
        return 2
    files = sorted((data / "data" / "mebeauty" / "photos").rglob("*.jpg"))
    files = files[:: max(1, len(files) // PHOTOS)][:PHOTOS]
    with tempfile.TemporaryDirectory() as scratch:
        weights = {
            name: prepared(data / "weights", Path(scratch, str(number)), name) for number, name in enumerate(EMBEDDERS)
        }
        for name, folder in weights.items():
            print(f"{name}: {embedder.embedding_size(folder)} values a face")
            stages(files, folder, Path(scratch), first=name == next(iter(EMBEDDERS)))
        ingestions(files, next(iter(weights.values())), Path(scratch))
    return 0


def prepared(given: Path, folder: Path, name: str) -> str:
    """Prepare the folder of weights of an embedder."""
    settings = Faces(face_detector=str(given / "yunet_n_640_640.onnx"), **EMBEDDERS[name])
    began = time.perf_counter()
    weight_files.prepare(replace(settings, face_embedder=str(given / settings.face_embedder)), folder)
    print(f"{name}: prepared in {time.perf_counter() - began:.0f} s", flush=True)
    return str(folder)


@dataclass(frozen=True)
class Work:
    """Work of one process."""

    files: tuple[str, ...]
    weights: str
    begin: float  # seconds since 1970, when all processes have loaded
    result: str


def stages(files: list[Path], weights: str, scratch: Path, first: bool) -> None:
    """Print the rates of the stages, summed over the cores."""
    cores = parallel_map.available_cores()
    begin = time.time() + 20
    per_core = max(BATCH * 4, len(files) // cores)
    files_by_core = [
        tuple(map(str, islice(cycle(files), core * per_core, (core + 1) * per_core))) for core in range(cores)
    ]
    works = [
        Work(core_files, weights, begin, str(scratch / f"{core}.json")) for core, core_files in enumerate(files_by_core)
    ]
    for _ in parallel_map.on_processes(measure, works):
        pass
    rates_by_core = [json.loads(Path(work.result).read_bytes()) for work in works]
    for stage in rates_by_core[0]:
        if first or stage.startswith("read"):
            total = sum(rates[stage] for rates in rates_by_core)
            print(f"  {stage:<36}{total:7.1f} a second on {cores} cores, {1000 * cores / total:6.1f} ms", flush=True)


def measure(work: Work) -> None:
    """Measure each stage in this process and write the rates."""
    analyzer, settings = FaceAnalyzer.load(work.weights), Ingestion()
    photos = [decoding.normalise(Path(file).read_bytes(), settings) for file in work.files]
    images = [Image.open(BytesIO(photo)).convert("RGB") for photo in photos]
    landmarks = [analysis.landmarks for analysis in analyzer.analyze_all(images, embed=False)]
    crops = [crop for pair in zip(images, landmarks, strict=True) for crop in analyzer.crops(*pair)]
    batches = [np.stack(crops[start : start + BATCH]) for start in range(0, len(crops) - BATCH + 1, BATCH)]
    plain = Embedder(network_of(analyzer, work.weights), replace(analyzer.embedder.spec, mirror=False))
    mirrored = Embedder(network_of(analyzer, work.weights), replace(analyzer.embedder.spec, mirror=True))
    rates = {}
    for number, (stage, items, crops_a_call, call) in enumerate(
        [
            ("decode the stored JPEG", photos, 1, lambda photo: Image.open(BytesIO(photo)).convert("RGB")),
            ("detect (YuNet)", images, 1, analyzer.detector.find),
            (
                "align and crop, both scales",
                list(zip(images, landmarks, strict=True)),
                1,
                lambda pair: analyzer.crops(*pair),
            ),
            ("read a crop alone, without mirror", crops, 1, lambda crop: plain.embed(crop[None])),
            (f"read crops by {BATCH}, without mirror", batches, BATCH, plain.embed),
            (f"read crops by {BATCH}, with mirror", batches, BATCH, mirrored.embed),
        ]
    ):
        rates[stage] = crops_a_call * calls_a_second(cycle(items), call, work.begin + number * (SECONDS + 2))
    Path(work.result).write_text(json.dumps(rates))


def network_of(reader: FaceAnalyzer, weights: str) -> str:
    """Return the embedder's file."""
    return str(Path(weights, embedder.EMBEDDERS[reader.embedder.spec.kind]))


def calls_a_second(items: Iterator[Any], call: Callable[[Any], Any], begin: float) -> float:
    """Return calls a second from a given time on, for some seconds, after one call to warm up."""
    call(next(items))
    time.sleep(max(0.0, begin - time.time()))
    number, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        call(next(items))
        number += 1
    return number / (time.perf_counter() - start)


def ingestions(files: list[Path], weights: str, scratch: Path) -> None:
    """Print the photos a second of inspections without faces, with detected faces, and with embedded faces."""
    detector = scratch / "detector"
    detector.mkdir()
    shutil.copy(Path(weights, embedder.DETECTOR), detector)
    (detector / embedder.METADATA).write_text('{"sha256": {}}')
    photos = [
        (str(number), str(file))
        for number, file in enumerate(islice(cycle(files), CHUNK_SIZE * parallel_map.available_cores()))
    ]
    kinds = {"without faces": "", "with faces found": str(detector), "with faces read": weights}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS):
        for kind, faces in kinds.items():
            spool = str(scratch / f"spool-{number}-{kind}")
            rates[kind].append(
                rate(lambda s=spool, f=faces: inspect_photos(photos, Ingestion(), s, face_weights=f), len(photos))
            )
    for kind, kind_rates in rates.items():
        print(f"inspection {kind}: {statistics.median(kind_rates):.1f} photos/s, processes' start included", flush=True)


if __name__ == "__main__":
    sys.exit(main())
