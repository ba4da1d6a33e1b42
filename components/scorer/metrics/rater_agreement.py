"""Reliability of raters, and the ceiling that the raters' noise sets for any scorer's correlations.

Source: split-half reliability by Spearman (1910) and Brown (1910).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.scorer.metrics import regression
from components.scorer.metrics.regression import MEAN_SCORE_METRICS, Array
from components.scorer.settings import SCORES


@dataclass(frozen=True)
class RaterReliability:
    """Split-half reliability of the raters' mean scores, and the ceiling that it sets for any scorer's LCC."""

    split_half: float
    """Pearson correlation of photos' means between two random halves of the raters, averaged over the splits."""
    spearman_brown: float
    """Reliability of the means of all raters, 2r / (1 + r) of `split_half` (Spearman 1910, Brown 1910)."""
    ceiling: float
    """Highest LCC of a perfect scorer with the observed means: the square root of `spearman_brown`."""
    photos: int
    """Number of photos with a rater in both halves, averaged over the splits."""
    splits: int
    """Number of random splits."""


def reliability_of_ratings(
    photos: npt.ArrayLike, raters: npt.ArrayLike, scores: npt.ArrayLike, *, splits: int = 100, seed: int = 1
) -> RaterReliability | None:
    """Return the reliability of single ratings by splitting the raters at random, each with all of their ratings.

    Splitting the raters instead of each photo's ratings keeps a harsh rater on one side. Raters' habits therefore
    count as noise.

    Args:
        photos: [m], label of the rated photo.
        raters: [m], label of the rater.
        scores: float [m], from 1 to 10.
        splits: Number of random splits to average over.
        seed: Seed of the splits.

    Returns:
        The reliability; None if fewer than three photos have two raters, or the halves' means do not vary.

    Raises:
        ValueError: The three arrays differ in length.
    """
    photo, rater, score = np.asarray(photos), np.asarray(raters), np.asarray(scores, float)
    if not len(photo) == len(rater) == len(score):
        raise ValueError(
            f"expected a photo, a rater and a score a rating, got {len(photo)}, {len(rater)} and {len(score)} of them"
        )
    photo, rater = (
        np.unique(photo, return_inverse=True)[1],
        np.unique(rater, return_inverse=True)[1],
    )
    size, rng = photo.max(initial=-1) + 1, np.random.default_rng(seed)

    def random_half_means() -> tuple[Array, Array]:
        in_first_half = (rng.permutation(rater.max(initial=-1) + 1) % 2 == 0)[rater]
        first, second = (_group_means(photo[mask], score[mask], size) for mask in (in_first_half, ~in_first_half))
        return first, second

    return _average_over_splits(random_half_means, splits)


def reliability_of_counts(counts: npt.ArrayLike, *, splits: int = 100, seed: int = 1) -> RaterReliability | None:
    """Return the reliability of vote counts by splitting each photo's votes into random halves.

    A random half of ten counts follows the multivariate hypergeometric distribution.

    Args:
        counts: [n, 10], number of raters that gave a photo each score. Counts from shares of votes are rounded.
        splits: Number of random splits to average over.
        seed: Seed of the splits.

    Returns:
        The reliability; None if fewer than three photos have two votes, or the halves' means do not vary.

    Raises:
        ValueError: ``counts`` is not [n, 10], or has negative or non-finite values.
    """
    votes, rng = _integer_counts(counts), np.random.default_rng(seed)

    def half_means() -> tuple[Array, Array]:
        half = _random_half(votes, rng)
        return regression.mean_scores(half), regression.mean_scores(votes - half)

    return _average_over_splits(half_means, splits)


def correlation_ceilings(counts: npt.ArrayLike, *, splits: int = 100, seed: int = 1) -> dict[str, float] | None:
    """Return the LCC, SRCC and KRCC of a perfect scorer, which knows each photo's true mean, with the observed means.

    The observed means carry the sampling noise of their raters. The ceiling of LCC is the square root of the means'
    reliability. Rank correlations have no such law. Each rank correlation between random halves of the raters is
    therefore converted to the Pearson correlation of a bivariate normal distribution. That correlation is corrected
    by Spearman and Brown's formula, its square root is taken, and the result is converted back. The conversions are
    ``r = sin(π τ / 2)`` (Greiner 1909) and ``r = 2 sin(π ρ / 6)`` (Pearson 1907; both in Kruskal, "Ordinal measures of
    association", 1958). They are approximate for means that are not normal.

    Args:
        counts: [n, 10], number of raters that gave a photo each score.
        splits: Number of random splits to average over.
        seed: Seed of the splits.

    Returns:
        Floats from 0 to 1 by ``lcc``, ``srcc`` and ``krcc``; None if fewer than three photos have two votes, or the
        halves' means do not vary.

    Raises:
        ValueError: ``counts`` is not [n, 10], or has negative or non-finite values.
    """
    votes, rng = _integer_counts(counts), np.random.default_rng(seed)
    correlations: list[tuple[float, ...]] = []
    for _ in range(splits):
        half = _random_half(votes, rng)
        first_means, second_means = regression.mean_scores(half), regression.mean_scores(votes - half)
        is_valid = np.isfinite(first_means) & np.isfinite(second_means)
        if is_valid.sum() >= 3:
            correlations.append(
                tuple(
                    float(MEAN_SCORE_METRICS[name](first_means[is_valid], second_means[is_valid]))
                    for name in _PEARSON_CONVERSIONS
                )
            )
    if not np.isfinite(correlations).any():
        return None
    average = dict(zip(_PEARSON_CONVERSIONS, np.nanmean(correlations, axis=0).tolist(), strict=True))
    return {
        name: float(from_pearson(_spearman_brown(to_pearson(average[name])) ** 0.5))
        for name, (to_pearson, from_pearson) in _PEARSON_CONVERSIONS.items()
    }


def one_against_rest(counts: npt.ArrayLike, *, draws: int = 100, seed: int = 1) -> dict[str, float] | None:
    """Return the correlations of one random rater of each photo with the mean of the photo's other raters.

    The rater is drawn for each photo anew. Differences in the raters' severity therefore count as noise.

    Args:
        counts: [n, 10], number of raters that gave a photo each score.
        draws: Number of random draws to average over.
        seed: Seed of the draws.

    Returns:
        Floats by ``lcc``, ``srcc`` and ``krcc``; None if fewer than three photos have two votes, or the scores do not
        vary.

    Raises:
        ValueError: ``counts`` is not [n, 10], or has negative or non-finite values.
    """
    votes, rng = _integer_counts(counts), np.random.default_rng(seed)
    votes = votes[votes.sum(axis=1) >= 2]
    if len(votes) < 3:
        return None
    scores, raters, total = np.asarray(SCORES), votes.sum(axis=1), votes @ np.asarray(SCORES)
    correlations: list[tuple[float, ...]] = []
    for _ in range(draws):
        picked = rng.integers(raters)[:, None] >= np.cumsum(votes, axis=1)
        drawn_scores = scores[picked.sum(axis=1)]
        rest_means = (total - drawn_scores) / (raters - 1)
        correlations.append(
            tuple(
                float(MEAN_SCORE_METRICS[name](rest_means, drawn_scores.astype(float))) for name in _PEARSON_CONVERSIONS
            )
        )
    if not np.isfinite(correlations).any():
        return None
    return dict(zip(_PEARSON_CONVERSIONS, np.nanmean(correlations, axis=0).tolist(), strict=True))


def median_rater_count(raters: npt.ArrayLike) -> float:
    """Return the median of the known numbers of raters, an estimate for photos with an unknown number.

    Args:
        raters: int [n], number of raters of each photo; 0 means unknown.

    Returns:
        Median, at least 1; 1 if every number is unknown.
    """
    known_counts = np.asarray(raters)[np.asarray(raters) > 0]
    return float(np.median(known_counts)) if len(known_counts) else 1.0


_PEARSON_CONVERSIONS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "lcc": (lambda r: r, lambda r: r),
    "srcc": (lambda rho: 2 * np.sin(np.pi * rho / 6), lambda r: 6 / np.pi * np.arcsin(r / 2)),
    "krcc": (lambda tau: np.sin(np.pi * tau / 2), lambda r: 2 / np.pi * np.arcsin(r)),
}
"""Conversion of each correlation to Pearson's under a bivariate normal distribution, and back."""


def _group_means(group: npt.NDArray[np.integer], score: Array, size: int) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(group, score, size) / np.bincount(group, minlength=size)


def _random_half(votes: npt.NDArray[np.integer], rng: np.random.Generator) -> npt.NDArray[np.integer]:
    """Draw half of each photo's votes, score by score; an odd vote goes to a random half."""
    remaining = votes.sum(axis=1)
    n_to_draw = (remaining + rng.integers(2, size=len(remaining))) // 2
    half = np.zeros_like(votes)
    for score in range(votes.shape[1]):
        remaining = remaining - votes[:, score]
        half[:, score] = rng.hypergeometric(votes[:, score], remaining, n_to_draw)
        n_to_draw = n_to_draw - half[:, score]
    return half


def _average_over_splits(random_half_means: Callable[[], tuple[Array, Array]], splits: int) -> RaterReliability | None:
    """Return the average over random splits; each split uses the photos with a mean in both halves."""
    correlations, photo_counts = [], []
    for _ in range(splits):
        first_means, second_means = random_half_means()
        is_valid = np.isfinite(first_means) & np.isfinite(second_means)
        correlations.append(
            float(regression.lcc(first_means[is_valid], second_means[is_valid])) if is_valid.sum() >= 3 else np.nan
        )
        photo_counts.append(is_valid.sum())
    if not np.isfinite(correlations).any():
        return None
    split_half = float(np.nanmean(correlations))
    full = _spearman_brown(split_half)
    return RaterReliability(split_half, full, full**0.5, round(float(np.mean(photo_counts))), splits)


def _spearman_brown(split_half: float) -> float:
    """Return the reliability of all raters' means from the correlation of halves (Spearman 1910, Brown 1910).

    A negative correlation gives the reliability 0, so that the ceiling, its square root, is real.
    """
    return max(0.0, 2 * split_half / (1 + split_half)) if split_half > -1 else 0.0


def _integer_counts(counts: npt.ArrayLike) -> npt.NDArray[np.integer]:
    """Return counts [n, 10] rounded to integers; raise ValueError for another shape or invalid values."""
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or counts.shape[1] != len(SCORES) or not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError(f"expected counts [n, 10], finite and at least 0, got an array of shape {counts.shape}")
    return np.rint(counts).astype(np.int64)
