"""The outputs of a published scorer as one Keras network: score statistics and, for pooled heads, activation maps.

All exports use these networks. They are flat, share the layers and weights of the scorer, and take its inputs (see
``inputs``). With heads (see ``auxiliary_heads``) they take the job as the last input, int32 ``[n]``, and give
``attributes`` ``[n, k]`` if the heads have any.
"""

from typing import Any

import keras
from keras import ops

from components.scorer.model import network as networks
from components.scorer.model.auxiliary_heads import JobTilt, attach_heads
from components.scorer.model.layers import QuadraticFeatures
from components.scorer.settings import SCORES


@keras.saving.register_keras_serializable("portrait_scorer")
class VoteStatistics(keras.layers.Layer):
    """Statistics of votes ``[n, 10]``: ``mean`` and ``std`` ``[n]`` and ``distribution`` ``[n, 10]``, float32."""

    def call(self, votes: Any) -> dict[str, Any]:
        """Return the mean and standard deviation of each row of votes, and the votes."""
        scores = ops.convert_to_tensor(SCORES, "float32")
        votes = ops.cast(votes, "float32")
        mean = ops.sum(votes * scores, axis=-1)
        variance = ops.sum(votes * ops.square(scores - mean[:, None]), axis=-1)
        return {"mean": mean, "std": ops.sqrt(variance), "distribution": votes}


@keras.saving.register_keras_serializable("portrait_scorer")
class ClassActivationMaps(keras.layers.Layer):
    """Class activation maps in closed form: Grad-CAM without gradients; see `build_cam_model`."""

    def __init__(
        self,
        votes: keras.layers.Dense,
        quadratic: QuadraticFeatures | None = None,
        tilt: JobTilt | None = None,
        **kwargs: Any,
    ):
        """Keep the layers whose weights the maps depend on.

        Args:
            votes: The scorer's softmax layer; its kernel is read, not copied.
            quadratic: The scorer's quadratic layer; None if the head is linear. Its input, or else that of the softmax
                layer, begins with the means of the feature maps.
            tilt: The layer that tilts the votes by job; None without jobs.
            **kwargs: Options of ``keras.layers.Layer``.
        """
        super().__init__(**kwargs)
        self._votes, self._quadratic, self._tilt = votes, quadratic, tilt

    def call(self, features: Any, votes: Any, read: Any = None, job: Any = None) -> dict[str, Any]:
        """Return the arrays ``class_heatmaps``, ``heatmap`` and ``gains`` of `build_cam_model`.

        Args:
            features: Feature maps ``[n, h, w, c]``.
            votes: Votes ``[n, 10]``.
            read: Input of the quadratic layer ``[n, k]``; None if the head is linear.
            job: Job ids, int ``[n]``; None: all are unknown.
        """
        features, votes = (ops.cast(tensor, "float32") for tensor in (features, votes))
        height, width, channels = features.shape[1:]
        n_positions = height * width
        scores = ops.convert_to_tensor(SCORES, "float32")
        flat = ops.reshape(features, (-1, n_positions, channels))
        contributions = ops.matmul(flat, self._kernel(channels, read, job)) / n_positions
        contributions = ops.reshape(contributions, (-1, height, width, len(SCORES)))
        total = ops.sum(contributions, axis=(1, 2), keepdims=True)
        # Without a position, the pooling averages the others. A map of one position has no others: hence the maximum.
        without = ops.log(votes)[:, None, None] + (total - n_positions * contributions) / max(n_positions - 1, 1)
        mean = ops.sum(votes * scores, axis=-1)
        positive = ops.relu(contributions)
        return {
            "class_heatmaps": positive,
            "heatmap": ops.sum(positive * votes[:, None, None], axis=-1),
            "gains": mean[:, None, None] - ops.sum(ops.softmax(without, axis=-1) * scores, axis=-1),
        }

    def _kernel(self, channels: int, read: Any, job: Any) -> Any:
        """Return the gradient of the logits by the pooled features: ``[c, 10]``, or one a photo, ``[n, c, 10]``."""
        kernel = ops.cast(self._votes.kernel, "float32")
        if self._tilt is not None and job is not None:
            kernel = kernel + self._tilt.kernel_change(job)
        if self._quadratic is not None:
            return self._quadratic.input_gradient(read, kernel, channels)
        return kernel[..., :channels, :]  # the other rows belong to face features


def is_pooled(model: keras.Model) -> bool:
    """Return whether a network ends in global average pooling and one dense softmax.

    Networks of ``network.build_scorer`` do.
    """
    votes = model.layers[-1]
    dense = isinstance(votes, keras.layers.Dense) and votes.activation is keras.activations.softmax
    return dense and networks.feature_maps(model) is not None


def build_score_model(model: keras.Model, heads: keras.Model | None = None) -> keras.Model:
    """Build the network that gives ``mean``, ``std`` and ``distribution`` (see `VoteStatistics`) for a scorer's inputs.

    Args:
        model: A scorer.
        heads: The scorer's auxiliary heads. If None, the network takes no job and gives no attributes.
    """
    network, votes, attributes = _attach_heads(model, heads)
    return keras.Model(
        network.inputs, VoteStatistics(name="vote_statistics", dtype="float32")(votes) | attributes, name="scores"
    )


def build_cam_model(model: keras.Model, heads: keras.Model | None = None) -> keras.Model:
    """Build the network that gives class activation maps (CAM) beside the scores, at next to no cost.

    This is Grad-CAM without gradients, for a network that ends in pooling and a dense layer: Zhou et al., "Learning
    Deep Features for Discriminative Localization", 2016, https://arxiv.org/abs/1512.04150. With K the dense layer's
    kernel, the gradient of class c's logit by feature k is ``K[k, c] / (h · w)`` at each position. Before negative
    values are cut off, a class's map therefore sums to its logit without the bias. The score without a position follows
    in the same way; the difference is the position's gain.

    A known job adds its slopes to the kernel (``auxiliary_heads.JobTilt``). If the scorer uses the face as well, the
    maps show which part of the whole photo the score comes from, with the face inputs fixed. If the head is quadratic
    (``layers``), the kernel is the gradient at this photo. The sum of a class's map, and the gains, are then right to
    first order.

    Args:
        model: A scorer for which `is_pooled` is true.
        heads: The scorer's auxiliary heads. If None, the network takes no job and gives no attributes.

    Returns: A network that shares the layers of both. It takes the scorer's inputs and, with heads, jobs. It gives, as
        float32:

        * ``mean``, ``std`` ``[n]``, ``distribution`` ``[n, 10]``: the score statistics.
        * ``class_heatmaps`` ``[n, h, w, 10]``: see ``attribution.heatmaps``.
        * ``heatmap`` ``[n, h, w]``: see ``attribution.vote_weighted_heatmap``.
        * ``gains`` ``[n, h, w]``: the mean score less the mean score without this position in the pooling, in score
          points. Negative where the position lowers the score.
        * ``attributes`` ``[n, k]``, only if the heads have any.

    Raises:
        ValueError: `is_pooled` is false for the network.
    """
    if not is_pooled(model):
        raise ValueError(f"expected a network that ends in global average pooling and a dense softmax: {model.name}")
    network, votes, attributes = _attach_heads(model, heads)
    tilt = next((layer for layer in network.layers if isinstance(layer, JobTilt)), None)
    quadratic = networks.quadratic_layer(model)
    maps = ClassActivationMaps(model.layers[-1], quadratic, tilt, name="class_activation_maps", dtype="float32")
    options = {"read": quadratic.input} if quadratic else {}
    options |= {"job": network.inputs[-1]} if tilt else {}
    outputs = (
        VoteStatistics(name="vote_statistics", dtype="float32")(votes)
        | maps(networks.feature_maps(model), votes, **options)
        | attributes
    )
    return keras.Model(network.inputs, outputs, name="scorer_with_maps")


def build_serving_model(model: keras.Model, heads: keras.Model | None = None) -> keras.Model:
    """Build the network with all outputs that a scorer supports: `build_cam_model` if `is_pooled`, otherwise
    `build_score_model`.

    Args:
        model: A scorer.
        heads: The scorer's auxiliary heads. If None, the network takes no job and gives no attributes.
    """
    return build_cam_model(model, heads) if is_pooled(model) else build_score_model(model, heads)


def _attach_heads(
    model: keras.Model, heads: keras.Model | None
) -> tuple[keras.Model, keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """Return the scorer with its heads, the votes, and a dict of ``attributes`` that is empty without them."""
    if heads is None:
        return model, model.output, {}
    network = attach_heads(model, heads)
    return network, network.output["votes"], {name: network.output[name] for name in network.output if name != "votes"}
