"""Version source: resolves an address and a channel to a version, and copies its files to this machine.

``<folder>/versions`` holds copies of the newest versions. It also holds, for each setting of model, channel and
version, a record of the version that was served last (`ServedRecord`). Versions on a local disk are copied into the
run's folder instead. The server trusts these files only if they belong to its own account.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from components.scorer import storage
from components.scorer.registry import channels, integrity
from images.serving.settings import ServerSettings

_CHANNELS_FILE = "channels.json"
_MAX_COPIES = 3  # copies: the served version, the one before, and one that another worker may still be loading


@dataclass(frozen=True)
class VersionSource:
    """The model or the version that the server serves.

    Attributes:
        uri: Folder of a model, or folder of a single version.
        channel: Channel to follow. "" means that one fixed version is served.
        version: Number of the fixed version. 0 if a channel is followed or the folder has no number.
    """

    uri: str
    channel: str = ""
    version: int = 0

    def current_uri(self) -> str:
        """Return the address of the version to serve now.

        Raises:
            FileNotFoundError: The channel names no version.
            ValueError: The channels file is broken.
            components.scorer.storage.StorageError: The store cannot be reached.
        """
        if not self.channel:
            return storage.join(self.uri, str(self.version)) if self.version else self.uri
        labels = self.labels()
        if (version := labels.get(self.channel)) is None:
            raise FileNotFoundError(
                f"expected {_CHANNELS_FILE} in {self.uri} to name a {self.channel}, it names {labels}"
            )
        return storage.join(self.uri, str(version))

    def labels(self) -> dict[str, int]:
        """Return the version number of each channel. Empty if one fixed version is served."""
        if not self.channel:
            return {}
        models, _, name = self.uri.rstrip("/").rpartition("/")
        channel_versions = channels.read(models or "/", name)
        return {channel: version for channel, version in channel_versions.items() if type(version) is int}


@dataclass(frozen=True)
class ServedRecord:
    """Record of the last version that was loaded and passed its check.

    Attributes:
        uri: Address of the version.
        place: Folder of the version's copy on this machine.
        labels: Version number by channel at the time of the record.
        run: Folder of the server's run that loaded the version.
    """

    uri: str
    place: str
    labels: dict[str, int]
    run: str


def absolute_uri(uri: str) -> str:
    """Return an address that does not depend on the working folder. "" stays ""."""
    return str(Path(uri.removeprefix("file://")).absolute()) if uri and not storage.is_remote(uri) else uri


def resolve_source(settings: ServerSettings) -> VersionSource:
    """Resolve the settings to a model or a version.

    Raises:
        FileNotFoundError: There is no version at the address.
        ValueError: The address holds several models, or an option does not fit the address.
        components.scorer.storage.StorageError: The store cannot be reached.
    """
    uri = settings.model.rstrip("/")
    if not uri:
        raise ValueError("expected the address of a model or a version, got none: give --model")
    uri = absolute_uri(uri)
    if storage.exists(storage.join(uri, channels.COMPLETE)):
        if settings.version:
            raise ValueError(f"{uri} is a version already: leave --version {settings.version} out, or name its model")
        return VersionSource(uri)
    model = uri if storage.exists(storage.join(uri, _CHANNELS_FILE)) else _only_model(uri, settings)
    source = (
        VersionSource(model, version=settings.version) if settings.version else VersionSource(model, settings.channel)
    )
    version_uri = source.current_uri()
    if not storage.exists(storage.join(version_uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {version_uri}, found no {channels.COMPLETE} in it")
    return source


def fetch_version(uri: str, settings: ServerSettings) -> str:
    """Copy a version's portable network and its files to this machine, and return the copy's folder.

    If several workers want the same version, the first one fetches it and the others wait.

    Args:
        uri: Folder of the version.
        settings: Settings that name the folder of the copies. A local version is copied too during a run, so that
            later changes to the version do not reach the server. Without a run, a local version is used in place.

    Returns:
        A local folder from which ``litert_model.load`` loads the version.

    Raises:
        FileNotFoundError: The version is not complete.
        PermissionError: The folder of the copies belongs to another account.
        ValueError: A file differs from the published one.
        components.scorer.storage.StorageError: The store cannot be reached.
    """
    copies = _copies_folder(settings)
    if not copies:
        return uri
    from components.scorer.artifacts import (
        litert_model,  # imports LiteRT, which the supervisor does not need
    )

    if not storage.exists(storage.join(uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {channels.COMPLETE} in it")
    files = [file for file in storage.list_files(uri) if file.name.startswith(f"{litert_model.FOLDER}/")]
    key = hashlib.sha256(repr([uri, *((file.name, file.version) for file in files)]).encode()).hexdigest()[:32]
    copies.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own(copies):
        raise PermissionError(f"expected {copies} to be a folder of this account: give another --folder")
    copy = copies / key
    with _locked(copy.with_suffix(".lock")):
        target = copy / uri.rsplit("/", 1)[-1]
        if not _is_complete(target, litert_model.FOLDER):
            shutil.rmtree(copy, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=copy.parent) as partial:
                integrity.download(uri, Path(partial, target.name), litert_model.FOLDER)
                Path(partial, target.name, channels.COMPLETE).touch()
                os.rename(partial, copy)
                Path(partial).mkdir()  # the context manager removes a folder of this name
        os.utime(copy)
    _remove_old_copies(copy.parent)
    return str(target)


def write_record(record: ServedRecord, settings: ServerSettings) -> None:
    """Write the record of the served version, for workers and servers that start while the store is unreachable."""
    if copies := _copies_folder(settings):
        storage.write_json(str(_record_path(copies, settings)), asdict(record))


def read_record(settings: ServerSettings) -> ServedRecord | None:
    """Return the record that `write_record` wrote for these settings. None if it is missing, broken or not trusted."""
    if not (copies := _copies_folder(settings)):
        return None
    try:
        path = _record_path(copies, settings)
        version = ServedRecord(**json.loads(path.read_text(encoding="utf-8")))
        return version if _is_own(copies) and Path(version.place).parent.parent == copies else None
    except (OSError, ValueError, TypeError):  # missing or broken
        return None


def _copies_folder(settings: ServerSettings) -> Path | None:
    """Return the folder of the copies. None if a version on a local disk is used in place.

    Copies of remote versions are kept for the next run. Copies of local versions are deleted with the run.
    """
    folder = settings.folder if storage.is_remote(settings.model) else settings.run
    return Path(folder, "versions") if folder else None


def _record_path(copies: Path, settings: ServerSettings) -> Path:
    served = repr((settings.model.rstrip("/"), settings.channel, settings.version))
    return copies / f"answered-{hashlib.sha256(served.encode()).hexdigest()[:32]}.json"


def _is_own(folder: Path) -> bool:
    """Return whether a folder belongs to this account and no other account may write to it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _is_complete(version: Path, subfolder: str) -> bool:
    """Return whether a copy is complete and all its files match the published checksums."""
    if not (version / channels.COMPLETE).is_file():
        return False
    try:
        integrity.check_files(version, subfolder)
    except ValueError:
        return False
    return True


def _only_model(uri: str, settings: ServerSettings) -> str:
    """Return the folder of the only model: the address itself, or the one model's folder below it."""
    if settings.version and storage.exists(storage.join(uri, str(settings.version), channels.COMPLETE)):
        return uri
    models = [name for name in storage.list_folders(uri) if storage.exists(storage.join(uri, name, _CHANNELS_FILE))]
    if len(models) > 1:
        raise ValueError(f"expected one model in {uri}, found {models}; name one: {uri}/{models[0]}")
    if not models:
        raise FileNotFoundError(
            f"expected a published version ({channels.COMPLETE}) or a model's folder ({_CHANNELS_FILE}) at {uri},"
            " found neither"
        )
    return storage.join(uri, models[0])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock. The system releases the lock if its process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_old_copies(folder: Path) -> None:
    """Remove all copies except the newest `_MAX_COPIES` and those that a record names."""
    copies = sorted((copy for copy in folder.iterdir() if copy.is_dir()), key=lambda copy: -copy.stat().st_mtime)
    records = " ".join(record.read_text(encoding="utf-8") for record in folder.glob("answered-*.json"))
    for copy in [copy for copy in copies if len(copy.name) == 32][_MAX_COPIES:]:
        if copy.name not in records:
            shutil.rmtree(copy, ignore_errors=True)
