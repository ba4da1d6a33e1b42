"""Everything that is found out about a scorer before the gates judge it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from components.evaluation import export_probe
from components.evaluation.checks import (
    calibration,
    champion_comparison,
    job_and_norms,
    rater_ceiling,
    robustness,
    slices,
)
from components.evaluation.checks.calibration import Calibration
from components.evaluation.checks.champion_comparison import Comparison
from components.evaluation.checks.champion_predictions import Champion, score_champion
from components.evaluation.checks.job_and_norms import Told
from components.evaluation.checks.metric_estimates import Measurements, measure
from components.evaluation.checks.predictions import Predictions, Records, predict
from components.evaluation.checks.rater_ceiling import Ceiling
from components.evaluation.checks.robustness import Behaviours
from components.evaluation.checks.slices import Slices
from components.evaluation.export_probe import Serving
from components.scorer.artifacts.bundle import Bundle
from components.scorer.settings import Evaluation

_SERVED = 32  # photos: one full batch


@dataclass(frozen=True)
class Findings:
    """What was found out, by topic.

    Attributes:
        predictions: of the scorer, photo by photo.
        champion: with its votes; None when no champion was ever named.
        measured: metrics of both on the test split.
        comparison: of both, paired; None without a champion that could be scored.
        slices: metrics by attribute.
        told: what the job and the upload norms are worth.
        calibration: of the scores' scale and spread.
        ceiling: how well people agree; None where the votes do not tell.
        behaviours: on changed photos.
        serving: of the exported model.
        seconds: that each part took, by its name.
    """

    predictions: Predictions
    champion: Champion | None
    measured: Measurements
    comparison: Comparison | None
    slices: Slices
    told: Told
    calibration: Calibration
    ceiling: Ceiling | None
    behaviours: Behaviours
    serving: Serving
    seconds: dict[str, float]

    def numbers(self) -> dict[str, Any]:
        """Everything but the photos' own rows, as ``metrics.json`` holds it."""
        return {
            **vars(self.measured),
            "comparison": self.comparison,
            "slices": self.slices,
            "told": self.told,
            "calibration": self.calibration,
            "ceiling": self.ceiling,
            "behaviour": self.behaviours,
            "serving": self.serving,
            "seconds": self.seconds,
        }


def find(scorer: Bundle, records: Records, total: int, models: str, name: str, settings: Evaluation) -> Findings:
    """Find out everything about a scorer.

    Args:
        scorer: the challenger.
        records: of the test split.
        total: how many.
        models: address of all published models.
        name: of the model whose champion the scorer has to stand up to.
        settings: of the evaluation.

    Raises:
        ValueError: the scorer does not answer with ten votes a photo, or the settings do not fit the data.
    """
    clock = _Clock()
    with clock("scoring"):
        predictions = predict(records, scorer, total)
    slices.check(slices.by_attribute(predictions), settings)  # before minutes are spent
    with clock("champion"):
        champion = score_champion(models, name, records, total)
    votes = champion.votes if champion else None
    with clock("metrics"):
        measured = measure(predictions, votes, settings)
        calibrated = calibration.calibrate(predictions, settings)
        highest = rater_ceiling.ceiling(predictions.truth, predictions.raters, settings)
    with clock("comparison"):
        compared = None
        if votes is not None:
            compared = champion_comparison.compare(
                predictions.truth, predictions.scorer, votes, settings, groups=predictions.groups
            )
    with clock("slices"):
        sliced = slices.slice_all(predictions, settings)
    with clock("job and norms"):
        beside = job_and_norms.find(scorer, records, predictions, settings)
    sample = robustness.sample(records, total, settings)
    with clock("behaviour"):
        behaviours = robustness.observe(sample, scorer, settings)
    with clock("serving"):
        served = export_probe.probe(scorer, sample[:_SERVED], settings, name)
    return Findings(
        predictions,
        champion,
        measured,
        compared,
        sliced,
        beside,
        calibrated,
        highest,
        behaviours,
        served,
        clock.seconds,
    )


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - began
