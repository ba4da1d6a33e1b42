"""Ingestion from photos and ratings to a data set: the writer, both engines, exclusions and the report."""

import hashlib
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from components.ingestion import ingest, tfds_writer
from components.ingestion.photos import parallel_map, photo_inspection
from components.ingestion.ratings.column_detection import RESERVED_COLUMNS
from components.ingestion.summary import IngestionSummary, PoolSummary
from components.scorer import storage
from components.scorer.data import photos as scorer_photos
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Ingestion
from tests.builders.ingestions import BEAM, SETTINGS, Inputs, jpeg, picture, same_files
from tests.fakes import gcs

pytestmark = pytest.mark.slow


@pytest.fixture
def inputs(tmp_path) -> Inputs:
    return Inputs(tmp_path)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> Inputs:
    """Run one ingestion for all tests that only read its outcome."""
    inputs = Inputs(tmp_path_factory.mktemp("ingested"))
    inputs.found = inputs.ingest()
    return inputs


def example(number: int, **fields: object) -> dict:
    votes = np.eye(10, dtype=np.float32)[number % 10]
    defaults = {"photo": jpeg(picture(number, 40)), "photo_id": f"{number}.jpg", "votes": votes, "raters": number}
    return {**defaults, "group": f"group {number}", "attributes": {}, **fields}


# The writer


def test_a_written_data_set_is_read_by_plain_tfds_with_unchanged_photo_bytes(tmp_path):
    written = example(7, attributes={"job": "carer", "skin tone": ""})
    tfds_writer.write(tmp_path / "dataset", {"train": [[written]]}, ["job", "skin tone"])
    decoders = {"photo": tfds.decode.SkipDecoding()}
    dataset = tfds.builder_from_directory(str(tmp_path / "dataset"))
    (record,) = dataset.as_dataset(split="train", decoders=decoders).as_numpy_iterator()
    assert record["photo"] == written["photo"]
    assert record["votes"].tolist() == written["votes"].tolist()
    assert (record["photo_id"], record["raters"], record["group"]) == (b"7.jpg", 7, b"group 7")
    assert record["attributes"] == {"job": b"carer", "skin tone": b""}
    (decoded_record,) = dataset.as_dataset(split="train").as_numpy_iterator()
    assert decoded_record["photo"].shape == (40, 40, 3)


def test_shards_are_read_back_in_order_and_empty_splits_are_omitted(tmp_path):
    shards = [[example(n) for n in range(start, start + 3)] for start in range(0, 36, 3)]
    tfds_writer.write(tmp_path / "dataset", {"train": [*shards, []], "test": [[example(99)]], "unlabelled": []})
    assert scorer_photos.counts(tmp_path / "dataset") == {"train": 36, "test": 1}
    assert [record["photo_id"] for record in scorer_photos.records(tmp_path / "dataset", "train")] == [
        f"{n}.jpg" for n in range(36)
    ]


def test_the_writer_gives_the_same_bytes_in_another_process(tmp_path):
    attributes = {name: name for name in "abcdefgh"}
    own_folder, other_folder = tmp_path / "here", tmp_path / "there"
    splits = {"train": [[example(n, attributes=attributes) for n in range(3)]]}
    tfds_writer.write(own_folder, splits, list(attributes))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(tfds_writer.write, other_folder, splits, list(attributes)).result()
    assert same_files(own_folder, other_folder)


def test_a_failed_write_keeps_the_old_data_set_and_leaves_nothing_else(tmp_path):
    class Broken(list):
        def __iter__(self):
            yield example(1)
            raise OSError("disk gone")

    tfds_writer.write(tmp_path / "dataset", {"train": [[example(0)]]})
    with pytest.raises(OSError, match="disk gone"):
        tfds_writer.write(tmp_path / "dataset", {"train": [Broken([1, 2])]})
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert scorer_photos.counts(tmp_path / "dataset") == {"train": 1}
    tfds_writer.write(tmp_path / "dataset", {"train": [[example(n) for n in range(5)]]})
    assert scorer_photos.counts(tmp_path / "dataset") == {"train": 5}


def test_the_writer_refuses_an_empty_data_set_and_an_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="at least one example"):
        tfds_writer.write(tmp_path / "dataset", {"train": [[]]})
    with pytest.raises(ValueError, match=r"expected splits out of .* got 'dev'"):
        tfds_writer.write(tmp_path / "dataset", {"dev": [[example(0)]]})
    assert not list(tmp_path.iterdir())


def test_without_beam_installed_the_error_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(RuntimeError, match=r"install the extra 'scale'"):
        tfds_writer.write(tmp_path / "dataset", {"train": [[example(0)]]}, beam_options=BEAM)
    assert not list(tmp_path.iterdir())


# The whole ingestion


def test_beam_and_processes_write_the_same_data_set_byte_for_byte(ingested, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setattr(ingest, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(photo_inspection, "CHUNK_SIZE", 7)
    inputs = Inputs(tmp_path)
    process_metrics = inputs.ingest("processes")
    by_processes = inputs.dataset
    beam_metrics = inputs.ingest("beam", replace(SETTINGS, beam_options=BEAM), workspace=str(tmp_path / "another"))
    assert len(list(by_processes.glob("*train*"))) > 2
    assert same_files(by_processes, inputs.dataset)
    assert process_metrics == beam_metrics
    # The fingerprint does not depend on how the work was divided.
    assert process_metrics["fingerprint"] == ingested.found["fingerprint"]


def test_beam_shares_its_files_through_a_bucket_and_leaves_only_the_split_register(ingested, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    with gcs.Server("bucket") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        inputs = Inputs(tmp_path)
        inputs.ingest(settings=replace(SETTINGS, beam_options=BEAM), workspace="gs://bucket/workspace")
        assert list(server.data("bucket")) == ["workspace/splits.csv"]
    assert same_files(inputs.dataset, ingested.dataset)


def test_every_photo_is_in_the_data_set_with_its_votes(ingested):
    splits = ingested.splits()
    assert set(splits) == {f"{n:02}.jpg" for n in range(40)} | {f"u{n}.jpg" for n in range(6)}
    assert {split for photo, split in splits.items() if photo.startswith("u")} == {"unlabelled"}
    assert set(splits.values()) == {"train", "validation", "test", "unlabelled"}
    mean_scores = ingested.ratings.groupby("photo")["score"].mean()
    for split in ("train", "validation", "test"):
        for record in scorer_photos.records(ingested.dataset, split):
            assert record["votes"].sum() == pytest.approx(1)
            assert record["votes"] @ np.arange(1, 11) == pytest.approx(mean_scores[record["photo_id"]], abs=1e-5)
            assert record["raters"] == 5
    for record in scorer_photos.records(ingested.dataset, "unlabelled"):
        assert (record["votes"].tolist(), record["raters"]) == ([0] * 10, 0)


def test_the_record_counts_and_the_metrics_agree(ingested):
    counts = ingested.record["counts"]
    assert counts == {"train": 0, "validation": 0, "test": 0} | scorer_photos.counts(ingested.dataset)
    assert {f"photos_{split}": count for split, count in counts.items()}.items() <= ingested.found.items()
    assert ingested.record["schema"] == "ratings"
    assert ingested.record["fingerprint"] == ingested.found["fingerprint"]
    assert ingested.record["reliability"]["photos"] > 0
    assert ingested.record["ratings"] == {
        "number": 200,
        "people": 5,
        "photos_without_number": 0,
        "least_a_photo": 5,
        "most_a_photo": 5,
        "groups": 40,
    }
    assert ingested.found["rated_mean_score"] == pytest.approx(ingested.ratings["score"].mean())


def test_intermediate_files_are_removed(ingested):
    assert not storage.exists(RunPaths(str(ingested.folder / "workspace"), "run").checkpoints("ingestion"))
    assert sorted(path.name for path in ingested.dataset.parent.iterdir()) == ["dataset", "report.html"]


def test_the_report_has_every_section(ingested):
    page = ingested.report.read_text()
    for words in (
        "one row a rating",
        "Spearman",
        "ceiling",
        "Brightness",
        "Sharpness",
        "Shorter side",
        "Raters a photo",
    ):
        assert words in page
    assert "No photo was left out." in page


def test_each_excluded_photo_is_named_with_its_reason_in_the_record_and_the_report(inputs):
    (inputs.photos / "text.jpg").write_bytes(b"no photo at all")
    picture(500, 16).save(inputs.photos / "tiny.png")
    picture(501, 300).save(inputs.photos / "huge.png")
    (inputs.photos / "nobody.jpg").write_bytes(jpeg(picture(502)))
    (inputs.photos / "twice.jpg").write_bytes(jpeg(picture(503)))
    (inputs.photos / "eleven.jpg").write_bytes(jpeg(picture(504)))
    (inputs.unlabelled / "twin.jpg").write_bytes(jpeg(picture(3), quality=60))
    (inputs.folder / "outside.jpg").write_bytes(jpeg(picture(505)))
    names = ["text.jpg", "tiny.png", "huge.png", "gone.jpg", "../outside.jpg"]
    rows = [(name, f"rater {rater}", 5) for name in names for rater in range(3)]
    rows += [("twice.jpg", "rater 0", 5), ("eleven.jpg", "rater 0", 11), ("eleven.jpg", "rater 1", 9)]
    inputs.ratings = pd.concat([inputs.ratings, pd.DataFrame(rows, columns=inputs.ratings.columns)])
    settings = replace(SETTINGS, maximum_left_out=0.5, maximum_pixels=50_000, minimum_raters=2)
    metrics = inputs.ingest(settings=settings)
    reasons = {
        "text.jpg": "unreadable",
        "tiny.png": "too small",
        "huge.png": "bomb",
        "nobody.jpg": "no rating",
        "gone.jpg": "no photo",
        "../outside.jpg": "path outside the folder",
        "twice.jpg": "too few raters",
        "eleven.jpg": "score out of range",
        "twin.jpg": "near a rated photo",
    }
    assert inputs.reasons() == reasons
    assert metrics["photos_left_out"] == len(reasons)
    assert len(inputs.splits()) == 46
    page = inputs.report.read_text()
    for photo, reason in reasons.items():
        assert photo in page
        assert reason in page


def test_too_many_excluded_photos_stop_ingestion_with_one_error_and_no_data_set(inputs):
    for number in range(20):
        (inputs.photos / f"{number:02}.jpg").write_bytes(b"rotten")
    before = sorted(inputs.folder.rglob("*"))
    with pytest.raises(ValueError, match="maximum_left_out") as error:
        inputs.ingest()
    message = str(error.value)
    assert message.startswith(
        "20 of 40 rated photos (50 %) would be left out, more than maximum_left_out allows (10 %)"
    )
    assert "'unreadable'" in message
    assert ".jpg" not in message
    listing_path = RunPaths(str(inputs.folder / "workspace"), "run").left_out
    assert f"Which ones and why stands in {listing_path}." in message
    listing = pd.read_csv(listing_path)
    assert sorted(listing["photo"]) == [f"{number:02}.jpg" for number in range(20)]
    assert listing["detail"].str.startswith("expected JPEG").all()
    assert "check that the photos were copied whole" in message
    new_files = {path for path in inputs.folder.rglob("*") if path.is_file()} - set(before)
    assert new_files == {inputs.folder / "ratings.csv", Path(listing_path)}


def test_photos_repaired_after_an_error_are_inspected_again(inputs):
    original_bytes = {path: path.read_bytes() for path in sorted(inputs.photos.iterdir())[:20]}
    for path in original_bytes:
        path.write_bytes(b"rotten")
    with pytest.raises(ValueError, match="maximum_left_out"):
        inputs.ingest()
    for path, data in original_bytes.items():
        path.write_bytes(data)
    inputs.ingest()
    assert inputs.record["left_out"] == []


def test_an_interrupted_ingestion_resumes_without_inspecting_photos_again(inputs, ingested, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(tfds_writer, "write", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            inputs.ingest()
    monkeypatch.setattr(parallel_map, "on_processes", fail)  # no photo is inspected again
    inputs.ingest()
    assert same_files(inputs.dataset, ingested.dataset)


@pytest.mark.parametrize("rated", [True, False])
def test_an_interrupted_ingestion_inspects_a_replaced_photo_again(inputs, monkeypatch, rated):
    def fail(*arguments, **options):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(tfds_writer, "write", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            inputs.ingest()
    path = min((inputs.photos if rated else inputs.unlabelled).iterdir())
    path.write_bytes(jpeg(picture(4000)))
    expected = photo_inspection.inspect_photo(path.name, path.read_bytes(), SETTINGS).data
    inputs.ingest()
    assert expected in {
        record["photo"] for record in scorer_photos.records(inputs.dataset, "train+validation+test+unlabelled")
    }


def test_an_attribute_with_a_reserved_column_name_is_skipped_with_a_note(inputs):
    ids = [path.name for path in sorted(inputs.photos.iterdir())]
    columns = dict.fromkeys(sorted(RESERVED_COLUMNS - {"group"}), "1")
    pd.DataFrame({"photo": ids, "job": "carer", **columns}).to_csv(inputs.folder / "attributes.csv", index=False)
    inputs.ingest(attributes=str(inputs.folder / "attributes.csv"))
    table = scorer_photos.table(inputs.dataset, "train+validation+test")
    assert sorted(table["photo_id"]) == ids
    assert (table["raters"] == 5).all()
    assert inputs.record["attributes"] == ["job"]
    for name in columns:
        assert any(f"The column '{name}' has the name of a column that each" in note for note in inputs.record["notes"])


def test_the_reserved_column_names_are_the_columns_of_the_table(tmp_path):
    face = {"count": 1, "confidence": 0.9, "box": np.zeros(4, "float32"), "landmarks": np.zeros((5, 2), "float32")}
    (tmp_path / "faces").mkdir()
    storage.write_json(str(tmp_path / "faces" / "faces.json"), {"size": 0})
    tfds_writer.write(tmp_path / "dataset", {"train": [[example(1, face=face)]]}, face_weights=tmp_path / "faces")
    assert set(scorer_photos.table(tmp_path / "dataset", "train")) == RESERVED_COLUMNS


def test_old_photos_keep_their_split_when_photos_are_added(inputs):
    inputs.ingest("first")
    before = inputs.splits()
    test_photo = next(photo for photo, split in before.items() if split == "test")
    added = {f"new {n}.jpg": jpeg(picture(2000 + n)) for n in range(10)}
    added["twin.jpg"] = jpeg(picture(int(test_photo[:2])), quality=50)
    for name, data in added.items():
        (inputs.photos / name).write_bytes(data)
    rows = [(name, "rater 1", 5) for name in added]
    inputs.ratings = pd.concat([inputs.ratings, pd.DataFrame(rows, columns=inputs.ratings.columns)])
    inputs.ingest("second")
    after = inputs.splits()
    assert before.items() <= after.items()
    assert after["twin.jpg"] == "test"


def test_the_other_photos_keep_their_split_when_photos_are_deleted_replaced_or_renamed(inputs):
    inputs.ingest("first")
    before = inputs.splits()
    for number in range(3):
        (inputs.photos / f"{number:02}.jpg").unlink()
    (inputs.photos / "03.jpg").write_bytes(jpeg(picture(4000)))
    (inputs.photos / "04.jpg").rename(inputs.photos / "renamed.jpg")
    inputs.ratings["photo"] = inputs.ratings["photo"].replace("04.jpg", "renamed.jpg")
    inputs.ingest("second")
    after = inputs.splits()
    assert {photo: after[photo] for photo in after if photo not in ("03.jpg", "renamed.jpg")} == {
        photo: split for photo, split in before.items() if photo not in [f"{number:02}.jpg" for number in range(5)]
    }
    assert after["renamed.jpg"] == before["04.jpg"]
    assert "03.jpg" in after


def test_given_splits_groups_and_attributes_are_used(inputs):
    numbers = range(40)
    metadata = pd.DataFrame({"photo": [f"{number:02}.jpg" for number in numbers]})
    metadata["split"] = ["test" if number < 5 else "val" if number < 10 else "" for number in numbers]
    metadata["group"] = ["anna" if number >= 20 else "" for number in numbers]
    metadata["width"] = ["narrow" if number % 2 else "" for number in numbers]  # ingestion has a column of this name
    metadata.to_csv(inputs.folder / "about.csv", index=False)
    inputs.ingest(attributes=str(inputs.folder / "about.csv"))
    splits = inputs.splits()
    assert {splits[f"{number:02}.jpg"] for number in range(5)} == {"test"}
    assert {splits[f"{number:02}.jpg"] for number in range(5, 10)} == {"validation"}
    assert len({splits[f"{number:02}.jpg"] for number in range(20, 40)}) == 1
    records = [record for split in set(splits.values()) for record in scorer_photos.records(inputs.dataset, split)]
    assert {
        record["group"] for record in records if record["photo_id"] in {f"{number}.jpg" for number in range(20, 40)}
    } == {"anna"}
    assert all(
        record["attributes"]["width"] == ("narrow" if int(record["photo_id"][:2]) % 2 else "")
        for record in records
        if record["raters"]
    )
    assert "narrow" in inputs.report.read_text()


def test_validation_photos_are_drawn_if_only_training_and_test_photos_are_given(inputs):
    metadata = pd.DataFrame(
        {"photo": [f"{number:02}.jpg" for number in range(40)], "split": ["test"] * 10 + ["train"] * 30}
    )
    metadata.to_csv(inputs.folder / "about.csv", index=False)
    inputs.ingest(attributes=str(inputs.folder / "about.csv"))
    assert inputs.record["counts"]["test"] == 10
    assert 2 <= inputs.record["counts"]["validation"] <= 15
    assert any("no validation photos" in note for note in inputs.record["notes"])


def test_an_empty_split_stops_ingestion_with_the_counts_and_no_data_set(inputs):
    with pytest.raises(ValueError, match=r"got none for 'test' \(0 test, \d+ validation, \d+ train\): 40 photos in 40"):
        inputs.ingest(settings=replace(SETTINGS, test_share=0.0))
    assert not inputs.dataset.exists()
    assert not (inputs.folder / "workspace" / "splits.csv").exists()


def test_photos_without_ratings_are_used_if_their_folder_is_given_as_unlabelled(inputs):
    for number in range(30):
        (inputs.photos / f"unrated {number}.jpg").write_bytes(jpeg(picture(3000 + number)))
    inputs.ingest(unlabelled=str(inputs.photos))
    assert inputs.record["counts"]["unlabelled"] == 30
    assert inputs.record["left_out"] == []


def test_unlabelled_photos_are_optional_and_a_ratings_file_is_required(inputs, tmp_path):
    inputs.ingest(unlabelled="")
    assert "unlabelled" not in scorer_photos.counts(inputs.dataset)
    assert inputs.record["counts"]["unlabelled"] == 0
    with pytest.raises(ValueError, match="address of a ratings file for the photos in"):
        ingest.ingest(str(inputs.photos), "", "d", "r", workspace=RunPaths(str(tmp_path), "r"), settings=SETTINGS)


def test_the_fingerprint_does_not_depend_on_the_order_of_the_photos():
    votes = {f"p{score}": [0.5, 0.1] for score in range(1, 11)}
    rows = {"photo": ["a", "b"], "sha256": ["1", "2"], "split": "train", "group": ["g", "h"], "raters": [3, 4]}
    table = pd.DataFrame({**rows, **votes, "attributes": [{"x": "1", "y": "2"}, {"y": "2", "x": "1"}]})
    pool = PoolSummary(2, [])
    summary, reversed_summary = (
        IngestionSummary("counts", rows_of_order, ("x", "y"), pool, pool, None, [], SETTINGS)
        for rows_of_order in (table, table[::-1])
    )
    assert summary.fingerprint == reversed_summary.fingerprint


def test_rater_counts_are_reported_over_photos_with_a_known_number_of_raters():
    votes = {f"p{score}": 0.1 for score in range(1, 11)}
    rows = {"photo": ["a", "b", "c"], "sha256": "1", "split": "train", "group": "g", "raters": [3, 0, 5]}
    table = pd.DataFrame({**rows, **votes, "attributes": [{}] * 3})
    pool = PoolSummary(3, [])

    def reported(rows: pd.DataFrame) -> tuple:
        summary = IngestionSummary("means", rows.reset_index(drop=True), (), pool, pool, None, [], SETTINGS)
        return summary.to_record()["ratings"], summary.metrics().get("rated_raters_a_photo")

    known_counts = {"people": None, "groups": 1, "least_a_photo": 3, "most_a_photo": 5}
    assert reported(table) == ({**known_counts, "number": 8, "photos_without_number": 1}, 4)
    assert reported(table[1:2]) == ({"people": None, "groups": 1, "number": 0, "photos_without_number": 1}, None)


def test_the_fingerprint_of_a_data_set_depends_on_content_and_settings_and_not_on_order(inputs, ingested):
    inputs.ratings = inputs.ratings.sample(frac=1, random_state=1)
    assert inputs.ingest("shuffled")["fingerprint"] == ingested.found["fingerprint"]
    smaller_photos = replace(SETTINGS, shorter_side=64)
    assert inputs.ingest("smaller", smaller_photos)["fingerprint"] != ingested.found["fingerprint"]
    inputs.ratings["score"] = 11 - inputs.ratings["score"]
    assert inputs.ingest("other votes")["fingerprint"] != ingested.found["fingerprint"]


def test_real_portraits_are_ingested(portraits, tmp_path):
    data = portraits / "data" / "mebeauty"
    ratings = pd.read_csv(data / "ratings.csv")
    chosen = sorted(ratings["photo"].unique(), key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:200]
    for name in chosen:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "photos" / name, tmp_path / "photos" / name)
    ratings[ratings["photo"].isin(chosen)].to_csv(tmp_path / "ratings.csv", index=False)
    addresses = [str(tmp_path / name) for name in ("photos", "ratings.csv", "dataset", "report.html")]
    run_paths = RunPaths(str(tmp_path / "workspace"), "run")
    attributes = str(data / "photos.csv")
    metrics = ingest.ingest(*addresses, attributes=attributes, workspace=run_paths, settings=Ingestion())
    assert sum(scorer_photos.counts(tmp_path / "dataset").values()) == 200
    assert metrics["photos_left_out"] == 0
    assert 0.6 < metrics["raters_reliability"] < 1
    assert "caucasian" in (tmp_path / "report.html").read_text()
