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
    """Return a picture of coarse and fine noise, unique by its seed."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 255, (cells, cells, 3), np.uint8)) for cells in (5, 16)]
    coarse, fine = (np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), float) for layer in layers)
    return Image.fromarray(((2 * coarse + fine) / 3).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


class Inputs:
    """A folder of photos, ratings and attributes that tests change before ingestion."""

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
            [
                (photo, f"rater {r}", score)
                for photo, scores_of_photo in scores.items()
                for r, score in enumerate(scores_of_photo)
            ],
            columns=["photo", "rater", "score"],
        )

    def ingest(self, name: str = "out", settings: Ingestion = SETTINGS, **options: object) -> dict:
        """Ingest into ``self.dataset`` and read the data set's record into ``self.record``."""
        self.dataset, self.report = self.folder / name / "dataset", self.folder / name / "report.html"
        self.ratings.to_csv(self.folder / "ratings.csv", index=False)
        options = {"unlabelled": str(self.unlabelled), "workspace": str(self.folder / "workspace"), **options}
        options["workspace"] = RunPaths(options["workspace"], "run")
        files = (self.photos, self.folder / "ratings.csv", self.dataset, self.report)
        summary = ingest.ingest(*map(str, files), settings=settings, **options)
        self.record = json.loads((self.dataset / "ingestion.json").read_text())
        return summary

    def splits(self) -> dict[str, str]:
        """Return the split of each photo of the data set."""
        counts = scorer_photos.counts(self.dataset)
        return {record["photo_id"]: split for split in counts for record in scorer_photos.records(self.dataset, split)}

    def reasons(self) -> dict[str, str]:
        """Return the exclusion reason of each excluded photo."""
        return {entry["photo"]: entry["reason"] for entry in self.record["left_out"]}


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])
