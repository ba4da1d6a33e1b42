"""Drift of a data set from the champion's: effect sizes, with p-values beside them.

With many photos even a tiny shift is significant. Gates therefore judge effect sizes: score points for labels, standard
deviations for the photos' appearance. The p-value is shown beside them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import kolmogorov

from components.validation.statistics.data_statistics import Distribution, Part
from components.validation.statistics.measured_features import APPEARANCE, SCORE, Quantity


@dataclass(frozen=True)
class Shift:
    """Shift of one feature between two sets of photos; all NaN if either set is empty.

    Attributes:
        before: Mean before, in stored units.
        after: Mean after, in stored units.
        size: Cohen's d, the difference of means over the pooled standard deviation; above 0 if the mean rose (Cohen,
            "Statistical power analysis for the behavioral sciences", 1988, section 2.2).
        distance: Wasserstein distance of the two histograms, in the feature's stored units.
        p: Asymptotic p-value of the two-sample Kolmogorov-Smirnov test. It is conservative: histograms can only
            understate the difference, and photos in both samples make them alike.
    """

    before: float
    after: float
    size: float
    distance: float
    p: float


def shift(quantity: Quantity, before: Distribution, after: Distribution) -> Shift:
    """Measure the shift of a feature from one distribution to another."""
    if not (before.count and after.count):
        return Shift(before.mean, after.mean, *[math.nan] * 3)
    total = before.count + after.count
    pooled = math.sqrt((before.count * before.deviation**2 + after.count * after.deviation**2) / total)
    cdfs = [np.cumsum(sample.histogram) / sample.count for sample in (before, after)]
    gaps = np.abs(cdfs[0] - cdfs[1])
    return Shift(
        before=before.mean,
        after=after.mean,
        size=(after.mean - before.mean) / max(pooled, quantity.least),
        distance=float(gaps.sum() * (quantity.high - quantity.low) / quantity.bins),
        p=float(kolmogorov(math.sqrt(before.count * after.count / total) * gaps.max())),
    )


@dataclass(frozen=True)
class Drift:
    """Shifts of all features between two sets of photos.

    Attributes:
        before: Name of the first set, in words.
        after: Name of the second set, in words.
        photos: Number of photos in each set.
        shifts: Shift by feature name.
    """

    before: str
    after: str
    photos: tuple[int, int]
    shifts: Mapping[str, Shift]

    @property
    def score(self) -> Shift:
        """Shift of the mean scores."""
        return self.shifts[SCORE.name]

    @property
    def largest(self) -> tuple[Quantity, Shift] | None:
        """Appearance feature with the largest effect size, and its shift; None if no feature could be compared."""
        shifts = [(feature, self.shifts[feature.name]) for feature in APPEARANCE]
        shifts = [(feature, shift) for feature, shift in shifts if math.isfinite(shift.size)]
        return max(shifts, key=lambda item: abs(item[1].size), default=None)


def drift(before: Part, after: Part, names: tuple[str, str]) -> Drift:
    """Compare two sets of photos, of one data set or of two."""
    shifts = {
        feature.name: shift(feature, before.spread[feature.name], after.spread[feature.name])
        for feature in (SCORE, *APPEARANCE)
    }
    return Drift(*names, (before.photos, after.photos), shifts)
