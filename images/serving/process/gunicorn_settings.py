"""Gunicorn's configuration (https://gunicorn.org/reference/settings/).

`supervisor` passes this file to Gunicorn, and passes the settings in the environment. This file imports the
application's modules before the fork, so that a dead worker is replaced quickly. Each worker creates its own
application, metrics and network.
"""

import ctypes
import gc
import signal
from typing import Any

from prometheus_client import multiprocess, values

import images.serving.process.app  # noqa: F401 - imported before the fork; see the module's docstring
from images.serving import sockets
from images.serving.settings import from_environment

_SETTINGS = from_environment()
_HOST = "[::]" if _SETTINGS.host == "::" else _SETTINGS.host
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

wsgi_app = "images.serving.process.app:create_app()"
worker_class = "images.serving.process.worker.Worker"
workers = _SETTINGS.workers
# Behind Nginx, each worker also listens on its own socket; see `sockets`.
bind = [f"unix:{sockets.shared_socket(_SETTINGS.run)}" if _SETTINGS.nginx else f"{_HOST}:{_SETTINGS.port}"]
backlog = 2048  # Gunicorn's default: connections that wait to be accepted
timeout = 60  # seconds after which a worker whose event loop hangs is killed; no step of a worker takes as long
graceful_timeout = max(1, int(_SETTINGS.grace))
keepalive = 75  # seconds; longer than Nginx keeps an idle connection (60), so that Nginx always closes first
worker_tmp_dir = _SETTINGS.run
control_socket_disable = True  # the socket would be created outside the run's folder
forwarded_allow_ips = ""  # the application does not use the client's address
accesslog = None  # Gunicorn's log would contain addresses; `middleware` writes the access log
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "images.serving.json_log.JsonFormatter"}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"level": "WARNING", "handlers": ["lines"]},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["lines"], "propagate": False}},
}


def when_ready(server: Any) -> None:
    """Link every worker's name to the shared socket, where requests wait for the first worker."""
    if _SETTINGS.nginx:
        for index in range(_SETTINGS.workers):
            sockets.link_to_shared(_SETTINGS.run, index)


def pre_fork(server: Any, worker: Any) -> None:
    """Give a worker the lowest free index, and freeze the garbage collector so that memory pages stay shared."""
    taken = {other.place for other in server.WORKERS.values() if hasattr(other, "place")}
    worker.place = next(index for index in range(len(taken) + 1) if index not in taken)
    gc.collect()
    gc.freeze()


def post_fork(server: Any, worker: Any) -> None:
    """Make a worker end when Gunicorn ends or is killed. The worker would otherwise keep answering on an old socket."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    # Metrics files are named by index, not by process: a new worker continues its predecessor's files, so that many
    # deaths do not fill the disk.
    values.ValueClass = values.MultiProcessValue(lambda: worker.place)


def child_exit(server: Any, worker: Any) -> None:
    """Send a dead worker's requests to the living workers, and remove its gauges from the metrics."""
    if _SETTINGS.nginx:
        sockets.link_to_shared(_SETTINGS.run, worker.place)
    multiprocess.mark_process_dead(worker.place)
