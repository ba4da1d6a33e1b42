"""Batch scoring: shards are kept and resumed, unusable photos stop nothing, one file ranks all photos."""

import csv
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("apache_beam")

from components.scorer import progress, storage
from components.scorer.artifacts import litert_model
from components.scorer.batch import score_many, shards
from components.scorer.batch.score_many import ScoringSummary, competition_ranks, score_and_rank
from pipeline.cli.main import main
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

HERE = "--runner=DirectRunner --direct_running_mode=in_memory"
NUMBER = 10


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "PHOTOS_PER_SHARD", 4)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Folder with ten photos, one of them in a subfolder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(NUMBER):
        name = f"{number}.jpg" if number else "more/0.JPG"
        (folder / name).write_bytes(drawn_photo(0.1 + 0.08 * number, number, size=(80, 96)))
    (folder / "notes.txt").write_text("no photo")
    return folder


def scored(models: Path, photos: Path, out: Path, **options: str) -> ScoringSummary:
    return score_and_rank(str(models / "portraits" / "1"), str(photos), str(out), **{"beam_options": HERE, **options})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def in_shards(out: Path) -> list[dict[str, str]]:
    shard_files = sorted(path for path in (out / "shards").iterdir() if "problems" not in path.name)
    return [row for path in shard_files for row in rows(path)]


def test_shards_hold_the_litert_models_scores_of_each_photo(small_models, photos, tmp_path):
    assert scored(small_models, photos, tmp_path / "out") == ScoringSummary(NUMBER, [], 3)
    shard_rows = in_shards(tmp_path / "out")
    names = [f"{number}.jpg" for number in range(1, NUMBER)]
    assert [row["photo"] for row in shard_rows] == [*names, "more/0.JPG"]
    scorer = litert_model.load(str(small_models / "portraits" / "1"))
    for row in shard_rows:
        answer = scorer.predict(scorer.pixels(scorer.normalise((photos / row["photo"]).read_bytes()))[None])
        assert float(row["mean"]) == pytest.approx(answer["mean"][0], abs=1e-4)
        assert float(row["std"]) == pytest.approx(answer["std"][0], abs=1e-4)
        votes = [float(row[f"p{score}"]) for score in range(1, 11)]
        np.testing.assert_allclose(votes, answer["distribution"][0], atol=1e-4)


def test_the_order_lists_every_photo_once_from_best_to_worst(small_models, photos, tmp_path):
    scored(small_models, photos, tmp_path / "out")
    order, shard_rows = rows(tmp_path / "out" / "order.csv"), in_shards(tmp_path / "out")
    assert [row["place"] for row in order] == [str(position) for position in range(1, NUMBER + 1)]
    means = [float(row["mean"]) for row in order]
    assert means == sorted(means, reverse=True)
    assert {(row["photo"], row["mean"], row["std"]) for row in order} == {
        (row["photo"], row["mean"], row["std"]) for row in shard_rows
    }
    error = litert_model.load(str(small_models / "portraits" / "1")).error
    assert [int(row["rank"]) for row in order] == competition_ranks(means, error)


@pytest.mark.parametrize("error", [0.0, 0.3, 2.0])
def test_ranks_equal_the_servers_ranks(error):
    from images.serving.protocols import portrait_api

    class Photo:
        def __init__(self, mean: float):
            self.outputs = {"mean": np.float32(mean), "std": np.float32(1), "distribution": np.full(10, 0.1)}

    means = sorted(np.random.default_rng(3).uniform(1, 10, 40).round(1).tolist(), reverse=True)
    ranked = portrait_api._rank_photos(list(enumerate(map(Photo, means))), [str(number) for number in range(40)], error)
    assert competition_ranks([entry["mean"] for entry in ranked], error) == [entry["rank"] for entry in ranked]


def test_unusable_photos_are_listed_as_problems_and_stop_nothing(small_models, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(drawn_photo(0.5)[:200])
    (photos / "empty.png").write_bytes(b"")
    (photos / "small.jpg").write_bytes(drawn_photo(0.5, size=(8, 8)))
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "dir.jpg").mkdir()
    summary = scored(small_models, photos, tmp_path / "out")
    assert summary.scored == NUMBER
    reasons = {row["photo"]: row["reason"] for row in rows(tmp_path / "out" / "problems.csv")}
    assert reasons == dict(summary.problems)
    assert {name: reason.split(":")[0] for name, reason in reasons.items() if name != "gone.jpg"} == {
        "broken.jpg": "unreadable",
        "empty.png": "unreadable",
        "small.jpg": "too small",
    }
    assert len(rows(tmp_path / "out" / "order.csv")) == NUMBER
    for name in ("broken.jpg", "empty.png", "small.jpg", "gone.jpg"):
        (photos / name).unlink()
    assert scored(small_models, photos, tmp_path / "out").problems == []
    assert not (tmp_path / "out" / "problems.csv").exists()


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_an_interrupted_scoring_resumes_from_the_finished_shards(small_models, photos, tmp_path, monkeypatch):
    read_bytes = storage.read_bytes

    def outage(uri: str) -> bytes:
        if uri.endswith("9.jpg"):
            raise storage.StorageError("the cloud is gone")
        return read_bytes(uri)

    monkeypatch.setattr(storage, "read_bytes", outage)
    with pytest.raises(Exception, match="the cloud is gone"):
        scored(small_models, photos, tmp_path / "out")
    assert not (tmp_path / "out" / "scores.json").exists()
    shards_before = files(tmp_path / "out" / "shards")
    assert len(shards_before) == 2
    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    assert scored(small_models, photos, tmp_path / "out").scored_shards == 1
    shards_after = files(tmp_path / "out" / "shards")
    assert shards_before.items() <= shards_after.items()
    scored(small_models, photos, tmp_path / "whole")
    assert (tmp_path / "whole" / "order.csv").read_bytes() == (tmp_path / "out" / "order.csv").read_bytes()
    assert scored(small_models, photos, tmp_path / "out").scored_shards == 0
    assert files(tmp_path / "out" / "shards") == shards_after


def test_changed_photos_are_scored_again_and_old_shards_are_deleted(small_models, photos, tmp_path):
    scored(small_models, photos, tmp_path / "out")
    old_shards = set(files(tmp_path / "out" / "shards"))
    (tmp_path / "out" / "shards" / "mine.csv").write_text("kept")
    (photos / "9.jpg").write_bytes(drawn_photo(0.3, 99, size=(80, 96)))
    (photos / "10.jpg").write_bytes(drawn_photo(0.4, 98, size=(80, 96)))
    assert scored(small_models, photos, tmp_path / "out").scored == NUMBER + 1
    new_shards = set(files(tmp_path / "out" / "shards"))
    assert new_shards & old_shards == set()
    assert len(new_shards) == 4
    assert len(in_shards(tmp_path / "out")) == NUMBER + 1


def test_another_version_scores_all_shards_again(small_models, photos, tmp_path):
    scored(small_models, photos, tmp_path / "out")
    assert (
        score_and_rank(
            str(small_models / "portraits" / "2"), str(photos), str(tmp_path / "out"), beam_options=HERE
        ).scored_shards
        == 3
    )


def test_parquet_holds_the_same_scores(small_models, photos, tmp_path):
    import pyarrow.parquet as pq

    scored(small_models, photos, tmp_path / "csv")
    scored(small_models, photos, tmp_path / "parquet", form="parquet")
    parquet_rows = [
        row for path in sorted((tmp_path / "parquet" / "shards").iterdir()) for row in pq.read_table(path).to_pylist()
    ]
    csv_rows = in_shards(tmp_path / "csv")
    assert [row["photo"] for row in parquet_rows] == [row["photo"] for row in csv_rows]
    assert list(parquet_rows[0]) == list(csv_rows[0])
    for column in shards.COLUMNS[1:]:
        assert [f"{row[column]:.4f}" for row in parquet_rows] == [row[column] for row in csv_rows]
    orders = [rows(tmp_path / form / "order.csv") for form in ("csv", "parquet")]
    assert [row["mean"] for row in orders[0]] == [row["mean"] for row in orders[1]]


def test_model_photos_and_shards_can_be_in_a_bucket(small_models, photos, tmp_path, google):
    storage.upload_tree(small_models, "gs://bucket/models")
    storage.upload_tree(photos, "gs://bucket/photos")
    assert (
        score_and_rank("gs://bucket/models", "gs://bucket/photos", "gs://bucket/out", beam_options=HERE).scored
        == NUMBER
    )
    scored(small_models, photos, tmp_path / "out")
    assert storage.read_bytes("gs://bucket/out/order.csv") == (tmp_path / "out" / "order.csv").read_bytes()


def test_the_command_line_prints_counts_and_files_and_no_photo_name(small_models, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"")
    out = tmp_path / "out"
    command = ["score", str(small_models), str(photos), "--shards", str(out), "--beam", HERE]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert f"10 photos scored and in order: {out}/order.csv" in printed.out
    assert f"1 photos could not be scored: {out}/problems.csv says why" in printed.err
    assert "broken" not in printed.out + printed.err
    assert storage.read_json(str(out / "scores.json"))["photos"] == NUMBER
    (photos / "broken.jpg").unlink()
    assert main(command) == 0


WRONG = {
    "--job=juggler": r"can be told no job, as it was trained without, got 'juggler'",
    "--form=xml": r"expected the form of the shards to be one of \['csv', 'parquet'\], got 'xml'",
    "--beam=--runner=Dsk": r"expected --runner to be one of",
}


@pytest.mark.parametrize(("option", "why"), WRONG.items(), ids=WRONG)
def test_a_wrong_option_is_refused_and_leaves_no_file(option, why, small_models, photos, tmp_path, capsys):
    assert main(["score", str(small_models), str(photos), "--shards", str(tmp_path / "out"), option]) == 2
    assert re.search(why, capsys.readouterr().err)
    assert not list(tmp_path.glob("out/**/*.csv"))


def test_options_of_shards_are_refused_without_them(small_models, photos, tmp_path, capsys):
    command = ["score", str(small_models), str(photos), "--out", str(tmp_path / "scores.csv")]
    assert main([*command, "--form", "parquet"]) == 2
    assert "--form needs --shards" in capsys.readouterr().err
    assert main([*command, "--beam", HERE]) == 2
    assert "--beam needs --shards" in capsys.readouterr().err


def test_a_folder_without_photos_and_one_without_a_model_are_refused(small_models, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"expected photos at .* found none"):
        scored(small_models, tmp_path / "none", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="expected a published version"):
        score_and_rank(str(tmp_path / "none"), str(tmp_path / "none"), str(tmp_path / "out"))


def test_progress_shows_the_finished_shards(small_models, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(score_many, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(score_many, "track", partial(progress.track, first_after=0.0))
    scored(small_models, photos, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "scoring 10 photos in 3 shards, of which 3 are missing" in printed
    assert "scoring, shards of 4 photos: 1 of 3 (33 %), " in printed
    assert os.sep + "photos" not in printed
