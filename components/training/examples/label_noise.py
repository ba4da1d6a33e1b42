"""Label-noise model: how reliable each photo's mean score is, given the number of its raters.

A mean of n ratings has the reliability ``n / (n + k)``; the rest is noise. `rater_noise_ratio` estimates k. A photo
with an unknown n is treated as if a typical number of people had rated it (``rater_agreement.median_rater_count``).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from components.scorer.metrics.rater_agreement import median_rater_count
from components.scorer.settings import SCORES, Training


def rater_noise_ratio(votes: np.ndarray, raters: np.ndarray) -> float | None:
    """Return k, the variance within photos over the variance of true photo means.

    With k raters a photo's mean has a reliability of 0.5. Both variances are estimated by one-way analysis of variance
    with random photo effects (Searle, Casella and McCulloch, "Variance Components", 1992, section 3.6).

    Args:
        votes: People's votes, ``[n, 10]``, each row summing to 1.
        raters: Raters of each photo, ``[n]``, at least 1. Photos with one rater do not count in the variance within
            photos.

    Returns:
        k, at least 0; None if no photo has two raters.
    """
    has_several = raters > 1
    if not has_several.any():
        return None
    means = votes @ np.array(SCORES)
    variances = votes @ np.array(SCORES) ** 2 - means**2
    within = float((variances * raters)[has_several].sum() / (raters - 1)[has_several].sum())
    between = float(means.var() - (within / raters).mean())
    return within / max(between, 1e-6)


@dataclass(frozen=True)
class LabelNoiseModel:
    """Label-noise model of the training photos: sample weights and smoothed targets.

    Attributes:
        noise_ratio: Variance ratio k of `rater_noise_ratio`; 0 if it cannot be estimated.
        prior: Mean votes of all photos, ``[10]``.
        mean_reliability: Mean reliability of a photo's mean score.
        default_raters: Raters assumed for a photo whose number of raters is unknown.
        weighting: True to weight photos by their reliability, see ``parse_settings.Training``.
        smoothing: True to shrink votes toward `prior`, see ``parse_settings.Training``.
    """

    noise_ratio: float
    prior: np.ndarray
    mean_reliability: float
    default_raters: float
    weighting: bool
    smoothing: bool

    def targets_and_weights(self, votes: Any, raters: Any) -> tuple[Any, Any]:
        """Return the target votes and the sample weights of photos.

        Args:
            votes: People's votes, ``[…, 10]``, each row summing to 1; an array or a tensor.
            raters: Number of raters, ``[…]``, 0 if unknown; an array or a tensor of floats.

        Returns:
            Target votes, ``[…, 10]``, each row summing to 1, and sample weights, ``[…]``, 1 on average.
        """
        raters = (tf.where if tf.is_tensor(raters) else np.where)(raters > 0, raters, self.default_raters)
        reliability = raters / (raters + self.noise_ratio)
        if self.smoothing:
            votes = reliability[..., None] * votes + (1 - reliability[..., None]) * self.prior
        return votes, (reliability / self.mean_reliability if self.weighting else reliability * 0 + 1)


def fit_label_noise(votes: np.ndarray, raters: np.ndarray, settings: Training) -> LabelNoiseModel:
    """Fit the label-noise model to the training photos.

    Args:
        votes: People's votes, ``[n, 10]``, each row summing to 1.
        raters: Raters of each photo, ``[n]``, 0 if unknown.
        settings: Training settings; say whether photos are weighted and votes smoothed.

    Raises:
        ValueError: The votes of a photo are no distribution, or its number of raters is negative.
    """
    valid = np.isclose(votes.sum(1), 1, atol=0.001) & (votes >= 0).all(1) & (raters >= 0)
    if not valid.all():
        raise ValueError(
            f"expected votes from 0 that add up to 1, and a number of raters from 0, for each of {len(valid):,} rated"
            f" photos, got others for {(~valid).sum():,}: make the data set anew by ingestion"
        )
    assumed_raters = median_rater_count(raters)
    raters = np.where(raters > 0, raters, assumed_raters)
    noise = rater_noise_ratio(votes, raters) or 0.0
    typical = float((raters / (raters + noise)).mean())
    prior = votes.mean(0).astype("float32")
    return LabelNoiseModel(noise, prior, typical, assumed_raters, settings.rater_weighting, settings.rater_smoothing)
