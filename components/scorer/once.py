"""Thread-safe caching of one result per process, for clients, networks and late imports."""

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Result = TypeVar("Result")

_lock = threading.RLock()


def once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a function so that the first calling thread computes the result and the other threads wait for it.

    With ``functools.lru_cache`` every waiting thread would compute a result of its own. The lock also serialises
    imports within the functions: if two threads import different modules of one package at the same time, Python may
    hand one thread a partly imported package. All wrapped functions share one lock, as their imports may overlap.

    Args:
        function: Function of positional arguments that can be compared; it must not wait for other threads. The result
            for the last arguments is cached. A forked process must not share connections and locks with its parent, so
            it computes its own result.
    """
    cached: tuple[tuple[Any, ...], Result] | None = None

    @wraps(function)
    def wrapper(*arguments: Any) -> Result:
        nonlocal cached
        entry = cached
        if entry is None or entry[0] != arguments:
            with _lock:
                if (entry := cached) is None or entry[0] != arguments:
                    entry = cached = arguments, function(*arguments)
        return entry[1]

    def forget() -> None:
        nonlocal cached
        cached = None

    os.register_at_fork(after_in_child=forget)
    return wrapper


def _reset_lock() -> None:
    """Replace the lock in a forked process: a thread of the parent process may have held it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_reset_lock)
