"""Effect of the job input, if given and if unknown: on the embedded sample, by seed.

    python -m tests.benchmarks.job_on_sample [SEED …]

For each seed (1, 2 and 3 by default, two minutes each on two cores) the sample of ``make run`` is drawn, ingested and
used for pretraining. Two scorers are trained on it with the settings of ``make run``: one with the job, and one whose
data name no job. Another seed draws other photos, raters, initial weights and batches. Both score 1,000 portraits drawn
for this purpose; their true score is what the simulated raters would agree on. Printed are

* the benefit of the job: SRCC and mean error with the job unknown and given, and the paired gain with its 95 %
  interval, on all portraits and on those with a child;
* pairs: the same portrait with and without the child. A pair is correct if the child adds more, or takes less, with the
  job child carer than with the job tutor;
* harm: the SRCC of the scorer with the job input, job unknown, minus that of the scorer without the input.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.ingestion.ingest import ingest
from components.ingestion.sample import Portrait, draw_portrait, latent_quality, random_portrait
from components.pretraining.pretrain import pretrain
from components.scorer.artifacts import bundle
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.imaging import decoding
from components.scorer.metrics.regression import mean_scores, srcc
from components.scorer.parameters import from_parameters, select_parameters
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Ingestion, Pretraining, Training
from components.training.train import train
from pipeline.local_runner import SAMPLE

SEEDS = (1, 2, 3)
DRAWN, DRAW = 1000, 2**31  # number of portraits, and a seed that no sample has
RESAMPLES = 1000

Measure = Callable[[np.ndarray, np.ndarray], float]
"""Function from the truth and the scores ``[n]`` to a metric; larger is better."""


@dataclass(frozen=True)
class Held:
    """Held-out portraits, and their photos as ingestion stores them."""

    portraits: list[Portrait]
    photos: list[bytes]

    @classmethod
    def of(cls, portraits: list[Portrait]) -> "Held":
        return cls(portraits, [_stored(portrait) for portrait in portraits])

    def scores(self, scorer: TrainedScorer, job: str | None = None) -> np.ndarray:
        """Return mean scores ``[n]``: each for its own job, or all for the same one; "" is the unknown job."""
        jobs = [portrait.job if job is None else job for portrait in self.portraits]
        return mean_scores(scorer.score(self.photos, jobs))


def main(arguments: Sequence[str]) -> None:
    """Print a block for each seed."""
    held_out = Held.of([random_portrait(np.random.default_rng([DRAW, index])) for index in range(DRAWN)])
    with_child = [portrait for portrait in held_out.portraits if portrait.child]
    without_child = Held.of([replace(portrait, child=False) for portrait in with_child])
    for seed in map(int, arguments or SEEDS):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            with_job, without_job = trained(Path(folder), seed)
        print(f"seed {seed}, trained in {time.monotonic() - began:.0f} s")
        for line in (
            *worth(held_out, with_job),
            pairs(held_out, without_child, with_job),
            harm(held_out, with_job, without_job),
        ):
            print(f"  {line}", flush=True)


def _stored(portrait: Portrait) -> bytes:
    file = io.BytesIO()
    draw_portrait(portrait).save(file, "JPEG", quality=90)
    return decoding.normalise(file.getvalue(), Ingestion())


def trained(folder: Path, seed: int) -> tuple[TrainedScorer, TrainedScorer]:
    """Train a scorer with the job and one without, as ``make run`` trains them."""
    with contextlib.redirect_stdout(io.StringIO()):
        summary = ingest(
            f"{SAMPLE['photos']}seed={seed}", "", str(folder / "data"), str(folder / "page.html"),
            workspace=RunPaths(str(folder / "workspace"), "run"), settings=Ingestion(),
        )  # fmt: skip
        settings = from_parameters(
            Pretraining, **select_parameters(SAMPLE, Pretraining, prefix="pretraining_") | {"seed": seed}
        )
        pretrain(
            folder / "data", folder / "encoder", folder / "page.html",
            settings=settings, scale=SAMPLE["scale"],
            checkpoints=str(folder / "pretraining"), fingerprint=summary["fingerprint"],
        )  # fmt: skip
        return _trained(folder, seed, Training.job), _trained(folder, seed, "none")


def _trained(folder: Path, seed: int, job: str) -> TrainedScorer:
    settings = from_parameters(Training, **select_parameters(SAMPLE, Training) | {"seed": seed, "job": job})
    train(
        folder / "data", folder / "encoder", folder / "scorers" / job, folder / "page.html",
        settings=settings, checkpoints=str(folder / "training" / job), fingerprint="data",
    )  # fmt: skip
    return bundle.load(folder / "scorers" / job)


def worth(held: Held, scorer: TrainedScorer) -> Iterator[str]:
    """Yield the gain from the job, on all portraits and on those with a child."""
    truth, unknown, given = _truth(held), held.scores(scorer, ""), held.scores(scorer)
    child = np.array([portrait.child for portrait in held.portraits])
    for name, mask in {"all": np.ones_like(child), "with a child": child}.items():
        for measure, metric_name, sign in ((srcc, "SRCC", 1), (_minus_error, "mean error", -1)):
            before, after = (sign * measure(truth[mask], scores[mask]) for scores in (unknown, given))
            gain = _gain(measure, truth[mask], given[mask], unknown[mask])
            yield f"{name}, {mask.sum()}: {metric_name} untold {before:.3f}, told {after:.3f}; better by {gain}"


def pairs(held: Held, alone: Held, scorer: TrainedScorer) -> str:
    """Return how often the child counts for more with the job child carer than tutor, and what it adds by job."""
    with_child = Held(
        *zip(
            *((portrait, photo) for portrait, photo in zip(held.portraits, held.photos, strict=True) if portrait.child),
            strict=True,
        )
    )
    gains = {job: with_child.scores(scorer, job) - alone.scores(scorer, job) for job in scorer.jobs}
    correct = float((gains["child carer"] > gains["tutor"]).mean())
    means = ", ".join(f"{job} {gain.mean():+.2f}" for job, gain in gains.items())
    return f"pairs, {len(alone.photos)}: {100 * correct:.0f} % go the right way; the child adds {means}"


def harm(held: Held, learnt: TrainedScorer, plain: TrainedScorer) -> str:
    """Return the effect of the job input on scores with an unknown job."""
    gain = _gain(srcc, _truth(held), held.scores(learnt, ""), held.scores(plain, ""))
    return f"job unknown: SRCC against a scorer that never knew a job {gain}"


def _truth(held: Held) -> np.ndarray:
    return np.array([latent_quality(portrait) for portrait in held.portraits])


def _minus_error(truth: np.ndarray, scores: np.ndarray) -> float:
    return -float(np.abs(scores - truth).mean())


def _gain(measure: Measure, truth: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    """Return the difference of a metric, with the interval of a paired bootstrap."""
    rng, indices = np.random.default_rng(1), np.arange(len(truth))
    resamples = [indices, *(rng.integers(len(truth), size=len(truth)) for _ in range(RESAMPLES))]
    gain, *gains = [measure(truth[rows], one[rows]) - measure(truth[rows], other[rows]) for rows in resamples]
    low, high = np.quantile(gains, (0.025, 0.975))
    return f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main(sys.argv[1:])
