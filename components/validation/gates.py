"""Gates between a data set and its training."""

import math
from dataclasses import replace

from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Validation
from components.validation.leakage import KINDS, Leakage
from components.validation.results import Findings
from components.validation.statistics.measured_features import Quantity

_CHANCE = 0.05  # p-value below which the text calls a shift more than chance; no gate depends on it


def all_gates(found: Findings, settings: Validation) -> list[Gate]:
    """Return all gates of a validation."""
    return [
        new_labels(found, settings),
        label_drift(found, settings),
        photo_drift(found, settings),
        leaks(found.leakage),
    ]


def new_labels(found: Findings, settings: Validation) -> Gate:
    """Return the gate on the number of new or changed labels since the champion."""
    minimum = settings.minimum_new_labels
    gate = Gate("new_labels", "New labels", "new or changed labels", math.nan, float(minimum), "passed", "")
    if not found.comparable:
        return _without_comparison(gate, found)
    reason = (
        f"{found.new:,} of {found.learnt:,} labels to learn from are new or changed since version "
        f"{found.champion.version}; "
        + (f"at least {minimum:,} are asked for" if minimum else "a run is wanted however few they are")
    )
    return _judged(gate, found.new, found.new >= minimum, reason)


def label_drift(found: Findings, settings: Validation) -> Gate:
    """Return the gate on the distance of people's mean scores from the champion's."""
    maximum = settings.maximum_label_drift
    gate = Gate("label_drift", "Label drift", "Wasserstein distance of mean scores", math.nan, maximum, "passed", "")
    if not found.comparable:
        return _without_comparison(gate, found)
    shift = found.since.score
    chance = "more than chance" if shift.p < _CHANCE else "which may be chance"
    reason = (
        f"the mean scores lie {shift.distance:.2f} points from the champion's, {chance} (on average {shift.after:.2f}, "
        f"they were {shift.before:.2f}); at most {maximum:g} is allowed"
    )
    return _judged(gate, shift.distance, shift.distance <= maximum, reason)


def photo_drift(found: Findings, settings: Validation) -> Gate:
    """Return the gate on the largest shift of the rated photos' appearance from the champion's."""
    maximum = settings.maximum_photo_drift
    gate = Gate("photo_drift", "Photo drift", "largest shift of a look, deviations", math.nan, maximum, "passed", "")
    if not found.comparable:
        return _without_comparison(gate, found)
    largest = found.since.largest
    if largest is None:
        return _judged(gate, math.nan, False, "no look of the photos could be compared")
    feature, shift = largest
    reason = (
        f"the rated photos are {feature.more if shift.size > 0 else feature.less} than the champion's by "
        f"{abs(shift.size):.2f} standard deviations ({feature.name} is {_figure(feature, shift.after)} and was "
        f"{_figure(feature, shift.before)}), and nothing else has moved as far; at most {maximum:g} is allowed"
    )
    return _judged(gate, abs(shift.size), abs(shift.size) <= maximum, reason)


def leaks(found: Leakage) -> Gate:
    """Return the gate on held-out photos that are also in another rated split."""
    gate = Gate("leakage", "Leakage", "held-out photos seen in another split", math.nan, 0.0, "passed", "")
    count = found.photos
    if not count:
        criteria = "its file, its look or its group" if found.distance is not None else "its file or its group"
        return _judged(gate, 0, True, f"no photo of one rated split is in another, by {criteria}")
    kinds = found.found.drop_duplicates(["split", "photo"])["kind"].value_counts()
    by_kind = ", ".join(f"{kinds[kind]:,} as {kind}" for kind in KINDS if kind in kinds)
    reason = (
        f"{count:,} held-out {'photo is' if count == 1 else 'photos are'} in another split too ({by_kind}), so the "
        "scorer would be judged on what it has seen; the page of the validation names them"
    )
    return _judged(gate, count, False, reason)


def _without_comparison(gate: Gate, found: Findings) -> Gate:
    """Return a gate for a data set that cannot be compared with the champion's.

    Without a champion the gate passes: there is nothing to protect. If the champion has no profile, the gate is not
    judged and only warns. Only a new version can bring a profile, so a blocking gate would block for ever.
    """
    if found.champion is None:
        reason = "there is no champion yet, so every label is new and there is nothing to drift from"
        return replace(gate, reason=reason)
    reason = f"{found.champion.error}; nothing can be compared until the next version brings its own"
    return replace(gate, verdict="not judged", severity="warn", reason=reason)


def _judged(gate: Gate, value: float, passed: bool, reason: str) -> Gate:
    return replace(gate, value=float(value), verdict=outcome(passed), reason=reason)


def _figure(feature: Quantity, mean: float) -> str:
    return f"{feature.shown(mean):.3g}"
