"""Job tilt fitted on a trained scorer's pooled features: slopes and offsets of ``auxiliary_heads.JobTilt``.

The tilt is fitted after the scorer, as attributes are. A request without a job therefore gets the scores of a scorer
trained without jobs. A few hundred photos are enough: a job has one number per feature of a network that knows
portraits already, and the problem is convex.

Fitting jointly with the network was worse. With 300 photos of the embedded sample, a child raised scores more for a
child carer than for a tutor in 44 and 57 % of new pairs (two samples). Fitted afterwards, it is 70 and 67 %. Joint
fitting also once lost .09 SRCC without a job.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from components.scorer.jobs import UNKNOWN
from components.scorer.settings import SCORES

DECAYS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""Candidate L2 penalties on the slopes of standardised features, the strongest first."""

_MIN_DEVIATION = 1e-6  # minimum standard deviation of a feature
_MIN_VOTE = 1e-12  # minimum predicted vote: the softmax of a confident network may be 0
_CENTRED = np.array(SCORES) - np.mean(SCORES)


class JobTrainingData(NamedTuple):
    """Rated photos with a scorer's features and votes.

    Attributes:
        features: Pooled features of the scorer, float ``[n, c]``.
        scorer_votes: Votes of the scorer without a job, ``[n, 10]``.
        people_votes: Votes of people, ``[n, 10]``.
        jobs: Job ids, int ``[n]``.
    """

    features: np.ndarray
    scorer_votes: np.ndarray
    people_votes: np.ndarray
    jobs: np.ndarray


def fit_job_tilts(train: JobTrainingData, validation: JobTrainingData, n_jobs: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the tilt of each job, with the penalty of the lowest validation loss.

    The loss is the cross-entropy of people's votes and the tilted votes (Efron, "Exponential Families in Theory and
    Practice", 2022). On `train` the L2 penalty is added; offsets are not penalised.

    Args:
        train: Photos to fit on; photos with an unknown job are left out.
        validation: Photos to choose the penalty on; photos with an unknown job are left out.
        n_jobs: Number of known jobs.

    Returns:
        Slopes ``[jobs, c]`` and offsets ``[jobs]``. All are zero if no tilt lowers the validation loss: a job then
        changes nothing.
    """
    train, validation = _with_known_job(train), _with_known_job(validation)
    centre, deviations = train.features.mean(0), np.maximum(train.features.std(0), _MIN_DEVIATION)
    standard = train._replace(features=(train.features - centre) / deviations)
    best = np.zeros((n_jobs, train.features.shape[1])), np.zeros(n_jobs)
    best_loss = _loss(validation, *best)
    coefficients = np.zeros((n_jobs, train.features.shape[1] + 1))
    for decay in DECAYS:
        coefficients = _fit_tilts(standard, decay, coefficients)
        slopes, offsets = coefficients[:, :-1] / deviations, coefficients[:, -1]
        offsets = offsets - slopes @ centre
        loss = _loss(validation, slopes, offsets)
        if loss < best_loss:
            best, best_loss = (slopes, offsets), loss
    return best


def _with_known_job(rated: JobTrainingData) -> JobTrainingData:
    """Return the photos whose job is known."""
    features, scorer, people, jobs = (array[rated.jobs != UNKNOWN] for array in rated)
    return JobTrainingData(
        features.astype(float), np.maximum(scorer.astype(float), _MIN_VOTE), people.astype(float), jobs
    )


def _fit_tilts(rated: JobTrainingData, decay: float, start: np.ndarray) -> np.ndarray:
    """Return the coefficients ``[jobs, c + 1]`` of the lowest mean cross-entropy plus L2 penalty; offsets are last."""
    job_weights = np.eye(len(start) + 1)[rated.jobs][:, 1:] / len(rated.jobs)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients = parameters.reshape(start.shape)
        slopes, offsets = coefficients[:, :-1], coefficients[:, -1]
        logits = _tilted_log_votes(rated, slopes, offsets)
        error = (np.exp(logits) - rated.people_votes) @ _CENTRED
        error_by_job = job_weights.T * error
        gradient = np.column_stack([error_by_job @ rated.features + decay * slopes, error_by_job.sum(1)])
        return _cross_entropy(rated, logits) + decay * float((slopes**2).sum()) / 2, gradient.ravel()

    return minimize(objective, start.ravel(), jac=True, method="L-BFGS-B").x.reshape(start.shape)


def _loss(rated: JobTrainingData, slopes: np.ndarray, offsets: np.ndarray) -> float:
    return _cross_entropy(rated, _tilted_log_votes(rated, slopes, offsets))


def _tilted_log_votes(rated: JobTrainingData, slopes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the logarithms of the tilted votes, ``[n, 10]``."""
    rows = rated.jobs - 1
    tilt = np.einsum("nc,nc->n", rated.features, slopes[rows]) + offsets[rows]
    logits = np.log(rated.scorer_votes) + tilt[:, None] * _CENTRED
    return logits - logsumexp(logits, axis=1, keepdims=True)


def _cross_entropy(rated: JobTrainingData, logits: np.ndarray) -> float:
    """Return the mean cross-entropy over photos; 0 without photos."""
    return float(-(rated.people_votes * logits).sum(1).mean()) if len(logits) else 0.0
