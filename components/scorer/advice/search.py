"""Search for edits that would raise a photo's score; only edits whose gain is verified are suggested.

A scorer is easily fooled: gradients find invisible changes that are worth points. So the search tries only edits that
people make (``edits``), and a candidate has to pass these checks on the edited photo itself:

* **Plausible** (``edit_session.EditSession.is_plausible``): the photo still looks like itself, and little more of it is
  burnt out or black. The head is complete and the face still detected. Light, contrast and colour move toward what
  portraits usually have, never away from it. So if a scorer likes dark photos, nobody is told to darken a dark photo.
* **Gain**: the difference of the mean scores of indistinguishable copies, of the photo and of the edited one
  (``edit_session.imperceptible_variants``). The picture that the search chose is not among them, because the best of
  many noisy scores is too high. The gain has to be a multiple of its standard error, and large enough to matter.
* **Plateau**: half a step of the slider to either side, where no hand feels a difference, much of the gain is left.
* **Turning**: straightening crops as well. What the same crop gains without turning does not count.

If the scorer uses faces, analysing a face takes longer than scoring. So the search uses the original face as long as
only light and colour change. The face of the edited photo is analysed once for all of its copies, and the error of one
analysis is added to the standard error.

This module does not depend on the scorer's runtime. The same photo and scorer give the same advice.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from PIL import Image

from components.scorer.advice import edit_session, edits
from components.scorer.advice.edit_session import EditSession, EditSettings, FixFaceFn, ScoreFn
from components.scorer.advice.edits import EDITS, EditName, EditSpec
from components.scorer.faces.geometry import Box, Face
from components.scorer.imaging import decoding
from components.scorer.settings import AdviceSettings, Ingestion

RejectionReason = Literal["small", "noise", "spike", "frame", "face", "unlooked", "unfit"]
"""Reason why an edit is not suggested.

``small``: the gain is too small. ``noise``: the gain is not beyond noise. ``spike``: it gains only at one exact value.
``frame``: it gains only by its tighter frame. ``face``: the face is no longer detected. ``unlooked``: there was no time
to check it. ``unfit``: the photo has no face to crop toward, or cannot be cropped.
"""

_MAX_ASPECT_RATIO = 3  # times the shorter side: longest side of a working copy; only panoramas are longer
_SCORINGS_TO_VERIFY = 16  # largest number of scorings that verify one edit
_SCORINGS_TO_COMBINE = 40  # scorings reserved for the combination of edits
_MIN_ADDED_GAIN = 0.02  # score points that an edit must add to a combination
_MAX_MILDER_LOSS = 0.15  # largest fraction of a gain that a milder value may lack
_MAX_ATTEMPTS = 2  # largest number of values of one edit that are checked


@dataclass(frozen=True)
class Suggestion:
    """One suggested edit.

    Attributes:
        edit: Name of the edit.
        value: Value of the edit.
        unit: Unit of the value.
        gain: Score points, measured on copies of the photo and of the edited photo.
        error: Standard error of the gain.
        mean: Score of the edited photo, on its copies.
        sentence: Advice for the person.
        preview: Edited photo, a JPEG.
    """

    edit: EditName
    value: float
    unit: str
    gain: float
    error: float
    mean: float
    sentence: str
    preview: bytes


@dataclass(frozen=True)
class CombinedSuggestion:
    """Several edits at once, if they gain more than each alone; the other attributes are those of `Suggestion`.

    Attributes:
        settings: Value by edit, in the order in which the edits are applied.
    """

    settings: dict[EditName, float]
    gain: float
    error: float
    mean: float
    sentence: str
    preview: bytes


@dataclass(frozen=True)
class RejectedEdit:
    """Edit that seemed to gain and was rejected, or that could not be tried.

    Attributes:
        edit: Name of the edit.
        value: Value with the highest score; None if the edit could not be tried.
        why: Reason as a key.
        reason: Reason as a sentence.
    """

    edit: EditName
    value: float | None
    why: RejectionReason
    reason: str


@dataclass(frozen=True)
class Advice:
    """Result of the search for one photo.

    Attributes:
        mean: Score of the photo, on its copies.
        noise: Standard deviation of the score over the indistinguishable copies.
        suggestions: Suggested edits, each alone, the largest gain first.
        together: Several of them at once; None if that is no better than the first.
        refused: Rejected edits.
        scorings: Number of pictures scored.
    """

    mean: float
    noise: float
    suggestions: tuple[Suggestion, ...]
    together: CombinedSuggestion | None
    refused: tuple[RejectedEdit, ...]
    scorings: int


def working_copy(data: bytes, settings: AdviceSettings, ingestion: Ingestion) -> Image.Image:
    """Decode the working copy of a photo for `advise`: larger than the scored size, so that a crop keeps its detail.

    A strip is shrunk more: its length would cost time, and is squeezed into the scorer's square anyway.

    Args:
        data: Encoded photo in any format.
        settings: Advice settings; ``working_side`` is read.
        ingestion: Settings that normalise photos.

    Raises:
        components.scorer.imaging.decoding.UnusablePhotoError: The bytes are no photo, or the photo is too small or too
        large.
    """
    side = max(settings.working_side, ingestion.shorter_side)
    image = decoding.decode_image(data, replace(ingestion, shorter_side=side))
    image.thumbnail((_MAX_ASPECT_RATIO * side, _MAX_ASPECT_RATIO * side), Image.Resampling.LANCZOS)
    return image


def advise(
    image: Image.Image,
    score: ScoreFn,
    faces: Sequence[Face] | None,
    settings: AdviceSettings,
    *,
    scored_side: int = Ingestion.shorter_side,
    find_faces: Callable[[Image.Image], Sequence[Face]] | None = None,
    fix_face: FixFaceFn | None = None,
) -> Advice:
    """Search edits for a photo, and return those whose gain is verified.

    Args:
        image: Upright RGB photo, from `working_copy`. A normalised photo works too, but then only slight crops are
            possible.
        score: Function from n RGB pictures to mean scores ``[n]``. It gets them normalised: upright and small.
        faces: Faces on the photo, the largest first; None if they are not known. Their boxes are fractions, so the
            faces of the normalised photo are valid.
        settings: Thresholds of the checks and limits of the search.
        scored_side: Shorter side of a normalised photo, pixels; a smaller photo keeps its size.
        find_faces: Function that detects the faces of an edited picture; None disables the check that the face is still
            detected.
        fix_face: Function that analyses one face, and returns a score function that uses it for other pictures. None if
            ``score`` uses no faces, or if the analysis costs nothing.

    Returns:
        The advice.

    Raises:
        ValueError: ``score`` does not return one finite number a picture.
    """
    photo = EditSession(image, score, faces, settings, scored_side, find_faces, fix_face)
    accepted, refused = [], list(_untestable(photo))
    for key in _rank_edits(photo):
        verdict = _verify_edit(photo, EDITS[key])
        if isinstance(verdict, _AcceptedEdit):
            accepted.append(verdict)
        elif verdict is not None:
            refused.append(verdict)
    accepted.sort(key=lambda edit: -edit.gain)  # stable: edits of equal gain stay in the order of the search
    return Advice(
        mean=photo.mean,
        noise=photo.noise,
        suggestions=tuple(_suggestion(photo, edit) for edit in accepted),
        together=_combine(photo, accepted),
        refused=tuple(sorted(refused, key=lambda rejected: get_args(EditName).index(rejected.edit))),
        scorings=photo.scorings,
    )


# Search


def _untestable(photo: EditSession) -> Iterator[RejectedEdit]:
    if photo.face is None:
        yield RejectedEdit("crop", None, "unfit", "No face was found to crop toward.")
    elif photo.max_crop_percent() < EDITS["crop"].step:
        yield RejectedEdit(
            "crop", None, "unfit", "The face fills the photo well enough, or the photo is too small to be cropped."
        )


def _rank_edits(photo: EditSession) -> list[EditName]:
    """Return the edits that seem to gain at some value, the most promising first."""
    tries = [
        {key: value} for key, edit in EDITS.items() for value in edit.first_values if photo.is_plausible({key: value})
    ]
    photo.search_scores([{}, *tries])
    # A maximum may lie between two tries.
    maxima = [{key: _parabola_maximum(photo, edit, _best_value(photo, edit))} for key, edit in EDITS.items()]
    photo.search_scores([maximum for maximum in maxima if all(maximum.values()) and photo.is_plausible(maximum)])
    gains = {key: _gain(photo, key, value) for key, edit in EDITS.items() if (value := _best_value(photo, edit))}
    promising = [key for key, gain in gains.items() if gain > 0 and gain >= photo.settings.minimum_gain / 2]
    return sorted(promising, key=lambda key: -gains[key])


def _gain(photo: EditSession, key: EditName, value: float) -> float:
    """Return the gain of one picture, unverified.

    It is noisy, and too high if it is the best of many.
    """
    after, before = photo.search_scores([_with_value({}, key, value), {}])
    return after - before


def _scored_values(photo: EditSession, edit: EditSpec, spikes: Collection[float] = ()) -> list[float]:
    """Return the values that were scored, 0 included, except those next to a value that failed the verification."""
    return [
        value
        for value in (0.0, *photo.tried_values(edit.key))
        if all(abs(value - spike) > 1.5 * edit.step for spike in spikes)
    ]


def _best_value(photo: EditSession, edit: EditSpec, spikes: Collection[float] = ()) -> float:
    """Return the value with the highest score; of equal scores the one nearest to 0."""
    return max(
        _scored_values(photo, edit, spikes), key=lambda value: (_gain(photo, edit.key, value), -abs(value)), default=0.0
    )


def _scored_neighbours(photo: EditSession, edit: EditSpec, value: float) -> tuple[float | None, float | None]:
    """Return the scored values next below and next above a value; None where there is none."""
    scored = _scored_values(photo, edit)
    lower, higher = [known for known in scored if known < value], [known for known in scored if known > value]
    return max(lower, default=None), min(higher, default=None)


def _parabola_maximum(photo: EditSession, edit: EditSpec, value: float) -> float:
    """Return the maximum of the parabola through a value and its neighbours, in whole steps; 0 without a maximum."""
    low, high = _scored_neighbours(photo, edit, value)
    if low is None or high is None:
        return 0.0
    vertex = _vertex((low, value, high), [_gain(photo, edit.key, point) for point in (low, value, high)])
    return 0.0 if vertex is None else edit.round_to_step(vertex)


def _refine(photo: EditSession, edit: EditSpec, spikes: Collection[float]) -> float:
    """Refine the best value by a few more scorings near it, and return it or a milder value that is as good.

    Each round scores the maximum of the parabola through the best value and its two neighbours. If that is known or
    does not exist, the round scores the middle between the best value and a neighbour or the end of the range, the
    longer way first. In whole steps that is what is left of a golden-section search.
    """
    for _ in range(photo.settings.refinements):
        best = _best_value(photo, edit, spikes)
        low, high = _scored_neighbours(photo, edit, best)
        ends = sorted(
            (edit.low if low is None else low, edit.high if high is None else high), key=lambda end: -abs(end - best)
        )
        candidates = [_parabola_maximum(photo, edit, best), *(edit.round_to_step((best + end) / 2) for end in ends)]
        scored = _scored_values(photo, edit)
        new = [value for value in candidates if value not in scored and photo.is_plausible({edit.key: value})]
        if not new:
            break
        photo.search_scores([{edit.key: new[0]}])
    return _mildest_value(photo, edit, _best_value(photo, edit, spikes), spikes)


def _mildest_value(photo: EditSession, edit: EditSpec, best: float, spikes: Collection[float]) -> float:
    """Return the value nearest to 0, on the side of the best one, whose score is lower by less than the noise."""
    gain = _gain(photo, edit.key, best)
    sufficient = gain - min(photo.noise, _MAX_MILDER_LOSS * gain)
    same_side = [value for value in _scored_values(photo, edit, spikes) if value * best > 0]
    return min((value for value in same_side if _gain(photo, edit.key, value) >= sufficient), key=abs, default=best)


def _vertex(positions: Sequence[float], scores: Sequence[float]) -> float | None:
    """Return the position of the maximum of the parabola through three points; None if there is none between them.

    >>> _vertex([0, 1, 3], [0, 3, 3])
    2.0
    """
    (a, b, c), (fa, fb, fc) = positions, scores
    left, right = (fb - fa) / (b - a), (fc - fb) / (c - b)
    curvature = (right - left) / (c - a)
    if curvature >= 0:
        return None
    vertex = (a + b) / 2 - left / (2 * curvature)
    return vertex if a < vertex < c else None


# Verification


@dataclass(frozen=True)
class _AcceptedEdit:
    """One edit, or several, whose gain is verified.

    Attributes:
        values: Value by edit.
        gain: Score points.
        error: Standard error of the gain.
        mean: Score of the edited photo.
        pixels: Full photo, edited.
    """

    values: dict[EditName, float]
    gain: float
    error: float
    mean: float
    pixels: np.ndarray


def _verify_edit(photo: EditSession, edit: EditSpec) -> _AcceptedEdit | RejectedEdit | None:
    """Return the best value that passes the checks, or the reason why the first candidate failed.

    None if the edit does not seem to gain enough.
    """
    first: RejectedEdit | None = None
    spikes: set[float] = set()
    for _ in range(_MAX_ATTEMPTS):
        if (
            photo.scorings + _SCORINGS_TO_VERIFY + photo.settings.refinements + _SCORINGS_TO_COMBINE
            > photo.settings.scorings
        ):
            return first or RejectedEdit(edit.key, None, "unlooked", "There was no time to look closely.")
        value = _refine(photo, edit, spikes)
        if not value or _gain(photo, edit.key, value) < photo.settings.minimum_gain / 2:
            break
        verdict = _check_candidate(photo, {edit.key: value})
        if isinstance(verdict, _AcceptedEdit):
            return verdict
        if _gain(photo, edit.key, value) >= photo.settings.minimum_gain:
            first = first or RejectedEdit(edit.key, value, *verdict)
        spikes.add(value)
    return first


def _check_candidate(photo: EditSession, values: EditSettings) -> _AcceptedEdit | tuple[RejectionReason, str]:
    """Check a candidate on pictures that the search has not scored; return the verified edits or the failure."""
    settings = photo.settings
    full = photo.render_full(values)
    picture = photo.resize_to_scored(full)
    if not photo.face_found(picture):
        return "face", "The face is not found any more once the photo is edited so."
    score = photo.with_fixed_face(picture)
    scores = photo.scores(edit_session.imperceptible_variants(picture), score)
    gain = float(scores.mean()) - photo.mean
    error = math.hypot(
        math.hypot(photo.noise, float(scores.std(ddof=1))) / math.sqrt(len(scores)), photo.face_read_noise
    )
    if gain <= 0 or gain < settings.noise_multiple * error:
        return "noise", f"Its gain of {gain:.2f} is not beyond the scorer's own noise on this photo."
    if gain < settings.minimum_gain:
        return "small", f"Its gain of {gain:.2f} is too small to matter."
    if _plateau_gain(photo, values, score) < settings.plateau * gain:
        return "spike", "It gains only at this exact value, which no hand can set, and not right beside it."
    if (degrees := values.get("straighten")) and _crop_gain(photo, degrees, score) > (1 - settings.plateau) * gain:
        return "frame", "Most of its gain comes from the tighter frame, not from turning."
    return _AcceptedEdit(dict(values), gain, error, photo.mean + gain, full)


def _plateau_gain(photo: EditSession, values: EditSettings, score: ScoreFn) -> float:
    """Return the lower of the gains half a step above and half a step below.

    Each gain is the mean of a picture and its mirror image.
    """
    pictures = []
    for sign in (-0.5, 0.5):
        shifted = {
            key: min(max(value + sign * EDITS[key].step, EDITS[key].low), EDITS[key].high)
            for key, value in values.items()
        }
        picture = photo.render_small(photo.clamp_crop(shifted))
        pictures += [picture, np.ascontiguousarray(picture[:, ::-1])]
    scores = photo.scores(pictures, score)
    return float(min(scores[:2].mean(), scores[2:].mean())) - photo.mean


def _crop_gain(photo: EditSession, degrees: float, score: ScoreFn) -> float:
    """Return the gain of the crop that comes with turning, without the turning."""
    height, width = photo.pixels.shape[:2]
    fraction = edits.fraction_kept(degrees, width, height)
    frame = Box((1 - fraction) / 2, (1 - fraction) / 2, fraction, fraction)
    picture = photo.resize_to_scored(edits.crop(photo.pixels, frame))
    return float(photo.scores([picture, np.ascontiguousarray(picture[:, ::-1])], score).mean()) - photo.mean


# Combination of edits


def _combine(photo: EditSession, accepted: Sequence[_AcceptedEdit]) -> CombinedSuggestion | None:
    """Combine the suggested edits, with their values tuned to each other.

    Return None unless the combination passes the checks and gains more than the best edit alone.
    """
    if len(accepted) < 2:
        return None
    values = _coordinate_ascent(photo, accepted)
    if sum(1 for value in values.values() if value) < 2:
        return None
    verdict = _check_candidate(photo, values)
    if not isinstance(verdict, _AcceptedEdit) or verdict.gain <= accepted[0].gain:
        return None
    return CombinedSuggestion(
        settings=verdict.values,
        gain=verdict.gain,
        error=verdict.error,
        mean=verdict.mean,
        sentence=sentence(verdict.values, verdict.gain),
        preview=_preview(photo, verdict),
    )


def _coordinate_ascent(photo: EditSession, accepted: Sequence[_AcceptedEdit]) -> dict[EditName, float]:
    """Tune several edits by coordinate ascent from their own best values; edits are added one by one.

    Edits overlap: a brighter photo needs less light in its shadows. So each edit is tried in full and at half. Then
    each is tried once more: a step less, a step more, and left out.
    """
    values: dict[EditName, float] = {}
    for edit_set in accepted:
        for key, value in edit_set.values.items():
            choices = [_with_value(values, key, part) for part in _half_and_full(EDITS[key], value)]
            choices = [choice for choice in choices if photo.is_plausible(choice)]
            if photo.scorings + len(choices) + _SCORINGS_TO_VERIFY > photo.settings.scorings:
                return values
            values = _best_choice(photo, values, choices)
    for key in [*values]:  # once more, now that all edits are set
        edit, value = EDITS[key], values[key]
        neighbours = [
            _with_value(values, key, edit.round_to_step(value + move)) for move in (-edit.step, edit.step, -value)
        ]
        neighbours = [choice for choice in neighbours if photo.is_plausible(choice)]
        if photo.scorings + len(neighbours) + _SCORINGS_TO_VERIFY > photo.settings.scorings:
            return values
        values = _best_choice(photo, values, neighbours)
    return values


def _half_and_full(edit: EditSpec, value: float) -> list[float]:
    """Return half of a value, in whole steps, and the value."""
    return [*dict.fromkeys([edit.round_to_step(value / 2), value])]


def _with_value(values: EditSettings, key: EditName, value: float) -> dict[EditName, float]:
    """Return the values with one edit changed, in the order in which edits are applied; 0 removes the edit."""
    new = {**values, key: value}
    return {key: new[key] for key in get_args(EditName) if new.get(key)}


def _best_choice(
    photo: EditSession, values: dict[EditName, float], choices: list[dict[EditName, float]]
) -> dict[EditName, float]:
    """Return the choice with the highest score, less `_MIN_ADDED_GAIN` points an edit, so that useless edits are
    dropped.
    """
    candidates = [values, *choices]
    scores = photo.search_scores(candidates)
    penalised = [score - _MIN_ADDED_GAIN * len(choice) for score, choice in zip(scores, candidates, strict=True)]
    return candidates[int(np.argmax(penalised))]


# Texts and previews


def _suggestion(photo: EditSession, accepted: _AcceptedEdit) -> Suggestion:
    ((key, value),) = accepted.values.items()
    return Suggestion(
        edit=key,
        value=value,
        unit=EDITS[key].unit,
        gain=accepted.gain,
        error=accepted.error,
        mean=accepted.mean,
        sentence=sentence(accepted.values, accepted.gain),
        preview=_preview(photo, accepted),
    )


def _preview(photo: EditSession, accepted: _AcceptedEdit) -> bytes:
    return edit_session.encode_jpeg(accepted.pixels, photo.settings.preview_quality, photo.settings.preview_side)


def sentence(values: EditSettings, gain: float) -> str:
    """Return the advice for the person: the edits in words, and their gain in score points."""
    instructions = [_instruction(key, value) for key, value in values.items()]
    joined = ", ".join(instructions[:-1]) + " and " + instructions[-1] if len(instructions) > 1 else instructions[0]
    return f"{joined[0].upper()}{joined[1:]}: it would score {gain:.1f} higher."


_STOPS = {0.25: "a quarter of a stop", 0.5: "half a stop", 0.75: "three quarters of a stop", 1.0: "one stop",
          1.25: "one and a quarter stops", 1.5: "one and a half stops", 1.75: "one and three quarter stops",
          2.0: "two stops"}  # fmt: skip


def _instruction(key: EditName, value: float) -> str:
    """Return one edit as an everyday instruction."""
    positive, size = value > 0, abs(value)
    fraction = size / max(EDITS[key].high, -EDITS[key].low)
    degree = " a little" if fraction <= 0.3 else "" if fraction <= 0.6 else " a lot"
    slider = f"{'+' if positive else '−'}{size:.0f}"  # noqa: RUF001 - a minus, as editors show it
    match key:
        case "straighten":
            return f"turn the photo {size:.0f}° {'clockwise' if positive else 'anticlockwise'}"
        case "crop":
            return f"crop closer to the face, leaving off about {size:.0f} % of width and height"
        case "brightness":
            return f"{'brighten' if positive else 'darken'} the photo{degree} (about {_STOPS[size]})"
        case "highlights":
            return f"turn the highlights {'up' if positive else 'down'}{degree} (to about {slider})"
        case "shadows":
            return f"{'lift' if positive else 'deepen'} the shadows{degree} (to about {slider})"
        case "contrast":
            return f"turn the contrast {'up' if positive else 'down'}{degree} (to about {slider})"
        case "warmth":
            return f"make the colours{degree} {'warmer' if positive else 'cooler'} (warmth about {slider})"
        case "sharpness":
            return f"sharpen the photo{degree} (sharpness about {slider})"
