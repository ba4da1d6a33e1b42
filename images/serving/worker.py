"""One Gunicorn worker: uvicorn, with a socket of its own besides the shared one.

All workers accept from a shared socket, and whichever event loop is free takes a connection, however much its network's
thread has to do: of eight connections, one of two workers easily gets six, and the other idles. Nginx therefore asks
each worker at a socket of its own, the one with the fewest requests first. A worker that is gone refuses at once, and
Nginx goes on to the next.
"""

import socket
from pathlib import Path
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from images.serving.settings import from_environment, socket_of

_SETTINGS = from_environment()
_BACKLOG = 1024  # connections that wait; more than Nginx opens


class Worker(UvicornWorker):
    """uvicorn under Gunicorn."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "timeout_graceful_shutdown": max(1, int(_SETTINGS.grace)),
    }

    place = 0  # among the workers, from 0; given by Gunicorn's settings

    def run(self) -> None:
        """Answer until told to end."""
        if _SETTINGS.nginx and _SETTINGS.run:
            path = Path(socket_of(_SETTINGS.run, self.place))
            path.unlink(missing_ok=True)  # of the one that had this place before
            own = socket.socket(socket.AF_UNIX)
            own.bind(str(path))
            own.listen(_BACKLOG)
            own.setblocking(False)
            self.sockets = [*self.sockets, own]
        super().run()
