"""How well raters agree with each other, and how well a scorer can agree with them at most.

Source: reliability after Spearman (1910) and Brown (1910).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.scorer.metrics import regression
from components.scorer.metrics.regression import OF_MEANS, Array
from components.scorer.settings import SCORES


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
        return regression.mean_scores(half), regression.mean_scores(votes - half)

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
        one, other = regression.mean_scores(half), regression.mean_scores(votes - half)
        both = np.isfinite(one) & np.isfinite(other)
        if both.sum() >= 3:
            halves.append(tuple(float(OF_MEANS[name](one[both], other[both])) for name in _AS_NORMAL))
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
        found.append(tuple(float(OF_MEANS[name](rest, one.astype(float))) for name in _AS_NORMAL))
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


_AS_NORMAL: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "lcc": (lambda r: r, lambda r: r),
    "srcc": (lambda rho: 2 * np.sin(np.pi * rho / 6), lambda r: 6 / np.pi * np.arcsin(r / 2)),
    "krcc": (lambda tau: np.sin(np.pi * tau / 2), lambda r: 2 / np.pi * np.arcsin(r)),
}
"""Each correlation as Pearson's under a bivariate normal distribution, and back."""


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
        correlations.append(float(regression.lcc(one[both], other[both])) if both.sum() >= 3 else np.nan)
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
