"""Around every request: the key, the host, the headers, the time it takes, and what is counted and logged of it."""

import hashlib
import hmac
import ipaddress
import re
import time
from fnmatch import fnmatchcase
from typing import Any

from starlette.requests import ClientDisconnect

from images.serving import json_log
from images.serving.http.request_body import Room
from images.serving.problem_details import AS_JSON, MEDIA, Problem
from images.serving.prometheus_metrics import Metrics
from images.serving.settings import Settings

OPEN = ("/live", "/ready", "/ping", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/openapi.json")
"""Addresses that need no key: an orchestrator's probes, and pages that hold nothing of anybody."""

OPEN_BELOW = ("/desk/", "/docs/")
"""Where addresses that begin so need none either."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Of every answer: they keep browsers in check."""

_ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_NO_STORE = (b"cache-control", b"no-store")
_PROBLEM, _JSON = (b"content-type", MEDIA.encode()), (b"content-type", b"application/json")
_PRIVATE = (".local", ".localhost", ".internal", ".svc")  # no stranger can own a name that ends so


class Guard:
    """ASGI middleware, the outermost of ours."""

    def __init__(self, app: Any, settings: Settings, metrics: Metrics, room: Room) -> None:
        """Stands before ``app``; gives back what a request has taken of the room for bodies."""
        self._app, self._settings, self._metrics, self._room = app, settings, metrics, room
        self._keys = [bytes.fromhex(digest) for digest in settings.keys]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] == "HEAD":  # as GET; what stands before all of this leaves the content away
            scope = {**scope, "method": "GET"}
        began, status = time.perf_counter(), 0

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.extend(_ENCODED)
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                if _PROBLEM in headers and scope["path"].startswith(AS_JSON):
                    headers[headers.index(_PROBLEM)] = _JSON
            await send(message)

        self._metrics.in_flight.inc()
        try:
            if refusal := self._refusal(scope):
                return await refusal.answer()(scope, receive, sending)
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499  # Nginx's number for a client that went away
        except Exception as error:
            json_log.event(
                "error", level="error", route=_route(scope), error=type(error).__name__, where=json_log.where(error)
            )
            if status:
                raise
            problem = Problem(500, "server", "the server failed on this request; its log says where")
            await problem.answer()(scope, receive, sending)
        finally:
            took = time.perf_counter() - began
            self._room.give_back(scope)
            self._metrics.in_flight.dec()
            self._metrics.request(_route(scope), status, took)
            if self._settings.access:
                facts = {"method": scope["method"], "status": status, "milliseconds": round(1000 * took, 1)}
                json_log.event("request", route=_route(scope), **facts)
        return None

    def _refusal(self, scope: dict[str, Any]) -> Problem | None:
        """Why a request may not pass; None where it may."""
        if scope["method"] == "OPTIONS" or scope["path"] in OPEN or scope["path"].startswith(OPEN_BELOW):
            return None
        headers = dict(scope["headers"])
        if not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            self._metrics.refused["host"].inc()
            return Problem(421, "host", "expected a host that this server is known by, got another: name it by --hosts")
        if self._keys and not self._has_key(headers):
            self._metrics.refused["key"].inc()
            return refused()
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether the server may be known by the name of a host.

        A stranger's page can let a name of its own mean this server's address, and a browser would then take the page
        and the server for one. Where no key is asked for, that is all it needs. So a name is taken that is listed, or
        else one that no stranger can own.
        """
        name = re.sub(r":\d*$", "", host).lower().rstrip(".")
        if self._settings.hosts:
            return any(fnmatchcase(name, pattern.lower()) for pattern in self._settings.hosts)
        if self._keys or "." not in name or name.endswith(_PRIVATE):
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name.startswith("[")  # an address of version 6

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request brings a key that is known."""
        given = headers.get(b"x-api-key", b"").strip()
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if not given and scheme.lower() == b"bearer":
            given = token.strip()
        digest = hashlib.sha256(given).digest()
        # All of them are compared, each in constant time: how long it takes tells nothing.
        return bool(given) and sum(hmac.compare_digest(digest, key) for key in self._keys) > 0


def refused() -> Problem:
    """No key, or one that is not known."""
    detail = "expected a key as 'Authorization: Bearer …' or 'X-API-Key: …', got none that is known"
    return Problem(401, "key", detail, headers={"WWW-Authenticate": "Bearer", "Connection": "close"})


def _route(scope: dict[str, Any]) -> str:
    """The address's pattern: never what the client put into it."""
    return getattr(scope.get("route"), "path", "") or "none"
