"""Edit session of one photo: edited pictures, their scores, and limits that keep an edited photo plausible."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from components.scorer.advice import edits
from components.scorer.advice.edits import EditName
from components.scorer.faces.geometry import Box, Face
from components.scorer.imaging import image_statistics, resizing
from components.scorer.settings import AdviceSettings

ScoreFn = Callable[[list[Image.Image]], np.ndarray]
"""Function from normalised RGB pictures to their mean scores ``[n]``."""

FixFaceFn = Callable[[Image.Image], ScoreFn]
"""Function that analyses the face of one normalised RGB picture once.

It returns a score function that uses this analysis for every picture.
"""

EditSettings = Mapping[EditName, float]
"""Value of each edit; 0 or a missing edit changes nothing."""

ToneStatistic = Literal["light", "contrast", "highlights", "shadows", "warmth"]

USUAL_RANGES: dict[ToneStatistic, tuple[float, float]] = {
    "light": (0.40, 0.62),  # mean luma; a quarter of portraits is darker than .33, which scorers wrongly like
    "contrast": (0.16, 0.29),  # standard deviation of luma: the middle four fifths
    "highlights": (0.64, 0.84),  # 90th percentile of luma: the middle half
    "shadows": (0.075, 0.19),  # 10th percentile of luma: the middle half
    "warmth": (0.0, 0.21),  # red less blue: the middle four fifths
}
"""Usual ranges of portraits in the wild (1,000 of MEBeauty), on a scale of 0..1.

An edited photo has to lie within them, or at least no further away than the original.
"""

_FRAME_EDITS: tuple[EditName, ...] = ("straighten", "crop")
_LIGHT_STATISTICS: tuple[ToneStatistic, ...] = ("light", "contrast")
_STATISTICS_OF_EDIT: dict[EditName, tuple[ToneStatistic, ...]] = {
    "brightness": _LIGHT_STATISTICS,
    "highlights": (*_LIGHT_STATISTICS, "highlights"),
    "shadows": (*_LIGHT_STATISTICS, "shadows"),
    "contrast": _LIGHT_STATISTICS,
    "warmth": ("warmth",),
}
_BLACK_AND_WHITE = (
    8.0  # colourfulness below which a photo is black and white, as 9 % of portraits are; 15 is slight colour
)
_MAX_FACE_BURNT = 0.03  # largest fraction of the face's box that may get burnt: a shiny forehead
_SKIN_BURNT = 250  # level of the brightest colour from which skin is burnt; red clips before the luma does
_THUMBNAIL_SIDE = 96  # pixels of the longer side of the thumbnail on which light and colour are compared
_BURNT, _BLACK = 250, 5  # luma from which on, and up to which, no detail is visible
_MAX_EYE_TILT = (
    5.0  # degrees: largest tilt of the line through the eyes after straightening; people hold their heads so
)
_TURNING_SIDES = 1.35  # times the scored side: the strongest straightening of photos up to 3:2 leaves the scored side
_MAX_FACE_HEIGHT = (
    0.4  # largest face in a frame's height, brows to chin: with hair three fifths, as social networks ask
)
_MAX_HEAD_CUT = 0.05  # largest fraction of the head's box that straightening may cut off
_PERCENT_IN_STOPS = 0.015  # stops of a percent of light: half of the least visible difference (Weber, 2 %)
_REENCODING_QUALITY = 95  # JPEG quality that counts as visually lossless


class EditSession:
    """Edit session of one photo: its score, edited pictures and their scores.

    Attributes:
        pixels: Full photo, uint8 ``[h, w, 3]``.
        face: Box of the largest face; None if no face is known.
        mean: Mean of the scores of `imperceptible_variants`.
        noise: Standard deviation of the scores of `imperceptible_variants`.
        face_read_noise: Standard deviation, over `imperceptible_variants`, of the score change that analysing the face
            again makes; 0 if `fix_face` is None.
        scorings: Number of pictures scored so far.
    """

    def __init__(
        self,
        image: Image.Image,
        score: ScoreFn,
        faces: Sequence[Face] | None,
        settings: AdviceSettings,
        scored_side: int,
        find_faces: Callable[[Image.Image], Sequence[Face]] | None,
        fix_face: FixFaceFn | None = None,
    ) -> None:
        """Score the unedited photo; see `find_leakage.advise`.

        Args:
            image: Upright RGB photo.
            score: Score function.
            faces: Faces on the photo, the largest first; None if they are not known.
            settings: Advice settings.
            scored_side: Shorter side of a scored picture, pixels.
            find_faces: Function that detects the faces of a picture; None disables the check that the face is still
                detected.
            fix_face: Function that fixes the face analysis; None if ``score`` uses no faces.
        """
        self.pixels = np.asarray(image.convert("RGB"))
        self.settings, self.scorings = settings, 0
        self._score, self._scored_side, self._find_faces, self._fix_face = score, scored_side, find_faces, fix_face
        self.face: Box | None = faces[0].box if faces else None
        self._eyes = faces[0].tilt(image.size) if faces else 0.0
        self._small, self._turning_source = (
            _shrink(self.pixels, scored_side),
            _shrink(self.pixels, round(_TURNING_SIDES * scored_side)),
        )
        self._thumbnail = _thumbnail(self._small)
        self._original_statistics = self._tone_statistics(self._thumbnail)
        self._score_cache: dict[tuple, float] = {}
        variants = imperceptible_variants(self._small)
        scores = self.scores(variants)
        self.mean, self.noise = float(scores.mean()), float(scores.std(ddof=1))
        self._fixed_face_score = self.with_fixed_face(self._small)
        self.face_read_noise = (
            float((scores - self.scores(variants, self._fixed_face_score)).std(ddof=1)) if fix_face else 0.0
        )

    def with_fixed_face(self, picture: np.ndarray) -> ScoreFn:
        """Return a score function that uses the face analysis of this picture for every picture.

        Without a function that fixes the face analysis, return the plain score function.
        """
        return self._fix_face(Image.fromarray(picture)) if self._fix_face else self._score

    def scores(self, pictures: Sequence[np.ndarray], score: ScoreFn | None = None) -> np.ndarray:
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

    def search_scores(self, candidates: Sequence[EditSettings]) -> list[float]:
        """Return scores of the photo edited in several ways; known scores are reused.

        Light, colour and sharpness do not change the face, so these edits are scored with the original face analysis.
        Another frame shows the face larger or turned, so straightened and cropped pictures are analysed again.
        """
        keys = [tuple(sorted(values.items())) for values in candidates]
        unknown = [key for key in dict.fromkeys(keys) if key not in self._score_cache]
        for score, group in (
            (self._fixed_face_score, [key for key in unknown if not _changes_frame(key)]),
            (None, [*filter(_changes_frame, unknown)]),
        ):
            if group:
                scores = self.scores([self.render_small(dict(key)) for key in group], score)
                self._score_cache.update(zip(group, scores.tolist(), strict=True))
        return [self._score_cache[key] for key in keys]

    def tried_values(self, key: EditName) -> list[float]:
        """Return the values of an edit, alone, whose score is known, in the order in which they were scored."""
        return [value for scored in self._score_cache for name, value in scored if len(scored) == 1 and name == key]

    def render_small(self, values: EditSettings) -> np.ndarray:
        """Return the edited photo in the scored size; it is shrunk as early as possible without visible loss."""
        frame = {key: values[key] for key in _FRAME_EDITS if values.get(key)}
        tone = {key: value for key, value in values.items() if key not in frame}
        if not frame:
            return edits.apply_edits(self._small, tone).pixels
        source = self.pixels if "crop" in frame else self._turning_source
        return edits.apply_edits(self.resize_to_scored(edits.apply_edits(source, frame, self.face).pixels), tone).pixels

    def render_full(self, values: EditSettings) -> np.ndarray:
        """Return the full photo, edited."""
        return edits.apply_edits(self.pixels, values, self.face).pixels

    def resize_to_scored(self, pixels: np.ndarray) -> np.ndarray:
        """Shrink a picture to the scored size."""
        return _shrink(pixels, self._scored_side)

    def is_plausible(self, values: EditSettings) -> bool:
        """Return whether the edited photo is plausible.

        It has to stay similar to the original, and must not move away from the usual ranges of portraits.
        """
        return self._is_frame_plausible(values) and self._is_tone_plausible(values)

    def face_found(self, picture: np.ndarray) -> bool:
        """Return whether a face is detected on an edited picture.

        True also if the original has no known face, or there is no detector.
        """
        if self.face is None or self._find_faces is None:
            return True
        return len(self._find_faces(Image.fromarray(picture))) > 0

    def max_crop_percent(self, degrees: float = 0) -> float:
        """Return the strongest crop, in percent, of the photo turned by an angle; 0 without a face.

        The crop keeps the full head, no larger than usual in portraits, and as many pixels as the scorer reads.

        Args:
            degrees: Clockwise turn.
        """
        if self.face is None:
            return 0.0
        height, width = self.pixels.shape[:2]
        fraction = edits.fraction_kept(degrees, width, height)
        face = edits.turn_box(self.face, degrees, width, height)
        smallest = max(face.height / _MAX_FACE_HEIGHT, self.settings.smallest_crop / (min(width, height) * fraction))
        return min(edits.max_crop_percent(face), 100 * max(0.0, 1 - smallest))

    def clamp_crop(self, values: EditSettings) -> EditSettings:
        """Return the values with the crop limited to `closest`."""
        if "crop" not in values:
            return values
        return {**values, "crop": min(values["crop"], self.max_crop_percent(values.get("straighten", 0)))}

    def _is_frame_plausible(self, values: EditSettings) -> bool:
        degrees, percent = values.get("straighten", 0), values.get("crop", 0)
        if degrees and self.face is not None:
            height, width = self.pixels.shape[:2]
            head = edits.turn_box(edits.head_box(self.face), degrees, width, height)
            if _fraction_outside(head) > _MAX_HEAD_CUT or abs(self._eyes + degrees) > max(
                abs(self._eyes), _MAX_EYE_TILT
            ):
                return False
        return not percent or percent <= self.max_crop_percent(degrees)

    def _is_tone_plausible(self, values: EditSettings) -> bool:
        tone = {key: value for key, value in values.items() if key not in _FRAME_EDITS and value}
        if not tone:
            return True
        after = edits.apply_edits(self._thumbnail, tone).pixels
        if _colour_difference(self._thumbnail, after) > self.settings.maximum_difference:
            return False
        before, now = self._original_statistics, self._tone_statistics(after)
        limits = {
            "burnt": self.settings.maximum_clipped,
            "black": self.settings.maximum_clipped,
            "face": _MAX_FACE_BURNT,
        }
        if any(now[part] - before[part] > limit for part, limit in limits.items()):
            return False
        if "warmth" in tone and before["colourfulness"] < _BLACK_AND_WHITE:
            return False
        judged = {quantity for key in tone for quantity in _STATISTICS_OF_EDIT.get(key, ())}
        return all(_within_or_nearer(before[quantity], now[quantity], USUAL_RANGES[quantity]) for quantity in judged)

    def _tone_statistics(self, pixels: np.ndarray) -> dict[str, float]:
        """Return the tone statistics of a thumbnail, and three fractions of clipped pixels.

        These are ``burnt`` and ``black``, fractions of the thumbnail, and ``face``, the burnt fraction of the face's
        box.
        """
        luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        shadows, highlights = np.percentile(luma, [10, 90]) / 255
        face = edits.crop(pixels, edits.clip_box(self.face)) if self.face else pixels
        return {
            "light": image_statistics.brightness(luma),
            "contrast": image_statistics.contrast(luma),
            "highlights": float(highlights),
            "shadows": float(shadows),
            "warmth": image_statistics.warmth(pixels),
            "colourfulness": image_statistics.colourfulness(pixels),
            "burnt": float(np.mean(luma >= _BURNT)),
            "black": float(np.mean(luma <= _BLACK)),
            "face": float(np.mean(face.max(axis=-1) >= _SKIN_BURNT)),
        }


def _changes_frame(items: Iterable[tuple[EditName, float]]) -> bool:
    """Return whether edits straighten or crop."""
    return any(key in _FRAME_EDITS and value for key, value in items)


def imperceptible_variants(picture: np.ndarray) -> list[np.ndarray]:
    """Return eight variants of a picture that nobody can tell from the original, none of them identical to it.

    They are: mirrored; shifted by a pixel right and down, and left and up; re-encoded; mirrored and shifted; mirrored
    and re-encoded; a percent more and less light.
    """
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    return [
        mirrored,
        _shift(picture, 1),
        _shift(picture, -1),
        _reencode(picture),
        _shift(mirrored, 1),
        _reencode(mirrored),
        edits.brighten(picture, _PERCENT_IN_STOPS),
        edits.brighten(picture, -_PERCENT_IN_STOPS),
    ]


def encode_jpeg(pixels: np.ndarray, quality: int, max_side: int | None = None) -> bytes:
    """Return a JPEG of a picture, at most ``max_side`` pixels wide and high."""
    image = Image.fromarray(pixels)
    if max_side and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _shift(picture: np.ndarray, offset: int) -> np.ndarray:
    """Shift a picture by one pixel: right and down (1), or left and up (-1); the edges are repeated."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    return np.ascontiguousarray(padded[1 - offset : 1 - offset + height, 1 - offset : 1 - offset + width])


def _reencode(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(picture, _REENCODING_QUALITY))))


def _shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture to a shorter side of at most ``side`` pixels, as `decoding` shrinks photos."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / min(height, width))
    if scale == 1:
        return pixels
    size = (round(width * scale), round(height * scale))
    return np.asarray(resizing.shrink(Image.fromarray(pixels), size))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    scale = min(1.0, _THUMBNAIL_SIDE / max(pixels.shape[:2]))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _colour_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean colour difference ΔE*ab (CIE 1976)."""
    lab = [cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) for pixels in (first, second)]
    return float(np.linalg.norm(lab[0] - lab[1], axis=-1).mean())


def _within_or_nearer(before: float, after: float, usual: tuple[float, float]) -> bool:
    """Return whether a value ends within the usual range, or no further from it than before."""
    return _distance_outside(after, usual) <= max(0.0, _distance_outside(before, usual))


def _distance_outside(value: float, usual: tuple[float, float]) -> float:
    """Return the distance of a value from a range; 0 within it."""
    return max(usual[0] - value, value - usual[1], 0.0)


def _fraction_outside(box: Box) -> float:
    """Return the fraction of a box that lies beyond the photo's edges."""
    visible = edits.clip_box(box)
    return 1 - visible.width * visible.height / (box.width * box.height)
