"""Scoring of a folder of photos with a published model, to one CSV file."""

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
from components.scorer.jobs import check_job
from components.scorer.progress import track
from components.scorer.registry import channels
from components.scorer.settings import Ingestion

_BATCH = 32  # photos in memory at a time


def score_folder(model: str, photos: str, out: str | Path, job: str = "") -> tuple[int, int]:
    """Score every photo below an address and write a CSV file; write nothing if the scoring fails midway.

    Photos are processed as in training: upright, sRGB, shrunk, with face analysis if the model has face inputs.

    Args:
        model: Address of a published version, or of a folder of versions, whose champion is used.
        photos: Folder, ``gs://`` or ``s3://`` address. Files that are not photos are skipped.
        out: CSV file to write: ``photo`` (path below the address), ``mean`` (1..10), ``std``, ``p1`` to ``p10``.
        job: Job that the people on the photos offer to do; "" if unknown.

    Returns:
        The number of photos scored and the number that could not be read. A file ending in ``.problems.csv`` beside
        ``out`` lists the latter (``photo``, ``reason``).

    Raises:
        ValueError: There is no photo at the address, or the model does not know the job.
        FileNotFoundError: There is no published model.
    """
    files = shards.list_photos(photos)
    scorer = saved_model.load(channels.resolve(model))
    check_job(job, scorer.jobs, scorer.uri)
    unreadable: list[shards.PhotoError] = []
    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".scoring-") as folder, ThreadPoolExecutor() as pool:
        partial_file = Path(folder, out.name)
        with partial_file.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(shards.COLUMNS)
            for batch in track(batches, f"scoring, batches of {_BATCH} photos"):
                decoded = pool.map(partial(_normalised_photo, settings=scorer.settings), (file.uri for file in batch))
                usable = []
                for file, photo in zip(batch, decoded, strict=True):
                    if isinstance(photo, bytes):
                        usable.append((file.name, photo))
                    else:
                        unreadable.append(shards.PhotoError(file.name, str(photo)))
                rows.writerows(_rows(scorer, usable, job))
        os.replace(partial_file, out)
    if unreadable:
        storage.write_bytes(str(problems_path(out)), shards.to_csv(shards.PhotoError._fields, unreadable))
    else:
        problems_path(out).unlink(missing_ok=True)  # written by an earlier call
    return len(files) - len(unreadable), len(unreadable)


def problems_path(out: str | Path) -> Path:
    """Return the path of the file in which `score_folder` lists the photos that could not be read."""
    return Path(out).with_suffix(".problems.csv")


def _normalised_photo(uri: str, settings: Ingestion) -> bytes | decoding.UnusablePhotoError:
    """Return the photo as ingestion would store it, or the error that prevents it."""
    try:
        return decoding.normalise(storage.read_bytes(uri), settings)
    except decoding.UnusablePhotoError as error:
        return error


def _rows(scorer: saved_model.SavedModelScorer, photos: list[tuple[str, bytes]], job: str) -> list[list[str]]:
    """Return a row of the CSV file for each photo."""
    outputs = scorer.predict([data for _, data in photos], jobs=[job] * len(photos) if job else None)
    numbers = zip(outputs["mean"], outputs["std"], outputs["distribution"], strict=True)
    return [
        [name, *(f"{value:.4f}" for value in (mean, std, *votes))]
        for (name, _), (mean, std, votes) in zip(photos, numbers, strict=True)
    ]
