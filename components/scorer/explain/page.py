"""Explain the scores of a few photos on one page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from components.scorer import storage
from components.scorer.artifacts import batching, bundle, saved_model
from components.scorer.explain import adversarial, attribution
from components.scorer.explain.overlay import change, details, overlay, picture
from components.scorer.imaging import decoding
from components.scorer.metrics import regression
from components.scorer.model.inputs import PIXELS, in_order
from components.scorer.registry import channels
from components.scorer.report import page
from components.scorer.settings import SCORES, Ingestion

PAGE = "index.html"

_MOST = 20  # photos: with all their pictures, about what a page of 5 MB holds
_TIMES = 20  # what was changed is a few of 255: at this strength it is seen
_QUALITY = 75  # of a JPEG as sites store it


@dataclass(frozen=True)
class _Photo:
    """All that is told of one photo; the arrays are those of ``attribution`` for it alone."""

    name: str
    data: bytes
    seen: float
    maps: batching.Explained
    guided: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    means: np.ndarray
    gain_kept: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what the network sees of the photo."""
        with Image.open(io.BytesIO(self.data)) as image:
            return tuple(max(1, round(side * self.seen)) for side in image.size)


def explain(model: str, photos: Sequence[str], out: str | Path, steps: int = 100) -> Path:
    """Write a page that explains the scores of photos, and its pictures as files; nothing when it breaks off.

    Photos take the way of ingestion: upright, sRGB, shrunk.

    Args:
        model: address of a published version, of a folder whose champion is meant, or of a scorer bundle.
        photos: paths, ``gs://`` or ``s3://`` addresses.
        out: folder that receives ``index.html`` and a folder of pictures for each photo. Those whose exact pixels
            count are PNGs.
        steps: of the ascent by which a photo is enhanced.

    Returns:
        The page.

    Raises:
        ValueError: a photo cannot be read, there are too many, or there is no step.
        FileNotFoundError: a photo or the model is missing.
    """
    if not 1 <= len(photos) <= _MOST:
        raise ValueError(f"expected 1 to {_MOST} photos to explain on one page, got {len(photos)}")
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    data = [_read(photo, place) for place, photo in enumerate(photos, 1)]
    scorer, called = _load(model)
    told = _explained([Path(photo).name for photo in photos], data, scorer, steps)
    shown = page.Page("Why these scores", f"What {called} sees in {len(photos)} photos, from 1 (low) to 10 (high).")
    shown.section("Scores", page.table([_row(photo) for photo in told]))
    shown.section("How to read this", *_HOW, *([_HELD] if scorer.sight else []))
    files = {}
    for number, photo in enumerate(told, 1):
        pictures = _pictures(photo)
        shown.section(photo.name, *_blocks(photo, pictures))
        folder = f"{number:02d}-{Path(photo.name).stem}"
        files |= {f"{folder}/{name}": each for name, each in pictures.items()}
    path = Path(out, PAGE)
    shown.write(path)
    for name, each in files.items():
        storage.write_bytes(str(Path(out, name)), each)
    return path


_HOW = (
    "Heat: places whose features speak for the votes that the scorer predicts, whether low or high (Grad-CAM of each "
    "score from 1 to 10, averaged by the predicted votes).",
    "Gains and losses: orange places raise the mean score, purple ones lower it, against what it would be if the "
    "scorer left them out. This is the map to look at for what a photo owes its score to.",
    "A place's colour stands for all that the network sees from there, which is more than the place itself. The "
    "scorer does not see the darkened margin.",
    "No map says what a person would like better in the photo: it says what this scorer reacts to.",
)


_HELD = (
    "This scorer reads the face as well. Here the whole photo alone is explained and changed: what is read of the face"
    " is held as it is."
)


def _read(photo: str, place: int) -> bytes:
    """The photo as ingestion would store it."""
    try:
        return decoding.normalise(storage.read_bytes(photo), Ingestion())
    except decoding.Unusable as error:
        raise ValueError(f"photo {place} cannot be used: {error}") from None


def _load(model: str) -> tuple[bundle.Bundle, str]:
    """The scorer, and what to call it."""
    if storage.exists(storage.join(model, "bundle.json")):
        return saved_model.read_bundle(model), "the scorer"
    uri = channels.resolve(model)
    return saved_model.load_bundle(uri), f"version {uri.rstrip('/').rsplit('/', 1)[-1]}"


def _explained(names: Sequence[str], data: list[bytes], scorer: bundle.Bundle, steps: int) -> list[_Photo]:
    """All maps and the enhancement of all photos."""
    maps = attribution.explain(scorer, data)
    pixels, held = attribution.hold(scorer.given(data))
    relu = attribution.has_relu(scorer.model)
    guided = attribution.guided_gradients(scorer.model, pixels, held=held) if relu else None
    print(f"enhancing {len(data)} photos in {steps} steps", flush=True)
    enhanced = adversarial.enhance(scorer.model, pixels, steps, held=held)
    before, after = (
        regression.mean_scores(np.asarray(scorer.model(in_order(scorer.model, {PIXELS: _stored(each), **held}))))
        for each in (pixels, enhanced.pixels)
    )
    return [
        _Photo(
            name=name,
            data=data[place],
            seen=scorer.seen,
            maps={key: values[place] for key, values in maps.items()},
            guided=None if guided is None else guided[place],
            before=pixels[place],
            after=enhanced.pixels[place],
            means=enhanced.means[:, place],
            gain_kept=float((after - before)[place]),
        )
        for place, name in enumerate(names)
    ]


def _stored(pixels: np.ndarray) -> np.ndarray:
    """Pixels ``[n, h, w, 3]`` after they were stored as JPEG."""
    stored = []
    for each in pixels:
        data = io.BytesIO()
        Image.fromarray(each.round().astype("uint8")).save(data, "JPEG", quality=_QUALITY)
        stored.append(np.asarray(Image.open(data), "float32"))
    return np.stack(stored)


def _pictures(photo: _Photo) -> dict[str, bytes]:
    """The pictures of one photo, by file name; the ten classes' maps have one scale."""
    size, maps = photo.size, photo.maps
    classes = maps["class_heatmaps"]
    pictures = {
        "photo.jpg": photo.data,
        "heat.jpg": overlay(photo.data, maps["heatmap"], seen=photo.seen),
        "gains.jpg": overlay(photo.data, maps["gains"], seen=photo.seen, signed=True),
    }
    for place, score in enumerate(SCORES):
        pictures[f"score-{score}.jpg"] = overlay(
            photo.data, classes[..., place], seen=photo.seen, largest=float(classes.max())
        )
    if photo.guided is not None:
        pictures |= {
            f"details-{score}.png": details(each, size)
            for score, each in zip(attribution.HIGH, photo.guided, strict=True)
        }
    return pictures | {
        "before.png": picture(photo.before),
        "after.png": picture(photo.after),
        "change.png": change(photo.before, photo.after, _TIMES),
    }


def _row(photo: _Photo) -> dict[str, str | float]:
    """The figures of one photo."""
    return {
        "photo": photo.name,
        "score": float(photo.maps["mean"]),
        f"after {len(photo.means) - 1} steps": float(photo.means[-1]),
        "gain": float(photo.means[-1] - photo.means[0]),
        "gain left after storing": photo.gain_kept,
    }


def _blocks(photo: _Photo, pictures: dict[str, bytes]) -> list[str]:
    """The section of one photo."""
    maps, steps = photo.maps, len(photo.means) - 1
    before, after = photo.means[[0, -1]]
    changed = np.sqrt(np.mean(np.square(photo.after - photo.before)))
    blocks = [
        page.text(f"Score {maps['mean']:.2f}; the predicted votes spread by {maps['std']:.2f} (standard deviation)."),
        page.gallery(
            [
                page.photo(pictures["photo.jpg"], "the photo", 190),
                page.photo(pictures["heat.jpg"], "heat, weighted by the predicted votes", 190),
                page.photo(pictures["gains.jpg"], f"gains and losses: {_range(maps['gains'])}", 190),
                page.chart(_votes(maps["distribution"]), f"Predicted votes of {photo.name}"),
            ]
        ),
        page.text("What speaks for each score, on one scale, with the share of votes predicted for it:"),
        page.gallery(
            [
                page.photo(pictures[f"score-{score}.jpg"], f"{score}: {share:.0%}", 80)
                for score, share in zip(SCORES, maps["distribution"], strict=True)
            ]
        ),
    ]
    if photo.guided is not None:
        blocks += [
            page.text(
                "Details that speak for high scores (guided backpropagation). The maps look alike because this method"
                " shows what the network reacts to at all more than what tells one score from another."
            ),
            page.gallery(
                [page.photo(pictures[f"details-{score}.png"], f"for score {score}", 160) for score in attribution.HIGH]
            ),
        ]
    else:
        blocks.append(page.text("No map of details: guided backpropagation needs a network with ReLU."))
    return [
        *blocks,
        page.text(
            f"Enhanced by {steps} steps along the score's gradient, the photo scores {after:.2f} instead of"
            f" {before:.2f}, though its pixels changed by only {changed:.1f} of 255 (root mean square)."
        ),
        page.verdict(
            None,
            "This is no advice: such a gain is mostly noise made for this network, which people do not see. Of its"
            f" {after - before:+.2f} points, storing both photos as JPEG of quality {_QUALITY} leaves"
            f" {photo.gain_kept:+.2f}.",
        ),
        page.gallery(
            [
                page.photo(pictures["before.png"], f"before, as the network sees it: {before:.2f}"),
                page.photo(pictures["after.png"], f"after {steps} steps: {after:.2f}"),
                page.photo(pictures["change.png"], f"what changed, {_TIMES} times as strong"),
                page.chart(_ascent(photo.means), f"Score of {photo.name} while it is enhanced"),
            ]
        ),
    ]


def _range(gains: np.ndarray) -> str:
    return f"{gains.min():+.2f} to {gains.max():+.2f} points a place"


def _votes(shares: np.ndarray) -> Figure:
    figure = Figure(figsize=(3.4, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(SCORES, 100 * shares, color="tab:blue")
    axes.set(xlabel="score", ylabel="predicted votes, %", xticks=SCORES)
    return figure


def _ascent(means: np.ndarray) -> Figure:
    figure = Figure(figsize=(3.4, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(means, color="tab:blue")
    axes.set(xlabel="step", ylabel="score", ylim=(1, 10), yticks=range(1, 11, 3), xlim=(0, len(means) - 1))
    return figure
