"""The photos that the evaluation's page names, and with leave shows, with what the scorer looked at."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from components.evaluation.checks.predictions import Records
from components.evaluation.results import Findings
from components.scorer.artifacts.bundle import Bundle
from components.scorer.explain import adversarial, attribution, overlay
from components.scorer.metrics import regression
from components.scorer.settings import Evaluation

_TEN = 10  # photos of a kind
_ENHANCED = 4  # photos: a minute for the largest networks


@dataclass(frozen=True)
class Faces:
    """Encoded photos by their ids, and what belongs to them.

    Attributes:
        photos: as they are; empty where they may not be shown.
        heat: with the map of what raises and lowers their score; likewise.
        enhanced: what the network sees of photos before and after gradient ascent; likewise.
        enhancement: scores on the way, float [steps + 1, n]; None for a scorer that cannot be differentiated.
        examples: ids of the photos that were enhanced.
    """

    photos: dict[str, bytes] = field(default_factory=dict)
    heat: dict[str, bytes] = field(default_factory=dict)
    enhanced: list[tuple[bytes, bytes]] = field(default_factory=list)
    enhancement: np.ndarray | None = None
    examples: list[str] = field(default_factory=list)


def rankings(found: Findings) -> dict[str, list[int]]:
    """Places of the photos that the page names, by what they are shown for; ties in stored order."""
    predictions = found.predictions
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)

    def first(values: np.ndarray) -> list[int]:
        return np.argsort(-values, kind="stable")[:_TEN].tolist()

    chosen = {
        "Best by people": first(truth),
        "Worst by people": first(-truth),
        "Best by the scorer": first(predicted),
        "Worst by the scorer": first(-predicted),
        "Most disputed among people": first(regression.deviations(predictions.truth)),
        "Where the scorer and people differ most": first(np.abs(predicted - truth)),
    }
    if found.champion and found.champion.votes is not None:
        moved = np.abs(predicted - regression.mean_scores(found.champion.votes))
        chosen["Moved most since the champion"] = [place for place in first(moved) if moved[place] > 0]
    return chosen


def gather(found: Findings, scorer: Bundle, records: Records, settings: Evaluation) -> Faces:
    """Read the photos that the page names once more, and explain and enhance them.

    Args:
        found: which photos are named.
        scorer: the challenger.
        records: of the test split.
        settings: whether photos may be shown; without, some are enhanced for their scores alone.
    """
    ids = found.predictions.photo_ids
    middle = np.argsort(np.argsort(regression.mean_scores(found.predictions.scorer), kind="stable"), kind="stable")
    examples = [ids[place] for place in np.argsort(np.abs(middle - len(ids) // 2), kind="stable")[:_ENHANCED]]
    named = {ids[place] for places in rankings(found).values() for place in places} if settings.show_photos else set()
    photos = {record["photo_id"]: record["photo"] for record in records() if record["photo_id"] in named | {*examples}}
    pixels, held = attribution.hold(scorer.given([photos[photo] for photo in examples]))
    enhancement = adversarial.enhance(scorer.model, pixels, held=held)
    if not settings.show_photos:
        return Faces(enhancement=enhancement.means, examples=examples)
    gains = attribution.explain(scorer, list(photos.values()))["gains"]
    largest = float(np.abs(gains).max())  # one scale for all, so that photos can be compared
    return Faces(
        photos=photos,
        heat={
            photo: overlay.overlay(data, each, seen=scorer.seen, largest=largest, signed=True)
            for (photo, data), each in zip(photos.items(), gains, strict=True)
        },
        enhanced=[
            (overlay.picture(before, _size(photos[photo])), overlay.picture(after, _size(photos[photo])))
            for photo, before, after in zip(examples, pixels, enhancement.pixels, strict=True)
        ],
        enhancement=enhancement.means,
        examples=examples,
    )


def _size(photo: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(photo)) as opened:
        return opened.size
