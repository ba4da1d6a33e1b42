"""All gates between a trained scorer and the published model, and those on its agreement with people."""

import math

from components.evaluation import behaviour, calibration, comparison, serving, slices
from components.evaluation.findings import Findings
from components.evaluation.measurements import Estimate, Measurements
from components.scorer.decision import Gate
from components.scorer.settings import Evaluation, GateKey


def all_gates(found: Findings, settings: Evaluation) -> list[Gate]:
    """Every gate on what was found, in the order in which people read them."""
    return [
        *agreement(found.measured, settings),
        *calibration.gates(found.calibration, settings),
        *comparison.gates(found.comparison, found.champion, settings),
        *slices.gates(found.slices, settings),
        *behaviour.gates(found.behaviours, settings),
        *serving.gates(found.serving, settings),
    ]


def agreement(measured: Measurements, settings: Evaluation) -> list[Gate]:
    """Whether there are photos enough to judge by, and whether the scorer agrees with people on them."""
    enough = Gate(
        "test_photos",
        "Judged on enough photos",
        "test photos",
        measured.photos,
        settings.minimum_test_photos,
        "passed" if measured.photos >= settings.minimum_test_photos else "failed",
        f"the test split has {measured.photos:,} photos; it has to have at least {settings.minimum_test_photos:,}.",
    )
    return [
        enough,
        _within("srcc", "Ranks photos as people do", measured, settings, at_least=settings.minimum_srcc),
        _within("emd", "Votes as people do", measured, settings, at_most=settings.maximum_emd),
    ]


_WORDS = {
    "srcc": "the rank correlation with people (SRCC)",
    "emd": "the distance between predicted and people's votes (EMD, score points)",
}


def _within(
    metric: GateKey,
    name: str,
    measured: Measurements,
    settings: Evaluation,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> Gate:
    """A gate on one metric of the challenger with one bound."""
    estimate = measured.challenger[metric]
    bound, threshold = ("at least", at_least) if at_least > -math.inf else ("at most", at_most)
    if not math.isfinite(estimate.value):
        reason = f"{_WORDS[metric]} could not be computed ({_why_undefined(measured)}), and a missing metric fails."
        return Gate(metric, name, metric.upper(), estimate.value, threshold, "failed", reason)
    reason = (
        f"{_WORDS[metric]} is {estimate.value:.3f} ({_interval(estimate, settings)} on {measured.photos:,} photos); "
        f"it has to be {bound} {threshold:g}."
    )
    passed = at_least <= estimate.value <= at_most
    return Gate(metric, name, metric.upper(), estimate.value, threshold, "passed" if passed else "failed", reason)


def _interval(estimate: Estimate, settings: Evaluation) -> str:
    return f"{100 * settings.confidence:g} % interval {estimate.low:.3f} to {estimate.high:.3f}"


def _why_undefined(measured: Measurements) -> str:
    spread = measured.challenger["spread"].value
    if not math.isfinite(measured.challenger["mae"].value):
        return "a prediction is no number"
    if not math.isfinite(spread):
        return "people's mean scores do not vary"
    return "every photo gets the same score" if spread < 1e-3 else "too few photos"
