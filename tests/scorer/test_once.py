"""What is made once a process: by one thread while the others wait, and anew in a forked process."""

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
    """What a function returns to several threads that call it together."""
    start = threading.Barrier(THREADS)

    def call(_) -> object:
        start.wait()
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(THREADS)))


def test_threads_that_ask_together_are_given_one_thing_that_is_made_once():
    making, made = threading.Event(), []

    @once
    def thing() -> object:
        making.wait(0.05)  # nobody sets it: the others have time to ask
        made.append(object())
        return made[-1]

    assert set(at_once(thing)) == {made[0]}
    assert len(made) == 1


def test_what_was_made_for_other_arguments_is_not_given_and_what_failed_is_made_again():
    made = []

    @once
    def thing(name: str) -> str:
        made.append(name)
        if len(made) == 1:
            raise OSError("an outage")
        return name.upper()

    for name in ("a", "a", "a", "b", "b", "a"):
        try:
            assert thing(name) == name.upper()
        except OSError:
            assert len(made) == 1
    assert made == ["a", "a", "b", "a"]


def test_what_is_made_once_may_need_another_thing_of_the_kind():
    inner = once(lambda: object())
    outer = once(lambda: inner())
    assert set(at_once(outer)) == {inner()}


@once
def _process() -> int:
    return os.getpid()


def _tell(answers: multiprocessing.Queue) -> None:
    answers.put((_process(), os.getpid()))


def test_a_forked_process_makes_its_own_also_while_a_thread_of_its_parent_makes_one():
    assert _process() == os.getpid()
    making, forked = threading.Event(), threading.Event()

    @once
    def slow() -> None:
        making.set()
        forked.wait(60)

    holder = threading.Thread(target=slow)
    holder.start()
    making.wait(60)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_tell, args=(answers,))
    child.start()
    made, own = answers.get(timeout=60)
    forked.set()
    child.join()
    holder.join()
    assert made == own != os.getpid()


def _write(folder: Path, answers: multiprocessing.Queue) -> None:
    os.umask(0o027)
    at_once(lambda: [storage.write_bytes(str(folder / str(n)), b"") for n in range(20)])
    answers.put(os.umask(0o027))


def test_a_process_keeps_its_file_mode_mask_whatever_threads_write(tmp_path):
    context = multiprocessing.get_context("fork")  # which knows no mask yet
    answers = context.Queue()
    child = context.Process(target=_write, args=(tmp_path, answers))
    child.start()
    assert answers.get(timeout=60) == 0o027
    child.join()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_networks_loaded_by_threads_together_leave_standard_error_as_it_was(monkeypatch):
    def slow(**_: object) -> None:
        time.sleep(0.02)
        raise RuntimeError("no network")

    monkeypatch.setattr(litert, "Interpreter", slow)
    before = os.fstat(2)
    at_once(partial(pytest.raises, ValueError, litert.load_interpreter, b"", 1))
    after = os.fstat(2)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
