"""Publish a scorer: a version of its own, proved to answer as the scorer does, then the champion."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from components.push.model_card import Facts, card
from components.scorer import quoting, storage
from components.scorer.artifacts import bundle, litert_model, saved_model, warmup
from components.scorer.faces import face_inputs
from components.scorer.metrics import regression
from components.scorer.registry import channels, integrity, kubeflow
from components.scorer.run import decision
from components.scorer.run.paths import Workspace

PROFILE = "profile.json"
"""What validation found out about the data set, for the next version's validation to compare with."""


@dataclass(frozen=True)
class Origin:
    """Where a scorer comes from, as far as its bundle does not tell.

    Attributes:
        dataset: TFDS directory that it was trained and judged on; its ``ingestion.json`` is read.
        checks: folder of what validation found; its ``profile.json`` becomes part of the version.
        sources: addresses of the data, by what they hold.
        consent: where the photographed people's consent is documented.
        images: references of the container images, by name.
    """

    dataset: str | Path = ""
    checks: str | Path = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    consent: str = ""
    images: Mapping[str, str] = field(default_factory=dict)


def push(
    scorer: str | Path,
    *,
    results: str | Path,
    models: str,
    name: str,
    workspace: Workspace,
    origin: Origin = Origin(),
    photos: Sequence[bytes] = (),
    registry: str = "",
) -> str:
    """Publish a scorer as the next version of a model, with its model card, and make it the champion.

    The version is loaded again from where it was published and must answer as the scorer does before
    ``channels.json`` is switched. Tried again after it broke off, the same run goes on with the version that it
    took the first time; when that was champion and was rolled back, it does not return. In the end the run's decision
    names the version; when push breaks off, it says why. The Kubeflow Model Registry is told last, also what it could
    not be told before; that it cannot be told fails nothing.

    Args:
        scorer: folder of the scorer bundle.
        results: folder of what evaluation found: ``decision.json``, and ``metrics.json`` for the model card.
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        workspace: the run's places; receives ``published.json`` and the completed ``decision.json``.
        origin: of the scorer, for its model card.
        photos: encoded, upright photos on which both must agree, beside those drawn here.
        registry: URL of the Kubeflow Model Registry; empty: there is none.

    Returns:
        The version's address, ``<models>/<name>/<version>``.

    Raises:
        FileNotFoundError: there is no complete bundle at ``scorer``, or no decision in ``results``.
        ValueError: the decision is not to publish, the name cannot be a model's, the run's version has been removed as
            too old, or the published version disagrees with the scorer; then it is removed and the champion stays.
        components.scorer.storage.StorageError: the place cannot be reached or refuses.
    """
    judged = _judged(results)
    with _told_on_failure(judged, workspace):
        challenger = bundle.load(scorer)
        fingerprint = _fingerprint(Path(scorer))
        version = channels.claim(models, name, workspace.run, fingerprint)
        uri = channels.address(models, name, version)
        proved = channels.named(models, name, version)
        complete = storage.exists(storage.join(uri, channels.COMPLETE))
        if not (proved and complete):
            with _removed_on_failure(models, name, version):
                if not complete:
                    print(f"push: uploading version {version} to {uri}", flush=True)
                    made = decision.completed(judged, version, uri)
                    facts = _facts(challenger, fingerprint, name, workspace.run, made, results, origin)
                    _upload(challenger, Path(scorer), facts, origin.checks)
                _compare(challenger, uri, [*warmup.photos(), *photos])
            why = decision.of(judged).summary
            serving = channels.switch(models, name, version, who=workspace.run, why=why)["champion"]
            print(f"push: version {version} is published, the champion is version {serving}", flush=True)
    # In this order: the exit handler completes a decision that a killed push has left, and knows the version from here.
    storage.write_json(workspace.published, {"version": version, "uri": uri})
    decision.write(workspace.decision, decision.completed(judged, version, uri))
    for line in kubeflow.tell(registry, models, name, version):
        print(f"push: {line}", flush=True)
    return uri


def _judged(results: str | Path) -> dict[str, Any]:
    """The evaluation's own word, which stays as it was when an earlier attempt has failed."""
    uri = storage.join(str(results), "decision.json")
    judged = decision.read(uri)
    if judged is None:
        raise FileNotFoundError(f"expected the decision to publish at {uri}, found none; evaluation writes it")
    if not decision.of(judged).publishes:
        raise ValueError(f"expected a decision to publish in {uri}, got {judged['verdict']!r}: {judged['summary']}")
    return judged


def _json(folder: str | Path, name: str) -> dict[str, Any]:
    """What an earlier step has written; empty where it has not."""
    try:
        return storage.read_json(storage.join(str(folder), name)) if folder else {}
    except FileNotFoundError:
        return {}


def _facts(
    challenger: bundle.Bundle,
    fingerprint: str,
    name: str,
    run: str,
    made: dict[str, Any],
    results: str | Path,
    origin: Origin,
) -> Facts:
    """What the version's card and record tell."""
    return Facts(
        name=name,
        version=made["published"]["version"],
        uri=made["published"]["uri"],
        date=datetime.now(UTC).date().isoformat(),
        run=run,
        revision=challenger.revision,
        scorer=fingerprint,
        data_fingerprint=challenger.data_fingerprint,
        settings=challenger.settings,
        decision=made,
        metrics=_json(results, "metrics.json"),
        ingestion=_json(origin.dataset, "ingestion.json"),
        sources=origin.sources,
        consent=origin.consent,
        images=origin.images,
        faces=challenger.reads,
        stages=challenger.needs.stages if challenger.needs.faces else (),
        inputs=("image_bytes", *challenger.needs.inputs),
    )


def _upload(challenger: bundle.Bundle, scorer: Path, facts: Facts, checks: str | Path) -> None:
    """Write the version, complete from the moment in which its last file is there."""
    storage.delete_tree(facts.uri)  # what an attempt that was killed has left
    with tempfile.TemporaryDirectory() as folder:
        saved_model.export(challenger, folder, facts.name)
        saved_model.export_portable(
            challenger, folder, facts.name, error=_error(facts.metrics), ingestion=facts.ingestion.get("settings")
        )
        shutil.copytree(scorer, Path(folder, saved_model.BUNDLE))
        if checks and Path(checks, PROFILE).is_file():
            shutil.copyfile(Path(checks, PROFILE), Path(folder, PROFILE))
        card(facts).write(folder)
        integrity.write(folder, _record(facts))
        storage.upload_tree(folder, facts.uri, last=[channels.COMPLETE])


def _error(found: Mapping[str, Any]) -> float | None:
    """By how much the scores differ from people's, in score points, as evaluation has found."""
    return found.get("challenger", {}).get("rmse", {}).get("value")


def _compare(challenger: bundle.Bundle, uri: str, photos: list[bytes]) -> None:
    """Raise ValueError unless the version, loaded again, answers as the scorer does, with and without TensorFlow.

    It is asked with no job and, where the scorer knows any, with each of them by turns. Where it reads faces, each of
    the three finds and reads them for itself.
    """
    version, served = saved_model.load(uri), litert_model.load(uri)
    given = face_inputs.together([served.given(photo) for photo in photos])
    turns = [job for _, job in zip(photos, cycle(challenger.jobs), strict=False)] if challenger.jobs else None
    for jobs in (None, turns) if turns else (None,):
        votes = challenger.score(photos, jobs)
        expected = {"mean": regression.mean_scores(votes), "std": regression.deviations(votes), "distribution": votes}
        answered = {
            "SavedModel": version.answers(photos, jobs=jobs),
            "portable network": served.answer(given, jobs),
        }
        for what, answers in answered.items():
            for output, values in expected.items():
                # A NaN is larger than any tolerance: the comparison is the other way round so that it fails too.
                largest = float(np.abs(answers[output] - values).max())
                if not largest <= saved_model.TOLERANCE:
                    raise ValueError(
                        f"expected the {what} of {uri} to answer as the scorer does to within {saved_model.TOLERANCE},"
                        f" but {output} differs by {largest:.2g} on {len(photos)} photos; the version is removed and"
                        " the champion stays"
                    )


def _record(facts: Facts) -> dict[str, Any]:
    """Where the version comes from, for ``version.json``, and what it needs where that is more than a photo."""
    needs = {"stages": [*facts.stages], "inputs": [*facts.inputs]} if facts.stages else {}
    return needs | {
        "version": facts.version,
        "date": facts.date,
        "run": facts.run,
        "scorer": facts.scorer,
        "revision": facts.revision,
        "data_fingerprint": facts.data_fingerprint,
        "sources": dict(facts.sources),
        "consent": facts.consent,
        "images": dict(facts.images),
        "settings": facts.settings,
        "decision": facts.decision,
        "metrics": {name: figure.get("value") for name, figure in facts.metrics.get("challenger", {}).items()},
    }


def _fingerprint(scorer: Path) -> str:
    """SHA-256 of the bundle's files."""
    digest = hashlib.sha256()
    for file in storage.files(str(scorer)):
        digest.update(f"{file.name}\0{file.size}\0".encode() + storage.read_bytes(file.uri))
    return digest.hexdigest()


@contextmanager
def _told_on_failure(judged: dict[str, Any], workspace: Workspace) -> Iterator[None]:
    """Leave the decision "failed" with the reason when the block fails."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the exit handler writes it then, and the block's own error is what matters
            why = f"push broke off: {quoting.in_short(error)}"
            decision.write(workspace.decision, decision.failed(judged, why, workspace.run))
        raise


@contextmanager
def _removed_on_failure(models: str, name: str, version: int) -> Iterator[None]:
    """Leave no version when the block fails; when even that fails, the next attempt cleans up.

    A version that a person has promoted in the meantime stays.
    """
    try:
        yield
    except BaseException:
        with suppress(storage.StorageError, ValueError):
            if not channels.named(models, name, version):
                storage.delete_tree(channels.address(models, name, version))
        raise
