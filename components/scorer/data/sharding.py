"""Sharding of training batches across workers."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class WorkerShard:
    """Shard of each batch for one worker. The shards of all workers together are the batch.

    Attributes:
        index: Index of the worker, from 0.
        workers: Number of workers.
    """

    index: int
    workers: int

    def local_batch_size(self, batch_size: int) -> int:
        """Return the number of examples of each batch for this worker.

        Raises:
            ValueError: ``batch_size`` is not divisible by the number of workers.
        """
        if batch_size % self.workers:
            raise ValueError(
                f"expected batch_size to be a multiple of the number of workers, {self.workers}, got {batch_size}"
            )
        return batch_size // self.workers

    def take_shard(self, elements: tf.data.Dataset) -> tf.data.Dataset:
        """Return every ``workers``-th element, starting at ``index``, of a data set equal on all workers."""
        return elements.shard(self.workers, self.index)

    def pad_to_equal_batches(self, batches: tf.data.Dataset, size: int, batch_size: int) -> tf.data.Dataset:
        """Pad and weight this worker's batches, so that all workers have equally many batches of equal size.

        Args:
            batches: Batches of up to `rows` examples ``(inputs, targets)`` or ``(inputs, targets, weights)``, made from
                `of`. The last batch may be smaller or missing.
            size: Number of examples of all workers.
            batch_size: Batch size of all workers together.

        Returns:
            ``(inputs, targets, weights)``, weights float32 ``[rows]``. Padding examples are zeros with weight 0. The
            weights of the real examples of a batch sum to ``batch_size`` over all workers, before multiplication by the
            examples' own weights.
        """
        rows, steps = self.local_batch_size(batch_size), -(-size // batch_size)

        def pad_and_weight(step: tf.Tensor, example: Any) -> Any:
            n_examples = tf.shape(tf.nest.flatten(example)[0])[0]
            global_examples = tf.minimum(tf.cast(batch_size, tf.int64), size - step * batch_size)
            weight = tf.cast(batch_size, tf.float32) / tf.cast(global_examples, tf.float32)
            weights = tf.where(tf.range(rows) < n_examples, weight, 0.0)

            def pad(part: tf.Tensor) -> tf.Tensor:
                padded = tf.pad(part, [[0, rows - n_examples], *[[0, 0]] * (part.shape.rank - 1)])
                return tf.ensure_shape(padded, [rows, *part.shape[1:]])

            inputs, targets, *own_weights = tf.nest.map_structure(pad, example)
            return inputs, targets, weights * own_weights[0] if own_weights else weights

        empty_batch = tf.nest.map_structure(
            lambda spec: tf.zeros([0, *spec.shape[1:]], spec.dtype), batches.element_spec
        )
        with_padding = batches.concatenate(tf.data.Dataset.from_tensors(empty_batch).repeat())
        return with_padding.take(steps).enumerate().map(pad_and_weight)
