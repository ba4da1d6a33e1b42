"""Decide whether a data set is worth training on: enough that is new, no leak, and not another world."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.scorer import storage
from components.scorer.data import photos
from components.scorer.metrics import regression
from components.scorer.parameters import check_policy
from components.scorer.run import decision
from components.scorer.run.decision import Decision
from components.scorer.run.paths import Workspace
from components.scorer.settings import Ingestion, Policy, Validation
from components.validation.gates import all_gates
from components.validation.reference_champion import read_champion
from components.validation.report import write_report
from components.validation.results import find
from components.validation.statistics.data_statistics import NAME, to_json

GATES = "gates.json"
"""The file of the checks with the record of the gates, for the evaluation's decision."""


@dataclass(frozen=True)
class Validated:
    """What the contract hands to Kubeflow.

    Attributes:
        metrics: finite numbers by names that no other step uses (``data_new_labels``, …).
        decision: the gates and what they lead to: "publish" and "forced" mean that the run goes on.
    """

    metrics: dict[str, float]
    decision: Decision

    @property
    def go_on(self) -> bool:
        """Whether to train."""
        return self.decision.publishes


def validate(
    dataset: str | Path,
    checks: str | Path,
    report: str | Path,
    *,
    models: str,
    name: str,
    settings: Validation,
    policy: Policy,
    workspace: Workspace,
    duplicate_distance: int = Ingestion.duplicate_distance,
) -> Validated:
    """Hold a data set against the champion's and against itself, and say whether to train on it.

    Too few new labels, and nothing else amiss, skip the run; any other gate that says no refuses it. When the run
    ends here, its decision is written to ``workspace.decision``, after everything else; also, as "failed", when the
    validation breaks off. When the run goes on, the evaluation decides, with the gates of this step among its own.

    Args:
        dataset: TFDS directory.
        checks: folder that receives ``profile.json``, for the published version, and ``gates.json``.
        report: file of the HTML page.
        models: address of all published models.
        name: of the model whose champion's data are compared with.
        settings: thresholds.
        policy: which gates only warn, and whether a person overrules the others.
        workspace: the run's place.
        duplicate_distance: bits of 256 in which the hashes of near duplicates differ at most, as in ingestion.

    Returns:
        The metrics and the decision. To skip and to refuse are results.

    Raises:
        ValueError: the settings contradict each other, the data set has no rated photo or one that does not decode, or
            ``channels.json`` is damaged.
        OSError: the data set or the models cannot be reached.
    """
    about: dict[str, Any] = {"run": workspace.run, "model": name}
    try:
        check_policy(policy)
        storage.delete_tree(workspace.decision)  # of an attempt before, which must not outlive a run that goes on
        about["data"] = photos.fingerprint(dataset)
        champion = read_champion(models, name)
        about["champion"] = decision.named(champion)
        found = find(dataset, champion, duplicate_distance)
        decided = _decided(decision.decide(all_gates(found, settings), policy))
        write_report(report, found, decided, in_words(decided))
        record = decision.record(decided, **about) | {"summary": in_words(decided)}
        storage.write_json(str(Path(checks, NAME)), to_json(found.profile))
        decision.write(str(Path(checks, GATES)), record)
    except Exception as error:
        with suppress(OSError):  # the step's own error is what matters
            broken = decision.broken_off(error, "the validation")
            decision.write(workspace.decision, decision.record(broken, **about))
        raise
    validated = Validated(regression.finite(found.figures()), decided)
    if not validated.go_on:
        decision.write(workspace.decision, record)
    return validated


def in_words(decided: Decision) -> str:
    """What becomes of the run."""
    blocking = [gate for gate in decided.gates if gate.severity == "block"]
    passed = sum(gate.verdict == "passed" for gate in blocking)
    if decided.verdict == "publish":
        words = f"Train: the data passed all {len(blocking)} gates." if blocking else "Train: no gate was set to block."
    elif decided.verdict == "forced":
        words = (
            f"Train all the same: the data passed {passed} of {len(blocking)} gates, and a person overruled: "
            f"{decided.override}"
        )
    elif decided.verdict == "skipped":
        words = "Skipped: there is too little new to train on. The champion stays."
    else:
        count = f"the data passed {passed} of {len(blocking)} gates"
        words = f"{decided.verdict.capitalize()}: {count}. Nothing is trained or published."
    warnings = len(decided.warnings)
    return words + (f" {warnings} warning{'' if warnings == 1 else 's'}." if warnings else "")


def _decided(decided: Decision) -> Decision:
    """The decision with "skipped" where nothing is amiss but that little is new."""
    failed = {gate.key for gate in decided.gates if gate.severity == "block" and gate.verdict != "passed"}
    if decided.verdict == "refused" and failed == {"new_labels"}:
        return replace(decided, verdict="skipped")
    return decided
