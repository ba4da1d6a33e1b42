"""What people and a scorer say about each photo of the test split."""

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
"""Photos scored at a time: enough to keep a processor busy, and a few megabytes."""

Records = Callable[[], Iterable[dict[str, Any]]]
"""Reads the test split from its start; the records are those of ``photos.records``."""


class Scorer(Protocol):
    """A trained bundle, a published model, or anything else that answers for encoded photos."""

    def score(self, photos: list[bytes]) -> np.ndarray:
        """Votes, float [n, 10]."""


@dataclass(frozen=True)
class Predictions:
    """The test split, photo by photo, without the photos.

    Attributes:
        photo_ids: n file names.
        truth: float [n, 10], people's votes.
        raters: int [n], how many people; 0 where unknown.
        attributes: n rows, a column an attribute, text; empty where unknown.
        scorer: float [n, 10], the challenger's votes.
        groups: n uploaders or persons: photos of one are no independent evidence. Empty: each photo for itself.
        faces: n rows, ``face_count`` and ``face_confidence`` of the largest, 0 without a face; no column where the data
            set does not say.
    """

    photo_ids: list[str]
    truth: np.ndarray
    raters: np.ndarray
    attributes: pd.DataFrame
    scorer: np.ndarray
    groups: Sequence[str] = ()
    faces: pd.DataFrame = field(default_factory=pd.DataFrame)

    def table(self, champion: np.ndarray | None = None) -> pd.DataFrame:
        """A row a photo: what ``predictions.csv`` holds.

        An attribute that has the name of another column is prefixed with ``attribute_``.
        """
        columns: dict[str, Any] = {
            "photo_id": self.photo_ids,
            "mean": regression.mean_scores(self.scorer),
            "std": regression.deviations(self.scorer),
        }
        columns |= {f"p{score}": share for score, share in zip(SCORES, self.scorer.T, strict=True)}
        columns |= {
            "truth_mean": regression.mean_scores(self.truth),
            "truth_std": regression.deviations(self.truth),
            "raters": self.raters,
            "split": "test",
        }
        columns |= {str(name): self.faces[name] for name in self.faces}
        if champion is not None:
            columns["champion_mean"] = regression.mean_scores(champion)
        named = {f"attribute_{name}" if name in columns else name: self.attributes[name] for name in self.attributes}
        return pd.DataFrame(columns | {name: list(values) for name, values in named.items()})


def predict(records: Records, scorer: Scorer, total: int) -> Predictions:
    """Score each photo of the test split once and keep what people said about it.

    Raises:
        ValueError: the scorer does not answer with ten votes a photo.
    """
    kept: list[dict[str, Any]] = []

    def photos() -> Iterator[bytes]:
        for record in records():
            kept.append({name: value for name, value in record.items() if name != "photo"})
            yield record["photo"]

    votes = _score(photos(), scorer, total, "scoring the test split")
    return Predictions(
        photo_ids=[record["photo_id"] for record in kept],
        truth=np.array([record["votes"] for record in kept], float).reshape(-1, len(SCORES)),
        raters=np.array([record["raters"] for record in kept], int),
        attributes=pd.DataFrame([record["attributes"] for record in kept]),
        scorer=votes,
        groups=[record.get("group", record["photo_id"]) for record in kept],
        faces=pd.DataFrame([_face(record) for record in kept]),
    )


def _face(record: dict[str, Any]) -> dict[str, Any]:
    if "face" not in record:
        return {}
    return {"face_count": int(record["face"]["count"]), "face_confidence": float(record["face"]["confidence"])}


def votes(records: Records, scorer: Scorer, total: int) -> np.ndarray:
    """A scorer's votes on the same photos in the same order, float [n, 10].

    Raises:
        ValueError: the scorer does not answer with ten votes a photo.
    """
    return _score((record["photo"] for record in records()), scorer, total, "scoring with the champion")


def _score(photos: Iterator[bytes], scorer: Scorer, total: int, what: str) -> np.ndarray:
    answers = [np.empty((0, len(SCORES)))]
    batches = iter(lambda: list(islice(photos, BATCH)), [])
    for batch in track(batches, what, -(-total // BATCH)):
        answer = np.asarray(scorer.score(batch), float)
        if answer.shape != (len(batch), len(SCORES)):
            raise ValueError(f"expected votes [{len(batch)}, {len(SCORES)}] of the scorer, got {list(answer.shape)}")
        answers.append(answer)
    return np.concatenate(answers)
