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
_SHARED_SOCKET = "shared.sock"


def shared_socket(run_folder: str) -> str:
    """Return the address of the socket from which all workers accept connections."""
    return f"{run_folder}/{_SHARED_SOCKET}"


def worker_socket(run_folder: str, index: int) -> str:
    """Return the address at which Nginx connects to the worker with an index, from 0."""
    return f"{run_folder}/worker-{index}.sock"


def longest_address(run_folder: str, workers: int) -> str:
    """Return the longest address of a socket in the run's folder, for the system's limit."""
    return max(worker_socket(run_folder, workers - 1), relay_socket(run_folder), key=len)


def relay_socket(run_folder: str) -> str:
    """Return the address at which the body relay listens for Nginx's front server."""
    return f"{run_folder}/arriving.sock"


def inside_socket(run_folder: str) -> str:
    """Return the address at which Nginx's inside server listens for the body relay."""
    return f"{run_folder}/arrived.sock"


def link_to_shared(run_folder: str, index: int) -> None:
    """Link a worker's name to the shared socket."""
    link = Path(run_folder, f"link-{index}")
    link.unlink(missing_ok=True)
    link.symlink_to(_SHARED_SOCKET)
    link.rename(worker_socket(run_folder, index))


def listen_on_own_socket(run_folder: str, index: int) -> socket.socket:
    """Return a worker's own listening socket. Nginx reaches the socket only after `expose_own_socket`."""
    path = Path(_own_socket(run_folder, index))
    path.unlink(missing_ok=True)  # left by a worker that died before `expose_own_socket`
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def expose_own_socket(run_folder: str, index: int) -> None:
    """Replace a worker's name by the worker's own socket."""
    os.rename(_own_socket(run_folder, index), worker_socket(run_folder, index))


def any_worker_ready(run_folder: str, workers: int) -> bool:
    """Return whether any worker has called `expose_own_socket` and can answer."""
    return any(not os.path.islink(worker_socket(run_folder, index)) for index in range(workers))


def _own_socket(run_folder: str, index: int) -> str:
    return f"{run_folder}/own-{index}.sock"
