"""Commands that list, promote, roll back, register and remove published versions."""

import argparse
import os
from typing import Any

from components.scorer.artifacts import promotion
from components.scorer.registry import channels, kubeflow, versions
from pipeline.cli import model_listing
from pipeline.cli.options import add_command


def add_commands(commands: Any) -> None:
    """Add `models` and its verbs to the parser."""
    text = "list, promote, roll back and remove published versions"
    group = commands.add_parser("models", help=text, description=text[0].upper() + text[1:] + ".")
    verbs = group.add_subparsers(required=True, metavar="VERB")
    audit_note = f"The audit says who: the environment variable {channels.USER}, or else account and machine."

    listing = add_command(verbs, "list", _list, "list the versions of one model or of all, newest first")
    listing.add_argument("model", metavar="MODELS_OR_MODEL", help="folder or address of all models or of one")
    listing.add_argument("--json", action="store_true", help="write JSON")
    listing.add_argument("--audit", action="store_true", help="also who moved the channels, when and why")

    promote = add_command(verbs, "promote", _promote, "let a channel name a version once that has proved to answer")
    _add_model(promote)
    promote.add_argument(
        "version", type=int, metavar="VERSION", help="its number; it may be older than the one named now"
    )
    promote.add_argument("--channel", default=channels.CHAMPION, help="e.g. challenger (default: %(default)s)")

    rollback = add_command(
        verbs, "rollback", _rollback, "make the previous version the champion once it has proved to answer"
    )
    _add_model(rollback)
    for command in (promote, rollback):
        command.add_argument("--why", required=True, metavar="TEXT", help="for the audit")
        command.epilog = audit_note

    gc = add_command(verbs, "gc", _gc, "remove old versions that no channel names, and what killed pushes have left")
    _add_model(gc)
    gc.add_argument("--keep", type=int, required=True, metavar="N", help="how many of the newest stay at least")
    gc.add_argument("--older-than", type=int, metavar="DAYS", help="remove nothing that was published since")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    gc.epilog = audit_note

    register = add_command(verbs, "register", _register, "bring the Kubeflow Model Registry to what is published")
    _add_model(register)
    for command in (promote, rollback, gc, register):
        command.add_argument(
            "--model-registry", default=os.environ.get(kubeflow.URL_VARIABLE, ""), metavar="URL",
            help=f"the Kubeflow Model Registry to tell (default: the environment variable {kubeflow.URL_VARIABLE})",
        )  # fmt: skip


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model's folder or address")


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
