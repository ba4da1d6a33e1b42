"""What would fail hours later, found before any GPU is paid for: addresses, permissions, files, disk, workers."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.scorer import storage
from components.scorer.parameters import among, check_faces, from_parameters
from components.scorer.registry import integrity
from components.scorer.run import cluster_quota
from components.scorer.settings import Faces

DISK = 2**30
"""Bytes that have to be free on the machine's disk: a data set of 20,000 photos takes about as much."""

_DRAWN = ("tfds:", "sample:")  # photos that lie at no address
_WEIGHTS = (".keras", ".weights.h5")
_OF_FACES = ("face_detector_sha256", "face_embedder", "face_embedder_sha256", "face_layers")  # each needs another


def examine(
    given: Mapping[str, Any],
    folder: str | Path = "",
    kubeconfig: str = "",
    further: Iterable[tuple[str, Callable[[], str]]] = (),
) -> list[str]:
    """Find out whether a run could read, write and use all that it names.

    A bucket that is to be written to gets a small file that is written as if by several, read and removed again.

    Args:
        given: the pipeline's parameters by name; empty ones and those that name no address are passed over.
        folder: where the data set is going to lie; by default where this machine keeps temporary files.
        kubeconfig: file of the cluster that is asked whether it has the accelerators; a pod asks its own.
        further: what to look at where all of that is right, and how: a call that says what is right, or raises.

    Returns:
        A line for each thing that was found right.

    Raises:
        ValueError: one message with everything that was found wrong, a line each.
    """
    right, wrong = [], []
    place = Path(folder or tempfile.gettempdir())
    for looks in ([*_looks(given, place), *_accelerators(given, kubeconfig)], further):
        for what, look in () if wrong else looks:
            try:
                right.append(f"{what} {look()}")
            except (OSError, ValueError, RuntimeError) as error:
                wrong.append(f"{what}: {error}")
    if wrong:
        few = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
        raise ValueError(f"before anything is trained: {few} wrong; " + "; ".join(wrong))
    return right


def _looks(given: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is looked at, and how."""
    named = {name: value for name, value in given.items() if isinstance(value, str) and value}
    for name in ("photos", "unlabelled", "ratings", "attributes"):
        if name in named and not named[name].startswith(_DRAWN):
            yield f"{name} {named[name]}", lambda uri=named[name]: _readable(uri)
    for name in ("models", "workspace"):
        if name in named:
            yield f"{name} {named[name]}", lambda uri=named[name]: _writable(uri)
    files = {"weights": _weights, "norms": _norms, "face_detector": _detector, "face_embedder": _embedder}
    for name, look in files.items():
        if name in named:
            yield f"{name} {named[name]}", lambda look=look: look(given)
    if any(given.get(name) for name in _OF_FACES):
        yield "the settings of faces", lambda: _together(given)
    if "beam_options" in named:
        yield "beam_options", lambda: _beam(named["beam_options"])
    yield "the disk", lambda: _disk(folder)


def _accelerators(given: Mapping[str, Any], kubeconfig: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Whether a known cluster has what pretraining and training ask for, where a run asks for any."""
    if (name := given.get("accelerator", "")) and (kubeconfig or cluster_quota.in_pod()):
        count, selector = int(given.get("accelerator_count", 1)), given.get("node_selector", {})
        yield f"accelerator {name}", lambda: cluster_quota.examine(name, count, selector, kubeconfig)


def _readable(uri: str) -> str:
    """Read a file, or the first one in a folder: to be listed is not yet to be read."""
    try:
        storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        first = next(storage.files(uri), None)
        if first is None:
            raise FileNotFoundError("there is nothing at this address") from None
        try:
            storage.read_bytes(first.uri)
        except OSError:  # whose text holds a photo's name, which is nobody's business
            raise PermissionError("its files are listed, but cannot be read: look at the account's rights") from None
    return "can be read"


def _writable(uri: str) -> str:
    """Write, read and remove a file, with the condition on which channels and the register of splits rest."""
    if not storage.is_remote(uri):
        path = Path(uri.removeprefix("file://")).absolute()
        nearest = next(each for each in (path, *path.parents) if each.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"{nearest} is no folder that this user may write to")
        return "can be written to"
    probe = storage.join(uri, f"preflight-{secrets.token_hex(4)}", "probe")
    storage.write_if(probe, b"one", "")
    content, version = storage.read_versioned(probe)
    storage.write_if(probe, b"two", version)
    try:
        storage.write_if(probe, b"three", version)
    except storage.Conflict:
        pass
    else:
        raise RuntimeError("two writers would overwrite each other: this storage heeds no conditions on writes")
    finally:
        storage.delete_tree(probe.rpartition("/")[0])
    if content != b"one":
        raise RuntimeError("what was written could not be read back")
    return "can be written to"


def _weights(given: Mapping[str, Any]) -> str:
    if not given["weights"].endswith(_WEIGHTS):
        raise ValueError(f"expected a {' or '.join(_WEIGHTS)} file")
    if digest := given.get("weights_sha256", ""):
        integrity.expect(hashlib.sha256(_file(given["weights"])).hexdigest(), digest, "weights_sha256")
    return _readable(given["weights"])


def _norms(given: Mapping[str, Any]) -> str:
    """The norms are parsed as training parses them."""
    from components.scorer.upload_norms import policy  # needs what the steps need; this machine may have less

    found = policy.load(_file(given["norms"]))
    return f"can be read: {len(found.norms)} norms"


def _detector(given: Mapping[str, Any]) -> str:
    """The face detector is the file that its digest says, and finds no face on a blank photo."""
    from components.scorer.faces import weight_files  # needs what the steps need, as well

    weight_files.read_detector(_faces(given))
    return "can be used"


def _embedder(given: Mapping[str, Any]) -> str:
    """The embedder is the file that its digest says, reads pictures of faces, and has the layers that are asked for."""
    from components.scorer.faces import weight_files

    about = weight_files.read_embedder(_faces(given)).about
    return (
        f"can be used: it reads faces of {about.side} x {about.side} pixels" if about.side else "is known to deepface"
    )


def _together(given: Mapping[str, Any]) -> str:
    check_faces(_faces(given))
    return "do not contradict each other"


def _faces(given: Mapping[str, Any]) -> Faces:
    return from_parameters(Faces, **among(dict(given), Faces))


def _beam(options: str) -> str:
    """The runner has all that it needs, and where it is Dask, its workers answer."""
    from components.scorer.run import beam  # and Apache Beam, which takes a second to load

    beam.check(options)
    return "can be used"


def _file(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError("there is nothing at this address") from None


def _disk(folder: Path) -> str:
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(nearest).free
    if free < DISK:
        raise OSError(f"expected {DISK / 2**30:.0f} GiB to be free for the data set, there are {free / 2**30:.2f} GiB")
    return f"has {free / 2**30:,.0f} GiB free"
