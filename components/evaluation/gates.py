"""All gates that a trained scorer must pass to be published, and the gates on its agreement with people."""

import math

from components.evaluation import export_probe
from components.evaluation.checks import calibration, champion_comparison, robustness, slices
from components.evaluation.checks.metric_estimates import Measurements
from components.evaluation.results import Findings
from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Evaluation, GateKey


def all_gates(found: Findings, settings: Evaluation) -> list[Gate]:
    """Return all gates on the evaluation results, in the order of the report."""
    return [
        *agreement(found.measured, found.calibration.fault, settings),
        *calibration.gates(found.calibration, settings),
        *champion_comparison.gates(found.comparison, found.champion, settings),
        *slices.gates(found.slices, settings),
        *robustness.gates(found.behaviours, settings),
        *export_probe.gates(found.serving, settings),
    ]


def agreement(measured: Measurements, fault: str, settings: Evaluation) -> list[Gate]:
    """Return the gates on the number of test photos and on the scorer's agreement with people (SRCC, EMD).

    Args:
        measured: Metrics on the test split.
        fault: Reason why a metric is undefined; empty if all are defined.
        settings: Evaluation settings with the thresholds.
    """
    enough = Gate(
        "test_photos",
        "Judged on enough photos",
        "test photos",
        measured.photos,
        settings.minimum_test_photos,
        outcome(measured.photos >= settings.minimum_test_photos),
        f"the test split has {measured.photos:,} photos; it has to have at least {settings.minimum_test_photos:,}.",
    )
    return [
        enough,
        _within("srcc", "Ranks photos as people do", measured, fault, settings, at_least=settings.minimum_srcc),
        _within("emd", "Votes as people do", measured, fault, settings, at_most=settings.maximum_emd),
    ]


_WORDS = {
    "srcc": "the rank correlation with people (SRCC)",
    "emd": "the distance between predicted and people's votes (EMD, score points)",
}


def _within(
    metric: GateKey,
    name: str,
    measured: Measurements,
    fault: str,
    settings: Evaluation,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> Gate:
    """Return a gate on one metric of the challenger, with a lower or an upper bound."""
    estimate = measured.challenger[metric]
    bound, threshold = ("at least", at_least) if at_least > -math.inf else ("at most", at_most)
    if not math.isfinite(estimate.value):
        reason = f"{_WORDS[metric]} could not be computed ({fault}), and a missing metric fails."
        return Gate(metric, name, metric.upper(), estimate.value, threshold, "failed", reason)
    reason = (
        f"{_WORDS[metric]} is {estimate.value:.3f} ({estimate.interval(settings.confidence)} on"
        f" {measured.photos:,} photos); it has to be {bound} {threshold:g}."
    )
    passed = at_least <= estimate.value <= at_most
    return Gate(metric, name, metric.upper(), estimate.value, threshold, outcome(passed), reason)
