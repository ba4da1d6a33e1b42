"""Cost of a whole ingestion by number of photos: memory, time, and time relative to the bare minimum.

    python -m tests.benchmarks.ingestion_scale [--photos FOLDER] [--results FILE] [10000 50000 200000]

The photos have 640 x 800 pixels, and a fifth of them is rated. No two are near duplicates: they are cut from 100 drawn
pictures at different places, sizes and exposures. FOLDER keeps them for the next run. FILE keeps the measurements,
which are not repeated, so that numbers can be added one by one. Memory is the sum of the resident memory of all
processes, so shared pages count several times. The bare minimum is to decode, resize and encode the same photos on the
same cores. It is timed before and after each ingestion, without the start of its processes, so that other load on the
machine affects both. Growth is the growth of the ratio to it.

Cores, hours and cost follow from the processor time of all processes, which other load changes less than the clock, and
a stated price of a core's hour. A straight line is fitted to the measurements, and the largest deviation from it is
printed. The line's values for 10,000, 50,000 and the case study's 200,000 photos are printed, and called extrapolated
if they were not measured.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageEnhance

from components.ingestion.ingest import ingest
from components.ingestion.photos import parallel_map
from components.ingestion.photos.photo_inspection import CHUNK_SIZE
from components.scorer import progress, storage
from components.scorer.progress import track
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Ingestion
from tests.benchmarks.ingestion_rate import bare_rate, drawn

SIZE = (640, 800)
PICTURES = 100
RATED = 5  # one photo in this number
BARE = 3000  # number of photos for the bare rate
LEAST = 2 * CHUNK_SIZE  # the rate runs from the first chunk's end to the last one's

PRICE = 0.05
"""US dollars a core and hour, an assumption: about the clouds' on-demand price of a general-purpose core."""

TOLD = (10_000, 50_000, 200_000)  # numbers whose cost is printed; the last is the case study's

MEMORY, LINEAR, WHOLE = 1.5, 0.8, 0.7
"""Targets: most GiB resident; least growth of the ratio to the bare rate; least ratio for the largest number."""

GROWTH, OFF = 1.25, 0.1
"""Targets: most growth of the processor time a photo from the least number; most relative deviation from the line."""


@dataclass(frozen=True)
class Measured:
    """Measurements of an ingestion.

    Attributes:
        photos: Number of photos.
        seconds: Wall-clock seconds.
        core_seconds: Processor seconds of all processes.
        memory: Peak of the resident memory of all processes, GiB.
        bare: Photos a second of the bare minimum, before and after.
    """

    photos: int
    seconds: float
    core_seconds: float
    memory: float
    bare: float

    @property
    def ratio(self) -> float:
        """Return the rate relative to the bare rate."""
        return self.photos / self.seconds / self.bare

    @property
    def each(self) -> float:
        """Return the milliseconds of a core a photo."""
        return self.core_seconds / self.photos * 1e3


def main() -> int:
    """Print memory, rates and ratios; return 1 if one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, default=[10_000, 50_000])
    parser.add_argument("--photos", help="folder that keeps the drawn photos")
    parser.add_argument("--results", type=Path, help="JSON file that keeps what was measured, and is not again")
    parser.add_argument("--price", type=float, default=PRICE, help="US dollars a core and hour (default: %(default)s)")
    options = parser.parse_args()
    if min(options.numbers) < LEAST:
        parser.error(f"expected at least {LEAST} photos, by fewer no bare rate can be told, got {min(options.numbers)}")
    numbers, stored = sorted(set(options.numbers)), _kept(options.results)
    for number in sorted(stored.keys() & set(numbers)):
        _tell(stored[number], options.price)
    if missing := [number for number in numbers if number not in stored]:
        if options.photos:
            Path(options.photos).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=options.photos
        ) as scratch:  # on the same disk, so that files can be linked
            photos = drawn_photos(Path(options.photos or scratch, "drawn"), max(missing))
            for number in missing:
                stored[number] = _measured(photos[:number], Path(scratch, str(number)))
                _tell(stored[number], options.price)
                if options.results:
                    storage.write_json(str(options.results), [asdict(stored[number]) for number in sorted(stored)])
    measured = [stored[number] for number in numbers]
    return 0 if all([_tell_line(measured, options.price), _tell_targets(measured)]) else 1


def _kept(results: Path | None) -> dict[int, Measured]:
    """Return earlier measurements, by number of photos."""
    entries = json.loads(results.read_text()) if results and results.exists() else []
    return {entry["photos"]: Measured(**entry) for entry in entries}


def _measured(photos: list[Path], folder: Path) -> Measured:
    """Measure an ingestion of these photos."""
    _lay_out(photos, folder)
    arguments = [str(folder / name) for name in ("photos", "ratings.csv", "dataset", "report.html")]
    workspace = RunPaths(str(folder / "workspace"), "run")
    options = {"unlabelled": str(folder / "unlabelled"), "workspace": workspace, "settings": Ingestion()}
    sample = [(path.name, str(path)) for path in photos[:: max(1, len(photos) // BARE)]]
    bare_before = bare_rate(sample)
    # In a subprocess, which holds no memory of an earlier ingestion.
    process = multiprocessing.get_context("spawn").Process(target=ingest, args=arguments, kwargs=options)
    started, memory, processor_before = time.perf_counter(), 0.0, _processor_time()
    process.start()
    while process.is_alive():
        memory = max(memory, _resident(process.pid))
        process.join(0.2)
    seconds, core_seconds = time.perf_counter() - started, _processor_time() - processor_before
    if process.exitcode:
        raise RuntimeError(f"the ingestion of {len(photos)} photos failed: see above")
    shutil.rmtree(folder)
    bare = (bare_before + bare_rate(sample)) / 2
    return Measured(len(photos), seconds, core_seconds, memory, bare)


def _tell(found: Measured, price: float) -> None:
    """Print the measurements of an ingestion and its cost."""
    hours = found.core_seconds / 3600
    print(
        f"{found.photos:,} photos: {progress.duration(found.seconds)}, {found.photos / found.seconds:.0f}/s, bare "
        f"{found.bare:.0f}/s, {found.memory:.2f} GiB resident, {found.each:.1f} ms of a core a photo, "
        f"{hours * 60:.1f} minutes of a core, {hours * price:.3f} $",
        flush=True,
    )


def _tell_line(found: Sequence[Measured], price: float) -> bool:
    """Print the straight line through the measurements and its predictions; return whether all are near it."""
    if len(found) < 2:
        return True
    numbers, core_seconds = zip(*((measurement.photos, measurement.core_seconds) for measurement in found), strict=True)
    # Weighted by relative distance: by absolute distance the largest number alone would decide.
    slope, start = np.polyfit(numbers, core_seconds, 1, w=1 / np.array(core_seconds))
    deviation = max(
        abs(start + slope * number - seconds) / seconds for number, seconds in zip(numbers, core_seconds, strict=True)
    )
    description = (
        "two, so through both" if len(found) == 2 else f"{len(found)}, at most {deviation:.1%} off (target: {OFF:.0%})"
    )
    print(f"straight line ({description}): {start:.0f} s of a core and {slope * 1e3:.1f} ms a photo")
    for number in TOLD:
        hours = (start + slope * number) / 3600
        source = "measured too" if number in numbers else "extrapolated"
        print(f"{number:,} photos ({source}): {hours:.2f} hours of a core, {hours * price:.3f} $ at {price} $ an hour")
    return deviation <= OFF


def _tell_targets(found: Sequence[Measured]) -> bool:
    """Print the figures that have targets; return whether all reach them."""
    smallest, largest = found[0], found[-1]
    linear, growth, memory = (
        largest.ratio / smallest.ratio,
        largest.each / smallest.each,
        max(measurement.memory for measurement in found),
    )
    ends = f"at {largest.photos:,} / at {smallest.photos:,}"
    print(f"resident memory, most: {memory:.2f} GiB (target: at most {MEMORY})")
    print(f"processor time a photo {ends}: {growth:.2f} (target: at most {GROWTH})")
    print(f"ratio {ends}: {linear:.2f} (target: at least {LINEAR})")
    print(f"whole ingestion / bare at {largest.photos:,}: {largest.ratio:.2f} (target: at least {WHOLE})")
    return memory <= MEMORY and growth <= GROWTH and linear >= LINEAR and largest.ratio >= WHOLE


def _processor_time() -> float:
    """Return the processor seconds of this process's ended children and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _lay_out(photos: list[Path], folder: Path) -> None:
    """Make folders of rated and of unlabelled photos, and a file of ratings."""
    for side in ("photos", "unlabelled"):
        (folder / side).mkdir(parents=True)
    for index, path in enumerate(photos):
        os.link(path, folder / ("unlabelled" if index % RATED else "photos") / path.name)
    rng = np.random.default_rng(1)
    with (folder / "ratings.csv").open("w") as file:
        file.write("photo,rater,score\n")
        for path in photos[::RATED]:
            file.writelines(
                f"{path.name},rater {rater},{score}\n" for rater, score in enumerate(rng.integers(1, 11, 9))
            )


def _resident(process: int) -> float:
    """Return the resident GiB of a process and its children."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for member in [psutil.Process(process), *psutil.Process(process).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # ended meanwhile
                total += member.memory_info().rss
    return total / 2**30


def drawn_photos(folder: Path, number: int) -> list[Path]:
    """Return the paths of drawn photos; missing ones are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number_of_photo:06}.jpg" for number_of_photo in range(number)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    chunks = [(folder, missing[start : start + CHUNK_SIZE]) for start in range(0, len(missing), CHUNK_SIZE)]
    for _ in track(parallel_map.on_processes(_draw, chunks), f"drawing photos in chunks of {CHUNK_SIZE}", len(chunks)):
        pass
    return paths


def _draw(chunk: tuple[Path, list[int]]) -> None:
    folder, indices = chunk
    for index in indices:
        rng = np.random.default_rng(index)
        side = rng.uniform(0.4, 0.8)
        corner = rng.uniform(0, 1 - side, 2)
        picture = _picture(index % PICTURES)
        box = [*(corner * picture.size), *((corner + side) * picture.size)]
        photo = picture.resize(SIZE, Image.Resampling.BILINEAR, box)
        photo = ImageEnhance.Brightness(photo).enhance(rng.uniform(0.6, 1.2))
        photo.save(folder / f"{index:06}.part", "JPEG", quality=85)
        # Atomic, in case this process is interrupted.
        os.replace(folder / f"{index:06}.part", folder / f"{index:06}.jpg")


@lru_cache(maxsize=PICTURES)
def _picture(seed: int) -> Image.Image:
    return drawn(800, 1000, seed)


if __name__ == "__main__":
    sys.exit(main())
