"""Sees to it that all of a body arrives in time, and that the bodies of all requests find room.

Nginx holds a body until it is whole, but has a limit neither for the time that all of it takes nor for the bytes of all
bodies. So its server in front passes requests with a body on as they come, each over a connection of its own, and the
launching process passes them on to its server inside: see ``nginx.conf``. Nothing of a request is looked at here, and
nothing is kept. What is refused is answered by a page of Nginx's own.
"""

import asyncio
import contextlib
import resource
import threading
from asyncio import StreamReader, StreamWriter

import uvloop

from images.serving import sockets
from images.serving.settings import Settings

LATE, FULL = "/refused/late", "/refused/full"
"""Nginx's places for a body that is not whole in time, and for one that finds no room."""

_PIECE = 2**17  # bytes that are passed on at once
_BACKLOG = 2048  # connections that wait, as many as at Nginx itself
_REFUSAL = "HTTP/1.1 200 OK\r\nX-Accel-Redirect: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def room(settings: Settings) -> int:
    """Bytes of the bodies that Nginx holds for all workers."""
    return settings.workers * settings.held


def listen(settings: Settings) -> None:
    """Pass requests on, in a thread of this process, until it ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a request takes two
    loop = uvloop.new_event_loop()
    opened = asyncio.start_unix_server(
        Arriving(settings).pass_on, sockets.arriving(settings.run), limit=_PIECE // 2, backlog=_BACKLOG
    )
    server = loop.run_until_complete(opened)
    # It serves as long as something refers to it: uvloop closes a server that is garbage.
    threading.Thread(
        target=loop.run_until_complete, args=(server.serve_forever(),), name="arriving", daemon=True
    ).start()


class Arriving:
    """All requests that arrive or are being answered."""

    def __init__(self, settings: Settings) -> None:
        """Begins with none."""
        self._onward, self._seconds = sockets.arrived(settings.run), settings.seconds
        self._left = room(settings)

    async def pass_on(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Pass one request on, and its answer back; the connection is closed then."""
        with contextlib.suppress(OSError):  # whoever is gone needs nothing more
            answers, onward = await asyncio.open_unix_connection(self._onward, limit=_PIECE // 2)
            answering = asyncio.create_task(_pass(answers, writer))
            arriving = asyncio.create_task(self._arrive(reader, onward))
            await asyncio.wait((answering, arriving), return_when=asyncio.FIRST_COMPLETED)
            refusal = arriving.result() if arriving.done() else ""
            arriving.cancel()
            answering.cancel()
            onward.close()
            if refusal:
                writer.write(_REFUSAL.format(refusal).encode())
                while await reader.read(_PIECE):
                    pass  # until the answer is taken, and the connection closed
        writer.close()

    async def _arrive(self, reader: StreamReader, onward: StreamWriter) -> str:
        """Pass a request on until it ends; return the page that refuses it, or "".

        A body that is sent slowly is not silent, and whoever is silent Nginx gives up: so it is enough to refuse what
        comes after its time.
        """
        taken, until = 0, asyncio.get_running_loop().time() + self._seconds
        try:
            while piece := await reader.read(_PIECE):
                if asyncio.get_running_loop().time() > until:
                    return LATE
                if len(piece) > self._left:
                    return FULL
                self._left -= len(piece)
                taken += len(piece)
                onward.write(piece)
                await onward.drain()
        except OSError:
            pass  # it is answered before it is whole
        finally:
            self._left += taken
        return ""


async def _pass(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
