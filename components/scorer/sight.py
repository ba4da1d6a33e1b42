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
from keras import ops

from components.scorer.stages import EMBEDDING, FACE, Reads

PIXELS = "pixels"
"""The name of the first input; those of the others are what the stages before the network give, see ``stages``."""

PRINCIPAL, STAND_IN = "embedding_pca", "stand_in"
"""The names of the layers that read the embedding."""

_FLAT = 1e-6  # of the largest deviation, or variance: what varies less does not vary


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
            scale: of the view, see ``faces.crop``.
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


def principal_components(embeddings: np.ndarray, most: int) -> Components | None:
    """The directions in which faces differ most, each number of the embedding taken in units of its own deviation.

    The components come in the order of their variances and are left as far apart as those are (no whitening: the last
    ones are mostly noise), all together scaled so that a face's squared length is 1 on average. Their signs are such
    that the largest part of each axis is positive: the same embeddings give the same components.

    Args:
        embeddings: float ``[n, size]``, of the faces of the training split alone.
        most: components to keep. There are fewer where faces do not differ in as many directions.

    Returns:
        None where faces do not differ at all, or nothing is to be kept.
    """
    centre = embeddings.mean(0, dtype=float) if len(embeddings) else np.zeros(embeddings.shape[1])
    spread = embeddings.std(0, dtype=float) if len(embeddings) else centre
    varies = spread > _FLAT * spread.max(initial=0)
    unit = np.where(varies, spread, np.inf)
    standard = (embeddings - centre) / unit
    axes, variances = principal_axes(standard, most)
    if not len(variances):
        return None
    axes = _signed(axes / unit[:, None] / np.sqrt(variances.sum()))
    return Components(centre.astype("float32"), axes.astype("float32"))


def principal_axes(centred: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which rows differ most, and how much.

    Args:
        centred: float ``[n, c]``, whose means are 0.
        most: directions wanted; there are fewer where rows do not differ in as many.

    Returns:
        Axes of length 1 ``[c, k]``, the largest part of each positive, and the variances along them ``[k]``, largest
        first.
    """
    # Of few long rows the products of rows tell the same as those of columns, for far less.
    wide = len(centred) < centred.shape[1]
    values, vectors = np.linalg.eigh((centred @ centred.T if wide else centred.T @ centred).astype(float))
    order = np.argsort(-values, kind="stable")[:most]
    order = order[values[order] > _FLAT * values.max(initial=0)]
    axes = centred.T @ vectors[:, order] / np.sqrt(values[order]) if wide else vectors[:, order]
    return _signed(axes), values[order] / max(len(centred), 1)


def _signed(axes: np.ndarray) -> np.ndarray:
    """Axes ``[c, k]``, turned so that the largest part of each is positive."""
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])


@keras.saving.register_keras_serializable("portrait_scorer")
class Principal(keras.layers.Layer):
    """The principal components ``[n, kept]`` of embeddings ``[n, size]``; fixed, see `principal_components`.

    Args:
        kept: number of components.
    """

    def __init__(self, kept: int, **kwargs: Any):
        super().__init__(trainable=False, **{name: value for name, value in kwargs.items() if name != "trainable"})
        self.kept = kept

    def build(self, embedding_shape: tuple) -> None:
        """Make ``mean`` ``[size]`` and ``axes`` ``[size, kept]``."""
        made = {"initializer": "zeros", "trainable": False}
        self.mean = self.add_weight(name="mean", shape=(embedding_shape[-1],), **made)
        self.axes = self.add_weight(name="axes", shape=(embedding_shape[-1], self.kept), **made)

    def call(self, embedding):
        """Project ``[n, size]``."""
        return ops.matmul(embedding - self.mean, self.axes)

    def compute_output_shape(self, embedding_shape: tuple) -> tuple:
        """As many numbers as are kept."""
        return (*embedding_shape[:-1], self.kept)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the layer."""
        return {**super().get_config(), "kept": self.kept}


@keras.saving.register_keras_serializable("portrait_scorer")
class StandIn(keras.layers.Layer):
    """What is known of a face ``[n, c]`` where one was found, and where none was a vector that is learnt."""

    def build(self, face_shape: tuple, found_shape: tuple) -> None:
        """Make ``stand_in`` ``[c]``."""
        self.stand_in = self.add_weight(name="stand_in", shape=(face_shape[-1],), initializer="zeros")

    def call(self, face, found):
        """Take ``face`` where ``found`` ``[n]`` is 1."""
        return ops.where(ops.expand_dims(found, -1) > 0, face, ops.convert_to_tensor(self.stand_in))

    def compute_output_shape(self, face_shape: tuple, found_shape: tuple) -> tuple:
        """That of the faces."""
        return face_shape


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
