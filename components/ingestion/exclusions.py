"""Reasons why a photo or a rating is excluded from the data set."""

from dataclasses import dataclass
from types import MappingProxyType

REASONS = MappingProxyType(
    {
        "unreadable": "The file cannot be decoded as a photo.",
        "bomb": "The photo has more pixels than the set maximum; decoding it could exhaust the memory.",
        "too small": "A side is shorter than the set minimum; a face in it cannot be judged.",
        "no rating": "The photo has no rating.",
        "no photo": "The rating names a photo that is not there.",
        "score out of range": "A score lies outside the scale of the others, or the one that was set.",
        "path outside the folder": "The path is absolute or leads out of the folder of photos.",
        "too few raters": "Fewer people rated the photo than the set minimum.",
        "bridges two splits": "The photo links near duplicates that already belong to different splits.",
        "near a rated photo": "The unlabelled photo is a near duplicate of a rated one, or its group is held out.",
    }
)
"""Each exclusion reason and its explanation for the report."""


@dataclass(frozen=True)
class Exclusion:
    """One excluded photo or rating.

    Attributes:
        photo: Photo id (its path relative to the folder of photos) or the name in the ratings file.
        reason: One of ``REASONS``.
        detail: Observed value and its location, e.g. ``"ratings.csv line 17: score 11"``; may be empty.
    """

    photo: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError if the reason is not in ``REASONS``."""
        if self.reason not in REASONS:
            raise ValueError(f"reason must be one of {sorted(REASONS)}, got {self.reason!r}")
