"""A strict server of Kubeflow's API on loopback, and the place of a file of schedules."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.kubeflow import client
from tests.fakes import kubeflow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[kubeflow.Kubeflow]:
    """A server, and a clean checkout of revision ``abc123`` in front of it."""
    monkeypatch.setattr(client, "git_revision", lambda: "abc123")
    with kubeflow.serving() as serving:
        yield serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schedules.yaml"
