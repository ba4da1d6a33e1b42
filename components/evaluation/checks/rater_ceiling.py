"""Ceiling of a scorer's correlations, given the agreement of people with each other."""

from dataclasses import dataclass

import numpy as np

from components.scorer.metrics import rater_agreement
from components.scorer.settings import Evaluation

_SPLITS = 100  # random splits of the raters: the average varies by less than .002 between seeds at 300 photos
_COUNT_TOLERANCE = 0.02  # tolerance of a vote count: votes are stored as float32 fractions


@dataclass(frozen=True)
class RaterCeiling:
    """Agreement of people on the test photos.

    Attributes:
        perfect: ``lcc``, ``srcc`` and ``krcc`` of a scorer that knows each photo's true mean, the mean over all people
            who might rate it. The rank correlations are approximate.
        human: ``lcc``, ``srcc`` and ``krcc`` of one human against the mean of the other raters, with a new human for
            each photo. The same human for all photos agrees better, as severity is then constant: LCC .58 instead of
            .50 over all ratings of MEBeauty.
        photos: Number of photos used; each has at least two votes.
        raters: Mean number of raters of these photos.
    """

    perfect: dict[str, float]
    human: dict[str, float]
    photos: int
    raters: float


def measure_ceiling(votes: np.ndarray, raters: np.ndarray, settings: Evaluation) -> RaterCeiling | None:
    """Estimate the ceiling by ``rater_agreement.correlation_ceilings`` and ``rater_agreement.one_against_rest``.

    Args:
        votes: People's fractions of votes, float [n, 10].
        raters: Number of raters of each photo, int [n]; 0 if unknown. Photos with fewer than 2 raters are ignored.
        settings: Evaluation settings; ``seed`` is read.

    Returns:
        The ceiling. None if fewer than three photos have two raters, or if mean scores do not vary. None too if at
        most half of the photos with two raters have whole vote counts, as for a data set of mean scores.
    """
    counts = np.asarray(votes, float) * np.asarray(raters)[:, None]
    several = np.asarray(raters) >= 2
    usable = several & (np.abs(counts - np.rint(counts)) <= _COUNT_TOLERANCE).all(axis=1)
    if not several.any() or 2 * usable.sum() <= several.sum():
        return None
    perfect = rater_agreement.correlation_ceilings(counts[usable], splits=_SPLITS, seed=settings.seed)
    human = rater_agreement.one_against_rest(counts[usable], draws=_SPLITS, seed=settings.seed)
    if perfect is None or human is None:
        return None
    return RaterCeiling(perfect, human, int(usable.sum()), float(np.asarray(raters)[usable].mean()))
