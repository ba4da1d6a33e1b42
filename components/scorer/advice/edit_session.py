"""A photo on trial: pictures of it with edits, their scores, and whether they still are that photo, taken soundly."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from components.scorer.advice import edits
from components.scorer.advice.edits import EditKey
from components.scorer.faces.geometry import Box, Face
from components.scorer.imaging import image_statistics, resizing
from components.scorer.settings import Advising

Score = Callable[[list[Image.Image]], np.ndarray]
"""From normalised RGB pictures to their mean scores ``[n]``."""

Hold = Callable[[Image.Image], Score]
"""Reads the face of a normalised RGB picture, and gives what scores others that show that face by this one reading."""

Values = Mapping[EditKey, float]
"""What each edit is set to; 0 is the same as not there."""

Quantity = Literal["light", "contrast", "highlights", "shadows", "warmth"]

USUAL: dict[Quantity, tuple[float, float]] = {
    "light": (0.40, 0.62),  # mean luma. A quarter of portraits is darker than .33: what scorers get wrong is to like it
    "contrast": (0.16, 0.29),  # standard deviation of luma: the middle four fifths
    "highlights": (0.64, 0.84),  # luma that a tenth of the photo is above: the middle half
    "shadows": (0.075, 0.19),  # luma that a tenth of the photo is below: the middle half
    "warmth": (0.0, 0.21),  # red less blue: the middle four fifths
}
"""What portraits in the wild are like (1,000 of MEBeauty), of a range of 1: where an edited photo has to be, or come
nearer to."""

_FRAMING: tuple[EditKey, ...] = ("straighten", "crop")
_LIGHT: tuple[Quantity, ...] = ("light", "contrast")
_JUDGED: dict[EditKey, tuple[Quantity, ...]] = {
    "brightness": _LIGHT,
    "highlights": (*_LIGHT, "highlights"),
    "shadows": (*_LIGHT, "shadows"),
    "contrast": _LIGHT,
    "warmth": ("warmth",),
}
_COLOURLESS = 8.0  # colourfulness, below which a photo is black and white, as 9 % of portraits are; 15 is slight colour
_FACE_BURNT = 0.03  # share of the face's box that gets burnt: a shiny forehead, no more
_TOP = 250  # level of the brightest colour; of skin that is red, which burns before the luma does
_THUMBNAIL = 96  # pixels of the longer side, on which light and colour are compared
_BURNT, _BLACK = 250, 5  # luma from which on, and up to which, nothing can be told apart
_LEVEL = 5.0  # degrees off level that the line through the eyes may come to: people hold their heads so
_TURNING = 1.35  # times the scored side: of photos up to 3:2 the strongest straightening leaves the scored side
_FACE_HIGH = 0.4  # of a frame's height, brows to chin: with hair, three fifths, as networks ask of profile photos
_HEAD_CUT = 0.05  # share of the head's box that straightening may cut off
_PERCENT = 0.015  # stops that are a percent of light: half of the least difference that eyes see (Weber, 2 %)
_REENCODING = 95  # quality of JPEG that is called visually lossless


class Trial:
    """One photo, its score, and pictures of it with edits.

    Attributes:
        pixels: uint8 ``[h, w, 3]``, as large as it came.
        face: box of the largest face, None where none is known.
        mean: its score, on `copies`.
        noise: standard deviation of the score from copy to copy.
        wobble: standard deviation of what reading the face anew changes from copy to copy; 0 where none is read.
        scorings: pictures that were scored so far.
    """

    def __init__(
        self,
        image: Image.Image,
        score: Score,
        faces: Sequence[Face] | None,
        settings: Advising,
        side: int,
        find_faces: Callable[[Image.Image], Sequence[Face]] | None,
        hold: Hold | None = None,
    ) -> None:
        """Scores the photo as it is; see `search.advise`."""
        self.pixels = np.asarray(image.convert("RGB"))
        self.settings, self.scorings = settings, 0
        self._score, self._side, self._find_faces, self._hold = score, side, find_faces, hold
        self.face: Box | None = faces[0].box if faces else None
        self._eyes = faces[0].tilt(image.size) if faces else None
        self._small, self._turning = _shrunk(self.pixels, side), _shrunk(self.pixels, round(_TURNING * side))
        self._thumbnail = _thumbnail(self._small)
        self._before = self._measured(self._thumbnail)
        self._plain: dict[tuple, float] = {}
        alike = copies(self._small)
        scores = self.scores(alike)
        self.mean, self.noise = float(scores.mean()), float(scores.std(ddof=1))
        self._held = self.held(self._small)
        self.wobble = float((scores - self.scores(alike, self._held)).std(ddof=1)) if hold else 0.0

    def held(self, picture: np.ndarray) -> Score:
        """What scores pictures by the face that is read on this one; anew on each where reading costs nothing."""
        return self._hold(Image.fromarray(picture)) if self._hold else self._score

    def scores(self, pictures: Sequence[np.ndarray], score: Score | None = None) -> np.ndarray:
        """Scores of pictures, float64 ``[n]``.

        Args:
            pictures: normalised.
            score: by what, see `held`; None: the face of each is read.

        Raises:
            ValueError: there is not one finite number a picture.
        """
        found = np.asarray((score or self._score)([Image.fromarray(one) for one in pictures]), float)
        if found.shape != (len(pictures),) or not np.isfinite(found).all():
            raise ValueError(f"expected a finite score for each of {len(pictures)} pictures, got {found!r}")
        self.scorings += len(pictures)
        return found

    def search_scores(self, several: Sequence[Values]) -> list[float]:
        """Scores of the photo edited in several ways, each picture once; those known are not scored again.

        Light, colour and sharpness leave the face what it is: the search goes by the photo's own. Another frame shows
        it larger or turned, so it is read again.
        """
        keys = [tuple(sorted(values.items())) for values in several]
        new = [key for key in dict.fromkeys(keys) if key not in self._plain]
        for score, those in ((self._held, [key for key in new if not _frames(key)]), (None, [*filter(_frames, new)])):
            if those:
                found = self.scores([self.quick(dict(key)) for key in those], score)
                self._plain.update(zip(those, found.tolist(), strict=True))
        return [self._plain[key] for key in keys]

    def values(self, key: EditKey) -> list[float]:
        """The values of an edit, alone, whose score is known, in the order in which they were looked at."""
        return [value for known in self._plain for name, value in known if len(known) == 1 and name == key]

    def quick(self, values: Values) -> np.ndarray:
        """The edited photo in the size that is scored; it is shrunk as early as that loses nothing that is seen."""
        frame = {key: values[key] for key in _FRAMING if values.get(key)}
        tone = {key: value for key, value in values.items() if key not in frame}
        if not frame:
            return edits.edited(self._small, tone).pixels
        source = self.pixels if "crop" in frame else self._turning
        return edits.edited(self.shrunk(edits.edited(source, frame, self.face).pixels), tone).pixels

    def framed(self, values: Values) -> np.ndarray:
        """The whole photo, edited."""
        return edits.edited(self.pixels, values, self.face).pixels

    def shrunk(self, pixels: np.ndarray) -> np.ndarray:
        """A picture in the size that is scored."""
        return _shrunk(pixels, self._side)

    def sound(self, values: Values) -> bool:
        """Whether the edited photo still is the photo, and nearer to what portraits usually are, not further off."""
        return self._frame_is_sound(values) and self._tone_is_sound(values)

    def face_found(self, picture: np.ndarray) -> bool:
        """Whether a face is found on an edited picture, if there is one on the photo and somebody to look."""
        if self.face is None or self._find_faces is None:
            return True
        return len(self._find_faces(Image.fromarray(picture))) > 0

    def closest(self, degrees: float = 0) -> float:
        """The strongest crop, in percent, of the photo turned so far.

        It keeps the head whole and no larger than portraits show it, and as many pixels as the scorer reads.
        """
        if self.face is None:
            return 0.0
        height, width = self.pixels.shape[:2]
        kept = edits.kept_by_turning(degrees, width, height)
        face = edits.turned(self.face, degrees, width, height)
        smallest = max(face.height / _FACE_HIGH, self.settings.smallest_crop / (min(width, height) * kept))
        return min(edits.closest(face), 100 * max(0.0, 1 - smallest))

    def within_reach(self, values: Values) -> Values:
        """The same values, with the crop no closer than the head allows."""
        if "crop" not in values:
            return values
        return {**values, "crop": min(values["crop"], self.closest(values.get("straighten", 0)))}

    def _frame_is_sound(self, values: Values) -> bool:
        degrees, percent = values.get("straighten", 0), values.get("crop", 0)
        if degrees and self.face is not None:
            height, width = self.pixels.shape[:2]
            head = edits.turned(edits.head(self.face), degrees, width, height)
            if _outside(head) > _HEAD_CUT or abs(self._eyes + degrees) > max(abs(self._eyes), _LEVEL):
                return False
        return not percent or percent <= self.closest(degrees)

    def _tone_is_sound(self, values: Values) -> bool:
        tone = {key: value for key, value in values.items() if key not in _FRAMING and value}
        if not tone:
            return True
        after = edits.edited(self._thumbnail, tone).pixels
        if _difference(self._thumbnail, after) > self.settings.maximum_difference:
            return False
        before, now = self._before, self._measured(after)
        limits = {"burnt": self.settings.maximum_clipped, "black": self.settings.maximum_clipped, "face": _FACE_BURNT}
        if any(now[part] - before[part] > limit for part, limit in limits.items()):
            return False
        if "warmth" in tone and before["colourfulness"] < _COLOURLESS:
            return False
        judged = {quantity for key in tone for quantity in _JUDGED.get(key, ())}
        return all(_nearer(before[quantity], now[quantity], USUAL[quantity]) for quantity in judged)

    def _measured(self, pixels: np.ndarray) -> dict[str, float]:
        """The quantities that are judged, of a thumbnail; shares of it that are burnt, black, and burnt in the face."""
        luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        shadows, highlights = np.percentile(luma, [10, 90]) / 255
        face = edits.crop(pixels, edits.inside(self.face)) if self.face else pixels
        return {
            "light": image_statistics.brightness(luma),
            "contrast": image_statistics.contrast(luma),
            "highlights": float(highlights),
            "shadows": float(shadows),
            "warmth": image_statistics.warmth(pixels),
            "colourfulness": image_statistics.colourfulness(pixels),
            "burnt": float(np.mean(luma >= _BURNT)),
            "black": float(np.mean(luma <= _BLACK)),
            "face": float(np.mean(face.max(axis=-1) >= _TOP)),
        }


def _frames(edits: Iterable[tuple[EditKey, float]]) -> bool:
    """Whether edits change what the frame shows."""
    return any(key in _FRAMING and value for key, value in edits)


def copies(picture: np.ndarray) -> list[np.ndarray]:
    """Eight pictures that nobody can tell from this one, and that are not this very one.

    Mirrored; moved by a pixel to and fro; re-encoded; mirrored and moved; mirrored and re-encoded; a percent more and
    less light.
    """
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    return [
        mirrored,
        _moved(picture, 1),
        _moved(picture, -1),
        _reencoded(picture),
        _moved(mirrored, 1),
        _reencoded(mirrored),
        edits.brighten(picture, _PERCENT),
        edits.brighten(picture, -_PERCENT),
    ]


def encoded(pixels: np.ndarray, quality: int, longest: int | None = None) -> bytes:
    """A JPEG of a picture, at most ``longest`` pixels wide and high."""
    image = Image.fromarray(pixels)
    if longest and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _moved(picture: np.ndarray, by: int) -> np.ndarray:
    """Moved right and down by a pixel, or left and up; the edges are repeated."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    return np.ascontiguousarray(padded[1 - by : 1 - by + height, 1 - by : 1 - by + width])


def _reencoded(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(picture, _REENCODING))))


def _shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels with the shorter side at most ``side``, as `decoding` shrinks photos."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / min(height, width))
    if scale == 1:
        return pixels
    size = (round(width * scale), round(height * scale))
    return np.asarray(resizing.shrink(Image.fromarray(pixels), size))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    scale = min(1.0, _THUMBNAIL / max(pixels.shape[:2]))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean colour difference ΔE*ab (CIE 1976)."""
    lab = [cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) for pixels in (one, other)]
    return float(np.linalg.norm(lab[0] - lab[1], axis=-1).mean())


def _nearer(before: float, after: float, usual: tuple[float, float]) -> bool:
    """Whether a quantity ends within what is usual, or at least nearer to it."""
    return _off(after, usual) <= max(0.0, _off(before, usual))


def _off(value: float, usual: tuple[float, float]) -> float:
    """How far a value is beyond a range, 0 within it."""
    return max(usual[0] - value, value - usual[1], 0.0)


def _outside(box: Box) -> float:
    """Share of a box that is beyond the photo's edges."""
    seen = edits.inside(box)
    return 1 - seen.width * seen.height / (box.width * box.height)
