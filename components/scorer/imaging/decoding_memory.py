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
    resource = None

_THRESHOLD = 4 * 2**20  # bytes: larger blocks return to the system once freed; glibc's own value grows to 32 MiB
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # parameters of mallopt(3)

_lock = threading.Lock()
_under_way = 0
_before = None  # the soft limit before `limited` was entered


@lru_cache(maxsize=1)
def give_back() -> None:
    """Make the allocator return large freed blocks to the system from now on.

    By default glibc raises the size threshold for this to the largest freed block, up to 32 MiB, and keeps all smaller
    blocks. After some large photos these are more than a gigabyte.
    """
    with contextlib.suppress(AttributeError):  # the C library is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _THRESHOLD)  # twice the mmap threshold, as glibc itself sets it


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Limit the memory that this process may allocate within the context; beyond the limit, raise MemoryError.

    Several threads may enter the context. Each entry sets the limit to the memory in use then plus its own ``size``.

    Args:
        size: Memory beyond what the process has on entry, bytes.
    """
    global _under_way, _before
    in_use = _data()
    if resource is None or not in_use:
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if not _under_way:
            _before = soft
        _under_way += 1
        limits = [limit for limit in (in_use + size, _before, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        with _lock:
            _under_way -= 1
            if not _under_way:
                resource.setrlimit(resource.RLIMIT_DATA, (_before, hard))


def _data() -> int:
    """Return the bytes of this process that RLIMIT_DATA counts; 0 if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, AttributeError):
        return 0
