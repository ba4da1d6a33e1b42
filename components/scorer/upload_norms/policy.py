"""The file of upload norms: reading and validation.

Each norm names a detector, a threshold for its value, and the sentence that the person reads. The default file is
``norms.json`` beside this module. The client may give another file with other thresholds, other sentences, fewer norms,
or more norms of the same detectors.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.scorer.upload_norms.detectors import DETECTORS

BUILT_IN_POLICY = Path(__file__).with_name("norms.json")
"""Path of the default norms file."""


@dataclass(frozen=True)
class RuleCheck:
    """Rule that decides whether a norm is kept.

    Attributes:
        detector: Name of one of `DETECTORS`.
        threshold: Threshold for the detector's value.
        parameters: All parameters of the detector, defaults included.
        jobs: Thresholds that replace ``threshold``, by the job that the person offers to do.
    """

    detector: str
    threshold: float
    parameters: Mapping[str, float] = field(default_factory=dict)
    jobs: Mapping[str, float] = field(default_factory=dict)

    def threshold_for(self, job: str) -> float:
        """Return the threshold for a person who offers to do this job; "" is an unknown job."""
        return self.jobs.get(job, self.threshold)


@dataclass(frozen=True)
class UploadNorm:
    """One requirement of a portrait.

    Attributes:
        key: Identifier for programs.
        check: Rule of the norm.
        sentence: Message to the person whose photo breaks the norm.
        otherwise: Rule to use if the scorer has not learnt the attribute of ``check``.
        unless: Keys of earlier norms that explain this one. If one of them is broken, this norm is not checked.
        attribute: Data set column that holds people's labels of the norm.
        yes: Value of the column that means broken.
        source: Origin of the threshold.
    """

    key: str
    check: RuleCheck
    sentence: str
    otherwise: RuleCheck | None = None
    unless: tuple[str, ...] = ()
    attribute: str = ""
    yes: str = "yes"
    source: str = ""


@dataclass(frozen=True)
class UploadPolicy:
    """Norms in force, in the order in which people read them."""

    norms: tuple[UploadNorm, ...]

    @property
    def attributes(self) -> dict[str, str]:
        """Columns that the scorer has to learn, each with the value whose probability counts."""
        return {norm.attribute: norm.yes for norm in self.norms if norm.check.detector == "attribute"}


@dataclass(frozen=True)
class NormResult:
    """Result of one norm on one photo.

    Attributes:
        key: Key of the norm.
        kept: True if the photo keeps the norm; None if it could not be checked.
        value: Measured value; None if it could not be measured.
        threshold: Threshold that applied.
        sentence: Message to the person; "" unless the norm is broken.
        why: Reason why the norm could not be checked; "" if it was.
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
EXPLAINED_BY = "{key} says it already"


def load(source: bytes | str | Mapping[str, Any] | None = None) -> UploadPolicy:
    """Read and validate a norms file.

    Args:
        source: Content of the file, or its parsed object. None loads the built-in norms.

    Raises:
        ValueError: The content is not JSON or not a valid norms file. The message names the norm, the expected and the
            actual value.
    """
    if source is None:
        source = BUILT_IN_POLICY.read_bytes()
    if not isinstance(source, Mapping):
        try:
            source = json.loads(source)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"expected norms as JSON, got text that is none: {error}") from error
    entries = _entries(source)
    norms: list[UploadNorm] = []
    for index, entry in enumerate(entries):
        norms.append(_norm(entry, f"norm {index + 1}", [norm.key for norm in norms]))
    return UploadPolicy(tuple(norms))


_KEY_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
_CHECK_FIELDS = {"detector", "threshold", "parameters", "jobs"}
_NORM_FIELDS = _CHECK_FIELDS | {"key", "sentence", "otherwise", "unless", "attribute", "yes", "source"}


def _entries(value: Any) -> list:
    if not isinstance(value, Mapping) or set(value) != {"norms"} or not isinstance(value["norms"], list):
        got = f"an object with {sorted(value)}" if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f'expected norms as {{"norms": [...]}}, got {got}')
    return value["norms"]


def _norm(entry: Any, where: str, known_keys: Sequence[str]) -> UploadNorm:
    _check_fields(entry, _NORM_FIELDS, {"key", "detector", "threshold", "sentence"}, where)
    key = _text(entry, "key", where)
    if not _KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{where}: expected a key of small letters, digits and _, got {key!r}")
    where = f"norm {key!r}"
    if key in known_keys:
        raise ValueError(f"{where}: expected each key once, got it twice")
    otherwise = _otherwise(entry, where)
    unless = entry.get("unless", [])
    if not isinstance(unless, list) or not set(map(str, unless)) <= set(known_keys):
        raise ValueError(
            f"{where}: expected unless to be a list of keys of earlier norms ({known_keys}), got {unless!r}"
        )
    return UploadNorm(
        key,
        _check(entry, where),
        _text(entry, "sentence", where),
        otherwise,
        tuple(unless),
        _text(entry, "attribute", where, default=key),
        _text(entry, "yes", where, default="yes"),
        _text(entry, "source", where, default=""),
    )


def _otherwise(entry: Mapping[str, Any], where: str) -> RuleCheck | None:
    if "otherwise" not in entry:
        return None
    if entry["detector"] != "attribute":
        raise ValueError(f"{where}: expected otherwise beside the detector 'attribute' only, got {entry['detector']!r}")
    where = f"{where}, otherwise"
    _check_fields(entry["otherwise"], _CHECK_FIELDS, {"detector", "threshold"}, where)
    check = _check(entry["otherwise"], where)
    if check.detector == "attribute":
        raise ValueError(f"{where}: expected a detector that needs nothing learnt, got 'attribute'")
    return check


def _check(entry: Mapping[str, Any], where: str) -> RuleCheck:
    name = entry["detector"]
    if not isinstance(name, str) or name not in DETECTORS:
        raise ValueError(f"{where}: expected a detector among {sorted(DETECTORS)}, got {name!r}")
    detector = DETECTORS[name]
    jobs, parameters = _object(entry, "jobs", where), _object(entry, "parameters", where)
    _check_fields(parameters, set(detector.parameters), set(), f"{where}, parameters of {name!r}")
    return RuleCheck(
        name,
        _number(entry["threshold"], detector.lowest, detector.highest, f"{where}: threshold"),
        {
            parameter: _number(parameters.get(parameter, default), lowest, highest, f"{where}: {parameter}")
            for parameter, (default, lowest, highest) in detector.parameters.items()
        },
        {
            job: _number(value, detector.lowest, detector.highest, f"{where}: threshold for the job {job!r}")
            for job, value in jobs.items()
        },
    )


def _check_fields(entry: Any, known: set[str], needed: set[str], where: str) -> None:
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


def _number(value: Any, lowest: float, highest: float, label: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise ValueError(f"{label} must be a number from {lowest} to {highest}, got {value!r}")
    return float(value)
