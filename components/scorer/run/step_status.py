"""How far each step of a run came, kept in the workspace for the people who are told at the end.

Kubeflow tells an exit handler that something failed, but neither which step nor why, and it cannot give it the
steps' outputs. So each step notes here that it began, how it ended, and where its report lies.
"""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from components.scorer import progress, storage
from components.scorer.redaction import redacted
from components.scorer.run import decision
from components.scorer.run.paths import Workspace

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
    wrong_input: bool = False  # it failed by what it was given, with which it would fail again


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

    An error whose text names photos, which goes to the log, is told and raised without their names.

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
    print(f"{name}: started", flush=True)
    try:
        yield place
    except BaseException as error:
        reason = redacted(f"{type(error).__name__}: {error}".splitlines()[0])
        with suppress(OSError):  # the step's own error is what matters
            failed = replace(record, state="failed", ended=time.time(), error=reason)
            _write(place, replace(failed, wrong_input=isinstance(error, ValueError)))
        told = "".join(traceback.format_exception(error))
        if (hidden := redacted(told)) == told:
            raise
        print(hidden, file=sys.stderr, flush=True)
        raise RuntimeError(reason) from None
    _write(place, replace(record, state="succeeded", ended=time.time()))
    print(f"{name}: done in {progress.duration(time.time() - record.began)}", flush=True)


def read(place: Workspace) -> list[Step]:
    """The records of a run's steps, in the order in which they began; empty when none did."""
    steps = [Step(**storage.read_json(file.uri)) for file in storage.files(place.steps)]
    return sorted(steps, key=lambda record: record.began)


@dataclass(frozen=True)
class Account:
    """What became of a run. What does not apply is empty."""

    run: str
    state: str  # "succeeded" or "failed"
    step: str = ""  # the step that failed
    reason: str = ""  # why it failed
    wrong_input: bool = False  # it failed by what it was given: to go on from its checkpoints ends in the same
    verdict: str = ""  # in words, with the reasons of a no
    published: str = ""  # URI of the version
    report: str = ""  # URI of the last page that was written: the evaluation's, where it was reached
    decision: dict[str, Any] | None = None  # the record, as it has to be at the end of the run


def account(place: Workspace, state: str, message: str = "") -> Account:
    """What became of a run, from its own records.

    Args:
        place: of the run in the workspace.
        state: of the run's steps, as its runner tells. Some versions of Kubeflow say ``RUNNING`` of a run that
            failed, so a step's own word goes before it.
        message: of the runner, for a step that left no word.
    """
    steps = read(place)
    stopped = next((record for record in steps if record.state != "succeeded"), None)
    failed = stopped is not None or state.upper() in ("FAILED", "CANCELLED", "CANCELED", "ERROR")
    step, reason = _failure(stopped, steps, redacted(message)) if failed else ("", "")
    published = _json(place.published)
    why = f"{step} broke off: {reason}" if failed else "the run ended without publishing, and no step said why"
    record = _concluded(decision.read(place.decision), published, why, place.run)
    return Account(
        run=place.run,
        state="failed" if failed else "succeeded",
        step=step,
        reason=reason,
        wrong_input=failed and stopped is not None and stopped.wrong_input,
        verdict=" ".join([record["summary"], *(each for each in record["reasons"] if not failed or each != why)]),
        published=(published or {}).get("uri", ""),
        report=next((each.report for each in reversed(steps) if each.report and each.state == "succeeded"), ""),
        decision=record,
    )


def _concluded(record: dict[str, Any] | None, published: dict[str, Any] | None, why: str, run: str) -> dict[str, Any]:
    """The decision's record at the end of a run: one that was to publish has published, or failed to."""
    if record is not None and (record["published"] or not record["publish"]):
        return record
    if record is not None and published is not None:
        return decision.completed(record, published["version"], published["uri"])
    return decision.failed(record, why, run)


def _failure(stopped: Step | None, steps: list[Step], message: str) -> tuple[str, str]:
    """The failed step and the reason, as far as the steps could say."""
    if stopped is None:
        return f"the step after {steps[-1].name}" if steps else "the first step", message or "it did not start"
    silence = "it was killed and left no word: memory, deadline or preemption"
    return stopped.name, stopped.error or "; ".join(filter(None, (silence, message)))


def _json(uri: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return None


def _write(place: Workspace, record: Step) -> None:
    storage.write_json(storage.join(place.steps, record.name + ".json"), asdict(record))
