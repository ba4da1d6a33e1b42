"""Progress lines of long work in the log: the work's name, the fraction done and the time left."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(iterable: Iterable[Item], label: str, total: int | None = None, first_after: float = 5.0) -> Iterator[Item]:
    """Yield the items of ``iterable`` and print progress lines if the work takes long.

    Pods log lines and have no terminal, so whole lines are printed, and rarely: after ``first_after`` seconds, then at
    intervals that grow to a minute. A last line follows at the end if any line was printed before.

    Args:
        iterable: Items of the work.
        label: Name of the work, e.g. ``"inspecting photos"``.
        total: Number of items; by default ``len(iterable)``, if it has a length.
        first_after: Seconds before the first line.
    """
    total = total if total is not None else getattr(iterable, "__len__", lambda: None)()
    start = time.monotonic()
    next_line, pause, done = start + first_after, first_after, 0
    for done, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now >= next_line:
            print(f"{label}: {progress_line(done, total, now - start)}", flush=True)
            pause = min(pause * 1.5, 60.0)
            next_line = now + pause
    if pause > first_after:
        print(f"{label}: {done} done in {duration(time.monotonic() - start)}", flush=True)


def progress_line(done: int, total: int | None, elapsed: float) -> str:
    """Return the progress and the time left in words.

    >>> line(30, 120, 60.0)
    '30 of 120 (25 %), 3 min left'
    """
    if not total:
        return f"{done} in {duration(elapsed)}"
    remaining = elapsed / done * max(total - done, 0)
    return f"{done} of {total} ({done / total:.0%}), {duration(remaining)} left".replace("%", " %")


def duration(seconds: float) -> str:
    """Return seconds as text in seconds, minutes or hours.

    >>> duration(5), duration(200), duration(9000)
    ('5 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
