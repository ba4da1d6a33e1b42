"""Williams' test of the difference of two correlations that share a variable."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

_PERFECT_MARGIN = 1e-12  # distance from 1 below which a correlation is perfect but for rounding


@dataclass(frozen=True)
class WilliamsTest:
    """Result of Williams' test of two correlations that share a variable; NaN where undefined."""

    t: float
    """Test statistic; positive if the first correlation is larger."""
    degrees: int
    """Degrees of freedom of Student's t."""
    p: float
    """One-sided p-value: probability of a t at least as large if the two correlations are equal."""
    error: float
    """Standard error of the difference if the two correlations are equal: the difference divided by ``t``."""


def williams_test(first: float, second: float, between: float, n: int) -> WilliamsTest:
    """Test by Williams' test if two scorers correlate differently with people on the same photos.

    Two correlations on the same photos are dependent, and more so the more similar the scorers are. Tests of
    independent correlations ignore this. The test is that of Williams ("The comparison of regression variables",
    1959) in the form that Steiger recommends ("Tests for comparing elements of a correlation matrix", 1980,
    equation 7). The test assumes independent photos and normal variables; for Spearman's correlations it is an
    approximation.

    Args:
        first: Correlation of the first scorer with people, from -1 to 1.
        second: Correlation of the second scorer with people, from -1 to 1.
        between: Correlation of the two scorers with each other, from -1 to 1.
        n: Number of photos.

    Returns:
        The test's result. All values but the degrees of freedom are NaN for fewer than four photos, and for two
        scorers that differ by scale only.
    """
    nan, degrees = float("nan"), max(n - 3, 0)
    if not degrees or not np.isfinite([first, second, between]).all() or 1 - between < _PERFECT_MARGIN:
        return WilliamsTest(nan, degrees, nan, nan)
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    variance = 2 * (n - 1) / degrees * max(determinant, 0) + ((first + second) / 2) ** 2 * (1 - between) ** 3
    error = float(np.sqrt(variance / ((n - 1) * (1 + between)))) if between > -1 else nan
    t = (first - second) / error if error else nan
    return WilliamsTest(t, degrees, float(stats.t.sf(t, degrees)), error)
