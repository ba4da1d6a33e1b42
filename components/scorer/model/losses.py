"""The training loss of the scorer, in ``keras.ops`` so that it runs on any backend."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from components.scorer.settings import SCORES


@keras.saving.register_keras_serializable("portrait_scorer")
def squared_emd(true_votes, predicted_votes):
    """Return the squared earth mover's distance between two distributions over ordered scores.

    With the cumulative distributions P and Q over N scores: ``1/N · Σ (P_k - Q_k)²``. This is the square of NIMA's
    equation 1 with r = 2 (https://arxiv.org/abs/1709.05424). Hou et al. show that the square trains better than its
    root (https://arxiv.org/abs/1611.05916, section 3).

    Args:
        true_votes: People's votes ``[n, 10]``; each row sums to 1.
        predicted_votes: Predicted votes ``[n, 10]``; each row sums to 1.

    Returns:
        Distances ``[n]``, from 0 (equal) to (N - 1) / N (all votes at opposite ends).
    """
    distance = ops.cumsum(true_votes, axis=-1) - ops.cumsum(ops.cast(predicted_votes, true_votes.dtype), axis=-1)
    return ops.mean(ops.square(distance), axis=-1)


@keras.saving.register_keras_serializable("portrait_scorer")
class VoteDistributionLoss(keras.losses.Loss):
    """Loss of predicted votes: `squared_emd`, optionally plus a correlation term and a rank term.

    Both terms compare the mean scores of the photos of a batch.
    """

    def __init__(self, correlation_term: float = 0.0, rank_term: float = 0.0, name: str = "votes_loss", **options: Any):
        """Set the weights of the terms.

        Args:
            correlation_term: Weight of `correlation_loss`; 0 disables the term.
            rank_term: Weight of `rank_loss`; 0 disables the term.
            name: Name of the loss in Keras.
            **options: Options of ``keras.losses.Loss``.
        """
        super().__init__(name=name, **options)
        self.correlation_term, self.rank_term = correlation_term, rank_term

    def call(self, y_true, y_pred):
        """Return the loss of each photo, ``[n]``, from true and predicted votes ``[n, 10]``."""
        loss = squared_emd(y_true, y_pred)
        if self.correlation_term:
            loss += self.correlation_term * correlation_loss(y_true, y_pred)
        if self.rank_term:
            loss += self.rank_term * rank_loss(y_true, y_pred)
        return loss

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, which Keras writes into its files."""
        return {**super().get_config(), "correlation_term": self.correlation_term, "rank_term": self.rank_term}


def correlation_loss(true_votes, predicted_votes):
    """Return 1 less Pearson's correlation of a batch's true and predicted mean scores: a scalar from 0 to 2.

    Args:
        true_votes: People's votes ``[n, 10]``.
        predicted_votes: Predicted votes ``[n, 10]``.
    """
    true_means, predicted_means = _centred_means(true_votes), _centred_means(predicted_votes)
    return 1 - ops.sum(true_means * predicted_means) / (
        ops.sqrt(ops.sum(true_means**2) * ops.sum(predicted_means**2)) + 1e-6
    )


def rank_loss(true_votes, predicted_votes):
    """Return the pairwise logistic rank loss of each photo against the other photos of the batch, ``[n]``.

    This is RankNet's loss (Burges and others, "Learning to Rank using Gradient Descent", 2005, equation 3). Each pair
    is weighted by the distance of its true mean scores, because either order is right for photos that people rate
    alike.

    Args:
        true_votes: People's votes ``[n, 10]``.
        predicted_votes: Predicted votes ``[n, 10]``.
    """
    true_means, predicted_means = _centred_means(true_votes), _centred_means(predicted_votes)
    difference = true_means[:, None] - true_means[None, :]
    loss = ops.softplus(-ops.sign(difference) * (predicted_means[:, None] - predicted_means[None, :]))
    return ops.sum(ops.abs(difference) * loss, axis=1) / (ops.mean(ops.sum(ops.abs(difference), axis=1)) + 1e-6)


def check_finite(values: npt.ArrayLike, task: str, label: str) -> None:
    """Raise ValueError unless all numbers are finite, because training cannot recover from a loss that is not finite.

    Args:
        values: A loss, or several numbers that the loss is computed from.
        task: Name of the training, for the message.
        label: Name of the numbers, for the message, e.g. ``loss of epoch 1``.

    Raises:
        ValueError: Some of the numbers are not finite.
    """
    values = np.asarray(values)
    if n_invalid := int((~np.isfinite(values)).sum()):
        got = f"{values.item():g}" if values.size == 1 else f"{n_invalid:,} of {values.size:,} that are not"
        raise ValueError(
            f"{task}: expected finite numbers as the {label}, got {got}. Either the data hold votes, embeddings or"
            " weights of the network to start from that are not finite: look at the report of ingestion, correct the"
            " ratings or the weights, and start a new run. Or the steps are too long for these data: start a new run"
            " with a lower learning rate"
        )


def _centred_means(votes):
    """Return the mean scores ``[n]`` of votes ``[n, 10]``, less their mean over the batch."""
    means = ops.sum(ops.cast(votes, "float32") * ops.convert_to_tensor(np.array(SCORES, "float32")), axis=-1)
    return means - ops.mean(means)
