"""Gunicorn's settings for tests: a worker that was chosen says that it has no version."""

import os
import sys
from pathlib import Path
from typing import Any

from images.serving.inference.version_manager import Models
from images.serving.problem_details import not_ready
from images.serving.process.gunicorn_settings import *  # noqa: F403
from images.serving.process.supervisor import main

_using = Models.using


def make(run: Path, worker: int) -> None:
    """Choose a worker."""
    (run / f"unready-{worker}").touch()


def _unready(self: Models, *arguments: Any, **named: Any) -> Any:
    if Path(self._settings.run, f"unready-{os.getpid()}").exists():
        raise not_ready("expected a version to answer: this worker was chosen to have none")
    return _using(self, *arguments, **named)


Models.using = _unready

if __name__ == "__main__":
    sys.exit(main(gunicorn="python:tests.builders.unready"))
