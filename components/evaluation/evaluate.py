"""Judge a trained scorer on the test split, beside the published champion, and decide whether to publish it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.evaluation.champion import Champion, score_champion
from components.evaluation.gates import Decision, broken_off, decide
from components.evaluation.measurements import Measurements, measure
from components.evaluation.predictions import Predictions, Records, predict
from components.evaluation.report import extremes, write_report
from components.scorer import bundle, photos, storage
from components.scorer.settings import Evaluation, as_parameters
from components.scorer.workspace import Workspace


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
        return self.decision.verdict == "publish"


def evaluate(
    dataset: str | Path,
    scorer: str | Path,
    report: str | Path,
    *,
    models: str,
    name: str,
    settings: Evaluation,
    workspace: Workspace,
    revision: str = "",
    results: str | Path = "",
) -> Evaluated:
    """Score each photo of the test split once, hold the result against the gates, and tell people.

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
        workspace: the run's place.
        revision: git revision of this code.
        results: folder of the three files; by default the page's.

    Returns:
        The metrics and the decision. A refusal is a result, and so is a champion that cannot be loaded.

    Raises:
        ValueError: the test split is empty, or the scorer does not answer with ten votes a photo.
        FileNotFoundError: there is no bundle or no data set.
    """
    results = Path(results or Path(report).parent)
    results.mkdir(parents=True, exist_ok=True)
    origin: dict[str, Any] = {"run": workspace.run, "model": name, "revision": revision}
    try:
        total = photos.counts(dataset).get("test", 0)
        if not total:
            raise ValueError("the test split has no photo: rate more photos or raise test_share")
        records: Records = partial(photos.records, dataset, "test")
        trained = bundle.load(scorer)
        predictions = predict(records, trained, total)
        champion = score_champion(models, name, records, total)
        measured = measure(predictions, champion.votes if champion else None, settings)
        decision = decide(measured, champion, settings)

        ingested = _ingested(dataset)
        origin |= {
            "data": ingested.get("fingerprint", ""),
            "trained_on": trained.data_fingerprint,
            "trained_by": trained.revision,
        }
        faces = _faces(records, extremes(predictions)) if settings.show_photos else {}
        write_report(report, predictions, measured, decision, champion, settings, origin, _ceiling(ingested), faces)
        _write_results(results, predictions, measured, champion, settings)
    except Exception as error:
        _write_decision(broken_off(error), None, origin, results, workspace)
        raise
    _write_decision(decision, champion, origin, results, workspace)
    return Evaluated(_for_kubeflow(measured), decision, ["low", "high"], measured.confusion, measured.roc)


def _ingested(dataset: str | Path) -> dict[str, Any]:
    """What ingestion wrote beside the data set; empty for a data set from elsewhere."""
    try:
        return storage.read_json(str(Path(dataset, "ingestion.json")))
    except FileNotFoundError:
        return {}


def _ceiling(ingested: Mapping[str, Any]) -> float | None:
    return (ingested.get("reliability") or {}).get("ceiling")


def _faces(records: Records, wanted: set[str]) -> dict[str, bytes]:
    """The encoded photos that the page shows, by their ids."""
    return {record["photo_id"]: record["photo"] for record in records() if record["photo_id"] in wanted}


def _for_kubeflow(measured: Measurements) -> dict[str, float]:
    """Finite floats only: Kubeflow's page shows none of a task's metrics when one of them is not."""
    found = {f"test_{name}": estimate.value for name, estimate in measured.challenger.items()}
    found |= {f"test_champion_{name}": estimate.value for name, estimate in (measured.champion or {}).items()}
    found |= {f"test_difference_{name}": estimate.value for name, estimate in (measured.difference or {}).items()}
    found["test_photos"] = float(measured.photos)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _write_results(
    results: Path, predictions: Predictions, measured: Measurements, champion: Champion | None, settings: Evaluation
) -> None:
    everything = {"settings": as_parameters(settings), **asdict(measured)}
    storage.write_json(str(results / "metrics.json"), _plain(everything))
    table = predictions.table(champion.votes if champion else None)
    storage.write_bytes(
        str(results / "predictions.csv"), table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
    )


def _write_decision(
    decision: Decision, champion: Champion | None, origin: dict[str, Any], results: Path, workspace: Workspace
) -> None:
    value = {
        "verdict": decision.verdict,
        "publish": decision.verdict == "publish",
        "summary": decision.summary,
        "reasons": decision.reasons,
        "gates": decision.gates,
        "champion": {"uri": champion.uri, "version": champion.version, "error": champion.error} if champion else None,
        **origin,
    }
    for uri in (str(results / "decision.json"), workspace.decision):
        storage.write_json(uri, _plain(value))


def _plain(value: Any) -> Any:
    """A value as JSON knows it: dataclasses as objects, numbers that are none as null."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
