"""The log: one line of JSON an event, on standard error. No photo, no file name, no address that a client sent."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def event(name: str, level: str = "info", **facts: Any) -> None:
    """Write one event."""
    sys.stderr.write(_line(name, level, facts))
    sys.stderr.flush()


def where(error: BaseException) -> list[str]:
    """Where an error came from, innermost last; without its message, which may hold what a client sent."""
    places, trace = [], error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-8:]


class Lines(logging.Formatter):
    """Gunicorn's and uvicorn's own messages in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; of an exception its type and places only."""
        facts: dict[str, Any] = {"message": record.getMessage(), "process": record.process}
        if record.exc_info and record.exc_info[1]:
            facts |= {"error": type(record.exc_info[1]).__name__, "where": where(record.exc_info[1])}
        return _line(record.name, record.levelname.lower(), facts).rstrip("\n")


def _line(name: str, level: str, facts: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "event": name, **facts}) + "\n"
