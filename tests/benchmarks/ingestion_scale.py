"""What a whole ingestion costs as the photos grow in number: memory, time, and time over the bare minimum.

    python -m tests.benchmarks.ingestion_scale [--photos FOLDER] [10000 50000]

The photos have 640 x 800 pixels, and a fifth of them is rated. No two are near duplicates: they are cut out of some
hundred drawn pictures in places, sizes and lights of their own. They are kept in FOLDER, where one is given, for the
next time. Memory is the sum of what all processes of the ingestion show as resident, so pages that they share count
several times. The bare minimum is to decode, resize and encode the same photos on the same cores; it is timed before
and after each ingestion, so that other load on the machine meets both, and growth is that of the ratio to it.

What is told of cores, hours and money is of the processor time that all processes took, which other load changes less
than the clock: `PRICE` for each core and hour. A straight line is laid through the numbers, with how far each is off
it; what it says of the case study's 200,000 photos is told, and called extrapolated where they were not measured.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageEnhance

from components.ingestion import engine
from components.ingestion.ingest import ingest
from components.ingestion.inspection import CHUNK
from components.scorer import progress
from components.scorer.progress import track
from components.scorer.settings import Ingestion
from components.scorer.workspace import Workspace
from tests.benchmarks.ingestion_rate import bare_all, drawn, rate

SIZE = (640, 800)
PICTURES = 100
RATED = 5  # one photo in so many
BARE = 3000  # some so many photos tell the bare rate

PRICE = 0.05
"""US dollars a core and hour, an assumption: about what clouds ask for a general-purpose machine's cores on demand."""

STUDY = 200_000  # photos of the case study

MEMORY, LINEAR, WHOLE = 1.5, 0.8, 0.7
"""Targets: the most GiB resident; the least of the ratio to the bare rate as photos grow in number, and at the end."""


def main() -> int:
    """Print memory, rates and ratios; 1 when one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, default=[10_000, 50_000])
    parser.add_argument("--photos", help="folder that keeps the drawn photos")
    asked = parser.parse_args()
    if asked.photos:
        Path(asked.photos).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.photos) as scratch:  # on the same disk, where files can be linked
        photos = drawn_photos(Path(asked.photos or scratch, "drawn"), max(asked.numbers))
        found = [_measured(photos[:number], Path(scratch, str(number))) for number in sorted(asked.numbers)]
    ratios, memories, hours = zip(*found, strict=True)
    _tell_line(sorted(asked.numbers), hours)
    linear, whole, memory = ratios[-1] / ratios[0], ratios[-1], max(memories)
    print(f"resident memory, most: {memory:.2f} GiB (target: at most {MEMORY})")
    print(f"ratio at {max(asked.numbers):,} / at {min(asked.numbers):,}: {linear:.2f} (target: at least {LINEAR})")
    print(f"whole ingestion / bare at {max(asked.numbers):,}: {whole:.2f} (target: at least {WHOLE})")
    return int(memory > MEMORY or linear < LINEAR or whole < WHOLE)


def _measured(photos: list[Path], folder: Path) -> tuple[float, float, float]:
    """The rate of an ingestion over the bare rate, its most GiB resident, and the hours of processors that it took."""
    _lay_out(photos, folder)
    places = [str(folder / name) for name in ("photos", "ratings.csv", "dataset", "report.html")]
    workspace = Workspace(str(folder / "workspace"), "run")
    options = {"unlabelled": str(folder / "unlabelled"), "workspace": workspace, "settings": Ingestion()}
    some = [(path.name, str(path)) for path in photos[:: max(1, len(photos) // BARE)]]
    before = rate(lambda: bare_all(some), len(some))
    # In a process of its own, which holds nothing from an ingestion before.
    process = multiprocessing.get_context("spawn").Process(target=ingest, args=places, kwargs=options)
    started, memory, before_it = time.perf_counter(), 0.0, _processor_time()
    process.start()
    while process.is_alive():
        memory = max(memory, _resident(process.pid))
        process.join(0.2)
    seconds, hours = time.perf_counter() - started, (_processor_time() - before_it) / 3600
    if process.exitcode:
        raise RuntimeError(f"the ingestion of {len(photos)} photos failed: see above")
    shutil.rmtree(folder)
    bare, whole = (before + rate(lambda: bare_all(some), len(some))) / 2, len(photos) / seconds
    print(
        f"{len(photos):,} photos: {progress.duration(seconds)}, {whole:.0f}/s, bare {bare:.0f}/s, {memory:.2f} GiB "
        f"resident, {hours * 60:.1f} minutes of a core, {hours * PRICE:.3f} $",
        flush=True,
    )
    return whole / bare, memory, hours


def _tell_line(numbers: list[int], hours: Sequence[float]) -> None:
    """Print the straight line through what was measured, and what it says of the study's photos."""
    if len(numbers) < 2:
        return
    slope, start = np.polyfit(numbers, hours, 1)
    off = max(abs(each - (start + slope * number)) / each for number, each in zip(numbers, hours, strict=True))
    said = "measured" if STUDY in numbers else "extrapolated"
    through = "two, so through both" if len(numbers) == 2 else f"{len(numbers)}, at most {off:.1%} off"
    print(f"straight line ({through}): {start * 60:.1f} minutes of a core and {slope * 3.6e6:.1f} ms a photo")
    wanted = start + slope * STUDY
    print(
        f"{STUDY:,} photos ({said}): {wanted:.1f} hours of a core, {wanted * PRICE:.2f} $ at {PRICE} $ a core and hour"
    )


def _processor_time() -> float:
    """Seconds of processors of this process's children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _lay_out(photos: list[Path], folder: Path) -> None:
    """Make folders of rated and of unlabelled photos, and a file of ratings."""
    for side in ("photos", "unlabelled"):
        (folder / side).mkdir(parents=True)
    for place, path in enumerate(photos):
        os.link(path, folder / ("unlabelled" if place % RATED else "photos") / path.name)
    rng = np.random.default_rng(1)
    with (folder / "ratings.csv").open("w") as file:
        file.write("photo,rater,score\n")
        for path in photos[::RATED]:
            file.writelines(
                f"{path.name},rater {rater},{score}\n" for rater, score in enumerate(rng.integers(1, 11, 9))
            )


def _resident(process: int) -> float:
    """The GiB that a process and its children show as resident."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in [psutil.Process(process), *psutil.Process(process).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # ended meanwhile
                total += each.memory_info().rss
    return total / 2**30


def drawn_photos(folder: Path, number: int) -> list[Path]:
    """The paths of so many photos, drawn where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{place:06}.jpg" for place in range(number)]
    missing = [place for place, path in enumerate(paths) if not path.exists()]
    chunks = [(folder, missing[start : start + CHUNK]) for start in range(0, len(missing), CHUNK)]
    for _ in track(engine.on_processes(_draw, chunks), f"drawing photos in chunks of {CHUNK}", len(chunks)):
        pass
    return paths


def _draw(chunk: tuple[Path, list[int]]) -> None:
    folder, places = chunk
    for place in places:
        rng = np.random.default_rng(place)
        side = rng.uniform(0.4, 0.8)
        corner = rng.uniform(0, 1 - side, 2)
        picture = _picture(place % PICTURES)
        box = [*(corner * picture.size), *((corner + side) * picture.size)]
        photo = picture.resize(SIZE, Image.Resampling.BILINEAR, box)
        photo = ImageEnhance.Brightness(photo).enhance(rng.uniform(0.6, 1.2))
        photo.save(folder / f"{place:06}.jpg", quality=85)


@lru_cache(maxsize=PICTURES)
def _picture(seed: int) -> Image.Image:
    return drawn(800, 1000, seed)


if __name__ == "__main__":
    sys.exit(main())
