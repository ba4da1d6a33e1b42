"""All gates that a trained scorer must pass to be published, and the gates on its agreement with people."""

import math

from components.evaluation import export_probe
from components.evaluation.checks import calibration, champion_comparison, robustness, slices
from components.evaluation.checks.metric_estimates import Measurements
from components.evaluation.results import EvaluationResults
from components.scorer.run.decision import GateResult, gate_outcome
from components.scorer.settings import Evaluation, GateKey


def all_gates(results: EvaluationResults, settings: Evaluation) -> list[GateResult]:
    """Return all gates on the evaluation results, in the order of the report."""
    return [
        *agreement_gates(results.measured, results.calibration.fault, settings),
        *calibration.gates(results.calibration, settings),
        *champion_comparison.gates(results.comparison, results.champion, settings),
        *slices.gates(results.slices, settings),
        *robustness.gates(results.robustness, settings),
        *export_probe.gates(results.export_probe, settings),
    ]


def agreement_gates(measured: Measurements, fault: str, settings: Evaluation) -> list[GateResult]:
    """Return the gates on the number of test photos and on the scorer's agreement with people (SRCC, EMD).

    Args:
        measured: Metrics on the test split.
        fault: Reason why a metric is undefined; empty if all are defined.
        settings: Evaluation settings with the thresholds.
    """
    enough = GateResult(
        "test_photos",
        "Judged on enough photos",
        "test photos",
        measured.photos,
        settings.minimum_test_photos,
        gate_outcome(measured.photos >= settings.minimum_test_photos),
        f"the test split has {measured.photos:,} photos; it has to have at least {settings.minimum_test_photos:,}.",
    )
    return [
        enough,
        _bound_gate("srcc", "Ranks photos as people do", measured, fault, settings, at_least=settings.minimum_srcc),
        _bound_gate("emd", "Votes as people do", measured, fault, settings, at_most=settings.maximum_emd),
    ]


_METRIC_DESCRIPTIONS = {
    "srcc": "the rank correlation with people (SRCC)",
    "emd": "the distance between predicted and people's votes (EMD, score points)",
}


def _bound_gate(
    metric: GateKey,
    name: str,
    measured: Measurements,
    fault: str,
    settings: Evaluation,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> GateResult:
    """Return a gate on one metric of the challenger, with a lower or an upper bound."""
    estimate = measured.challenger[metric]
    bound, threshold = ("at least", at_least) if at_least > -math.inf else ("at most", at_most)
    if not math.isfinite(estimate.value):
        reason = f"{_METRIC_DESCRIPTIONS[metric]} could not be computed ({fault}), and a missing metric fails."
        return GateResult(metric, name, metric.upper(), estimate.value, threshold, "failed", reason)
    reason = (
        f"{_METRIC_DESCRIPTIONS[metric]} is {estimate.value:.3f} ({estimate.interval(settings.confidence)} on"
        f" {measured.photos:,} photos); it has to be {bound} {threshold:g}."
    )
    passed = at_least <= estimate.value <= at_most
    return GateResult(metric, name, metric.upper(), estimate.value, threshold, gate_outcome(passed), reason)
