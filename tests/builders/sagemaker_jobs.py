"""Folders and hyperparameters of a SageMaker training job."""

import json
from pathlib import Path

from components.ingestion.sample import draw_sample

TINY = {
    "start": "none", "backbone_options": '{"alpha": 0.25}', "crop": "32", "scale": "36", "head_epochs": "1",
    "epochs": "5", "batch_size": "8", "validation_share": "0.2", "test_share": "0.2", "camera_faults": "0.0",
}  # fmt: skip


def job(base: Path, hyperparameters: dict, photos: str = "photos") -> Path:
    """Write the folders of a job on the drawn sample, in SageMaker's layout."""
    data = base / "input" / "data"
    sample = draw_sample(base / "drawn", labelled=48, unlabelled=8, seed=3)
    for channel in ("ratings", "attributes"):
        (data / channel).mkdir(parents=True)
        getattr(sample, channel).rename(data / channel / getattr(sample, channel).name)
    sample.photos.rename(data / photos)
    sample.unlabelled.rename(data / "unlabelled")
    config(base, hyperparameters)
    return base


def config(base: Path, hyperparameters: dict) -> None:
    config_folder = base / "input" / "config"
    config_folder.mkdir(parents=True, exist_ok=True)
    (config_folder / "hyperparameters.json").write_text(json.dumps(hyperparameters))
