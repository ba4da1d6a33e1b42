"""HTML page that explains the scores of a few photos."""

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
from components.scorer.explain.overlay import difference_png, gradient_png, overlay, pixels_png
from components.scorer.imaging import decoding
from components.scorer.metrics import regression
from components.scorer.model.inputs import PIXELS, order_inputs
from components.scorer.registry import channels
from components.scorer.report import page
from components.scorer.settings import SCORES, Ingestion

PAGE = "index.html"

_MAX_PHOTOS = 20  # photos of a page: with all their pictures the page has about 5 MB
_AMPLIFICATION = 20  # changes are a few of 255: amplified so, they are visible
_QUALITY = 75  # JPEG quality that sites store photos in


@dataclass(frozen=True)
class _PhotoExplanation:
    """Explanation of one photo; the arrays are those of ``attribution`` without the batch axis.

    Attributes:
        name: File name of the photo.
        data: Encoded, normalised photo.
        visible_fraction: Fraction of the photo's width and height that the network sees.
        maps: Scores and maps.
        guided: Guided gradients; None if the network has no ReLU.
        before: Pixels before the gradient ascent.
        after: Pixels after the gradient ascent.
        means: Mean scores before the first step, …, after the last.
        gain_after_jpeg: Score points of the gain that are left when both images are stored as JPEG.
    """

    name: str
    data: bytes
    visible_fraction: float
    maps: batching.ExplanationOutputs
    guided: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    means: np.ndarray
    gain_after_jpeg: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the part of the photo that the network sees, pixels."""
        with Image.open(io.BytesIO(self.data)) as image:
            width, height = (max(1, round(side * self.visible_fraction)) for side in image.size)
        return width, height


def explain(model: str, photos: Sequence[str], out: str | Path, steps: int = 100) -> Path:
    """Write a page that explains the scores of photos, and its pictures as files; after an error nothing is written.

    Photos are processed as in ingestion: upright, sRGB, shrunk.

    Args:
        model: Address of a published version, of a model's folder (its champion is used), or of a scorer bundle.
        photos: Paths, ``gs://`` or ``s3://`` addresses.
        out: Folder for ``index.html`` and one folder of pictures a photo. Pictures whose exact pixels count are PNGs.
        steps: Steps of the gradient ascent that raises a photo's score.

    Returns:
        The path of the page.

    Raises:
        ValueError: A photo cannot be read, there are too many photos, or there is no step.
        FileNotFoundError: A photo or the model is missing.
    """
    if not 1 <= len(photos) <= _MAX_PHOTOS:
        raise ValueError(f"expected 1 to {_MAX_PHOTOS} photos to explain on one page, got {len(photos)}")
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    data = [_load_photo(photo, number) for number, photo in enumerate(photos, 1)]
    scorer, scorer_name = _load_scorer(model)
    explanations = _explain_photos([Path(photo).name for photo in photos], data, scorer, steps)
    report = page.Page(
        "Why these scores", f"What {scorer_name} sees in {len(photos)} photos, from 1 (low) to 10 (high)."
    )
    report.section("Scores", page.table([_score_row(photo) for photo in explanations]))
    report.section("How to read this", *_READING_GUIDE, *([_FIXED_FACE_NOTE] if scorer.model_inputs else []))
    files: dict[str, bytes] = {}
    for number, photo in enumerate(explanations, 1):
        pictures = _draw_pictures(photo)
        report.section(photo.name, *_photo_blocks(photo, pictures))
        folder = f"{number:02d}-{Path(photo.name).stem}"
        files |= {f"{folder}/{name}": picture_bytes for name, picture_bytes in pictures.items()}
    path = Path(out, PAGE)
    report.write(path)
    for name, picture_bytes in files.items():
        storage.write_bytes(str(Path(out, name)), picture_bytes)
    return path


_READING_GUIDE = (
    "Heat: places whose features speak for the votes that the scorer predicts, whether low or high (Grad-CAM of each "
    "score from 1 to 10, averaged by the predicted votes).",
    "Gains and losses: orange places raise the mean score, purple ones lower it, against what it would be if the "
    "scorer left them out. This is the map to look at for what a photo owes its score to.",
    "A place's colour stands for all that the network sees from there, which is more than the place itself. The "
    "scorer does not see the darkened margin.",
    "No map says what a person would like better in the photo: it says what this scorer reacts to.",
)


_FIXED_FACE_NOTE = (
    "This scorer reads the face as well. Here the whole photo alone is explained and changed: what is read of the face"
    " is held as it is."
)


def _load_photo(photo: str, number: int) -> bytes:
    """Read a photo and normalise it as ingestion does."""
    try:
        return decoding.normalise(storage.read_bytes(photo), Ingestion())
    except decoding.UnusablePhotoError as error:
        raise ValueError(f"photo {number} cannot be used: {error}") from None


def _load_scorer(model: str) -> tuple[bundle.TrainedScorer, str]:
    """Return the scorer and its name for the page."""
    if storage.exists(storage.join(model, "bundle.json")):
        return saved_model.load_bundle_folder(model), "the scorer"
    uri = channels.resolve(model)
    return saved_model.load_bundle(uri), f"version {uri.rstrip('/').rsplit('/', 1)[-1]}"


def _explain_photos(
    names: Sequence[str], data: list[bytes], scorer: bundle.TrainedScorer, steps: int
) -> list[_PhotoExplanation]:
    """Compute all maps of all photos, and raise the scores by gradient ascent."""
    maps = attribution.explain(scorer, data)
    pixels, fixed_inputs = attribution.split_pixels(scorer.build_inputs(data))
    relu = attribution.has_relu(scorer.model)
    guided = attribution.guided_gradients(scorer.model, pixels, fixed_inputs=fixed_inputs) if relu else None
    print(f"enhancing {len(data)} photos in {steps} steps", flush=True)
    enhanced = adversarial.gradient_ascent(scorer.model, pixels, steps, fixed_inputs=fixed_inputs)
    before, after = (
        regression.mean_scores(
            np.asarray(scorer.model(order_inputs(scorer.model, {PIXELS: _jpeg_round_trip(batch), **fixed_inputs})))
        )
        for batch in (pixels, enhanced.pixels)
    )
    return [
        _PhotoExplanation(
            name=name,
            data=data[index],
            visible_fraction=scorer.visible_fraction,
            maps={key: values[index] for key, values in maps.items()},
            guided=None if guided is None else guided[index],
            before=pixels[index],
            after=enhanced.pixels[index],
            means=enhanced.means[:, index],
            gain_after_jpeg=float((after - before)[index]),
        )
        for index, name in enumerate(names)
    ]


def _jpeg_round_trip(pixels: np.ndarray) -> np.ndarray:
    """Return pixels ``[n, h, w, 3]`` after encoding to JPEG and decoding."""
    stored = []
    for image in pixels:
        data = io.BytesIO()
        Image.fromarray(image.round().astype("uint8")).save(data, "JPEG", quality=_QUALITY)
        stored.append(np.asarray(Image.open(data), "float32"))
    return np.stack(stored)


def _draw_pictures(photo: _PhotoExplanation) -> dict[str, bytes]:
    """Return the pictures of one photo by file name; the maps of the ten classes share one scale."""
    size, maps = photo.size, photo.maps
    classes = maps["class_heatmaps"]
    pictures = {
        "photo.jpg": photo.data,
        "heat.jpg": overlay(photo.data, maps["heatmap"], visible_fraction=photo.visible_fraction),
        "gains.jpg": overlay(photo.data, maps["gains"], visible_fraction=photo.visible_fraction, signed=True),
    }
    for index, score in enumerate(SCORES):
        pictures[f"score-{score}.jpg"] = overlay(
            photo.data, classes[..., index], visible_fraction=photo.visible_fraction, max_value=float(classes.max())
        )
    if photo.guided is not None:
        pictures |= {
            f"details-{score}.png": gradient_png(gradient, size)
            for score, gradient in zip(attribution.HIGH_SCORES, photo.guided, strict=True)
        }
    return pictures | {
        "before.png": pixels_png(photo.before),
        "after.png": pixels_png(photo.after),
        "change.png": difference_png(photo.before, photo.after, _AMPLIFICATION),
    }


def _score_row(photo: _PhotoExplanation) -> dict[str, str | float]:
    """Return the row of one photo in the table of scores."""
    return {
        "photo": photo.name,
        "score": float(photo.maps["mean"]),
        f"after {len(photo.means) - 1} steps": float(photo.means[-1]),
        "gain": float(photo.means[-1] - photo.means[0]),
        "gain left after storing": photo.gain_after_jpeg,
    }


def _photo_blocks(photo: _PhotoExplanation, pictures: dict[str, bytes]) -> list[str]:
    """Return the blocks of one photo's section."""
    return [
        *_score_blocks(photo, pictures),
        *_detail_blocks(photo, pictures),
        *_enhancement_blocks(photo, pictures),
    ]


def _score_blocks(photo: _PhotoExplanation, pictures: dict[str, bytes]) -> list[str]:
    """Return the score, the heat maps and the evidence for each score."""
    maps = photo.maps
    return [
        page.paragraph(
            f"Score {maps['mean']:.2f}; the predicted votes spread by {maps['std']:.2f} (standard deviation)."
        ),
        page.gallery(
            [
                page.photo(pictures["photo.jpg"], "the photo", 190),
                page.photo(pictures["heat.jpg"], "heat, weighted by the predicted votes", 190),
                page.photo(pictures["gains.jpg"], f"gains and losses: {_range(maps['gains'])}", 190),
                page.chart(_votes_chart(maps["distribution"]), f"Predicted votes of {photo.name}"),
            ]
        ),
        page.paragraph("What speaks for each score, on one scale, with the share of votes predicted for it:"),
        page.gallery(
            [
                page.photo(pictures[f"score-{score}.jpg"], f"{score}: {share:.0%}", 80)
                for score, share in zip(SCORES, maps["distribution"], strict=True)
            ]
        ),
    ]


def _detail_blocks(photo: _PhotoExplanation, pictures: dict[str, bytes]) -> list[str]:
    """Return the maps of guided backpropagation, or a sentence that says why there are none."""
    if photo.guided is None:
        return [page.paragraph("No map of details: guided backpropagation needs a network with ReLU.")]
    return [
        page.paragraph(
            "Details that speak for high scores (guided backpropagation). The maps look alike because this method"
            " shows what the network reacts to at all more than what tells one score from another."
        ),
        page.gallery(
            [
                page.photo(pictures[f"details-{score}.png"], f"for score {score}", 160)
                for score in attribution.HIGH_SCORES
            ]
        ),
    ]


def _enhancement_blocks(photo: _PhotoExplanation, pictures: dict[str, bytes]) -> list[str]:
    """Return the gradient ascent, with the warning that it is no advice."""
    before, after, steps = *photo.means[[0, -1]], len(photo.means) - 1
    rms_change = np.sqrt(np.mean(np.square(photo.after - photo.before)))
    return [
        page.paragraph(
            f"Enhanced by {steps} steps along the score's gradient, the photo scores {after:.2f} instead of"
            f" {before:.2f}, though its pixels changed by only {rms_change:.1f} of 255 (root mean square)."
        ),
        page.verdict(
            None,
            "This is no advice: such a gain is mostly noise made for this network, which people do not see. Of its"
            f" {after - before:+.2f} points, storing both photos as JPEG of quality {_QUALITY} leaves"
            f" {photo.gain_after_jpeg:+.2f}.",
        ),
        page.gallery(
            [
                page.photo(pictures["before.png"], f"before, as the network sees it: {before:.2f}"),
                page.photo(pictures["after.png"], f"after {steps} steps: {after:.2f}"),
                page.photo(pictures["change.png"], f"what changed, {_AMPLIFICATION} times as strong"),
                page.chart(_ascent_chart(photo.means), f"Score of {photo.name} while it is enhanced"),
            ]
        ),
    ]


def _range(gains: np.ndarray) -> str:
    return f"{gains.min():+.2f} to {gains.max():+.2f} points a place"


def _votes_chart(shares: np.ndarray) -> Figure:
    figure = Figure(figsize=(3.4, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(SCORES, 100 * shares, color="tab:blue")
    axes.set(xlabel="score", ylabel="predicted votes, %", xticks=SCORES)
    return figure


def _ascent_chart(means: np.ndarray) -> Figure:
    figure = Figure(figsize=(3.4, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(means, color="tab:blue")
    axes.set(xlabel="step", ylabel="score", ylim=(1, 10), yticks=range(1, 11, 3), xlim=(0, len(means) - 1))
    return figure
