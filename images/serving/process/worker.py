"""Gunicorn worker class: uvicorn, which also listens on its own socket once a version is loaded; see `sockets`."""

import asyncio
import contextlib
import socket
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

from images.serving import sockets
from images.serving.inference.version_manager import VersionManager
from images.serving.settings import from_environment

_SETTINGS = from_environment()
_REQUEST_DELAY_SECONDS = 1.0  # seconds between a new connection and its request, at most


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which disables keep-alive where Nginx should connect to another worker next time.

    This applies to connections through the shared socket, which Nginx makes while the intended worker cannot answer.
    It also applies to all connections while the server is shutting down. A connection closed later, while idle, could
    be closed just as its next request arrives.
    """

    def on_headers_complete(self) -> None:
        """Decide about keep-alive when a request begins."""
        super().on_headers_complete()
        app: Any = self.config.app  # the application itself, set by uvicorn_worker
        models: VersionManager = app.state.server.version_manager
        if models.draining or (self.server and self.server[0] == sockets.shared_socket(_SETTINGS.run)):
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection when the worker ends. A connection without a request yet is closed after a delay.

        The request of such a connection may be on its way.
        """
        if self.cycle is None:
            self.loop.call_later(_REQUEST_DELAY_SECONDS, super().shutdown)
        else:
            super().shutdown()


class Worker(UvicornWorker):
    """uvicorn worker under Gunicorn.

    Attributes:
        place: Index of the worker, from 0. Set in `gunicorn_settings`.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "timeout_graceful_shutdown": max(1, int(_SETTINGS.grace)),
    }

    place = 0

    async def _serve(self) -> None:
        """Serve requests until the worker is stopped."""
        if not _SETTINGS.nginx:
            return await super()._serve()
        self.sockets: list[socket.socket] = [*self.sockets, sockets.listen_on_own_socket(_SETTINGS.run, self.place)]
        occupying = asyncio.create_task(self._expose_own_socket(self.wsgi.state.server.version_manager))
        try:
            return await super()._serve()
        finally:
            occupying.cancel()

    async def _expose_own_socket(self, models: VersionManager) -> None:
        """Link the worker's name to its own socket as soon as a version is loaded."""
        while not models.current:
            self.notify()  # Gunicorn's heartbeat, which uvicorn sends only after the application has started
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(models.version_loaded.wait(), 1)
        sockets.expose_own_socket(_SETTINGS.run, self.place)
