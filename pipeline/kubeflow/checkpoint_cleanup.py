"""What old runs have left in the workspace and nobody needs any more: their checkpoints.

Photos that a killed ingestion has inspected lie among them. Their records stay (steps, decision,
published version: some kilobytes, and the audit), and so does the register of splits. Kubeflow's artifacts are not
touched, so that what comes from its execution cache still does.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from components.scorer import storage
from components.scorer.run import decision, step_status
from components.scorer.run.paths import Workspace

DEADLINE = 3
"""Days after which no run is going any more: the pipeline's own deadline (pipeline/resources.py)."""

_DAY = 86_400


@dataclass(frozen=True)
class Gone:
    """The checkpoints of a run that were removed, or would be."""

    run: str
    days: int  # since its last step began or ended
    files: int
    bytes: int


def collect(workspace: str, *, keep: int, older_than: int, dry_run: bool = False) -> Iterator[Gone]:
    """Remove the checkpoints of old runs, oldest first, yielding each run when it is done.

    Args:
        workspace: the workspace URI.
        keep: how many of the newest runs keep theirs, however old they are.
        older_than: days for which every run keeps its own; at least ``DEADLINE``.
        dry_run: yield what would go, and remove nothing.

    Raises:
        ValueError: a limit is too low, or a run is going: it may have taken up an old run's checkpoints (``resume``).
    """
    if keep < 0 or older_than < DEADLINE:
        raise ValueError(f"keep must be at least 0 and older_than at least {DEADLINE} days, got {keep}, {older_than}")
    now = time.time()
    found = {run: _last(Workspace(workspace, run)) for run in storage.folders(storage.join(workspace, "runs"))}
    last = {run: moment for run, moment in found.items() if moment}
    for run, moment in last.items():
        if now - moment < DEADLINE * _DAY and not _ended(Workspace(workspace, run)):
            raise ValueError(f"run {run} is going and may have taken up another's checkpoints: try again at its end")
    oldest = sorted(last, key=last.__getitem__)
    for run in oldest[: len(oldest) - keep] if keep else oldest:
        days = int((now - last[run]) // _DAY)
        folder = storage.join(workspace, "runs", run, "checkpoints")
        files = list(storage.files(folder)) if days >= older_than else []
        if files and not dry_run:
            storage.delete_tree(folder)
        if files:
            yield Gone(run, days, len(files), sum(file.size for file in files))


def _last(place: Workspace) -> float:
    """When the last step of a run began or ended; 0 where no step left a record that can be read."""
    try:
        return max((step.ended or step.began for step in step_status.read(place)), default=0.0)
    except (ValueError, TypeError):  # half a record, or of another version: not ours to judge, so that it stays
        return 0.0


def _ended(place: Workspace) -> bool:
    """Whether a run's decision stands: the exit handler leaves none that is still to publish."""
    record = decision.read(place.decision)
    return record is not None and (not record["publish"] or bool(record["published"]))
