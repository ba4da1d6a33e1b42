"""Clean-up of Kubeflow's records of old runs: archives them, or optionally deletes them.

Archiving only hides a run. Deleting a run also deletes its execution-cache entries. A run is therefore not deleted if
(a) the next run could reuse its training from the cache, or (b) the version it published still exists.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import kfp

from components.scorer import storage
from components.scorer.registry import channels
from components.scorer.run import decision
from components.scorer.run.paths import RunPaths
from pipeline.kubeflow.checkpoint_cleanup import RUN_DEADLINE_DAYS
from pipeline.kubeflow.client import EXPERIMENT, list_all

_FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


@dataclass(frozen=True)
class OldRun:
    """Run that was archived or deleted, or that a dry run would archive or delete.

    Attributes:
        run: Id of the run.
        title: Display name of the run.
        days: Days since the run was created.
        action: Action on the run.
        why: Reason why the run was archived although deletion was requested; otherwise "".
    """

    run: str
    title: str
    days: int
    action: Literal["archived", "deleted"]
    why: str = ""

    def __str__(self) -> str:
        """Return one line for the console."""
        return f"run {self.run} ({self.title}), {self.days} days old: {self.action}{self.why and ', ' + self.why}"


def clean_runs(
    client: kfp.Client,
    workspace: str,
    *,
    keep: int,
    older_than: int,
    delete: bool = False,
    dry_run: bool = False,
    experiment: str = EXPERIMENT,
) -> Iterator[OldRun]:
    """Archive or delete Kubeflow's records of old runs, oldest first, and yield each run afterwards.

    A run whose published version still exists, such as the champion's run, is not changed.

    Args:
        client: Client of the server.
        workspace: URI of the workspace, whose records say which data each run read and which version it published.
        keep: Number of newest runs that are not changed, whatever their age.
        older_than: Minimum age in days of a run that is changed; at least ``RUN_DEADLINE_DAYS``.
        delete: True to delete instead of archive, if the next run does not need the run's cache entries.
        dry_run: True to change nothing and only yield the runs.
        experiment: Name of the experiment.

    Raises:
        ValueError: A limit is too low, there is no such experiment, or ``delete`` is true while a run is active. The
            data of an active run are not known yet, so the cache entries that it may use are not known either.
    """
    if keep < 0 or older_than < RUN_DEADLINE_DAYS:
        raise ValueError(
            f"keep must be at least 0 and older_than at least {RUN_DEADLINE_DAYS} days, got {keep}, {older_than}"
        )
    experiment_id = client.get_experiment(experiment_name=experiment).experiment_id
    runs = sorted(
        list_all(client.list_runs, "runs", experiment_id=experiment_id), key=lambda run: run.created_at, reverse=True
    )
    if delete and (active := [run.run_id for run in runs if run.state not in _FINAL_STATES]):
        raise ValueError(f"run {active[0]} is going and may take its training from an old one: try again at its end")
    now = datetime.now(UTC)
    ages = {run.run_id: (now - run.created_at).days for run in runs}
    old = [run for run in runs[keep:] if ages[run.run_id] >= older_than and run.state in _FINAL_STATES]
    records = _RunRecords(workspace)
    cached = records.data_fingerprints([run.run_id for run in runs if run not in old]) | records.newest_fingerprint(
        [run.run_id for run in runs]
    )
    for run in reversed(old):
        if records.published_version_exists(run.run_id):
            continue
        why = records.reason_to_keep(run.run_id, cached) if delete else ""
        deletes = delete and not why
        is_archived = run.storage_state == "ARCHIVED"
        if is_archived and not deletes:
            continue
        if not dry_run:
            if not is_archived:
                client.archive_run(run.run_id)  # archived before a deletion too, as in Kubeflow's user interface
            if deletes:
                client.delete_run(run.run_id)
        yield OldRun(run.run_id, run.display_name, ages[run.run_id], "deleted" if deletes else "archived", why)


class _RunRecords:
    """Records that runs have written into the workspace."""

    def __init__(self, workspace: str) -> None:
        self._workspace = workspace
        self._fingerprints: dict[str, str] = {}  # by run

    def data_fingerprints(self, runs: list[str]) -> set[str]:
        """Return the fingerprints of the data sets that runs have read."""
        return {self._fingerprint(run) for run in runs} - {""}

    def newest_fingerprint(self, runs: list[str]) -> set[str]:
        """Return the fingerprint of the newest run with a known one: without new data, the next run reads the same."""
        return {next(filter(None, map(self._fingerprint, runs)), "")} - {""}

    def published_version_exists(self, run: str) -> bool:
        """Return whether the version that a run has published still exists."""
        try:
            uri = storage.read_json(RunPaths(self._workspace, run).published)["uri"]
        except FileNotFoundError:
            return False
        return storage.exists(storage.join(uri, channels.COMPLETE))

    def reason_to_keep(self, run: str, cached: set[str]) -> str:
        """Return why a run must not be deleted; empty if it may be deleted."""
        if not self._fingerprint(run):
            return "not deleted: it has left no decision that says what data it read"
        if self._fingerprint(run) in cached:
            return "not deleted: the next run may take its training from the cache"
        return ""

    def _fingerprint(self, run: str) -> str:
        """Return the fingerprint of the data set that a run has read; empty if unknown."""
        if run not in self._fingerprints:
            self._fingerprints[run] = ""
            with contextlib.suppress(ValueError):  # a truncated record
                record: dict[str, Any] = decision.read(RunPaths(self._workspace, run).decision) or {}
                self._fingerprints[run] = str(record.get("data") or "")
        return self._fingerprints[run]
