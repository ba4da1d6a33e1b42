"""The whole DAG in confined containers without a network: gates that pass, gates that fail, a step that fails."""

from pathlib import Path

import docker
import pytest

from components.scorer.registry import channels
from tests.builders import tiny
from tests.containers import dag
from tests.containers.conftest import readable

ALL = {"ingestion", "validation", "pretraining", "training", "evaluation", "push", "notification"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dag")


@pytest.fixture(scope="module")
def weights(folder) -> Path:
    weights_folder = folder / "weights"
    weights_folder.mkdir()
    tiny.weights(weights_folder)
    return readable(weights_folder) / "backbone.weights.h5"


@pytest.fixture(scope="module")
def passed(steps, folder, weights) -> dag.Ran:
    return dag.run(steps.tag, folder, "passed", minimum_srcc=-1, weights=weights)


@pytest.fixture(scope="module")
def refused(steps, folder, weights, passed) -> dag.Ran:
    """A run with a gate that no scorer passes; it resumes from the checkpoints of the first run."""
    return dag.run(steps.tag, folder, "refused", minimum_srcc=1, weights=weights, resume=passed.id)


@pytest.fixture(scope="module")
def failed(steps, folder) -> dag.Ran:
    """A run whose pretraining fails because the weights file is not valid."""
    weights_folder = folder / "broken"
    weights_folder.mkdir()
    (weights_folder / "broken.weights.h5").write_text("no weights")
    return dag.run(steps.tag, folder, "failed", weights=readable(weights_folder) / "broken.weights.h5")


def test_a_container_that_fails_at_once_is_never_reported_as_a_success(steps):
    client = docker.from_env()
    assert [dag.run_and_wait(client, steps.tag, ["false"], {}) for _ in range(5)] == [1] * 5


def test_passing_gates_run_every_step_and_publish(passed):
    assert passed.green, passed.log
    assert passed.tasks() == ALL
    assert passed.summary.verdict.startswith("Published")
    assert channels.read(str(passed.folder / "models"), "portraits")["champion"] == 1
    assert (passed.folder / "models" / "portraits" / "1" / channels.COMPLETE).is_file()


def test_all_written_files_belong_to_the_user_of_the_images_and_not_to_root(passed):
    written = [path for folder in ("models", "workspace") for path in (passed.folder / folder).rglob("*")]
    assert written
    assert {path.stat().st_uid for path in written} == {dag.USER}


def test_a_failing_gate_runs_every_step_but_push_and_keeps_the_champion(refused):
    assert refused.green, refused.log
    assert refused.tasks() == ALL - {"push"}
    assert refused.summary.verdict.startswith("Refused")
    assert dag.decision(refused)["verdict"] == "refused"
    assert channels.read(str(refused.folder / "models"), "portraits") == {"champion": 1, "previous": None}


def test_a_failing_step_fails_the_run_and_the_exit_handler_names_step_and_reason(failed):
    assert not failed.green
    assert failed.tasks() == {"ingestion", "validation", "notification"}
    assert (failed.summary.state, failed.summary.step) == ("failed", "pretraining")
    (message,) = [line for line in failed.log.splitlines() if "notification: run " in line]
    assert "state failed; failed step pretraining; reason " in message
    assert failed.summary.reason in message
    assert dag.decision(failed)["verdict"] == "failed"
