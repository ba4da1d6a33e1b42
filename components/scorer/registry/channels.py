"""Which version of a model is whose, which one serves, and who decided that: two small files beside the versions.

    <models>/<name>/versions.json    {"1": {"run": …, "scorer": …, "claimed": …}, …}    who took which number, and when
    <models>/<name>/channels.json    {"champion": 3, "previous": 2, "audit": […]}       which version answers, and why

Both are changed by compare-and-swap only, so that any number of pushes and people may act at once: no number is given
twice, and no change is lost. Numbers only grow and are never given again, also when a version was removed.

The audit lies in the file of which it tells, so that a change and its entry are one write: neither is ever there
without the other. And as the file never gets a content again that it had before, a store that knows versions by
their content (S3's entity tags, SHA-256 on a disk) cannot take a changed file for an unchanged one either.
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

COMPLETE = "saved_model.pb"  # written last: a version without it is not complete
CHAMPION, PREVIOUS, AUDIT = "champion", "previous", "audit"
USER = "PIPELINE_USER"
"""The environment variable that says who acts, where the account's name would not."""

UNFINISHED = timedelta(days=1)
"""How long a push may take from its claim: what it has written is not removed before."""

_RENEWAL = timedelta(hours=1)  # a claim that is tried again later than this begins its day anew
_TRIES = 50  # of a swap; each lost one means that another writer's succeeded
_PAUSE = 0.05  # seconds at most before the next try, drawn by chance so that rivals do not meet again
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


def folder(models: str, name: str) -> str:
    """The address of a model's versions: ``<models>/<name>``.

    Raises:
        ValueError: the name is not one plain folder name.
    """
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"expected a model name of letters, digits, '.', '_' and '-', got {name!r}")
    return storage.join(models, name)


def address(models: str, name: str, version: int) -> str:
    """The address of a version's folder."""
    return storage.join(folder(models, name), str(version))


def user() -> str:
    """Who acts: the environment variable ``PIPELINE_USER``, or the account and the machine."""
    if given := " ".join(os.environ.get(USER, "").split()):
        return given
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


def read(models: str, name: str) -> dict[str, Any]:
    """The channels of a model: ``champion`` and ``previous`` are version numbers; empty when none is published.

    Raises:
        ValueError: ``channels.json`` is not what `switch` writes.
    """
    return _told(_read(models, name))


def audit(models: str, name: str) -> list[dict[str, Any]]:
    """Every change of a model's channels, oldest first.

    Returns:
        Entries of ``id``, ``when`` (ISO 8601, UTC), ``who``, ``action`` ("push", "promote", "rollback" or "gc") and
        ``why``; and ``channel``, ``from`` and ``to`` (version numbers, None where there was none) or, for "gc",
        ``removed`` (version numbers).

    Raises:
        ValueError: ``channels.json`` is not what `switch` writes.
    """
    return _audit(_read(models, name))


def named(models: str, name: str, version: int) -> bool:
    """Whether a channel names the version, or once did: it was proved then, and no push may remove it.

    Raises:
        ValueError: the version was removed, or ``channels.json`` is not what `switch` writes.
    """
    channels = _read(models, name)
    _refuse_removed(channels, name, version)
    return version in _numbers(_told(channels)) or any(version == entry.get("to") for entry in _audit(channels))


def kept(models: str, name: str) -> set[int]:
    """The versions that must stay: every number that ``channels.json`` names, also in an entry of a form of its own."""
    return _numbers(read(models, name))


def switch(models: str, name: str, version: int, *, who: str = "", why: str = "") -> dict[str, Any]:
    """Make a newly pushed version the champion and the champion before it ``previous``.

    Only a version newer than every champion so far takes over. So when two pushes end in the other order than they
    began, or one is tried again after a later one, the newest version serves; and a version that was rolled back
    does not return when its push is tried again. Other entries of the file are kept.

    Args:
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        version: its number.
        who: publishes it, for the audit; by default `user`.
        why: it is published.

    Returns:
        The channels after the switch.

    Raises:
        ValueError: the version was removed, or ``channels.json`` is not what this function writes.
    """

    def promoted(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        _refuse_removed(channels, name, version)
        return channels if version <= _newest(channels) else _moved(channels, CHAMPION, version, entry)

    return _told(_change(models, name, _entry("push", who, why), promoted))


def move(
    models: str,
    name: str,
    version: int,
    *,
    channel: str = CHAMPION,
    who: str = "",
    why: str,
    action: str = "promote",
    seen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Let a channel name a version, also an older one: what a person decides.

    The champion before becomes ``previous``. A version that the channel names already changes nothing.

    Args:
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        version: its number.
        channel: "champion", "challenger" or any other plain name but "previous".
        who: decides; by default `user`.
        why: for the audit.
        action: for the audit.
        seen: what the decision was made on, by channel: when these have changed since, nothing is moved.

    Returns:
        The channels after the move.

    Raises:
        ValueError: there is no reason, the channel has no proper name, the version was removed, or the channels have
            changed since.
    """
    check_channel(channel)
    check_reason(why)

    def moved(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        _refuse_removed(channels, name, version)
        _refuse_changed(channels, name, seen or {})
        _number(channels, channel)
        return channels if channels.get(channel) == version else _moved(channels, channel, version, entry)

    return _told(_change(models, name, _entry(action, who, why), moved))


def check_channel(channel: str) -> None:
    """Raise ValueError unless a person may let this channel name a version."""
    if channel == PREVIOUS:
        raise ValueError(f"{PREVIOUS!r} follows the champion: to go back to a version, promote it as champion")
    if channel == AUDIT or not re.fullmatch(_NAME, channel):
        raise ValueError(f"expected a channel name of letters, digits, '.', '_' and '-', not 'audit', got {channel!r}")


def check_reason(why: str) -> None:
    """Raise ValueError unless there is a reason for the audit."""
    if not why.strip():
        raise ValueError("expected a reason for the audit, got an empty one")


def remove(models: str, name: str, versions: Collection[int], *, who: str = "", why: str) -> list[int]:
    """Give versions up, before their files are removed: from then on no channel can name them.

    Returns:
        Those whose files may be removed: all but those that a channel names.
    """
    base = folder(models, name)
    _swap(storage.join(base, "versions.json"), _versions, lambda owners: {str(each): {} for each in versions} | owners)

    def removed(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        going = sorted(set(versions) - _numbers(_told(channels)) - _removed(channels))
        return _noted(channels, entry | {"removed": going}) if going else channels

    channels = _change(models, name, _entry("gc", who, why), removed)
    gone = _removed(channels) - _numbers(_told(channels))
    return [version for version in versions if version in gone]


def removed(models: str, name: str) -> set[int]:
    """The versions that were given up by `remove`."""
    return _removed(_read(models, name))


def claim(models: str, name: str, run: str, scorer: str) -> int:
    """Take the next free version number; the same run and scorer get the number that they took before.

    Args:
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        run: of the pipeline.
        scorer: fingerprint of what is published, so that a run resumed with another scorer takes a new number.

    Returns:
        The number, from 1: higher than any taken before and any version folder there.
    """
    base = folder(models, name)
    mine = {"run": run, "scorer": scorer}
    present = [int(version) for version in storage.folders(base) if version.isdecimal()]

    def claimed(owners: dict[str, Any]) -> dict[str, Any]:
        version = _of(owners, mine)
        if version and (begun := _time(owners[version])) and datetime.now(UTC) - begun < _RENEWAL:
            return owners
        return {**owners, version or str(1 + max([0, *present, *map(int, owners)])): {**mine, "claimed": _now()}}

    return int(_of(_swap(storage.join(base, "versions.json"), _versions, claimed), mine) or 0)


def claims(models: str, name: str) -> dict[int, datetime]:
    """When each number was claimed, as far as it is known."""
    uri = storage.join(folder(models, name), "versions.json")
    owners = _versions(uri, storage.read_versioned(uri)[0])
    return {int(version): begun for version, owner in owners.items() if (begun := _time(owner))}


def abandon(models: str, name: str, versions: Collection[int]) -> list[int]:
    """Declare pushes that were never completed dead, before what they have written is removed.

    A push that is tried again afterwards takes a new number. Of a version for which no time of its claim is known the
    day begins now.

    Returns:
        Those versions whose push is dead: the others may still be under way.
    """

    def abandoned(owners: dict[str, Any]) -> dict[str, Any]:
        after = dict(owners)
        for version in map(str, versions):
            owner = owners.get(version, {})
            if (begun := _time(owner)) is None:
                after[version] = {**owner, "claimed": _now()}
            elif "abandoned" not in owner and datetime.now(UTC) - begun > UNFINISHED:
                after[version] = {**owner, "abandoned": _now()}
        return after

    owners = _swap(storage.join(folder(models, name), "versions.json"), _versions, abandoned)
    return [version for version in versions if "abandoned" in owners[str(version)]]


def version_of(uri: str) -> int | None:
    """The number that names a version's folder; None when it is not named by one."""
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    return int(last) if last.isdecimal() else None


def resolve(uri: str) -> str:
    """The version that an address means.

    Args:
        uri: a version's folder; a model's folder, for its champion; or the folder of all models, when there
            is just one.

    Returns:
        The version's folder.

    Raises:
        FileNotFoundError: there is no version at the address.
        ValueError: several models are.
    """
    if storage.exists(storage.join(uri, COMPLETE)):
        return uri
    if (champion := _champion_of(uri)) is not None:
        return storage.join(uri, str(champion))
    models = {name: champion for name in storage.folders(uri) if (champion := _champion_of(storage.join(uri, name)))}
    if len(models) > 1:
        raise ValueError(f"expected one model in {uri}, found {sorted(models)}; name one: {uri}/{min(models)}")
    for name, champion in models.items():
        return storage.join(uri, name, str(champion))
    raise FileNotFoundError(
        f"expected a published version ({COMPLETE}) or a model's folder (channels.json with a champion) at {uri},"
        " found neither"
    )


def _read(models: str, name: str) -> dict[str, Any]:
    uri = storage.join(folder(models, name), "channels.json")
    return _channels(uri, storage.read_versioned(uri)[0])


def _told(channels: dict[str, Any]) -> dict[str, Any]:
    """The file's content without the audit."""
    return {channel: version for channel, version in channels.items() if channel != AUDIT}


def _audit(channels: dict[str, Any]) -> list[dict[str, Any]]:
    return channels.get(AUDIT, [])


def _entry(action: str, who: str, why: str) -> dict[str, Any]:
    words = " ".join(why.split())
    return {"id": uuid.uuid4().hex[:12], "when": _now(), "who": who or user(), "action": action, "why": words}


def _noted(channels: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    return {**_told(channels), AUDIT: [*_audit(channels), entry]}


def _moved(channels: dict[str, Any], channel: str, version: int, entry: dict[str, Any]) -> dict[str, Any]:
    before = channels.get(channel)
    after = {channel: version, PREVIOUS: before} if channel == CHAMPION else {channel: version}
    return _noted(channels | after, entry | {"channel": channel, "from": before, "to": version})


def _newest(channels: dict[str, Any]) -> int:
    """The highest version that ever was champion; 0 when none was."""
    seen = [channels.get(CHAMPION), channels.get(PREVIOUS)]
    for entry in _audit(channels):
        if entry.get("channel") == CHAMPION:
            seen += [entry.get("from"), entry.get("to")]
    return max([0, *(version for version in seen if isinstance(version, int))])


def _removed(channels: dict[str, Any]) -> set[int]:
    return {version for entry in _audit(channels) for version in entry.get("removed", [])}


def _numbers(value: Any) -> set[int]:
    """Every version number in a value, however an entry that a person has added may name it."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return set().union(*map(_numbers, value))
    return {int(value)} if re.fullmatch("[0-9]+", str(value)) else set()


def _refuse_removed(channels: dict[str, Any], name: str, version: int) -> None:
    for entry in _audit(channels):
        if version in entry.get("removed", []):
            by = f"by {entry.get('who')} on {entry.get('when')}"
            raise ValueError(f"version {version} of {name} was removed {by}: train or publish it again in a new run")


def _refuse_changed(channels: dict[str, Any], name: str, seen: Mapping[str, Any]) -> None:
    for channel, version in seen.items():
        if (now := channels.get(channel)) != version:
            raise ValueError(
                f"the {channel} of {name} has just been moved by someone else: expected version {version}, found {now};"
                " nothing was changed, look at the channels again"
            )


def _change(
    models: str,
    name: str,
    entry: dict[str, Any],
    change: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Change the channels once: a write whose answer got lost is known by its entry, also after later ones."""

    def once(channels: dict[str, Any]) -> dict[str, Any]:
        done = any(each.get("id") == entry["id"] for each in _audit(channels))
        return channels if done else change(channels, entry)

    return _swap(storage.join(folder(models, name), "channels.json"), _channels, once)


def _swap(
    uri: str,
    parse: Callable[[str, bytes | None], dict[str, Any]],
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Change a JSON file by compare-and-swap; returns what it holds afterwards."""
    for _ in range(_TRIES):
        data, version = storage.read_versioned(uri)
        before = parse(uri, data)
        after = change(before)
        if after == before:
            return before
        try:
            storage.write_if(uri, storage.to_json(after), version)
            return after
        except storage.Conflict:
            time.sleep(random.uniform(0, _PAUSE))
    raise storage.Conflict(f"{uri} was written by others {_TRIES} times in a row; try again when they have ended")


def _channels(uri: str, data: bytes | None) -> dict[str, Any]:
    channels = _object(uri, data)
    for channel in (CHAMPION, PREVIOUS):
        _number(channels, channel, uri)
    entries = channels.get(AUDIT, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"expected a list of objects as {AUDIT} in {uri}, got {str(entries)[:40]!r}; mend it by hand")
    return channels


def _number(channels: dict[str, Any], channel: str, uri: str = "channels.json") -> None:
    """Raise ValueError unless the channel is free or names a version."""
    version = channels.get(channel)
    if version is not None and (type(version) is not int or version < 1):
        raise ValueError(f"expected a version number as {channel} in {uri}, got {version!r}; mend the file by hand")


def _versions(uri: str, data: bytes | None) -> dict[str, Any]:
    versions = _object(uri, data)
    if wrong := [version for version in versions if not version.isdecimal()]:
        raise ValueError(f"expected version numbers as keys in {uri}, got {wrong[0]!r}; mend the file by hand")
    if wrong := [version for version, owner in versions.items() if not isinstance(owner, dict)]:
        raise ValueError(f"expected an object for version {wrong[0]} in {uri}; mend the file by hand")
    return versions


def _of(owners: dict[str, Any], mine: dict[str, str]) -> str | None:
    """The number that a run and scorer have taken and not lost."""
    return next(
        (number for number, owner in owners.items() if mine.items() <= owner.items() and "abandoned" not in owner), None
    )


def _time(owner: dict[str, Any]) -> datetime | None:
    """When a number was claimed; None where that was not written down."""
    try:
        return datetime.fromisoformat(owner["claimed"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _object(uri: str, data: bytes | None) -> dict[str, Any]:
    try:
        value = {} if data is None else json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {uri}, got {data[:40]!r}; mend the file by hand")
    return value


def _champion_of(uri: str) -> int | None:
    try:
        return storage.read_json(storage.join(uri, "channels.json")).get(CHAMPION)
    except FileNotFoundError:
        return None
