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
from components.scorer.artifacts.litert_model import Portable
from components.scorer.batch.shards import Problem, Scored, Shard
from components.scorer.faces import face_inputs
from components.scorer.faces.face_inputs import Given
from components.scorer.imaging import decoding
from components.scorer.redaction import redacted


@dataclass(frozen=True)
class Loaded:
    """Scorer in a worker's memory, with a lock: the network runs one thread at a time.

    Attributes:
        scorer: Published version.
        turn: Lock to hold while the network runs.
    """

    scorer: Portable
    turn: threading.Lock


class ScorerHandler(ModelHandler[Shard, Scored, Loaded]):
    """RunInference model handler: loads a published version once per process and scores shards."""

    def __init__(self, uri: str):
        """Store the address of the version.

        Args:
            uri: Address of the version's folder.
        """
        super().__init__()
        self._uri = uri

    def load_model(self) -> Loaded:
        """Load the version on one thread. Beam uses the cores by processes, each with its own copy."""
        return Loaded(litert_model.load(self._uri), threading.Lock())

    def run_inference(
        self, batch: Sequence[Shard], model: Loaded, inference_args: dict[str, Any] | None = None
    ) -> Iterator[Scored]:
        """Score each shard of the batch; see `score`."""
        for shard in batch:
            yield score(shard, model)


def scoring(uri: str, shards: Sequence[Shard]) -> Callable[[beam.Pipeline], Any]:
    """Return a function that builds a pipeline to score shards, each written as soon as it is done.

    Args:
        uri: Address of the version's folder.
        shards: Shards to score.
    """

    def build(pipeline: beam.Pipeline) -> None:
        # Each shard is a batch and Beam does not batch: Dask's runner loses what a bundle emits at its end.
        batches = pipeline | beam.Create([[shard] for shard in shards]) | beam.Reshuffle()
        scored = batches | RunInference(ScorerHandler(uri).with_no_batching())
        _ = scored | "write" >> beam.FlatMap(_written)

    return build


def score(shard: Shard, loaded: Loaded) -> Scored:
    """Score the photos of a shard one by one, so that no score depends on the other photos.

    A photo that cannot be decoded or read is added to the problems; scoring continues.

    Raises:
        OSError: The storage failed in another way than by missing a photo.
    """
    names, score_rows, problems = [], [], []
    for photo, reading in storage.read_ahead(shard.photos):
        try:
            inputs = _given(reading, loaded.scorer)
        except decoding.Unusable as error:
            problems.append(Problem(photo, str(error)))
            continue
        with loaded.turn:
            outputs = loaded.scorer.answer(face_inputs.together([inputs]), [shard.job])
        names.append(photo)
        score_rows.append([outputs["mean"][0], outputs["std"][0], *outputs["distribution"][0]])
    return Scored(shard, names, score_rows, problems)


def _given(reading: "Future[bytes]", scorer: Portable) -> Given:
    """Return the model inputs of a photo.

    Raises:
        decoding.Unusable: The photo cannot be read or decoded.
    """
    try:
        data = reading.result()
    except storage.MISSING as error:
        raise decoding.Unusable("unreadable", f"cannot be read: {error.strerror or type(error).__name__}") from error
    except OSError as error:
        raise storage.StorageError(redacted(str(error))) from None
    return scorer.given(scorer.normalise(data))


def _written(scored: Scored) -> tuple[()]:
    scored.write()
    return ()
