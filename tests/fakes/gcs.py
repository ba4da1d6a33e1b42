"""A Google Cloud Storage server for tests, as strict as the real one: preconditions, chunks, checksums.

Objects live in memory. The server has the part of the JSON API that `components.scorer.storage` needs: listing,
metadata, media, delete, multipart and resumable uploads. It refuses unknown parameters with 400, so that no test passes
because a parameter was ignored. `Server.fail` injects faults.

Reference: https://cloud.google.com/storage/docs/json_api/v1 and
https://cloud.google.com/storage/docs/performing-resumable-uploads.
"""

import base64
import json
import re
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import google_crc32c

CHUNK_UNIT = 256 * 1024  # "each chunk except the last must be a multiple of 256 KiB"
PAGE = 1000  # most objects of a page of a listing

SLOW = 1.0  # seconds that a slow answer delays its client

Trouble = Literal[429, 503, "reset", "half", "lost", "slow"]
"""Faults: a status; ``reset``: the connection is reset before the request is carried out; ``half``: half a chunk is
stored, then 503; ``lost``: the request is carried out, then the connection is reset; ``slow``: the answer is late."""


@dataclass
class Request:
    """A request of a client, as `Server.fail` and `Server.requests` have it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def range(self) -> str:
        """Return the Content-Range of a resumable upload's request, or ""."""
        return self.headers.get("content-range", "")


@dataclass
class _Object:
    data: bytes = field(repr=False)
    generation: int
    content_type: str


@dataclass
class _Upload:
    bucket: str
    name: str
    content_type: str
    condition: dict[str, str]
    crc32c: str | None
    data: bytearray = field(default_factory=bytearray)


class Refused(Exception):
    """Raised for an answer other than success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Server:
    """Start with ``with Server("bucket") as server:`` and set STORAGE_EMULATOR_HOST to ``server.url``."""

    def __init__(self, *buckets: str) -> None:
        self.buckets: dict[str, dict[str, _Object]] = {name: {} for name in buckets}
        self.requests: list[Request] = []
        self._uploads: dict[str, _Upload] = {}
        self._troubles: list[tuple[Callable[[Request], bool], list[Trouble]]] = []
        self._generation = 1000
        self._lock = threading.RLock()
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fail(self, when: Callable[[Request], bool], *troubles: Trouble) -> None:
        """Answer the next requests that satisfy ``when`` with these faults, one each."""
        self._troubles.append((when, list(troubles)))

    def calm(self) -> None:
        """Forget the faults that `fail` planned."""
        self._troubles.clear()

    def data(self, bucket: str) -> dict[str, bytes]:
        """Return the content of a bucket by name."""
        return {name: stored.data for name, stored in self.buckets[bucket].items()}

    def trouble(self, request: Request) -> Trouble | None:
        """Return the fault that `fail` planned for this request."""
        with self._lock:
            self.requests.append(request)
            for when, troubles in self._troubles:
                if troubles and when(request):
                    return troubles.pop(0)
        return None

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Carry out a request and return status, headers and body."""
        with self._lock:
            path = request.path
            if match := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
                return self._upload(request, match[1])
            if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
                return self._list(request, match[1])
            if match := re.fullmatch(r"(/download)?/storage/v1/b/([^/]+)/o/([^/]+)", path):
                return self._object(request, match[2], unquote(match[3]), media=bool(match[1]))
            raise Refused(404, f"no such method: {request.method} {path}")

    def _bucket(self, bucket: str) -> dict[str, _Object]:
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def _check(self, bucket: str, name: str, condition: dict[str, str]) -> None:
        """Raise 412 unless the object has the requested generation; 0 means that it must not exist."""
        stored = self._bucket(bucket).get(name)
        expected = condition.get("ifGenerationMatch")
        if expected is not None and int(expected) != (stored.generation if stored else 0):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def _object(self, request: Request, bucket: str, name: str, media: bool) -> tuple[int, dict[str, str], bytes]:
        _known(request, "generation", "ifGenerationMatch", "prettyPrint", "projection", "alt", "fields")
        stored = self._bucket(bucket).get(name)
        if stored is None or request.query.get("generation", str(stored.generation)) != str(stored.generation):
            raise Refused(404, f"No such object: {bucket}/{name}")
        self._check(bucket, name, request.query)
        if request.method == "DELETE":
            del self.buckets[bucket][name]
            return 204, {}, b""
        if request.method != "GET":
            raise Refused(405, request.method)
        if not media:
            return _json(_described(bucket, name, stored))
        headers = {"Content-Type": stored.content_type, "X-Goog-Hash": f"crc32c={_crc32c(stored.data)}"}
        headers["X-Goog-Generation"] = str(stored.generation)
        if not (match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))):
            return 200, headers, stored.data
        first = int(match[1])
        if first >= len(stored.data):
            raise Refused(416, "Requested range not satisfiable")
        part = stored.data[first : int(match[2]) + 1 if match[2] else None]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(stored.data)}"
        return 206, headers, part

    def _list(self, request: Request, bucket: str) -> tuple[int, dict[str, str], bytes]:
        _known(request, "prefix", "delimiter", "pageToken", "maxResults", "fields", "projection", "prettyPrint", "alt")
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter")
        entries: dict[str, _Object | None] = {}
        for name, stored in sorted(self._bucket(bucket).items()):
            if not name.startswith(prefix):
                continue
            head, separator, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            entries.setdefault(prefix + head + separator if separator else name, None if separator else stored)
        names = [name for name in entries if name > request.query.get("pageToken", "")]
        page = names[: min(PAGE, int(request.query.get("maxResults", PAGE)))]
        value = {
            "items": [_described(bucket, name, stored) for name in page if (stored := entries[name])],
            "prefixes": [name for name in page if entries[name] is None],
        }
        return _json({**value, "nextPageToken": page[-1]} if len(page) < len(names) else value)

    def _upload(self, request: Request, bucket: str) -> tuple[int, dict[str, str], bytes]:
        _known(request, "uploadType", "name", "ifGenerationMatch", "upload_id", "prettyPrint", "alt")
        if request.query.get("uploadType") == "multipart":
            return self._multipart(request, bucket)
        if request.query.get("uploadType") != "resumable":
            raise Refused(400, "uploadType must be multipart or resumable")
        if "upload_id" in request.query:
            return self._resume(request)
        metadata = json.loads(request.body or b"{}")
        self._check(bucket, metadata["name"], request.query)
        token = uuid.uuid4().hex
        content_type = request.headers.get("x-upload-content-type", "application/octet-stream")
        self._uploads[token] = _Upload(bucket, metadata["name"], content_type, request.query, metadata.get("crc32c"))
        location = f"{self.url}/upload/storage/v1/b/{quote(bucket)}/o?uploadType=resumable&upload_id={token}"
        return 200, {"Location": location, "X-GUploader-UploadID": token}, b""

    def _multipart(self, request: Request, bucket: str) -> tuple[int, dict[str, str], bytes]:
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = list(message_from_bytes(head + request.body, policy=HTTP).iter_parts())
        if len(parts) != 2:
            raise Refused(400, "a multipart upload has two parts")
        metadata = json.loads(parts[0].get_payload(decode=True))
        self._check(bucket, metadata["name"], request.query)
        # The parser above may change line ends of binary content: cut the second part out of the body itself.
        boundary = re.search(r'boundary="?([^";]+)', request.headers["content-type"])[1].encode()
        data = request.body.split(b"--" + boundary, 2)[2].split(b"\r\n\r\n", 1)[1]
        data = data[: data.rindex(b"\r\n--" + boundary + b"--")]
        return self._store(bucket, metadata["name"], data, parts[1].get_content_type(), metadata.get("crc32c"))

    def _resume(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        upload = self._uploads.get(request.query["upload_id"])
        if upload is None:
            raise Refused(404, "no such upload")
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.range)
        if not match or request.method != "PUT":
            raise Refused(400, f"bad Content-Range: {request.range!r}")
        if match[1] is not None:
            self._append(upload, request.body, int(match[1]), int(match[2]), final=match[3] != "*")
        if match[3] == "*" or len(upload.data) < int(match[3]):
            received = len(upload.data)
            return 308, {"Range": f"bytes=0-{received - 1}"} if received else {}, b""
        self._check(upload.bucket, upload.name, upload.condition)
        del self._uploads[request.query["upload_id"]]
        expected = upload.crc32c or request.headers.get("x-goog-hash", "").removeprefix("crc32c=") or None
        return self._store(upload.bucket, upload.name, bytes(upload.data), upload.content_type, expected)

    def _append(self, upload: _Upload, body: bytes, first: int, last: int, final: bool) -> None:
        if first > len(upload.data):
            raise Refused(400, f"a gap: {len(upload.data)} bytes are kept, the chunk begins at {first}")
        if len(body) != last - first + 1:
            raise Refused(400, f"{len(body)} bytes sent as range {first}-{last}")
        if not final and len(body) % CHUNK_UNIT:
            raise Refused(400, f"a chunk of {len(body)} bytes is no multiple of {CHUNK_UNIT}")
        upload.data[first:] = body

    def keep_half(self, request: Request) -> None:
        """Store the first half, in whole units, of a chunk that is about to fail."""
        match = re.fullmatch(r"bytes (\d+)-\d+/.*", request.range)
        upload = self._uploads.get(request.query.get("upload_id", ""))
        if match and upload:
            half = len(request.body) // 2 // CHUNK_UNIT * CHUNK_UNIT
            upload.data[int(match[1]) :] = request.body[:half]

    def _store(
        self, bucket: str, name: str, data: bytes, content_type: str, crc32c: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        if crc32c is not None and crc32c != _crc32c(data):
            raise Refused(400, f"checksum of {name} does not match the content")
        self._generation += 1
        stored = self.buckets[bucket][name] = _Object(data, self._generation, content_type)
        return _json(_described(bucket, name, stored))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Print nothing: some tests disconnect their clients."""


class _Handler(BaseHTTPRequestHandler):
    """HTTP for `Server.answer`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits for the client to acknowledge its headers
    store: Server

    def _handle(self) -> None:
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = Request(self.command, address.path, dict(parse_qsl(address.query)), headers, body)
        trouble = self.store.trouble(request)
        if trouble == "half":
            self.store.keep_half(request)
            trouble = 503
        if trouble == "reset":
            return self._reset()
        try:
            if isinstance(trouble, int):
                raise Refused(trouble, "trouble on cue")
            status, answer_headers, answer = self.store.answer(request)
        except Refused as refused:
            error = {"error": {"code": refused.status, "message": refused.message}}
            status, answer_headers, answer = _json(error, refused.status)
        if trouble == "lost":
            return self._reset()
        if trouble == "slow":
            time.sleep(SLOW)
        self.send_response(status)
        for name, value in {**answer_headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

    def _reset(self) -> None:
        """Close with RST, as a broken network does."""
        self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        if not self.wfile.closed and self.connection.fileno() != -1:
            super().finish()

    def log_message(self, *_: object) -> None:
        """Print nothing: requests are in `Server.requests`."""


def _known(request: Request, *names: str) -> None:
    if unknown := set(request.query) - set(names):
        raise Refused(400, f"unknown parameters {sorted(unknown)}")


def _json(value: dict, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _described(bucket: str, name: str, found: _Object) -> dict[str, str]:
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "contentType": found.content_type,
        "crc32c": _crc32c(found.data),
    }


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(bytes(data)).digest()).decode()
