"""SageMaker's contract for hosting: ``/ping`` and ``/invocations`` on port 8080.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. JSON has the form of TensorFlow
Serving, as in SageMaker's own TensorFlow container. With JSON lines, each line is one photo and fails alone. A body
with an image type is one photo.
"""

import io
import json
import re
from typing import Any

from fastapi import APIRouter, Request, Response

from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import State, of
from images.serving.inference.micro_batcher import Photo
from images.serving.inference.version_manager import Served
from images.serving.problem_details import Problem, json_answer
from images.serving.protocols import tensorflow_serving_v1

router = APIRouter(tags=["SageMaker"])

_JSON, _LINES = openapi.JSON, openapi.LINES
_LINES_NAMES = (_LINES, "application/x-jsonlines", "application/json-lines", "application/x-ndjson")


def _example(line: dict[str, Any]) -> dict[str, Any]:
    """Return the media type object of JSON lines for the OpenAPI document."""
    return {"schema": {"type": "string"}, "example": json.dumps(line) + "\n"}


@router.get("/ping", **openapi.route("The process answers", {"200": {"description": "It does."}}))
async def ping() -> Response:
    """Return 200 while the process runs, even while a version is being loaded. Requests wait for the version."""
    return Response(status_code=200)


@router.post(
    "/invocations",
    **openapi.route(
        "Score photos (SageMaker)",
        {
            "200": openapi.json_of(
                *tensorflow_serving_v1.PREDICTED,
                schemas.PredictedLines,
                words="Scores, as JSON or JSON lines",
                **{_LINES: _example({"mean": 6.3, "std": 1.59, "distribution": schemas.VOTES})},
            )
        },
        *openapi.BODY,
        "not-acceptable",
        body={
            _JSON: tensorflow_serving_v1.BODY,
            _LINES: _example({"image_bytes": {"b64": schemas.BLACK}}),
            "application/x-image": openapi.BINARY,
            "image/jpeg": openapi.BINARY,
        },
    ),
)
async def invocations(request: Request) -> Response:
    """Score photos: JSON as for ``:predict``, JSON lines with one photo each, or the bytes of one photo."""
    state, content_type = of(request), request_body.media(request)
    wants_lines = _wants_lines(request.headers.get("accept", ""), content_type)
    async with state.models.using() as served:
        state.batching.check()
        if content_type == _JSON:
            predict_request = tensorflow_serving_v1.read(await request_body.read_json(request, state), state, served)
            results = await state.batching.score(served.network, predict_request.photos, predict_request.jobs)
            if not wants_lines:
                return json_answer(tensorflow_serving_v1.told(results, predict_request.columns))
            return _lines(results)
        if content_type in _LINES_NAMES:
            return await _invoke_lines(await request_body.read(request, state), state, served, wants_lines)
        if content_type == "application/x-image" or content_type.startswith("image/"):
            results = await state.batching.score(served.network, [await request_body.read(request, state)])
            if isinstance(results[0], Problem):
                raise results[0]
            return (
                _lines(results)
                if wants_lines
                else json_answer({"predictions": [tensorflow_serving_v1.scores(results[0])]})
            )
    expected = f"{_JSON}, {_LINES}, application/x-image or image/…"
    raise Problem(415, "media-type", f"expected the content type {expected}, got {content_type[:60] or 'none'!r}")


async def _invoke_lines(body: bytes, state: State, served: Served, wants_lines: bool) -> Response:
    """Score JSON lines, and return scores or an error for each line."""
    rows = []
    for line in io.BytesIO(body):  # counted one by one, because a body of 32 MB may have very many lines
        if line.strip():
            rows.append(line)
            state.check_photos(len(rows))
    if not rows:
        raise Problem(400, "unfit-request", "expected at least one line of JSON, got none")
    results: list[Any] = [None] * len(rows)
    valid_rows: list[tuple[int, bytes, str]] = []
    for index, row in enumerate(rows):
        try:
            row_request = tensorflow_serving_v1.read({"instances": [request_body.parse(row)]}, state, served)
            valid_rows.append((index, row_request.photos[0], row_request.jobs[0]))
        except Problem as problem:
            results[index] = problem
    if valid_rows:
        photos, jobs = [photo for _, photo, _ in valid_rows], [job for *_, job in valid_rows]
        for (index, *_), result in zip(
            valid_rows, await state.batching.score(served.network, photos, jobs), strict=True
        ):
            results[index] = result
    return _lines(results) if wants_lines else json_answer({"predictions": [_line(result) for result in results]})


def _lines(results: list[Photo | Problem]) -> Response:
    text = "".join(json.dumps(_line(result), separators=(",", ":")) + "\n" for result in results)
    return Response(text, media_type=_LINES)


def _line(result: Photo | Problem) -> dict[str, Any]:
    if isinstance(result, Problem):
        return {"error": result.detail, "problem": result.document()}
    return tensorflow_serving_v1.scores(result)


def _accepted(accept: str) -> list[str]:
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
        Problem: 406 if neither JSON nor JSON lines is accepted.
    """
    names = _accepted(accept)
    if not names and not accept.strip():
        return content_type in _LINES_NAMES
    for name in names:
        if name in ("*/*", "application/*"):
            return content_type in _LINES_NAMES
        if name == _JSON or name in _LINES_NAMES:
            return name != _JSON
    raise Problem(406, "not-acceptable", f"expected to be asked for {_JSON} or {_LINES}, got {accept[:100]!r}")
