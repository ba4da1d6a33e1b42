"""What would make a photo score higher: edits that are searched for, and told only when they hold.

A scorer is easily fooled: gradients find changes that nobody sees and that are worth points. So advice is searched only
among edits that people make (``edits``), and what the search finds has to pass, on the edited photo itself:

* **Sound** (``trial.Trial.sound``): the photo still looks like itself, little more of it is burnt out or black, the
  head is whole and the face still found, and light, contrast and colour move toward what portraits usually have, never
  away from it: from a scorer that likes dark photos nobody with a dark photo hears to darken it.
* **Gain**: the difference of the mean scores of copies that nobody can tell apart, of the photo and of the edited one
  (``edit_session.copies``). The picture that the search chose is not among them: the best of many noisy scores is too
  high. The gain has to be a multiple of its standard error, and large enough to matter. Where the scorer reads faces,
  which takes longer than to score, the search goes by the photo's own face as long as light and colour alone change,
  and the face of the edited photo is read once for all of its copies: what one reading is off counts as error.
* **Plateau**: half a step of the slider to either side, where no hand feels a difference, much of the gain is left.
* **Turning**: straightening crops as well; what the same crop gains without turning is not owed to it.

Nothing here knows what the scorer runs on. The same photo and scorer give the same advice.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from PIL import Image

from components.scorer.advice import edit_session, edits
from components.scorer.advice.edit_session import Hold, Score, Trial, Values
from components.scorer.advice.edits import EDITS, Edit, EditKey
from components.scorer.faces.geometry import Box, Face
from components.scorer.imaging import decoding
from components.scorer.settings import Advising, Ingestion

Why = Literal["small", "noise", "spike", "frame", "face", "unlooked", "unfit"]
"""Why an edit is not advised: it gains too little; not beyond noise; only at one exact value; only by its tighter
frame; the face is not found any more; there was no time; there is nothing to do it to."""

_STRIP = 3  # times the shorter side: no camera's photo is longer, but for panoramas
_VERIFYING = 16  # scorings that settle one edit, at most
_TOGETHER = 40  # scorings that are kept for several edits at once
_DROPPED = 0.02  # score points that an edit must add to several others, or it is left out
_ALIKE = 0.15  # of a gain that a milder value may lack
_ATTEMPTS = 2  # at another value, when the best one does not hold


@dataclass(frozen=True)
class Suggestion:
    """One edit that is advised.

    Attributes:
        edit: which.
        value: what it is set to.
        unit: of the value.
        gain: score points, measured on copies of the photo and of the edited one.
        error: standard error of the gain.
        mean: the edited photo's score, on its copies.
        sentence: what the person reads.
        preview: the edited photo, a JPEG.
    """

    edit: EditKey
    value: float
    unit: str
    gain: float
    error: float
    mean: float
    sentence: str
    preview: bytes


@dataclass(frozen=True)
class Together:
    """Several edits at once, where they gain more than any of them; the other attributes as of `Suggestion`.

    Attributes:
        settings: value by edit, in the order in which they are done.
    """

    settings: dict[EditKey, float]
    gain: float
    error: float
    mean: float
    sentence: str
    preview: bytes


@dataclass(frozen=True)
class Refusal:
    """An edit that looked as if it gained, or that could not be tried.

    Attributes:
        edit: which.
        value: where it looked best; None when it could not be tried.
        why: in a word.
        reason: in a sentence.
    """

    edit: EditKey
    value: float | None
    why: Why
    reason: str


@dataclass(frozen=True)
class Advice:
    """What would make a photo score higher.

    Attributes:
        mean: the photo's score, on its copies.
        noise: standard deviation of the score over the copies, which nobody can tell apart.
        suggestions: the edits that are advised, each alone, the largest gain first.
        together: several of them at once; None when that is no better than the first.
        refused: the edits that looked good and are not advised.
        scorings: how many pictures were scored.
    """

    mean: float
    noise: float
    suggestions: tuple[Suggestion, ...]
    together: Together | None
    refused: tuple[Refusal, ...]
    scorings: int


def working(data: bytes, settings: Advising, ingestion: Ingestion) -> Image.Image:
    """The copy of a photo that `advise` works on: larger than the one that is scored, so that a crop keeps its detail.

    A strip is made smaller: its length would cost time, and is squeezed into the scorer's square anyway.

    Args:
        data: an encoded photo in any format.
        settings: ``working_side`` is read.
        ingestion: how photos are normalised.

    Raises:
        components.scorer.imaging.decoding.Unusable: the bytes are no photo, or one too small or too large.
    """
    side = max(settings.working_side, ingestion.shorter_side)
    image = decoding.upright(data, replace(ingestion, shorter_side=side))
    image.thumbnail((_STRIP * side, _STRIP * side), Image.Resampling.LANCZOS)
    return image


def advise(
    image: Image.Image,
    score: Score,
    faces: Sequence[Face] | None,
    settings: Advising,
    *,
    side: int = Ingestion.shorter_side,
    find_faces: Callable[[Image.Image], Sequence[Face]] | None = None,
    hold: Hold | None = None,
) -> Advice:
    """Search edits for a photo, and tell those that hold.

    Args:
        image: upright RGB, as of `working`. The normalised photo does too, but then bears only slight crops.
        score: gives the mean scores ``[n]`` of n RGB pictures, which it gets normalised: upright and small.
        faces: the faces on the photo, the largest first; None when nobody looked for them. Shares, so that those of
            the normalised photo hold.
        settings: what is believed, and how much is tried.
        side: pixels of the shorter side of a normalised photo; what is smaller stays as it is.
        find_faces: looks for the faces on an edited picture; None: it is not checked that the face is still found.
        hold: where ``score`` reads faces, reads one and scores other pictures of it by that; None: ``score`` reads
            none, or it costs nothing.

    Returns:
        The advice.

    Raises:
        ValueError: ``score`` does not give one finite number a picture.
    """
    photo = Trial(image, score, faces, settings, side, find_faces, hold)
    held, refused = [], list(_unfit(photo))
    for key in _by_promise(photo):
        verdict = _settle(photo, EDITS[key])
        if isinstance(verdict, _Held):
            held.append(verdict)
        elif verdict is not None:
            refused.append(verdict)
    held.sort(key=lambda one: -one.gain)  # stable: those that gain alike stay in the order of promise
    return Advice(
        mean=photo.mean,
        noise=photo.noise,
        suggestions=tuple(_suggestion(photo, one) for one in held),
        together=_together(photo, held),
        refused=tuple(sorted(refused, key=lambda one: get_args(EditKey).index(one.edit))),
        scorings=photo.scorings,
    )


# The search


def _unfit(photo: Trial) -> Iterator[Refusal]:
    if photo.face is None:
        yield Refusal("crop", None, "unfit", "No face was found to crop toward.")
    elif photo.closest() < EDITS["crop"].step:
        yield Refusal(
            "crop", None, "unfit", "The face fills the photo well enough, or the photo is too small to be cropped."
        )


def _by_promise(photo: Trial) -> list[EditKey]:
    """The edits that seem to gain at some value, the most promising first."""
    tries = [{key: value} for key, edit in EDITS.items() for value in edit.tries if photo.sound({key: value})]
    photo.search_scores([{}, *tries])
    tops = [{key: _top(photo, edit, _highest(photo, edit))} for key, edit in EDITS.items()]  # between two tries, maybe
    photo.search_scores([top for top in tops if all(top.values()) and photo.sound(top)])
    promise = {key: _rise(photo, key, value) for key, edit in EDITS.items() if (value := _highest(photo, edit))}
    worth = [key for key, rise in promise.items() if rise > 0 and rise >= photo.settings.minimum_gain / 2]
    return sorted(worth, key=lambda key: -promise[key])


def _rise(photo: Trial, key: EditKey, value: float) -> float:
    """What one picture gains: noisy, and too high where it is the best of many."""
    after, before = photo.search_scores([_put({}, key, value), {}])
    return after - before


def _known(photo: Trial, edit: Edit, spikes: Collection[float] = ()) -> list[float]:
    """The values that were looked at, 0 included, but not those right beside one that did not hold."""
    return [
        value for value in (0.0, *photo.values(edit.key)) if all(abs(value - at) > 1.5 * edit.step for at in spikes)
    ]


def _highest(photo: Trial, edit: Edit, spikes: Collection[float] = ()) -> float:
    """The value that scores highest; of several the one nearest to 0."""
    return max(_known(photo, edit, spikes), key=lambda value: (_rise(photo, edit.key, value), -abs(value)), default=0.0)


def _beside(photo: Trial, edit: Edit, value: float) -> tuple[float | None, float | None]:
    """The values looked at that are next below and next above one."""
    known = _known(photo, edit)
    low, high = [each for each in known if each < value], [each for each in known if each > value]
    return max(low, default=None), min(high, default=None)


def _top(photo: Trial, edit: Edit, value: float) -> float:
    """Where the parabola through a value and its neighbours is highest, in whole steps; 0 where there is no telling."""
    low, high = _beside(photo, edit, value)
    if low is None or high is None:
        return 0.0
    vertex = _vertex((low, value, high), [_rise(photo, edit.key, each) for each in (low, value, high)])
    return 0.0 if vertex is None else edit.nearest(vertex)


def _refined(photo: Trial, edit: Edit, spikes: Collection[float]) -> float:
    """The best value, after a few more beside it, or one that is as good and milder.

    Looked at is the top of the parabola through the best value and its two neighbours; where that is known or there is
    none, the middle of the way to either neighbour, or toward the end of the range, the longer first: what whole steps
    leave of a golden section search.
    """
    for _ in range(photo.settings.refinements):
        best = _highest(photo, edit, spikes)
        low, high = _beside(photo, edit, best)
        ends = sorted(
            (edit.low if low is None else low, edit.high if high is None else high), key=lambda end: -abs(end - best)
        )
        wanted = [_top(photo, edit, best), *(edit.nearest((best + end) / 2) for end in ends)]
        known = _known(photo, edit)
        new = [value for value in wanted if value not in known and photo.sound({edit.key: value})]
        if not new:
            break
        photo.search_scores([{edit.key: new[0]}])
    return _mildest(photo, edit, _highest(photo, edit, spikes), spikes)


def _mildest(photo: Trial, edit: Edit, best: float, spikes: Collection[float]) -> float:
    """The value nearest to 0, on the side of the best one, that scores nearly as high: by less than the noise."""
    rise = _rise(photo, edit.key, best)
    enough = rise - min(photo.noise, _ALIKE * rise)
    same_side = [value for value in _known(photo, edit, spikes) if value * best > 0]
    return min((value for value in same_side if _rise(photo, edit.key, value) >= enough), key=abs, default=best)


def _vertex(places: Sequence[float], scores: Sequence[float]) -> float | None:
    """Where the parabola through three points is highest; None where it has no top between them.

    >>> _vertex([0, 1, 3], [0, 3, 3])
    2.0
    """
    (a, b, c), (fa, fb, fc) = places, scores
    left, right = (fb - fa) / (b - a), (fc - fb) / (c - b)
    bend = (right - left) / (c - a)
    if bend >= 0:
        return None
    top = (a + b) / 2 - left / (2 * bend)
    return top if a < top < c else None


# What holds


@dataclass(frozen=True)
class _Held:
    """An edit, or several, whose gain holds."""

    values: dict[EditKey, float]
    gain: float
    error: float
    mean: float
    pixels: np.ndarray


def _settle(photo: Trial, edit: Edit) -> _Held | Refusal | None:
    """The best value that holds; else why the first did not, None where that is of no interest."""
    first: Refusal | None = None
    spikes: set[float] = set()
    for _ in range(_ATTEMPTS):
        if photo.scorings + _VERIFYING + photo.settings.refinements + _TOGETHER > photo.settings.scorings:
            return first or Refusal(edit.key, None, "unlooked", "There was no time to look closely.")
        value = _refined(photo, edit, spikes)
        if not value or _rise(photo, edit.key, value) < photo.settings.minimum_gain / 2:
            break
        verdict = _verdict(photo, {edit.key: value})
        if isinstance(verdict, _Held):
            return verdict
        if _rise(photo, edit.key, value) >= photo.settings.minimum_gain:
            first = first or Refusal(edit.key, value, *verdict)
        spikes.add(value)
    return first


def _verdict(photo: Trial, values: Values) -> _Held | tuple[Why, str]:
    """Whether edits hold, measured on pictures that the search has not seen."""
    settings = photo.settings
    whole = photo.framed(values)
    picture = photo.shrunk(whole)
    if not photo.face_found(picture):
        return "face", "The face is not found any more once the photo is edited so."
    score = photo.held(picture)
    scores = photo.scores(edit_session.copies(picture), score)
    gain = float(scores.mean()) - photo.mean
    error = math.hypot(math.hypot(photo.noise, float(scores.std(ddof=1))) / math.sqrt(len(scores)), photo.wobble)
    if gain <= 0 or gain < settings.noise_multiple * error:
        return "noise", f"Its gain of {gain:.2f} is not beyond the scorer's own noise on this photo."
    if gain < settings.minimum_gain:
        return "small", f"Its gain of {gain:.2f} is too small to matter."
    if _half_a_step_away(photo, values, score) < settings.plateau * gain:
        return "spike", "It gains only at this exact value, which no hand can set, and not right beside it."
    if (degrees := values.get("straighten")) and _frame_alone(photo, degrees, score) > (1 - settings.plateau) * gain:
        return "frame", "Most of its gain comes from the tighter frame, not from turning."
    return _Held(dict(values), gain, error, photo.mean + gain, whole)


def _half_a_step_away(photo: Trial, values: Values, score: Score) -> float:
    """The lower of what is gained half a step above and below, each the mean of the picture and its mirror image."""
    pictures = []
    for sign in (-0.5, 0.5):
        moved = {
            key: min(max(value + sign * EDITS[key].step, EDITS[key].low), EDITS[key].high)
            for key, value in values.items()
        }
        picture = photo.quick(photo.within_reach(moved))
        pictures += [picture, np.ascontiguousarray(picture[:, ::-1])]
    scores = photo.scores(pictures, score)
    return float(min(scores[:2].mean(), scores[2:].mean())) - photo.mean


def _frame_alone(photo: Trial, degrees: float, score: Score) -> float:
    """What is gained by the crop that comes with turning."""
    height, width = photo.pixels.shape[:2]
    kept = edits.kept_by_turning(degrees, width, height)
    middle = Box((1 - kept) / 2, (1 - kept) / 2, kept, kept)
    picture = photo.shrunk(edits.crop(photo.pixels, middle))
    return float(photo.scores([picture, np.ascontiguousarray(picture[:, ::-1])], score).mean()) - photo.mean


# Several edits at once


def _together(photo: Trial, held: Sequence[_Held]) -> Together | None:
    """The advised edits at once, their values tuned to each other, where that holds and gains more than the best."""
    if len(held) < 2:
        return None
    values = _ascended(photo, held)
    if sum(1 for value in values.values() if value) < 2:
        return None
    verdict = _verdict(photo, values)
    if not isinstance(verdict, _Held) or verdict.gain <= held[0].gain:
        return None
    return Together(
        settings=verdict.values,
        gain=verdict.gain,
        error=verdict.error,
        mean=verdict.mean,
        sentence=sentence(verdict.values, verdict.gain),
        preview=_preview(photo, verdict),
    )


def _ascended(photo: Trial, held: Sequence[_Held]) -> dict[EditKey, float]:
    """Coordinate ascent from the edits' own best values, added one by one as long as all stays sound.

    Edits overlap (a brighter photo needs less light in its shadows), so each is tried in full and at half, then once
    more a step less, a step more, and left out.
    """
    values: dict[EditKey, float] = {}
    for one in held:
        for key, value in one.values.items():
            choices = [_put(values, key, part) for part in _parts(EDITS[key], value)]
            choices = [choice for choice in choices if photo.sound(choice)]
            if photo.scorings + len(choices) + _VERIFYING > photo.settings.scorings:
                return values
            values = _choose(photo, values, choices)
    for key in [*values]:  # once more, now that the others are there
        edit, value = EDITS[key], values[key]
        near = [_put(values, key, edit.nearest(value + move)) for move in (-edit.step, edit.step, -value)]
        near = [choice for choice in near if photo.sound(choice)]
        if photo.scorings + len(near) + _VERIFYING > photo.settings.scorings:
            return values
        values = _choose(photo, values, near)
    return values


def _parts(edit: Edit, value: float) -> list[float]:
    """Half of a value and all of it, in whole steps."""
    return [*dict.fromkeys([edit.nearest(value / 2), value])]


def _put(values: Values, key: EditKey, value: float) -> dict[EditKey, float]:
    """With one edit set anew, in the order in which edits are done; 0 leaves it out."""
    new = {**values, key: value}
    return {key: new[key] for key in get_args(EditKey) if new.get(key)}


def _choose(photo: Trial, values: dict[EditKey, float], choices: list[dict[EditKey, float]]) -> dict[EditKey, float]:
    """The choice that scores highest; one with fewer edits where more add next to nothing."""
    every = [values, *choices]
    scores = photo.search_scores(every)
    worth = [score - _DROPPED * len(choice) for score, choice in zip(scores, every, strict=True)]
    return every[int(np.argmax(worth))]


# What the person reads and sees


def _suggestion(photo: Trial, held: _Held) -> Suggestion:
    ((key, value),) = held.values.items()
    return Suggestion(
        edit=key,
        value=value,
        unit=EDITS[key].unit,
        gain=held.gain,
        error=held.error,
        mean=held.mean,
        sentence=sentence(held.values, held.gain),
        preview=_preview(photo, held),
    )


def _preview(photo: Trial, held: _Held) -> bytes:
    return edit_session.encoded(held.pixels, photo.settings.preview_quality, photo.settings.preview_side)


def sentence(values: Values, gain: float) -> str:
    """What the person reads of edits that gain so many points."""
    words = [_words(key, value) for key, value in values.items()]
    what = ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
    return f"{what[0].upper()}{what[1:]}: it would score {gain:.1f} higher."


_STOPS = {0.25: "a quarter of a stop", 0.5: "half a stop", 0.75: "three quarters of a stop", 1.0: "one stop",
          1.25: "one and a quarter stops", 1.5: "one and a half stops", 1.75: "one and three quarter stops",
          2.0: "two stops"}  # fmt: skip


def _words(key: EditKey, value: float) -> str:
    """What to do, as one would say it to a friend with a phone."""
    more, size = value > 0, abs(value)
    share = size / max(EDITS[key].high, -EDITS[key].low)
    degree = " a little" if share <= 0.3 else "" if share <= 0.6 else " a lot"
    slider = f"{'+' if more else '−'}{size:.0f}"  # noqa: RUF001 - a minus, as editors show it
    match key:
        case "straighten":
            return f"turn the photo {size:.0f}° {'clockwise' if more else 'anticlockwise'}"
        case "crop":
            return f"crop closer to the face, leaving off about {size:.0f} % of width and height"
        case "brightness":
            return f"{'brighten' if more else 'darken'} the photo{degree} (about {_STOPS[size]})"
        case "highlights":
            return f"turn the highlights {'up' if more else 'down'}{degree} (to about {slider})"
        case "shadows":
            return f"{'lift' if more else 'deepen'} the shadows{degree} (to about {slider})"
        case "contrast":
            return f"turn the contrast {'up' if more else 'down'}{degree} (to about {slider})"
        case "warmth":
            return f"make the colours{degree} {'warmer' if more else 'cooler'} (warmth about {slider})"
        case "sharpness":
            return f"sharpen the photo{degree} (sharpness about {slider})"
