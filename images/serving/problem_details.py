"""Problem documents (RFC 9457): the server's errors, which say what was expected and what came.

Each document repeats ``detail`` as ``error``, the member that clients of TensorFlow Serving, KServe and Triton read.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response

MEDIA_TYPE = "application/problem+json"
JSON_PROBLEM_PREFIXES = ("/v1/", "/v2/")
"""Path prefixes whose problems have the media type application/json: KServe's client reads the detail of no other."""
_TYPE_PREFIX = "urn:portrait-scorer:problem:"


class ProblemDetails(Exception):
    """The error of a request, or of one photo in a request.

    Attributes:
        status: HTTP status.
        kind: Name for programs, the last part of the document's ``type``.
        detail: Sentence that says what was expected, what came and what to do.
        headers: Headers of the response.
        extensions: Extension members of the document.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: Any
    ) -> None:
        super().__init__(status, kind, detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers, self.extensions = dict(headers or {}), extensions

    def to_document(self) -> dict[str, Any]:
        """Return the problem document as a JSON object."""
        title = HTTPStatus(self.status).phrase
        members = {"type": _TYPE_PREFIX + self.kind, "title": title, "status": self.status, "detail": self.detail}
        return {**members, "error": self.detail, **self.extensions}

    def to_response(self) -> Response:
        """Return the problem as an HTTP response."""
        return json_response(self.to_document(), self.status, MEDIA_TYPE, self.headers)


def json_response(
    value: Any, status: int = 200, media_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response in ASCII, so that lone surrogates from a client can be sent back escaped."""
    return Response(json.dumps(value, separators=(",", ":")), status, headers, media_type)


def busy_problem(reason: str, seconds: float = 1.0) -> ProblemDetails:
    """Return problem 429.

    Args:
        reason: Detail of the problem.
        seconds: Seconds after which the client may try again, rounded to at least 1.
    """
    retry_after = str(max(1, round(seconds)))
    detail = f"{reason}; try again in {retry_after} s"
    return ProblemDetails(HTTPStatus.TOO_MANY_REQUESTS, "busy", detail, headers={"Retry-After": retry_after})


def not_ready_problem(detail: str) -> ProblemDetails:
    """Return problem 503: no version is loaded yet.

    Args:
        detail: Detail of the problem.
    """
    return ProblemDetails(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", detail, headers={"Retry-After": "1"})
