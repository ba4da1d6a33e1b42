"""The Kubeflow Model Registry, told what is published: each version, where it comes from, which channels name it.

The models' own folder stays the truth, and the registry follows it: one telling compares the two and makes good
whatever the registry lacks, be it that it was down, that a push was killed half-way, or that a channel was moved. So a
telling may be tried again at any time, and one that finds nothing to do changes nothing.

It speaks to the registry's REST API itself, v1 or v1alpha3, whichever there is: the official client,
``model-registry``, speaks one of them only, cannot complete a version that was registered by half (its
``register_model`` stops at a version that exists) and patches the process's event loop. Tests read with it what is
written here. The API is described by https://github.com/kubeflow/model-registry, api/openapi/model-registry.yaml.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from components.scorer import storage
from components.scorer.quoting import in_short
from components.scorer.registry import channels, versions
from components.scorer.registry.versions import Version

VARIABLE = "MODEL_REGISTRY"
"""The environment variable that names the registry's URL to the command line."""

PATIENCE = 60.0
"""Seconds for which a registry that does not answer is tried again: what is published serves all the while."""

TOKEN = "MODEL_REGISTRY_TOKEN"
"""The environment variable that holds a token for the registry that ``MODEL_REGISTRY`` names, and for no other URL.

A pod's own token is Kubernetes', and whoever starts a run names the URL: it is sent to none.
"""

_APIS = ("/api/model_registry/v1/", "/api/model_registry/v1alpha3/")  # alike in all that is asked here
_TIMEOUT = 10.0  # seconds for each answer
_PAUSE = 2.0  # seconds before the next try; each one waits twice as long as the one before
_PAGE = "100"  # items of a list
_LONGEST = 60_000  # characters of a description: the registry's database holds 65,535 bytes (MySQL's TEXT)


class Unreached(OSError):
    """The registry did not answer, or was in trouble: trying again may help."""


class Refused(OSError):
    """The registry will not take what it was told: trying again does not help."""


def check(url: str) -> None:
    """Raise ValueError unless a URL may be a registry's; an empty one says that there is none."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        expected = "http://model-registry-service.kubeflow.svc.cluster.local:8080"
        raise ValueError(f"model_registry must be a URL such as {expected}, got {url!r}")


def tell(url: str, models: str, name: str, pushed: int = 0) -> list[str]:
    """Bring the registry to what is published, and say what came of it: nothing that fails here undoes a publication.

    Args:
        url: of the registry; empty: there is none.
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        pushed: the version that was just published, which no channel need name.

    Returns:
        A line for each change, and one that says why where it could not be told everything.
    """
    lines = []
    try:
        for line in reconcile(url, models, name, pushed) if url else ():
            lines.append(line)
    except Exception as error:  # whatever it is: the version serves
        again = "the next push, or python -m pipeline models register, makes it good"
        lines.append(f"the model registry was not told everything: {in_short(error)}; what is published stays, {again}")
    return lines


def reconcile(url: str, models: str, name: str, pushed: int = 0) -> Iterator[str]:
    """Bring the registry to what is published, yielding a line for each change once it is made.

    Args:
        url: of the registry.
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        pushed: a version that is published though no channel names it, or ever did.

    Raises:
        ValueError: the URL is none.
        Unreached: the registry did not answer within `PATIENCE`.
        Refused: it does not take what it is told, or it knows a version of this name and number from another place.
        components.scorer.storage.StorageError: the models cannot be read.
    """
    check(url)
    until, pause = time.monotonic() + PATIENCE, _PAUSE
    while True:
        try:
            yield from _pass(_Server(url, until), models, name, pushed)
            return
        except Unreached:  # also in the midst: what was done already is found done
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause *= 2


def _pass(server: "_Server", models: str, name: str, pushed: int) -> Iterator[str]:
    """Compare once, and make good what the registry lacks."""
    found = {each.version: each for each in versions.versions(models, name) if each.state == "complete"}
    audit = channels.audit(models, name)
    # What no channel ever named may be a push under way, which is still to prove itself.
    proved = {pushed} | {entry.get("to") for entry in audit} | channels.kept(models, name)
    ours = {channels.CHAMPION, channels.PREVIOUS} | {entry["channel"] for entry in audit if "channel" in entry}
    model = server.model(name, storage.join(models, name))
    known = server.versions(model)
    for number in sorted(proved & found.keys()):
        uri = channels.address(models, name, number)
        there = known.get(str(number))
        if there is None:
            there = server.create("model_versions", _version(found[number], uri, model))
            yield f"registered version {number} of {name}"
        if server.locate(there["id"], _artifact(found[number], name, uri)):
            yield f"registered where version {number} of {name} lies"
        if changed := _labelled(there, ours, found[number].channels):
            server.update(f"model_versions/{there['id']}", changed)
            yield f"labelled version {number} of {name}: {', '.join(found[number].channels) or 'no channel'}"
    for number in sorted(channels.removed(models, name) - found.keys()):
        there = known.get(str(number))
        if there is not None and there.get("state") != "ARCHIVED":
            server.update(f"model_versions/{there['id']}", {"state": "ARCHIVED", **_labelled(there, ours, ())})
            yield f"archived version {number} of {name}, which was removed"


def _version(version: Version, uri: str, model: str) -> dict[str, Any]:
    """A version as it is created."""
    try:
        record = storage.read_json(storage.join(uri, "version.json"))
    except FileNotFoundError:
        record = {}
    made = record.get("decision") or {}
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
        "description": str(made.get("summary", ""))[:_LONGEST],
        "state": "LIVE",
        "customProperties": {
            **{key: _text(str(value)) for key, value in texts.items() if value},
            **{key: _number(value) for key, value in numbers.items() if _finite(value)},
            **{channel: _text("") for channel in version.channels},
        },
    }


def _artifact(version: Version, name: str, uri: str) -> dict[str, Any]:
    """Where a version lies, and which run made it."""
    made = {"modelSourceKind": "kfp", "modelSourceClass": "pipelinerun", "modelSourceId": version.run}
    return {
        "artifactType": "model-artifact",
        "name": name,  # by which the official client looks for it
        "uri": uri,
        "modelFormatName": "tensorflow",
        "modelFormatVersion": "2",
        "state": "LIVE",
        **(made if version.run else {}),
    }


def _labelled(there: Mapping[str, Any], ours: set[str], named: tuple[str, ...]) -> dict[str, Any]:
    """The change that lets a version bear its channels as labels; empty where it does. Others' properties stay.

    A property without a value is what the registry's user interface shows as a label.
    """
    before = there.get("customProperties") or {}
    after = {key: value for key, value in before.items() if key not in ours} | {each: _text("") for each in named}
    return {"customProperties": after} if after != before else {}


def _text(value: str) -> dict[str, str]:
    return {"metadataType": "MetadataStringValue", "string_value": value}


def _number(value: float) -> dict[str, Any]:
    return {"metadataType": "MetadataDoubleValue", "double_value": float(value)}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _Server:
    """The registry's API, as far as it is needed here.

    Args:
        url: of the registry.
        until: the moment of `time.monotonic` at which the last answer has to be there.
    """

    def __init__(self, url: str, until: float) -> None:
        self._until = until
        token = _token(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        for self._base in [url.rstrip("/") + api for api in _APIS]:
            if self._ask("GET", "registered_models", missing=True, pageSize="1") is not None:
                return
        raise Refused("it knows neither v1 nor v1alpha3 of the API: is this its URL?")

    def model(self, name: str, uri: str) -> str:
        """The id of the registered model of a name, which is made where there is none."""
        found = self._ask("GET", "registered_model", missing=True, name=name)
        if found is None:
            words = "Scores portrait photos from 1 to 10 as people would."
            places = {"models": _text(uri)}
            found = self.create("registered_models", {"name": name, "description": words, "customProperties": places})
        return found["id"]

    def versions(self, model: str) -> dict[str, dict[str, Any]]:
        """Every version of a model, by name."""
        return {each["name"]: each for each in self._every(f"registered_models/{model}/versions")}

    def locate(self, version: str, artifact: dict[str, Any]) -> bool:
        """Say where a version lies; False where the registry knows.

        Raises:
            Refused: it knows another place.
        """
        path = f"model_versions/{version}/artifacts"
        there = [each for each in self._every(path) if each.get("artifactType") == "model-artifact"]
        if not there:
            self.create(path, artifact)
        elif other := next((each.get("uri") for each in there if each.get("uri") != artifact["uri"]), None):
            raise Refused(
                "two places of models share a name in it, publish one of them under another name: it knows this version"
                f" of {artifact['name']} at {other}, not at {artifact['uri']}"
            )
        return not there

    def create(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Create something; where another has just created it, everything is to be looked at again."""
        return self._ask("POST", path, content)

    def update(self, path: str, content: dict[str, Any]) -> None:
        """Change something."""
        self._ask("PATCH", path, content)

    def _every(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a paged list."""
        token: dict[str, str] = {}
        while True:
            page = self._ask("GET", path, pageSize=_PAGE, **token)
            yield from page.get("items") or []
            if not page.get("nextPageToken"):
                return
            token = {"nextPageToken": page["nextPageToken"]}

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, missing: bool = False, **query: str
    ) -> Any:
        """The registry's answer; None where it may be missing and is."""
        patience = min(_TIMEOUT, self._until - time.monotonic())
        if patience <= 0:
            raise Unreached(f"it took longer than {PATIENCE:.0f} s")
        try:
            answer = requests.request(
                method, self._base + path, params=query, json=body, headers=self._headers, timeout=patience,
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:  # whose text is long and holds memory addresses
            raise Unreached(f"it cannot be reached ({type(error).__name__})") from None
        if missing and answer.status_code == 404:
            return None
        if answer.status_code in (409, 429) or answer.status_code >= 500:
            raise Unreached(f"it answered {answer.status_code} to {method} {path}: {_words(answer)}")
        try:
            if not 200 <= answer.status_code < 300:
                raise Refused(f"it answered {answer.status_code} to {method} {path}: {_words(answer)}")
            return answer.json()
        except requests.JSONDecodeError:
            raise Refused(f"it answered {method} {path} with something else than JSON: is this its URL?") from None


def _words(answer: requests.Response) -> str:
    """What an answer says in its body, in short."""
    try:
        said = answer.json()
        said = said.get("message", said) if isinstance(said, dict) else said
    except requests.JSONDecodeError:
        said = answer.reason
    return " ".join(str(said).split())[:300]


def _token(url: str) -> str:
    """The token that was made for the registry at the URL; never in the clear."""
    named = url.rstrip("/") == os.environ.get(VARIABLE, "").rstrip("/")
    return os.environ.get(TOKEN, "") if named and url.startswith("https://") else ""
