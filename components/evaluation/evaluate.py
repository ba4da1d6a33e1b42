"""Judge a trained scorer on the test split, beside the published champion, and decide whether to publish it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.evaluation.checks.metric_estimates import Measurements
from components.evaluation.checks.predictions import Records
from components.evaluation.gates import all_gates
from components.evaluation.report import write_report
from components.evaluation.results import Findings, find
from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.metrics import regression
from components.scorer.parameters import as_parameters
from components.scorer.run import decision
from components.scorer.run.decision import Decision, Gate
from components.scorer.run.paths import Workspace
from components.scorer.settings import Evaluation, Policy


@dataclass(frozen=True)
class Evaluated:
    """What the contract hands to Kubeflow.

    Attributes:
        metrics: finite numbers by names that no other step uses (``test_srcc``, …).
        decision: the verdict with its gates.
        categories: of the confusion matrix, in the order of its rows (people) and columns (the scorer).
        confusion: photos by class.
        roc: ``false_positive_rate``, ``true_positive_rate`` and ``threshold``: finite, of one length; empty where
            people call all photos high, or none.
    """

    metrics: dict[str, float]
    decision: Decision
    categories: list[str]
    confusion: list[list[int]]
    roc: dict[str, list[float]]

    @property
    def passed(self) -> bool:
        """Whether to publish."""
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
    workspace: Workspace,
    checks: str | Path = "",
    revision: str = "",
    results: str | Path = "",
) -> Evaluated:
    """Find out everything about a scorer, hold it against the gates, and tell people.

    Writes the page at ``report`` and, into ``results``, ``metrics.json`` (every number), ``predictions.csv`` (a row
    a photo) and ``decision.json``; the decision also at ``workspace.decision``. The decision is written whatever
    happens, after everything else: when the evaluation breaks off it says "failed" and why.

    Args:
        dataset: TFDS directory.
        scorer: folder of the trained bundle.
        report: file of the HTML page.
        models: address of all published models.
        name: of the model whose champion the scorer has to stand up to.
        settings: thresholds, resamples, and whether photos may be shown.
        policy: which gates only warn, and whether a person overrules the others.
        workspace: the run's place.
        checks: folder of what validation found, whose gates go into the decision; "" without.
        revision: git revision of this code.
        results: folder of the three files; by default the page's.

    Returns:
        The metrics and the decision. A refusal is a result, and so is a champion that cannot be loaded.

    Raises:
        ValueError: the test split is empty, the scorer does not answer with ten votes a photo, or the settings do not
            fit the data.
        FileNotFoundError: there is no bundle or no data set.
    """
    results = Path(results or Path(report).parent)
    results.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"run": workspace.run, "model": name, "revision": revision}
    try:
        total = photos.counts(dataset).get("test", 0)
        if not total:
            raise ValueError("the test split has no photo: rate more photos or raise test_share")
        records: Records = partial(photos.records, dataset, "test")
        trained = bundle.load(scorer)
        about |= {
            "data": photos.fingerprint(dataset),
            "trained_on": trained.data_fingerprint,
            "trained_by": trained.revision,
        }
        found = find(trained, records, total, models, name, settings)
        decided = decision.decide([*_earlier(checks), *all_gates(found, settings)], policy, trained.notes)
        write_report(report, found, decided, trained, records, settings, about)
        _write_results(results, found, settings)
    except Exception as error:
        _write_decision(decision.broken_off(error), about, results, workspace)
        raise
    _write_decision(decided, {**about, "champion": decision.named(found.champion)}, results, workspace)
    measured = found.measured
    return Evaluated(_for_kubeflow(measured), decided, ["low", "high"], measured.confusion, measured.roc)


def _earlier(checks: str | Path) -> list[Gate]:
    """The gates that validation judged before anything was trained."""
    if not checks:
        return []
    return decision.gates_of(storage.read_json(str(Path(checks, "gates.json"))))


def _for_kubeflow(measured: Measurements) -> dict[str, float]:
    """What Kubeflow's page shows of the metrics."""
    found = {f"test_{name}": estimate.value for name, estimate in measured.challenger.items()}
    found |= {f"test_champion_{name}": estimate.value for name, estimate in (measured.champion or {}).items()}
    found |= {f"test_difference_{name}": estimate.value for name, estimate in (measured.difference or {}).items()}
    found["test_photos"] = float(measured.photos)
    return regression.finite(found)


def _write_results(results: Path, found: Findings, settings: Evaluation) -> None:
    everything = {"settings": as_parameters(settings), **found.numbers()}
    storage.write_json(str(results / "metrics.json"), decision.plain(everything))
    table = found.predictions.table(found.champion.votes if found.champion else None)
    storage.write_bytes(
        str(results / "predictions.csv"), table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
    )


def _write_decision(decided: Decision, about: Mapping[str, Any], results: Path, workspace: Workspace) -> None:
    value = decision.record(decided, **about)
    for uri in (str(results / "decision.json"), workspace.decision):
        decision.write(uri, value)
