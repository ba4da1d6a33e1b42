"""The exit handler: the message it sends, and webhooks that fail without harm. Over real HTTP on loopback."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.notification import notify as notification
from components.notification.notify import notify
from components.notification.senders import Slack
from components.scorer import storage
from components.scorer.run import decision, step_status
from components.scorer.run.decision import Decision, GateResult
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Policy
from tests.fakes.webhook import SECRET, VERSION, decided, passed_step, published, pushed, said_to, webhook

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch) -> RunPaths:
    """Paths of a run; this process is a step of it."""
    monkeypatch.setenv(step_status.RUN_ID, "run-7")
    monkeypatch.setattr(notification, "_RETRY_PAUSE", 0.01)
    return RunPaths(str(tmp_path), "run-7")


SRCC = GateResult("srcc", "Ranks as people do", "SRCC", 0.31, 0.5, "failed", "SRCC is .31; it has to be at least .5.")
NOISE = GateResult("noise", "Noise raises no score", "score points", 0.3, 0.0, "failed", "noise raises scores by .3.")


def refused(place: RunPaths) -> None:
    passed_step(place, "evaluation")
    decided(place, SRCC)


def skipped(place: RunPaths) -> None:
    passed_step(place, "ingestion", "gs://reports/ingestion")
    passed_step(place, "validation", "gs://reports/validation")
    gate = GateResult("new_labels", "Enough is new", "photos", 3, 500, "failed", "3 photos are new; it takes 500.")
    decision.write(
        place.decision, decision.to_record(Decision("skipped", ["3 photos are new."], [gate]), run=place.run)
    )


def forced(place: RunPaths) -> None:
    passed_step(place, "evaluation")
    decided(place, SRCC, policy=Policy(("noise",), force_publish=True, force_reason="the champion is broken"))
    pushed(place)


def failed(place: RunPaths) -> None:
    passed_step(place, "ingestion")
    with pytest.raises(ValueError, match="row 3"), step_status.record_step("pretraining", place.uri):
        raise ValueError("ratings.csv, row 3: expected a score from 1 to 10, got 11\nand more")


def test_a_published_run_is_announced_with_version_verdict_and_report(place, capsys):
    published(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, run_name="weekly", recipients=[Slack(url)])
    assert said_to(received) == {
        "Run": "weekly (run-7)",
        "State": "succeeded",
        "Verdict": "Published: the scorer passed its 1 gate.",
        "Published": "gs://models/portraits/3",
        "Report": "gs://reports/evaluation",
    }
    assert "gs://models/portraits/3" in received[0]["text"]
    assert "gs://models/portraits/3" in capsys.readouterr().out


def test_a_refused_run_is_announced_with_its_reasons_and_as_not_published(place, capsys):
    refused(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    message = said_to(received)
    assert message["State"] == "succeeded"
    reason = "Ranks as people do: SRCC is .31; it has to be at least .5."
    assert message["Verdict"] == f"Refused: the scorer passed 1 of 2 gates. Nothing is published. {reason}"
    assert message["Published"] == "not published"
    assert reason in capsys.readouterr().out


def test_a_skipped_run_is_a_success_and_names_its_reason_and_the_validation_report(place):
    skipped(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    message = said_to(received)
    assert message["State"] == "succeeded"
    assert message["Verdict"].startswith("Skipped: there is too little new to train on.")
    assert message["Verdict"].endswith("3 photos are new.")
    assert message["Report"] == "gs://reports/validation"


def test_an_override_is_announced_with_its_reason_and_the_failed_gate(place):
    forced(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    verdict = said_to(received)["Verdict"]
    assert verdict.startswith("Forced by a person: the champion is broken. 1 of 2 gates said no.")
    assert verdict.endswith("SRCC is .31; it has to be at least .5.")
    assert "the champion is broken" in received[0]["text"]


def test_warnings_are_counted_and_listed(place):
    published(place)
    decided(place, NOISE)
    pushed(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    message = said_to(received)
    assert message["Verdict"].endswith("1 warning.")
    assert message["Warnings"] == "Noise raises no score: noise raises scores by .3."


def look(place: RunPaths) -> None:
    """Leave a decision with a gate that could not be judged."""
    passed_step(place, "evaluation")
    decided(place, GateResult("srcc", "Ranks", "SRCC", 0.3, 0.5, "not judged", "the champion is broken."))


@pytest.mark.parametrize(
    ("ending", "state", "colour"),
    [
        (published, "SUCCEEDED", notification._GREEN),
        (forced, "SUCCEEDED", notification._AMBER),
        (refused, "SUCCEEDED", notification._AMBER),
        (skipped, "SUCCEEDED", notification._AMBER),
        (look, "SUCCEEDED", notification._RED),
        (lambda place: failed(place), "FAILED", notification._RED),
        (lambda place: None, "SUCCEEDED", notification._RED),
    ],
    ids=["published", "forced", "refused", "skipped", "not judged", "failed", "no decision"],
)
def test_the_colour_shows_the_verdict(place, ending, state, colour):
    ending(place)
    with webhook([200]) as (url, received):
        notify(state, place, recipients=[Slack(url)])
    assert received[0]["attachments"][0]["color"] == colour


# The decision that the run leaves


def test_a_run_that_broke_off_before_a_decision_gets_a_failed_decision_with_step_and_reason(place):
    failed(place)
    notify("FAILED", place)
    value = decision.read(place.decision)
    assert (value["verdict"], value["run"], value["gates"]) == ("failed", "run-7", [])
    (reason,) = value["reasons"]
    assert reason == ("pretraining broke off: ValueError: ratings.csv, row 3: expected a score from 1 to 10, got 11")


def test_a_killed_push_turns_the_decision_to_publish_into_failed_and_keeps_the_gates(place):
    original = decided(place, NOISE)
    code = "import os, sys; from components.scorer.run.step_status import record_step\n"
    code += "with record_step('push', sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, place.uri], cwd=ROOT, check=False, capture_output=True)
    notify("FAILED", place)
    value = decision.read(place.decision)
    assert (value["verdict"], value["publish"]) == ("failed", False)
    assert value["gates"] == original["gates"]
    assert value["reasons"][0].startswith("push broke off: it was killed and left no word")


def test_a_forced_scorer_that_was_not_published_gets_a_failed_decision_with_the_override(place):
    decided(place, SRCC, policy=Policy((), force_publish=True, force_reason="agreed"))
    with pytest.raises(ValueError, match="disagrees"), step_status.record_step("push", place.uri):
        raise ValueError("the version disagrees")
    notify("FAILED", place)
    value = decision.read(place.decision)
    assert (value["verdict"], value["override"]) == ("failed", "agreed")


def test_a_training_that_failed_after_the_data_passed_gets_a_failed_decision(place):
    decided(place)
    with pytest.raises(OSError, match="full"), step_status.record_step("training", place.uri):
        raise OSError("disk full")
    notify("FAILED", place)
    assert decision.read(place.decision)["reasons"] == ["training broke off: OSError: disk full"]


def test_a_push_killed_after_publishing_gets_a_published_decision(place):
    decided(place)
    storage.write_json(place.published, VERSION)
    notify("FAILED", place)
    value = decision.read(place.decision)
    assert (value["verdict"], value["published"]) == ("published", VERSION)


@pytest.mark.parametrize("ending", [published, forced, refused, skipped, look])
def test_a_final_decision_is_not_changed(place, ending):
    ending(place)
    record = storage.read_bytes(place.decision)
    notify("SUCCEEDED", place)
    assert storage.read_bytes(place.decision) == record


@pytest.mark.parametrize("ending", [published, forced, refused, skipped, look, failed, lambda place: decided(place)])
def test_notifying_twice_leaves_the_same_decision(place, ending):
    ending(place)
    notify("SUCCEEDED", place)
    record = decision.read(place.decision)
    notify("SUCCEEDED", place)
    assert decision.read(place.decision) == record


def test_a_run_is_announced_although_its_decision_cannot_be_written(place, capsys):
    failed(place)
    Path(place.decision).mkdir()
    notify("FAILED", place)
    assert "state failed" in capsys.readouterr().out


def test_a_reason_is_given_once(place, capsys):
    failed(place)
    notify("FAILED", place)
    assert capsys.readouterr().out.splitlines()[-1].count("row 3") == 1


def test_a_failed_run_is_announced_with_the_step_and_the_first_line_of_its_error(place):
    failed(place)
    with webhook([200]) as (url, received):
        notify("FAILED", place, recipients=[Slack(url)])
    message = said_to(received)
    assert (message["State"], message["Failed step"]) == ("failed", "pretraining")
    assert message["Reason"] == "ValueError: ratings.csv, row 3: expected a score from 1 to 10, got 11"
    assert message["Published"] == "not published"


def test_a_failed_step_makes_the_run_failed_in_any_pipeline_state(place, capsys):
    failed(place)
    notify("RUNNING", place)
    assert "state failed" in capsys.readouterr().out


def test_a_step_killed_without_a_record_is_announced_as_killed(place, capsys):
    code = "import os, sys; from components.scorer.run.step_status import record_step\n"
    code += "with record_step('training', sys.argv[1]): os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, place.uri], cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    notify("FAILED", place)
    assert "failed step training; reason it was killed" in capsys.readouterr().out


def test_a_step_that_never_started_is_named_by_the_step_before_it(place, capsys):
    passed_step(place, "ingestion")
    notify("FAILED", place)
    assert "failed step the step after ingestion; reason it did not start" in capsys.readouterr().out


def test_kubeflows_message_is_the_reason_of_a_step_without_a_record(place, capsys):
    passed_step(place, "ingestion")
    notify("FAILED", place, message="pod evicted")
    assert "failed step the step after ingestion; reason pod evicted" in capsys.readouterr().out


def test_a_run_is_announced_although_its_records_cannot_be_read(place, capsys):
    storage.write_bytes(storage.join(place.steps, "training.json"), b"{half")
    notify("FAILED", place)
    assert "state failed; reason its records cannot be read" in capsys.readouterr().out
    assert not storage.exists(place.decision)


def test_a_webhook_that_fails_at_first_is_tried_again(place, capsys):
    with webhook([503, 429, 200]) as (url, received):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    assert len(received) == 3
    assert "the webhook was told" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("status", "times"), [(404, 1), (302, 1), (500, 3)])
def test_a_webhook_that_refuses_fails_nothing_and_its_status_is_logged(place, capsys, status, times):
    with webhook([status]) as (url, received):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    assert len(received) == times
    assert f"the webhook answered {status}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_webhook_that_hangs_is_given_up_after_the_time_limit(place, capsys, monkeypatch):
    monkeypatch.setattr(notification, "TIME_LIMIT", 0.3)
    start = time.monotonic()
    with webhook([200], delay=60) as (url, _):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
        assert time.monotonic() - start < 30
    assert "did not answer" in capsys.readouterr().out


def test_the_time_limit_of_a_webhook_is_below_a_minute():
    assert notification.TIME_LIMIT < 60


@pytest.mark.parametrize("broken", ["http://127.0.0.1:1/{}", "http://[{}", "not a url {}", "ftp://x/{}"])
def test_an_unreachable_webhook_fails_nothing_and_its_url_is_never_printed(place, capfd, broken):
    notify("SUCCEEDED", place, recipients=[Slack(broken.format(SECRET))])
    printed = "".join(capfd.readouterr())
    assert "the webhook could not be reached" in printed
    assert SECRET not in printed


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_the_url_of_a_webhook_that_answers_is_never_printed(place, capfd, status):
    with webhook([status]) as (url, _):
        notify("SUCCEEDED", place, recipients=[Slack(url)])
    assert SECRET not in "".join(capfd.readouterr())


def test_without_a_webhook_the_message_goes_to_the_log_only(place, capsys):
    published(place)
    notify("SUCCEEDED", place)
    assert capsys.readouterr().out.splitlines()[-1].startswith("notification: run run-7; state succeeded")
