"""Schedules on a cluster, kept as a file says.

A schedule cannot be edited, so a change is a new schedule: it is created paused, the old ones are paused, and then
it is enabled. Never two of a name run, and what was cut short is taken up the next time.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import kfp
import yaml

from pipeline import parameters
from pipeline.compiled import compiled
from pipeline.kubeflow import cron
from pipeline.kubeflow.client import EXPERIMENT, Version, every, known, upload, version_name

KEEP = 3
"""Schedules that stay of each name, the one that runs included: the older ones say what ran when."""

OWN = "Kept by python -m pipeline schedule: "
"""The description of this module's schedules, before their name."""


@dataclass(frozen=True)
class Schedule:
    """One entry of a schedule file."""

    name: str
    cron: str  # second, minute, hour, day of the month, month, day of the week; UTC
    parameters: dict[str, Any] = field(default_factory=dict)
    paused: bool = False
    service_account: str = ""  # of Kubernetes, for the steps; empty for the server's default

    def title(self, version: str) -> str:
        """The name on the server: it changes with whatever the schedule runs, for a schedule cannot be edited."""
        account = [self.service_account] if self.service_account else []
        content = json.dumps([self.cron, self.parameters, version, *account], sort_keys=True)
        return f"{self.name} {hashlib.sha256(content.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Change:
    """One step from the server's schedules to the file's."""

    verb: Literal["create", "pause", "enable", "delete"]
    title: str
    recurring_run_id: str = ""  # empty for one that this plan creates
    schedule: Schedule | None = None  # to create

    def __str__(self) -> str:
        """For people."""
        when = f" ({self.schedule.cron})" if self.schedule else ""
        return f"{self.verb:<7}{self.title}{when}"


def read(path: Path) -> list[Schedule]:
    """The schedules in a YAML file: ``name: {cron, parameters, paused, service_account}`` under ``schedules``.

    Raises:
        ValueError: the file is not of this form, a cron expression or a parameter is wrong; says which.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML: {error}") from None
    if not isinstance(content, dict) or list(content) != ["schedules"] or not isinstance(content["schedules"], dict):
        raise ValueError(f'{path}: expected one key "schedules" with the schedules by name')
    return [_schedule(path, str(name), entry) for name, entry in content["schedules"].items()]


def _schedule(path: Path, name: str, entry: Any) -> Schedule:
    """One checked entry of the file."""
    try:
        schedule = Schedule(name, **entry)
        cron.check(schedule.cron)
        return replace(schedule, parameters=parameters.check(schedule.parameters), paused=bool(schedule.paused))
    except (TypeError, ValueError, AttributeError) as error:
        expected = (
            "expected cron, parameters and, if wanted, paused and service_account: "
            if not isinstance(error, ValueError)
            else ""
        )
        raise ValueError(f"{path}, schedule {name!r}: {expected}{error}") from None


def plan(existing: list[Any], schedules: list[Schedule], version: str, keep: int = KEEP) -> list[Change]:
    """What turns the server's schedules into the file's.

    Schedules that this module did not make are left alone, and those of its own that left the file are paused.

    Args:
        existing: recurring runs of the server.
        schedules: what the file says.
        version: name of the pipeline version that they run.
        keep: how many of each name stay.
    """
    changes = []
    for schedule in schedules:
        own = [run for run in existing if run.description == OWN + schedule.name]
        own.sort(key=lambda run: run.created_at, reverse=True)
        title = schedule.title(version)
        current = next((run for run in own if run.display_name == title), None)
        if current is None:
            changes.append(Change("create", title, schedule=schedule))
        old = [run for run in own if run is not current]
        changes += [_change("pause", run) for run in old if run.status == "ENABLED"]
        enabled = current is not None and current.status == "ENABLED"
        if enabled == schedule.paused:
            changes.append(Change("pause" if enabled else "enable", title, current.recurring_run_id if current else ""))
        changes += [_change("delete", run) for run in old[keep - 1 :]]
    kept = {OWN + schedule.name for schedule in schedules}
    gone = [run for run in existing if (run.description or "").startswith(OWN) and run.description not in kept]
    return changes + [_change("pause", run) for run in gone if run.status == "ENABLED"]


def _change(verb: str, run: Any) -> Change:
    return Change(verb, run.display_name, run.recurring_run_id)


def reconcile(
    client: kfp.Client,
    schedules: list[Schedule],
    experiment: str = EXPERIMENT,
    dry_run: bool = False,
    version: str = "",
) -> Iterator[Change]:
    """Bring the server's schedules to what a file says, yielding each change when it is done.

    Args:
        client: of the server.
        schedules: the file's content.
        experiment: name of the experiment that holds the schedules, made when it is not there.
        dry_run: yield the changes and make none.
        version: of the pipeline that they are to run, by its name on the server; by default this code's, which is
            uploaded where that is needed.

    Raises:
        ValueError: the server has no such version.
    """
    runs = known(client, version) if version else None
    found = []
    with contextlib.suppress(ValueError) if dry_run else contextlib.nullcontext():  # no such experiment yet
        where = client.get_experiment(experiment_name=experiment) if dry_run else client.create_experiment(experiment)
        found = list(every(client.list_recurring_runs, "recurring_runs", experiment_id=where.experiment_id))
    changes = plan(found, schedules, version or version_name(compiled()))
    if dry_run or not changes:
        yield from changes
        return
    runs = runs or upload(client)
    created: dict[str, str] = {}
    for change in changes:
        run_id = change.recurring_run_id or created.get(change.title, "")
        if change.verb == "create":
            created[change.title] = _create(client, where.experiment_id, runs, change)
        elif change.verb == "pause":
            client.disable_recurring_run(run_id)
        elif change.verb == "enable":
            client.enable_recurring_run(run_id)
        else:
            client.delete_recurring_run(run_id)
        yield change


def _create(client: kfp.Client, experiment_id: str, version: Version, change: Change) -> str:
    """Create a schedule, paused; its id."""
    wanted = change.schedule
    run = client.create_recurring_run(
        experiment_id, change.title, description=OWN + wanted.name, cron_expression=wanted.cron,
        max_concurrency=1,  # a run that takes long is not joined by the next, which reads the same register of splits
        no_catchup=True,  # after an outage, the data of today once, not of every day that was missed
        params={"revision": version.name, **wanted.parameters}, enabled=False,
        pipeline_id=version.pipeline_id, version_id=version.version_id,
        service_account=wanted.service_account or None,
    )  # fmt: skip
    return run.recurring_run_id
