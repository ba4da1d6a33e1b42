"""What the OpenAPI document says of each address, and the page that shows it without any other host's help."""

import html
import json
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI

from images.serving.problems import MEDIA, Problem

TAGS = (
    {"name": "Product", "description": "Scores, ranks, explains and advises on photos that forms send."},
    {"name": "TensorFlow Serving and KServe v1", "description": "What their clients ask for."},
    {"name": "Open Inference (KServe v2)", "description": "What the clients of KServe v2 and Triton ask for."},
    {"name": "SageMaker", "description": "What SageMaker asks of a container."},
    {"name": "Operation", "description": "Probes and metrics."},
)
"""The groups of addresses, in the order in which the document shows them."""

DESCRIPTION = """Rates portrait photos from 1 to 10 the way people would: mean, standard deviation and votes.

Photos are read as JPEG, PNG, WebP, HEIC, GIF, TIFF or BMP, of any orientation and colour space. Errors are problem
documents (RFC 9457) that say what was expected and what came.

Every address takes photos alone. Where the scorer reads faces (`stages` of `/about`), the largest face of each photo is
found, cut out and embedded here, as it was in training. A photo without a face is scored too, by what was learnt from
photos without one: that none was found is said in `face`, and is no error."""

_B64 = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQE…"
_VOTES = [0.0, 0.01, 0.03, 0.08, 0.15, 0.24, 0.26, 0.15, 0.06, 0.02]
_SCORES = {"mean": 6.3, "std": 1.59, "distribution": _VOTES}
_MODEL = {"name": "portraits", "version": 3}

_NUMBER, _TEXT, _WHOLE, _TRUTH = {"type": "number"}, {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def _object(properties: dict[str, Any], *optional: str, **more: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, **({"required": required} if required else {}), **more}


def _list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_SCORE_FIELDS = {
    "mean": {**_NUMBER, "minimum": 1, "maximum": 10},
    "std": {**_NUMBER, "minimum": 0},
    "distribution": _list({**_NUMBER, "minimum": 0, "maximum": 1}, minItems=10, maxItems=10),
}
_BYTES = {**_TEXT, "format": "binary"}
_PROBLEM = _object(
    {
        "type": _TEXT,
        "title": _TEXT,
        "status": _WHOLE,
        "detail": _TEXT,
        "error": {**_TEXT, "description": "the detail again, for clients of TensorFlow Serving, KServe and Triton"},
    },
    description="A problem document (RFC 9457)",
)
_MODEL_SCHEMA = _object({"name": _TEXT, "version": _or_null(_WHOLE)})
_FINDING = _object(
    {
        "key": _TEXT,
        "kept": {**_or_null(_TRUTH), "description": "null: it could not be checked, for the reason in why"},
        "value": _or_null(_NUMBER),
        "threshold": _NUMBER,
        "sentence": {**_TEXT, "description": "what the person reads; empty unless the norm is broken"},
        "why": _TEXT,
    }
)
_FINDING_EXAMPLE = {
    "key": "too_dark", "kept": False, "value": 2.4, "threshold": 1.9,
    "sentence": "Your photo is too dark. Take it again by a window.", "why": "",
}  # fmt: skip
_FACE = _or_null(
    _object(
        {
            "found": _TRUTH,
            "count": _WHOLE,
            "box": {**_or_null(_list(_NUMBER)), "description": "x, y, width, height, as shares of the photo's"},
            "confidence": _or_null(_NUMBER),
        },
        description="null: faces are not looked for",
    )
)
_FACE_EXAMPLE = {"found": True, "count": 1, "box": [0.31, 0.18, 0.36, 0.41], "confidence": 0.93}
_FAILED = _object({"index": _WHOLE, "name": _TEXT, "problem": _PROBLEM})

_WORDS = {
    400: "What came is broken or of another form",
    401: "A key is asked for",
    404: "There is no such model, version or label here",
    406: "What is accepted cannot be given",
    408: "The body took too long",
    409: "The network that is served has no maps",
    413: "Too large: the body, a photo, or their number",
    415: "Another content type",
    421: "No key is set, and the host is none that is answered without one (`--hosts`)",
    422: "What came cannot be scored",
    429: "Too much is under way: try again after as many seconds as Retry-After says",
    503: "No version is loaded yet",
}
_EXAMPLES = {
    400: ("not-json", "expected JSON, got 17 bytes that are not: Expecting value at character 0"),
    401: ("key", "expected a key as 'Authorization: Bearer …' or 'X-API-Key: …', got none that is known"),
    404: ("unknown-version", "expected version 3, got '2'"),
    406: ("not-acceptable", "expected application/json or application/jsonlines to be accepted, got 'text/html'"),
    408: ("slow-body", "expected the whole body within 30 s, got 4096 bytes"),
    409: ("no-maps", "expected a network that gives maps, got one that has none"),
    413: ("too-many-photos", "expected at most 32 photos in a request, got 40: send them in several requests"),
    415: ("media-type", "expected multipart/form-data with a boundary, got 'text/plain'"),
    421: ("host", "expected a host that is answered without a key, got 'example.com'"),
    422: ("unknown-field", "expected photos as 'photos' and optionally 'job', got a field 'picture'"),
    429: ("busy", "expected a free place, but 64 photos wait; try again in 2 s"),
    503: ("not-ready", "no version is loaded yet"),
}
_EVERYWHERE = (401, 421, 429, 503)  # what the guard, or Nginx before it, may answer in place of any address

_SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "One of the server's keys."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same keys."},
}


def _problem(status: int) -> dict[str, Any]:
    """What the document says of an error of this status."""
    kind, detail = _EXAMPLES[status]
    return {
        "description": _WORDS[status],
        "content": {MEDIA: {"schema": _PROBLEM, "example": Problem(status, kind, detail).document()}},
    }


def _route(summary: str, answers: dict[int, Any], *errors: int, **more: Any) -> dict[str, Any]:
    """The arguments of a route that say what it does."""
    problems = {status: _problem(status) for status in sorted({*_EVERYWHERE, *errors})}
    return {"summary": summary, "responses": problems | answers, "response_model": None, "openapi_extra": more}


def document(app: FastAPI, without_key: Collection[str]) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI knows of the addresses, and how a key is sent.

    Args:
        app: whose addresses are described.
        without_key: addresses that ask for no key. The others ask for one where the server has keys.
    """
    whole = FastAPI.openapi(app)
    whole.setdefault("components", {})["securitySchemes"] = _SECURITY
    whole["security"] = [{name: []} for name in _SECURITY] + [{}]
    for path in without_key:
        for operation in whole["paths"].get(path, {}).values():
            operation["security"] = []
    return whole


def _json(words: str, schema: dict[str, Any], example: Any, media: str = "application/json") -> dict[str, Any]:
    return {"description": words, "content": {media: {"schema": schema, "example": example}}}


def _body(**content: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


# ---- product


def _form(field: str, single: bool = False) -> dict[str, Any]:
    photo = {"type": "string", "format": "binary"}
    fields = {field: photo if single else _list(photo, minItems=1), "job": _TEXT}
    return _body(**{"multipart/form-data": {"schema": _object(fields, "job", additionalProperties=False)}})


_FORM_ERRORS = (400, 408, 413, 415, 422, 429)
_SCORED = _object({"index": _WHOLE, "name": _TEXT, **_SCORE_FIELDS, "error": _or_null(_NUMBER), "face": _FACE,
                   "norms": _list(_FINDING)})  # fmt: skip
_SCORED_EXAMPLE = {"index": 0, "name": "me.jpg", **_SCORES, "error": 0.7, "face": _FACE_EXAMPLE,
                   "norms": [_FINDING_EXAMPLE]}  # fmt: skip

ABOUT = _route(
    "What is served, and what it takes",
    {
        200: _json(
            "The model, its jobs, norms, stages and limits",
            _object(
                {
                    "name": _TEXT,
                    "version": _or_null(_WHOLE),
                    "channel": _or_null(_TEXT),
                    "jobs": _list(_TEXT),
                    "attributes": _list(_TEXT),
                    "error": _or_null(_NUMBER),
                    "faces": {**_TRUTH, "description": "whether faces are looked for"},
                    "stages": _list(
                        {**_TEXT, "enum": ["normalise", "detect", "align", "embed", "score"]},
                        description="what a photo goes through, in this order",
                    ),
                    "norms": _list(_object({"key": _TEXT, "sentence": _TEXT})),
                    "limits": _object({"photos": _WHOLE, "bytes": _WHOLE, "pixels": _WHOLE, "seconds": _NUMBER}),
                }
            ),
            {
                **_MODEL, "channel": "champion", "jobs": ["tutor", "child care"], "attributes": ["sunglasses"],
                "error": 0.7, "faces": True, "stages": ["normalise", "detect", "align", "embed", "score"],
                "norms": [{"key": "too_dark", "sentence": _FINDING_EXAMPLE["sentence"]}],
                "limits": {"photos": 32, "bytes": 33554432, "pixels": 50000000, "seconds": 30.0},
            },
        )
    },
)  # fmt: skip
SCORE = _route(
    "Score photos, with faces and upload norms",
    {
        200: _json(
            "The scores, in the order of the photos; one that cannot be read has a problem instead",
            _object({"model": _MODEL_SCHEMA, "job": _or_null(_TEXT), "photos": _list({"anyOf": [_SCORED, _FAILED]})}),
            {"model": _MODEL, "job": "tutor", "photos": [_SCORED_EXAMPLE]},
        )
    },
    *_FORM_ERRORS,
    **_form("photos"),
)
RANK = _route(
    "Order photos",
    {
        200: _json(
            "The photos by score; those that cannot be told apart share a rank (1, 1, 3)",
            _object(
                {
                    "model": _MODEL_SCHEMA,
                    "job": _or_null(_TEXT),
                    "order": _list(
                        _object(
                            {"rank": _WHOLE, "index": _WHOLE, "name": _TEXT, "mean": _NUMBER, "std": _NUMBER,
                             "low": _NUMBER, "high": _NUMBER, "tied": _TRUTH}
                        )
                    ),
                    "problems": _list(_FAILED),
                }
            ),
            {
                "model": _MODEL, "job": "tutor", "problems": [],
                "order": [
                    {"rank": 1, "index": 1, "name": "b.jpg", "mean": 7.4, "std": 1.3, "low": 6.7, "high": 8.1,
                     "tied": False},
                    {"rank": 2, "index": 0, "name": "a.jpg", "mean": 6.3, "std": 1.6, "low": 5.6, "high": 7.0,
                     "tied": False},
                ],
            },
        )
    },
    *_FORM_ERRORS,
    **_form("photos"),
)  # fmt: skip
EXPLAIN = _route(
    "Show where a score comes from",
    {200: {"description": "The photo under the map", "content": {"image/png": {"schema": _BYTES}}}},
    *_FORM_ERRORS,
    409,
    parameters=[
        {"name": "map", "in": "query", "schema": {**_TEXT, "enum": ["heat", "gains"], "default": "heat"},
         "description": "heat: where the score comes from; gains: what each place gains (orange) or costs (purple)."
                        " Both are of the whole photo; what a face that is read by itself adds is held"}
    ],
    **_form("photo", single=True),
)  # fmt: skip

_SUGGESTED = {
    "edit": _TEXT,
    "value": _NUMBER,
    "unit": _TEXT,
    "gain": {**_NUMBER, "description": "score points"},
    "error": {**_NUMBER, "description": "standard error of the gain"},
    "mean": _NUMBER,
    "sentence": _TEXT,
    "preview": {**_TEXT, "description": "the edited photo, as a data: address"},
}
_TOGETHER = {name: schema for name, schema in _SUGGESTED.items() if name not in ("edit", "value", "unit")}
_SUGGESTED_EXAMPLE = {
    "edit": "brightness", "value": 0.5, "unit": "stops", "gain": 0.6, "error": 0.05, "mean": 6.9,
    "sentence": "Brighten the photo a little (about half a stop): it would score 0.6 higher.",
    "preview": "data:image/jpeg;base64,/9j/4AAQ…",
}  # fmt: skip
ADVISE = _route(
    "What would make a photo score higher",
    {
        200: _json(
            "Edits that hold, the largest gain first, all of them together, and those that were refused",
            _object(
                {
                    "model": _MODEL_SCHEMA,
                    "job": _or_null(_TEXT),
                    "mean": _NUMBER,
                    "std": _NUMBER,
                    "face": _FACE,
                    "norms": _list(_FINDING),
                    "advice": _list(_object(_SUGGESTED)),
                    "together": _or_null(_object({"settings": {"type": "object"}, **_TOGETHER})),
                    "refused": _list(
                        _object({"edit": _TEXT, "value": _or_null(_NUMBER), "why": _TEXT, "reason": _TEXT})
                    ),
                }
            ),
            {
                "model": _MODEL, "job": "tutor", "mean": 6.3, "std": 1.59, "face": _FACE_EXAMPLE,
                "norms": [_FINDING_EXAMPLE], "advice": [_SUGGESTED_EXAMPLE],
                "together": {"settings": {"brightness": 0.5}, **{name: _SUGGESTED_EXAMPLE[name] for name in _TOGETHER}},
                "refused": [{"edit": "crop", "value": 10.0, "why": "noise",
                             "reason": "Its gain of 0.10 is not beyond the scorer's own noise on this photo."}],
            },
        )
    },
    *_FORM_ERRORS,
    **_form("photo", single=True),
)  # fmt: skip

# ---- TensorFlow Serving, KServe v1

_INSTANCE = {
    "anyOf": [
        _object({"image_bytes": _object({"b64": _TEXT}), "job": _TEXT}, "job"),
        _object({"b64": _TEXT, "job": _TEXT}, "job"),
    ]
}
_ROWS = _object({"instances": _list(_INSTANCE, minItems=1), "signature_name": _TEXT}, "signature_name")
_COLUMNS = _object(
    {"inputs": {"anyOf": [_list(_INSTANCE), _object({"image_bytes": _list(_INSTANCE), "job": _list(_TEXT)}, "job")]}}
)
_ROWS_EXAMPLE = {"instances": [{"image_bytes": {"b64": _B64}, "job": "tutor"}]}
_PREDICTIONS = _json(
    "Scores as rows, or as columns where the request has columns",
    {
        "anyOf": [
            _object({"predictions": _list(_object(_SCORE_FIELDS))}),
            _object({"outputs": _object({name: _list(schema) for name, schema in _SCORE_FIELDS.items()})}),
        ]
    },
    {"predictions": [_SCORES]},
)
_JSON_ERRORS = (400, 408, 413, 422, 429)

PREDICT = _route(
    "Score photos (TensorFlow Serving, KServe v1)",
    {200: _PREDICTIONS},
    *_JSON_ERRORS,
    404,
    **_body(**{"application/json": {"schema": {"anyOf": [_ROWS, _COLUMNS]}, "example": _ROWS_EXAMPLE}}),
)
MODELS = _route("The models", {200: _json("Their names", _object({"models": _list(_TEXT)}), {"models": ["portraits"]})})
STATUS = _route(
    "Which version is served",
    {
        200: _json(
            "Its status",
            _object({"model_version_status": _list({"type": "object"}), "name": _TEXT, "ready": _TRUTH}),
            {
                "model_version_status": [
                    {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
                ],
                "name": "portraits",
                "ready": True,
            },
        )
    },
    404,
)
METADATA = _route(
    "The signature",
    {
        200: _json(
            "As TensorFlow Serving gives it",
            _object({"model_spec": {"type": "object"}, "metadata": {"type": "object"}}),
            {"model_spec": {"name": "portraits", "signature_name": "", "version": "3"}, "metadata": {}},
        )
    },
    404,
)

# ---- Open Inference

_TENSOR = _object(
    {"name": _TEXT, "shape": _list({**_WHOLE, "minimum": 0}), "datatype": _TEXT, "parameters": {"type": "object"},
     "data": _list({})},
    "parameters",
    "data",
)  # fmt: skip
SERVER = _route(
    "What this server is",
    {
        200: _json(
            "Its name and extensions",
            _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
            {"name": "portrait-scorer", "version": "1", "extensions": ["binary_tensor_data"]},
        )
    },
)
LIVE_V2 = _route("The process answers", {200: _json("It does", _object({"live": _TRUTH}), {"live": True})})
READY_V2 = _route("A version answers", {200: _json("It does", _object({"ready": _TRUTH}), {"ready": True})}, 404)
READY_V2["responses"][503] = _json("It does not", {"type": "object"}, {"ready": False})
READY_V2["responses"][503]["content"][MEDIA] = {"schema": _PROBLEM}
MODEL_V2 = _route(
    "The tensors",
    {
        200: _json(
            "Inputs and outputs",
            _object(
                {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list({"type": "object"}),
                 "outputs": _list({"type": "object"})}
            ),
            {
                "name": "portraits", "versions": ["3"], "platform": "litert",
                "inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}],
                "outputs": [{"name": "mean", "datatype": "FP32", "shape": [-1]}],
            },
        )
    },
    404,
)  # fmt: skip
INFER = _route(
    "Score photos (Open Inference, KServe v2)",
    {
        200: {
            "description": "Scores; with binary tensors where they were asked for",
            "content": {
                "application/json": {
                    "schema": _object(
                        {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "outputs": _list(_TENSOR)}, "id"
                    ),
                    "example": {
                        "model_name": "portraits",
                        "model_version": "3",
                        "outputs": [{"name": "mean", "datatype": "FP32", "shape": [1], "data": [6.3]}],
                    },
                },
                "application/octet-stream": {"schema": _BYTES},
            },
        }
    },
    *_JSON_ERRORS,
    404,
    **_body(
        **{
            "application/json": {
                "schema": _object(
                    {"id": _TEXT, "inputs": _list(_TENSOR, minItems=1), "outputs": _list({"type": "object"})},
                    "id",
                    "outputs",
                ),
                "example": {"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [_B64]}]},
            }
        }
    ),
)  # fmt: skip

# ---- SageMaker

PING = _route("The process answers", {200: {"description": "It does"}})
INVOCATIONS = _route(
    "Score photos (SageMaker)",
    {
        200: {
            "description": "Scores, as JSON or JSON lines",
            "content": {
                **_PREDICTIONS["content"],
                "application/jsonlines": {"schema": _TEXT, "example": json.dumps(_SCORES) + "\n"},
            },
        }
    },
    *_JSON_ERRORS,
    406,
    415,
    **_body(
        **{
            "application/json": {"schema": {"anyOf": [_ROWS, _COLUMNS]}, "example": _ROWS_EXAMPLE},
            "application/jsonlines": {"schema": _TEXT, "example": json.dumps({"image_bytes": {"b64": _B64}}) + "\n"},
            "application/x-image": {"schema": _BYTES},
            "image/jpeg": {"schema": _BYTES},
        }
    ),
)

# ---- operation

LIVE = _route("The process answers", {200: _json("It does", _object({"live": _TRUTH}), {"live": True})})
_READY = _object({"ready": _TRUTH, "version": _or_null(_TEXT), "draining": _TRUTH, "failing": _TRUTH})
_READY_EXAMPLE = {"ready": True, "version": "3", "draining": False, "failing": False}
READY = _route("Requests are welcome", {200: _json("They are", _READY, _READY_EXAMPLE)})
READY["responses"][503] = _json("They are not", _READY, _READY_EXAMPLE | {"ready": False, "draining": True})
METRICS = _route(
    "Metrics for Prometheus, over all workers",
    {200: {"description": "Text format", "content": {"text/plain": {"schema": _TEXT}}}},
)


def page(document: dict[str, Any]) -> str:
    """The OpenAPI document as one plain page."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_section(path, method, operation))
    info = document["info"]
    return _PAGE.format(
        title=html.escape(info["title"]), description=html.escape(info["description"]), sections="\n".join(parts)
    )


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [
        f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p><b>{html.escape(operation.get('summary', ''))}.</b> {html.escape(operation.get('description', ''))}</p>",
    ]
    for parameter in operation.get("parameters", []):
        words = html.escape(parameter.get("description", ""))
        lines.append(f"<p><code>{html.escape(parameter['name'])}</code> ({parameter['in']}) {words}</p>")
    lines += _content("Takes", operation.get("requestBody", {}).get("content", {}))
    for status, answer in sorted(operation.get("responses", {}).items()):
        good = status.startswith("2")
        lines.append(f"<p><code>{status}</code> {html.escape(answer['description'])}</p>")
        lines += _content("Gives", answer.get("content", {})) if good else []
    return "\n".join([*lines, "</section>"])


def _content(word: str, content: dict[str, Any]) -> list[str]:
    lines = []
    for media, told in content.items():
        lines.append(f"<p>{word} <code>{html.escape(media)}</code></p>")
        if "example" in told:
            example = told["example"]
            text = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
            lines.append(f"<pre>{html.escape(text)}</pre>")
        elif fields := told.get("schema", {}).get("properties"):
            lines.append(f"<p>Fields: {', '.join(f'<code>{html.escape(name)}</code>' for name in fields)}</p>")
    return lines


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="stylesheet" href="docs/reference.css">
</head>
<body>
<h1>{title}</h1>
<p>{description}</p>
<p>For programs: <a href="openapi.json">openapi.json</a></p>
{sections}
</body>
</html>
"""

STYLE = """:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; border-top: 1px solid; padding-top: 1rem; overflow-wrap: anywhere }
p { margin: .4rem 0 }
pre { overflow-x: auto; padding: .8rem; border: 1px solid; border-radius: .3rem; font-size: .85rem }
"""
