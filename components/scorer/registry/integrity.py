"""Integrity checks of files by their SHA-256, above all of the files of a published version.

    <version>/version.json    {…, "files": {"saved_model.pb": "5f70bf18…", "portable/scorer.tflite": "9c56cc51…", …}}

The record names every file of the version but itself. Every reader of a version's files checks them here first. A
version without a record, or with a record that names no files, is refused.
"""

import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.scorer import storage

RECORD = "version.json"
_FILES = "files"
_ROLLBACK_HINT = "or let another version answer (python -m pipeline models rollback)"


def write_record(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write ``version.json`` with the digests of a version's files; all other files must have been written before.

    Args:
        folder: Local folder of the version.
        record: Other entries of ``version.json``.
    """
    names = sorted(file.name for file in storage.list_files(str(folder)) if file.name != RECORD)
    digests = {name: sha256(Path(folder, name)) for name in names}
    storage.write_json(storage.join(str(folder), RECORD), {**record, _FILES: digests})


def read_file(uri: str, name: str) -> bytes:
    """Return the content of a version's file after checking its digest.

    Args:
        uri: Address of the version's folder: local, ``gs://`` or ``s3://``.
        name: Path of the file within the folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not as it was published, or the version's record names no digests.
    """
    content, digests = storage.read_bytes(storage.join(uri, name)), _digests(uri)
    _check_digest(uri, name, digests.get(name, ""), hashlib.sha256(content).hexdigest())
    return content


def check_sha256(actual: str, expected: str, setting: str, label: str = "a file") -> None:
    """Raise ValueError if a file's SHA-256 differs from that of a setting; "" accepts any file."""
    if expected and actual != expected.lower():
        raise ValueError(f"expected {label} whose SHA-256 is {setting}, {expected}, got {actual}")


def check_files(folder: str | Path, subfolder: str = "", exclude: Collection[str] = (), uri: str = "") -> None:
    """Raise ValueError unless a version has exactly the files that its record names, each with its digest.

    Args:
        folder: Local folder of the version.
        subfolder: Subfolder to check; "" checks the whole version.
        exclude: Paths below the subfolder that are not checked.
        uri: Address of the version for the error message, if the local folder is a copy.
    """
    folder = str(folder)
    digests = _digests(folder)
    present = {
        f"{subfolder}/{file.name}".lstrip("/") for file in storage.list_files(storage.join(folder, subfolder))
    } - {RECORD}
    for name in sorted({*digests, *present}):
        if storage.is_below(name, [subfolder]) and not storage.is_below(
            name, [f"{subfolder}/{path}" for path in exclude]
        ):
            digest = sha256(Path(folder, name)) if name in present else ""
            _check_digest(uri or folder, name, digests.get(name, ""), digest)


def download(uri: str, folder: str | Path, subfolder: str = "", exclude: Collection[str] = ()) -> None:
    """Copy a version's files into a local folder and check the copies; the arguments are those of `check_files`.

    Raises:
        FileNotFoundError: There are no files.
        ValueError: A file is not as it was published, or the version's record names no digests.
        components.scorer.storage.StorageError: The address cannot be reached.
    """
    _digests(uri)  # a missing record is an error before megabytes are copied
    storage.download_tree(storage.join(uri, subfolder), storage.join(str(folder), subfolder), exclude)
    storage.write_bytes(storage.join(str(folder), RECORD), storage.read_bytes(storage.join(uri, RECORD)))
    check_files(folder, subfolder, exclude, uri)


@contextmanager
def local_copy(uri: str, subfolder: str = "", exclude: Collection[str] = ()) -> Iterator[str]:
    """Yield a local folder with a version's checked files: its own, or a temporary copy of a remote version.

    Args:
        uri: Address of the version's folder: local, ``gs://`` or ``s3://``.
        subfolder: Subfolder to check or copy; "" stands for the whole version.
        exclude: Paths below the subfolder that are left out.

    Raises:
        FileNotFoundError: There are no files.
        ValueError: A file is not as it was published, or the version's record names no digests.
        components.scorer.storage.StorageError: The address cannot be reached.
    """
    if not storage.is_remote(uri):
        folder = os.path.abspath(uri.removeprefix("file://"))
        check_files(folder, subfolder, exclude)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = storage.join(temporary, uri.rstrip("/").rpartition("/")[2])  # named by the version's number
        download(uri, folder, subfolder, exclude)
        yield folder


def _digests(uri: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a version, as its record names them.

    Raises:
        ValueError: There is no record, or the record names no digests.
    """
    path, got = storage.join(uri, RECORD), ""
    try:
        record = storage.read_json(path)
    except FileNotFoundError:
        record, got = None, "no such file"
    digests = record.get(_FILES, {}) if isinstance(record, dict) else None
    if digests and isinstance(digests, dict) and all(isinstance(digest, str) for digest in digests.values()):
        return digests
    got = got or ("no digests" if digests == {} else "another value")
    raise ValueError(
        f"expected {path} to name each file of the version with its SHA-256 under {_FILES}, got {got}; publish the"
        f" scorer again in a new run, {_ROLLBACK_HINT}"
    )


def _check_digest(uri: str, name: str, expected: str, actual: str) -> None:
    """Raise ValueError unless a file's digest is the published one; "" stands for a missing file."""
    if expected != actual:
        wanted, got = (f"SHA-256 {digest[:12]}…" if digest else "no such file" for digest in (expected, actual))
        remedy = "copy it back from where it is whole" if expected else "remove it"
        raise ValueError(
            f"{storage.join(uri, name)} is not as it was published: expected {wanted}, got {got}; {remedy},"
            f" {_ROLLBACK_HINT}"
        )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a local file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
