"""Score a folder of photos with a published model."""

import csv
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from components.scorer import storage
from components.scorer.artifacts import saved_model
from components.scorer.batch import shards
from components.scorer.imaging import decoding
from components.scorer.jobs import expect_told
from components.scorer.progress import track
from components.scorer.registry import channels
from components.scorer.settings import Ingestion

_BATCH = 32  # photos in memory at a time


def score(model: str, photos: str, out: str | Path, job: str = "") -> tuple[int, int]:
    """Write the scores of every photo below an address as CSV, or nothing when it breaks off.

    Photos take the way of the model's training: upright, sRGB, shrunk, and the face read where it reads faces.

    Args:
        model: address of a published version, or of a folder whose champion is meant.
        photos: folder, ``gs://`` or ``s3://`` address; files that are no photos are passed over.
        out: file to write: ``photo`` (its path below the address), ``mean`` (1..10), ``std``, ``p1`` to ``p10``.
        job: that the people on the photos offer to do; "" where it is not known.

    Returns:
        The number of photos scored, and of those that could not be read: beside the scores, a file that ends in
        ``.problems.csv`` says which (``photo``) and why (``reason``).

    Raises:
        ValueError: there is no photo at the address, or the model does not know the job.
        FileNotFoundError: there is no published model.
    """
    files = shards.listed(photos)
    scorer = saved_model.load(channels.resolve(model))
    expect_told(job, scorer.jobs, scorer.uri)
    unreadable: list[shards.Problem] = []
    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".scoring-") as folder, ThreadPoolExecutor() as pool:
        written = Path(folder, out.name)
        with written.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(shards.COLUMNS)
            for batch in track(batches, f"scoring, batches of {_BATCH} photos"):
                read = pool.map(partial(_photo, settings=scorer.settings), (file.uri for file in batch))
                usable = []
                for file, photo in zip(batch, read, strict=True):
                    if isinstance(photo, bytes):
                        usable.append((file.name, photo))
                    else:
                        unreadable.append(shards.Problem(file.name, str(photo)))
                rows.writerows(_rows(scorer, usable, job))
        os.replace(written, out)
    if unreadable:
        storage.write_bytes(str(problems(out)), shards.table(shards.Problem._fields, unreadable))
    else:
        problems(out).unlink(missing_ok=True)  # an earlier call's
    return len(files) - len(unreadable), len(unreadable)


def problems(out: str | Path) -> Path:
    """Where `score` says which photos could not be read."""
    return Path(out).with_suffix(".problems.csv")


def _photo(uri: str, settings: Ingestion) -> bytes | decoding.Unusable:
    """The photo as ingestion would store it, or why not."""
    try:
        return decoding.normalise(storage.read_bytes(uri), settings)
    except decoding.Unusable as error:
        return error


def _rows(scorer: saved_model.Published, photos: list[tuple[str, bytes]], job: str) -> list[list[str]]:
    """A row of the file for each photo."""
    answers = scorer.answers([data for _, data in photos], jobs=[job] * len(photos) if job else None)
    numbers = zip(answers["mean"], answers["std"], answers["distribution"], strict=True)
    return [
        [name, *(f"{value:.4f}" for value in (mean, std, *votes))]
        for (name, _), (mean, std, votes) in zip(photos, numbers, strict=True)
    ]
