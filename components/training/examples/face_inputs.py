"""Choice of the scorer's face inputs: those requested, as far as the data set has them."""

from pathlib import Path

import numpy as np

from components.scorer.data import photos
from components.scorer.model.inputs import ModelInputs, PCABasis
from components.scorer.settings import Training
from components.training.heads.pca import principal_components


def find_model_inputs(dataset: str | Path, settings: Training) -> tuple[ModelInputs, PCABasis | None]:
    """Return the scorer's inputs, and the PCA basis of the ``train`` split's embeddings if they are read."""
    features = photos.face_features(dataset)
    view = settings.face_view and features.face
    if not (features.embedding and settings.embedding_size):
        return ModelInputs(view), None
    components = principal_components(_face_embeddings(dataset, "train"), settings.embedding_size)
    if components is None:
        print("training: embeddings are not read, for the training photos' faces do not differ", flush=True)
        return ModelInputs(view), None
    return ModelInputs(view, *components.axes.shape), components


def _face_embeddings(dataset: str | Path, split: str) -> np.ndarray:
    """Return the embeddings of a split's faces, float32 ``[n, size]``. Photos without a face are left out."""
    records = photos.encoded_records(dataset, split).map(lambda record: (record["embedding"], record["face"]["count"]))
    embeddings, counts = zip(*records.as_numpy_iterator(), strict=True)
    return np.stack(embeddings)[np.array(counts) > 0]
