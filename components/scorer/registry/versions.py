"""The published versions of a model as people handle them: looked at, promoted, rolled back, removed when old.

A version is loaded and answers its warm-up photos before a channel is made to name it, and every change is part of the
audit that `channels` keeps.
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

_VERSION = "[1-9][0-9]*"  # a folder of this name is a version
_READERS = 8  # records read at a time


@dataclass(frozen=True)
class Version:
    """What is known of a version; empty, where its record does not tell.

    Attributes:
        version: its number.
        state: "complete"; "incomplete" while its push is under way or when that was killed; "removed" when its removal
            broke off; "missing" when a channel names it and it is not there.
        channels: those that name it.
        date: of its publication, ISO 8601.
        run: id of the pipeline's run.
        revision: git revision of the code that trained it.
        verdict: of its gates, "published" or "forced".
        override: why a person overruled the gates.
        srcc: rank correlation with people on its test photos, -1..1.
        bytes: of all its files.
    """

    version: int
    state: Literal["complete", "incomplete", "removed", "missing"]
    channels: tuple[str, ...] = ()
    date: str = ""
    run: str = ""
    revision: str = ""
    verdict: str = ""
    override: str = ""
    srcc: float | None = None
    bytes: int = 0


def find(uri: str) -> list[tuple[str, str]]:
    """The models at an address, each as the folder of all models and its name.

    Args:
        uri: a model's folder, or the folder of all models; local, ``gs://`` or ``s3://``.

    Raises:
        FileNotFoundError: there is no model.
    """
    uri = _absolute(uri)
    if _is_model(uri):
        return [_split(uri)]
    found = [(uri, name) for name in storage.folders(uri) if _is_model(storage.join(uri, name))]
    if not found:
        raise FileNotFoundError(f"expected a model's folder (channels.json, or versions 1, 2, …) at {uri}, found none")
    return found


def model(uri: str) -> tuple[str, str]:
    """The one model that an address means: the folder of all models, and its name.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: it is the address of all models.
    """
    uri = _absolute(uri)
    if not _is_model(uri):
        names = [name for _, name in find(uri)]
        raise ValueError(f"expected a model's folder, got that of the models {names}; name one: {uri}/{names[0]}")
    return _split(uri)


def versions(models: str, name: str) -> list[Version]:
    """Every version of a model that is there or named by a channel, newest first."""
    base = channels.folder(models, name)
    files: dict[int, dict[str, int]] = {}
    for file in storage.files(base):
        number, _, path = file.name.partition("/")
        if path and re.fullmatch(_VERSION, number):
            files.setdefault(int(number), {})[path] = file.size
    naming: dict[int, list[str]] = {}
    for channel, version in channels.read(models, name).items():
        if type(version) is int:
            naming.setdefault(version, []).append(channel)
    removed, claims = channels.removed(models, name), channels.claims(models, name)

    def told(version: int) -> Version:
        inside = files.get(version, {})
        state = "missing" if not inside else "complete" if channels.COMPLETE in inside else "incomplete"
        record = _record(storage.join(base, str(version), "version.json")) if "version.json" in inside else {}
        made = _object(record.get("decision"))
        claimed = claims[version].date().isoformat() if version in claims else ""
        return Version(
            version,
            "removed" if inside and version in removed else state,
            tuple(naming.get(version, ())),
            date=_text(record.get("date")) or claimed,
            run=_text(record.get("run")),
            revision=_text(record.get("revision")),
            verdict=_text(made.get("verdict")),
            override=_text(made.get("override")),
            srcc=_srcc(made),
            bytes=sum(inside.values()),
        )

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(told, sorted({*files, *naming}, reverse=True)))


def collect(
    models: str, name: str, *, keep: int, older_than: int | None = None, dry_run: bool = False, who: str = ""
) -> Iterator[Version]:
    """Remove old versions, and what pushes that were killed have left.

    The newest stay, and whatever a channel names, and what was claimed within the last day and never was named, whose
    push may be under way. Half-written versions go a day after their claim. A version is given up in the audit before
    its files go, so that no channel can be moved to it meanwhile; and its number is never given again.

    Args:
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        keep: how many of the newest complete versions stay at least.
        older_than: days; what was published since stays too, as does what does not say when it was.
        dry_run: remove nothing.
        who: decides; by default `channels.user`.

    Yields:
        Each version that is removed, or would be, once its files are gone.

    Raises:
        ValueError: a number is negative.
    """
    if keep < 0 or (older_than or 0) < 0:
        raise ValueError(f"expected numbers of 0 or more, got keep {keep} and older_than {older_than}")
    why = f"keep {keep}" + (f", older than {older_than} days" if older_than is not None else "")
    kept, claims = channels.kept(models, name), channels.claims(models, name)
    found = versions(models, name)
    lately = {each for each, begun in claims.items() if datetime.now(UTC) - begun <= channels.UNFINISHED}
    busy = lately - {entry.get("to") for entry in channels.audit(models, name)}
    whole = [each for each in found if each.state == "complete"][keep:]
    free = [each for each in found if each.version not in kept]
    old = [each for each in whole if each in free and each.version not in busy and _older(each, older_than)]
    left = [each for each in free if each.state == "removed"]  # of a removal that broke off
    half = [each for each in free if each.state == "incomplete"]
    if dry_run:
        dead = [each for each in half if each.version in claims and each.version not in lately]
        yield from sorted([*old, *left, *dead], key=lambda each: each.version)
        return
    abandoned = channels.abandon(models, name, [each.version for each in half])
    going = {each.version: each for each in [*old, *left, *half] if each not in half or each.version in abandoned}
    for version in channels.remove(models, name, sorted(going), who=who, why=why):
        storage.delete_tree(channels.address(models, name, version))
        yield going[version]


def _older(version: Version, days: int | None) -> bool:
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
    if models.endswith("/"):  # the name is a bucket's
        raise ValueError(f"expected a model in a folder of models, got {uri}")
    return models or "/", name


def _is_model(uri: str) -> bool:
    return (
        storage.exists(storage.join(uri, "channels.json"))
        or storage.exists(storage.join(uri, "versions.json"))
        or any(re.fullmatch(_VERSION, each) for each in storage.folders(uri))
    )


def _record(uri: str) -> dict[str, Any]:
    """A version's own record; empty where it is damaged, or has just been removed."""
    try:
        return _object(storage.read_json(uri))
    except (FileNotFoundError, ValueError):
        return {}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _srcc(made: dict[str, Any]) -> float | None:
    """The gate's figure."""
    gates = made.get("gates")
    values = [_object(gate).get("value") for gate in gates if _object(gate).get("key") == "srcc"] if gates else []
    return next((value for value in values if isinstance(value, float) and math.isfinite(value)), None)
