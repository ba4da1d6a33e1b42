"""Rate of photo inspection relative to the bare decoding, resizing and encoding of the same photos.

    python -m tests.benchmarks.ingestion_rate

Both use the same pool of processes, photos, Pillow calls and scaled decoding. The bare one checks, measures and stores
nothing. They run in turn, so that other load on the machine affects both.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from components.ingestion.photos import parallel_map
from components.ingestion.photos.photo_inspection import CHUNK_SIZE, inspect_photos
from components.scorer.settings import Ingestion

TARGET = 0.7
ROUNDS = 5
SIZES = {(1200, 1600): 2, (4000, 3000): 1}
"""Width and height of the photos, and number of chunks of them for each core."""


def main() -> int:
    """Print the rates and their ratio for each size; return 1 if a ratio misses the target."""
    worst = float("inf")
    for (width, height), chunks in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            photos = drawn_photos(
                Path(folder, "photos"), width, height, chunks * CHUNK_SIZE * parallel_map.available_cores()
            )
            ratio = measured(photos, folder, f"{width} x {height}")
        worst = min(worst, ratio)
    print(f"inspection / bare, worst: {worst:.2f} (target: at least {TARGET})")
    return int(worst < TARGET)


def measured(photos: list[tuple[str, str]], folder: str, what: str) -> float:
    """Return the median ratio of the rates over the rounds."""
    spool, rates = str(Path(folder, "spool")), []
    for _ in range(ROUNDS):
        inspected = rate(lambda: inspect_photos(photos, Ingestion(), spool), len(photos))
        shutil.rmtree(spool)
        rates.append((inspected, rate(lambda: bare_all(photos), len(photos))))
    ratio = statistics.median(inspected / bare for inspected, bare in rates)
    inspected, bare = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"{what}, {len(photos)} photos: inspection {inspected:.0f}/s, bare {bare:.0f}/s, ratio {ratio:.2f}", flush=True
    )
    return ratio


def rate(work: Callable[[], object], photos: int) -> float:
    """Return photos a second."""
    start = time.perf_counter()
    work()
    return photos / (time.perf_counter() - start)


def bare_all(photos: list[tuple[str, str]]) -> list[float]:
    """Decode, resize and encode on all cores, and return the times at which the chunks were done."""
    chunks = [photos[start : start + CHUNK_SIZE] for start in range(0, len(photos), CHUNK_SIZE)]
    return [time.perf_counter() for _ in parallel_map.on_processes(bare_chunk, chunks)]


def bare_rate(photos: list[tuple[str, str]]) -> float:
    """Return photos a second of the bare work, without the start of the processes.

    The time is that from the first chunk's end to the last chunk's.

    Args:
        photos: At least two chunks; an incomplete last chunk is left out.
    """
    moments = bare_all(photos[: len(photos) // CHUNK_SIZE * CHUNK_SIZE])
    return (len(moments) - 1) * CHUNK_SIZE / (moments[-1] - moments[0])


def bare_chunk(photos: list[tuple[str, str]]) -> None:
    """Do the least work of any ingestion."""
    settings = Ingestion()
    for _, path in photos:
        with Image.open(path) as image:
            scale = settings.shorter_side / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image.draft(None, (round(size[0] * 1.5), round(size[1] * 1.5)))
            small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
            small.save(BytesIO(), "JPEG", quality=settings.jpeg_quality)


def drawn_photos(folder: Path, width: int, height: int, count: int) -> list[tuple[str, str]]:
    """Return ids and paths of photos with detail of all sizes and sensor noise: four photos under many names."""
    folder.mkdir()
    for seed in range(min(4, count)):
        drawn(width, height, seed).save(folder / f"{seed:06}.jpg", quality=90)
    for number in range(4, count):
        os.link(folder / f"{number % 4:06}.jpg", folder / f"{number:06}.jpg")
    return [(path.name, str(path)) for path in sorted(folder.iterdir())]


def drawn(width: int, height: int, seed: int) -> Image.Image:
    """Return a picture with a photograph's spectrum; as a JPEG of quality 90 it has about 0.3 bytes a pixel."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128, np.float32)
    for octave in range(2, 11):
        cells = 2**octave
        noise = Image.fromarray(rng.normal(0, 120 / cells**0.6, (cells, cells)).astype(np.float32))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    total += rng.normal(0, 4, total.shape)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
