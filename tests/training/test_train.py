"""Pretraining and training: they learn, read their own splits only, and resume after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.stats import spearmanr

from components.ingestion import tfds_writer
from components.pretraining.pretrain import pretrain
from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.imaging import augmentation
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.encoder import build_encoder
from components.scorer.model.inputs import PHOTO_ONLY
from components.scorer.parameters import from_parameters
from components.scorer.settings import Pretraining
from components.training.examples.degraded_copies import FAULT_POINTS, lower_votes
from components.training.features import FeatureExtractor
from tests.builders.trainings import run_training, training
from tests.conftest import SMALL, example

pytestmark = pytest.mark.slow

SCORES = np.arange(1, 11)


def pretraining(**changes) -> Pretraining:
    return from_parameters(Pretraining, **{"start": "autoencoder", "epochs": 2, **SMALL, **changes})


def run_pretraining(dataset: Path, folder: Path, settings: Pretraining) -> dict[str, float]:
    locations = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    return pretrain(dataset, folder / "encoder", folder / "report.html", settings=settings, scale=36, **locations)


def test_a_bundle_holds_the_network_without_its_optimizer(small_dataset, small_encoder, tmp_path):
    run_training(small_dataset, small_encoder, tmp_path, training(head_epochs=1, epochs=1))
    with zipfile.ZipFile(tmp_path / "scorer" / "scorer.keras") as archive, archive.open("model.weights.h5") as file:
        assert "optimizer" not in h5py.File(file)


def test_a_camera_fault_keeps_shape_and_range_and_depends_on_its_seed_alone():
    photo = np.random.default_rng(1).uniform(0, 255, (40, 40, 3)).astype("float32")
    for number in range(30):
        changed, repeated = (np.asarray(augmentation.camera_fault(photo, 1.0, [7, number])) for _ in range(2))
        assert changed.shape == photo.shape
        assert changed.min() >= 0
        assert changed.max() <= 255.01
        assert np.array_equal(changed, repeated)


def test_the_given_share_of_photos_gets_blur_or_exposure_in_equal_parts():
    photo = np.full((40, 40, 3), 100, "float32")
    photo[::2] = 120  # blur removes these lines, a change of exposure keeps their ratio
    changed = [np.asarray(augmentation.camera_fault(photo, 0.5, [3, number])) for number in range(300)]
    n_unchanged = sum(np.array_equal(result, photo) for result in changed)
    n_exposed = sum(not np.array_equal(result, photo) and np.allclose(result[0] / result[1], 1.2) for result in changed)
    assert 110 < n_unchanged < 190
    assert 45 < n_exposed < 105


def test_is_faulty_names_the_changed_photos():
    photo = np.full((200, 200, 3), 100, "float32")
    photo[::2] = 120
    seeds = [[3, number] for number in range(60)]
    faulty = np.array([bool(augmentation.is_faulty(0.5, seed)) for seed in seeds])
    changed = np.array([not np.array_equal(augmentation.camera_fault(photo, 0.5, seed), photo) for seed in seeds])
    assert not (changed & ~faulty).any()
    assert 0 <= faulty.sum() - changed.sum() <= 3  # a fault may be too small to change a pixel


def test_the_votes_of_a_degraded_photo_are_lowered_by_the_fault_points():
    votes = np.array([0.2, 0, 0, 0.3, 0, 0, 0.5, 0, 0, 0], "float32")
    lowered = lower_votes(votes).numpy()
    assert lowered.sum() == pytest.approx(1)
    assert lowered @ SCORES == pytest.approx(votes @ SCORES - FAULT_POINTS * 0.8)  # votes of 1 cannot be lowered


def test_an_epoch_lowers_the_votes_of_degraded_photos(small_dataset):
    def means(share: float) -> list[float]:
        extractor = FeatureExtractor(small_dataset, 32, training(camera_faults=share), HeadSpec(), PHOTO_ONLY)
        return sorted(float(mean) for _, votes, _ in extractor.train_epoch(0) for mean in votes.numpy() @ SCORES)

    assert np.mean(means(1.0)) == pytest.approx(np.mean(means(0.0)) - FAULT_POINTS, abs=0.05)


def test_pretraining_changes_the_encoder_and_lowers_the_error(small_dataset, tmp_path):
    metrics = run_pretraining(small_dataset, tmp_path, pretraining(epochs=3))
    run_pretraining(small_dataset, tmp_path / "untrained", pretraining(start="none"))
    trained, _ = bundle.load_encoder(tmp_path / "encoder")
    untrained, _ = bundle.load_encoder(tmp_path / "untrained" / "encoder")
    curves = json.loads((tmp_path / "checkpoints" / "epoch-0003.json").read_text())["curves"]
    assert curves["loss"][-1] < curves["loss"][0]
    assert metrics["pretraining_photos"] == 96
    assert not np.allclose(trained.get_weights()[0], untrained.get_weights()[0])


def test_pretraining_reads_neither_validation_nor_test_photos(tmp_path):
    broken = {**example(1), "photo": b"\xff\xd8\xff not a photo"}
    splits = {
        "unlabelled": [[example(number, rated=False) for number in range(24)]],
        "validation": [[{**broken, "photo_id": "v.jpg"}]],
        "test": [[{**broken, "photo_id": "t.jpg"}]],
    }
    tfds_writer.write(tmp_path / "dataset", splits, ["side"])
    assert run_pretraining(tmp_path / "dataset", tmp_path, pretraining(epochs=1))["pretraining_photos"] == 24


def test_the_denoising_autoencoder_trains(small_dataset, tmp_path):
    metrics = run_pretraining(small_dataset, tmp_path, pretraining(start="denoising", epochs=1))
    assert 0 < metrics["pretraining_held_out_loss"] < 1


def test_pretraining_without_photos_is_refused_with_a_remedy(tmp_path):
    tfds_writer.write(tmp_path / "dataset", {"test": [[example(1)]]}, ["side"])
    with pytest.raises(ValueError, match="the data set has none; give unlabelled photos or set start"):
        run_pretraining(tmp_path / "dataset", tmp_path, pretraining())


def test_pretraining_from_weights_that_are_not_finite_stops_in_its_first_batch(small_dataset, tmp_path):
    network = build_encoder(pretraining(start="none"))
    network.set_weights([np.full_like(weights, np.nan) for weights in network.get_weights()])
    network.save_weights(tmp_path / "start.weights.h5")
    message = "pretraining: expected finite numbers as the loss of epoch 1, batch 1, got nan"
    with pytest.raises(ValueError, match=message):
        run_pretraining(small_dataset, tmp_path, pretraining(weights=str(tmp_path / "start.weights.h5")))


def test_a_scale_below_the_crop_is_refused(small_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"scale must be at least crop.* got 36 and 64"):
        run_pretraining(small_dataset, tmp_path, pretraining(crop=64))


def test_missing_weights_are_named(small_dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights: expected a file at '/nowhere/w\.keras'"):
        run_pretraining(small_dataset, tmp_path, pretraining(weights="/nowhere/w.keras"))


def test_weights_of_another_digest_are_refused(small_dataset, tmp_path):
    (tmp_path / "start.keras").write_bytes(b"other weights")
    settings = pretraining(weights=str(tmp_path / "start.keras"), weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=rf"expected a file whose SHA-256 is weights_sha256, {'0' * 64}, got \w{{64}}"):
        run_pretraining(small_dataset, tmp_path, settings)
    assert not (tmp_path / "encoder").exists()


def test_training_learns_the_scores_of_designed_photos(small_dataset, small_encoder, tmp_path):
    settings = training(head_epochs=5, epochs=8, learning_rate=3e-4, dropout=0, batch_size=8)
    run_training(small_dataset, small_encoder, tmp_path, settings)
    records = list(photos.records(small_dataset, "test"))
    predicted = bundle.load(tmp_path / "scorer").score([record["photo"] for record in records]) @ SCORES
    truth = np.stack([record["votes"] for record in records]) @ SCORES
    assert spearmanr(predicted, truth).statistic > 0.6


@pytest.mark.parametrize("fitting", ["gradient", "closed"])
def test_training_accepts_photos_without_rater_counts(small_encoder, tmp_path, fitting):
    def unknown_raters(number: int) -> dict:
        return {**example(number), "raters": 0}

    splits = {
        "train": [[unknown_raters(index) for index in range(48)]],
        "validation": [[unknown_raters(index) for index in range(48, 64)]],
    }
    tfds_writer.write(tmp_path / "dataset", splits, ["side"])
    metrics = run_training(tmp_path / "dataset", small_encoder, tmp_path, training(fitting=fitting, epochs=1))
    assert 0 < metrics["validation_loss"] < 0.2


def test_the_bundle_records_data_revision_settings_and_history(small_dataset, small_encoder, tmp_path):
    run_training(small_dataset, small_encoder, tmp_path, training(head_epochs=1, epochs=1))
    scorer = bundle.load(tmp_path / "scorer")
    assert (scorer.data_fingerprint, scorer.revision, scorer.training.epochs) == ("data", "abc", 1)
    assert len(scorer.history["head_loss"]) == len(scorer.history["val_loss"]) == 1


def test_training_without_rated_photos_names_the_split(small_encoder, tmp_path):
    tfds_writer.write(tmp_path / "dataset", {"train": [[example(1)]]}, ["side"])
    with pytest.raises(ValueError, match="rated photos in the split 'validation'"):
        run_training(tmp_path / "dataset", small_encoder, tmp_path, training())


def test_training_for_zero_epochs_is_refused(small_dataset, small_encoder, tmp_path):
    with pytest.raises(ValueError, match="nothing would be trained"):
        run_training(small_dataset, small_encoder, tmp_path, training(head_epochs=0, epochs=0))


def test_each_epoch_reads_each_photo_once_in_another_order(small_dataset):
    def votes(epoch: int) -> np.ndarray:
        options = {"scale": 36, "crop": 32, "batch_size": 8, "seed": 1}
        return np.concatenate(
            [batch_votes for _, batch_votes in photos.augmented_batches(small_dataset, "train", epoch=epoch, **options)]
        )

    first, second = votes(0), votes(1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first[:, 0]), np.sort(second[:, 0]))


def test_an_epoch_is_the_same_when_read_again(small_dataset):
    options = {"scale": 36, "crop": 32, "batch_size": 8, "seed": 1, "epoch": 3}
    first, second = (list(photos.augmented_batches(small_dataset, "train", **options)) for _ in range(2))
    for (batch, _), (repeated_batch, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(batch, repeated_batch)


SCRIPT = """
import sys
from pathlib import Path
from tests.builders.trainings import run_training, training
dataset, encoder, folder = map(Path, sys.argv[1:])
run_training(dataset, encoder, folder, training(epochs=6))
"""


def start_training(*folders: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, *map(str, folders)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(small_dataset, small_encoder, tmp_path_factory) -> bundle.TrainedScorer:
    """Scorer of the training in ``SCRIPT`` without a kill."""
    folder = tmp_path_factory.mktemp("whole")
    run_training(small_dataset, small_encoder, folder, training(epochs=6))
    return bundle.load(folder / "scorer")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_resumes_to_the_result_of_an_uninterrupted_one(
    small_dataset, small_encoder, tmp_path, whole, sign
):
    killed = start_training(small_dataset, small_encoder, tmp_path)
    second_epoch = tmp_path / "checkpoints" / "all" / "epoch-0002.json"
    deadline = time.monotonic() + 120
    while not second_epoch.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(sign)
    assert killed.wait(30) == -sign

    restarted = start_training(small_dataset, small_encoder, tmp_path)
    output, _ = restarted.communicate(timeout=120)
    assert restarted.returncode == 0
    assert "training the network: going on from epoch" in output
    resumed = bundle.load(tmp_path / "scorer")
    assert resumed.settings == whole.settings
    np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-4)
    for weights, expected in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(weights, expected, atol=1e-4)
