"""An S3 server for tests: moto's, one request at a time, with trouble on cue."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>trouble on cue</Message></Error>"


class Server:
    """Start with ``with Server() as server:`` and set AWS_ENDPOINT_URL to ``server.url``.

    moto checks a precondition and writes in two steps; S3 does both at once, and so does this server, by
    taking one request at a time.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._troubles: list[tuple[Callable[[dict[str, Any]], bool], list[int]]] = []
        self._http = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fail(self, when: Callable[[dict[str, Any]], bool], *statuses: int) -> None:
        """Answer the next requests for whose WSGI environment ``when`` holds with these statuses, one each."""
        self._troubles.append((when, list(statuses)))

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            for when, statuses in self._troubles:
                if statuses and when(environ):
                    start_response(f"{statuses.pop(0)} Trouble", [("Content-Type", "application/xml")])
                    return [BUSY]
            return list(self._app(environ, start_response))


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Say nothing."""
