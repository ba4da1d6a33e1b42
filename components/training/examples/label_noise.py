"""How surely each photo's mean score is known, by how many people rated it, and how training allows for that.

Of the mean of n ratings ``n / (n + k)`` is truth, its reliability, and the rest noise, with k by `noise_of`. A photo of
which n is not known counts as one that a typical number of people rated (``rater_agreement.typical_raters``).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from components.scorer.metrics.rater_agreement import typical_raters
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
        unknown: how many raters a photo counts as having where their number is not known.
        weighting, smoothing: see ``settings.Training``.
    """

    noise: float
    prior: np.ndarray
    typical: float
    unknown: float
    weighting: bool
    smoothing: bool

    def learnt(self, votes: Any, raters: Any) -> tuple[Any, Any]:
        """What is learnt of photos.

        Args:
            votes: of people, ``[…, 10]``, each row summing to 1; an array or a tensor.
            raters: how many they are, ``[…]``, 0 where unknown; an array or a tensor of floats.

        Returns:
            The votes to learn, ``[…, 10]``, each row summing to 1, and what they count, ``[…]``, 1 on average.
        """
        raters = (tf.where if tf.is_tensor(raters) else np.where)(raters > 0, raters, self.unknown)
        own = raters / (raters + self.noise)
        if self.smoothing:
            votes = own[..., None] * votes + (1 - own[..., None]) * self.prior
        return votes, (own / self.typical if self.weighting else own * 0 + 1)


def allowance(votes: np.ndarray, raters: np.ndarray, settings: Training) -> Allowance:
    """How training is to allow for few raters, by the photos it learns from.

    Args:
        votes: of people, ``[n, 10]``, each row summing to 1.
        raters: of each photo, ``[n]``, 0 where unknown.
        settings: whether they are weighed and smoothed.

    Raises:
        ValueError: the votes of a photo are no distribution, or the number of its raters is negative.
    """
    right = np.isclose(votes.sum(1), 1, atol=0.001) & (votes >= 0).all(1) & (raters >= 0)
    if not right.all():
        raise ValueError(
            f"expected votes from 0 that add up to 1, and a number of raters from 0, for each of {len(right):,} rated"
            f" photos, got others for {(~right).sum():,}: make the data set anew by ingestion"
        )
    unknown = typical_raters(raters)
    raters = np.where(raters > 0, raters, unknown)
    noise = noise_of(votes, raters) or 0.0
    typical = float((raters / (raters + noise)).mean())
    prior = votes.mean(0).astype("float32")
    return Allowance(noise, prior, typical, unknown, settings.rater_weighting, settings.rater_smoothing)
