"""Commands on schedules (list, pause, resume, run, backfill) with the real ``kfp.Client`` against a strict server."""

from datetime import UTC, datetime

import pytest

from pipeline.cli.main import main
from tests.builders.schedules import DATA, WEEKLY, schedule

pytestmark = pytest.mark.slow

DATED = WEEKLY | {"parameters": DATA | {"photos": "gs://data/photos/[[ScheduledTime.2006-01-02]]"}}
JANUARY = ("--since=2026-01-01", "--until=2026-02-01")


@pytest.fixture
def weekly(server, file, capsys):
    """Start a server with one enabled schedule, whose photos parameter holds the date."""
    schedule(server, file, weekly=DATED)
    capsys.readouterr()
    return server


def by_hand(server, *arguments: str) -> int:
    return main(["schedules", *arguments, "--host", server.url])


def states(server) -> list[str]:
    return [run["status"] for run in server.recurring]


def test_the_list_shows_state_cron_next_time_and_version_of_each_schedule(weekly, capsys):
    by_hand(weekly, "list")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["weekly", "enabled"]
    assert "0 0 3 * * 1" in line
    assert "03:00 UTC" in line
    assert line.endswith("abc123")


@pytest.mark.parametrize("experiment", [True, False])
def test_the_list_says_if_there_are_no_schedules(server, file, capsys, experiment):
    if experiment:
        schedule(server, file)
        capsys.readouterr()
    assert by_hand(server, "list") == 0
    assert capsys.readouterr().out == (
        "there are no schedules in the experiment portrait-scorer: make some by schedule FILE\n"
    )


def test_pausing_without_any_schedule_is_an_error(server, capsys):
    assert by_hand(server, "pause", "weekly") == 2
    assert "the server has no schedule 'weekly'; there are none: make some" in capsys.readouterr().err


def test_a_paused_schedule_can_be_resumed(weekly):
    assert by_hand(weekly, "pause", "weekly") == 0
    assert states(weekly) == ["DISABLED"]
    assert by_hand(weekly, "resume", "weekly") == 0
    assert states(weekly) == ["ENABLED"]


def test_pausing_twice_changes_nothing_the_second_time(weekly):
    by_hand(weekly, "pause", "weekly")
    before = list(weekly.changes)
    assert by_hand(weekly, "pause", "weekly") == 0
    assert weekly.changes == before


def test_scheduling_the_file_resumes_a_schedule_paused_by_hand(weekly, file):
    by_hand(weekly, "pause", "weekly")
    schedule(weekly, file, weekly=DATED)
    assert states(weekly) == ["ENABLED"]


def test_of_several_schedules_of_a_name_only_the_newest_is_resumed(weekly, file):
    schedule(weekly, file, weekly=DATED | {"cron": "0 0 4 * * 1"})
    by_hand(weekly, "pause", "weekly")
    weekly.recurring[0]["status"] = "ENABLED"
    by_hand(weekly, "resume", "weekly")
    assert states(weekly) == ["DISABLED", "ENABLED"]
    assert weekly.changes[-2].startswith("disable")


@pytest.mark.parametrize("arguments", [["pause", "weekly", "daily"], ["resume", "daily"], ["run", "daily"]])
def test_an_unknown_schedule_gives_a_clear_error_and_changes_nothing(weekly, capsys, arguments):
    before = list(weekly.changes)
    assert by_hand(weekly, *arguments) == 2
    assert "the server has no schedule 'daily'; expected one of ['weekly']" in capsys.readouterr().err
    assert weekly.changes == before


def test_run_starts_the_schedules_version_with_its_parameters_and_todays_date(weekly):
    assert by_hand(weekly, "run", "weekly", "--set", "epochs=3") == 0
    (run,) = weekly.runs
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert run["runtime_config"]["parameters"] == DATA | {
        "photos": f"gs://data/photos/{today}", "revision": "abc123", "epochs": 3,
    }  # fmt: skip
    assert run["pipeline_version_reference"] == weekly.recurring[0]["pipeline_version_reference"]


def test_a_second_run_needs_the_option_beside_while_a_run_is_going(weekly, capsys):
    by_hand(weekly, "run", "weekly")
    assert by_hand(weekly, "run", "weekly") == 2
    assert "is going; wait for its end, or add --beside" in capsys.readouterr().err
    assert by_hand(weekly, "run", "weekly", "--beside") == 0
    for run in weekly.runs:
        run["state"] = "SUCCEEDED"
    assert by_hand(weekly, "run", "weekly") == 0
    assert len(weekly.runs) == 3


def test_a_wrong_parameter_starts_nothing(weekly, capsys):
    assert by_hand(weekly, "run", "weekly", "--set", "epochs=-1") == 2
    assert "epochs must be from 0" in capsys.readouterr().err
    assert weekly.runs == []


def test_a_backfill_runs_the_schedules_past_times_one_at_a_time(weekly, capsys):
    by_hand(weekly, "pause", "weekly")
    assert by_hand(weekly, "backfill", "weekly", *JANUARY) == 0
    backfill = weekly.recurring[-1]
    assert backfill["trigger"]["cron_schedule"] == {
        "cron": "0 0 3 * * 1", "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-02-01T00:00:00Z",
    }  # fmt: skip
    assert (int(backfill["max_concurrency"]), backfill.get("no_catchup", False), backfill["status"]) == (
        1,
        False,
        "ENABLED",
    )
    assert backfill["runtime_config"] == weekly.recurring[0]["runtime_config"]
    assert "2026-01-05 03:00:00 UTC\n2026-01-12 03:00:00 UTC" in capsys.readouterr().out


def test_repeating_a_backfill_creates_it_once(weekly):
    by_hand(weekly, "pause", "weekly")
    for _ in range(2):
        assert by_hand(weekly, "backfill", "weekly", *JANUARY) == 0
    assert len(weekly.recurring) == 2


def test_a_dry_run_of_a_backfill_lists_the_times_and_changes_nothing(weekly, capsys):
    before = list(weekly.changes)
    assert by_hand(weekly, "backfill", "weekly", *JANUARY, "--dry-run") == 0
    assert weekly.changes == before
    assert capsys.readouterr().out.count("03:00:00 UTC") == 4


def test_a_backfill_of_an_enabled_schedule_needs_the_option_beside(weekly, capsys):
    assert by_hand(weekly, "backfill", "weekly", *JANUARY) == 2
    assert "would run beside its backfill: python -m pipeline schedules pause weekly" in capsys.readouterr().err
    assert by_hand(weekly, "backfill", "weekly", *JANUARY, "--beside") == 0


def test_scheduling_a_file_does_not_change_backfills(weekly, file):
    by_hand(weekly, "backfill", "weekly", *JANUARY, "--beside")
    schedule(weekly, file)
    assert states(weekly) == ["DISABLED", "ENABLED"]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["--since=2026-02-01", "--until=2026-01-01"], "a backfill is of the past"),
        (["--since=2026-01-01", "--until=2100-01-01"], "a backfill is of the past"),
        (["--since=2026-01-06", "--until=2026-01-07"], "has no time"),
        (["--since=2001-01-01", "--until=2026-01-01"], "has more than 100 times"),
    ],
)
def test_a_backfill_without_past_times_or_with_too_many_gives_a_clear_error(weekly, capsys, times, words):
    assert by_hand(weekly, "backfill", "weekly", *times) == 2
    assert words in capsys.readouterr().err
    assert len(weekly.recurring) == 1


def test_a_schedule_without_a_time_parameter_is_not_backfilled_as_all_runs_would_be_equal(
    server, file, capsys
):  # fmt: skip
    schedule(server, file, weekly=WEEKLY)
    assert by_hand(server, "backfill", "weekly", *JANUARY) == 2
    assert "no parameter of weekly holds a time as [[ScheduledTime]]" in capsys.readouterr().err
