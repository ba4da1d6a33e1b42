"""Example face crops for the report: low-confidence faces, the largest of several faces, and any faces."""

from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from components.ingestion.photos import photo_inspection
from components.ingestion.summary import IngestionSummary
from components.scorer.faces import geometry
from components.scorer.settings import Faces

MAX_CROPS = 12
"""Maximum number of crops of each kind."""

_SIDE = 112  # pixels


def example_faces(summary: IngestionSummary) -> dict[str, list[bytes]]:
    """Return aligned face crops as JPEGs by kind. A kind without a face is omitted."""
    with_face = summary.labelled[summary.labelled["face_count"] > 0]
    kinds = {
        "The faces that were found with the least confidence": with_face.sort_values("face_confidence", kind="stable"),
        "The largest face where there are several, which is the one that is read": with_face[
            with_face["face_count"] > 1
        ],
        "Some of all": with_face,
    }
    scale = min((summary.face_weights or {}).get("scales", Faces.face_scales))  # the scale of the widest crop
    return {
        kind: [_crop(row, scale) for row in rows.head(MAX_CROPS).itertuples()]
        for kind, rows in kinds.items()
        if len(rows)
    }


def _crop(row: pd.Series, scale: float) -> bytes:
    """Return the face crop of a row of the table as a JPEG."""
    with Image.open(BytesIO(photo_inspection.read_photo(row.spool, row.offset, row.length))) as image:
        pixels = np.asarray(image.convert("RGB"))
    stream = BytesIO()
    Image.fromarray(geometry.crop(pixels, row.face_landmarks, _SIDE, scale)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
