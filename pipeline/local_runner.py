"""Local runner: runs the pipeline on this machine, each step in a process of its own."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO

import yaml
from kfp import components, local

from components.scorer.run import step_status
from components.scorer.run.paths import RunPaths
from pipeline.compiled import compiled_yaml

SAMPLE: dict[str, Any] = {
    "photos": "sample:",
    "name": "sample",
    "backbone_options": {"alpha": 0.25},
    "scale": 112,
    "crop": 96,
    # Small batches and high learning rates: a few hundred photos make few steps an epoch.
    "pretraining_epochs": 4,
    "pretraining_learning_rate": 2e-3,
    "pretraining_batch_size": 16,
    "epochs": 14,
    "camera_faults": 0.0,
    "learning_rate": 1e-3,
    "batch_size": 16,
    "dropout": 0.1,
    "minimum_test_photos": 40,
    "minimum_srcc": 0.3,
    "maximum_emd": 2.0,
    "minimum_spread": 0.3,
    # A network so small, trained for a minute, cannot pass these gates: their failures are only warnings.
    "warn_only": [
        "photo_drift",
        "emd_floor",
        "slope",
        "outside",
        "slice_floor",
        "slice_gap",
        "blur",
        "darkening",
        "overexposure",
        "compression",
        "noise",
        "mirror",
        "shift",
        "reencoding",
        "perturbation",
    ],
    "champion_margin": 0.15,
    "champion_margin_emd": 0.3,
    "minimum_slice": 20,
    "minimum_slice_srcc": 0.0,
    "behaviour_photos": 32,
    "bootstrap": 200,
    "show_photos": True,  # the photos are drawn by code
}
"""Parameters for the embedded sample: a small network and few epochs, for two cores and a few minutes."""

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class LocalRunResult:
    """Outcome of a run on this machine.

    Attributes:
        summary: Summary of the run.
        pages: Reports of the steps that succeeded, in order of the steps.
    """

    summary: step_status.RunSummary
    pages: list[Path]


def new_run() -> str:
    """Return an id for a run on this machine, such as ``20260131-120000-1a2b``; ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def run_locally(parameters: dict[str, Any], folder: Path, run: str) -> LocalRunResult:
    """Run the pipeline on this machine, each step in a process of its own.

    No step is retried: the user waits for the run, and can resume it from its checkpoints with the parameter
    ``resume``.

    Args:
        parameters: Parameters of the pipeline.
        folder: Folder for the artifacts, and for copies of the reports under ``reports/<run>``.
        run: Id of the run.

    Returns:
        The outcome of the run. A failed step raises nothing.
    """
    pipeline = components.load_component_from_text(_without_retries(compiled_yaml()))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts"))
    state, message = "SUCCEEDED", ""
    with _step_environment(run), warnings.catch_warnings(), redirect_stdout(_FilteredStdout(sys.stdout)):
        warnings.filterwarnings("ignore", module=r"kfp\.local")  # about images and resources, unused on one machine
        try:
            pipeline(**parameters)
        except RuntimeError as error:  # a task failed; the step records mostly have more detail
            state, message = "FAILED", re.sub(r"\x1b\[\d+m", "", str(error))
    workspace = RunPaths(parameters["workspace"], run)
    return LocalRunResult(
        step_status.summarize_run(workspace, state, message), _copy_reports(workspace, folder / "reports" / run)
    )


def git_revision() -> str:
    """Return the git revision of the code, with ``-dirty`` if files differ from it; empty outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _without_retries(package: str) -> str:
    """Return the pipeline document without retry policies: the local runner would sleep minutes between attempts."""
    pipeline = next(yaml.safe_load_all(package))
    for component in (pipeline["root"], *pipeline["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump(pipeline)


@contextmanager
def _step_environment(run: str) -> Iterator[None]:
    """Set the environment that the steps' processes inherit: run id, this Python interpreter, this code."""
    variables = {
        step_status.RUN_ID: run,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _copy_reports(workspace: RunPaths, folder: Path) -> list[Path]:
    """Copy the steps' reports to ``<step>.html`` files, which a browser opens, and return their paths."""
    pages = []
    for step in step_status.read_steps(workspace):
        if step.state == "succeeded" and step.report:
            folder.mkdir(parents=True, exist_ok=True)
            pages.append(Path(shutil.copyfile(step.report, folder / f"{step.name}.html")))
    return pages


class _FilteredStdout(TextIOBase):
    """Text stream that passes the lines of steps and errors, and drops log lines of Kubeflow and TensorFlow."""

    _CHATTER = re.compile(
        r"\s*(\[KFP Executor .* INFO\]|\d\d:\d\d:\d\d\.\d{3} - INFO - |-{20,}$|$"
        r"|ModuleNotFoundError\(\"No module named 'faiss\.|WARNING: All log messages before absl"
        r"|[IW]\d{4} \d\d:\d\d:\d+\.\d+ )"
    )
    _DUMP = re.compile(r"(?P<indent>\s*)\[KFP Executor .* INFO\]: Got executor_input:$")
    _OUTPUTS = re.compile(r".* - INFO - Task .* outputs:$")

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""
        self._until: re.Pattern[str] | None = None  # the line that ends a dump; None outside a dump

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._filter_line(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def _filter_line(self, line: str) -> None:
        """Write a line unless it is a log line or within a dump that has not ended."""
        if self._until is not None:
            if self._until.match(line):
                self._until = None
        elif dump := self._DUMP.match(line):
            self._until = re.compile(dump["indent"] + r"\}$")
        elif self._OUTPUTS.match(line):
            self._until = re.compile(r"-{20,}$")
        elif not self._CHATTER.match(line):
            self._stream.write(line.removeprefix("    ") + "\n")
            self._stream.flush()
