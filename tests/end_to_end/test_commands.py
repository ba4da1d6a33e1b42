"""Every command of every document works, in the order of the documents.

The commands run on a small drawn sample, in an empty folder and against a stand-in of the Kubeflow server. A run gets
settings that make it short. Of ``make``, only the dry run is executed. ``test_operations`` executes the commands of
the documents that use a bucket.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from components.ingestion.sample import draw_sample
from components.scorer.settings import GateKey
from tests.builders import documents, servers
from tests.fakes import kubeflow

pytestmark = pytest.mark.slow

ROOT = documents.ROOT
COMMANDS = [
    pytest.param(command, id=f"{page}: {command}")
    for page, text in documents.pages().items()
    if page not in documents.ON_STAND_INS
    for command in documents.commands(text)
]
SHORT = [
    "start=none", 'backbone_options={"alpha":0.25}', "crop=32", "scale=36", "head_epochs=1", "epochs=1", "bootstrap=20",
    "behaviour_photos=8", "perturbation_photos=1", f"warn_only={json.dumps(get_args(GateKey))}",
    "validation_share=0.3", "test_share=0.3",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Make a person's own folder: photos and tables with the names of the documents, and the documents' schedules."""
    own_folder = tmp_path_factory.mktemp("own")
    sample = draw_sample(own_folder / "drawn", labelled=48, unlabelled=12, seed=5)
    Path(sample.photos).rename(own_folder / "photos")
    for photo, name in zip(
        sorted((own_folder / "photos").glob("*.jpg")), ("portrait.jpg", "another.jpg"), strict=False
    ):
        shutil.copy(photo, own_folder / name)
    Path(sample.unlabelled).rename(own_folder / "more-photos")
    Path(sample.ratings).rename(own_folder / "ratings.csv")
    Path(sample.attributes).rename(own_folder / "attributes.csv")
    (own_folder / "schedules.yaml").write_text(documents.schedules())
    return own_folder


@pytest.fixture(scope="module")
def host():
    with kubeflow.serving() as server:
        yield server.url


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory):
    """Serve the model that the documents' own run has published, and return the address."""
    with servers.started(folder / "models", tmp_path_factory.mktemp("served")) as server:
        yield server.url


def runnable(command: str, host: str) -> list[str]:
    """Return the command with this Python, the stand-in's address and, for a run, settings that make it short."""
    words = documents.words(command, host)
    if words[:3] == ["python", "-m", "pipeline"]:
        extra_options = {"run": ["--set", *SHORT], "compile": ["--file", "pipeline.yaml"]}
        return [sys.executable, *words[1:], *extra_options.get(words[3], [])]
    return words


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_document_works(command, folder, host, request):
    if command == ". .venv/bin/activate":
        assert ".venv" in (ROOT / "Makefile").read_text()
        return
    if "http://localhost:8080" in command:
        command = command.replace("http://localhost:8080", request.getfixturevalue("served"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(runnable(command, host), cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def test_score_writes_the_columns_that_the_readme_names(folder):
    columns = (folder / "scores.csv").read_text().splitlines()[0]
    assert columns == "photo,mean,std," + ",".join(f"p{score}" for score in range(1, 11))
