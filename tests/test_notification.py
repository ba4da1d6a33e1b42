"""The exit handler: what people are told, and that a webhook harms nothing. Over true HTTP on loopback."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.notification import notify as notification
from components.notification.notify import notify
from components.scorer import journal, storage
from components.scorer.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
SECRET = "T0KEN-nobody-may-see"


@contextmanager
def webhook(answers: list[int], delay: float = 0.0):
    """A webhook that gives these answers in turn, the last one for ever; yields its URL and what it received."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            time.sleep(delay)
            status = answers[min(len(received), len(answers)) - 1]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/services/{SECRET}", received
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workspace:
    """The place of a run of which this process is a step."""
    monkeypatch.setenv(journal.RUN_ID, "run-7")
    monkeypatch.setattr(notification, "_PAUSE", 0.01)
    return Workspace(str(tmp_path), "run-7")


def passed_step(place: Workspace, name: str, report: str = "") -> None:
    with journal.step(name, place.uri, report):
        pass


def published(place: Workspace) -> None:
    """The records of a run that went well."""
    for name in ("ingestion", "pretraining", "training"):
        passed_step(place, name)
    passed_step(place, "evaluation", "gs://reports/evaluation")
    storage.write_json(place.decision, {"publish": True, "summary": "Publish: 5 of 5 gates.", "reasons": ["fine"]})
    passed_step(place, "push")
    storage.write_json(place.published, {"version": 3, "uri": "gs://models/portraits/3"})


def refused(place: Workspace) -> None:
    passed_step(place, "evaluation")
    decision = {"publish": False, "summary": "Refused: 4 of 5 gates.", "reasons": ["SRCC .31 is below .5."]}
    storage.write_json(place.decision, decision)


def failed(place: Workspace) -> None:
    passed_step(place, "ingestion")
    with pytest.raises(ValueError, match="row 3"), journal.step("pretraining", place.uri):
        raise ValueError("ratings.csv, row 3: expected a score from 1 to 10, got 11\nand more")


def said_to(received: list[dict]) -> dict[str, str]:
    """The fields of the last message."""
    return {field["title"]: field["value"] for field in received[-1]["attachments"][0]["fields"]}


def test_a_published_run_is_told_with_its_version_verdict_and_report(place, capsys):
    published(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, run_name="weekly", webhook=url)
    assert said_to(received) == {
        "Run": "weekly (run-7)",
        "State": "succeeded",
        "Verdict": "Publish: 5 of 5 gates.",
        "Published": "gs://models/portraits/3",
        "Report": "gs://reports/evaluation",
    }
    assert "gs://models/portraits/3" in received[0]["text"]
    assert "gs://models/portraits/3" in capsys.readouterr().out


def test_a_refused_run_is_told_with_the_reasons_and_that_nothing_was_published(place, capsys):
    refused(place)
    with webhook([200]) as (url, received):
        notify("SUCCEEDED", place, webhook=url)
    said = said_to(received)
    assert said["State"] == "succeeded"
    assert said["Verdict"] == "Refused: 4 of 5 gates. SRCC .31 is below .5."
    assert said["Published"] == "not published"
    assert "SRCC .31 is below .5." in capsys.readouterr().out


def test_a_failed_run_is_told_with_the_step_and_the_first_line_of_its_error(place):
    failed(place)
    with webhook([200]) as (url, received):
        notify("FAILED", place, webhook=url)
    said = said_to(received)
    assert (said["State"], said["Failed step"]) == ("failed", "pretraining")
    assert said["Reason"] == "ValueError: ratings.csv, row 3: expected a score from 1 to 10, got 11"
    assert said["Published"] == "not published"


def test_a_step_that_failed_makes_the_run_failed_whatever_the_state_says(place, capsys):
    failed(place)
    notify("RUNNING", place)
    assert "state failed" in capsys.readouterr().out


def test_a_step_killed_without_a_word_is_told_as_killed(place, capsys):
    code = "import os, sys; from components.scorer.journal import step\n"
    code += "with step('training', sys.argv[1]): os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, place.uri], cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    notify("FAILED", place)
    assert "failed step training; reason it was killed" in capsys.readouterr().out


def test_a_step_that_never_began_is_told_by_the_one_before_it(place, capsys):
    passed_step(place, "ingestion")
    notify("FAILED", place)
    assert "failed step the step after ingestion; reason it did not start" in capsys.readouterr().out


def test_what_kubeflow_says_of_a_failure_stands_in_for_a_step_that_left_no_word(place, capsys):
    passed_step(place, "ingestion")
    notify("FAILED", place, message="pod evicted")
    assert "failed step the step after ingestion; reason pod evicted" in capsys.readouterr().out


def test_records_that_cannot_be_read_still_leave_the_state_to_tell(place, capsys):
    storage.write_bytes(storage.join(place.steps, "training.json"), b"{half")
    notify("FAILED", place)
    assert "state failed" in capsys.readouterr().out


def test_a_webhook_that_fails_at_first_is_told_again(place, capsys):
    with webhook([503, 429, 200]) as (url, received):
        notify("SUCCEEDED", place, webhook=url)
    assert len(received) == 3
    assert "the webhook was told" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "times"), [(404, 1), (302, 1), (500, 3)])
def test_a_webhook_that_refuses_fails_nothing_and_is_named_by_its_status(place, capsys, status, times):
    with webhook([status]) as (url, received):
        notify("SUCCEEDED", place, webhook=url)
    assert len(received) == times
    assert f"the webhook answered {status}" in capsys.readouterr().out


def test_a_webhook_that_hangs_is_left_after_the_set_patience(place, capsys, monkeypatch):
    monkeypatch.setattr(notification, "PATIENCE", 0.3)
    began = time.monotonic()
    with webhook([200], delay=5) as (url, _):
        notify("SUCCEEDED", place, webhook=url)
        assert time.monotonic() - began < 2
    assert "did not answer" in capsys.readouterr().out


def test_the_patience_with_a_webhook_is_below_a_minute():
    assert notification.PATIENCE < 60


@pytest.mark.parametrize("broken", ["http://127.0.0.1:1/{}", "http://[{}", "not a url {}", "ftp://x/{}"])
def test_a_webhook_out_of_reach_fails_nothing_and_its_url_is_never_printed(place, capfd, broken):
    notify("SUCCEEDED", place, webhook=broken.format(SECRET))
    printed = "".join(capfd.readouterr())
    assert "the webhook could not be reached" in printed
    assert SECRET not in printed


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_the_url_of_a_webhook_that_answers_is_never_printed(place, capfd, status):
    with webhook([status]) as (url, _):
        notify("SUCCEEDED", place, webhook=url)
    assert SECRET not in "".join(capfd.readouterr())


def test_without_a_webhook_the_log_alone_is_told(place, capsys):
    published(place)
    notify("SUCCEEDED", place)
    assert capsys.readouterr().out.splitlines()[-1].startswith("notification: run run-7; state succeeded")
