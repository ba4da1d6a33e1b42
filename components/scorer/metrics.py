"""How well predicted votes agree with people's, how sure that is, and how well people agree with each other.

Agreement is measured on photos' mean scores, but for EMD, which compares whole distributions. Every metric
reduces the last axis, so that a matrix of resamples costs one call. A metric that the data do not define,
such as a correlation with constant predictions, is NaN: never 0, never an error.

Sources: accuracy, LCC, SRCC and EMD as in NIMA (Talebi and Milanfar, 2018), KRCC after Kendall's tau-b,
intervals by the percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
13), reliability after Spearman (1910) and Brown (1910).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from components.scorer.settings import SCORES

Array = npt.NDArray[np.floating]

METRICS = ("accuracy", "lcc", "srcc", "krcc", "rmse", "mae", "emd", "bias", "spread")
"""What ``all`` measures, in the order in which people read it."""

_ALIKE = 1e-6  # score points: numbers closer than this differ by rounding only
_CHUNK = 2_000_000  # numbers of a bootstrap held at once, 16 MB a copy


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
    alike = (np.asarray(truth) >= threshold) == (np.asarray(predicted) >= threshold)
    return np.where(np.isnan(truth) | np.isnan(predicted), np.nan, alike).mean(axis=-1)


def lcc(truth: Array, predicted: Array) -> Array:
    """Pearson's linear correlation of mean scores [..., n]; NaN where either side is constant."""
    t = truth - np.mean(truth, axis=-1, keepdims=True)
    p = predicted - np.mean(predicted, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (t * p).sum(axis=-1) / np.sqrt((t * t).sum(axis=-1) * (p * p).sum(axis=-1))
    return np.where(_varies(truth) & _varies(predicted), np.clip(r, -1, 1), np.nan)


def srcc(truth: Array, predicted: Array) -> Array:
    """Spearman's rank correlation of mean scores [..., n], ties ranked by their mean; NaN where one is constant."""
    varied = _varies(truth) & _varies(predicted)
    ranked = lcc(stats.rankdata(truth, axis=-1), stats.rankdata(predicted, axis=-1))
    return np.where(varied, ranked, np.nan)


def krcc(truth: Array, predicted: Array) -> Array:
    """Kendall's rank correlation tau-b of mean scores [..., n]; NaN where one is constant."""
    pairs = np.stack(np.broadcast_arrays(truth, predicted), axis=-2)
    if pairs.ndim > 2:
        return np.array([krcc(*pair) for pair in pairs])
    if not (_varies(truth) and _varies(predicted)):
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
    return np.where(_varies(truth), ratio, np.nan)


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
    pairs = _Pairs.of(truth, predicted)
    return {name: float(pairs.measure(name, threshold)) for name in METRICS}


def bootstrap(
    truth: Array,
    predicted: Array,
    *,
    threshold: float = 5.5,
    resamples: int = 1000,
    seed: int = 1,
    names: tuple[str, ...] = METRICS,
) -> dict[str, Array]:
    """Each metric on photos drawn again and again, with replacement.

    The same number of photos and the same seed draw the same photos: for two scorers on the same photos the
    draws are paired, and their difference is that of the two on one draw.

    Args:
        truth: float [n, 10], people's votes.
        predicted: float [n, 10], the scorer's.
        threshold: of accuracy.
        resamples: how many draws.
        seed: of the draws.
        names: the metrics wanted.

    Returns:
        float64 [resamples] by name.

    Raises:
        ValueError: the shapes differ or are not [n, 10].
    """
    pairs = _Pairs.of(truth, predicted)
    photos, rng = len(pairs.truth), np.random.default_rng(seed)
    if not photos:
        return {name: np.full(resamples, np.nan) for name in names}
    at_once = max(1, _CHUNK // photos)
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for start in range(0, resamples, at_once):
        drawn = pairs.take(rng.integers(photos, size=(min(at_once, resamples - start), photos)))
        for name in names:
            parts[name].append(drawn.measure(name, threshold))
    return {name: np.concatenate(part) for name, part in parts.items()}


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


@dataclass(frozen=True)
class Reliability:
    """How well raters agree with each other, and the ceiling that this sets for any scorer."""

    split_half: float
    """Pearson correlation between photos' means by one random half of the raters and by the other."""
    spearman_brown: float
    """The same for means by all raters, 2r / (1 + r) (Spearman 1910, Brown 1910): the means' reliability."""
    ceiling: float
    """The highest LCC that even a perfect scorer can reach against the observed means: its square root."""
    photos: int
    """Photos with a rater in both halves, on average over the splits."""
    splits: int
    """Random splits over which the correlation is averaged."""


def reliability(
    photos: npt.ArrayLike, raters: npt.ArrayLike, scores: npt.ArrayLike, *, splits: int = 100, seed: int = 1
) -> Reliability | None:
    """Reliability from single ratings: the raters are parted at random, each with all of their ratings.

    Parting the raters, not each photo's ratings, keeps a harsh rater on one side, so that raters' habits count
    as the noise they are.

    Args:
        photos: [m], whose rating it is: any labels.
        raters: [m], by whom: any labels.
        scores: float [m], from 1 to 10.
        splits: random splits to average over.
        seed: of the splits.

    Returns:
        None where fewer than three photos have two raters, or the halves' means do not vary.

    Raises:
        ValueError: the three differ in length.
    """
    photo, rater, score = np.asarray(photos), np.asarray(raters), np.asarray(scores, float)
    if not len(photo) == len(rater) == len(score):
        raise ValueError(
            f"expected a photo, a rater and a score a rating, got {len(photo)}, {len(rater)} and {len(score)} of them"
        )
    photo, rater = np.unique(photo, return_inverse=True)[1], np.unique(rater, return_inverse=True)[1]
    size, rng = photo.max(initial=-1) + 1, np.random.default_rng(seed)

    def half_means() -> tuple[Array, Array]:
        chosen = (rng.permutation(rater.max(initial=-1) + 1) % 2 == 0)[rater]
        return tuple(_group_means(photo[side], score[side], size) for side in (chosen, ~chosen))

    return _over_splits(half_means, splits)


def reliability_of_counts(counts: npt.ArrayLike, *, splits: int = 100, seed: int = 1) -> Reliability | None:
    """Reliability from vote counts: each photo's votes are parted at random into halves.

    A random half of ten counts follows the multivariate hypergeometric distribution.

    Args:
        counts: [n, 10], how many raters gave a photo each score; shares times raters are rounded.
        splits: random splits to average over.
        seed: of the splits.

    Returns:
        None where fewer than three photos have two votes, or the halves' means do not vary.

    Raises:
        ValueError: ``counts`` is not [n, 10], or is negative or not finite.
    """
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or counts.shape[1] != len(SCORES) or not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError(f"expected counts [n, 10], finite and at least 0, got an array of shape {counts.shape}")
    votes, rng = np.rint(counts).astype(np.int64), np.random.default_rng(seed)

    def half_means() -> tuple[Array, Array]:
        half = _random_half(votes, rng)
        return mean_scores(half), mean_scores(votes - half)

    return _over_splits(half_means, splits)


_OF_MEANS = {"lcc": lcc, "srcc": srcc, "krcc": krcc, "rmse": rmse, "mae": mae, "bias": bias, "spread": spread}


@dataclass(frozen=True)
class _Pairs:
    """What the metrics need of each photo, [..., n]: both mean scores and the distance between the votes."""

    truth: Array
    predicted: Array
    distance: Array

    @classmethod
    def of(cls, truth: Array, predicted: Array) -> "_Pairs":
        if np.shape(truth) != np.shape(predicted):
            raise ValueError(
                f"true and predicted votes must be of the same photos, got {np.shape(truth)} and {np.shape(predicted)}"
            )
        return cls(mean_scores(truth), mean_scores(predicted), distances(truth, predicted))

    def take(self, index: npt.NDArray[np.integer]) -> "_Pairs":
        return _Pairs(self.truth[index], self.predicted[index], self.distance[index])

    def measure(self, name: str, threshold: float) -> Array:
        if self.truth.shape[-1] == 0:
            return np.full(self.truth.shape[:-1], np.nan)
        if name == "emd":
            return self.distance.mean(axis=-1)
        if name == "accuracy":
            return accuracy(self.truth, self.predicted, threshold)
        return _OF_MEANS[name](self.truth, self.predicted)


def _shares(votes: Array) -> Array:
    """Votes as float64 shares that sum to 1 a photo (NaN for a photo without votes)."""
    votes = np.asarray(votes, float)
    if votes.ndim != 2 or votes.shape[1] != len(SCORES):
        raise ValueError(f"expected votes of shape [n, {len(SCORES)}], got {list(votes.shape)}")
    with np.errstate(invalid="ignore", divide="ignore"):
        return votes / votes.sum(axis=1, keepdims=True)


def _varies(scores: Array) -> npt.NDArray[np.bool_]:
    """Whether there are two different scores along the last axis; False for NaN."""
    scores = np.asarray(scores)
    return np.ptp(scores, axis=-1) > _ALIKE if scores.shape[-1] else np.zeros(scores.shape[:-1], bool)


def _group_means(group: npt.NDArray[np.integer], score: Array, size: int) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(group, score, size) / np.bincount(group, minlength=size)


def _random_half(votes: npt.NDArray[np.integer], rng: np.random.Generator) -> npt.NDArray[np.integer]:
    """Half of each photo's votes, drawn score by score; the odd vote goes to either half."""
    left = votes.sum(axis=1)
    wanted = (left + rng.integers(2, size=len(left))) // 2
    half = np.zeros_like(votes)
    for score in range(votes.shape[1]):
        left = left - votes[:, score]
        half[:, score] = rng.hypergeometric(votes[:, score], left, wanted)
        wanted = wanted - half[:, score]
    return half


def _over_splits(half_means, splits: int) -> Reliability | None:
    """The average over random splits, each with the photos that have a mean in both halves."""
    correlations, photos = [], []
    for _ in range(splits):
        one, other = half_means()
        both = np.isfinite(one) & np.isfinite(other)
        correlations.append(float(lcc(one[both], other[both])) if both.sum() >= 3 else np.nan)
        photos.append(both.sum())
    if not np.isfinite(correlations).any():
        return None
    split_half = float(np.nanmean(correlations))
    # Halves that disagree say that the means hold nothing in common: no reliability, and not an imaginary ceiling.
    whole = max(0.0, 2 * split_half / (1 + split_half)) if split_half > -1 else 0.0
    return Reliability(split_half, whole, whole**0.5, round(float(np.mean(photos))), splits)
