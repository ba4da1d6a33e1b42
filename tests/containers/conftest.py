"""An engine, and the images built in it from scratch."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers import base_image
from tests.containers.engine import Unavailable, build, docker, engine

CACHED = bool(os.environ.get("CACHED"))
"""Whether layers of earlier builds may be used, which saves minutes and proves less."""


@dataclass(frozen=True)
class Image:
    """An image that was built here."""

    tag: str
    seconds: float

    @property
    def bytes(self) -> int:
        """Its size, as ``docker images`` counts."""
        return int(docker("image", "inspect", "--format", "{{.Size}}", self.tag))


@pytest.fixture(scope="session")
def base() -> Iterator[None]:
    """An engine that has the base image; the tests are skipped where there can be none."""
    with ExitStack() as stack:
        try:
            stack.enter_context(engine())
            base_image.provide()
        except (Unavailable, OSError, subprocess.SubprocessError) as why:
            pytest.skip(f"no image can be built here: {why}")
        yield


@pytest.fixture(scope="session")
def steps(base) -> Image:
    """The image of the steps for CPUs."""
    tag = "portrait-scorer/steps:test-cpu"
    return Image(tag, build("images/steps/Dockerfile", tag, target="cpu", cached=CACHED))


@pytest.fixture(scope="session")
def serving(base) -> Image:
    """The image of the server."""
    tag = "portrait-scorer/serving:test"
    return Image(tag, build("images/serving/Dockerfile", tag, cached=CACHED))


def readable(folder: Path) -> Path:
    """The folder, once the containers' user can read all in it: temporary folders are their owner's alone."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
