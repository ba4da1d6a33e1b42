"""Where versions come from: which one an address and a channel mean, and its files on this machine.

Below ``<folder>/versions``, or that of the run for versions on a local disk, lie copies of the newest versions and, by
what is served, a record of the version that answered last (`Answered`). All of it is trusted only where it is this
account's own.
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
from images.serving.settings import Settings

_CHANNELS = "channels.json"
_KEPT = 3  # fetched versions: the one that answers, the one before, and one that another worker may still be loading


@dataclass(frozen=True)
class Source:
    """What the server was told to serve.

    Attributes:
        uri: a model's folder, or a version's where there is none around it.
        channel: that is followed; "" when one version is served for good.
        version: that is served for good; 0 when a channel is followed or the folder has no number.
    """

    uri: str
    channel: str = ""
    version: int = 0

    def current(self) -> str:
        """The address of the version that is to be served now.

        Raises:
            FileNotFoundError: the channel names none.
            ValueError: its file is broken.
            components.scorer.storage.StorageError: the place cannot be reached.
        """
        if not self.channel:
            return storage.join(self.uri, str(self.version)) if self.version else self.uri
        named = self.labels()
        if (version := named.get(self.channel)) is None:
            raise FileNotFoundError(f"expected {_CHANNELS} in {self.uri} to name a {self.channel}, it names {named}")
        return storage.join(self.uri, str(version))

    def labels(self) -> dict[str, int]:
        """Version by channel; none where one version is served for good."""
        if not self.channel:
            return {}
        models, _, name = self.uri.rstrip("/").rpartition("/")
        told = channels.read(models or "/", name)
        return {channel: version for channel, version in told.items() if type(version) is int}


@dataclass(frozen=True)
class Answered:
    """The version that was loaded last and found sound.

    Attributes:
        uri: its address.
        place: its copy on this machine.
        labels: version by channel, as they were then.
        run: the server's run that loaded it.
    """

    uri: str
    place: str
    labels: dict[str, int]
    run: str


def absolute(uri: str) -> str:
    """An address that means the same wherever a process works; "" for none."""
    return str(Path(uri.removeprefix("file://")).absolute()) if uri and not storage.is_remote(uri) else uri


def find(settings: Settings) -> Source:
    """What the settings mean.

    Raises:
        FileNotFoundError: there is no version at the address.
        ValueError: there are several models, or an option does not fit the address.
        components.scorer.storage.StorageError: the place cannot be reached.
    """
    uri = settings.model.rstrip("/")
    if not uri:
        raise ValueError("expected the address of a model or a version, got none: give --model")
    uri = absolute(uri)
    if storage.exists(storage.join(uri, channels.COMPLETE)):
        if settings.version:
            raise ValueError(f"{uri} is a version already: leave --version {settings.version} out, or name its model")
        return Source(uri)
    model = uri if storage.exists(storage.join(uri, _CHANNELS)) else _only_model(uri, settings)
    source = Source(model, version=settings.version) if settings.version else Source(model, settings.channel)
    wanted = source.current()
    if not storage.exists(storage.join(wanted, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {wanted}, found no {channels.COMPLETE} in it")
    return source


def fetch(uri: str, settings: Settings) -> str:
    """A copy of a version's portable network and what belongs to it, on this machine.

    Workers that want the same version at once fetch it once: the first one does, the others wait for it.

    Args:
        uri: the version's folder.
        settings: name the folder in which copies are kept. A version on a local disk is used where it is when no run
            needs a copy that stays as it was, whatever becomes of the version.

    Returns:
        A local folder from which ``litert_model.load`` loads it.

    Raises:
        FileNotFoundError: the version is not complete.
        PermissionError: the folder of the copies is another account's.
        ValueError: a file of it is not as it was published.
        components.scorer.storage.StorageError: the place cannot be reached.
    """
    copies = _copies(settings)
    if not copies:
        return uri
    from components.scorer.artifacts import (
        litert_model,  # imports what runs it, of which the launching process has no need
    )

    if not storage.exists(storage.join(uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {channels.COMPLETE} in it")
    files = [file for file in storage.files(uri) if file.name.startswith(f"{litert_model.FOLDER}/")]
    key = hashlib.sha256(repr([uri, *((file.name, file.version) for file in files)]).encode()).hexdigest()[:32]
    copies.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own(copies):
        raise PermissionError(f"expected {copies} to be a folder of this account: give another --folder")
    place = copies / key
    with _locked(place.with_suffix(".lock")):
        target = place / uri.rsplit("/", 1)[-1]
        if not _whole(target, litert_model.FOLDER):
            shutil.rmtree(place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as partial:
                integrity.download(uri, Path(partial, target.name), litert_model.FOLDER)
                Path(partial, target.name, channels.COMPLETE).touch()
                os.rename(partial, place)
                Path(partial).mkdir()  # for the context to remove
        os.utime(place)
    _forget(place.parent)
    return str(target)


def remember(version: Answered, settings: Settings) -> None:
    """Write down which version answers, for workers and servers that start when it cannot be asked for."""
    if copies := _copies(settings):
        storage.write_json(str(_record(copies, settings)), asdict(version))


def recall(settings: Settings) -> Answered | None:
    """What `remember` wrote down of what the settings mean; None where that is not there, or not to be trusted."""
    if not (copies := _copies(settings)):
        return None
    try:
        path = _record(copies, settings)
        version = Answered(**json.loads(path.read_text(encoding="utf-8")))
        return version if _is_own(copies) and Path(version.place).parent.parent == copies else None
    except (OSError, ValueError, TypeError):  # none, or a broken one
        return None


def _copies(settings: Settings) -> Path | None:
    """The folder of the copies; None when there is none, for a version on a local disk that is used where it is.

    Copies of remote versions outlive a run, for the next one; those of local ones end with it.
    """
    folder = settings.folder if storage.is_remote(settings.model) else settings.run
    return Path(folder, "versions") if folder else None


def _record(copies: Path, settings: Settings) -> Path:
    served = repr((settings.model.rstrip("/"), settings.channel, settings.version))
    return copies / f"answered-{hashlib.sha256(served.encode()).hexdigest()[:32]}.json"


def _is_own(folder: Path) -> bool:
    """Whether nobody else can have written to a folder."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _whole(version: Path, part: str) -> bool:
    """Whether a version was fetched to its end, and lies there as it was published."""
    if not (version / channels.COMPLETE).is_file():
        return False
    try:
        integrity.check(version, part)
    except ValueError:
        return False
    return True


def _only_model(uri: str, settings: Settings) -> str:
    """The model's folder where the address is its own, or that of all models and there is just one."""
    if settings.version and storage.exists(storage.join(uri, str(settings.version), channels.COMPLETE)):
        return uri
    models = [name for name in storage.folders(uri) if storage.exists(storage.join(uri, name, _CHANNELS))]
    if len(models) > 1:
        raise ValueError(f"expected one model in {uri}, found {models}; name one: {uri}/{models[0]}")
    if not models:
        raise FileNotFoundError(
            f"expected a published version ({channels.COMPLETE}) or a model's folder ({_CHANNELS}) at {uri},"
            " found neither"
        )
    return storage.join(uri, models[0])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes waiting; the lock dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget(folder: Path) -> None:
    """Remove all copies but the newest and those of versions that answer."""
    places = sorted((place for place in folder.iterdir() if place.is_dir()), key=lambda place: -place.stat().st_mtime)
    needed = " ".join(record.read_text(encoding="utf-8") for record in folder.glob("answered-*.json"))
    for place in [place for place in places if len(place.name) == 32][_KEPT:]:
        if place.name not in needed:
            shutil.rmtree(place, ignore_errors=True)
