"""Listing and garbage collection of a model's published versions.

Promotion and rollback load a version and score its warm-up photos before a channel names the version. Every change is
part of the audit log in `channels`.
"""

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from components.scorer import storage
from components.scorer.registry import channels

_VERSION = "[1-9][0-9]*"  # folder name of a version
_READERS = 8  # records read in parallel

VersionState = Literal["complete", "incomplete", "removed", "missing"]


@dataclass(frozen=True)
class VersionInfo:
    """State and record of a version; an attribute is empty if the version's record lacks the value.

    Attributes:
        version: Version number.
        state: "complete"; "incomplete" while its push is running or after the push was killed; "removed" if its
            removal was interrupted; "missing" if a channel names the version and its files do not exist.
        channels: Names of the channels that name the version.
        date: Date of publication, ISO 8601; without a record, date of the reservation of its number.
        run: Id of the pipeline run.
        revision: Git revision of the code that trained the scorer.
        verdict: Verdict of the gates, "published" or "forced".
        override: Reason for which a person overruled the gates.
        srcc: Spearman rank correlation with people on the test photos, -1..1.
        bytes: Total size of the files, bytes.
    """

    version: int
    state: VersionState
    channels: tuple[str, ...] = ()
    date: str = ""
    run: str = ""
    revision: str = ""
    verdict: str = ""
    override: str = ""
    srcc: float | None = None
    bytes: int = 0


def list_models(uri: str) -> list[tuple[str, str]]:
    """List the models at an address, each as the folder of all models and the model's name.

    Args:
        uri: Address of a model's folder, or of the folder of all models; local, ``gs://`` or ``s3://``.

    Raises:
        FileNotFoundError: There is no model.
    """
    uri = _absolute(uri)
    if _is_model(uri):
        return [_split(uri)]
    models = [(uri, name) for name in storage.list_folders(uri) if _is_model(storage.join(uri, name))]
    if not models:
        raise FileNotFoundError(f"expected a model's folder (channels.json, or versions 1, 2, …) at {uri}, found none")
    return models


def resolve_model(uri: str) -> tuple[str, str]:
    """Return the one model at an address, as the folder of all models and the model's name.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: The address is that of the folder of all models.
    """
    uri = _absolute(uri)
    if not _is_model(uri):
        names = [name for _, name in list_models(uri)]
        raise ValueError(f"expected a model's folder, got that of the models {names}; name one: {uri}/{names[0]}")
    return _split(uri)


def list_versions(models: str, name: str) -> list[VersionInfo]:
    """Return every version of a model that has files or is named by a channel, newest first."""
    base = channels.folder(models, name)
    files: dict[int, dict[str, int]] = {}
    for file in storage.list_files(base):
        number, _, path = file.name.partition("/")
        if path and re.fullmatch(_VERSION, number):
            files.setdefault(int(number), {})[path] = file.size
    channel_names: dict[int, list[str]] = {}
    for channel, version in channels.read(models, name).items():
        if type(version) is int:
            channel_names.setdefault(version, []).append(channel)
    removed_numbers, reserved_at = channels.removed_versions(models, name), channels.reservation_times(models, name)

    def version_info(version: int) -> VersionInfo:
        version_files = files.get(version, {})
        state: VersionState = "complete" if channels.COMPLETE in version_files else "incomplete"
        if not version_files:
            state = "missing"
        elif version in removed_numbers:
            state = "removed"
        record = _record(storage.join(base, str(version), "version.json")) if "version.json" in version_files else {}
        decision = _dict_or_empty(record.get("decision"))
        reserved_on = reserved_at[version].date().isoformat() if version in reserved_at else ""
        return VersionInfo(
            version,
            state,
            tuple(channel_names.get(version, ())),
            date=_text_or_empty(record.get("date")) or reserved_on,
            run=_text_or_empty(record.get("run")),
            revision=_text_or_empty(record.get("revision")),
            verdict=_text_or_empty(decision.get("verdict")),
            override=_text_or_empty(decision.get("override")),
            srcc=_gate_srcc(decision),
            bytes=sum(version_files.values()),
        )

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(version_info, sorted({*files, *channel_names}, reverse=True)))


def collect_garbage(
    models: str, name: str, *, keep: int, older_than: int | None = None, dry_run: bool = False, who: str = ""
) -> Iterator[VersionInfo]:
    """Delete old versions, and the incomplete versions of pushes that were killed.

    Kept are the newest `keep` complete versions; every version that a channel names; and every version that was
    reserved within the last day and never named by a channel, because its push may still be running. Incomplete
    versions are deleted one day after their reservation. A version is marked as removed in the audit log before its
    files are deleted, so that no channel can be set to it meanwhile. Its number is never used again.

    Args:
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        keep: Least number of newest complete versions to keep.
        older_than: Days. Versions published since then are kept too, and versions without a readable date.
        dry_run: True deletes nothing.
        who: Person who decides, for the audit log; by default `channels.current_user`.

    Yields:
        Each deleted version, once its files are deleted; with `dry_run`, each version that would be deleted.

    Raises:
        ValueError: A number is negative.
    """
    if keep < 0 or (older_than or 0) < 0:
        raise ValueError(f"expected numbers of 0 or more, got keep {keep} and older_than {older_than}")
    why = f"keep {keep}" + (f", older than {older_than} days" if older_than is not None else "")
    protected, reserved_at = channels.protected_versions(models, name), channels.reservation_times(models, name)
    listed = list_versions(models, name)
    recent = {number for number, time in reserved_at.items() if datetime.now(UTC) - time <= channels.MAX_PUSH_DURATION}
    in_progress = recent - {entry.get("to") for entry in channels.audit(models, name)}
    beyond_keep = [info for info in listed if info.state == "complete"][keep:]
    unprotected = [info for info in listed if info.version not in protected]
    outdated = [
        info
        for info in beyond_keep
        if info in unprotected and info.version not in in_progress and _older(info, older_than)
    ]
    half_removed = [info for info in unprotected if info.state == "removed"]  # their removal was interrupted
    incomplete = [info for info in unprotected if info.state == "incomplete"]
    if dry_run:
        dead_pushes = [info for info in incomplete if info.version in reserved_at and info.version not in recent]
        yield from sorted([*outdated, *half_removed, *dead_pushes], key=lambda info: info.version)
        return
    abandoned = channels.mark_abandoned(models, name, [info.version for info in incomplete])
    deletable = {
        info.version: info
        for info in [*outdated, *half_removed, *incomplete]
        if info not in incomplete or info.version in abandoned
    }
    for number in channels.mark_removed(models, name, sorted(deletable), who=who, why=why):
        storage.delete_tree(channels.address(models, name, number))
        yield deletable[number]


def _older(version: VersionInfo, days: int | None) -> bool:
    if days is None:
        return True
    try:
        return (datetime.now(UTC).date() - date.fromisoformat(version.date)).days > days
    except ValueError:
        return False


def _absolute(uri: str) -> str:
    return uri.rstrip("/") if not uri or "://" in uri else os.path.abspath(uri)


def _split(uri: str) -> tuple[str, str]:
    models, _, name = uri.rpartition("/")
    if models.endswith("/"):  # the name is that of a bucket
        raise ValueError(f"expected a model in a folder of models, got {uri}")
    return models or "/", name


def _is_model(uri: str) -> bool:
    return (
        storage.exists(storage.join(uri, "channels.json"))
        or storage.exists(storage.join(uri, "versions.json"))
        or any(re.fullmatch(_VERSION, folder) for folder in storage.list_folders(uri))
    )


def _record(uri: str) -> dict[str, Any]:
    """Return a version's ``version.json``; empty if the file is damaged or has just been removed."""
    try:
        return _dict_or_empty(storage.read_json(uri))
    except (FileNotFoundError, ValueError):
        return {}


def _dict_or_empty(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _gate_srcc(decision: dict[str, Any]) -> float | None:
    """Return the value of the gate ``srcc`` in a decision record; None if it is missing or not finite."""
    gates = decision.get("gates")
    values = (
        [_dict_or_empty(gate).get("value") for gate in gates if _dict_or_empty(gate).get("key") == "srcc"]
        if gates
        else []
    )
    return next((value for value in values if isinstance(value, float) and math.isfinite(value)), None)
