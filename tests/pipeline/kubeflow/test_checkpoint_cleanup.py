"""Old runs' checkpoints are collected, and nothing else, on a disk and in buckets on loopback."""

import time
from dataclasses import asdict

import pytest

from components.scorer import storage
from components.scorer.run import decision
from components.scorer.run.decision import Decision, GateResult
from components.scorer.run.paths import RunPaths
from components.scorer.run.step_status import StepStatus
from pipeline import resources
from pipeline.cli.main import main
from pipeline.kubeflow import checkpoint_cleanup

DAY = 86_400


@pytest.fixture(params=["folder", "google", "amazon"])
def workspace(request, tmp_path) -> str:
    """A workspace with runs of 40, 30 and 10 days ago, all ended."""
    if request.param != "folder":
        request.getfixturevalue(request.param)
    place = {"folder": str(tmp_path), "google": "gs://bucket/w", "amazon": "s3://bucket/w"}[request.param]
    storage.write_bytes(f"{place}/splits.csv", b"register")
    for run, days in {"old": 40, "older-than-a-month": 30, "new": 10}.items():
        leave(place, run, days)
    return place


def leave(workspace: str, run: str, days: float, verdict: bool = True) -> RunPaths:
    """A run that ended so many days ago, with a checkpoint of each step; without a verdict it is going."""
    place, moment = RunPaths(workspace, run), time.time() - days * DAY - 60
    for step in ("pretraining", "training"):
        record = StepStatus(step, "succeeded" if verdict else "running", moment - 9, moment if verdict else None)
        storage.write_json(storage.join(place.steps, f"{step}.json"), asdict(record))
        storage.write_bytes(storage.join(place.checkpoints(step), "3", "state"), b"weights")
    if verdict:
        gate = GateResult("srcc", "Ranks", "SRCC", 0.1, 0.5, "failed", "no.")
        decision.write(place.decision, decision.to_record(Decision("refused", ["no."], [gate]), run=run))
    return place


def names(workspace: str) -> set[str]:
    return {file.name for file in storage.list_files(workspace)}


def collected(workspace: str, **limits) -> list[str]:
    return [
        gone.run for gone in checkpoint_cleanup.delete_checkpoints(workspace, **{"keep": 0, "older_than": 20} | limits)
    ]


def test_old_runs_lose_their_checkpoints_oldest_first_and_nothing_else(workspace):
    before = names(workspace)
    assert collected(workspace) == ["old", "older-than-a-month"]
    gone = before - names(workspace)
    assert gone == {
        f"runs/{run}/checkpoints/{step}/3/state"
        for run in ("old", "older-than-a-month") for step in ("pretraining", "training")
    }  # fmt: skip
    assert collected(workspace) == []


def test_the_newest_runs_keep_theirs_however_old(workspace):
    assert collected(workspace, keep=2) == ["old"]
    assert collected(workspace, keep=3) == []


def test_a_dry_run_says_the_same_and_removes_nothing(workspace):
    before = names(workspace)
    found = list(checkpoint_cleanup.delete_checkpoints(workspace, keep=0, older_than=20, dry_run=True))
    assert [(gone.run, gone.days, gone.files, gone.bytes) for gone in found] == [
        ("old", 40, 2, 14), ("older-than-a-month", 30, 2, 14),
    ]  # fmt: skip
    assert names(workspace) == before


def test_nothing_is_removed_while_a_run_is_going_for_it_may_go_on_from_an_old_ones_checkpoints(workspace):
    leave(workspace, "now", 0.1, verdict=False)
    before = names(workspace)
    with pytest.raises(ValueError, match="run now is going and may have taken up another's checkpoints"):
        collected(workspace)
    assert names(workspace) == before


def test_a_run_that_was_killed_without_a_word_holds_nothing_up_after_the_pipelines_deadline(workspace):
    leave(workspace, "killed", checkpoint_cleanup.RUN_DEADLINE_DAYS + 1, verdict=False)
    assert collected(workspace) == ["old", "older-than-a-month"]


def test_a_run_whose_records_cannot_be_read_is_left_alone(tmp_path):
    place = leave(str(tmp_path), "odd", 40)
    storage.write_bytes(storage.join(place.steps, "training.json"), b"{half")
    assert collected(str(tmp_path)) == []


@pytest.mark.parametrize("limits", [{"keep": -1}, {"older_than": 2}])
def test_limits_that_could_take_a_going_runs_checkpoints_are_refused(tmp_path, limits):
    with pytest.raises(ValueError, match="keep must be at least 0 and older_than at least 3 days"):
        collected(str(tmp_path), **limits)


def test_the_deadline_is_the_pipelines():
    assert (
        resources.PIPELINE_CONFIG.active_deadline_seconds == checkpoint_cleanup.RUN_DEADLINE_DAYS * 24 * resources.HOUR
    )


def test_the_command_line_says_what_went(tmp_path, capsys):
    leave(str(tmp_path), "old", 40)
    command = ["clean", str(tmp_path), "--keep", "0", "--older-than", "30"]
    assert main([*command, "--dry-run"]) == 0
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run old, 40 days old: 2 files, 14 bytes",
        "checkpoints of 1 run, 14 bytes would go: nothing was removed",
        "run old, 40 days old: 2 files, 14 bytes",
        "checkpoints of 1 run, 14 bytes removed",
    ]
