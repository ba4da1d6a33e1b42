"""Rating scales, and the conversion of scores to the scale 1 to 10 that the scorer learns.

A score s on a scale from a to b becomes 1 + 9 (s - a) / (b - a). So a becomes 1, b becomes 10, and order is kept. A
mean m becomes 1 + 9 (m - a) / (b - a). A standard deviation d becomes 9 d / (b - a).

A converted score between two whole scores is split between them by linear interpolation, which keeps its mean. On the
scale 1-5, a vote for 2 becomes .75 of a vote for 3 and .25 of a vote for 4.
"""

from dataclasses import dataclass

import numpy as np

from components.scorer.parameters import scale_limits
from components.scorer.settings import SCORES

MIN_SCORES = 20
"""Minimum number of scores from which the scale is detected. With fewer scores, 1 to 10 is assumed."""

_MIN_WHOLE_SCORES = 100  # number of whole scores; among so many on the scale 1-10, some lie above 7
_OUTLIER_SHARE = 0.01  # share of scores at either end that may be outliers


@dataclass(frozen=True)
class Scale:
    """A rating scale from `low` to `high`, both included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}"

    @property
    def width(self) -> float:
        """Difference between `high` and `low`, in score points."""
        return self.high - self.low

    def contains(self, scores: np.ndarray) -> np.ndarray:
        """Return which scores lie on the scale, bool. NaN does not."""
        return (scores >= self.low) & (scores <= self.high)

    def to_ten(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores of this scale to the scale 1 to 10, float."""
        if self == SCALE_1_TO_10:
            return np.asarray(scores, float)
        steps = (SCORES[-1] - SCORES[0]) * (np.asarray(scores, float) - self.low) / self.width
        return np.clip(SCORES[0] + steps, SCORES[0], SCORES[-1])

    @property
    def formula(self) -> str:
        """Formula that converts a score s to the scale 1-10. Empty for the scale 1-10 itself."""
        if self == SCALE_1_TO_10:
            return ""
        start = f"s - {self.low:g}" if self.low > 0 else f"s + {-self.low:g}" if self.low else "s"
        return f"1 + 9 ({start}) / {self.width:g}" if self.low else f"1 + 9 s / {self.width:g}"


SCALE_1_TO_10 = Scale(SCORES[0], SCORES[-1])


def find_scale(scores: np.ndarray, rating_scale: str, individual: bool, uri: str) -> tuple[Scale, list[str]]:
    """Return the scale that the setting names or, on auto, the scale detected from the scores.

    Args:
        scores: Finite scores, float [n].
        rating_scale: Setting ``rating_scale``.
        individual: True if each score is one person's, False if each is a mean.
        uri: Address of the file, for the error.

    Returns:
        The scale, and sentences about it for the report.

    Raises:
        ValueError: The scores fit no usual scale.
    """
    span = f"{scores.min():g} to {scores.max():g}" if len(scores) else "nothing"
    limits = scale_limits(rating_scale)
    scale = Scale(*limits) if limits else recognise_scale(scores, individual)
    if scale is None:
        raise ValueError(
            f"{uri}: expected {'scores' if individual else 'means'} on a usual scale (1-5, 1-7, 1-10, 0-10, 0-100), "
            f"got numbers from {span}; set rating_scale to the lowest and the highest score that people could give, "
            "such as 0-20"
        )
    origin = "as rating_scale says" if limits else "which is what they look like; set rating_scale if it was another"
    rule = f" A score s counts as {scale.formula} of 1-10." if scale.formula else ""
    kind = "scores" if individual else "means"
    return scale, [f"The {kind} reach from {span} and are read on the scale {scale}, {origin}.{rule}"]


def recognise_scale(scores: np.ndarray, individual: bool) -> Scale | None:
    """Detect the usual scale of scores. Return None if the scores fit no usual scale.

    One per cent of the scores at either end may be outliers. The lowest usual scale that contains all other scores is
    taken. There are two exceptions. Whole scores up to 7 may be a small sample of 1-10. Means may be too, as a mean is
    rarely near the end of its scale.

    Args:
        scores: Finite scores, float [n].
        individual: True if each score is one person's, False if each is a mean.
    """
    if len(scores) < MIN_SCORES:
        return SCALE_1_TO_10
    ordered = np.sort(scores)
    outliers = int(_OUTLIER_SHARE * len(ordered))
    low, high, middle = ordered[outliers], ordered[-1 - outliers], ordered[len(ordered) // 2]
    all_whole = bool((scores % 1 == 0).all())
    if 0 <= low < 1 and high <= 1:
        return Scale(0, 1)
    if low >= 0 and high <= 5:
        return Scale(int(low >= 1), 5)
    if individual and all_whole and len(scores) >= _MIN_WHOLE_SCORES and low >= 1 and high <= 7:
        return Scale(1, 7)
    if low >= 0 and high <= SCORES[-1]:
        return Scale(int(low >= 1), SCORES[-1])
    if low >= 0 and middle > SCORES[-1] and 50 < high <= 100:
        return Scale(0, 100)
    return SCALE_1_TO_10 if SCALE_1_TO_10.contains(scores).mean() > 0.5 else None
