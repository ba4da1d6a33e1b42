"""One Gunicorn worker: uvicorn, which takes a socket of its own, too, once it can answer: see sockets."""

import asyncio
import contextlib
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

from images.serving import sockets
from images.serving.inference.version_manager import Models
from images.serving.settings import from_environment

_SETTINGS = from_environment()
_ON_ITS_WAY = 1.0  # seconds that a request may take after its connection


class Protocol(HttpToolsProtocol):
    """uvicorn's, which closes a connection after its answer where that is to be made anew with another worker.

    That is one that Nginx has made by the shared socket, for want of the worker that it meant, and any once the server
    was told to end: a connection that is closed later, while idle, might be closed in the face of its next request.
    """

    def on_headers_complete(self) -> None:
        """A request begins."""
        super().on_headers_complete()
        models: Models = self.config.app.state.server.models
        if models.draining or (self.server and self.server[0] == sockets.shared(_SETTINGS.run)):
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The worker ends; a connection over which nothing has come yet may have been made for a request on its way."""
        if self.cycle is None:
            self.loop.call_later(_ON_ITS_WAY, super().shutdown)
        else:
            super().shutdown()


class Worker(UvicornWorker):
    """uvicorn under Gunicorn."""

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

    place = 0  # among the workers, from 0; given by Gunicorn's settings

    async def _serve(self) -> None:
        """Answer until told to end."""
        if not _SETTINGS.nginx:
            return await super()._serve()
        self.sockets = [*self.sockets, sockets.listen(_SETTINGS.run, self.place)]
        occupying = asyncio.create_task(self._occupy(self.wsgi.state.server.models))
        try:
            return await super()._serve()
        finally:
            occupying.cancel()

    async def _occupy(self, models: Models) -> None:
        """Be asked as soon as there is a version."""
        while not models.current:
            self.notify()  # that it lives, which uvicorn tells only when the application has started
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(models.answers.wait(), 1)
        sockets.occupy(_SETTINGS.run, self.place)
