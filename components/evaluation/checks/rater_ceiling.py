"""What a scorer can reach at best, given how far people agree with each other."""

from dataclasses import dataclass

import numpy as np

from components.scorer.metrics import rater_agreement
from components.scorer.settings import Evaluation

_SPLITS = 100  # of the raters: the average then moves by less than .002 from seed to seed at 300 photos
_WHOLE = 0.02  # a count may be off by so much: votes are kept as float32 shares


@dataclass(frozen=True)
class Ceiling:
    """How well people agree on the test photos.

    Attributes:
        perfect: by ``lcc``, ``srcc`` and ``krcc``, what a scorer reaches that knows each photo's true mean, that is
            the mean by all people who might have been asked. The rank correlations are approximate.
        human: the same of one human against the mean of the others, a human anew for each photo. A single one whose
            severity is that of all photos agrees better: LCC .58 instead of .50 over all ratings of MEBeauty.
        photos: with two votes or more, on which this rests.
        raters: a photo, on average.
    """

    perfect: dict[str, float]
    human: dict[str, float]
    photos: int
    raters: float


def ceiling(votes: np.ndarray, raters: np.ndarray, settings: Evaluation) -> Ceiling | None:
    """The ceiling from the votes of each photo.

    See ``rater_agreement.ceilings`` and ``rater_agreement.one_against_rest``.

    Args:
        votes: float [n, 10], people's shares of votes.
        raters: int [n], how many people; 0 where unknown, which tells nothing here.
        settings: the seed.

    Returns:
        None where votes times raters are no counts for most photos (as where ingestion had only means), or where
        fewer than three photos have two raters.
    """
    counts = np.asarray(votes, float) * np.asarray(raters)[:, None]
    several = np.asarray(raters) >= 2
    whole = several & (np.abs(counts - np.rint(counts)) <= _WHOLE).all(axis=1)
    if not several.any() or 2 * whole.sum() <= several.sum():
        return None
    perfect = rater_agreement.ceilings(counts[whole], splits=_SPLITS, seed=settings.seed)
    human = rater_agreement.one_against_rest(counts[whole], draws=_SPLITS, seed=settings.seed)
    if perfect is None or human is None:
        return None
    return Ceiling(perfect, human, int(whole.sum()), float(np.asarray(raters)[whole].mean()))
