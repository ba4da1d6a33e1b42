"""People who rate photos: each with a taste of their own, and not the same every day."""

import numpy as np

from components.scorer.settings import SCORES

_BIAS = 0.9  # score points: standard deviation of how much kinder or stricter a rater is than the others
_NOISE = (1.2, 2.4)  # score points: standard deviation of one rater's scores of one photo, from careful to careless


class Raters:
    """A panel of simulated raters.

    A rater's score of a photo is the photo's latent quality, plus the rater's bias, plus noise, rounded and
    kept within the scale. With about 12 raters a photo the means have a reliability (Spearman-Brown) near .9.
    Raters do not see skin tone.
    """

    def __init__(self, number: int, rng: np.random.Generator):
        """Draw the raters' biases and noise."""
        self.bias = rng.normal(0, _BIAS, number)
        self.noise = rng.uniform(*_NOISE, number)

    def rate(self, quality: float, number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Scores that some of the raters, drawn at random, give to a photo.

        Args:
            quality: latent quality of the photo.
            number: of ratings, each by another rater.
            rng: source of the randomness.

        Returns:
            Pairs (index of the rater, score from 1 to 10), ordered by rater.
        """
        chosen = np.sort(rng.choice(len(self.bias), number, replace=False))
        felt = quality + self.bias[chosen] + rng.normal(0, self.noise[chosen])
        scores = np.clip(np.rint(felt), SCORES[0], SCORES[-1]).astype(int)
        return list(zip(chosen.tolist(), scores.tolist(), strict=True))
