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
from images.serving.attempts import Attempts
from images.serving.http import openapi, schemas
from images.serving.http.middleware import OPEN, Guard
from images.serving.http.request_body import Room
from images.serving.http.worker_state import State, of
from images.serving.inference.advice_queue import Advising
from images.serving.inference.micro_batcher import Batching
from images.serving.inference.version_manager import Models
from images.serving.problem_details import Problem, json_answer
from images.serving.protocols import open_inference_v2, portrait_api, sagemaker, tensorflow_serving_v1
from images.serving.settings import Settings, from_environment

_DRAINING = {"ready": False, "version": "3", "draining": True, "failing": False}
_READY = openapi.route(
    "Requests are welcome",
    {
        "200": openapi.json_of(schemas.Readiness, words="They are"),
        "503": openapi.json_of(schemas.Readiness, words="They are not", example=_DRAINING),
    },
)
_METRICS = openapi.route(
    "Metrics for Prometheus, over all workers",
    {"200": {"description": "Text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
PAGE = Path(__file__).parents[1] / "desk"


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application of one worker. The application loads its version at startup.

    Args:
        settings: Settings of the server. Default: the settings from the environment.
    """
    settings = settings or from_environment()
    metrics = prometheus_metrics.Metrics()
    batching = Batching(settings, metrics)
    advising = Advising(settings, batching, metrics)
    room = Room(settings)
    state = State(settings, metrics, batching, advising, Models(settings, metrics), room)
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
    )
    app.state.server = state
    app.openapi = partial(openapi.document, app, OPEN)
    if settings.nginx and settings.run:
        app.add_middleware(Attempts, run=settings.run)
    app.add_middleware(Guard, settings=settings, metrics=metrics, room=room)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", open_inference_v2.LENGTH],
            expose_headers=["Retry-After", open_inference_v2.LENGTH],
        )
    for router in (tensorflow_serving_v1.router, open_inference_v2.router, sagemaker.router, portrait_api.router):
        app.include_router(router)
    _operation(app)
    _pages(app)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _unfit)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Follow the version source while the worker runs, and close its threads at the end."""
    state: State = app.state.server
    following = asyncio.create_task(state.models.follow())
    try:
        await state.models.welcome()
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        state.batching.close()
        state.advising.close()


def _operation(app: FastAPI) -> None:
    """Add the routes for operating the server: key check, probes and metrics."""

    @app.api_route("/key", methods=["GET", "HEAD", "POST", "OPTIONS"], include_in_schema=False)
    async def key() -> Response:
        """Return 204 to Nginx, which checks a request here before it reads the body. `Guard` has accepted the key."""
        return Response(status_code=204)

    @app.get("/live", tags=["Operation"], **openapi.route("The process answers", schemas.Live))
    async def live() -> Response:
        """Return 200 while the process runs, even if no version is loaded."""
        return json_answer({"live": True})

    @app.get("/ready", tags=["Operation"], **_READY)
    async def ready(request: Request) -> Response:
        """Return 200 if a version is loaded and the server is not shutting down.

        `failing` tells whether the wanted version could not be loaded.
        """
        models = of(request).models
        readiness = {
            "ready": models.ready,
            "version": models.current.version if models.current else None,
            "draining": models.draining,
            "failing": models.failure is not None,  # the reason is only in the log, because it contains addresses
        }
        return json_answer(readiness, 200 if models.ready else 503)

    @app.get("/metrics", tags=["Operation"], **_METRICS)
    async def read_metrics(request: Request) -> Response:
        """Return counts, times and queues, summed over all workers."""
        text = await asyncio.to_thread(of(request).metrics.text)
        return Response(text, media_type=prometheus_metrics.MEDIA)


def _pages(app: FastAPI) -> None:
    """Add the routes of the web pages: documentation and desk."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(openapi.page(app.openapi()), media_type="text/html")

    @app.get("/docs/reference.css", include_in_schema=False)
    async def style() -> Response:
        return Response(openapi.STYLE, media_type="text/css")

    @app.get("/", include_in_schema=False)
    async def desk(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return json_answer({"status": "alive"})  # KServe's v1 client expects this
        index = PAGE / "index.html"
        return (
            FileResponse(index, headers={"Cache-Control": "no-cache"}) if index.is_file() else RedirectResponse("docs")
        )

    app.mount("/desk", StaticFiles(directory=PAGE, check_dir=False))


async def _problem(request: Request, problem: Problem) -> Response:
    return problem.answer()


async def _http(request: Request, error: HTTPException) -> Response:
    """Return Starlette's own errors, 404 and 405, as problem documents."""
    details = {404: "there is nothing at this address: see /docs", 405: "this address takes another method: see /docs"}
    detail = details.get(error.status_code, HTTPStatus(error.status_code).phrase)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        methods = {*headers["Allow"].split(", "), "OPTIONS", *(["HEAD"] if "GET" in headers["Allow"] else [])}
        headers["Allow"] = ", ".join(sorted(methods))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    return Problem(error.status_code, "http", detail, headers=headers).answer()


async def _unfit(request: Request, error: RequestValidationError) -> Response:
    details: list[Any] = [".".join(map(str, item["loc"])) + ": " + item["msg"] for item in error.errors()[:3]]
    return Problem(422, "unfit-request", "; ".join(details)).answer()
