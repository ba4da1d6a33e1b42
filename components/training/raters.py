"""How surely each photo's mean score is known, by how many people rated it, and how training allows for that.

Of the mean of n ratings ``n / (n + k)`` is truth, its reliability, and the rest noise, with k by `noise_of`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from components.scorer.settings import SCORES, Training


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


@dataclass(frozen=True)
class Allowance:
    """How training allows for few raters.

    Attributes:
        noise: see `noise_of`; 0 where nothing tells it.
        prior: the votes of all photos together, ``[10]``.
        typical: reliability of a photo's mean, on average.
        weighting, smoothing: see ``settings.Training``.
    """

    noise: float
    prior: np.ndarray
    typical: float
    weighting: bool
    smoothing: bool

    def learnt(self, votes: Any, raters: Any) -> tuple[Any, Any]:
        """What is learnt of photos.

        Args:
            votes: of people, ``[…, 10]``, each row summing to 1; an array or a tensor.
            raters: how many they are, ``[…]``, from 1.

        Returns:
            The votes to learn, ``[…, 10]``, each row summing to 1, and what they count, ``[…]``, 1 on average.
        """
        own = raters / (raters + self.noise)
        if self.smoothing:
            votes = own[..., None] * votes + (1 - own[..., None]) * self.prior
        return votes, (own / self.typical if self.weighting else own * 0 + 1)


def allowance(votes: np.ndarray, raters: np.ndarray, settings: Training) -> Allowance:
    """How training is to allow for few raters, by the photos it learns from.

    Args:
        votes: of people, ``[n, 10]``, each row summing to 1.
        raters: of each photo, ``[n]``, from 1.
        settings: whether they are weighed and smoothed.
    """
    noise = noise_of(votes, raters) or 0.0
    typical = float((raters / (raters + noise)).mean())
    prior = votes.mean(0).astype("float32")
    return Allowance(noise, prior, typical, settings.rater_weighting, settings.rater_smoothing)
