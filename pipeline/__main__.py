"""Command line of the pipeline: ``python -m pipeline --help``."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.ingestion.component import examine
from components.scorer import progress, storage
from components.scorer.artifacts import promotion
from components.scorer.registry import channels, kubeflow, versions
from components.scorer.run import preflight
from components.scorer.run.paths import RunPaths
from pipeline import local_runner, model_listing, parameters, resources
from pipeline.compiled import PATH, compiled_yaml, difference
from pipeline.kubeflow import checkpoint_cleanup, run_cleanup, schedules
from pipeline.kubeflow.client import COOKIE, EXPERIMENT, TOKEN, clear_errors, connect, submit, upload
from pipeline.kubeflow.schedule_commands import ScheduleManager

BUILD = Path("build")

_DATA_OPTIONS = {
    "photos": "folder, gs://, s3:// or tfds:NAME with the rated photos",
    "ratings": "file of their ratings",
    "unlabelled": "folder or address of photos without ratings, for pretraining",
    "attributes": "file with attributes of the photos",
    "models": "where models are published",
    "workspace": "where checkpoints, the register of splits and the runs' records are kept",
    "name": "name of the model",
}
_ADDRESS_PARAMETERS = (
    "photos", "ratings", "unlabelled", "attributes", "models", "workspace", "weights", "norms", "face_detector",
    "face_embedder",
)  # fmt: skip
"""Parameters that hold a path or an address."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command-line arguments; None: those of the process.

    Returns:
        The exit status. 0: success; for ``run`` also if the gates refused the scorer. 1: a step failed,
        ``pipeline.yaml`` is stale, or a photo could not be read. 2: the arguments or their inputs are wrong. 130: the
        command was interrupted.
    """
    options = build_parser().parse_args(arguments)
    os.environ.update({name: value for name, value in resources.LOG_ENVIRONMENT.items() if name not in os.environ})
    try:
        return options.command(options)
    except (ValueError, OSError, storage.WriteConflict) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    """Run the pipeline on this machine."""
    cli_parameters = _cli_parameters(options)
    parameters_of_run, folder = _with_run_defaults(cli_parameters, options.build)
    if "photos" not in cli_parameters:
        print("No photos given: this run is on the embedded sample, drawn by code. It shows the pipeline at work;")
        print("its figures say nothing about real portraits.", flush=True)
    values = parameters.check({"revision": local_runner.git_revision(), **_with_absolute_paths(parameters_of_run)})
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
    cli_parameters = _cli_parameters(options)
    values = parameters.check(_with_absolute_paths(_with_run_defaults(cli_parameters, BUILD)[0], check=False))
    print(f"parameters: {len(cli_parameters)} given, each of them in its range")
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


def _submit(options: argparse.Namespace) -> int:
    """Upload this version and start a run of it."""
    values = parameters.check(_cli_parameters(options))
    with clear_errors():
        client = connect(options.host, options.namespace, options.ca)
        run = submit(client, values, options.experiment, options.title, options.service_account)
    print(f"started run {run}")
    return 0


def _upload(options: argparse.Namespace) -> int:
    """Upload this version without starting a run."""
    if (diff := difference(PATH)) and PATH.exists():  # the uploaded pipeline must be the reviewed one
        raise ValueError(f"{PATH.name} is stale; write it anew with: python -m pipeline compile\n{diff}")
    with clear_errors():
        version = upload(connect(options.host, options.namespace, options.ca), options.version)
    print(f"the server has version {version.name}")
    return 0


def _schedule(options: argparse.Namespace) -> int:
    """Reconcile the server's schedules with a file."""
    wanted = schedules.read(options.file)
    outcome = "nothing to change"
    with clear_errors():
        client = connect(options.host, options.namespace, options.ca)
        for change in schedules.reconcile(client, wanted, options.experiment, options.dry_run, options.version):
            print(change, flush=True)
            outcome = "dry run: nothing was changed" if options.dry_run else "done"
    print(outcome)
    return 0


def _schedules(options: argparse.Namespace) -> int:
    """List, pause or resume the server's schedules."""
    with clear_errors():
        manager = ScheduleManager(connect(options.host, options.namespace, options.ca), options.experiment)
        lines = manager.lines() if options.verb == "list" else getattr(manager, options.verb)(options.names)
        line = ""
        for line in lines:
            print(line, flush=True)
        if not line:
            print(f"there are no schedules in the experiment {options.experiment}: make some by schedule FILE")
    return 0


def _run_now(options: argparse.Namespace) -> int:
    """Start a run of a schedule."""
    changed = parameters.parse_assignments(options.set)
    with clear_errors():
        manager = ScheduleManager(connect(options.host, options.namespace, options.ca), options.experiment)
        print(f"started run {manager.run(options.schedule, changed, options.beside)}")
    return 0


def _backfill(options: argparse.Namespace) -> int:
    """Start a backfill: the server runs a schedule for past times."""
    arguments = (options.schedule, options.since, options.until)
    with clear_errors():
        manager = ScheduleManager(connect(options.host, options.namespace, options.ca), options.experiment)
        moments = manager.backfill_times(*arguments)
        print("\n".join(f"{moment:%Y-%m-%d %H:%M:%S} UTC" for moment in moments))
        if options.dry_run:
            print("dry run: nothing was changed")
        else:
            print(f"{manager.backfill(*arguments, options.beside)}: the server runs these, one after another")
    return 0


def _score(options: argparse.Namespace) -> int:
    """Score photos with a published model."""
    if options.shards:
        return _score_shards(options)
    if options.form != "csv" or options.beam:
        raise ValueError(
            f"--{'beam' if options.beam else 'form'} needs --shards: --out is one CSV, written by one process"
        )
    from components.scorer.batch.score_folder import (
        problems_path,
        score_folder,  # loads TensorFlow, which takes seconds: only if needed
    )

    scored, unreadable = score_folder(options.model, options.photos, options.out, options.job)
    print(f"{scored} photos scored: {options.out}")
    if unreadable:
        print(f"{unreadable} photos could not be read: {problems_path(options.out)} says why", file=sys.stderr)
    return 1 if unreadable else 0


def _score_shards(options: argparse.Namespace) -> int:
    """Score many photos in shards with a published model, and rank them."""
    from components.scorer.batch.score_many import score_and_rank

    summary = score_and_rank(
        options.model, options.photos, options.shards, job=options.job, form=options.form, beam_options=options.beam
    )
    print(f"{summary.scored:,} photos scored and in order: {storage.join(options.shards, 'order.csv')}")
    if summary.problems:
        listing = storage.join(options.shards, "problems.csv")
        print(f"{len(summary.problems):,} photos could not be scored: {listing} says why", file=sys.stderr)
    return 1 if summary.problems else 0


def _explain(options: argparse.Namespace) -> int:
    """Explain the scores of a few photos."""
    from components.scorer.explain.page import explain

    print(explain(options.model, options.photos, options.out, options.steps))
    return 0


def _list(options: argparse.Namespace) -> int:
    """List the versions of one model or of all."""
    models = versions.list_models(options.model)
    print(
        model_listing.as_json(models, options.audit) if options.json else model_listing.as_text(models, options.audit)
    )
    return 0


def _promote(options: argparse.Namespace) -> int:
    """Point a channel to a version."""
    folder, name = versions.resolve_model(options.model)
    kubeflow.check_url(options.model_registry)
    after = promotion.promote(folder, name, options.version, channel=options.channel, why=options.why)
    print(model_listing.channels_line(name, after))
    return _sync_registry(options, folder, name)


def _rollback(options: argparse.Namespace) -> int:
    """Make the previous version the champion again."""
    folder, name = versions.resolve_model(options.model)
    kubeflow.check_url(options.model_registry)
    print(model_listing.channels_line(name, promotion.rollback(folder, name, why=options.why)))
    return _sync_registry(options, folder, name)


def _register(options: argparse.Namespace) -> int:
    """Synchronise the Kubeflow Model Registry with the published versions."""
    if not options.model_registry:
        raise ValueError(f"expected the registry's URL as --model-registry, or as {kubeflow.URL_VARIABLE}")
    folder, name = versions.resolve_model(options.model)
    outcome = "nothing to change"
    for line in kubeflow.reconcile(options.model_registry, folder, name):
        print(line, flush=True)
        outcome = "done"
    print(outcome)
    return 0


def _sync_registry(options: argparse.Namespace, folder: str, name: str) -> int:
    """Synchronise the Kubeflow Model Registry, if its URL is given; a failure does not fail the command."""
    for line in kubeflow.sync(options.model_registry, folder, name):
        print(line, flush=True)
    return 0


def _gc(options: argparse.Namespace) -> int:
    """Remove old versions."""
    folder, name = versions.resolve_model(options.model)
    count = size = 0
    limits = {"keep": options.keep, "older_than": options.older_than, "dry_run": options.dry_run}
    for removed in versions.collect_garbage(folder, name, **limits):
        print(
            f"version {removed.version}, {removed.state}, {removed.date or 'no date'}: {removed.bytes:,} bytes",
            flush=True,
        )
        count, size = count + 1, size + removed.bytes
    print(
        f"{count} version{'' if count == 1 else 's'}, {size:,} bytes "
        + ("would go: nothing was removed" if options.dry_run else "removed")
    )
    return 0 if options.dry_run else _sync_registry(options, folder, name)


def _clean(options: argparse.Namespace) -> int:
    """Remove old runs' checkpoints."""
    count = size = 0
    limits = {"keep": options.keep, "older_than": options.older_than, "dry_run": options.dry_run}
    for removed in checkpoint_cleanup.delete_checkpoints(options.workspace, **limits):
        print(
            f"run {removed.run}, {removed.days} days old: {removed.files:,} files, {removed.bytes:,} bytes", flush=True
        )
        count, size = count + 1, size + removed.bytes
    print(
        f"checkpoints of {count} run{'' if count == 1 else 's'}, {size:,} bytes "
        + ("would go: nothing was removed" if options.dry_run else "removed")
    )
    return _clean_runs(options, limits) if options.runs else 0


def _clean_runs(options: argparse.Namespace, limits: dict[str, Any]) -> int:
    """Archive or delete Kubeflow's records of old runs."""
    filters = {"delete": options.runs == "delete", "experiment": options.experiment}
    with clear_errors():
        client, count = connect(options.host, options.namespace, options.ca), 0
        for run in run_cleanup.clean_runs(client, options.workspace, **limits, **filters):
            print(run, flush=True)
            count += 1
    print(
        f"{count} run{'' if count == 1 else 's'} of Kubeflow's" + (": nothing was changed" if options.dry_run else "")
    )
    return 0


def _parameters(options: argparse.Namespace) -> int:
    """List the parameters that --set accepts."""
    print(parameters.table())
    return 0


def _cli_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the pipeline parameters given on the command line."""
    data_options = {name: getattr(options, name) for name in (*_DATA_OPTIONS, "resume") if getattr(options, name, None)}
    return parameters.parse_assignments(options.set) | data_options


def _with_absolute_paths(values: dict[str, Any], check: bool = True) -> dict[str, Any]:
    """Return the parameters with absolute local paths.

    Raises:
        FileNotFoundError: ``check`` is true and an input path does not exist.
    """
    absolute = dict(values)
    for name in _ADDRESS_PARAMETERS:
        path = values.get(name, "")
        if not path or "://" in path or path.startswith(("tfds:", "sample:", "deepface:")):
            continue
        if check and name not in ("models", "workspace") and not Path(path).exists():
            raise FileNotFoundError(f"{name}: there is nothing at {path}")
        absolute[name] = str(Path(path).absolute())
    return absolute


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description="Keep a scorer of portrait photos trained, judged and published."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _add_command(commands, "run", _run, "run the whole pipeline on this machine; without --photos on the sample")
    run.epilog = "The environment says whom to tell of the end: WEBHOOK (Slack's format), SIGNED_WEBHOOK, SMTP_HOST."
    _add_data(run)
    run.add_argument("--resume", metavar="RUN", help="an earlier run whose checkpoints to go on from")
    run.add_argument("--build", type=Path, default=BUILD, metavar="DIR", help="where results go (default: %(default)s)")

    check = _add_command(
        commands, "check", _check, "find out from here what would stop a run: parameters, addresses, disk"
    )
    _add_data(check)
    check.add_argument(
        "--kubeconfig", default=os.environ.get("KUBECONFIG", ""), metavar="FILE",
        help="also ask this cluster whether it has the accelerators (default: the environment variable KUBECONFIG)",
    )  # fmt: skip

    compile_command = _add_command(commands, "compile", _compile, "write pipeline.yaml, what Kubeflow is given")
    compile_command.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    compile_command.add_argument("--file", type=Path, default=PATH, metavar="FILE", help="default: the project's")

    submit_command = _add_command(
        commands, "submit", _submit, "upload this version to a Kubeflow server and start a run of it"
    )
    _add_data(submit_command)
    _add_server(submit_command)
    submit_command.add_argument("--title", default="", help="the run's name")
    submit_command.add_argument("--service-account", default="", metavar="NAME", help="of Kubernetes, for the steps")

    upload_command = _add_command(
        commands, "upload", _upload, "upload this version to a Kubeflow server, and start nothing"
    )
    upload_command.add_argument("--version", default="", metavar="NAME", help="default: the git revision")
    _add_host(upload_command)

    schedule = _add_command(commands, "schedule", _schedule, "bring a Kubeflow server's schedules to what a file says")
    schedule.add_argument(
        "file", type=Path, metavar="FILE", help="YAML: schedules: {NAME: {cron: ..., parameters: {...}}}"
    )
    schedule.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    schedule.add_argument(
        "--version", default="", metavar="NAME",
        help="of the pipeline on the server, to be run (default: this code's, uploaded where that is needed)",
    )  # fmt: skip
    _add_server(schedule)

    _add_schedules(commands)

    score = _add_command(commands, "score", _score, "score photos with a published model")
    score.add_argument("model", metavar="MODEL", help="a version's folder or address, or the base folder: its champion")
    score.add_argument("photos", metavar="PHOTOS", help="folder, gs:// or s3:// address")
    output = score.add_mutually_exclusive_group(required=True)
    output.add_argument("--out", type=Path, metavar="FILE", help="CSV to write: photo,mean,std,p1,...,p10")
    output.add_argument(
        "--shards", metavar="DIR", help="folder or address for many photos: shards of the same, order.csv, problems.csv"
    )
    score.add_argument("--form", default="csv", metavar="FORM", help="of the shards: csv (default) or parquet")
    score.add_argument(
        "--beam", default="", metavar="OPTIONS", help="of an Apache Beam runner; default: processes of this machine"
    )
    score.add_argument("--job", default="", metavar="NAME", help="that the people on the photos offer to do")
    score.epilog = "Cut off, the same command with --shards goes on from the shards that are done."

    explain = _add_command(commands, "explain", _explain, "show on a page why photos get their scores")
    explain.add_argument("model", metavar="MODEL", help="as for score, or the folder of a scorer bundle")
    explain.add_argument("photos", nargs="+", metavar="PHOTO", help="file, gs:// or s3:// address")
    explain.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives index.html and the pictures")
    explain.add_argument(
        "--steps", type=int, default=100, metavar="N", help="by which photos are enhanced (default: %(default)s)"
    )

    _add_models(commands)

    clean = _add_command(
        commands, "clean", _clean, "remove old runs' checkpoints, and archive or delete Kubeflow's runs"
    )
    clean.add_argument("workspace", metavar="WORKSPACE", help="folder, gs:// or s3:// address")
    clean.add_argument("--keep", type=int, required=True, metavar="N", help="how many of the newest runs keep theirs")
    clean.add_argument(
        "--older-than", type=int, required=True, metavar="DAYS", help="for which every run keeps its own"
    )
    clean.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    clean.add_argument(
        "--runs", choices=("archive", "delete"),
        help="also what Kubeflow's server keeps of them; a run that the cache or a version needs is not deleted",
    )  # fmt: skip
    _add_server(clean)
    clean.epilog = "A run whose checkpoints are gone cannot be taken up by --resume."

    _add_command(commands, "parameters", _parameters, "list what --set takes, with defaults")
    return parser


def _add_models(commands: Any) -> None:
    text = "list, promote, roll back and remove published versions"
    group = commands.add_parser("models", help=text, description=text[0].upper() + text[1:] + ".")
    verbs = group.add_subparsers(required=True, metavar="VERB")
    audit_note = f"The audit says who: the environment variable {channels.USER}, or else account and machine."

    listing = _add_command(verbs, "list", _list, "list the versions of one model or of all, newest first")
    listing.add_argument("model", metavar="MODELS_OR_MODEL", help="folder or address of all models or of one")
    listing.add_argument("--json", action="store_true", help="write JSON")
    listing.add_argument("--audit", action="store_true", help="also who moved the channels, when and why")

    promote = _add_command(verbs, "promote", _promote, "let a channel name a version once that has proved to answer")
    _add_model(promote)
    promote.add_argument(
        "version", type=int, metavar="VERSION", help="its number; it may be older than the one named now"
    )
    promote.add_argument("--channel", default=channels.CHAMPION, help="e.g. challenger (default: %(default)s)")

    rollback = _add_command(
        verbs, "rollback", _rollback, "make the previous version the champion once it has proved to answer"
    )
    _add_model(rollback)
    for command in (promote, rollback):
        command.add_argument("--why", required=True, metavar="TEXT", help="for the audit")
        command.epilog = audit_note

    gc = _add_command(verbs, "gc", _gc, "remove old versions that no channel names, and what killed pushes have left")
    _add_model(gc)
    gc.add_argument("--keep", type=int, required=True, metavar="N", help="how many of the newest stay at least")
    gc.add_argument("--older-than", type=int, metavar="DAYS", help="remove nothing that was published since")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    gc.epilog = audit_note

    register = _add_command(verbs, "register", _register, "bring the Kubeflow Model Registry to what is published")
    _add_model(register)
    for command in (promote, rollback, gc, register):
        command.add_argument(
            "--model-registry", default=os.environ.get(kubeflow.URL_VARIABLE, ""), metavar="URL",
            help=f"the Kubeflow Model Registry to tell (default: the environment variable {kubeflow.URL_VARIABLE})",
        )  # fmt: skip


def _add_schedules(commands: Any) -> None:
    text = "look at a Kubeflow server's schedules, pause, resume and run them by hand"
    group = commands.add_parser("schedules", help=text, description=text[0].upper() + text[1:] + ".")
    verbs = group.add_subparsers(required=True, metavar="VERB")
    for verb, help_text in {
        "list": "list them: state, cron, next time and version",
        "pause": "start no run of them until they are resumed",
        "resume": "go on with them",
    }.items():
        command = _add_command(verbs, verb, _schedules, help_text)
        command.set_defaults(verb=verb)
        if verb != "list":
            command.add_argument("names", nargs="+", metavar="NAME", help="as in the file")
            command.epilog = "The next `python -m pipeline schedule FILE` brings back what the file says."
        _add_server(command)

    run = _add_command(verbs, "run", _run_now, "start a run of a schedule now, whether or not it is paused")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="other parameters")
    backfill = _add_command(verbs, "backfill", _backfill, "run a schedule for its times in the past, one after another")
    for name, text in {"since": "times after this one", "until": "and up to this one"}.items():
        backfill.add_argument(
            f"--{name}", type=_parse_time, required=True, metavar="TIME", help=f"{text}: 2026-01-31[T12:00]"
        )
    backfill.add_argument("--dry-run", action="store_true", help="list the times, and change nothing")
    backfill.epilog = "Kubeflow fills each time in where a parameter of the schedule says [[ScheduledTime]]."
    for command in (run, backfill):
        command.add_argument("schedule", metavar="NAME", help="as in the file")
        command.add_argument("--beside", action="store_true", help="also while another run is going")
        _add_server(command)


def _parse_time(text: str) -> datetime:
    """Parse an ISO 8601 time; a time without a zone is in UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model's folder or address")


def _add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=function)
    return command


def _add_data(command: argparse.ArgumentParser) -> None:
    for name, text in _DATA_OPTIONS.items():
        command.add_argument(f"--{name}", metavar=name.upper(), help=text)
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="any parameter of the pipeline; `python -m pipeline parameters` lists them",
    )  # fmt: skip


def _add_server(command: argparse.ArgumentParser) -> None:
    _add_host(command)
    command.add_argument("--experiment", default=EXPERIMENT, help="default: %(default)s")


def _add_host(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--host", default="",
        help=f"URL of the Kubeflow Pipelines API (default: as kfp finds it); {TOKEN} or {COOKIE} holds a login",
    )  # fmt: skip
    command.add_argument("--namespace", default="", help="namespace, where several teams share the server")
    command.add_argument(
        "--ca", default=os.environ.get("SSL_CERT_FILE", ""), metavar="FILE",
        help="certificates that sign the server's (default: the environment variable SSL_CERT_FILE)",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
