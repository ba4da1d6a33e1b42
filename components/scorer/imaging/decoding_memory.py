"""Memory control for processes that decode photos.

After a large photo the freed memory returns to the system; during decoding the memory of the process is limited. Both
rely on glibc and Linux. On other systems nothing is changed.
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

try:
    import resource
except ImportError:  # not available on Windows
    resource = None  # type: ignore[assignment]  # the checker knows no module that may be missing

_THRESHOLD = 4 * 2**20  # bytes: larger blocks return to the system once freed; glibc's own value grows to 32 MiB
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # parameters of mallopt(3)

_lock = threading.Lock()
_active = 0
_outer_limit = 0  # the soft limit before `memory_limit` was entered


@lru_cache(maxsize=1)
def return_freed_blocks() -> None:
    """Make the allocator return large freed blocks to the system from now on.

    By default glibc raises the size threshold for this to the largest freed block, up to 32 MiB, and keeps all smaller
    blocks. After some large photos these are more than a gigabyte.
    """
    with contextlib.suppress(AttributeError):  # the C library is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _THRESHOLD)  # twice the mmap threshold, as glibc itself sets it


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Limit the memory that this process may allocate within the context; beyond the limit, raise MemoryError.

    Several threads may enter the context. Each entry sets the limit to the memory in use then plus its own ``size``.

    Args:
        size: Memory beyond what the process has on entry, bytes.
    """
    global _active, _outer_limit
    in_use = _data_bytes()
    if resource is None or not in_use:
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if not _active:
            _outer_limit = soft
        _active += 1
        limits = [limit for limit in (in_use + size, _outer_limit, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if not _active:
                resource.setrlimit(resource.RLIMIT_DATA, (_outer_limit, hard))


def _data_bytes() -> int:
    """Return the bytes of this process that RLIMIT_DATA counts; 0 if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, AttributeError):
        return 0
