"""What a whole ingestion costs as the photos grow in number: memory, time, and time over the bare minimum.

    python -m tests.benchmarks.ingestion_scale [--photos FOLDER] [--results FILE] [10000 50000 200000]

The photos have 640 x 800 pixels, and a fifth of them is rated. No two are near duplicates: they are cut out of some
hundred drawn pictures in places, sizes and lights of their own. They are kept in FOLDER, where one is given, for the
next time. What was measured of each number is kept in FILE and not measured again, so that numbers can be added one by
one. Memory is the sum of what all processes of the ingestion show as resident, so pages that they share count several
times. The bare minimum is to decode, resize and encode the same photos on the same cores; it is timed before and after
each ingestion, without the start of its processes, so that other load on the machine meets both, and growth is that of
the ratio to it.

What is told of cores, hours and money is of the processor time that all processes took, which other load changes less
than the clock, and a stated price of a core's hour. A straight line is laid through the numbers, with how far each is
off it; what it says of 10,000, 50,000 and the case study's 200,000 photos is told, and called extrapolated where they
were not measured.
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
RATED = 5  # one photo in so many
BARE = 3000  # some so many photos tell the bare rate
LEAST = 2 * CHUNK_SIZE  # whose rate is that from the first chunk's end to the last one's

PRICE = 0.05
"""US dollars a core and hour, an assumption: about what clouds ask for a general-purpose machine's cores on demand."""

TOLD = (10_000, 50_000, 200_000)  # photos whose cost is told; the last is the case study's number

MEMORY, LINEAR, WHOLE = 1.5, 0.8, 0.7
"""Targets: the most GiB resident; the least of the ratio to the bare rate as photos grow in number, and at the end."""

GROWTH, OFF = 1.25, 0.1
"""Targets: processor time a photo, at most so often what it is at the least number; how far off the line, at most."""


@dataclass(frozen=True)
class Measured:
    """What an ingestion took.

    Attributes:
        photos: their number.
        seconds: by the clock.
        core_seconds: of processors, by all processes together.
        memory: the most GiB that they showed as resident together.
        bare: photos a second of the bare minimum, around it.
    """

    photos: int
    seconds: float
    core_seconds: float
    memory: float
    bare: float

    @property
    def ratio(self) -> float:
        """The rate over the bare rate."""
        return self.photos / self.seconds / self.bare

    @property
    def each(self) -> float:
        """Milliseconds of a core a photo."""
        return self.core_seconds / self.photos * 1e3


def main() -> int:
    """Print memory, rates and ratios; 1 when one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, default=[10_000, 50_000])
    parser.add_argument("--photos", help="folder that keeps the drawn photos")
    parser.add_argument("--results", type=Path, help="JSON file that keeps what was measured, and is not again")
    parser.add_argument("--price", type=float, default=PRICE, help="US dollars a core and hour (default: %(default)s)")
    asked = parser.parse_args()
    if min(asked.numbers) < LEAST:
        parser.error(f"expected at least {LEAST} photos, by fewer no bare rate can be told, got {min(asked.numbers)}")
    numbers, kept = sorted(set(asked.numbers)), _kept(asked.results)
    for number in sorted(kept.keys() & set(numbers)):
        _tell(kept[number], asked.price)
    if missing := [number for number in numbers if number not in kept]:
        if asked.photos:
            Path(asked.photos).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=asked.photos) as scratch:  # on the same disk, where files can be linked
            photos = drawn_photos(Path(asked.photos or scratch, "drawn"), max(missing))
            for number in missing:
                kept[number] = _measured(photos[:number], Path(scratch, str(number)))
                _tell(kept[number], asked.price)
                if asked.results:
                    storage.write_json(str(asked.results), [asdict(kept[number]) for number in sorted(kept)])
    found = [kept[number] for number in numbers]
    return 0 if all([_tell_line(found, asked.price), _tell_targets(found)]) else 1


def _kept(results: Path | None) -> dict[int, Measured]:
    """What was measured earlier, by number of photos."""
    entries = json.loads(results.read_text()) if results and results.exists() else []
    return {entry["photos"]: Measured(**entry) for entry in entries}


def _measured(photos: list[Path], folder: Path) -> Measured:
    """What an ingestion of these photos takes."""
    _lay_out(photos, folder)
    places = [str(folder / name) for name in ("photos", "ratings.csv", "dataset", "report.html")]
    workspace = RunPaths(str(folder / "workspace"), "run")
    options = {"unlabelled": str(folder / "unlabelled"), "workspace": workspace, "settings": Ingestion()}
    some = [(path.name, str(path)) for path in photos[:: max(1, len(photos) // BARE)]]
    before = bare_rate(some)
    # In a process of its own, which holds nothing from an ingestion before.
    process = multiprocessing.get_context("spawn").Process(target=ingest, args=places, kwargs=options)
    started, memory, before_it = time.perf_counter(), 0.0, _processor_time()
    process.start()
    while process.is_alive():
        memory = max(memory, _resident(process.pid))
        process.join(0.2)
    seconds, core_seconds = time.perf_counter() - started, _processor_time() - before_it
    if process.exitcode:
        raise RuntimeError(f"the ingestion of {len(photos)} photos failed: see above")
    shutil.rmtree(folder)
    bare = (before + bare_rate(some)) / 2
    return Measured(len(photos), seconds, core_seconds, memory, bare)


def _tell(found: Measured, price: float) -> None:
    """Print what an ingestion took, and what that costs."""
    hours = found.core_seconds / 3600
    print(
        f"{found.photos:,} photos: {progress.duration(found.seconds)}, {found.photos / found.seconds:.0f}/s, bare "
        f"{found.bare:.0f}/s, {found.memory:.2f} GiB resident, {found.each:.1f} ms of a core a photo, "
        f"{hours * 60:.1f} minutes of a core, {hours * price:.3f} $",
        flush=True,
    )


def _tell_line(found: Sequence[Measured], price: float) -> bool:
    """Print the straight line through what was measured, and what it says; whether all are near it."""
    if len(found) < 2:
        return True
    numbers, taken = zip(*((each.photos, each.core_seconds) for each in found), strict=True)
    # By relative distance: by absolute distance the largest number alone would say where the line goes.
    slope, start = np.polyfit(numbers, taken, 1, w=1 / np.array(taken))
    off = max(abs(start + slope * number - took) / took for number, took in zip(numbers, taken, strict=True))
    through = "two, so through both" if len(found) == 2 else f"{len(found)}, at most {off:.1%} off (target: {OFF:.0%})"
    print(f"straight line ({through}): {start:.0f} s of a core and {slope * 1e3:.1f} ms a photo")
    for number in TOLD:
        hours = (start + slope * number) / 3600
        said = "measured too" if number in numbers else "extrapolated"
        print(f"{number:,} photos ({said}): {hours:.2f} hours of a core, {hours * price:.3f} $ at {price} $ an hour")
    return off <= OFF


def _tell_targets(found: Sequence[Measured]) -> bool:
    """Print what is held against a target; whether all reach theirs."""
    least, most = found[0], found[-1]
    linear, growth, memory = most.ratio / least.ratio, most.each / least.each, max(each.memory for each in found)
    ends = f"at {most.photos:,} / at {least.photos:,}"
    print(f"resident memory, most: {memory:.2f} GiB (target: at most {MEMORY})")
    print(f"processor time a photo {ends}: {growth:.2f} (target: at most {GROWTH})")
    print(f"ratio {ends}: {linear:.2f} (target: at least {LINEAR})")
    print(f"whole ingestion / bare at {most.photos:,}: {most.ratio:.2f} (target: at least {WHOLE})")
    return memory <= MEMORY and growth <= GROWTH and linear >= LINEAR and most.ratio >= WHOLE


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
    chunks = [(folder, missing[start : start + CHUNK_SIZE]) for start in range(0, len(missing), CHUNK_SIZE)]
    for _ in track(parallel_map.on_processes(_draw, chunks), f"drawing photos in chunks of {CHUNK_SIZE}", len(chunks)):
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
        photo.save(folder / f"{place:06}.part", "JPEG", quality=85)
        os.replace(folder / f"{place:06}.part", folder / f"{place:06}.jpg")  # whole, also when this is cut off


@lru_cache(maxsize=PICTURES)
def _picture(seed: int) -> Image.Image:
    return drawn(800, 1000, seed)


if __name__ == "__main__":
    sys.exit(main())
