"""Checkpoints and resuming: truncated checkpoints and those of other settings are skipped."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.cloud.storage import retry

from components.scorer import storage
from components.scorer.data.sharding import WorkerShard
from components.scorer.fit.checkpoints import CheckpointStore, best_epoch, fingerprint_of, fit
from components.scorer.fit.distributed import WorkerGroup

pytestmark = pytest.mark.slow


def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    network.compile("adam", "mse")
    # As training does, so that a checkpoint has the optimizer's state.
    network.optimizer.build(network.trainable_variables)
    return network


def data(epoch: int) -> tf.data.Dataset:
    rng = np.random.default_rng(epoch)
    return tf.data.Dataset.from_tensor_slices((rng.normal(size=(16, 4)), rng.normal(size=(16, 1)))).batch(8)


def spoiled_at(batch: int) -> tf.data.Dataset:
    """Return ten batches with example weights; the first target of batch `batch` is NaN."""
    truth = np.ones((80, 1), "float32")
    truth[8 * batch] = np.nan
    return tf.data.Dataset.from_tensor_slices((np.ones((80, 4), "float32"), truth, np.ones(80, "float32"))).batch(8)


def train_to(epochs: int, place: CheckpointStore, **more) -> tuple[keras.Model, dict]:
    return fit(model(), epochs, data, task="a test", checkpoints=place, seed=1, **more)


@pytest.fixture
def place(tmp_path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "checkpoints"), "these settings")


def test_an_empty_checkpoint_store_has_no_latest_checkpoint(place):
    assert place.latest() is None


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(place, tmp_path):
    train_to(2, place)
    resumed, curves = train_to(5, place)
    uninterrupted, expected = train_to(5, CheckpointStore(str(tmp_path / "other"), "these settings"))
    np.testing.assert_allclose(curves["loss"], expected["loss"], rtol=1e-6)
    for weight, expected_weight in zip(resumed.get_weights(), uninterrupted.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected_weight, rtol=1e-6)


def test_a_finished_training_resumes_at_its_last_epoch(place, capsys):
    train_to(3, place)
    capsys.readouterr()
    train_to(3, place)
    assert "going on from epoch 3 of 3" in capsys.readouterr().out


@pytest.mark.parametrize("cut", ["epoch-0003.keras", "epoch-0003.json"])
def test_a_truncated_checkpoint_is_skipped_and_reported(place, tmp_path, capsys, cut):
    train_to(2, place)
    contents = {file.name: file.read_bytes() for file in (tmp_path / "checkpoints").iterdir()}
    train_to(3, place)
    for name, content in contents.items():
        (tmp_path / "checkpoints" / name).write_bytes(content)
    truncated = tmp_path / "checkpoints" / cut
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    assert place.latest()[0] == 2
    assert "checkpoint of epoch 3 passed over: it is incomplete" in capsys.readouterr().out


def test_a_checkpoint_without_its_json_file_is_skipped(place, tmp_path):
    train_to(1, place)
    (tmp_path / "checkpoints" / "epoch-0001.json").unlink()
    assert place.latest() is None


def test_a_checkpoint_with_another_fingerprint_is_skipped_and_reported(place, capsys):
    train_to(2, place)
    assert CheckpointStore(place.uri, "other settings").latest() is None
    assert "trained with other settings or data" in capsys.readouterr().out


def test_only_the_best_and_the_last_epoch_are_kept(place, tmp_path):
    _, curves = train_to(5, place, validation=data(99))
    epochs = {int(file.stem.split("-")[1]) for file in (tmp_path / "checkpoints").iterdir()}
    assert epochs == {best_epoch(curves), 5}


def test_the_epoch_with_the_lowest_validation_loss_is_returned(place):
    trained, curves = train_to(6, place, validation=data(99))
    assert trained.evaluate(data(99), verbose=0) == pytest.approx(min(curves["val_loss"]), rel=1e-5)


def test_a_fingerprint_depends_on_each_of_its_parts():
    assert len({fingerprint_of({"a": 1}, "x"), fingerprint_of({"a": 2}, "x"), fingerprint_of({"a": 1}, "y")}) == 3


@pytest.mark.parametrize("trouble", [503, 429, "reset", "half", "lost"])
def test_saving_to_a_bucket_survives_a_failure_of_any_request(google, trouble, monkeypatch):
    monkeypatch.setattr(retry, "DEFAULT_RETRY", retry.DEFAULT_RETRY.with_delay(initial=0.001, maximum=0.01))
    trained, curves = model(), {"loss": [0.3, 0.2]}
    for number in range(1, 7):
        store = CheckpointStore(f"gs://bucket/{number}", "these settings")
        store.save(trained, 1, {"loss": [0.3]}, keep={1})
        requests = itertools.count(1)
        google.fail(lambda request, requests=requests, number=number: next(requests) == number, trouble)
        store.save(trained, 2, curves, keep={2})
        google.calm()
        assert store.latest() == (2, curves)
        assert {name for name in google.data("bucket") if name.startswith(f"{number}/")} == {
            f"{number}/epoch-0002.keras", f"{number}/epoch-0002.json",
        }  # fmt: skip


def test_after_an_outage_during_a_save_the_store_still_has_a_usable_checkpoint(google, monkeypatch):
    monkeypatch.setattr(storage, "DEADLINE", 0.02)
    trained = model()
    for number in range(1, 5):
        store = CheckpointStore(f"gs://bucket/{number}", "these settings")
        store.save(trained, 1, {"loss": [0.3]}, keep={1})
        requests = itertools.count(1)
        google.fail(lambda request, requests=requests, number=number: next(requests) >= number, *[503] * 1000)
        with pytest.raises(storage.StorageError, match=r"cannot (write|list|remove) gs://bucket"):
            store.save(trained, 2, {"loss": [0.3, 0.2]}, keep={2})
        google.calm()
        epoch, curves = store.latest()
        assert len(curves["loss"]) == epoch
        assert store.load(epoch).count_params() == trained.count_params()


def test_the_json_file_of_a_checkpoint_has_its_epoch_and_fingerprint(place, tmp_path):
    train_to(1, place)
    metadata = json.loads((tmp_path / "checkpoints" / "epoch-0001.json").read_text())
    assert (metadata["epoch"], metadata["fingerprint"]) == (1, "these settings")


def alone() -> WorkerGroup:
    """Return a group of one worker."""
    return WorkerGroup(WorkerShard(0, 1), tf.distribute.get_strategy())


@pytest.mark.parametrize("workers", [None, alone()], ids=["one process", "workers"])
@pytest.mark.parametrize("batch", [0, 2])
def test_a_nan_loss_stops_training_at_its_batch_with_an_error_about_the_data(place, batch, workers):
    message = rf"a test: expected finite numbers as the loss of epoch 1, batch {batch + 1}, got nan\. Either the data"
    with pytest.raises(ValueError, match=message) as stopped:
        fit(model(), 3, lambda epoch: spoiled_at(batch), task="a test", checkpoints=place, seed=1, workers=workers)
    assert "resume" not in str(stopped.value)
    assert place.latest() is None


def test_an_epoch_with_a_nan_validation_loss_is_not_saved(place):
    with pytest.raises(ValueError, match=r"expected finite numbers as the losses of epoch 1, got 1 of 2 that are not"):
        train_to(3, place, validation=spoiled_at(0))
    assert place.latest() is None
