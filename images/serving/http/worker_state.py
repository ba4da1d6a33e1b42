"""State of a worker process: the objects that its request handlers share."""

from dataclasses import dataclass

from fastapi import Request

from images.serving.http.request_body import BodyBudget
from images.serving.inference.advice_queue import AdviceQueue
from images.serving.inference.micro_batcher import MicroBatcher
from images.serving.inference.version_manager import LoadedVersion, VersionManager
from images.serving.problem_details import ProblemDetails
from images.serving.prometheus_metrics import ServerMetrics
from images.serving.settings import ServerSettings


@dataclass(frozen=True)
class WorkerState:
    """The settings and shared objects of one worker."""

    settings: ServerSettings
    metrics: ServerMetrics
    batcher: MicroBatcher
    advice_queue: AdviceQueue
    version_manager: VersionManager
    body_budget: BodyBudget

    def check_photos(self, photos: int) -> None:
        """Raise `ProblemDetails` 413 if a request has more photos than `ServerSettings.photos`."""
        if photos > self.settings.photos:
            detail = f"expected at most {self.settings.photos} photos in a request, got {photos}: send several requests"
            raise ProblemDetails(413, "too-many-photos", detail, limit=self.settings.photos)

    def check_job(self, name: str, served: LoadedVersion) -> str:
        """Return the name of a job unchanged if the version knows the job or knows no jobs at all.

        Args:
            name: Name of the job. "" means that the job is unknown, and is always accepted.
            served: Version that scores.

        Raises:
            ProblemDetails: 422 if the version knows other jobs only.
        """
        if name and served.jobs and name not in served.jobs:
            detail = f"expected a job among {list(served.jobs)}, or none, got {name[:60]!r}"
            raise ProblemDetails(422, "unknown-job", detail, jobs=list(served.jobs))
        return name


def worker_state(request: Request) -> WorkerState:
    """Return the state of the worker that answers a request."""
    return request.app.state.server
