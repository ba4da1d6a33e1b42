"""How Gunicorn runs the workers; ``supervisor`` names this file and hands the settings on in the environment.

https://gunicorn.org/reference/settings/. The application's modules are imported here, before the fork, so that a
worker that died is back in a moment; the application itself, its metrics and its network are each worker's own.
"""

import ctypes
import gc
import signal
from typing import Any

from prometheus_client import multiprocess, values

import images.serving.process.app  # noqa: F401 - before the fork, see above
from images.serving import sockets
from images.serving.settings import from_environment

_SETTINGS = from_environment()
_HOST = "[::]" if _SETTINGS.host == "::" else _SETTINGS.host
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

wsgi_app = "images.serving.process.app:create_app()"
worker_class = "images.serving.process.worker.Worker"
workers = _SETTINGS.workers
# With Nginx before it, each worker has a socket of its own as well: see sockets.
bind = [f"unix:{sockets.shared(_SETTINGS.run)}" if _SETTINGS.nginx else f"{_HOST}:{_SETTINGS.port}"]
backlog = 2048  # Gunicorn's default: connections that wait to be taken on
timeout = 60  # seconds after which a worker whose event loop hangs is killed; nothing that it does takes as long
graceful_timeout = max(1, int(_SETTINGS.grace))
keepalive = (
    75  # seconds; longer than Nginx keeps an idle connection (60), so that it is never the one that is surprised
)
worker_tmp_dir = _SETTINGS.run
control_socket_disable = True  # it would be written outside the run's folder
forwarded_allow_ips = ""  # nothing here depends on who asks
accesslog = None  # it would hold addresses; see middleware
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "images.serving.json_log.Lines"}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"level": "WARNING", "handlers": ["lines"]},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["lines"], "propagate": False}},
}


def when_ready(server: Any) -> None:
    """Let requests wait at the shared socket for the first worker."""
    if _SETTINGS.nginx:
        for place in range(_SETTINGS.workers):
            sockets.vacate(_SETTINGS.run, place)


def pre_fork(server: Any, worker: Any) -> None:
    """Give a worker the lowest free place, and leave the shared pages shared."""
    taken = {other.place for other in server.WORKERS.values() if hasattr(other, "place")}
    worker.place = next(place for place in range(len(taken) + 1) if place not in taken)
    gc.collect()
    gc.freeze()


def post_fork(server: Any, worker: Any) -> None:
    """Let a worker end with Gunicorn, also when that is killed: it would go on answering from an old socket."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    # Metrics by place, not by process: a worker goes on with the files of the one before it, and deaths fill no disk.
    values.ValueClass = values.MultiProcessValue(lambda: worker.place)


def child_exit(server: Any, worker: Any) -> None:
    """Take a dead worker's queue out of the metrics, and its requests to those that live."""
    if _SETTINGS.nginx:
        sockets.vacate(_SETTINGS.run, worker.place)
    multiprocess.mark_process_dead(worker.place)
