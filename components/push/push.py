"""Push step: publish a scorer as a new version, check that it predicts as the scorer does, make it the champion."""

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

from components.push.model_card import CardInputs, build_card
from components.scorer import quoting, storage
from components.scorer.artifacts import bundle, litert_model, saved_model, warmup
from components.scorer.faces import face_inputs
from components.scorer.metrics import regression
from components.scorer.registry import channels, integrity, kubeflow
from components.scorer.run import decision
from components.scorer.run.paths import RunPaths

PROFILE_FILE = "profile.json"
"""File name of the data profile from validation, which the next version's validation compares with."""


@dataclass(frozen=True)
class Provenance:
    """Provenance of a scorer, beyond what its bundle records.

    Attributes:
        dataset: TFDS directory of its training and evaluation; its ``ingestion.json`` is read.
        checks: Output folder of validation; its ``profile.json`` becomes part of the version.
        sources: Addresses of the data, by content.
        consent: Where the photographed people's consent is documented.
        images: References of the container images, by name.
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
    workspace: RunPaths,
    provenance: Provenance = Provenance(),
    photos: Sequence[bytes] = (),
    registry: str = "",
) -> str:
    """Publish a scorer as the next version of a model, with its model card, and make it the champion.

    The version is loaded from its published address and must predict as the scorer does before ``channels.json``
    changes. A retry of the same run continues with the version number of its first attempt. If that version was
    champion and was rolled back, it does not become champion again.

    At the end, the run's decision names the version, or the reason for a failure. The Kubeflow Model Registry is
    updated last, including updates that failed before. A failed registry update does not fail the push.

    Args:
        scorer: Folder of the scorer bundle.
        results: Output folder of evaluation, with ``decision.json``, and ``metrics.json`` for the model card.
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        workspace: Paths of the run; ``published.json`` and the final ``decision.json`` are written there.
        provenance: Provenance of the scorer, for its model card.
        photos: Encoded, upright photos on which both must agree, in addition to the warm-up photos.
        registry: URL of the Kubeflow Model Registry; empty for none.

    Returns:
        The version's address, ``<models>/<name>/<version>``.

    Raises:
        FileNotFoundError: `scorer` is no complete bundle, or `results` has no decision.
        ValueError: The decision is not to publish, the name is no valid model name, or the run's version was removed as
            too old. Also if the published version disagrees with the scorer: it is then removed and the champion stays.
        components.scorer.storage.StorageError: The storage is unreachable or refuses access.
    """
    evaluated = _read_decision(results)
    with _record_failure(evaluated, workspace):
        challenger = bundle.load(scorer)
        fingerprint = _fingerprint(Path(scorer))
        version = channels.reserve_version(models, name, workspace.run, fingerprint)
        uri = channels.address(models, name, version)
        was_champion = channels.is_protected(models, name, version)
        complete = storage.exists(storage.join(uri, channels.COMPLETE))
        if not (was_champion and complete):
            with _delete_on_failure(models, name, version):
                if not complete:
                    print(f"push: uploading version {version} to {uri}", flush=True)
                    record = decision.with_publication(evaluated, version, uri)
                    card_inputs = _card_inputs(
                        challenger, fingerprint, name, workspace.run, record, results, provenance
                    )
                    _upload(challenger, Path(scorer), card_inputs, provenance.checks)
                _check_agreement(challenger, uri, [*warmup.photos(), *photos])
            summary = decision.from_record(evaluated).summary
            champion = channels.promote_pushed(models, name, version, who=workspace.run, why=summary)["champion"]
            print(f"push: version {version} is published, the champion is version {champion}", flush=True)
    # In this order: if push is killed, the exit handler completes the decision and reads the version from this file.
    storage.write_json(workspace.published, {"version": version, "uri": uri})
    decision.write(workspace.decision, decision.with_publication(evaluated, version, uri))
    for line in kubeflow.sync(registry, models, name, version):
        print(f"push: {line}", flush=True)
    return uri


def _read_decision(results: str | Path) -> dict[str, Any]:
    """Read the evaluation's decision; it is the same after a failed attempt."""
    uri = storage.join(str(results), "decision.json")
    record = decision.read(uri)
    if record is None:
        raise FileNotFoundError(f"expected the decision to publish at {uri}, found none; evaluation writes it")
    if not decision.from_record(record).publishes:
        raise ValueError(f"expected a decision to publish in {uri}, got {record['verdict']!r}: {record['summary']}")
    return record


def _read_json_or_empty(folder: str | Path, name: str) -> dict[str, Any]:
    """Return a JSON file of an earlier step, or an empty dict if it is missing."""
    try:
        return storage.read_json(storage.join(str(folder), name)) if folder else {}
    except FileNotFoundError:
        return {}


def _card_inputs(
    challenger: bundle.TrainedScorer,
    fingerprint: str,
    name: str,
    run: str,
    record: dict[str, Any],
    results: str | Path,
    provenance: Provenance,
) -> CardInputs:
    """Return the inputs of the version's model card and record."""
    return CardInputs(
        name=name,
        version=record["published"]["version"],
        uri=record["published"]["uri"],
        date=datetime.now(UTC).date().isoformat(),
        run=run,
        revision=challenger.revision,
        scorer=fingerprint,
        data_fingerprint=challenger.data_fingerprint,
        settings=challenger.settings,
        decision=record,
        metrics=_read_json_or_empty(results, "metrics.json"),
        ingestion=_read_json_or_empty(provenance.dataset, "ingestion.json"),
        sources=provenance.sources,
        consent=provenance.consent,
        images=provenance.images,
        faces=challenger.face_summary,
        stages=challenger.face_input_spec.stages if challenger.face_input_spec.uses_faces else (),
        inputs=("image_bytes", *challenger.face_input_spec.inputs),
    )


def _upload(challenger: bundle.TrainedScorer, scorer: Path, card_inputs: CardInputs, checks: str | Path) -> None:
    """Upload the version; it is complete once its last file exists."""
    storage.delete_tree(card_inputs.uri)  # left by a killed attempt
    with tempfile.TemporaryDirectory() as folder:
        saved_model.export(challenger, folder, card_inputs.name)
        saved_model.export_litert(
            challenger,
            folder,
            card_inputs.name,
            error=_rmse(card_inputs.metrics),
            ingestion=card_inputs.ingestion.get("settings"),
        )
        shutil.copytree(scorer, Path(folder, saved_model.BUNDLE_FOLDER))
        if checks and Path(checks, PROFILE_FILE).is_file():
            shutil.copyfile(Path(checks, PROFILE_FILE), Path(folder, PROFILE_FILE))
        build_card(card_inputs).write(folder)
        integrity.write_record(folder, _version_record(card_inputs))
        storage.upload_tree(folder, card_inputs.uri, upload_last=[channels.COMPLETE])


def _rmse(metrics: Mapping[str, Any]) -> float | None:
    """Return the RMSE of the scores against people's mean scores, in score points; None if unknown."""
    return metrics.get("challenger", {}).get("rmse", {}).get("value")


def _check_agreement(challenger: bundle.TrainedScorer, uri: str, photos: list[bytes]) -> None:
    """Raise ValueError unless the loaded version predicts as the scorer does, with and without TensorFlow.

    Predictions are compared without a job and, if the scorer knows jobs, with its jobs in turn. If the scorer reads
    faces, each of the three runs its own face detection and embedding.
    """
    version, portable = saved_model.load(uri), litert_model.load(uri)
    inputs = face_inputs.stack_inputs([portable.build_inputs(photo) for photo in photos])
    cycled_jobs = [job for _, job in zip(photos, cycle(challenger.jobs), strict=False)] if challenger.jobs else None
    for jobs in (None, cycled_jobs) if cycled_jobs else (None,):
        votes = challenger.score(photos, jobs)
        expected = {
            "mean": regression.mean_scores(votes),
            "std": regression.vote_deviations(votes),
            "distribution": votes,
        }
        outputs_by_runtime = {
            "SavedModel": version.predict(photos, jobs=jobs),
            "portable network": portable.predict(inputs, jobs),
        }
        for runtime, outputs in outputs_by_runtime.items():
            for output, values in expected.items():
                # `not <=` instead of `>`, so that NaN fails too.
                largest = float(np.abs(outputs[output] - values).max())
                if not largest <= saved_model.TOLERANCE:
                    raise ValueError(
                        f"expected the {runtime} of {uri} to answer as the scorer does to within"
                        f" {saved_model.TOLERANCE}, but {output} differs by {largest:.2g} on {len(photos)} photos; the"
                        " version is removed and the champion stays"
                    )


def _version_record(card_inputs: CardInputs) -> dict[str, Any]:
    """Return the content of ``version.json``: provenance, with stages and inputs if a photo alone is no valid input."""
    needs = {"stages": [*card_inputs.stages], "inputs": [*card_inputs.inputs]} if card_inputs.stages else {}
    return needs | {
        "version": card_inputs.version,
        "date": card_inputs.date,
        "run": card_inputs.run,
        "scorer": card_inputs.scorer,
        "revision": card_inputs.revision,
        "data_fingerprint": card_inputs.data_fingerprint,
        "sources": dict(card_inputs.sources),
        "consent": card_inputs.consent,
        "images": dict(card_inputs.images),
        "settings": card_inputs.settings,
        "decision": card_inputs.decision,
        "metrics": {name: figure.get("value") for name, figure in card_inputs.metrics.get("challenger", {}).items()},
    }


def _fingerprint(scorer: Path) -> str:
    """Return the SHA-256 of the bundle's files."""
    digest = hashlib.sha256()
    for file in storage.list_files(str(scorer)):
        digest.update(f"{file.name}\0{file.size}\0".encode() + storage.read_bytes(file.uri))
    return digest.hexdigest()


@contextmanager
def _record_failure(evaluated: dict[str, Any], workspace: RunPaths) -> Iterator[None]:
    """Record a failed decision with its reason if the block raises."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the exit handler writes it then; the block's error matters more
            reason = f"push broke off: {quoting.one_line(error)}"
            decision.write(workspace.decision, decision.with_failure(evaluated, reason, workspace.run))
        raise


@contextmanager
def _delete_on_failure(models: str, name: str, version: int) -> Iterator[None]:
    """Delete the version if the block raises; if that fails, the next attempt deletes it.

    A version that a person has promoted in the meantime stays.
    """
    try:
        yield
    except BaseException:
        with suppress(storage.StorageError, ValueError):
            if not channels.is_protected(models, name, version):
                storage.delete_tree(channels.address(models, name, version))
        raise
