"""Every command of the pages on installation and operations works in order, on stand-ins of Kubeflow and the bucket."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.ingestion.sample import draw_sample
from components.scorer import storage
from components.scorer.registry import channels
from pipeline.cli.main import main
from pipeline.kubeflow import client
from tests.builders import documents
from tests.fakes import gcs, kubeflow

pytestmark = pytest.mark.slow

PAGE = "\n".join(documents.pages()[page] for page in documents.ON_STAND_INS)
COMMANDS = documents.commands(PAGE)
MODELS = "gs://bucket/models"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory, small_scorer) -> Iterator[gcs.Server]:
    """Fill the page's bucket with photos, ratings and two versions; the second is the champion."""
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import integrity

    folder, patch = tmp_path_factory.mktemp("drawn"), pytest.MonkeyPatch()
    sample = draw_sample(folder, labelled=4, unlabelled=0, seed=5)
    with gcs.Server("bucket") as server:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        storage.upload_tree(sample.photos, "gs://bucket/photos")
        storage.write_bytes("gs://bucket/ratings.csv", Path(sample.ratings).read_bytes())
        saved_model.export(bundle.load(small_scorer), folder / "version")
        integrity.write_record(folder / "version", {})
        for version in (1, 2):
            storage.upload_tree(folder / "version", channels.address(MODELS, "portraits", version))
            channels.promote_pushed(MODELS, "portraits", version, why="passed")
        yield server
    patch.undo()


@pytest.fixture(scope="module")
def server() -> Iterator[kubeflow.Kubeflow]:
    """Start the page's Kubeflow server; the client's checkout is at revision ``abc123``."""
    patch = pytest.MonkeyPatch()
    patch.setattr(client, "git_revision", lambda: "abc123")
    with kubeflow.serving() as serving:
        yield serving
    patch.undo()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Change to a folder with the documents' schedules."""
    (tmp_path / "schedules.yaml").write_text(documents.schedules())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("bucket", "folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_operations_pages_works(command, server, capsys):
    if "channels.json" in command:
        storage.delete_tree(f"{MODELS}/portraits/channels.json")
    words = documents.words(command, server.url)
    if words[0] == "make":
        subprocess.run(words, check=True, capture_output=True)
        return
    assert words[:3] == ["python", "-m", "pipeline"]
    assert main(words[3:]) == 0, capsys.readouterr().err


def test_after_the_commands_the_champion_is_the_documented_version(bucket):
    assert channels.read(MODELS, "portraits") == {"champion": 2, "previous": None}
    assert [entry["why"] for entry in channels.audit(MODELS, "portraits")] == [
        "restored after the loss of channels.json"
    ]


def test_after_the_commands_one_schedule_runs_the_version_rolled_back_to(server):
    (enabled_schedule,) = [run for run in server.recurring if run["status"] == "ENABLED"]
    (version,) = [
        candidate for candidate in server.versions
        if candidate["pipeline_version_id"] == enabled_schedule["pipeline_version_reference"]["pipeline_version_id"]
    ]  # fmt: skip
    assert version["display_name"] == "v0.1.0"


def test_the_pages_have_a_section_for_every_case():
    cases = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert cases == [
        "Bucket and account", "Images", "First run", "Keys and TLS of the servers",
        "Upgrade", "Roll the code back", "A bad model is out", "The bucket is lost",
        "No GPU to be had", "Spot nodes vanish", "A step dies", "A schedule is stuck", "Housekeeping",
    ]  # fmt: skip


def test_the_parameters_and_files_named_by_the_pages_exist():
    from pipeline import parameters

    for name in ("maximum_slice_gap", "warn_only", "accelerator", "resume"):
        assert name in PAGE
        assert f"{name} " in parameters.table()
    for path in re.findall(r"`((?:pipeline|images)/[\w./-]+)`", PAGE):
        assert (documents.ROOT / path).exists(), path
