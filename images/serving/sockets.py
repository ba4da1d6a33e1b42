"""Unix sockets between Nginx and the workers, one name for each worker.

All workers also accept connections from one shared socket. There, any worker with a free event loop takes a
connection, even if its network's thread is busy: of eight connections, one of two workers easily gets six, and the
other idles. Nginx therefore connects to each worker by a separate name, and chooses the worker with the fewest
requests.

While a worker can answer, its name is the worker's own socket. Otherwise the name is a link to the shared socket, so
that any worker can answer: before a version is loaded, and after a worker's death until its successor is ready. Names
are replaced by renaming, so no name is ever missing.
"""

import os
import socket
from pathlib import Path

_BACKLOG = 1024  # connections that wait to be accepted; more than Nginx opens
_SHARED = "shared.sock"


def shared(run: str) -> str:
    """Return the address of the socket from which all workers accept connections."""
    return f"{run}/{_SHARED}"


def socket_of(run: str, place: int) -> str:
    """Return the address at which Nginx connects to the worker with an index, from 0."""
    return f"{run}/worker-{place}.sock"


def longest(run: str, workers: int) -> str:
    """Return the longest address of a socket in the run's folder, for the system's limit."""
    return max(socket_of(run, workers - 1), arriving(run), key=len)


def arriving(run: str) -> str:
    """Return the address at which the body relay listens for Nginx's front server."""
    return f"{run}/arriving.sock"


def arrived(run: str) -> str:
    """Return the address at which Nginx's inside server listens for the body relay."""
    return f"{run}/arrived.sock"


def vacate(run: str, place: int) -> None:
    """Link a worker's name to the shared socket."""
    link = Path(run, f"link-{place}")
    link.unlink(missing_ok=True)
    link.symlink_to(_SHARED)
    link.rename(socket_of(run, place))


def listen(run: str, place: int) -> socket.socket:
    """Return a worker's own listening socket. Nginx reaches the socket only after `occupy`."""
    path = Path(_own(run, place))
    path.unlink(missing_ok=True)  # left by a worker that died before `occupy`
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def occupy(run: str, place: int) -> None:
    """Replace a worker's name by the worker's own socket."""
    os.rename(_own(run, place), socket_of(run, place))


def taken(run: str, workers: int) -> bool:
    """Return whether any worker has called `occupy` and can answer."""
    return any(not os.path.islink(socket_of(run, index)) for index in range(workers))


def _own(run: str, index: int) -> str:
    return f"{run}/own-{index}.sock"
