"""LiteRT's interpreter, loaded without what it tells on standard error."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from ai_edge_litert.interpreter import Interpreter

_turn = Lock()  # to have standard error: of two threads one would put the other's file back in its place


def load(network: bytes | str, threads: int) -> Interpreter:
    """A network ready to run.

    Args:
        network: the content of a ``.tflite`` file, or the path of one, which processes then share in memory.
        threads: that one run may use.

    Raises:
        ValueError: it is no network, or has operations that LiteRT does not know.
    """
    given = {"model_content": network} if isinstance(network, bytes) else {"model_path": network}
    try:
        with _turn, _told_less():
            interpreter = Interpreter(**given, num_threads=threads)
            interpreter.allocate_tensors()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return interpreter


@contextmanager
def _told_less() -> Iterator[None]:
    """Keep LiteRT from telling on standard error, which holds a server's log, which kernels it takes.

    It has no switch for that. What else is written meanwhile, also by other threads, is passed on afterwards.
    """
    with tempfile.TemporaryFile() as kept:
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            for line in kept:
                if not line.startswith(b"INFO: "):
                    os.write(2, line)
