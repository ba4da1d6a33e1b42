"""Scoring and ranking of any number of photos, on all cores or any Beam runner; an interrupted run resumes.

<address>/shards/       see ``shards``
<address>/problems.csv  photo,reason of every photo that could not be scored; only if there are any
<address>/order.csv     place,rank,photo,mean,std of every other photo, the best first
<address>/scores.json   model, job, form and numbers; written last, so it marks a complete scoring
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
"""Default runner: worker processes on this machine, which are restarted if they die."""

_LOOK = 5.0  # seconds between checks for finished shards


@dataclass(frozen=True)
class Outcome:
    """Summary of a scoring.

    Attributes:
        scored: Number of photos scored.
        problems: Photos that could not be scored.
        made: Number of shards scored by this call; the other shards were already there.
    """

    scored: int
    problems: list[Problem]
    made: int


def rank(
    model: str, photos: str, address: str, *, job: str = "", form: shards.Form = "csv", beam_options: str = ""
) -> Outcome:
    """Score every photo below an address into shards, then order all photos by score.

    Finished shards of an earlier run with the same photos, scorer and job are reused. Other shards are deleted at the
    end.

    Args:
        model: Address of a published version, or of a folder of versions, whose champion is used.
        photos: Folder, ``gs://`` or ``s3://`` address. Files that are not photos are skipped.
        address: Folder, ``gs://`` or ``s3://`` address that receives the files of the module docstring.
        job: Job that the people on the photos offer to do; "" if unknown.
        form: File format of the shards.
        beam_options: Options of the runner, as `beam` takes them; "" uses processes of this machine. Workers on other
            machines must reach all three addresses.

    Raises:
        ValueError: There is no photo at the address, the model does not know the job, or an option is invalid.
        FileNotFoundError: There is no published model.
        RuntimeError: The runner cannot be used, or its workers died. Finished shards are kept.
    """
    photos, address, version = _absolute(photos), _absolute(address), _absolute(channels.resolve(model))
    scorer = litert_model.load(version)
    expect_told(job, scorer.jobs, version)
    files = shards.listed(photos)
    all_shards = shards.parted(files, version, job, address, form)
    missing = _missing(all_shards)
    print(
        f"scoring {len(files):,} photos in {len(all_shards):,} shards, of which {len(missing):,} are missing",
        flush=True,
    )
    storage.delete_tree(storage.join(address, "scores.json"))
    if missing:
        _make(missing, version, beam_options or LOCAL)
    problems, scored = _put_together(all_shards, address, scorer.error or 0.0)
    summary = {"model": version, "job": job, "form": form, "photos": scored, "problems": len(problems)}
    storage.write_json(storage.join(address, "scores.json"), summary)
    return Outcome(scored, problems, len(missing))


def ranks(means: Sequence[float], error: float) -> list[int]:
    """Return competition ranks (1, 1, 3); photos that the scorer cannot tell apart share a rank.

    A photo shares the rank of the best photo before it whose mean is at most ``error`` higher. At that distance a
    quarter of all pairs is truly in the other order, if both errors are normal with standard deviation ``error``.

    >>> ranks([7.0, 6.8, 6.1, 6.0], 0.5)
    [1, 1, 3, 3]

    Args:
        means: Scores, the highest first.
        error: Largest distance of a shared rank, score points.
    """
    ranking: list[int] = []
    best = float("inf")
    for position, mean in enumerate(means, 1):
        if best - mean > error:
            best, best_rank = mean, position
        ranking.append(best_rank)
    return ranking


def _make(missing: list[Shard], version: str, options: str) -> None:
    """Score the missing shards and log the progress."""

    def build(pipeline: object) -> None:
        from components.scorer.batch.beam_inference import scoring  # imports Apache Beam, which `beam.run` checked

        scoring(version, missing)(pipeline)

    with _watched(missing):
        beam.run(build, options)
    if rest := _missing(missing):
        raise RuntimeError(
            f"the runner ended and {len(rest)} of {len(missing)} shards are missing, the first {rest[0].uri}: do its "
            "workers write to the same address? What is done is kept for the next try"
        )


def _missing(all_shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards without a finished file."""
    done = {file.uri for file in storage.files(all_shards[0].folder)}
    return [shard for shard in all_shards if shard.uri not in done]


@contextmanager
def _watched(missing: list[Shard]) -> Iterator[None]:
    """Log how many shards are done and how long the others take, wherever they are scored."""
    ended = threading.Event()

    def finished_shards() -> Iterator[None]:
        previous, stopped = len(missing), False
        while previous and not stopped:
            stopped = ended.wait(_LOOK)
            remaining = len(_missing(missing))
            yield from [None] * (previous - remaining)
            previous = remaining

    def report() -> None:
        for _ in track(finished_shards(), f"scoring, shards of {shards.PHOTOS} photos", len(missing)):
            pass

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _put_together(all_shards: list[Shard], address: str, error: float) -> tuple[list[Problem], int]:
    """Write the order and the problems, delete the files of other shards, and return the problems and the number
    scored.
    """
    existing, problems, scored = shards.there(address), [], []
    for shard in track(all_shards, "putting the shards in order"):
        scored.extend(shards.scores(shard))
        if shard.problems in existing:
            problems.extend(shards.problems(shard))
    scored.sort(key=lambda row: (-row[1], row[0]))
    positions = enumerate(zip(ranks([mean for _, mean, _ in scored], error), scored, strict=True), 1)
    rows = [(position, rank, photo, f"{mean:.4f}", f"{std:.4f}") for position, (rank, (photo, mean, std)) in positions]
    storage.write_bytes(storage.join(address, "order.csv"), shards.table(COLUMNS, rows))
    listing = storage.join(address, "problems.csv")
    if problems:
        storage.write_bytes(listing, shards.table(Problem._fields, problems))
    else:
        storage.delete_tree(listing)
    for uri in sorted(existing - {uri for shard in all_shards for uri in (shard.uri, shard.problems)}):
        storage.delete_tree(uri)
    return problems, len(scored)


def _absolute(uri: str) -> str:
    """Return the address, a local one as an absolute path, because workers may run in another folder."""
    return uri if "://" in uri else os.path.abspath(uri)
