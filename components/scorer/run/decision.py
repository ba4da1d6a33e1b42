"""The publishing decision of a run: gate results, the `Decision` made from them, and its record ``decision.json``.

Validation starts the record, evaluation decides, and push completes the record. If none of them could, the exit
handler writes the record. ``decision.schema.json`` beside this file describes the record for other programs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from components.scorer import quoting, storage
from components.scorer.parameters import check_policy
from components.scorer.settings import GateKey, Policy

Verdict = Literal["publish", "published", "forced", "refused", "skipped", "failed"]
"""The outcome of a run for its model:

* ``publish``: every blocking gate passed, and push is still to come;
* ``published``: the version serves;
* ``forced``: blocking gates did not pass, and a person overruled them with a reason; the version serves once
  ``published`` names it;
* ``refused``: a blocking gate failed;
* ``skipped``: there was too little new data, so nothing was trained;
* ``with_failure``: a step raised an error, or a blocking gate could not be judged, and a person has to look.
"""

GateOutcome = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class GateResult:
    """Result of one gate, a condition for publishing.

    Attributes:
        key: Key of the gate, used in ``warn_only``.
        name: Condition in words.
        metric: Measured quantity in words.
        value: Measured value; NaN if it could not be measured.
        threshold: Limit of the value; NaN if there is no single limit.
        verdict: "passed", "failed", or "not judged" if the gate's inputs were missing.
        reason: One sentence with the figures.
        severity: "block" keeps a scorer that does not pass from being published; "warn" is only reported.
    """

    key: GateKey
    name: str
    metric: str
    value: float
    threshold: float
    verdict: GateOutcome
    reason: str
    severity: Literal["block", "warn"] = "block"


def gate_outcome(passed: bool) -> GateOutcome:
    """Return the verdict of a gate that could be judged: "passed" or "failed"."""
    return "passed" if passed else "failed"


@dataclass(frozen=True)
class Decision:
    """Decision to publish a scorer or not, with its reasons.

    Attributes:
        verdict: One of `Verdict`.
        reasons: One sentence for each blocking gate that did not pass, and for a skipped or failed run its cause.
        gates: Results of all gates; empty if the run failed before the gates.
        override: Reason that a person gave for overruling the gates; empty if nobody did.
        notes: Further warnings, one sentence each.
    """

    verdict: Verdict
    reasons: list[str]
    gates: list[GateResult] = field(default_factory=list)
    override: str = ""
    notes: tuple[str, ...] = ()

    @property
    def publishes(self) -> bool:
        """True if the scorer is published or is to be published."""
        return self.verdict in ("publish", "published", "forced")

    @property
    def warnings(self) -> list[str]:
        """One sentence for each warning gate that did not pass, then the notes."""
        gates = [_sentence(gate) for gate in self.gates if gate.severity == "warn" and gate.verdict != "passed"]
        return [*gates, *self.notes]

    @property
    def gates_not_passed(self) -> list[GateResult]:
        """The blocking gates that did not pass, overruled by a person or not."""
        return [gate for gate in self._blocking if gate.verdict != "passed"]

    @property
    def _blocking(self) -> list[GateResult]:
        return [gate for gate in self.gates if gate.severity == "block"]

    @property
    def summary(self) -> str:
        """The verdict in a few sentences."""
        return " ".join(filter(None, [self._verdict_in_words, self._warning_count]))

    @property
    def _verdict_in_words(self) -> str:
        total, n_failed = len(self._blocking), len(self.gates_not_passed)
        if self.verdict in ("publish", "published"):
            passed = (
                f"passed {'all' if total > 1 else 'its'} {_count(total, 'gate')}" if total else "had no gate to pass"
            )
            return f"{self.verdict.capitalize()}: the scorer {passed}."
        if self.verdict == "forced":
            return f"Forced by a person: {self.override.rstrip('.')}. {n_failed} of {_count(total, 'gate')} said no."
        if self.verdict == "refused":
            return f"Refused: the scorer passed {total - n_failed} of {total} gates. Nothing is published."
        if self.verdict == "skipped":
            return "Skipped: there is too little new to train on. The champion stays."
        if not self.gates:
            return "Failed: the run broke off before the gates could judge. Nothing is published."
        # With an override the gates did not stop the run, so an error did.
        if not self.override and any(gate.verdict == "not judged" for gate in self._blocking):
            return "Failed: not every gate could be judged, and a person has to look. Nothing is published."
        return "Failed: the run broke off before the scorer could be published. Nothing is published."

    @property
    def _warning_count(self) -> str:
        return f"{_count(len(self.warnings), 'warning')}." if self.warnings else ""


def decide(gates: Sequence[GateResult], policy: Policy, notes: Sequence[str] = ()) -> Decision:
    """Decide by the gates whether to publish.

    A gate that could not be judged outweighs a gate that failed: the verdict is then "failed", and a person has to
    look. The reason for forcing is recorded only if there was a gate to overrule.

    Args:
        gates: Results of all gates. Gates in ``policy.warn_only`` and gates of severity "warn" only warn.
        policy: Keys of the gates that only warn, and a person's override of the other gates.
        notes: Further warnings, one sentence each.

    Raises:
        ValueError: There is no gate, or the gates are to be overruled without a reason.
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


def failed_decision(error: BaseException, during: str = "the evaluation") -> Decision:
    """Return the decision "failed" for a step that raised an error."""
    return Decision("failed", [f"{during} broke off: {quoting.one_line(error)}"])


def to_record(
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
    """Return the decision as a JSON object of ``decision.schema.json``, with the provenance of its run.

    Args:
        decision: Decision of the run.
        run: Id of the run.
        model: Name of the model.
        revision: Git revision of the code that evaluated the scorer.
        data: Fingerprint of the data set.
        trained_on: Fingerprint of the data set that the scorer was trained on.
        trained_by: Git revision of the code that trained the scorer.
        champion: ``uri``, ``version`` and ``error`` of the published model that the scorer was compared with.
        published: ``version`` and ``uri`` of the scorer, once the scorer serves.
    """
    return to_json_value(
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


def from_record(decision_record: Mapping[str, Any]) -> Decision:
    """Return the decision that a record holds."""
    decision = Decision(
        decision_record["verdict"],
        list(decision_record["reasons"]),
        gates_from_record(decision_record),
        decision_record["override"],
    )
    return replace(
        decision, notes=tuple(warning for warning in decision_record["warnings"] if warning not in decision.warnings)
    )


def with_publication(decision_record: Mapping[str, Any], version: int, uri: str) -> dict[str, Any]:
    """Return the record of a scorer that serves: verdict "published" or "forced", with the published version.

    Args:
        decision_record: Record of a decision that publishes.
        version: Number of the version that serves.
        uri: Address of the version's folder.

    Raises:
        ValueError: The decision is not to publish.
    """
    decision = from_record(decision_record)
    if not decision.publishes:
        raise ValueError(f"expected a decision to publish, got {decision.verdict!r}: {decision.summary}")
    updated = decision if decision.verdict == "forced" else replace(decision, verdict="published")
    return to_record(updated, **_run_fields(decision_record) | {"published": {"version": version, "uri": uri}})


def with_failure(decision_record: Mapping[str, Any] | None, why: str, run: str) -> dict[str, Any]:
    """Return the record of a run that failed: verdict "failed", its reason, and the decision so far.

    Args:
        decision_record: Record so far; None if there is no decision yet.
        why: Reason of the failure, one sentence.
        run: Id of the run.
    """
    if decision_record is None:
        return to_record(Decision("failed", [why]), run=run)
    decision = from_record(decision_record)
    updated = replace(decision, verdict="failed", reasons=list(dict.fromkeys([why, *decision.reasons])))
    return to_record(updated, **_run_fields(decision_record) | {"run": run, "published": None})


def _run_fields(value: Mapping[str, Any]) -> dict[str, Any]:
    names = ("run", "model", "revision", "data", "trained_on", "trained_by", "champion", "published")
    return {name: value[name] for name in names}


def champion_summary(champion: Any) -> dict[str, Any] | None:
    """Return a champion's ``uri``, ``version`` and ``error`` for `to_record`; None if there is no champion."""
    return {"uri": champion.uri, "version": champion.version, "error": champion.error} if champion else None


def write(uri: str, decision_record: Mapping[str, Any]) -> None:
    """Write a record that `to_record` returned to a JSON file."""
    storage.write_json(uri, dict(decision_record))


def read(uri: str) -> dict[str, Any] | None:
    """Return the record at an address; None if there is no file."""
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return None


def gates_from_record(decision_record: Mapping[str, Any]) -> list[GateResult]:
    """Return the gate results of a record, e.g. of an earlier step."""
    return [
        GateResult(**gate | {name: math.nan for name in ("value", "threshold") if gate[name] is None})
        for gate in decision_record["gates"]
    ]


def to_json_value(value: Any) -> Any:
    """Convert a value to JSON's types: dataclasses to objects, NumPy values to Python's, NaN and infinities to null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {item_field.name: getattr(value, item_field.name) for item_field in fields(value)}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): to_json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sentence(gate: GateResult) -> str:
    return f"{gate.name}: {gate.reason}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
