"""Map functions from a photo's pixels and data set record to a network's inputs and targets."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components.scorer.data.photos import Example
from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.jobs import UNKNOWN
from components.scorer.model.auxiliary_heads import Heads
from components.scorer.model.inputs import PIXELS, Sight


def given(pixels: tf.Tensor, record: dict[str, Any], sight: Sight) -> Any:
    """Return the scorer's inputs by name, or the pixels alone if the scorer has no face inputs."""
    if not sight:
        return pixels
    inputs = {PIXELS: pixels}
    if sight.view:
        inputs[FACE] = record["face_pixels"]
    if sight.embedding:
        inputs |= {EMBEDDING: record["embedding"], FOUND: tf.cast(record["face"]["count"] > 0, tf.float32)}
    return inputs


def scored(sight: Sight) -> Example:
    """Return the map function to ``(inputs, votes)``, for validation."""
    return lambda pixels, record: (given(pixels, record, sight), record["votes"])


def taught(sight: Sight, learnt: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]) -> Example:
    """Return the map function to ``(inputs, votes, weight)``, for training by epochs.

    Args:
        sight: The scorer's inputs.
        learnt: Function from people's votes, the number of raters and whether the photo is degraded, to target votes
            and a sample weight.
    """

    def example(pixels: tf.Tensor, record: dict[str, Any]) -> tuple[Any, tf.Tensor, tf.Tensor]:
        votes, weight = learnt(record["votes"], tf.cast(record["raters"], tf.float32), record["fault"])
        return given(pixels, record, sight), votes, weight

    return example


def rated(sight: Sight) -> Example:
    """Return the map function to ``(inputs, (votes, raters))``, for the ridge head."""
    return lambda pixels, record: (given(pixels, record, sight), (record["votes"], record["raters"]))


def headed(sight: Sight, told: Heads) -> Example:
    """Return the map function to ``(inputs, (votes, job, attributes))``, for the auxiliary heads.

    See `job` and `values`.
    """
    return lambda pixels, record: (
        given(pixels, record, sight),
        (record["votes"], job(told, record), values(told, record)),
    )


def job(told: Heads, record: dict[str, Any]) -> tf.Tensor:
    """Return the id of a record's job, int32; `UNKNOWN` if the scorer knows no jobs."""
    if not told.jobs:
        return tf.constant(UNKNOWN)
    name = record["attributes"][told.column]
    return tf.reduce_max(tf.where(name == tf.constant(told.jobs), tf.range(1, len(told.jobs) + 1), UNKNOWN))


def values(told: Heads, record: dict[str, Any]) -> tf.Tensor:
    """Return a record's attribute values, float32 ``[k]``: 1 yes, 0 no, -1 unknown."""
    if not told.attributes:
        return tf.zeros(0)
    attributes = record["attributes"]
    return tf.stack(
        [
            tf.where(attributes[column] == "", -1.0, tf.cast(attributes[column] == yes, tf.float32))
            for column, yes in told.attributes.items()
        ]
    )
