"""Williams' test of two correlations that share a variable."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

_PERFECT = 1e-12  # below 1: correlations closer to it are perfect but for rounding


@dataclass(frozen=True)
class Williams:
    """Williams' test of one correlation against another that shares a variable with it; NaN where undefined."""

    t: float
    """Positive where the first correlation is the larger."""
    degrees: int
    """Of freedom of Student's t."""
    p: float
    """One-sided: the chance of such a t or a larger one, were the two correlations equal."""
    error: float
    """The standard error of their difference, were they equal: the difference over ``t``."""


def williams(first: float, second: float, between: float, n: int) -> Williams:
    """Whether two scorers that were tried on the same photos correlate differently with people.

    Two correlations on the same photos are dependent, the more so the more alike the scorers are, which tests of
    independent correlations pass over. The test is Williams' ("The comparison of regression variables", 1959) in the
    form that Steiger recommends ("Tests for comparing elements of a correlation matrix", 1980, equation 7). It
    assumes independent photos and normal variables; with Spearman's correlations it is an approximation.

    Args:
        first: correlation of one scorer with people, from -1 to 1.
        second: correlation of the other.
        between: correlation of the two scorers with each other.
        n: photos.

    Returns:
        NaN (but for the degrees) for fewer than four photos, or two scorers that are alike but for scale.
    """
    nan, degrees = float("nan"), max(n - 3, 0)
    if not degrees or not np.isfinite([first, second, between]).all() or 1 - between < _PERFECT:
        return Williams(nan, degrees, nan, nan)
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    variance = 2 * (n - 1) / degrees * max(determinant, 0) + ((first + second) / 2) ** 2 * (1 - between) ** 3
    error = float(np.sqrt(variance / ((n - 1) * (1 + between)))) if between > -1 else nan
    t = (first - second) / error if error else nan
    return Williams(t, degrees, float(stats.t.sf(t, degrees)), error)
