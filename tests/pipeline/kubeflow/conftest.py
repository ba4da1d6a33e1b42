"""Fixtures: a strict server of Kubeflow's API on loopback, and the path of a schedules file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.kubeflow import client
from tests.fakes import kubeflow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[kubeflow.Kubeflow]:
    """Start a server; the client's checkout is clean at revision ``abc123``."""
    monkeypatch.setattr(client, "git_revision", lambda: "abc123")
    with kubeflow.serving() as serving:
        yield serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schedules.yaml"
