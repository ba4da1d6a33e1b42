"""Simulated raters, each with a bias and with noise."""

import numpy as np

from components.scorer.settings import SCORES

_BIAS = 0.9  # score points: standard deviation of the raters' biases
_NOISE = (1.2, 2.4)  # score points: range of the raters' noise (standard deviation of repeated scores of a photo)


class SimulatedRaters:
    """A panel of simulated raters.

    A rater's score is the photo's latent quality, plus the rater's bias, plus noise, rounded and clipped to the scale.
    With about 12 raters a photo, the means have a reliability (Spearman-Brown) near .9. Raters ignore skin tone.
    """

    def __init__(self, number: int, rng: np.random.Generator):
        """Draw the raters' biases and noise."""
        self.bias = rng.normal(0, _BIAS, number)
        self.noise = rng.uniform(*_NOISE, number)

    def rate(self, quality: float, number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Return the scores that randomly chosen raters give to a photo.

        Args:
            quality: Latent quality of the photo.
            number: Number of ratings, each by another rater.
            rng: Random generator.

        Returns:
            Pairs (index of the rater, score from 1 to 10), ordered by rater.
        """
        chosen = np.sort(rng.choice(len(self.bias), number, replace=False))
        perceived = quality + self.bias[chosen] + rng.normal(0, self.noise[chosen])
        scores = np.clip(np.rint(perceived), SCORES[0], SCORES[-1]).astype(int)
        return list(zip(chosen.tolist(), scores.tolist(), strict=True))
