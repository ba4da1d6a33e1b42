"""Whether scores follow what people see: photos made worse must not gain, photos changed invisibly must not move.

Each photo is changed as a file would be, and the scorer reads the changed file. What is lossless is stored as PNG, so
that the change alone is measured.

Photos are made worse at two strengths each, since a scorer may like a slight change and dislike a strong one. Where
a strength is named a level, it is that of ImageNet-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", 2019, https://arxiv.org/abs/1903.12261; make_imagenet_c.py of its code), made
for photos of 224 pixels: lengths are taken relative to the shorter side.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageFilter, ImageOps
from scipy import stats

from components.evaluation.checks.predictions import BATCH, Records, Scorer
from components.scorer.explain import adversarial, attribution
from components.scorer.imaging import preprocessing_tf
from components.scorer.metrics import regression
from components.scorer.model.inputs import PIXELS, in_order
from components.scorer.progress import track
from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Evaluation, GateKey

STEPS = 100
"""Of the perturbation, as many as in the portrait paper's enhancement (section 7.2.2)."""

_BLURS = (2 / 224, 4 / 224)  # radius over the shorter side, levels 2 and 4: skin loses its texture, then eyes theirs
_DARKER = (-2, -3)  # stops: a quarter and an eighth of the light, where a camera's own metering errs by one
_LIGHTER = (2, 3)  # stops: four and eight times the light; skin burns out
_QUALITIES = (10, 5)  # of JPEG: level 4, and half of it; blocks are seen at a glance
_NOISES = (0.08, 0.18)  # standard deviation, of a range of 1, levels 1 and 3: a small sensor in the dark
_REENCODING = 95  # quality of JPEG that is called visually lossless


@dataclass(frozen=True)
class Response:
    """How scores respond to one change.

    Attributes:
        key: of the gate that judges it.
        change: what was done, in words.
        worse: whether people like the changed photo less; if not, they do not see the change.
        changes: n score points, by which each photo's mean score moved.
        mean: of ``changes``.
        low: lower end of the mean's interval (Student's t).
        high: its upper end.
        raised: share of the photos whose score rose.
        absolute: mean of the changes without their signs.
        largest: of the changes without their signs.
    """

    key: GateKey
    change: str
    worse: bool
    changes: tuple[float, ...]
    mean: float
    low: float
    high: float
    raised: float
    absolute: float
    largest: float


@dataclass(frozen=True)
class Perturbation:
    """How far gradients raise scores by what nobody sees, in the whole photo: what is read of the face is held.

    Attributes:
        budget: largest change of any pixel's red, green or blue, of 255.
        steps: of the ascent.
        before: n mean scores of the photos.
        after: n mean scores of the perturbed ones.
        rise: mean of the differences, in score points.
        largest: of the differences.
    """

    budget: float
    steps: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    rise: float
    largest: float


@dataclass(frozen=True)
class Behaviours:
    """What a scorer does on changed photos.

    Attributes:
        before: n mean scores of the photos as they are, in the order in which all ``changes`` are.
        responses: to each change at each strength.
        perturbation: None for a scorer that has no gradients to offer.
    """

    before: tuple[float, ...]
    responses: list[Response]
    perturbation: Perturbation | None


def sample(records: Records, total: int, settings: Evaluation) -> list[bytes]:
    """Some encoded photos of the test split, in its order: always the same for the same seed.

    Args:
        records: of the test split; read only as far as the last photo that was drawn.
        total: how many there are.
        settings: ``behaviour_photos`` and ``seed`` are read.
    """
    size = min(settings.behaviour_photos, total)
    drawn = np.sort(np.random.default_rng(settings.seed).choice(total, size, replace=False)).tolist()
    wanted, last = set(drawn), max(drawn, default=-1)
    found = []
    for place, record in zip(range(last + 1), records(), strict=False):
        if place in wanted:
            found.append(record["photo"])
    return found


def observe(photos: Sequence[bytes], scorer: Scorer, settings: Evaluation) -> Behaviours:
    """Score photos as they are and changed.

    Args:
        photos: encoded, upright photos.
        scorer: what to observe; perturbed only if it has ``model`` and ``given`` as a ``Bundle`` does.
        settings: ``confidence``, ``seed`` and those of the perturbation are read.

    Raises:
        ValueError: there is no photo, or the scorer does not answer with ten votes a photo.
    """
    if not photos:
        raise ValueError("expected photos to observe the scorer on, got none")
    changes = _changes()
    before: list[np.ndarray] = []
    after: list[list[np.ndarray]] = [[] for _ in changes]
    starts = range(0, len(photos), BATCH)
    with ThreadPoolExecutor() as pool:
        for start in track(starts, f"observing changed photos, batches of {BATCH}"):
            batch = list(photos[start : start + BATCH])
            pictures = list(pool.map(_picture, batch))
            seeds = [[settings.seed, start + place] for place in range(len(batch))]
            before.append(_means(scorer, batch))
            for change, means in zip(changes, after, strict=True):
                means.append(_means(scorer, list(pool.map(change.apply, pictures, seeds))))
    unchanged = np.concatenate(before)
    responses = [
        _response(change, np.concatenate(means) - unchanged, settings)
        for change, means in zip(changes, after, strict=True)
    ]
    return Behaviours(tuple(unchanged.tolist()), responses, _perturbation(photos, scorer, settings))


def gates(behaviours: Behaviours, settings: Evaluation) -> list[Gate]:
    """Hold what was observed against the limits.

    Photos made worse must not gain on average. They do when the mean change at either strength is above 0 beyond
    chance (a one-sided t-test) and above ``maximum_rise``: on thousands of photos a thousandth of a point is certain
    too, and matters to nobody. All tests at 5 % would refuse a sound scorer far more often than once in twenty, so they
    are corrected together by Holm's method, which bounds the chance that any of them is wrong, however they depend on
    each other (Holm, "A simple sequentially rejective multiple test procedure", 1979). What nobody sees needs no test:
    it is measured far more exactly than its tolerance.
    """
    worse = [response for response in behaviours.responses if response.worse]
    same = [response for response in behaviours.responses if not response.worse]
    chances = _holm([_chance(response.changes) for response in worse])
    judged: dict[GateKey, list[tuple[Response, float]]] = {}
    for response, chance in zip(worse, chances, strict=True):
        judged.setdefault(response.key, []).append((response, chance))
    return [
        *(_not_raised(key, tested, settings) for key, tested in judged.items()),
        *(_not_moved(response, settings) for response in same),
        _not_perturbed(behaviours.perturbation, settings),
    ]


@dataclass(frozen=True)
class _Change:
    """One change at one strength: from a picture and the seed of its noise to a file."""

    key: GateKey
    words: str
    apply: Callable[[Image.Image, Any], bytes]
    worse: bool = True


def _changes() -> list[_Change]:
    def blurred(radius: float) -> Callable[[Image.Image, Any], bytes]:
        return lambda picture, _: _png(picture.filter(ImageFilter.GaussianBlur(radius * min(picture.size))))

    def exposed(stops: float) -> Callable[[Image.Image, Any], bytes]:
        table = _exposure(stops)
        return lambda picture, _: _png(picture.point(table))

    def compressed(quality: int) -> Callable[[Image.Image, Any], bytes]:
        return lambda picture, _: _file(picture, "JPEG", quality=quality)

    def noisy(deviation: float) -> Callable[[Image.Image, Any], bytes]:
        return lambda picture, seed: _png(_noisy(picture, deviation, seed))

    return [
        *(_Change("blur", f"a blur of {_percent(share)} of the shorter side", blurred(share)) for share in _BLURS),
        *(_Change("darkening", f"an exposure {-stops} stops down", exposed(stops)) for stops in _DARKER),
        *(_Change("overexposure", f"an exposure {stops} stops up", exposed(stops)) for stops in _LIGHTER),
        *(_Change("compression", f"JPEG at quality {quality}", compressed(quality)) for quality in _QUALITIES),
        *(_Change("noise", f"noise of {_percent(deviation)} of the range", noisy(deviation)) for deviation in _NOISES),
        _Change("mirror", "a mirror image", lambda picture, _: _png(ImageOps.mirror(picture)), worse=False),
        _Change("shift", "a shift by one pixel", lambda picture, _: _png(_shifted(picture)), worse=False),
        _Change("reencoding", f"JPEG at quality {_REENCODING}", compressed(_REENCODING), worse=False),
    ]


def _picture(data: bytes) -> Image.Image:
    """A photo through the scorer's own decoder: another's rounding alone moves a score by hundredths."""
    return Image.fromarray(preprocessing_tf.decode(tf.constant(data)).numpy())


def _file(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _png(picture: Image.Image) -> bytes:
    return _file(picture, "PNG", compress_level=1)  # read once, so that a small file is not worth its time


def _exposure(stops: float) -> list[int]:
    """What becomes of each value of each colour when the light is multiplied by ``2 ** stops`` (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.minimum(light * 2.0**stops, 1)
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * value).astype(int).tolist() * 3


def _noisy(picture: Image.Image, deviation: float, seed: Any) -> Image.Image:
    pixels = np.asarray(picture, "float32")
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, "float32")
    return Image.fromarray(np.rint(pixels + 255 * deviation * noise).clip(0, 255).astype("uint8"))


def _shifted(picture: Image.Image) -> Image.Image:
    """One pixel to the right and one down, the edges repeated."""
    return Image.fromarray(np.pad(np.asarray(picture), ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1])


def _means(scorer: Scorer, photos: list[bytes]) -> np.ndarray:
    return regression.mean_scores(scorer.score(photos))


def _response(change: _Change, changes: np.ndarray, settings: Evaluation) -> Response:
    mean = float(changes.mean())
    away = _error(changes) * stats.t.ppf((1 + settings.confidence) / 2, len(changes) - 1)
    return Response(
        key=change.key,
        change=change.words,
        worse=change.worse,
        changes=tuple(changes.tolist()),
        mean=mean,
        low=float(mean - away),
        high=float(mean + away),
        raised=float(np.mean(changes > 0)),
        absolute=float(np.abs(changes).mean()),
        largest=float(np.abs(changes).max()),
    )


def _perturbation(photos: Sequence[bytes], scorer: Any, settings: Evaluation) -> Perturbation | None:
    if not (hasattr(scorer, "model") and hasattr(scorer, "given")):
        return None
    print(f"perturbing {min(settings.perturbation_photos, len(photos))} photos in {STEPS} steps", flush=True)
    pixels, held = attribution.hold(scorer.given(list(photos[: settings.perturbation_photos])))
    perturbed = adversarial.perturb(scorer.model, pixels, settings.perturbation_budget, STEPS, held)
    before, after = (
        regression.mean_scores(np.asarray(scorer.model(in_order(scorer.model, {PIXELS: each, **held}), training=False)))
        for each in (pixels, perturbed)
    )
    return Perturbation(
        budget=settings.perturbation_budget,
        steps=STEPS,
        before=tuple(before.tolist()),
        after=tuple(after.tolist()),
        rise=float((after - before).mean()),
        largest=float((after - before).max()),
    )


def _error(changes: Sequence[float]) -> float:
    """Standard error of the mean; NaN for a single photo, which tells nothing of it."""
    return float(np.std(changes, ddof=1) / math.sqrt(len(changes))) if len(changes) > 1 else math.nan


def _chance(changes: Sequence[float]) -> float:
    """Of a mean as high as this where the true one is 0: one-sided, by Student's t."""
    mean, error = float(np.mean(changes)), _error(changes)
    if error == 0:  # every photo moves alike
        return float(mean <= 0)
    return float(stats.t.sf(mean / error, len(changes) - 1))


def _holm(chances: Iterable[float]) -> list[float]:
    """Chances corrected for their number by Holm's method, in their order; NaN stays NaN."""
    chances = np.asarray(list(chances), float)
    order = np.argsort(chances)  # NaN last
    factors = np.arange(len(chances), 0, -1)
    corrected = np.empty_like(chances)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * chances[order]), 1)
    return corrected.tolist()


_NAMES: dict[GateKey, str] = {
    "blur": "Blur does not raise scores",
    "darkening": "Darkening does not raise scores",
    "overexposure": "Overexposure does not raise scores",
    "compression": "Heavy compression does not raise scores",
    "noise": "Noise does not raise scores",
    "mirror": "A mirror image keeps its score",
    "shift": "A photo moved by one pixel keeps its score",
    "reencoding": "A re-encoded photo keeps its score",
    "perturbation": "An invisible perturbation does not make the score",
}


def _not_raised(key: GateKey, tested: list[tuple[Response, float]], settings: Evaluation) -> Gate:
    """The strength that speaks most against the scorer decides."""
    name, metric, limit = _NAMES[key], "mean change, score points", settings.maximum_rise
    if not all(math.isfinite(chance) for _, chance in tested):
        return Gate(key, name, metric, math.nan, limit, "failed", _UNMEASURED)

    def rises(response: Response, chance: float) -> bool:
        return chance <= settings.significance and response.mean > limit

    worst, chance = max(tested, key=lambda pair: (rises(*pair), pair[0].mean))
    others = "".join(f"; {other.change}: {other.mean:+.3f}" for other, _ in tested if other is not worst)
    reason = (
        f"{worst.change} moves the mean score by {worst.mean:+.3f} ({_interval(worst, settings)}; p = {chance:.2g},"
        f" corrected for all such tests){others}; a rise beyond chance and of more than {limit:g} fails."
    )
    return Gate(key, name, metric, worst.mean, limit, outcome(not rises(worst, chance)), reason)


def _not_moved(response: Response, settings: Evaluation) -> Gate:
    value, limit = response.absolute, settings.behaviour_tolerance
    reason = (
        f"{response.change} moves a photo's score by {value:.3f} on average, by {response.largest:.2f} at"
        f" most ({len(response.changes)} photos; mean {response.mean:+.3f}); it may move it by {limit:g} on average."
    )
    if not math.isfinite(value):
        reason = _UNMEASURED
    return Gate(
        response.key, _NAMES[response.key], "mean absolute change, score points", value, limit,
        outcome(value <= limit), reason,
    )  # fmt: skip


def _not_perturbed(found: Perturbation | None, settings: Evaluation) -> Gate:
    limit = settings.maximum_perturbation
    name, metric = _NAMES["perturbation"], "mean rise, score points"
    if found is None:
        reason = "the scorer offers no gradients, so that no perturbation can be made for it."
        return Gate("perturbation", name, metric, math.nan, limit, "not judged", reason)
    reason = (
        f"changes of {found.budget:g} of 255 at most, in {found.steps} steps, raise {len(found.before)} photos by"
        f" {found.rise:.2f} score points on average ({np.mean(found.before):.2f} to {np.mean(found.after):.2f}); they"
        f" may raise them by {limit:g}."
    )
    if not math.isfinite(found.rise):
        reason = _UNMEASURED
    return Gate("perturbation", name, metric, found.rise, limit, outcome(found.rise <= limit), reason)


_UNMEASURED = "it could not be measured (a score is no number, or there is a single photo), and that fails."


def _interval(response: Response, settings: Evaluation) -> str:
    confidence, raised = _percent(settings.confidence), _percent(response.raised)
    ends = f"{response.low:+.3f} to {response.high:+.3f}"
    return f"{confidence} interval {ends}, {raised} of {len(response.changes)} photos rise"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
