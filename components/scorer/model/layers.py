"""The project's own Keras layers: PCA projection, the vector of a missing face, quadratic features.

What makes a portrait good is no sum of parts: the same feature counts for one face and against another. With z the
principal components of all features, scaled to length 1, `Quadratic` gives ``z`` and ``z ∘ (A z)``, whose sum is
``z'A z``; a dense layer on them is a constant, a linear and a quadratic form. That is ridge regression under the kernel
``z·z' + b (z·z')²`` (Schölkopf and Smola, "Learning with Kernels", 2002, section 2.3), written out: the weights speak
of pairs of features, and of no photo that was learnt from, which a kernel's own form would publish.
"""

from typing import Any

import keras
from keras import ops

NAME = "quadratic"
"""Of the layer."""

_SHORTEST = 1e-6  # length below which components are not scaled up: such a photo is the mean of all


@keras.saving.register_keras_serializable("portrait_scorer")
class Quadratic(keras.layers.Layer):
    """Features ``[n, c]`` to ``[n, 2 · kept]``: their components z, scaled to length 1, and ``z ∘ (A z)``.

    Args:
        kept: number of components.
    """

    def __init__(self, kept: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.kept = kept

    def build(self, features_shape: tuple) -> None:
        """Make ``mean`` ``[c]``, ``axes`` ``[c, kept]``, both fixed, and the symmetric ``form`` ``[kept, kept]``."""
        channels = features_shape[-1]
        self.mean = self.add_weight(name="mean", shape=(channels,), initializer="zeros", trainable=False)
        self.axes = self.add_weight(name="axes", shape=(channels, self.kept), initializer="zeros", trainable=False)
        self.form = self.add_weight(name="form", shape=(self.kept, self.kept), initializer="zeros")

    def call(self, features):
        """Components of ``[n, c]`` and their products."""
        z, _ = self.components(features)
        return ops.concatenate([z, z * ops.matmul(z, self.form)], axis=-1)

    def components(self, features):
        """The components ``[n, kept]`` of features ``[n, c]``, of length 1, and the length they had, ``[n, 1]``."""
        found = ops.matmul(ops.cast(features, "float32") - self.mean, self.axes)
        length = ops.maximum(ops.sqrt(ops.sum(ops.square(found), axis=-1, keepdims=True)), _SHORTEST)
        return found / length, length

    def slopes(self, features, kernel, first: int):
        """How fast what a kernel makes of the output rises with each of the first features.

        Args:
            features: ``[n, c]``.
            kernel: ``[2 · kept, v]`` or one a photo, ``[n, 2 · kept, v]``.
            first: number of features.

        Returns:
            ``[n, first, v]``, the gradient of ``output @ kernel``.
        """
        z, length = self.components(features)
        z, length = z[..., None], length[..., None]
        linear, product = kernel[..., : self.kept, :], kernel[..., self.kept :, :]
        rise = linear + ops.matmul(self.form, z) * product + ops.matmul(self.form, z * product)
        rise = (rise - z * ops.sum(z * rise, axis=-2, keepdims=True)) / length  # length 1 stays
        return ops.matmul(self.axes[:first], rise)

    def compute_output_shape(self, features_shape: tuple) -> tuple:
        """Twice as many numbers as components are kept."""
        return (*features_shape[:-1], 2 * self.kept)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the layer."""
        return {**super().get_config(), "kept": self.kept}


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
