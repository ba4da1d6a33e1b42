"""What a published scorer answers, as one Keras network: scores and, where it ends in pooling, maps of where from.

Its outputs are the same wherever it is exported to. Flat like the scorer, whose layers and weights it shares, and whose
inputs it takes (see ``inputs``). With heads (see ``auxiliary_heads``) it takes the job as well, int32 ``[n]``, as its
last input, and gives ``attributes`` ``[n, k]`` where there are any.
"""

from typing import Any

import keras
from keras import ops

from components.scorer.model import network as networks
from components.scorer.model.auxiliary_heads import Tilt, join
from components.scorer.model.layers import Quadratic
from components.scorer.settings import SCORES


@keras.saving.register_keras_serializable("portrait_scorer")
class Told(keras.layers.Layer):
    """Votes ``[n, 10]`` as ``mean`` and ``std`` ``[n]`` and ``distribution`` ``[n, 10]``, float32."""

    def call(self, votes: Any) -> dict[str, Any]:
        """Mean and standard deviation of each row of votes."""
        scores = ops.convert_to_tensor(SCORES, "float32")
        votes = ops.cast(votes, "float32")
        mean = ops.sum(votes * scores, axis=-1)
        variance = ops.sum(votes * ops.square(scores - mean[:, None]), axis=-1)
        return {"mean": mean, "std": ops.sqrt(variance), "distribution": votes}


@keras.saving.register_keras_serializable("portrait_scorer")
class Maps(keras.layers.Layer):
    """Grad-CAM without gradients, for a network that ends in pooling and a dense layer; see `closed_form`."""

    def __init__(
        self, votes: keras.layers.Dense, pairing: Quadratic | None = None, tilt: Tilt | None = None, **kwargs: Any
    ):
        """Takes the scorer's last layer, whose kernel it reads and owns no copy of, what it reads, and the job's layer.

        What is read of a photo, by the pairing or else by the last layer, begins with the means of the maps.
        """
        super().__init__(**kwargs)
        self._votes, self._pairing, self._tilt = votes, pairing, tilt

    def call(self, features: Any, votes: Any, read: Any = None, job: Any = None) -> dict[str, Any]:
        """Maps.

        Args:
            features: ``[n, h, w, c]``.
            votes: ``[n, 10]``.
            read: by the pairing, ``[n, k]``.
            job: int ``[n]``; None: unknown.
        """
        features, votes = (ops.cast(each, "float32") for each in (features, votes))
        height, width, channels = features.shape[1:]
        places = height * width
        scores = ops.convert_to_tensor(SCORES, "float32")
        flat = ops.reshape(features, (-1, places, channels))
        parts = ops.matmul(flat, self._kernel(channels, read, job)) / places
        parts = ops.reshape(parts, (-1, height, width, len(SCORES)))
        total = ops.sum(parts, axis=(1, 2), keepdims=True)
        # The pooling's mean moves away from what is left out; of a single place nothing would be left.
        without = ops.log(votes)[:, None, None] + (total - places * parts) / max(places - 1, 1)
        mean = ops.sum(votes * scores, axis=-1)
        heat = ops.relu(parts)
        return {
            "class_heatmaps": heat,
            "heatmap": ops.sum(heat * votes[:, None, None], axis=-1),
            "gains": mean[:, None, None] - ops.sum(ops.softmax(without, axis=-1) * scores, axis=-1),
        }

    def _kernel(self, channels: int, read: Any, job: Any) -> Any:
        """How the logits rise with the first features: ``[c, 10]``, or one a photo, ``[n, c, 10]``."""
        kernel = ops.cast(self._votes.kernel, "float32")
        if self._tilt is not None and job is not None:
            kernel = kernel + self._tilt.kernel(job)
        if self._pairing is not None:
            return self._pairing.slopes(read, kernel, channels)
        return kernel[..., :channels, :]  # the rest speaks of the face


def is_pooled(model: keras.Model) -> bool:
    """Whether a network ends in global average pooling and one dense softmax, as ``network.build_scorer``'s do."""
    votes = model.layers[-1]
    dense = isinstance(votes, keras.layers.Dense) and votes.activation is keras.activations.softmax
    return dense and networks.maps(model) is not None


def scores(model: keras.Model, heads: keras.Model | None = None) -> keras.Model:
    """The network that gives ``mean``, ``std`` and ``distribution`` (see `Told`) for what a scorer takes."""
    whole, votes, attributes = _joined(model, heads)
    return keras.Model(whole.inputs, Told(name="told", dtype="float32")(votes) | attributes, name="scores")


def closed_form(model: keras.Model, heads: keras.Model | None = None) -> keras.Model:
    """Grad-CAM without gradients, for a network that ends in pooling and a dense layer, at next to no cost.

    With K the dense layer's kernel, the gradient of class c's logit by feature k is ``K[k, c] / (h · w)`` at each
    place. So the sum of a class's map, before what is negative goes, is its logit without the bias: the map tells
    where that comes from. In the same way the score without a place follows, which is told as what the place gains.
    Zhou et al., "Learning Deep Features for Discriminative Localization", 2016, https://arxiv.org/abs/1512.04150.
    A job that is told adds its slopes to the kernel (``auxiliary_heads.Tilt``). Of a scorer that sees the face as well,
    the maps tell where in the whole photo the score comes from, with what the face's own view and embedding say held.
    Where pairs of features are weighed (``layers``), the kernel is the gradient at this photo: the sum of a class's map
    is then what it says of the logit to first order, and so are the gains.

    Args:
        model: see `is_pooled`.
        heads: of the scorer; None: it is told no job and gives no attributes.

    Returns:
        A network of what the scorer takes, and with heads of jobs, that shares the layers of both. It gives, as
        float32:

        * ``mean``, ``std`` ``[n]``, ``distribution`` ``[n, 10]``: the votes.
        * ``class_heatmaps`` ``[n, h, w, 10]``: see ``attribution.heatmaps``.
        * ``heatmap`` ``[n, h, w]``: see ``attribution.weighted``.
        * ``gains`` ``[n, h, w]``: score points by which the mean score is higher than it would be if the pooling
          left this place out, negative where the place lowers it.
        * ``attributes`` ``[n, k]`` where the heads give any.

    Raises:
        ValueError: the network does not end so.
    """
    if not is_pooled(model):
        raise ValueError(f"expected a network that ends in global average pooling and a dense softmax: {model.name}")
    whole, votes, attributes = _joined(model, heads)
    tilt = next((layer for layer in whole.layers if isinstance(layer, Tilt)), None)
    pairing = networks.pairing(model)
    maps = Maps(model.layers[-1], pairing, tilt, name="maps", dtype="float32")
    given = {"read": pairing.input} if pairing else {}
    given |= {"job": whole.inputs[-1]} if tilt else {}
    outputs = Told(name="told", dtype="float32")(votes) | maps(networks.maps(model), votes, **given) | attributes
    return keras.Model(whole.inputs, outputs, name="closed_form")


def fullest(model: keras.Model, heads: keras.Model | None = None) -> keras.Model:
    """`closed_form` where the network has maps in closed form, otherwise `scores`."""
    return closed_form(model, heads) if is_pooled(model) else scores(model, heads)


def _joined(
    model: keras.Model, heads: keras.Model | None
) -> tuple[keras.Model, keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """The scorer with its heads, its votes, and its attributes by the name of this output."""
    if heads is None:
        return model, model.output, {}
    whole = join(model, heads)
    return whole, whole.output["votes"], {name: whole.output[name] for name in whole.output if name != "votes"}
