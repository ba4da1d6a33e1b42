"""Status records of a run's steps in the workspace, and the summary of the run for its notification.

Kubeflow tells an exit handler that a run failed, but neither the step nor the reason. Nor can it pass the steps'
outputs to the exit handler. Each step therefore records here its begin, its end and the address of its report.
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
from components.scorer.redaction import redact
from components.scorer.run import decision
from components.scorer.run.paths import RunPaths

RUN_ID = "RUN_ID"
"""The environment variable with the run's id.

The id is not a parameter of the steps, because parameters are part of the key of Kubeflow's execution cache. With the
id among the parameters no step would ever be taken from the cache.
"""


@dataclass(frozen=True)
class StepStatus:
    """Status record of one step. ``running`` at the end of a run means that the step was killed."""

    name: str
    state: Literal["running", "succeeded", "failed"]
    began: float  # seconds since the epoch
    ended: float | None = None
    error: str = ""
    report: str = ""  # URI of the HTML report that the step wrote
    wrong_input: bool = False  # the step's input caused the failure: the same input would fail again


def current_run_paths(workspace: str) -> RunPaths:
    """Return the paths of this process's run under the workspace URI.

    Raises:
        ValueError: The environment variable `RUN_ID` is not set.
    """
    run = os.environ.get(RUN_ID, "")
    if not run:
        raise ValueError(f"expected the run's id in the environment variable {RUN_ID}; the pipeline sets it")
    return RunPaths(workspace, run)


@contextmanager
def record_step(name: str, workspace: str, report: str = "") -> Iterator[RunPaths]:
    """Record in the workspace that a step began and how the step ends.

    Names of photos in an error's text are removed before the error is recorded, logged and raised.

    Args:
        name: Name of the step.
        workspace: Workspace URI.
        report: URI of the HTML report that the step is about to write.

    Yields:
        The paths of this run in the workspace.
    """
    run_paths = current_run_paths(workspace)
    record = StepStatus(name, "running", time.time(), report=report)
    _write(run_paths, record)
    print(f"{name}: started", flush=True)
    try:
        yield run_paths
    except BaseException as error:
        reason = redact(f"{type(error).__name__}: {error}".splitlines()[0])
        with suppress(OSError):  # a failure to write must not hide the step's own error
            failed = replace(record, state="failed", ended=time.time(), error=reason)
            _write(run_paths, replace(failed, wrong_input=isinstance(error, ValueError)))
        trace = "".join(traceback.format_exception(error))
        if (redacted_trace := redact(trace)) == trace:
            raise
        print(redacted_trace, file=sys.stderr, flush=True)
        raise RuntimeError(reason) from None
    _write(run_paths, replace(record, state="succeeded", ended=time.time()))
    print(f"{name}: done in {progress.duration(time.time() - record.began)}", flush=True)


def read_steps(run_paths: RunPaths) -> list[StepStatus]:
    """Return the status records of a run's steps in the order of their begin; empty if no step began."""
    steps = [StepStatus(**storage.read_json(file.uri)) for file in storage.list_files(run_paths.steps)]
    return sorted(steps, key=lambda record: record.began)


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run for its notification; an attribute that does not apply is empty."""

    run: str
    state: str  # "succeeded" or "failed"
    step: str = ""  # the step that failed
    reason: str = ""  # reason of the failure
    wrong_input: bool = False  # the step's input caused the failure: resuming from checkpoints would fail again
    verdict: str = ""  # verdict in words, with the reasons if the scorer is not published
    published: str = ""  # URI of the published version
    report: str = ""  # URI of the report of the last step that succeeded and has one
    decision: dict[str, Any] | None = None  # final decision record of the run


def summarize_run(run_paths: RunPaths, state: str, message: str = "") -> RunSummary:
    """Summarise a run from its records in the workspace.

    Args:
        run_paths: Paths of the run in the workspace.
        state: State of the run as its runner reports it. Some versions of Kubeflow report ``RUNNING`` for a run that
            failed, so the steps' own records take precedence.
        message: Error message of the runner, for a step that was killed before it could record an error.
    """
    steps = read_steps(run_paths)
    stopped_step = next((record for record in steps if record.state != "succeeded"), None)
    failed = stopped_step is not None or state.upper() in ("FAILED", "CANCELLED", "CANCELED", "ERROR")
    step, reason = _failure(stopped_step, steps, redact(message)) if failed else ("", "")
    published_record = _read_json_or_none(run_paths.published)
    failure = f"{step} broke off: {reason}" if failed else "the run ended without publishing, and no step said why"
    record = _final_decision(decision.read(run_paths.decision), published_record, failure, run_paths.run)
    return RunSummary(
        run=run_paths.run,
        state="failed" if failed else "succeeded",
        step=step,
        reason=reason,
        wrong_input=failed and stopped_step is not None and stopped_step.wrong_input,
        verdict=" ".join(
            [
                record["summary"],
                *(text for text in record["reasons"] if not failed or text != failure),
            ]
        ),
        published=(published_record or {}).get("uri", ""),
        report=next(
            (
                reason_item.report
                for reason_item in reversed(steps)
                if reason_item.report and reason_item.state == "succeeded"
            ),
            "",
        ),
        decision=record,
    )


def _final_decision(
    record: dict[str, Any] | None, published: dict[str, Any] | None, failure: str, run: str
) -> dict[str, Any]:
    """Return the decision record at the end of a run: a decision to publish becomes "published" or "failed"."""
    if record is not None and (record["published"] or not record["publish"]):
        return record
    if record is not None and published is not None:
        return decision.with_publication(record, published["version"], published["uri"])
    return decision.with_failure(record, failure, run)


def _failure(stopped_step: StepStatus | None, steps: list[StepStatus], message: str) -> tuple[str, str]:
    """Return the failed step and the reason, from the steps' records and the runner's message."""
    if stopped_step is None:
        return f"the step after {steps[-1].name}" if steps else "the first step", message or "it did not start"
    killed = "it was killed and left no word: memory, deadline or preemption"
    return stopped_step.name, stopped_step.error or "; ".join(filter(None, (killed, message)))


def _read_json_or_none(uri: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return None


def _write(run_paths: RunPaths, record: StepStatus) -> None:
    storage.write_json(storage.join(run_paths.steps, record.name + ".json"), asdict(record))
