"""Edit session of one photo: edited pictures, their scores, and limits that keep an edited photo plausible."""

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
"""Function from normalised RGB pictures to their mean scores ``[n]``."""

Hold = Callable[[Image.Image], Score]
"""Function that analyses the face of one normalised RGB picture once.

It returns a score function that uses this analysis for every picture.
"""

Values = Mapping[EditKey, float]
"""Value of each edit; 0 or a missing edit changes nothing."""

Quantity = Literal["light", "contrast", "highlights", "shadows", "warmth"]

USUAL: dict[Quantity, tuple[float, float]] = {
    "light": (0.40, 0.62),  # mean luma; a quarter of portraits is darker than .33, which scorers wrongly like
    "contrast": (0.16, 0.29),  # standard deviation of luma: the middle four fifths
    "highlights": (0.64, 0.84),  # 90th percentile of luma: the middle half
    "shadows": (0.075, 0.19),  # 10th percentile of luma: the middle half
    "warmth": (0.0, 0.21),  # red less blue: the middle four fifths
}
"""Usual ranges of portraits in the wild (1,000 of MEBeauty), on a scale of 0..1.

An edited photo has to lie within them, or at least no further away than the original.
"""

_FRAMING: tuple[EditKey, ...] = ("straighten", "crop")
_LIGHT: tuple[Quantity, ...] = ("light", "contrast")
_JUDGED: dict[EditKey, tuple[Quantity, ...]] = {
    "brightness": _LIGHT,
    "highlights": (*_LIGHT, "highlights"),
    "shadows": (*_LIGHT, "shadows"),
    "contrast": _LIGHT,
    "warmth": ("warmth",),
}
_COLOURLESS = 8.0  # colourfulness below which a photo is black and white, as 9 % of portraits are; 15 is slight colour
_FACE_BURNT = 0.03  # largest fraction of the face's box that may get burnt: a shiny forehead
_TOP = 250  # level of the brightest colour from which skin is burnt; red clips before the luma does
_THUMBNAIL = 96  # pixels of the longer side of the thumbnail on which light and colour are compared
_BURNT, _BLACK = 250, 5  # luma from which on, and up to which, no detail is visible
_LEVEL = 5.0  # degrees: largest tilt of the line through the eyes after straightening; people hold their heads so
_TURNING = 1.35  # times the scored side: the strongest straightening of photos up to 3:2 leaves the scored side
_FACE_HIGH = 0.4  # largest face in a frame's height, brows to chin: with hair three fifths, as social networks ask
_HEAD_CUT = 0.05  # largest fraction of the head's box that straightening may cut off
_PERCENT = 0.015  # stops of a percent of light: half of the least visible difference (Weber, 2 %)
_REENCODING = 95  # JPEG quality that counts as visually lossless


class Trial:
    """Edit session of one photo: its score, edited pictures and their scores.

    Attributes:
        pixels: Full photo, uint8 ``[h, w, 3]``.
        face: Box of the largest face; None if no face is known.
        mean: Mean of the scores of `copies`.
        noise: Standard deviation of the scores of `copies`.
        wobble: Standard deviation, over `copies`, of the score change that analysing the face again makes; 0 if
            `hold` is None.
        scorings: Number of pictures scored so far.
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
        """Score the unedited photo; see `search.advise`.

        Args:
            image: Upright RGB photo.
            score: Score function.
            faces: Faces on the photo, the largest first; None if they are not known.
            settings: Advice settings.
            side: Shorter side of a scored picture, pixels.
            find_faces: Function that detects the faces of a picture; None disables the check that the face is still
                detected.
            hold: Function that fixes the face analysis; None if ``score`` uses no faces.
        """
        self.pixels = np.asarray(image.convert("RGB"))
        self.settings, self.scorings = settings, 0
        self._score, self._side, self._find_faces, self._hold = score, side, find_faces, hold
        self.face: Box | None = faces[0].box if faces else None
        self._eyes = faces[0].tilt(image.size) if faces else None
        self._small, self._turning = _shrunk(self.pixels, side), _shrunk(self.pixels, round(_TURNING * side))
        self._thumbnail = _thumbnail(self._small)
        self._before = self._measured(self._thumbnail)
        self._plain: dict[tuple, float] = {}
        variants = copies(self._small)
        scores = self.scores(variants)
        self.mean, self.noise = float(scores.mean()), float(scores.std(ddof=1))
        self._held = self.held(self._small)
        self.wobble = float((scores - self.scores(variants, self._held)).std(ddof=1)) if hold else 0.0

    def held(self, picture: np.ndarray) -> Score:
        """Return a score function that uses the face analysis of this picture for every picture.

        Without a function that fixes the face analysis, return the plain score function.
        """
        return self._hold(Image.fromarray(picture)) if self._hold else self._score

    def scores(self, pictures: Sequence[np.ndarray], score: Score | None = None) -> np.ndarray:
        """Return scores of pictures, float64 ``[n]``.

        Args:
            pictures: Normalised pictures, uint8 ``[h, w, 3]``.
            score: Score function, see `held`; None analyses the face of each picture.

        Raises:
            ValueError: The score function does not return one finite number a picture.
        """
        scores = np.asarray((score or self._score)([Image.fromarray(picture) for picture in pictures]), float)
        if scores.shape != (len(pictures),) or not np.isfinite(scores).all():
            raise ValueError(f"expected a finite score for each of {len(pictures)} pictures, got {scores!r}")
        self.scorings += len(pictures)
        return scores

    def search_scores(self, several: Sequence[Values]) -> list[float]:
        """Return scores of the photo edited in several ways; known scores are reused.

        Light, colour and sharpness do not change the face, so these edits are scored with the original face analysis.
        Another frame shows the face larger or turned, so straightened and cropped pictures are analysed again.
        """
        keys = [tuple(sorted(values.items())) for values in several]
        unknown = [key for key in dict.fromkeys(keys) if key not in self._plain]
        for score, group in (
            (self._held, [key for key in unknown if not _frames(key)]),
            (None, [*filter(_frames, unknown)]),
        ):
            if group:
                scores = self.scores([self.quick(dict(key)) for key in group], score)
                self._plain.update(zip(group, scores.tolist(), strict=True))
        return [self._plain[key] for key in keys]

    def values(self, key: EditKey) -> list[float]:
        """Return the values of an edit, alone, whose score is known, in the order in which they were scored."""
        return [value for scored in self._plain for name, value in scored if len(scored) == 1 and name == key]

    def quick(self, values: Values) -> np.ndarray:
        """Return the edited photo in the scored size; it is shrunk as early as possible without visible loss."""
        frame = {key: values[key] for key in _FRAMING if values.get(key)}
        tone = {key: value for key, value in values.items() if key not in frame}
        if not frame:
            return edits.edited(self._small, tone).pixels
        source = self.pixels if "crop" in frame else self._turning
        return edits.edited(self.shrunk(edits.edited(source, frame, self.face).pixels), tone).pixels

    def framed(self, values: Values) -> np.ndarray:
        """Return the full photo, edited."""
        return edits.edited(self.pixels, values, self.face).pixels

    def shrunk(self, pixels: np.ndarray) -> np.ndarray:
        """Shrink a picture to the scored size."""
        return _shrunk(pixels, self._side)

    def sound(self, values: Values) -> bool:
        """Return whether the edited photo is plausible.

        It has to stay similar to the original, and must not move away from the usual ranges of portraits.
        """
        return self._frame_is_sound(values) and self._tone_is_sound(values)

    def face_found(self, picture: np.ndarray) -> bool:
        """Return whether a face is detected on an edited picture.

        True also if the original has no known face, or there is no detector.
        """
        if self.face is None or self._find_faces is None:
            return True
        return len(self._find_faces(Image.fromarray(picture))) > 0

    def closest(self, degrees: float = 0) -> float:
        """Return the strongest crop, in percent, of the photo turned by an angle; 0 without a face.

        The crop keeps the full head, no larger than usual in portraits, and as many pixels as the scorer reads.

        Args:
            degrees: Clockwise turn.
        """
        if self.face is None:
            return 0.0
        height, width = self.pixels.shape[:2]
        fraction = edits.kept_by_turning(degrees, width, height)
        face = edits.turned(self.face, degrees, width, height)
        smallest = max(face.height / _FACE_HIGH, self.settings.smallest_crop / (min(width, height) * fraction))
        return min(edits.closest(face), 100 * max(0.0, 1 - smallest))

    def within_reach(self, values: Values) -> Values:
        """Return the values with the crop limited to `closest`."""
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
        """Return the tone statistics of a thumbnail, and three fractions of clipped pixels.

        These are ``burnt`` and ``black``, fractions of the thumbnail, and ``face``, the burnt fraction of the face's
        box.
        """
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


def _frames(items: Iterable[tuple[EditKey, float]]) -> bool:
    """Return whether edits straighten or crop."""
    return any(key in _FRAMING and value for key, value in items)


def copies(picture: np.ndarray) -> list[np.ndarray]:
    """Return eight variants of a picture that nobody can tell from the original, none of them identical to it.

    They are: mirrored; shifted by a pixel right and down, and left and up; re-encoded; mirrored and shifted; mirrored
    and re-encoded; a percent more and less light.
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
    """Return a JPEG of a picture, at most ``longest`` pixels wide and high."""
    image = Image.fromarray(pixels)
    if longest and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _moved(picture: np.ndarray, offset: int) -> np.ndarray:
    """Shift a picture by one pixel: right and down (1), or left and up (-1); the edges are repeated."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    return np.ascontiguousarray(padded[1 - offset : 1 - offset + height, 1 - offset : 1 - offset + width])


def _reencoded(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(picture, _REENCODING))))


def _shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture to a shorter side of at most ``side`` pixels, as `decoding` shrinks photos."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / min(height, width))
    if scale == 1:
        return pixels
    size = (round(width * scale), round(height * scale))
    return np.asarray(resizing.shrink(Image.fromarray(pixels), size))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    scale = min(1.0, _THUMBNAIL / max(pixels.shape[:2]))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean colour difference ΔE*ab (CIE 1976)."""
    lab = [cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) for pixels in (first, second)]
    return float(np.linalg.norm(lab[0] - lab[1], axis=-1).mean())


def _nearer(before: float, after: float, usual: tuple[float, float]) -> bool:
    """Return whether a value ends within the usual range, or no further from it than before."""
    return _off(after, usual) <= max(0.0, _off(before, usual))


def _off(value: float, usual: tuple[float, float]) -> float:
    """Return the distance of a value from a range; 0 within it."""
    return max(usual[0] - value, value - usual[1], 0.0)


def _outside(box: Box) -> float:
    """Return the fraction of a box that lies beyond the photo's edges."""
    visible = edits.inside(box)
    return 1 - visible.width * visible.height / (box.width * box.height)
