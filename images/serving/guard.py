"""Around every request: the key, the headers, the time it takes, and what is counted and logged of it."""

import hashlib
import hmac
import time
from typing import Any

from starlette.requests import ClientDisconnect

from images.serving import log
from images.serving.bodies import Room
from images.serving.metrics import Metrics
from images.serving.problems import Problem
from images.serving.settings import Settings

OPEN = ("/live", "/ready", "/ping", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/openapi.json")
"""Addresses that need no key: an orchestrator's probes, and pages that hold nothing of anybody."""

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        b" manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
_NO_STORE = (b"cache-control", b"no-store")


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
        began, status = time.perf_counter(), 0

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.extend(_HEADERS)
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            if self._keys and not self._may_pass(scope):
                self._metrics.refused["key"].inc()
                refusal = Problem(
                    401,
                    "key",
                    "expected a key as 'Authorization: Bearer …' or 'X-API-Key: …', got none that is known",
                    headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
                )
                return await refusal.answer()(scope, receive, sending)
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499  # Nginx's number for a client that went away
        except Exception as error:
            log.event("error", level="error", route=_route(scope), error=type(error).__name__, where=log.where(error))
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
                log.event("request", route=_route(scope), **facts)
        return None

    def _may_pass(self, scope: dict[str, Any]) -> bool:
        """Whether the address needs no key, or the request brings one that is known."""
        if scope["path"] in OPEN or scope["path"].startswith(("/desk/", "/docs/")):
            return True
        headers = dict(scope["headers"])
        given = headers.get(b"x-api-key", b"").strip()
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if not given and scheme.lower() == b"bearer":
            given = token.strip()
        digest = hashlib.sha256(given).digest()
        # All of them are compared, each in constant time: how long it takes tells nothing.
        return bool(given) and sum(hmac.compare_digest(digest, key) for key in self._keys) > 0


def _route(scope: dict[str, Any]) -> str:
    """The address's pattern: never what the client put into it."""
    return getattr(scope.get("route"), "path", "") or "none"
