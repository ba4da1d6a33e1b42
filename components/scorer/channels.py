"""Which version of a model is whose, and which one serves: two small files beside the versions.

    <models>/<name>/versions.json    {"1": {"run": …, "scorer": …}, …}   who took which number
    <models>/<name>/channels.json    {"champion": 3, "previous": 2}      which version answers

Both are changed by compare-and-swap only, so that any number of pushes may run at once: no number is given
twice, and no change is lost. Numbers only grow and are never given again, also when a version was removed.
"""

import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

from components.scorer import storage

_TRIES = 50  # of a swap; each lost one means that another writer's succeeded
_PAUSE = 0.05  # seconds at most before the next try, drawn by chance so that rivals do not meet again


def folder(models: str, name: str) -> str:
    """The address of a model's versions: ``<models>/<name>``.

    Raises:
        ValueError: the name is not one plain folder name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise ValueError(f"expected a model name of letters, digits, '.', '_' and '-', got {name!r}")
    return storage.join(models, name)


def read(models: str, name: str) -> dict[str, Any]:
    """The channels of a model: ``champion`` and ``previous`` are version numbers; empty when none is published.

    Raises:
        ValueError: ``channels.json`` is not what `switch` writes.
    """
    uri = storage.join(folder(models, name), "channels.json")
    data, _ = storage.read_versioned(uri)
    return _channels(uri, data)


def switch(models: str, name: str, version: int) -> dict[str, Any]:
    """Make a version the champion and the champion before it ``previous``.

    A newer champion stays: when two pushes end in the other order than they began, or one is tried again
    after a later one, the newest version serves. Other entries of the file are kept.

    Returns:
        The channels after the switch.
    """

    def promoted(channels: dict[str, Any]) -> dict[str, Any]:
        champion = channels.get("champion")
        if champion is not None and champion >= version:
            return channels
        return {**channels, "champion": version, "previous": champion}

    return _swap(storage.join(folder(models, name), "channels.json"), _channels, promoted)


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

    def claimed(versions: dict[str, Any]) -> dict[str, Any]:
        if mine in versions.values():
            return versions
        return {**versions, str(1 + max([0, *present, *map(int, versions)])): mine}

    versions = _swap(storage.join(base, "versions.json"), _versions, claimed)
    return next(int(version) for version, owner in versions.items() if owner == mine)


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
    for channel in ("champion", "previous"):
        version = channels.get(channel)
        if version is not None and (type(version) is not int or version < 1):
            raise ValueError(f"expected a version number as {channel} in {uri}, got {version!r}; mend the file by hand")
    return channels


def _versions(uri: str, data: bytes | None) -> dict[str, Any]:
    versions = _object(uri, data)
    if wrong := [version for version in versions if not version.isdecimal()]:
        raise ValueError(f"expected version numbers as keys in {uri}, got {wrong[0]!r}; mend the file by hand")
    return versions


def _object(uri: str, data: bytes | None) -> dict[str, Any]:
    try:
        value = {} if data is None else json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {uri}, got {data[:40]!r}; mend the file by hand")
    return value
