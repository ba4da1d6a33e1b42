"""The metrics of the challenger and of the champion on the same photos, each with its interval."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.evaluation.predictions import Predictions
from components.scorer import metrics
from components.scorer.settings import Evaluation

SLICED = ("srcc", "mae", "bias")
"""What is measured by attribute: whether photos are ranked, how far off, and to which side."""

_FEWEST = 10  # photos for an interval: resamples of fewer know too little of what was not seen
_VALUES = 20  # of an attribute, the most frequent: more are names rather than groups


@dataclass(frozen=True)
class Estimate:
    """A metric's value and the ends of its bootstrap interval; NaN where the data do not define them."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Slice:
    """The challenger on the photos with one value of one attribute."""

    attribute: str
    value: str
    photos: int
    metrics: Estimates


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured on the test split.

    Attributes:
        photos: how many were scored.
        challenger: by metric.
        champion: by metric; None where there is none, or none that could be scored.
        difference: challenger less champion by metric, on paired resamples; None likewise.
        slices: by attribute and value.
        confusion: photos by people's class and the challenger's.
        roc: of calling a photo high by the challenger's mean.
    """

    photos: int
    challenger: Estimates
    champion: Estimates | None
    difference: Estimates | None
    slices: list[Slice]
    confusion: list[list[int]]
    roc: dict[str, list[float]]


def measure(predictions: Predictions, champion: np.ndarray | None, settings: Evaluation) -> Measurements:
    """Measure the challenger, the champion and their difference.

    Args:
        predictions: the challenger's, with people's votes.
        champion: float [n, 10], the champion's votes on the same photos in the same order; None without one.
        settings: threshold of accuracy, resamples, confidence and seed.
    """
    values, draws = _on(predictions.truth, predictions.scorer, settings)
    theirs = difference = None
    if champion is not None:
        their_values, their_draws = _on(predictions.truth, champion, settings)
        theirs = _estimates(their_values, their_draws, settings)
        difference = _estimates(
            {name: values[name] - their_values[name] for name in values},
            {name: draws[name] - their_draws[name] for name in draws},
            settings,
        )
    truth, predicted = metrics.mean_scores(predictions.truth), metrics.mean_scores(predictions.scorer)
    return Measurements(
        photos=len(truth),
        challenger=_estimates(values, draws, settings),
        champion=theirs,
        difference=difference,
        slices=_slices(predictions, settings),
        confusion=metrics.confusion(truth, predicted, settings.accuracy_threshold),
        roc=metrics.roc(truth, predicted, settings.accuracy_threshold),
    )


def _on(
    truth: np.ndarray, predicted: np.ndarray, settings: Evaluation, names: tuple[str, ...] = metrics.METRICS
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The values on all photos and the draws on resamples; the seed pairs the draws of two scorers."""
    values = metrics.all(truth, predicted, settings.accuracy_threshold)
    draws = metrics.bootstrap(
        truth,
        predicted,
        threshold=settings.accuracy_threshold,
        resamples=settings.bootstrap,
        seed=settings.seed,
        names=names,
    )
    return {name: values[name] for name in names}, draws


def _estimates(values: dict[str, float], draws: dict[str, np.ndarray], settings: Evaluation) -> Estimates:
    return {name: Estimate(values[name], *metrics.interval(draws[name], settings.confidence)) for name in values}


def _slices(predictions: Predictions, settings: Evaluation) -> list[Slice]:
    found = []
    for attribute in predictions.attributes:
        column: pd.Series = predictions.attributes[attribute]
        for value, photos in column.value_counts().head(_VALUES).items():
            here = (column == value).to_numpy()
            values, draws = _on(predictions.truth[here], predictions.scorer[here], settings, SLICED)
            estimates = (
                _estimates(values, draws, settings)
                if photos >= _FEWEST
                else {name: Estimate(value) for name, value in values.items()}
            )
            found.append(Slice(str(attribute), str(value) or "unknown", int(photos), estimates))
    return found
