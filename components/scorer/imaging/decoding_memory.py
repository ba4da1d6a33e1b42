"""The memory of a process that decodes photos: it is given back after a large one, and is bounded while one is decoded.

By glibc's and Linux' own means; where they are not there, nothing is changed.
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

try:
    import resource
except ImportError:  # not on this system
    resource = None

_THRESHOLD = 4 * 2**20  # bytes: what is larger is given back as soon as it is freed. glibc lets it grow to 32 MiB
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # of mallopt(3)

_lock = threading.Lock()
_under_way = 0
_before = None  # the limit outside of `limited`


@lru_cache(maxsize=1)
def give_back() -> None:
    """Have the allocator return large blocks to the system when they are freed, from now on.

    Left alone, it raises the size above which it does so to that of the largest block that was freed, up to 32 MiB,
    and keeps all that is below: more than a gigabyte after some large photos.
    """
    with contextlib.suppress(AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _THRESHOLD)  # as glibc itself sets it beside the other


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """While it lasts, this process gets no more than so much memory beyond what it has, and raises MemoryError.

    Several threads may be in it: each that enters grants the process its own ``size`` beyond what it has then.

    Args:
        size: bytes.
    """
    global _under_way, _before
    data = _data()
    if resource is None or not data:
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if not _under_way:
            _before = soft
        _under_way += 1
        bounds = [bound for bound in (data + size, _before, hard) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        with _lock:
            _under_way -= 1
            if not _under_way:
                resource.setrlimit(resource.RLIMIT_DATA, (_before, hard))


def _data() -> int:
    """Bytes that this process has as RLIMIT_DATA counts them; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, AttributeError):
        return 0
