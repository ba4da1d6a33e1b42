"""Publish a scorer: a version of its own, proved to answer as the scorer does, then the champion."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from components.scorer import bundle, channels, metrics, published, storage, warmup
from components.scorer.workspace import Workspace

TOLERANCE = 1e-3
"""Score points, and shares of votes, by which the published version may differ from the scorer."""


def push(scorer: str | Path, *, models: str, name: str, workspace: Workspace, photos: Sequence[bytes] = ()) -> str:
    """Publish a scorer as the next version of a model and make it the champion.

    The version is loaded again from where it was published and must answer as the scorer does before
    ``channels.json`` is switched. Tried again after it broke off, the same run goes on with the version that it
    took the first time.

    Args:
        scorer: folder of the scorer bundle.
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        workspace: the run's places; receives ``published.json``, and ``decision.json`` is read there for the
            version's record.
        photos: encoded, upright photos on which both must agree, beside those drawn here.

    Returns:
        The version's address, ``<models>/<name>/<version>``.

    Raises:
        FileNotFoundError: there is no complete bundle at ``scorer``.
        ValueError: the name cannot be a model's, or the published version disagrees with the scorer; then it
            is removed and the champion stays.
        components.scorer.storage.StorageError: the place cannot be reached or refuses.
    """
    challenger = bundle.load(scorer)
    fingerprint = _fingerprint(Path(scorer))
    version = channels.claim(models, name, workspace.run, fingerprint)
    uri = storage.join(channels.folder(models, name), str(version))
    if channels.read(models, name).get("champion") != version:
        with _removed_on_failure(uri):
            if not storage.exists(storage.join(uri, published.COMPLETE)):
                print(f"push: uploading version {version} to {uri}", flush=True)
                _upload(challenger, Path(scorer), uri, name, _record(challenger, version, workspace, fingerprint))
            _compare(challenger, uri, [*warmup.photos(), *photos])
        serving = channels.switch(models, name, version)["champion"]
        print(f"push: version {version} is published, the champion is version {serving}", flush=True)
    storage.write_json(workspace.published, {"version": version, "uri": uri})
    return uri


def _upload(challenger: bundle.Bundle, scorer: Path, uri: str, name: str, record: dict[str, Any]) -> None:
    """Write the version, complete from the moment in which its last file is there."""
    storage.delete_tree(uri)  # what an attempt that was killed has left
    with tempfile.TemporaryDirectory() as folder:
        published.export(challenger, folder, name)
        shutil.copytree(scorer, Path(folder, published.BUNDLE))
        storage.write_json(storage.join(folder, "version.json"), record)
        storage.upload_tree(folder, uri, last=[published.COMPLETE])


def _compare(challenger: bundle.Bundle, uri: str, photos: list[bytes]) -> None:
    """Raise ValueError unless the version, loaded again, answers as the scorer does."""
    votes = challenger.score(photos)
    expected = {"mean": metrics.mean_scores(votes), "std": metrics.deviations(votes), "distribution": votes}
    answers = published.load(uri).answers(photos)
    for output, values in expected.items():
        # A NaN is larger than any tolerance: the comparison is the other way round so that it fails too.
        largest = float(np.abs(answers[output] - values).max())
        if not largest <= TOLERANCE:
            raise ValueError(
                f"expected {uri} to answer as the scorer does to within {TOLERANCE}, but {output} differs by"
                f" {largest:.2g} on {len(photos)} photos; the version is removed and the champion stays"
            )


def _record(challenger: bundle.Bundle, version: int, workspace: Workspace, fingerprint: str) -> dict[str, Any]:
    """Where the version comes from, for ``version.json``."""
    try:
        decision = storage.read_json(workspace.decision)
    except FileNotFoundError:
        decision = None
    return {
        "version": version,
        "run": workspace.run,
        "scorer": fingerprint,
        "revision": challenger.revision,
        "data_fingerprint": challenger.data_fingerprint,
        "settings": challenger.settings,
        "decision": decision,
    }


def _fingerprint(scorer: Path) -> str:
    """SHA-256 of the bundle's files."""
    digest = hashlib.sha256()
    for file in storage.files(str(scorer)):
        digest.update(f"{file.name}\0{file.size}\0".encode() + storage.read_bytes(file.uri))
    return digest.hexdigest()


@contextmanager
def _removed_on_failure(uri: str) -> Iterator[None]:
    """Leave nothing at the address when the block fails; when even that fails, the next attempt cleans up."""
    try:
        yield
    except BaseException:
        with suppress(storage.StorageError):
            storage.delete_tree(uri)
        raise
