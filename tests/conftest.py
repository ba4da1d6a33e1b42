"""Fixtures that several rooms' tests share: drawn photos, a small data set and scorer, cloud stores, the real data."""

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from PIL import Image

if TYPE_CHECKING:
    from tests.fakes import gcs, s3

# Tests have no deadline for an example, as a busy machine is slow.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")

SMALL = {"backbone": "MobileNet", "backbone_options": {"alpha": 0.25}, "crop": 32}
"""Pretraining settings of the smallest network that tests use."""


def drawn_photo(brightness: float, seed: int = 0, size: tuple[int, int] = (48, 64)) -> bytes:
    """Return a JPEG of a coloured gradient with noise; ``brightness`` 0..1 sets its mean."""
    rng = np.random.default_rng(seed)
    width, height = size
    slope = np.linspace(-0.2, 0.2, width)[None, :, None] * rng.uniform(0.3, 1, 3)
    pixels = np.clip(brightness + slope + rng.normal(0, 0.02, (height, width, 3)), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).astype("uint8")).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def large_photo() -> bytes:
    """Return a JPEG of noise, four megabytes."""
    buffer = io.BytesIO()
    Image.effect_noise((2200, 1600), 100).convert("RGB").save(buffer, "JPEG", quality=97)
    return buffer.getvalue()


def votes_around(mean: float) -> np.ndarray:
    """Return ten votes, summing to 1, of raters who agree within about one point."""
    votes = np.exp(-((np.arange(1, 11) - mean) ** 2) / 2)
    return (votes / votes.sum()).astype("float32")


def example(number: int, rated: bool = True) -> dict:
    """Return a record of the data set whose score is its brightness, which the smallest network can learn."""
    brightness = float(np.random.default_rng(number).uniform(0.1, 0.9))
    return {
        "photo": drawn_photo(brightness, number),
        "photo_id": f"{number:04d}.jpg",
        "votes": votes_around(1 + 9 * brightness) if rated else np.zeros(10, "float32"),
        "raters": 12 if rated else 0,
        "group": f"group-{number}",
        "attributes": {"side": "left" if number % 2 else "right"},
    }


def light_encoder(folder: Path) -> Path:
    """Write an encoder of photos of 32 pixels to a folder; its features are light, dark and middling pixels."""
    import keras

    from components.scorer.artifacts import bundle
    from components.scorer.parameters import from_parameters
    from components.scorer.settings import Pretraining

    pixels = keras.Input((32, 32, 3), name="pixels")
    grey = keras.layers.AveragePooling2D(8, name="coarse")(keras.layers.Conv2D(3, 1, name="grey")(pixels))
    network = keras.Model(pixels, keras.layers.ReLU(name="rectified")(grey), name="encoder")
    network.get_layer("grey").set_weights([np.full((1, 1, 3, 3), 1 / 127.5 / 3) * [1, -1, 1], np.array([0, 2.0, -1])])
    bundle.save_encoder(network, from_parameters(Pretraining, start="none", crop=32), folder)
    return folder


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return pytest's folder, or a short one for tests of the server: the names of sockets have limited length."""
    if request.path.parent.name != "serving":
        yield tmp_path
        return
    with TemporaryDirectory(prefix="scorer", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory) -> Path:
    """Write a TFDS directory: 64 train, 24 validation, 40 test and 32 unlabelled records."""
    from components.ingestion import tfds_writer

    folder = tmp_path_factory.mktemp("small") / "dataset"
    numbers = iter(range(1000))
    sizes = {"train": 64, "validation": 24, "test": 40, "unlabelled": 32}
    splits = {name: [[example(next(numbers), name != "unlabelled") for _ in range(n)]] for name, n in sizes.items()}
    tfds_writer.write(folder, splits, ["side"])
    return folder


@pytest.fixture(scope="session")
def small_faces(tmp_path_factory) -> Path:
    """Write a folder of face weights that find drawn faces and embed them; see ``designed_faces``."""
    from components.scorer.faces import weight_files
    from components.scorer.settings import Faces
    from tests.builders import designed_faces

    folder = tmp_path_factory.mktemp("faces")
    weight_files.prepare(Faces(**designed_faces.write(folder)), folder / "faces")
    return folder / "faces"


@pytest.fixture(scope="session")
def small_face_dataset(tmp_path_factory, small_faces) -> Path:
    """Write ``small_dataset`` with faces: of eight photos one has none, one has two; unlabelled photos lack them."""
    import io

    from components.ingestion import tfds_writer
    from components.scorer.faces import analyzer
    from tests.builders import designed_faces

    reader = analyzer.FaceAnalyzer.load(small_faces)
    centres = [(), ((0.5, 0.3), (0.5, 0.8)), *[((0.5, 0.5),)] * 6]

    def faced(number: int, rated: bool) -> dict:
        faceless = example(number, rated)
        photo = designed_faces.marked(faceless["photo"], *centres[number % 8])
        analysis = reader.analyze(Image.open(io.BytesIO(photo))) if rated else analyzer.no_faces(reader.size)
        return {**faceless, "photo": photo, **analyzer.to_features(analysis)}

    folder = tmp_path_factory.mktemp("small-faces") / "dataset"
    numbers = iter(range(1000))
    sizes = {"train": 64, "validation": 24, "test": 40, "unlabelled": 32}
    splits = {name: [[faced(next(numbers), name != "unlabelled") for _ in range(size)]] for name, size in sizes.items()}
    tfds_writer.write(folder, splits, ["side"], face_weights=small_faces)
    return folder


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory) -> Path:
    """Save an encoder with random weights whose batch norms are calibrated on the photos, as after pretraining."""
    from components.scorer.artifacts import bundle
    from components.scorer.imaging import preprocessing_tf
    from components.scorer.model.encoder import build_encoder
    from components.scorer.model.surgery import calibrate_batch_norms
    from components.scorer.parameters import from_parameters
    from components.scorer.settings import Pretraining

    folder = tmp_path_factory.mktemp("encoder")
    # Declares a start from ImageNet: after own pretraining, every training would run the pretraining ablation.
    settings = from_parameters(Pretraining, start="imagenet", **SMALL)
    encoder = build_encoder(replace(settings, start="none"))
    calibrate_batch_norms(
        encoder, preprocessing_tf.preprocess_photos([example(number)["photo"] for number in range(64)], 40, 32)
    )
    bundle.save_encoder(encoder, settings, folder)
    return folder


@pytest.fixture(scope="session")
def small_scorer(tmp_path_factory, small_encoder) -> Path:
    """Save a scorer bundle that was never trained."""
    from components.scorer.artifacts import bundle
    from components.scorer.model.network import build_scorer
    from components.scorer.settings import Training

    folder = tmp_path_factory.mktemp("scorer")
    encoder, settings = bundle.load_encoder(small_encoder)
    model = build_scorer(encoder, dropout=0.5)
    bundle.TrainedScorer(model, settings, Training(scale=40), "data", "revision", {"loss": [0.1]}).save(folder)
    return folder


@pytest.fixture(scope="session")
def small_models(tmp_path_factory, small_scorer) -> Path:
    """Write the folder of all models for servers: ``portraits``, whose versions 1, 2 and 3 score alike.

    The champion is version 1. Tests that change anything copy the folder.
    """
    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import channels, integrity

    folder = tmp_path_factory.mktemp("models")
    first = Path(channels.address(str(folder), "portraits", 1))
    saved_model.export_litert(bundle.load(small_scorer), first, "portraits", error=0.7)
    (first / channels.COMPLETE).touch()
    integrity.write_record(first, {})
    for version in (2, 3):
        shutil.copytree(first, first.with_name(str(version)))
    channels.promote_pushed(str(folder), "portraits", 1, why="the first")
    return folder


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator["gcs.Server"]:
    """Start Google Cloud Storage on loopback, with the empty bucket ``gs://bucket``."""
    from tests.fakes import gcs

    with gcs.Server("bucket") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator["s3.Server"]:
    """Start S3 on loopback, with the empty bucket ``s3://bucket``."""
    import boto3

    from tests.fakes import s3

    with s3.Server() as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        client = boto3.client("s3")
        for bucket in client.list_buckets()["Buckets"]:  # moto keeps its buckets as long as the process lives
            boto3.resource("s3").Bucket(bucket["Name"]).objects.delete()
        client.create_bucket(Bucket="bucket")
        yield server


@pytest.fixture(scope="session")
def portraits() -> Path:
    """Return the folder with the real portraits, for tests that need them."""
    folder = os.environ.get("PORTRAITS_DATA")
    if not folder or not Path(folder, "data").is_dir():
        pytest.skip("set PORTRAITS_DATA to the folder that holds data/mebeauty and data/utkface to run this test")
    return Path(folder)
