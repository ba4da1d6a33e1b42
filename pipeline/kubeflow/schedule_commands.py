"""Manual commands on a server's schedules: list, pause, resume, run now, backfill.

The schedule file stays authoritative: the next ``python -m pipeline schedule FILE`` restores its state.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import kfp

from pipeline import parameters
from pipeline.kubeflow import cron
from pipeline.kubeflow.client import EXPERIMENT, list_all
from pipeline.kubeflow.schedules import DESCRIPTION_PREFIX

MAX_BACKFILL_RUNS = 100
"""Maximum number of runs of one backfill."""

_BACKFILL = "Backfill by python -m pipeline schedules: "
_ACTIVE_STATES = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
_TIME_PLACEHOLDER = re.compile(r"\[\[(?:ScheduledTime|CurrentTime)(?:\.([^\]]+))?\]\]")
# Go's date layout -> strftime.
_GO_TO_STRFTIME = {"2006": "%Y", "01": "%m", "02": "%d", "15": "%H", "04": "%M", "05": "%S"}


class ScheduleManager:
    """Schedules of one experiment that ``python -m pipeline schedule`` created."""

    def __init__(self, client: kfp.Client, experiment: str = EXPERIMENT) -> None:
        """Read the schedules from the server; an unknown experiment has none."""
        self._client = client
        self._experiment, self._all = "", []
        with suppress(ValueError):  # kfp raises it for an unknown experiment
            self._experiment = client.get_experiment(experiment_name=experiment).experiment_id
            self._all = list(list_all(client.list_recurring_runs, "recurring_runs", experiment_id=self._experiment))

    def names(self) -> list[str]:
        """Return the sorted names of the schedules."""
        return sorted(
            {
                run.description.removeprefix(DESCRIPTION_PREFIX)
                for run in self._all
                if (run.description or "").startswith(DESCRIPTION_PREFIX)
            }
        )

    def lines(self) -> Iterator[str]:
        """Yield a line for each schedule: name, status, cron expression, next time and version."""
        now = datetime.now(UTC)
        for name in self.names():
            run = self._runs_of(name)[0]
            expression = run.trigger.cron_schedule.cron
            following = next(cron.times(expression, now, now.replace(year=now.year + 5)), None)
            when = f"{following:%Y-%m-%d %H:%M} UTC" if following and run.status == "ENABLED" else "never"
            version = run.runtime_config.parameters.get("revision", "")
            yield f"{name:<16}{run.status.lower():<10}{expression:<20}next {when:<22}{version}"

    def pause(self, names: Sequence[str]) -> Iterator[str]:
        """Pause schedules and yield a line for each change; active runs continue."""
        for name, runs in self._checked_runs(names).items():
            for run in runs:
                if run.status == "ENABLED":
                    self._client.disable_recurring_run(run.recurring_run_id)
                    yield f"paused {run.display_name}"
            yield f"{name} is paused"

    def resume(self, names: Sequence[str]) -> Iterator[str]:
        """Enable the newest schedule of each name and yield a line for each change.

        Older schedules of the name are paused first, so that two schedules of a name never run at once.
        """
        for name, (newest, *older) in self._checked_runs(names).items():
            for run in older:
                if run.status == "ENABLED":
                    self._client.disable_recurring_run(run.recurring_run_id)
                    yield f"paused {run.display_name}"
            if newest.status != "ENABLED":
                self._client.enable_recurring_run(newest.recurring_run_id)
                yield f"enabled {newest.display_name}"
            yield f"{name} is enabled"

    def run(self, name: str, overrides: dict[str, Any], allow_concurrent: bool = False) -> str:
        """Start a run of the schedule's version with its parameters, and return the run's id.

        Args:
            name: Name of the schedule, which may be paused.
            overrides: Parameters that replace those of the schedule.
            allow_concurrent: True to start even while another run of the experiment is active.

        Raises:
            ValueError: There is no such schedule, a parameter is wrong, or a run is active.
        """
        (schedule, *_) = self._checked_runs([name])[name]
        now = datetime.now(UTC)
        values = {key: _fill_in_time(value, now) for key, value in schedule.runtime_config.parameters.items()}
        values = parameters.check(values | overrides)
        if not allow_concurrent:
            self._require_no_active_run()
        version = schedule.pipeline_version_reference
        run = self._client.run_pipeline(
            self._experiment, f"{name} by hand {now:%Y-%m-%d %H:%M:%S}", params=values,
            pipeline_id=version.pipeline_id, version_id=version.pipeline_version_id,
            service_account=schedule.service_account or None,
        )  # fmt: skip
        return run.run_id

    def backfill_times(self, name: str, since: datetime, until: datetime) -> list[datetime]:
        """Return the past times of a schedule that a backfill would run for, after ``since`` and up to ``until``.

        Raises:
            ValueError: There is no such schedule, its parameters have no time placeholder, or there are no times or
                more than ``MAX_BACKFILL_RUNS``.
        """
        (schedule, *_) = self._checked_runs([name])[name]
        parameter_values = schedule.runtime_config.parameters
        if not any(isinstance(value, str) and _TIME_PLACEHOLDER.search(value) for value in parameter_values.values()):
            raise ValueError(
                f"no parameter of {name} holds a time as [[ScheduledTime]], so that every run of a backfill would do "
                f"the same; for one run: python -m pipeline schedules run {name}"
            )
        if not since < until <= datetime.now(UTC):
            raise ValueError(f"a backfill is of the past, from an earlier time to a later one, got {since} and {until}")
        times = list(islice(cron.times(schedule.trigger.cron_schedule.cron, since, until), MAX_BACKFILL_RUNS + 1))
        if not 0 < len(times) <= MAX_BACKFILL_RUNS:
            count = f"more than {MAX_BACKFILL_RUNS} times" if times else "no time"
            raise ValueError(f"{schedule.trigger.cron_schedule.cron!r} has {count} from {since} to {until}")
        return times

    def backfill(self, name: str, since: datetime, until: datetime, allow_concurrent: bool = False) -> str:
        """Start a backfill: the server runs a schedule for its past times, one after another; return its name.

        The backfill is a separate schedule that ends in the past. Kubeflow catches up with it, and replaces
        ``[[ScheduledTime]]`` in parameters by each time. Each run starts when the previous run has ended.

        Raises:
            ValueError: The times are wrong, as for ``missed``; or the schedule is enabled or a run is active, and
                ``allow_concurrent`` is false.
        """
        self.backfill_times(name, since, until)
        (schedule, *_) = runs = self._checked_runs([name])[name]
        title = f"{name} backfill {_format_time(since)} to {_format_time(until)}"
        if [run for run in self._all if run.display_name == title]:
            return title
        if not allow_concurrent:
            if [run for run in runs if run.status == "ENABLED"]:
                raise ValueError(
                    f"{name} is enabled and would run beside its backfill: python -m pipeline schedules pause {name}"
                )
            self._require_no_active_run()
        version = schedule.pipeline_version_reference
        self._client.create_recurring_run(
            self._experiment, title, description=_BACKFILL + name,
            start_time=_format_time(since), end_time=_format_time(until),
            cron_expression=schedule.trigger.cron_schedule.cron, max_concurrency=1, no_catchup=False,
            params=dict(schedule.runtime_config.parameters),
            pipeline_id=version.pipeline_id, version_id=version.pipeline_version_id,
            service_account=schedule.service_account or None,
        )  # fmt: skip
        return title

    def _runs_of(self, name: str) -> list[Any]:
        """Return the recurring runs of a name, newest first."""
        runs = [run for run in self._all if run.description == DESCRIPTION_PREFIX + name]
        return sorted(runs, key=lambda run: run.created_at, reverse=True)

    def _checked_runs(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return the recurring runs of each name; raise ValueError for an unknown name."""
        for name in names:
            if not self._runs_of(name):
                hint = (
                    f"expected one of {self.names()}" if self.names() else "there are none: make some by schedule FILE"
                )
                raise ValueError(f"the server has no schedule {name!r}; {hint}")
        return {name: self._runs_of(name) for name in names}

    def _require_no_active_run(self) -> None:
        """Raise ValueError if a run is active: two runs would read and write the same register of splits."""
        for run in list_all(self._client.list_runs, "runs", experiment_id=self._experiment, sort_by="created_at desc"):
            if run.state in _ACTIVE_STATES:
                raise ValueError(
                    f"run {run.run_id} ({run.display_name}) is going; wait for its end, or add --beside to run both"
                )


def _fill_in_time(value: Any, moment: datetime) -> Any:
    """Return a parameter's value with time placeholders replaced as by Kubeflow's scheduler."""

    def written(match: re.Match[str]) -> str:
        form = match[1] or "20060102150405"
        return re.sub("|".join(_GO_TO_STRFTIME), lambda part: moment.strftime(_GO_TO_STRFTIME[part[0]]), form)

    return _TIME_PLACEHOLDER.sub(written, value) if isinstance(value, str) else value


def _format_time(moment: datetime) -> str:
    """Format a time as RFC 3339 in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
