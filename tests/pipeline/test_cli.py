"""The command line: its arguments, the errors before anything starts, and its messages."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.scorer import storage
from components.scorer.run import step_status
from components.scorer.run.paths import RunPaths
from pipeline import compiled, local_runner
from pipeline.cli.main import main
from pipeline.cli.run import _print_summary
from tests.conftest import drawn_photo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_scorer) -> Path:
    """Make a models folder with one model, whose only version 7 is the champion."""
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import channels, integrity

    models = tmp_path_factory.mktemp("models")
    saved_model.export(bundle.load(small_scorer), models / "portraits" / "7")
    integrity.write_record(models / "portraits" / "7", {})
    channels.promote_pushed(str(models), "portraits", 7)
    return models


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Make a folder with three photos, one of them in a subfolder, and a text file."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number, name in enumerate(("a.jpg", "b.JPG", "more/c.jpeg")):
        (folder / name).write_bytes(drawn_photo(0.2 + 0.3 * number, number, size=(80, 96)))
    (folder / "notes.txt").write_text("no photo")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("command", ["", "run", "compile", "submit", "schedule", "score", "explain", "parameters"])
def test_each_command_prints_its_help(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--help"])
    printed = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert printed.startswith("usage: python -m pipeline")
    assert "None" not in printed


def test_the_parameters_are_listed_with_defaults_and_descriptions(capsys):
    assert main(["parameters"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["photos"].split()[1] == "required"
    assert lines["epochs"].split()[1] == "15"
    assert lines["epochs"].endswith("Epochs in which the whole network is trained, after the head.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "epoch=3"], "the pipeline has no parameter 'epoch': did you mean 'epochs'?"),
        (["--set", "zzz=3"], "the pipeline has no parameter 'zzz': expected one of accelerator,"),
        (["--set", "epochs"], "expected name=value, got 'epochs'"),
        (["--set", "epochs=many"], "epochs must be a whole number, got 'many'"),
        (["--set", "epochs=-1"], "epochs must be from 0 to 10000, got -1"),
        (["--set", "pretraining_epochs=-1"], "pretraining_epochs must be from 0 to 10000, got -1"),
        (["--set", "epochs=1", "--set", "dropout=x"], "dropout must be a number, got 'x'"),
        (["--set", "show_photos=1"], "show_photos must be true or false, got '1'"),
        (["--set", "backbone_options=[1]"], "backbone_options must be a JSON object, got [1]"),
        (["--set", "ava_tags={"], "ava_tags must be a JSON list, got '{'"),
        (
            ["--set", "start=magic"],
            "start must be one of ['autoencoder', 'denoising', 'imagenet', 'none'], got 'magic'",
        ),
        (["--set", "accelerator_count=3"], "accelerator_count must be one of ['1', '2', '4', '8', '16'], got '3'"),
        (["--ratings", "ratings.csv"], "--ratings needs --photos"),
        (["--photos", "."], "--photos needs --ratings"),
        (["--photos", "nowhere", "--ratings", "ratings.csv"], "photos: there is nothing at nowhere"),
        (["--photos", ".", "--ratings", "nothing.csv"], "ratings: there is nothing at nothing.csv"),
        (["--resume", "never"], "there is no run 'never' in the workspace"),
    ],
)
def test_wrong_arguments_give_a_one_line_error_before_anything_starts(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "advised"), [(ValueError("no data"), False), (OSError("a full disk"), True)])
def test_resuming_is_suggested_after_an_outage_and_not_after_wrong_input(error, advised, tmp_path, monkeypatch, capsys):
    run_paths = RunPaths(str(tmp_path), "run-1")
    storage.write_bytes(storage.join(run_paths.checkpoints("training"), "epoch-0001.json"), b"{}")
    monkeypatch.setenv(step_status.RUN_ID, "run-1")
    with pytest.raises(type(error)), step_status.record_step("training", str(tmp_path)):
        raise error
    assert (
        _print_summary(local_runner.LocalRunResult(step_status.summarize_run(run_paths, "FAILED"), []), run_paths, 1.0)
        == 1
    )
    printed = capsys.readouterr().out
    assert str(error) in printed
    assert ("--resume run-1" in printed) is advised


def test_a_compiled_file_passes_the_check_as_fresh(tmp_path, capsys):
    file = tmp_path / "pipeline.yaml"
    assert main(["compile", "--file", str(file)]) == 0
    assert main(["compile", "--check", "--file", str(file)]) == 0
    assert "fresh" in capsys.readouterr().out


def test_a_stale_file_fails_the_check_and_the_difference_is_printed(tmp_path, capsys):
    file = tmp_path / "pipeline.yaml"
    file.write_text(compiled.compiled_yaml().replace("defaultValue: 0.75", "defaultValue: 0.5"))
    before = file.read_bytes()
    assert main(["compile", "--check", "--file", str(file)]) == 1
    printed = capsys.readouterr().err
    assert f"{file} is stale" in printed
    assert "-        defaultValue: 0.5\n+        defaultValue: 0.75" in printed
    assert len(printed.splitlines()) < 20
    assert file.read_bytes() == before


def test_a_missing_file_fails_the_check(tmp_path, capsys):
    assert main(["compile", "--check", "--file", str(tmp_path / "none.yaml")]) == 1
    assert "is stale" in capsys.readouterr().err


def test_the_committed_pipeline_is_fresh():
    assert compiled.difference() == "", "write it anew with: python -m pipeline compile"


@pytest.mark.slow
def test_compiling_gives_the_same_bytes_in_another_process(tmp_path):
    file = tmp_path / "pipeline.yaml"
    command = [sys.executable, "-m", "pipeline", "compile", "--file", str(file)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True, capture_output=True)
    assert file.read_text() == compiled.compiled_yaml()


@pytest.fixture(scope="module")
def scores(model, photos, tmp_path_factory) -> Path:
    """Score the photos with the folder of version 7."""
    scores_path = tmp_path_factory.mktemp("scores") / "new" / "scores.csv"
    assert main(["score", str(model / "portraits" / "7"), str(photos), "--out", str(scores_path)]) == 0
    return scores_path


@pytest.mark.slow
def test_scores_are_the_votes_of_the_published_model_on_normalised_photos(model, photos, scores):
    from components.scorer.artifacts import saved_model
    from components.scorer.imaging import decoding
    from components.scorer.metrics import regression
    from components.scorer.settings import Ingestion

    score_rows = rows(scores)
    assert [row["photo"] for row in score_rows] == ["a.jpg", "b.JPG", "more/c.jpeg"]
    assert list(score_rows[0]) == ["photo", "mean", "std", *(f"p{score}" for score in range(1, 11))]
    data = [decoding.normalise((photos / row["photo"]).read_bytes(), Ingestion()) for row in score_rows]
    votes = saved_model.load(str(model / "portraits" / "7")).score(data)
    written_votes = np.array([[float(row[f"p{score}"]) for score in range(1, 11)] for row in score_rows])
    np.testing.assert_allclose(written_votes, votes, atol=1e-4)
    np.testing.assert_allclose([float(row["mean"]) for row in score_rows], regression.mean_scores(votes), atol=1e-3)
    np.testing.assert_allclose([float(row["std"]) for row in score_rows], regression.vote_deviations(votes), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["", "portraits"])
def test_a_models_folder_or_a_model_folder_means_the_champion(base, model, photos, scores, tmp_path):
    assert main(["score", str(model / base), str(photos), "--out", str(tmp_path / "scores.csv")]) == 0
    assert (tmp_path / "scores.csv").read_bytes() == scores.read_bytes()


@pytest.mark.slow
def test_unreadable_photos_are_listed_with_reasons_and_the_others_are_scored(model, photos, tmp_path, capsys):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "broken.jpg").write_bytes(drawn_photo(0.5)[:200])
    (folder / "empty.png").write_bytes(b"")
    scores_path = tmp_path / "scores.csv"
    assert main(["score", str(model), str(folder), "--out", str(scores_path)]) == 1
    assert len(rows(scores_path)) == 3
    output, printed = capsys.readouterr()
    assert "3 photos scored" in output
    listing = tmp_path / "scores.problems.csv"
    assert printed == f"2 photos could not be read: {listing} says why\n"
    assert [(row["photo"], row["reason"].split(":")[0]) for row in rows(listing)] == [
        ("broken.jpg", "unreadable"), ("empty.png", "unreadable"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["model", "photos"])
def test_scoring_without_a_model_or_photos_leaves_an_old_file_unchanged_and_no_other_file(
    missing, model, photos, tmp_path, capsys
):
    scores_path = tmp_path / "out" / "scores.csv"
    scores_path.parent.mkdir()
    scores_path.write_text("old")
    paths = {"model": str(model), "photos": str(photos), missing: str(tmp_path / "nowhere")}
    assert main(["score", paths["model"], paths["photos"], "--out", str(scores_path)]) == 2
    assert capsys.readouterr().err.startswith("error: expected")
    assert [path.name for path in scores_path.parent.iterdir()] == ["scores.csv"]
    assert scores_path.read_text() == "old"
