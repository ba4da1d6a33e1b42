"""Cost of the input pipeline in a training step: steps on real batches relative to steps on one cached batch.

    python -m tests.benchmarks.training_step [DATASET]
    KERAS_BACKEND=jax python -m tests.benchmarks.training_step [DATASET]

Without a data set, 256 drawn photos of 320 × 400 pixels are written first. Both kinds of steps are timed in turn, block
by block, so that a change of the machine's speed affects both. TensorFlow reads the photos for every backend.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from components.ingestion import tfds_writer
from components.scorer.data import photos
from components.scorer.model.encoder import build_encoder
from components.scorer.model.network import build_scorer
from components.scorer.model.surgery import freeze_batch_norms
from components.scorer.parameters import from_parameters
from components.scorer.settings import Pretraining, Training
from components.training.train import compile_for_votes

BLOCKS, STEPS = 5, 6


def main() -> None:
    """Print the ratio of the step times, its range over the blocks, and the photos a second."""
    dataset = Path(sys.argv[1]) if len(sys.argv) > 1 else _drawn(Path(tempfile.mkdtemp()))
    pretraining, training = from_parameters(Pretraining, start="none"), Training()
    model = build_scorer(build_encoder(pretraining), training.dropout)
    freeze_batch_norms(model)
    compile_for_votes(model, training.learning_rate, training, STEPS * training.batch_size)
    batches = _endless(dataset, pretraining, training)
    cached = next(batches)
    for _ in range(3):  # tracing and warming up
        model.train_on_batch(*cached)
    ratios = []
    for block in range(1, BLOCKS + 1):
        bare = _seconds(lambda: model.train_on_batch(*cached))
        fed = _seconds(lambda: model.train_on_batch(*next(batches)))
        ratios.append(fed / bare)
        print(
            f"block {block}: cached {bare:.3f} s, with input {fed:.3f} s a step, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    rate, ratio = training.batch_size / fed, statistics.median(ratios)
    print(f"step with the real input pipeline / step on one cached batch: median {ratio:.3f}")
    print(f"(from {min(ratios):.3f} to {max(ratios):.3f}; batch {training.batch_size}, wanted ≤ 1.1)")
    waits = max(0.0, 1 - 1 / ratio)
    print(f"{rate:.1f} photos/s under {keras.backend.backend()}, of whose step {waits:.1%} waits for input")


def _endless(dataset: Path, pretraining: Pretraining, training: Training) -> Iterator:
    """Yield full batches, epoch after epoch, as training reads them."""
    options = {"scale": training.scale, "crop": pretraining.crop, "batch_size": training.batch_size, "seed": 1}
    for epoch in range(1000):
        for pixels, votes in photos.augmented_batches(dataset, "train", epoch=epoch, camera_faults=0.5, **options):
            if len(pixels) == training.batch_size:
                yield pixels.numpy(), votes.numpy()  # arrays that every backend accepts


def _seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - began) / STEPS


def _drawn(folder: Path) -> Path:
    """Write a data set of smooth random pictures of the size that ingestion stores."""
    rng = np.random.default_rng(0)

    def example(number: int) -> dict:
        coarse = Image.fromarray(rng.integers(0, 255, (20, 16, 3), "uint8"))
        buffer = io.BytesIO()
        coarse.resize((320, 400), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
        votes = np.full(10, 0.1, "float32")
        name = f"{number}.jpg"
        return {
            "photo": buffer.getvalue(),
            "photo_id": name,
            "votes": votes,
            "raters": 1,
            "group": name,
            "attributes": {},
        }

    tfds_writer.write(folder / "dataset", {"train": [[example(number) for number in range(256)]]})
    return folder / "dataset"


if __name__ == "__main__":
    main()
