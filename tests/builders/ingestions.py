"""Drawn photos with ratings, and settings of small ingestions."""

import filecmp
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from components.ingestion import ingest
from components.scorer.data import photos as scorer_photos
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Ingestion

SETTINGS = Ingestion(minimum_side=32, validation_share=0.2, test_share=0.2)
BEAM = "--runner=DirectRunner --direct_running_mode=in_memory"


def picture(seed: int, side: int = 72) -> Image.Image:
    """A picture like no other: coarse and fine noise."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 255, (cells, cells, 3), np.uint8)) for cells in (5, 16)]
    coarse, fine = (np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), float) for layer in layers)
    return Image.fromarray(((2 * coarse + fine) / 3).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


class Inputs:
    """A folder of photos and files about them, that tests change before they are ingested."""

    def __init__(self, folder: Path, rated: int = 40, unlabelled: int = 6):
        self.folder, self.photos, self.unlabelled = folder, folder / "photos", folder / "unlabelled"
        self.photos.mkdir(parents=True)
        self.unlabelled.mkdir()
        for number in range(rated):
            (self.photos / f"{number:02}.jpg").write_bytes(jpeg(picture(number)))
        for number in range(unlabelled):
            (self.unlabelled / f"u{number}.jpg").write_bytes(jpeg(picture(1000 + number)))
        rng = np.random.default_rng(1)
        scores = {f"{n:02}.jpg": rng.integers(1, 11, 5) for n in range(rated)}
        self.ratings = pd.DataFrame(
            [(photo, f"rater {r}", score) for photo, given in scores.items() for r, score in enumerate(given)],
            columns=["photo", "rater", "score"],
        )

    def ingest(self, name: str = "out", settings: Ingestion = SETTINGS, **options: object) -> dict:
        """Ingest; the data set is then at ``self.dataset``, its record in ``self.record``."""
        self.dataset, self.report = self.folder / name / "dataset", self.folder / name / "report.html"
        self.ratings.to_csv(self.folder / "ratings.csv", index=False)
        options = {"unlabelled": str(self.unlabelled), "workspace": str(self.folder / "workspace"), **options}
        options["workspace"] = RunPaths(options["workspace"], "run")
        files = (self.photos, self.folder / "ratings.csv", self.dataset, self.report)
        found = ingest.ingest(*map(str, files), settings=settings, **options)
        self.record = json.loads((self.dataset / "ingestion.json").read_text())
        return found

    def splits(self) -> dict[str, str]:
        """The split of each photo of the data set."""
        counts = scorer_photos.counts(self.dataset)
        return {r["photo_id"]: split for split in counts for r in scorer_photos.records(self.dataset, split)}

    def reasons(self) -> dict[str, str]:
        """The reason for each photo that was left out."""
        return {entry["photo"]: entry["reason"] for entry in self.record["left_out"]}


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])
