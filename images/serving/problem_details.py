"""What goes wrong, as RFC 9457 says it: problem documents that tell what was expected and what came.

Each has ``error`` as well, the sentence again: where the clients of TensorFlow Serving, KServe and Triton look for it.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response

MEDIA = "application/problem+json"
AS_JSON = ("/v1/", "/v2/")
"""Where addresses begin that give problems as application/json: KServe's client reads the sentence of no others."""
_KIND = "urn:portrait-scorer:problem:"


class Problem(Exception):
    """A request, or one photo of it, that is not answered.

    Attributes:
        status: of HTTP.
        kind: a name for programs, the end of the document's ``type``.
        detail: what was expected, what came, what to do.
        headers: of the answer.
        more: further members of the document.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """Keeps what is said."""
        super().__init__(status, kind, detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers, self.more = dict(headers or {}), more

    def document(self) -> dict[str, Any]:
        """The problem as JSON."""
        title = HTTPStatus(self.status).phrase
        told = {"type": _KIND + self.kind, "title": title, "status": self.status, "detail": self.detail}
        return {**told, "error": self.detail, **self.more}

    def answer(self) -> Response:
        """The problem as a response."""
        return json_answer(self.document(), self.status, MEDIA, self.headers)


def json_answer(
    value: Any, status: int = 200, media: str = "application/json", headers: Mapping[str, str] | None = None
) -> Response:
    """A value as a JSON response. ASCII only: a client's lone surrogates, which no encoding has, come back as sent."""
    return Response(json.dumps(value, separators=(",", ":")), status, headers, media)


def busy(what: str, seconds: float = 1.0) -> Problem:
    """Too much is under way."""
    after = str(max(1, round(seconds)))
    detail = f"{what}; try again in {after} s"
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "busy", detail, headers={"Retry-After": after})


def not_ready(why: str) -> Problem:
    """No version answers yet."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", why, headers={"Retry-After": "1"})
