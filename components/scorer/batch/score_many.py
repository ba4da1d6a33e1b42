"""Score and order any number of photos: on all cores or any Beam runner, and from where an earlier try was cut off.

<address>/shards/       see ``shards``
<address>/problems.csv  photo,reason of every photo that could not be scored; only where there are any
<address>/order.csv     place,rank,photo,mean,std of every other one, the best first
<address>/scores.json   model, job, form and numbers; written last: while it is missing, the scoring is not complete
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from components.scorer import storage
from components.scorer.artifacts import litert_model
from components.scorer.batch import shards
from components.scorer.batch.shards import Problem, Shard
from components.scorer.jobs import expect_told
from components.scorer.progress import track
from components.scorer.registry import channels
from components.scorer.run import beam

COLUMNS = ("place", "rank", "photo", "mean", "std")
LOCAL = "--runner=DaskRunner"
"""The runner where none is named: processes of this machine, which are started anew when they die."""

_LOOK = 5.0  # seconds between looks at which shards are done


@dataclass(frozen=True)
class Outcome:
    """What came of a scoring.

    Attributes:
        scored: number of photos that were scored.
        problems: the others.
        made: number of shards that this call made; an earlier one had made the rest.
    """

    scored: int
    problems: list[Problem]
    made: int


def rank(
    model: str, photos: str, address: str, *, job: str = "", form: shards.Form = "csv", beam_options: str = ""
) -> Outcome:
    """Score every photo below an address, into shards, and put them in order.

    Shards of an earlier try with the same photos and scorer are kept; those of others go at the end.

    Args:
        model: address of a published version, or of a folder whose champion is meant.
        photos: folder, ``gs://`` or ``s3://`` address; files that are no photos are passed over.
        address: folder, ``gs://`` or ``s3://`` address that receives what is described above.
        job: that the people on the photos offer to do; "" where it is not known.
        form: of the shards.
        beam_options: of the runner, as `beam` takes them; empty: processes of this machine. Workers on other
            machines have to reach all three addresses.

    Raises:
        ValueError: there is no photo at the address, the model does not know the job, or an option does not do.
        FileNotFoundError: there is no published model.
        RuntimeError: the runner cannot be used, or its workers died; the shards that are done are kept.
    """
    photos, address, version = _absolute(photos), _absolute(address), _absolute(channels.resolve(model))
    scorer = litert_model.load(version)
    expect_told(job, scorer.jobs, version)
    files = shards.listed(photos)
    every = shards.parted(files, version, job, address, form)
    missing = _missing(every)
    print(f"scoring {len(files):,} photos in {len(every):,} shards, of which {len(missing):,} are missing", flush=True)
    storage.delete_tree(storage.join(address, "scores.json"))
    if missing:
        _make(missing, version, beam_options or LOCAL)
    problems, scored = _put_together(every, address, scorer.error or 0.0)
    about = {"model": version, "job": job, "form": form, "photos": scored, "problems": len(problems)}
    storage.write_json(storage.join(address, "scores.json"), about)
    return Outcome(scored, problems, len(missing))


def ranks(means: Sequence[float], error: float) -> list[int]:
    """Competition ranks (1, 1, 3), in which those share one that the scorer cannot tell apart.

    A photo shares the rank of the best one before it that is not more than ``error`` above it: of two photos that far
    apart, every fourth pair is in truth the other way round (a normal error of each, of that standard deviation).

    >>> ranks([7.0, 6.8, 6.1, 6.0], 0.5)
    [1, 1, 3, 3]

    Args:
        means: scores, the highest first.
        error: score points within which two are not told apart.
    """
    found: list[int] = []
    best = float("inf")
    for place, mean in enumerate(means, 1):
        if best - mean > error:
            best, shared = mean, place
        found.append(shared)
    return found


def _make(missing: list[Shard], version: str, options: str) -> None:
    """Score the missing shards, telling how far they are."""

    def build(pipeline: object) -> None:
        from components.scorer.batch.beam_inference import scoring  # imports Apache Beam, once it is known to be there

        scoring(version, missing)(pipeline)

    with _watched(missing):
        beam.run(build, options)
    if left := _missing(missing):
        raise RuntimeError(
            f"the runner ended and {len(left)} of {len(missing)} shards are missing, the first {left[0].uri}: do its "
            "workers write to the same address? What is done is kept for the next try"
        )


def _missing(every: Sequence[Shard]) -> list[Shard]:
    """The shards that are not there yet."""
    done = {file.uri for file in storage.files(every[0].folder)}
    return [shard for shard in every if shard.uri not in done]


@contextmanager
def _watched(missing: list[Shard]) -> Iterator[None]:
    """Tell in the log how many shards are done and how long the others take, wherever they are made."""
    ended = threading.Event()

    def look() -> Iterator[None]:
        left, over = len(missing), False
        while left and not over:
            over = ended.wait(_LOOK)
            now = len(_missing(missing))
            yield from [None] * (left - now)
            left = now

    def tell() -> None:
        for _ in track(look(), f"scoring, shards of {shards.PHOTOS} photos", len(missing)):
            pass

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _put_together(every: list[Shard], address: str, error: float) -> tuple[list[Problem], int]:
    """Write the order and the problems; remove the files of other shards."""
    there, problems, scored = shards.there(address), [], []
    for shard in track(every, "putting the shards in order"):
        scored.extend(shards.scores(shard))
        if shard.problems in there:
            problems.extend(shards.problems(shard))
    scored.sort(key=lambda row: (-row[1], row[0]))
    placed = enumerate(zip(ranks([mean for _, mean, _ in scored], error), scored, strict=True), 1)
    rows = [(place, rank, photo, f"{mean:.4f}", f"{std:.4f}") for place, (rank, (photo, mean, std)) in placed]
    storage.write_bytes(storage.join(address, "order.csv"), shards.table(COLUMNS, rows))
    listing = storage.join(address, "problems.csv")
    if problems:
        storage.write_bytes(listing, shards.table(Problem._fields, problems))
    else:
        storage.delete_tree(listing)
    for uri in sorted(there - {uri for shard in every for uri in (shard.uri, shard.problems)}):
        storage.delete_tree(uri)
    return problems, len(scored)


def _absolute(uri: str) -> str:
    """The address, a local one made absolute: workers may have another folder."""
    return uri if "://" in uri else os.path.abspath(uri)
