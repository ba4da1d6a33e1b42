"""Faces in ingestion: each rated photo is analysed once; the record, report and fingerprint name the face weights."""

import json
import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.ingestion.photos import photo_inspection
from components.ingestion.ratings.ratings import VOTE_COLUMNS
from components.ingestion.summary import IngestionSummary, PoolSummary
from components.scorer import storage
from components.scorer.data import photos
from components.scorer.faces import analyzer, embedder, weight_files
from components.scorer.settings import Faces
from tests.builders import designed_faces
from tests.builders.ingestions import BEAM, SETTINGS, Inputs, jpeg, picture

pytestmark = pytest.mark.slow

PLACES = {0: (), 1: ((0.3, 0.3), (0.7, 0.7))}  # positions of faces by photo number; other photos have one face


class Faced(Inputs):
    """Rated and unlabelled photos with marked faces."""

    def __init__(self, folder, rated: int = 24):
        super().__init__(folder, rated, unlabelled=4)
        for number in range(rated):
            unmarked = jpeg(picture(number))
            marked = designed_faces.marked(unmarked, *PLACES.get(number, ((0.5, 0.5),)))
            (self.photos / f"{number:02}.jpg").write_bytes(marked)
        self.faces = Faces(**designed_faces.write(folder))

    def records(self) -> dict[str, dict]:
        return {
            record["photo_id"]: {**record, "split": split}
            for split in photos.counts(self.dataset)
            for record in photos.records(self.dataset, split)
        }


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> Faced:
    inputs = Faced(tmp_path_factory.mktemp("faced"))
    inputs.found = inputs.ingest(faces=inputs.faces)
    inputs.seen = inputs.records()
    return inputs


@pytest.fixture
def another(ingested, tmp_path) -> Faced:
    """Copy the photos to a folder that has no ingestion yet."""
    shutil.copytree(ingested.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("out", "workspace"))
    copy = object.__new__(Faced)
    copy.__dict__ = {**ingested.__dict__, "folder": tmp_path / "copy"}
    copy.photos, copy.unlabelled = copy.folder / "photos", copy.folder / "unlabelled"
    return copy


def test_each_rated_photo_is_stored_with_the_face_features_of_its_stored_pixels(ingested):
    face_analyzer = analyzer.FaceAnalyzer.load(ingested.dataset / embedder.FOLDER)
    for record in ingested.seen.values():
        if record["split"] != "unlabelled":
            expected = analyzer.to_features(face_analyzer.analyze(Image.open(BytesIO(record["photo"]))))
            assert record["face"]["count"] == expected["face"]["count"]
            for name in ("confidence", "box", "landmarks"):
                np.testing.assert_array_equal(record["face"][name], expected["face"][name])
            np.testing.assert_allclose(record["embedding"], expected["embedding"], atol=1e-5)


def test_photos_without_a_face_and_with_two_faces_are_kept_with_their_face_count(ingested):
    face_counts = {photo: int(record["face"]["count"]) for photo, record in ingested.seen.items()}
    assert {photo: count for photo, count in face_counts.items() if count != 1 and photo[0] != "u"} == {
        "00.jpg": 0, "01.jpg": 2
    }  # fmt: skip
    assert not ingested.seen["00.jpg"]["embedding"].any()


def test_unlabelled_photos_are_not_searched_for_faces(ingested):
    unlabelled = [record for record in ingested.seen.values() if record["split"] == "unlabelled"]
    assert len(unlabelled) == 4
    assert not any(record["face"]["count"] or record["embedding"].any() for record in unlabelled)


def test_the_record_and_the_metrics_count_faces_and_the_record_names_the_weights(ingested):
    faces_record = ingested.record["faces"]
    assert faces_record["photos"] == {"none": 1, "one": 22, "several": 1}
    assert (faces_record["preprocessing"], faces_record["side"], faces_record["size"]) == (
        "facenet",
        designed_faces.SIDE,
        designed_faces.SIZE,
    )
    assert faces_record["sha256"] == json.loads((ingested.dataset / "faces" / "faces.json").read_text())["sha256"]
    assert (ingested.found["photos_without_face"], ingested.found["photos_with_several_faces"]) == (1, 1)


def test_ingestion_leaves_only_the_data_set_and_the_report(ingested):
    assert sorted(path.name for path in (ingested.folder / "out").iterdir()) == ["dataset", "report.html"]


def test_the_report_counts_faces_and_shows_them_only_with_show_photos(ingested, another):
    page = ingested.report.read_text()
    assert "says 12 numbers of it" in page
    assert "data:image/jpeg" not in page
    another.ingest(faces=another.faces, show_photos=True)
    page_with_photos = another.report.read_text()
    assert page_with_photos.count("data:image/jpeg") == 12 + 1 + 12
    assert "The largest face where there are several" in page_with_photos


def test_the_fingerprint_depends_on_the_face_weights_and_the_face_settings(ingested, another):
    other_embedder = another.folder / "other.onnx"
    other_embedder.write_bytes(designed_faces.embedder(seed=1))
    row = {"photo": "a", "sha256": "b", "split": "train", "group": "c", "raters": 1, "attributes": {}}
    table = pd.DataFrame([row | dict.fromkeys(VOTE_COLUMNS, 0.1)])
    without_faces = IngestionSummary("means", table, (), PoolSummary(1, []), PoolSummary(0, []), None, [], SETTINGS)
    fingerprints = {without_faces.fingerprint}
    changes = [
        {},
        {"face_embedder": str(other_embedder)},
        {"face_scales": (0.9,)},
        {"face_mirror": False},
        {"face_embedder": ""},
    ]
    for change in changes:
        face_weights = weight_files.prepare(replace(another.faces, **change), another.folder / "faces")
        fingerprints.add(replace(without_faces, face_weights=face_weights).fingerprint)
    assert len(fingerprints) == 1 + len(changes)


def test_beam_with_a_bucket_finds_the_same_faces_as_processes_with_a_disk(ingested, another, google):
    for name in ("face_detector", "face_embedder"):
        storage.write_bytes(f"gs://bucket/{name}.onnx", storage.read_bytes(getattr(another.faces, name)))
    faces = Faces("gs://bucket/face_detector.onnx", "", "gs://bucket/face_embedder.onnx")
    metrics = another.ingest(
        "beam", replace(SETTINGS, beam_options=BEAM), faces=faces, workspace="gs://bucket/workspace"
    )  # fmt: skip
    assert metrics == ingested.found
    for file in ingested.dataset.glob("*.tfrecord*"):
        assert (another.dataset / file.name).read_bytes() == file.read_bytes()
    assert not [name for name in google.data("bucket") if "embeddings" in name or "/faces/" in name]


def test_the_name_of_a_chunk_depends_on_the_face_weights(tmp_path):
    without_faces = photo_inspection.InspectionChunk((("a", "a.jpg"),), SETTINGS, "spool")
    names = {
        without_faces.name,
        replace(without_faces, face_weights="x/1").name,
        replace(without_faces, face_weights="x/2").name,
    }
    assert len(names) == 3
    assert replace(without_faces, face_weights="x/1").name == replace(without_faces, face_weights="elsewhere/1").name


def test_an_ingestion_without_face_weights_writes_nothing_about_faces(another):
    another.ingest("plain")
    assert "faces" not in another.record
    assert not (another.dataset / "faces").exists()
    assert "Faces were looked for" not in another.report.read_text()


def test_wrong_face_weights_are_refused_before_a_photo_is_read(another, monkeypatch):
    monkeypatch.setattr(photo_inspection, "inspect_photos", lambda *_, **__: pytest.fail("photos were read"))
    with pytest.raises(FileNotFoundError, match=r"face_embedder .*gone\.onnx: there is nothing at this address"):
        another.ingest(faces=replace(another.faces, face_embedder=str(another.folder / "gone.onnx")))
    with pytest.raises(ValueError, match="face_embedder needs face_detector"):
        another.ingest(faces=replace(another.faces, face_detector=""))
