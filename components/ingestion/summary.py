"""What became of the photos: what the report shows, ``ingestion.json`` holds and the pipeline's metrics say."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from components.ingestion.exclusions import LeftOut
from components.ingestion.ratings.ratings import VOTES
from components.scorer.metrics.rater_agreement import Reliability
from components.scorer.metrics.regression import mean_scores
from components.scorer.parameters import as_parameters
from components.scorer.settings import Ingestion

SPLITS = ("train", "validation", "test", "unlabelled")


@dataclass(frozen=True)
class Side:
    """The rated photos of an ingestion, or the unlabelled ones.

    Attributes:
        considered: number of photos that were there or rated.
        left_out: those of them that are not in the data set, each once.
    """

    considered: int
    left_out: list[LeftOut]


@dataclass(frozen=True)
class Outcome:
    """What became of the photos of a run.

    Attributes:
        schema: the form of the ratings, a key of `ratings.SCHEMAS`.
        table: a row for each photo of the data set, in its order: ``photo``, ``sha256``, ``split``, ``group``,
            ``p1`` to ``p10``, ``raters``, ``attributes`` (a dict of text), and what `photo_inspection` measured.
        attributes: names of the attributes.
        rated: the photos of the rated folder.
        unlabelled: the others.
        reliability: how well the raters agree, None where the ratings do not tell.
        notes: sentences on what was assumed.
        settings: of the ingestion.
        people: how many gave the ratings, None where the file does not tell.
        faces: what found and read the faces of the rated photos (see ``scorer.embedding``); None: nothing did.
    """

    schema: str
    table: pd.DataFrame
    attributes: tuple[str, ...]
    rated: Side
    unlabelled: Side
    reliability: Reliability | None
    notes: list[str]
    settings: Ingestion
    people: int | None = None
    faces: dict[str, Any] | None = None

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of photos of each split, the empty ones included."""
        found = Counter(self.table["split"])
        return {split: found[split] for split in SPLITS}

    @cached_property
    def reasons(self) -> dict[str, int]:
        """Number of photos left out for each reason, the commonest first."""
        return dict(Counter(entry.reason for entry in [*self.rated.left_out, *self.unlabelled.left_out]).most_common())

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The rated photos of the data set, with their ``mean`` score."""
        rated = self.table[self.table["split"] != "unlabelled"]
        return rated.assign(mean=mean_scores(rated[list(VOTES)].to_numpy(float)))

    @cached_property
    def face_counts(self) -> dict[str, int]:
        """Number of rated photos with no face, with one, and with several."""
        found = Counter(self.labelled["face_count"].clip(upper=2).map({0: "none", 1: "one", 2: "several"}))
        return {count: found[count] for count in ("none", "one", "several")}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the records, what shapes the stored photos and what found their faces; order has no part."""
        votes = self.table[list(VOTES)].to_numpy(float).round(6).tolist()
        columns = ("photo", "sha256", "split", "group", "raters", "attributes")
        rows = zip(votes, *(self.table[column] for column in columns), strict=True)
        records = sorted(json.dumps(row, sort_keys=True) for row in rows)
        shape = f"{self.settings.shorter_side} {self.settings.jpeg_quality}"
        if self.faces:
            shape += f" {json.dumps(self.faces, sort_keys=True)}"
        return hashlib.sha256("\n".join([shape, *records]).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The value of ``ingestion.json``; the same whatever the order of the input and the engine."""
        left_out = [
            {**asdict(entry), "unlabelled": side is self.unlabelled}
            for side in (self.rated, self.unlabelled)
            for entry in sorted(side.left_out, key=lambda entry: (entry.photo, entry.reason))
        ]
        settings = {name: value for name, value in as_parameters(self.settings).items() if name != "beam_options"}
        raters = self._raters
        return {
            "fingerprint": self.fingerprint,
            "schema": self.schema,
            "counts": self.counts,
            "ratings": {
                "number": int(raters.sum()),
                "people": self.people,
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
            **({"faces": {**self.faces, "photos": self.face_counts}} if self.faces else {}),
        }

    def figures(self) -> dict[str, float]:
        """The figures for the pipeline's metrics; their names occur in no other step."""
        agreement, raters = {}, self._raters
        if self.reliability:
            agreement = {"raters_reliability": self.reliability.spearman_brown, "lcc_ceiling": self.reliability.ceiling}
        return {
            **{f"photos_{split}": float(number) for split, number in self.counts.items()},
            "photos_left_out": float(len(self.rated.left_out) + len(self.unlabelled.left_out)),
            "rated_mean_score": float(self.labelled["mean"].mean()),
            **({"rated_raters_a_photo": float(raters.mean())} if len(raters) else {}),
            **agreement,
            **{f"photos_{name}": float(number) for name, number in self._faces().items()},
        }

    @property
    def _raters(self) -> pd.Series:
        """How many people rated each photo of which that is known."""
        return self.labelled.loc[self.labelled["raters"] > 0, "raters"]

    def _faces(self) -> dict[str, int]:
        if self.faces is None:
            return {}
        return {"without_face": self.face_counts["none"], "with_several_faces": self.face_counts["several"]}
