"""Files under one kind of address: a local folder (or ``file://``), ``gs://`` or ``s3://``.

Google Cloud Storage is reached through google-cloud-storage and S3 through boto3, each imported when first
needed and once a process, with their own ways of finding credentials and endpoints (``STORAGE_EMULATOR_HOST``,
``AWS_ENDPOINT_URL``, …). Every cloud call has a deadline, is repeated on 429, 5xx and lost connections, and
fails with one `StorageError` that names the address.

An object's version is an opaque text that changes whenever the object is written: the generation on Google
Cloud Storage, the entity tag on S3, the content's SHA-256 on a local disk. `read_versioned` and `write_if`
make of it a compare-and-swap that no concurrent writer can slip through.
"""

import fcntl
import hashlib
import json
import mimetypes
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.scorer.once import once

DEADLINE = 30.0
"""Seconds for which a failing cloud call is repeated; the clients' own 120 s a call make an outage a hang."""

TIMEOUT = (5.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""

MISSING = (FileNotFoundError, PermissionError, IsADirectoryError)
"""What is raised where one object cannot be read; anything else is an outage."""

_READ_AHEAD = 8  # objects fetched before they are needed: hides a bucket's latency, costs some 30 MB of photos
_ATTEMPTS = 6  # of a call to S3, whose client counts instead of timing: its doubling waits add up to some DEADLINE
_CHUNK = 8 * 2**20  # bytes after which an interrupted upload can go on; both clouds' clients part files at this size
_THREADS = 8  # transfers at a time: enough to hide the latency of small files, below the clients' pools of 10
_OWN = (".partial", ".lock")  # endings of this module's own local files, which no listing shows


class StorageError(OSError):
    """A cloud call failed for good; the message says what was tried, on which address, and why it failed."""


class Conflict(RuntimeError):
    """The object was written by someone else since its version was read: read it again and decide anew."""


@dataclass(frozen=True)
class File:
    """A file found under an address.

    Attributes:
        uri: its full address.
        name: its path relative to the address that was listed, with ``/``.
        size: bytes.
        version: an opaque text that changes when the file is written; comparable only between listings.
    """

    uri: str
    name: str
    size: int
    version: str


def join(uri: str, *parts: str) -> str:
    """An address below another one; empty parts and doubled slashes vanish.

    Raises:
        ValueError: the address is empty, or a part leads upwards with ``..``.
    """
    if not uri:
        raise ValueError("expected a folder, gs:// or s3:// address, got an empty one")
    steps = [step for part in parts for step in part.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise ValueError(f"expected a path below {uri}, got {'/'.join(parts)!r}, which leads upwards")
    base = uri.rstrip("/")
    return "/".join([base, *steps]) if steps else base or "/"


def is_below(name: str, paths: Collection[str]) -> bool:
    """Whether a file's path is one of these paths or lies below one; every path lies below ""."""
    steps = [part for part in name.split("/") if part]
    return any(steps[: len(way)] == way for way in ([part for part in path.split("/") if part] for path in paths))


def is_remote(uri: str) -> bool:
    """Whether the address lies in a cloud's storage and not on a local disk."""
    return uri.startswith(("gs://", "s3://"))


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the cloud cannot be reached or refuses.
    """
    store, key = _at(uri)
    return store.read(key)


def read_beginning(file: File, size: int = 32) -> bytes:
    """The first bytes of a file that was listed.

    Raises:
        FileNotFoundError: it is gone.
        StorageError: the cloud cannot be reached or refuses.
    """
    store, key = _at(file.uri)
    return store.beginning(key, size) if file.size else b""


def read_ahead(objects: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, Future[bytes]]]:
    """What some objects are called and their bytes to come, some under way while others are worked on.

    Args:
        objects: of each what it is called and its address, and perhaps more, which is passed over.
    """
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        for name, uri, *_ in objects:
            waiting.append((name, pool.submit(read_bytes, uri)))
            if len(waiting) > _READ_AHEAD:
                yield waiting.popleft()
        yield from waiting


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file as a whole: a reader sees the old content or the new, never a part. Folders are made."""
    store, key = _at(uri)
    store.write(key, data)


def exists(uri: str) -> bool:
    """Whether there is a file at the address, or a folder with anything in it."""
    store, key = _at(uri)
    return store.exists(key) or next(iter(store.list(key)), None) is not None


def read_json(uri: str) -> Any:
    """The value in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON.
    """
    return _json(uri, read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    """Write a value as indented JSON, as a whole; NaN and infinities, which JSON lacks, are refused."""
    write_bytes(uri, to_json(value))


def to_json(value: Any) -> bytes:
    """A value as the bytes that `write_json` writes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def files(uri: str) -> Iterator[File]:
    """Every file below an address, at any depth, in the order of their names; none when there is no folder."""
    store, key = _at(uri)
    for name, size, version in store.list(key):
        yield File(f"{uri.rstrip('/')}/{name}", name, size, version)


def folders(uri: str) -> list[str]:
    """The names of the folders directly below an address, sorted."""
    store, key = _at(uri)
    return sorted(store.folders(key))


def upload_tree(folder: str | Path, uri: str, last: Iterable[str] = ("saved_model.pb",)) -> None:
    """Copy a local folder to an address.

    Args:
        folder: the local folder.
        uri: the address that receives its content.
        last: file names written after all others, in this order: while they are missing, a reader knows
            that the copy is not complete.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"expected a folder to copy to {uri}, found none at {folder}")
    late = list(last)
    names = [file.name for file in files(str(folder))]
    early = [name for name in names if name.rsplit("/", 1)[-1] not in late]
    rest = sorted(set(names) - set(early), key=lambda name: late.index(name.rsplit("/", 1)[-1]))

    def upload(name: str) -> None:
        store, key = _at(f"{uri.rstrip('/')}/{name}")
        store.put(Path(folder, name), key)

    _all(upload, early)
    for name in rest:
        upload(name)


def download_tree(uri: str, folder: str | Path, without: Collection[str] = ()) -> None:
    """Copy everything below an address into a local folder, which is made.

    Args:
        uri: the address.
        folder: the local folder.
        without: paths below the address, of files or folders, that are not copied.

    Raises:
        FileNotFoundError: there is nothing at the address.
        ValueError: an object's name leads out of the folder.
    """
    found = [file for file in files(uri) if not is_below(file.name, without)]
    if not found:
        raise FileNotFoundError(f"expected files below {uri}, found none")
    targets = [Path(join(str(folder), file.name)) for file in found]

    def download(file: File, target: Path) -> None:
        store, key = _at(file.uri)
        with _replacing(target) as partial:
            store.get(key, partial)

    _all(download, found, targets)


def delete_tree(uri: str, first: Iterable[str] = ("saved_model.pb",)) -> None:
    """Remove a file, or a folder with everything below it; nothing there is no error.

    Args:
        uri: the address; the root of a bucket or disk is refused.
        first: file names removed before all others, so that no reader takes the remainder for whole.
    """
    store, key = _at(uri)
    if key in ("", "/"):
        raise ValueError(f"expected a folder to remove, got {uri}, which is everything there is")
    found = list(files(uri))
    late = [file for file in found if file.name.rsplit("/", 1)[-1] not in first]
    for file in [*(file for file in found if file not in late), *late]:
        store.delete(_at(file.uri)[1])
    store.delete(key)


def read_versioned(uri: str) -> tuple[bytes | None, str]:
    """A file's content and its version for `write_if`; ``(None, "")`` when there is no such file."""
    store, key = _at(uri)
    return store.read_versioned(key)


def write_if(uri: str, data: bytes, version: str) -> None:
    """Write a file only if it still has this version: compare-and-swap.

    A write whose answer got lost is repeated and then finds its own content: that counts as success. Two
    writers that must not both win therefore write different content.

    Args:
        uri: the file.
        data: its new content.
        version: from `read_versioned`; ``""`` demands that there is no such file yet.

    Raises:
        Conflict: someone else wrote the file in between.
    """
    store, key = _at(uri)
    try:
        store.write_if(key, data, version)
    except Conflict:
        if store.read_versioned(key)[0] != data:
            raise


def _json(uri: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"expected JSON in {uri}, got {data[:40]!r}: {error}") from None


def _all(action: Callable[..., None], *arguments: list[Any]) -> None:
    """The action on all arguments, some at a time; the first failure is raised when those under way have ended."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = [pool.submit(action, *each) for each in zip(*arguments, strict=True)]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _at(uri: str) -> tuple[Any, str]:
    """The store that an address lies in, and the key there."""
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise ValueError("expected a folder, gs:// or s3:// address, got an empty one")
    if not separator:
        return _Folder(), uri
    if scheme == "file" and rest.startswith("/"):
        return _Folder(), rest
    bucket, _, key = rest.partition("/")
    if scheme not in ("gs", "s3") or not bucket:
        raise ValueError(f"expected a folder, file:///…, gs://bucket/… or s3://bucket/…, got {uri!r}")
    return {"gs": _Gcs, "s3": _S3}[scheme](bucket), key.rstrip("/")


class _Folder:
    """A local disk; a key is a path."""

    def read(self, key: str) -> bytes:
        return Path(key).read_bytes()

    def beginning(self, key: str, size: int) -> bytes:
        with open(key, "rb") as file:
            return file.read(size)

    def write(self, key: str, data: bytes) -> None:
        with _replacing(Path(key)) as partial:
            partial.write_bytes(data)

    def exists(self, key: str) -> bool:
        return Path(key).is_file()

    def get(self, key: str, path: Path) -> None:
        shutil.copyfile(key, path)

    def put(self, path: Path, key: str) -> None:
        with _replacing(Path(key)) as partial:
            shutil.copyfile(path, partial)

    def list(self, key: str) -> Iterator[tuple[str, int, str]]:
        found = []
        for folder, _, names in os.walk(key):
            for name in names:
                path = os.path.join(folder, name)
                if (name.startswith(".") and name.endswith(_OWN)) or not os.path.isfile(path):
                    continue
                status = os.stat(path)
                relative = os.path.relpath(path, key).replace(os.sep, "/")
                found.append((relative, status.st_size, f"{status.st_mtime_ns}-{status.st_size}"))
        yield from sorted(found)

    def folders(self, key: str) -> Iterator[str]:
        if Path(key).is_dir():
            yield from (entry.name for entry in os.scandir(key) if entry.is_dir())

    def delete(self, key: str) -> None:
        if os.path.isdir(key) and not os.path.islink(key):
            shutil.rmtree(key)
        else:
            Path(key).unlink(missing_ok=True)

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        try:
            data = self.read(key)
        except FileNotFoundError:
            return None, ""
        return data, hashlib.sha256(data).hexdigest()

    def write_if(self, key: str, data: bytes, version: str) -> None:
        with _locked(Path(key)):
            if self.read_versioned(key)[1] != version:
                raise Conflict(f"{key} was written by someone else")
            self.write(key, data)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file that takes the path's place when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut may keep the name and lose the content
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@once
def _umask() -> int:
    """The process's file mode mask, which can be read only by setting it: of two threads one would read 0o022."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes' `_locked` of the same path waiting; the lock dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Gcs:
    """A bucket of Google Cloud Storage."""

    def __init__(self, bucket: str) -> None:
        self._name = bucket

    @contextmanager
    def _calling(self, verb: str, key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The bucket and the arguments of every call; the client's errors become this module's."""
        google, requests = _google()
        api, media = google.api_core.exceptions, google.cloud.storage.exceptions
        uri = f"gs://{self._name}/{key}"
        try:
            client = _gcs_client(os.environ.get("STORAGE_EMULATOR_HOST", ""))
            retry = google.cloud.storage.retry.DEFAULT_RETRY.with_timeout(DEADLINE)
            yield client.bucket(self._name), {"timeout": TIMEOUT, "retry": retry}
        except api.NotFound:
            if verb in ("write", "list"):
                raise _failed(verb, uri, "there is no such bucket") from None
            raise FileNotFoundError(f"there is no {uri}") from None
        except api.PreconditionFailed:
            raise Conflict(f"{uri} was written by someone else") from None
        except (
            api.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.RequestException, ConnectionError,
            media.InvalidResponse, media.DataCorruption,
        ) as error:  # fmt: skip
            reason = getattr(error, "cause", None) or error  # of an error that says that the deadline has passed
            if isinstance(reason, media.InvalidResponse):
                reason = f"the server answers {reason.response.status_code} {reason.response.text[:200]}".strip()
            raise _failed(verb, uri, reason) from error

    def _blob(self, bucket: Any, key: str) -> Any:
        if not key:
            raise ValueError(f"expected a file, got gs://{self._name}, which is a bucket")
        return bucket.blob(key)

    def read(self, key: str) -> bytes:
        with self._calling("read", key) as (bucket, options):
            return self._blob(bucket, key).download_as_bytes(**options)

    def beginning(self, key: str, size: int) -> bytes:
        with self._calling("read", key) as (bucket, options):
            return self._blob(bucket, key).download_as_bytes(end=size - 1, **options)

    def write(self, key: str, data: bytes, **precondition: int) -> None:
        with self._calling("write", key) as (bucket, options):
            blob = self._blob(bucket, key)
            blob.chunk_size = _CHUNK
            blob.upload_from_string(data, content_type=_content_type(key), **options, **precondition)

    def exists(self, key: str) -> bool:
        with self._calling("find", key) as (bucket, options):
            return bool(key) and bucket.blob(key).exists(**options)

    def get(self, key: str, path: Path) -> None:
        with self._calling("read", key) as (bucket, options):
            self._blob(bucket, key).download_to_filename(str(path), **options)

    def put(self, path: Path, key: str) -> None:
        with self._calling("write", key) as (bucket, options):
            blob = self._blob(bucket, key)
            blob.chunk_size = _CHUNK
            blob.upload_from_filename(str(path), content_type=_content_type(key), **options)

    def list(self, key: str) -> Iterator[tuple[str, int, str]]:
        prefix = _prefix(key)
        with self._calling("list", key) as (bucket, options):
            fields = "items(name,size,generation),nextPageToken"
            for blob in bucket.list_blobs(prefix=prefix, fields=fields, **options):
                if not blob.name.endswith("/"):
                    yield blob.name[len(prefix) :], blob.size, str(blob.generation)

    def folders(self, key: str) -> Iterator[str]:
        prefix = _prefix(key)
        with self._calling("list", key) as (bucket, options):
            for page in bucket.list_blobs(prefix=prefix, delimiter="/", **options).pages:
                yield from (found[len(prefix) : -1] for found in page.prefixes)

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._calling("remove", key) as (bucket, options):
            self._blob(bucket, key).delete(**options)

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        with self._calling("read", key) as (bucket, options):
            while blob := bucket.get_blob(key, **options):
                # The content asked for is that of the generation just seen; when it is gone, look again.
                with suppress(_google()[0].api_core.exceptions.NotFound):
                    return blob.download_as_bytes(**options), str(blob.generation)
        return None, ""

    def write_if(self, key: str, data: bytes, version: str) -> None:
        # Generation 0 stands for an object that does not exist (Cloud Storage, "Request preconditions").
        self.write(key, data, if_generation_match=int(version or 0))


class _S3:
    """A bucket of S3 or of a store that speaks its protocol, conditional writes (If-Match) included."""

    def __init__(self, bucket: str) -> None:
        self._name = bucket

    @contextmanager
    def _calling(self, verb: str, key: str) -> Iterator[Any]:
        """The client; its errors become this module's."""
        boto3, botocore = _amazon()
        uri = f"s3://{self._name}/{key}"
        try:
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
            yield _s3_client(endpoint)
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"there is no {uri}") from None
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                raise Conflict(f"{uri} was written by someone else") from None
            raise _failed(verb, uri, error) from error
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise _failed(verb, uri, error) from error

    def _object(self, key: str) -> dict[str, str]:
        if not key:
            raise ValueError(f"expected a file, got s3://{self._name}, which is a bucket")
        return {"Bucket": self._name, "Key": key}

    def _read(self, key: str, **options: str) -> tuple[bytes, str]:
        errors = _amazon()[1].exceptions
        with self._calling("read", key) as client:
            for attempt in range(_ATTEMPTS):
                try:
                    answer = client.get_object(**self._object(key), **options)
                    return answer["Body"].read(), answer["ETag"]
                except (errors.HTTPClientError, errors.IncompleteReadError):
                    # The client repeats a call, but not an answer that breaks off while it is read.
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def read(self, key: str) -> bytes:
        return self._read(key)[0]

    def beginning(self, key: str, size: int) -> bytes:
        return self._read(key, Range=f"bytes=0-{size - 1}")[0]

    def write(self, key: str, data: bytes, **precondition: str) -> None:
        with self._calling("write", key) as client:
            client.put_object(Body=data, ContentType=_content_type(key), **self._object(key), **precondition)

    def exists(self, key: str) -> bool:
        with suppress(FileNotFoundError), self._calling("find", key) as client:
            return bool(key) and bool(client.head_object(**self._object(key)))
        return False

    def get(self, key: str, path: Path) -> None:
        with self._calling("read", key) as client:
            client.download_file(Filename=str(path), **self._object(key))

    def put(self, path: Path, key: str) -> None:
        with self._calling("write", key) as client:
            extra = {"ContentType": _content_type(key)}
            client.upload_file(Filename=str(path), ExtraArgs=extra, **self._object(key))

    def _pages(self, key: str, **options: str) -> Iterator[dict[str, Any]]:
        with self._calling("list", key) as client:
            pages = client.get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self._name, Prefix=_prefix(key), **options)

    def list(self, key: str) -> Iterator[tuple[str, int, str]]:
        for page in self._pages(key):
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):
                    yield found["Key"][len(_prefix(key)) :], found["Size"], found["ETag"].strip('"')

    def folders(self, key: str) -> Iterator[str]:
        for page in self._pages(key, Delimiter="/"):
            yield from (found["Prefix"][len(_prefix(key)) : -1] for found in page.get("CommonPrefixes", []))

    def delete(self, key: str) -> None:
        with self._calling("remove", key) as client:
            client.delete_object(**self._object(key))

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        try:
            return self._read(key)
        except FileNotFoundError:
            return None, ""

    def write_if(self, key: str, data: bytes, version: str) -> None:
        try:
            self.write(key, data, **({"IfMatch": version} if version else {"IfNoneMatch": "*"}))
        except FileNotFoundError:
            raise Conflict(f"s3://{self._name}/{key} was removed by someone else") from None


def _prefix(key: str) -> str:
    return f"{key}/" if key else ""


def _content_type(key: str) -> str:
    """So that a browser shows a report or a photo in a bucket instead of saving it."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


def _failed(verb: str, uri: str, reason: object) -> StorageError:
    why = str(reason).rstrip(".")
    return StorageError(f"cannot {verb} {uri}: {why}; check the address, the network and the credentials")


@once
def _google() -> tuple[Any, Any]:
    """The package google with what is used of it, and requests, whose errors pass through."""
    import google.api_core.exceptions
    import google.auth.exceptions
    import google.cloud.storage.exceptions
    import google.cloud.storage.retry
    import requests

    return google, requests


@once
def _amazon() -> tuple[Any, Any]:
    """boto3 and botocore, with the modules of their errors."""
    import boto3.exceptions
    import boto3.session
    import botocore.config
    import botocore.exceptions

    return boto3, botocore


@once
def _gcs_client(endpoint: str) -> Any:
    google, _ = _google()
    # Else it asks, for its own traces and in threads of its own, what the bucket is: once a process and after each file
    # that is not there. That needs a permission that reading and writing do not.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    return google.cloud.storage.Client(project=None)  # objects need none, and not every credential brings one


@once
def _s3_client(endpoint: str) -> Any:
    boto3, botocore = _amazon()
    connect, read = TIMEOUT
    retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    config = botocore.config.Config(connect_timeout=connect, read_timeout=read, retries=retries)
    return boto3.session.Session().client("s3", config=config)
