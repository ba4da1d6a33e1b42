"""Gates between a data set and its training."""

import math
from dataclasses import replace

from components.scorer.run.decision import GateResult, gate_outcome
from components.scorer.settings import Validation
from components.validation.leakage import KINDS, LeakageReport
from components.validation.results import ValidationResults
from components.validation.statistics.measured_features import MeasuredFeature

_SIGNIFICANCE = 0.05  # p-value below which the text calls a shift more than chance; no gate depends on it


def all_gates(results: ValidationResults, settings: Validation) -> list[GateResult]:
    """Return all gates of a validation."""
    return [
        new_labels_gate(results, settings),
        label_drift_gate(results, settings),
        photo_drift_gate(results, settings),
        leakage_gate(results.leakage),
    ]


def new_labels_gate(results: ValidationResults, settings: Validation) -> GateResult:
    """Return the gate on the number of new or changed labels since the champion."""
    minimum = settings.minimum_new_labels
    gate = GateResult("new_labels", "New labels", "new or changed labels", math.nan, float(minimum), "passed", "")
    if results.champion is None or not results.comparable:
        return _without_comparison(gate, results)
    reason = (
        f"{results.new_label_count:,} of {results.label_count:,} labels to learn from are new or changed since version "
        f"{results.champion.version}; "
        + (f"at least {minimum:,} are asked for" if minimum else "a run is wanted however few they are")
    )
    return _with_verdict(gate, results.new_label_count, results.new_label_count >= minimum, reason)


def label_drift_gate(results: ValidationResults, settings: Validation) -> GateResult:
    """Return the gate on the distance of people's mean scores from the champion's."""
    maximum = settings.maximum_label_drift
    gate = GateResult(
        "label_drift", "Label drift", "Wasserstein distance of mean scores", math.nan, maximum, "passed", ""
    )
    if results.champion_drift is None:
        return _without_comparison(gate, results)
    shift = results.champion_drift.score_shift
    chance = "more than chance" if shift.p_value < _SIGNIFICANCE else "which may be chance"
    reason = (
        f"the mean scores lie {shift.wasserstein:.2f} points from the champion's, {chance} (on average"
        f" {shift.after:.2f}, they were {shift.before:.2f}); at most {maximum:g} is allowed"
    )
    return _with_verdict(gate, shift.wasserstein, shift.wasserstein <= maximum, reason)


def photo_drift_gate(results: ValidationResults, settings: Validation) -> GateResult:
    """Return the gate on the largest shift of the rated photos' appearance from the champion's."""
    maximum = settings.maximum_photo_drift
    gate = GateResult(
        "photo_drift", "Photo drift", "largest shift of a look, deviations", math.nan, maximum, "passed", ""
    )
    if results.champion_drift is None:
        return _without_comparison(gate, results)
    largest = results.champion_drift.largest_shift
    if largest is None:
        return _with_verdict(gate, math.nan, False, "no look of the photos could be compared")
    feature, shift = largest
    reason = (
        f"the rated photos are {feature.more if shift.cohens_d > 0 else feature.less} than the champion's by "
        f"{abs(shift.cohens_d):.2f} standard deviations ({feature.name} is {_format_mean(feature, shift.after)} and "
        f"was {_format_mean(feature, shift.before)}), and nothing else has moved as far; at most {maximum:g} is "
        "allowed"
    )
    return _with_verdict(gate, abs(shift.cohens_d), abs(shift.cohens_d) <= maximum, reason)


def leakage_gate(leakage: LeakageReport) -> GateResult:
    """Return the gate on held-out photos that are also in another rated split."""
    gate = GateResult("leakage", "Leakage", "held-out photos seen in another split", math.nan, 0.0, "passed", "")
    count = leakage.photo_count
    if not count:
        criteria = "its file, its look or its group" if leakage.distance is not None else "its file or its group"
        return _with_verdict(gate, 0, True, f"no photo of one rated split is in another, by {criteria}")
    kinds = leakage.matches.drop_duplicates(["split", "photo"])["kind"].value_counts()
    by_kind = ", ".join(f"{kinds[kind]:,} as {kind}" for kind in KINDS if kind in kinds)
    reason = (
        f"{count:,} held-out {'photo is' if count == 1 else 'photos are'} in another split too ({by_kind}), so the "
        "scorer would be judged on what it has seen; the page of the validation names them"
    )
    return _with_verdict(gate, count, False, reason)


def _without_comparison(gate: GateResult, results: ValidationResults) -> GateResult:
    """Return a gate for a data set that cannot be compared with the champion's.

    Without a champion the gate passes: there is nothing to protect. If the champion has no profile, the gate is not
    judged and only warns. Only a new version can bring a profile, so a blocking gate would block for ever.
    """
    if results.champion is None:
        reason = "there is no champion yet, so every label is new and there is nothing to drift from"
        return replace(gate, reason=reason)
    reason = f"{results.champion.error}; nothing can be compared until the next version brings its own"
    return replace(gate, verdict="not judged", severity="warn", reason=reason)


def _with_verdict(gate: GateResult, value: float, passed: bool, reason: str) -> GateResult:
    return replace(gate, value=float(value), verdict=gate_outcome(passed), reason=reason)


def _format_mean(feature: MeasuredFeature, mean: float) -> str:
    return f"{feature.to_display_unit(mean):.3g}"
