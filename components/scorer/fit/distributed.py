"""Distributed training: several workers, each with the whole network and a shard of each batch.

``tf.distribute.MultiWorkerMirroredStrategy`` keeps the weights of all workers equal: it broadcasts them when they are
created, and sums the workers' gradients at each step. Keras 3's ``fit`` fails under it. Keras 3.15 reduces the first
batch to build the model, and TensorFlow refuses that for a single worker's values: "unsupported type PerReplica". So
`WorkerGroup.make_epoch_fn` drives the steps itself; layers, loss and optimizer are Keras's. With dropout each worker
draws the same mask for its shard, so several workers compute the same as one worker only without dropout.

A worker learns of the others from the environment variable ``TF_CONFIG``
(https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver), or from variables
that a Kubernetes JobSet sets: ``JOB_COMPLETION_INDEX``; ``WORKERS``, the number of workers; and
``WORKER_ADDRESS``, host and port with ``{}`` in place of the index. The first worker is the chief: only the chief
writes checkpoints and results. When a worker dies the others fail soon after. After a restart all continue from the
chief's last checkpoint.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from components.scorer.data.sharding import WorkerShard
from components.scorer.fit.ema import ema_weights

TF_CONFIG = "TF_CONFIG"
EpochFn = Callable[[tf.data.Dataset, tf.data.Dataset | None, keras.callbacks.Callback], dict[str, float]]
"""Function that trains one epoch, evaluates the validation batches, and returns ``loss``, ``val_loss``, …

Its arguments are the training batches, the validation batches or None, and a progress callback.
"""


@dataclass(frozen=True)
class WorkerGroup:
    """Group of training workers, as one of them sees it.

    Attributes:
        shard: This worker's index and its shard of the data.
        strategy: Strategy in whose scope models are built or loaded, by every worker in the same order.
    """

    shard: WorkerShard
    strategy: tf.distribute.Strategy = field(repr=False)

    @property
    def chief(self) -> bool:
        """True if this worker is the chief, which writes the results."""
        return self.shard.index == 0

    def assert_equal_across_workers(self, number: int, label: str) -> None:
        """Wait for all workers, and raise RuntimeError unless all have the same number.

        Args:
            number: This worker's number.
            label: Name of the number, for the message.

        Raises:
            RuntimeError: The workers have different numbers.
        """
        total, squares = (int(value) for value in self._sum_fn(tf.constant([number, number**2], tf.int64)))
        if total != number * self.shard.workers or squares != number**2 * self.shard.workers:
            raise RuntimeError(
                f"the workers differ in {label}: worker {self.shard.index} has {number}, all together {total}. Do all "
                "of them read the same addresses, and were they all started anew?"
            )

    @cached_property
    def _sum_fn(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Function that sums a tensor over all workers."""
        return tf.function(lambda value: self.strategy.reduce("SUM", self.strategy.run(lambda: value), axis=None))

    def make_epoch_fn(self, model: keras.Model) -> EpochFn:
        """Return a function that trains a compiled model for one epoch.

        The losses are means over the examples of all workers, as Keras's are over the examples of its one process.

        Args:
            model: Compiled model, built in the strategy's scope.
        """
        steps = {training: self._make_step_fn(model, training) for training in (True, False)}

        def run_epoch(
            batches: tf.data.Dataset, training: bool, progress: keras.callbacks.Callback | None = None
        ) -> float:
            total = examples = 0.0
            for step, (inputs, targets, weights) in enumerate(batches):
                loss, count = (float(value) for value in steps[training](inputs, targets, weights))
                total, examples = total + count * loss, examples + count
                if progress:
                    progress.on_train_batch_end(step, {"loss": loss})
            return total / examples

        def epoch_fn(
            data: tf.data.Dataset, validation: tf.data.Dataset | None, progress: keras.callbacks.Callback
        ) -> dict[str, float]:
            progress.on_epoch_begin(0)
            losses = {"loss": run_epoch(data, True, progress)}
            if validation is not None:
                with ema_weights(model):
                    losses["val_loss"] = run_epoch(validation, False)
            progress.on_epoch_end(0)
            return losses

        return epoch_fn

    def _make_step_fn(self, model: keras.Model, training: bool) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """Return a function that runs one step on all workers, and returns the batch's loss and number of examples."""

        def replica_step(inputs: Any, targets: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                predictions = model(inputs, training=training)
                # Keras divides this worker's mean by the number of workers, so their sum is the batch's mean.
                loss = model.compute_loss(inputs, targets, predictions, weights, training)
                scaled = model.optimizer.scale_loss(loss) if training else None
            if training:
                gradients = tape.gradient(scaled, model.trainable_weights)
                model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
            return loss, tf.math.count_nonzero(weights, dtype=tf.float32)

        @tf.function(reduce_retracing=True)
        def step(inputs: Any, targets: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            results = self.strategy.run(replica_step, args=(inputs, targets, weights))
            return tuple(self.strategy.reduce("SUM", result, axis=None) for result in results)

        return step


def join_worker_group() -> WorkerGroup:
    """Join the worker group; call it before TensorFlow is used for anything else.

    Raises:
        ValueError: The environment does not describe the workers, or describes only one.
        RuntimeError: This worker has several GPUs, or TensorFlow was used before.
    """
    share = _shard_from_environment()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync // share.workers
    if replicas > 1:
        raise RuntimeError(f"expected one GPU a worker, this one has {replicas}: start a worker for each")
    print(f"worker {share.index} of {share.workers}{', the chief' if share.index == 0 else ''}", flush=True)
    return WorkerGroup(share, strategy)


def _shard_from_environment() -> WorkerShard:
    """Return this worker's shard from the environment; sets ``TF_CONFIG`` if a JobSet describes the workers."""
    config_json = os.environ.get(TF_CONFIG) or _tf_config_of_jobset(os.environ)
    if not config_json:
        raise ValueError(
            f"devices is 'workers', and nothing tells this process of them: set {TF_CONFIG}, or WORKERS, "
            "WORKER_ADDRESS and JOB_COMPLETION_INDEX as images/manifests/training does; on one machine set devices to "
            "one or all"
        )
    try:
        config = json.loads(config_json)
        addresses, task, index = config["cluster"]["worker"], config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected {TF_CONFIG} with a cluster of workers and this task, got {config_json!r}: {error}"
        ) from None
    if task != "worker" or set(config["cluster"]) != {"worker"}:
        raise ValueError(
            f"expected {TF_CONFIG} to tell of workers only, of which the first is the chief, got the task {task!r} "
            f"among {sorted(config['cluster'])}"
        )
    if len(addresses) < 2 or not 0 <= index < len(addresses):
        raise ValueError(f"expected two or more workers and an index among them, got {len(addresses)} and {index}")
    os.environ[TF_CONFIG] = config_json
    return WorkerShard(index, len(addresses))


def _tf_config_of_jobset(environment: Mapping[str, str]) -> str:
    """Return the ``TF_CONFIG`` that a JobSet's variables describe; "" if one of them is missing."""
    names = ("WORKERS", "WORKER_ADDRESS", "JOB_COMPLETION_INDEX")
    if not all(environment.get(name) for name in names):
        return ""
    workers, address, index = (environment[name] for name in names)
    if not workers.isdigit() or not index.isdigit() or "{}" not in address:
        raise ValueError(
            f"expected WORKERS and JOB_COMPLETION_INDEX to be numbers and WORKER_ADDRESS to have {{}} in place of the "
            f"index, got {workers!r}, {index!r} and {address!r}"
        )
    addresses = [address.replace("{}", str(worker)) for worker in range(int(workers))]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": int(index)}})
