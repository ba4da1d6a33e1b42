"""Checks before a run: addresses, permissions, files, free disk and workers, before any GPU is paid for."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from components.scorer import storage
from components.scorer.parameters import check_faces, from_parameters, select_parameters
from components.scorer.registry import integrity
from components.scorer.run import cluster_quota
from components.scorer.settings import Faces

MINIMUM_FREE_BYTES = 2**30
"""Bytes that must be free on the machine's disk: about the size of a data set of 20,000 photos."""

_GENERATED_SOURCES = ("tfds:", "sample:")  # sources of photos without an address to check
_WEIGHTS = (".keras", ".weights.h5")
# Face parameters that need others.
_FACE_PARAMETERS = ("face_detector_sha256", "face_embedder", "face_embedder_sha256", "face_layers")


def run_checks(
    parameters: Mapping[str, Any],
    data_folder: str | Path = "",
    kubeconfig: str = "",
    later_checks: Iterable[tuple[str, Callable[[], str]]] = (),
) -> list[str]:
    """Check that a run can read, write and use every resource that its parameters name.

    In each bucket that the run writes to, a small file is written by two competing writers, read and removed.

    Args:
        parameters: Pipeline parameters by name. Empty parameters and parameters without an address are skipped.
        data_folder: Folder of the data set; by default the machine's folder of temporary files.
        kubeconfig: Kubeconfig file of the cluster whose accelerators are checked. A pod checks its own cluster.
        later_checks: Further checks, run if no other check failed: a label, and a function that returns a result in
            words or raises an error.

    Returns:
        A line for each check that passed.

    Raises:
        ValueError: At least one check failed; the message lists every failure.
    """
    passed: list[str] = []
    failed: list[str] = []
    disk_folder = Path(data_folder or tempfile.gettempdir())
    for checks in ([*_checks(parameters, disk_folder), *_accelerator_check(parameters, kubeconfig)], later_checks):
        for label, check in () if failed else checks:
            try:
                passed.append(f"{label} {check()}")
            except (OSError, ValueError, RuntimeError) as error:
                failed.append(f"{label}: {error}")
    if failed:
        count = "1 thing is" if len(failed) == 1 else f"{len(failed)} things are"
        raise ValueError(f"before anything is trained: {count} wrong; " + "; ".join(failed))
    return passed


def _checks(parameters: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield each check: a label, and a function that returns a result in words or raises an error."""
    texts = {name: value for name, value in parameters.items() if isinstance(value, str) and value}
    for name in ("photos", "unlabelled", "ratings", "attributes"):
        if name in texts and not texts[name].startswith(_GENERATED_SOURCES):
            yield f"{name} {texts[name]}", partial(_check_readable, texts[name])
    for name in ("models", "workspace"):
        if name in texts:
            yield f"{name} {texts[name]}", partial(_check_writable, texts[name])
    files = {
        "weights": _check_weights,
        "norms": _check_norms,
        "face_detector": _check_detector,
        "face_embedder": _check_embedder,
    }
    for name, check in files.items():
        if name in texts:
            yield f"{name} {texts[name]}", partial(check, parameters)
    if any(parameters.get(name) for name in _FACE_PARAMETERS):
        yield "the settings of faces", lambda: _check_face_settings(parameters)
    if "beam_options" in texts:
        yield "beam_options", lambda: _check_beam(texts["beam_options"])
    yield "the disk", lambda: _check_disk(folder)


def _accelerator_check(parameters: Mapping[str, Any], kubeconfig: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the check of the cluster's accelerators, if the run asks for accelerators and the cluster is known."""
    if (name := parameters.get("accelerator", "")) and (kubeconfig or cluster_quota.in_pod()):
        count, selector = int(parameters.get("accelerator_count", 1)), parameters.get("node_selector", {})
        yield f"accelerator {name}", lambda: cluster_quota.check_quota(name, count, selector, kubeconfig)


def _check_readable(uri: str) -> str:
    """Read a file, or the first file in a folder: permission to list a folder is not permission to read its files."""
    try:
        storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        first = next(storage.list_files(uri), None)
        if first is None:
            raise FileNotFoundError("there is nothing at this address") from None
        try:
            storage.read_bytes(first.uri)
        except OSError:  # its text holds a photo's name, which must stay private
            raise PermissionError("its files are listed, but cannot be read: look at the account's rights") from None
    return "can be read"


def _check_writable(uri: str) -> str:
    """Write, read and remove a file, and check conditional writes, which channels and the split register need."""
    if not storage.is_remote(uri):
        path = Path(uri.removeprefix("file://")).absolute()
        nearest = next(parent for parent in (path, *path.parents) if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"{nearest} is no folder that this user may write to")
        return "can be written to"
    probe = storage.join(uri, f"preflight-{secrets.token_hex(4)}", "probe")
    storage.write_if(probe, b"one", "")
    content, version = storage.read_versioned(probe)
    storage.write_if(probe, b"two", version)
    try:
        storage.write_if(probe, b"three", version)
    except storage.WriteConflict:
        pass
    else:
        raise RuntimeError("two writers would overwrite each other: this storage heeds no conditions on writes")
    finally:
        storage.delete_tree(probe.rpartition("/")[0])
    if content != b"one":
        raise RuntimeError("what was written could not be read back")
    return "can be written to"


def _check_weights(parameters: Mapping[str, Any]) -> str:
    if not parameters["weights"].endswith(_WEIGHTS):
        raise ValueError(f"expected a {' or '.join(_WEIGHTS)} file")
    if digest := parameters.get("weights_sha256", ""):
        integrity.check_sha256(hashlib.sha256(_read_file(parameters["weights"])).hexdigest(), digest, "weights_sha256")
    return _check_readable(parameters["weights"])


def _check_norms(parameters: Mapping[str, Any]) -> str:
    """Parse the upload norms as training parses them."""
    from components.scorer.upload_norms import policy  # needs the steps' packages, which this machine may lack

    norms = policy.load(_read_file(parameters["norms"]))
    return f"can be read: {len(norms.norms)} norms"


def _check_detector(parameters: Mapping[str, Any]) -> str:
    """Check that the face detector has its digest and finds no face in a blank photo."""
    from components.scorer.faces import weight_files  # needs the steps' packages as well

    weight_files.read_detector(_face_settings(parameters))
    return "can be used"


def _check_embedder(parameters: Mapping[str, Any]) -> str:
    """Check that the face embedder has its digest, embeds face crops, and has the layers that `face_layers` names."""
    from components.scorer.faces import weight_files

    spec = weight_files.read_embedder(_face_settings(parameters)).spec
    return f"can be used: it reads faces of {spec.side} x {spec.side} pixels" if spec.side else "is known to deepface"


def _check_face_settings(parameters: Mapping[str, Any]) -> str:
    check_faces(_face_settings(parameters))
    return "do not contradict each other"


def _face_settings(parameters: Mapping[str, Any]) -> Faces:
    return from_parameters(Faces, **select_parameters(dict(parameters), Faces))


def _check_beam(options: str) -> str:
    """Check the options of the Beam runner and, for Dask, that its workers answer."""
    from components.scorer.run import beam  # imports Apache Beam, which takes a second to load

    beam.check_options(options)
    return "can be used"


def _read_file(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError("there is nothing at this address") from None


def _check_disk(folder: Path) -> str:
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    if free < MINIMUM_FREE_BYTES:
        raise OSError(
            f"expected {MINIMUM_FREE_BYTES / 2**30:.0f} GiB to be free for the data set, there are"
            f" {free / 2**30:.2f} GiB"
        )
    return f"has {free / 2**30:,.0f} GiB free"
