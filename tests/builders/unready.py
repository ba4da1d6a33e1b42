"""Gunicorn's settings for tests: a chosen worker reports that it has no version."""

import os
import sys
from pathlib import Path
from typing import Any

from images.serving.inference.version_manager import VersionManager
from images.serving.problem_details import not_ready_problem
from images.serving.process.gunicorn_settings import *  # noqa: F403
from images.serving.process.supervisor import main

_using = VersionManager.lease


def make(run: Path, worker: int) -> None:
    """Make a worker report that it has no version."""
    (run / f"unready-{worker}").touch()


def _unready(self: VersionManager, *arguments: Any, **named: Any) -> Any:
    if Path(self._settings.run, f"unready-{os.getpid()}").exists():
        raise not_ready_problem("expected a version to answer: this worker was chosen to have none")
    return _using(self, *arguments, **named)


VersionManager.lease = _unready

if __name__ == "__main__":
    sys.exit(main(gunicorn_config="python:tests.builders.unready"))
