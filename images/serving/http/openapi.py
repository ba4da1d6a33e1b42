"""What the OpenAPI document says of each address, and the page that shows it without any other host's help."""

import html
import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from images.serving.http import schemas
from images.serving.problem_details import AS_JSON, MEDIA, Problem

TAGS = (
    {"name": "Product", "description": "Scores, ranks, explains and advises on photos that forms send."},
    {"name": "TensorFlow Serving and KServe v1", "description": "What their clients ask for."},
    {"name": "Open Inference (KServe v2)", "description": "What the clients of KServe v2 and Triton ask for."},
    {"name": "SageMaker", "description": "What SageMaker asks of a container."},
    {"name": "Operation", "description": "Probes and metrics."},
)
"""The groups of addresses, in the order in which the document shows them."""

DESCRIPTION = """Rates portrait photos from 1 to 10 the way people would: mean, standard deviation and votes.

Photos are read as JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP, of any orientation and colour space. Errors are
problem documents (RFC 9457) that say what was expected and what came. HEAD is answered as GET is, without the content;
OPTIONS tells the methods of an address.

Every address takes photos alone. Where the scorer reads faces (`stages` of `/about`), the largest face of each photo is
found, cut out and embedded here, as it was in training. A photo without a face is scored too, by what was learnt from
photos without one: that none was found is said in `face`, and is no error."""

JSON, LINES = "application/json", "application/jsonlines"
BINARY = {"schema": {"type": "string", "format": "binary"}}
_REFERENCE = "#/components/schemas/{model}"

_WORDS = {
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
PROBLEMS = {
    each.kind: each
    for each in (
        Problem(400, "not-json", "expected JSON, got 17 bytes that are not: Expecting value at character 0"),
        Problem(400, "broken-form", "expected a multipart form, got one that is broken or cut off"),
        Problem(401, "key", "expected a key as 'Authorization: Bearer …' or 'X-API-Key: …', got none that is known"),
        Problem(404, "unknown-model", "expected the model 'portraits', got 'faces'"),
        Problem(404, "unknown-label", "expected a label of the served version (['champion']), got 'challenger'"),
        Problem(404, "unknown-version", "expected the version '3', which is served, got '2'"),
        Problem(406, "not-acceptable", f"expected to be asked for {JSON} or {LINES}, got 'text/html'"),
        Problem(408, "slow-body", "expected the whole body within 30 s, got 4096 bytes"),
        Problem(
            409,
            "no-maps",
            "expected a network that ends in pooling, which alone has maps; the one that is served does not",
        ),
        Problem(
            413,
            "body-too-large",
            "expected at most 33554432 bytes in a request, got 40000000: send fewer or smaller photos",
            limit=33554432,
        ),
        Problem(
            413,
            "too-many-photos",
            "expected at most 32 photos in a request, got more: send them in several requests",
            limit=32,
        ),
        Problem(415, "media-type", "expected multipart/form-data with a boundary, got 'text/plain'"),
        Problem(415, "content-encoding", "expected a body as it is, got one in 'gzip': photos are small"),
        Problem(421, "host", "expected a host that this server is known by, got another: name it by --hosts"),
        Problem(
            422, "unknown-field", "expected photos as 'photos' or 'photo' and optionally 'job', got a field 'picture'"
        ),
        Problem(
            422,
            "unknown-job",
            "expected a job among ['tutor', 'child care'], or none, got 'pilot'",
            jobs=["tutor", "child care"],
        ),
        Problem(429, "busy", "expected at most 64 requests at once from one client, got more; try again in 1 s"),
        Problem(503, "not-ready", "expected a version to answer: none is loaded yet"),
    )
}
"""An example of each kind of problem that the document tells of, as the server says it."""

_GUARDED = ("key", "host", "busy")  # what the guard, or Nginx before it, may answer in place of an address
_UNKNOWN = {"{label}": "unknown-label", "{version}": "unknown-version", "{name}": "unknown-model"}  # by what is asked
BODY = ("not-ready", "not-json", "slow-body", "body-too-large", "content-encoding", "unknown-job")
FORM = ("not-ready", "broken-form", "slow-body", "too-many-photos", "media-type", "unknown-field")

_SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "One of the server's keys."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same keys."},
}


def schema(*models: type) -> dict[str, Any]:
    """What the document says where JSON is of a model, or of any of several."""
    named = [{"$ref": _REFERENCE.format(model=model.__name__)} for model in models]
    return {"schema": {"anyOf": named} if len(named) > 1 else named[0]}


@cache
def problem(kind: str, *more: type) -> dict[str, Any]:
    """What the document says of an error.

    Args:
        kind: of the problem that is its example.
        more: models of problem documents that say more.
    """
    example = PROBLEMS[kind]
    told = {**schema(schemas.Problem, *more), "example": example.document()}
    return {"description": _WORDS[example.status], "content": {MEDIA: told}}


def json_of(*models: type, words: str = "", example: Any = None, **content: Any) -> dict[str, Any]:
    """What the document says of an answer of JSON.

    Args:
        models: of which it is one.
        words: what it is; by default the first model's docstring.
        example: by default the first model's.
        content: what there may be of other media types instead.
    """
    told = schema(*models) | ({"example": example} if example else {})
    return {"description": words or models[0].__doc__, "content": {JSON: told, **content}}


def route(summary: str, answer: type | Mapping[str, Any], *kinds: str, body: Any = None, **more: Any) -> dict[str, Any]:
    """The arguments of a route that say what it does: nothing of them is done when it is asked.

    Args:
        summary: what it does, in words.
        answer: the model of its JSON, or FastAPI's ``responses`` by status.
        kinds: of the problems that it may answer instead, beside those that follow from its address.
        body: what a request may hold, by media type.
        more: further members of the operation.
    """
    good = answer if isinstance(answer, Mapping) else {"200": json_of(answer)}
    responses = _problems(*kinds) | good
    if body:
        more["requestBody"] = {"required": True, "content": body}
    return {"summary": summary, "responses": responses, "response_model": None, "openapi_extra": more}


def _problems(*kinds: str) -> dict[str, Any]:
    return {str(PROBLEMS[kind].status): problem(kind) for kind in kinds}


def document(app: FastAPI, without_key: Collection[str]) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI knows of the addresses, the schemas of the models, and how a key is sent.

    Args:
        app: whose addresses are described.
        without_key: addresses that ask for no key. The others ask for one where the server has keys.
    """
    if app.openapi_schema:
        return app.openapi_schema
    whole = FastAPI.openapi(app)
    operations = [(path, each) for path, every in whole["paths"].items() for each in every.values()]
    for path, operation in operations:
        _complete(operation, path, path in without_key)
    found = _schemas(set(re.findall(_REFERENCE.format(model=r"(\w+)"), json.dumps(whole["paths"]))))
    for _, operation in operations:
        for each in (operation.get("requestBody", {}), *operation["responses"].values()):
            if JSON in (content := each.get("content", {})):
                content[JSON].setdefault("example", _example(content[JSON]["schema"], found))
    whole["components"] = {"schemas": found, "securitySchemes": _SECURITY}
    whole["security"] = [{name: []} for name in _SECURITY] + [{}]
    return whole


def _complete(operation: dict[str, Any], path: str, without_key: bool) -> None:
    """Add what follows from the address, and leave out FastAPI's own 422, which none here answers."""
    answers = operation["responses"]
    if MEDIA not in answers.get("422", {}).get("content", {}):
        answers.pop("422", None)
    if without_key:
        operation["security"] = []
    else:
        answers |= _problems(*_GUARDED)
    answers |= _problems(*[kind for part, kind in _UNKNOWN.items() if part in path][:1])
    if path.startswith(AS_JSON):
        answers = {status: _as_json(answer) for status, answer in answers.items()}
    operation["responses"] = dict(sorted(answers.items()))


def _as_json(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer whose problem is of the media type of JSON, beside what else is."""
    content = dict(answer.get("content", {}))
    if not (told := content.pop(MEDIA, None)):
        return answer
    if other := content.get(JSON):
        told = {**other, "schema": {"anyOf": [other["schema"], told["schema"]]}}
    return {**answer, "content": {**content, JSON: told}}


def _schemas(names: Collection[str]) -> dict[str, Any]:
    """The schemas of models, and of all that they are made of, by name."""
    adapters = [(name, "serialization", TypeAdapter(getattr(schemas, name))) for name in sorted(names)]
    return TypeAdapter.json_schemas(adapters, ref_template=_REFERENCE)[1]["$defs"]


def _example(schema: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    """An example of a schema, made of those of its members; what may be missing comes where it has one of its own."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _example(_referred(schema, found), found)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], found)
    if "items" in schema:
        return [_example(schema["items"], found)]
    members = schema["properties"].items()
    return {name: _example(each, found) for name, each in members if name in schema["required"] or "examples" in each}


def _referred(schema: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, or the one that it refers to."""
    return found[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def page(document: dict[str, Any]) -> str:
    """The OpenAPI document as one plain page."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_section(path, method, operation, document["components"]["schemas"]))
    info = document["info"]
    return _PAGE.format(
        title=html.escape(info["title"]), description=html.escape(info["description"]), sections="\n".join(parts)
    )


def _section(path: str, method: str, operation: dict[str, Any], found: Mapping[str, Any]) -> str:
    lines = [
        f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p><b>{html.escape(operation.get('summary', ''))}.</b> {html.escape(operation.get('description', ''))}</p>",
    ]
    for parameter in operation.get("parameters", []):
        words = html.escape(parameter.get("description", ""))
        lines.append(f"<p><code>{html.escape(parameter['name'])}</code> ({parameter['in']}) {words}</p>")
    lines += _content("Takes", operation.get("requestBody", {}).get("content", {}), found)
    for status, answer in sorted(operation.get("responses", {}).items()):
        good = status.startswith("2")
        lines.append(f"<p><code>{status}</code> {html.escape(answer['description'])}</p>")
        lines += _content("Gives", answer.get("content", {}), found) if good else []
    return "\n".join([*lines, "</section>"])


def _content(word: str, content: dict[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = []
    for media, told in content.items():
        lines.append(f"<p>{word} <code>{html.escape(media)}</code></p>")
        if "example" in told:
            example = told["example"]
            text = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
            lines.append(f"<pre>{html.escape(text)}</pre>")
        elif fields := _referred(told.get("schema", {}), found).get("properties"):
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
