"""Cron expressions of six fields, validated and evaluated as by Kubeflow's scheduler (robfig/cron)."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

# The package croniter is not used, since it reads another dialect. It accepts backward ranges (30-10 as minute 1 and
# on) and Sunday as 7, which robfig/cron refuses. For */2 * 1 it fires on every second day or Monday; robfig/cron
# requires both.

_FIELDS = {  # minimum, maximum and names of each field
    "second": (0, 59, ()),
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day of the month": (1, 31, ()),
    "month": (1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    "day of the week": (0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
}
_PART = re.compile(r"(?:(?P<any>[*?])|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-9]\d*))?")


_HORIZON_YEARS = 5  # search horizon of robfig/cron: without a time within it, the expression never fires


def check(cron: str) -> None:
    """Raise ValueError for an expression that Kubeflow would refuse, or accept and never run.

    Raises:
        ValueError: There are not six fields, a field is out of its range, a range runs backwards, or the day never
            comes.
    """
    now = datetime.now(UTC)
    if next(times(cron, now, now + timedelta(days=366 * _HORIZON_YEARS)), None) is None:
        raise ValueError(
            f"cron {cron!r} never comes: no such day in {_HORIZON_YEARS} years; change day of the month or month"
        )


def _parse(cron: str) -> list[list[int]]:
    """Return the sorted values of each field.

    Raises:
        ValueError: The expression is wrong, as for `check`; days that never come raise nothing.
    """
    fields = str(cron).split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"cron must have six fields ({', '.join(_FIELDS)}), got {len(fields)}: {cron!r}")
    for text, (field_name, (minimum, maximum, names)) in zip(fields, _FIELDS.items(), strict=True):
        for part in text.lower().split(","):
            match = _PART.fullmatch(part)
            values = filter(None, match.group("first", "last")) if match else [""]
            if not all(value in names or (value.isdigit() and minimum <= int(value) <= maximum) for value in values):
                raise ValueError(
                    f"cron {cron!r}: {part!r} is no {field_name}; expected {minimum} to {maximum}, a range or *"
                )
    ranges = [_part_ranges(text.lower(), field) for text, field in zip(fields, _FIELDS.values(), strict=True)]
    for part, part_range in (item for ranges_of_field in ranges for item in ranges_of_field.items()):
        if not part_range:
            raise ValueError(f"cron {cron!r}: the range {part!r} runs backwards; name two ranges, parted by a comma")
    return [sorted(set().union(*ranges_of_field.values())) for ranges_of_field in ranges]


def times(cron: str, since: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the times in UTC at which the expression fires, after ``since`` and up to and including ``until``.

    If both day of the month and day of the week are restricted, a match of one of them is enough, as usual in cron.

    Raises:
        ValueError: The expression is wrong, as for `check`. An expression whose days never come yields nothing.
    """
    seconds, minutes, hours, days, months, weekdays = _parse(cron)
    fields = cron.split()
    match_any = not any(text.startswith(("*", "?")) for text in (fields[3], fields[5]))
    day = since.astimezone(UTC).date()
    while day <= until.astimezone(UTC).date():
        matches = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month in months and (any(matches) if match_any else all(matches)):
            for hour, minute, second in ((h, m, s) for h in hours for m in minutes for s in seconds):
                moment = datetime.combine(day, time(hour, minute, second), UTC)
                if since < moment <= until:
                    yield moment
        day += timedelta(days=1)


def _part_ranges(text: str, field: tuple[int, int, tuple[str, ...]]) -> dict[str, range]:
    """Return the values of each comma-separated part of a field; empty for a range that runs backwards."""
    minimum, maximum, names = field
    ranges: dict[str, range] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part)
        assert match is not None  # `_parse` has refused all other parts
        ends = [names.index(v) + minimum if v in names else int(v) for v in match.group("first", "last") if v]
        if match["any"]:
            ends = [minimum, maximum]
        elif not match["last"]:
            ends.append(maximum if match["step"] else ends[0])  # 5/15: from 5 on
        first, last = ends
        ranges[part] = range(first, last + 1, int(match["step"] or 1))
    return ranges
