"""What a scorer sees of the face beside the whole photo: its embedding, and a second view of it.

A scorer that sees faces takes, by name and in this order:

* ``pixels`` float ``[n, crop, crop, 3]``, 0..255: the whole photo;
* ``face`` float ``[n, crop, crop, 3]``, 0..255: the aligned face, which goes through the same backbone, where it has
  this second view;
* ``embedding`` float ``[n, size]`` and ``found`` float ``[n]``, 1 or 0: what a network trained to tell faces apart says
  of the face, and whether there is one, where it reads embeddings.

A photo without a face is a photo as any other. In place of what its embedding would say stands a vector that is learnt
from the photos without one; as long as there are none, it is zero, the mean of all faces.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from components.scorer.faces.face_inputs import EMBEDDING, FACE, Reads
from components.scorer.model.layers import Principal, StandIn

PIXELS = "pixels"
"""The name of the first input; those of the others are what the stages before the network give, see ``face_inputs``."""
PRINCIPAL, STAND_IN = "embedding_pca", "stand_in"
"""The names of the layers that read the embedding."""


@dataclass(frozen=True)
class Sight:
    """What a scorer sees beside the whole photo; nothing by default.

    Attributes:
        view: whether the face goes through the backbone as well.
        embedding: numbers of a face's embedding; 0: it is not read.
        kept: of its principal components.
    """

    view: bool = False
    embedding: int = 0
    kept: int = 0

    def __bool__(self) -> bool:
        """Whether it sees anything of the face."""
        return self.view or self.embedding > 0

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the inputs, in their order."""
        return (PIXELS, *self.needs(side=1, scale=1.0).inputs)  # whatever the side

    def needs(self, side: int, scale: float) -> Reads:
        """What the stages before a network that sees this give it of a face.

        Args:
            side: of the view, pixels.
            scale: of the view, see ``geometry.crop``.
        """
        return Reads(self.embedding, side, scale) if self.view else Reads(self.embedding)


WHOLE = Sight()
"""The whole photo alone."""


def of(model: keras.Model) -> Sight:
    """What a scorer sees, by its inputs."""
    shapes = {given.name: given.shape for given in model.inputs}
    if EMBEDDING not in shapes:
        return Sight(FACE in shapes)
    return Sight(FACE in shapes, shapes[EMBEDDING][-1], model.get_layer(PRINCIPAL).kept)


def words(sight: Sight, sha256: Mapping[str, str]) -> str:
    """What is read of faces, and by what, for people.

    Args:
        sight: of a scorer.
        sha256: digests of the weights of ``detector`` and ``embedder``, as far as there are any.
    """
    if not sight:
        return "Faces are not read: the whole photo alone is scored."
    found = f"found by the detector with the SHA-256 {sha256.get('detector', 'unknown')}"
    parts = [f"The face, {found}, is scored beside the whole photo:"]
    if sight.view:
        parts.append("it is turned upright and goes through the same network as a second view;")
    if sight.embedding:
        parts.append(
            f"the embedder with the SHA-256 {sha256.get('embedder', 'unknown')} gives {sight.embedding:,} numbers for"
            f" it, of which {sight.kept:,} principal components are read;"
        )
    return " ".join(parts) + " of several faces it is the largest, and a photo without one is scored all the same."


class Components(NamedTuple):
    """Where the principal components of embeddings are: ``(embedding - mean) @ axes``.

    Attributes:
        mean: float32 ``[size]``.
        axes: float32 ``[size, kept]``.
    """

    mean: np.ndarray
    axes: np.ndarray


def build_face(embedding: keras.KerasTensor, found: keras.KerasTensor, sight: Sight) -> keras.KerasTensor:
    """What the last layer reads of embeddings ``[n, size]``: ``[n, kept]``; float32 under mixed precision too."""
    components = Principal(sight.kept, name=PRINCIPAL, dtype="float32")(embedding)
    return StandIn(name=STAND_IN, dtype="float32")(components, found)


def settle(model: keras.Model, components: Components | None) -> None:
    """Give a network that reads embeddings the components that they are taken apart into."""
    if components is not None:
        model.get_layer(PRINCIPAL).set_weights(components)


def in_order(model: keras.Model, given: Mapping[str, Any]) -> Any:
    """What a network is given, by its inputs' names, as it takes it: a list, or alone where it takes nothing else."""
    if len(model.inputs) == 1:
        return given[PIXELS]
    return [given[each.name] for each in model.inputs]
