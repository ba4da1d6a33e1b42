"""What Kubeflow keeps of old runs: archived or deleted by a policy, never what the cache or a version needs."""

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
    """A server with runs, the newest made first, and what they have left in a workspace."""

    def __init__(self, server: kubeflow.Kubeflow, folder: Path) -> None:
        self.server, self.folder, self.workspace = server, folder, str(folder / "workspace")
        server.experiments.append({"display_name": "portrait-scorer", "experiment_id": "e"})

    def run(self, name: str, days: int, data: str = "", serves: bool = False, state: str = "SUCCEEDED") -> None:
        made = datetime.now(UTC) - timedelta(days=days, hours=1)
        self.server.runs.append({
            "run_id": name, "display_name": f"{name}'s", "experiment_id": "e", "state": state,
            "storage_state": "AVAILABLE", "created_at": f"{made:%Y-%m-%dT%H:%M:%SZ}",
        })  # fmt: skip
        place = RunPaths(self.workspace, name)
        if data:
            made = decision.Decision("refused", ["no"])
            decision.write(place.decision, decision.to_record(made, run=name, data=data))
        uri = str(self.folder / "models" / name)
        storage.write_json(place.published, {"version": 1, "uri": uri})
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


def test_old_runs_are_archived_but_the_newest_and_those_whose_version_is_there(place, capsys):
    assert place.clean("--runs", "archive") == 0
    assert place.left() == {
        "new": "AVAILABLE", "hit": "ARCHIVED", "other": "ARCHIVED", "champion": "AVAILABLE", "silent": "ARCHIVED",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "run other (other's), 50 days old: archived\n" in out
    assert out.endswith("3 runs of Kubeflow's\n")


def test_no_run_is_deleted_from_which_the_next_may_take_its_training_or_of_which_nothing_is_known(place, capsys):
    assert place.clean("--runs", "delete") == 0
    assert place.left() == {
        "new": "AVAILABLE", "hit": "ARCHIVED", "champion": "AVAILABLE", "silent": "ARCHIVED",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "run other (other's), 50 days old: deleted\n" in out
    assert "run hit (hit's), 40 days old: archived, not deleted: the next run may take its training from the" in out
    assert "run silent (silent's), 70 days old: archived, not deleted: it has left no decision that says" in out


def test_the_data_of_the_newest_run_is_the_caches_also_where_no_run_is_to_be_kept(place):
    place.server.runs[0]["created_at"] = "2026-01-01T00:00:00Z"
    assert place.clean("--runs", "delete", keep=0) == 0
    assert "hit" in place.left()


def test_a_version_that_is_gone_lets_its_run_go(place):
    storage.delete_tree(str(place.folder / "models" / "champion"))
    assert place.clean("--runs", "delete") == 0
    assert "champion" not in place.left()


def test_a_dry_run_says_the_same_and_changes_nothing(place, capsys):
    before = place.left()
    place.clean("--runs", "delete", "--dry-run")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert place.left() == before
    assert place.server.changes == []
    place.clean("--runs", "delete")
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")] == told


def test_what_is_archived_already_is_not_told_again(place, capsys):
    place.clean("--runs", "archive")
    capsys.readouterr()
    place.clean("--runs", "archive")
    assert capsys.readouterr().out.endswith("\n0 runs of Kubeflow's\n")


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "PAUSED"])
def test_a_run_that_is_going_is_left_alone_and_nothing_is_deleted_beside_it(state, place, capsys):
    place.run("going", 90, data="d2", state=state)
    assert place.clean("--runs", "delete") == 2
    assert "run going is going and may take its training from an old one" in capsys.readouterr().err
    assert place.clean("--runs", "archive") == 0
    assert place.left()["going"] == "AVAILABLE"
    assert place.left()["other"] == "ARCHIVED"


def test_without_being_asked_for_the_server_is_not_asked(place):
    assert place.clean() == 0
    assert set(place.left().values()) == {"AVAILABLE"}
