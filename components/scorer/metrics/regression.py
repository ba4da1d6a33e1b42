"""Metrics of predicted votes against people's votes: accuracy, correlations, errors and EMD.

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
"""The metrics that `all_metrics` computes, in the order of the reports."""

_ROUNDING = 1e-6  # score points; values closer than this differ by rounding only


def mean_scores(votes: npt.NDArray[np.floating | np.integer]) -> Array:
    """Return the mean score of each photo.

    Args:
        votes: [n, 10], shares or counts of votes for the scores 1 to 10.

    Returns:
        float64 [n], from 1 to 10; NaN where a photo has no votes.

    Raises:
        ValueError: ``votes`` is not [n, 10].
    """
    shares = _vote_shares(votes)
    return shares @ np.asarray(SCORES, float)


def vote_deviations(votes: Array) -> Array:
    """Return the standard deviation of each photo's votes [n, 10], in score points, float64 [n]; NaN without votes."""
    shares = _vote_shares(votes)
    differences = np.asarray(SCORES, float) - mean_scores(votes)[:, None]
    return np.sqrt((shares * differences**2).sum(axis=1))


def emd_per_photo(truth: Array, predicted: Array) -> Array:
    """Return the earth mover's distance (EMD) between two vote distributions for each photo.

    The EMD is the area between the cumulative distributions. For ordered scores one point apart it equals
    ``scipy.stats.wasserstein_distance``.

    Args:
        truth: float [n, 10], votes of people.
        predicted: float [n, 10], predicted votes.

    Returns:
        float64 [n], in score points, from 0 to 9.
    """
    cumulative_differences = np.cumsum(_vote_shares(truth) - _vote_shares(predicted), axis=1)
    return np.abs(cumulative_differences[:, :-1]).sum(axis=1)


def accuracy(truth: Array, predicted: Array, threshold: float = 5.5) -> Array:
    """Return the fraction of photos that both classify as high (at or above ``threshold``) or both as low.

    Args:
        truth: float [..., n], people's mean scores.
        predicted: float [..., n], predicted mean scores.
        threshold: Mean score from which a photo is high.

    Returns:
        float64 [...], from 0 to 1; NaN if a score is NaN.
    """
    limit = threshold - _ROUNDING  # in MEBeauty 1 photo of 130 has a mean of just 5.5, and shares of votes are rounded
    is_same_class = (np.asarray(truth) >= limit) == (np.asarray(predicted) >= limit)
    return np.where(np.isnan(truth) | np.isnan(predicted), np.nan, is_same_class).mean(axis=-1)


def lcc(truth: Array, predicted: Array) -> Array:
    """Return Pearson's linear correlation (LCC) of mean scores [..., n]; NaN where either side is constant."""
    t = truth - np.mean(truth, axis=-1, keepdims=True)
    p = predicted - np.mean(predicted, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (t * p).sum(axis=-1) / np.sqrt((t * t).sum(axis=-1) * (p * p).sum(axis=-1))
    return np.where(varies(truth) & varies(predicted), np.clip(r, -1, 1), np.nan)


def srcc(truth: Array, predicted: Array) -> Array:
    """Return Spearman's rank correlation (SRCC) of mean scores [..., n]; NaN where either side is constant.

    Tied scores get their mean rank.
    """
    is_defined = varies(truth) & varies(predicted)
    correlation = lcc(stats.rankdata(truth, axis=-1), stats.rankdata(predicted, axis=-1))
    return np.where(is_defined, correlation, np.nan)


def krcc(truth: Array, predicted: Array) -> Array:
    """Return Kendall's rank correlation tau-b (KRCC) of mean scores [..., n]; NaN where either side is constant."""
    pairs = np.stack(np.broadcast_arrays(truth, predicted), axis=-2)
    if pairs.ndim > 2:
        return np.array([krcc(*pair) for pair in pairs])
    if not (varies(truth) and varies(predicted)):
        return np.array(np.nan)
    return np.array(stats.kendalltau(truth, predicted).statistic)


def rmse(truth: Array, predicted: Array) -> Array:
    """Return the root mean squared error (RMSE) of mean scores [..., n], in score points."""
    return np.sqrt(np.mean((predicted - truth) ** 2, axis=-1))


def mae(truth: Array, predicted: Array) -> Array:
    """Return the mean absolute error (MAE) of mean scores [..., n], in score points."""
    return np.mean(np.abs(predicted - truth), axis=-1)


def bias(truth: Array, predicted: Array) -> Array:
    """Return the mean error of mean scores [..., n], in score points: positive if the scorer scores higher."""
    return np.mean(predicted - truth, axis=-1)


def spread(truth: Array, predicted: Array) -> Array:
    """Return the standard deviation of predicted mean scores divided by that of the true mean scores, [..., n].

    The ratio is 0 for a scorer with the same score for every photo, and NaN if the true scores are constant.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.std(predicted, axis=-1) / np.std(truth, axis=-1)
    return np.where(varies(truth), ratio, np.nan)


def emd(truth: Array, predicted: Array) -> float:
    """Return the mean of `emd_per_photo` over photos, in score points, from votes [n, 10]; NaN without photos."""
    return float(emd_per_photo(truth, predicted).mean()) if len(truth) else float("nan")


def all_metrics(truth: Array, predicted: Array, threshold: float = 5.5) -> dict[str, float]:
    """Return every metric of `METRICS` for a set of photos.

    Args:
        truth: float [n, 10], votes of people.
        predicted: float [n, 10], votes predicted by the scorer.
        threshold: Mean score, from 1 to 10, from which accuracy counts a photo as high.

    Returns:
        Floats by name of the metric; NaN where the data do not define a metric.

    Raises:
        ValueError: The shapes differ or are not [n, 10].
    """
    inputs = MetricInputs.from_votes(truth, predicted)
    return {name: float(inputs.measure(name, threshold)) for name in METRICS}


def why_undefined(truth: Array, predicted: Array) -> str:
    """Return the reason why mean scores [n] have no correlation, in words for a report; "" if they have one."""
    if len(truth) < 2:
        return "there are fewer than two photos"
    if not np.isfinite(predicted).all():
        return "a prediction is no number"
    if not varies(truth):
        return "people's mean scores do not vary"
    return "" if varies(predicted) else "every photo gets the same score"


def finite_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the finite figures: Kubeflow's page shows no metric of a task if one of them is NaN or infinite."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


MEAN_SCORE_METRICS = {"lcc": lcc, "srcc": srcc, "krcc": krcc, "rmse": rmse, "mae": mae, "bias": bias, "spread": spread}


@dataclass(frozen=True)
class MetricInputs:
    """Per-photo inputs of the metrics, each [..., n]: mean scores, their indices among the distinct scores, and EMD."""

    truth: Array
    predicted: Array
    distance: Array
    truth_index: npt.NDArray[np.integer]
    predicted_index: npt.NDArray[np.integer]

    @classmethod
    def from_votes(cls, truth: Array, predicted: Array) -> "MetricInputs":
        """Return the inputs of true and predicted votes ``[…, n, 10]`` of the same photos."""
        if np.shape(truth) != np.shape(predicted):
            raise ValueError(
                f"true and predicted votes must be of the same photos, got {np.shape(truth)} and {np.shape(predicted)}"
            )
        means = mean_scores(truth), mean_scores(predicted)
        return cls(
            *means, emd_per_photo(truth, predicted), *(np.unique(scores, return_inverse=True)[1] for scores in means)
        )

    def take(self, index: npt.NDArray[np.integer]) -> "MetricInputs":
        """Return the inputs of the photos at an index array."""
        return MetricInputs(*(values[index] for values in vars(self).values()))

    def measure(self, name: str, threshold: float) -> Array:
        """Return a metric by name; only accuracy uses ``threshold``."""
        if self.truth.shape[-1] == 0:
            return np.full(self.truth.shape[:-1], np.nan)
        if name == "emd":
            return self.distance.mean(axis=-1)
        if name == "srcc":
            is_defined = varies(self.truth) & varies(self.predicted)
            return np.where(
                is_defined, lcc(rank_integers(self.truth_index), rank_integers(self.predicted_index)), np.nan
            )
        if name == "accuracy":
            return accuracy(self.truth, self.predicted, threshold)
        return MEAN_SCORE_METRICS[name](self.truth, self.predicted)


def rank_integers(indices: npt.NDArray[np.integer]) -> Array:
    """Return ``scipy.stats.rankdata`` along the last axis of integers from 0, by counting: six times faster."""
    rows = indices.reshape(-1, indices.shape[-1])
    size = int(rows.max(initial=0)) + 1
    counts = np.bincount((rows + size * np.arange(len(rows))[:, None]).ravel(), minlength=size * len(rows))
    counts = counts.reshape(-1, size)
    middle = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return np.take_along_axis(middle, rows, axis=1).reshape(indices.shape)


def _vote_shares(votes: npt.NDArray[np.floating | np.integer]) -> Array:
    """Return votes as float64 shares that sum to 1 for each photo (NaN for a photo without votes)."""
    votes = np.asarray(votes, float)
    if votes.ndim != 2 or votes.shape[1] != len(SCORES):
        raise ValueError(f"expected votes of shape [n, {len(SCORES)}], got {list(votes.shape)}")
    with np.errstate(invalid="ignore", divide="ignore"):
        return votes / votes.sum(axis=1, keepdims=True)


def varies(scores: Array) -> npt.NDArray[np.bool_]:
    """Return True where scores differ along the last axis by more than rounding; False for NaN."""
    scores = np.asarray(scores)
    return np.ptp(scores, axis=-1) > _ROUNDING if scores.shape[-1] else np.zeros(scores.shape[:-1], bool)
