"""Calibration of mean scores: slope, spread, share of extreme scores, and skill over the best constant answer."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from components.evaluation.checks.metric_estimates import Estimate
from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import bootstrap, regression
from components.scorer.run.decision import GateResult, gate_outcome
from components.scorer.settings import Evaluation, GateKey

MIDDLE = (4, 7)
"""Range of mean scores in which a collapsed scorer stays; scores outside it distinguish profiles."""

_BINS = 10
_EPSILON = 1e-6  # smallest skill: below it there is only rounding


@dataclass(frozen=True)
class CalibrationBin:
    """Calibration bin of photos with similar predictions.

    Attributes:
        predicted: Mean of the scorer's mean scores.
        people: Mean of people's mean scores.
        low: Lower end of the interval of ``people``.
        high: Upper end of the interval of ``people``.
        photos: Number of photos.
    """

    predicted: float
    people: float
    low: float
    high: float
    photos: int


@dataclass(frozen=True)
class Calibration:
    """Calibration of the scorer's mean scores against people's.

    Attributes:
        photos: Number of photos.
        slope: Slope of the regression of people's mean scores on the scorer's. 1 is calibrated; below 1 the scores lie
            too far apart, above 1 too close together.
        intercept: Intercept of that regression, in score points.
        spread: Standard deviation of the scorer's mean scores / standard deviation of people's.
        outside_people: Fraction of photos whose mean score by people is outside ``MIDDLE``, 0..1.
        outside_scorer: Fraction of photos whose mean score by the scorer is outside ``MIDDLE``, 0..1.
        outside: ``outside_scorer / outside_people``; NaN if ``outside_people`` is 0.
        emd: Mean EMD between the scorer's votes and people's, in score points.
        mean_votes: Mean EMD of answering each photo with the mean human vote distribution of these photos.
        floor: Mean EMD of the best constant answer.
        skill: 1 - emd / floor: 1 is perfect, 0 is no better than the constant.
        skill_bound: One-sided lower bound of the skill at level ``significance``.
        bins: Tenths of the photos, from the lowest predictions to the highest.
        fault: Reason why an estimate is undefined; empty if all are defined.
    """

    photos: int
    slope: Estimate
    intercept: Estimate
    spread: Estimate
    outside_people: Estimate
    outside_scorer: Estimate
    outside: Estimate
    emd: Estimate
    mean_votes: Estimate
    floor: Estimate
    skill: Estimate
    skill_bound: float
    bins: list[CalibrationBin]
    fault: str = ""


def calibrate(predictions: Predictions, settings: Evaluation) -> Calibration:
    """Measure the calibration of mean scores, with bootstrap intervals over photos.

    The floor is the EMD of the best constant answer: the median of the photos' cumulative votes, since the median
    minimises absolute distances. The mean human distribution is an easier baseline (its EMD on MEBeauty is 4 % larger),
    which a collapsed scorer could beat.

    Args:
        predictions: Predictions on the test split.
        settings: Evaluation settings: resamples, confidence, significance and seed.
    """
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    distance = regression.emd_per_photo(predictions.truth, predictions.scorer)
    mean_votes = _distances_to(predictions.truth.mean(axis=0), predictions.truth)
    median = np.diff(np.median(np.cumsum(predictions.truth, axis=1), axis=0), prepend=0)
    terms = _summands(truth, predicted, distance, mean_votes, _distances_to(median, predictions.truth))
    point_estimates = _estimates_from_sums(np.ones((1, len(truth))) @ terms)
    clusters = bootstrap.group_indices(predictions.groups, len(truth))
    draws = _estimates_from_sums(
        np.concatenate(
            [weights @ terms for weights in bootstrap.resample_counts(clusters, settings.bootstrap, settings.seed)]
        )
    )
    estimates = {
        name: Estimate(float(value[0]), *bootstrap.percentile_interval(draws[name], settings.confidence))
        for name, value in point_estimates.items()
    }
    return Calibration(
        photos=len(truth),
        **estimates,
        skill_bound=float(np.quantile(draws["skill"], settings.significance)),
        bins=_bins(truth, predicted, settings.confidence),
        fault=regression.why_undefined(truth, predicted),
    )


def gates(calibration: Calibration, settings: Evaluation) -> list[GateResult]:
    """Return the gates on spread, slope, share of extreme scores, and skill over the best constant answer.

    At a slope of one half, a constant answer has the same squared error as an unbiased scorer. The slope needs no upper
    bound: slope = LCC / spread, so the gate on the spread bounds it.
    """
    return [
        _minimum_gate(
            "spread", "Does not collapse to the middle", "the spread of predictions over that of people's means",
            calibration.spread, settings.minimum_spread, calibration, settings,
        ),
        _minimum_gate(
            "slope", "Keeps to people's scale", "the rise of people's mean score with a point of the scorer's",
            calibration.slope, settings.minimum_slope, calibration, settings,
        ),
        _outside_gate(calibration, settings),
        _floor_gate(calibration, settings),
    ]  # fmt: skip


def _minimum_gate(
    key: GateKey,
    name: str,
    metric: str,
    estimate: Estimate,
    threshold: float,
    calibration: Calibration,
    settings: Evaluation,
) -> GateResult:
    if not math.isfinite(estimate.value):
        return GateResult(key, name, metric, math.nan, threshold, "failed", _undefined_reason(metric, calibration))
    reason = (
        f"{metric} is {estimate.value:.3f} ({estimate.interval(settings.confidence)} on"
        f" {calibration.photos:,} photos); it has to be at least {threshold:g}."
    )
    return GateResult(key, name, metric, estimate.value, threshold, gate_outcome(estimate.value >= threshold), reason)


def _outside_gate(calibration: Calibration, settings: Evaluation) -> GateResult:
    def gate(passed: bool, reason: str, value: float = math.nan) -> GateResult:
        name, limit = "Gives high and low scores", settings.minimum_outside
        return GateResult("outside", name, metric, value, limit, gate_outcome(passed), reason)

    metric = f"share of scores outside {MIDDLE[0]}-{MIDDLE[1]} over people's share"
    people, scorer, ratio = calibration.outside_people.value, calibration.outside_scorer.value, calibration.outside
    if not math.isfinite(scorer):
        return gate(False, _undefined_reason(f"the {metric}", calibration))
    if people == 0:
        return gate(True, f"people rate none of these photos outside {MIDDLE[0]}-{MIDDLE[1]}, so the scorer need not.")
    reason = (
        f"the scorer rates {100 * scorer:.1f} % of the photos outside {MIDDLE[0]}-{MIDDLE[1]} and people"
        f" {100 * people:.1f} %: {ratio.value:.3f} times as many ({ratio.interval(settings.confidence)}); it has"
        f" to be at least {settings.minimum_outside:g} times."
    )
    return gate(ratio.value >= settings.minimum_outside, reason, ratio.value)


def _floor_gate(calibration: Calibration, settings: Evaluation) -> GateResult:
    name, metric = "Tells more than a constant", "1 - EMD / EMD of the best constant answer"
    skill, bound = calibration.skill, calibration.skill_bound
    if not math.isfinite(skill.value):
        reason = _undefined_reason("the skill beside a constant answer", calibration)
        return GateResult("emd_floor", name, metric, math.nan, 0.0, "failed", reason)
    reason = (
        f"the EMD is {calibration.emd.value:.3f}; answering each photo with people's mean distribution has"
        f" {calibration.mean_votes.value:.3f}, and no constant answer less than {calibration.floor.value:.3f}. The"
        f" scorer's is {100 * skill.value:.1f} % below that, and by at least {100 * bound:.1f} % but for a chance of"
        f" {100 * settings.significance:g} %; that has to be above 0."
    )
    return GateResult("emd_floor", name, metric, skill.value, 0.0, gate_outcome(bound > _EPSILON), reason)


def _undefined_reason(subject: str, calibration: Calibration) -> str:
    why = calibration.fault or "people's votes do not differ"
    return f"{subject} could not be computed ({why}), and a missing metric fails."


def _distances_to(constant: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return regression.emd_per_photo(truth, np.broadcast_to(constant, truth.shape))


def _summands(truth: np.ndarray, predicted: np.ndarray, *distances: np.ndarray) -> np.ndarray:
    """Return the terms of each photo that ``_estimates_from_sums`` reads sums of, [n, 12]."""
    # Scores are centred before they are squared: large squares would lose precision.
    middle = truth.mean()
    t, p, ones = truth - middle, predicted - middle, np.ones(len(truth))
    outside = [
        np.where(np.isfinite(scores), (scores < MIDDLE[0]) | (scores > MIDDLE[1]), np.nan)
        for scores in (truth, predicted)
    ]
    return np.stack([ones, t, p, t * t, p * p, t * p, *outside, *distances, middle * ones], axis=1)


def _estimates_from_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return each estimate of ``Calibration``, [draws], from sums [draws, 12] over the photos drawn."""
    n, *rest = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        t, p, tt, pp, tp, people, scorer, emd, mean_votes, floor, middle = (column / n for column in rest)
        variance_t, variance_p = (np.where(v > _EPSILON**2, v, np.nan) for v in (tt - t * t, pp - p * p))
        slope = (tp - t * p) / variance_p
        return {
            "slope": slope,
            "intercept": middle + t - slope * (middle + p),
            "spread": np.sqrt(np.maximum(pp - p * p, 0) / variance_t),
            "outside_people": people,
            "outside_scorer": scorer,
            "outside": np.where(people > 0, scorer / people, np.nan),
            "emd": emd,
            "mean_votes": mean_votes,
            "floor": floor,
            "skill": np.where(floor > _EPSILON, 1 - emd / floor, np.nan),
        }


def _bins(truth: np.ndarray, predicted: np.ndarray, confidence: float) -> list[CalibrationBin]:
    return [
        CalibrationBin(
            float(predicted[indices].mean()),
            float(truth[indices].mean()),
            *_interval_of_mean(truth[indices], confidence),
            len(indices),
        )
        for indices in np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(predicted)))
    ]


def _interval_of_mean(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return Student's t interval of the mean; NaN for a single value, whose spread is unknown."""
    if len(values) < 2:
        return math.nan, math.nan
    half_width = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half_width), float(values.mean() + half_width)
