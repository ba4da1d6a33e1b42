"""Cron expressions of six fields as Kubeflow's scheduler reads them (robfig/cron): checked, and their times."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

# Not by croniter, which reads another cron: it takes ranges that run backwards (30-10 as minute 1 and on) and Sunday as
# 7, which robfig/cron refuses, and fires on every second day or Monday where */2 * 1 means both.

_FIELDS = {  # least, most and names of each
    "second": (0, 59, ()),
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day of the month": (1, 31, ()),
    "month": (1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    "day of the week": (0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
}
_PART = re.compile(r"(?:(?P<any>[*?])|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-9]\d*))?")


_YEARS = 5  # in which robfig/cron looks for the next time, before it takes it that there is none


def check(cron: str) -> None:
    """Refuse what Kubeflow would refuse, or take and never run.

    Raises:
        ValueError: not six fields, a field out of its range, a range that runs backwards, or a day that never comes.
    """
    now = datetime.now(UTC)
    if next(times(cron, now, now + timedelta(days=366 * _YEARS)), None) is None:
        raise ValueError(f"cron {cron!r} never comes: no such day in {_YEARS} years; change day of the month or month")


def _parsed(cron: str) -> list[list[int]]:
    """The values that each field names, in order.

    Raises:
        ValueError: as `check`, but for days that never come.
    """
    fields = str(cron).split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"cron must have six fields ({', '.join(_FIELDS)}), got {len(fields)}: {cron!r}")
    for text, (what, (least, most, names)) in zip(fields, _FIELDS.items(), strict=True):
        for part in text.lower().split(","):
            match = _PART.fullmatch(part)
            values = filter(None, match.group("first", "last")) if match else [""]
            if not all(value in names or (value.isdigit() and least <= int(value) <= most) for value in values):
                raise ValueError(f"cron {cron!r}: {part!r} is no {what}; expected {least} to {most}, a range or *")
    values = [_values(text.lower(), field) for text, field in zip(fields, _FIELDS.values(), strict=True)]
    for part, named in (item for found in values for item in found.items()):
        if not named:
            raise ValueError(f"cron {cron!r}: the range {part!r} runs backwards; name two ranges, parted by a comma")
    return [sorted(set().union(*found.values())) for found in values]


def times(cron: str, since: datetime, until: datetime) -> Iterator[datetime]:
    """The times after ``since`` and not after ``until`` at which the expression fires, in UTC.

    Where both the day of the month and that of the week are restricted, one of them is enough, as ever in cron.

    Raises:
        ValueError: as `check`, but for days that never come: there are no times then.
    """
    seconds, minutes, hours, days, months, weekdays = _parsed(cron)
    fields = cron.split()
    either = not any(text.startswith(("*", "?")) for text in (fields[3], fields[5]))
    day = since.astimezone(UTC).date()
    while day <= until.astimezone(UTC).date():
        named = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month in months and (any(named) if either else all(named)):
            for hour, minute, second in ((h, m, s) for h in hours for m in minutes for s in seconds):
                moment = datetime.combine(day, time(hour, minute, second), UTC)
                if since < moment <= until:
                    yield moment
        day += timedelta(days=1)


def _values(text: str, field: tuple[int, int, tuple[str, ...]]) -> dict[str, range]:
    """The values that each part of a field names; none where it is a range that runs backwards."""
    least, most, names = field
    found: dict[str, range] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part)
        first, last = (names.index(v) + least if v in names else v and int(v) for v in match.group("first", "last"))
        step = int(match["step"] or 1)
        if match["any"]:
            first, last = least, most
        elif last is None:
            last = most if match["step"] else first  # 5/15: from 5 on
        found[part] = range(first, last + 1, step)
    return found
