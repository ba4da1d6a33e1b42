"""Maximum-entropy votes for photos with a known mean score and, optionally, a standard deviation.

Among all distributions over the scores 1 to 10 with these moments, the one of maximum entropy assumes nothing else. The
source is Jaynes, "Information theory and statistical mechanics", 1957. Its form is p(s) ∝ exp(a s + b s²), which is a
normal distribution on a grid if b < 0.
"""

import numpy as np
from scipy.optimize.elementwise import find_root
from scipy.special import logsumexp, softmax

from components.scorer.settings import SCORES

_SCORES = np.array(SCORES, float)
_LOWEST, _HIGHEST = _SCORES[0], _SCORES[-1]

_MARGIN = 1e-3  # share of the range of possible variances; nearer to its ends a and b diverge
_NARROW = 1e-2  # range of possible variances; below it one score has all but a thousandth of the votes
_TOLERANCE = 1e-10  # error of the moments, in score points


def possible_stds(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum standard deviation that votes with these means can have.

    At the minimum, all votes are on the two whole scores around the mean. At the maximum, all votes are on 1 and 10
    (Bhatia and Davis, "A better bound on the variance", 2000).

    Args:
        means: Means from 1 to 10, float [n].

    Returns:
        The minimum and the maximum in score points, each float [n].
    """
    means = np.asarray(means, float)
    fraction = means - np.floor(means)
    return np.sqrt(fraction * (1 - fraction)), np.sqrt((means - _LOWEST) * (_HIGHEST - means))


def from_means(means: np.ndarray) -> np.ndarray:
    """Return maximum-entropy distributions with these means and no constraint on the spread.

    Args:
        means: Means from 1 to 10, float [n].

    Returns:
        float [n, 10], each row summing to 1.
    """
    means = np.clip(means, _LOWEST + 1e-9, _HIGHEST - 1e-9)  # the slope is infinite at 1 and 10

    def excess(slope: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return softmax(slope[..., None] * _SCORES, axis=-1) @ _SCORES - mean

    slopes = find_root(excess, (np.full_like(means, -50.0), np.full_like(means, 50.0)), args=(means,)).x
    return softmax(slopes[:, None] * _SCORES, axis=1)


def from_means_and_stds(means: np.ndarray, stds: np.ndarray) -> np.ndarray:
    """Return maximum-entropy distributions with these means and standard deviations.

    A standard deviation that is impossible with its mean is replaced by the nearest possible one.

    Args:
        means: Means from 1 to 10, float [n].
        stds: Population standard deviations in score points, at least 0, float [n].

    Returns:
        float [n, 10], each row summing to 1.
    """
    means = np.asarray(means, float)
    least, greatest = (std**2 for std in possible_stds(means))
    variances = np.clip(np.square(stds), least, greatest)
    width = greatest - least
    inner = np.clip(variances, least + _MARGIN * width, greatest - _MARGIN * width)

    votes = _narrowest_votes(means)
    solvable = width > _NARROW
    votes[solvable] = _solve_dual(means[solvable], inner[solvable])
    # A mixture of distributions with one mean has the mixed variance, so the last step to the target is exact.
    reached = np.where(solvable, inner, least)
    edges = np.where((variances < reached)[:, None], _narrowest_votes(means), _widest_votes(means))
    distance = np.where(variances < reached, least, greatest) - reached
    share = np.divide(variances - reached, distance, out=np.zeros_like(means), where=np.abs(distance) > 0)
    return votes + share[:, None] * (edges - votes)


def _narrowest_votes(means: np.ndarray) -> np.ndarray:
    """Split each mean between the two whole scores around it, float [n, 10]."""
    return np.maximum(0, 1 - np.abs(_SCORES - np.asarray(means, float)[:, None]))


def _widest_votes(means: np.ndarray) -> np.ndarray:
    """Split each mean between the scores 1 and 10, float [n, 10]."""
    votes = np.zeros((len(means), len(_SCORES)))
    votes[:, -1] = (means - _LOWEST) / (_HIGHEST - _LOWEST)
    votes[:, 0] = 1 - votes[:, -1]
    return votes


def _solve_dual(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the votes, float [n, 10], by Newton's method on the convex dual for all photos at once.

    SciPy's solvers take one photo at a time, which takes minutes for a few hundred thousand photos. The dual is the
    logarithm of the sum of exp(a d + b (d² - v)), with d = s - mean and v the variance. Its gradient is the error of
    the moments. Its Hessian is the covariance of the two features.
    """
    distance = _SCORES - means[:, None]
    features = np.stack([distance, distance**2 - variances[:, None]], axis=1)  # [n, 2, 10]
    parameters = np.stack([np.zeros_like(means), -0.5 / variances], axis=1)  # start: the normal distribution
    votes = np.empty_like(distance)
    active = np.arange(len(means))
    for _ in range(100):
        active_features = features[active]
        logits = _logits(parameters[active], active_features)
        votes[active] = probabilities = softmax(logits, axis=1)
        moment_errors = np.einsum("nfs,ns->nf", active_features, probabilities)
        unsolved = np.abs(moment_errors).max(axis=1, initial=0) > _TOLERANCE
        if not unsolved.any():
            break
        active, active_features, logits, probabilities, moment_errors = (
            array[unsolved] for array in (active, active_features, logits, probabilities, moment_errors)
        )
        centred = active_features - moment_errors[:, :, None]
        hessian = np.einsum("nfs,ngs,ns->nfg", centred, centred, probabilities)
        step = -np.linalg.solve(hessian + 1e-14 * np.eye(2), moment_errors[:, :, None])[:, :, 0]
        parameters[active] += (
            _line_search(step, parameters[active], active_features, logsumexp(logits, axis=1), moment_errors)[:, None]
            * step
        )
    return votes


def _logits(parameters: np.ndarray, features: np.ndarray) -> np.ndarray:
    return np.einsum("nf,nfs->ns", parameters, features)


def _line_search(
    step: np.ndarray, parameters: np.ndarray, features: np.ndarray, value: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """Return the fraction of each Newton step by backtracking line search (Armijo rule).

    The fraction is halved until the dual falls by a quarter of the linear prediction.
    """
    fraction = np.ones(len(step))
    predicted_change = np.einsum("nf,nf->n", slope, step)
    for _ in range(40):
        trial = logsumexp(_logits(parameters + fraction[:, None] * step, features), axis=1)
        too_high = trial > value + 0.25 * fraction * predicted_change + 1e-13
        if not too_high.any():
            break
        fraction[too_high] /= 2
    return fraction
