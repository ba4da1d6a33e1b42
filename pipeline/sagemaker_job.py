"""SageMaker's training contract: ``train``, from the channels of a job to a model that the server loads.

    input/config/hyperparameters.json     any setting of ingestion, faces, pretraining and training, under the name of
                                          the pipeline's parameter, and ``name``; every value is a text, or one as
                                          JSON in a text. What SageMaker and its tools add is passed over
    input/data/<channel>/                 ``photos`` and ``ratings``; and, where there are, ``unlabelled``,
                                          ``attributes``, ``weights``, ``norms``, ``face_detector`` and
                                          ``face_embedder``. All but those of photos hold one file
    checkpoints/                          outlives a job that has an address for it; one with the same address goes on
    model/<name>/1/                       the version as push would publish it, with its bundle, named as champion
    output/data/                          the pages of the steps
    output/failure                        why the job failed

All lies under ``/opt/ml``, or the folder in ``SAGEMAKER_BASE_DIR``. No gate has judged the model.
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
from components.scorer.parameters import as_parameters, check_faces, check_together, from_parameters
from components.scorer.redaction import redacted
from components.scorer.registry import channels
from components.scorer.run.paths import Workspace
from components.scorer.settings import Faces, Ingestion, Pretraining, Training

BASE = "SAGEMAKER_BASE_DIR"
VERSION = 1  # a job makes one
FILES = ("weights", "norms", "face_detector", "face_embedder")  # channels of a file that a setting names
NAME = "portraits"  # of the model, unless the hyperparameter ``name`` says another
LONGEST_FAILURE = 1024  # characters that SageMaker shows
STOPPED = 128 + signal.SIGTERM

_SETTINGS = (Ingestion, Faces, Pretraining, Training)
_PREFIXED = ("epochs", "learning_rate", "batch_size")  # fields of pretraining that training has as well
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a JSON list",
    dict: "a JSON object",
}
_ADDED = re.compile(r"sagemaker_.*|_.*|model_dir")
"""Hyperparameters of others: of SageMaker's SDK (``sagemaker_program``, of its TensorFlow estimator ``model_dir``) and
of its service (``_tuning_objective_metric``, in a tuning job)."""

_RUN = "sagemaker"  # the same for every job, so that one goes on from another's checkpoints


class Stopped(BaseException):
    """SageMaker has asked the job to end."""


@dataclass(frozen=True)
class Job:
    """A job's folders and what it was given.

    Attributes:
        base: ``/opt/ml``.
        name: of the model.
        settings: by their dataclass.
    """

    base: Path
    name: str = NAME
    settings: Mapping[type, Any] = field(default_factory=dict)

    def folder(self, channel: str) -> str:
        """A channel's folder; empty when the job has no such channel."""
        place = self.base / "input" / "data" / channel
        return str(place) if place.is_dir() else ""

    def file(self, channel: str) -> str:
        """A channel's one file; empty when the job has no such channel.

        Raises:
            ValueError: there is none in it, or more than one.
        """
        if not (place := self.folder(channel)):
            return ""
        found = [path for path in Path(place).rglob("*") if path.is_file() and not path.name.startswith(".")]
        if len(found) != 1:
            raise ValueError(f"expected one file in the channel {channel!r}, got {len(found)}")
        return str(found[0])


def main() -> int:
    """Run the job; 0 when it has made a model, 1 when it failed, 143 when it was stopped."""
    signal.signal(signal.SIGTERM, _stop)
    base = Path(os.environ.get(BASE, "/opt/ml"))
    try:
        run(base)
    except Stopped:
        print("stopped; a job with the same checkpoint address goes on from the last complete epoch", flush=True)
        return STOPPED
    except Exception as error:  # whatever it is, SageMaker is told
        _fail(base, error)
        return 1
    return 0


def run(base: Path) -> Path:
    """Make a model of a job's channels.

    Args:
        base: the folder of the contract, ``/opt/ml``.

    Returns:
        The folder of the version.

    Raises:
        ValueError: the hyperparameters, the channels or the photos are not what was expected.
    """
    job = read(base)
    from components.ingestion.ingest import ingest  # TensorFlow takes seconds to load: what is wrong is said before
    from components.pretraining.pretrain import pretrain
    from components.training.train import train

    place = Workspace(str(base / "checkpoints"), _RUN)
    pages = base / "output" / "data"
    pages.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="job-") as scratch:
        dataset, encoder, scorer = (str(Path(scratch, part)) for part in ("dataset", "encoder", "scorer"))
        fingerprint = ingest(
            job.folder("photos"), job.file("ratings"), dataset, str(pages / "ingestion.html"),
            unlabelled=job.folder("unlabelled"), attributes=job.file("attributes"),
            workspace=place, settings=job.settings[Ingestion], faces=job.settings[Faces],
        )["fingerprint"]  # fmt: skip
        pretrain(
            dataset, encoder, pages / "pretraining.html",
            settings=job.settings[Pretraining], scale=job.settings[Training].scale,
            checkpoints=place.checkpoints("pretraining"), fingerprint=fingerprint,
        )  # fmt: skip
        train(
            dataset, encoder, scorer, pages / "training.html",
            settings=job.settings[Training], checkpoints=place.checkpoints("training"), fingerprint=fingerprint,
        )  # fmt: skip
        return _write(job, scorer)


def read(base: Path) -> Job:
    """What a job was given, checked before anything is computed.

    Raises:
        ValueError: a hyperparameter is unknown or not of its type, the channels are not those that are needed, or the
            job has several instances.
    """
    config = base / "input" / "config"
    given = _json(config / "hyperparameters.json")
    if (hosts := len(_json(config / "resourceconfig.json").get("hosts", []))) > 1:
        raise ValueError(f"expected one instance, got {hosts}; several GPUs of one are used by devices=all")
    texts = {name: str(text) for name, text in given.items() if not _ADDED.fullmatch(name)}
    name = _text(texts.pop("name", NAME))
    channels.folder("models", name)  # raises unless it is a model's name
    job = Job(base, name)
    for channel in ("photos", "ratings"):
        if not job.folder(channel):
            there = sorted(path.name for path in (base / "input" / "data").glob("*") if path.is_dir())
            raise ValueError(f"expected the channel {channel!r}, got {there}; input mode Pipe is not supported")
    texts |= {channel: file for channel in FILES if (file := job.file(channel))}
    for single in ("ratings", "attributes"):
        job.file(single)
    return Job(base, name, settings(texts))


def settings(texts: Mapping[str, str]) -> dict[type, Any]:
    """The settings that texts by parameter name say; what is left out keeps its default.

    Raises:
        ValueError: a name is unknown, or a value is not of its type, outside its range or contradicts another.
    """
    known = parameters()
    if unknown := sorted(set(texts) - set(known)):
        raise ValueError(f"there is no hyperparameter {unknown[0]!r}; expected some of {sorted([*known, 'name'])}")
    values: dict[type, dict[str, Any]] = {kind: {} for kind in _SETTINGS}
    for name, text in texts.items():
        for kind, field_name in known[name]:
            values[kind][field_name] = _value(name, text, get_type_hints(kind)[field_name])
    made = {kind: from_parameters(kind, **chosen) for kind, chosen in values.items()}
    check_together(made[Pretraining], made[Training].scale)
    check_faces(made[Faces])
    return made


def parameters() -> dict[str, list[tuple[type, str]]]:
    """Every hyperparameter that is a setting: which fields of which settings it sets."""
    known: dict[str, list[tuple[type, str]]] = {}
    for kind in _SETTINGS:
        for each in fields(kind):
            prefix = "pretraining_" if kind is Pretraining and each.name in _PREFIXED else ""
            known.setdefault(prefix + each.name, []).append((kind, each.name))
    return known


def _value(name: str, text: str, hint: Any) -> Any:
    """A text in the type of its field."""
    kind = get_origin(hint) or hint
    try:
        text = _text(text)
        if kind is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        if kind in (int, float):
            return kind(text)
        return json.loads(text) if kind in (tuple, dict) else text
    except (ValueError, KeyError):
        raise ValueError(f"{name} must be {_EXPECTED.get(kind, 'JSON')}, got {text!r}") from None


def _text(text: str) -> str:
    """A text, which SageMaker's tools may have written as JSON: ``"3"`` in quotes is 3."""
    return json.loads(text) if re.fullmatch(r'".*"', text, re.DOTALL) else text


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {path.name}")
    return value


def _write(job: Job, scorer: str) -> Path:
    """The version, as push would publish it; its last file makes it complete."""
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import integrity

    made = bundle.load(scorer)
    models = str(job.base / "model")
    uri = channels.address(models, job.name, VERSION)
    storage.delete_tree(uri)
    with tempfile.TemporaryDirectory() as folder:
        saved_model.export(made, folder, job.name)
        saved_model.export_portable(made, folder, job.name, ingestion=as_parameters(job.settings[Ingestion]))
        shutil.copytree(scorer, Path(folder, saved_model.BUNDLE))
        record = {
            "version": VERSION,
            "date": datetime.now(UTC).date().isoformat(),
            "run": os.environ.get("TRAINING_JOB_NAME", ""),
            "data_fingerprint": made.data_fingerprint,
            "settings": made.settings,
        }
        integrity.write(folder, record)
        storage.upload_tree(folder, uri, last=[channels.COMPLETE])
    channels.switch(models, job.name, VERSION, why="trained by a SageMaker job; no gate has judged it")
    print(f"model: {uri}", flush=True)
    return Path(uri)


def _fail(base: Path, error: Exception) -> None:
    """Tell why, in the log and in the file that SageMaker reads."""
    reason = f"{type(error).__name__}: {error}" if isinstance(error, ValueError | OSError) else type(error).__name__
    traceback.print_tb(error.__traceback__)  # without the message, which may hold a photo's name
    reason = redacted(reason)
    print(reason, file=sys.stderr, flush=True)
    place = base / "output" / "failure"
    with suppress(OSError):  # the log has it; the folder may be another user's
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(reason[:LONGEST_FAILURE], encoding="utf-8")


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
