"""What a network is given and has to answer, of a photo's pixels and its record in the data set."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components.scorer.data.photos import Example
from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.jobs import UNKNOWN
from components.scorer.model.auxiliary_heads import Heads
from components.scorer.model.inputs import PIXELS, Sight


def given(pixels: tf.Tensor, record: dict[str, Any], sight: Sight) -> Any:
    """What a scorer takes, by its inputs' names; the pixels alone where it sees nothing else."""
    if not sight:
        return pixels
    seen = {PIXELS: pixels}
    if sight.view:
        seen[FACE] = record["face_pixels"]
    if sight.embedding:
        seen |= {EMBEDDING: record["embedding"], FOUND: tf.cast(record["face"]["count"] > 0, tf.float32)}
    return seen


def scored(sight: Sight) -> Example:
    """Of validation: what a scorer takes, and people's votes."""
    return lambda pixels, record: (given(pixels, record, sight), record["votes"])


def taught(sight: Sight, learnt: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]) -> Example:
    """Of training by epochs: what a scorer takes, the votes that it learns, and what they count.

    Args:
        sight: what the scorer sees.
        learnt: of people's votes, their number, and whether the photo has a camera's fault.
    """

    def example(pixels: tf.Tensor, record: dict[str, Any]) -> tuple[Any, tf.Tensor, tf.Tensor]:
        votes, weight = learnt(record["votes"], tf.cast(record["raters"], tf.float32), record["fault"])
        return given(pixels, record, sight), votes, weight

    return example


def rated(sight: Sight) -> Example:
    """Of the head in closed form: what a scorer takes, and ``(votes, raters)``."""
    return lambda pixels, record: (given(pixels, record, sight), (record["votes"], record["raters"]))


def headed(sight: Sight, told: Heads) -> Example:
    """Of the heads: what a scorer takes, and ``(votes, job, attributes)``, see `job` and `values`."""
    return lambda pixels, record: (
        given(pixels, record, sight),
        (record["votes"], job(told, record), values(told, record)),
    )


def job(told: Heads, record: dict[str, Any]) -> tf.Tensor:
    """The number of a record's job, int32; without known jobs the unknown one's."""
    if not told.jobs:
        return tf.constant(UNKNOWN)
    name = record["attributes"][told.column]
    return tf.reduce_max(tf.where(name == tf.constant(told.jobs), tf.range(1, len(told.jobs) + 1), UNKNOWN))


def values(told: Heads, record: dict[str, Any]) -> tf.Tensor:
    """A record's attributes, float32 ``[k]``: 1 yes, 0 no, -1 unknown."""
    if not told.attributes:
        return tf.zeros(0)
    known = record["attributes"]
    return tf.stack(
        [
            tf.where(known[column] == "", -1.0, tf.cast(known[column] == yes, tf.float32))
            for column, yes in told.attributes.items()
        ]
    )
