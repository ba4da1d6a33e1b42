"""Nginx's configuration: the template ``nginx.conf``, filled in from the settings.

Whom Nginx lets through it asks a worker (``/key``) before it reads a body, so that the rule stands in `guard` alone.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from images.serving import places
from images.serving.guard import HEADERS, OPEN, OPEN_BELOW, refused
from images.serving.problems import MEDIA, Problem, busy
from images.serving.settings import Settings

TEMPLATE = Path(__file__).with_name("nginx.conf")


def configuration(settings: Settings) -> str:
    """What Nginx is started with."""
    client = "$key" if settings.keys else "$binary_remote_addr"
    values = {
        "user": "user root;" if os.geteuid() == 0 else "",  # else its worker could not read the run's folder
        "run": settings.run,
        "grace": max(1, int(settings.grace)),
        "body": settings.body,
        "seconds": max(1, int(settings.seconds)),
        "answer": max(1, int(2 * settings.seconds)),
        "workers": "\n        ".join(
            f'server "unix:{places.socket_of(settings.run, place)}" max_fails=0;' for place in range(settings.workers)
        ),
        "listen": "\n        ".join(f"listen {address} backlog=2048;" for address in _addresses(settings)),
        "proxies": "\n    ".join(f"set_real_ip_from {proxy};" for proxy in settings.proxies),
        # A key that is refused costs no place: nobody can take those of another.
        "client": client,
        "connections": settings.connections,
        "every": 2 * settings.workers * settings.queue,
        "origins": "\n        ".join(f'"{origin}" $http_origin;' for origin in settings.origins),
        "rate_zone": f"limit_req_zone {client} zone=rate:4m rate={settings.rate}r/s;" if settings.rate else "",
        "rate": f"limit_req zone=rate burst={settings.rate} nodelay;" if settings.rate else "",
        "key": "auth_request /key;" if settings.keys else "",
        "open": "|".join([*map(re.escape, OPEN), *(f"{re.escape(folder)}.*" for folder in OPEN_BELOW)]),
        "errors": "\n".join(_errors(settings)),
    }
    return re.sub("<<([a-z_]+)>>", lambda match: str(values[match[1]]), TEMPLATE.read_text(encoding="utf-8"))


def _addresses(settings: Settings) -> list[str]:
    if settings.host not in ("", "0.0.0.0", "::"):
        return [f"{settings.host}:{settings.port}"]
    return [f"{settings.port}", *([f"[::]:{settings.port}"] if Path("/proc/net/if_inet6").exists() else [])]


def _errors(settings: Settings) -> list[str]:
    """Where Nginx's own errors lead, each to a problem document as all others are, with the same headers."""
    seconds, body = max(1, int(settings.seconds)), settings.body
    many = f"expected at most {settings.connections} requests at once" + (
        f" and {settings.rate} a second" if settings.rate else ""
    )
    problems = {
        "400 411": Problem(400, "bad-request", "expected a request of HTTP, got one that is broken"),
        "401": refused(),
        "404": Problem(404, "http", "there is nothing at this address: see /docs"),
        "405": Problem(405, "http", "this address takes another method: see /docs"),
        "408": Problem(408, "slow-body", f"expected the body to go on arriving, got nothing for {seconds} s"),
        "501 505": Problem(501, "http", "expected HTTP/1.0 or 1.1, and a body with its length or in chunks"),
        "413": Problem(
            413, "body-too-large",
            f"expected at most {body} bytes in a request, got more: send fewer or smaller photos", limit=body,
        ),
        "414 431 494": Problem(
            431, "headers-too-large", "expected an address and headers of at most 16 KiB each, got more"
        ),
        "429": busy(f"{many} from one client, got more"),
        "500 502 503 504": Problem(
            502, "worker-gone",
            "the worker that had this request is gone; another one takes its place: try again in 1 s",
            headers={"Retry-After": "1"},
        ),
    }  # fmt: skip
    places = []
    for statuses, problem in problems.items():
        name = f"/problems/{problem.status}"
        headers = {**HEADERS, "Cache-Control": "no-store", **problem.headers}
        for name_of_its_own in ("Connection", "WWW-Authenticate"):  # Nginx adds it, and takes it from the worker
            headers.pop(name_of_its_own, None)
        lines = [f"default_type {MEDIA};", *_add(headers), "add_header Access-Control-Allow-Origin $origin always;"]
        lines = [*lines, f"return {problem.status} {_quoted(_text(problem))};"]
        places.append(f"        error_page {statuses} = {name};")
        places.append("\n            ".join([f"        location = {name} {{", "internal;", *lines]) + "\n        }")
    return places


def _add(headers: Mapping[str, str]) -> list[str]:
    return [f"add_header {name} {_quoted(value)} always;" for name, value in headers.items()]


def _text(problem: Problem) -> str:
    return json.dumps(problem.document(), separators=(",", ":"))


def _quoted(text: str) -> str:
    """A text as Nginx reads it; ``$`` could not be told from a variable."""
    assert "$" not in text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
