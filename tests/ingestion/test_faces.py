"""Faces in an ingestion: found and read once, stored with what found them, told in the report and the fingerprint."""

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

PLACES = {0: (), 1: ((0.3, 0.3), (0.7, 0.7))}  # of faces, by the photo's number; the others have one in the middle


class Faced(Inputs):
    """Photos with marked faces, rated and not."""

    def __init__(self, folder, rated: int = 24):
        super().__init__(folder, rated, unlabelled=4)
        for number in range(rated):
            plain = jpeg(picture(number))
            marked = designed_faces.marked(plain, *PLACES.get(number, ((0.5, 0.5),)))
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
    """The same photos, to be ingested elsewhere."""
    shutil.copytree(ingested.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("out", "workspace"))
    copy = object.__new__(Faced)
    copy.__dict__ = {**ingested.__dict__, "folder": tmp_path / "copy"}
    copy.photos, copy.unlabelled = copy.folder / "photos", copy.folder / "unlabelled"
    return copy


def test_each_rated_photo_has_what_the_data_sets_own_weights_see_on_it_as_it_is_stored(ingested):
    reader = analyzer.FaceAnalyzer.load(ingested.dataset / embedder.FOLDER)
    for record in ingested.seen.values():
        if record["split"] != "unlabelled":
            expected = analyzer.to_features(reader.analyze(Image.open(BytesIO(record["photo"]))))
            assert record["face"]["count"] == expected["face"]["count"]
            for name in ("confidence", "box", "landmarks"):
                np.testing.assert_array_equal(record["face"][name], expected["face"][name])
            np.testing.assert_allclose(record["embedding"], expected["embedding"], atol=1e-5)


def test_no_face_and_several_are_data(ingested):
    found = {photo: int(record["face"]["count"]) for photo, record in ingested.seen.items()}
    assert {photo: count for photo, count in found.items() if count != 1 and photo[0] != "u"} == {
        "00.jpg": 0, "01.jpg": 2
    }  # fmt: skip
    assert not ingested.seen["00.jpg"]["embedding"].any()


def test_unlabelled_photos_are_not_searched(ingested):
    unlabelled = [record for record in ingested.seen.values() if record["split"] == "unlabelled"]
    assert len(unlabelled) == 4
    assert not any(record["face"]["count"] or record["embedding"].any() for record in unlabelled)


def test_the_record_and_the_metrics_count_them_and_the_record_names_what_found_them(ingested):
    told = ingested.record["faces"]
    assert told["photos"] == {"none": 1, "one": 22, "several": 1}
    assert (told["preprocessing"], told["side"], told["size"]) == ("facenet", designed_faces.SIDE, designed_faces.SIZE)
    assert told["sha256"] == json.loads((ingested.dataset / "faces" / "faces.json").read_text())["sha256"]
    assert (ingested.found["photos_without_face"], ingested.found["photos_with_several_faces"]) == (1, 1)


def test_nothing_of_the_work_is_left_behind(ingested):
    assert sorted(path.name for path in (ingested.folder / "out").iterdir()) == ["dataset", "report.html"]


def test_the_report_counts_faces_and_shows_none_unless_it_is_to(ingested, another):
    page = ingested.report.read_text()
    assert "says 12 numbers of it" in page
    assert "data:image/jpeg" not in page
    another.ingest(faces=another.faces, show_photos=True)
    shown = another.report.read_text()
    assert shown.count("data:image/jpeg") == 12 + 1 + 12
    assert "The largest face where there are several" in shown


def test_the_fingerprint_tells_the_weights_and_the_settings_apart(ingested, another):
    other = another.folder / "other.onnx"
    other.write_bytes(designed_faces.embedder(seed=1))
    row = {"photo": "a", "sha256": "b", "split": "train", "group": "c", "raters": 1, "attributes": {}}
    table = pd.DataFrame([row | dict.fromkeys(VOTE_COLUMNS, 0.1)])
    plain = IngestionSummary("means", table, (), PoolSummary(1, []), PoolSummary(0, []), None, [], SETTINGS)
    fingerprints = {plain.fingerprint}
    changes = [
        {},
        {"face_embedder": str(other)},
        {"face_scales": (0.9,)},
        {"face_mirror": False},
        {"face_embedder": ""},
    ]
    for change in changes:
        about = weight_files.prepare(replace(another.faces, **change), another.folder / "faces")
        fingerprints.add(replace(plain, face_weights=about).fingerprint)
    assert len(fingerprints) == 1 + len(changes)


def test_beam_with_everything_in_a_bucket_sees_the_same_faces_as_processes_with_it_on_disk(ingested, another, google):
    for name in ("face_detector", "face_embedder"):
        storage.write_bytes(f"gs://bucket/{name}.onnx", storage.read_bytes(getattr(another.faces, name)))
    faces = Faces("gs://bucket/face_detector.onnx", "", "gs://bucket/face_embedder.onnx")
    found = another.ingest(
        "beam", replace(SETTINGS, beam_options=BEAM), faces=faces, workspace="gs://bucket/workspace"
    )  # fmt: skip
    assert found == ingested.found
    for file in ingested.dataset.glob("*.tfrecord*"):
        assert (another.dataset / file.name).read_bytes() == file.read_bytes()
    assert not [name for name in google.data("bucket") if "embeddings" in name or "/faces/" in name]


def test_a_chunk_is_known_by_what_looks_for_faces(tmp_path):
    plain = photo_inspection.InspectionChunk((("a", "a.jpg"),), SETTINGS, "spool")
    names = {plain.name, replace(plain, face_weights="x/1").name, replace(plain, face_weights="x/2").name}
    assert len(names) == 3
    assert replace(plain, face_weights="x/1").name == replace(plain, face_weights="elsewhere/1").name


def test_an_ingestion_without_faces_writes_nothing_of_them(another):
    another.ingest("plain")
    assert "faces" not in another.record
    assert not (another.dataset / "faces").exists()
    assert "Faces were looked for" not in another.report.read_text()


def test_what_is_wrong_with_the_weights_is_said_before_a_photo_is_read(another, monkeypatch):
    monkeypatch.setattr(photo_inspection, "inspect_photos", lambda *_, **__: pytest.fail("photos were read"))
    with pytest.raises(FileNotFoundError, match=r"face_embedder .*gone\.onnx: there is nothing at this address"):
        another.ingest(faces=replace(another.faces, face_embedder=str(another.folder / "gone.onnx")))
    with pytest.raises(ValueError, match="face_embedder needs face_detector"):
        another.ingest(faces=replace(another.faces, face_detector=""))
