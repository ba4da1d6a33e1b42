"""Nginx's configurations: the template ``nginx.conf`` with either of its servers, filled in from the settings.

Whom Nginx lets through it asks a worker (``/key``) before it reads a body, so that the rule stands in `middleware`
alone.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from images.serving import sockets
from images.serving.http.middleware import HEADERS, OPEN, OPEN_BELOW, refused
from images.serving.problem_details import AS_JSON, MEDIA, Problem, busy
from images.serving.process import arriving
from images.serving.settings import Settings

FRONT, INSIDE = "nginx-front", "nginx-inside"
"""The two servers, by the names of their files."""


def configuration(settings: Settings, name: str) -> str:
    """What Nginx is started with to be `FRONT` or `INSIDE`."""
    template, server = (
        Path(__file__).with_name(f"{each}.conf").read_text(encoding="utf-8") for each in ("nginx", name)
    )
    client = "$key" if settings.keys else "$binary_remote_addr"
    every = 2 * settings.workers * settings.queue
    values = {
        "user": "user root;" if os.geteuid() == 0 else "",  # else its worker could not read the run's folder
        "name": name,
        "run": settings.run,
        "grace": max(1, int(settings.grace)),
        "body": settings.body,
        "whole": 2 * settings.body,  # of one in chunks the lengths of these take room as well
        "arriving": sockets.arriving(settings.run),
        "arrived": sockets.arrived(settings.run),
        "seconds": max(1, int(settings.seconds)),
        "answer": max(1, int(2 * settings.seconds)),
        "workers": "\n        ".join(
            f'server "unix:{sockets.socket_of(settings.run, place)}" max_fails=0;' for place in range(settings.workers)
        ),
        "whoever": sockets.shared(settings.run),
        "listen": "\n        ".join(f"listen {address} backlog=2048;" for address in _addresses(settings)),
        "proxies": "\n    ".join(f"set_real_ip_from {proxy};" for proxy in settings.proxies),
        # A key that is refused costs no place: nobody can take those of another.
        "client": client,
        "connections": settings.connections,
        "every": every,
        "sockets": 4096 + 4 * every,  # of connections that wait for a request; and the four of each that is under way
        "origins": "\n        ".join(f'"{origin}" $http_origin;' for origin in settings.origins),
        "rate_zone": f"limit_req_zone {client} zone=rate:4m rate={settings.rate}r/s;" if settings.rate else "",
        "rate": f"limit_req zone=rate burst={settings.rate} nodelay;" if settings.rate else "",
        "key": "auth_request /key;" if settings.keys else "",
        "open": "|".join([*map(re.escape, OPEN), *(f"{re.escape(folder)}.*" for folder in OPEN_BELOW)]),
        "as_json": "|".join(AS_JSON),
        "late": arriving.LATE,
        "full": arriving.FULL,
        "errors": "\n".join(_errors(settings)),
    }
    return re.sub("<<([a-z_]+)>>", lambda match: str(values[match[1]]), template.replace("<<server>>", server))


def _addresses(settings: Settings) -> list[str]:
    if settings.host not in ("", "0.0.0.0", "::"):
        return [f"{settings.host}:{settings.port}"]
    return [f"{settings.port}", *([f"[::]:{settings.port}"] if Path("/proc/net/if_inet6").exists() else [])]


def _errors(settings: Settings) -> list[str]:
    """Where Nginx's own errors lead, each to a problem document as all others are, with the same headers."""
    seconds, body = settings.seconds, settings.body
    many = f"expected at most {settings.connections} requests at once" + (
        f" and {settings.rate} a second" if settings.rate else ""
    )
    problems = {
        "400 411": Problem(400, "bad-request", "expected a request of HTTP, got one that is broken"),
        "401": refused(),
        "404": Problem(404, "http", "there is nothing at this address: see /docs"),
        "405": Problem(405, "http", "this address takes another method: see /docs"),
        "408 598": Problem(408, "slow-body", f"expected the whole body within {seconds:g} s, got it more slowly"),
        "501 505": Problem(501, "http", "expected HTTP/1.0 or 1.1, and a body with its length or in chunks"),
        "413": Problem(
            413, "body-too-large",
            f"expected at most {body} bytes in a request, got more: send fewer or smaller photos", limit=body,
        ),
        "414 431 494": Problem(
            431, "headers-too-large", "expected an address and headers of at most 16 KiB each, got more"
        ),
        "429": busy(f"{many} from one client, got more"),
        "599": busy(f"expected room for this body, but requests of {arriving.room(settings)} bytes are under way"),
        "500 502 503 504": Problem(
            502, "worker-gone",
            "the worker that had this request is gone; another one takes its place: try again in 1 s",
            headers={"Retry-After": "1"},
        ),
    }  # fmt: skip
    allowed = {"Vary": "Origin", "Access-Control-Expose-Headers": "Retry-After"} if settings.origins else {}
    found = []
    for statuses, problem in problems.items():
        name = f"/problems/{statuses.split()[0]}"
        found += [f"        error_page {statuses} = {name}$as_json;", _page(name, problem, allowed)]
    return found


def _page(name: str, problem: Problem, more: Mapping[str, str]) -> str:
    """One of Nginx's pages, which no client can ask for."""
    headers = {**HEADERS, "Cache-Control": "no-store", **more, **problem.headers}
    for name_of_its_own in ("Connection", "WWW-Authenticate"):  # Nginx adds it, and takes it from the worker
        headers.pop(name_of_its_own, None)
    lines = [
        "types { application/json json; }",
        f"default_type {MEDIA};",
        *_add(headers),
        "add_header Access-Control-Allow-Origin $origin always;",
    ]
    lines = [*lines, f"return {problem.status} {_quoted(_text(problem))};"]
    return "\n            ".join([f'        location ~ "^{name}(?:[.]json)?$" {{', "internal;", *lines]) + "\n        }"


def _add(headers: Mapping[str, str]) -> list[str]:
    return [f"add_header {name} {_quoted(value)} always;" for name, value in headers.items()]


def _text(problem: Problem) -> str:
    return json.dumps(problem.document(), separators=(",", ":"))


def _quoted(text: str) -> str:
    """A text as Nginx reads it; ``$`` could not be told from a variable."""
    assert "$" not in text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
