"""A training worker's shard of each batch."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Share:
    """A worker's part of each batch, so that all workers' parts together are the batch.

    Attributes:
        index: of the worker, from 0.
        workers: their number.
    """

    index: int
    workers: int

    def rows(self, batch_size: int) -> int:
        """Examples of each batch that are this worker's.

        Raises:
            ValueError: a batch cannot be parted evenly.
        """
        if batch_size % self.workers:
            raise ValueError(
                f"expected batch_size to be a multiple of the number of workers, {self.workers}, got {batch_size}"
            )
        return batch_size // self.workers

    def of(self, elements: tf.data.Dataset) -> tf.data.Dataset:
        """Its elements of a data set that is the same for every worker: every so manyth."""
        return elements.shard(self.workers, self.index)

    def level(self, batches: tf.data.Dataset, size: int, batch_size: int) -> tf.data.Dataset:
        """Its batches with weights, as many and as large as every other worker's.

        Args:
            batches: of `rows` examples ``(given, truth)`` or ``(given, truth, weight)``, made of `of`; the last may be
                smaller or missing.
            size: examples of all workers.
            batch_size: of all workers.

        Returns:
            ``(given, truth, weights)``: examples of zeros fill up the last batch, with a weight of 0; the weights
            float32 ``[rows]`` of the others are such that their sum over all workers is ``batch_size``, times their
            own.
        """
        rows, steps = self.rows(batch_size), -(-size // batch_size)

        def fill(step: tf.Tensor, example: Any) -> Any:
            there = tf.shape(tf.nest.flatten(example)[0])[0]
            whole = tf.minimum(tf.cast(batch_size, tf.int64), size - step * batch_size)
            weight = tf.cast(batch_size, tf.float32) / tf.cast(whole, tf.float32)
            weights = tf.where(tf.range(rows) < there, weight, 0.0)

            def filled(part: tf.Tensor) -> tf.Tensor:
                added = tf.pad(part, [[0, rows - there], *[[0, 0]] * (part.shape.rank - 1)])
                return tf.ensure_shape(added, [rows, *part.shape[1:]])

            given, truth, *own = tf.nest.map_structure(filled, example)
            return given, truth, weights * own[0] if own else weights

        none = tf.nest.map_structure(lambda spec: tf.zeros([0, *spec.shape[1:]], spec.dtype), batches.element_spec)
        endless = batches.concatenate(tf.data.Dataset.from_tensors(none).repeat())
        return endless.take(steps).enumerate().map(fill)
