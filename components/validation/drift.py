"""How far a data set has moved from the champion's: the size of the shift, and not only whether it is chance.

With many photos any shift is beyond chance, however small, so the gates judge sizes: score points for labels, standard
deviations for the looks of photos. Whether chance explains a shift is shown beside them.
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
    """Of one quantity, from some photos to others; all NaN where either has none.

    Attributes:
        before, after: mean, as the quantity is kept.
        size: difference of the means in standard deviations, pooled of both (Cohen, "Statistical power analysis for
            the behavioral sciences", 1988, section 2.2, d); above 0 there is more of it now.
        distance: Wasserstein distance of the two distributions in units of the quantity, from their histograms.
        p: chance that two samples of one distribution differ as much (Kolmogorov and Smirnov, large samples). The
            histograms show at most the true difference, and photos in both samples make them alike: it is rather
            too large than too small.
    """

    before: float
    after: float
    size: float
    distance: float
    p: float


def shift(quantity: Quantity, before: Distribution, after: Distribution) -> Shift:
    """From one distribution of a quantity to another."""
    if not (before.count and after.count):
        return Shift(before.mean, after.mean, *[math.nan] * 3)
    total = before.count + after.count
    pooled = math.sqrt((before.count * before.deviation**2 + after.count * after.deviation**2) / total)
    cumulated = [np.cumsum(each.histogram) / each.count for each in (before, after)]
    apart = np.abs(cumulated[0] - cumulated[1])
    return Shift(
        before=before.mean,
        after=after.mean,
        size=(after.mean - before.mean) / max(pooled, quantity.least),
        distance=float(apart.sum() * (quantity.high - quantity.low) / quantity.bins),
        p=float(kolmogorov(math.sqrt(before.count * after.count / total) * apart.max())),
    )


@dataclass(frozen=True)
class Drift:
    """From some photos to others.

    Attributes:
        before, after: what they are, in words.
        photos: how many they are.
        shifts: by the quantity's name.
    """

    before: str
    after: str
    photos: tuple[int, int]
    shifts: Mapping[str, Shift]

    @property
    def score(self) -> Shift:
        """Of the mean scores."""
        return self.shifts[SCORE.name]

    @property
    def largest(self) -> tuple[Quantity, Shift] | None:
        """The look that has moved most; None where none could be compared."""
        looks = [(each, self.shifts[each.name]) for each in APPEARANCE]
        looks = [(each, moved) for each, moved in looks if math.isfinite(moved.size)]
        return max(looks, key=lambda look: abs(look[1].size), default=None)


def drift(before: Part, after: Part, names: tuple[str, str]) -> Drift:
    """From one part of a data set to another, or to that of another data set."""
    shifts = {
        each.name: shift(each, before.spread[each.name], after.spread[each.name]) for each in (SCORE, *APPEARANCE)
    }
    return Drift(*names, (before.photos, after.photos), shifts)
