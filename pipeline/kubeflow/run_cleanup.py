"""Kubeflow's own record of old runs: archived, and where that is asked for deleted.

Archiving hides a run and takes nothing from anybody. Deleting a run deletes its entries in the execution cache too, so
that of old runs those stay from which the next run may take its training, and those whose version is still there.
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
from components.scorer.run.paths import Workspace
from pipeline.kubeflow.checkpoint_cleanup import DEADLINE
from pipeline.kubeflow.client import EXPERIMENT, every

_ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


@dataclass(frozen=True)
class Old:
    """A run that was archived or deleted, or would be."""

    run: str
    title: str
    days: int  # since it was made
    action: Literal["archived", "deleted"]
    why: str = ""  # it was not deleted, where that was asked for

    def __str__(self) -> str:
        """For people."""
        return f"run {self.run} ({self.title}), {self.days} days old: {self.action}{self.why and ', ' + self.why}"


def collect(
    client: kfp.Client,
    workspace: str,
    *,
    keep: int,
    older_than: int,
    delete: bool = False,
    dry_run: bool = False,
    experiment: str = EXPERIMENT,
) -> Iterator[Old]:
    """Archive or delete the record of old runs, oldest first, yielding each when it is done.

    A run whose version is still there, the champion's above all, is left as it is.

    Args:
        client: of the server.
        workspace: the workspace URI, where the runs' own records say what they read and published.
        keep: how many of the newest runs are left as they are, however old.
        older_than: days for which every run is; at least ``DEADLINE``.
        delete: rather than archive, where neither the execution cache nor a version needs the run.
        dry_run: yield what would be done, and change nothing.
        experiment: name of the experiment.

    Raises:
        ValueError: a limit is too low, there is no such experiment, or runs are to be deleted while one is going: what
            it reads is not known yet, and so not what it may take from the cache.
    """
    if keep < 0 or older_than < DEADLINE:
        raise ValueError(f"keep must be at least 0 and older_than at least {DEADLINE} days, got {keep}, {older_than}")
    where = client.get_experiment(experiment_name=experiment).experiment_id
    runs = sorted(every(client.list_runs, "runs", experiment_id=where), key=lambda run: run.created_at, reverse=True)
    if delete and (going := [run.run_id for run in runs if run.state not in _ENDED]):
        raise ValueError(f"run {going[0]} is going and may take its training from an old one: try again at its end")
    now = datetime.now(UTC)
    ages = {run.run_id: (now - run.created_at).days for run in runs}
    old = [run for run in runs[keep:] if ages[run.run_id] >= older_than and run.state in _ENDED]
    records = _Records(workspace)
    cached = records.data([run.run_id for run in runs if run not in old]) | records.newest([run.run_id for run in runs])
    for run in reversed(old):
        if records.serves(run.run_id):
            continue
        why = records.needed(run.run_id, cached) if delete else ""
        gone = delete and not why
        hidden = run.storage_state == "ARCHIVED"
        if hidden and not gone:
            continue
        if not dry_run:
            if not hidden:
                client.archive_run(run.run_id)  # first, also where it is to be deleted: as the user interface has it
            if gone:
                client.delete_run(run.run_id)
        yield Old(run.run_id, run.display_name, ages[run.run_id], "deleted" if gone else "archived", why)


class _Records:
    """What the runs themselves have written into the workspace."""

    def __init__(self, workspace: str) -> None:
        self._workspace, self._known = workspace, {}

    def data(self, runs: list[str]) -> set[str]:
        """Fingerprints of the data sets that runs have read."""
        return {self._of(run) for run in runs} - {""}

    def newest(self, runs: list[str]) -> set[str]:
        """That of the newest run that says: the next run reads the same, where nothing has changed."""
        return {next(filter(None, map(self._of, runs)), "")} - {""}

    def serves(self, run: str) -> bool:
        """Whether the version that a run has published is still there."""
        try:
            uri = storage.read_json(Workspace(self._workspace, run).published)["uri"]
        except FileNotFoundError:
            return False
        return storage.exists(storage.join(uri, channels.COMPLETE))

    def needed(self, run: str, cached: set[str]) -> str:
        """Why a run is not to be deleted; empty where it may be."""
        if not self._of(run):
            return "not deleted: it has left no decision that says what data it read"
        if self._of(run) in cached:
            return "not deleted: the next run may take its training from the cache"
        return ""

    def _of(self, run: str) -> str:
        """The fingerprint of the data set that a run has read; empty where it does not say."""
        if run not in self._known:
            self._known[run] = ""
            with contextlib.suppress(ValueError):  # half a record
                record: dict[str, Any] = decision.read(Workspace(self._workspace, run).decision) or {}
                self._known[run] = str(record.get("data") or "")
        return self._known[run]
