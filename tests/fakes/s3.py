"""An S3 server for tests: moto's, one request at a time, with injected faults."""

import struct
import threading
import time
from collections.abc import Callable, Iterable
from socket import SHUT_RDWR, SO_LINGER, SOL_SOCKET
from typing import Any, Literal

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Trouble = Literal[429, 503, "reset", "lost", "slow"]
"""Faults: a status; ``reset``: the connection is reset before the request is carried out; ``lost``: the request is
carried out, but not answered; ``slow``: the answer is late."""

SLOW = 1.0  # seconds that a slow answer delays its client
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>trouble on cue</Message></Error>"


class Server:
    """Start with ``with Server() as server:`` and set AWS_ENDPOINT_URL to ``server.url``.

    S3 checks a precondition and writes in one step, but moto in two. So this server carries out one request at a time.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._troubles: list[tuple[Callable[[dict[str, Any]], bool], list[Trouble]]] = []
        self._http = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fail(self, when: Callable[[dict[str, Any]], bool], *troubles: Trouble) -> None:
        """Answer the next requests whose WSGI environment satisfies ``when`` with these faults, one each."""
        self._troubles.append((when, list(troubles)))

    def calm(self) -> None:
        """Forget the faults that `fail` planned."""
        self._troubles.clear()

    def _trouble(self, environ: dict[str, Any]) -> Trouble | None:
        for when, troubles in self._troubles:
            if troubles and when(environ):
                return troubles.pop(0)
        return None

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            trouble = self._trouble(environ)
            if isinstance(trouble, int):
                start_response(f"{trouble} Trouble", [("Content-Type", "application/xml")])
                return [BUSY]
            answer = [] if trouble == "reset" else list(self._app(environ, start_response))
        if trouble in ("reset", "lost"):
            _reset(environ["werkzeug.socket"])
        if trouble == "slow":
            time.sleep(SLOW)
        return answer


def _reset(connection: Any) -> None:
    """Close with RST, as a broken network does."""
    connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(SHUT_RDWR)
    raise ConnectionResetError("trouble on cue")


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Print nothing."""

    def log(self, *_: object) -> None:
        """Print nothing about connections that were reset on purpose."""
