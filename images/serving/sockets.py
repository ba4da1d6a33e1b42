"""Where each worker is reached by Nginx: a socket by name, which leads to the worker's own one while that can answer.

All workers accept from a shared socket, and whichever event loop is free takes a connection, however much its network's
thread has to do: of eight connections, one of two workers easily gets six, and the other idles. Nginx therefore asks
each worker at a name of its own, the one with the fewest requests first. Until a worker has a version that answers, and
from its death until another one has taken its place, the name is a link to the shared socket, so that whoever can
answer does. Names change hands by renaming: none is ever missing.
"""

import os
import socket
from pathlib import Path

_BACKLOG = 1024  # connections that wait; more than Nginx opens
_SHARED = "shared.sock"


def shared(run: str) -> str:
    """The address of the socket that all workers accept from."""
    return f"{run}/{_SHARED}"


def socket_of(run: str, place: int) -> str:
    """The address at which Nginx asks for the worker at a place, from 0."""
    return f"{run}/worker-{place}.sock"


def longest(run: str, workers: int) -> str:
    """The longest address of a socket in the run's folder."""
    return max(socket_of(run, workers - 1), arriving(run), key=len)


def arriving(run: str) -> str:
    """The address to which Nginx passes on bodies while they arrive."""
    return f"{run}/arriving.sock"


def arrived(run: str) -> str:
    """The address at which Nginx takes them back."""
    return f"{run}/arrived.sock"


def vacate(run: str, place: int) -> None:
    """Let a place's name lead to the shared socket."""
    link = Path(run, f"link-{place}")
    link.unlink(missing_ok=True)
    link.symlink_to(_SHARED)
    link.rename(socket_of(run, place))


def listen(run: str, place: int) -> socket.socket:
    """The own socket of the worker at a place, listening, which no name leads to before `occupy`."""
    path = Path(_own(run, place))
    path.unlink(missing_ok=True)  # of one that died before it could answer
    own = socket.socket(socket.AF_UNIX)
    own.bind(str(path))
    own.listen(_BACKLOG)
    own.setblocking(False)
    return own


def occupy(run: str, place: int) -> None:
    """Let a place's name lead to its worker's own socket."""
    os.rename(_own(run, place), socket_of(run, place))


def taken(run: str, workers: int) -> bool:
    """Whether any worker has occupied its place, and so can answer."""
    return any(not os.path.islink(socket_of(run, place)) for place in range(workers))


def _own(run: str, place: int) -> str:
    return f"{run}/own-{place}.sock"
