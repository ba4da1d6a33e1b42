"""ASGI application of a worker: routes, middleware and error handlers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from images.serving import prometheus_metrics
from images.serving.attempts import RetryDetectionMiddleware
from images.serving.http import openapi, schemas
from images.serving.http.middleware import PATHS_WITHOUT_KEY, SecurityMiddleware
from images.serving.http.request_body import BodyBudget
from images.serving.http.worker_state import WorkerState, worker_state
from images.serving.inference.advice_queue import AdviceQueue
from images.serving.inference.micro_batcher import MicroBatcher
from images.serving.inference.version_manager import VersionManager
from images.serving.problem_details import ProblemDetails, json_response
from images.serving.protocols import open_inference_v2, portrait_api, sagemaker, tensorflow_serving_v1
from images.serving.settings import ServerSettings, from_environment

_DRAINING_EXAMPLE = {"ready": False, "version": "3", "draining": True, "failing": False}
_READY_ROUTE = openapi.route_arguments(
    "Requests are welcome",
    {
        "200": openapi.success_response(schemas.Readiness, description="They are"),
        "503": openapi.success_response(schemas.Readiness, description="They are not", example=_DRAINING_EXAMPLE),
    },
)
_METRICS_ROUTE = openapi.route_arguments(
    "Metrics for Prometheus, over all workers",
    {"200": {"description": "Text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
DESK_FOLDER = Path(__file__).parents[1] / "desk"


def create_app(settings: ServerSettings | None = None) -> FastAPI:
    """Return the application of one worker. The application loads its version at startup.

    Args:
        settings: Settings of the server. Default: the settings from the environment.
    """
    settings = settings or from_environment()
    metrics = prometheus_metrics.ServerMetrics()
    batching = MicroBatcher(settings, metrics)
    advising = AdviceQueue(settings, batching, metrics)
    room = BodyBudget(settings)
    state = WorkerState(settings, metrics, batching, advising, VersionManager(settings, metrics), room)
    app = FastAPI(
        title="Portrait scorer",
        version="1",
        description=openapi.DESCRIPTION,
        openapi_tags=list(openapi.TAGS),
        servers=[{"url": "/", "description": "The server that this document comes from"}],
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's page loads scripts from another host
        redoc_url=None,
        default_response_class=Response,
        redirect_slashes=False,
        exception_handlers={
            ProblemDetails: _problem_response,
            HTTPException: _http_error_response,
            RequestValidationError: _invalid_request_response,
        },
    )
    app.state.server = state
    app.openapi = partial(  # type: ignore[method-assign]  # FastAPI's documented way to write the document
        openapi.build_document, app, PATHS_WITHOUT_KEY
    )
    if settings.nginx and settings.run:
        app.add_middleware(RetryDetectionMiddleware, run_folder=settings.run)
    app.add_middleware(SecurityMiddleware, settings=settings, metrics=metrics, body_budget=room)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", open_inference_v2.JSON_LENGTH_HEADER],
            expose_headers=["Retry-After", open_inference_v2.JSON_LENGTH_HEADER],
        )
    for router in (tensorflow_serving_v1.router, open_inference_v2.router, sagemaker.router, portrait_api.router):
        app.include_router(router)
    _add_operation_routes(app)
    _add_page_routes(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Follow the version source while the worker runs, and close its threads at the end."""
    state: WorkerState = app.state.server
    following = asyncio.create_task(state.version_manager.follow())
    try:
        await state.version_manager.wait_for_version()
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        state.batcher.close()
        state.advice_queue.close()


def _add_operation_routes(app: FastAPI) -> None:
    """Add the routes for operating the server: key check, probes and metrics."""

    @app.api_route("/key", methods=["GET", "HEAD", "POST", "OPTIONS"], include_in_schema=False)
    async def key() -> Response:
        """Return 204 to Nginx, which checks a request here before it reads the body.

        `SecurityMiddleware` has accepted the key.
        """
        return Response(status_code=204)

    @app.get("/live", tags=["Operation"], **openapi.route_arguments("The process answers", schemas.Live))
    async def live() -> Response:
        """Return 200 while the process runs, even if no version is loaded."""
        return json_response({"live": True})

    @app.get("/ready", tags=["Operation"], **_READY_ROUTE)
    async def ready(request: Request) -> Response:
        """Return 200 if a version is loaded and the server is not shutting down.

        `failing` tells whether the wanted version could not be loaded.
        """
        models = worker_state(request).version_manager
        readiness = {
            "ready": models.ready,
            "version": models.current.version if models.current else None,
            "draining": models.draining,
            "failing": models.failure is not None,  # the reason is only in the log, because it contains addresses
        }
        return json_response(readiness, 200 if models.ready else 503)

    @app.get("/metrics", tags=["Operation"], **_METRICS_ROUTE)
    async def read_metrics(request: Request) -> Response:
        """Return counts, times and queues, summed over all workers."""
        text = await asyncio.to_thread(worker_state(request).metrics.exposition)
        return Response(text, media_type=prometheus_metrics.MEDIA_TYPE)


def _add_page_routes(app: FastAPI) -> None:
    """Add the routes of the web pages: documentation and desk."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(openapi.render_page(app.openapi()), media_type="text/html")

    @app.get("/docs/reference.css", include_in_schema=False)
    async def style() -> Response:
        return Response(openapi.STYLESHEET, media_type="text/css")

    @app.get("/", include_in_schema=False)
    async def desk(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return json_response({"status": "alive"})  # KServe's v1 client expects this
        index = DESK_FOLDER / "index.html"
        return (
            FileResponse(index, headers={"Cache-Control": "no-cache"}) if index.is_file() else RedirectResponse("docs")
        )

    app.mount("/desk", StaticFiles(directory=DESK_FOLDER, check_dir=False))


async def _problem_response(request: Request, problem: ProblemDetails) -> Response:
    return problem.to_response()


async def _http_error_response(request: Request, error: HTTPException) -> Response:
    """Return Starlette's own errors, 404 and 405, as problem documents."""
    details = {404: "there is nothing at this address: see /docs", 405: "this address takes another method: see /docs"}
    detail = details.get(error.status_code, HTTPStatus(error.status_code).phrase)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        methods = {*headers["Allow"].split(", "), "OPTIONS", *(["HEAD"] if "GET" in headers["Allow"] else [])}
        headers["Allow"] = ", ".join(sorted(methods))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    return ProblemDetails(error.status_code, "http", detail, headers=headers).to_response()


async def _invalid_request_response(request: Request, error: RequestValidationError) -> Response:
    details: list[Any] = [".".join(map(str, item["loc"])) + ": " + item["msg"] for item in error.errors()[:3]]
    return ProblemDetails(422, "unfit-request", "; ".join(details)).to_response()
