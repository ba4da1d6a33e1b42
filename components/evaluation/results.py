"""Results of the evaluation: all measurements of a scorer, made before the gates judge them."""

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
from components.evaluation.checks.champion_predictions import ChampionPredictions, score_champion
from components.evaluation.checks.job_and_norms import JobAndNormResults
from components.evaluation.checks.metric_estimates import Measurements, measure
from components.evaluation.checks.predictions import Predictions, Records, predict
from components.evaluation.checks.rater_ceiling import RaterCeiling
from components.evaluation.checks.robustness import RobustnessResults
from components.evaluation.checks.slices import SliceResults
from components.evaluation.export_probe import ExportProbeResult
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.settings import Evaluation

_PROBE_PHOTOS = 32  # photos for the export probe: one full batch


@dataclass(frozen=True)
class EvaluationResults:
    """Results of the evaluation by topic.

    Attributes:
        predictions: Votes of the scorer and of people on the test split.
        champion: Votes of the champion; None if no champion was ever named.
        measured: Metrics of scorer and champion on the test split.
        comparison: Paired comparison of both; None without a champion that could be scored.
        slices: Metrics by attribute.
        job_and_norms: Effect of the job input, and accuracy of the upload norms.
        calibration: Calibration and spread of the mean scores.
        ceiling: Agreement of people; None if it cannot be estimated from the votes.
        robustness: Robustness on changed photos.
        export_probe: Probe of the exported model.
        seconds: Duration of each part by its name.
    """

    predictions: Predictions
    champion: ChampionPredictions | None
    measured: Measurements
    comparison: Comparison | None
    slices: SliceResults
    job_and_norms: JobAndNormResults
    calibration: Calibration
    ceiling: RaterCeiling | None
    robustness: RobustnessResults
    export_probe: ExportProbeResult
    seconds: dict[str, float]

    def numbers(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: all results except the rows of single photos."""
        return {
            **vars(self.measured),
            "comparison": self.comparison,
            "slices": self.slices,
            "told": self.job_and_norms,
            "calibration": self.calibration,
            "ceiling": self.ceiling,
            "behaviour": self.robustness,
            "serving": self.export_probe,
            "seconds": self.seconds,
        }


def evaluate_scorer(
    scorer: TrainedScorer, records: Records, total: int, models: str, name: str, settings: Evaluation
) -> EvaluationResults:
    """Run all measurements on a scorer.

    Args:
        scorer: The challenger.
        records: Records of the test split.
        total: Number of records.
        models: Address of all published models.
        name: Name of the model whose champion the scorer is compared with.
        settings: Evaluation settings.

    Raises:
        ValueError: The scorer does not return ten votes for each photo, or the settings do not fit the data.
    """
    clock = _Clock()
    with clock("scoring"):
        predictions = predict(records, scorer, total)
    slices.check_crossings(slices.slicing_attributes(predictions), settings)  # fails before minutes are spent
    with clock("champion"):
        champion = score_champion(models, name, records, total)
    votes = champion.votes if champion else None
    with clock("metrics"):
        measured = measure(predictions, votes, settings)
        calibrated = calibration.calibrate(predictions, settings)
        highest = rater_ceiling.measure_ceiling(predictions.truth, predictions.raters, settings)
    with clock("comparison"):
        compared = None
        if votes is not None:
            compared = champion_comparison.compare(
                predictions.truth, predictions.scorer, votes, settings, groups=predictions.groups
            )
    with clock("slices"):
        sliced = slices.measure_slices(predictions, settings)
    with clock("job and norms"):
        job_effects = job_and_norms.evaluate_job_and_norms(scorer, records, predictions, settings)
    sample = robustness.sample_photos(records, total, settings)
    with clock("behaviour"):
        behaviours = robustness.measure_robustness(sample, scorer, settings)
    with clock("serving"):
        export_result = export_probe.probe(scorer, sample[:_PROBE_PHOTOS], settings, name)
    return EvaluationResults(
        predictions,
        champion,
        measured,
        compared,
        sliced,
        job_effects,
        calibrated,
        highest,
        behaviours,
        export_result,
        clock.seconds,
    )


class _Clock:
    """Stopwatch that records the duration of each ``with`` block in ``seconds`` by its label."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[label] = time.monotonic() - began
