"""Percentile bootstrap intervals of the metrics, by photo or by group of photos.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from components.scorer.metrics import regression
from components.scorer.metrics.regression import METRICS, Array, MetricInputs

_CHUNK = 100_000  # numbers resampled at once: copies of 0.8 MB stay in the CPU cache, twice as fast as 16 MB


def bootstrap(
    truth: Array,
    predicted: Array,
    *,
    threshold: float = 5.5,
    resamples: int = 1000,
    seed: int = 1,
    names: tuple[str, ...] = METRICS,
    groups: Sequence[str] = (),
) -> dict[str, Array]:
    """Return each metric on bootstrap resamples of the photos, drawn with replacement.

    The same number of photos (or the same groups) and the same seed draw the same photos. The resamples of two scorers
    on the same photos are therefore paired, and the difference of two metrics can be taken resample by resample.

    Photos of one group resemble each other and are drawn together, as many groups as there are (the cluster
    bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1).

    Args:
        truth: float [n, 10], votes of people.
        predicted: float [n, 10], votes predicted by the scorer.
        threshold: Mean score from which accuracy counts a photo as high.
        resamples: Number of resamples.
        seed: Seed of the random draws.
        names: Names of the metrics.
        groups: n group labels. A photo labelled "" is its own group; without labels, every photo is its own group.

    Returns:
        float64 [resamples] by name of the metric.

    Raises:
        ValueError: The shapes differ or are not [n, 10], or the number of labels is not the number of photos.
    """
    inputs = MetricInputs.from_votes(truth, predicted)
    if not len(inputs.truth):
        return {name: np.full(resamples, np.nan) for name in names}
    chunks: dict[str, list[Array]] = {name: [] for name in names}
    for index in _resample_indices(group_indices(groups, len(inputs.truth)), resamples, np.random.default_rng(seed)):
        resample = inputs.take(index)
        for name in names:
            chunks[name].append(resample.measure(name, threshold))
    return {name: np.concatenate(metric_chunks) for name, metric_chunks in chunks.items()}


def group_indices(groups: Sequence[str], photos: int) -> npt.NDArray[np.integer]:
    """Return the group index of each photo.

    Args:
        groups: One label per photo. A photo labelled "" is its own group; without labels, every photo is its own group.
        photos: Number of photos.

    Returns:
        int64 [photos], from 0 to the number of groups minus 1.

    Raises:
        ValueError: The number of labels is not the number of photos.
    """
    if not len(groups):
        return np.arange(photos)
    if len(groups) != photos:
        raise ValueError(f"expected a group for each of {photos} photos, got {len(groups)}")
    labels = [(group, 0 if group else index) for index, group in enumerate(groups)]
    indices: dict[tuple[str, int], int] = {}
    return np.array([indices.setdefault(label, len(indices)) for label in labels])


def percentile_interval(draws: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval, low and high, of a metric's bootstrap resamples [resamples].

    Resamples without a finite metric (a few photos, all drawn alike) are ignored. If no resample is left, both ends
    are NaN.
    """
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resample_counts(group_of: npt.NDArray[np.integer], resamples: int, seed: int) -> Iterator[Array]:
    """Yield bootstrap resamples as the count of each photo, for statistics that take weights.

    Weighting is much faster than indexing when many slices of the same photos are measured.

    Args:
        group_of: int [n], group index of each photo, from 0 and without gaps; a group is drawn as a whole.
        resamples: Number of resamples.
        seed: Seed of the random draws.

    Yields:
        float64 [rows, n], whole numbers from 0; ``resamples`` rows in total.
    """
    rng, clusters = np.random.default_rng(seed), int(group_of.max(initial=-1)) + 1
    chunk_rows = max(1, _CHUNK // max(1, len(group_of)))
    for start in range(0, resamples if clusters else 0, chunk_rows):
        rows = min(chunk_rows, resamples - start)
        drawn = rng.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)[:, group_of].astype(float)


def weighted_srcc(truth: Array, predicted: Array, weights: Array) -> Array:
    """Return Spearman's rank correlation (SRCC) of weighted photos.

    Args:
        truth: float [n], mean scores of people.
        predicted: float [n], predicted mean scores.
        weights: float [..., n], number of times that each photo counts.

    Returns:
        float64 [...], equal to ``srcc`` of the repeated photos; NaN where one side is constant.
    """
    if not (regression.varies(truth) and regression.varies(predicted)):
        return np.full(weights.shape[:-1], np.nan)
    t, p = _weighted_ranks(truth, weights), _weighted_ranks(predicted, weights)
    covariance, truth_variance, predicted_variance = (
        (weights * a * b).sum(axis=-1) for a, b in ((t, p), (t, t), (p, p))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance / np.sqrt(truth_variance * predicted_variance)
    # Ranks of two different values have a sum of squares of at least 0.5; below it all values are tied.
    return np.where(np.minimum(truth_variance, predicted_variance) > 0.25, np.clip(r, -1, 1), np.nan)


def _resample_indices(
    group: npt.NDArray[np.integer], resamples: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.integer]]:
    """Yield indices of the drawn photos, [rows, photos]: whole groups, drawn with replacement."""
    photos, groups = len(group), group.max() + 1
    if groups == photos:
        chunk_rows = max(1, _CHUNK // photos)
        for start in range(0, resamples, chunk_rows):
            yield rng.integers(photos, size=(min(chunk_rows, resamples - start), photos))
        return
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    for _ in range(resamples):
        yield np.concatenate([members[chosen] for chosen in rng.integers(groups, size=groups)])[None]


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Return centred ranks of values [n] repeated ``weights`` [..., n] times; tied values get their mean rank."""
    distinct, index = np.unique(values, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(distinct)))
    counts = np.add.reduceat(weights[..., order], starts, axis=-1)
    ranks = np.cumsum(counts, axis=-1) - counts / 2
    return ranks[..., index] - weights.sum(axis=-1, keepdims=True) / 2
