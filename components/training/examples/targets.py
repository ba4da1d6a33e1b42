"""Map functions from a photo's pixels and data set record to a network's inputs and targets."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components.scorer.data.photos import ExampleFn
from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.jobs import UNKNOWN
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import PIXELS, ModelInputs


def inputs(pixels: tf.Tensor, record: dict[str, Any], model_inputs: ModelInputs) -> Any:
    """Return the scorer's inputs by name, or the pixels alone if the scorer has no face inputs."""
    if not model_inputs:
        return pixels
    inputs = {PIXELS: pixels}
    if model_inputs.view:
        inputs[FACE] = record["face_pixels"]
    if model_inputs.embedding_size:
        inputs |= {EMBEDDING: record["embedding"], FOUND: tf.cast(record["face"]["count"] > 0, tf.float32)}
    return inputs


def with_votes(model_inputs: ModelInputs) -> ExampleFn:
    """Return the map function to ``(inputs, votes)``, for validation."""
    return lambda pixels, record: (inputs(pixels, record, model_inputs), record["votes"])


def with_weights(
    model_inputs: ModelInputs, target_fn: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
) -> ExampleFn:
    """Return the map function to ``(inputs, votes, weight)``, for training by epochs.

    Args:
        model_inputs: The scorer's inputs.
        target_fn: Function from people's votes, the number of raters and whether the photo is degraded, to target votes
            and a sample weight.
    """

    def example(pixels: tf.Tensor, record: dict[str, Any]) -> tuple[Any, tf.Tensor, tf.Tensor]:
        votes, weight = target_fn(record["votes"], tf.cast(record["raters"], tf.float32), record["fault"])
        return inputs(pixels, record, model_inputs), votes, weight

    return example


def with_votes_and_raters(model_inputs: ModelInputs) -> ExampleFn:
    """Return the map function to ``(inputs, (votes, raters))``, for the ridge head."""
    return lambda pixels, record: (inputs(pixels, record, model_inputs), (record["votes"], record["raters"]))


def with_head_targets(model_inputs: ModelInputs, head_spec: HeadSpec) -> ExampleFn:
    """Return the map function to ``(inputs, (votes, job, attributes))``, for the auxiliary heads.

    See `job_id` and `attribute_values`.
    """
    return lambda pixels, record: (
        inputs(pixels, record, model_inputs),
        (record["votes"], job_id(head_spec, record), attribute_values(head_spec, record)),
    )


def job_id(head_spec: HeadSpec, record: dict[str, Any]) -> tf.Tensor:
    """Return the id of a record's job, int32; `UNKNOWN` if the scorer knows no jobs."""
    if not head_spec.jobs:
        return tf.constant(UNKNOWN)
    name = record["attributes"][head_spec.column]
    return tf.reduce_max(tf.where(name == tf.constant(head_spec.jobs), tf.range(1, len(head_spec.jobs) + 1), UNKNOWN))


def attribute_values(head_spec: HeadSpec, record: dict[str, Any]) -> tf.Tensor:
    """Return a record's attribute values, float32 ``[k]``: 1 yes, 0 no, -1 unknown."""
    if not head_spec.attributes:
        return tf.zeros(0)
    attributes = record["attributes"]
    return tf.stack(
        [
            tf.where(attributes[column] == "", -1.0, tf.cast(attributes[column] == yes, tf.float32))
            for column, yes in head_spec.attributes.items()
        ]
    )
