"""JSON log on standard error, one line for each event. Contains no photo, file name or address from a client."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def log_event(name: str, level: str = "info", **members: Any) -> None:
    """Write one event.

    Args:
        name: Name of the event.
        level: Log level in lower case.
        **members: Further members of the line.
    """
    sys.stderr.write(_format_line(name, level, members))
    sys.stderr.flush()


def error_frames(error: BaseException) -> list[str]:
    """Return the last eight frames of an error's traceback, innermost last.

    The error's message is left out, because it may contain a client's data.
    """
    frames, trace = [], error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-8:]


class JsonFormatter(logging.Formatter):
    """Log formatter that writes the messages of Gunicorn and uvicorn as lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON. Of an exception it contains only the type and the frames of the traceback."""
        facts: dict[str, Any] = {"message": record.getMessage(), "process": record.process}
        if record.exc_info and record.exc_info[1]:
            facts |= {"error": type(record.exc_info[1]).__name__, "where": error_frames(record.exc_info[1])}
        return _format_line(record.name, record.levelname.lower(), facts).rstrip("\n")


def _format_line(name: str, level: str, facts: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "event": name, **facts}) + "\n"
