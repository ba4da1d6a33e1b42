"""SageMaker's contract for hosting: ``/ping`` and ``/invocations`` on port 8080.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. JSON is that of TensorFlow Serving,
as with SageMaker's own TensorFlow container; of JSON lines each is one photo, and fails alone; a picture is a picture.
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
    """What the OpenAPI document says of JSON lines."""
    return {"schema": {"type": "string"}, "example": json.dumps(line) + "\n"}


@router.get("/ping", **openapi.route("The process answers", {"200": {"description": "It does."}}))
async def ping() -> Response:
    """The process answers: also while a version is being loaded, for which requests wait."""
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
    """Score photos: JSON as of ``:predict``, JSON lines of one photo each, or the bytes of one picture."""
    state, kind = of(request), request_body.media(request)
    lines = _wants_lines(request.headers.get("accept", ""), kind)
    async with state.models.using() as served:
        state.batching.check()
        if kind == _JSON:
            asked = tensorflow_serving_v1.read(await request_body.read_json(request, state), state, served)
            found = await state.batching.score(served.network, asked.photos, asked.jobs)
            if not lines:
                return json_answer(tensorflow_serving_v1.told(found, asked.columns))
            return _lines(found)
        if kind in _LINES_NAMES:
            return await _invoke_lines(await request_body.read(request, state), state, served, lines)
        if kind == "application/x-image" or kind.startswith("image/"):
            found = await state.batching.score(served.network, [await request_body.read(request, state)])
            if isinstance(found[0], Problem):
                raise found[0]
            return _lines(found) if lines else json_answer({"predictions": [tensorflow_serving_v1.scores(found[0])]})
    known = f"{_JSON}, {_LINES}, application/x-image or image/…"
    raise Problem(415, "media-type", f"expected the content type {known}, got {kind[:60] or 'none'!r}")


async def _invoke_lines(body: bytes, state: State, served: Served, lines: bool) -> Response:
    """An answer or a problem a line."""
    rows = []
    for line in io.BytesIO(body):  # one by one: in 32 MB there may be very many
        if line.strip():
            rows.append(line)
            state.check_photos(len(rows))
    if not rows:
        raise Problem(400, "unfit-request", "expected at least one line of JSON, got none")
    told: list[Any] = [None] * len(rows)
    asked: list[tuple[int, bytes, str]] = []
    for place, row in enumerate(rows):
        try:
            one = tensorflow_serving_v1.read({"instances": [request_body.parse(row)]}, state, served)
            asked.append((place, one.photos[0], one.jobs[0]))
        except Problem as problem:
            told[place] = problem
    if asked:
        photos, jobs = [photo for _, photo, _ in asked], [job for *_, job in asked]
        for (place, *_), found in zip(asked, await state.batching.score(served.network, photos, jobs), strict=True):
            told[place] = found
    return _lines(told) if lines else json_answer({"predictions": [_line(each) for each in told]})


def _lines(found: list[Photo | Problem]) -> Response:
    text = "".join(json.dumps(_line(each), separators=(",", ":")) + "\n" for each in found)
    return Response(text, media_type=_LINES)


def _line(found: Photo | Problem) -> dict[str, Any]:
    if isinstance(found, Problem):
        return {"error": found.detail, "problem": found.document()}
    return tensorflow_serving_v1.scores(found)


def _accepted(accept: str) -> list[str]:
    """The media types of an Accept header, those that are wanted most first, without what is not wanted at all."""
    weighed = []
    for part in filter(str.strip, accept.split(",")):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        weighed.append((name, float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0))
    return [name for name, weight in sorted(weighed, key=lambda each: -each[1]) if weight]


def _wants_lines(accept: str, kind: str) -> bool:
    """Whether the answer is to be JSON lines: what is accepted first of what there is, else as the request.

    Raises:
        Problem: 406, none of both is accepted.
    """
    names = _accepted(accept)
    if not names and not accept.strip():
        return kind in _LINES_NAMES
    for name in names:
        if name in ("*/*", "application/*"):
            return kind in _LINES_NAMES
        if name == _JSON or name in _LINES_NAMES:
            return name != _JSON
    raise Problem(406, "not-acceptable", f"expected to be asked for {_JSON} or {_LINES}, got {accept[:100]!r}")
