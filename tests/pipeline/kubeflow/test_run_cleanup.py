"""Cleanup of Kubeflow's old runs: they are archived or deleted unless the cache or a version needs them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.scorer import storage
from components.scorer.registry import channels
from components.scorer.run import decision
from components.scorer.run.paths import RunPaths
from pipeline.cli.main import main
from pipeline.kubeflow import client
from tests.fakes import kubeflow


class Place:
    """A server with runs, the newest first, and the records of these runs in a workspace."""

    def __init__(self, server: kubeflow.Kubeflow, folder: Path) -> None:
        self.server, self.folder, self.workspace = server, folder, str(folder / "workspace")
        server.experiments.append({"display_name": "portrait-scorer", "experiment_id": "e"})

    def run(self, name: str, days: int, data: str = "", serves: bool = False, state: str = "SUCCEEDED") -> None:
        made = datetime.now(UTC) - timedelta(days=days, hours=1)
        self.server.runs.append({
            "run_id": name, "display_name": f"{name}'s", "experiment_id": "e", "state": state,
            "storage_state": "AVAILABLE", "created_at": f"{made:%Y-%m-%dT%H:%M:%SZ}",
        })  # fmt: skip
        run_paths = RunPaths(self.workspace, name)
        if data:
            made = decision.Decision("refused", ["no"])
            decision.write(run_paths.decision, decision.to_record(made, run=name, data=data))
        uri = str(self.folder / "models" / name)
        storage.write_json(run_paths.published, {"version": 1, "uri": uri})
        if serves:
            storage.write_bytes(f"{uri}/{channels.COMPLETE}", b"graph")

    def clean(self, *options: str, keep: int = 1, older_than: int = 30) -> int:
        limits = ["--keep", str(keep), "--older-than", str(older_than)]
        return main(["clean", self.workspace, *limits, "--host", self.server.url, *options])

    def left(self) -> dict[str, str]:
        return {run["run_id"]: run["storage_state"] for run in self.server.runs}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "git_revision", lambda: "abc123")
    with kubeflow.serving() as server:
        place = Place(server, tmp_path)
        place.run("new", 1, data="d4")
        place.run("hit", 40, data="d4")
        place.run("other", 50, data="d2")
        place.run("champion", 60, data="d3", serves=True)
        place.run("silent", 70)
        yield place


def test_old_runs_are_archived_except_the_newest_and_those_with_an_existing_version(place, capsys):
    assert place.clean("--runs", "archive") == 0
    assert place.left() == {
        "new": "AVAILABLE", "hit": "ARCHIVED", "other": "ARCHIVED", "champion": "AVAILABLE", "silent": "ARCHIVED",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "run other (other's), 50 days old: archived\n" in out
    assert out.endswith("3 runs of Kubeflow's\n")


def test_runs_with_cached_training_or_without_a_decision_are_archived_and_not_deleted(place, capsys):
    assert place.clean("--runs", "delete") == 0
    assert place.left() == {
        "new": "AVAILABLE", "hit": "ARCHIVED", "champion": "AVAILABLE", "silent": "ARCHIVED",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "run other (other's), 50 days old: deleted\n" in out
    assert "run hit (hit's), 40 days old: archived, not deleted: the next run may take its training from the" in out
    assert "run silent (silent's), 70 days old: archived, not deleted: it has left no decision that says" in out


def test_runs_on_the_newest_runs_data_are_not_deleted_even_with_keep_0(place):
    place.server.runs[0]["created_at"] = "2026-01-01T00:00:00Z"
    assert place.clean("--runs", "delete", keep=0) == 0
    assert "hit" in place.left()


def test_a_run_whose_version_was_deleted_is_deleted(place):
    storage.delete_tree(str(place.folder / "models" / "champion"))
    assert place.clean("--runs", "delete") == 0
    assert "champion" not in place.left()


def test_a_dry_run_prints_the_same_lines_and_changes_nothing(place, capsys):
    before = place.left()
    place.clean("--runs", "delete", "--dry-run")
    dry_run_lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert place.left() == before
    assert place.server.changes == []
    place.clean("--runs", "delete")
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")] == dry_run_lines


def test_an_already_archived_run_is_not_listed_again(place, capsys):
    place.clean("--runs", "archive")
    capsys.readouterr()
    place.clean("--runs", "archive")
    assert capsys.readouterr().out.endswith("\n0 runs of Kubeflow's\n")


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "PAUSED"])
def test_a_going_run_is_not_archived_and_prevents_deletions(state, place, capsys):
    place.run("going", 90, data="d2", state=state)
    assert place.clean("--runs", "delete") == 2
    assert "run going is going and may take its training from an old one" in capsys.readouterr().err
    assert place.clean("--runs", "archive") == 0
    assert place.left()["going"] == "AVAILABLE"
    assert place.left()["other"] == "ARCHIVED"


def test_without_the_option_runs_no_run_changes(place):
    assert place.clean() == 0
    assert set(place.left().values()) == {"AVAILABLE"}
