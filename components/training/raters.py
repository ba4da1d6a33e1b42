"""How surely each photo's mean score is known, by how many people rated it."""

import numpy as np

from components.scorer.settings import SCORES


def noise_of(votes: np.ndarray, raters: np.ndarray) -> float | None:
    """How many raters make a photo's mean half truth, half noise: variance within photos over that of true means.

    Both by analysis of variance in one way, photos at random (Searle, Casella and McCulloch, "Variance Components",
    1992, section 3.6).

    Args:
        votes: of people, ``[n, 10]``, each row summing to 1.
        raters: of each photo, ``[n]``, from 1; photos with one tell nothing of the variance within.

    Returns:
        A number from 0; None where no photo has two raters.
    """
    several = raters > 1
    if not several.any():
        return None
    means = votes @ np.array(SCORES)
    variances = votes @ np.array(SCORES) ** 2 - means**2
    within = float((variances * raters)[several].sum() / (raters - 1)[several].sum())
    between = float(means.var() - (within / raters).mean())
    return within / max(between, 1e-6)


def reliabilities(votes: np.ndarray, raters: np.ndarray) -> np.ndarray:
    """What a photo of n raters counts: ``n / (n + k)``, the reliability of its mean, with k by `noise_of`.

    Args:
        votes: of people, ``[n, 10]``, each row summing to 1.
        raters: of each photo, ``[n]``, from 1.

    Returns:
        Shares of 1, ``[n]``; all 1 where nothing tells the noise.
    """
    noise = noise_of(votes, raters)
    return np.ones(len(votes)) if noise is None else raters / (raters + noise)
