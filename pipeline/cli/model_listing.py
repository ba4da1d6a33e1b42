"""Listing of published versions and their channels, as JSON and as text."""

import json
from collections.abc import Iterable
from textwrap import shorten
from typing import Any

from components.scorer.registry import channels, versions
from components.scorer.registry.versions import VersionInfo
from components.scorer.run.decision import to_json_value

_AUDIT_ENTRIES = 10  # latest audit entries in the text listing
_REASON_WIDTH = 40  # characters of a reason in the table; JSON has the full reason


def as_json(models: Iterable[tuple[str, str]], audit: bool) -> str:
    """Return models by name as JSON: channels, versions and, optionally, the whole audit.

    Args:
        models: Pairs (address of all models, name of the model).
        audit: True to add the audit.
    """
    listing = {}
    for folder, name in models:
        listing[name] = {
            "channels": channels.read(folder, name),
            "versions": to_json_value(versions.list_versions(folder, name)),
        }
        if audit:
            listing[name]["audit"] = channels.audit(folder, name)
    return json.dumps(listing, indent=2, ensure_ascii=False)


def as_text(models: Iterable[tuple[str, str]], audit: bool) -> str:
    """Return a text table of versions for each model, optionally with the latest audit entries.

    Args:
        models: Pairs (address of all models, name of the model).
        audit: True to add the latest audit entries.
    """
    parts = []
    for folder, name in models:
        parts.append(f"{name}\n{_table([_row(version) for version in versions.list_versions(folder, name)])}")
        if audit:
            parts[-1] += "\n" + "\n".join(map(_audit_line, channels.audit(folder, name)[-_AUDIT_ENTRIES:]))
    return "\n\n".join(parts)


def channels_line(name: str, versions_by_channel: dict[str, Any]) -> str:
    """Return one line with the version of each channel of a model.

    Args:
        name: Name of the model.
        versions_by_channel: Content of the channels file; keys whose value is not a version number are skipped.
    """
    phrases = [
        f"{channel} is version {version}" for channel, version in versions_by_channel.items() if type(version) is int
    ]
    return f"{name}: {', '.join(phrases)}"


def _row(version: VersionInfo) -> dict[str, str]:
    verdict = version.verdict if version.state == "complete" else version.state.upper()
    return {
        "version": str(version.version),
        "channels": ", ".join(version.channels),
        "date": version.date,
        "run": version.run,
        "revision": version.revision,
        "verdict": shorten(f"FORCED: {version.override}", _REASON_WIDTH) if verdict == "forced" else verdict,
        "SRCC": "" if version.srcc is None else f"{version.srcc:.3f}",
        "MB": f"{version.bytes / 1e6:.1f}",
    }


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "no version"
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _audit_line(entry: dict[str, Any]) -> str:
    if "removed" in entry:
        change = f"removed {', '.join(map(str, entry['removed']))}"
    else:
        change = f"{entry.get('channel')} {entry.get('from') or 'none'} -> {entry.get('to')}"
    return f"{entry.get('when')}  {entry.get('action')}: {change}, by {entry.get('who')}: {entry.get('why')}"
