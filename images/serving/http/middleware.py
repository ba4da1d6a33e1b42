"""Security middleware: checks key and host, adds security headers, counts, times and logs every request."""

import hashlib
import hmac
import ipaddress
import re
import time
from fnmatch import fnmatchcase

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from images.serving import json_log
from images.serving.http.request_body import BodyBudget
from images.serving.problem_details import JSON_PROBLEM_PREFIXES, MEDIA_TYPE, ProblemDetails
from images.serving.prometheus_metrics import ServerMetrics
from images.serving.settings import ServerSettings

PATHS_WITHOUT_KEY = ("/live", "/ready", "/ping", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/openapi.json")
"""Paths that need no key: an orchestrator's probes, and pages without any user's data."""

PREFIXES_WITHOUT_KEY = ("/desk/", "/docs/")
"""Path prefixes that need no key."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Security headers of every response, for browsers."""

_ENCODED_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_NO_STORE = (b"cache-control", b"no-store")
_PROBLEM_CONTENT_TYPE, _JSON_CONTENT_TYPE = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"content-type", b"application/json"),
)
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".svc")  # suffixes that nobody can register in public DNS


class SecurityMiddleware:
    """ASGI middleware for keys, hosts, headers, metrics and the access log."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: ServerMetrics, body_budget: BodyBudget) -> None:
        """Wrap an ASGI application.

        Args:
            app: Next ASGI application.
            settings: Settings of the server.
            metrics: Metrics that count the requests.
            body_budget: Byte budget of bodies. A request's bytes are released when the request ends.
        """
        self._app, self._settings, self._metrics, self._body_budget = app, settings, metrics, body_budget
        self._keys = [bytes.fromhex(digest) for digest in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] == "HEAD":  # handled as GET; the HTTP server drops the body
            scope = {**scope, "method": "GET"}
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.extend(_ENCODED_HEADERS)
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                if _PROBLEM_CONTENT_TYPE in headers and scope["path"].startswith(JSON_PROBLEM_PREFIXES):
                    headers[headers.index(_PROBLEM_CONTENT_TYPE)] = _JSON_CONTENT_TYPE
            await send(message)

        self._metrics.requests_in_flight.inc()
        try:
            if refusal := self._refusal(scope):
                return await refusal.to_response()(scope, receive, sending)
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499  # Nginx's status for a client that closed the connection
        except Exception as error:
            json_log.log_event(
                "error",
                level="error",
                route=_route(scope),
                error=type(error).__name__,
                where=json_log.error_frames(error),
            )
            if status:
                raise
            problem = ProblemDetails(500, "server", "the server failed on this request; its log says where")
            await problem.to_response()(scope, receive, sending)
        finally:
            took = time.perf_counter() - began
            self._body_budget.release(scope)
            self._metrics.requests_in_flight.dec()
            self._metrics.count_request(_route(scope), status, took)
            if self._settings.access:
                facts = {"method": scope["method"], "status": status, "milliseconds": round(1000 * took, 1)}
                json_log.log_event("request", route=_route(scope), **facts)
        return None

    def _refusal(self, scope: Scope) -> ProblemDetails | None:
        """Return the problem that refuses a request: 421 or 401. None if the request may pass."""
        if (
            scope["method"] == "OPTIONS"
            or scope["path"] in PATHS_WITHOUT_KEY
            or scope["path"].startswith(PREFIXES_WITHOUT_KEY)
        ):
            return None
        headers = dict(scope["headers"])
        if not self._is_accepted_host(headers.get(b"host", b"").decode("latin-1")):
            self._metrics.refused["host"].inc()
            return ProblemDetails(
                421, "host", "expected a host that this server is known by, got another: name it by --hosts"
            )
        if self._keys and not self._has_key(headers):
            self._metrics.refused["key"].inc()
            return key_problem()
        return None

    def _is_accepted_host(self, host: str) -> bool:
        """Return whether the server accepts a Host header.

        The check prevents DNS rebinding. A malicious page can point its own domain name at this server's address, and
        a browser then treats the page and the server as one origin. Without keys, the page could use the server.

        If `ServerSettings.hosts` is set, only its names are accepted. Otherwise, if keys are set, any name is accepted.
        Otherwise only IP addresses and names that no stranger can own are accepted.
        """
        name = re.sub(r":\d*$", "", host).lower().rstrip(".")
        if self._settings.hosts:
            return any(fnmatchcase(name, pattern.lower()) for pattern in self._settings.hosts)
        if self._keys or "." not in name or name.endswith(_PRIVATE_SUFFIXES):
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name.startswith("[")  # an IPv6 address

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request has a known key, as X-API-Key or as a bearer token."""
        key = headers.get(b"x-api-key", b"").strip()
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if not key and scheme.lower() == b"bearer":
            key = token.strip()
        digest = hashlib.sha256(key).digest()
        # Every key is compared, each in constant time, so the time does not depend on the key sent.
        return bool(key) and sum(hmac.compare_digest(digest, known_digest) for known_digest in self._keys) > 0


def key_problem() -> ProblemDetails:
    """Return problem 401 for a missing or an unknown key."""
    detail = "expected a key as 'Authorization: Bearer …' or 'X-API-Key: …', got none that is known"
    return ProblemDetails(401, "key", detail, headers={"WWW-Authenticate": "Bearer", "Connection": "close"})


def _route(scope: Scope) -> str:
    """Return the route's path pattern, without any value that the client sent. "none" if no route matched."""
    return getattr(scope.get("route"), "path", "") or "none"
