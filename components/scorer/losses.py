"""The training loss of the scorer, in ``keras.ops`` so that it runs on any backend."""

import keras
from keras import ops


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
