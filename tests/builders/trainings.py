"""Small trainings."""

from pathlib import Path

from components.scorer.parameters import from_parameters
from components.scorer.settings import Training
from components.training.train import train


def training(**changes) -> Training:
    return from_parameters(Training, **{"scale": 36, "head_epochs": 1, "epochs": 2, "dropout": 0.2, **changes})


def run_training(dataset: Path, encoder: Path, folder: Path, settings: Training) -> dict[str, float]:
    options = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data", "revision": "abc"}
    return train(dataset, encoder, folder / "scorer", folder / "report.html", settings=settings, **options)
