"""SageMaker's contract for hosting: ``/ping`` and ``/invocations`` on port 8080.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. JSON has the form of TensorFlow
Serving, as in SageMaker's own TensorFlow container. With JSON lines, each line is one photo and fails alone. A body
with an image type is one photo.
"""

import io
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import WorkerState, worker_state
from images.serving.inference.micro_batcher import PhotoRequest
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import ProblemDetails, json_response
from images.serving.protocols import tensorflow_serving_v1

router = APIRouter(tags=["SageMaker"])

_JSON, _JSON_LINES = openapi.JSON, openapi.JSON_LINES
_JSON_LINES_TYPES = (_JSON_LINES, "application/x-jsonlines", "application/json-lines", "application/x-ndjson")


def _example(line: dict[str, Any]) -> dict[str, Any]:
    """Return the media type object of JSON lines for the OpenAPI document."""
    return {"schema": {"type": "string"}, "example": json.dumps(line) + "\n"}


@router.get("/ping", **openapi.route_arguments("The process answers", {"200": {"description": "It does."}}))
async def ping() -> Response:
    """Return 200 while the process runs, even while a version is being loaded. Requests wait for the version."""
    return Response(status_code=200)


@router.post(
    "/invocations",
    **openapi.route_arguments(
        "Score photos (SageMaker)",
        {
            "200": openapi.success_response(
                *tensorflow_serving_v1.RESPONSE_MODELS,
                schemas.PredictedLines,
                description="Scores, as JSON or JSON lines",
                content={_JSON_LINES: _example({"mean": 6.3, "std": 1.59, "distribution": schemas.EXAMPLE_VOTES})},
            )
        },
        *openapi.BODY_PROBLEM_KINDS,
        "not-acceptable",
        body={
            _JSON: tensorflow_serving_v1.REQUEST_SCHEMA,
            _JSON_LINES: _example({"image_bytes": {"b64": schemas.BLACK_PHOTO}}),
            "application/x-image": openapi.BINARY_CONTENT,
            "image/jpeg": openapi.BINARY_CONTENT,
        },
    ),
)
async def invocations(request: Request) -> Response:
    """Score photos: JSON as for ``:predict``, JSON lines with one photo each, or the bytes of one photo."""
    state, content_type = worker_state(request), request_body.media_type(request)
    wants_lines = _wants_lines(request.headers.get("accept", ""), content_type)
    async with state.version_manager.lease() as served:
        state.batcher.check_capacity()
        if content_type == _JSON:
            predict_request = tensorflow_serving_v1.parse_request(
                await request_body.read_json(request, state), state, served
            )
            results = await state.batcher.score(served.network, predict_request.photos, predict_request.jobs)
            if not wants_lines:
                return json_response(tensorflow_serving_v1.predictions_to_json(results, predict_request.columns))
            return _json_lines_response(results)
        if content_type in _JSON_LINES_TYPES:
            return await _invoke_lines(await request_body.read_body(request, state), state, served, wants_lines)
        if content_type == "application/x-image" or content_type.startswith("image/"):
            results = await state.batcher.score(served.network, [await request_body.read_body(request, state)])
            if isinstance(results[0], ProblemDetails):
                raise results[0]
            return (
                _json_lines_response(results)
                if wants_lines
                else json_response({"predictions": [tensorflow_serving_v1.score_to_json(results[0])]})
            )
    expected = f"{_JSON}, {_JSON_LINES}, application/x-image or image/…"
    raise ProblemDetails(
        415, "media-type", f"expected the content type {expected}, got {content_type[:60] or 'none'!r}"
    )


async def _invoke_lines(body: bytes, state: WorkerState, served: LoadedVersion, wants_lines: bool) -> Response:
    """Score JSON lines, and return scores or an error for each line."""
    rows = []
    for line in io.BytesIO(body):  # counted one by one, because a body of 32 MB may have very many lines
        if line.strip():
            rows.append(line)
            state.check_photos(len(rows))
    if not rows:
        raise ProblemDetails(400, "unfit-request", "expected at least one line of JSON, got none")
    results: list[Any] = [None] * len(rows)
    valid_rows: list[tuple[int, bytes, str]] = []
    for index, row in enumerate(rows):
        try:
            row_request = tensorflow_serving_v1.parse_request(
                {"instances": [request_body.parse_json(row)]}, state, served
            )
            valid_rows.append((index, row_request.photos[0], row_request.jobs[0]))
        except ProblemDetails as problem:
            results[index] = problem
    if valid_rows:
        photos, jobs = [photo for _, photo, _ in valid_rows], [job for *_, job in valid_rows]
        for (index, *_), result in zip(
            valid_rows, await state.batcher.score(served.network, photos, jobs), strict=True
        ):
            results[index] = result
    return (
        _json_lines_response(results)
        if wants_lines
        else json_response({"predictions": [_line_to_json(result) for result in results]})
    )


def _json_lines_response(results: list[PhotoRequest | ProblemDetails]) -> Response:
    text = "".join(json.dumps(_line_to_json(result), separators=(",", ":")) + "\n" for result in results)
    return Response(text, media_type=_JSON_LINES)


def _line_to_json(result: PhotoRequest | ProblemDetails) -> Mapping[str, Any]:
    if isinstance(result, ProblemDetails):
        return {"error": result.detail, "problem": result.to_document()}
    return tensorflow_serving_v1.score_to_json(result)


def _accepted_types(accept: str) -> list[str]:
    """Return the media types of an Accept header by falling quality, without those of quality 0."""
    weighted = []
    for part in filter(str.strip, accept.split(",")):
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        weighted.append((name, float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0))
    return [name for name, quality_value in sorted(weighted, key=lambda item: -item[1]) if quality_value]


def _wants_lines(accept: str, content_type: str) -> bool:
    """Return whether the response has JSON lines: by the first supported type in Accept, else as in the request.

    Args:
        accept: Value of the Accept header. "" accepts any type.
        content_type: Media type of the request.

    Raises:
        ProblemDetails: 406 if neither JSON nor JSON lines is accepted.
    """
    names = _accepted_types(accept)
    if not names and not accept.strip():
        return content_type in _JSON_LINES_TYPES
    for name in names:
        if name in ("*/*", "application/*"):
            return content_type in _JSON_LINES_TYPES
        if name == _JSON or name in _JSON_LINES_TYPES:
            return name != _JSON
    raise ProblemDetails(
        406, "not-acceptable", f"expected to be asked for {_JSON} or {_JSON_LINES}, got {accept[:100]!r}"
    )
