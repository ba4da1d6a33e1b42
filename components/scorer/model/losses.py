"""The training loss of the scorer, in ``keras.ops`` so that it runs on any backend."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from components.scorer.settings import SCORES


@keras.saving.register_keras_serializable("portrait_scorer")
def squared_emd(true_votes, predicted_votes):
    """Squared earth mover's distance between two distributions over ordered scores.

    With the cumulative distributions P and Q over N scores: ``1/N · Σ (P_k - Q_k)²``, the square of NIMA's
    equation 1 with r = 2 (https://arxiv.org/abs/1709.05424), which Hou et al. show to train better than its
    root (https://arxiv.org/abs/1611.05916, section 3).

    Args:
        true_votes: ``[n, 10]``, each row summing to 1.
        predicted_votes: ``[n, 10]``, each row summing to 1.

    Returns:
        ``[n]``, from 0 (equal) to (N - 1) / N (all votes at opposite ends).
    """
    distance = ops.cumsum(true_votes, axis=-1) - ops.cumsum(ops.cast(predicted_votes, true_votes.dtype), axis=-1)
    return ops.mean(ops.square(distance), axis=-1)


@keras.saving.register_keras_serializable("portrait_scorer")
class VotesLoss(keras.losses.Loss):
    """`squared_emd`, and what else may be asked of the mean scores of a batch."""

    def __init__(self, correlation_term: float = 0.0, rank_term: float = 0.0, name: str = "votes_loss", **options: Any):
        """Name the terms.

        Args:
            correlation_term: times `correlation_loss` is added; 0: nothing.
            rank_term: times `rank_loss` is added; 0: nothing.
            name: for Keras.
            **options: of ``keras.losses.Loss``.
        """
        super().__init__(name=name, **options)
        self.correlation_term, self.rank_term = correlation_term, rank_term

    def call(self, y_true, y_pred):
        """The loss of each photo, ``[n]``, from people's and predicted votes ``[n, 10]``."""
        lost = squared_emd(y_true, y_pred)
        if self.correlation_term:
            lost += self.correlation_term * correlation_loss(y_true, y_pred)
        if self.rank_term:
            lost += self.rank_term * rank_loss(y_true, y_pred)
        return lost

    def get_config(self) -> dict[str, Any]:
        """For Keras's files."""
        return {**super().get_config(), "correlation_term": self.correlation_term, "rank_term": self.rank_term}


def correlation_loss(true_votes, predicted_votes):
    """1 less Pearson's correlation of the batch's mean scores: one number, from 0 to 2; votes as in `squared_emd`."""
    true, told = _centred(true_votes), _centred(predicted_votes)
    return 1 - ops.sum(true * told) / (ops.sqrt(ops.sum(true**2) * ops.sum(told**2)) + 1e-6)


def rank_loss(true_votes, predicted_votes):
    """The logistic loss of each photo's pairs with the batch's others, ``[n]``; votes as in `squared_emd`.

    RankNet's (Burges and others, "Learning to Rank using Gradient Descent", 2005, equation 3), with pairs that count by
    the distance of people's means: of photos that people put alike either order is right.
    """
    true, told = _centred(true_votes), _centred(predicted_votes)
    apart = true[:, None] - true[None, :]
    lost = ops.softplus(-ops.sign(apart) * (told[:, None] - told[None, :]))
    return ops.sum(ops.abs(apart) * lost, axis=1) / (ops.mean(ops.sum(ops.abs(apart), axis=1)) + 1e-6)


def expect_finite(values: npt.ArrayLike, what: str, where: str) -> None:
    """Stop a training that cannot become right any more: of a loss that is not finite no step leads back.

    Args:
        values: a loss, or several numbers that it is computed of.
        what: name of the training.
        where: what the numbers are, as ``loss of epoch 1``.

    Raises:
        ValueError: some of them are not finite.
    """
    values = np.asarray(values)
    if wrong := int((~np.isfinite(values)).sum()):
        got = f"{values.item():g}" if values.size == 1 else f"{wrong:,} of {values.size:,} that are not"
        raise ValueError(
            f"{what}: expected finite numbers as the {where}, got {got}. Either the data hold votes, embeddings or"
            " weights of the network to start from that are not finite: look at the report of ingestion, correct the"
            " ratings or the weights, and start a new run. Or the steps are too long for these data: start a new run"
            " with a lower learning rate"
        )


def _centred(votes):
    """Mean scores ``[n]`` less their own mean."""
    means = ops.sum(ops.cast(votes, "float32") * ops.convert_to_tensor(np.array(SCORES, "float32")), axis=-1)
    return means - ops.mean(means)
