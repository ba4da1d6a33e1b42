"""Agreement of predicted votes with people's: accuracy, correlations, errors and EMD.

Sources: accuracy, LCC, SRCC and EMD as in NIMA (Talebi and Milanfar, 2018), KRCC after Kendall's tau-b.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from components.scorer.settings import SCORES

Array = npt.NDArray[np.floating]
METRICS = ("accuracy", "lcc", "srcc", "krcc", "rmse", "mae", "emd", "bias", "spread")
"""What ``all`` measures, in the order in which people read it."""

_ALIKE = 1e-6  # score points: numbers closer than this differ by rounding only


def mean_scores(votes: Array) -> Array:
    """The mean score of each photo.

    Args:
        votes: float [n, 10], shares of votes for the scores 1 to 10 or their counts.

    Returns:
        float64 [n], from 1 to 10; NaN where a photo has no votes.

    Raises:
        ValueError: ``votes`` is not [n, 10].
    """
    shares = _shares(votes)
    return shares @ np.asarray(SCORES, float)


def deviations(votes: Array) -> Array:
    """The standard deviation of each photo's votes, in score points, float64 [n]; see ``mean_scores``."""
    shares = _shares(votes)
    away = np.asarray(SCORES, float) - mean_scores(votes)[:, None]
    return np.sqrt((shares * away**2).sum(axis=1))


def distances(truth: Array, predicted: Array) -> Array:
    """The earth mover's distance between two distributions of votes, photo by photo.

    It is the area between the cumulative distributions, which for ordered scores one point apart equals
    ``scipy.stats.wasserstein_distance``.

    Args:
        truth: float [n, 10].
        predicted: float [n, 10].

    Returns:
        float64 [n], in score points, from 0 to 9.
    """
    gaps = np.cumsum(_shares(truth) - _shares(predicted), axis=1)
    return np.abs(gaps[:, :-1]).sum(axis=1)


def accuracy(truth: Array, predicted: Array, threshold: float = 5.5) -> Array:
    """The share of photos that both call high (at or above ``threshold``) or both call low; mean scores [..., n]."""
    high = threshold - _ALIKE  # in MEBeauty 1 photo of 130 has a mean of just 5.5, and shares of votes are rounded
    alike = (np.asarray(truth) >= high) == (np.asarray(predicted) >= high)
    return np.where(np.isnan(truth) | np.isnan(predicted), np.nan, alike).mean(axis=-1)


def lcc(truth: Array, predicted: Array) -> Array:
    """Pearson's linear correlation of mean scores [..., n]; NaN where either side is constant."""
    t = truth - np.mean(truth, axis=-1, keepdims=True)
    p = predicted - np.mean(predicted, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (t * p).sum(axis=-1) / np.sqrt((t * t).sum(axis=-1) * (p * p).sum(axis=-1))
    return np.where(varies(truth) & varies(predicted), np.clip(r, -1, 1), np.nan)


def srcc(truth: Array, predicted: Array) -> Array:
    """Spearman's rank correlation of mean scores [..., n], ties ranked by their mean; NaN where one is constant."""
    varied = varies(truth) & varies(predicted)
    ranked = lcc(stats.rankdata(truth, axis=-1), stats.rankdata(predicted, axis=-1))
    return np.where(varied, ranked, np.nan)


def krcc(truth: Array, predicted: Array) -> Array:
    """Kendall's rank correlation tau-b of mean scores [..., n]; NaN where one is constant."""
    pairs = np.stack(np.broadcast_arrays(truth, predicted), axis=-2)
    if pairs.ndim > 2:
        return np.array([krcc(*pair) for pair in pairs])
    if not (varies(truth) and varies(predicted)):
        return np.array(np.nan)
    return np.array(stats.kendalltau(truth, predicted).statistic)


def rmse(truth: Array, predicted: Array) -> Array:
    """The root mean squared error of mean scores [..., n], in score points."""
    return np.sqrt(np.mean((predicted - truth) ** 2, axis=-1))


def mae(truth: Array, predicted: Array) -> Array:
    """The mean absolute error of mean scores [..., n], in score points."""
    return np.mean(np.abs(predicted - truth), axis=-1)


def bias(truth: Array, predicted: Array) -> Array:
    """The mean error of mean scores [..., n], in score points: positive where the scorer is kinder than people."""
    return np.mean(predicted - truth, axis=-1)


def spread(truth: Array, predicted: Array) -> Array:
    """The standard deviation of predicted mean scores over that of the true ones, [..., n].

    It is 0 for a scorer that answers the same for every photo; NaN where the truth is constant.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.std(predicted, axis=-1) / np.std(truth, axis=-1)
    return np.where(varies(truth), ratio, np.nan)


def emd(truth: Array, predicted: Array) -> float:
    """The mean over photos of ``distances``: votes [n, 10] each, in score points."""
    return float(distances(truth, predicted).mean()) if len(truth) else float("nan")


def all(truth: Array, predicted: Array, threshold: float = 5.5) -> dict[str, float]:
    """Every metric of ``METRICS`` for a set of photos.

    Args:
        truth: float [n, 10], people's votes.
        predicted: float [n, 10], the scorer's.
        threshold: of accuracy, a mean score from 1 to 10.

    Returns:
        Floats by name; NaN where the data do not define a metric.

    Raises:
        ValueError: the shapes differ or are not [n, 10].
    """
    pairs = MetricInputs.of(truth, predicted)
    return {name: float(pairs.measure(name, threshold)) for name in METRICS}


def why_undefined(truth: Array, predicted: Array) -> str:
    """Why mean scores [n] have no correlation, in words for a report; empty where they have one."""
    if len(truth) < 2:
        return "there are fewer than two photos"
    if not np.isfinite(predicted).all():
        return "a prediction is no number"
    if not varies(truth):
        return "people's mean scores do not vary"
    return "" if varies(predicted) else "every photo gets the same score"


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that are numbers: Kubeflow's page shows none of a task's metrics when one of them is not."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


OF_MEANS = {"lcc": lcc, "srcc": srcc, "krcc": krcc, "rmse": rmse, "mae": mae, "bias": bias, "spread": spread}


@dataclass(frozen=True)
class MetricInputs:
    """What the metrics need of each photo, [..., n]: both mean scores, their places, the distance between the votes."""

    truth: Array
    predicted: Array
    distance: Array
    truth_place: npt.NDArray[np.integer]
    predicted_place: npt.NDArray[np.integer]

    @classmethod
    def of(cls, truth: Array, predicted: Array) -> "MetricInputs":
        """Return the inputs of true and predicted votes ``[…, n, 10]`` of the same photos."""
        if np.shape(truth) != np.shape(predicted):
            raise ValueError(
                f"true and predicted votes must be of the same photos, got {np.shape(truth)} and {np.shape(predicted)}"
            )
        means = mean_scores(truth), mean_scores(predicted)
        return cls(*means, distances(truth, predicted), *(np.unique(each, return_inverse=True)[1] for each in means))

    def take(self, index: npt.NDArray[np.integer]) -> "MetricInputs":
        """Return the inputs of the photos at an index."""
        return MetricInputs(*(each[index] for each in vars(self).values()))

    def measure(self, name: str, threshold: float) -> Array:
        """Return the metric of a name; ``threshold`` is the accuracy's."""
        if self.truth.shape[-1] == 0:
            return np.full(self.truth.shape[:-1], np.nan)
        if name == "emd":
            return self.distance.mean(axis=-1)
        if name == "srcc":
            varied = varies(self.truth) & varies(self.predicted)
            return np.where(varied, lcc(ranks(self.truth_place), ranks(self.predicted_place)), np.nan)
        if name == "accuracy":
            return accuracy(self.truth, self.predicted, threshold)
        return OF_MEANS[name](self.truth, self.predicted)


def ranks(places: npt.NDArray[np.integer]) -> Array:
    """``scipy.stats.rankdata`` along the last axis of whole numbers from 0, counted, which is six times faster."""
    rows = places.reshape(-1, places.shape[-1])
    size = int(rows.max(initial=0)) + 1
    found = np.bincount((rows + size * np.arange(len(rows))[:, None]).ravel(), minlength=size * len(rows))
    found = found.reshape(-1, size)
    middle = np.cumsum(found, axis=1) - (found - 1) / 2
    return np.take_along_axis(middle, rows, axis=1).reshape(places.shape)


def _shares(votes: Array) -> Array:
    """Votes as float64 shares that sum to 1 a photo (NaN for a photo without votes)."""
    votes = np.asarray(votes, float)
    if votes.ndim != 2 or votes.shape[1] != len(SCORES):
        raise ValueError(f"expected votes of shape [n, {len(SCORES)}], got {list(votes.shape)}")
    with np.errstate(invalid="ignore", divide="ignore"):
        return votes / votes.sum(axis=1, keepdims=True)


def varies(scores: Array) -> npt.NDArray[np.bool_]:
    """Whether there are two different scores along the last axis; False for NaN."""
    scores = np.asarray(scores)
    return np.ptp(scores, axis=-1) > _ALIKE if scores.shape[-1] else np.zeros(scores.shape[:-1], bool)
