"""Retries of requests whose worker died: their photos are decoded in a separate process.

Nginx gives each request a number, and passes a request whose worker died to another worker under the same number. A
file of that name exists in the run's folder while a worker processes the request. A worker that finds the file knows
that another worker died during this request. If a photo was the reason, it now kills only the separate process.
"""

import multiprocessing
import re
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import UnusablePhotoError
from components.scorer.settings import Ingestion

IS_RETRY: ContextVar[bool] = ContextVar("SECOND", default=False)
"""True if another worker died during this request."""

_REQUEST_NUMBER = re.compile(rb"[0-9a-f]{32}")  # Nginx's $request_id


class RetryDetectionMiddleware:
    """ASGI middleware that sets `IS_RETRY`. Only for use behind Nginx, which overwrites the header ``X-Request-Id``."""

    def __init__(self, app: Any, run_folder: str) -> None:
        """Wrap an ASGI application.

        Args:
            app: Next ASGI application.
            run_folder: Folder of the run, which all workers share.
        """
        self._app, self._run_folder = app, Path(run_folder)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, and keep its file while the application answers."""
        number = dict(scope.get("headers", ())).get(b"x-request-id", b"")
        if scope["type"] != "http" or scope["method"] != "POST" or not _REQUEST_NUMBER.fullmatch(number):
            return await self._app(scope, receive, send)
        request_file = self._run_folder / f"request-{number.decode()}"
        try:
            request_file.touch(exist_ok=False)
        except FileExistsError:
            IS_RETRY.set(True)
        try:
            return await self._app(scope, receive, send)
        finally:
            request_file.unlink(missing_ok=True)


def normalise_in_subprocess(data: bytes, settings: Ingestion, timeout_seconds: float) -> tuple[bytes, tuple[int, int]]:
    """Decode and normalise a photo in a separate process.

    Args:
        data: The file's bytes as sent.
        settings: Settings for `decoding.decode` and `decoding.encode`.
        timeout_seconds: Seconds after which the process is killed.

    Returns:
        The photo encoded as in the data set, and its width and height, upright, pixels.

    Raises:
        UnusablePhotoError: `decoding.decode` refuses the photo, or the process died or took longer than
            `timeout_seconds`.
    """
    context = multiprocessing.get_context("spawn")  # a forked process would inherit the locks of other threads
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_normalise, args=(sender, data, settings), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout_seconds):
            raise UnusablePhotoError(
                "unreadable", f"expected a photo that is decoded within {timeout_seconds:g} s, got one that is not"
            )
        result = receiver.recv()
    except EOFError:
        raise UnusablePhotoError(
            "unreadable", "expected a photo, got one that ends the process that decodes it"
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(result, UnusablePhotoError):
        raise result
    return result


def _normalise(sender: Connection, data: bytes, settings: Ingestion) -> None:
    try:
        photo = decoding.decode(data, settings)
        sender.send((decoding.encode(photo.image, settings), (photo.width, photo.height)))
    except UnusablePhotoError as error:
        sender.send(error)
