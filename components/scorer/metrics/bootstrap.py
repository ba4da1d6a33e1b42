"""Percentile bootstrap intervals of the metrics, by photo or by group of photos.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from components.scorer.metrics import regression
from components.scorer.metrics.regression import METRICS, Array, MetricInputs

_CHUNK = 100_000  # numbers of a bootstrap held at once: 0.8 MB a copy stay in the cache, twice as fast as 16 MB


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
    """Each metric on photos drawn again and again, with replacement.

    The same number of photos (or the same groups) and the same seed draw the same photos: for two scorers on the
    same photos the draws are paired, and their difference is that of the two on one draw.

    Photos of one group resemble each other and are drawn together, as many groups as there are (the cluster
    bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1).

    Args:
        truth: float [n, 10], people's votes.
        predicted: float [n, 10], the scorer's.
        threshold: of accuracy.
        resamples: how many draws.
        seed: of the draws.
        names: the metrics wanted.
        groups: n labels; "" is a group of its own, and so is each photo where there are none.

    Returns:
        float64 [resamples] by name.

    Raises:
        ValueError: the shapes differ or are not [n, 10], or there are labels for more or fewer photos.
    """
    pairs = MetricInputs.of(truth, predicted)
    if not len(pairs.truth):
        return {name: np.full(resamples, np.nan) for name in names}
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for index in _draws(cluster(groups, len(pairs.truth)), resamples, np.random.default_rng(seed)):
        drawn = pairs.take(index)
        for name in names:
            parts[name].append(drawn.measure(name, threshold))
    return {name: np.concatenate(part) for name, part in parts.items()}


def cluster(groups: Sequence[str], photos: int) -> npt.NDArray[np.integer]:
    """Photos by group as numbers.

    Args:
        groups: a label a photo; "" is a group of its own. No labels at all: each photo is one.
        photos: how many there are.

    Returns:
        int64 [photos], from 0 to one less than the number of groups.

    Raises:
        ValueError: there are labels for more or fewer photos.
    """
    if not len(groups):
        return np.arange(photos)
    if len(groups) != photos:
        raise ValueError(f"expected a group for each of {photos} photos, got {len(groups)}")
    labels = [(group, 0 if group else place) for place, group in enumerate(groups)]
    numbers: dict[tuple[str, int], int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])


def interval(draws: Array, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap draws [resamples].

    Draws that left a metric undefined (a handful of photos drawn all alike) are passed over; with none left
    both ends are NaN.
    """
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def redraws(cluster_of: npt.NDArray[np.integer], resamples: int, seed: int) -> Iterator[Array]:
    """How often each photo is taken by draws with replacement, for statistics that can weigh photos.

    Weighing is much faster than drawing where many slices of the same photos are measured.

    Args:
        cluster_of: int [n], from 0 and without gaps: photos with one number are drawn together.
        resamples: how many draws.
        seed: of the draws.

    Yields:
        float64 [some, n], whole numbers from 0; together ``resamples`` rows.
    """
    rng, clusters = np.random.default_rng(seed), int(cluster_of.max(initial=-1)) + 1
    at_once = max(1, _CHUNK // max(1, len(cluster_of)))
    for start in range(0, resamples if clusters else 0, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)[:, cluster_of].astype(float)


def weighted_srcc(truth: Array, predicted: Array, weights: Array) -> Array:
    """Spearman's rank correlation of photos taken several times, or not at all.

    Args:
        truth: float [n], mean scores.
        predicted: float [n].
        weights: float [..., n], how often each photo is taken.

    Returns:
        float64 [...], as ``srcc`` finds with the photos repeated; NaN where one side is constant.
    """
    if not (regression.varies(truth) and regression.varies(predicted)):
        return np.full(weights.shape[:-1], np.nan)
    t, p = _weighted_ranks(truth, weights), _weighted_ranks(predicted, weights)
    together, alone, other = ((weights * a * b).sum(axis=-1) for a, b in ((t, p), (t, t), (p, p)))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = together / np.sqrt(alone * other)
    # Two different values have ranks whose squares sum to 0.5 at least: below that all are tied.
    return np.where(np.minimum(alone, other) > 0.25, np.clip(r, -1, 1), np.nan)


def _draws(
    group: npt.NDArray[np.integer], resamples: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.integer]]:
    """Places of the photos drawn, [resamples at once, photos]: with replacement, whole groups."""
    photos, groups = len(group), group.max() + 1
    if groups == photos:
        at_once = max(1, _CHUNK // photos)
        for start in range(0, resamples, at_once):
            yield rng.integers(photos, size=(min(at_once, resamples - start), photos))
        return
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    for _ in range(resamples):
        yield np.concatenate([members[drawn] for drawn in rng.integers(groups, size=groups)])[None]


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Ranks of values [n] that are taken ``weights`` [..., n] times, ties by their mean, less the mean rank."""
    different, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(different)))
    taken = np.add.reduceat(weights[..., order], starts, axis=-1)
    ranks = np.cumsum(taken, axis=-1) - taken / 2
    return ranks[..., place] - weights.sum(axis=-1, keepdims=True) / 2
