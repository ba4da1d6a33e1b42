"""Commands that run, check and compile the pipeline on this machine."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from components.ingestion.component import examine
from components.scorer import progress, storage
from components.scorer.run import preflight
from components.scorer.run.paths import RunPaths
from pipeline import local_runner, parameters
from pipeline.cli.options import add_command, add_data_options, cli_parameters, with_absolute_paths
from pipeline.compiled import PATH, compiled_yaml, difference

BUILD = Path("build")


def add_commands(commands: Any) -> None:
    """Add `run`, `check`, `compile` and `parameters` to the parser."""
    run = add_command(commands, "run", _run, "run the whole pipeline on this machine; without --photos on the sample")
    run.epilog = "The environment says whom to tell of the end: WEBHOOK (Slack's format), SIGNED_WEBHOOK, SMTP_HOST."
    add_data_options(run)
    run.add_argument("--resume", metavar="RUN", help="an earlier run whose checkpoints to go on from")
    run.add_argument("--build", type=Path, default=BUILD, metavar="DIR", help="where results go (default: %(default)s)")

    check = add_command(
        commands, "check", _check, "find out from here what would stop a run: parameters, addresses, disk"
    )
    add_data_options(check)
    check.add_argument(
        "--kubeconfig", default=os.environ.get("KUBECONFIG", ""), metavar="FILE",
        help="also ask this cluster whether it has the accelerators (default: the environment variable KUBECONFIG)",
    )  # fmt: skip

    compile_command = add_command(commands, "compile", _compile, "write pipeline.yaml, what Kubeflow is given")
    compile_command.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    compile_command.add_argument("--file", type=Path, default=PATH, metavar="FILE", help="default: the project's")

    add_command(commands, "parameters", _parameters, "list what --set takes, with defaults")


def _run(options: argparse.Namespace) -> int:
    """Run the pipeline on this machine."""
    given_parameters = cli_parameters(options)
    parameters_of_run, folder = _with_run_defaults(given_parameters, options.build)
    if "photos" not in given_parameters:
        print("No photos given: this run is on the embedded sample, drawn by code. It shows the pipeline at work;")
        print("its figures say nothing about real portraits.", flush=True)
    values = parameters.check({"revision": local_runner.git_revision(), **with_absolute_paths(parameters_of_run)})
    if (resumed := values.get("resume")) and not storage.exists(RunPaths(values["workspace"], resumed).steps):
        raise ValueError(f"there is no run {resumed!r} in the workspace {values['workspace']}")
    began, run = time.monotonic(), local_runner.new_run()
    print(f"run {run}", flush=True)
    outcome = local_runner.run_locally(values, folder.absolute(), run)
    return _print_summary(outcome, RunPaths(values["workspace"], run), time.monotonic() - began)


def _with_run_defaults(values: dict[str, Any], build: Path) -> tuple[dict[str, Any], Path]:
    """Return the parameters with the defaults of `run`, and the folder for its results."""
    folder = build
    if "photos" not in values:
        if stray := [name for name in ("ratings", "unlabelled", "attributes") if name in values]:
            raise ValueError(f"--{stray[0]} needs --photos; without both the embedded sample is run")
        values, folder = local_runner.SAMPLE | values, build / "sample"
    elif not values.get("ratings") and not values["photos"].startswith("sample:"):
        raise ValueError("--photos needs --ratings")
    return {name: str((folder / name).absolute()) for name in ("models", "workspace")} | values, folder


def _print_summary(outcome: local_runner.LocalRunResult, workspace: RunPaths, seconds: float) -> int:
    """Print the outcome of the run and the paths of its results; return the exit status."""
    summary = outcome.summary
    lines = {"Run": f"{summary.run} {summary.state} after {progress.duration(seconds)}"}
    if summary.step:
        lines |= {"Failed": summary.step, "Reason": summary.reason}
        if not summary.wrong_input and any(
            storage.exists(workspace.checkpoints(step)) for step in ("pretraining", "training")
        ):
            lines["Go on"] = f"the same command with --resume {summary.run} takes up the last complete epoch"
    lines |= {"Gates": summary.verdict or "not reached", "Model": summary.published or "not published"}
    for number, page in enumerate(reversed(outcome.pages)):
        lines["Report" if not number else " " * number] = str(page)
    print("\n" + "\n".join(f"{name.strip():<8}{value}" for name, value in lines.items()))
    return 1 if summary.state == "failed" else 0


def _check(options: argparse.Namespace) -> int:
    """Check from this machine whether a run could start."""
    given_parameters = cli_parameters(options)
    values = parameters.check(with_absolute_paths(_with_run_defaults(given_parameters, BUILD)[0], check=False))
    print(f"parameters: {len(given_parameters)} given, each of them in its range")
    further = [("the ratings", lambda: examine(values))] if values.get("ratings") else []
    if options.kubeconfig:
        values = {name: parameters.default(name) for name in ("accelerator", "accelerator_count")} | values
    for line in preflight.run_checks(values, kubeconfig=options.kubeconfig, later_checks=further):
        print(line, flush=True)
    return 0


def _compile(options: argparse.Namespace) -> int:
    """Write pipeline.yaml, or check whether it is fresh."""
    if not options.check:
        storage.write_bytes(str(options.file), compiled_yaml().encode())
        print(options.file)
        return 0
    if diff := difference(options.file):
        print(f"{options.file} is stale; write it anew with: python -m pipeline compile\n{diff}", file=sys.stderr)
        return 1
    print(f"{options.file} is fresh")
    return 0


def _parameters(options: argparse.Namespace) -> int:
    """List the parameters that --set accepts."""
    print(parameters.table())
    return 0
