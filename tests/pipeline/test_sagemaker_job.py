"""SageMaker's training contract: a job's inputs and outputs, its failures, and stopping and resuming it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from components.scorer.settings import Faces
from pipeline import parameters, sagemaker_job
from tests.builders.sagemaker_jobs import TINY, config, job

ROOT = Path(__file__).resolve().parents[2]


def start(base: Path) -> subprocess.Popen:
    """Start the job in a process of its own, like the image's ``train`` script."""
    command = ["sh", str(ROOT / "images" / "steps" / "train")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, sagemaker_job.BASE: str(base), "PYTHONPATH": str(ROOT), "PATH": path}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Ran(NamedTuple):
    base: Path
    code: int
    log: str


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Ran:
    """Run a job and stop it after the network's first epoch."""
    base = job(tmp_path_factory.mktemp("job"), {**TINY, "name": '"drawn"', "sagemaker_region": "anywhere"})
    with start(base) as process:
        log = ""
        for line in process.stdout:
            log += line
            if re.search("training the network: epoch 1 of [0-9]+, loss", line):
                process.send_signal(signal.SIGTERM)
    checkpoints = [path.relative_to(base) for path in (base / "checkpoints").rglob("epoch-*.keras")]
    (base / "kept.json").write_text(json.dumps(list(map(str, checkpoints))))
    return Ran(base, process.returncode, log)


@pytest.fixture(scope="module")
def made(stopped) -> Ran:
    """Run the stopped job again, in this process to avoid loading TensorFlow once more."""
    with redirect_stdout(io.StringIO()) as log:
        sagemaker_job.run(stopped.base)
    return Ran(stopped.base, 0, log.getvalue())


@pytest.mark.slow
def test_a_stopped_job_ends_at_once_without_a_failure_and_keeps_its_epochs(stopped):
    assert stopped.code == sagemaker_job.EXIT_STOPPED, stopped.log
    assert not (stopped.base / "output" / "failure").exists()
    assert any("training" in path for path in json.loads((stopped.base / "kept.json").read_text()))


@pytest.mark.slow
def test_a_job_with_the_checkpoints_of_a_stopped_job_resumes_from_its_last_epoch(made):
    assert "training the network: going on from epoch" in made.log
    assert "training the network: epoch 1 of" not in made.log


@pytest.mark.slow
def test_the_exported_models_of_a_job_score_like_its_bundle(made):
    import numpy as np

    from components.scorer.artifacts import litert_model, saved_model, warmup
    from components.scorer.metrics import regression

    uri = str(made.base / "model" / "drawn" / "1")
    photos = list(warmup.photos())
    expected = saved_model.load_bundle(uri).score(photos)
    litert_scorer = litert_model.load(uri)
    answers = litert_scorer.predict(np.stack([litert_scorer.pixels(photo) for photo in photos]))
    assert np.allclose(saved_model.load(uri).score(photos), expected, atol=1e-3)
    assert np.allclose(answers["mean"], regression.mean_scores(expected), atol=1e-3)


@pytest.mark.slow
def test_the_model_resolves_from_the_address_of_the_models_folder(made):
    from components.scorer.registry import channels

    assert channels.resolve(str(made.base / "model")) == str(made.base / "model" / "drawn" / "1")


@pytest.mark.slow
def test_the_report_pages_are_output_and_no_failure_file_is_written(made):
    assert {path.name for path in (made.base / "output" / "data").iterdir()} == {
        "ingestion.html", "pretraining.html", "training.html"
    }  # fmt: skip
    assert not (made.base / "output" / "failure").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epoch": "3"}, "there is no hyperparameter 'epoch'"),
        ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
        ({"pretraining_learning_rate": "11"}, "learning_rate must be from 0 to 10"),
        ({"mixed_precision": "maybe"}, "mixed_precision must be true or false, got 'maybe'"),
        ({"crop": "64", "scale": "36"}, "scale must be at least crop"),
        ({"name": "../away"}, "expected a model name"),
    ],
)
def test_a_wrong_hyperparameter_fails_before_anything_is_computed(given, expected, tmp_path):
    config(tmp_path, given)
    for channel in ("photos", "ratings"):
        (tmp_path / "input" / "data" / channel).mkdir(parents=True)
    (tmp_path / "input" / "data" / "ratings" / "ratings.csv").write_text("photo,rater,score\n")
    with pytest.raises(ValueError, match=expected):
        sagemaker_job.read_job(tmp_path)


def test_hyperparameters_added_by_sagemaker_and_its_tools_are_ignored(tmp_path):
    added = {
        "_tuning_objective_metric": "loss",
        "_kfold": "1",
        "sagemaker_program": "train.py",
        "model_dir": "s3://b/m",
    }
    config(tmp_path, {**added, "epochs": '"3"'})
    for channel in ("photos", "ratings"):
        (tmp_path / "input" / "data" / channel).mkdir(parents=True)
    (tmp_path / "input" / "data" / "ratings" / "ratings.csv").write_text("photo,rater,score\n")
    assert sagemaker_job.read_job(tmp_path).settings == sagemaker_job.parse_settings({"epochs": "3"})


def test_an_error_for_a_missing_channel_names_the_existing_channels(tmp_path):
    (tmp_path / "input" / "data" / "pictures").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"expected the channel 'photos', got \['pictures'\]"):
        sagemaker_job.read_job(tmp_path)


def test_a_ratings_channel_with_several_files_is_refused(tmp_path):
    data_folder = tmp_path / "input" / "data"
    (data_folder / "photos").mkdir(parents=True)
    (data_folder / "ratings").mkdir()
    for name in ("a.csv", "b.csv"):
        (data_folder / "ratings" / name).touch()
    with pytest.raises(ValueError, match="expected one file in the channel 'ratings', got 2"):
        sagemaker_job.read_job(tmp_path)


@pytest.mark.parametrize("channel", ["weights", "norms", "face_detector"])
def test_the_file_of_an_optional_channel_is_the_setting_of_that_name(channel, tmp_path):
    for name in ("photos", "ratings", channel):
        (tmp_path / "input" / "data" / name).mkdir(parents=True)
        (tmp_path / "input" / "data" / name / "file").touch()
    file = tmp_path / "input" / "data" / channel / "file"
    for kind, field in sagemaker_job.hyperparameter_fields()[channel]:
        assert getattr(sagemaker_job.read_job(tmp_path).settings[kind], field) == str(file)


def test_a_face_embedder_channel_needs_a_face_detector_channel(tmp_path):
    for name in ("photos", "ratings", "face_embedder"):
        (tmp_path / "input" / "data" / name).mkdir(parents=True)
        (tmp_path / "input" / "data" / name / "file.onnx").touch()
    with pytest.raises(ValueError, match="face_embedder needs face_detector"):
        sagemaker_job.read_job(tmp_path)
    (tmp_path / "input" / "data" / "face_detector").mkdir()
    (tmp_path / "input" / "data" / "face_detector" / "file").touch()
    assert sagemaker_job.read_job(tmp_path).settings[Faces].face_embedder.endswith("face_embedder/file.onnx")


def test_several_instances_are_refused(tmp_path):
    config(tmp_path, {})
    resource_config = tmp_path / "input" / "config" / "resourceconfig.json"
    resource_config.write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}))
    with pytest.raises(ValueError, match="expected one instance, got 2"):
        sagemaker_job.read_job(tmp_path)


def test_a_failed_job_reports_the_reason_without_names_of_photos(tmp_path, monkeypatch, capfd):
    names = [f"Anna Muster {number}.jpg" for number in range(40)]
    data = tmp_path / "input" / "data"
    (data / "photos").mkdir(parents=True)
    (data / "ratings").mkdir()
    for name in names:
        (data / "photos" / name).write_bytes(b"no photo")
    rows = "".join(f"{name},rater,{5}\n" for name in names)
    (data / "ratings" / "ratings.csv").write_text("photo,rater,score\n" + rows)
    config(tmp_path, {})
    monkeypatch.setenv(sagemaker_job.BASE, str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert sagemaker_job.main() == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    reason = (tmp_path / "output" / "failure").read_text()
    assert "40 of 40 rated photos (100 %) would be left out" in reason
    assert "What to do: check that the photos were copied whole" in reason
    assert len(reason) <= sagemaker_job.MAX_FAILURE_LENGTH
    out, err = capfd.readouterr()
    assert not [word for word in ("Anna", "Muster", ".jpg") if word in reason + out + err]


def test_every_hyperparameter_is_a_pipeline_parameter_of_the_same_name_and_default():
    from components.scorer.parameters import as_parameters

    lines = dict(line.split(maxsplit=1) for line in parameters.table().splitlines())
    for name, kinds_and_fields in sagemaker_job.hyperparameter_fields().items():
        for kind, field in kinds_and_fields:
            assert lines[name].startswith(json.dumps(as_parameters(kind())[field])), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("3", "epochs", 3), ("True", "mixed_precision", True), ('"VGG16"', "backbone", "VGG16"),
        ("VGG16", "backbone", "VGG16"), ("[17]", "ava_tags", (17,)),
        ('{"alpha": 0.5}', "backbone_options", {"alpha": 0.5}), ('"3"', "epochs", 3), ('"1e-3"', "learning_rate", 1e-3),
        ('"false"', "mixed_precision", False), ('"[17]"', "ava_tags", (17,)),
        (r'"{\"alpha\": 0.5}"', "backbone_options", {"alpha": 0.5}),
    ],
)  # fmt: skip
def test_hyperparameter_texts_are_parsed_to_the_types_of_the_settings(text, name, value):
    parsed = sagemaker_job.parse_settings({name: text})
    for kind, field in sagemaker_job.hyperparameter_fields()[name]:
        assert getattr(parsed[kind], field) == value
