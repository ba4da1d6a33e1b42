"""Parallel map over processes of this machine or an Apache Beam runner.

Both engines call the same function on the same items, and each item writes its result to its own file. So the result
does not depend on the engine, the order, or the number of attempts.
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
    """Call the function on every item, on all cores of this machine, and yield once for each completed item.

    The calling program must guard its start with ``if __name__ == "__main__"``, as the processes import it again.

    Args:
        function: Picklable function of one argument; its result is dropped.
        items: Picklable arguments.

    Raises:
        RuntimeError: A process died, most often because the memory was exhausted.
        Exception: The first exception of the function; items that have not started are dropped.
    """
    if len(items) == 1:  # faster than starting a process
        function(items[0])
        yield
        return
    # Spawn, not fork: a forked child inherits TensorFlow's threads and memory, or hangs on one of its locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(available_cores(), len(items)) or 1, mp_context=context, initializer=_die_with_parent
    ) as pool:
        futures = [pool.submit(_call_without_result, function, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, most often because the memory is exhausted: give the step more memory, "
                "or look in the system's log for the reason"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """Exit this process when its parent process ends, even if the parent was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # only worker processes run this
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_beam(function: Callable[[Item], Any], items: Sequence[Item], options: str, label: str) -> None:
    """Call the function on every item as an Apache Beam pipeline and wait for its end.

    Args:
        function: Picklable function of one argument; its result is dropped.
        items: Picklable arguments.
        options: Command-line options of the runner, see `beam`.
        label: Name of the step in the runner's pages.

    Raises:
        ValueError, RuntimeError: The options are invalid, see `beam.check_options`.
        RuntimeError: A worker died.
    """

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        # Without a reshuffle, a runner fuses the list and the work into one worker.
        _ = (
            pipeline
            | beam.Create(list(items))
            | beam.Reshuffle()
            | label >> beam.FlatMap(_call_without_elements, function)
        )

    beam.run_pipeline(build, options)


def available_cores() -> int:
    """Return the number of cores this process may use: its CPU affinity, capped by the container's CPU limit."""
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2
        return max(1, min(pinned, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return pinned


def _call_without_result(function: Callable[[Item], Any], item: Item) -> None:
    """Call the function and drop its result, so that it is not sent to the parent process."""
    function(item)


def _call_without_elements(item: Item, function: Callable[[Item], Any]) -> tuple[()]:
    """Call the function and return no elements for Beam's `FlatMap`."""
    function(item)
    return ()
