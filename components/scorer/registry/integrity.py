"""Whether files are those that they should be, by their SHA-256: above all those of a published version.

    <version>/version.json    {…, "files": {"saved_model.pb": "5f70bf18…", "portable/scorer.tflite": "9c56cc51…", …}}

The record names every file of the version but itself. Whoever takes a file of a version checks it here first. A version
without a record, or whose record names no file, is refused.
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
_ANOTHER = "or let another version answer (python -m pipeline models rollback)"


def write(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write the record of a version that is complete otherwise, with the digests of its files.

    Args:
        folder: the version's, local.
        record: what else the record tells.
    """
    names = sorted(file.name for file in storage.files(str(folder)) if file.name != RECORD)
    digests = {name: sha256(Path(folder, name)) for name in names}
    storage.write_json(storage.join(str(folder), RECORD), {**record, _FILES: digests})


def read(uri: str, name: str) -> bytes:
    """A file of a version.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``.
        name: of the file, its path in there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not as it was published, or the version's record names no digests.
    """
    content, digests = storage.read_bytes(storage.join(uri, name)), _digests(uri)
    _compare(uri, name, digests.get(name, ""), hashlib.sha256(content).hexdigest())
    return content


def expect(digest: str, wanted: str, setting: str, what: str = "a file") -> None:
    """Raise ValueError unless a file has the SHA-256 that a setting asks for; "" asks for none."""
    if wanted and digest != wanted.lower():
        raise ValueError(f"expected {what} whose SHA-256 is {setting}, {wanted}, got {digest}")


def check(folder: str | Path, part: str = "", without: Collection[str] = (), uri: str = "") -> None:
    """Raise ValueError unless the files of a version are those that its record names, each with its digest.

    Args:
        folder: the version's, local.
        part: folder of it that is looked at; "" for all of it.
        without: paths below that part that are not looked at.
        uri: of the version, for the error, where it comes from another place.
    """
    folder = str(folder)
    digests = _digests(folder)
    present = {f"{part}/{file.name}".lstrip("/") for file in storage.files(storage.join(folder, part))} - {RECORD}
    for name in sorted({*digests, *present}):
        if storage.is_below(name, [part]) and not storage.is_below(name, [f"{part}/{each}" for each in without]):
            found = sha256(Path(folder, name)) if name in present else ""
            _compare(uri or folder, name, digests.get(name, ""), found)


def download(uri: str, folder: str | Path, part: str = "", without: Collection[str] = ()) -> None:
    """Copy files of a version into a local folder and check them; see `check`.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: a file is not as it was published, or the version's record names no digests.
        components.scorer.storage.StorageError: the place cannot be reached.
    """
    _digests(uri)  # before megabytes are copied for nothing
    storage.download_tree(storage.join(uri, part), storage.join(str(folder), part), without)
    storage.write_bytes(storage.join(str(folder), RECORD), storage.read_bytes(storage.join(uri, RECORD)))
    check(folder, part, without, uri)


@contextmanager
def local(uri: str, part: str = "", without: Collection[str] = ()) -> Iterator[str]:
    """A local folder with the files of a version, checked: its own, or a copy that is removed at the end.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``.
        part: see `check`.
        without: likewise.

    Raises:
        As `download`.
    """
    if not storage.is_remote(uri):
        folder = os.path.abspath(uri.removeprefix("file://"))
        check(folder, part, without)
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        folder = storage.join(place, uri.rstrip("/").rpartition("/")[2])  # a version's number is its folder's name
        download(uri, folder, part, without)
        yield folder


def _digests(uri: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a version, as its record names them.

    Raises:
        ValueError: there is no record, or it names no digests.
    """
    place, came = storage.join(uri, RECORD), ""
    try:
        record = storage.read_json(place)
    except FileNotFoundError:
        record, came = None, "no such file"
    digests = record.get(_FILES, {}) if isinstance(record, dict) else None
    if digests and isinstance(digests, dict) and all(isinstance(digest, str) for digest in digests.values()):
        return digests
    came = came or ("no digests" if digests == {} else "another value")
    raise ValueError(
        f"expected {place} to name each file of the version with its SHA-256 under {_FILES}, got {came}; publish the"
        f" scorer again in a new run, {_ANOTHER}"
    )


def _compare(uri: str, name: str, expected: str, found: str) -> None:
    """Raise ValueError unless a file's digest is the one published; "" stands for no such file."""
    if expected != found:
        wanted, came = (f"SHA-256 {each[:12]}…" if each else "no such file" for each in (expected, found))
        mend = "copy it back from where it is whole" if expected else "remove it"
        raise ValueError(
            f"{storage.join(uri, name)} is not as it was published: expected {wanted}, got {came}; {mend}, {_ANOTHER}"
        )


def sha256(path: Path) -> str:
    """Of a local file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
