"""A request that comes a second time, because the worker that had it died, has its photos decoded in a process apart.

Nginx numbers the requests and hands one whose worker died to another worker, under the same number. A file of that
name lies in the run's folder while a worker has the request, so a worker that finds the file knows that another one
died over it. Should a photo have been the reason, it ends a process that has nothing else to do.
"""

import multiprocessing
import re
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import Unusable
from components.scorer.settings import Ingestion

SECOND: ContextVar[bool] = ContextVar("SECOND", default=False)
"""Whether the worker that had this request before died."""

_NUMBER = re.compile(rb"[0-9a-f]{32}")  # Nginx's $request_id


class Attempts:
    """ASGI middleware that sets `SECOND`; stands behind Nginx, whose header no client can write."""

    def __init__(self, app: Any, run: str) -> None:
        """Stands before ``app``; ``run`` is the folder that all workers share."""
        self._app, self._run = app, Path(run)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a request through."""
        number = dict(scope.get("headers", ())).get(b"x-request-id", b"")
        if scope["type"] != "http" or scope["method"] != "POST" or not _NUMBER.fullmatch(number):
            return await self._app(scope, receive, send)
        under_way = self._run / f"request-{number.decode()}"
        try:
            under_way.touch(exist_ok=False)
        except FileExistsError:
            SECOND.set(True)
        try:
            return await self._app(scope, receive, send)
        finally:
            under_way.unlink(missing_ok=True)


def normalise_apart(data: bytes, settings: Ingestion, seconds: float) -> tuple[bytes, tuple[int, int]]:
    """A photo as the data set holds photos, and its width and height upright, from a process of its own.

    Args:
        data: as it was sent.
        settings: as of `decoding.decode`.
        seconds: after which the process is ended.

    Raises:
        Unusable: as of `decoding.decode`; or the process died, or took too long.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit the other threads' locks
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_normalise, args=(there, data, settings), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            raise Unusable("unreadable", f"expected a photo that is decoded within {seconds:g} s, got one that is not")
        result = here.recv()
    except EOFError:
        raise Unusable("unreadable", "expected a photo, got one that ends the process that decodes it") from None
    finally:
        process.kill()
        process.join()
        here.close()
    if isinstance(result, Unusable):
        raise result
    return result


def _normalise(there: Connection, data: bytes, settings: Ingestion) -> None:
    try:
        photo = decoding.decode(data, settings)
        there.send((decoding.encode(photo.image, settings), (photo.width, photo.height)))
    except Unusable as error:
        there.send(error)
