"""Votes of people and of a scorer on each photo of the test split."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pandas as pd

from components.scorer.metrics import regression
from components.scorer.progress import track
from components.scorer.settings import SCORES

BATCH = 32
"""Batch size: enough photos to keep a processor busy, and only a few megabytes."""

Records = Callable[[], Iterable[dict[str, Any]]]
"""Function that reads the test split from its start; the records are those of ``photos.records``."""


class Scorer(Protocol):
    """Protocol of a trained bundle, a published model, or any other scorer of encoded photos."""

    def score(self, photos: list[bytes]) -> np.ndarray:
        """Return votes, float [n, 10], of n encoded photos."""


@dataclass(frozen=True)
class Predictions:
    """Votes and attributes of the test split, without the photos.

    Attributes:
        photo_ids: File names of the n photos.
        truth: People's votes, float [n, 10].
        raters: Number of raters of each photo, int [n]; 0 if unknown.
        attributes: Table of n rows with one text column for each attribute; an unknown value is empty.
        scorer: Votes of the challenger, float [n, 10].
        groups: Uploader or person of each photo: photos of one group are no independent evidence. If empty, each photo
            is its own group.
        faces: Table of n rows with ``face_count``, and ``face_confidence`` of the largest face, 0 without a face. It
            has no columns if the data set has no face features.
    """

    photo_ids: list[str]
    truth: np.ndarray
    raters: np.ndarray
    attributes: pd.DataFrame
    scorer: np.ndarray
    groups: Sequence[str] = ()
    faces: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_table(self, champion: np.ndarray | None = None) -> pd.DataFrame:
        """Return the table of ``predictions.csv``, one row for each photo.

        An attribute with the name of another column gets the prefix ``attribute_``.

        Args:
            champion: Votes of the champion, float [n, 10]; None without a champion.
        """
        columns: dict[str, Any] = {
            "photo_id": self.photo_ids,
            "mean": regression.mean_scores(self.scorer),
            "std": regression.vote_deviations(self.scorer),
        }
        columns |= {f"p{score}": fraction for score, fraction in zip(SCORES, self.scorer.T, strict=True)}
        columns |= {
            "truth_mean": regression.mean_scores(self.truth),
            "truth_std": regression.vote_deviations(self.truth),
            "raters": self.raters,
            "split": "test",
        }
        columns |= {str(name): self.faces[name] for name in self.faces}
        if champion is not None:
            columns["champion_mean"] = regression.mean_scores(champion)
        attributes = {
            f"attribute_{name}" if name in columns else name: self.attributes[name] for name in self.attributes
        }
        return pd.DataFrame(columns | {name: list(values) for name, values in attributes.items()})


def predict(records: Records, scorer: Scorer, total: int) -> Predictions:
    """Score each photo of the test split once, and collect people's votes and attributes.

    Args:
        records: Records of the test split.
        scorer: The challenger.
        total: Number of records, for the progress display.

    Raises:
        ValueError: The scorer does not return ten votes for each photo.
    """
    rows: list[dict[str, Any]] = []

    def photos() -> Iterator[bytes]:
        for record in records():
            rows.append({name: value for name, value in record.items() if name != "photo"})
            yield record["photo"]

    votes = _score(photos(), scorer, total, "scoring the test split")
    return Predictions(
        photo_ids=[record["photo_id"] for record in rows],
        truth=np.array([record["votes"] for record in rows], float).reshape(-1, len(SCORES)),
        raters=np.array([record["raters"] for record in rows], int),
        attributes=pd.DataFrame([record["attributes"] for record in rows]),
        scorer=votes,
        groups=[record.get("group", record["photo_id"]) for record in rows],
        faces=pd.DataFrame([_face_columns(record) for record in rows]),
    )


def _face_columns(record: dict[str, Any]) -> dict[str, Any]:
    if "face" not in record:
        return {}
    return {"face_count": int(record["face"]["count"]), "face_confidence": float(record["face"]["confidence"])}


def predict_votes(records: Records, scorer: Scorer, total: int) -> np.ndarray:
    """Return the champion's votes on the same photos in the same order, float [n, 10].

    Raises:
        ValueError: The scorer does not return ten votes for each photo.
    """
    return _score((record["photo"] for record in records()), scorer, total, "scoring with the champion")


def _score(photos: Iterator[bytes], scorer: Scorer, total: int, label: str) -> np.ndarray:
    results = [np.empty((0, len(SCORES)))]
    batches = iter(lambda: list(islice(photos, BATCH)), [])
    for batch in track(batches, label, -(-total // BATCH)):
        result = np.asarray(scorer.score(batch), float)
        if result.shape != (len(batch), len(SCORES)):
            raise ValueError(f"expected votes [{len(batch)}, {len(SCORES)}] of the scorer, got {list(result.shape)}")
        results.append(result)
    return np.concatenate(results)
