"""The command line: ``python -m pipeline --help``."""

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
from components.scorer.run.paths import Workspace
from pipeline import local_runner, model_listing, parameters, resources
from pipeline.compiled import PATH, compiled, difference
from pipeline.kubeflow import checkpoint_cleanup, run_cleanup, schedules
from pipeline.kubeflow.client import COOKIE, EXPERIMENT, TOKEN, clear_errors, connect, submit, upload
from pipeline.kubeflow.schedule_commands import Schedules

BUILD = Path("build")

_DATA = {
    "photos": "folder, gs://, s3:// or tfds:NAME with the rated photos",
    "ratings": "file of their ratings",
    "unlabelled": "folder or address of photos without ratings, for pretraining",
    "attributes": "file with attributes of the photos",
    "models": "where models are published",
    "workspace": "where checkpoints, the register of splits and the runs' records are kept",
    "name": "name of the model",
}
_PATHS = (
    "photos", "ratings", "unlabelled", "attributes", "models", "workspace", "weights", "norms", "face_detector",
    "face_embedder",
)  # fmt: skip
"""Parameters that hold an address."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: by default the process's.

    Returns:
        0: done, and for ``run`` also when the gates said no. 1: a step failed, ``pipeline.yaml`` is stale, or a photo
        could not be read. 2: the command cannot be carried out as it was given.
    """
    options = _parser().parse_args(arguments)
    os.environ.update({name: value for name, value in resources.QUIET.items() if name not in os.environ})
    try:
        return options.command(options)
    except (ValueError, OSError, storage.Conflict) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    """Run the DAG on this machine."""
    own = _given(options)
    given, folder = _completed(own, options.build)
    if "photos" not in own:
        print("No photos given: this run is on the embedded sample, drawn by code. It shows the pipeline at work;")
        print("its figures say nothing about real portraits.", flush=True)
    values = parameters.check({"revision": local_runner.revision(), **_absolute(given)})
    if (old := values.get("resume")) and not storage.exists(Workspace(values["workspace"], old).steps):
        raise ValueError(f"there is no run {old!r} in the workspace {values['workspace']}")
    began, run = time.monotonic(), local_runner.new_run()
    print(f"run {run}", flush=True)
    outcome = local_runner.here(values, folder.absolute(), run)
    return _tell(outcome, Workspace(values["workspace"], run), time.monotonic() - began)


def _completed(given: dict[str, Any], build: Path) -> tuple[dict[str, Any], Path]:
    """The parameters with what `run` fills in where they are left out, and the folder for what it makes."""
    folder = build
    if "photos" not in given:
        if stray := [name for name in ("ratings", "unlabelled", "attributes") if name in given]:
            raise ValueError(f"--{stray[0]} needs --photos; without both the embedded sample is run")
        given, folder = local_runner.SAMPLE | given, build / "sample"
    elif not given.get("ratings") and not given["photos"].startswith("sample:"):
        raise ValueError("--photos needs --ratings")
    return {name: str((folder / name).absolute()) for name in ("models", "workspace")} | given, folder


def _tell(outcome: local_runner.Outcome, place: Workspace, seconds: float) -> int:
    """Say how the run ended and where its results are."""
    account = outcome.account
    said = {"Run": f"{account.run} {account.state} after {progress.duration(seconds)}"}
    if account.step:
        said |= {"Failed": account.step, "Reason": account.reason}
        if not account.wrong_input and any(
            storage.exists(place.checkpoints(step)) for step in ("pretraining", "training")
        ):
            said["Go on"] = f"the same command with --resume {account.run} takes up the last complete epoch"
    said |= {"Gates": account.verdict or "not reached", "Model": account.published or "not published"}
    for number, page in enumerate(reversed(outcome.pages)):
        said["Report" if not number else " " * number] = str(page)
    print("\n" + "\n".join(f"{name.strip():<8}{value}" for name, value in said.items()))
    return 1 if account.state == "failed" else 0


def _check(options: argparse.Namespace) -> int:
    """Find out from here what would stop a run."""
    given = _given(options)
    values = parameters.check(_absolute(_completed(given, BUILD)[0], check=False))
    print(f"parameters: {len(given)} given, each of them in its range")
    further = [("the ratings", lambda: examine(values))] if values.get("ratings") else []
    if options.kubeconfig:
        values = {name: parameters.default(name) for name in ("accelerator", "accelerator_count")} | values
    for line in preflight.examine(values, kubeconfig=options.kubeconfig, further=further):
        print(line, flush=True)
    return 0


def _compile(options: argparse.Namespace) -> int:
    """Write pipeline.yaml, or say whether it is fresh."""
    if not options.check:
        storage.write_bytes(str(options.file), compiled().encode())
        print(options.file)
        return 0
    if found := difference(options.file):
        print(f"{options.file} is stale; write it anew with: python -m pipeline compile\n{found}", file=sys.stderr)
        return 1
    print(f"{options.file} is fresh")
    return 0


def _submit(options: argparse.Namespace) -> int:
    """Upload this version and start a run of it."""
    values = parameters.check(_given(options))
    with clear_errors():
        client = connect(options.host, options.namespace, options.ca)
        run = submit(client, values, options.experiment, options.title, options.service_account)
    print(f"started run {run}")
    return 0


def _upload(options: argparse.Namespace) -> int:
    """Upload this version, and start nothing."""
    if (found := difference(PATH)) and PATH.exists():  # what is uploaded is what was reviewed
        raise ValueError(f"{PATH.name} is stale; write it anew with: python -m pipeline compile\n{found}")
    with clear_errors():
        version = upload(connect(options.host, options.namespace, options.ca), options.version)
    print(f"the server has version {version.name}")
    return 0


def _schedule(options: argparse.Namespace) -> int:
    """Bring the server's schedules to what a file says."""
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
    """Look at the server's schedules, or pause or resume some."""
    with clear_errors():
        found = Schedules(connect(options.host, options.namespace, options.ca), options.experiment)
        lines = found.lines() if options.verb == "list" else getattr(found, options.verb)(options.names)
        line = ""
        for line in lines:
            print(line, flush=True)
        if not line:
            print(f"there are no schedules in the experiment {options.experiment}: make some by schedule FILE")
    return 0


def _run_now(options: argparse.Namespace) -> int:
    """Start a run of a schedule."""
    changed = parameters.read(options.set)
    with clear_errors():
        found = Schedules(connect(options.host, options.namespace, options.ca), options.experiment)
        print(f"started run {found.run(options.schedule, changed, options.beside)}")
    return 0


def _backfill(options: argparse.Namespace) -> int:
    """Have the server run a schedule for times in the past."""
    which = (options.schedule, options.since, options.until)
    with clear_errors():
        found = Schedules(connect(options.host, options.namespace, options.ca), options.experiment)
        moments = found.missed(*which)
        print("\n".join(f"{moment:%Y-%m-%d %H:%M:%S} UTC" for moment in moments))
        if options.dry_run:
            print("dry run: nothing was changed")
        else:
            print(f"{found.backfill(*which, options.beside)}: the server runs these, one after another")
    return 0


def _score(options: argparse.Namespace) -> int:
    """Score photos with a published model."""
    if options.shards:
        return _rank(options)
    if options.form != "csv" or options.beam:
        raise ValueError(
            f"--{'beam' if options.beam else 'form'} needs --shards: --out is one CSV, written by one process"
        )
    from components.scorer.batch.score_folder import (
        problems,
        score,  # TensorFlow takes seconds to load: only where it is needed
    )

    scored, unreadable = score(options.model, options.photos, options.out, options.job)
    print(f"{scored} photos scored: {options.out}")
    if unreadable:
        print(f"{unreadable} photos could not be read: {problems(options.out)} says why", file=sys.stderr)
    return 1 if unreadable else 0


def _rank(options: argparse.Namespace) -> int:
    """Score any number of photos with a published model, and put them in order."""
    from components.scorer.batch.score_many import rank

    found = rank(
        options.model, options.photos, options.shards, job=options.job, form=options.form, beam_options=options.beam
    )
    print(f"{found.scored:,} photos scored and in order: {storage.join(options.shards, 'order.csv')}")
    if found.problems:
        listing = storage.join(options.shards, "problems.csv")
        print(f"{len(found.problems):,} photos could not be scored: {listing} says why", file=sys.stderr)
    return 1 if found.problems else 0


def _explain(options: argparse.Namespace) -> int:
    """Explain the scores of a few photos."""
    from components.scorer.explain.page import explain

    print(explain(options.model, options.photos, options.out, options.steps))
    return 0


def _list(options: argparse.Namespace) -> int:
    """List the versions of one model or of all."""
    found = versions.find(options.model)
    print(model_listing.as_json(found, options.audit) if options.json else model_listing.as_text(found, options.audit))
    return 0


def _promote(options: argparse.Namespace) -> int:
    """Let a channel name a version."""
    folder, name = versions.model(options.model)
    kubeflow.check(options.model_registry)
    after = promotion.promote(folder, name, options.version, channel=options.channel, why=options.why)
    print(model_listing.channels_of(name, after))
    return _tell_registry(options, folder, name)


def _rollback(options: argparse.Namespace) -> int:
    """Make the previous version the champion again."""
    folder, name = versions.model(options.model)
    kubeflow.check(options.model_registry)
    print(model_listing.channels_of(name, promotion.rollback(folder, name, why=options.why)))
    return _tell_registry(options, folder, name)


def _register(options: argparse.Namespace) -> int:
    """Bring the Kubeflow Model Registry to what is published."""
    if not options.model_registry:
        raise ValueError(f"expected the registry's URL as --model-registry, or as {kubeflow.VARIABLE}")
    folder, name = versions.model(options.model)
    outcome = "nothing to change"
    for line in kubeflow.reconcile(options.model_registry, folder, name):
        print(line, flush=True)
        outcome = "done"
    print(outcome)
    return 0


def _tell_registry(options: argparse.Namespace, folder: str, name: str) -> int:
    """Tell the Kubeflow Model Registry, where one is named, of what was just done: it is done, whatever that says."""
    for line in kubeflow.tell(options.model_registry, folder, name):
        print(line, flush=True)
    return 0


def _gc(options: argparse.Namespace) -> int:
    """Remove old versions."""
    folder, name = versions.model(options.model)
    count = size = 0
    limits = {"keep": options.keep, "older_than": options.older_than, "dry_run": options.dry_run}
    for gone in versions.collect(folder, name, **limits):
        print(f"version {gone.version}, {gone.state}, {gone.date or 'no date'}: {gone.bytes:,} bytes", flush=True)
        count, size = count + 1, size + gone.bytes
    print(
        f"{count} version{'' if count == 1 else 's'}, {size:,} bytes "
        + ("would go: nothing was removed" if options.dry_run else "removed")
    )
    return 0 if options.dry_run else _tell_registry(options, folder, name)


def _clean(options: argparse.Namespace) -> int:
    """Remove old runs' checkpoints."""
    count = size = 0
    limits = {"keep": options.keep, "older_than": options.older_than, "dry_run": options.dry_run}
    for gone in checkpoint_cleanup.collect(options.workspace, **limits):
        print(f"run {gone.run}, {gone.days} days old: {gone.files:,} files, {gone.bytes:,} bytes", flush=True)
        count, size = count + 1, size + gone.bytes
    print(
        f"checkpoints of {count} run{'' if count == 1 else 's'}, {size:,} bytes "
        + ("would go: nothing was removed" if options.dry_run else "removed")
    )
    return _clean_runs(options, limits) if options.runs else 0


def _clean_runs(options: argparse.Namespace, limits: dict[str, Any]) -> int:
    """Archive or delete Kubeflow's own record of old runs."""
    which = {"delete": options.runs == "delete", "experiment": options.experiment}
    with clear_errors():
        client, count = connect(options.host, options.namespace, options.ca), 0
        for old in run_cleanup.collect(client, options.workspace, **limits, **which):
            print(old, flush=True)
            count += 1
    print(
        f"{count} run{'' if count == 1 else 's'} of Kubeflow's" + (": nothing was changed" if options.dry_run else "")
    )
    return 0


def _parameters(options: argparse.Namespace) -> int:
    """List what --set takes."""
    print(parameters.table())
    return 0


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters that the command line gives."""
    named = {name: getattr(options, name) for name in (*_DATA, "resume") if getattr(options, name, None)}
    return parameters.read(options.set) | named


def _absolute(given: dict[str, Any], check: bool = True) -> dict[str, Any]:
    """Local paths made absolute, once they are known to be there."""
    result = dict(given)
    for name in _PATHS:
        path = given.get(name, "")
        if not path or "://" in path or path.startswith(("tfds:", "sample:", "deepface:")):
            continue
        if check and name not in ("models", "workspace") and not Path(path).exists():
            raise FileNotFoundError(f"{name}: there is nothing at {path}")
        result[name] = str(Path(path).absolute())
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description="Keep a scorer of portrait photos trained, judged and published."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", _run, "run the whole pipeline on this machine; without --photos on the sample")
    run.epilog = "The environment says whom to tell of the end: WEBHOOK (Slack's format), SIGNED_WEBHOOK, SMTP_HOST."
    _add_data(run)
    run.add_argument("--resume", metavar="RUN", help="an earlier run whose checkpoints to go on from")
    run.add_argument("--build", type=Path, default=BUILD, metavar="DIR", help="where results go (default: %(default)s)")

    sure = _command(commands, "check", _check, "find out from here what would stop a run: parameters, addresses, disk")
    _add_data(sure)
    sure.add_argument(
        "--kubeconfig", default=os.environ.get("KUBECONFIG", ""), metavar="FILE",
        help="also ask this cluster whether it has the accelerators (default: the environment variable KUBECONFIG)",
    )  # fmt: skip

    build = _command(commands, "compile", _compile, "write pipeline.yaml, what Kubeflow is given")
    build.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    build.add_argument("--file", type=Path, default=PATH, metavar="FILE", help="default: the project's")

    start = _command(commands, "submit", _submit, "upload this version to a Kubeflow server and start a run of it")
    _add_data(start)
    _add_server(start)
    start.add_argument("--title", default="", help="the run's name")
    start.add_argument("--service-account", default="", metavar="NAME", help="of Kubernetes, for the steps")

    put = _command(commands, "upload", _upload, "upload this version to a Kubeflow server, and start nothing")
    put.add_argument("--version", default="", metavar="NAME", help="default: the git revision")
    _add_host(put)

    plan = _command(commands, "schedule", _schedule, "bring a Kubeflow server's schedules to what a file says")
    plan.add_argument("file", type=Path, metavar="FILE", help="YAML: schedules: {NAME: {cron: ..., parameters: {...}}}")
    plan.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    plan.add_argument(
        "--version", default="", metavar="NAME",
        help="of the pipeline on the server, to be run (default: this code's, uploaded where that is needed)",
    )  # fmt: skip
    _add_server(plan)

    _add_schedules(commands)

    rate = _command(commands, "score", _score, "score photos with a published model")
    rate.add_argument("model", metavar="MODEL", help="a version's folder or address, or the base folder: its champion")
    rate.add_argument("photos", metavar="PHOTOS", help="folder, gs:// or s3:// address")
    to = rate.add_mutually_exclusive_group(required=True)
    to.add_argument("--out", type=Path, metavar="FILE", help="CSV to write: photo,mean,std,p1,...,p10")
    to.add_argument(
        "--shards", metavar="DIR", help="folder or address for many photos: shards of the same, order.csv, problems.csv"
    )
    rate.add_argument("--form", default="csv", metavar="FORM", help="of the shards: csv (default) or parquet")
    rate.add_argument(
        "--beam", default="", metavar="OPTIONS", help="of an Apache Beam runner; default: processes of this machine"
    )
    rate.add_argument("--job", default="", metavar="NAME", help="that the people on the photos offer to do")
    rate.epilog = "Cut off, the same command with --shards goes on from the shards that are done."

    show = _command(commands, "explain", _explain, "show on a page why photos get their scores")
    show.add_argument("model", metavar="MODEL", help="as for score, or the folder of a scorer bundle")
    show.add_argument("photos", nargs="+", metavar="PHOTO", help="file, gs:// or s3:// address")
    show.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives index.html and the pictures")
    show.add_argument(
        "--steps", type=int, default=100, metavar="N", help="by which photos are enhanced (default: %(default)s)"
    )

    _add_models(commands)

    clean = _command(commands, "clean", _clean, "remove old runs' checkpoints, and archive or delete Kubeflow's runs")
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

    _command(commands, "parameters", _parameters, "list what --set takes, with defaults")
    return parser


def _add_models(commands: Any) -> None:
    text = "list, promote, roll back and remove published versions"
    group = commands.add_parser("models", help=text, description=text[0].upper() + text[1:] + ".")
    verbs = group.add_subparsers(required=True, metavar="VERB")
    by = f"The audit says who: the environment variable {channels.USER}, or else account and machine."

    every = _command(verbs, "list", _list, "list the versions of one model or of all, newest first")
    every.add_argument("model", metavar="MODELS_OR_MODEL", help="folder or address of all models or of one")
    every.add_argument("--json", action="store_true", help="write JSON")
    every.add_argument("--audit", action="store_true", help="also who moved the channels, when and why")

    name = _command(verbs, "promote", _promote, "let a channel name a version once that has proved to answer")
    _add_model(name)
    name.add_argument("version", type=int, metavar="VERSION", help="its number; it may be older than the one named now")
    name.add_argument("--channel", default=channels.CHAMPION, help="e.g. challenger (default: %(default)s)")

    back = _command(verbs, "rollback", _rollback, "make the previous version the champion once it has proved to answer")
    _add_model(back)
    for command in (name, back):
        command.add_argument("--why", required=True, metavar="TEXT", help="for the audit")
        command.epilog = by

    clean = _command(verbs, "gc", _gc, "remove old versions that no channel names, and what killed pushes have left")
    _add_model(clean)
    clean.add_argument("--keep", type=int, required=True, metavar="N", help="how many of the newest stay at least")
    clean.add_argument("--older-than", type=int, metavar="DAYS", help="remove nothing that was published since")
    clean.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    clean.epilog = by

    note = _command(verbs, "register", _register, "bring the Kubeflow Model Registry to what is published")
    _add_model(note)
    for command in (name, back, clean, note):
        command.add_argument(
            "--model-registry", default=os.environ.get(kubeflow.VARIABLE, ""), metavar="URL",
            help=f"the Kubeflow Model Registry to tell (default: the environment variable {kubeflow.VARIABLE})",
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
        command = _command(verbs, verb, _schedules, help_text)
        command.set_defaults(verb=verb)
        if verb != "list":
            command.add_argument("names", nargs="+", metavar="NAME", help="as in the file")
            command.epilog = "The next `python -m pipeline schedule FILE` brings back what the file says."
        _add_server(command)

    now = _command(verbs, "run", _run_now, "start a run of a schedule now, whether or not it is paused")
    now.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="other parameters")
    past = _command(verbs, "backfill", _backfill, "run a schedule for its times in the past, one after another")
    for name, text in {"since": "times after this one", "until": "and up to this one"}.items():
        past.add_argument(f"--{name}", type=_moment, required=True, metavar="TIME", help=f"{text}: 2026-01-31[T12:00]")
    past.add_argument("--dry-run", action="store_true", help="list the times, and change nothing")
    past.epilog = "Kubeflow fills each time in where a parameter of the schedule says [[ScheduledTime]]."
    for command in (now, past):
        command.add_argument("schedule", metavar="NAME", help="as in the file")
        command.add_argument("--beside", action="store_true", help="also while another run is going")
        _add_server(command)


def _moment(text: str) -> datetime:
    """A time as ISO 8601 writes it; UTC, where it names no zone."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model's folder or address")


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=function)
    return command


def _add_data(command: argparse.ArgumentParser) -> None:
    for name, text in _DATA.items():
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
