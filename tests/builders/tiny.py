"""The smallest pipeline run through every step: a sample, settings, initial weights."""

import json
from pathlib import Path
from typing import get_args

import numpy as np

from components.scorer.settings import GateKey

SAMPLE = "sample:labelled=60&unlabelled=20&seed=3"
SETTINGS = {
    "backbone_options": '{"alpha": 0.25}', "crop": 32, "scale": 40, "pretraining_epochs": 1, "head_epochs": 4,
    "head_learning_rate": 0.01, "dropout": 0.1, "epochs": 1, "bootstrap": 20, "behaviour_photos": 8,
    "perturbation_photos": 1, "show_photos": "true",
    # Such a small network, trained so briefly, passes no gate; the tests check some of them.
    "warn_only": json.dumps([gate for gate in get_args(GateKey) if gate not in ("srcc", "new_labels")]),
}  # fmt: skip
"""Settings in the syntax of ``--set``."""


def weights(folder: Path) -> Path:
    """Write random weights whose batch norms are calibrated on images of any brightness, so that photos differ.

    With the batch norms' initial values every photo would have the same features.
    """
    import keras

    network = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, weights=None)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    rng = np.random.default_rng(1)
    network(rng.uniform(-1, 1, (64, 1, 1, 1)) + rng.normal(0, 0.1, (64, 32, 32, 3)), training=True)
    network.save_weights(folder / "backbone.weights.h5")
    return folder / "backbone.weights.h5"
