"""Command line for training outside of the pipeline, in one process or as one of several workers.

The data set and the encoder are artifacts of the pipeline's ingestion and pretraining steps, named by their addresses.
The bundle written here equals that of the training step.

    python -m components.training --dataset gs://bucket/dataset --encoder gs://bucket/encoder \\
        --scorer gs://bucket/scorer --checkpoints gs://bucket/checkpoints --set devices=workers batch_size=256
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.scorer import storage
from components.scorer.parameters import from_parameters
from components.scorer.settings import Training


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a scorer.

    Returns:
        0 on success, 2 if the request is invalid. Any other failure, such as the death of another worker, exits the
        process with 1 at once, whatever TensorFlow threads still wait for other workers.
    """
    options = _parser().parse_args(arguments)
    try:
        metrics = _train(options, from_parameters(Training, **_parse_settings(options.set)))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        print(f"error: training broke off: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    print(json.dumps(metrics, sort_keys=True), flush=True)
    return 0


def _train(options: argparse.Namespace, settings: Training) -> dict[str, float]:
    """Train on local copies and upload the bundle and the report."""
    from components.training.train import train  # imported late: TensorFlow takes seconds to load

    with tempfile.TemporaryDirectory() as folder:
        dataset, encoder = (_local_copy(getattr(options, name), Path(folder, name)) for name in ("dataset", "encoder"))
        scorer, report = Path(folder, "scorer"), Path(folder, "report.html")
        metrics = train(
            dataset,
            encoder,
            scorer,
            report,
            settings=settings,
            checkpoints=options.checkpoints,
            fingerprint=_fingerprint(dataset),
            revision=options.revision,
        )
        if scorer.exists():  # only the chief or a single process writes the bundle
            storage.write_bytes(storage.join(options.scorer, "report.html"), report.read_bytes())
            storage.upload_tree(scorer, options.scorer, upload_last=["bundle.json"])
    return metrics


def _fingerprint(dataset: Path) -> str:
    from components.scorer.data import photos

    return photos.fingerprint(dataset)


def _local_copy(uri: str, folder: Path) -> Path:
    """Return a local folder with the files of an address, downloaded if the address is remote."""
    if storage.is_remote(uri):
        storage.download_tree(uri, folder)
        return folder
    return Path(uri.removeprefix("file://"))


def _parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse settings of the form ``NAME=VALUE``; a value that is no valid JSON is taken as a string."""
    settings = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"expected a setting as NAME=VALUE, got {text!r}")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components.training", description="Train a scorer outside of the pipeline."
    )
    for name, text in {
        "dataset": "folder or address of the data set that ingestion wrote",
        "encoder": "folder or address of the encoder that pretraining wrote",
        "scorer": "folder or address that receives the bundle, and report.html",
        "checkpoints": "folder or address of the checkpoints, within reach of every worker",
    }.items():
        parser.add_argument(f"--{name}", required=True, metavar="ADDRESS", help=text)
    parser.add_argument("--revision", default=os.environ.get("REVISION", ""), help="git revision of the code")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="settings of the training"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
