"""State of a worker process: the objects that its request handlers share."""

from dataclasses import dataclass

from fastapi import Request

from images.serving.http.request_body import Room
from images.serving.inference.advice_queue import Advising
from images.serving.inference.micro_batcher import Batching
from images.serving.inference.version_manager import Models, Served
from images.serving.problem_details import Problem
from images.serving.prometheus_metrics import Metrics
from images.serving.settings import Settings


@dataclass(frozen=True)
class State:
    """The settings and shared objects of one worker."""

    settings: Settings
    metrics: Metrics
    batching: Batching
    advising: Advising
    models: Models
    room: Room

    def check_photos(self, photos: int) -> None:
        """Raise `Problem` 413 if a request has more photos than `Settings.photos`."""
        if photos > self.settings.photos:
            detail = f"expected at most {self.settings.photos} photos in a request, got {photos}: send several requests"
            raise Problem(413, "too-many-photos", detail, limit=self.settings.photos)

    def job(self, name: str, served: Served) -> str:
        """Return the name of a job unchanged if the version knows the job or knows no jobs at all.

        Args:
            name: Name of the job. "" means that the job is unknown, and is always accepted.
            served: Version that scores.

        Raises:
            Problem: 422 if the version knows other jobs only.
        """
        if name and served.jobs and name not in served.jobs:
            detail = f"expected a job among {list(served.jobs)}, or none, got {name[:60]!r}"
            raise Problem(422, "unknown-job", detail, jobs=list(served.jobs))
        return name


def of(request: Request) -> State:
    """Return the state of the worker that answers a request."""
    return request.app.state.server
