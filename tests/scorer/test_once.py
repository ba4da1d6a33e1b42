"""`once` builds an object once a process: one thread builds it while the others wait; a fork builds its own."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from components.scorer import litert, storage
from components.scorer.once import once

THREADS = 8


def at_once(function) -> list:
    """Call a function from several threads at the same time and return its results."""
    start = threading.Barrier(THREADS)

    def call(_) -> object:
        start.wait()
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(THREADS)))


def test_concurrent_threads_get_one_object_that_is_built_once():
    never, built = threading.Event(), []

    @once
    def thing() -> object:
        never.wait(0.05)  # never set: a pause in which the other threads call too
        built.append(object())
        return built[-1]

    assert set(at_once(thing)) == {built[0]}
    assert len(built) == 1


def test_each_argument_has_its_own_object_and_a_failed_call_is_repeated():
    calls = []

    @once
    def thing(name: str) -> str:
        calls.append(name)
        if len(calls) == 1:
            raise OSError("an outage")
        return name.upper()

    for name in ("a", "a", "a", "b", "b", "a"):
        try:
            assert thing(name) == name.upper()
        except OSError:
            assert len(calls) == 1
    assert calls == ["a", "a", "b", "a"]


def test_a_function_built_once_may_call_another_one():
    inner = once(lambda: object())
    outer = once(lambda: inner())
    assert set(at_once(outer)) == {inner()}


@once
def _process() -> int:
    return os.getpid()


def _tell(answers: multiprocessing.Queue) -> None:
    answers.put((_process(), os.getpid()))


def test_a_forked_process_builds_its_own_object_while_a_parents_thread_builds_one():
    assert _process() == os.getpid()
    started, forked = threading.Event(), threading.Event()

    @once
    def slow() -> None:
        started.set()
        forked.wait(60)

    holder = threading.Thread(target=slow)
    holder.start()
    started.wait(60)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_tell, args=(answers,))
    child.start()
    built_pid, child_pid = answers.get(timeout=60)
    forked.set()
    child.join()
    holder.join()
    assert built_pid == child_pid != os.getpid()


def _write(folder: Path, answers: multiprocessing.Queue) -> None:
    os.umask(0o027)
    at_once(lambda: [storage.write_bytes(str(folder / str(number)), b"") for number in range(20)])
    answers.put(os.umask(0o027))


def test_concurrent_writes_keep_the_file_mode_mask_of_the_process(tmp_path):
    context = multiprocessing.get_context("fork")  # a forked process has not read its mask yet
    answers = context.Queue()
    child = context.Process(target=_write, args=(tmp_path, answers))
    child.start()
    assert answers.get(timeout=60) == 0o027
    child.join()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_networks_loaded_by_concurrent_threads_leave_standard_error_unchanged(monkeypatch):
    def slow(**_: object) -> None:
        time.sleep(0.02)
        raise RuntimeError("no network")

    monkeypatch.setattr(litert, "Interpreter", slow)
    stderr_before = os.fstat(2)
    at_once(partial(pytest.raises, ValueError, litert.load_interpreter, b"", 1))
    stderr_after = os.fstat(2)
    assert (stderr_before.st_dev, stderr_before.st_ino) == (stderr_after.st_dev, stderr_after.st_ino)
