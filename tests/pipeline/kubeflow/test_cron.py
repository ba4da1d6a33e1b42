"""Cron expressions: which are accepted, which are refused, and when they fire."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kubeflow import cron


def moments(expression: str, since: datetime, until: datetime) -> list[str]:
    return [f"{moment:%m-%d %H:%M:%S}" for moment in cron.times(expression, since, until)]


def day(month: int, number: int) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    "expression", ["0 0 3 * * 1", "0 */5 0-6 ? JAN-jun mon,Fri", "59 59 23 31 12 6", "0 0/15 8,20 1 */2 ?"]
)
def test_cron_with_six_fields_is_accepted(expression):
    cron.check(expression)


@pytest.mark.parametrize(
    "expression", ["0 3 * * 1", "0 0 3 * * 1 2026", "60 0 3 * * 1", "0 0 24 * * *", "0 0 3 0 * *", "0 0 3 * 13 *",
                   "0 0 3 * * 7", "0 0 3 * * /2", "0 0 3 * mon *", "0 0 3 * * */0", "@daily", "",
                   "0 0 three * * *", "0 0 -1 * * *", "0 0 3 * * 5-1", "0 0 3 * * fri-mon", "0 30-10 * * * *",
                   "0 0 3 * 12-2 *", "0 0 3 1,20-10/2 * *"],
)  # fmt: skip
def test_cron_in_another_format_or_out_of_range_is_refused(expression):
    with pytest.raises(ValueError, match="cron"):
        cron.check(expression)


@pytest.mark.parametrize("expression", ["0 0 3 30 2 *", "0 0 3 31 2,4,6,sep,nov ?", "0 0 3 31 4-6/2 *"])
def test_a_day_that_never_comes_is_refused(expression):
    with pytest.raises(ValueError, match="never comes"):
        cron.check(expression)


@pytest.mark.parametrize("expression", ["0 0 3 29 2 *", "0 0 3 30 2 1", "0 0 3 30 2-3 *", "0 0 3 31 */2 *"])
def test_a_rare_day_is_accepted(expression):
    cron.check(expression)


@given(st.integers(0, 59), st.integers(0, 59))
def test_a_range_is_accepted_unless_it_runs_backwards(first, last):
    expression = f"0 {first}-{last} 3 * * *"
    if first <= last:
        cron.check(expression)
    else:
        with pytest.raises(ValueError, match=f"the range '{first}-{last}' runs backwards"):
            cron.check(expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 3 * * 1", ["02-02 03:00:00", "02-09 03:00:00"]),  # Mondays
        ("0 0 3 * * mon", ["02-02 03:00:00", "02-09 03:00:00"]),
        ("0 0 3 1,5 * ?", ["02-01 03:00:00", "02-05 03:00:00"]),
        (
            "0 0 3 5 * 1",
            ["02-02 03:00:00", "02-05 03:00:00", "02-09 03:00:00"],
        ),  # day of month or day of week is enough
        ("0 0 3 5 mar *", []),
        ("30 15/20 6-7 3 feb *", [f"02-03 0{h}:{m}:30" for h in (6, 7) for m in (15, 35, 55)]),
        ("0 0 0 */4 * *", ["02-05 00:00:00", "02-09 00:00:00"]),  # the first moment itself is excluded
        ("0 0 12 * * 0", ["02-01 12:00:00", "02-08 12:00:00"]),  # Sundays
    ],
)
def test_cron_fires_when_kubeflows_scheduler_does(expression, expected):
    assert moments(expression, day(2, 1), day(2, 10)) == expected


def test_the_last_moment_is_included_and_time_zones_are_converted():
    end_in_another_zone = datetime(2026, 2, 1, 4, tzinfo=timezone(timedelta(hours=1)))
    assert moments("0 0 3 * * *", day(1, 31), end_in_another_zone) == ["01-31 03:00:00", "02-01 03:00:00"]


@given(st.integers(1, 59), st.integers(0, 59))
def test_a_step_counts_from_its_start_value(step, start):
    minutes = [
        moment.minute for moment in cron.times(f"0 {start}/{step} 0 * * *", day(3, 1) - timedelta(seconds=1), day(3, 2))
    ]
    assert [minute for minute in minutes if minute >= start][: len(range(start, 60, step))] == [*range(start, 60, step)]
