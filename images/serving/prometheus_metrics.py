"""Prometheus metrics of the server, summed over all workers.

Under Gunicorn each worker writes its values to its own files below ``PROMETHEUS_MULTIPROC_DIR``. The worker that
answers ``/metrics`` adds up the files of all workers. If `ServerSettings.metrics_port` is set, the supervisor does so
too, at a separate port. No label reveals a client or its data.
"""

import os
import socket
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    start_http_server,
)

from images.serving.settings import METRICS_FOLDER_VARIABLE

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_OUTCOMES = ("scored", "unreadable", "bomb", "too_small", "waited")
_REFUSALS = ("queue", "advice", "key", "host")


def serve_metrics(host: str, port: int, folder: str) -> None:
    """Serve the metrics of all workers at a separate port, in threads of this process.

    Args:
        host: Address or name of this machine. "", "0.0.0.0" and "::" mean all addresses.
        port: Free port.
        folder: Folder of the workers' metrics files.

    Raises:
        OSError: This process cannot listen at the port.
    """
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, folder)
    if host in ("", "0.0.0.0", "::"):
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    start_http_server(port, host.strip("[]"), registry)


class ServerMetrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry, "namespace": "scorer"}
        self._requests = Counter("requests", "Requests by route and status.", ["route", "status"], **options)
        self._request_seconds = Histogram(
            "request_seconds", "Seconds of a request.", ["route"], buckets=_REQUEST_BUCKETS, **options
        )
        self.requests_in_flight = Gauge(
            "requests_in_flight", "Requests under way.", multiprocess_mode="livesum", **options
        )
        self.photos_in_flight = Gauge("photos_in_flight", "Photos under way.", multiprocess_mode="livesum", **options)
        self.batch_sizes = Histogram(
            "batch_photos", "Photos in a call of the network.", buckets=(1, 2, 4, 8, 16, 32), **options
        )
        photos = Counter("photos", "Photos by outcome.", ["outcome"], **options)
        self.photos = {name: photos.labels(name) for name in _OUTCOMES}
        stages = Histogram("stage_seconds", "Seconds of a photo's stage.", ["stage"], buckets=_STAGE_BUCKETS, **options)
        self.stages = {name: stages.labels(name) for name in ("decoding", "network")}
        refused = Counter("refused", "Requests refused before they were looked at, by reason.", ["reason"], **options)
        self.refused = {name: refused.labels(name) for name in _REFUSALS}
        loads = Counter("model_loads", "Versions that were to be loaded, by outcome.", ["outcome"], **options)
        self.model_loads = {name: loads.labels(name) for name in ("served", "failed")}
        self.model_version = Gauge(
            "model_version", "Version that answers, by worker.", multiprocess_mode="liveall", **options
        )
        self.model_failing = Gauge(
            "model_failing", "Workers that cannot load the version wanted.", multiprocess_mode="livesum", **options
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a finished request and its time.

        Args:
            route: Path pattern of the route.
            status: HTTP status of the response.
            seconds: Time from the request to the end of the response, seconds.
        """
        key = route, status
        if key not in self._children:
            self._children[key] = self._requests.labels(route, status), self._request_seconds.labels(route)
        counter, histogram = self._children[key]
        counter.inc()
        histogram.observe(seconds)

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus's text format."""
        if not os.environ.get(METRICS_FOLDER_VARIABLE):
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
