"""Channels (aliases of model versions), version numbers and the audit log, in two JSON files beside the versions.

    <models>/<name>/versions.json    {"1": {"run": …, "scorer": …, "claimed": …}, …}    who reserved which number, when
    <models>/<name>/channels.json    {"champion": 3, "previous": 2, "audit": […]}       which version serves, and why

Both files are changed by compare-and-swap only. Any number of pushes and people may therefore act at the same time:
no number is reserved twice, and no change is lost. Version numbers only grow. The number of a removed version is
never used again.

The audit log is part of ``channels.json``, so a change and its audit entry are one write. Every change appends an
entry, so the file's content never repeats. Content-based versions (S3 ETag, SHA-256) therefore detect every change.
"""

import getpass
import json
import os
import random
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from components.scorer import storage

COMPLETE = "saved_model.pb"  # written last: a version without this file is incomplete
CHAMPION, PREVIOUS, AUDIT = "champion", "previous", "audit"
USER = "PIPELINE_USER"
"""The environment variable that names the acting person, where the account's name does not."""

MAX_PUSH_DURATION = timedelta(days=1)
"""Longest duration of a push from its reservation: files of an unfinished push are not removed before."""

_RENEWAL = timedelta(hours=1)  # reserving the same number again after this time restarts its day
_TRIES = 50  # compare-and-swap attempts; each lost attempt means that another writer succeeded
_PAUSE = 0.05  # longest pause before the next attempt, seconds; drawn at random so that rivals do not meet again
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


def folder(models: str, name: str) -> str:
    """Return the address of a model's versions: ``<models>/<name>``.

    Raises:
        ValueError: The name is not one plain folder name.
    """
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"expected a model name of letters, digits, '.', '_' and '-', got {name!r}")
    return storage.join(models, name)


def address(models: str, name: str, version: int) -> str:
    """Return the address of a version's folder."""
    return storage.join(folder(models, name), str(version))


def current_user() -> str:
    """Return the acting user: the environment variable ``PIPELINE_USER``, or ``account@machine``."""
    if override := " ".join(os.environ.get(USER, "").split()):
        return override
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id without a name
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


def read(models: str, name: str) -> dict[str, Any]:
    """Return a model's channels: version numbers by channel, such as ``champion``; empty if nothing is published.

    Raises:
        ValueError: ``channels.json`` does not have the form that `promote_pushed` writes.
    """
    return _channels_only(_read_channels(models, name))


def audit(models: str, name: str) -> list[dict[str, Any]]:
    """Return every change of a model's channels, oldest first.

    Returns:
        Entries of ``id``, ``when`` (ISO 8601, UTC), ``who``, ``action`` ("push", "promote", "rollback" or "gc") and
        ``why``. A "gc" entry also has ``removed_versions`` (version numbers). The other entries also have ``channel``,
        ``from`` and ``to`` (version numbers or None).

    Raises:
        ValueError: ``channels.json`` does not have the form that `promote_pushed` writes.
    """
    return _audit(_read_channels(models, name))


def is_protected(models: str, name: str, version: int) -> bool:
    """Return True if a channel names the version, or named it before: no push may remove such a version.

    A version is verified before a channel names it.

    Raises:
        ValueError: The version was removed, or ``channels.json`` does not have the form that `promote_pushed` writes.
    """
    channels = _read_channels(models, name)
    _refuse_removed(channels, name, version)
    return version in _version_numbers(_channels_only(channels)) or any(
        version == entry.get("to") for entry in _audit(channels)
    )


def protected_versions(models: str, name: str) -> set[int]:
    """Return the versions that must stay: every number in ``channels.json`` outside of the audit log.

    Numbers in entries that a person added in another form count too.
    """
    return _version_numbers(read(models, name))


def promote_pushed(models: str, name: str, version: int, *, who: str = "", why: str = "") -> dict[str, Any]:
    """Make a newly pushed version the champion, and the champion before it ``previous``.

    A version becomes champion only if its number is higher than that of every champion so far. The newest version
    therefore serves even if two pushes end in another order than they began, or if an older push is tried again.
    A version that was rolled back does not return when its push is tried again. Other entries of the file stay.

    Args:
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        version: Version number.
        who: Person or account that publishes, for the audit log; by default `current_user`.
        why: Reason for publishing, for the audit log.

    Returns:
        The channels after the change.

    Raises:
        ValueError: The version was removed, or ``channels.json`` does not have the form that this function writes.
    """

    def promote(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        _refuse_removed(channels, name, version)
        return channels if version <= _newest_champion(channels) else _set_channel(channels, CHAMPION, version, entry)

    return _channels_only(_update_channels(models, name, _new_audit_entry("push", who, why), promote))


def set_channel(
    models: str,
    name: str,
    version: int,
    *,
    channel: str = CHAMPION,
    who: str = "",
    why: str,
    action: str = "promote",
    expected: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Set a channel to a version, also to an older one, as a person decided.

    When the champion changes, the champion before becomes ``previous``. If the channel names the version already,
    nothing changes.

    Args:
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        version: Version number.
        channel: "champion", "challenger" or any other plain name but "previous".
        who: Person who decides, for the audit log; by default `current_user`.
        why: Reason, for the audit log.
        action: Name of the action, for the audit log.
        expected: Version expected at each channel (compare-and-swap guard). If one differs, nothing is changed.

    Returns:
        The channels after the change.

    Raises:
        ValueError: The reason is empty, the channel's name is invalid, the version was removed, or a channel differs
            from the expected version.
    """
    check_channel(channel)
    check_reason(why)

    def point_channel(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        _refuse_removed(channels, name, version)
        _refuse_changed(channels, name, expected or {})
        _check_version_number(channels, channel)
        return channels if channels.get(channel) == version else _set_channel(channels, channel, version, entry)

    return _channels_only(_update_channels(models, name, _new_audit_entry(action, who, why), point_channel))


def check_channel(channel: str) -> None:
    """Raise ValueError unless a person may set this channel."""
    if channel == PREVIOUS:
        raise ValueError(f"{PREVIOUS!r} follows the champion: to go back to a version, promote it as champion")
    if channel == AUDIT or not re.fullmatch(_NAME, channel):
        raise ValueError(f"expected a channel name of letters, digits, '.', '_' and '-', not 'audit', got {channel!r}")


def check_reason(why: str) -> None:
    """Raise ValueError if the reason for the audit log is empty."""
    if not why.strip():
        raise ValueError("expected a reason for the audit, got an empty one")


def mark_removed(models: str, name: str, versions: Collection[int], *, who: str = "", why: str) -> list[int]:
    """Mark versions as removed in the audit log before their files are deleted: no channel can name them afterwards.

    Returns:
        The versions whose files may be deleted: all but the versions that a channel names.
    """
    base = folder(models, name)
    _update_json(
        storage.join(base, "versions.json"),
        _parse_versions,
        lambda owners: {str(number): {} for number in versions} | owners,
    )

    def add_removal_entry(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        removable = sorted(set(versions) - _version_numbers(_channels_only(channels)) - _removed_versions(channels))
        return _with_entry(channels, entry | {"removed": removable}) if removable else channels

    channels = _update_channels(models, name, _new_audit_entry("gc", who, why), add_removal_entry)
    deletable = _removed_versions(channels) - _version_numbers(_channels_only(channels))
    return [version for version in versions if version in deletable]


def removed_versions(models: str, name: str) -> set[int]:
    """Return the versions that `mark_removed` marked as removed."""
    return _removed_versions(_read_channels(models, name))


def reserve_version(models: str, name: str, run: str, scorer: str) -> int:
    """Reserve the next free version number; the same run and scorer get the number that they reserved before.

    Args:
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        run: Id of the pipeline run.
        scorer: Fingerprint of the published scorer: a run resumed with another scorer reserves a new number.

    Returns:
        The version number, from 1. A new number is higher than every reserved number and every version folder.
    """
    base = folder(models, name)
    owner = {"run": run, "scorer": scorer}
    existing = [int(version) for version in storage.list_folders(base) if version.isdecimal()]

    def reserve(owners: dict[str, Any]) -> dict[str, Any]:
        version = _reserved_number(owners, owner)
        if version and (reserved_at := _reserved_at(owners[version])) and datetime.now(UTC) - reserved_at < _RENEWAL:
            return owners
        return {**owners, version or str(1 + max([0, *existing, *map(int, owners)])): {**owner, "claimed": _now()}}

    return int(
        _reserved_number(_update_json(storage.join(base, "versions.json"), _parse_versions, reserve), owner) or 0
    )


def reservation_times(models: str, name: str) -> dict[int, datetime]:
    """Return the time at which each version number was reserved, UTC; numbers without a known time are left out."""
    uri = storage.join(folder(models, name), "versions.json")
    owners = _parse_versions(uri, storage.read_versioned(uri)[0])
    return {int(version): reserved_at for version, owner in owners.items() if (reserved_at := _reserved_at(owner))}


def mark_abandoned(models: str, name: str, versions: Collection[int]) -> list[int]:
    """Mark incomplete versions as abandoned, before their files are deleted.

    A version is abandoned `MAX_PUSH_DURATION` after its reservation. If the time of the reservation is unknown, the day
    begins now. A push that is tried again afterwards reserves a new number.

    Returns:
        The abandoned versions; the pushes of the others may still be running.
    """

    def mark(owners: dict[str, Any]) -> dict[str, Any]:
        updated = dict(owners)
        for version in map(str, versions):
            owner = owners.get(version, {})
            if (reserved_at := _reserved_at(owner)) is None:
                updated[version] = {**owner, "claimed": _now()}
            elif "abandoned" not in owner and datetime.now(UTC) - reserved_at > MAX_PUSH_DURATION:
                updated[version] = {**owner, "abandoned": _now()}
        return updated

    owners = _update_json(storage.join(folder(models, name), "versions.json"), _parse_versions, mark)
    return [version for version in versions if "abandoned" in owners[str(version)]]


def version_of(uri: str) -> int | None:
    """Return the version number of a version's folder; None if the folder's name is not a number."""
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    return int(last) if last.isdecimal() else None


def resolve(uri: str) -> str:
    """Return the version folder that an address stands for.

    Args:
        uri: Address of a version's folder; of a model's folder, for its champion; or of the folder of all models,
            if there is just one model.

    Returns:
        Address of the version's folder.

    Raises:
        FileNotFoundError: There is no version at the address.
        ValueError: There are several models at the address.
    """
    if storage.exists(storage.join(uri, COMPLETE)):
        return uri
    if (champion := _champion_at(uri)) is not None:
        return storage.join(uri, str(champion))
    models = {
        name: champion for name in storage.list_folders(uri) if (champion := _champion_at(storage.join(uri, name)))
    }
    if len(models) > 1:
        raise ValueError(f"expected one model in {uri}, found {sorted(models)}; name one: {uri}/{min(models)}")
    for name, champion in models.items():
        return storage.join(uri, name, str(champion))
    raise FileNotFoundError(
        f"expected a published version ({COMPLETE}) or a model's folder (channels.json with a champion) at {uri},"
        " found neither"
    )


def _read_channels(models: str, name: str) -> dict[str, Any]:
    uri = storage.join(folder(models, name), "channels.json")
    return _parse_channels(uri, storage.read_versioned(uri)[0])


def _channels_only(channels: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``channels.json`` without the audit log."""
    return {channel: version for channel, version in channels.items() if channel != AUDIT}


def _audit(channels: dict[str, Any]) -> list[dict[str, Any]]:
    return channels.get(AUDIT, [])


def _new_audit_entry(action: str, who: str, why: str) -> dict[str, Any]:
    reason = " ".join(why.split())
    return {"id": uuid.uuid4().hex[:12], "when": _now(), "who": who or current_user(), "action": action, "why": reason}


def _with_entry(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    return {**_channels_only(channels), AUDIT: [*_audit(channels), entry]}


def _set_channel(channels: dict[str, Any], channel: str, version: int, entry: dict[str, Any]) -> dict[str, Any]:
    old_version = channels.get(channel)
    changes = {channel: version, PREVIOUS: old_version} if channel == CHAMPION else {channel: version}
    return _with_entry(channels | changes, entry | {"channel": channel, "from": old_version, "to": version})


def _newest_champion(channels: dict[str, Any]) -> int:
    """Return the highest version that ever was champion; 0 if there was none."""
    candidates = [channels.get(CHAMPION), channels.get(PREVIOUS)]
    for entry in _audit(channels):
        if entry.get("channel") == CHAMPION:
            candidates += [entry.get("from"), entry.get("to")]
    return max([0, *(version for version in candidates if isinstance(version, int))])


def _removed_versions(channels: dict[str, Any]) -> set[int]:
    return {version for entry in _audit(channels) for version in entry.get("removed", [])}


def _version_numbers(value: Any) -> set[int]:
    """Return every version number in a value, at any depth: a person may have added an entry of another form."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return set().union(*map(_version_numbers, value))
    return {int(value)} if re.fullmatch("[0-9]+", str(value)) else set()


def _refuse_removed(channels: dict[str, Any], name: str, version: int) -> None:
    for entry in _audit(channels):
        if version in entry.get("removed", []):
            by = f"by {entry.get('who')} on {entry.get('when')}"
            raise ValueError(f"version {version} of {name} was removed {by}: train or publish it again in a new run")


def _refuse_changed(channels: dict[str, Any], name: str, expected: Mapping[str, Any]) -> None:
    for channel, version in expected.items():
        if (now := channels.get(channel)) != version:
            raise ValueError(
                f"the {channel} of {name} has just been moved by someone else: expected version {version}, found {now};"
                " nothing was changed, look at the channels again"
            )


def _update_channels(
    models: str,
    name: str,
    entry: dict[str, Any],
    change: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Change the channels once: a repeated write whose response got lost is recognised by its entry's id."""

    def apply_once(channels: dict[str, Any]) -> dict[str, Any]:
        is_written = any(item.get("id") == entry["id"] for item in _audit(channels))
        return channels if is_written else change(channels, entry)

    return _update_json(storage.join(folder(models, name), "channels.json"), _parse_channels, apply_once)


def _update_json(
    uri: str,
    parse: Callable[[str, bytes | None], dict[str, Any]],
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Change a JSON file by compare-and-swap; return its content afterwards."""
    for _ in range(_TRIES):
        data, version = storage.read_versioned(uri)
        current = parse(uri, data)
        updated = change(current)
        if updated == current:
            return current
        try:
            storage.write_if(uri, storage.to_json(updated), version)
            return updated
        except storage.WriteConflict:
            time.sleep(random.uniform(0, _PAUSE))
    raise storage.WriteConflict(f"{uri} was written by others {_TRIES} times in a row; try again when they have ended")


def _parse_channels(uri: str, data: bytes | None) -> dict[str, Any]:
    channels = _parse_object(uri, data)
    for channel in (CHAMPION, PREVIOUS):
        _check_version_number(channels, channel, uri)
    entries = channels.get(AUDIT, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"expected a list of objects as {AUDIT} in {uri}, got {str(entries)[:40]!r}; mend it by hand")
    return channels


def _check_version_number(channels: dict[str, Any], channel: str, uri: str = "channels.json") -> None:
    """Raise ValueError unless the channel is unset or names a version number."""
    version = channels.get(channel)
    if version is not None and (type(version) is not int or version < 1):
        raise ValueError(f"expected a version number as {channel} in {uri}, got {version!r}; mend the file by hand")


def _parse_versions(uri: str, data: bytes | None) -> dict[str, Any]:
    versions = _parse_object(uri, data)
    if invalid := [version for version in versions if not version.isdecimal()]:
        raise ValueError(f"expected version numbers as keys in {uri}, got {invalid[0]!r}; mend the file by hand")
    if invalid := [version for version, owner in versions.items() if not isinstance(owner, dict)]:
        raise ValueError(f"expected an object for version {invalid[0]} in {uri}; mend the file by hand")
    return versions


def _reserved_number(owners: dict[str, Any], owner: dict[str, str]) -> str | None:
    """Return the number that a run and scorer reserved; None if there is none or it was abandoned."""
    return next(
        (
            number
            for number, candidate in owners.items()
            if owner.items() <= candidate.items() and "abandoned" not in candidate
        ),
        None,
    )


def _reserved_at(owner: dict[str, Any]) -> datetime | None:
    """Return the time of a reservation, UTC; None if it was not recorded."""
    try:
        return datetime.fromisoformat(owner["claimed"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parse_object(uri: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {uri}, got {data[:40]!r}; mend the file by hand")
    return value


def _champion_at(uri: str) -> int | None:
    try:
        return storage.read_json(storage.join(uri, "channels.json")).get(CHAMPION)
    except FileNotFoundError:
        return None
