"""Validation step: decides if a data set has enough new labels, no leakage and no drift too large to train on."""

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
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Ingestion, Policy, Validation
from components.validation.gates import all_gates
from components.validation.reference_champion import read_champion
from components.validation.report import write_report
from components.validation.results import collect_results
from components.validation.statistics.data_statistics import PROFILE_FILE, to_json

GATES_FILE = "gates.json"
"""File name of the gates' record in the output folder, for the evaluation's decision."""


@dataclass(frozen=True)
class ValidationOutputs:
    """Outputs of the validation component.

    Attributes:
        metrics: Finite metrics by names that no other step uses (``data_new_labels``, …).
        decision: Gates and their verdict; "publish" and "forced" mean that the run continues.
    """

    metrics: dict[str, float]
    decision: Decision

    @property
    def should_train(self) -> bool:
        """True if the run should train."""
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
    workspace: RunPaths,
    duplicate_distance: int = Ingestion.duplicate_distance,
) -> ValidationOutputs:
    """Validate a data set, compare it with the champion's, and decide if the run trains on it.

    If too few labels are new and every other gate passes, the run is skipped. If any other blocking gate fails, the run
    is refused. A run that ends here gets its decision in ``workspace.decision``, written last. If the validation raises
    an error, that decision is "failed". If the run continues, the evaluation decides and includes this step's gates.

    Args:
        dataset: TFDS directory.
        checks: Output folder for ``profile.json``, which the published version receives, and ``gates.json``.
        report: Path of the HTML report.
        models: Address of all published models.
        name: Name of the model whose champion's data are compared with.
        settings: Thresholds.
        policy: Gates that only warn, and the reason of a person who overrules the others.
        workspace: Paths of the run.
        duplicate_distance: Maximum Hamming distance of near duplicates, bits of 256, as in ingestion.

    Returns:
        The metrics and the decision. Skipping and refusing are no errors.

    Raises:
        ValueError: The settings contradict each other, the data set has no rated photo or one that does not decode, or
            ``channels.json`` is damaged.
        OSError: The data set or the models cannot be reached.
    """
    metadata: dict[str, Any] = {"run": workspace.run, "model": name}
    try:
        check_policy(policy)
        storage.delete_tree(workspace.decision)  # left by an earlier attempt: a run that continues must not keep it
        metadata["data"] = photos.fingerprint(dataset)
        champion = read_champion(models, name)
        metadata["champion"] = decision.champion_summary(champion)
        results = collect_results(dataset, champion, duplicate_distance)
        outcome = _skip_if_few_labels(decision.decide(all_gates(results, settings), policy))
        write_report(report, results, outcome, describe_decision(outcome))
        record = decision.to_record(outcome, **metadata) | {"summary": describe_decision(outcome)}
        storage.write_json(str(Path(checks, PROFILE_FILE)), to_json(results.profile))
        decision.write(str(Path(checks, GATES_FILE)), record)
    except Exception as error:
        with suppress(OSError):  # the step's own error matters more
            failure = decision.failed_decision(error, "the validation")
            decision.write(workspace.decision, decision.to_record(failure, **metadata))
        raise
    validated = ValidationOutputs(regression.finite_figures(results.metrics()), outcome)
    if not validated.should_train:
        decision.write(workspace.decision, record)
    return validated


def describe_decision(decision: Decision) -> str:
    """Return a summary of the decision for people."""
    blocking = [gate for gate in decision.gates if gate.severity == "block"]
    passed = sum(gate.verdict == "passed" for gate in blocking)
    if decision.verdict == "publish":
        words = f"Train: the data passed all {len(blocking)} gates." if blocking else "Train: no gate was set to block."
    elif decision.verdict == "forced":
        words = (
            f"Train all the same: the data passed {passed} of {len(blocking)} gates, and a person overruled: "
            f"{decision.override}"
        )
    elif decision.verdict == "skipped":
        words = "Skipped: there is too little new to train on. The champion stays."
    else:
        count = f"the data passed {passed} of {len(blocking)} gates"
        words = f"{decision.verdict.capitalize()}: {count}. Nothing is trained or published."
    warnings = len(decision.warnings)
    return words + (f" {warnings} warning{'' if warnings == 1 else 's'}." if warnings else "")


def _skip_if_few_labels(decided: Decision) -> Decision:
    """Return the decision, with the verdict "skipped" if new labels are the only blocking gate that failed."""
    failed_gates = {gate.key for gate in decided.gates if gate.severity == "block" and gate.verdict != "passed"}
    if decided.verdict == "refused" and failed_gates == {"new_labels"}:
        return replace(decided, verdict="skipped")
    return decided
