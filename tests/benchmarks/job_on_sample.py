"""Whether the job counts where it is told, and does no harm where it is not: on the embedded sample, by seed.

    python -m tests.benchmarks.job_on_sample [SEED …]

For each seed (1, 2 and 3 by default, two minutes each on two cores) the sample of ``make run`` is drawn, ingested and
pretrained on, and two scorers are trained on it with the settings of ``make run``: one that learns the job, and one
whose data name no job. Another seed draws other photos, raters, first weights and batches. Both are then asked about
1,000 portraits drawn for this alone, whose true score is what the simulated raters would agree on. Printed are

* what telling the job is worth: the SRCC and the mean error untold and told, and the paired gain with its 95 %
  interval, on all portraits and on those with a child;
* pairs: the same portrait with the child and without. A pair goes the right way where the child adds more, or takes
  less, beside a child carer than beside a tutor;
* harm: the SRCC of the scorer that learnt the job, asked without one, less that of the scorer that never knew any.
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
DRAWN, DRAW = 1000, 2**31  # portraits, and a seed that no sample has
RESAMPLES = 1000

Measure = Callable[[np.ndarray, np.ndarray], float]
"""Of the truth and the scores ``[n]``: more is better."""


@dataclass(frozen=True)
class Held:
    """Portraits that no scorer was trained on, and their photos as ingestion stores them."""

    portraits: list[Portrait]
    photos: list[bytes]

    @classmethod
    def of(cls, portraits: list[Portrait]) -> "Held":
        return cls(portraits, [_stored(portrait) for portrait in portraits])

    def scores(self, scorer: TrainedScorer, job: str | None = None) -> np.ndarray:
        """Mean scores ``[n]``: each for its own job, or all for the same one, "" the unknown one."""
        jobs = [portrait.job if job is None else job for portrait in self.portraits]
        return mean_scores(scorer.score(self.photos, jobs))


def main(arguments: Sequence[str]) -> None:
    """Print a block for each seed."""
    held = Held.of([random_portrait(np.random.default_rng([DRAW, place])) for place in range(DRAWN)])
    with_child = [portrait for portrait in held.portraits if portrait.child]
    alone = Held.of([replace(portrait, child=False) for portrait in with_child])
    for seed in map(int, arguments or SEEDS):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            learnt, plain = trained(Path(folder), seed)
        print(f"seed {seed}, trained in {time.monotonic() - began:.0f} s")
        for line in (*worth(held, learnt), pairs(held, alone, learnt), harm(held, learnt, plain)):
            print(f"  {line}", flush=True)


def _stored(portrait: Portrait) -> bytes:
    file = io.BytesIO()
    draw_portrait(portrait).save(file, "JPEG", quality=90)
    return decoding.normalise(file.getvalue(), Ingestion())


def trained(folder: Path, seed: int) -> tuple[TrainedScorer, TrainedScorer]:
    """A scorer that learnt the job and one that did not, as ``make run`` trains them."""
    with contextlib.redirect_stdout(io.StringIO()):
        figures = ingest(
            f"{SAMPLE['photos']}seed={seed}", "", str(folder / "data"), str(folder / "page.html"),
            workspace=RunPaths(str(folder / "workspace"), "run"), settings=Ingestion(),
        )  # fmt: skip
        settings = from_parameters(
            Pretraining, **select_parameters(SAMPLE, Pretraining, prefix="pretraining_") | {"seed": seed}
        )
        pretrain(
            folder / "data", folder / "encoder", folder / "page.html",
            settings=settings, scale=SAMPLE["scale"],
            checkpoints=str(folder / "pretraining"), fingerprint=figures["fingerprint"],
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
    """What telling the job gains, on all portraits and on those with a child."""
    truth, untold, told = _truth(held), held.scores(scorer, ""), held.scores(scorer)
    child = np.array([portrait.child for portrait in held.portraits])
    for name, own in {"all": np.ones_like(child), "with a child": child}.items():
        for measure, called, sign in ((srcc, "SRCC", 1), (_minus_error, "mean error", -1)):
            before, after = (sign * measure(truth[own], scores[own]) for scores in (untold, told))
            gain = _gain(measure, truth[own], told[own], untold[own])
            yield f"{name}, {own.sum()}: {called} untold {before:.3f}, told {after:.3f}; better by {gain}"


def pairs(held: Held, alone: Held, scorer: TrainedScorer) -> str:
    """How often the child counts for more beside a child carer than beside a tutor, and what it adds by job."""
    beside = Held(
        *zip(*((p, photo) for p, photo in zip(held.portraits, held.photos, strict=True) if p.child), strict=True)
    )
    adds = {job: beside.scores(scorer, job) - alone.scores(scorer, job) for job in scorer.jobs}
    right = float((adds["child carer"] > adds["tutor"]).mean())
    means = ", ".join(f"{job} {added.mean():+.2f}" for job, added in adds.items())
    return f"pairs, {len(alone.photos)}: {100 * right:.0f} % go the right way; the child adds {means}"


def harm(held: Held, learnt: TrainedScorer, plain: TrainedScorer) -> str:
    """What learning the job does to those who tell none."""
    gain = _gain(srcc, _truth(held), held.scores(learnt, ""), held.scores(plain, ""))
    return f"job unknown: SRCC against a scorer that never knew a job {gain}"


def _truth(held: Held) -> np.ndarray:
    return np.array([latent_quality(portrait) for portrait in held.portraits])


def _minus_error(truth: np.ndarray, scores: np.ndarray) -> float:
    return -float(np.abs(scores - truth).mean())


def _gain(measure: Measure, truth: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    """By how much one is better than the other, with the interval that a paired bootstrap gives."""
    rng, places = np.random.default_rng(1), np.arange(len(truth))
    draws = [places, *(rng.integers(len(truth), size=len(truth)) for _ in range(RESAMPLES))]
    whole, *drawn = [measure(truth[own], one[own]) - measure(truth[own], other[own]) for own in draws]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{whole:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main(sys.argv[1:])
