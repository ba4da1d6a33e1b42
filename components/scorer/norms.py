"""The client's upload norms: a file of what a portrait must not be, checked photo by photo.

Each norm names a detector, the threshold that its value is held against, and the sentence that the person reads. The
file beside this module, ``norms.json``, is in force unless the client gives another with other thresholds, sentences,
fewer norms, or more of the same detectors. Nothing here imports TensorFlow.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from components.scorer import faces as geometry
from components.scorer.faces import Face

BUILT_IN = Path(__file__).with_suffix(".json")
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


def check(
    norms: Norms,
    image: Image.Image,
    faces: Sequence[Face] | None,
    attributes: Mapping[str, float],
    size: tuple[int, int],
    job: str = "",
) -> list[Finding]:
    """Hold a photo against the norms.

    Where there is no face, norms about the face cannot be checked, so only the norm that asks for one speaks.

    Args:
        norms: in force.
        image: the photo as it is scored: upright, RGB, shorter side at most 320 pixels.
        faces: on it, largest first; None when none were looked for.
        attributes: probability, 0 to 1, that each attribute which the scorer has learnt has the value that counts.
        size: width and height of the photo as it was sent, upright.
        job: that the person offers to do; "" where it is not known.

    Returns:
        One finding a norm, in the order of the norms.
    """
    scene = _Scene(image if image.mode == "RGB" else image.convert("RGB"), faces, attributes, size)
    findings: dict[str, Finding] = {}
    for norm in norms.norms:
        findings[norm.key] = _find(norm, scene, findings, job)
    return list(findings.values())


def _find(norm: Norm, scene: "_Scene", before: Mapping[str, Finding], job: str) -> Finding:
    how = norm.check
    if how.detector == "attribute" and norm.attribute not in scene.attributes and norm.otherwise:
        how = norm.otherwise
    threshold = how.allowed(job)
    why = _reason_against(norm, how, scene)
    for key in norm.unless:
        if before[key].kept is False:
            why = EXPLAINED.format(key=key)
    if why:
        return Finding(norm.key, None, None, threshold, why=why)
    value, detector = _value(norm, how, scene), DETECTORS[how.detector]
    kept = value <= threshold if detector.broken == "above" else value >= threshold
    return Finding(norm.key, kept, value, threshold, "" if kept else norm.sentence)


def _value(norm: Norm, how: Check, scene: "_Scene") -> float:
    measure = DETECTORS[how.detector].measure
    return measure(scene, **how.parameters) if measure else float(scene.attributes[norm.attribute])


def _reason_against(norm: Norm, how: Check, scene: "_Scene") -> str:
    """Why a norm cannot be checked on a photo; empty when it can."""
    needs = DETECTORS[how.detector].needs
    if needs == "attribute" and norm.attribute not in scene.attributes:
        return NOT_LEARNT.format(attribute=norm.attribute)
    if needs in ("faces", "face") and scene.faces is None:
        return NO_DETECTOR
    if needs == "face" and not scene.faces:
        return NO_FACE
    return ""


@dataclass(frozen=True)
class Judgement:
    """How often a norm was right on photos whose truth a column of the data set knows.

    Attributes:
        key: of the norm.
        attribute: the column.
        photos: on which the norm was checked and the column has a value.
        broken: of these, on which the column says that the norm is broken.
        found: of these, on which the norm was found broken.
        right: of the found ones, those on which the column says so too.
        unchecked: photos with a value on which the norm could not be checked.
    """

    key: str
    attribute: str
    photos: int
    broken: int
    found: int
    right: int
    unchecked: int

    @property
    def precision(self) -> float:
        """Share of the found ones that are right; NaN when nothing was found."""
        return self.right / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """Share of the broken ones that were found; NaN when none is."""
        return self.right / self.broken if self.broken else math.nan


def judge(norms: Norms, findings: Sequence[Sequence[Finding]], columns: Mapping[str, Sequence[str]]) -> list[Judgement]:
    """Hold the findings on n photos against what the data set knows of them.

    Args:
        norms: that were checked.
        findings: of each photo.
        columns: the data set's attributes by name, each with n values; "" where a photo has none.

    Returns:
        One judgement for each norm whose column is there, in the order of the norms.
    """
    return [
        _judgement(norm, [photo[place] for photo in findings], columns[norm.attribute])
        for place, norm in enumerate(norms.norms)
        if norm.attribute in columns
    ]


def _judgement(norm: Norm, findings: Sequence[Finding], values: Sequence[str]) -> Judgement:
    known = [(finding, value == norm.yes) for finding, value in zip(findings, values, strict=True) if value]
    checked = [(not finding.kept, broken) for finding, broken in known if finding.kept is not None]
    return Judgement(
        norm.key,
        norm.attribute,
        photos=len(checked),
        broken=sum(broken for _, broken in checked),
        found=sum(found for found, _ in checked),
        right=sum(found and broken for found, broken in checked),
        unchecked=len(known) - len(checked),
    )


# ---- detectors


@dataclass(frozen=True)
class _Scene:
    """What the detectors look at."""

    image: Image.Image
    faces: Sequence[Face] | None
    attributes: Mapping[str, float]
    size: tuple[int, int]

    @property
    def face(self) -> Face:
        """The largest face."""
        return self.faces[0]

    @cached_property
    def pixels(self) -> np.ndarray:
        """The photo: uint8 [height, width, 3]."""
        return np.asarray(self.image)

    @cached_property
    def upright_face(self) -> np.ndarray:
        """Light on the largest face, as `faces.aligned` turns it: linear, 0 to 1, float32 [112, 112, 3]."""
        return _LINEAR[geometry.aligned(self.image, self.face)]


_LINEAR = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LINEAR <= 0.04045, _LINEAR / 12.92, ((_LINEAR + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear red, green, blue (the same)
_FLOOR = 1 / 1024  # of linear light: below it a JPEG of 8 bits knows no differences


def _fewest_persons(scene: _Scene) -> float:
    """Faces on the photo."""
    return float(len(scene.faces))


def _most_persons(scene: _Scene, share: float, confidence: float) -> float:
    """Faces of at least ``share`` of the largest's side and of this confidence: who is smaller stands behind."""
    if not scene.faces:
        return 0.0
    smallest = share * scene.face.side(scene.image.size)
    others = [
        face for face in scene.faces[1:] if face.confidence >= confidence and face.side(scene.image.size) >= smallest
    ]
    return 1.0 + len(others)


def _face_size(scene: _Scene) -> float:
    """Side of the largest face over the shorter side of the photo."""
    return scene.face.side(scene.image.size) / min(scene.image.size)


def _face_outside(scene: _Scene) -> float:
    """Share of the largest face's box that is outside the photo."""
    return scene.face.outside


def _eye_shadow(scene: _Scene) -> float:
    """Stops by which the eyes get less light than the cheeks."""
    light = scene.upright_face @ _LUMINANCE
    eyes = np.percentile(light[44:64, 24:88], 75)
    cheeks = np.median(np.concatenate([light[66:82, 24:44].ravel(), light[66:82, 68:88].ravel()]))
    return float(np.log2((cheeks + _FLOOR) / (eyes + _FLOOR)))


def _dark_lenses(scene: _Scene) -> float:
    """Stops by which most of the eyes' surroundings is darker than the cheeks."""
    return _eye_shadow(scene) / 4


def _blur(scene: _Scene) -> float:
    """Share of the contrast that is left when the photo is blurred again."""
    grey = (_LINEAR[scene.pixels] @ _LUMINANCE) ** (1 / 2.2)
    again = (grey[:, 1:-1] * 2 + grey[:, 2:] + grey[:, :-2]) / 4
    return float(np.abs(np.diff(again)).mean() / max(np.abs(np.diff(grey)).mean(), 1e-6))


def _darkness(scene: _Scene) -> float:
    """Stops that the bright parts of the photo are below white."""
    light = _LINEAR[scene.pixels] @ _LUMINANCE
    return float(-np.log2(np.percentile(light, 97) + _FLOOR))


def _screen(scene: _Scene) -> float:
    """Share of the width along which the longest straight edge runs."""
    grey = scene.pixels.astype(np.int16).mean(2)
    step = np.abs(grey[2:] - grey[:-2]) > 12
    return float(step.mean(1).max())


Needs = Literal["photo", "faces", "face", "attribute"]


@dataclass(frozen=True)
class Detector:
    """A way of measuring.

    Attributes:
        needs: an attribute that the scorer has learnt; that faces were looked for; that one was found; or no more
            than the photo.
        broken: on which side of the threshold a value breaks the norm; the threshold itself keeps it.
        unit: what the value is.
        lowest: threshold that makes sense.
        highest: threshold that makes sense.
        parameters: default, lowest and highest value by name.
        measure: the value on a photo.
    """

    needs: Needs
    broken: Literal["above", "below"]
    unit: str
    lowest: float
    highest: float
    parameters: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    measure: Callable[..., float] | None = None


DETECTORS: Mapping[str, Detector] = {
    "attribute": Detector("attribute", "above", "probability", 0, 1),
    "fewest_persons": Detector("faces", "below", "faces", 0, 100, {}, _fewest_persons),
    "most_persons": Detector(
        "faces", "above", "persons", 0, 100, {"share": (0.5, 0, 1), "confidence": (0.8, 0, 1)}, _most_persons
    ),
    "face_size": Detector("face", "below", "share of the shorter side", 0, 1, {}, _face_size),
    "face_outside": Detector("face", "above", "share of the face", 0, 1, {}, _face_outside),
    "eye_shadow": Detector("face", "above", "stops", 0, 10, {}, _eye_shadow),
    "dark_lenses": Detector("face", "above", "likelihood", 0, 1, {}, _dark_lenses),
    "blur": Detector("photo", "above", "share of the contrast", 0, 1, {}, _blur),
    "darkness": Detector("photo", "above", "stops", 0, 10, {}, _darkness),
    "screen": Detector("photo", "above", "share of the width", 0, 1, {}, _screen),
}
"""The detectors that a norms file can name."""


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
    return _check(entry["otherwise"], where)


def _check(entry: Mapping[str, Any], where: str) -> Check:
    name = entry["detector"]
    if name not in DETECTORS:
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
