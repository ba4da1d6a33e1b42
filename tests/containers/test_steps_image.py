"""The steps image: its size, its content, and a SageMaker training job in it."""

import json
import os
from pathlib import Path

import pytest
import yaml

from pipeline import sagemaker_job
from tests.builders.sagemaker_jobs import TINY, job
from tests.containers.engine import ROOT, container, docker, revision

LIMIT = 2.2e9  # bytes
USER = 10001
OFFLINE = ("--network", "none")


def inside(image: str, code: str) -> str:
    """Run Python code in a confined container without a network and return its output."""
    with container(image, "python", "-c", code, options=OFFLINE) as running:
        assert running.wait() == 0, running.logs()
        return running.logs().strip()


def test_the_image_is_within_its_size_limit(steps, capsys):
    with capsys.disabled():
        print(f"\nsteps (cpu): {steps.bytes / 1e9:.2f} GB of {LIMIT / 1e9} GB, built in {steps.seconds:.0f} s")
    assert steps.bytes <= LIMIT


def test_the_image_runs_as_a_numeric_user_and_has_a_revision_label(steps):
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", steps.tag))
    assert config["User"] == f"{USER}:{USER}"
    assert config["Labels"]["org.opencontainers.image.revision"] == revision()


def test_every_step_can_be_imported_in_the_image(steps):
    code = """
import importlib, pkgutil, components
names = [module.name for module in pkgutil.walk_packages(components.__path__, "components.")]
print(len([importlib.import_module(name) for name in names]))
"""
    assert int(inside(steps.tag, code).splitlines()[-1]) > 80


def test_the_schedule_job_finds_its_command_in_the_image(steps):
    path = ROOT / "images" / "manifests" / "schedule" / "job.yaml"
    pod = yaml.safe_load(path.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    with container(steps.tag, *pod["containers"][0]["command"], "--dry-run", options=OFFLINE) as running:
        assert running.wait() == 2, running.logs()
        assert "No such file or directory: '/etc/schedules/schedules.yaml'" in running.logs()


def test_the_image_holds_no_compiler(steps):
    code = "import shutil; print([tool for tool in ('gcc', 'cc', 'make', 'strip') if shutil.which(tool)])"
    assert inside(steps.tag, code) == "[]"


@pytest.fixture(scope="module")
def folder(steps, tmp_path_factory) -> Path:
    """A job's folder in SageMaker's layout; only model, checkpoints and output are writable."""
    base = job(tmp_path_factory.mktemp("job"), {**TINY, "epochs": "1"})
    for name in ("model", "checkpoints", "output"):
        (base / name).mkdir()
        os.chown(base / name, USER, USER)
    for path in (base, *(base / "input").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return base


def test_train_builds_a_model_from_a_jobs_channels_without_a_network(steps, folder):
    from components.scorer.artifacts import litert_model, saved_model, warmup
    from components.scorer.registry import channels

    with container(steps.tag, "train", options=OFFLINE, mounts={folder: "/opt/ml"}) as running:
        assert running.wait() == 0, running.logs()
    version = channels.resolve(str(folder / "model"))
    votes = saved_model.load(version).score(list(warmup.photos()))
    assert abs(votes.sum(axis=1) - 1).max() < 1e-3
    assert litert_model.load(version).version == sagemaker_job.VERSION


def test_train_writes_the_reason_of_its_failure(steps, folder):
    config = folder / "input" / "config" / "hyperparameters.json"
    original = config.read_text()
    config.write_text(json.dumps({"epochs": "many"}))
    try:
        with container(steps.tag, "train", options=OFFLINE, mounts={folder: "/opt/ml"}) as running:
            assert running.wait() == 1, running.logs()
    finally:
        config.write_text(original)
    assert "epochs must be a whole number" in (folder / "output" / "failure").read_text()
