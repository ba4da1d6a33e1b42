"""Clean-up of the checkpoints that old runs have left in the workspace.

Checkpoints include the photos that a killed ingestion has inspected. The runs' records stay (steps, decision,
published version: some kilobytes, and the audit), and so does the register of splits. Kubeflow's artifacts are not
touched, so its execution cache keeps working.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from components.scorer import storage
from components.scorer.run import decision, step_status
from components.scorer.run.paths import RunPaths

RUN_DEADLINE_DAYS = 3
"""Days after which no run is active any more: the pipeline's own deadline (pipeline/resources.py)."""

_DAY = 86_400


@dataclass(frozen=True)
class RemovedCheckpoints:
    """Checkpoints of a run that were removed, or that a dry run would remove.

    Attributes:
        run: Id of the run.
        days: Days since the run's last step began or ended.
        files: Number of files.
        bytes: Size of the files.
    """

    run: str
    days: int
    files: int
    bytes: int


def delete_checkpoints(
    workspace: str, *, keep: int, older_than: int, dry_run: bool = False
) -> Iterator[RemovedCheckpoints]:
    """Remove the checkpoints of old runs, oldest first, and yield each run after its removal.

    Args:
        workspace: URI of the workspace.
        keep: Number of newest runs that keep their checkpoints, whatever their age.
        older_than: Minimum age in days of a run whose checkpoints are removed; at least ``RUN_DEADLINE_DAYS``.
        dry_run: True to remove nothing and only yield the runs.

    Raises:
        ValueError: A limit is too low, or a run is active, which may use an old run's checkpoints (``resume``).
    """
    if keep < 0 or older_than < RUN_DEADLINE_DAYS:
        raise ValueError(
            f"keep must be at least 0 and older_than at least {RUN_DEADLINE_DAYS} days, got {keep}, {older_than}"
        )
    now = time.time()
    activity = {
        run: _last_activity(RunPaths(workspace, run)) for run in storage.list_folders(storage.join(workspace, "runs"))
    }
    last = {run: moment for run, moment in activity.items() if moment}
    for run, moment in last.items():
        if now - moment < RUN_DEADLINE_DAYS * _DAY and not _has_final_decision(RunPaths(workspace, run)):
            raise ValueError(f"run {run} is going and may have taken up another's checkpoints: try again at its end")
    oldest = sorted(last, key=last.__getitem__)
    for run in oldest[: len(oldest) - keep] if keep else oldest:
        days = int((now - last[run]) // _DAY)
        folder = storage.join(workspace, "runs", run, "checkpoints")
        files = list(storage.list_files(folder)) if days >= older_than else []
        if files and not dry_run:
            storage.delete_tree(folder)
        if files:
            yield RemovedCheckpoints(run, days, len(files), sum(file.size for file in files))


def _last_activity(workspace: RunPaths) -> float:
    """Return the time when the run's last step began or ended, seconds since the epoch; 0 without readable records."""
    try:
        return max((step.ended or step.began for step in step_status.read_steps(workspace)), default=0.0)
    except (ValueError, TypeError):  # a truncated record, or one of another version: the run's checkpoints stay
        return 0.0


def _has_final_decision(workspace: RunPaths) -> bool:
    """Return whether a run's decision is final: not to publish, or published."""
    record = decision.read(workspace.decision)
    return record is not None and (not record["publish"] or bool(record["published"]))
