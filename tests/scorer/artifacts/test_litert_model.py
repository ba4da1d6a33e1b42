"""The LiteRT network of a version: predictions equal those of its SavedModel, without TensorFlow."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.scorer import storage
from components.scorer.artifacts import bundle, litert_model, saved_model, warmup
from components.scorer.faces import embedder
from components.scorer.imaging import preprocessing_tf
from components.scorer.imaging.decoding import UnusablePhotoError
from components.scorer.model import serving_outputs
from components.scorer.registry import integrity
from components.scorer.upload_norms import policy
from tests.builders.pushes import bundle_of, tiny
from tests.conftest import drawn_photo


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a version of a network whose predictions differ from photo to photo."""
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("models") / "portraits" / "3"
    scorer = bundle.load(bundle_of(tiny(4), tmp_path_factory.mktemp("scorer")))
    saved_model.export(scorer, folder, "portraits")
    saved_model.export_litert(scorer, folder, "portraits", error=0.7, ingestion={"shorter_side": 64, "seed": 1})
    integrity.write_record(folder, {})
    return folder


@pytest.fixture(scope="module")
def loaded(version: Path) -> litert_model.LiteRTScorer:
    return litert_model.load(str(version))


def encoded(width: int, height: int, seed: int, kind: str = "JPEG") -> bytes:
    """Return a photo of random patches. Its many edges show any difference in decoding or scaling."""
    patches = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), "uint8")
    data = io.BytesIO()
    Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC).save(data, kind)
    return data.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), st.integers(32, 256), st.integers(0, 1000))
def test_preprocessing_gives_the_pixels_of_the_tensorflow_preprocessing(width, height, scale, seed):
    photo, crop = encoded(width, height, seed), scale - scale // 8
    expected = preprocessing_tf.preprocess_photos([photo], scale, crop)[0]
    np.testing.assert_allclose(litert_model.pixels(photo, scale, crop), expected, atol=0.01)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_every_format_that_tensorflow_decodes_gives_the_same_pixels(kind):
    photo = encoded(90, 120, 1, kind)
    np.testing.assert_allclose(
        litert_model.pixels(photo, 64, 56), preprocessing_tf.preprocess_photos([photo], 64, 56)[0], atol=0.01
    )


def test_an_opened_photo_gives_the_pixels_of_its_bytes():
    photo = encoded(90, 120, 1)
    np.testing.assert_array_equal(
        litert_model.pixels(Image.open(io.BytesIO(photo)), 64, 56), litert_model.pixels(photo, 64, 56)
    )


def test_the_litert_network_predicts_as_the_saved_model_does(version, loaded):
    photos = [drawn_photo(brightness, seed) for seed, brightness in enumerate(np.linspace(0.1, 0.9, 9))]
    expected = saved_model.load(str(version)).predict([*photos, *warmup.photos()])
    predicted = loaded.predict(np.stack([loaded.pixels(photo) for photo in [*photos, *warmup.photos()]]))
    for name, values in expected.items():
        np.testing.assert_allclose(predicted[name], values, atol=saved_model.TOLERANCE)
    assert np.ptp(expected["mean"]) > 50 * saved_model.TOLERANCE


def test_the_maps_of_the_litert_network_equal_those_of_the_saved_model(version, loaded):
    photos = [drawn_photo(0.3, 1), drawn_photo(0.7, 2)]
    expected = saved_model.load(str(version)).explain(photos)
    maps = loaded.predict(np.stack([loaded.pixels(photo) for photo in photos]))
    for name in ("heatmap", "gains"):
        np.testing.assert_allclose(maps[name], expected[name], atol=saved_model.TOLERANCE)


def test_a_photo_gets_the_same_prediction_in_any_batch(loaded):
    pixels = np.stack([loaded.pixels(drawn_photo(0.2 + 0.1 * seed, seed)) for seed in range(5)])
    together = loaded.predict(pixels)["distribution"]
    alone = np.concatenate([loaded.predict(photo_pixels[None])["distribution"] for photo_pixels in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_loaded_version_has_the_exported_metadata(loaded):
    assert (loaded.name, loaded.version, loaded.error, loaded.settings.shorter_side) == ("portraits", 3, 0.7, 64)


def test_a_loaded_version_normalises_photos_as_ingestion_did(loaded):
    landscape = Image.open(io.BytesIO(encoded(200, 100, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    landscape.save(data, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(loaded.normalise(data.getvalue()))).size == (64, 128)


def test_bytes_without_a_photo_are_refused(loaded):
    with pytest.raises(UnusablePhotoError, match="expected JPEG"):
        loaded.normalise(b"no photo")


@pytest.mark.parametrize("shape", [(32, 32, 3), (0, 32, 32, 3), (1, 31, 32, 3)])
def test_pixels_of_another_shape_are_refused(loaded, shape):
    with pytest.raises(ValueError, match=r"expected photos \[n, 32, 32, 3\], at least one, got"):
        loaded.predict(np.zeros(shape, "float32"))


def test_a_network_without_global_average_pooling_is_exported_without_maps(tmp_path, version, monkeypatch):
    monkeypatch.setattr(serving_outputs, "is_pooled", lambda model: False)
    scorer = bundle.load(bundle_of(tiny(4), tmp_path / "scorer"))
    saved_model.export_litert(scorer, tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").touch()
    integrity.write_record(tmp_path / "1", {})
    assert set(litert_model.load(str(tmp_path / "1")).predict(np.zeros((1, 32, 32, 3)))) == {
        "mean",
        "std",
        "distribution",
    }


def test_an_incomplete_version_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a published version at .*, found no saved_model.pb"):
        litert_model.load(str(tmp_path))


def test_a_version_without_a_litert_network_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(FileNotFoundError, match="publish its scorer again"):
        litert_model.load(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (litert_model.NETWORK_FILE, b"no network"),
        (litert_model.METADATA_FILE, b'{"name": "portraits"}'),
        (litert_model.METADATA_FILE, b"[]"),
        (litert_model.NORMS_FILE, b"{}"),
    ],
)
def test_a_version_with_a_broken_file_is_refused(tmp_path, version, file, content):
    storage.download_tree(str(version), str(tmp_path))
    (tmp_path / litert_model.FOLDER / file).write_bytes(content)
    integrity.write_record(tmp_path, {})
    with pytest.raises(ValueError, match="expected a portable network at"):
        litert_model.load(str(tmp_path))


def test_a_version_with_a_broken_face_detector_is_refused(tmp_path, version):
    storage.download_tree(str(version), str(tmp_path))
    faces = tmp_path / litert_model.FOLDER / embedder.FOLDER
    faces.mkdir()
    (faces / embedder.DETECTOR).write_bytes(b"none")
    (faces / embedder.METADATA).write_text('{"sha256": {}}')
    integrity.write_record(tmp_path, {})
    with pytest.raises(ValueError, match="expected a portable network at"):
        litert_model.load(str(tmp_path))


def test_a_version_without_norms_has_the_built_in_norms_and_no_face_detector(loaded):
    assert (loaded.norms, loaded.detector) == (policy.load(), None)


def test_a_loaded_version_has_its_own_norms_and_face_detector(tmp_path, version, portraits):
    storage.download_tree(str(version), str(tmp_path))
    rules = {"norms": json.loads(policy.BUILT_IN_POLICY.read_text())["norms"][:1]}
    (tmp_path / litert_model.FOLDER / litert_model.NORMS_FILE).write_text(json.dumps(rules))
    faces = tmp_path / litert_model.FOLDER / embedder.FOLDER
    faces.mkdir()
    shutil.copy(portraits / "weights" / "yunet_n_640_640.onnx", faces / embedder.DETECTOR)
    (faces / embedder.METADATA).write_text('{"sha256": {}}')
    integrity.write_record(tmp_path, {})
    loaded = litert_model.load(str(tmp_path))
    assert [norm.key for norm in loaded.norms.norms] == ["no_face"]
    assert loaded.detector.find(Image.new("RGB", (64, 64))) == []


def test_loading_a_version_does_not_import_tensorflow(version):
    code = f"""
import sys, json
from components.scorer.artifacts import litert_model
loaded = litert_model.load({str(version)!r})
heavy = {{"tensorflow", "keras", "matplotlib", "pandas", "scipy", "tensorflow_datasets"}}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(process.stdout.splitlines()[-1]) == []


def test_loading_hides_the_log_of_litert_and_keeps_other_output_on_stderr(version):
    code = f"""
import os
from components.scorer import litert
from components.scorer.artifacts import litert_model
taken = litert.Interpreter
def interpreter(**options):
    os.write(2, b"of another thread\\n")
    return taken(**options)
litert.Interpreter = interpreter
litert_model.load({str(version)!r})
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr == "of another thread\n"


def test_tensorflow_decodes_jpeg_as_pillow_does():
    photo = encoded(160, 120, 3)
    np.testing.assert_array_equal(
        preprocessing_tf.decode(tf.constant(photo)), np.asarray(Image.open(io.BytesIO(photo)))
    )
