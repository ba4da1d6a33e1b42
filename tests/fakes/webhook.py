"""A webhook on loopback, and the fields of its messages."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from components.scorer import storage
from components.scorer.run import decision, step_status
from components.scorer.run.decision import GateResult
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Policy

SECRET = "T0KEN-nobody-may-see"


class Received(list):
    """Messages that a webhook received, and their headers and bytes."""

    def __init__(self):
        self.headers, self.bodies = [], []

    def take(self, headers, body: bytes) -> None:
        self.headers.append(dict(headers))
        self.bodies.append(body)
        self.append(json.loads(body))


@contextmanager
def webhook(answers: list[int], delay: float = 0.0):
    """Serve a webhook with these statuses in turn, the last one from then on; yield its URL and its messages."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
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


def passed_step(place: RunPaths, name: str, report: str = "") -> None:
    with step_status.record_step(name, place.uri, report):
        pass


VERSION = {"version": 3, "uri": "gs://models/portraits/3"}


def decided(place: RunPaths, *gates: GateResult, policy: Policy = Policy(warn_only=("noise",))) -> dict:  # noqa: B008
    """Write evaluation's decision; one gate passed in addition to those given."""
    passed = GateResult("emd", "Votes as people do", "EMD", 0.8, 1.5, "passed", "EMD is .8.")
    value = decision.to_record(decision.decide([passed, *gates], policy), run=place.run)
    decision.write(place.decision, value)
    return value


def pushed(place: RunPaths) -> None:
    """Write the records of a push."""
    passed_step(place, "push")
    decision.write(place.decision, decision.with_publication(decision.read(place.decision), **VERSION))
    storage.write_json(place.published, VERSION)


def published(place: RunPaths) -> None:
    """Write the records of a successful run."""
    for name in ("ingestion", "validation", "pretraining", "training"):
        passed_step(place, name, f"gs://reports/{name}")
    passed_step(place, "evaluation", "gs://reports/evaluation")
    decided(place)
    pushed(place)


def said_to(received: list[dict]) -> dict[str, str]:
    """Return the fields of the last message."""
    return {field["title"]: field["value"] for field in received[-1]["attachments"][0]["fields"]}
