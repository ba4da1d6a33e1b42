"""The smallest run of the whole pipeline that goes through every step: a sample, settings, weights to start from."""

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
    # So small a network, trained for so short, passes no gate; the tests ask one of them.
    "warn_only": json.dumps([gate for gate in get_args(GateKey) if gate not in ("srcc", "new_labels")]),
}  # fmt: skip
"""As ``--set`` takes them."""


def weights(folder: Path) -> Path:
    """Weights that tell photos apart: random ones, with the batch norms set to what photos of any brightness give.

    Through batch norms as they are made, before any training, every photo gives the same features.
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
