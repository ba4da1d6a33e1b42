"""The whole DAG in its image: both answers of the gates and a step that fails, confined and without a network."""

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
    place = folder / "weights"
    place.mkdir()
    tiny.weights(place)
    return readable(place) / "backbone.weights.h5"


@pytest.fixture(scope="module")
def passed(steps, folder, weights) -> dag.Ran:
    return dag.run(steps.tag, folder, "passed", minimum_srcc=-1, weights=weights)


@pytest.fixture(scope="module")
def refused(steps, folder, weights, passed) -> dag.Ran:
    """The same, but for a gate that nothing passes; it goes on from the first run's checkpoints."""
    return dag.run(steps.tag, folder, "refused", minimum_srcc=1, weights=weights, resume=passed.id)


@pytest.fixture(scope="module")
def failed(steps, folder) -> dag.Ran:
    """Pretraining fails: its weights are no weights."""
    place = folder / "broken"
    place.mkdir()
    (place / "broken.weights.h5").write_text("no weights")
    return dag.run(steps.tag, folder, "failed", weights=readable(place) / "broken.weights.h5")


def test_a_container_that_fails_at_once_is_never_taken_for_one_that_ended_well(steps):
    client = docker.from_env()
    assert [dag.run_and_wait(client, steps.tag, ["false"], {}) for _ in range(5)] == [1] * 5


def test_a_yes_runs_every_step_and_publishes(passed):
    assert passed.green, passed.log
    assert passed.tasks() == ALL
    assert passed.summary.verdict.startswith("Published")
    assert channels.read(str(passed.folder / "models"), "portraits")["champion"] == 1
    assert (passed.folder / "models" / "portraits" / "1" / channels.COMPLETE).is_file()


def test_what_was_written_is_the_numbers_that_the_images_run_as_and_no_roots(passed):
    written = [path for place in ("models", "workspace") for path in (passed.folder / place).rglob("*")]
    assert written
    assert {path.stat().st_uid for path in written} == {dag.USER}


def test_a_no_runs_every_step_but_push_and_leaves_the_champion(refused):
    assert refused.green, refused.log
    assert refused.tasks() == ALL - {"push"}
    assert refused.summary.verdict.startswith("Refused")
    assert dag.decision(refused)["verdict"] == "refused"
    assert channels.read(str(refused.folder / "models"), "portraits") == {"champion": 1, "previous": None}


def test_a_step_that_fails_makes_the_run_red_and_the_exit_handler_says_which_and_why(failed):
    assert not failed.green
    assert failed.tasks() == {"ingestion", "validation", "notification"}
    assert (failed.summary.state, failed.summary.step) == ("failed", "pretraining")
    (told,) = [line for line in failed.log.splitlines() if "notification: run " in line]
    assert "state failed; failed step pretraining; reason " in told
    assert failed.summary.reason in told
    assert dag.decision(failed)["verdict"] == "failed"
