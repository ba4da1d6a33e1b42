"""Networks of the package deepface, built and loaded by its own code with random weights in its folder."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from components.scorer.faces import deepface, weight_files
from components.scorer.faces.analyzer import FaceAnalyzer
from components.scorer.run import preflight
from components.scorer.settings import Faces
from tests.builders import designed_faces

pytestmark = pytest.mark.slow

needed = pytest.mark.skipif(importlib.util.find_spec("deepface") is None, reason=f"needs deepface: {deepface.INSTALL}")
SMALL, SIDE, SIZE = "OpenFace", 96, 128  # 3.7 million weights; VGG-Face has 145


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return deepface's home folder with random weights of its smallest network, in the legacy Keras HDF5 format."""
    from deepface.commons import weight_utils
    from deepface.models.facial_recognition.tf import OpenFace
    from keras.src.legacy.saving import legacy_h5_format

    home = tmp_path_factory.mktemp("home")
    (home / ".deepface" / "weights").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_utils, "download_weights_if_necessary", lambda **_: "")
        patch.setattr(weight_utils, "load_model_weights", lambda model, weight_file: model)
        network = OpenFace.load_model()
    with h5py.File(home / ".deepface" / "weights" / "openface_weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    return home


@pytest.fixture
def faces(folder, tmp_path, monkeypatch) -> Faces:
    monkeypatch.setenv("DEEPFACE_HOME", str(folder))
    files = designed_faces.write(tmp_path)
    return Faces(face_detector=files["face_detector"], face_embedder=f"deepface:{SMALL}", face_preprocessing="tf")


@needed
def test_a_deepface_network_embeds_faces_with_the_weights_in_its_folder(faces, tmp_path):
    metadata = weight_files.prepare(faces, tmp_path / "faces")
    network = deepface.build(SMALL)
    assert (metadata["side"], metadata["size"], metadata["kind"]) == (SIDE, SIZE, "litert")
    assert metadata["sha256"]["embedder"] == deepface.digest(network)
    crops = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    pixels = np.concatenate([crops, crops[:, :, ::-1]]).astype("float32") / 127.5 - 1
    expected = np.asarray(network(pixels, training=False)).reshape(2, 2, SIZE).mean(0)
    np.testing.assert_allclose(FaceAnalyzer.load(tmp_path / "faces").embedder.embed(crops), expected, atol=5e-3)


@needed
def test_weights_with_another_digest_are_refused(faces, tmp_path):
    with pytest.raises(ValueError, match=r"face_embedder deepface:OpenFace: expected weights whose SHA-256 is"):
        weight_files.prepare(replace(faces, face_embedder_sha256="0" * 64), tmp_path / "faces")


@needed
def test_an_unknown_deepface_network_is_refused_with_the_known_names(faces):
    with pytest.raises(ValueError, match=r"expected deepface: and one of ArcFace, .*VGG-Face, got 'VGGFace'"):
        preflight.run_checks({"face_detector": faces.face_detector, "face_embedder": "deepface:VGGFace"})


@needed
def test_a_deepface_network_with_oblong_input_is_refused(faces, tmp_path, monkeypatch):
    import keras

    pixels = keras.Input((55, 47, 3))
    oblong = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    monkeypatch.setattr(deepface, "build", lambda name: oblong)
    with pytest.raises(ValueError, match=r"expected a network of square RGB pictures.*got one of \[\?, 55, 47, 3\]"):
        weight_files.prepare(faces, tmp_path / "faces")


def test_the_error_for_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"face_embedder deepface:VGG-Face: .*pip install --no-deps deepface=="):
        preflight.run_checks({"face_embedder": "deepface:VGG-Face"})
