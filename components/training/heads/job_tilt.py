"""Learn what counts differently by job from what a trained scorer sees: slopes and offsets of ``auxiliary_heads.Tilt``.

They are fitted when the scorer is done, as the attributes are. So whoever tells no job is answered by the scorer that
would have been trained without any. And what a job is about is found in a few hundred photos: it is one number a
feature of a network that knows portraits already, and the problem is convex. Learnt together with the network, from 300
photos of the embedded sample, a child counted for more beside a child carer than beside a tutor in 44 and 57 % of new
pairs (two samples; 70 and 67 % when fitted afterwards), and once the untold scorer lost .09 SRCC.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from components.scorer.jobs import UNKNOWN
from components.scorer.settings import SCORES

DECAYS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""Penalties on the squared slopes of standardised features that are tried, the strongest first."""

_SMALL = 1e-6  # of a feature's deviation: one that never varies tells nothing
_LEAST = 1e-12  # of a vote: the softmax of a sure network may be 0
_CENTRED = np.array(SCORES) - np.mean(SCORES)


class Rated(NamedTuple):
    """Rated photos, as a scorer sees them.

    Attributes:
        features: that it pools, float ``[n, c]``.
        scorer: its votes with the job unknown, ``[n, 10]``.
        people: theirs, ``[n, 10]``.
        jobs: by number, int ``[n]``.
    """

    features: np.ndarray
    scorer: np.ndarray
    people: np.ndarray
    jobs: np.ndarray


def fit_jobs(train: Rated, validation: Rated, jobs: int) -> tuple[np.ndarray, np.ndarray]:
    """The tilt of each job, with the penalty under which it tells most about photos that it was not fitted to.

    What is least is the cross-entropy of people's votes and the tilted ones (Efron, "Exponential Families in Theory and
    Practice", 2022), and on ``train`` the penalty. Offsets are not penalised.

    Args:
        train: photos to fit to; those whose job is unknown are left out.
        validation: others, likewise.
        jobs: number of known jobs.

    Returns:
        Slopes ``[jobs, c]`` and offsets ``[jobs]``; zero, by which telling a job changes nothing, where that tells most
        about other photos.
    """
    train, validation = _known(train), _known(validation)
    centre, width = train.features.mean(0), np.maximum(train.features.std(0), _SMALL)
    standard = train._replace(features=(train.features - centre) / width)
    best = np.zeros((jobs, train.features.shape[1])), np.zeros(jobs)
    least = _loss(validation, *best)
    table = np.zeros((jobs, train.features.shape[1] + 1))
    for decay in DECAYS:
        table = _fitted(standard, decay, table)
        slopes, offsets = table[:, :-1] / width, table[:, -1]
        offsets = offsets - slopes @ centre
        loss = _loss(validation, slopes, offsets)
        if loss < least:
            best, least = (slopes, offsets), loss
    return best


def _known(rated: Rated) -> Rated:
    """The photos whose job is known."""
    features, scorer, people, jobs = (each[rated.jobs != UNKNOWN] for each in rated)
    return Rated(features.astype(float), np.maximum(scorer.astype(float), _LEAST), people.astype(float), jobs)


def _fitted(rated: Rated, decay: float, start: np.ndarray) -> np.ndarray:
    """Slopes and, in the last column, offsets of least mean cross-entropy and penalty, ``[jobs, c + 1]``."""
    own = np.eye(len(start) + 1)[rated.jobs][:, 1:] / len(rated.jobs)

    def objective(given: np.ndarray) -> tuple[float, np.ndarray]:
        table = given.reshape(start.shape)
        slopes, offsets = table[:, :-1], table[:, -1]
        logits = _tilted(rated, slopes, offsets)
        error = (np.exp(logits) - rated.people) @ _CENTRED
        towards = own.T * error
        gradient = np.column_stack([towards @ rated.features + decay * slopes, towards.sum(1)])
        return _cross_entropy(rated, logits) + decay * float((slopes**2).sum()) / 2, gradient.ravel()

    return minimize(objective, start.ravel(), jac=True, method="L-BFGS-B").x.reshape(start.shape)


def _loss(rated: Rated, slopes: np.ndarray, offsets: np.ndarray) -> float:
    return _cross_entropy(rated, _tilted(rated, slopes, offsets))


def _tilted(rated: Rated, slopes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Logarithms of the tilted votes, ``[n, 10]``."""
    of = rated.jobs - 1
    tilt = np.einsum("nc,nc->n", rated.features, slopes[of]) + offsets[of]
    logits = np.log(rated.scorer) + tilt[:, None] * _CENTRED
    return logits - logsumexp(logits, axis=1, keepdims=True)


def _cross_entropy(rated: Rated, logits: np.ndarray) -> float:
    """The mean over photos; 0 without one."""
    return float(-(rated.people * logits).sum(1).mean()) if len(logits) else 0.0
