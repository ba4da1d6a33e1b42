"""How far each step of a run came, kept in the workspace for the people who are told at the end.

Kubeflow tells an exit handler that something failed, but neither which step nor why, and it cannot give it the
steps' outputs. So each step notes here that it began, how it ended, and where its report lies.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Literal

from components.scorer import storage
from components.scorer.workspace import Workspace

RUN_ID = "RUN_ID"
"""The environment variable that holds the run's id.

It is not a parameter of the steps: parameters are part of the key of Kubeflow's execution cache, and with the id
among them no step would ever be taken from the cache.
"""


@dataclass(frozen=True)
class Step:
    """One step's record. ``running`` at the end of a run means that the step was killed and left no word."""

    name: str
    state: Literal["running", "succeeded", "failed"]
    began: float  # seconds since the epoch
    ended: float | None = None
    error: str = ""
    report: str = ""  # URI of the page that the step wrote


def this_run(workspace: str) -> Workspace:
    """The place of the run that this process belongs to, under the workspace URI.

    Raises:
        ValueError: the environment does not say which run this is.
    """
    run = os.environ.get(RUN_ID, "")
    if not run:
        raise ValueError(f"expected the run's id in the environment variable {RUN_ID}; the pipeline sets it")
    return Workspace(workspace, run)


@contextmanager
def step(name: str, workspace: str, report: str = "") -> Iterator[Workspace]:
    """Note in this run's journal that a step began and how it ends.

    Args:
        name: the step's name.
        workspace: the workspace URI.
        report: URI of the page that the step is about to write.

    Yields:
        The place of this run in the workspace.
    """
    place = this_run(workspace)
    record = Step(name, "running", time.time(), report=report)
    _write(place, record)
    try:
        yield place
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _write(place, replace(record, state="failed", ended=time.time(), error=reason))
        raise
    _write(place, replace(record, state="succeeded", ended=time.time()))


def read(place: Workspace) -> list[Step]:
    """The records of a run's steps, in the order in which they began; empty when none did."""
    steps = [Step(**storage.read_json(file.uri)) for file in storage.files(place.steps)]
    return sorted(steps, key=lambda record: record.began)


def _write(place: Workspace, record: Step) -> None:
    storage.write_json(storage.join(place.steps, record.name + ".json"), asdict(record))
