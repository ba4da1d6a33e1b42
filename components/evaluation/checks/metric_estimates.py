"""The metrics of the challenger and of the champion on the same photos, each with its interval."""

from dataclasses import dataclass

import numpy as np

from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import bootstrap, classification, regression
from components.scorer.settings import Evaluation


@dataclass(frozen=True)
class Estimate:
    """A metric's value and the ends of its bootstrap interval; NaN where the data do not define them."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def interval(self, confidence: float) -> str:
        """Its interval in words."""
        return f"{100 * confidence:g} % interval {self.low:.3f} to {self.high:.3f}"


Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured on the test split.

    Attributes:
        photos: how many were scored.
        challenger: by metric.
        champion: by metric; None where there is none, or none that could be scored.
        difference: challenger less champion by metric, on paired resamples; None likewise.
        confusion: photos by people's class and the challenger's.
        roc: of calling a photo high by the challenger's mean.
    """

    photos: int
    challenger: Estimates
    champion: Estimates | None
    difference: Estimates | None
    confusion: list[list[int]]
    roc: dict[str, list[float]]


def measure(predictions: Predictions, champion: np.ndarray | None, settings: Evaluation) -> Measurements:
    """Measure the challenger, the champion and their difference.

    Args:
        predictions: the challenger's, with people's votes.
        champion: float [n, 10], the champion's votes on the same photos in the same order; None without one.
        settings: threshold of accuracy, resamples, confidence and seed.
    """
    values, draws = _on(predictions, predictions.scorer, settings)
    theirs = difference = None
    if champion is not None:
        their_values, their_draws = _on(predictions, champion, settings)
        theirs = _estimates(their_values, their_draws, settings)
        difference = _estimates(
            {name: values[name] - their_values[name] for name in values},
            {name: draws[name] - their_draws[name] for name in draws},
            settings,
        )
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    return Measurements(
        photos=len(truth),
        challenger=_estimates(values, draws, settings),
        champion=theirs,
        difference=difference,
        confusion=classification.confusion(truth, predicted, settings.accuracy_threshold),
        roc=classification.roc(truth, predicted, settings.accuracy_threshold),
    )


def _on(
    predictions: Predictions, votes: np.ndarray, settings: Evaluation
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The values on all photos and the draws on resamples; the seed pairs the draws of two scorers."""
    values = regression.all(predictions.truth, votes, settings.accuracy_threshold)
    draws = bootstrap.bootstrap(
        predictions.truth,
        votes,
        threshold=settings.accuracy_threshold,
        resamples=settings.bootstrap,
        seed=settings.seed,
        groups=predictions.groups,
    )
    return values, draws


def _estimates(values: dict[str, float], draws: dict[str, np.ndarray], settings: Evaluation) -> Estimates:
    return {name: Estimate(values[name], *bootstrap.interval(draws[name], settings.confidence)) for name in values}
