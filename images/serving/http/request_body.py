"""Request bodies: raw, JSON, multipart forms and base64, read within limits.

Reading stops at the limit. Nothing is written to disk.
"""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import pydantic_core
from fastapi import Request
from pydantic_core import CoreConfig, SchemaValidator, core_schema
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from images.serving.problem_details import ProblemDetails, busy_problem
from images.serving.settings import ServerSettings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from images.serving.http.worker_state import WorkerState

_MAX_FIELD_BYTES = 1024  # bytes of a text field, at most
_TOO_DEEP = "nested too deeply"
_MAX_PREAMBLE_BYTES = 8192  # bytes before a form's first boundary, at most
_MAX_PADDING_BYTES = 64  # blanks after a form's boundary, at most
_MAX_JSON_VALUES = 100_000  # values in JSON, at most: a few bytes of text each, but up to 350 bytes of memory
_VALUE_MARKS = (b",", b":", b"[", b"{")  # one of these precedes each JSON value except the first
_COUNT_CHUNK_BYTES = 2**20  # bytes between two checks of the number of values
# RFC 8187; some clients send only this.
_EXTENDED_FILENAME = re.compile(rb"(?i);\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)")
_RESERVED_KEY = "scorer.bytes"  # key in a request's scope: bytes reserved for the request


class BodyBudget:
    """Byte budget of the request bodies that a worker holds: `ServerSettings.held` bytes."""

    def __init__(self, settings: ServerSettings) -> None:
        self._limit, self._reserved = settings.held, 0

    def reserve(self, scope: MutableMapping[str, Any], size: int) -> None:
        """Reserve bytes for a request.

        Args:
            scope: ASGI scope of the request, which records the reserved bytes.
            size: Bytes to reserve.

        Raises:
            ProblemDetails: 429 if fewer bytes are left.
        """
        if self._reserved + size > self._limit:
            raise busy_problem(
                f"expected room for {size} bytes more, but requests of {self._limit} bytes are under way"
            )
        self._reserved += size
        scope[_RESERVED_KEY] = scope.get(_RESERVED_KEY, 0) + size

    def release(self, scope: MutableMapping[str, Any]) -> None:
        """Release all bytes that a request reserved."""
        self._reserved -= scope.pop(_RESERVED_KEY, 0)


@dataclass
class ParsedForm:
    """A parsed multipart form.

    Attributes:
        photos: File name as sent and bytes of each photo.
        fields: Text fields by name.
    """

    photos: list[tuple[str, bytes]] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


def media_type(request: Request) -> str:
    """Return the request's media type in lower case, without parameters. "" if the header is missing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, state: "WorkerState") -> bytes:
    """Return the body of a request.

    Raises:
        ProblemDetails: 413 if the body is larger than `ServerSettings.body` bytes, 408 if it takes longer than
            `ServerSettings.seconds`, 415 if it is compressed, 429 if the byte budget is used up.
    """
    parts: list[bytes] = []
    await _stream_body(request, state, parts.append)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_json(request: Request, state: "WorkerState") -> Any:
    """Return the value of a JSON body.

    Raises:
        ProblemDetails: The errors of `read_body` and `parse_json`.
    """
    return parse_json(await read_body(request, state))


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ProblemDetails: 400 if the text is not JSON; 413 if it has more than 100,000 values.
    """
    marks = 0
    for start in range(0, len(data), _COUNT_CHUNK_BYTES):
        marks += sum(data.count(mark, start, start + _COUNT_CHUNK_BYTES) for mark in _VALUE_MARKS)
        if marks > _MAX_JSON_VALUES:
            raise ProblemDetails(
                413, "too-many-values", f"expected at most {_MAX_JSON_VALUES} values in JSON, got more"
            )
    with contextlib.suppress(ValueError):  # twenty times as fast as `json`, which parses again after an error
        return pydantic_core.from_json(data, cache_strings="keys")
    try:
        return json.loads(data)
    except RecursionError:
        reason = _TOO_DEEP
    except ValueError as error:  # includes UnicodeDecodeError, whose message would show the text
        reason = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "no valid text"
    raise ProblemDetails(400, "not-json", f"expected JSON, got {len(data)} bytes that are not: {reason}")


async def read_form(request: Request, state: "WorkerState", photo_fields: Iterable[str], max_photos: int) -> ParsedForm:
    """Return the photos and text fields of a multipart form.

    Args:
        request: Request with the form as its body.
        state: State of the worker, for its limits.
        photo_fields: Names of the fields that may hold photos.
        max_photos: Photos in the form, at most.

    Raises:
        ProblemDetails: The errors of `read_body`; 415 for another media type; 400 for a broken form; 413 for too many
            photos; 422 for a field that is unknown, repeated or too long.
    """
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type.lower() != b"multipart/form-data" or not options.get(b"boundary"):
        actual = media_type(request) or "none"
        raise ProblemDetails(415, "media-type", f"expected multipart/form-data with a boundary, got {actual[:100]!r}")
    reader = _MultipartCollector(tuple(photo_fields), max_photos)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks(), max_size=state.settings.body + 1)
        unpadded = _PaddingRemover(parser.write, options[b"boundary"])
        await _stream_body(request, state, _skip_preamble(unpadded.write, options[b"boundary"]))
        unpadded.finalize()
        parser.finalize()
    except FormParserError:
        raise ProblemDetails(
            400, "broken-form", "expected a multipart form, got one that is broken or cut off"
        ) from None
    if not reader.ended:
        raise ProblemDetails(
            400, "broken-form", "expected a multipart form that ends with its boundary, got one cut off"
        )
    return reader.form


def decode_base64(text: str, location: str) -> bytes:
    """Decode base64.

    Line breaks, the URL-safe alphabet, missing padding and ``data:`` URLs are accepted too.

    Args:
        text: Base64 text.
        location: Location of the text in the request, for the error.

    Raises:
        ProblemDetails: 400 if the text is not base64.
    """
    if text.startswith("data:"):  # as from a browser's FileReader
        text = text[text.find(";base64,", 0, 200) + len(";base64,") :] if ";base64," in text[:200] else text
    with contextlib.suppress(ValueError):  # not canonical, or not base64
        return _BASE64_VALIDATOR.validate_strings(text)  # type: ignore[arg-type]  # pydantic's type lacks the plain text
    try:
        plain = "".join(text.split()).translate(_URL_ALPHABET).rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        detail = f"{location}: expected a photo's bytes in base64, got {len(text)} characters that are not"
        raise ProblemDetails(400, "not-base64", detail) from None


_URL_ALPHABET = str.maketrans("-_", "+/")
# Four times as fast as Python's decoder, and already a dependency of FastAPI.
_BASE64_VALIDATOR = SchemaValidator(core_schema.bytes_schema(), CoreConfig(val_json_bytes="base64"))


async def _stream_body(request: Request, state: "WorkerState", sink: Callable[[bytes], Any]) -> None:
    """Pass the chunks of a body to `sink` as they arrive, within the limits of size, time and byte budget."""
    settings = state.settings
    if (encoding := request.headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
        raise ProblemDetails(
            415, "content-encoding", f"expected a body as it is, got one in {encoding[:40]!r}: photos are small"
        )
    length = request.headers.get("content-length", "")[:20]
    if length.isdecimal() and int(length) > settings.body:
        raise _too_large(settings, length)
    size = 0
    try:
        async with asyncio.timeout(settings.seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.body:
                    raise _too_large(settings, "more")
                if chunk:
                    state.body_budget.reserve(request.scope, len(chunk))
                    sink(chunk)
    except TimeoutError:
        detail = f"expected the whole body within {settings.seconds:g} s, got {size} bytes"
        raise ProblemDetails(408, "slow-body", detail, headers={"Connection": "close"}) from None


def _too_large(settings: ServerSettings, actual: str) -> ProblemDetails:
    detail = f"expected at most {settings.body} bytes in a request, got {actual}: send fewer or smaller photos"
    return ProblemDetails(413, "body-too-large", detail, headers={"Connection": "close"}, limit=settings.body)


def _skip_preamble(write: Callable[[bytes], Any], boundary: bytes) -> Callable[[bytes], None]:
    """Return a function that drops a form's preamble (RFC 2046) and passes the rest to `write`."""
    first_boundary = re.compile(rb"(?:^|\r\n)(--%b)" % re.escape(boundary))
    buffer: bytearray | None = bytearray()

    def write_after_preamble(chunk: bytes) -> None:
        nonlocal buffer
        if buffer is None:
            write(chunk)
            return
        buffer += chunk
        if match := first_boundary.search(buffer):
            write(bytes(buffer[match.start(1) :]))
            buffer = None
        elif len(buffer) > _MAX_PREAMBLE_BYTES:
            raise FormParserError("no boundary")

    return write_after_preamble


class _PaddingRemover:
    """Filter that removes blanks after boundaries, which RFC 2046 allows but the parser refuses."""

    def __init__(self, write: Callable[[bytes], Any], boundary: bytes) -> None:
        self._write, self._boundary = write, b"--" + boundary
        self._padded = re.compile(
            rb"(\r\n%b(?:--)?)[ \t]{1,%d}(?=\r\n)" % (re.escape(self._boundary), _MAX_PADDING_BYTES)
        )
        self._max_boundary_bytes = len(b"\r\n--\r\n") + len(self._boundary) + _MAX_PADDING_BYTES
        self._buffer = bytearray(b"\r\n")  # every boundary except the first follows a line break

    def write(self, chunk: bytes) -> None:
        """Pass on all bytes that cannot be part of an incomplete padded boundary."""
        self._buffer += chunk
        if self._boundary in self._buffer:
            self._buffer = bytearray(self._padded.sub(rb"\1", self._buffer))
        if len(self._buffer) > self._max_boundary_bytes:
            self._write(bytes(self._buffer[: -self._max_boundary_bytes]))
            del self._buffer[: -self._max_boundary_bytes]

    def finalize(self) -> None:
        """Pass on the remaining bytes."""
        self._write(bytes(self._buffer))


class _MultipartCollector:
    """Callbacks for `MultipartParser` that collect the parts of a form as they arrive.

    Mirrors ``starlette.formparsers.MultiPartParser``, but keeps photos in memory instead of spooled files.
    """

    def __init__(self, names: tuple[str, ...], limit: int) -> None:
        self.form, self.ended = ParsedForm(), False
        self._names, self._limit = names, limit
        self._header, self._value = bytearray(), bytearray()
        self._options: dict[bytes, bytes] = {}
        self._data = bytearray()
        self._name, self._is_photo = "", False

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._options = {}
        self._data = bytearray()

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._options = parse_options_header(bytes(self._value))[1]
            if b"filename" not in self._options and (name := _EXTENDED_FILENAME.search(self._value)):
                self._options[b"filename"] = unquote_to_bytes(name[1])
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        self._name = _decode_text(self._options.get(b"name", b""))
        self._is_photo = self._name in self._names
        if self._is_photo and len(self.form.photos) == self._limit:
            detail = f"expected at most {self._limit} photos in a request, got more: send them in several requests"
            raise ProblemDetails(413, "too-many-photos", detail, headers={"Connection": "close"}, limit=self._limit)
        if not self._is_photo and self._name != "job":
            expected = " or ".join(map(repr, self._names))
            detail = f"expected photos as {expected} and optionally 'job', got a field {self._name[:40]!r}"
            raise ProblemDetails(422, "unknown-field", detail, headers={"Connection": "close"})
        if self._name in self.form.fields:
            detail = f"expected the field {self._name!r} once, got it again"
            raise ProblemDetails(422, "repeated-field", detail, headers={"Connection": "close"})

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]
        if not self._is_photo and len(self._data) > _MAX_FIELD_BYTES:
            detail = f"expected at most {_MAX_FIELD_BYTES} bytes in the field {self._name!r}, got more"
            raise ProblemDetails(422, "field-too-long", detail, headers={"Connection": "close"})

    def _part_end(self) -> None:
        if self._is_photo:
            self.form.photos.append((_decode_text(self._options.get(b"filename", b"")), bytes(self._data)))
        else:
            self.form.fields[self._name] = _decode_text(bytes(self._data)).strip()
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


def _decode_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
