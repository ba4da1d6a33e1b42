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

from components.scorer.faces.face_inputs import EMBEDDING, FACE, Reads
from components.scorer.model.layers import Principal, StandIn

PIXELS = "pixels"
"""Name of the first input. `face_inputs` names the other inputs."""
PRINCIPAL, STAND_IN = "embedding_pca", "stand_in"
"""Names of the layers that read the embedding: the PCA projection, and the vector of a missing face."""


@dataclass(frozen=True)
class Sight:
    """Specification of a scorer's inputs; by default the whole photo alone.

    Attributes:
        view: True if the face goes through the backbone as a second view.
        embedding: Size of the face embedding; 0: the scorer has no such input.
        kept: Number of principal components of the embedding that are used.
    """

    view: bool = False
    embedding: int = 0
    kept: int = 0

    def __bool__(self) -> bool:
        """Return whether the scorer has any input that is computed from the face."""
        return self.view or self.embedding > 0

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        return (PIXELS, *self.needs(side=1, scale=1.0).inputs)  # the names do not depend on the side

    def needs(self, side: int, scale: float) -> Reads:
        """Return the specification of the inputs that are computed from the face.

        Args:
            side: Side of the second view, pixels.
            scale: Scale of the second view, see ``geometry.crop``.
        """
        return Reads(self.embedding, side, scale) if self.view else Reads(self.embedding)


WHOLE = Sight()
"""Inputs of a scorer that reads the whole photo alone."""


def of(model: keras.Model) -> Sight:
    """Return the input specification of a model, read from the names and shapes of its inputs."""
    shapes = {tensor.name: tensor.shape for tensor in model.inputs}
    if EMBEDDING not in shapes:
        return Sight(FACE in shapes)
    return Sight(FACE in shapes, shapes[EMBEDDING][-1], model.get_layer(PRINCIPAL).kept)


def words(sight: Sight, sha256: Mapping[str, str]) -> str:
    """Return an English description of the face inputs and of the networks that compute them.

    Args:
        sight: Input specification of a scorer.
        sha256: SHA-256 digests of the weights, by ``detector`` and ``embedder``. Missing ones are called unknown.
    """
    if not sight:
        return "Faces are not read: the whole photo alone is scored."
    detector = f"found by the detector with the SHA-256 {sha256.get('detector', 'unknown')}"
    parts = [f"The face, {detector}, is scored beside the whole photo:"]
    if sight.view:
        parts.append("it is turned upright and goes through the same network as a second view;")
    if sight.embedding:
        parts.append(
            f"the embedder with the SHA-256 {sha256.get('embedder', 'unknown')} gives {sight.embedding:,} numbers for"
            f" it, of which {sight.kept:,} principal components are read;"
        )
    return " ".join(parts) + " of several faces it is the largest, and a photo without one is scored all the same."


class Components(NamedTuple):
    """PCA basis of embeddings: the components are ``(embedding - mean) @ axes``.

    Attributes:
        mean: Mean of the embeddings, float32 ``[size]``.
        axes: Principal axes, float32 ``[size, kept]``.
    """

    mean: np.ndarray
    axes: np.ndarray


def build_face(embedding: keras.KerasTensor, found: keras.KerasTensor, sight: Sight) -> keras.KerasTensor:
    """Project embeddings to principal components, and replace those of photos without a face by the learned vector.

    The layers compute in float32 even under mixed precision.

    Args:
        embedding: Embeddings ``[n, size]``.
        found: Float ``[n]``, 1 where there is a face, 0 elsewhere.
        sight: Input specification; ``kept`` is read.

    Returns:
        Face features ``[n, kept]``.
    """
    components = Principal(sight.kept, name=PRINCIPAL, dtype="float32")(embedding)
    return StandIn(name=STAND_IN, dtype="float32")(components, found)


def settle(model: keras.Model, components: Components | None) -> None:
    """Load a PCA basis into the model's ``embedding_pca`` layer.

    Args:
        model: A model that reads embeddings.
        components: The basis; None: the model stays as it is.
    """
    if components is not None:
        model.get_layer(PRINCIPAL).set_weights(components)


def in_order(model: keras.Model, given: Mapping[str, Any]) -> Any:
    """Return named inputs in the form that a model takes: a list in the model's order, or one array for a single input.

    Args:
        model: A scorer.
        given: Arrays or tensors by input name.
    """
    if len(model.inputs) == 1:
        return given[PIXELS]
    return [given[tensor.name] for tensor in model.inputs]
