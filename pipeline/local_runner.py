"""The same DAG, run on this machine."""

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
from components.scorer.run.paths import Workspace
from pipeline.compiled import compiled

SAMPLE: dict[str, Any] = {
    "photos": "sample:",
    "name": "sample",
    "backbone_options": {"alpha": 0.25},
    "scale": 112,
    "crop": 96,
    # Small batches and fast rates: a few hundred photos make few steps an epoch.
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
    # What a network so small, trained for a minute, cannot be asked: it is told all the same.
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
    "show_photos": True,  # they are drawn
}
"""Parameters for the embedded sample: a small network and few epochs, for two cores and a few minutes."""

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """How a run on this machine ended."""

    account: step_status.Account
    pages: list[Path]  # the reports of the steps that ended well, in their order


def new_run() -> str:
    """An id for a run on this machine; ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def here(parameters: dict[str, Any], folder: Path, run: str) -> Outcome:
    """Run the DAG on this machine, each step in a process of its own.

    Nothing is tried again: a person waits, and goes on from the checkpoints with the parameter ``resume``.

    Args:
        parameters: of the pipeline.
        folder: for the artifacts, and for copies of the reports under ``reports/<run>``.
        run: the run's id.

    Returns:
        How the run ended, also when a step failed.
    """
    pipeline = components.load_component_from_text(_without_retries(compiled()))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts"))
    state, message = "SUCCEEDED", ""
    with _step_environment(run), warnings.catch_warnings(), redirect_stdout(_Quiet(sys.stdout)):
        warnings.filterwarnings("ignore", module=r"kfp\.local")  # of images and resources, which mean nothing here
        try:
            pipeline(**parameters)
        except RuntimeError as error:  # a task failed; the journal mostly knows more of it
            state, message = "FAILED", re.sub(r"\x1b\[\d+m", "", str(error))
    place = Workspace(parameters["workspace"], run)
    return Outcome(step_status.account(place, state, message), _pages(place, folder / "reports" / run))


def revision() -> str:
    """The git revision of the code, with ``-dirty`` when files differ from it; empty outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _without_retries(package: str) -> str:
    """The pipeline's document with each task tried once: the local runner would sleep minutes between tries."""
    pipeline = next(yaml.safe_load_all(package))
    for component in (pipeline["root"], *pipeline["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump(pipeline)


@contextmanager
def _step_environment(run: str) -> Iterator[None]:
    """The environment that the steps' processes inherit: the run's id, this Python, this code."""
    own = {
        step_status.RUN_ID: run,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _pages(place: Workspace, folder: Path) -> list[Path]:
    """Copies of the steps' reports, under names that a browser opens."""
    pages = []
    for step in step_status.read(place):
        if step.state == "succeeded" and step.report:
            folder.mkdir(parents=True, exist_ok=True)
            pages.append(Path(shutil.copyfile(step.report, folder / f"{step.name}.html")))
    return pages


class _Quiet(TextIOBase):
    """Passes on the lines of the steps and of what failed, and drops Kubeflow's and TensorFlow's own chatter."""

    _CHATTER = re.compile(
        r"\s*(\[KFP Executor .* INFO\]|\d\d:\d\d:\d\d\.\d{3} - INFO - |-{20,}$|$"
        r"|ModuleNotFoundError\(\"No module named 'faiss\.|WARNING: All log messages before absl"
        r"|[IW]\d{4} \d\d:\d\d:\d+\.\d+ )"
    )
    _DUMP = re.compile(r"(?P<indent>\s*)\[KFP Executor .* INFO\]: Got executor_input:$")
    _OUTPUTS = re.compile(r".* - INFO - Task .* outputs:$")

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line, self._until = stream, "", None

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._pass(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def _pass(self, line: str) -> None:
        """Write the line, unless it is chatter or within a dump that has not ended."""
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
