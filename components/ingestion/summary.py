"""Summary of an ingestion: the input of the report, of ``ingestion.json`` and of the pipeline's metrics."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from components.ingestion.exclusions import Exclusion
from components.ingestion.ratings.ratings import VOTE_COLUMNS
from components.scorer.metrics.rater_agreement import RaterReliability
from components.scorer.metrics.regression import mean_scores
from components.scorer.parameters import as_parameters
from components.scorer.settings import Ingestion

SPLITS = ("train", "validation", "test", "unlabelled")


@dataclass(frozen=True)
class PoolSummary:
    """Counts and exclusions of the rated photos or of the unlabelled photos.

    Attributes:
        considered: Number of photos that exist or are rated.
        left_out: Exclusions among them, one a photo.
    """

    considered: int
    left_out: list[Exclusion]


@dataclass(frozen=True)
class IngestionSummary:
    """The data set of one ingestion and its exclusions.

    Attributes:
        schema: Form of the ratings, a key of `ratings.SCHEMAS`.
        table: One row a photo of the data set, in its order. Columns are ``photo``, ``sha256``, ``split``, ``group``,
            ``p1`` to ``p10``, ``raters``, ``attributes`` (a dict of text) and the measurements of `photo_inspection`.
        attributes: Names of the attributes.
        rated: Summary of the rated photos.
        unlabelled: Summary of the unlabelled photos.
        reliability: Agreement between raters, None if the ratings do not allow an estimate.
        notes: Sentences on assumptions, for the report.
        settings: Ingestion settings.
        rater_count: Number of raters, None if the file does not state it.
        face_weights: Content of ``faces.json``: the weights that detected and embedded the faces of the rated photos.
            None if faces were not analysed.
    """

    schema: str
    table: pd.DataFrame
    attributes: tuple[str, ...]
    rated: PoolSummary
    unlabelled: PoolSummary
    reliability: RaterReliability | None
    notes: list[str]
    settings: Ingestion
    rater_count: int | None = None
    face_weights: dict[str, Any] | None = None

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of photos of each split, including empty splits."""
        photos_by_split = Counter(self.table["split"])
        return {split: photos_by_split[split] for split in SPLITS}

    @cached_property
    def reasons(self) -> dict[str, int]:
        """Number of exclusions for each reason, in descending order."""
        return dict(Counter(entry.reason for entry in [*self.rated.left_out, *self.unlabelled.left_out]).most_common())

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """Rows of the rated photos, with the column ``mean``: their mean score."""
        rated = self.table[self.table["split"] != "unlabelled"]
        return rated.assign(mean=mean_scores(rated[list(VOTE_COLUMNS)].to_numpy(float)))

    @cached_property
    def face_counts(self) -> dict[str, int]:
        """Number of rated photos without a face, with one face and with several."""
        photos_by_count = Counter(self.labelled["face_count"].clip(upper=2).map({0: "none", 1: "one", 2: "several"}))
        return {count: photos_by_count[count] for count in ("none", "one", "several")}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data set's content, independent of the order of the photos.

        The hash covers the records, the settings that shape the stored photos, and the face weights.
        """
        votes = self.table[list(VOTE_COLUMNS)].to_numpy(float).round(6).tolist()
        columns = ("photo", "sha256", "split", "group", "raters", "attributes")
        rows = zip(votes, *(self.table[column] for column in columns), strict=True)
        records = sorted(json.dumps(row, sort_keys=True) for row in rows)
        shape = f"{self.settings.shorter_side} {self.settings.jpeg_quality}"
        if self.face_weights:
            shape += f" {json.dumps(self.face_weights, sort_keys=True)}"
        return hashlib.sha256("\n".join([shape, *records]).encode()).hexdigest()

    def to_record(self) -> dict[str, Any]:
        """Return the content of ``ingestion.json``. It does not depend on the order of the input or on the engine."""
        left_out = [
            {**asdict(entry), "unlabelled": side is self.unlabelled}
            for side in (self.rated, self.unlabelled)
            for entry in sorted(side.left_out, key=lambda entry: (entry.photo, entry.reason))
        ]
        settings = {name: value for name, value in as_parameters(self.settings).items() if name != "beam_options"}
        raters = self._known_rater_counts
        return {
            "fingerprint": self.fingerprint,
            "schema": self.schema,
            "counts": self.counts,
            "ratings": {
                "number": int(raters.sum()),
                "people": self.rater_count,
                "photos_without_number": len(self.labelled) - len(raters),
                **({"least_a_photo": int(raters.min()), "most_a_photo": int(raters.max())} if len(raters) else {}),
                "groups": int(self.labelled["group"].nunique()),
            },
            "attributes": list(self.attributes),
            "reliability": asdict(self.reliability) if self.reliability else None,
            "notes": self.notes,
            "settings": settings,
            "reasons": self.reasons,
            "left_out": left_out,
            **({"faces": {**self.face_weights, "photos": self.face_counts}} if self.face_weights else {}),
        }

    def metrics(self) -> dict[str, float]:
        """Return the pipeline metrics of this step. No other step uses their names."""
        agreement, raters = {}, self._known_rater_counts
        if self.reliability:
            agreement = {"raters_reliability": self.reliability.spearman_brown, "lcc_ceiling": self.reliability.ceiling}
        return {
            **{f"photos_{split}": float(number) for split, number in self.counts.items()},
            "photos_left_out": float(len(self.rated.left_out) + len(self.unlabelled.left_out)),
            "rated_mean_score": float(self.labelled["mean"].mean()),
            **({"rated_raters_a_photo": float(raters.mean())} if len(raters) else {}),
            **agreement,
            **{f"photos_{name}": float(number) for name, number in self._face_metrics().items()},
        }

    @property
    def _known_rater_counts(self) -> pd.Series:
        """Number of raters of each rated photo with a known number."""
        return self.labelled.loc[self.labelled["raters"] > 0, "raters"]

    def _face_metrics(self) -> dict[str, int]:
        if self.face_weights is None:
            return {}
        return {"without_face": self.face_counts["none"], "with_several_faces": self.face_counts["several"]}
