"""How well predicted votes agree with people's, how sure that is, and how well people agree with each other.

Agreement is measured on photos' mean scores, but for EMD, which compares whole distributions. Every metric
reduces the last axis, so that a matrix of resamples costs one call. A metric that the data do not define,
such as a correlation with constant predictions, is NaN: never 0, never an error.

Sources: accuracy, LCC, SRCC and EMD as in NIMA (Talebi and Milanfar, 2018), KRCC after Kendall's tau-b,
intervals by the percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
13), reliability after Spearman (1910) and Brown (1910).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from components.scorer.settings import SCORES

Array = npt.NDArray[np.floating]

METRICS = ("accuracy", "lcc", "srcc", "krcc", "rmse", "mae", "emd", "bias", "spread")
"""What ``all`` measures, in the order in which people read it."""

_ALIKE = 1e-6  # score points: numbers closer than this differ by rounding only
_PERFECT = 1e-12  # below 1: correlations closer to it are perfect but for rounding
_CHUNK = 100_000  # numbers of a bootstrap held at once: 0.8 MB a copy stay in the cache, twice as fast as 16 MB


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
    pairs = _Pairs.of(truth, predicted)
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
    if not (_varies(truth) and _varies(predicted)):
        return np.full(weights.shape[:-1], np.nan)
    t, p = _weighted_ranks(truth, weights), _weighted_ranks(predicted, weights)
    together, alone, other = ((weights * a * b).sum(axis=-1) for a, b in ((t, p), (t, t), (p, p)))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = together / np.sqrt(alone * other)
    # Two different values have ranks whose squares sum to 0.5 at least: below that all are tied.
    return np.where(np.minimum(alone, other) > 0.25, np.clip(r, -1, 1), np.nan)


def why_undefined(truth: Array, predicted: Array) -> str:
    """Why mean scores [n] have no correlation, in words for a report; empty where they have one."""
    if len(truth) < 2:
        return "there are fewer than two photos"
    if not np.isfinite(predicted).all():
        return "a prediction is no number"
    if not _varies(truth):
        return "people's mean scores do not vary"
    return "" if _varies(predicted) else "every photo gets the same score"


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that are numbers: Kubeflow's page shows none of a task's metrics when one of them is not."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


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
    votes, rng = _whole(counts), np.random.default_rng(seed)

    def half_means() -> tuple[Array, Array]:
        half = _random_half(votes, rng)
        return mean_scores(half), mean_scores(votes - half)

    return _over_splits(half_means, splits)


def ceilings(counts: npt.ArrayLike, *, splits: int = 100, seed: int = 1) -> dict[str, float] | None:
    """The LCC, SRCC and KRCC that a scorer which knows each photo's true mean reaches against the observed means.

    The observed means carry the noise of the raters who happened to be asked. For LCC the ceiling is the square root
    of their reliability. Ranks have no such law, so that each rank correlation is taken between random halves of the
    raters, turned into the Pearson correlation that a bivariate normal distribution has with it, stepped up and
    rooted like that one, and turned back: ``r = sin(π τ / 2)`` (Greiner 1909) and ``r = 2 sin(π ρ / 6)`` (Pearson
    1907; both in Kruskal, "Ordinal measures of association", 1958). For means that are not normal these
    two are approximate.

    Args:
        counts: [n, 10], how many raters gave a photo each score.
        splits: random splits to average over.
        seed: of the splits.

    Returns:
        Floats from 0 to 1 by ``lcc``, ``srcc`` and ``krcc``; None where fewer than three photos have two votes, or
        the halves' means do not vary.

    Raises:
        ValueError: as ``reliability_of_counts``.
    """
    votes, rng = _whole(counts), np.random.default_rng(seed)
    halves: list[tuple[float, ...]] = []
    for _ in range(splits):
        half = _random_half(votes, rng)
        one, other = mean_scores(half), mean_scores(votes - half)
        both = np.isfinite(one) & np.isfinite(other)
        if both.sum() >= 3:
            halves.append(tuple(float(_OF_MEANS[name](one[both], other[both])) for name in _AS_NORMAL))
    if not np.isfinite(halves).any():
        return None
    found = dict(zip(_AS_NORMAL, np.nanmean(halves, axis=0).tolist(), strict=True))
    return {
        name: float(back(_stepped_up(to_pearson(found[name])) ** 0.5))
        for name, (to_pearson, back) in _AS_NORMAL.items()
    }


def one_against_rest(counts: npt.ArrayLike, *, draws: int = 100, seed: int = 1) -> dict[str, float] | None:
    """How well one rater, drawn at random for each photo, agrees with the mean of the photo's others.

    Each photo draws its own rater, so that raters' differing severity counts as the noise that it is for a photo.

    Args:
        counts: [n, 10], how many raters gave a photo each score.
        draws: of raters, to average over.
        seed: of the draws.

    Returns:
        Floats by ``lcc``, ``srcc`` and ``krcc``; None where fewer than three photos have two votes, or the scores
        do not vary.

    Raises:
        ValueError: as ``reliability_of_counts``.
    """
    votes, rng = _whole(counts), np.random.default_rng(seed)
    votes = votes[votes.sum(axis=1) >= 2]
    if len(votes) < 3:
        return None
    scores, raters, total = np.asarray(SCORES), votes.sum(axis=1), votes @ np.asarray(SCORES)
    found: list[tuple[float, ...]] = []
    for _ in range(draws):
        picked = rng.integers(raters)[:, None] >= np.cumsum(votes, axis=1)
        one = scores[picked.sum(axis=1)]
        rest = (total - one) / (raters - 1)
        found.append(tuple(float(_OF_MEANS[name](rest, one.astype(float))) for name in _AS_NORMAL))
    if not np.isfinite(found).any():
        return None
    return dict(zip(_AS_NORMAL, np.nanmean(found, axis=0).tolist(), strict=True))


def typical_raters(raters: npt.ArrayLike) -> float:
    """How many people rated a photo of which that is not known: the median of the numbers that are.

    Args:
        raters: int [n], 0 where unknown.

    Returns:
        From 1; 1 where no photo's number is known.
    """
    known = np.asarray(raters)[np.asarray(raters) > 0]
    return float(np.median(known)) if len(known) else 1.0


@dataclass(frozen=True)
class Williams:
    """Williams' test of one correlation against another that shares a variable with it; NaN where undefined."""

    t: float
    """Positive where the first correlation is the larger."""
    degrees: int
    """Of freedom of Student's t."""
    p: float
    """One-sided: the chance of such a t or a larger one, were the two correlations equal."""
    error: float
    """The standard error of their difference, were they equal: the difference over ``t``."""


def williams(first: float, second: float, between: float, n: int) -> Williams:
    """Whether two scorers that were tried on the same photos correlate differently with people.

    Two correlations on the same photos are dependent, the more so the more alike the scorers are, which tests of
    independent correlations pass over. The test is Williams' ("The comparison of regression variables", 1959) in the
    form that Steiger recommends ("Tests for comparing elements of a correlation matrix", 1980, equation 7). It
    assumes independent photos and normal variables; with Spearman's correlations it is an approximation.

    Args:
        first: correlation of one scorer with people, from -1 to 1.
        second: correlation of the other.
        between: correlation of the two scorers with each other.
        n: photos.

    Returns:
        NaN (but for the degrees) for fewer than four photos, or two scorers that are alike but for scale.
    """
    nan, degrees = float("nan"), max(n - 3, 0)
    if not degrees or not np.isfinite([first, second, between]).all() or 1 - between < _PERFECT:
        return Williams(nan, degrees, nan, nan)
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    variance = 2 * (n - 1) / degrees * max(determinant, 0) + ((first + second) / 2) ** 2 * (1 - between) ** 3
    error = float(np.sqrt(variance / ((n - 1) * (1 + between)))) if between > -1 else nan
    t = (first - second) / error if error else nan
    return Williams(t, degrees, float(stats.t.sf(t, degrees)), error)


_OF_MEANS = {"lcc": lcc, "srcc": srcc, "krcc": krcc, "rmse": rmse, "mae": mae, "bias": bias, "spread": spread}

_AS_NORMAL: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "lcc": (lambda r: r, lambda r: r),
    "srcc": (lambda rho: 2 * np.sin(np.pi * rho / 6), lambda r: 6 / np.pi * np.arcsin(r / 2)),
    "krcc": (lambda tau: np.sin(np.pi * tau / 2), lambda r: 2 / np.pi * np.arcsin(r)),
}
"""Each correlation as Pearson's under a bivariate normal distribution, and back."""


@dataclass(frozen=True)
class _Pairs:
    """What the metrics need of each photo, [..., n]: both mean scores, their places, the distance between the votes."""

    truth: Array
    predicted: Array
    distance: Array
    truth_place: npt.NDArray[np.integer]
    predicted_place: npt.NDArray[np.integer]

    @classmethod
    def of(cls, truth: Array, predicted: Array) -> "_Pairs":
        if np.shape(truth) != np.shape(predicted):
            raise ValueError(
                f"true and predicted votes must be of the same photos, got {np.shape(truth)} and {np.shape(predicted)}"
            )
        means = mean_scores(truth), mean_scores(predicted)
        return cls(*means, distances(truth, predicted), *(np.unique(each, return_inverse=True)[1] for each in means))

    def take(self, index: npt.NDArray[np.integer]) -> "_Pairs":
        return _Pairs(*(each[index] for each in vars(self).values()))

    def measure(self, name: str, threshold: float) -> Array:
        if self.truth.shape[-1] == 0:
            return np.full(self.truth.shape[:-1], np.nan)
        if name == "emd":
            return self.distance.mean(axis=-1)
        if name == "srcc":
            varied = _varies(self.truth) & _varies(self.predicted)
            return np.where(varied, lcc(_ranks(self.truth_place), _ranks(self.predicted_place)), np.nan)
        if name == "accuracy":
            return accuracy(self.truth, self.predicted, threshold)
        return _OF_MEANS[name](self.truth, self.predicted)


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


def _ranks(places: npt.NDArray[np.integer]) -> Array:
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
    whole = _stepped_up(split_half)
    return Reliability(split_half, whole, whole**0.5, round(float(np.mean(photos))), splits)


def _stepped_up(split_half: float) -> float:
    """The reliability of means by all raters from the correlation of halves (Spearman 1910, Brown 1910).

    Halves that disagree say that the means hold nothing in common: no reliability, and not an imaginary ceiling.
    """
    return max(0.0, 2 * split_half / (1 + split_half)) if split_half > -1 else 0.0


def _whole(counts: npt.ArrayLike) -> npt.NDArray[np.integer]:
    """Counts [n, 10] as whole numbers, or a ValueError."""
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or counts.shape[1] != len(SCORES) or not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError(f"expected counts [n, 10], finite and at least 0, got an array of shape {counts.shape}")
    return np.rint(counts).astype(np.int64)


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Ranks of values [n] that are taken ``weights`` [..., n] times, ties by their mean, less the mean rank."""
    different, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(different)))
    taken = np.add.reduceat(weights[..., order], starts, axis=-1)
    ranks = np.cumsum(taken, axis=-1) - taken / 2
    return ranks[..., place] - weights.sum(axis=-1, keepdims=True) / 2
