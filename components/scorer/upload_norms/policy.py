"""The file of upload norms, read and checked.

Each norm names a detector, the threshold that its value is held against, and the sentence that the person reads. The
file beside this module, ``norms.json``, is in force unless the client gives another with other thresholds, sentences,
fewer norms, or more of the same detectors.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.scorer.upload_norms.detectors import DETECTORS

BUILT_IN = Path(__file__).with_name("norms.json")
"""The norms that are in force when the client gives none."""


@dataclass(frozen=True)
class Check:
    """One way of finding out whether a norm is kept.

    Attributes:
        detector: name of one of `DETECTORS`.
        threshold: that its value is held against.
        parameters: of the detector, complete.
        jobs: other thresholds, by the job that the person offers to do.
    """

    detector: str
    threshold: float
    parameters: Mapping[str, float] = field(default_factory=dict)
    jobs: Mapping[str, float] = field(default_factory=dict)

    def allowed(self, job: str) -> float:
        """The threshold for a person who offers to do this job; "" where it is not known."""
        return self.jobs.get(job, self.threshold)


@dataclass(frozen=True)
class Norm:
    """One thing that a portrait must not be.

    Attributes:
        key: a name for programs.
        check: how it is checked.
        sentence: what the person reads who broke it.
        otherwise: how it is checked where the scorer has not learnt the attribute that ``check`` asks for.
        unless: keys of norms that explain what this one would find: when one of them is broken, this one is silent.
        attribute: the column of the data set that knows whether the norm is broken.
        yes: the value in that column that says so.
        source: where the threshold comes from.
    """

    key: str
    check: Check
    sentence: str
    otherwise: Check | None = None
    unless: tuple[str, ...] = ()
    attribute: str = ""
    yes: str = "yes"
    source: str = ""


@dataclass(frozen=True)
class Norms:
    """The norms in force, in the order in which people read them."""

    norms: tuple[Norm, ...]

    @property
    def attributes(self) -> dict[str, str]:
        """The columns that the scorer is asked to learn, each with the value whose probability counts."""
        return {norm.attribute: norm.yes for norm in self.norms if norm.check.detector == "attribute"}


@dataclass(frozen=True)
class Finding:
    """What became of one norm on one photo.

    Attributes:
        key: of the norm.
        kept: None when it could not be checked.
        value: that the detector measured; None when it could not.
        threshold: that the value was held against.
        sentence: what the person reads; empty unless the norm is broken.
        why: why it could not be checked; empty when it was.
    """

    key: str
    kept: bool | None
    value: float | None
    threshold: float
    sentence: str = ""
    why: str = ""


NO_DETECTOR = "faces were not looked for: no face detector is configured"
NO_FACE = "there is no face to check"
NOT_LEARNT = "the scorer has not learnt the attribute {attribute!r}"
EXPLAINED = "{key} says it already"


# ---- the file


def load(source: bytes | str | Mapping[str, Any] | None = None) -> Norms:
    """Read and check a norms file.

    Args:
        source: the file's content, or what it holds; None: the built-in norms.

    Raises:
        ValueError: the content is not JSON, or not norms; the message names the norm, what was expected and what came.
    """
    if source is None:
        source = BUILT_IN.read_bytes()
    if not isinstance(source, Mapping):
        try:
            source = json.loads(source)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"expected norms as JSON, got text that is none: {error}") from error
    entries = _entries(source)
    norms: list[Norm] = []
    for place, entry in enumerate(entries):
        norms.append(_norm(entry, f"norm {place + 1}", [norm.key for norm in norms]))
    return Norms(tuple(norms))


_KEY = re.compile(r"[a-z][a-z0-9_]*")
_CHECK = {"detector", "threshold", "parameters", "jobs"}
_NORM = _CHECK | {"key", "sentence", "otherwise", "unless", "attribute", "yes", "source"}


def _entries(value: Any) -> list:
    if not isinstance(value, Mapping) or set(value) != {"norms"} or not isinstance(value["norms"], list):
        got = f"an object with {sorted(value)}" if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f'expected norms as {{"norms": [...]}}, got {got}')
    return value["norms"]


def _norm(entry: Any, where: str, before: Sequence[str]) -> Norm:
    _fields(entry, _NORM, {"key", "detector", "threshold", "sentence"}, where)
    key = _text(entry, "key", where)
    if not _KEY.fullmatch(key):
        raise ValueError(f"{where}: expected a key of small letters, digits and _, got {key!r}")
    where = f"norm {key!r}"
    if key in before:
        raise ValueError(f"{where}: expected each key once, got it twice")
    otherwise = _otherwise(entry, where)
    unless = entry.get("unless", [])
    if not isinstance(unless, list) or not set(map(str, unless)) <= set(before):
        raise ValueError(f"{where}: expected unless to be a list of keys of earlier norms ({before}), got {unless!r}")
    return Norm(
        key,
        _check(entry, where),
        _text(entry, "sentence", where),
        otherwise,
        tuple(unless),
        _text(entry, "attribute", where, default=key),
        _text(entry, "yes", where, default="yes"),
        _text(entry, "source", where, default=""),
    )


def _otherwise(entry: Mapping[str, Any], where: str) -> Check | None:
    if "otherwise" not in entry:
        return None
    if entry["detector"] != "attribute":
        raise ValueError(f"{where}: expected otherwise beside the detector 'attribute' only, got {entry['detector']!r}")
    where = f"{where}, otherwise"
    _fields(entry["otherwise"], _CHECK, {"detector", "threshold"}, where)
    way = _check(entry["otherwise"], where)
    if way.detector == "attribute":
        raise ValueError(f"{where}: expected a detector that needs nothing learnt, got 'attribute'")
    return way


def _check(entry: Mapping[str, Any], where: str) -> Check:
    name = entry["detector"]
    if not isinstance(name, str) or name not in DETECTORS:
        raise ValueError(f"{where}: expected a detector among {sorted(DETECTORS)}, got {name!r}")
    detector = DETECTORS[name]
    jobs, parameters = _object(entry, "jobs", where), _object(entry, "parameters", where)
    _fields(parameters, set(detector.parameters), set(), f"{where}, parameters of {name!r}")
    return Check(
        name,
        _number(entry["threshold"], detector.lowest, detector.highest, f"{where}: threshold"),
        {
            each: _number(parameters.get(each, default), lowest, highest, f"{where}: {each}")
            for each, (default, lowest, highest) in detector.parameters.items()
        },
        {
            job: _number(value, detector.lowest, detector.highest, f"{where}: threshold for the job {job!r}")
            for job, value in jobs.items()
        },
    )


def _fields(entry: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected an object, got {entry!r}")
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"{where}: expected fields among {sorted(known)}, got {unknown[0]!r}")
    if missing := sorted(needed - set(entry)):
        raise ValueError(f"{where}: expected {sorted(needed)}, got no {missing[0]!r}")


def _object(entry: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = entry.get(name, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected {name} to be an object, got {value!r}")
    return value


def _text(entry: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise ValueError(f"{where}: expected {name} to be a text, got {value!r}")
    return value


def _number(value: Any, lowest: float, highest: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise ValueError(f"{what} must be a number from {lowest} to {highest}, got {value!r}")
    return float(value)
