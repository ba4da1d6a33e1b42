"""OpenAPI: arguments that document routes, the document itself, and a page that shows it without other hosts."""

import html
import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from images.serving.http import schemas
from images.serving.problem_details import JSON_PROBLEM_PREFIXES, MEDIA_TYPE, ProblemDetails

TAGS = (
    {"name": "Product", "description": "Scores, ranks, explains and advises on photos that forms send."},
    {"name": "TensorFlow Serving and KServe v1", "description": "What their clients ask for."},
    {"name": "Open Inference (KServe v2)", "description": "What the clients of KServe v2 and Triton ask for."},
    {"name": "SageMaker", "description": "What SageMaker asks of a container."},
    {"name": "Operation", "description": "Probes and metrics."},
)
"""OpenAPI tags, in the order in which the document shows them."""

DESCRIPTION = """Rates portrait photos from 1 to 10 the way people would: mean, standard deviation and votes.

Photos are read as JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP, of any orientation and colour space. Errors are
problem documents (RFC 9457) that say what was expected and what came. HEAD is answered as GET is, without the content;
OPTIONS tells the methods of an address.

Every address takes photos alone. Where the scorer reads faces (`stages` of `/about`), the largest face of each photo is
found, cut out and embedded here, as it was in training. A photo without a face is scored too, by what was learnt from
photos without one: that none was found is said in `face`, and is no error."""

JSON, JSON_LINES = "application/json", "application/jsonlines"
BINARY_CONTENT = {"schema": {"type": "string", "format": "binary"}}
_REFERENCE = "#/components/schemas/{model}"

_STATUS_DESCRIPTIONS = {
    400: "What came is broken or of another form",
    401: "A key is asked for",
    404: "There is no such model, version or label here",
    406: "What is accepted cannot be given",
    408: "The body took too long",
    409: "The network that is served has no maps",
    413: "Too large: the body, a photo, or their number",
    415: "Another content type, or a compressed body",
    421: "No key is set, and the host is none that is answered without one (`--hosts`)",
    422: "What came cannot be scored",
    429: "Too much is under way: try again after as many seconds as Retry-After says",
    503: "No version is loaded yet",
}
EXAMPLE_PROBLEMS = {
    example.kind: example
    for example in (
        ProblemDetails(400, "not-json", "expected JSON, got 17 bytes that are not: Expecting value at character 0"),
        ProblemDetails(400, "broken-form", "expected a multipart form, got one that is broken or cut off"),
        ProblemDetails(
            401, "key", "expected a key as 'Authorization: Bearer …' or 'X-API-Key: …', got none that is known"
        ),
        ProblemDetails(404, "unknown-model", "expected the model 'portraits', got 'faces'"),
        ProblemDetails(404, "unknown-label", "expected a label of the served version (['champion']), got 'challenger'"),
        ProblemDetails(404, "unknown-version", "expected the version '3', which is served, got '2'"),
        ProblemDetails(406, "not-acceptable", f"expected to be asked for {JSON} or {JSON_LINES}, got 'text/html'"),
        ProblemDetails(408, "slow-body", "expected the whole body within 30 s, got 4096 bytes"),
        ProblemDetails(
            409,
            "no-maps",
            "expected a network that ends in pooling, which alone has maps; the one that is served does not",
        ),
        ProblemDetails(
            413,
            "body-too-large",
            "expected at most 33554432 bytes in a request, got 40000000: send fewer or smaller photos",
            limit=33554432,
        ),
        ProblemDetails(
            413,
            "too-many-photos",
            "expected at most 32 photos in a request, got more: send them in several requests",
            limit=32,
        ),
        ProblemDetails(415, "media-type", "expected multipart/form-data with a boundary, got 'text/plain'"),
        ProblemDetails(415, "content-encoding", "expected a body as it is, got one in 'gzip': photos are small"),
        ProblemDetails(421, "host", "expected a host that this server is known by, got another: name it by --hosts"),
        ProblemDetails(
            422, "unknown-field", "expected photos as 'photos' or 'photo' and optionally 'job', got a field 'picture'"
        ),
        ProblemDetails(
            422,
            "unknown-job",
            "expected a job among ['tutor', 'child care'], or none, got 'pilot'",
            jobs=["tutor", "child care"],
        ),
        ProblemDetails(429, "busy", "expected at most 64 requests at once from one client, got more; try again in 1 s"),
        ProblemDetails(503, "not-ready", "expected a version to answer: none is loaded yet"),
    )
}
"""Example of each documented problem, by kind, with the detail that the server writes."""

# Kinds of problems from `SecurityMiddleware` or Nginx, on every route with a key.
_MIDDLEWARE_PROBLEM_KINDS = ("key", "host", "busy")
# By path parameter.
_PARAMETER_PROBLEM_KINDS = {"{label}": "unknown-label", "{version}": "unknown-version", "{name}": "unknown-model"}
BODY_PROBLEM_KINDS = ("not-ready", "not-json", "slow-body", "body-too-large", "content-encoding", "unknown-job")
FORM_PROBLEM_KINDS = ("not-ready", "broken-form", "slow-body", "too-many-photos", "media-type", "unknown-field")

_SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "One of the server's keys."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same keys."},
}


def schema_of(*models: type) -> dict[str, Any]:
    """Return the schema reference of one model, or of any of several models."""
    named = [{"$ref": _REFERENCE.format(model=model.__name__)} for model in models]
    return {"schema": {"anyOf": named} if len(named) > 1 else named[0]}


@cache
def problem_response(kind: str, *models: type) -> dict[str, Any]:
    """Return the response object of an error.

    Args:
        kind: Kind of the problem that serves as the example.
        models: Models of problem documents with further members.
    """
    example = EXAMPLE_PROBLEMS[kind]
    content = {**schema_of(schemas.Problem, *models), "example": example.to_document()}
    return {"description": _STATUS_DESCRIPTIONS[example.status], "content": {MEDIA_TYPE: content}}


def success_response(
    *models: type, description: str = "", example: Any = None, content: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the response object of a JSON response.

    Args:
        models: Models of the JSON; a response follows one of them.
        description: Description. Default: the first model's docstring.
        example: Example. Default: the first model's example.
        content: Media type objects of alternative content, by media type.
    """
    media_type_object = schema_of(*models) | ({"example": example} if example else {})
    return {"description": description or models[0].__doc__, "content": {JSON: media_type_object, **(content or {})}}


def route_arguments(
    summary: str, response: type | Mapping[str, Any], *problem_kinds: str, body: Any = None, **members: Any
) -> dict[str, Any]:
    """Return FastAPI's arguments for a route that document the route and change nothing at run time.

    Args:
        summary: Summary of the operation.
        response: Model of the JSON response, or FastAPI's ``responses`` by status.
        problem_kinds: Kinds of the problems that the route may return. The path implies further kinds; see
            `build_document`.
        body: Media type objects of the request body, by media type. None means no body.
        members: Further members of the operation object.
    """
    success = response if isinstance(response, Mapping) else {"200": success_response(response)}
    responses = {**_problem_responses(*problem_kinds), **success}
    if body:
        members["requestBody"] = {"required": True, "content": body}
    return {"summary": summary, "responses": responses, "response_model": None, "openapi_extra": members}


def _problem_responses(*kinds: str) -> dict[str, Any]:
    return {str(EXAMPLE_PROBLEMS[kind].status): problem_response(kind) for kind in kinds}


def build_document(app: FastAPI, without_key: Collection[str]) -> dict[str, Any]:
    """Return the OpenAPI document: FastAPI's own, completed with schemas, implied problems, examples and security.

    Args:
        app: Application with the documented routes.
        without_key: Paths that need no key. All other paths need a key if the server has keys.
    """
    if app.openapi_schema:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    for path, operation in operations:
        _complete_operation(operation, path, path in without_key)
    models = _schemas(set(re.findall(_REFERENCE.format(model=r"(\w+)"), json.dumps(document["paths"]))))
    for _, operation in operations:
        for member in (operation.get("requestBody", {}), *operation["responses"].values()):
            if JSON in (content := member.get("content", {})):
                content[JSON].setdefault("example", _compose_example(content[JSON]["schema"], models))
    document["components"] = {"schemas": models, "securitySchemes": _SECURITY}
    document["security"] = [{name: []} for name in _SECURITY] + [{}]
    return document


def _complete_operation(operation: dict[str, Any], path: str, without_key: bool) -> None:
    """Add the problems that the path implies, and remove FastAPI's own 422, which no route returns."""
    responses = operation["responses"]
    if MEDIA_TYPE not in responses.get("422", {}).get("content", {}):
        responses.pop("422", None)
    if without_key:
        operation["security"] = []
    else:
        responses |= _problem_responses(*_MIDDLEWARE_PROBLEM_KINDS)
    responses |= _problem_responses(*[kind for part, kind in _PARAMETER_PROBLEM_KINDS.items() if part in path][:1])
    if path.startswith(JSON_PROBLEM_PREFIXES):
        responses = {status: _with_json_problem(answer) for status, answer in responses.items()}
    operation["responses"] = dict(sorted(responses.items()))


def _with_json_problem(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response object whose problem has the media type application/json."""
    content = dict(response.get("content", {}))
    if not (problem := content.pop(MEDIA_TYPE, None)):
        return response
    if other := content.get(JSON):
        problem = {**other, "schema": {"anyOf": [other["schema"], problem["schema"]]}}
    return {**response, "content": {**content, JSON: problem}}


def _schemas(names: Collection[str]) -> dict[str, Any]:
    """Return the JSON schemas of models and of their nested models, by name."""
    adapters: list[tuple[str, Literal["serialization"], TypeAdapter[Any]]] = [
        (name, "serialization", TypeAdapter(getattr(schemas, name))) for name in sorted(names)
    ]
    return TypeAdapter.json_schemas(adapters, ref_template=_REFERENCE)[1]["$defs"]


def _compose_example(schema: Mapping[str, Any], models: Mapping[str, Any]) -> Any:
    """Return an example of a schema, composed from its members' examples.

    Optional members are included if they have examples.
    """
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _compose_example(_resolve_reference(schema, models), models)
    if "anyOf" in schema:
        return _compose_example(schema["anyOf"][0], models)
    if "items" in schema:
        return [_compose_example(schema["items"], models)]
    members = schema["properties"].items()
    return {
        name: _compose_example(member, models)
        for name, member in members
        if name in schema["required"] or "examples" in member
    }


def _resolve_reference(schema: Mapping[str, Any], models: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that a ``$ref`` names, or the schema itself if it has no ``$ref``."""
    return models[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def render_page(document: dict[str, Any]) -> str:
    """Return the OpenAPI document as one plain HTML page."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_render_operation(path, method, operation, document["components"]["schemas"]))
    info = document["info"]
    return _PAGE_TEMPLATE.format(
        title=html.escape(info["title"]), description=_render_prose(info["description"]), sections="\n".join(parts)
    )


def _render_prose(text: str) -> str:
    """Return a text as HTML: what stands between backticks as code, and an empty line as a new paragraph."""
    escaped = re.sub(r"(`{1,2})([^`]+)\1", r"<code>\2</code>", html.escape(text))
    return escaped.replace("\n\n", "</p>\n<p>")


def _render_operation(path: str, method: str, operation: dict[str, Any], models: Mapping[str, Any]) -> str:
    lines = [
        f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p><b>{html.escape(operation.get('summary', ''))}.</b> {_render_prose(operation.get('description', ''))}</p>",
    ]
    for parameter in operation.get("parameters", []):
        description = _render_prose(parameter.get("description", ""))
        lines.append(f"<p><code>{html.escape(parameter['name'])}</code> ({parameter['in']}) {description}</p>")
    lines += _render_content("Takes", operation.get("requestBody", {}).get("content", {}), models)
    for status, answer in sorted(operation.get("responses", {}).items()):
        is_success = status.startswith("2")
        lines.append(f"<p><code>{status}</code> {_render_prose(answer['description'])}</p>")
        lines += _render_content("Gives", answer.get("content", {}), models) if is_success else []
    return "\n".join([*lines, "</section>"])


def _render_content(verb: str, content: dict[str, Any], models: Mapping[str, Any]) -> list[str]:
    lines = []
    for media_type, media_type_object in content.items():
        lines.append(f"<p>{verb} <code>{html.escape(media_type)}</code></p>")
        if "example" in media_type_object:
            example = media_type_object["example"]
            text = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
            lines.append(f"<pre>{html.escape(text)}</pre>")
        elif fields := _resolve_reference(media_type_object.get("schema", {}), models).get("properties"):
            lines.append(f"<p>Fields: {', '.join(f'<code>{html.escape(name)}</code>' for name in fields)}</p>")
    return lines


_PAGE_TEMPLATE = """<!doctype html>
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

STYLESHEET = """:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; border-top: 1px solid; padding-top: 1rem; overflow-wrap: anywhere }
p { margin: .4rem 0 }
pre { overflow-x: auto; padding: .8rem; border: 1px solid; border-radius: .3rem; font-size: .85rem }
"""
