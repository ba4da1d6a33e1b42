"""Metrics of the challenger and of the champion on the same photos, with bootstrap intervals."""

from dataclasses import dataclass

import numpy as np

from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import bootstrap, classification, regression
from components.scorer.settings import Evaluation


@dataclass(frozen=True)
class Estimate:
    """Value of a metric with the ends of its bootstrap interval; undefined numbers are NaN."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def interval(self, confidence: float) -> str:
        """Return the interval in words; ``confidence`` is its level, 0..1."""
        return f"{100 * confidence:g} % interval {self.low:.3f} to {self.high:.3f}"


Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Measurements:
    """Metrics measured on the test split.

    Attributes:
        photos: Number of scored photos.
        challenger: Estimates of the challenger by metric.
        champion: Estimates of the champion by metric; None without a champion that could be scored.
        difference: Challenger minus champion by metric, on paired resamples; None without a scored champion.
        confusion: Confusion matrix: photos by people's class (rows) and the challenger's (columns).
        roc: ROC curve of classifying photos as high by the challenger's mean score.
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
        predictions: Votes of the challenger and of people.
        champion: Votes of the champion on the same photos in the same order, float [n, 10]; None without a champion.
        settings: Evaluation settings: threshold of accuracy, resamples, confidence and seed.
    """
    values, draws = _values_and_draws(predictions, predictions.scorer, settings)
    champion_estimates = difference = None
    if champion is not None:
        champion_values, champion_draws = _values_and_draws(predictions, champion, settings)
        champion_estimates = _estimates(champion_values, champion_draws, settings)
        difference = _estimates(
            {name: values[name] - champion_values[name] for name in values},
            {name: draws[name] - champion_draws[name] for name in draws},
            settings,
        )
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    return Measurements(
        photos=len(truth),
        challenger=_estimates(values, draws, settings),
        champion=champion_estimates,
        difference=difference,
        confusion=classification.confusion_matrix(truth, predicted, settings.accuracy_threshold),
        roc=classification.roc_curve(truth, predicted, settings.accuracy_threshold),
    )


def _values_and_draws(
    predictions: Predictions, votes: np.ndarray, settings: Evaluation
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return metrics on all photos and on resamples, by name; the seed pairs the resamples of two scorers."""
    values = regression.all_metrics(predictions.truth, votes, settings.accuracy_threshold)
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
    return {
        name: Estimate(values[name], *bootstrap.percentile_interval(draws[name], settings.confidence))
        for name in values
    }
