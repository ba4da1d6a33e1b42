"""Faces in the data set: what its records carry, and how training is given a view of them."""

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


def test_records_say_what_they_carry(small_face_dataset, small_dataset):
    assert photos.face_features(small_face_dataset) == FaceFeatures(embedding=designed_faces.READ, face=True)
    assert photos.face_features(small_dataset) == FaceFeatures(embedding=0, face=False)


def test_a_data_set_whose_faces_are_not_read_has_no_embedding(tmp_path, small_faces):
    only = tmp_path / "faces"
    only.mkdir()
    (only / embedder.DETECTOR).write_bytes((small_faces / embedder.DETECTOR).read_bytes())
    (only / embedder.METADATA).write_text('{"sha256": {}}')
    found = [{**example(0), **analyzer.to_features(analyzer.no_faces(0))}]
    tfds_writer.write(tmp_path / "dataset", {"train": [found]}, ["side"], face_weights=only)
    assert photos.face_features(tmp_path / "dataset") == FaceFeatures(embedding=0, face=True)


def test_a_data_set_without_faces_has_the_bytes_that_it_had_before_there_were_any(small_dataset):
    known = set(tfds.builder_from_directory(str(small_dataset)).info.features)
    assert known == {"photo", "photo_id", "votes", "raters", "group", "attributes"}
    assert not (small_dataset / embedder.FOLDER).exists()


def test_the_weights_lie_with_the_data_set_and_read_its_photos_as_its_records_say(small_face_dataset):
    reader = analyzer.FaceAnalyzer.load(small_face_dataset / embedder.FOLDER)
    for record in faces_of(small_face_dataset)[:9]:
        seen = reader.analyze(Image.open(io.BytesIO(record["photo"])))
        np.testing.assert_array_equal(seen.embedding, record["embedding"])
        np.testing.assert_array_equal(seen.landmarks, record["face"]["landmarks"])
        assert len(seen.faces) == record["face"]["count"]


def test_no_face_is_zeros_and_several_are_counted(small_face_dataset):
    table = photos.table(small_face_dataset, "train")
    assert table["face_count"].value_counts().to_dict() == {1: 48, 0: 8, 2: 8}
    assert ((table["face_confidence"] > 0.7) == (table["face_count"] > 0)).all()
    for record in faces_of(small_face_dataset):
        assert record["embedding"].any() == record["face"]["landmarks"].any() == (record["face"]["count"] > 0)


def test_a_table_of_a_data_set_without_faces_has_no_column_for_them(small_dataset):
    assert not [name for name in photos.table(small_dataset, "test") if name.startswith("face")]


def with_view(pixels, record):
    return pixels, record["face_pixels"], record["face"]["landmarks"], record["photo_id"]


def viewed(batches) -> dict[str, tuple]:
    """Pixels, view and landmarks of each photo, by its id."""
    found = {}
    for batch in batches.as_numpy_iterator():
        found |= {one[-1].decode(): one[:3] for one in zip(*batch, strict=True)}
    return found


def test_a_view_is_the_crop_of_the_face_from_the_decoded_photo(small_face_dataset):
    read = photos.batches(small_face_dataset, "test", scale=40, crop=32, batch_size=16, view=VIEW, example=with_view)
    found = viewed(read)
    assert len(found) == 40
    for record in faces_of(small_face_dataset, "test"):
        pixels = np.asarray(Image.open(io.BytesIO(record["photo"])))
        expected = geometry.crop(pixels, record["face"]["landmarks"], VIEW.side, VIEW.scale)
        np.testing.assert_array_equal(found[record["photo_id"]][1], expected.astype("float32"))


def test_training_mirrors_a_view_with_its_photo(small_face_dataset):
    plain = viewed(photos.batches(
        small_face_dataset, "train", scale=32, crop=32, batch_size=64, view=VIEW, example=with_view
    ))  # fmt: skip
    drawn = viewed(photos.augmented_batches(
        small_face_dataset, "train", scale=32, crop=32, batch_size=64, seed=1, epoch=0, view=VIEW, example=with_view
    ))  # fmt: skip
    mirrored = 0
    for name, (photo, view, _) in drawn.items():
        flipped = not np.array_equal(photo, plain[name][0])
        mirrored += flipped
        step = -1 if flipped else 1
        np.testing.assert_array_equal(photo, plain[name][0][:, ::step])
        np.testing.assert_array_equal(view, plain[name][1][:, ::step])
    assert 16 < mirrored < 48


def test_training_spoils_a_view_as_it_spoils_its_photo(small_face_dataset):
    given = {"scale": 32, "crop": 32, "batch_size": 64, "seed": 1, "epoch": 0, "view": VIEW, "example": with_view}
    sound = viewed(photos.augmented_batches(small_face_dataset, "train", **given))
    spoilt = viewed(photos.augmented_batches(small_face_dataset, "train", **given, camera_faults=1.0))
    changes = [[np.mean(spoilt[name][part]) - np.mean(sound[name][part]) for part in (0, 1)] for name in sound]
    photo, view = np.transpose(changes)
    assert np.count_nonzero(np.abs(photo) > 5) > 20  # half are exposed otherwise
    assert np.corrcoef(photo, view)[0, 1] > 0.95
    assert all(np.array_equal(spoilt[name][0], sound[name][0]) == np.array_equal(spoilt[name][1], sound[name][1])
               for name in sound)  # fmt: skip


@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_without_a_face_the_view_is_the_middle_of_the_photo(size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    middle = Image.fromarray(pixels).crop(
        ((size[0] - 48) / 2, (size[1] - 48) / 2, (size[0] + 48) / 2, (size[1] + 48) / 2)
    )
    np.testing.assert_array_equal(geometry.crop(pixels, np.zeros((5, 2)), 48, 0.5), np.asarray(middle))
