"""Every setting of the server, once, with its origin; each is an option and an environment variable too."""

import hashlib
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from components.scorer.run.environment import without_services

PREFIX = "SCORER_"
"""Before the setting's name in capitals: ``SCORER_MODEL``, ``SCORER_QUEUE``, …"""

METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client knows the folder that all workers write to."""

DRAINING = "draining"
"""The file in the run's folder by which the workers are told that the end is near."""

_DIGEST = "sha256:"


def cores() -> int:
    """Cores that this process may use: of the machine, and of its container where that is held to fewer."""
    own = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(own, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such limit, or one of an older kernel
        return own


@dataclass(frozen=True)
class Settings:
    """How the server runs."""

    model: str = ""  # a version's folder, a model's, or that of all models; local, gs:// or s3://
    channel: str = "champion"  # followed; the pipeline moves it (components.scorer.registry.channels)
    version: int = 0  # served for good instead of a channel; 0: the channel is followed
    interval: float = 10.0  # seconds between two looks at the channel: a switch then takes no longer than a rollout
    host: str = "0.0.0.0"
    port: int = 8080  # that SageMaker asks, and that needs no root
    metrics_port: int = 0  # at which the metrics are told without a key, for Prometheus alone; 0: none
    workers: int = 0  # processes; 0: one a core. A second one on a core gains nothing, for all of them compute
    threads: int = 2  # that decode, in each worker: one decodes while the other reads or waits for the lock
    # Photos in a call of the network. LiteRT gains nothing from more (5.0 ms each of one, 5.1 of four), but one call
    # instead of four spares three changes of thread; with more, the first photo waits for the last.
    batch: int = 4
    deadline: float = 0.002  # seconds that a photo waits for others, only while others are being decoded
    queue: int = 64  # photos under way in a worker; at 80 a second the last one waits for less than a second
    photos: int = 32  # in a request; half of the queue, so that one request never fills it
    body: int = 32 * 2**20  # bytes of a request: ten photos of a phone's 3 MB; SageMaker passes on 25 MB at most
    # Bytes of bodies in a worker, and in Nginx for each worker: four of the largest; more would crowd out the network.
    held: int = 4 * 32 * 2**20
    pixels: int = 50_000_000  # of a photo, as large as phones take them; a version's own limit may be lower
    seconds: float = 30.0  # for a body to arrive, and for a photo to wait
    advising: int = 4  # requests for advice under way in a worker, each up to two seconds; they are answered in turn
    keys: tuple[str, ...] = ()  # SHA-256 of the keys of which one is asked for; none: everybody is answered
    # Names by which the server may be asked, with * for any part. None: where a key is asked for, all; else addresses,
    # names without a dot, and those that end in .local, .localhost, .internal or .svc.
    hosts: tuple[str, ...] = ()
    # Whose pages may ask from a browser, as in https://market.example; the server's own need not be named.
    origins: tuple[str, ...] = ()
    # By Nginx, for each key, or for each address where none is asked for:
    connections: int = 64  # requests at once, as many as photos in a worker's queue
    rate: int = 0  # requests a second, and as many at once; 0: as many as come
    proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For tells the address; else all of them are one client
    drain: float = 2.0  # seconds between "not ready" and the end of listening: what a load balancer needs to notice
    grace: float = 25.0  # seconds for requests in flight after that; Kubernetes kills after 30
    folder: str = "/tmp/portrait-scorer"  # of fetched versions and of `run`: all that is written but metrics
    run: str = ""  # folder of one start's sockets and metrics, made by it
    nginx: bool = True  # before Gunicorn, where it is installed
    access: bool = False  # one line a request in the log: method, route, status, time


def from_environment(environment: Mapping[str, str] = os.environ, **given: Any) -> Settings:
    """Settings from given values, else from the environment, else the defaults.

    Args:
        environment: holds ``SCORER_<NAME>``; ``SCORER_KEYS`` is a list of keys or ``sha256:…`` divided by commas, and
            ``SCORER_KEYS_FILE`` names a file of one a line.
        **given: values by name; None is no value.

    Raises:
        ValueError: a value is out of its type or range; the message says what was expected and what came.
        OSError: the file of keys cannot be read.
    """
    environment = without_services(environment)
    texts = {
        each.name: environment[PREFIX + each.name.upper()]
        for each in fields(Settings)
        if environment.get(PREFIX + each.name.upper(), "") != ""
    }
    texts |= {name: str(value) for name, value in given.items() if value is not None}
    hints = get_type_hints(Settings)
    values = {name: _parsed(name, text, hints[name]) for name, text in texts.items()}
    values.setdefault("keys", ())
    if file := environment.get(PREFIX + "KEYS_FILE"):
        values["keys"] += digests(Path(file).read_text(encoding="utf-8").splitlines())
        if not values["keys"]:
            raise ValueError(f"expected keys, one a line, in the file that {PREFIX}KEYS_FILE names, found none")
    settings = Settings(**values)
    return replace(settings, workers=settings.workers or cores())


def to_environment(settings: Settings) -> dict[str, str]:
    """The environment from which `from_environment` makes the same settings; keys only as their digests."""
    values = {each.name: getattr(settings, each.name) for each in fields(settings)}
    values["keys"] = tuple(_DIGEST + digest for digest in settings.keys)
    values |= {name: int(value) for name, value in values.items() if isinstance(value, bool)}
    values |= {name: ",".join(value) for name, value in values.items() if isinstance(value, tuple)}
    return {PREFIX + name.upper(): str(value) for name, value in values.items()}


def digests(keys: Any) -> tuple[str, ...]:
    """SHA-256 of each key, as hexadecimal digits; a key may be given as ``sha256:…`` of it. Empty ones are left out.

    Raises:
        ValueError: what follows ``sha256:`` is no such digest.
    """
    found = []
    for key in filter(None, (key.strip() for key in keys)):
        digest = (
            key.removeprefix(_DIGEST).lower() if key.startswith(_DIGEST) else hashlib.sha256(key.encode()).hexdigest()
        )
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"expected 64 hexadecimal digits after {_DIGEST}, got {len(digest)} characters")
        found.append(digest)
    return tuple(found)


def _hosts(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[\w.*:\[\]-]+", name):
            raise ValueError(f"hosts must be names as in scorer.example.com or *.example.com, got {name!r}")
    return tuple(names)


def _origins(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"https?://[\w.\[\]:-]+", text):
            raise ValueError(f"origins must be as in https://market.example, without a path, got {text!r}")
    return tuple(texts)


def _networks(texts: list[str]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(text, strict=False)) for text in texts)
    except ValueError as error:
        raise ValueError(f"proxies must be addresses or networks as in 10.0.0.0/8: {error}") from None


_LISTS = {"keys": digests, "hosts": _hosts, "origins": _origins, "proxies": _networks}

_RANGES = {
    "version": (0, 2**31 - 1), "interval": (0.05, 86_400), "port": (1, 65_535),
    "metrics_port": (0, 65_535), "workers": (0, 1024),
    "threads": (1, 64), "batch": (1, 256), "deadline": (0, 1), "queue": (1, 100_000), "photos": (1, 10_000),
    "body": (1024, 2**31 - 1), "held": (1024, 2**36), "pixels": (10_000, 178_956_970),
    "seconds": (0.1, 3600), "advising": (1, 1000), "drain": (0, 600), "grace": (0, 3600),
    "connections": (1, 2048), "rate": (0, 100_000),
}  # fmt: skip


def _parsed(name: str, text: str, kind: type) -> Any:
    """A setting's value from its text."""
    if kind is str:
        return text
    if kind == tuple[str, ...]:
        return _LISTS[name]([part for part in (part.strip() for part in text.split(",")) if part])
    if kind is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return words[text.lower()]
    low, high = _RANGES[name]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise ValueError(
            f"{name} must be {'a whole number' if kind is int else 'a number'} from {low} to {high}, got {text!r}"
        )
    return value
