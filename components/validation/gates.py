"""The gates between a data set and the training."""

import math
from dataclasses import replace

from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Validation
from components.validation.leakage import KINDS, Leakage
from components.validation.results import Findings
from components.validation.statistics.measured_features import Quantity

_CHANCE = 0.05  # below it a shift is called more than chance; the word decides nothing


def all_gates(found: Findings, settings: Validation) -> list[Gate]:
    """Every gate of a validation."""
    return [
        new_labels(found, settings),
        label_drift(found, settings),
        photo_drift(found, settings),
        leaks(found.leakage),
    ]


def new_labels(found: Findings, settings: Validation) -> Gate:
    """Whether there is enough to learn that the champion has not learnt."""
    least = settings.minimum_new_labels
    gate = Gate("new_labels", "New labels", "new or changed labels", math.nan, float(least), "passed", "")
    if not found.comparable:
        return _without_comparison(gate, found)
    reason = (
        f"{found.new:,} of {found.learnt:,} labels to learn from are new or changed since version "
        f"{found.champion.version}; "
        + (f"at least {least:,} are asked for" if least else "a run is wanted however few they are")
    )
    return _judged(gate, found.new, found.new >= least, reason)


def label_drift(found: Findings, settings: Validation) -> Gate:
    """Whether people's scores are on the champion's scale still."""
    most = settings.maximum_label_drift
    gate = Gate("label_drift", "Label drift", "Wasserstein distance of mean scores", math.nan, most, "passed", "")
    if not found.comparable:
        return _without_comparison(gate, found)
    moved = found.since.score
    chance = "more than chance" if moved.p < _CHANCE else "which may be chance"
    reason = (
        f"the mean scores lie {moved.distance:.2f} points from the champion's, {chance} (on average {moved.after:.2f}, "
        f"they were {moved.before:.2f}); at most {most:g} is allowed"
    )
    return _judged(gate, moved.distance, moved.distance <= most, reason)


def photo_drift(found: Findings, settings: Validation) -> Gate:
    """Whether the rated photos look as the champion's did."""
    most = settings.maximum_photo_drift
    gate = Gate("photo_drift", "Photo drift", "largest shift of a look, deviations", math.nan, most, "passed", "")
    if not found.comparable:
        return _without_comparison(gate, found)
    largest = found.since.largest
    if largest is None:
        return _judged(gate, math.nan, False, "no look of the photos could be compared")
    quantity, moved = largest
    reason = (
        f"the rated photos are {quantity.more if moved.size > 0 else quantity.less} than the champion's by "
        f"{abs(moved.size):.2f} standard deviations ({quantity.name} is {_figure(quantity, moved.after)} and was "
        f"{_figure(quantity, moved.before)}), and nothing else has moved as far; at most {most:g} is allowed"
    )
    return _judged(gate, abs(moved.size), abs(moved.size) <= most, reason)


def leaks(found: Leakage) -> Gate:
    """Whether anything that is held out was seen before."""
    gate = Gate("leakage", "Leakage", "held-out photos seen in another split", math.nan, 0.0, "passed", "")
    number = found.photos
    if not number:
        sought = "its file, its look or its group" if found.distance is not None else "its file or its group"
        return _judged(gate, 0, True, f"no photo of one rated split is in another, by {sought}")
    kinds = found.found.drop_duplicates(["split", "photo"])["kind"].value_counts()
    by_kind = ", ".join(f"{kinds[kind]:,} as {kind}" for kind in KINDS if kind in kinds)
    reason = (
        f"{number:,} held-out {'photo is' if number == 1 else 'photos are'} in another split too ({by_kind}), so the "
        "scorer would be judged on what it has seen; the page of the validation names them"
    )
    return _judged(gate, number, False, reason)


def _without_comparison(gate: Gate, found: Findings) -> Gate:
    """A gate that compares with the champion's data, where these are not to be had.

    Without a champion there is nothing to protect: it passes. Without the champion's profile it is not judged, and
    only warns: nothing but a new version can bring a profile, so a gate that blocked would block for ever.
    """
    if found.champion is None:
        reason = "there is no champion yet, so every label is new and there is nothing to drift from"
        return replace(gate, reason=reason)
    reason = f"{found.champion.error}; nothing can be compared until the next version brings its own"
    return replace(gate, verdict="not judged", severity="warn", reason=reason)


def _judged(gate: Gate, value: float, passed: bool, reason: str) -> Gate:
    return replace(gate, value=float(value), verdict=outcome(passed), reason=reason)


def _figure(quantity: Quantity, mean: float) -> str:
    return f"{quantity.shown(mean):.3g}"
