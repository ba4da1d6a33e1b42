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
from typing import TYPE_CHECKING

from components.scorer import storage
from components.scorer.artifacts import litert_model
from components.scorer.batch import shards
from components.scorer.batch.shards import PhotoError, ScoringShard
from components.scorer.jobs import check_job
from components.scorer.progress import track
from components.scorer.registry import channels
from components.scorer.run import beam

if TYPE_CHECKING:
    from apache_beam import Pipeline

COLUMNS = ("place", "rank", "photo", "mean", "std")
DEFAULT_RUNNER = "--runner=DaskRunner"
"""Default runner: worker processes on this machine, which are restarted if they die."""

_POLL_SECONDS = 5.0  # seconds between checks for finished shards


@dataclass(frozen=True)
class ScoringSummary:
    """Summary of a scoring.

    Attributes:
        scored: Number of photos scored.
        problems: Photos that could not be scored.
        scored_shards: Number of shards scored by this call; the other shards were already there.
    """

    scored: int
    problems: list[PhotoError]
    scored_shards: int


def score_and_rank(
    model: str, photos: str, address: str, *, job: str = "", form: shards.FileFormat = "csv", beam_options: str = ""
) -> ScoringSummary:
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
    check_job(job, scorer.jobs, version)
    files = shards.list_photos(photos)
    all_shards = shards.make_shards(files, version, job, address, form)
    missing = _missing(all_shards)
    print(
        f"scoring {len(files):,} photos in {len(all_shards):,} shards, of which {len(missing):,} are missing",
        flush=True,
    )
    storage.delete_tree(storage.join(address, "scores.json"))
    if missing:
        _score_missing(missing, version, beam_options or DEFAULT_RUNNER)
    problems, scored = _merge(all_shards, address, scorer.error or 0.0)
    summary = {"model": version, "job": job, "form": form, "photos": scored, "problems": len(problems)}
    storage.write_json(storage.join(address, "scores.json"), summary)
    return ScoringSummary(scored, problems, len(missing))


def competition_ranks(means: Sequence[float], error: float) -> list[int]:
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


def _score_missing(missing: list[ScoringShard], version: str, options: str) -> None:
    """Score the missing shards and log the progress."""

    def build(pipeline: "Pipeline") -> None:
        from components.scorer.batch.beam_inference import (
            pipeline_builder,  # imports Apache Beam, which `beam.run_pipeline` checked
        )

        pipeline_builder(version, missing)(pipeline)

    with _log_progress(missing):
        beam.run_pipeline(build, options)
    if rest := _missing(missing):
        raise RuntimeError(
            f"the runner ended and {len(rest)} of {len(missing)} shards are missing, the first {rest[0].uri}: do its "
            "workers write to the same address? What is done is kept for the next try"
        )


def _missing(all_shards: Sequence[ScoringShard]) -> list[ScoringShard]:
    """Return the shards without a finished file."""
    done = {file.uri for file in storage.list_files(all_shards[0].folder)}
    return [shard for shard in all_shards if shard.uri not in done]


@contextmanager
def _log_progress(missing: list[ScoringShard]) -> Iterator[None]:
    """Log how many shards are done and how long the others take, wherever they are scored."""
    ended = threading.Event()

    def finished_shards() -> Iterator[None]:
        previous, stopped = len(missing), False
        while previous and not stopped:
            stopped = ended.wait(_POLL_SECONDS)
            remaining = len(_missing(missing))
            yield from [None] * (previous - remaining)
            previous = remaining

    def report() -> None:
        for _ in track(finished_shards(), f"scoring, shards of {shards.PHOTOS_PER_SHARD} photos", len(missing)):
            pass

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _merge(all_shards: list[ScoringShard], address: str, error: float) -> tuple[list[PhotoError], int]:
    """Write the order and the problems, delete the files of other shards, and return the problems and the number
    scored.
    """
    existing = shards.existing_files(address)
    problems: list[PhotoError] = []
    scored: list[tuple[str, float, float]] = []
    for shard in track(all_shards, "putting the shards in order"):
        scored.extend(shards.read_scores(shard))
        if shard.problems_uri in existing:
            problems.extend(shards.read_problems(shard))
    scored.sort(key=lambda row: (-row[1], row[0]))
    positions = enumerate(zip(competition_ranks([mean for _, mean, _ in scored], error), scored, strict=True), 1)
    rows = [(position, rank, photo, f"{mean:.4f}", f"{std:.4f}") for position, (rank, (photo, mean, std)) in positions]
    storage.write_bytes(storage.join(address, "order.csv"), shards.to_csv(COLUMNS, rows))
    listing = storage.join(address, "problems.csv")
    if problems:
        storage.write_bytes(listing, shards.to_csv(PhotoError._fields, problems))
    else:
        storage.delete_tree(listing)
    for uri in sorted(existing - {uri for shard in all_shards for uri in (shard.uri, shard.problems_uri)}):
        storage.delete_tree(uri)
    return problems, len(scored)


def _absolute(uri: str) -> str:
    """Return the address, a local one as an absolute path, because workers may run in another folder."""
    return uri if "://" in uri else os.path.abspath(uri)
