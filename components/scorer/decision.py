"""What the gates lead to: one decision a run, as a value and as ``decision.json``.

Validation begins it, evaluation makes it, push completes it, and the exit handler writes it when none of them could.
``decision.schema.json`` beside this file describes the record for those who read it with other programs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal

from components.scorer import storage
from components.scorer.settings import GateKey, Policy

Verdict = Literal["publish", "published", "forced", "refused", "skipped", "failed"]
"""What became of the run's model:

* ``publish``: every blocking gate passed, and push has still to do its part;
* ``published``: the version serves;
* ``forced``: gates said no, and a person overruled them with a reason;
* ``refused``: a blocking gate failed;
* ``skipped``: there was too little new to train on, so nothing was trained;
* ``failed``: a step broke off, or a blocking gate could not be judged, and a person has to look.
"""

Outcome = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class Gate:
    """One condition for publishing.

    Attributes:
        key: by which ``warn_only`` names it.
        name: what it asks for, in words.
        metric: what its value is, in words.
        value: NaN when it could not be measured.
        threshold: that the value is held against; NaN where there is no single number.
        verdict: "not judged" where what it needs could not be had.
        reason: one sentence with the figures.
        severity: whether a no keeps the scorer from being published, or is only told.
    """

    key: GateKey
    name: str
    metric: str
    value: float
    threshold: float
    verdict: Outcome
    reason: str
    severity: Literal["block", "warn"] = "block"


@dataclass(frozen=True)
class Decision:
    """Whether to publish, and why.

    Attributes:
        verdict: see `Verdict`.
        reasons: one sentence for each gate that said no; else why the run was skipped or failed.
        gates: all that were asked; empty when the run broke off before.
        override: the reason that a person gave for publishing all the same; empty when none did.
    """

    verdict: Verdict
    reasons: list[str]
    gates: list[Gate] = field(default_factory=list)
    override: str = ""

    @property
    def publishes(self) -> bool:
        """Whether the scorer is, or is to be, published."""
        return self.verdict in ("publish", "published", "forced")

    @property
    def warnings(self) -> list[str]:
        """A sentence for each gate that did not pass and only warns."""
        return [_sentence(gate) for gate in self.gates if gate.severity == "warn" and gate.verdict != "passed"]

    @property
    def summary(self) -> str:
        """The verdict in one sentence or two."""
        blocking = [gate for gate in self.gates if gate.severity == "block"]
        passed = sum(gate.verdict == "passed" for gate in blocking)
        warned = f" {_count(len(self.warnings), 'warning')}." if self.warnings else ""
        if self.verdict in ("publish", "published"):
            return f"{self.verdict.capitalize()}: the scorer passed all {len(blocking)} gates.{warned}"
        if self.verdict == "forced":
            said_no = _count(len(blocking) - passed, "gate")
            return f"Forced: published although {said_no} said no, because: {self.override}"
        if self.verdict == "refused":
            return f"Refused: the scorer passed {passed} of {len(blocking)} gates. Nothing is published.{warned}"
        if self.verdict == "skipped":
            return "Skipped: there is too little new to train on. The champion stays."
        if self.gates:
            return "Failed: not every gate could be judged, and a person has to look. Nothing is published."
        return "Failed: the run broke off before the gates could judge. Nothing is published."


def decide(gates: Sequence[Gate], policy: Policy) -> Decision:
    """From gates to a decision.

    Args:
        gates: as they were judged; their severity is set here.
        policy: which gates only warn, and whether a person overrules the others.
    """
    judged = [replace(gate, severity="warn" if gate.key in policy.warn_only else "block") for gate in gates]
    verdicts = {gate.verdict for gate in judged if gate.severity == "block"}
    verdict: Verdict = "failed" if "not judged" in verdicts else "refused" if "failed" in verdicts else "publish"
    reasons = [_sentence(gate) for gate in judged if gate.severity == "block" and gate.verdict != "passed"]
    if policy.force_publish and verdict != "publish":
        return Decision("forced", reasons, judged, policy.force_reason)
    return Decision(verdict, reasons, judged)


def broken_off(error: BaseException, during: str = "the evaluation") -> Decision:
    """The decision when a step could not be completed."""
    return Decision("failed", [f"{during} broke off with {in_short(error)}"])


def in_short(error: BaseException) -> str:
    """An error in one line; TensorFlow's go on for pages."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:300]}"


def record(decision: Decision, **about: Any) -> dict[str, Any]:
    """The decision as ``decision.schema.json`` describes it.

    Args:
        decision: the decision.
        **about: ``run``, ``model``, ``revision``, ``data``, ``trained_on``, ``trained_by`` (texts), ``champion`` (an
            object) and ``published`` (an object with ``version`` and ``uri``), as far as they are known.
    """
    known = {"run": "", "model": "", "revision": "", "data": "", "trained_on": "", "trained_by": ""}
    return plain(
        {
            "schema_version": 1,
            "verdict": decision.verdict,
            "publish": decision.publishes,
            "summary": decision.summary,
            "reasons": decision.reasons,
            "warnings": decision.warnings,
            "override": decision.override,
            "gates": decision.gates,
            "champion": None,
            "published": None,
            **known,
            **about,
        }
    )


def write(uri: str, value: Mapping[str, Any]) -> None:
    """Write a record of `record`."""
    storage.write_json(uri, dict(value))


def read(uri: str) -> dict[str, Any] | None:
    """The record at an address; None where there is none."""
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return None


def gates_of(value: Mapping[str, Any]) -> list[Gate]:
    """The gates of a record, e.g. those that an earlier step judged."""
    numbers = ("value", "threshold")
    return [
        Gate(**{name: math.nan if name in numbers and item is None else item for name, item in gate.items()})
        for gate in value["gates"]
    ]


def plain(value: Any) -> Any:
    """A value as JSON knows it: dataclasses as objects, numbers that are none as null."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sentence(gate: Gate) -> str:
    return f"{gate.name}: {gate.reason}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


