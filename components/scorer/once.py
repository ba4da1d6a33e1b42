"""What a process makes once, however many threads ask for it at the same time: clients, networks, late imports."""

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Made = TypeVar("Made")

_turn = threading.RLock()


def once(make: Callable[..., Made]) -> Callable[..., Made]:
    """A function whose result is made by the first thread that asks for it, while the others wait.

    ``functools.lru_cache`` lets each of them make its own. And an import within the function is done by one thread at
    a time: of two that enter a package by different modules while it is being imported, Python hands one a package
    that is half there. All functions of this kind have one turn between them, as what they import may overlap.

    Args:
        make: takes positional arguments that can be compared, and does not wait for other threads. What it made for
            the last arguments is kept; a forked process, which must not share connections and locks with the one that
            it comes from, makes its own.
    """
    kept: tuple[tuple[Any, ...], Made] | None = None

    @wraps(make)
    def asked(*arguments: Any) -> Made:
        nonlocal kept
        last = kept
        if last is None or last[0] != arguments:
            with _turn:
                if (last := kept) is None or last[0] != arguments:
                    last = kept = arguments, make(*arguments)
        return last[1]

    def forget() -> None:
        nonlocal kept
        kept = None

    os.register_at_fork(after_in_child=forget)
    return asked


def _renew() -> None:
    """Free the turn, which a thread of the process that this one comes from may have had."""
    global _turn
    _turn = threading.RLock()


os.register_at_fork(after_in_child=_renew)
