"""The jobs that a scorer can be told, by name and by number; without TensorFlow, for servers ask it too."""

from collections.abc import Collection, Sequence

import numpy as np

UNKNOWN = 0
"""The number of the unknown job, "" by name; the known ones follow in their order."""


def numbers(jobs: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """The numbers of jobs by name, int32 ``[n]``; `UNKNOWN` for "" and for one that is not known."""
    return np.array([1 + known.index(job) if job in known else UNKNOWN for job in jobs], "int32")


def expect_known(jobs: Collection[str], known: Collection[str]) -> None:
    """Refuse a job that a scorer does not know; one that knows none takes every job for unknown.

    Raises:
        ValueError: names the known jobs and the first that is not among them.
    """
    if known and (strange := [job for job in jobs if job and job not in known]):
        raise ValueError(f"expected a job among {list(known)}, or none, got {strange[0]!r}")


def expect_told(job: str, known: Collection[str], model: str) -> None:
    """Refuse a job, "" for none, that a model cannot be told: also one that knows none, which would leave it unheeded.

    Raises:
        ValueError: names the model and the jobs that it knows.
    """
    if job and job not in known:
        told = f"one of the jobs {list(known)}" if known else "no job, as it was trained without"
        raise ValueError(f"{model} can be told {told}, got {job!r}")


def expect_one_each(jobs: Collection[str], photos: int) -> None:
    """Refuse more or fewer jobs than photos.

    Raises:
        ValueError: says how many of each came.
    """
    if len(jobs) != photos:
        raise ValueError(f"expected a job, or an empty text, for each of {photos} photos, got {len(jobs)}")
