"""What Prometheus reads at ``/metrics``, over all workers.

Under Gunicorn each worker writes its values to files of its own below ``PROMETHEUS_MULTIPROC_DIR``, and whichever
worker is asked adds them up, or the launching process at a port of its own. No label can tell who asked or what was
sent.
"""

import os
import socket

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    start_http_server,
)

from images.serving.settings import METRICS

MEDIA = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_SECONDS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_OUTCOMES = ("scored", "unreadable", "bomb", "too_small", "waited")
_REFUSALS = ("queue", "advice", "key", "host")


def listen(host: str, port: int, folder: str) -> None:
    """Tell Prometheus the values of all workers at a port of its own, in threads of this process, until it ends.

    Args:
        host: the server's.
        port: where nobody else listens.
        folder: that the workers write to.

    Raises:
        OSError: the port cannot be listened at.
    """
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, folder)
    if host in ("", "0.0.0.0", "::"):
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    start_http_server(port, host.strip("[]"), registry)


class Metrics:
    """The server's metrics; one of it a worker."""

    def __init__(self) -> None:
        """Registers them."""
        every = {"registry": CollectorRegistry(), "namespace": "scorer"}
        self._registry = every["registry"]
        self._requests = Counter("requests", "Requests by route and status.", ["route", "status"], **every)
        self._took = Histogram("request_seconds", "Seconds of a request.", ["route"], buckets=_SECONDS, **every)
        self.in_flight = Gauge("requests_in_flight", "Requests under way.", multiprocess_mode="livesum", **every)
        self.queue = Gauge("photos_in_flight", "Photos under way.", multiprocess_mode="livesum", **every)
        self.batches = Histogram(
            "batch_photos", "Photos in a call of the network.", buckets=(1, 2, 4, 8, 16, 32), **every
        )
        photos = Counter("photos", "Photos by outcome.", ["outcome"], **every)
        self.photos = {name: photos.labels(name) for name in _OUTCOMES}
        stages = Histogram("stage_seconds", "Seconds of a photo's stage.", ["stage"], buckets=_STAGE_SECONDS, **every)
        self.stages = {name: stages.labels(name) for name in ("decoding", "network")}
        refused = Counter("refused", "Requests refused before they were looked at, by reason.", ["reason"], **every)
        self.refused = {name: refused.labels(name) for name in _REFUSALS}
        loads = Counter("model_loads", "Versions that were to be loaded, by outcome.", ["outcome"], **every)
        self.loads = {name: loads.labels(name) for name in ("served", "failed")}
        self.version = Gauge("model_version", "Version that answers, by worker.", multiprocess_mode="liveall", **every)
        self.failing = Gauge(
            "model_failing", "Workers that cannot load the version wanted.", multiprocess_mode="livesum", **every
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        key = route, status
        if key not in self._children:
            self._children[key] = self._requests.labels(route, status), self._took.labels(route)
        count, took = self._children[key]
        count.inc()
        took.observe(seconds)

    def text(self) -> bytes:
        """All values, as Prometheus reads them."""
        if not os.environ.get(METRICS):
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
