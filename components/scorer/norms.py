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

import cv2
import numpy as np
from PIL import Image

from components.scorer.faces import Face, aligned

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
    scene = Scene(image if image.mode == "RGB" else image.convert("RGB"), faces, attributes, size)
    findings: dict[str, Finding] = {}
    for norm in norms.norms:
        findings[norm.key] = _find(norm, scene, findings, job)
    return list(findings.values())


def _find(norm: Norm, scene: "Scene", before: Mapping[str, Finding], job: str) -> Finding:
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


def _value(norm: Norm, how: Check, scene: "Scene") -> float:
    measure = DETECTORS[how.detector].measure
    return measure(scene, **how.parameters) if measure else float(scene.attributes[norm.attribute])


def _reason_against(norm: Norm, how: Check, scene: "Scene") -> str:
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
class Scene:
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
    def grey(self) -> np.ndarray:
        """The photo: float32 [height, width], 0 to 255."""
        return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)

    @cached_property
    def upright_face(self) -> np.ndarray:
        """The light of the largest face, as `faces.aligned` turns it: linear, 0 to 1, float32 [112, 112, 3]."""
        return _LINEAR[aligned(self.image, self.face)]

    @cached_property
    def stops(self) -> np.ndarray:
        """The luminance of the upright face in stops below white: float32 [112, 112]."""
        return np.log2(self.upright_face @ _LUMINANCE + _NOISE)


_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)  # sRGB: IEC 61966-2-1
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear red, green and blue: the same
_NOISE = 1 / 512  # of white: what is darker differs by the camera's noise, so it counts as equally dark


def _fewest_persons(scene: Scene) -> float:
    """The number of faces."""
    return float(len(scene.faces))


def _most_persons(scene: Scene, share: float, confidence: float) -> float:
    """The number of faces whose side is at least ``share`` of the largest's, found with at least this confidence.

    Who is smaller stands in the background. Other faces have to be surer than the first: leaves and stones that YuNet
    takes for a face come to .77.
    """
    smallest = share * scene.face.side(scene.image.size) if scene.faces else 0.0
    others = [face for face in scene.faces[1:] if face.confidence >= confidence]
    beside = [face for face in others if face.side(scene.image.size) >= smallest]
    return float(len(scene.faces[:1]) + len(beside))


def _face_size(scene: Scene) -> float:
    """The side of the largest face over the photo's shorter side."""
    return scene.face.side(scene.image.size) / min(scene.image.size)


def _face_margin(scene: Scene) -> float:
    """The distance of the largest face's box from the photo's edge, in widths and heights of the box.

    It is negative where the box sticks out. That is no measure of how much of the face is missing: YuNet's boxes hug
    the left and the upper edge.
    """
    return scene.face.margin


def _eye_shadow(scene: Scene) -> float:
    """Stops by which the surroundings of both eyes are darker than the cheeks below them.

    An eye is held against the cheek below it, so that light from aside is no shadow and no skin is dark. What counts is
    the brighter part of either, which is skin: dark brows, lashes and rims of glasses do not matter, nor does a beard.
    """
    return float(min(_brighter(scene.stops[cheek]) - _brighter(scene.stops[eye]) for eye, cheek in _SIDES))


_SIDES = (
    (np.s_[42:66, 23:54], np.s_[68:84, 26:43]),
    (np.s_[42:66, 58:89], np.s_[68:84, 69:86]),
)
"""Rows and columns of eye and cheek on either side of `faces.TEMPLATE`'s square."""

_LENSES = (np.s_[46:64, 27:50], np.s_[46:64, 62:85])
"""Where the lenses of glasses are."""

_BELOW = (np.s_[50:74, 28:49], np.s_[50:74, 63:84])
"""From the middle of a lens to the cheek below it."""


def _brighter(values: np.ndarray) -> float:
    return float(np.percentile(values, 75))


def _dark_lenses(scene: Scene) -> float:
    """The probability that the eyes are behind dark lenses, 0 to 1, from `lens_features`."""
    score = float(lens_features(scene) @ LENS_WEIGHTS) + LENS_BIAS
    return 1 / (1 + math.exp(-score))


LENS_WEIGHTS = np.array([0.76, 0.49, -1.63, 1.5, 1.38])
LENS_BIAS = -4.25
"""Of a logistic regression on half of the photos that the benchmark of the norms makes: portraits as they are, drawn
ones, the same with shadows over the eyes, and with sunglasses pasted on (``python -m tests.benchmarks.norms --fit``).
"""


def lens_features(scene: Scene) -> np.ndarray:
    """What tells dark lenses from eyes and from shadows: float [5].

    1. Stops by which the brighter part of the lenses is darker than the cheeks,
    2. and by which their middle is.
    3. Stops between the bright and the dark parts of the lenses: eyes have white and black.
    4. Stops of the step from the lens to the cheek, on the side where it is smaller: a shadow ends softly.
    5. Stops by which the lenses are less red, against blue, than the cheeks: a shadow keeps the skin's colour.
    """
    sides = []
    for lens, below, (_, cheek) in zip(_LENSES, _BELOW, _SIDES, strict=True):
        dark, middle, high, bright = np.percentile(scene.stops[lens], (10, 50, 75, 90))
        skin = np.median(scene.stops[cheek])
        column = scene.stops[below]
        step = np.percentile((column[3:] - column[:-3]).max(0), 25)
        sides.append((skin - high, skin - middle, bright - dark, step, _redness(scene, cheek) - _redness(scene, lens)))
    values = np.array(sides)
    features = values.mean(0)
    features[3] = values[:, 3].min()
    return np.clip(features, -6, 6)


def _redness(scene: Scene, region: tuple[slice, slice]) -> float:
    red, _, blue = scene.upright_face[region].reshape(-1, 3).mean(0) + 2 * _NOISE
    return float(np.log2(red / blue))


def _blur(scene: Scene) -> float:
    """How blurred the sharpest edges are: standard deviation of a Gaussian, in hundredths of the photo's shorter side.

    It is measured on the largest face, and on the whole photo where there is none. An edge that a Gaussian of deviation
    s has blurred gets less steep by the factor ``√((s² + b²) / (s² + a²))`` between two more Gaussians, a and b, from
    which s follows (Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 44, 2011). The
    steepest edges are free of noise, and the sharper ones among them are no shadows.
    """
    first, second = 0.7, 1.4  # pixels: as fine as a JPEG's noise lets it be
    grey = _within(scene.grey, scene.face) if scene.faces else scene.grey
    steep, less = (_steepness(cv2.GaussianBlur(grey, (0, 0), deviation)) for deviation in (first, second))
    edges = steep >= np.percentile(steep, 98)
    ratio = np.clip(steep[edges] / np.maximum(less[edges], 1e-3), 1.001, second / first)
    deviations = np.sqrt(np.maximum(second**2 - ratio**2 * first**2, 0) / (ratio**2 - 1))
    return float(np.percentile(deviations, 25)) / min(scene.image.size) * 100


def _steepness(grey: np.ndarray) -> np.ndarray:
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _within(grey: np.ndarray, face: Face) -> np.ndarray:
    """The part of a photo that is inside the box of a face; the whole where that is hardly any."""
    height, width = grey.shape
    left, right = (round(float(np.clip(x, 0, 1)) * width) for x in (face.box.x, face.box.x + face.box.width))
    top, bottom = (round(float(np.clip(y, 0, 1)) * height) for y in (face.box.y, face.box.y + face.box.height))
    part = grey[top:bottom, left:right]
    return part if min(part.shape) >= 16 else grey


def _darkness(scene: Scene) -> float:
    """Stops by which the bright parts of the photo, its lightest fiftieth, are below white.

    Of each pixel the strongest colour counts, so that red light and a blue wall are bright. The whole photo is judged:
    on a portrait in good light something is bright whatever the colour of the skin, be it the whites of the eyes.
    """
    red, green, blue = cv2.split(scene.pixels)
    counts = cv2.calcHist([cv2.max(cv2.max(red, green), blue)], [0], None, [256], [0, 256])
    level = int(np.searchsorted(np.cumsum(counts), 0.98 * counts.sum()))
    return float(max(0.0, -np.log2(_LINEAR[level] + _NOISE)))


def _screen(scene: Scene) -> float:
    """Share of the width, or height, along which a straight edge ends a bar of one colour; 1 under a status bar.

    Screens put photos between bars: above them, below or beside. Where a photo fills a phone's whole screen, only the
    clock and the signs at its upper edge tell.
    """
    bars = max(_longest_edge(scene.grey), _longest_edge(scene.grey.T))
    return 1.0 if _has_status_bar(scene) else bars


def _longest_edge(grey: np.ndarray) -> float:
    """The largest share of a row, 0 to 1, that differs from a bar of one colour next to it."""
    thick = max(3, round(_BAR * min(grey.shape)))
    even = np.abs(grey - np.median(grey, axis=1, keepdims=True)) <= _EVEN
    flat = even.mean(1) >= _FLAT
    bars = np.convolve(flat, np.ones(thick)) == thick
    ends, begins = bars[: len(flat)], bars[thick - 1 :]  # whether a bar ends, or begins, at a row
    steps = (np.abs(grey[2:] - grey[:-2]) > _STEP).mean(1)
    beside = ends[:-2] | begins[2:]
    return float((steps * beside).max(initial=0.0))


_BAR = 0.02  # of the photo's shorter side: what is thinner is a photo's own rim
_EVEN, _FLAT = 3, 0.8  # levels of 255 by which a share of a row differs from its median at most; text may be on it
_STEP = 12  # levels of 255


def _has_status_bar(scene: Scene) -> bool:
    """Whether a photo as high as a phone's screen has light or dark signs in both upper corners and not between."""
    width, height = scene.size
    if height < _PHONE * width:
        return False
    band = scene.pixels[: round(0.085 * scene.image.width)]
    low, high = band.min(2), band.max(2)
    light = (low > 170) & (low > cv2.medianBlur(high, 15).astype(int) + 40)
    dark = (high < 85) & (high < cv2.medianBlur(low, 15).astype(int) - 40)
    ink = (light | dark) & (high - low < 30)
    left, middle, right = (ink[:, int(a * ink.shape[1]) : int(b * ink.shape[1])].mean() for a, b in _THIRDS)
    return left > _CLOCK and right > _SIGNS and middle < _NOTHING


_PHONE = 1.6  # height over width: between a camera's 3:2 and the 16:9 of the first phones
_THIRDS = ((0, 0.3), (0.35, 0.65), (0.7, 1))
_CLOCK, _SIGNS, _NOTHING = 0.0015, 0.006, 0.001  # shares that are ink; drawn clocks have .0015 to .015


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
    "face_size": Detector("face", "below", "of the photo's shorter side", 0, 1, {}, _face_size),
    "face_margin": Detector("face", "below", "of the face's width or height", -1, 1, {}, _face_margin),
    "eye_shadow": Detector("face", "above", "stops", -10, 10, {}, _eye_shadow),
    "dark_lenses": Detector("face", "above", "probability", 0, 1, {}, _dark_lenses),
    "blur": Detector("photo", "above", "hundredths of the photo's shorter side", 0, 100, {}, _blur),
    "darkness": Detector("photo", "above", "stops", 0, 10, {}, _darkness),
    "screen": Detector("photo", "above", "share of an edge", 0, 1, {}, _screen),
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
