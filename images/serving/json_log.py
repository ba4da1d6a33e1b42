"""JSON log on standard error, one line for each event. Contains no photo, file name or address from a client."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def event(name: str, level: str = "info", **facts: Any) -> None:
    """Write one event.

    Args:
        name: Name of the event.
        level: Log level in lower case.
        **facts: Further members of the line.
    """
    sys.stderr.write(_line(name, level, facts))
    sys.stderr.flush()


def where(error: BaseException) -> list[str]:
    """Return the last eight frames of an error's traceback, innermost last.

    The error's message is left out, because it may contain a client's data.
    """
    frames, trace = [], error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-8:]


class Lines(logging.Formatter):
    """Log formatter that writes the messages of Gunicorn and uvicorn as lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON. Of an exception it contains only the type and the frames of the traceback."""
        facts: dict[str, Any] = {"message": record.getMessage(), "process": record.process}
        if record.exc_info and record.exc_info[1]:
            facts |= {"error": type(record.exc_info[1]).__name__, "where": where(record.exc_info[1])}
        return _line(record.name, record.levelname.lower(), facts).rstrip("\n")


def _line(name: str, level: str, facts: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "event": name, **facts}) + "\n"
