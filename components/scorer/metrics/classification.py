"""Confusion matrix and ROC curve of photos that are accepted from a score on."""

import numpy as np

from components.scorer.metrics.regression import Array


def confusion(truth: Array, predicted: Array, threshold: float = 5.5) -> list[list[int]]:
    """Photos by people's class (rows: low, high) and the scorer's (columns: low, high); mean scores [n] each.

    A photo for which the scorer has no number is in neither column.
    """
    known = np.isfinite(predicted)
    high, called_high = np.asarray(truth)[known] >= threshold, np.asarray(predicted)[known] >= threshold
    return [[int(np.sum((high == row) & (called_high == column))) for column in (False, True)] for row in (False, True)]


def roc(truth: Array, predicted: Array, threshold: float = 5.5, points: int = 200) -> dict[str, list[float]]:
    """The receiver operating characteristic of calling a photo high when its predicted mean is high enough.

    Args:
        truth: float [n], people's mean scores; at or above ``threshold`` a photo is truly high.
        predicted: float [n], the scorer's.
        threshold: that parts people's high and low.
        points: at most so many are given, evenly taken.

    Returns:
        ``false_positive_rate``, ``true_positive_rate`` and ``threshold`` (of the predicted mean, falling), lists of
        finite floats from (0, 0) to (1, 1); empty lists where a class has no photo or a prediction is not finite.
    """
    high = np.asarray(truth) >= threshold
    if not high.any() or high.all() or not np.isfinite(predicted).all():
        return {"false_positive_rate": [], "true_positive_rate": [], "threshold": []}
    # Above the highest prediction no photo is called high: the curve's first point, without an infinity.
    cuts = np.concatenate([[np.max(predicted) + 1], np.unique(predicted)[::-1]])
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, min(points, len(cuts))).round().astype(int))]
    highs, lows = np.sort(predicted[high]), np.sort(predicted[~high])
    return {
        "false_positive_rate": [float(1 - np.searchsorted(lows, cut) / len(lows)) for cut in cuts],
        "true_positive_rate": [float(1 - np.searchsorted(highs, cut) / len(highs)) for cut in cuts],
        "threshold": [float(cut) for cut in cuts],
    }
