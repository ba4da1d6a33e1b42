"""Relay of request bodies, which limits the time of each body and the bytes of all bodies.

Nginx buffers a body until it is complete. But Nginx limits neither the time of a whole body nor the bytes of all
bodies. So Nginx's front server passes requests with a body on unbuffered, each over its own connection. The supervisor
relays them to Nginx's inside server; see ``nginx.conf``. The relay neither parses nor stores requests. Refused
requests get an error page of Nginx.
"""

import asyncio
import contextlib
import resource
import threading
from asyncio import StreamReader, StreamWriter

import uvloop

from images.serving import sockets
from images.serving.settings import ServerSettings

LATE_LOCATION, FULL_LOCATION = "/refused/late", "/refused/full"
"""Nginx's internal locations for a body that is late, and for a body beyond the byte budget."""

_CHUNK_BYTES = 2**17  # bytes read at once
_BACKLOG = 2048  # connections that wait to be accepted, as many as at Nginx
_REFUSAL = "HTTP/1.1 200 OK\r\nX-Accel-Redirect: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def total_body_budget(settings: ServerSettings) -> int:
    """Return the byte budget of all bodies that Nginx holds: `ServerSettings.held` for each worker."""
    return settings.workers * settings.held


def start_relay(settings: ServerSettings) -> None:
    """Start the relay in a thread of this process."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # each request needs two open files
    loop = uvloop.new_event_loop()
    starting = asyncio.start_unix_server(
        BodyRelay(settings).relay, sockets.relay_socket(settings.run), limit=_CHUNK_BYTES // 2, backlog=_BACKLOG
    )
    server = loop.run_until_complete(starting)
    # The thread keeps a reference to the server: uvloop closes a server that is garbage-collected.
    threading.Thread(
        target=loop.run_until_complete, args=(server.serve_forever(),), name="arriving", daemon=True
    ).start()


class BodyRelay:
    """The relay, with the byte budget that its requests share."""

    def __init__(self, settings: ServerSettings) -> None:
        self._inside_address, self._timeout_seconds = sockets.inside_socket(settings.run), settings.seconds
        self._bytes_left = total_body_budget(settings)

    async def relay(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Relay one request and its response, then close the connection."""
        with contextlib.suppress(OSError):  # a peer that closed its connection needs no response
            response_reader, request_writer = await asyncio.open_unix_connection(
                self._inside_address, limit=_CHUNK_BYTES // 2
            )
            response_task = asyncio.create_task(_copy_stream(response_reader, writer))
            request_task = asyncio.create_task(self._relay_request(reader, request_writer))
            await asyncio.wait((response_task, request_task), return_when=asyncio.FIRST_COMPLETED)
            refusal = request_task.result() if request_task.done() else ""
            request_task.cancel()
            response_task.cancel()
            request_writer.close()
            if refusal:
                writer.write(_REFUSAL.format(refusal).encode())
                while await reader.read(_CHUNK_BYTES):
                    pass  # until Nginx has taken the response and closes the connection
        writer.close()

    async def _relay_request(self, reader: StreamReader, onward: StreamWriter) -> str:
        """Relay a request until its end.

        The time is checked only when bytes arrive. Nginx itself ends a request whose client sends nothing.

        Returns:
            The location that refuses the request: `LATE_LOCATION`, `FULL_LOCATION` or "" for none.
        """
        held_bytes, deadline = 0, asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                if asyncio.get_running_loop().time() > deadline:
                    return LATE_LOCATION
                if len(chunk) > self._bytes_left:
                    return FULL_LOCATION
                self._bytes_left -= len(chunk)
                held_bytes += len(chunk)
                onward.write(chunk)
                await onward.drain()
        except OSError:
            pass  # the inside server responded before the end of the body
        finally:
            self._bytes_left += held_bytes
        return ""


async def _copy_stream(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
