"""What the command line says of published versions and their channels."""

import json
from collections.abc import Iterable
from textwrap import shorten
from typing import Any

from components.scorer.registry import channels, versions
from components.scorer.registry.versions import Version
from components.scorer.run.decision import plain

_LAST = 10  # entries of the audit that people are shown
_WIDTH = 40  # characters of a reason in a table; JSON has the whole


def as_json(found: Iterable[tuple[str, str]], audit: bool) -> str:
    """Models by name, as JSON: their channels, versions and, if wanted, the whole audit.

    Args:
        found: the folder of all models and the name, for each.
        audit: whether it is wanted.
    """
    told = {}
    for models, name in found:
        told[name] = {"channels": channels.read(models, name), "versions": plain(versions.versions(models, name))}
        if audit:
            told[name]["audit"] = channels.audit(models, name)
    return json.dumps(told, indent=2, ensure_ascii=False)


def as_text(found: Iterable[tuple[str, str]], audit: bool) -> str:
    """The same for people, a table each; of the audit the last entries."""
    parts = []
    for models, name in found:
        parts.append(f"{name}\n{_table([_row(each) for each in versions.versions(models, name)])}")
        if audit:
            parts[-1] += "\n" + "\n".join(map(_entry, channels.audit(models, name)[-_LAST:]))
    return "\n\n".join(parts)


def channels_of(name: str, named: dict[str, Any]) -> str:
    """One line: which version each channel of a model names."""
    said = [f"{channel} is version {version}" for channel, version in named.items() if type(version) is int]
    return f"{name}: {', '.join(said)}"


def _row(version: Version) -> dict[str, str]:
    verdict = version.verdict if version.state == "complete" else version.state.upper()
    return {
        "version": str(version.version),
        "channels": ", ".join(version.channels),
        "date": version.date,
        "run": version.run,
        "revision": version.revision,
        "verdict": shorten(f"FORCED: {version.override}", _WIDTH) if verdict == "forced" else verdict,
        "SRCC": "" if version.srcc is None else f"{version.srcc:.3f}",
        "MB": f"{version.bytes / 1e6:.1f}",
    }


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "no version"
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _entry(entry: dict[str, Any]) -> str:
    if "removed" in entry:
        what = f"removed {', '.join(map(str, entry['removed']))}"
    else:
        what = f"{entry.get('channel')} {entry.get('from') or 'none'} -> {entry.get('to')}"
    return f"{entry.get('when')}  {entry.get('action')}: {what}, by {entry.get('who')}: {entry.get('why')}"
