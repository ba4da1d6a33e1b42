"""A small strict server of the Kubeflow Model Registry's REST API (v1 and v1alpha3), in memory, for tests.

Bodies are checked against the models that the registry generates from its OpenAPI document (``mr_openapi``, part of the
package ``model-registry``). Refusals are the real server's: unknown fields with 400, missing fields with 422, duplicate
names and external ids with 409, unknown parents with 404. Query parameters that the document does not have are refused
too. Lists come in pages of two. `Server.trouble` injects faults.

Reference: https://github.com/kubeflow/model-registry, api/openapi/model-registry.yaml and internal/server/openapi.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from mr_openapi import models as api
from pydantic import BaseModel, ValidationError

PREFIX = "/api/model_registry/"
PAGE = 2

Trouble = Literal[401, 429, 500, 503, "reset", "lost", "html"]
"""Faults: a status; ``reset``: the connection is closed before the request is carried out; ``lost``: the request is
carried out, but not answered; ``html``: a proxy's page."""


class Refused(Exception):
    """Raised for an answer of 4xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Server:
    """Contents of the registry, and every request in order; a context manager that serves it on loopback."""

    url: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    spoken: set[str] = field(default_factory=set)
    apis: tuple[str, ...] = ("v1", "v1alpha3")
    trouble: Callable[[str], Trouble | None] = lambda _: None
    """Function from a request's method and path, below the API's prefix, to the fault to inject."""
    _ids: int = 0

    @property
    def changes(self) -> list[str]:
        """Return the requests that would change something."""
        return [request for request in self.requests if not request.startswith("GET")]

    def version(self, name: str) -> dict[str, Any]:
        """Return the one version with a name."""
        (match,) = [version for version in self.versions if version["name"] == name]
        return match

    def properties(self, name: str) -> dict[str, Any]:
        """Return the custom properties of a version, without their types."""
        return {key: _value(value) for key, value in self.version(name)["customProperties"].items()}

    def labels(self) -> dict[str, set[str]]:
        """Return the properties of each version that have no value."""
        return {version["name"]: {key for key, value in self.properties(version["name"]).items() if value == ""}
                for version in self.versions}  # fmt: skip

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, dict[str, Any]]:
        """Return the answer to a request.

        Raises:
            Refused: The API refuses the request; with status and message.
        """
        match method, *path.split("/"):
            case "GET", "registered_model":
                _only(query, {"name", "externalId"})
                return 200, _one(self.models, query)
            case "GET", "registered_models":
                return 200, self._page(self.models, query)
            case "POST", "registered_models":
                return 201, self._add(self.models, api.RegisteredModelCreate, body)
            case "GET", "model_version":
                _only(query, {"name", "externalId", "parentResourceId"})
                parent = {"registeredModelId": query.pop("parentResourceId")} if "parentResourceId" in query else {}
                return 200, _one(self.versions, query | parent)
            case "GET", "registered_models", parent, "versions":
                _there(self.models, parent)
                return 200, self._page(
                    [version for version in self.versions if version["registeredModelId"] == parent], query
                )
            case "POST", "model_versions":
                _there(self.models, _checked(api.ModelVersionCreate, body)["registeredModelId"])
                return 201, self._add(self.versions, api.ModelVersionCreate, body, "registeredModelId")
            case "PATCH", "model_versions", version_id:
                _there(self.versions, version_id).update(_checked(api.ModelVersionUpdate, body))
                return 200, _there(self.versions, version_id)
            case "GET", "model_versions", parent, "artifacts":
                _there(self.versions, parent)
                version_id = [artifact for artifact in self.artifacts if artifact["parent"] == parent]
                return 200, self._page(
                    [{k: v for k, v in artifact.items() if k != "parent"} for artifact in version_id], query
                )
            case "GET", "model_artifact":
                _only(query, {"name", "externalId", "parentResourceId"})
                parent = {"parent": query.pop("parentResourceId")} if "parentResourceId" in query else {}
                return 200, {k: v for k, v in _one(self.artifacts, query | parent).items() if k != "parent"}
            case "POST", "model_versions", parent, "artifacts":
                _there(self.versions, parent)
                if body.get("artifactType") != "model-artifact":
                    raise Refused(400, "failed to match exactly one schema in oneOf(Artifact)")
                artifact = self._add(self.artifacts, api.ModelArtifact, body, "parent", parent=parent)
                return 201, {key: value for key, value in artifact.items() if key != "parent"}
        raise Refused(404, f"no such method: {method} {path}")

    def _add(
        self, items: list[dict[str, Any]], kind: type[BaseModel], body: Any, within: str = "", **others: str
    ) -> dict[str, Any]:
        content = {"state": "LIVE", **_checked(kind, body), **others}
        for item in items:
            if item["name"] == content["name"] and (not within or item[within] == content[within]):
                raise Refused(409, f"{content['name']} already exists")
            if "externalId" in content and item.get("externalId") == content["externalId"]:
                raise Refused(409, f"the external id {content['externalId']} already exists")
        self._ids += 1
        times = {"createTimeSinceEpoch": "1767225600000", "lastUpdateTimeSinceEpoch": "1767225600000"}
        items.append({**content, "id": str(self._ids), **times})
        return items[-1]

    def _page(self, items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        _only(query, {"pageSize", "orderBy", "sortOrder", "nextPageToken", "filterQuery"})
        size = min(PAGE, int(query.get("pageSize", PAGE)))
        start = int(query.get("nextPageToken") or 0)
        next_token = str(start + size) if start + size < len(items) else ""
        page = items[start : start + size]
        return {"items": page, "size": len(page), "pageSize": size, "nextPageToken": next_token}

    def __enter__(self) -> "Server":
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                api, _, path = address.path.removeprefix(PREFIX).partition("/")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                registry.requests.append(f"{self.command} {path}")
                registry.spoken.add(api)
                registry.tokens.append(self.headers.get("Authorization", ""))
                trouble = registry.trouble(registry.requests[-1])
                if trouble == "reset":
                    self.close_connection = True
                    return
                if trouble == "html":
                    self._write(200, b"<html>sign in</html>", "text/html")
                    return
                try:
                    if isinstance(trouble, int):
                        raise Refused(trouble, "trouble")
                    if not address.path.startswith(PREFIX) or api not in registry.apis:
                        raise Refused(404, "404 page not found")
                    query = dict(parse_qsl(address.query, keep_blank_values=True, strict_parsing=bool(address.query)))
                    status, answer = registry.answer(self.command, path, query, json.loads(body or "null"))
                except Refused as refused:
                    status, answer = refused.status, {"code": "", "message": str(refused)}
                if trouble == "lost":
                    self.close_connection = True
                else:
                    self._write(status, json.dumps(answer).encode(), "application/json")

            do_POST = do_PATCH = do_GET

            def _write(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _checked(kind: type[BaseModel], body: Any) -> dict[str, Any]:
    """Return a body that fits the document's model."""
    if not isinstance(body, dict):
        raise Refused(400, "expected a JSON object")
    _known(kind, body)
    for key, value in (body.get("customProperties") or {}).items():
        name = str(value.get("metadataType"))
        if not (name.startswith("Metadata") and hasattr(api, name)):
            raise Refused(400, f"{key}: failed to match exactly one schema in oneOf(MetadataValue)")
        _known(getattr(api, name), value)
        _valid(getattr(api, name), value)
    _valid(kind, body)
    return body


def _known(kind: type[BaseModel], body: dict[str, Any]) -> None:
    names = {field_info.alias or name for name, field_info in kind.model_fields.items()}
    if unknown := set(body) - names:
        raise Refused(400, f'json: unknown field "{min(unknown)}"')


def _valid(kind: type[BaseModel], body: dict[str, Any]) -> None:
    try:
        kind.from_dict(body)
    except ValidationError as error:
        missing = [fault for fault in error.errors() if fault["input"] in (None, "")]
        raise Refused(422 if missing else 400, str(error.errors()[0]["msg"])) from None


def _only(query: dict[str, str], known: set[str]) -> None:
    if unknown := set(query) - known:
        raise Refused(400, f"unknown parameters: {sorted(unknown)}")


def _one(items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    if not query:
        raise Refused(400, "invalid parameters call, supply either name or externalId")
    matches = [item for item in items if all(item.get(key) == value for key, value in query.items())]
    if len(matches) != 1:
        raise Refused(404, f"{len(matches)} found")
    return matches[0]


def _there(items: list[dict[str, Any]], own: str) -> dict[str, Any]:
    return _one(items, {"id": own})


def _value(value: dict[str, Any]) -> Any:
    (content,) = [item for key, item in value.items() if key != "metadataType"]
    return content
