"""The gates between a trained scorer and the published model, and the decision that they lead to."""

import math
from dataclasses import dataclass
from typing import Literal

from components.evaluation.champion import Champion, in_short
from components.evaluation.measurements import Estimate, Measurements
from components.scorer.settings import Evaluation

Verdict = Literal["publish", "refused", "failed"]


@dataclass(frozen=True)
class Gate:
    """One condition for publishing.

    Attributes:
        name: what it asks for, in words.
        metric: what it looks at.
        value: of the metric; NaN when it could not be measured.
        threshold: that the value is held against.
        verdict: "passed", "failed", or "not judged" where what it needs could not be had.
        reason: one sentence.
    """

    name: str
    metric: str
    value: float
    threshold: float
    verdict: Literal["passed", "failed", "not judged"]
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether to publish, and why.

    Attributes:
        verdict: "publish"; "refused" when a gate failed; "failed" when not all of them could be judged, which
            asks a person to look.
        reasons: sentences: every gate's when all passed, those of the others when not.
        gates: all of them; empty when the evaluation broke off before.
    """

    verdict: Verdict
    reasons: list[str]
    gates: list[Gate]

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if self.verdict == "publish":
            return f"Publish: the scorer passed all {len(self.gates)} gates."
        if not self.gates:
            return "Failed: the scorer could not be evaluated. Nothing is published."
        passed = sum(gate.verdict == "passed" for gate in self.gates)
        if self.verdict == "refused":
            return f"Refused: the scorer passed {passed} of {len(self.gates)} gates. Nothing is published."
        return "Failed: not every gate could be judged, and a person has to look. Nothing is published."


def decide(measured: Measurements, champion: Champion | None, settings: Evaluation) -> Decision:
    """Hold the measurements against every gate.

    Args:
        measured: on the test split.
        champion: the published model; None when there is none yet.
        settings: the thresholds.
    """
    gates = [
        _within("Ranks photos as people do", "srcc", measured, settings, at_least=settings.minimum_srcc),
        _within("Votes as people do", "emd", measured, settings, at_most=settings.maximum_emd),
        _within("Does not collapse to the middle", "spread", measured, settings, at_least=settings.minimum_spread),
        _against(champion, measured, settings),
    ]
    verdicts = {gate.verdict for gate in gates}
    verdict: Verdict = "failed" if "not judged" in verdicts else "refused" if "failed" in verdicts else "publish"
    telling = gates if verdict == "publish" else [gate for gate in gates if gate.verdict != "passed"]
    return Decision(verdict, [f"{gate.name}: {gate.reason}" for gate in telling], gates)


def broken_off(error: BaseException) -> Decision:
    """The decision when the evaluation could not be completed."""
    return Decision("failed", [f"the evaluation broke off with {in_short(error)}"], [])


_WORDS = {
    "srcc": "the rank correlation with people (SRCC)",
    "emd": "the distance between predicted and people's votes (EMD, score points)",
    "spread": "the spread of predictions over that of people's means",
}


def _within(
    name: str,
    metric: str,
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
        return Gate(name, metric, estimate.value, threshold, "failed", reason)
    reason = (
        f"{_WORDS[metric]} is {estimate.value:.3f} ({_interval(estimate, settings)} on {measured.photos:,} photos); "
        f"it has to be {bound} {threshold:g}."
    )
    passed = at_least <= estimate.value <= at_most
    return Gate(name, metric, estimate.value, threshold, "passed" if passed else "failed", reason)


def _against(champion: Champion | None, measured: Measurements, settings: Evaluation) -> Gate:
    """Not worse than the champion on the same photos.

    A loss within the margin passes as long as it may be chance: with the whole paired interval below zero the
    challenger is worse, however little, and passing it each time would let the published model decay.
    """
    margin = -settings.champion_margin

    def gate(verdict: Literal["passed", "failed", "not judged"], reason: str, value: float = math.nan) -> Gate:
        return Gate("Not worse than the champion", "srcc difference", value, margin, verdict, reason)

    if champion is None:
        return gate("passed", "there is no champion yet, so the first model passes this gate unopposed.")
    if champion.error:
        return gate("not judged", f"{champion.title} could not be scored: {champion.error}")
    if measured.champion is None or measured.difference is None:
        return gate("not judged", f"{champion.title} was not scored.")
    if not math.isfinite(measured.champion["srcc"].value):
        return gate("not judged", f"{champion.title} has no rank correlation on these photos: it may score all alike.")
    difference = measured.difference["srcc"]
    if not math.isfinite(difference.value):
        return gate(
            "failed", f"its SRCC could not be computed ({_why_undefined(measured)}), and a missing metric fails."
        )
    words = (
        f"SRCC {measured.challenger['srcc'].value:.3f} against {measured.champion['srcc'].value:.3f} of "
        f"{champion.title} on the same photos, {difference.value:+.3f} (paired {_interval(difference, settings)})"
    )
    if difference.value < margin:
        return gate("failed", f"{words}; it has to be at least {margin:+g}.", difference.value)
    if difference.high < 0:
        return gate(
            "failed",
            f"{words}; less than {margin:+g} is lost, but the whole interval lies below 0: it is no chance.",
            difference.value,
        )
    return gate(
        "passed",
        f"{words}; it has to be at least {margin:+g}, and its interval must not lie below 0.",
        difference.value,
    )


def _interval(estimate: Estimate, settings: Evaluation) -> str:
    return f"{100 * settings.confidence:g} % interval {estimate.low:.3f} to {estimate.high:.3f}"


def _why_undefined(measured: Measurements) -> str:
    spread = measured.challenger["spread"].value
    if not math.isfinite(measured.challenger["mae"].value):
        return "a prediction is no number"
    if not math.isfinite(spread):
        return "people's mean scores do not vary"
    return "every photo gets the same score" if spread < 1e-3 else "too few photos"
