"""Robustness of scores to corruptions, invisible changes and an adversarial (PGD) attack, with gates.

Corruptions (blur, darkening, overexposure, compression, noise) must not raise scores. Invisible changes (mirroring, a
shift by one pixel, re-encoding) must not move them. Each changed photo is encoded as a file, which the scorer decodes.
Lossless changes are stored as PNG, so that the change alone is measured.

Each corruption has two strengths, since a scorer may like a slight change and dislike a strong one. A strength named
"level" is that of ImageNet-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", 2019, https://arxiv.org/abs/1903.12261; make_imagenet_c.py of its code). ImageNet-C is made for
photos of 224 pixels: its lengths are taken here relative to the shorter side.
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
from components.scorer.model.inputs import PIXELS, order_inputs
from components.scorer.progress import track
from components.scorer.run.decision import GateResult, gate_outcome
from components.scorer.settings import Evaluation, GateKey

ATTACK_STEPS = 100
"""Steps of the adversarial attack: as many as in the portrait paper's enhancement (section 7.2.2)."""

_BLUR_RADII = (2 / 224, 4 / 224)  # radius / shorter side, levels 2 and 4: skin loses its texture, then eyes lose theirs
_DARKENING_STOPS = (-2, -3)  # stops: a quarter and an eighth of the light, where a camera's own metering errs by one
_OVEREXPOSURE_STOPS = (2, 3)  # stops: four and eight times the light; skin burns out
_JPEG_QUALITIES = (10, 5)  # JPEG qualities: level 4 and half of it; blocks are visible at a glance
# Standard deviation, for a value range of 1, levels 1 and 3: a small sensor in the dark.
_NOISE_DEVIATIONS = (0.08, 0.18)
_REENCODING_QUALITY = 95  # JPEG quality that is called visually lossless


@dataclass(frozen=True)
class CorruptionResponse:
    """Response of scores to one change of the photos.

    Attributes:
        key: Key of the gate that judges the response.
        change: Description of the change.
        worse: True for a corruption, which people like less; False for a change that people do not see.
        changes: Change of each photo's mean score, n values in score points.
        mean: Mean of ``changes``.
        low: Lower end of the interval of the mean (Student's t).
        high: Upper end of the interval of the mean.
        raised: Fraction of the photos whose score rose, 0..1.
        absolute: Mean of the absolute changes.
        largest: Largest absolute change.
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
class AdversarialResult:
    """Result of an adversarial (PGD) attack on the photo's pixels, with the face inputs fixed.

    Attributes:
        budget: Largest change of a pixel's red, green or blue value, on the scale 0..255.
        steps: Number of gradient steps.
        before: Mean scores of the n photos.
        after: Mean scores of the n perturbed photos.
        rise: Mean rise in score points.
        largest: Largest rise in score points.
    """

    budget: float
    steps: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    rise: float
    largest: float


@dataclass(frozen=True)
class RobustnessResults:
    """Scores of changed photos.

    Attributes:
        before: Mean scores of the n unchanged photos, in the order of all ``changes``.
        responses: Responses to each change at each strength.
        perturbation: Result of the adversarial attack; None for a scorer without gradients.
    """

    before: tuple[float, ...]
    responses: list[CorruptionResponse]
    perturbation: AdversarialResult | None


def sample_photos(records: Records, total: int, settings: Evaluation) -> list[bytes]:
    """Return a random sample of encoded photos in the order of the test split; the seed determines it.

    Args:
        records: Records of the test split; read up to the last sampled photo only.
        total: Number of records.
        settings: Evaluation settings; ``behaviour_photos`` and ``seed`` are read.
    """
    size = min(settings.behaviour_photos, total)
    indices = np.sort(np.random.default_rng(settings.seed).choice(total, size, replace=False)).tolist()
    wanted, last = set(indices), max(indices, default=-1)
    photos = []
    for index, record in zip(range(last + 1), records(), strict=False):
        if index in wanted:
            photos.append(record["photo"])
    return photos


def measure_robustness(photos: Sequence[bytes], scorer: Scorer, settings: Evaluation) -> RobustnessResults:
    """Score photos unchanged and after each change, and attack the scorer if it has gradients.

    Args:
        photos: Encoded, upright photos.
        scorer: Scorer to measure; attacked only if it has ``model`` and ``given`` as a ``TrainedScorer`` does.
        settings: Evaluation settings; ``confidence``, ``seed`` and ``perturbation_*`` are read.

    Raises:
        ValueError: There is no photo, or the scorer does not return ten votes for each photo.
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
            images = list(pool.map(_decode_image, batch))
            seeds = [[settings.seed, start + index] for index in range(len(batch))]
            before.append(_predict_means(scorer, batch))
            for change, means in zip(changes, after, strict=True):
                means.append(_predict_means(scorer, list(pool.map(change.apply, images, seeds))))
    unchanged = np.concatenate(before)
    responses = [
        _summarize_response(change, np.concatenate(means) - unchanged, settings)
        for change, means in zip(changes, after, strict=True)
    ]
    return RobustnessResults(tuple(unchanged.tolist()), responses, _attack(photos, scorer, settings))


def gates(behaviours: RobustnessResults, settings: Evaluation) -> list[GateResult]:
    """Return the gates on corruptions, on invisible changes and on the adversarial attack.

    A corruption fails its gate if, at either strength, the mean change is above 0 beyond chance (one-sided t-test) and
    above ``maximum_rise``. The second condition is needed because on thousands of photos a thousandth of a point is
    certain too, and matters to nobody.

    Many tests at 5 % would refuse a sound scorer far more often than once in twenty. Holm's method therefore corrects
    all tests together (Holm, "A simple sequentially rejective multiple test procedure", 1979). It bounds the chance of
    any false refusal under any dependence of the tests. Invisible changes need no test: their effect is measured far
    more exactly than its tolerance.
    """
    corruptions = [response for response in behaviours.responses if response.worse]
    invisible = [response for response in behaviours.responses if not response.worse]
    p_values = _holm_adjust([_p_value(response.changes) for response in corruptions])
    judged: dict[GateKey, list[tuple[CorruptionResponse, float]]] = {}
    for response, p_value in zip(corruptions, p_values, strict=True):
        judged.setdefault(response.key, []).append((response, p_value))
    return [
        *(_corruption_gate(key, pairs, settings) for key, pairs in judged.items()),
        *(_invariance_gate(response, settings) for response in invisible),
        _adversarial_gate(behaviours.perturbation, settings),
    ]


@dataclass(frozen=True)
class _Change:
    """One change at one strength; ``apply`` turns an image and a noise seed into an encoded photo."""

    key: GateKey
    description: str
    apply: Callable[[Image.Image, Any], bytes]
    worse: bool = True


def _changes() -> list[_Change]:
    def blurred(radius: float) -> Callable[[Image.Image, Any], bytes]:
        return lambda image, _: _encode_png(image.filter(ImageFilter.GaussianBlur(radius * min(image.size))))

    def exposed(stops: float) -> Callable[[Image.Image, Any], bytes]:
        table = _exposure_table(stops)
        return lambda image, _: _encode_png(image.point(table))

    def compressed(quality: int) -> Callable[[Image.Image, Any], bytes]:
        return lambda image, _: _encode(image, "JPEG", quality=quality)

    def noisy(deviation: float) -> Callable[[Image.Image, Any], bytes]:
        return lambda image, seed: _encode_png(_add_noise(image, deviation, seed))

    return [
        *(
            _Change("blur", f"a blur of {_percent(fraction)} of the shorter side", blurred(fraction))
            for fraction in _BLUR_RADII
        ),
        *(_Change("darkening", f"an exposure {-stops} stops down", exposed(stops)) for stops in _DARKENING_STOPS),
        *(_Change("overexposure", f"an exposure {stops} stops up", exposed(stops)) for stops in _OVEREXPOSURE_STOPS),
        *(_Change("compression", f"JPEG at quality {quality}", compressed(quality)) for quality in _JPEG_QUALITIES),
        *(
            _Change("noise", f"noise of {_percent(deviation)} of the range", noisy(deviation))
            for deviation in _NOISE_DEVIATIONS
        ),
        _Change("mirror", "a mirror image", lambda image, _: _encode_png(ImageOps.mirror(image)), worse=False),
        _Change("shift", "a shift by one pixel", lambda image, _: _encode_png(_shift_one_pixel(image)), worse=False),
        _Change("reencoding", f"JPEG at quality {_REENCODING_QUALITY}", compressed(_REENCODING_QUALITY), worse=False),
    ]


def _decode_image(data: bytes) -> Image.Image:
    """Decode a photo by the scorer's own decoder: another decoder's rounding alone moves a score by hundredths."""
    return Image.fromarray(preprocessing_tf.decode(tf.constant(data)).numpy())


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _encode_png(picture: Image.Image) -> bytes:
    return _encode(picture, "PNG", compress_level=1)  # fast: the file is read only once


def _exposure_table(stops: float) -> list[int]:
    """Return the lookup table, 3 x 256 values, that multiplies linear sRGB light by ``2 ** stops`` (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.minimum(light * 2.0**stops, 1)
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * value).astype(int).tolist() * 3


def _add_noise(image: Image.Image, deviation: float, seed: Any) -> Image.Image:
    pixels = np.asarray(image, "float32")
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, "float32")
    return Image.fromarray(np.rint(pixels + 255 * deviation * noise).clip(0, 255).astype("uint8"))


def _shift_one_pixel(image: Image.Image) -> Image.Image:
    """Shift an image one pixel to the right and one down; the edges are repeated."""
    return Image.fromarray(np.pad(np.asarray(image), ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1])


def _predict_means(scorer: Scorer, photos: list[bytes]) -> np.ndarray:
    return regression.mean_scores(scorer.score(photos))


def _summarize_response(change: _Change, changes: np.ndarray, settings: Evaluation) -> CorruptionResponse:
    mean = float(changes.mean())
    half_width = _standard_error(changes) * stats.t.ppf((1 + settings.confidence) / 2, len(changes) - 1)
    return CorruptionResponse(
        key=change.key,
        change=change.description,
        worse=change.worse,
        changes=tuple(changes.tolist()),
        mean=mean,
        low=float(mean - half_width),
        high=float(mean + half_width),
        raised=float(np.mean(changes > 0)),
        absolute=float(np.abs(changes).mean()),
        largest=float(np.abs(changes).max()),
    )


def _attack(photos: Sequence[bytes], scorer: Any, settings: Evaluation) -> AdversarialResult | None:
    if not (hasattr(scorer, "model") and hasattr(scorer, "build_inputs")):
        return None
    print(f"perturbing {min(settings.perturbation_photos, len(photos))} photos in {ATTACK_STEPS} steps", flush=True)
    pixels, fixed_inputs = attribution.split_pixels(scorer.build_inputs(list(photos[: settings.perturbation_photos])))
    perturbed = adversarial.pgd_attack(scorer.model, pixels, settings.perturbation_budget, ATTACK_STEPS, fixed_inputs)
    before, after = (
        regression.mean_scores(
            np.asarray(scorer.model(order_inputs(scorer.model, {PIXELS: variant, **fixed_inputs}), training=False))
        )
        for variant in (pixels, perturbed)
    )
    return AdversarialResult(
        budget=settings.perturbation_budget,
        steps=ATTACK_STEPS,
        before=tuple(before.tolist()),
        after=tuple(after.tolist()),
        rise=float((after - before).mean()),
        largest=float((after - before).max()),
    )


def _standard_error(changes: Sequence[float] | np.ndarray) -> float:
    """Return the standard error of the mean; NaN for a single photo."""
    return float(np.std(changes, ddof=1) / math.sqrt(len(changes))) if len(changes) > 1 else math.nan


def _p_value(changes: Sequence[float]) -> float:
    """Return the one-sided p-value of the mean against a true mean of 0 (Student's t-test)."""
    mean, error = float(np.mean(changes)), _standard_error(changes)
    if error == 0:  # every photo moves alike
        return float(mean <= 0)
    return float(stats.t.sf(mean / error, len(changes) - 1))


def _holm_adjust(p_values: Iterable[float]) -> list[float]:
    """Return Holm-adjusted p-values in the given order; NaN stays NaN."""
    p_values = np.asarray(list(p_values), float)
    order = np.argsort(p_values)  # NaN last
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
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


def _corruption_gate(key: GateKey, pairs: list[tuple[CorruptionResponse, float]], settings: Evaluation) -> GateResult:
    """Return the gate of one corruption; the strength with the worst result decides."""
    name, metric, limit = _NAMES[key], "mean change, score points", settings.maximum_rise
    if not all(math.isfinite(p_value) for _, p_value in pairs):
        return GateResult(key, name, metric, math.nan, limit, "failed", _UNMEASURED)

    def rises(response: CorruptionResponse, p_value: float) -> bool:
        return p_value <= settings.significance and response.mean > limit

    worst, p_value = max(pairs, key=lambda pair: (rises(*pair), pair[0].mean))
    others_text = "".join(f"; {sibling.change}: {sibling.mean:+.3f}" for sibling, _ in pairs if sibling is not worst)
    reason = (
        f"{worst.change} moves the mean score by {worst.mean:+.3f} ({_interval_text(worst, settings)}; p ="
        f" {p_value:.2g}, corrected for all such tests){others_text}; a rise beyond chance and of more than {limit:g}"
        " fails."
    )
    return GateResult(key, name, metric, worst.mean, limit, gate_outcome(not rises(worst, p_value)), reason)


def _invariance_gate(response: CorruptionResponse, settings: Evaluation) -> GateResult:
    value, limit = response.absolute, settings.behaviour_tolerance
    reason = (
        f"{response.change} moves a photo's score by {value:.3f} on average, by {response.largest:.2f} at"
        f" most ({len(response.changes)} photos; mean {response.mean:+.3f}); it may move it by {limit:g} on average."
    )
    if not math.isfinite(value):
        reason = _UNMEASURED
    return GateResult(
        response.key, _NAMES[response.key], "mean absolute change, score points", value, limit,
        gate_outcome(value <= limit), reason,
    )  # fmt: skip


def _adversarial_gate(attack: AdversarialResult | None, settings: Evaluation) -> GateResult:
    limit = settings.maximum_perturbation
    name, metric = _NAMES["perturbation"], "mean rise, score points"
    if attack is None:
        reason = "the scorer offers no gradients, so that no perturbation can be made for it."
        return GateResult("perturbation", name, metric, math.nan, limit, "not judged", reason)
    reason = (
        f"changes of {attack.budget:g} of 255 at most, in {attack.steps} steps, raise {len(attack.before)} photos by"
        f" {attack.rise:.2f} score points on average ({np.mean(attack.before):.2f} to {np.mean(attack.after):.2f});"
        f" they may raise them by {limit:g}."
    )
    if not math.isfinite(attack.rise):
        reason = _UNMEASURED
    return GateResult("perturbation", name, metric, attack.rise, limit, gate_outcome(attack.rise <= limit), reason)


_UNMEASURED = "it could not be measured (a score is no number, or there is a single photo), and that fails."


def _interval_text(response: CorruptionResponse, settings: Evaluation) -> str:
    confidence, raised = _percent(settings.confidence), _percent(response.raised)
    ends = f"{response.low:+.3f} to {response.high:+.3f}"
    return f"{confidence} interval {ends}, {raised} of {len(response.changes)} photos rise"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"
