"""Training outside of the pipeline, by one process or as one of several workers.

    python -m components.training --dataset gs://bucket/dataset --encoder gs://bucket/encoder \\
        --scorer gs://bucket/scorer --checkpoints gs://bucket/checkpoints --set devices=workers batch_size=256

The data set and the encoder are what the pipeline's steps have written (their artifacts' addresses); the bundle that
this writes is what its training step would hand on.
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
    """Train.

    Returns:
        0: done. 2: it cannot be done as it was asked. What breaks off, as when another worker has died, ends the
        process with 1 at once, whatever threads of TensorFlow still wait for the others.
    """
    options = _parser().parse_args(arguments)
    try:
        found = _train(options, from_parameters(Training, **_given(options.set)))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        print(f"error: training broke off: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    print(json.dumps(found, sort_keys=True), flush=True)
    return 0


def _train(options: argparse.Namespace, settings: Training) -> dict[str, float]:
    """Train on local copies, and put what the training wrote where it was asked for."""
    from components.training.train import train  # TensorFlow takes seconds to load: not for a wrong option

    with tempfile.TemporaryDirectory() as folder:
        dataset, encoder = (_local(getattr(options, name), Path(folder, name)) for name in ("dataset", "encoder"))
        scorer, report = Path(folder, "scorer"), Path(folder, "report.html")
        found = train(
            dataset,
            encoder,
            scorer,
            report,
            settings=settings,
            checkpoints=options.checkpoints,
            fingerprint=_fingerprint(dataset),
            revision=options.revision,
        )
        if scorer.exists():  # the chief, or a process alone
            storage.write_bytes(storage.join(options.scorer, "report.html"), report.read_bytes())
            storage.upload_tree(scorer, options.scorer, last=["bundle.json"])
    return found


def _fingerprint(dataset: Path) -> str:
    from components.scorer.data import photos

    return photos.fingerprint(dataset)


def _local(uri: str, folder: Path) -> Path:
    """A folder of this machine with what is at an address."""
    if storage.is_remote(uri):
        storage.download_tree(uri, folder)
        return folder
    return Path(uri.removeprefix("file://"))


def _given(texts: Sequence[str]) -> dict[str, Any]:
    """Settings as ``NAME=VALUE``, each value JSON where it can be read as that, otherwise a text."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"expected a setting as NAME=VALUE, got {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


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
