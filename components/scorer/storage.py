"""File storage on local disks, Google Cloud Storage and S3: paths, ``file://``, ``gs://`` and ``s3://`` addresses.

Google Cloud Storage is accessed through google-cloud-storage, and S3 through boto3. Each library is imported at its
first use, once per process, and finds credentials and endpoints its own way (``STORAGE_EMULATOR_HOST``,
``AWS_ENDPOINT_URL``, …). Every cloud call has a deadline, is repeated on 429, 5xx and lost connections, and
fails with one `StorageError` that names the address.

An object's version is an opaque text that changes whenever the object is written. It is the generation on Google
Cloud Storage, the entity tag on S3, and the content's SHA-256 on a local disk. `read_versioned` and `write_if`
use the version for a compare-and-swap that is safe against concurrent writers.
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
"""Seconds for which a failing cloud call is repeated; with the clients' 120 s an outage would look like a hang."""

TIMEOUT = (5.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes of a response."""

UNREADABLE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError)
"""Errors of a single object that cannot be read; any other error is an outage."""

_READ_AHEAD = 8  # objects fetched before their use: hides a bucket's latency, takes about 30 MB for photos
_S3_ATTEMPTS = 6  # attempts of an S3 call: the client has no deadline, and its doubling waits add up to about DEADLINE
_CHUNK_BYTES = 8 * 2**20  # bytes per part of a resumable upload; the part size of both clouds' clients
_THREADS = 8  # parallel transfers: hides the latency of small files, below the clients' connection pools of 10
_TEMPORARY_SUFFIXES = (".partial", ".lock")  # suffixes of this module's temporary local files, which listings leave out


class StorageError(OSError):
    """Permanent failure of a cloud call; the message names the operation, the address and the reason."""


class WriteConflict(RuntimeError):
    """Write conflict: another writer wrote the object since its version was read; read it again and decide anew."""


@dataclass(frozen=True)
class File:
    """A listed file.

    Attributes:
        uri: Full address of the file.
        name: Path relative to the listed address, with ``/``.
        size: Size in bytes.
        version: Opaque text that changes when the file is written; comparable between listings only.
    """

    uri: str
    name: str
    size: int
    version: str


def join(uri: str, *parts: str) -> str:
    """Return an address joined with path parts; empty parts and doubled slashes are dropped.

    Raises:
        ValueError: The address is empty, or a part contains ``..``.
    """
    if not uri:
        raise ValueError("expected a folder, gs:// or s3:// address, got an empty one")
    segments = [segment for part in parts for segment in part.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise ValueError(f"expected a path below {uri}, got {'/'.join(parts)!r}, which leads upwards")
    root = uri.rstrip("/")
    return "/".join([root, *segments]) if segments else root or "/"


def is_below(name: str, paths: Collection[str]) -> bool:
    """Return True if a path equals one of the paths or lies below one of them; every path lies below ""."""
    segments = [part for part in name.split("/") if part]
    return any(
        segments[: len(prefix)] == prefix for prefix in ([part for part in path.split("/") if part] for path in paths)
    )


def is_remote(uri: str) -> bool:
    """Return True for an address in cloud storage (``gs://`` or ``s3://``), False for a local one."""
    return uri.startswith(("gs://", "s3://"))


def read_bytes(uri: str) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The cloud cannot be reached or refuses.
    """
    store, key = _store_and_key(uri)
    return store.read(key)


def read_first_bytes(file: File, size: int = 32) -> bytes:
    """Return the first ``size`` bytes of a listed file.

    Raises:
        FileNotFoundError: The file was removed since it was listed.
        StorageError: The cloud cannot be reached or refuses.
    """
    store, key = _store_and_key(file.uri)
    return store.read_first_bytes(key, size) if file.size else b""


def read_ahead(objects: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, Future[bytes]]]:
    """Yield the name and the content, as a future, of each object in order; prefetch `_READ_AHEAD` objects.

    Args:
        objects: Tuples of an object's name and address; further elements are ignored.
    """
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        for name, uri, *_ in objects:
            waiting.append((name, pool.submit(read_bytes, uri)))
            if len(waiting) > _READ_AHEAD:
                yield waiting.popleft()
        yield from waiting


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new. Missing parent folders are created."""
    store, key = _store_and_key(uri)
    store.write(key, data)


def exists(uri: str) -> bool:
    """Return True if the address is that of a file or of a folder with files in it."""
    store, key = _store_and_key(uri)
    return store.exists(key) or next(iter(store.list(key)), None) is not None


def read_json(uri: str) -> Any:
    """Return the value of a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON.
    """
    return _parse_json(uri, read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    """Write a value atomically as indented JSON; raise ValueError for NaN and infinities, which JSON lacks."""
    write_bytes(uri, to_json(value))


def to_json(value: Any) -> bytes:
    """Return a value as the bytes that `write_json` writes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def list_files(uri: str) -> Iterator[File]:
    """Yield every file below an address, at any depth, sorted by name; no file if the folder does not exist."""
    store, key = _store_and_key(uri)
    for name, size, version in store.list(key):
        yield File(f"{uri.rstrip('/')}/{name}", name, size, version)


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders directly below an address, sorted."""
    store, key = _store_and_key(uri)
    return sorted(store.folders(key))


def upload_tree(folder: str | Path, uri: str, upload_last: Iterable[str] = ("saved_model.pb",)) -> None:
    """Copy a local folder to an address.

    Args:
        folder: Local folder.
        uri: Address that receives the content of the folder.
        upload_last: Names of files that are written after all others, in this order. While these files are missing, a
            reader knows that the copy is incomplete.

    Raises:
        FileNotFoundError: The local folder does not exist.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"expected a folder to copy to {uri}, found none at {folder}")
    last_names = list(upload_last)
    names = [file.name for file in list_files(str(folder))]
    first_uploads = [name for name in names if name.rsplit("/", 1)[-1] not in last_names]
    last_uploads = sorted(set(names) - set(first_uploads), key=lambda name: last_names.index(name.rsplit("/", 1)[-1]))

    def upload(name: str) -> None:
        store, key = _store_and_key(f"{uri.rstrip('/')}/{name}")
        store.put(Path(folder, name), key)

    _run_in_parallel(upload, first_uploads)
    for name in last_uploads:
        upload(name)


def download_tree(uri: str, folder: str | Path, exclude: Collection[str] = ()) -> None:
    """Copy every file below an address into a local folder, which is created.

    Args:
        uri: Address to copy from.
        folder: Local folder.
        exclude: Paths of files and folders below the address that are not copied.

    Raises:
        FileNotFoundError: There is no file below the address.
        ValueError: An object's name leads out of the folder.
    """
    listed = [file for file in list_files(uri) if not is_below(file.name, exclude)]
    if not listed:
        raise FileNotFoundError(f"expected files below {uri}, found none")
    targets = [Path(join(str(folder), file.name)) for file in listed]

    def download(file: File, target: Path) -> None:
        store, key = _store_and_key(file.uri)
        with _atomic_write(target) as partial:
            store.get(key, partial)

    _run_in_parallel(download, listed, targets)


def delete_tree(uri: str, delete_first: Iterable[str] = ("saved_model.pb",)) -> None:
    """Delete a file, or a folder with everything below it; a missing file or folder is no error.

    Args:
        uri: Address of the file or folder.
        delete_first: Names of files that are deleted before all others, so that no reader takes the rest for a complete
            copy.

    Raises:
        ValueError: The address is the root of a bucket or disk.
    """
    store, key = _store_and_key(uri)
    if key in ("", "/"):
        raise ValueError(f"expected a folder to remove, got {uri}, which is everything there is")
    listed = list(list_files(uri))
    last_files = [file for file in listed if file.name.rsplit("/", 1)[-1] not in delete_first]
    for file in [*(file for file in listed if file not in last_files), *last_files]:
        store.delete(_store_and_key(file.uri)[1])
    store.delete(key)


def read_versioned(uri: str) -> tuple[bytes | None, str]:
    """Return a file's content and its version for `write_if`; ``(None, "")`` if there is no such file."""
    store, key = _store_and_key(uri)
    return store.read_versioned(key)


def write_if(uri: str, data: bytes, version: str) -> None:
    """Write a file only if it still has a version (compare-and-swap).

    A write whose response got lost is repeated and then finds its own content, which counts as success. Two
    writers that must not both win therefore have to write different contents.

    Args:
        uri: Address of the file.
        data: New content.
        version: Version that `read_versioned` returned; ``""`` requires that the file does not exist.

    Raises:
        WriteConflict: Another writer wrote the file in between.
    """
    store, key = _store_and_key(uri)
    try:
        store.write_if(key, data, version)
    except WriteConflict:
        if store.read_versioned(key)[0] != data:
            raise


def _parse_json(uri: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"expected JSON in {uri}, got {data[:40]!r}: {error}") from None


def _run_in_parallel(action: Callable[..., None], *arguments: list[Any]) -> None:
    """Call an action on all arguments in parallel; raise the first error once the running calls have ended."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(action, *values) for values in zip(*arguments, strict=True)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _store_and_key(uri: str) -> tuple[Any, str]:
    """Return the store of an address, and the key within the store."""
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise ValueError("expected a folder, gs:// or s3:// address, got an empty one")
    if not separator:
        return _LocalStore(), uri
    if scheme == "file" and rest.startswith("/"):
        return _LocalStore(), rest
    bucket, _, key = rest.partition("/")
    if scheme not in ("gs", "s3") or not bucket:
        raise ValueError(f"expected a folder, file:///…, gs://bucket/… or s3://bucket/…, got {uri!r}")
    return {"gs": _GcsStore, "s3": _S3Store}[scheme](bucket), key.rstrip("/")


class _LocalStore:
    """Store on a local disk; a key is a path."""

    def read(self, key: str) -> bytes:
        return Path(key).read_bytes()

    def read_first_bytes(self, key: str, size: int) -> bytes:
        with open(key, "rb") as file:
            return file.read(size)

    def write(self, key: str, data: bytes) -> None:
        with _atomic_write(Path(key)) as partial:
            partial.write_bytes(data)

    def exists(self, key: str) -> bool:
        return Path(key).is_file()

    def get(self, key: str, path: Path) -> None:
        shutil.copyfile(key, path)

    def put(self, path: Path, key: str) -> None:
        with _atomic_write(Path(key)) as partial:
            shutil.copyfile(path, partial)

    def list(self, key: str) -> Iterator[tuple[str, int, str]]:
        entries = []
        for folder, _, names in os.walk(key):
            for name in names:
                path = os.path.join(folder, name)
                if (name.startswith(".") and name.endswith(_TEMPORARY_SUFFIXES)) or not os.path.isfile(path):
                    continue
                status = os.stat(path)
                relative = os.path.relpath(path, key).replace(os.sep, "/")
                entries.append((relative, status.st_size, f"{status.st_mtime_ns}-{status.st_size}"))
        yield from sorted(entries)

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
        with _lock(Path(key)):
            if self.read_versioned(key)[1] != version:
                raise WriteConflict(f"{key} was written by someone else")
            self.write(key, data)


@contextmanager
def _atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces the path if the block succeeds and is deleted if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power cut may keep the name and lose the content
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@once
def _umask() -> int:
    """Return the process's file mode mask.

    The mask can be read by setting it only: of two concurrent threads, one would read 0o022.
    """
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a path against other processes; the lock ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _GcsStore:
    """Store in a bucket of Google Cloud Storage."""

    def __init__(self, bucket: str) -> None:
        self._name = bucket

    @contextmanager
    def _calling(self, verb: str, key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield the bucket and the options of every call; convert the client's errors to this module's."""
        google, requests = _import_google()
        api, media = google.api_core.exceptions, google.cloud.storage.exceptions
        uri = f"gs://{self._name}/{key}"
        try:
            client = _gcs_client(os.environ.get("STORAGE_EMULATOR_HOST", ""))
            retry = google.cloud.storage.retry.DEFAULT_RETRY.with_timeout(DEADLINE)
            yield client.bucket(self._name), {"timeout": TIMEOUT, "retry": retry}
        except api.NotFound:
            if verb in ("write", "list"):
                raise _storage_error(verb, uri, "there is no such bucket") from None
            raise FileNotFoundError(f"there is no {uri}") from None
        except api.PreconditionFailed:
            raise WriteConflict(f"{uri} was written by someone else") from None
        except (
            api.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.RequestException, ConnectionError,
            media.InvalidResponse, media.DataCorruption,
        ) as error:  # fmt: skip
            # The last error before the deadline, if the deadline passed.
            reason = getattr(error, "cause", None) or error
            if isinstance(reason, media.InvalidResponse):
                reason = f"the server answers {reason.response.status_code} {reason.response.text[:200]}".strip()
            raise _storage_error(verb, uri, reason) from error

    def _blob(self, bucket: Any, key: str) -> Any:
        if not key:
            raise ValueError(f"expected a file, got gs://{self._name}, which is a bucket")
        return bucket.blob(key)

    def read(self, key: str) -> bytes:
        with self._calling("read", key) as (bucket, options):
            return self._blob(bucket, key).download_as_bytes(**options)

    def read_first_bytes(self, key: str, size: int) -> bytes:
        with self._calling("read", key) as (bucket, options):
            return self._blob(bucket, key).download_as_bytes(end=size - 1, **options)

    def write(self, key: str, data: bytes, **precondition: int) -> None:
        with self._calling("write", key) as (bucket, options):
            blob = self._blob(bucket, key)
            blob.chunk_size = _CHUNK_BYTES
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
            blob.chunk_size = _CHUNK_BYTES
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
                yield from (path[len(prefix) : -1] for path in page.prefixes)

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._calling("remove", key) as (bucket, options):
            self._blob(bucket, key).delete(**options)

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        with self._calling("read", key) as (bucket, options):
            while blob := bucket.get_blob(key, **options):
                # The download asks for the generation that was just read; if it is gone, repeat.
                with suppress(_import_google()[0].api_core.exceptions.NotFound):
                    return blob.download_as_bytes(**options), str(blob.generation)
        return None, ""

    def write_if(self, key: str, data: bytes, version: str) -> None:
        # Generation 0 stands for an object that does not exist (Cloud Storage, "Request preconditions").
        self.write(key, data, if_generation_match=int(version or 0))


class _S3Store:
    """Store in a bucket of S3, or of a service with S3's protocol including conditional writes (If-Match)."""

    def __init__(self, bucket: str) -> None:
        self._name = bucket

    @contextmanager
    def _calling(self, verb: str, key: str) -> Iterator[Any]:
        """Yield the client; convert its errors to this module's."""
        boto3, botocore = _import_boto3()
        uri = f"s3://{self._name}/{key}"
        try:
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
            yield _s3_client(endpoint)
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"there is no {uri}") from None
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                raise WriteConflict(f"{uri} was written by someone else") from None
            raise _storage_error(verb, uri, error) from error
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise _storage_error(verb, uri, error) from error

    def _object(self, key: str) -> dict[str, str]:
        if not key:
            raise ValueError(f"expected a file, got s3://{self._name}, which is a bucket")
        return {"Bucket": self._name, "Key": key}

    def _read(self, key: str, **options: str) -> tuple[bytes, str]:
        errors = _import_boto3()[1].exceptions
        with self._calling("read", key) as client:
            for attempt in range(_S3_ATTEMPTS):
                try:
                    response = client.get_object(**self._object(key), **options)
                    return response["Body"].read(), response["ETag"]
                except (errors.HTTPClientError, errors.IncompleteReadError):
                    # The client repeats a failed call, but not a response that is interrupted while it is read.
                    if attempt == _S3_ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def read(self, key: str) -> bytes:
        return self._read(key)[0]

    def read_first_bytes(self, key: str, size: int) -> bytes:
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
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield item["Key"][len(_prefix(key)) :], item["Size"], item["ETag"].strip('"')

    def folders(self, key: str) -> Iterator[str]:
        for page in self._pages(key, Delimiter="/"):
            yield from (item["Prefix"][len(_prefix(key)) : -1] for item in page.get("CommonPrefixes", []))

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
            raise WriteConflict(f"s3://{self._name}/{key} was removed by someone else") from None


def _prefix(key: str) -> str:
    return f"{key}/" if key else ""


def _content_type(key: str) -> str:
    """Return the content type by suffix, so that a browser shows a report or photo in a bucket instead of saving it."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


def _storage_error(verb: str, uri: str, reason: object) -> StorageError:
    why = str(reason).rstrip(".")
    return StorageError(f"cannot {verb} {uri}: {why}; check the address, the network and the credentials")


@once
def _import_google() -> tuple[Any, Any]:
    """Import and return the package google with the modules used here, and requests, whose errors pass through."""
    import google.api_core.exceptions
    import google.auth.exceptions
    import google.cloud.storage.exceptions
    import google.cloud.storage.retry
    import requests

    return google, requests


@once
def _import_boto3() -> tuple[Any, Any]:
    """Import and return boto3 and botocore with the modules of their errors."""
    import boto3.exceptions
    import boto3.session
    import botocore.config
    import botocore.exceptions

    return boto3, botocore


@once
def _gcs_client(endpoint: str) -> Any:
    google, _ = _import_google()
    # Otherwise the client requests the bucket's metadata for its traces, in its own threads: once per process and after
    # each missing file. The request needs a permission that reading and writing do not need.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # Access to objects needs no project, and not every credential has one.
    return google.cloud.storage.Client(project=None)


@once
def _s3_client(endpoint: str) -> Any:
    boto3, botocore = _import_boto3()
    connect, read = TIMEOUT
    retries = {"mode": "standard", "total_max_attempts": _S3_ATTEMPTS}
    config = botocore.config.Config(connect_timeout=connect, read_timeout=read, retries=retries)
    return boto3.session.Session().client("s3", config=config)
