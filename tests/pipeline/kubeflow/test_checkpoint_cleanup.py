"""Cleanup of checkpoints: only those of old runs are deleted, on a disk and in buckets on loopback."""

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
    """Make a workspace with three ended runs, 40, 30 and 10 days old."""
    if request.param != "folder":
        request.getfixturevalue(request.param)
    uri = {"folder": str(tmp_path), "google": "gs://bucket/w", "amazon": "s3://bucket/w"}[request.param]
    storage.write_bytes(f"{uri}/splits.csv", b"register")
    for run, days in {"old": 40, "older-than-a-month": 30, "new": 10}.items():
        leave(uri, run, days)
    return uri


def leave(workspace: str, run: str, days: float, verdict: bool = True) -> RunPaths:
    """Write a run of some days ago with a checkpoint of each step. Without a verdict, the run is still going."""
    run_paths, ended_at = RunPaths(workspace, run), time.time() - days * DAY - 60
    for step in ("pretraining", "training"):
        record = StepStatus(step, "succeeded" if verdict else "running", ended_at - 9, ended_at if verdict else None)
        storage.write_json(storage.join(run_paths.steps, f"{step}.json"), asdict(record))
        storage.write_bytes(storage.join(run_paths.checkpoints(step), "3", "state"), b"weights")
    if verdict:
        gate = GateResult("srcc", "Ranks", "SRCC", 0.1, 0.5, "failed", "no.")
        decision.write(run_paths.decision, decision.to_record(Decision("refused", ["no."], [gate]), run=run))
    return run_paths


def names(workspace: str) -> set[str]:
    return {file.name for file in storage.list_files(workspace)}


def collected(workspace: str, **limits) -> list[str]:
    return [
        removed.run
        for removed in checkpoint_cleanup.delete_checkpoints(workspace, **{"keep": 0, "older_than": 20} | limits)
    ]


def test_only_the_checkpoints_of_old_runs_are_deleted_oldest_first(workspace):
    before = names(workspace)
    assert collected(workspace) == ["old", "older-than-a-month"]
    deleted_names = before - names(workspace)
    assert deleted_names == {
        f"runs/{run}/checkpoints/{step}/3/state"
        for run in ("old", "older-than-a-month") for step in ("pretraining", "training")
    }  # fmt: skip
    assert collected(workspace) == []


def test_the_newest_runs_keep_their_checkpoints_at_any_age(workspace):
    assert collected(workspace, keep=2) == ["old"]
    assert collected(workspace, keep=3) == []


def test_a_dry_run_lists_the_same_checkpoints_and_deletes_nothing(workspace):
    before = names(workspace)
    listed = list(checkpoint_cleanup.delete_checkpoints(workspace, keep=0, older_than=20, dry_run=True))
    assert [(removed.run, removed.days, removed.files, removed.bytes) for removed in listed] == [
        ("old", 40, 2, 14), ("older-than-a-month", 30, 2, 14),
    ]  # fmt: skip
    assert names(workspace) == before


def test_nothing_is_deleted_during_a_run_because_it_may_resume_from_old_checkpoints(workspace):
    leave(workspace, "now", 0.1, verdict=False)
    before = names(workspace)
    with pytest.raises(ValueError, match="run now is going and may have taken up another's checkpoints"):
        collected(workspace)
    assert names(workspace) == before


def test_a_killed_run_does_not_block_the_cleanup_after_the_pipelines_deadline(workspace):
    leave(workspace, "killed", checkpoint_cleanup.RUN_DEADLINE_DAYS + 1, verdict=False)
    assert collected(workspace) == ["old", "older-than-a-month"]


def test_a_run_with_unreadable_records_keeps_its_checkpoints(tmp_path):
    run_paths = leave(str(tmp_path), "odd", 40)
    storage.write_bytes(storage.join(run_paths.steps, "training.json"), b"{half")
    assert collected(str(tmp_path)) == []


@pytest.mark.parametrize("limits", [{"keep": -1}, {"older_than": 2}])
def test_limits_that_could_delete_the_checkpoints_of_a_going_run_are_refused(tmp_path, limits):
    with pytest.raises(ValueError, match="keep must be at least 0 and older_than at least 3 days"):
        collected(str(tmp_path), **limits)


def test_the_run_deadline_of_the_cleanup_equals_the_pipelines_deadline():
    assert (
        resources.PIPELINE_CONFIG.active_deadline_seconds == checkpoint_cleanup.RUN_DEADLINE_DAYS * 24 * resources.HOUR
    )


def test_the_command_line_prints_the_deleted_checkpoints(tmp_path, capsys):
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
