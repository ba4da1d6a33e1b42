"""Nginx's configurations: the template ``nginx.conf`` with one of its two servers, filled in from the settings.

Before Nginx reads a body, it asks a worker (``/key``) whether the request may pass. The rule for keys therefore exists
in `middleware` only.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from images.serving import sockets
from images.serving.http.middleware import PATHS_WITHOUT_KEY, PREFIXES_WITHOUT_KEY, SECURITY_HEADERS, key_problem
from images.serving.problem_details import JSON_PROBLEM_PREFIXES, MEDIA_TYPE, ProblemDetails, busy_problem
from images.serving.process import arriving
from images.serving.settings import ServerSettings

FRONT, INSIDE = "nginx-front", "nginx-inside"
"""The two servers of Nginx, named like their template files."""


def configuration(settings: ServerSettings, name: str) -> str:
    """Return the configuration of one of Nginx's servers.

    Args:
        settings: Settings of the server.
        name: `FRONT` or `INSIDE`.
    """
    template, server = (
        Path(__file__).with_name(f"{template_name}.conf").read_text(encoding="utf-8")
        for template_name in ("nginx", name)
    )
    client_key = "$key" if settings.keys else "$binary_remote_addr"
    max_requests = 2 * settings.workers * settings.queue
    values = {
        "user": "user root;" if os.geteuid() == 0 else "",  # else Nginx's worker could not read the run's folder
        "name": name,
        "run": settings.run,
        "grace": max(1, int(settings.grace)),
        "body": settings.body,
        "whole": 2 * settings.body,  # twice, because a chunked body includes the lengths of its chunks
        "arriving": sockets.relay_socket(settings.run),
        "arrived": sockets.inside_socket(settings.run),
        "seconds": max(1, int(settings.seconds)),
        "answer": max(1, int(2 * settings.seconds)),
        "workers": "\n        ".join(
            f'server "unix:{sockets.worker_socket(settings.run, index)}" max_fails=0;'
            for index in range(settings.workers)
        ),
        "whoever": sockets.shared_socket(settings.run),
        "listen": "\n        ".join(f"listen {address} backlog=2048;" for address in _addresses(settings)),
        "proxies": "\n    ".join(f"set_real_ip_from {proxy};" for proxy in settings.proxies),
        # Counted by key, requests with a refused key cannot use up the limit of another client.
        "client": client_key,
        "connections": settings.connections,
        "every": max_requests,
        "sockets": 4096 + 4 * max_requests,  # idle connections, and four connections for each request under way
        "origins": "\n        ".join(f'"{origin}" $http_origin;' for origin in settings.origins),
        "rate_zone": f"limit_req_zone {client_key} zone=rate:4m rate={settings.rate}r/s;" if settings.rate else "",
        "rate": f"limit_req zone=rate burst={settings.rate} nodelay;" if settings.rate else "",
        "key": "auth_request /key;" if settings.keys else "",
        "open": "|".join(
            [*map(re.escape, PATHS_WITHOUT_KEY), *(f"{re.escape(folder)}.*" for folder in PREFIXES_WITHOUT_KEY)]
        ),
        "as_json": "|".join(JSON_PROBLEM_PREFIXES),
        "late": arriving.LATE_LOCATION,
        "full": arriving.FULL_LOCATION,
        "errors": "\n".join(_error_pages(settings)),
    }
    return re.sub("<<([a-z_]+)>>", lambda match: str(values[match[1]]), template.replace("<<server>>", server))


def _addresses(settings: ServerSettings) -> list[str]:
    if settings.host not in ("", "0.0.0.0", "::"):
        return [f"{settings.host}:{settings.port}"]
    return [f"{settings.port}", *([f"[::]:{settings.port}"] if Path("/proc/net/if_inet6").exists() else [])]


def _error_pages(settings: ServerSettings) -> list[str]:
    """Return the lines that replace Nginx's own error pages by problem documents with the server's headers."""
    seconds, body = settings.seconds, settings.body
    rate_limit = f"expected at most {settings.connections} requests at once" + (
        f" and {settings.rate} a second" if settings.rate else ""
    )
    problems = {
        "400 411": ProblemDetails(400, "bad-request", "expected a request of HTTP, got one that is broken"),
        "401": key_problem(),
        "404": ProblemDetails(404, "http", "there is nothing at this address: see /docs"),
        "405": ProblemDetails(405, "http", "this address takes another method: see /docs"),
        "408 598": ProblemDetails(
            408, "slow-body", f"expected the whole body within {seconds:g} s, got it more slowly"
        ),
        "501 505": ProblemDetails(501, "http", "expected HTTP/1.0 or 1.1, and a body with its length or in chunks"),
        "413": ProblemDetails(
            413, "body-too-large",
            f"expected at most {body} bytes in a request, got more: send fewer or smaller photos", limit=body,
        ),
        "414 431 494": ProblemDetails(
            431, "headers-too-large", "expected an address and headers of at most 16 KiB each, got more"
        ),
        "429": busy_problem(f"{rate_limit} from one client, got more"),
        "599": busy_problem(
            f"expected room for this body, but requests of {arriving.total_body_budget(settings)} bytes are under way"
        ),
        "500 502 503 504": ProblemDetails(
            502, "worker-gone",
            "the worker that had this request is gone; another one takes its place: try again in 1 s",
            headers={"Retry-After": "1"},
        ),
    }  # fmt: skip
    cors_headers = {"Vary": "Origin", "Access-Control-Expose-Headers": "Retry-After"} if settings.origins else {}
    lines = []
    for statuses, problem in problems.items():
        name = f"/problems/{statuses.split()[0]}"
        lines += [f"        error_page {statuses} = {name}$as_json;", _error_location(name, problem, cors_headers)]
    return lines


def _error_location(name: str, problem: ProblemDetails, extra_headers: Mapping[str, str]) -> str:
    """Return the internal location of an error page. Clients cannot request the location."""
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-store", **extra_headers, **problem.headers}
    for header in ("Connection", "WWW-Authenticate"):  # Nginx adds Connection, a worker WWW-Authenticate
        headers.pop(header, None)
    lines = [
        "types { application/json json; }",
        f"default_type {MEDIA_TYPE};",
        *_add_header_lines(headers),
        "add_header Access-Control-Allow-Origin $origin always;",
    ]
    lines = [*lines, f"return {problem.status} {_quote(_problem_json(problem))};"]
    return "\n            ".join([f'        location ~ "^{name}(?:[.]json)?$" {{', "internal;", *lines]) + "\n        }"


def _add_header_lines(headers: Mapping[str, str]) -> list[str]:
    return [f"add_header {name} {_quote(value)} always;" for name, value in headers.items()]


def _problem_json(problem: ProblemDetails) -> str:
    return json.dumps(problem.to_document(), separators=(",", ":"))


def _quote(text: str) -> str:
    """Return a text quoted for Nginx's configuration. The text must not contain ``$``, which begins a variable."""
    assert "$" not in text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
