"""Fixtures: a container engine and the images that are built in it from scratch."""

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
"""Whether to use layers of earlier builds: this saves minutes and proves less."""


@dataclass(frozen=True)
class Image:
    """An image that was built here."""

    tag: str
    seconds: float

    @property
    def bytes(self) -> int:
        """Size of the image in bytes, as in ``docker images``."""
        return int(docker("image", "inspect", "--format", "{{.Size}}", self.tag))


@pytest.fixture(scope="session")
def base() -> Iterator[None]:
    """Start an engine that has the base image, or skip the tests if no engine can be started."""
    with ExitStack() as stack:
        try:
            stack.enter_context(engine())
            base_image.provide()
        except (Unavailable, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no image can be built here: {error}")
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
    """Return the folder after making its files readable for the containers' user; temporary folders are private."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
