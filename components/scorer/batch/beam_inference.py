"""The published scorer as a model of Apache Beam's RunInference, without TensorFlow.

Imports Apache Beam: whoever may be without it imports this module late.
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
    """A scorer in a worker's memory, and whose turn it is: its network answers one thread at a time."""

    scorer: Portable
    turn: threading.Lock


class ScorerHandler(ModelHandler[Shard, Scored, Loaded]):
    """How RunInference loads a published version, once a process, and has it score shards of photos."""

    def __init__(self, uri: str):
        """Takes the address of the version's folder."""
        super().__init__()
        self._uri = uri

    def load_model(self) -> Loaded:
        """The version, on one thread: cores are used by processes, each with its own."""
        return Loaded(litert_model.load(self._uri), threading.Lock())

    def run_inference(
        self, batch: Sequence[Shard], model: Loaded, inference_args: dict[str, Any] | None = None
    ) -> Iterator[Scored]:
        """What the scorer says of each shard."""
        for shard in batch:
            yield score(shard, model)


def scoring(uri: str, shards: Sequence[Shard]) -> Callable[[beam.Pipeline], Any]:
    """What builds a pipeline that scores shards and writes each as soon as it is done.

    Args:
        uri: of the version's folder.
        shards: those that are missing.
    """

    def build(pipeline: beam.Pipeline) -> None:
        # A batch of its own each, and no batching by Beam: Dask's runner loses what a bundle gives at its end.
        batches = pipeline | beam.Create([[shard] for shard in shards]) | beam.Reshuffle()
        scored = batches | RunInference(ScorerHandler(uri).with_no_batching())
        _ = scored | "write" >> beam.FlatMap(_written)

    return build


def score(shard: Shard, loaded: Loaded) -> Scored:
    """Score the photos of a shard one by one, so that no score depends on what else is in it.

    A photo that cannot be scored for whatever reason of its own is listed with it and stops nothing.

    Raises:
        OSError: the storage failed, other than by not having a photo.
    """
    names, answers, problems = [], [], []
    for photo, reading in storage.read_ahead(shard.photos):
        try:
            given = _given(reading, loaded.scorer)
        except decoding.Unusable as error:
            problems.append(Problem(photo, str(error)))
            continue
        with loaded.turn:
            answer = loaded.scorer.answer(face_inputs.together([given]), [shard.job])
        names.append(photo)
        answers.append([answer["mean"][0], answer["std"][0], *answer["distribution"][0]])
    return Scored(shard, names, answers, problems)


def _given(reading: "Future[bytes]", scorer: Portable) -> Given:
    """What the network is given of a photo, or `decoding.Unusable`."""
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
