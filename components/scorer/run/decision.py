"""What the gates lead to: one decision a run, as a value and as ``decision.json``.

Validation begins it, evaluation makes it, push completes it, and the exit handler writes it when none of them could.
``decision.schema.json`` beside this file describes the record for those who read it with other programs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from components.scorer import quoting, storage
from components.scorer.parameters import check_policy
from components.scorer.settings import GateKey, Policy

Verdict = Literal["publish", "published", "forced", "refused", "skipped", "failed"]
"""What became of the run's model:

* ``publish``: every blocking gate passed, and push has still to do its part;
* ``published``: the version serves;
* ``forced``: gates said no, and a person overruled them with a reason; it serves once ``published`` names its version;
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


def outcome(passed: bool) -> Outcome:
    """The verdict of a gate that could be judged."""
    return "passed" if passed else "failed"


@dataclass(frozen=True)
class Decision:
    """Whether to publish, and why.

    Attributes:
        verdict: see `Verdict`.
        reasons: one sentence for each blocking gate that did not pass, and why the run was skipped or broke off.
        gates: all that were asked; empty when the run broke off before.
        override: the reason that a person gave for publishing all the same; empty when none did.
        notes: what people are to be warned of besides, a sentence each.
    """

    verdict: Verdict
    reasons: list[str]
    gates: list[Gate] = field(default_factory=list)
    override: str = ""
    notes: tuple[str, ...] = ()

    @property
    def publishes(self) -> bool:
        """Whether the scorer is, or is to be, published."""
        return self.verdict in ("publish", "published", "forced")

    @property
    def warnings(self) -> list[str]:
        """A sentence for each gate that did not pass and only warns, and the notes."""
        gates = [_sentence(gate) for gate in self.gates if gate.severity == "warn" and gate.verdict != "passed"]
        return [*gates, *self.notes]

    @property
    def overruled(self) -> list[Gate]:
        """The blocking gates that did not pass, whether or not a person overruled them."""
        return [gate for gate in self._blocking if gate.verdict != "passed"]

    @property
    def _blocking(self) -> list[Gate]:
        return [gate for gate in self.gates if gate.severity == "block"]

    @property
    def summary(self) -> str:
        """The verdict in a few sentences."""
        return " ".join(filter(None, [self._verdict_in_words, self._warned]))

    @property
    def _verdict_in_words(self) -> str:
        total, said_no = len(self._blocking), len(self.overruled)
        if self.verdict in ("publish", "published"):
            passed = (
                f"passed {'all' if total > 1 else 'its'} {_count(total, 'gate')}" if total else "had no gate to pass"
            )
            return f"{self.verdict.capitalize()}: the scorer {passed}."
        if self.verdict == "forced":
            return f"Forced by a person: {self.override.rstrip('.')}. {said_no} of {_count(total, 'gate')} said no."
        if self.verdict == "refused":
            return f"Refused: the scorer passed {total - said_no} of {total} gates. Nothing is published."
        if self.verdict == "skipped":
            return "Skipped: there is too little new to train on. The champion stays."
        if not self.gates:
            return "Failed: the run broke off before the gates could judge. Nothing is published."
        # With an override the gates did not stop it, so something else did.
        if not self.override and any(gate.verdict == "not judged" for gate in self._blocking):
            return "Failed: not every gate could be judged, and a person has to look. Nothing is published."
        return "Failed: the run broke off before the scorer could be published. Nothing is published."

    @property
    def _warned(self) -> str:
        return f"{_count(len(self.warnings), 'warning')}." if self.warnings else ""


def decide(gates: Sequence[Gate], policy: Policy, notes: Sequence[str] = ()) -> Decision:
    """From gates to a decision.

    A gate that could not be judged outweighs one that failed: a person has to look either way. A reason for forcing
    is kept only where there was something to overrule.

    Args:
        gates: as they were judged; those that the policy names only warn, as do those that already did.
        policy: which gates only warn, and whether a person overrules the others.
        notes: what people are to be warned of besides.

    Raises:
        ValueError: there is no gate, or the gates are to be overruled without a reason.
    """
    check_policy(policy)
    if not gates:
        raise ValueError("expected at least one gate to decide by, got none: a scorer nobody judged is not published")
    judged = [replace(gate, severity="warn") if gate.key in policy.warn_only else gate for gate in gates]
    verdicts = {gate.verdict for gate in judged if gate.severity == "block"}
    verdict: Verdict = "failed" if "not judged" in verdicts else "refused" if "failed" in verdicts else "publish"
    reasons = [_sentence(gate) for gate in judged if gate.severity == "block" and gate.verdict != "passed"]
    if policy.force_publish and verdict != "publish":
        return Decision("forced", reasons, judged, " ".join(policy.force_reason.split()), tuple(notes))
    return Decision(verdict, reasons, judged, notes=tuple(notes))


def broken_off(error: BaseException, during: str = "the evaluation") -> Decision:
    """The decision when a step could not be completed."""
    return Decision("failed", [f"{during} broke off: {quoting.in_short(error)}"])


def record(
    decision: Decision,
    *,
    run: str = "",
    model: str = "",
    revision: str = "",
    data: str = "",
    trained_on: str = "",
    trained_by: str = "",
    champion: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The decision as ``decision.schema.json`` describes it, with what is known of its run.

    Args:
        decision: the decision.
        run: the run's id.
        model: name of the model.
        revision: git revision of the code that judged.
        data: fingerprint of the data set.
        trained_on: fingerprint of the data set that the scorer was trained on.
        trained_by: git revision of the code that trained it.
        champion: ``uri``, ``version`` and ``error`` of the published model that the scorer had to stand up to.
        published: ``version`` and ``uri``, once the scorer serves.
    """
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
            "champion": champion,
            "published": published,
            "run": run,
            "model": model,
            "revision": revision,
            "data": data,
            "trained_on": trained_on,
            "trained_by": trained_by,
        }
    )


def of(value: Mapping[str, Any]) -> Decision:
    """The decision of a record."""
    found = Decision(value["verdict"], list(value["reasons"]), gates_of(value), value["override"])
    return replace(found, notes=tuple(each for each in value["warnings"] if each not in found.warnings))


def completed(value: Mapping[str, Any], version: int, uri: str) -> dict[str, Any]:
    """The record once the scorer serves: "published", or still "forced", with its version.

    Args:
        value: the record of a decision that publishes.
        version: that serves.
        uri: of the version's folder.

    Raises:
        ValueError: the decision is not to publish.
    """
    before = of(value)
    if not before.publishes:
        raise ValueError(f"expected a decision to publish, got {before.verdict!r}: {before.summary}")
    after = before if before.verdict == "forced" else replace(before, verdict="published")
    return record(after, **_about(value) | {"published": {"version": version, "uri": uri}})


def failed(value: Mapping[str, Any] | None, why: str, run: str) -> dict[str, Any]:
    """The record of a run that broke off: what was decided, if anything was, and why nothing came of it.

    Args:
        value: the record so far.
        why: one sentence.
        run: the run's id.
    """
    if value is None:
        return record(Decision("failed", [why]), run=run)
    before = of(value)
    after = replace(before, verdict="failed", reasons=list(dict.fromkeys([why, *before.reasons])))
    return record(after, **_about(value) | {"run": run, "published": None})


def _about(value: Mapping[str, Any]) -> dict[str, Any]:
    names = ("run", "model", "revision", "data", "trained_on", "trained_by", "champion", "published")
    return {name: value[name] for name in names}


def named(champion: Any) -> dict[str, Any] | None:
    """A champion for `record`: its ``uri``, ``version`` and ``error``; None where there is none."""
    return {"uri": champion.uri, "version": champion.version, "error": champion.error} if champion else None


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
    """A value as JSON knows it: dataclasses as objects, NumPy's values as Python's, numbers that are none as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sentence(gate: Gate) -> str:
    return f"{gate.name}: {gate.reason}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
