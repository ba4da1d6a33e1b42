"""Settings of the server: defaults with reasons. Each is also a command line option and an environment variable."""

import hashlib
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from components.scorer.run.environment import without_service_addresses

VARIABLE_PREFIX = "SCORER_"
"""Prefix of the settings' environment variables: ``SCORER_MODEL``, ``SCORER_QUEUE``, …"""

METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder of the workers' metrics files, read by prometheus_client."""

DRAINING_FILE = "draining"
"""Name of the file in the run's folder that tells the workers that the server is shutting down."""

_DIGEST_PREFIX = "sha256:"


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use: its affinity or its cgroup's quota, if that is less."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(available, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no quota, or cgroup v1
        return available


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the server."""

    model: str = ""  # folder of a version, of a model, or of all models; local, gs:// or s3://
    channel: str = "champion"  # channel to follow; the pipeline moves it (components.scorer.registry.channels)
    version: int = 0  # fixed version to serve; 0 follows the channel
    interval: float = 10.0  # seconds between two polls of the channel: a switch takes no longer than a rollout
    host: str = "0.0.0.0"  # address to listen at
    port: int = 8080  # port to listen at: SageMaker requires 8080, which needs no root
    metrics_port: int = 0  # extra port for /metrics without a key, only for Prometheus; 0 disables it
    workers: int = 0  # worker processes; 0 means one for each core. More gain nothing, because all of them compute
    threads: int = 2  # decoding threads of a worker: one decodes while the other reads or waits for the lock
    # Batch size of the network, at most. LiteRT gains nothing from larger batches (5.0 ms a photo alone, 5.1 in four),
    # but one call instead of four saves three changes of thread. In larger batches, the first photo waits for the last.
    batch: int = 4
    deadline: float = 0.002  # seconds that a decoded photo waits for a batch, only while others are being decoded
    queue: int = 64  # photos under way in a worker, at most; at 80 a second the last waits for less than a second
    photos: int = 32  # photos in a request, at most; half of the queue, so that one request never fills it
    body: int = 32 * 2**20  # bytes of a request, at most: ten phone photos of 3 MB; SageMaker passes 25 MB at most
    # Byte budget of the bodies in a worker, and in Nginx for each worker: four of the largest bodies. More would leave
    # too little memory for the network.
    held: int = 4 * 32 * 2**20
    pixels: int = 50_000_000  # pixels of a photo, at most, as large as phone photos; a version may have a lower limit
    seconds: float = 30.0  # seconds for a body to arrive, and for a photo to wait for its turn
    advising: int = 4  # requests for advice under way in a worker, at most; each takes up to 2 s, one after another
    keys: tuple[str, ...] = ()  # SHA-256 digests of the accepted keys; empty means that no key is needed
    # Accepted host names, with * for any part. Empty: with keys, all names; without keys, addresses, names without a
    # dot, and names that end in .local, .localhost, .internal or .svc.
    hosts: tuple[str, ...] = ()
    # CORS origins whose pages may send requests, such as https://market.example. The server's own need not be listed.
    origins: tuple[str, ...] = ()
    # Nginx's limits for each client: a key, or an address if the server has no keys.
    connections: int = 64  # concurrent requests, at most; as many as the photos of a worker's queue
    rate: int = 0  # requests a second, and burst size; 0 means unlimited
    proxies: tuple[str, ...] = ()  # trusted proxies for X-Forwarded-For; other proxies count as one client
    drain: float = 2.0  # seconds between "not ready" and the end of listening: a load balancer needs them to notice
    grace: float = 25.0  # seconds for requests in flight after that; Kubernetes kills after 30
    folder: str = "/tmp/portrait-scorer"  # folder of fetched versions and of `run`: all written files except metrics
    run: str = ""  # folder of one run's sockets and metrics; the supervisor creates it
    nginx: bool = True  # start Nginx in front of Gunicorn if Nginx is installed
    access: bool = False  # write one log line for each request: method, route, status, time


def from_environment(environment: Mapping[str, str] = os.environ, **overrides: Any) -> ServerSettings:
    """Return the settings from the keyword arguments, else from the environment, else the defaults.

    Args:
        environment: Environment with variables ``SCORER_<NAME>``. ``SCORER_KEYS`` is a comma-separated list of keys or
            of digests ``sha256:…``. ``SCORER_KEYS_FILE`` names a file with one key or digest a line.
        **overrides: Values by setting's name. None means no value.

    Raises:
        ValueError: A value has the wrong type or is out of range. The message says what was expected and what came.
        OSError: The file of keys cannot be read.
    """
    environment = without_service_addresses(environment)
    texts = {
        setting.name: environment[VARIABLE_PREFIX + setting.name.upper()]
        for setting in fields(ServerSettings)
        if environment.get(VARIABLE_PREFIX + setting.name.upper(), "") != ""
    }
    texts |= {name: str(value) for name, value in overrides.items() if value is not None}
    hints = get_type_hints(ServerSettings)
    values = {name: _parse_value(name, text, hints[name]) for name, text in texts.items()}
    values.setdefault("keys", ())
    if file := environment.get(VARIABLE_PREFIX + "KEYS_FILE"):
        values["keys"] += key_digests(Path(file).read_text(encoding="utf-8").splitlines())
        if not values["keys"]:
            raise ValueError(
                f"expected keys, one a line, in the file that {VARIABLE_PREFIX}KEYS_FILE names, found none"
            )
    settings = ServerSettings(**values)
    return replace(settings, workers=settings.workers or usable_cores())


def to_environment(settings: ServerSettings) -> dict[str, str]:
    """Return the environment from which `from_environment` restores these settings. Keys appear only as digests."""
    values = {setting.name: getattr(settings, setting.name) for setting in fields(settings)}
    values["keys"] = tuple(_DIGEST_PREFIX + digest for digest in settings.keys)
    values |= {name: int(value) for name, value in values.items() if isinstance(value, bool)}
    values |= {name: ",".join(value) for name, value in values.items() if isinstance(value, tuple)}
    return {VARIABLE_PREFIX + name.upper(): str(value) for name, value in values.items()}


def key_digests(keys: Any) -> tuple[str, ...]:
    """Return the SHA-256 digest of each key in hexadecimal. Empty keys are skipped.

    Args:
        keys: Iterable of keys or of digests ``sha256:…``.

    Raises:
        ValueError: The text after ``sha256:`` is not a SHA-256 digest.
    """
    digests_of_keys = []
    for key in filter(None, (key.strip() for key in keys)):
        digest = (
            key.removeprefix(_DIGEST_PREFIX).lower()
            if key.startswith(_DIGEST_PREFIX)
            else hashlib.sha256(key.encode()).hexdigest()
        )
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"expected 64 hexadecimal digits after {_DIGEST_PREFIX}, got {len(digest)} characters")
        digests_of_keys.append(digest)
    return tuple(digests_of_keys)


def _parse_hosts(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[\w.*:\[\]-]+", name):
            raise ValueError(f"hosts must be names as in scorer.example.com or *.example.com, got {name!r}")
    return tuple(names)


def _parse_origins(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"https?://[\w.\[\]:-]+", text):
            raise ValueError(f"origins must be as in https://market.example, without a path, got {text!r}")
    return tuple(texts)


def _parse_networks(texts: list[str]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(text, strict=False)) for text in texts)
    except ValueError as error:
        raise ValueError(f"proxies must be addresses or networks as in 10.0.0.0/8: {error}") from None


_LIST_PARSERS = {"keys": key_digests, "hosts": _parse_hosts, "origins": _parse_origins, "proxies": _parse_networks}

_RANGES = {
    "version": (0, 2**31 - 1), "interval": (0.05, 86_400), "port": (1, 65_535),
    "metrics_port": (0, 65_535), "workers": (0, 1024),
    "threads": (1, 64), "batch": (1, 256), "deadline": (0, 1), "queue": (1, 100_000), "photos": (1, 10_000),
    "body": (1024, 2**31 - 1), "held": (1024, 2**36), "pixels": (10_000, 178_956_970),
    "seconds": (0.1, 3600), "advising": (1, 1000), "drain": (0, 600), "grace": (0, 3600),
    "connections": (1, 2048), "rate": (0, 100_000),
}  # fmt: skip


def _parse_value(name: str, text: str, type_: type) -> Any:
    """Parse and validate a setting's value.

    Raises:
        ValueError: The text has the wrong form or is out of range.
    """
    if type_ is str:
        return text
    if type_ == tuple[str, ...]:
        return _LIST_PARSERS[name]([part for part in (part.strip() for part in text.split(",")) if part])
    if type_ is bool:
        booleans = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in booleans:
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return booleans[text.lower()]
    low, high = _RANGES[name]
    try:
        value = type_(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise ValueError(
            f"{name} must be {'a whole number' if type_ is int else 'a number'} from {low} to {high}, got {text!r}"
        )
    return value
