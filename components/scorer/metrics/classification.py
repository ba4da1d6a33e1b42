"""Confusion matrix and ROC curve of classifying photos by a threshold on their mean score."""

import numpy as np

from components.scorer.metrics.regression import Array


def confusion_matrix(truth: Array, predicted: Array, threshold: float = 5.5) -> list[list[int]]:
    """Return the confusion matrix: rows are people's class (low, high), columns the scorer's class (low, high).

    A photo without a finite predicted score is counted in neither column.

    Args:
        truth: float [n], people's mean scores.
        predicted: float [n], predicted mean scores.
        threshold: Mean score from which a photo is high.
    """
    known = np.isfinite(predicted)
    is_high, predicted_high = np.asarray(truth)[known] >= threshold, np.asarray(predicted)[known] >= threshold
    return [
        [int(np.sum((is_high == row) & (predicted_high == column))) for column in (False, True)]
        for row in (False, True)
    ]


def roc_curve(truth: Array, predicted: Array, threshold: float = 5.5, points: int = 200) -> dict[str, list[float]]:
    """Return the ROC curve (receiver operating characteristic) of predicting high photos by the predicted mean score.

    Args:
        truth: float [n], people's mean scores; a photo is truly high from ``threshold`` on.
        predicted: float [n], predicted mean scores.
        threshold: Mean score from which a photo is truly high.
        points: Largest number of points; more points are thinned out evenly.

    Returns:
        ``false_positive_rate``, ``true_positive_rate`` and ``threshold`` (of the predicted mean, falling): lists of
        finite floats from (0, 0) to (1, 1). The lists are empty if a class has no photo or a prediction is not finite.
    """
    is_high = np.asarray(truth) >= threshold
    if not is_high.any() or is_high.all() or not np.isfinite(predicted).all():
        return {"false_positive_rate": [], "true_positive_rate": [], "threshold": []}
    # The first threshold lies above the highest prediction: no photo is predicted high, and no infinity is needed.
    thresholds = np.concatenate([[np.max(predicted) + 1], np.unique(predicted)[::-1]])
    thresholds = thresholds[
        np.unique(np.linspace(0, len(thresholds) - 1, min(points, len(thresholds))).round().astype(int))
    ]
    high_scores, low_scores = np.sort(predicted[is_high]), np.sort(predicted[~is_high])
    return {
        "false_positive_rate": [
            float(1 - np.searchsorted(low_scores, limit) / len(low_scores)) for limit in thresholds
        ],
        "true_positive_rate": [
            float(1 - np.searchsorted(high_scores, limit) / len(high_scores)) for limit in thresholds
        ],
        "threshold": [float(limit) for limit in thresholds],
    }
