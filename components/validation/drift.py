"""Drift of a data set from the champion's: effect sizes, with p-values beside them.

With many photos even a tiny shift is significant. Gates therefore judge effect sizes: score points for labels, standard
deviations for the photos' appearance. The p-value is shown beside them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import kolmogorov

from components.validation.statistics.data_statistics import FeatureHistogram, SplitStatistics
from components.validation.statistics.measured_features import APPEARANCE, SCORE, MeasuredFeature


@dataclass(frozen=True)
class FeatureShift:
    """Shift of one feature between two sets of photos; all NaN if either set is empty.

    Attributes:
        before: Mean before, in stored units.
        after: Mean after, in stored units.
        cohens_d: Cohen's d, the difference of means over the pooled standard deviation; above 0 if the mean rose
            (Cohen, "Statistical power analysis for the behavioral sciences", 1988, section 2.2).
        wasserstein: Wasserstein distance of the two histograms, in the feature's stored units.
        p_value: Asymptotic p-value of the two-sample Kolmogorov-Smirnov test. It is conservative: histograms can only
            understate the difference, and photos in both samples make them alike.
    """

    before: float
    after: float
    cohens_d: float
    wasserstein: float
    p_value: float


def measure_shift(feature: MeasuredFeature, before: FeatureHistogram, after: FeatureHistogram) -> FeatureShift:
    """Measure the shift of a feature from one distribution to another."""
    if not (before.count and after.count):
        return FeatureShift(before.mean, after.mean, *[math.nan] * 3)
    total = before.count + after.count
    pooled = math.sqrt((before.count * before.deviation**2 + after.count * after.deviation**2) / total)
    cdfs = [np.cumsum(sample.histogram) / sample.count for sample in (before, after)]
    gaps = np.abs(cdfs[0] - cdfs[1])
    return FeatureShift(
        before=before.mean,
        after=after.mean,
        cohens_d=(after.mean - before.mean) / max(pooled, feature.min_deviation),
        wasserstein=float(gaps.sum() * (feature.high - feature.low) / feature.bins),
        p_value=float(kolmogorov(math.sqrt(before.count * after.count / total) * gaps.max())),
    )


@dataclass(frozen=True)
class DriftReport:
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
    shifts: Mapping[str, FeatureShift]

    @property
    def score_shift(self) -> FeatureShift:
        """Shift of the mean scores."""
        return self.shifts[SCORE.name]

    @property
    def largest_shift(self) -> tuple[MeasuredFeature, FeatureShift] | None:
        """Appearance feature with the largest effect size, and its shift; None if no feature could be compared."""
        shifts = [(feature, self.shifts[feature.name]) for feature in APPEARANCE]
        shifts = [(feature, shift) for feature, shift in shifts if math.isfinite(shift.cohens_d)]
        return max(shifts, key=lambda item: abs(item[1].cohens_d), default=None)


def measure_drift(before: SplitStatistics, after: SplitStatistics, names: tuple[str, str]) -> DriftReport:
    """Compare two sets of photos, of one data set or of two."""
    shifts = {
        feature.name: measure_shift(feature, before.spread[feature.name], after.spread[feature.name])
        for feature in (SCORE, *APPEARANCE)
    }
    return DriftReport(*names, (before.photos, after.photos), shifts)
