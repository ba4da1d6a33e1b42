"""Progress of long work in the log: what, how far, how long still."""

import time
from collections.abc import Iterable, Iterator


def track(iterable: Iterable, what: str, total: int | None = None, every: float = 5.0) -> Iterator:
    """Yield the items of ``iterable``, printing a line when it begins to take long.

    Pods log lines, not terminals, so this prints whole lines and rarely: after ``every`` seconds, then at
    intervals that grow to a minute, then once at the end when anything was printed before.

    Args:
        iterable: the work, one item a unit of it.
        what: the name of the work, e.g. ``"inspecting photos"``.
        total: number of items; by default ``len(iterable)`` where it has one.
        every: seconds before the first line.
    """
    total = total if total is not None else getattr(iterable, "__len__", lambda: None)()
    start = time.monotonic()
    due, gap, done = start + every, every, 0
    for done, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now >= due:
            print(f"{what}: {line(done, total, now - start)}", flush=True)
            gap = min(gap * 1.5, 60.0)
            due = now + gap
    if gap > every:
        print(f"{what}: {done} done in {duration(time.monotonic() - start)}", flush=True)


def line(done: int, total: int | None, elapsed: float) -> str:
    """How far and how long still, in words.

    >>> line(30, 120, 60.0)
    '30 of 120 (25 %), 3 min left'
    """
    if not total:
        return f"{done} in {duration(elapsed)}"
    left = elapsed / done * max(total - done, 0)
    return f"{done} of {total} ({done / total:.0%}), {duration(left)} left".replace("%", " %")


def duration(seconds: float) -> str:
    """Seconds in the largest unit that reads well.

    >>> duration(5), duration(200), duration(9000)
    ('5 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
