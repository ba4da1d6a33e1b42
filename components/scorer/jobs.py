"""Names and ids of the jobs, the scorer's optional categorical input; without TensorFlow, as the server imports it."""

from collections.abc import Collection, Sequence

import numpy as np

UNKNOWN = 0
"""Id of the unknown job, whose name is ""; the known jobs have the ids from 1 in their order."""


def to_job_ids(jobs: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return the ids of jobs by name, int32 ``[n]``; `UNKNOWN` for "" and for jobs that are not known."""
    return np.array([1 + known.index(job) if job in known else UNKNOWN for job in jobs], "int32")


def check_jobs_known(jobs: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError if a job is not known to the scorer; a scorer without jobs accepts every job as unknown.

    Raises:
        ValueError: A job is not known; the message names the known jobs and the first unknown one.
    """
    if known and (unknown := [job for job in jobs if job and job not in known]):
        raise ValueError(f"expected a job among {list(known)}, or none, got {unknown[0]!r}")


def check_job(job: str, known: Collection[str], model: str) -> None:
    """Raise ValueError if a model does not take a job as input; "" stands for no job and is always accepted.

    A model without jobs would ignore the job, so any job is an error.

    Raises:
        ValueError: The model does not know the job; the message names the model and its jobs.
    """
    if job and job not in known:
        accepted = f"one of the jobs {list(known)}" if known else "no job, as it was trained without"
        raise ValueError(f"{model} can be told {accepted}, got {job!r}")


def check_job_count(jobs: Collection[str], photos: int) -> None:
    """Raise ValueError unless there are as many jobs as photos.

    Raises:
        ValueError: The numbers differ; the message names both.
    """
    if len(jobs) != photos:
        raise ValueError(f"expected a job, or an empty text, for each of {photos} photos, got {len(jobs)}")
