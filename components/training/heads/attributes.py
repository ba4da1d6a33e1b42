"""Attribute heads such as sunglasses: logistic regression on a trained scorer's pooled features.

They are fitted after the scorer, so attributes never move scores. Fitting needs no learning rate and no epochs, and a
few thousand photos give the same weights each time.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
"""Candidate L2 penalties on the weights of standardised features, the weakest first."""

_MAX_LOSS_RATIO = 0.9  # maximum loss of a useful head, relative to that of predicting the fraction of yes
_MIN_DEVIATION = 1e-6  # minimum standard deviation of a feature


def fit_attribute(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float] | None:
    """Fit logistic regressions and return the one with the lowest validation loss.

    If none is useful, there is no head: an upload norm then falls back on its other detector.

    Args:
        train: Features, float ``[n, c]``, and values ``[n]``: 1 yes, 0 no, -1 unknown. Unknown values are left out.
        validation: Features and values of other photos, in the same form.

    Returns:
        Weights ``[c]`` and intercept: the probability of yes is ``1 / (1 + exp(-(f · weights + intercept)))``. None if
        no head has a validation loss a tenth below that of predicting the fraction of yes, or no validation value is
        known.
    """
    (features, values), (validation_features, truth) = (_known_values(*split) for split in (train, validation))
    centre, deviations = features.mean(0), np.maximum(features.std(0), _MIN_DEVIATION)
    standard = (features - centre) / deviations
    yes_fraction = np.clip(values.mean(), _MIN_DEVIATION, 1 - _MIN_DEVIATION)
    best, best_loss = (
        None,
        _MAX_LOSS_RATIO * _loss(np.full(len(truth), np.log(yes_fraction / (1 - yes_fraction))), truth),
    )
    for decay in DECAYS:
        weights, intercept = _fit_logistic(standard, values, decay)
        weights = weights / deviations
        intercept -= float(centre @ weights)
        loss = _loss(validation_features @ weights + intercept, truth)
        if loss < best_loss:
            best, best_loss = (weights, intercept), loss
    return best


def _known_values(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_known = values >= 0
    return features[is_known].astype(float), values[is_known].astype(float)


def _fit_logistic(features: np.ndarray, values: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
    """Return the weights and intercept of the lowest mean cross-entropy plus L2 penalty on the weights."""

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = parameters[:-1], parameters[-1]
        logits = features @ weights + intercept
        error = (expit(logits) - values) / len(values)
        gradient = np.append(features.T @ error + decay * weights, error.sum())
        return _loss(logits, values) + decay * float(weights @ weights) / 2, gradient

    solution = minimize(objective, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return solution[:-1], float(solution[-1])


def _loss(logits: np.ndarray, values: np.ndarray) -> float:
    """Return the mean cross-entropy; 0 without photos."""
    return float(np.mean(np.logaddexp(0, logits) - values * logits)) if len(values) else 0.0
