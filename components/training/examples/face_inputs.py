"""What the scorer is to see of the face: what was asked for, as far as the data set has it."""

from pathlib import Path

import numpy as np

from components.scorer.data import photos
from components.scorer.model.inputs import Components, Sight
from components.scorer.settings import Training
from components.training.heads.pca import principal_components


def find_sight(dataset: str | Path, settings: Training) -> tuple[Sight, Components | None]:
    """What there is to see, and the principal components of the embeddings of the split ``train``."""
    reading = photos.reading(dataset)
    view = settings.face_view and reading.face
    if not (reading.embedding and settings.embedding_size):
        return Sight(view), None
    components = principal_components(_embeddings(dataset, "train"), settings.embedding_size)
    if components is None:
        print("training: embeddings are not read, for the training photos' faces do not differ", flush=True)
        return Sight(view), None
    return Sight(view, *components.axes.shape), components


def _embeddings(dataset: str | Path, split: str) -> np.ndarray:
    """Of the faces of a split, float32 ``[n, size]``; of photos without a face there is none."""
    read = photos.encoded(dataset, split).map(lambda record: (record["embedding"], record["face"]["count"]))
    embeddings, counts = zip(*read.as_numpy_iterator(), strict=True)
    return np.stack(embeddings)[np.array(counts) > 0]
