"""Options that several commands take, and the pipeline parameters that they give."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import parameters
from pipeline.kubeflow.client import COOKIE, EXPERIMENT, TOKEN

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


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command with its function and its help text."""
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=function)
    return command


def add_data_options(command: argparse.ArgumentParser) -> None:
    """Add the parameters that name data, and `--set` for all others."""
    for name, text in _DATA_OPTIONS.items():
        command.add_argument(f"--{name}", metavar=name.upper(), help=text)
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="any parameter of the pipeline; `python -m pipeline parameters` lists them",
    )  # fmt: skip


def add_server_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a Kubeflow server and the experiment."""
    add_host_options(command)
    command.add_argument("--experiment", default=EXPERIMENT, help="default: %(default)s")


def add_host_options(command: argparse.ArgumentParser) -> None:
    """Add the address, the namespace and the certificates of a Kubeflow server."""
    command.add_argument(
        "--host", default="",
        help=f"URL of the Kubeflow Pipelines API (default: as kfp finds it); {TOKEN} or {COOKIE} holds a login",
    )  # fmt: skip
    command.add_argument("--namespace", default="", help="namespace, where several teams share the server")
    command.add_argument(
        "--ca", default=os.environ.get("SSL_CERT_FILE", ""), metavar="FILE",
        help="certificates that sign the server's (default: the environment variable SSL_CERT_FILE)",
    )  # fmt: skip


def cli_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the pipeline parameters given on the command line."""
    data_options = {name: getattr(options, name) for name in (*_DATA_OPTIONS, "resume") if getattr(options, name, None)}
    return parameters.parse_assignments(options.set) | data_options


def with_absolute_paths(values: dict[str, Any], check: bool = True) -> dict[str, Any]:
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
