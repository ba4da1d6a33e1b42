"""Schedules on a Kubeflow server, reconciled with a schedule file.

A schedule cannot be edited, so a change creates a new schedule. The new schedule is created paused, the old schedules
are paused, and then the new schedule is enabled. Two schedules of a name thus never run at once, and the next
reconciliation completes an interrupted one.
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
from pipeline.compiled import compiled_yaml
from pipeline.kubeflow import cron
from pipeline.kubeflow.client import EXPERIMENT, PipelineVersion, find_version, list_all, upload, version_name

KEEP = 3
"""Schedules kept of each name, the current one included: older schedules document earlier runs."""

DESCRIPTION_PREFIX = "Kept by python -m pipeline schedule: "
"""Prefix of the description of this module's schedules; the name follows."""


@dataclass(frozen=True)
class Schedule:
    """Entry of a schedule file."""

    name: str
    cron: str  # second, minute, hour, day of the month, month, day of the week; UTC
    parameters: dict[str, Any] = field(default_factory=dict)
    paused: bool = False
    service_account: str = ""  # Kubernetes service account of the steps; "": the server's default

    def title(self, version: str) -> str:
        """Return the name on the server: the schedule's name and a digest of cron, parameters, version and account."""
        account = [self.service_account] if self.service_account else []
        content = json.dumps([self.cron, self.parameters, version, *account], sort_keys=True)
        return f"{self.name} {hashlib.sha256(content.encode()).hexdigest()[:8]}"


Verb = Literal["create", "pause", "enable", "delete"]


@dataclass(frozen=True)
class Change:
    """Change of one schedule on the server."""

    verb: Verb
    title: str
    recurring_run_id: str = ""  # empty if this plan creates the schedule
    schedule: Schedule | None = None  # the schedule to create; None for other verbs

    def __str__(self) -> str:
        """Return one line for the console."""
        when = f" ({self.schedule.cron})" if self.schedule else ""
        return f"{self.verb:<7}{self.title}{when}"


def read(path: Path) -> list[Schedule]:
    """Read a YAML file with ``name: {cron, parameters, paused, service_account}`` under ``schedules``.

    Raises:
        ValueError: The file is not of this form, or a cron expression or a parameter is wrong. The message names the
            schedule.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML: {error}") from None
    if not isinstance(content, dict) or list(content) != ["schedules"] or not isinstance(content["schedules"], dict):
        raise ValueError(f'{path}: expected one key "schedules" with the schedules by name')
    return [_parse_entry(path, str(name), entry) for name, entry in content["schedules"].items()]


def _parse_entry(path: Path, name: str, entry: Any) -> Schedule:
    """Return one entry of the file after checking it; raise ValueError if it is wrong."""
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
    """Return the changes that turn the server's schedules into those of the file.

    Schedules that this module did not create are not changed. Its own schedules that are no longer in the file are
    paused.

    Args:
        existing: Recurring runs of the server.
        schedules: Schedules of the file.
        version: Name of the pipeline version to run.
        keep: Number of schedules kept of each name.
    """
    changes = []
    for schedule in schedules:
        recurring_runs = [run for run in existing if run.description == DESCRIPTION_PREFIX + schedule.name]
        recurring_runs.sort(key=lambda run: run.created_at, reverse=True)
        title = schedule.title(version)
        current = next((run for run in recurring_runs if run.display_name == title), None)
        if current is None:
            changes.append(Change("create", title, schedule=schedule))
        outdated = [run for run in recurring_runs if run is not current]
        changes += [_change("pause", run) for run in outdated if run.status == "ENABLED"]
        enabled = current is not None and current.status == "ENABLED"
        if enabled == schedule.paused:
            changes.append(Change("pause" if enabled else "enable", title, current.recurring_run_id if current else ""))
        changes += [_change("delete", run) for run in outdated[keep - 1 :]]
    descriptions = {DESCRIPTION_PREFIX + schedule.name for schedule in schedules}
    removed = [
        run
        for run in existing
        if (run.description or "").startswith(DESCRIPTION_PREFIX) and run.description not in descriptions
    ]
    return changes + [_change("pause", run) for run in removed if run.status == "ENABLED"]


def _change(verb: Verb, run: Any) -> Change:
    return Change(verb, run.display_name, run.recurring_run_id)


def reconcile(
    client: kfp.Client,
    schedules: list[Schedule],
    experiment: str = EXPERIMENT,
    dry_run: bool = False,
    version: str = "",
) -> Iterator[Change]:
    """Reconcile the server's schedules with a file, and yield each change after it is made.

    Args:
        client: Client of the server.
        schedules: Schedules of the file.
        experiment: Name of the experiment with the schedules; created if it does not exist.
        dry_run: True to make no change and only yield the changes.
        version: Name of the pipeline version to run, as on the server; "": this code's version, uploaded if needed.

    Raises:
        ValueError: The server has no such version.
    """
    pipeline_version = find_version(client, version) if version else None
    existing = []
    with contextlib.suppress(ValueError) if dry_run else contextlib.nullcontext():  # no such experiment yet
        server_experiment = (
            client.get_experiment(experiment_name=experiment) if dry_run else client.create_experiment(experiment)
        )
        existing = list(
            list_all(client.list_recurring_runs, "recurring_runs", experiment_id=server_experiment.experiment_id)
        )
    changes = plan(existing, schedules, version or version_name(compiled_yaml()))
    if dry_run or not changes:
        yield from changes
        return
    pipeline_version = pipeline_version or upload(client)
    created: dict[str, str] = {}
    for change in changes:
        run_id = change.recurring_run_id or created.get(change.title, "")
        if change.verb == "create":
            created[change.title] = _create(client, server_experiment.experiment_id, pipeline_version, change)
        elif change.verb == "pause":
            client.disable_recurring_run(run_id)
        elif change.verb == "enable":
            client.enable_recurring_run(run_id)
        else:
            client.delete_recurring_run(run_id)
        yield change


def _create(client: kfp.Client, experiment_id: str, version: PipelineVersion, change: Change) -> str:
    """Create a paused schedule and return its id."""
    schedule = change.schedule
    assert schedule is not None  # `plan` gives each creation its schedule
    run = client.create_recurring_run(
        experiment_id, change.title, description=DESCRIPTION_PREFIX + schedule.name, cron_expression=schedule.cron,
        max_concurrency=1,  # runs do not overlap, since they share the register of splits
        no_catchup=True,  # after an outage, one run with today's data and none for the missed times
        params={"revision": version.name, **schedule.parameters}, enabled=False,
        pipeline_id=version.pipeline_id, version_id=version.version_id,
        service_account=schedule.service_account or None,
    )  # fmt: skip
    return run.recurring_run_id
