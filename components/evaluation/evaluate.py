"""Evaluation of a trained scorer on the test split against the champion, and the decision on publication."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.evaluation.checks.metric_estimates import Measurements
from components.evaluation.checks.predictions import Records
from components.evaluation.gates import all_gates
from components.evaluation.report import write_report
from components.evaluation.results import EvaluationResults, evaluate_scorer
from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.metrics import regression
from components.scorer.parameters import as_parameters
from components.scorer.run import decision
from components.scorer.run.decision import Decision, GateResult
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Evaluation, Policy


@dataclass(frozen=True)
class EvaluationOutputs:
    """Outputs that the component passes to Kubeflow.

    Attributes:
        metrics: Finite metrics by names that no other step uses (``test_srcc``, …).
        decision: Verdict with its gates.
        categories: Classes of the confusion matrix, in the order of its rows (people) and columns (the scorer).
        confusion: Confusion matrix, number of photos.
        roc: ROC curve: ``false_positive_rate``, ``true_positive_rate`` and ``threshold``, finite and of equal length.
            Empty if people rate all photos high or none.
    """

    metrics: dict[str, float]
    decision: Decision
    categories: list[str]
    confusion: list[list[int]]
    roc: dict[str, list[float]]

    @property
    def passed(self) -> bool:
        """True if the scorer is to be published."""
        return self.decision.publishes


def evaluate(
    dataset: str | Path,
    scorer: str | Path,
    report: str | Path,
    *,
    models: str,
    name: str,
    settings: Evaluation,
    policy: Policy,
    workspace: RunPaths,
    checks: str | Path = "",
    revision: str = "",
    results: str | Path = "",
) -> EvaluationOutputs:
    """Measure a scorer, judge it by the gates, and write the report and the decision.

    Writes the HTML page at ``report``. Writes ``metrics.json`` (all metrics), ``predictions.csv`` (one row for each
    photo) and ``decision.json`` into ``results``. The decision is also written at ``workspace.decision``. It is
    written last and in any case: after an error its verdict is "failed", with the reason.

    Args:
        dataset: TFDS directory.
        scorer: Folder of the trained bundle.
        report: Path of the HTML page.
        models: Address of all published models.
        name: Name of the model whose champion the scorer is compared with.
        settings: Evaluation settings: thresholds, resamples, and whether photos may be shown.
        policy: Gate policy: which gates only warn, and whether a person overrides the others.
        workspace: Paths of the run.
        checks: Folder of the validation results, whose gates enter the decision; "" if there is none.
        revision: Git revision of this code.
        results: Folder of the three files; the folder of ``report`` by default.

    Returns:
        The metrics and the decision. A refusal is a result and no error, and so is a champion that cannot be loaded.

    Raises:
        ValueError: The test split is empty, the scorer does not return ten votes for each photo, or the settings do
            not fit the data.
        FileNotFoundError: There is no bundle or no data set.
    """
    results = Path(results or Path(report).parent)
    results.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"run": workspace.run, "model": name, "revision": revision}
    try:
        total = photos.counts(dataset).get("test", 0)
        if not total:
            raise ValueError("the test split has no photo: rate more photos or raise test_share")
        records: Records = partial(photos.records, dataset, "test")
        trained = bundle.load(scorer)
        metadata |= {
            "data": photos.fingerprint(dataset),
            "trained_on": trained.data_fingerprint,
            "trained_by": trained.revision,
        }
        evaluation_results = evaluate_scorer(trained, records, total, models, name, settings)
        gate_decision = decision.decide(
            [*_validation_gates(checks), *all_gates(evaluation_results, settings)], policy, trained.notes
        )
        write_report(report, evaluation_results, gate_decision, trained, records, settings, metadata)
        _write_results(results, evaluation_results, settings)
    except Exception as error:
        _write_decision(decision.failed_decision(error), metadata, results, workspace)
        raise
    _write_decision(
        gate_decision,
        {**metadata, "champion": decision.champion_summary(evaluation_results.champion)},
        results,
        workspace,
    )
    measured = evaluation_results.measured
    return EvaluationOutputs(
        _kubeflow_metrics(measured), gate_decision, ["low", "high"], measured.confusion, measured.roc
    )


def _validation_gates(checks: str | Path) -> list[GateResult]:
    """Return the gates that validation judged before training; empty without a folder."""
    if not checks:
        return []
    return decision.gates_from_record(storage.read_json(str(Path(checks, "gates.json"))))


def _kubeflow_metrics(measured: Measurements) -> dict[str, float]:
    """Return the finite metrics that Kubeflow's page shows, by name."""
    metrics = {f"test_{name}": estimate.value for name, estimate in measured.challenger.items()}
    metrics |= {f"test_champion_{name}": estimate.value for name, estimate in (measured.champion or {}).items()}
    metrics |= {f"test_difference_{name}": estimate.value for name, estimate in (measured.difference or {}).items()}
    metrics["test_photos"] = float(measured.photos)
    return regression.finite_figures(metrics)


def _write_results(results: Path, evaluation_results: EvaluationResults, settings: Evaluation) -> None:
    record = {"settings": as_parameters(settings), **evaluation_results.numbers()}
    storage.write_json(str(results / "metrics.json"), decision.to_json_value(record))
    table = evaluation_results.predictions.to_table(
        evaluation_results.champion.votes if evaluation_results.champion else None
    )
    storage.write_bytes(
        str(results / "predictions.csv"), table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
    )


def _write_decision(gate_decision: Decision, metadata: Mapping[str, Any], results: Path, workspace: RunPaths) -> None:
    value = decision.to_record(gate_decision, **metadata)
    for uri in (str(results / "decision.json"), workspace.decision):
        decision.write(uri, value)
