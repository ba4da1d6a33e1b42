"""Where versions come from: which one an address and a channel mean, and its files on this machine."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.scorer import channels, storage
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
    if not storage.is_remote(uri):
        uri = str(Path(uri.removeprefix("file://")).absolute())
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


def fetch(uri: str, folder: str) -> str:
    """A version's portable network and what belongs to it, on this machine.

    Workers that want the same version at once fetch it once: the first one does, the others wait for it.

    Args:
        uri: the version's folder.
        folder: in which fetched versions are kept; what lies on a local disk is used where it is.

    Returns:
        A local folder from which ``portable.load`` loads it.

    Raises:
        FileNotFoundError: the version is not complete.
        components.scorer.storage.StorageError: the place cannot be reached.
    """
    if not storage.is_remote(uri):
        return uri
    from components.scorer import portable  # imports what runs it, of which the launching process has no need

    if not storage.exists(storage.join(uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {channels.COMPLETE} in it")
    files = [file for file in storage.files(uri) if file.name.startswith(f"{portable.FOLDER}/")]
    key = hashlib.sha256(repr([uri, *((file.name, file.version) for file in files)]).encode()).hexdigest()[:32]
    place = Path(folder, "versions", key)
    with _locked(place.with_suffix(".lock")):
        target = place / uri.rsplit("/", 1)[-1]
        if not (target / channels.COMPLETE).is_file():
            shutil.rmtree(place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as partial:
                storage.download_tree(storage.join(uri, portable.FOLDER), Path(partial, target.name, portable.FOLDER))
                Path(partial, target.name, channels.COMPLETE).touch()
                os.rename(partial, place)
                Path(partial).mkdir()  # for the context to remove
        os.utime(place)
    _forget(place.parent)
    return str(target)


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
    """Remove all fetched versions but the newest; a network that was loaded needs its files no more."""
    places = sorted((place for place in folder.iterdir() if place.is_dir()), key=lambda place: -place.stat().st_mtime)
    for place in [place for place in places if len(place.name) == 32][_KEPT:]:
        shutil.rmtree(place, ignore_errors=True)
