"""Votes for a photo of which only the mean score, or the mean and the standard deviation, is known.

Of all distributions over the scores 1 to 10 with a given mean and standard deviation, the one of maximum
entropy assumes nothing else (Jaynes, "Information theory and statistical mechanics", 1957). It has the form
p(s) ∝ exp(a s + b s²): a normal distribution on a grid where b < 0.
"""

import numpy as np
from scipy.optimize.elementwise import find_root
from scipy.special import logsumexp, softmax

from components.scorer.settings import SCORES

_SCORES = np.array(SCORES, float)
_LOWEST, _HIGHEST = _SCORES[0], _SCORES[-1]

_MARGIN = 1e-3  # of the range of possible variances: nearer to its ends a and b grow without bound
_NARROW = 1e-2  # range of possible variances: below it all but a thousandth of the votes is one score anyway
_TOLERANCE = 1e-10  # of the moments, in score points


def possible_stds(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest standard deviation that votes with these means can have.

    Least: all votes on the two whole scores beside the mean. Greatest: all votes on 1 and 10 (Bhatia and
    Davis, "A better bound on the variance", 2000).

    Args:
        means: float [n], from 1 to 10.

    Returns:
        Two arrays, float [n].
    """
    means = np.asarray(means, float)
    beside = means - np.floor(means)
    return np.sqrt(beside * (1 - beside)), np.sqrt((means - _LOWEST) * (_HIGHEST - means))


def from_means(means: np.ndarray) -> np.ndarray:
    """Distributions of maximum entropy with these means and any spread.

    Args:
        means: float [n], from 1 to 10.

    Returns:
        float [n, 10], each row summing to 1.
    """
    means = np.clip(means, _LOWEST + 1e-9, _HIGHEST - 1e-9)  # at the very ends the slope is infinite

    def excess(slope: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return softmax(slope[..., None] * _SCORES, axis=-1) @ _SCORES - mean

    slopes = find_root(excess, (np.full_like(means, -50.0), np.full_like(means, 50.0)), args=(means,)).x
    return softmax(slopes[:, None] * _SCORES, axis=1)


def from_means_and_stds(means: np.ndarray, stds: np.ndarray) -> np.ndarray:
    """Distributions of maximum entropy with these means and standard deviations.

    Where a standard deviation is impossible with its mean, the nearest possible one is taken.

    Args:
        means: float [n], from 1 to 10.
        stds: float [n], population standard deviations in score points, at least 0.

    Returns:
        float [n, 10], each row summing to 1.
    """
    means = np.asarray(means, float)
    least, greatest = (std**2 for std in possible_stds(means))
    variances = np.clip(np.square(stds), least, greatest)
    width = greatest - least
    inner = np.clip(variances, least + _MARGIN * width, greatest - _MARGIN * width)

    votes = _narrowest(means)
    solvable = width > _NARROW
    votes[solvable] = _solve(means[solvable], inner[solvable])
    # Distributions of one mean mix linearly in their variance, so the last step to the wanted one is exact.
    reached = np.where(solvable, inner, least)
    edges = np.where((variances < reached)[:, None], _narrowest(means), _widest(means))
    to_go = np.where(variances < reached, least, greatest) - reached
    share = np.divide(variances - reached, to_go, out=np.zeros_like(means), where=np.abs(to_go) > 0)
    return votes + share[:, None] * (edges - votes)


def _narrowest(means: np.ndarray) -> np.ndarray:
    """Each mean shared between the two whole scores beside it, [n, 10]."""
    return np.maximum(0, 1 - np.abs(_SCORES - np.asarray(means, float)[:, None]))


def _widest(means: np.ndarray) -> np.ndarray:
    """Each mean shared between the scores 1 and 10, [n, 10]."""
    votes = np.zeros((len(means), len(_SCORES)))
    votes[:, -1] = (means - _LOWEST) / (_HIGHEST - _LOWEST)
    votes[:, 0] = 1 - votes[:, -1]
    return votes


def _solve(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """The two parameters of each photo by Newton's method on the convex dual, all photos at once.

    SciPy's solvers take one photo at a time, which takes minutes for a few hundred thousand. The dual is the
    logarithm of the sum of exp(a d + b (d² - v)) with d = s - mean and v the variance; its gradient is what
    the moments miss, its Hessian the covariance of the two features.
    """
    distance = _SCORES - means[:, None]
    features = np.stack([distance, distance**2 - variances[:, None]], axis=1)  # [n, 2, 10]
    parameters = np.stack([np.zeros_like(means), -0.5 / variances], axis=1)  # of the normal distribution
    votes = np.empty_like(distance)
    active = np.arange(len(means))
    for _ in range(100):
        each = features[active]
        logits = _logits(parameters[active], each)
        votes[active] = probabilities = softmax(logits, axis=1)
        missed = np.einsum("nfs,ns->nf", each, probabilities)
        going = np.abs(missed).max(axis=1, initial=0) > _TOLERANCE
        if not going.any():
            break
        active, each, logits, probabilities, missed = (
            values[going] for values in (active, each, logits, probabilities, missed)
        )
        centred = each - missed[:, :, None]
        hessian = np.einsum("nfs,ngs,ns->nfg", centred, centred, probabilities)
        step = -np.linalg.solve(hessian + 1e-14 * np.eye(2), missed[:, :, None])[:, :, 0]
        parameters[active] += _damped(step, parameters[active], each, logsumexp(logits, axis=1), missed)[:, None] * step
    return votes


def _logits(parameters: np.ndarray, features: np.ndarray) -> np.ndarray:
    return np.einsum("nf,nfs->ns", parameters, features)


def _damped(
    step: np.ndarray, parameters: np.ndarray, features: np.ndarray, value: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """How much of each step to go: halved until the dual falls by a fair part of what its slope promises."""
    fraction = np.ones(len(step))
    promise = np.einsum("nf,nf->n", slope, step)
    for _ in range(40):
        tried = logsumexp(_logits(parameters + fraction[:, None] * step, features), axis=1)
        high = tried > value + 0.25 * fraction * promise + 1e-13
        if not high.any():
            break
        fraction[high] /= 2
    return fraction
