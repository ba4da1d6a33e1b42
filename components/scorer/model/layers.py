"""The project's own Keras layers: quadratic features, PCA projection, the vector of a missing face.

A good portrait is no sum of parts: the same feature counts for one face and against another. `QuadraticFeatures`
projects the features to principal components z, scaled to length 1, and outputs ``z`` and ``z ∘ (A z)``. The sum of the
latter is ``z'A z``, so a dense layer on the output is a constant, a linear and a quadratic form.

That is ridge regression under the kernel ``z·z' + b (z·z')²`` (Schölkopf and Smola, "Learning with Kernels", 2002,
section 2.3), written out. The weights describe pairs of features, and no training photo. The kernel's dual form would
publish the training photos' features.
"""

from typing import Any

import keras
from keras import ops

QUADRATIC_LAYER = "quadratic"
"""Name of the `QuadraticFeatures` layer in a network."""

_MIN_LENGTH = 1e-6  # length below which components are not scaled up: such a photo is the mean of all photos


@keras.saving.register_keras_serializable("portrait_scorer")
class QuadraticFeatures(keras.layers.Layer):
    """Quadratic features ``[n, 2 · rank]`` of features ``[n, c]``: components z, scaled to length 1, and ``z ∘ (A z)``.

    Args:
        rank: Number of principal components, the rank of the quadratic form.
    """

    def __init__(self, rank: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.rank = rank

    def build(self, features_shape: tuple) -> None:
        """Create the fixed ``mean`` ``[c]`` and ``axes`` ``[c, rank]``, and ``form`` ``[rank, rank]``.

        ``form`` is the symmetric matrix A.
        """
        channels = features_shape[-1]
        self.mean = self.add_weight(name="mean", shape=(channels,), initializer="zeros", trainable=False)
        self.axes = self.add_weight(name="axes", shape=(channels, self.rank), initializer="zeros", trainable=False)
        self.form = self.add_weight(name="form", shape=(self.rank, self.rank), initializer="zeros")

    def call(self, features):
        """Return z and ``z ∘ (A z)`` of features ``[n, c]``, concatenated: ``[n, 2 · rank]``."""
        z, _ = self.scaled_components(features)
        return ops.concatenate([z, z * ops.matmul(z, self.form)], axis=-1)

    def scaled_components(self, features):
        """Return the components z ``[n, rank]``, scaled to length 1, and their lengths ``[n, 1]``.

        Args:
            features: Features ``[n, c]``.
        """
        projected = ops.matmul(ops.cast(features, "float32") - self.mean, self.axes)
        length = ops.maximum(ops.sqrt(ops.sum(ops.square(projected), axis=-1, keepdims=True)), _MIN_LENGTH)
        return projected / length, length

    def input_gradient(self, features, kernel, n_features: int):
        """Return the gradient of ``output @ kernel`` by the first features.

        Args:
            features: Features ``[n, c]``.
            kernel: Kernel of the next layer, ``[2 · rank, v]``, or one kernel a photo, ``[n, 2 · rank, v]``.
            n_features: Number of features to differentiate by, counted from the first.

        Returns:
            Gradients ``[n, n_features, v]``.
        """
        z, length = self.scaled_components(features)
        z, length = z[..., None], length[..., None]
        linear, product = kernel[..., : self.rank, :], kernel[..., self.rank :, :]
        gradient = linear + ops.matmul(self.form, z) * product + ops.matmul(self.form, z * product)
        gradient = (gradient - z * ops.sum(z * gradient, axis=-2, keepdims=True)) / length  # the length stays 1
        return ops.matmul(self.axes[:n_features], gradient)

    def compute_output_shape(self, features_shape: tuple) -> tuple:
        """Return the shape ``[…, 2 · rank]``."""
        return (*features_shape[:-1], 2 * self.rank)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "rank": self.rank}


@keras.saving.register_keras_serializable("portrait_scorer")
class PCAProjection(keras.layers.Layer):
    """PCA projection of embeddings ``[n, size]`` to ``[n, n_components]``.

    The weights are not trainable: `principal_components` fits them.

    Args:
        n_components: Number of principal components.
    """

    def __init__(self, n_components: int, **kwargs: Any):
        super().__init__(trainable=False, **{name: value for name, value in kwargs.items() if name != "trainable"})
        self.n_components = n_components

    def build(self, embedding_shape: tuple) -> None:
        """Create the fixed ``mean`` ``[size]`` and ``axes`` ``[size, n_components]``."""
        options = {"initializer": "zeros", "trainable": False}
        self.mean = self.add_weight(name="mean", shape=(embedding_shape[-1],), **options)
        self.axes = self.add_weight(name="axes", shape=(embedding_shape[-1], self.n_components), **options)

    def call(self, embedding):
        """Return ``(embedding - mean) @ axes`` ``[n, n_components]`` of embeddings ``[n, size]``."""
        return ops.matmul(embedding - self.mean, self.axes)

    def compute_output_shape(self, embedding_shape: tuple) -> tuple:
        """Return the shape ``[…, n_components]``."""
        return (*embedding_shape[:-1], self.n_components)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "n_components": self.n_components}


@keras.saving.register_keras_serializable("portrait_scorer")
class MissingFaceToken(keras.layers.Layer):
    """Face features ``[n, c]``, replaced by a learned vector for photos without a face."""

    def build(self, face_shape: tuple, found_shape: tuple) -> None:
        """Create the learned vector ``missing_face_token`` ``[c]``, zero at first."""
        self.token = self.add_weight(name="missing_face_token", shape=(face_shape[-1],), initializer="zeros")

    def call(self, face, found):
        """Return ``face`` ``[n, c]`` where ``found`` ``[n]`` is above 0, and the learned vector elsewhere."""
        return ops.where(ops.expand_dims(found, -1) > 0, face, ops.convert_to_tensor(self.token))

    def compute_output_shape(self, face_shape: tuple, found_shape: tuple) -> tuple:
        """Return the shape of ``face``."""
        return face_shape
