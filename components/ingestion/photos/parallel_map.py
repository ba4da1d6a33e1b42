"""Where ingestion's work is done: in processes of this machine, or on any Apache Beam runner.

Both engines call the same functions on the same items, and each item writes its result to a file of its own.
The result therefore cannot depend on the engine, on the order, or on how often an item was tried.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from components.scorer.run import beam

Item = TypeVar("Item")


def on_processes(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[None]:
    """Call the function on every item, on all cores of this machine; yields once for each item that is done.

    A program that calls this guards its own start with ``if __name__ == "__main__"``, as processes import it anew.

    Args:
        function: a picklable function of one argument; what it returns is dropped.
        items: picklable arguments.

    Raises:
        RuntimeError: a process died, most often because the memory was exhausted.
        Exception: whatever the function raised first; items not yet begun are dropped.
    """
    if len(items) == 1:  # done before a process would have started
        function(items[0])
        yield
        return
    # Not forked: a forked child would inherit TensorFlow's threads and memory, or hang on one of its locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(cores(), len(items)) or 1, mp_context=context, initializer=_die_with_parent) as pool:
        waiting = [pool.submit(_quietly, function, item) for item in items]
        try:
            for done in as_completed(waiting):
                done.result()
                yield
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, most often because the memory is exhausted: give the step more memory, "
                "or look in the system's log for the reason"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps, instead of waiting for work forever."""

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_beam(function: Callable[[Item], Any], items: Sequence[Item], options: str, what: str) -> None:
    """Call the function on every item as an Apache Beam pipeline and wait for its end.

    Args:
        function: a picklable function of one argument; what it returns is dropped.
        items: picklable arguments.
        options: of the runner, as on a command line; see `beam`.
        what: name of the step in the runner's own pages.

    Raises:
        ValueError, RuntimeError: the options do not do; see `beam.check`.
        RuntimeError: a worker died.
    """

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        # Reshuffled, or a runner fuses the list and the work into one worker.
        _ = pipeline | beam.Create(list(items)) | beam.Reshuffle() | what >> beam.FlatMap(_silently, function)

    beam.run(build, options)


def cores() -> int:
    """Cores that this process may use: as many as it is pinned to, or as its container's limit comes to."""
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # of control groups, version 2
        return max(1, min(pinned, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return pinned


def _quietly(function: Callable[[Item], Any], item: Item) -> None:
    """The call without its result, which would travel back for nothing."""
    function(item)


def _silently(item: Item, function: Callable[[Item], Any]) -> tuple[()]:
    function(item)
    return ()
