"""Photos with a known true score, and Keras scorers that measure it or have one designed flaw.

The photos show a warm tint on a bright background: the warmer, the higher people rate them. Two more features vary and
mean nothing to people: coarse stripes, and the green of the background, which defines the attribute ``light``.

A scorer measures three features by convolutions (warmth, stripes, green) and pools them over the photo. Its ten-way
softmax is the discretised normal distribution around ``intercept + Σ weight · feature``. A dense layer computes it:
``-(s - m)² / 2`` is ``s·m - s²/2`` plus a term that the softmax cancels.
"""

import io
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from components.ingestion import tfds_writer
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.parameters import from_parameters
from components.scorer.settings import SCORES, Pretraining, Training
from tests.conftest import votes_around

CROP = 48
RATERS = 20
SOUND = {"intercept": 1.5, "warmth": 11.0}
"""Parameters of people's scores and of a scorer that agrees: 2.6 to 8.7 points for warmths from .1 to .65."""


def photo(number: int) -> tuple[bytes, dict[str, float]]:
    """Return a JPEG and its true features."""
    rng = np.random.default_rng(number)
    truth = {"warmth": rng.uniform(0.1, 0.65), "stripes": rng.uniform(0.02, 0.06), "green": 0.3 + 0.2 * (number % 2)}
    side = 64
    red, blue = 0.88 + 0.1 * truth["warmth"], 0.88 - 0.9 * truth["warmth"]
    wave = truth["stripes"] * np.sign(np.sin(np.arange(side) * np.pi / 4))[None, :, None]
    pixels = np.array([red, truth["green"], blue]) + wave + rng.normal(0, 0.01, (side, side, 3))
    buffer = io.BytesIO()
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype("uint8"))
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), truth


def record(number: int) -> dict:
    """Return the record of a photo with RATERS whole votes drawn around its mean score."""
    data, truth = photo(number)
    mean = SOUND["intercept"] + SOUND["warmth"] * truth["warmth"]
    votes = np.random.default_rng(10_000 + number).multinomial(RATERS, _exactly(votes_around(mean)))
    return {
        "photo": data,
        "photo_id": f"{number:04d}.jpg",
        "votes": (votes / votes.sum()).astype("float32"),
        "raters": RATERS,
        "group": f"group-{number}",
        "attributes": {"light": "green" if number % 2 else "plain"},
    }


def _exactly(votes: np.ndarray) -> np.ndarray:
    votes = votes.astype(float)
    return votes / votes.sum()


def dataset(folder: Path, test: int = 160) -> Path:
    """Write a TFDS directory with ``test`` test photos and a few others."""
    sizes = {"train": 8, "validation": 8, "test": test}
    numbers = iter(range(10_000))
    tfds_writer.write(
        folder, {name: [[record(next(numbers)) for _ in range(size)]] for name, size in sizes.items()}, ["light"]
    )
    return folder


def scorer(*, intercept: float = 0.0, warmth: float = 0.0, stripes: float = 0.0, green: float = 0.0) -> TrainedScorer:
    """Build a scorer whose mean score is ``intercept`` plus these points for each feature."""
    pixels = keras.Input((CROP, CROP, 3), name="pixels")
    colour = keras.layers.Conv2D(2, 1, name="colour")
    edges = keras.layers.Conv2D(2, (1, 9), name="edges")
    colours = colour(keras.layers.Cropping2D((0, 4), name="middle")(pixels))
    rectified = keras.layers.ReLU(name="rectified")(edges(pixels))
    features = keras.layers.Concatenate(name="features")([colours, rectified])
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(features)
    head = keras.layers.Dense(len(SCORES), activation="softmax", name="votes")
    model = keras.Model(pixels, head(pooled), name="scorer")

    tint = np.zeros((1, 1, 3, 2))  # red minus blue, and green
    tint[0, 0] = [[1, 0], [0, 1], [-1, 0]]
    colour.set_weights([tint / 255, np.zeros(2)])
    step = np.zeros((1, 9, 3, 2))  # differences of green over four pixels, half a stripe's period, in both directions
    step[0, 2, 1], step[0, 6, 1] = (1, -1), (-1, 1)
    edges.set_weights([step / 255, np.zeros(2)])
    scores = np.array(SCORES, float)
    weights = np.array([warmth, green, stripes, stripes])[:, None] * scores
    head.set_weights([weights, intercept * scores - scores**2 / 2])
    settings = from_parameters(Pretraining, start="none", crop=CROP)
    curves = {"loss": [0.3, 0.2], "val_loss": [0.4, 0.3]}
    return TrainedScorer(model, settings, Training(scale=CROP), "data", "revision", curves)
