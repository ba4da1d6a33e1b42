"""Command line of the pipeline: ``python -m pipeline --help``."""

import argparse
import os
import sys
from collections.abc import Sequence

from components.scorer import storage
from pipeline import resources
from pipeline.cli import models, run, scoring, server


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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description="Keep a scorer of portrait photos trained, judged and published."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (run, server, scoring, models):
        module.add_commands(commands)
    return parser
