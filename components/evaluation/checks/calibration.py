"""Whether scores mean what they say: their scale, their spread, and whether they tell more than a constant."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from components.evaluation.checks.metric_estimates import Estimate
from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import bootstrap, regression
from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Evaluation, GateKey

MIDDLE = (4, 7)
"""Scores between which a collapsed scorer stays; profiles are told apart by what lies outside."""

_BINS = 10
_LEAST = 1e-6  # of a skill: below it there is rounding only


@dataclass(frozen=True)
class Bin:
    """Photos that the scorer rates about alike: its mean score, people's with its interval, and how many they are."""

    predicted: float
    people: float
    low: float
    high: float
    photos: int


@dataclass(frozen=True)
class Calibration:
    """The scale of the scorer's mean scores beside people's.

    Attributes:
        photos: how many.
        slope: by how much people's mean rises where the scorer's rises by a point: 1 is calibrated, below it scores
            lie too far apart, above it too close together.
        intercept: people's mean, by that line, where the scorer says 0.
        spread: standard deviation of the scorer's means over that of people's.
        outside_people: share of photos whose mean by people is outside ``MIDDLE``.
        outside_scorer: the same by the scorer.
        outside: the latter over the former; NaN where people have none.
        emd: mean distance between the scorer's votes and people's, in score points.
        mean_votes: the same of answering each photo with the mean of all these photos' human votes.
        floor: the same of the constant answer that has the least.
        skill: 1 - emd / floor: 1 is perfect, 0 no better than the constant.
        skill_bound: which the skill exceeds but for a chance of ``significance``.
        bins: tenths of the photos, from the lowest predictions to the highest.
        fault: why something is undefined; empty when nothing is.
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
    bins: list[Bin]
    fault: str = ""


def calibrate(predictions: Predictions, settings: Evaluation) -> Calibration:
    """Measure the scale of scores, with intervals of photos drawn again and again.

    The floor is the hardest there is: no constant answer has a smaller EMD on these photos than the median of their
    cumulative votes, since the median minimises absolute distances. The mean human distribution is an easier one (on
    MEBeauty 4 % more), which a collapsed scorer could beat.

    Args:
        predictions: of the test split.
        settings: resamples, confidence, significance and seed.
    """
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    distance = regression.distances(predictions.truth, predictions.scorer)
    mean_votes = _distances_to(predictions.truth.mean(axis=0), predictions.truth)
    median = np.diff(np.median(np.cumsum(predictions.truth, axis=1), axis=0), prepend=0)
    parts = _parts(truth, predicted, distance, mean_votes, _distances_to(median, predictions.truth))
    whole = _measure(np.ones((1, len(truth))) @ parts)
    of_photo = bootstrap.cluster(predictions.groups, len(truth))
    draws = _measure(
        np.concatenate([weights @ parts for weights in bootstrap.redraws(of_photo, settings.bootstrap, settings.seed)])
    )
    estimates = {
        name: Estimate(float(value[0]), *bootstrap.interval(draws[name], settings.confidence))
        for name, value in whole.items()
    }
    return Calibration(
        photos=len(truth),
        **estimates,
        skill_bound=float(np.quantile(draws["skill"], settings.significance)),
        bins=_bins(truth, predicted, settings.confidence),
        fault=regression.why_undefined(truth, predicted),
    )


def gates(calibration: Calibration, settings: Evaluation) -> list[Gate]:
    """Whether scores are spread, scaled and placed as people's are, and tell more than a constant.

    A slope of one half is where a constant answer would have the same squared error as a scorer without bias. The slope
    has no upper bound of its own: it is LCC / spread, so that the gate on the spread sets one.
    """
    return [
        _at_least(
            "spread", "Does not collapse to the middle", "the spread of predictions over that of people's means",
            calibration.spread, settings.minimum_spread, calibration, settings,
        ),
        _at_least(
            "slope", "Keeps to people's scale", "the rise of people's mean score with a point of the scorer's",
            calibration.slope, settings.minimum_slope, calibration, settings,
        ),
        _outside(calibration, settings),
        _floor(calibration, settings),
    ]  # fmt: skip


def _at_least(
    key: GateKey,
    name: str,
    metric: str,
    estimate: Estimate,
    threshold: float,
    calibration: Calibration,
    settings: Evaluation,
) -> Gate:
    if not math.isfinite(estimate.value):
        return Gate(key, name, metric, math.nan, threshold, "failed", _undefined(metric, calibration))
    reason = (
        f"{metric} is {estimate.value:.3f} ({estimate.interval(settings.confidence)} on"
        f" {calibration.photos:,} photos); it has to be at least {threshold:g}."
    )
    return Gate(key, name, metric, estimate.value, threshold, outcome(estimate.value >= threshold), reason)


def _outside(calibration: Calibration, settings: Evaluation) -> Gate:
    def gate(passed: bool, reason: str, value: float = math.nan) -> Gate:
        return Gate("outside", "Gives high and low scores", metric, value, settings.minimum_outside, outcome(passed),
                    reason)  # fmt: skip

    metric = f"share of scores outside {MIDDLE[0]}-{MIDDLE[1]} over people's share"
    people, scorer, ratio = calibration.outside_people.value, calibration.outside_scorer.value, calibration.outside
    if not math.isfinite(scorer):
        return gate(False, _undefined(f"the {metric}", calibration))
    if people == 0:
        return gate(True, f"people rate none of these photos outside {MIDDLE[0]}-{MIDDLE[1]}, so the scorer need not.")
    reason = (
        f"the scorer rates {100 * scorer:.1f} % of the photos outside {MIDDLE[0]}-{MIDDLE[1]} and people"
        f" {100 * people:.1f} %: {ratio.value:.3f} times as many ({ratio.interval(settings.confidence)}); it has"
        f" to be at least {settings.minimum_outside:g} times."
    )
    return gate(ratio.value >= settings.minimum_outside, reason, ratio.value)


def _floor(calibration: Calibration, settings: Evaluation) -> Gate:
    name, metric = "Tells more than a constant", "1 - EMD / EMD of the best constant answer"
    skill, bound = calibration.skill, calibration.skill_bound
    if not math.isfinite(skill.value):
        reason = _undefined("the skill beside a constant answer", calibration)
        return Gate("emd_floor", name, metric, math.nan, 0.0, "failed", reason)
    reason = (
        f"the EMD is {calibration.emd.value:.3f}; answering each photo with people's mean distribution has"
        f" {calibration.mean_votes.value:.3f}, and no constant answer less than {calibration.floor.value:.3f}. The"
        f" scorer's is {100 * skill.value:.1f} % below that, and by at least {100 * bound:.1f} % but for a chance of"
        f" {100 * settings.significance:g} %; that has to be above 0."
    )
    return Gate("emd_floor", name, metric, skill.value, 0.0, outcome(bound > _LEAST), reason)


def _undefined(what: str, calibration: Calibration) -> str:
    why = calibration.fault or "people's votes do not differ"
    return f"{what} could not be computed ({why}), and a missing metric fails."


def _distances_to(constant: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return regression.distances(truth, np.broadcast_to(constant, truth.shape))


def _parts(truth: np.ndarray, predicted: np.ndarray, *distances: np.ndarray) -> np.ndarray:
    """What ``_measure`` needs the sums of, [n, 12]."""
    # From the middle of the scores, so that squares stay small beside what they are to tell apart.
    middle = truth.mean()
    t, p, one = truth - middle, predicted - middle, np.ones(len(truth))
    outside = [
        np.where(np.isfinite(scores), (scores < MIDDLE[0]) | (scores > MIDDLE[1]), np.nan)
        for scores in (truth, predicted)
    ]
    return np.stack([one, t, p, t * t, p * p, t * p, *outside, *distances, middle * one], axis=1)


def _measure(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Each estimate of ``Calibration``, [draws], from sums [draws, 12] over the photos drawn."""
    n, *rest = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        t, p, tt, pp, tp, people, scorer, emd, mean_votes, floor, middle = (each / n for each in rest)
        of_t, of_p = (np.where(v > _LEAST**2, v, np.nan) for v in (tt - t * t, pp - p * p))
        slope = (tp - t * p) / of_p
        return {
            "slope": slope,
            "intercept": middle + t - slope * (middle + p),
            "spread": np.sqrt(np.maximum(pp - p * p, 0) / of_t),
            "outside_people": people,
            "outside_scorer": scorer,
            "outside": np.where(people > 0, scorer / people, np.nan),
            "emd": emd,
            "mean_votes": mean_votes,
            "floor": floor,
            "skill": np.where(floor > _LEAST, 1 - emd / floor, np.nan),
        }


def _bins(truth: np.ndarray, predicted: np.ndarray, confidence: float) -> list[Bin]:
    return [
        Bin(
            float(predicted[part].mean()),
            float(truth[part].mean()),
            *_interval_of_mean(truth[part], confidence),
            len(part),
        )
        for part in np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(predicted)))
    ]


def _interval_of_mean(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's; NaN for a single value, which tells nothing of its spread."""
    if len(values) < 2:
        return math.nan, math.nan
    away = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - away), float(values.mean() + away)
