"""Some faces as they are read, for the report: the doubtful ones, the largest of several, and some of all."""

from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from components.ingestion.photos import photo_inspection
from components.ingestion.summary import Outcome
from components.scorer.faces import geometry
from components.scorer.settings import Faces

MOST = 12
"""Faces of each kind."""

_SIDE = 112  # pixels


def shown_faces(outcome: Outcome) -> dict[str, list[bytes]]:
    """Aligned crops as JPEGs, by what they show; kinds without a face are left out."""
    found = outcome.labelled[outcome.labelled["face_count"] > 0]
    kinds = {
        "The faces that were found with the least confidence": found.sort_values("face_confidence", kind="stable"),
        "The largest face where there are several, which is the one that is read": found[found["face_count"] > 1],
        "Some of all": found,
    }
    scale = min(outcome.faces.get("scales", Faces.face_scales))  # the widest
    return {
        what: [_crop(row, scale) for row in some.head(MOST).itertuples()] for what, some in kinds.items() if len(some)
    }


def _crop(row: pd.Series, scale: float) -> bytes:
    """The crop of a row of the table."""
    with Image.open(BytesIO(photo_inspection.read_photo(row.spool, row.offset, row.length))) as image:
        pixels = np.asarray(image.convert("RGB"))
    stream = BytesIO()
    Image.fromarray(geometry.crop(pixels, row.face_landmarks, _SIDE, scale)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
