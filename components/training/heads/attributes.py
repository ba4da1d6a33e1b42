"""Learn attributes such as sunglasses from what a trained scorer sees: logistic regression on its pooled features.

It is fitted when the scorer is done. So the attributes never move the scores, and a few thousand photos give the same
weights each time, without a learning rate or epochs.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties on the squared weights of standardised features that are tried, the weakest first."""

_WORTH = 0.9  # of the loss of a scorer that knows the share alone: what a head may have at most to be of use
_SMALL = 1e-6  # of a feature's deviation: one that never varies tells nothing


def fit_attribute(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float] | None:
    """A logistic regression with the penalty under which it tells most about photos that it was not fitted to.

    One that tells next to nothing about them is none: a norm then falls back on its other detector.

    Args:
        train: features float ``[n, c]`` and values ``[n]``: 1 yes, 0 no, -1 unknown, which are left out.
        validation: the same of other photos.

    Returns:
        Weights ``[c]`` and the intercept: the probability of yes is ``1 / (1 + exp(-(f · weights + intercept)))``. None
        where other photos do not show that it tells more than the share of yes, or none of them is known.
    """
    (features, values), (others, truth) = (_known(*split) for split in (train, validation))
    centre, width = features.mean(0), np.maximum(features.std(0), _SMALL)
    standard = (features - centre) / width
    share = np.clip(values.mean(), _SMALL, 1 - _SMALL)
    best, least = None, _WORTH * _loss(np.full(len(truth), np.log(share / (1 - share))), truth)
    for decay in DECAYS:
        weights, intercept = _fitted(standard, values, decay)
        weights = weights / width
        intercept -= float(centre @ weights)
        loss = _loss(others @ weights + intercept, truth)
        if loss < least:
            best, least = (weights, intercept), loss
    return best


def _known(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = values >= 0
    return features[known].astype(float), values[known].astype(float)


def _fitted(features: np.ndarray, values: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
    """The weights and the intercept, which is not penalised, of least mean cross-entropy and penalty."""

    def objective(given: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = given[:-1], given[-1]
        logits = features @ weights + intercept
        error = (expit(logits) - values) / len(values)
        slope = np.append(features.T @ error + decay * weights, error.sum())
        return _loss(logits, values) + decay * float(weights @ weights) / 2, slope

    found = minimize(objective, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1])


def _loss(logits: np.ndarray, values: np.ndarray) -> float:
    """Mean cross-entropy; 0 without a photo."""
    return float(np.mean(np.logaddexp(0, logits) - values * logits)) if len(values) else 0.0
