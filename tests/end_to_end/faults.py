"""Kill every step of the DAG at a random moment, start it again, and compare the result with an undisturbed run's.

    python -m tests.end_to_end.faults --runs 20 --resumed 7

In each of the first ``--runs`` runs, every step is killed once (SIGKILL to its process tree). It is started again like
Kubernetes does: in the same run, on an empty disk. Each of the ``--resumed`` runs ends when one step is killed, and a
new run is started with ``resume``, as a person would do. Half of the moments are drawn from the whole duration of a
step; the other half are right after one of its writes to the bucket. A step that ends before its moment counts as
killed at its end, when its work is done but not yet reported. ``--seed`` determines all moments; ``--first`` and
``--last`` select runs. The steps are forked from one process that has loaded their libraries, so that kills hit the
work of a step and not its imports.

One line per run says which steps were killed when, and whether the result equals that of an undisturbed run. The last
lines summarise all runs recorded in ``--folder``, including those of earlier calls.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
from kfp import components, local
from kfp.dsl.executor import Executor
from kfp.local import subprocess_task_handler

from components.scorer import storage
from components.scorer.artifacts import litert_model, warmup
from components.scorer.registry import channels, versions
from components.scorer.run import decision, step_status
from components.scorer.run.paths import RunPaths
from pipeline import local_runner, parameters
from pipeline.compiled import compiled_yaml
from tests.builders import tiny

STEPS = ("ingestion", "validation", "pretraining", "training", "evaluation", "push", "notification")
# Only the head is trained, and no page explains photos: tracing the whole network and its gradients would take longer
# than everything else together, and would test nothing more.
SETTINGS = tiny.SETTINGS | {
    "start": "none", "head_epochs": 4, "epochs": 0, "minimum_srcc": -1, "show_photos": "false",
}  # fmt: skip
TOLERANCE = 1e-4  # score points between both champions: a resumed training is equal up to rounding
_LOADED = (
    "components.ingestion.ingest", "components.validation.validate", "components.pretraining.pretrain",
    "components.training.train", "components.evaluation.evaluate", "components.push.push",
    "components.notification.notify", "components.scorer.run.preflight",
)  # fmt: skip
_POLL = 0.002  # seconds between two listings of the bucket
_COARSE = 0.02  # seconds between two measurements of the processes, which take longer


@dataclass(frozen=True)
class Moment:
    """When a step is killed: after ``seconds`` of processor time, or after ``writes`` writes to the bucket."""

    seconds: float = float("inf")
    writes: float = float("inf")

    def __str__(self) -> str:
        return f"after {self.seconds:.2f} s" if self.writes == float("inf") else f"after write {self.writes}"


NEVER = Moment()


@dataclass
class Measured:
    """A step's cost in an undisturbed run: seconds of processor time, which do not depend on other load, and writes."""

    seconds: float
    writes: int


@dataclass
class Reference:
    """An undisturbed run: the cost of its steps, the champion's mean scores, and the split register."""

    steps: dict[str, Measured] = field(default_factory=dict)
    means: list[float] = field(default_factory=list)
    splits: str = ""


@dataclass
class Steps:
    """Runs a DAG's steps in place of Kubeflow's subprocesses, and kills each step at its moment."""

    folder: Path
    moments: dict[str, Moment]
    again: bool  # whether a killed step is started again
    killed: list[str] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)

    def __call__(self, full_command: list[str], env_vars: Mapping[str, str] | None = None) -> int:
        name = full_command[full_command.index("--function_to_execute") + 1]
        executor_input = json.loads(full_command[full_command.index("--executor_input") + 1])
        (program,) = [word for word in full_command if f"def {name}(" in word]
        moment = self.moments.pop(name, None)
        before = self._seen()
        child = self._start(name, program, executor_input)
        if moment is None:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended, status = self._watch(name, child, moment, before)
        if moment == NEVER or (ended and status):
            return os.waitstatus_to_exitcode(status)
        self.killed.append(f"{name} {'at its end' if ended else moment}")
        if not self.again:
            return 128 + signal.SIGKILL
        # A new pod has an empty disk.
        shutil.rmtree(Path(executor_input["outputs"]["outputFile"]).parent, ignore_errors=True)
        return self(full_command, env_vars)

    def _watch(self, name: str, child: int, moment: Moment, before: set[tuple[str, int]]) -> tuple[bool, int]:
        """Kill a step at its moment and measure it. Return whether it ended by itself, and its wait status."""
        writes: set[tuple[str, int]] = set()
        processor_seconds = 0.0
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if moment.seconds < float("inf") or moment == NEVER:
                processor_seconds = max(processor_seconds, _busy(child))
            if moment.seconds == float("inf"):
                writes |= self._seen() - before
            if processor_seconds >= moment.seconds or len(writes) >= moment.writes:
                _kill_tree(child)
                status = os.waitpid(child, 0)[1]
                return not os.WIFSIGNALED(status), status  # it may have ended just before the kill
            time.sleep(_POLL if moment.seconds == float("inf") else _COARSE)
        self.measured[name] = Measured(processor_seconds, len(writes | (self._seen() - before)))
        return True, ended[1]

    def _start(self, name: str, program: str, given: dict[str, Any]) -> int:
        """Start a process that runs the step like its command would; return the process id."""
        child = os.fork()
        if child:
            return child
        try:
            os.setsid()
            log = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            module: dict[str, Any] = {"__name__": "ephemeral_component"}
            exec(compile(program, name, "exec"), module)
            Executor(executor_input=given, function_to_execute=module[name]).execute()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)

    def _seen(self) -> set[tuple[str, int]]:
        """Return the bucket's files with their modification times; each write adds an entry."""
        return set(_files(self.folder / "models")) | set(_files(self.folder / "workspace"))


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            if entry.is_dir():
                yield from _files(Path(entry.path))
            else:
                yield entry.path, entry.stat().st_mtime_ns
        except FileNotFoundError:
            continue


def _tree(process: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    try:
        root = psutil.Process(process)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _busy(process: int) -> float:
    """Return the processor seconds of a process and all its descendants, including ended ones."""
    total = 0.0
    for member in _tree(process):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _kill_tree(process: int) -> None:
    """Send SIGKILL to a process and all its descendants."""
    for member in _tree(process):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def start(folder: Path, run: str, weights: Path, steps: Steps, resume: str = "") -> bool:
    """Run the whole DAG with a folder as its bucket; return whether the run succeeded."""
    folder.mkdir(parents=True, exist_ok=True)
    addresses = {name: str(folder / name) for name in ("models", "workspace")}
    changed = SETTINGS | {"weights": weights, "resume": resume}
    assignments = parameters.parse_assignments([f"{name}={value}" for name, value in changed.items()])
    values = parameters.check({"photos": tiny.SAMPLE, **addresses, **assignments})
    pipeline = components.load_component_from_text(local_runner._without_retries(compiled_yaml()))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts" / run))
    patch = mock.patch.object(subprocess_task_handler, "run_local_subprocess", steps)
    with (
        patch,
        local_runner._step_environment(run),
        warnings.catch_warnings(),
        open(folder / "runner.log", "a") as log,
    ):
        warnings.simplefilter("ignore")
        with redirect_stdout(log):
            try:
                pipeline(**values)
            except RuntimeError:
                return False
    return True


def answers(folder: Path) -> np.ndarray:
    """Return the champion's mean scores of the warm-up photos."""
    champion_scorer = litert_model.load(channels.resolve(str(folder / "models" / "portraits")))
    pixels = np.stack([champion_scorer.pixels(photo) for photo in warmup.photos()])
    return champion_scorer.predict(pixels)["mean"]


def wrong(folder: Path, tried: list[str], reference: Reference) -> list[str]:
    """Return the faults in the result of ``tried`` runs, the last of which succeeded. Empty if there are none."""
    models, last = str(folder / "models"), RunPaths(str(folder / "workspace"), tried[-1])
    faults: list[str] = []

    def demand(holds: bool, fault: str) -> None:
        faults.extend([] if holds else [fault])

    pushes = [entry["who"] for entry in channels.audit(models, "portraits") if entry["action"] == "push"]
    complete = [
        version.version for version in versions.list_versions(models, "portraits") if version.state == "complete"
    ]
    champion = channels.read(models, "portraits").get("champion")
    record, published = decision.read(last.decision) or {}, storage.read_json(last.published)
    demand(pushes.count(tried[-1]) == 1, f"the run is in the audit {pushes.count(tried[-1])} times")
    demand(len(pushes) == len(set(pushes)) == len(complete), f"versions {complete} for pushes of {pushes}")
    demand(champion == max(complete), f"the champion is {champion} of {complete}")
    demand(published["version"] == champion, f"the run says that it published {published['version']}")
    demand(record.get("verdict") == "published", f"its decision says {record.get('verdict')}")
    demand((record.get("published") or {}).get("version") == champion, "its decision names another version")
    states = {step.name: step.state for step in step_status.read_steps(last)}
    expected = dict.fromkeys(STEPS[:-1], "succeeded")
    demand(states == expected, f"its steps ended {states}")
    demand((folder / "workspace" / "splits.csv").read_text() == reference.splits, "photos have changed their split")
    difference = float(np.abs(answers(folder) - reference.means).max())
    demand(difference <= TOLERANCE, f"the champion's scores differ by {difference:.2g}")
    return faults


def untouched(folder: Path, weights: Path) -> Reference:
    """Return the undisturbed run to compare with, from the folder if an earlier call has recorded it there."""
    reference_path = folder / "reference.json"
    if reference_path.exists():
        recorded = json.loads(reference_path.read_text())
        steps = {name: Measured(**cost) for name, cost in recorded.pop("steps").items()}
        return Reference(steps, **recorded)
    run_folder = folder / "untouched"
    shutil.rmtree(run_folder, ignore_errors=True)
    steps = Steps(run_folder, dict.fromkeys(STEPS, NEVER), again=False)
    if not start(run_folder, "untouched", weights, steps):
        raise RuntimeError(f"the run that nobody touched has failed: see {run_folder}")
    splits = (run_folder / "workspace" / "splits.csv").read_text()
    reference = Reference(steps.measured, answers(run_folder).tolist(), splits)
    shutil.rmtree(folder / "results", ignore_errors=True)  # these were compared with another run
    storage.write_json(str(reference_path), asdict(reference))
    return reference


def draw(chance: random.Random, measured: Measured) -> Moment:
    """Draw a moment within a step."""
    if chance.random() < 0.5 and measured.writes:
        return Moment(writes=chance.randint(1, measured.writes))
    return Moment(seconds=chance.uniform(0, measured.seconds))


def retried(place: Path, weights: Path, reference: Reference, chance: random.Random) -> tuple[Steps, list[str]]:
    """Run with every step killed once and started again; return its steps and the faults of its result."""
    steps = Steps(place, {name: draw(chance, reference.steps[name]) for name in STEPS}, again=True)
    if not start(place, "run", weights, steps):
        return steps, ["the run failed"]
    return steps, wrong(place, ["run"], reference)


def resumed(
    place: Path, weights: Path, reference: Reference, chance: random.Random, step: str
) -> tuple[Steps, list[str]]:
    """Run until a step is killed, then resume in another run; return the steps and the faults of the result."""
    steps = Steps(place, {step: draw(chance, reference.steps[step])}, again=False)
    start(place, "killed", weights, steps)
    taken_up = "killed" if storage.exists(RunPaths(str(place / "workspace"), "killed").steps) else ""
    if not start(place, "resumed", weights, Steps(place, {}, again=False), resume=taken_up):
        return steps, ["the run that was to go on failed"]
    return steps, wrong(place, ["killed", "resumed"], reference)


def main() -> int:
    """Carry out the runs; return 1 if any result is wrong, otherwise 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="whose steps are started again (default: %(default)s)")
    parser.add_argument("--resumed", type=int, default=7, help="that are taken up by another (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="number of the run to begin with (default: %(default)s)")
    parser.add_argument("--last", type=int, help="number of the run to end with")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("build/faults"), help="default: %(default)s")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (weights := folder / "backbone.weights.h5").exists():
        _apart(lambda: tiny.weights(folder))
    for module in _LOADED:
        __import__(module)
    reference = untouched(folder, weights)
    costs = ", ".join(f"{name} {cost.seconds:.1f} s {cost.writes} writes" for name, cost in reference.steps.items())
    print(f"untouched: {costs}", flush=True)
    for number in range(options.first, (options.last or options.runs + options.resumed) + 1):
        run_folder, chance = folder / f"run-{number}", random.Random(f"{options.seed}-{number}")
        shutil.rmtree(run_folder, ignore_errors=True)
        if number <= options.runs:
            kind, (steps, faults) = "started again", retried(run_folder, weights, reference, chance)
        else:
            step = STEPS[(number - options.runs - 1) % len(STEPS)]
            kind, (steps, faults) = "resumed", resumed(run_folder, weights, reference, chance, step)
        outcome = "; ".join(faults) or "as untouched"
        print(f"run {number}, {kind}: killed {', '.join(steps.killed)}: {outcome}", flush=True)
        result = {"how": kind, "killed": steps.killed, "wrong": faults, "versions": complete_versions(run_folder)}
        storage.write_json(str(folder / "results" / f"{number:03}.json"), result)
        if not faults:
            shutil.rmtree(run_folder)
    return 1 if _tell([json.loads(path.read_text()) for path in sorted(folder.glob("results/*.json"))]) else 0


def complete_versions(folder: Path) -> int:
    """Return the number of complete versions in a folder."""
    return sum(version.state == "complete" for version in versions.list_versions(str(folder / "models"), "portraits"))


def _tell(results: list[dict[str, Any]]) -> int:
    """Print a summary; return the number of runs with a wrong result."""
    for kind in dict.fromkeys(result["how"] for result in results):
        group = [result for result in results if result["how"] == kind]
        kills = Counter(killed.split()[0] for result in group for killed in result["killed"])
        versions = Counter(result["versions"] for result in group)
        version_counts = ", ".join(f"{number} in {runs} of them" for number, runs in sorted(versions.items()))
        by_step = ", ".join(f"{step} {kills[step]}" for step in STEPS if kills[step])
        same = sum(not result["wrong"] for result in group)
        print(
            f"{kind}: {len(group)} runs, {kills.total()} kills ({by_step}); the result of the untouched run in {same}"
        )
        print(f"  versions published: {version_counts}")
    return sum(bool(result["wrong"]) for result in results)


def _apart(action: Callable[[], Any]) -> None:
    """Run an action in a child process: this process must not have started TensorFlow when it forks steps."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a process of its own failed; its error stands above")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
