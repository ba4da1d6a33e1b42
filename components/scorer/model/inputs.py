"""The inputs of a scorer: the whole photo and, optionally, a second view of the face and its embedding.

A scorer that uses faces takes these inputs, by name and in this order:

* ``pixels`` float ``[n, crop, crop, 3]``, 0..255: the whole photo;
* ``face`` float ``[n, crop, crop, 3]``, 0..255: the aligned face, only with a second view. It goes through the same
  backbone;
* ``embedding`` float ``[n, size]``, only with embeddings: the output of a face recognition network for the face;
* ``found`` float ``[n]``, 1 or 0, only with embeddings: whether there is a face.

Photos without a face are scored too. Their embedding is replaced by a vector that is learned from the training photos
without a face. If there are none, the vector stays zero, which is the mean of all faces.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from components.scorer.faces.face_inputs import EMBEDDING, FACE, FaceInputSpec
from components.scorer.model.layers import MissingFaceToken, PCAProjection

PIXELS = "pixels"
"""Name of the first input. `face_inputs` names the other inputs."""
PCA_LAYER, MISSING_FACE_LAYER = "embedding_pca", "missing_face_token"
"""Names of the layers that read the embedding: the PCA projection, and the vector of a missing face."""


@dataclass(frozen=True)
class ModelInputs:
    """Specification of a scorer's inputs; by default the whole photo alone.

    Attributes:
        view: True if the face goes through the backbone as a second view.
        embedding_size: Size of the face embedding; 0: the scorer has no such input.
        n_components: Number of principal components of the embedding that are used.
    """

    view: bool = False
    embedding_size: int = 0
    n_components: int = 0

    def __bool__(self) -> bool:
        """Return whether the scorer has any input that is computed from the face."""
        return self.view or self.embedding_size > 0

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        return (PIXELS, *self.face_input_spec(side=1, scale=1.0).inputs)  # the names do not depend on the side

    def face_input_spec(self, side: int, scale: float) -> FaceInputSpec:
        """Return the specification of the inputs that are computed from the face.

        Args:
            side: Side of the second view, pixels.
            scale: Scale of the second view, see ``geometry.crop``.
        """
        return FaceInputSpec(self.embedding_size, side, scale) if self.view else FaceInputSpec(self.embedding_size)


PHOTO_ONLY = ModelInputs()
"""Inputs of a scorer that reads the whole photo alone."""


def infer_inputs(model: keras.Model) -> ModelInputs:
    """Return the input specification of a model, read from the names and shapes of its inputs."""
    shapes = {tensor.name: tensor.shape for tensor in model.inputs}
    if EMBEDDING not in shapes:
        return ModelInputs(FACE in shapes)
    return ModelInputs(FACE in shapes, shapes[EMBEDDING][-1], model.get_layer(PCA_LAYER).n_components)


def describe_face_inputs(model_inputs: ModelInputs, digests: Mapping[str, str]) -> str:
    """Return an English description of the face inputs and of the networks that compute them.

    Args:
        model_inputs: Input specification of a scorer.
        digests: SHA-256 digests of the weights, by ``detector`` and ``embedder``. Missing ones are called unknown.
    """
    if not model_inputs:
        return "Faces are not read: the whole photo alone is scored."
    detector = f"found by the detector with the SHA-256 {digests.get('detector', 'unknown')}"
    parts = [f"The face, {detector}, is scored beside the whole photo:"]
    if model_inputs.view:
        parts.append("it is turned upright and goes through the same network as a second view;")
    if model_inputs.embedding_size:
        parts.append(
            f"the embedder with the SHA-256 {digests.get('embedder', 'unknown')} gives"
            f" {model_inputs.embedding_size:,} numbers for"
            f" it, of which {model_inputs.n_components:,} principal components are read;"
        )
    return " ".join(parts) + " of several faces it is the largest, and a photo without one is scored all the same."


class PCABasis(NamedTuple):
    """PCA basis of embeddings: the components are ``(embedding - mean) @ axes``.

    Attributes:
        mean: Mean of the embeddings, float32 ``[size]``.
        axes: Principal axes, float32 ``[size, kept]``.
    """

    mean: np.ndarray
    axes: np.ndarray


def build_face_features(
    embedding: keras.KerasTensor, found: keras.KerasTensor, model_inputs: ModelInputs
) -> keras.KerasTensor:
    """Project embeddings to principal components, and replace those of photos without a face by the learned vector.

    The layers compute in float32 even under mixed precision.

    Args:
        embedding: Embeddings ``[n, size]``.
        found: Float ``[n]``, 1 where there is a face, 0 elsewhere.
        model_inputs: Input specification; ``kept`` is read.

    Returns:
        Face features ``[n, kept]``.
    """
    components = PCAProjection(model_inputs.n_components, name=PCA_LAYER, dtype="float32")(embedding)
    return MissingFaceToken(name=MISSING_FACE_LAYER, dtype="float32")(components, found)


def set_pca_weights(model: keras.Model, basis: PCABasis | None) -> None:
    """Load a PCA basis into the model's ``embedding_pca`` layer.

    Args:
        model: A model that reads embeddings.
        basis: The basis; None: the model stays as it is.
    """
    if basis is not None:
        model.get_layer(PCA_LAYER).set_weights(basis)


def order_inputs(model: keras.Model, inputs: Mapping[str, Any]) -> Any:
    """Return named inputs in the form that a model takes: a list in the model's order, or one array for a single input.

    Args:
        model: A scorer.
        inputs: Arrays or tensors by input name.
    """
    if len(model.inputs) == 1:
        return inputs[PIXELS]
    return [inputs[tensor.name] for tensor in model.inputs]
