"""Time of each part of an evaluation: 400 test photos, the default network, a champion.

    python -m tests.benchmarks.evaluation_time [PHOTOS]

The photos are those of the embedded sample and are drawn first. The networks have random weights, which take as long as
trained ones.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from components.evaluation.evaluate import evaluate
from components.ingestion import sample, tfds_writer
from components.scorer import storage
from components.scorer.artifacts import bundle, saved_model
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.data import photos
from components.scorer.imaging import decoding, preprocessing_tf
from components.scorer.model.encoder import build_encoder
from components.scorer.model.network import build_scorer
from components.scorer.model.surgery import calibrate_batch_norms
from components.scorer.parameters import from_parameters
from components.scorer.registry import channels, integrity
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Evaluation, Ingestion, Policy, Pretraining, Training

WANTED = 180  # seconds for 400 photos on two cores


def main() -> None:
    """Print the seconds of each part and of the total."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"drawing {count} photos and making a scorer and a champion", flush=True)
        _dataset(folder, count)
        first = [record["photo"] for _, record in zip(range(32), photos.records(folder / "data", "test"), strict=False)]
        _scorer(first, seed=1).save(folder / "scorer")
        saved_model.export(_scorer(first, seed=2), folder / "models" / "portraits" / "1")
        integrity.write_record(folder / "models" / "portraits" / "1", {})
        channels.promote_pushed(str(folder / "models"), "portraits", 1)
        keras.backend.clear_session()
        began = time.monotonic()
        evaluate(
            folder / "data", folder / "scorer", folder / "report.html", models=str(folder / "models"),
            name="portraits", settings=Evaluation(show_photos=True), policy=Policy(),
            workspace=RunPaths(str(folder / "workspace"), "run"),
        )  # fmt: skip
        total = time.monotonic() - began
        parts = storage.read_json(str(folder / "metrics.json"))["seconds"]
    for name, seconds in (parts | {"page and files": total - sum(parts.values())}).items():
        print(f"{name:<16}{seconds:7.1f} s  {100 * seconds / total:4.1f} %")
    print(f"{'the whole':<16}{total:7.1f} s  (wanted for 400 photos: at most {WANTED})")


def _dataset(folder: Path, count: int) -> None:
    """Write the sample's photos as ingestion stores them, all in the test split."""
    drawn = sample.draw_sample(folder / "sample", labelled=count, unlabelled=0, seed=1)
    rng, settings = np.random.default_rng(1), Ingestion()
    records = []
    for file in sorted(Path(drawn.photos).iterdir()):
        try:
            data = decoding.normalise(file.read_bytes(), settings)
        except decoding.UnusablePhotoError:  # the sample has some, for ingestion to exclude
            continue
        votes = rng.multinomial(12, rng.dirichlet(np.full(10, 0.5))) / 12
        attributes = {"job": str(rng.choice(["nurse", "cook", "tutor"])), "skin": str(rng.choice(["light", "dark"]))}
        records.append(
            {"photo": data, "photo_id": file.name, "votes": votes.astype("float32"), "raters": 12, "group": file.name,
             "attributes": attributes}
        )  # fmt: skip
    tfds_writer.write(folder / "data", {"test": [records[:count]]}, ["job", "skin"])


def _scorer(first: list[bytes], seed: int) -> TrainedScorer:
    """Build the default network, untrained, with calibrated batch norms."""
    pretraining, training = from_parameters(Pretraining, start="none", seed=seed), Training()
    encoder = build_encoder(pretraining)
    calibrate_batch_norms(encoder, preprocessing_tf.preprocess_photos(first, training.scale, pretraining.crop))
    return bundle.TrainedScorer(build_scorer(encoder, training.dropout), pretraining, training, "data", "revision")


if __name__ == "__main__":
    main()
