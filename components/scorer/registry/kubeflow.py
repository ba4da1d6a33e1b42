"""Client of the Kubeflow Model Registry: registers published versions, their provenance and their channels.

The models' folder is the source of truth, and the registry follows. Each synchronisation compares the two and adds
what the registry lacks: after an outage, after a push that was killed, or after a channel was changed. A
synchronisation may be repeated at any time. If nothing differs, it changes nothing.

The module calls the registry's REST API directly, v1 or v1alpha3, whichever the server offers. The official client,
``model-registry``, is not used for three reasons. It speaks only one of the two APIs. It cannot complete a version
that was registered in part: its ``register_model`` stops at an existing version. And it patches the process's event
loop. Tests read the registered versions with the official client. The API is described by
https://github.com/kubeflow/model-registry, api/openapi/model-registry.yaml.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from components.scorer import storage
from components.scorer.quoting import one_line
from components.scorer.registry import channels, versions
from components.scorer.registry.versions import VersionInfo

URL_VARIABLE = "MODEL_REGISTRY"
"""The environment variable with the registry's URL, for the command line."""

RETRY_SECONDS = 60.0
"""Seconds for which requests to an unavailable registry are repeated; the published version serves meanwhile."""

TOKEN_VARIABLE = "MODEL_REGISTRY_TOKEN"
"""The environment variable with a token for the registry that ``MODEL_REGISTRY`` names, and for no other URL.

The pod's own token, which belongs to Kubernetes, is never sent: the person who starts a run chooses the URL.
"""

_APIS = ("/api/model_registry/v1/", "/api/model_registry/v1alpha3/")  # the same in all requests made here
_TIMEOUT = 10.0  # seconds for each response
_PAUSE = 2.0  # seconds before the first repetition; each further pause is twice as long
_PAGE = "100"  # items per page of a list
_LONGEST = 60_000  # characters of a description: the registry's database holds 65,535 bytes (MySQL's TEXT)


class RegistryUnavailable(OSError):
    """Retryable failure: the registry did not answer, or answered with a conflict, rate limit or server error."""


class RegistryRejected(OSError):
    """Permanent failure: the registry rejects the request, and repeating it does not help."""


def check_url(url: str) -> None:
    """Raise ValueError unless a URL can be that of a registry; "" stands for no registry."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        expected = "http://model-registry-service.kubeflow.svc.cluster.local:8080"
        raise ValueError(f"model_registry must be a URL such as {expected}, got {url!r}")


def sync(url: str, models: str, name: str, pushed: int = 0) -> list[str]:
    """Synchronise the registry with the published versions, and report failures instead of raising them.

    A failure of the registry must not undo a publication.

    Args:
        url: URL of the registry; "" does nothing.
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        pushed: Version that was just published; it is registered even if no channel names it.

    Returns:
        A line for each change; after a failure, a last line with the reason.
    """
    lines = []
    try:
        for line in reconcile(url, models, name, pushed) if url else ():
            lines.append(line)
    except Exception as error:  # of any kind: the version serves
        remedy = "the next push, or python -m pipeline models register, makes it good"
        lines.append(
            f"the model registry was not told everything: {one_line(error)}; what is published stays, {remedy}"
        )
    return lines


def reconcile(url: str, models: str, name: str, pushed: int = 0) -> Iterator[str]:
    """Synchronise the registry with the published versions; yield a line after each change.

    Args:
        url: URL of the registry.
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        pushed: Published version that is registered even if no channel ever named it.

    Raises:
        ValueError: The URL is invalid.
        RegistryUnavailable: The registry did not answer within `RETRY_SECONDS`.
        RegistryRejected: The registry rejects a request, or has a version of this name and number at another address.
        components.scorer.storage.StorageError: The models cannot be read.
    """
    check_url(url)
    until, pause = time.monotonic() + RETRY_SECONDS, _PAUSE
    while True:
        try:
            yield from _sync_pass(_RegistryClient(url, until), models, name, pushed)
            return
        except RegistryUnavailable:  # a repeated pass skips the changes that were made already
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause *= 2


def _sync_pass(server: "_RegistryClient", models: str, name: str, pushed: int) -> Iterator[str]:
    """Compare the registry with the published versions once, and add what the registry lacks."""
    complete = {info.version: info for info in versions.list_versions(models, name) if info.state == "complete"}
    audit = channels.audit(models, name)
    # A version that no channel ever named may belong to a running push and is not verified yet.
    verified = {pushed} | {entry.get("to") for entry in audit} | channels.protected_versions(models, name)
    channel_names = {channels.CHAMPION, channels.PREVIOUS} | {entry["channel"] for entry in audit if "channel" in entry}
    model = server.model_id(name, storage.join(models, name))
    registered = server.versions(model)
    for number in sorted(complete.keys() & verified):
        uri = channels.address(models, name, number)
        current = registered.get(str(number))
        if current is None:
            current = server.create("model_versions", _version_content(complete[number], uri, model))
            yield f"registered version {number} of {name}"
        if server.register_artifact(current["id"], _artifact_content(complete[number], name, uri)):
            yield f"registered where version {number} of {name} lies"
        if update := _label_update(current, channel_names, complete[number].channels):
            server.update(f"model_versions/{current['id']}", update)
            yield f"labelled version {number} of {name}: {', '.join(complete[number].channels) or 'no channel'}"
    for number in sorted(channels.removed_versions(models, name) - complete.keys()):
        current = registered.get(str(number))
        if current is not None and current.get("state") != "ARCHIVED":
            server.update(
                f"model_versions/{current['id']}", {"state": "ARCHIVED", **_label_update(current, channel_names, ())}
            )
            yield f"archived version {number} of {name}, which was removed"


def _version_content(version: VersionInfo, uri: str, model: str) -> dict[str, Any]:
    """Return the request body that registers a version."""
    try:
        record = storage.read_json(storage.join(uri, "version.json"))
    except FileNotFoundError:
        record = {}
    decision = record.get("decision") or {}
    texts = {
        "run_id": version.run,
        "git_commit": version.revision,
        "data_fingerprint": record.get("data_fingerprint"),
        "scorer_fingerprint": record.get("scorer"),
        "decision": version.verdict,
        "override": version.override,
        "published": version.date,
    }
    numbers = {"srcc": version.srcc} | (record.get("metrics") or {})
    return {
        "name": str(version.version),
        "registeredModelId": model,
        "description": str(decision.get("summary", ""))[:_LONGEST],
        "state": "LIVE",
        "customProperties": {
            **{key: _string_property(str(value)) for key, value in texts.items() if value},
            **{key: _double_property(value) for key, value in numbers.items() if _is_finite_number(value)},
            **{channel: _string_property("") for channel in version.channels},
        },
    }


def _artifact_content(version: VersionInfo, name: str, uri: str) -> dict[str, Any]:
    """Return the request body that registers a version's address and the run that published it."""
    source = {"modelSourceKind": "kfp", "modelSourceClass": "pipelinerun", "modelSourceId": version.run}
    return {
        "artifactType": "model-artifact",
        "name": name,  # the official client looks artifacts up by this name
        "uri": uri,
        "modelFormatName": "tensorflow",
        "modelFormatVersion": "2",
        "state": "LIVE",
        **(source if version.run else {}),
    }


def _label_update(registered: Mapping[str, Any], channel_names: set[str], labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the update that labels a version with its channels; empty if the labels are right already.

    The registry's user interface shows a property without a value as a label. Properties set by others stay.
    """
    current = registered.get("customProperties") or {}
    updated = {key: value for key, value in current.items() if key not in channel_names} | {
        label: _string_property("") for label in labels
    }
    return {"customProperties": updated} if updated != current else {}


def _string_property(value: str) -> dict[str, str]:
    return {"metadataType": "MetadataStringValue", "string_value": value}


def _double_property(value: float) -> dict[str, Any]:
    return {"metadataType": "MetadataDoubleValue", "double_value": float(value)}


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _RegistryClient:
    """Client of the part of the registry's REST API that this module uses.

    Args:
        url: URL of the registry.
        deadline: Deadline of all requests together, on the clock of `time.monotonic`.
    """

    def __init__(self, url: str, deadline: float) -> None:
        self._deadline = deadline
        token = _token(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        for self._base in [url.rstrip("/") + api for api in _APIS]:
            if self._request("GET", "registered_models", missing=True, pageSize="1") is not None:
                return
        raise RegistryRejected("it knows neither v1 nor v1alpha3 of the API: is this its URL?")

    def model_id(self, name: str, uri: str) -> str:
        """Return the id of a registered model by name; register the model if it is unknown."""
        registered = self._request("GET", "registered_model", missing=True, name=name)
        if registered is None:
            description = "Scores portrait photos from 1 to 10 as people would."
            properties = {"models": _string_property(uri)}
            registered = self.create(
                "registered_models", {"name": name, "description": description, "customProperties": properties}
            )
        return registered["id"]

    def versions(self, model: str) -> dict[str, dict[str, Any]]:
        """Return every registered version of a model by its name, the version number as text."""
        return {item["name"]: item for item in self._all_items(f"registered_models/{model}/versions")}

    def register_artifact(self, version: str, artifact: dict[str, Any]) -> bool:
        """Register the address of a version; return False if the registry has the address already.

        Raises:
            RegistryRejected: The registry has another address for the version.
        """
        path = f"model_versions/{version}/artifacts"
        registered = [item for item in self._all_items(path) if item.get("artifactType") == "model-artifact"]
        if not registered:
            self.create(path, artifact)
        elif other_uri := next((item.get("uri") for item in registered if item.get("uri") != artifact["uri"]), None):
            raise RegistryRejected(
                "two places of models share a name in it, publish one of them under another name: it knows this version"
                f" of {artifact['name']} at {other_uri}, not at {artifact['uri']}"
            )
        return not registered

    def create(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Create an object; raise `RegistryUnavailable` if another client has just created it, so that the pass is
        repeated.
        """
        return self._request("POST", path, content)

    def update(self, path: str, content: dict[str, Any]) -> None:
        """Update an object by PATCH."""
        self._request("PATCH", path, content)

    def _all_items(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield every item of a paged list."""
        token: dict[str, Any] = {}
        while True:
            page = self._request("GET", path, pageSize=_PAGE, **token)
            yield from page.get("items") or []
            if not page.get("nextPageToken"):
                return
            token = {"nextPageToken": page["nextPageToken"]}

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, missing: bool = False, **query: str
    ) -> Any:
        """Return the JSON body of the registry's response; None for 404 if `missing` allows it."""
        timeout = min(_TIMEOUT, self._deadline - time.monotonic())
        if timeout <= 0:
            raise RegistryUnavailable(f"it took longer than {RETRY_SECONDS:.0f} s")
        try:
            response = requests.request(
                method, self._base + path, params=query, json=body, headers=self._headers, timeout=timeout,
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:  # its text is long and holds memory addresses
            raise RegistryUnavailable(f"it cannot be reached ({type(error).__name__})") from None
        if missing and response.status_code == 404:
            return None
        if response.status_code in (409, 429) or response.status_code >= 500:
            raise RegistryUnavailable(f"it answered {response.status_code} to {method} {path}: {_error_text(response)}")
        try:
            if not 200 <= response.status_code < 300:
                raise RegistryRejected(
                    f"it answered {response.status_code} to {method} {path}: {_error_text(response)}"
                )
            return response.json()
        except requests.JSONDecodeError:
            raise RegistryRejected(
                f"it answered {method} {path} with something else than JSON: is this its URL?"
            ) from None


def _error_text(response: requests.Response) -> str:
    """Return the error message in a response's body, at most 300 characters."""
    try:
        message = response.json()
        message = message.get("message", message) if isinstance(message, dict) else message
    except requests.JSONDecodeError:
        message = response.reason
    return " ".join(str(message).split())[:300]


def _token(url: str) -> str:
    """Return the token for the registry at the URL; "" for another registry and for plain HTTP."""
    is_configured = url.rstrip("/") == os.environ.get(URL_VARIABLE, "").rstrip("/")
    return os.environ.get(TOKEN_VARIABLE, "") if is_configured and url.startswith("https://") else ""
