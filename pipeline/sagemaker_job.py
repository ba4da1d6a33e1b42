"""SageMaker training job (``train``): runs ingestion, pretraining and training, and writes a servable model.

    input/config/hyperparameters.json     settings of ingestion, faces, pretraining and training, by the name of the
                                          pipeline's parameter, and ``name``; every value is a text, plain or
                                          JSON-encoded. Hyperparameters added by SageMaker and its tools are ignored
    input/data/<channel>/                 required: ``photos``, ``ratings``; optional: ``unlabelled``, ``attributes``,
                                          ``weights``, ``norms``, ``face_detector``, ``face_embedder``. All channels
                                          but ``photos`` and ``unlabelled`` hold one file
    checkpoints/                          kept after the job if it has a checkpoint address; a job with the same
                                          address resumes from it
    model/<name>/1/                       the version, as push would publish it, with its bundle; it is the champion
    output/data/                          reports of the steps
    output/failure                        reason why the job failed

All paths are relative to ``/opt/ml``, or to the folder in ``SAGEMAKER_BASE_DIR``. No gate has judged the model.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, get_origin, get_type_hints

from components.scorer import storage
from components.scorer.parameters import as_parameters, check_faces, check_pretraining, from_parameters
from components.scorer.redaction import redact
from components.scorer.registry import channels
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Faces, Ingestion, Pretraining, Training

BASE = "SAGEMAKER_BASE_DIR"
VERSION = 1  # a job writes one version
# Channels with one file, whose path is a setting.
FILE_CHANNELS = ("weights", "norms", "face_detector", "face_embedder")
NAME = "portraits"  # default name of the model; the hyperparameter ``name`` overrides it
MAX_FAILURE_LENGTH = 1024  # characters that SageMaker shows
EXIT_STOPPED = 128 + signal.SIGTERM

_SETTINGS = (Ingestion, Faces, Pretraining, Training)
_PREFIXED = ("epochs", "learning_rate", "batch_size")  # fields of both pretraining and training
_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a JSON list",
    dict: "a JSON object",
}
_FOREIGN_HYPERPARAMETERS = re.compile(r"sagemaker_.*|_.*|model_dir")
"""Hyperparameters added by SageMaker's SDK (``sagemaker_program``; ``model_dir`` by its TensorFlow estimator) or by its
service (``_tuning_objective_metric``, in a tuning job)."""

_RUN = "sagemaker"  # the same run id for all jobs, so that a job resumes from another job's checkpoints


class JobStopped(BaseException):
    """Signal that SageMaker has asked the job to stop."""


@dataclass(frozen=True)
class SageMakerJob:
    """Folders and settings of a training job.

    Attributes:
        base: Base folder, ``/opt/ml``.
        name: Name of the model.
        settings: Settings by their dataclass.
    """

    base: Path
    name: str = NAME
    settings: Mapping[type, Any] = field(default_factory=dict)

    def folder(self, channel: str) -> str:
        """Return the folder of a channel; empty if the job has no such channel."""
        folder = self.base / "input" / "data" / channel
        return str(folder) if folder.is_dir() else ""

    def file(self, channel: str) -> str:
        """Return the path of a channel's only file; empty if the job has no such channel.

        Raises:
            ValueError: The channel holds no file, or more than one.
        """
        if not (folder := self.folder(channel)):
            return ""
        files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith(".")]
        if len(files) != 1:
            raise ValueError(f"expected one file in the channel {channel!r}, got {len(files)}")
        return str(files[0])


def main() -> int:
    """Run the job and return its exit status: 0 on success, 1 after an error, 143 if it was stopped."""
    signal.signal(signal.SIGTERM, _stop)
    base = Path(os.environ.get(BASE, "/opt/ml"))
    try:
        run(base)
    except JobStopped:
        print("stopped; a job with the same checkpoint address goes on from the last complete epoch", flush=True)
        return EXIT_STOPPED
    except Exception as error:  # every error is reported to SageMaker
        _write_failure(base, error)
        return 1
    return 0


def run(base: Path) -> Path:
    """Train a model from a job's channels, and write it as a version.

    Args:
        base: Base folder of the job, ``/opt/ml``.

    Returns:
        The folder of the version.

    Raises:
        ValueError: The hyperparameters, the channels or the photos are wrong.
    """
    job = read_job(base)
    from components.ingestion.ingest import ingest  # TensorFlow takes seconds to load: inputs are checked before
    from components.pretraining.pretrain import pretrain
    from components.training.train import train

    workspace = RunPaths(str(base / "checkpoints"), _RUN)
    pages = base / "output" / "data"
    pages.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="job-") as scratch:
        dataset, encoder, scorer = (str(Path(scratch, part)) for part in ("dataset", "encoder", "scorer"))
        fingerprint = ingest(
            job.folder("photos"), job.file("ratings"), dataset, str(pages / "ingestion.html"),
            unlabelled=job.folder("unlabelled"), attributes=job.file("attributes"),
            workspace=workspace, settings=job.settings[Ingestion], faces=job.settings[Faces],
        )["fingerprint"]  # fmt: skip
        pretrain(
            dataset, encoder, pages / "pretraining.html",
            settings=job.settings[Pretraining], scale=job.settings[Training].scale,
            checkpoints=workspace.checkpoints("pretraining"), fingerprint=fingerprint,
        )  # fmt: skip
        train(
            dataset, encoder, scorer, pages / "training.html",
            settings=job.settings[Training], checkpoints=workspace.checkpoints("training"), fingerprint=fingerprint,
        )  # fmt: skip
        return _write_version(job, scorer)


def read_job(base: Path) -> SageMakerJob:
    """Read and check a job's configuration and channels, before any computation.

    Raises:
        ValueError: A hyperparameter is unknown or of the wrong type, a required channel is missing, or the job has
            several instances.
    """
    config = base / "input" / "config"
    hyperparameters = _read_json(config / "hyperparameters.json")
    if (hosts := len(_read_json(config / "resourceconfig.json").get("hosts", []))) > 1:
        raise ValueError(f"expected one instance, got {hosts}; several GPUs of one are used by devices=all")
    texts = {name: str(text) for name, text in hyperparameters.items() if not _FOREIGN_HYPERPARAMETERS.fullmatch(name)}
    name = _unquote(texts.pop("name", NAME))
    channels.folder("models", name)  # raises unless it is a model's name
    job = SageMakerJob(base, name)
    for channel in ("photos", "ratings"):
        if not job.folder(channel):
            present = sorted(path.name for path in (base / "input" / "data").glob("*") if path.is_dir())
            raise ValueError(f"expected the channel {channel!r}, got {present}; input mode Pipe is not supported")
    texts |= {channel: file for channel in FILE_CHANNELS if (file := job.file(channel))}
    for single in ("ratings", "attributes"):
        job.file(single)
    return SageMakerJob(base, name, parse_settings(texts))


def parse_settings(texts: Mapping[str, str]) -> dict[type, Any]:
    """Parse hyperparameters, texts by name, into settings by dataclass; a missing hyperparameter keeps its default.

    Raises:
        ValueError: A name is unknown, or a value is of the wrong type, out of its range or contradicts another value.
    """
    fields_by_name = hyperparameter_fields()
    if unknown := sorted(set(texts) - set(fields_by_name)):
        raise ValueError(
            f"there is no hyperparameter {unknown[0]!r}; expected some of {sorted([*fields_by_name, 'name'])}"
        )
    values: dict[type, dict[str, Any]] = {kind: {} for kind in _SETTINGS}
    for name, text in texts.items():
        for kind, field_name in fields_by_name[name]:
            values[kind][field_name] = _parse_value(name, text, get_type_hints(kind)[field_name])
    parsed = {kind: from_parameters(kind, **chosen) for kind, chosen in values.items()}
    check_pretraining(parsed[Pretraining], parsed[Training].scale)
    check_faces(parsed[Faces])
    return parsed


def hyperparameter_fields() -> dict[str, list[tuple[type, str]]]:
    """Return the (settings class, field name) pairs that each hyperparameter sets, by its name."""
    fields_by_name: dict[str, list[tuple[type, str]]] = {}
    for kind in _SETTINGS:
        for setting in fields(kind):
            prefix = "pretraining_" if kind is Pretraining and setting.name in _PREFIXED else ""
            fields_by_name.setdefault(prefix + setting.name, []).append((kind, setting.name))
    return fields_by_name


def _parse_value(name: str, text: str, hint: Any) -> Any:
    """Parse a text into the type of its field."""
    kind = get_origin(hint) or hint
    try:
        text = _unquote(text)
        if kind is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        if kind in (int, float):
            return kind(text)
        return json.loads(text) if kind in (tuple, dict) else text
    except (ValueError, KeyError):
        raise ValueError(f"{name} must be {_TYPE_NAMES.get(kind, 'JSON')}, got {text!r}") from None


def _unquote(text: str) -> str:
    """Return a text without JSON quotes, which SageMaker's tools may add: ``"3"`` in quotes is 3."""
    return json.loads(text) if re.fullmatch(r'".*"', text, re.DOTALL) else text


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; empty if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {path.name}")
    return value


def _write_version(job: SageMakerJob, scorer: str) -> Path:
    """Write the version as push would publish it; its last file marks it complete. Return its folder."""
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import integrity

    trained = bundle.load(scorer)
    models = str(job.base / "model")
    uri = channels.address(models, job.name, VERSION)
    storage.delete_tree(uri)
    with tempfile.TemporaryDirectory() as folder:
        saved_model.export(trained, folder, job.name)
        saved_model.export_litert(trained, folder, job.name, ingestion=as_parameters(job.settings[Ingestion]))
        shutil.copytree(scorer, Path(folder, saved_model.BUNDLE_FOLDER))
        record = {
            "version": VERSION,
            "date": datetime.now(UTC).date().isoformat(),
            "run": os.environ.get("TRAINING_JOB_NAME", ""),
            "data_fingerprint": trained.data_fingerprint,
            "settings": trained.settings,
        }
        integrity.write_record(folder, record)
        storage.upload_tree(folder, uri, upload_last=[channels.COMPLETE])
    channels.promote_pushed(models, job.name, VERSION, why="trained by a SageMaker job; no gate has judged it")
    print(f"model: {uri}", flush=True)
    return Path(uri)


def _write_failure(base: Path, error: Exception) -> None:
    """Write the reason of a failure to the log and to the file that SageMaker reads."""
    reason = f"{type(error).__name__}: {error}" if isinstance(error, ValueError | OSError) else type(error).__name__
    traceback.print_tb(error.__traceback__)  # without the message, which may contain a photo's name
    reason = redact(reason)
    print(reason, file=sys.stderr, flush=True)
    failure_file = base / "output" / "failure"
    with suppress(OSError):  # the log has the reason; the folder may belong to another user
        failure_file.parent.mkdir(parents=True, exist_ok=True)
        failure_file.write_text(reason[:MAX_FAILURE_LENGTH], encoding="utf-8")


def _stop(number: int, frame: FrameType | None) -> None:
    raise JobStopped


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
