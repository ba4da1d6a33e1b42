"""Faces in the data set: the features of its records, and the face views that training gets."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from components.ingestion import tfds_writer
from components.scorer.data import photos
from components.scorer.data.photos import FaceCropSpec, FaceFeatures
from components.scorer.faces import analyzer, embedder, geometry
from tests.builders import designed_faces
from tests.conftest import example

VIEW = FaceCropSpec(side=24, scale=0.5)


def faces_of(dataset, split="train") -> list[dict]:
    return list(photos.records(dataset, split))


def test_the_face_features_of_a_data_set_are_read_from_its_records(small_face_dataset, small_dataset):
    assert photos.face_features(small_face_dataset) == FaceFeatures(embedding=designed_faces.READ, face=True)
    assert photos.face_features(small_dataset) == FaceFeatures(embedding=0, face=False)


def test_a_data_set_made_with_a_detector_alone_has_no_embedding(tmp_path, small_faces):
    detector_folder = tmp_path / "faces"
    detector_folder.mkdir()
    (detector_folder / embedder.DETECTOR).write_bytes((small_faces / embedder.DETECTOR).read_bytes())
    (detector_folder / embedder.METADATA).write_text('{"sha256": {}}')
    records = [{**example(0), **analyzer.to_features(analyzer.no_faces(0))}]
    tfds_writer.write(tmp_path / "dataset", {"train": [records]}, ["side"], face_weights=detector_folder)
    assert photos.face_features(tmp_path / "dataset") == FaceFeatures(embedding=0, face=True)


def test_a_data_set_without_face_analysis_has_no_face_features_or_weights(small_dataset):
    feature_names = set(tfds.builder_from_directory(str(small_dataset)).info.features)
    assert feature_names == {"photo", "photo_id", "votes", "raters", "group", "attributes"}
    assert not (small_dataset / embedder.FOLDER).exists()


def test_the_weights_in_the_data_set_reproduce_the_face_analysis_of_its_records(small_face_dataset):
    face_analyzer = analyzer.FaceAnalyzer.load(small_face_dataset / embedder.FOLDER)
    for record in faces_of(small_face_dataset)[:9]:
        analysis = face_analyzer.analyze(Image.open(io.BytesIO(record["photo"])))
        np.testing.assert_array_equal(analysis.embedding, record["embedding"])
        np.testing.assert_array_equal(analysis.landmarks, record["face"]["landmarks"])
        assert len(analysis.faces) == record["face"]["count"]


def test_records_count_faces_and_hold_zeros_where_there_is_none(small_face_dataset):
    table = photos.table(small_face_dataset, "train")
    assert table["face_count"].value_counts().to_dict() == {1: 48, 0: 8, 2: 8}
    assert ((table["face_confidence"] > 0.7) == (table["face_count"] > 0)).all()
    for record in faces_of(small_face_dataset):
        assert record["embedding"].any() == record["face"]["landmarks"].any() == (record["face"]["count"] > 0)


def test_the_table_of_a_data_set_without_faces_has_no_face_columns(small_dataset):
    assert not [name for name in photos.table(small_dataset, "test") if name.startswith("face")]


def with_view(pixels, record):
    return pixels, record["face_pixels"], record["face"]["landmarks"], record["photo_id"]


def viewed(batches) -> dict[str, tuple]:
    """Return pixels, face view and landmarks of each photo by photo id."""
    parts_by_id = {}
    for batch in batches.as_numpy_iterator():
        parts_by_id |= {row[-1].decode(): row[:3] for row in zip(*batch, strict=True)}
    return parts_by_id


def test_a_face_view_is_cropped_from_the_decoded_photo(small_face_dataset):
    batches = photos.batches(small_face_dataset, "test", scale=40, crop=32, batch_size=16, view=VIEW, example=with_view)
    parts_by_id = viewed(batches)
    assert len(parts_by_id) == 40
    for record in faces_of(small_face_dataset, "test"):
        pixels = np.asarray(Image.open(io.BytesIO(record["photo"])))
        expected = geometry.crop(pixels, record["face"]["landmarks"], VIEW.side, VIEW.scale)
        np.testing.assert_array_equal(parts_by_id[record["photo_id"]][1], expected.astype("float32"))


def test_training_mirrors_the_face_view_together_with_its_photo(small_face_dataset):
    plain = viewed(photos.batches(
        small_face_dataset, "train", scale=32, crop=32, batch_size=64, view=VIEW, example=with_view
    ))  # fmt: skip
    augmented = viewed(photos.augmented_batches(
        small_face_dataset, "train", scale=32, crop=32, batch_size=64, seed=1, epoch=0, view=VIEW, example=with_view
    ))  # fmt: skip
    mirrored = 0
    for name, (photo, view, _) in augmented.items():
        flipped = not np.array_equal(photo, plain[name][0])
        mirrored += flipped
        step = -1 if flipped else 1
        np.testing.assert_array_equal(photo, plain[name][0][:, ::step])
        np.testing.assert_array_equal(view, plain[name][1][:, ::step])
    assert 16 < mirrored < 48


def test_camera_faults_degrade_the_face_view_as_they_degrade_its_photo(small_face_dataset):
    options = {"scale": 32, "crop": 32, "batch_size": 64, "seed": 1, "epoch": 0, "view": VIEW, "example": with_view}
    clean = viewed(photos.augmented_batches(small_face_dataset, "train", **options))
    degraded = viewed(photos.augmented_batches(small_face_dataset, "train", **options, camera_faults=1.0))
    changes = [[np.mean(degraded[name][part]) - np.mean(clean[name][part]) for part in (0, 1)] for name in clean]
    photo, view = np.transpose(changes)
    assert np.count_nonzero(np.abs(photo) > 5) > 20  # half of the photos get another exposure
    assert np.corrcoef(photo, view)[0, 1] > 0.95
    assert all(np.array_equal(degraded[name][0], clean[name][0]) == np.array_equal(degraded[name][1], clean[name][1])
               for name in clean)  # fmt: skip


@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_without_a_face_the_face_view_is_the_center_crop_of_the_photo(size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    center_crop = Image.fromarray(pixels).crop(
        ((size[0] - 48) / 2, (size[1] - 48) / 2, (size[0] + 48) / 2, (size[1] + 48) / 2)
    )
    np.testing.assert_array_equal(geometry.crop(pixels, np.zeros((5, 2)), 48, 0.5), np.asarray(center_crop))
