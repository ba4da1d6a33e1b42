"""Commands that use a Kubeflow server: runs, schedules and the clean-up of old runs."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import parameters
from pipeline.cli.options import add_command, add_data_options, add_host_options, add_server_options, cli_parameters
from pipeline.compiled import PATH, difference
from pipeline.kubeflow import checkpoint_cleanup, run_cleanup, schedules
from pipeline.kubeflow.client import clear_errors, connect, submit, upload
from pipeline.kubeflow.schedule_commands import ScheduleManager


def add_commands(commands: Any) -> None:
    """Add `submit`, `upload`, `schedule`, `schedules` and `clean` to the parser."""
    submit_command = add_command(
        commands, "submit", _submit, "upload this version to a Kubeflow server and start a run of it"
    )
    add_data_options(submit_command)
    add_server_options(submit_command)
    submit_command.add_argument("--title", default="", help="the run's name")
    submit_command.add_argument("--service-account", default="", metavar="NAME", help="of Kubernetes, for the steps")

    upload_command = add_command(
        commands, "upload", _upload, "upload this version to a Kubeflow server, and start nothing"
    )
    upload_command.add_argument("--version", default="", metavar="NAME", help="default: the git revision")
    add_host_options(upload_command)

    schedule = add_command(commands, "schedule", _schedule, "bring a Kubeflow server's schedules to what a file says")
    schedule.add_argument(
        "file", type=Path, metavar="FILE", help="YAML: schedules: {NAME: {cron: ..., parameters: {...}}}"
    )
    schedule.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    schedule.add_argument(
        "--version", default="", metavar="NAME",
        help="of the pipeline on the server, to be run (default: this code's, uploaded where that is needed)",
    )  # fmt: skip
    add_server_options(schedule)

    _add_schedules(commands)

    clean = add_command(
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
    add_server_options(clean)
    clean.epilog = "A run whose checkpoints are gone cannot be taken up by --resume."


def _add_schedules(commands: Any) -> None:
    text = "look at a Kubeflow server's schedules, pause, resume and run them by hand"
    group = commands.add_parser("schedules", help=text, description=text[0].upper() + text[1:] + ".")
    verbs = group.add_subparsers(required=True, metavar="VERB")
    for verb, help_text in {
        "list": "list them: state, cron, next time and version",
        "pause": "start no run of them until they are resumed",
        "resume": "go on with them",
    }.items():
        command = add_command(verbs, verb, _schedules, help_text)
        command.set_defaults(verb=verb)
        if verb != "list":
            command.add_argument("names", nargs="+", metavar="NAME", help="as in the file")
            command.epilog = "The next `python -m pipeline schedule FILE` brings back what the file says."
        add_server_options(command)

    run = add_command(verbs, "run", _run_now, "start a run of a schedule now, whether or not it is paused")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="other parameters")
    backfill = add_command(verbs, "backfill", _backfill, "run a schedule for its times in the past, one after another")
    for name, text in {"since": "times after this one", "until": "and up to this one"}.items():
        backfill.add_argument(
            f"--{name}", type=_parse_time, required=True, metavar="TIME", help=f"{text}: 2026-01-31[T12:00]"
        )
    backfill.add_argument("--dry-run", action="store_true", help="list the times, and change nothing")
    backfill.epilog = "Kubeflow fills each time in where a parameter of the schedule says [[ScheduledTime]]."
    for command in (run, backfill):
        command.add_argument("schedule", metavar="NAME", help="as in the file")
        command.add_argument("--beside", action="store_true", help="also while another run is going")
        add_server_options(command)


def _parse_time(text: str) -> datetime:
    """Parse an ISO 8601 time; a time without a zone is in UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _submit(options: argparse.Namespace) -> int:
    """Upload this version and start a run of it."""
    values = parameters.check(cli_parameters(options))
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
