"""The scale on which people gave their scores, and the scale 1 to 10 that the scorer learns.

The rule: a score s on a scale from a to b counts as 1 + 9 (s - a) / (b - a). So a and b become 1 and 10, order is
kept, a mean m becomes 1 + 9 (m - a) / (b - a) and a standard deviation d becomes 9 d / (b - a). A score that falls
between two whole ones is shared between these in proportion to its nearness, which keeps its mean: on the scale 1-5 a
vote for 2 is .75 of a vote for 3 and .25 of one for 4.
"""

from dataclasses import dataclass

import numpy as np

from components.scorer.parameters import scale_limits
from components.scorer.settings import SCORES

ENOUGH = 20
"""Fewer scores than this tell nothing of their scale: that of 1 to 10 is taken."""

_MANY = 100  # whole scores: of so many on the scale 1-10, some lie above 7
_STRAY = 0.01  # share of scores at either end that may be slips of the pen


@dataclass(frozen=True)
class Scale:
    """The scores from `low` to `high`, both possible."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}"

    @property
    def width(self) -> float:
        """Score points between both ends."""
        return self.high - self.low

    def has(self, scores: np.ndarray) -> np.ndarray:
        """Which scores lie on the scale, bool; NaN does not."""
        return (scores >= self.low) & (scores <= self.high)

    def to_ten(self, scores: np.ndarray) -> np.ndarray:
        """Scores of this scale as scores from 1 to 10, float."""
        if self == TEN:
            return np.asarray(scores, float)
        steps = (SCORES[-1] - SCORES[0]) * (np.asarray(scores, float) - self.low) / self.width
        return np.clip(SCORES[0] + steps, SCORES[0], SCORES[-1])

    @property
    def rule(self) -> str:
        """How scores are brought to the scale 1-10, as a formula; empty for the scale 1-10 itself."""
        if self == TEN:
            return ""
        start = f"s - {self.low:g}" if self.low > 0 else f"s + {-self.low:g}" if self.low else "s"
        return f"1 + 9 ({start}) / {self.width:g}" if self.low else f"1 + 9 s / {self.width:g}"


TEN = Scale(SCORES[0], SCORES[-1])


def scale_of(scores: np.ndarray, rating_scale: str, single: bool, where: str) -> tuple[Scale, list[str]]:
    """The scale of scores, as it is set or as the scores tell it.

    Args:
        scores: float [n], finite.
        rating_scale: the setting.
        single: whether each is one person's score, and no mean.
        where: the file, for the error.

    Returns:
        The scale, and what to say of it in the report.

    Raises:
        ValueError: the scores lie on no usual scale.
    """
    reach = f"{scores.min():g} to {scores.max():g}" if len(scores) else "nothing"
    limits = scale_limits(rating_scale)
    scale = Scale(*limits) if limits else recognised(scores, single)
    if scale is None:
        raise ValueError(
            f"{where}: expected {'scores' if single else 'means'} on a usual scale (1-5, 1-7, 1-10, 0-10, 0-100), got "
            f"numbers from {reach}; set rating_scale to the lowest and the highest score that people could give, such "
            "as 0-20"
        )
    how = "as rating_scale says" if limits else "which is what they look like; set rating_scale if it was another"
    rule = f" A score s counts as {scale.rule} of 1-10." if scale.rule else ""
    what = "scores" if single else "means"
    return scale, [f"The {what} reach from {reach} and are read on the scale {scale}, {how}.{rule}"]


def recognised(scores: np.ndarray, single: bool) -> Scale | None:
    """The usual scale that scores look as if they were given on; None where they look like none.

    A hundredth of them at either end may be slips. The lowest usual scale that holds the others is taken, but whole
    scores up to 7 may only be few scores of 1-10, and so may means: a mean is rarely near the end of its scale.

    Args:
        scores: float [n], finite.
        single: whether each is one person's score, and no mean.
    """
    if len(scores) < ENOUGH:
        return TEN
    ordered = np.sort(scores)
    strays = int(_STRAY * len(ordered))
    low, high, middle = ordered[strays], ordered[-1 - strays], ordered[len(ordered) // 2]
    whole = bool((scores % 1 == 0).all())
    if 0 <= low < 1 and high <= 1:
        return Scale(0, 1)
    if low >= 0 and high <= 5:
        return Scale(int(low >= 1), 5)
    if single and whole and len(scores) >= _MANY and low >= 1 and high <= 7:
        return Scale(1, 7)
    if low >= 0 and high <= SCORES[-1]:
        return Scale(int(low >= 1), SCORES[-1])
    if low >= 0 and middle > SCORES[-1] and 50 < high <= 100:
        return Scale(0, 100)
    return TEN if TEN.has(scores).mean() > 0.5 else None
