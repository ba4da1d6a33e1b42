"""A small strict server of the Kubeflow Pipelines API (v2beta1) for the real ``kfp.Client``.

It keeps pipelines, versions, experiments, runs and recurring runs in memory, and refuses what the real server refuses:
unknown paths, query and body fields, duplicate names, unknown parameters or wrong types of them, five-field cron,
versions without their Kubernetes document. Lists come in pages of two. `Kubeflow.fail` injects faults.
"""

import email.policy
import json
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import yaml

Trouble = Literal[429, 503, "reset", "lost", "slow", "page"]
"""Faults: a status; ``reset``: the connection is reset before the request is carried out; ``lost``: the request is
carried out, then the connection is reset; ``slow``: the answer is late; ``page``: a login page."""

PAGE = 2
SLOW = 2.0  # seconds that a slow answer delays its client
_KINDS = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}
_RUN = {"experiment_id", "display_name", "pipeline_version_reference", "runtime_config", "service_account"}
_RECURRING = _RUN | {"description", "trigger", "mode", "max_concurrency", "no_catchup"}


class Refused(Exception):
    """Raised for an answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Kubeflow:
    """Contents of the server, and every requested change in order."""

    url: str = ""
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    """Authorization headers of the clients."""
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    cookie: str = ""
    """Cookie that lets a client past ``front``."""
    front: tuple[int, dict[str, str], str] | None = None
    """Status, headers and content that are answered in place of the API, as by a login page."""
    down_after: int | None = None
    """Number of changes after which every further change is answered with 503."""
    _clock: int = 0
    _troubles: list[tuple[Callable[[str, str], bool], list[Trouble]]] = field(default_factory=list)

    def fail(self, when: Callable[[str, str], bool], *troubles: Trouble) -> None:
        """Answer the next requests whose method and path satisfy ``when`` with these faults, one each."""
        self._troubles.append((when, list(troubles)))

    def trouble(self, method: str, path: str) -> Trouble | None:
        """Return the fault that `fail` planned for this request."""
        for when, troubles in self._troubles:
            if troubles and when(method, path):
                return troubles.pop(0)
        return None

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            Refused: The API refuses the request; with status and message.
        """
        match method, *path.removeprefix("/apis/v2beta1/").split("/"):
            case "GET", "healthz":
                return {"multi_user": False}
            case "GET", "pipelines":
                return self._page("pipelines", self._named(self.pipelines, query), query)
            case "GET", "pipelines", pipeline, "versions":
                versions = [version for version in self.versions if version["pipeline_id"] == pipeline]
                return self._page("pipeline_versions", versions, query)
            case "POST", "pipelines", "upload":
                return self._upload(body, query.pop("name"), query)
            case "POST", "pipelines", "upload_version":
                return self._upload_version(body, query.pop("name"), query.pop("pipelineid"), query)
            case "GET", "experiments":
                return self._page("experiments", self._named(self.experiments, query), query)
            case "POST", "experiments":
                _only(body, {"display_name", "namespace"})
                return self._add(self.experiments, "experiment", body)
            case "GET", "runs":
                experiment_id = query.pop("experiment_id")
                versions = [run for run in self.runs if run["experiment_id"] == experiment_id]
                if query.get("sort_by") == "created_at desc":
                    versions.reverse()
                return self._page("runs", versions, query)
            case "POST", "runs":
                _only(body, _RUN)
                self._check_run(body)
                return self._add(self.runs, "run", {**body, "state": "PENDING"})
            case "POST" | "DELETE", "runs", name:
                return self._end(method, *name.partition(":")[::2])
            case "GET", "recurringruns":
                experiment_id = query.pop("experiment_id")
                versions = [run for run in self.recurring if run["experiment_id"] == experiment_id]
                return self._page("recurringRuns", versions, query)
            case "POST", "recurringruns":
                return self._schedule(body)
            case "POST" | "DELETE", "recurringruns", name:
                return self._change(method, *name.partition(":")[::2])
        raise Refused(404, f"no such method: {method} {path}")

    def schedules(self) -> dict[str, str]:
        """Return the status of each recurring run by its name."""
        return {run["display_name"]: run["status"] for run in self.recurring}

    def _upload(self, package: bytes, name: str, query: dict[str, str]) -> dict[str, Any]:
        if [pipeline for pipeline in self.pipelines if pipeline["display_name"] == name]:
            raise Refused(409, f"the name {name} already exists")
        pipeline = self._add(self.pipelines, "pipeline", {"display_name": name})
        # The real server gives the first version the pipeline's name: a request cannot name it.
        self._upload_version(package, name, pipeline["pipeline_id"], query)
        return pipeline

    def _upload_version(self, package: bytes, name: str, pipeline: str, query: dict[str, str]) -> dict[str, Any]:
        _only(query, set())
        documents = list(yaml.load_all(package, yaml.CSafeLoader))
        if len(documents) != 2 or "platforms" not in documents[1]:
            raise Refused(400, "expected the pipeline and its Kubernetes document")
        duplicates = [v for v in self.versions if (v["pipeline_id"], v["display_name"]) == (pipeline, name)]
        if duplicates:
            raise Refused(409, f"the version {name} already exists")
        if pipeline not in [known["pipeline_id"] for known in self.pipelines]:
            raise Refused(404, f"no pipeline {pipeline}")
        content = {"display_name": name, "pipeline_id": pipeline, "pipeline_spec": documents[0]}
        return self._add(self.versions, "pipeline_version", content)

    def _schedule(self, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, _RECURRING)
        self._check_run(body)
        _only(body["trigger"], {"cron_schedule"})
        trigger = body["trigger"]["cron_schedule"]
        _only(trigger, {"cron", "start_time", "end_time"})
        if len(trigger["cron"].split()) != 6:
            raise Refused(400, "cron: expected six fields")
        bounds = [datetime.fromisoformat(trigger[name]) for name in ("start_time", "end_time") if name in trigger]
        if any(moment.tzinfo is None for moment in bounds) or bounds != sorted(bounds):
            raise Refused(400, "start_time, end_time: expected RFC 3339, the earlier one first")
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise Refused(400, "max_concurrency: expected 1 to 10")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body["mode"]]
        return self._add(self.recurring, "recurring_run", {**body, "status": status})

    def _change(self, method: str, run_id: str, verb: str) -> dict[str, Any]:
        run = next((run for run in self.recurring if run["recurring_run_id"] == run_id), None)
        if run is None:
            raise Refused(404, f"no recurring run {run_id}")
        self._note(f"{verb or 'delete'} {run['display_name']}")
        if method == "DELETE" and not verb:
            self.recurring.remove(run)
        elif verb in ("enable", "disable"):
            run["status"] = f"{verb}d".upper()
        else:
            raise Refused(404, f"no such method: {method} :{verb}")
        return {}

    def _end(self, method: str, run_id: str, verb: str) -> dict[str, Any]:
        """Archive or delete a run; refuse if it is still running."""
        run = next((run for run in self.runs if run["run_id"] == run_id), None)
        if run is None:
            raise Refused(404, f"no run {run_id}")
        if (method, verb) not in (("POST", "archive"), ("DELETE", "")):
            raise Refused(404, f"no such method: {method} :{verb}")
        if run["state"] in ("PENDING", "RUNNING"):
            raise Refused(400, f"run {run_id} is going")
        if verb and run.get("storage_state") == "ARCHIVED":
            raise Refused(400, f"run {run_id} is archived")
        self._note(f"{verb or 'delete'} {run['display_name']}")
        if verb:
            run["storage_state"] = "ARCHIVED"
        else:
            self.runs.remove(run)
        return {}

    def _check_run(self, body: dict[str, Any]) -> None:
        """Refuse a run without a known version and experiment, or with wrong parameters."""
        if body["experiment_id"] not in [known["experiment_id"] for known in self.experiments]:
            raise Refused(404, "no such experiment")
        reference = body["pipeline_version_reference"]
        _only(reference, {"pipeline_id", "pipeline_version_id"})
        version = next((v for v in self.versions if all(v[key] == reference[key] for key in reference)), None)
        if version is None:
            raise Refused(404, "no such version")
        inputs = version["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        arguments = body["runtime_config"]["parameters"]
        for name, value in arguments.items():
            if name not in inputs:
                raise Refused(400, f"parameter {name} is not one of the pipeline's")
            kind = _KINDS[inputs[name]["parameterType"]]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise Refused(400, f"parameter {name}: expected {inputs[name]['parameterType']}, got {value!r}")
            if value not in inputs[name].get("literals", [value]):
                raise Refused(400, f"parameter {name}: expected one of {inputs[name]['literals']}")
        if missing := [name for name, spec in inputs.items() if not spec.get("isOptional") and name not in arguments]:
            raise Refused(400, f"parameters are missing: {missing}")

    def _named(self, items: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        """Return the items that a filter by name leaves."""
        if "filter" not in query:
            return items
        (predicate,) = json.loads(query.pop("filter"))["predicates"]
        if predicate["key"] != "display_name" or predicate["operation"] not in (1, "EQUALS"):
            raise Refused(400, f"filter: {predicate}")
        return [item for item in items if item["display_name"] == predicate["stringValue"]]

    def _page(self, name: str, items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        """Return a page of a list; an empty list is left out, as protobuf's JSON does."""
        start = int(query.pop("page_token", "") or 0)
        for ignored in ("page_size", "sort_by", "namespace"):
            query.pop(ignored, None)
        _only(query, set())
        page = items[start : start + PAGE]
        next_token = {"next_page_token": str(start + PAGE)} if start + PAGE < len(items) else {}
        return ({name: page} if page else {}) | next_token

    def _add(self, items: list[dict[str, Any]], kind: str, content: dict[str, Any]) -> dict[str, Any]:
        self._note(f"create {kind} {content['display_name']}")
        self._clock += 1
        created_at = f"2026-01-01T00:{self._clock // 60:02}:{self._clock % 60:02}Z"
        items.append({**content, f"{kind}_id": f"{kind}-{self._clock}", "created_at": created_at})
        return items[-1]

    def _note(self, change: str) -> None:
        if self.down_after is not None and len(self.changes) >= self.down_after:
            raise Refused(503, "down")
        self.changes.append(change)


def _only(given: dict[str, Any], known: set[str]) -> None:
    """Refuse fields that the API does not have, or that this project has no reason to send."""
    if unknown := set(given) - known:
        raise Refused(400, f"unknown fields: {sorted(unknown)}")


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: some tests disconnect their clients."""


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Kubeflow]:
    """Start a server on loopback; with TLS if ``certificate`` is a file of a certificate and its key."""
    kubeflow = Kubeflow()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(address.query).items()}
            kubeflow.tokens.add(self.headers.get("Authorization", ""))
            kubeflow.asked.append(f"{self.command} {address.path}")
            body, trouble = self._body(), kubeflow.trouble(self.command, address.path)
            if kubeflow.front and not (kubeflow.cookie and self.headers.get("Cookie") == kubeflow.cookie):
                return self._answer(*kubeflow.front)
            if trouble == "reset":
                return self._reset()
            if trouble == "page":
                return self._answer(200, {"Content-Type": "text/html"}, "<!DOCTYPE html><title>Log in</title>")
            try:
                if isinstance(trouble, int):
                    raise Refused(trouble, "trouble on cue")
                status, answer = 200, kubeflow.answer(self.command, address.path, query, body)
            except Refused as refused:
                status, answer = refused.status, {"code": refused.status, "message": str(refused)}
            if trouble == "lost":
                return self._reset()
            if trouble == "slow":
                time.sleep(SLOW)
            self._answer(status, {"Content-Type": "application/json"}, json.dumps(answer))

        do_POST = do_DELETE = do_GET

        def _answer(self, status: int, headers: dict[str, str], content: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content.encode())

        def _reset(self) -> None:
            """Close with RST, as a broken network does."""
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def finish(self) -> None:
            if self.connection.fileno() != -1:
                super().finish()

        def _body(self) -> Any:
            """Return the JSON of the body, or the bytes of the form's one file."""
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type", "")
            if not kind.startswith("multipart/form-data"):
                return json.loads(content or "null")
            form = BytesParser(policy=email.policy.HTTP).parsebytes(
                b"Content-Type: " + kind.encode() + b"\r\n\r\n" + content
            )
            (part,) = form.iter_parts()
            if part.get_param("name", header="content-disposition") != "uploadfile":
                raise Refused(400, "expected the form's file uploadfile")
            return part.get_payload(decode=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = _Http(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kubeflow.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    try:
        yield kubeflow
    finally:
        server.shutdown()
        server.server_close()
