"""Decisions, bundles and stores for pushes."""

from pathlib import Path

import keras
import numpy as np

from components.push.push import push
from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.parameters import from_parameters
from components.scorer.registry import channels
from components.scorer.run import decision
from components.scorer.run.decision import Decision, GateResult
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Pretraining, Training

SETTINGS = from_parameters(Pretraining, start="none", backbone_options={"alpha": 0.25}, crop=32)


def bundle_of(model: keras.Model, folder: Path) -> Path:
    """Save a bundle whose scores differ from photo to photo and from model to model."""
    rng = np.random.default_rng(model.count_params())
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # otherwise random weights shrink every photo's features to nothing
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(rng.normal(0, 3 / layer.kernel.shape[0] ** 0.5, layer.kernel.shape))
    model(rng.uniform(0, 255, (16, 32, 32, 3)).astype("float32"), training=True)
    history = {"loss": [0.3, 0.2]}
    bundle.TrainedScorer(model, SETTINGS, Training(scale=40), "fingerprint of the data", "revision", history).save(
        folder
    )
    return folder


def tiny(filters: int) -> keras.Model:
    """Build a small network that exports fast; the same one for the same number of filters."""
    keras.utils.set_random_seed(filters)
    pixels = keras.Input((32, 32, 3))
    feature_maps = keras.layers.Conv2D(filters, 5, strides=4, activation="relu")(
        keras.layers.Rescaling(1 / 255)(pixels)
    )
    pooled = keras.layers.GlobalAveragePooling2D()(feature_maps)
    return keras.Model(pixels, keras.layers.Dense(10, activation="softmax", name="votes")(pooled))


PASSED = GateResult("emd", "Votes as people do", "EMD", 0.8, 1.5, "passed", "EMD is .8; it has to be at most 1.5.")


def judged(folder: Path, made: Decision, run: str = "run") -> Path:
    """Write a folder as evaluation leaves it."""
    decision.write(str(folder / "decision.json"), decision.to_record(made, run=run, model="portraits", data="the data"))
    storage.write_json(
        str(folder / "metrics.json"), {"photos": 324, "challenger": {"srcc": {"value": 0.671}, "rmse": {"value": 0.8}}}
    )
    return folder


class Place:
    """A store that a test publishes to, and its contents."""

    def __init__(self, uri: str, results: Path) -> None:
        self.models, self.workspace, self.results = f"{uri}/models", f"{uri}/workspace", results

    def push(self, scorer: Path, run: str = "run", **others: object) -> str:
        options = {"results": self.results, "models": self.models, "name": "portraits", **others}
        return push(scorer, workspace=RunPaths(self.workspace, run), **options)

    @property
    def channels(self) -> dict:
        return channels.read(self.models, "portraits")

    def files(self, version: int) -> set[str]:
        return {file.name for file in storage.list_files(f"{self.models}/portraits/{version}")}

    def said(self, run: str = "run") -> dict:
        return storage.read_json(RunPaths(self.workspace, run).published)

    def decision(self, run: str = "run") -> dict | None:
        return decision.read(RunPaths(self.workspace, run).decision)
