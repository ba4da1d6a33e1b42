"""Published scorer as a model handler of Apache Beam's RunInference, without TensorFlow.

This module imports Apache Beam, which is optional. Modules that work without Beam import it inside a function.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from components.scorer import storage
from components.scorer.artifacts import litert_model
from components.scorer.artifacts.litert_model import LiteRTScorer
from components.scorer.batch.shards import PhotoError, ScoringShard, ShardResult
from components.scorer.faces import face_inputs
from components.scorer.faces.face_inputs import NamedInputs
from components.scorer.imaging import decoding
from components.scorer.redaction import redact


@dataclass(frozen=True)
class LockedScorer:
    """Scorer in a worker's memory, with a lock: the network runs one thread at a time.

    Attributes:
        scorer: Published version.
        lock: Lock to hold while the network runs.
    """

    scorer: LiteRTScorer
    lock: threading.Lock


class ScorerModelHandler(ModelHandler[ScoringShard, ShardResult, LockedScorer]):
    """RunInference model handler: loads a published version once per process and scores shards."""

    def __init__(self, uri: str):
        """Store the address of the version.

        Args:
            uri: Address of the version's folder.
        """
        super().__init__()
        self._uri = uri

    def load_model(self) -> LockedScorer:
        """Load the version on one thread. Beam uses the cores by processes, each with its own copy."""
        return LockedScorer(litert_model.load(self._uri), threading.Lock())

    def run_inference(
        self, batch: Sequence[ScoringShard], model: LockedScorer, inference_args: dict[str, Any] | None = None
    ) -> Iterator[ShardResult]:
        """Score each shard of the batch; see `score_shard`."""
        for shard in batch:
            yield score_shard(shard, model)


def pipeline_builder(uri: str, shards: Sequence[ScoringShard]) -> Callable[[beam.Pipeline], Any]:
    """Return a function that builds a pipeline to score shards, each written as soon as it is done.

    Args:
        uri: Address of the version's folder.
        shards: Shards to score.
    """

    def build(pipeline: beam.Pipeline) -> None:
        # Each shard is a batch and Beam does not batch: Dask's runner loses what a bundle emits at its end.
        batches = pipeline | beam.Create([[shard] for shard in shards]) | beam.Reshuffle()
        scored = batches | RunInference(ScorerModelHandler(uri).with_no_batching())
        _ = scored | "write" >> beam.FlatMap(_write)

    return build


def score_shard(shard: ScoringShard, loaded: LockedScorer) -> ShardResult:
    """Score the photos of a shard one by one, so that no score depends on the other photos.

    A photo that cannot be decoded or read is added to the problems; scoring continues.

    Raises:
        OSError: The storage failed in another way than by missing a photo.
    """
    names, score_rows, problems = [], [], []
    for photo, reading in storage.read_ahead(shard.photos):
        try:
            inputs = _build_inputs(reading, loaded.scorer)
        except decoding.UnusablePhotoError as error:
            problems.append(PhotoError(photo, str(error)))
            continue
        with loaded.lock:
            outputs = loaded.scorer.predict(face_inputs.stack_inputs([inputs]), [shard.job])
        names.append(photo)
        score_rows.append([outputs["mean"][0], outputs["std"][0], *outputs["distribution"][0]])
    return ShardResult(shard, names, score_rows, problems)


def _build_inputs(reading: "Future[bytes]", scorer: LiteRTScorer) -> NamedInputs:
    """Return the model inputs of a photo.

    Raises:
        decoding.UnusablePhotoError: The photo cannot be read or decoded.
    """
    try:
        data = reading.result()
    except storage.UNREADABLE_ERRORS as error:
        raise decoding.UnusablePhotoError(
            "unreadable", f"cannot be read: {error.strerror or type(error).__name__}"
        ) from error
    except OSError as error:
        raise storage.StorageError(redact(str(error))) from None
    return scorer.build_inputs(scorer.normalise(data))


def _write(scored: ShardResult) -> tuple[()]:
    scored.write()
    return ()
