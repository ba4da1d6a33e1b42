"""Training by several workers, each of which has the whole network and reads its part of each batch.

``tf.distribute.MultiWorkerMirroredStrategy`` keeps the network's weights alike: they are broadcast when they are made,
and each step adds up the workers' gradients. Keras 3's ``fit`` fails under it (3.15 reduces the first batch to build
the model by, and TensorFlow refuses what a single worker holds of it: "unsupported type PerReplica"), so
`Workers.epochs` drives the steps itself; layers, loss and optimiser are Keras's. With dropout each worker draws the
same places of its part of a batch, so that several workers compute what one does only without.

A worker knows the others by the environment variable ``TF_CONFIG``
(https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver), or by what a JobSet
of Kubernetes gives its pods: ``JOB_COMPLETION_INDEX``, with ``WORKERS``, their number, and ``WORKER_ADDRESS``, host and
port with ``{}`` in place of the index. The first worker is the chief: it alone writes checkpoints and results. When a
worker dies the others fail soon after; started anew, all go on from the chief's last checkpoint.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from components.scorer.data.sharding import Share
from components.scorer.fit.ema import averaged

TF_CONFIG = "TF_CONFIG"
Run = Callable[[tf.data.Dataset, tf.data.Dataset | None, keras.callbacks.Callback], dict[str, float]]
"""Trains one epoch on batches, judges on others, and gives Keras's curves: ``loss``, ``val_loss``, …"""


@dataclass(frozen=True)
class Workers:
    """This worker among the others.

    Attributes:
        share: which one it is, and its part of the data.
        strategy: in whose scope networks are made or loaded, by every worker in the same order.
    """

    share: Share
    strategy: tf.distribute.Strategy = field(repr=False)

    @property
    def chief(self) -> bool:
        """Whether this is the one that writes."""
        return self.share.index == 0

    def agree(self, number: int, what: str) -> None:
        """Wait for the others, and refuse to go on where they have another number.

        Raises:
            RuntimeError: they have; says what it is the number of.
        """
        total, squares = (int(each) for each in self._added(tf.constant([number, number**2], tf.int64)))
        if total != number * self.share.workers or squares != number**2 * self.share.workers:
            raise RuntimeError(
                f"the workers differ in {what}: worker {self.share.index} has {number}, all together {total}. Do all "
                "of them read the same addresses, and were they all started anew?"
            )

    @cached_property
    def _added(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """What every worker gives, added up."""
        return tf.function(lambda mine: self.strategy.reduce("SUM", self.strategy.run(lambda: mine), axis=None))

    def epochs(self, model: keras.Model) -> Run:
        """What trains a compiled model, made in the strategy's scope, epoch by epoch.

        The curves are means over the examples of all workers, as Keras's of one process are over its own.
        """
        steps = {training: self._step(model, training) for training in (True, False)}

        def walk(batches: tf.data.Dataset, training: bool, told: keras.callbacks.Callback | None = None) -> float:
            total = examples = 0.0
            for number, (given, truth, weights) in enumerate(batches):
                loss, there = (float(each) for each in steps[training](given, truth, weights))
                total, examples = total + there * loss, examples + there
                if told:
                    told.on_train_batch_end(number, {"loss": loss})
            return total / examples

        def run(
            data: tf.data.Dataset, validation: tf.data.Dataset | None, told: keras.callbacks.Callback
        ) -> dict[str, float]:
            told.on_epoch_begin(0)
            found = {"loss": walk(data, True, told)}
            if validation is not None:
                with averaged(model):
                    found["val_loss"] = walk(validation, False)
            told.on_epoch_end(0)
            return found

        return run

    def _step(self, model: keras.Model, training: bool) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """One step of all workers; gives the batch's loss and its number of examples."""

        def one(given: Any, truth: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                answers = model(given, training=training)
                # Of these examples a mean, which Keras divides by the number of workers: their sum is the batch's.
                loss = model.compute_loss(given, truth, answers, weights, training)
                scaled = model.optimizer.scale_loss(loss) if training else None
            if training:
                gradients = tape.gradient(scaled, model.trainable_weights)
                model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
            return loss, tf.math.count_nonzero(weights, dtype=tf.float32)

        @tf.function(reduce_retracing=True)
        def step(given: Any, truth: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            found = self.strategy.run(one, args=(given, truth, weights))
            return tuple(self.strategy.reduce("SUM", each, axis=None) for each in found)

        return step


def join() -> Workers:
    """Join the other workers; to be called before TensorFlow is used for anything else.

    Raises:
        ValueError: the environment does not tell who they are, or tells of one alone.
        RuntimeError: this worker has several GPUs, or TensorFlow was used before.
    """
    share = _configured()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    here = strategy.num_replicas_in_sync // share.workers
    if here > 1:
        raise RuntimeError(f"expected one GPU a worker, this one has {here}: start a worker for each")
    print(f"worker {share.index} of {share.workers}{', the chief' if share.index == 0 else ''}", flush=True)
    return Workers(share, strategy)


def _configured() -> Share:
    """Who this worker is; sets ``TF_CONFIG`` where a JobSet tells it otherwise."""
    told = os.environ.get(TF_CONFIG) or _of_jobset(os.environ)
    if not told:
        raise ValueError(
            f"devices is 'workers', and nothing tells this process of them: set {TF_CONFIG}, or WORKERS, "
            "WORKER_ADDRESS and JOB_COMPLETION_INDEX as images/manifests/training does; on one machine set devices to "
            "one or all"
        )
    try:
        config = json.loads(told)
        addresses, kind, index = config["cluster"]["worker"], config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected {TF_CONFIG} with a cluster of workers and this task, got {told!r}: {error}"
        ) from None
    if kind != "worker" or set(config["cluster"]) != {"worker"}:
        raise ValueError(
            f"expected {TF_CONFIG} to tell of workers only, of which the first is the chief, got the task {kind!r} "
            f"among {sorted(config['cluster'])}"
        )
    if len(addresses) < 2 or not 0 <= index < len(addresses):
        raise ValueError(f"expected two or more workers and an index among them, got {len(addresses)} and {index}")
    os.environ[TF_CONFIG] = told
    return Share(index, len(addresses))


def _of_jobset(environment: Mapping[str, str]) -> str:
    """``TF_CONFIG`` by what the pods of a JobSet are told; "" where that is missing."""
    names = ("WORKERS", "WORKER_ADDRESS", "JOB_COMPLETION_INDEX")
    if not all(environment.get(name) for name in names):
        return ""
    workers, address, index = (environment[name] for name in names)
    if not workers.isdigit() or not index.isdigit() or "{}" not in address:
        raise ValueError(
            f"expected WORKERS and JOB_COMPLETION_INDEX to be numbers and WORKER_ADDRESS to have {{}} in place of the "
            f"index, got {workers!r}, {index!r} and {address!r}"
        )
    addresses = [address.replace("{}", str(each)) for each in range(int(workers))]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": int(index)}})
