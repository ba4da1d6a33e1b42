"""Example photos of the evaluation report, with heat maps and enhanced versions if photos may be shown."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from components.evaluation.checks.predictions import Records
from components.evaluation.results import EvaluationResults
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.explain import adversarial, attribution, overlay
from components.scorer.metrics import regression
from components.scorer.settings import Evaluation

_PHOTOS_PER_RANKING = 10  # photos of each ranking
_ENHANCED_PHOTOS = 4  # enhanced photos: these take a minute for the largest networks


@dataclass(frozen=True)
class ExamplePhotos:
    """Example photos with heat maps and enhanced versions; images are encoded.

    Attributes:
        photos: Photos by id; empty if photos may not be shown.
        heat: Photos overlaid with the heat map of score gains and losses, by id; empty if photos may not be shown.
        enhanced: Model inputs (before, after) gradient ascent, as images; empty if photos may not be shown.
        enhancement: Mean scores during gradient ascent, float [steps + 1, n]; None for a scorer without gradients.
        examples: Ids of the n enhanced photos.
    """

    photos: dict[str, bytes] = field(default_factory=dict)
    heat: dict[str, bytes] = field(default_factory=dict)
    enhanced: list[tuple[bytes, bytes]] = field(default_factory=list)
    enhancement: np.ndarray | None = None
    examples: list[str] = field(default_factory=list)


def rankings(results: EvaluationResults) -> dict[str, list[int]]:
    """Return the indices of the example photos by ranking title; ties keep the stored order."""
    predictions = results.predictions
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)

    def first(values: np.ndarray) -> list[int]:
        return np.argsort(-values, kind="stable")[:_PHOTOS_PER_RANKING].tolist()

    by_title = {
        "Best by people": first(truth),
        "Worst by people": first(-truth),
        "Best by the scorer": first(predicted),
        "Worst by the scorer": first(-predicted),
        "Most disputed among people": first(regression.vote_deviations(predictions.truth)),
        "Where the scorer and people differ most": first(np.abs(predicted - truth)),
    }
    if results.champion and results.champion.votes is not None:
        moved = np.abs(predicted - regression.mean_scores(results.champion.votes))
        by_title["Moved most since the champion"] = [index for index in first(moved) if moved[index] > 0]
    return by_title


def gather(results: EvaluationResults, scorer: TrainedScorer, records: Records, settings: Evaluation) -> ExamplePhotos:
    """Read the example photos, compute their heat maps, and enhance the photos of middling score.

    If photos may not be shown, only the scores of the enhanced photos are returned.

    Args:
        results: Results of the evaluation, which determine the rankings.
        scorer: The challenger.
        records: Records of the test split.
        settings: Evaluation settings; ``show_photos`` is read.
    """
    ids = results.predictions.photo_ids
    ranks = np.argsort(np.argsort(regression.mean_scores(results.predictions.scorer), kind="stable"), kind="stable")
    examples = [ids[index] for index in np.argsort(np.abs(ranks - len(ids) // 2), kind="stable")[:_ENHANCED_PHOTOS]]
    wanted = (
        {ids[index] for indices in rankings(results).values() for index in indices} if settings.show_photos else set()
    )
    photos = {record["photo_id"]: record["photo"] for record in records() if record["photo_id"] in wanted | {*examples}}
    pixels, fixed_inputs = attribution.split_pixels(scorer.build_inputs([photos[photo] for photo in examples]))
    enhancement = adversarial.gradient_ascent(scorer.model, pixels, fixed_inputs=fixed_inputs)
    if not settings.show_photos:
        return ExamplePhotos(enhancement=enhancement.means, examples=examples)
    gains = attribution.explain(scorer, list(photos.values()))["gains"]
    largest = float(np.abs(gains).max())  # one scale for all photos makes their maps comparable
    return ExamplePhotos(
        photos=photos,
        heat={
            photo: overlay.overlay(data, gain, visible_fraction=scorer.visible_fraction, max_value=largest, signed=True)
            for (photo, data), gain in zip(photos.items(), gains, strict=True)
        },
        enhanced=[
            (overlay.pixels_png(before, _size(photos[photo])), overlay.pixels_png(after, _size(photos[photo])))
            for photo, before, after in zip(examples, pixels, enhancement.pixels, strict=True)
        ],
        enhancement=enhancement.means,
        examples=examples,
    )


def _size(photo: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(photo)) as opened:
        return opened.size
