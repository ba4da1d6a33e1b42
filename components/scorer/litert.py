"""Loading of LiteRT interpreters without LiteRT's messages on standard error."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from ai_edge_litert.interpreter import Interpreter

_stderr_lock = Lock()  # lock on standard error: two threads at once would restore each other's temporary file


def load_interpreter(network: bytes | str, threads: int) -> Interpreter:
    """Return an interpreter of a network with its tensors allocated.

    Args:
        network: Content or path of a ``.tflite`` file; processes share the memory of a file loaded by path.
        threads: Number of threads of one run.

    Raises:
        ValueError: The file is not a network, or has operations that LiteRT does not know.
    """
    model_argument = {"model_content": network} if isinstance(network, bytes) else {"model_path": network}
    try:
        with _stderr_lock, _drop_info_lines():
            interpreter = Interpreter(**model_argument, num_threads=threads)
            interpreter.allocate_tensors()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return interpreter


@contextmanager
def _drop_info_lines() -> Iterator[None]:
    """Drop LiteRT's ``INFO:`` lines from standard error, where the server writes its log.

    LiteRT has no switch for these lines, which name its kernels. Other lines, also those of other threads, are passed
    on when the block ends.
    """
    with tempfile.TemporaryFile() as buffer:
        original = os.dup(2)
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            buffer.seek(0)
            for line in buffer:
                if not line.startswith(b"INFO: "):
                    os.write(2, line)
