"""Distributed training: sharding of batches, worker configuration, and the training command."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.scorer import storage
from components.scorer.data import photos
from components.scorer.data.sharding import WorkerShard
from components.scorer.fit import distributed
from components.scorer.settings import Pretraining, Training
from components.training.__main__ import main
from components.training.train import check_trainable

pytestmark = pytest.mark.slow


def parts(size: int, workers: int, rows: int) -> list[list[tuple[np.ndarray, ...]]]:
    """Return the batches ``(values, truth, weights)`` of each worker; the values are the numbers from 1 to `size`."""
    numbers = tf.data.Dataset.range(1, size + 1).map(
        lambda number: (tf.cast(number, tf.float32), {"votes": [number, number]})
    )
    batches_of_workers = []
    for index in range(workers):
        batches = photos.make_batches(numbers, workers * rows, shard=WorkerShard(index, workers))
        batches_of_workers.append(
            [(values.numpy(), truth["votes"].numpy(), weights.numpy()) for values, truth, weights in batches]
        )
    return batches_of_workers


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5))
def test_the_shards_of_all_workers_make_up_the_batch_with_the_same_weighted_mean(size, number, rows):
    batches_of_workers = parts(size, number, rows)
    steps = -(-size // (number * rows))
    assert [len(batches) for batches in batches_of_workers] == [steps] * number
    for step in range(steps):
        expected = list(range(1, size + 1))[step * number * rows :][: number * rows]
        shards = [batches[step] for batches in batches_of_workers]
        assert all(values.shape == weights.shape == (rows,) for values, _, weights in shards)
        real_values = [value for values, _, weights in shards for value in values[weights > 0]]
        assert sorted(real_values) == expected
        weights = np.concatenate([weights for *_, weights in shards])
        np.testing.assert_allclose(weights[weights > 0], number * rows / len(expected), rtol=1e-6)
        # The weights make the mean over all rows equal the mean over the real rows.
        values = np.concatenate([values for values, *_ in shards])
        assert (values * weights).mean() == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_shards_of_augmented_batches_equal_the_batches_of_one_process(small_dataset):
    options = {"scale": 36, "crop": 32, "batch_size": 12, "seed": 1, "epoch": 2, "camera_faults": 0.5}
    batches = [
        (pixels.numpy(), votes.numpy()) for pixels, votes in photos.augmented_batches(small_dataset, "train", **options)
    ]
    shards = [
        list(photos.augmented_batches(small_dataset, "train", **options, shard=WorkerShard(index, 2)))
        for index in range(2)
    ]
    for step, (pixels, votes) in enumerate(batches):
        for index, shard in enumerate(shards):
            shard_pixels, truth, weights = (part.numpy() for part in shard[step])
            real = weights > 0
            np.testing.assert_array_equal(shard_pixels[real], pixels[index::2])
            np.testing.assert_array_equal(truth[real], votes[index::2])


def test_sharding_multiplies_the_sample_weights_of_the_data_set():
    numbers = tf.data.Dataset.range(1, 6).map(lambda number: (number, number, tf.cast(number, tf.float32)))
    shards = [list(photos.make_batches(numbers, 4, shard=WorkerShard(index, 2))) for index in range(2)]
    for step, size in ((0, 4), (1, 1)):  # the second batch has one photo instead of four
        for shard in shards:
            values, _, weights = (part.numpy() for part in shard[step])
            np.testing.assert_allclose(weights, values * 4 / size)


def test_loss_terms_over_a_whole_batch_are_refused_with_several_workers():
    with pytest.raises(ValueError, match="leave them at 0 with devices"):
        check_trainable(Training(devices="workers", rank_term=0.1), Pretraining(), {"train": 1, "validation": 1})


def test_a_batch_size_that_is_not_a_multiple_of_the_workers_is_refused():
    with pytest.raises(ValueError, match=r"batch_size to be a multiple of the number of workers, 3, got 32"):
        WorkerShard(0, 3).local_batch_size(32)


@pytest.fixture
def told(monkeypatch):
    """Remove all variables that configure workers; return `setenv`."""
    for name in ("TF_CONFIG", "WORKERS", "WORKER_ADDRESS", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def config(workers: int = 2, index: int = 1, kind: str = "worker", **more: list[str]) -> str:
    cluster = {"worker": [f"host-{number}:2222" for number in range(workers)], **more}
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


WRONG = {
    "": r"nothing tells this process of them: set TF_CONFIG, or WORKERS, WORKER_ADDRESS and JOB_COMPLETION_INDEX",
    "{": r"expected TF_CONFIG with a cluster of workers and this task, got '\{'",
    "{}": r"expected TF_CONFIG with a cluster",
    config(workers=1, index=0): r"expected two or more workers and an index among them, got 1 and 0",
    config(index=2): r"an index among them, got 2 and 2",
    config(kind="ps", ps=["host:2222"]): r"workers only, of which the first is the chief, got the task 'ps'",
    config(index=0, chief=["host:2222"]): r"among \['chief', 'worker'\]",
}


@pytest.mark.parametrize(("text", "why"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_or_missing_worker_configuration_is_refused(told, text, why):
    if text:
        told("TF_CONFIG", text)
    with pytest.raises(ValueError, match=why):
        distributed.join_worker_group()


def test_the_environment_of_a_job_set_defines_the_worker_group(told):
    told("WORKERS", "3")
    told("WORKER_ADDRESS", "train-node-0-{}.train:2222")
    told("JOB_COMPLETION_INDEX", "2")
    assert distributed._shard_from_environment() == WorkerShard(2, 3)
    tf_config = json.loads(os.environ["TF_CONFIG"])
    assert tf_config["cluster"] == {"worker": [f"train-node-0-{number}.train:2222" for number in range(3)]}
    assert tf_config["task"] == {"type": "worker", "index": 2}


def test_a_wrong_environment_of_a_job_set_is_refused(told):
    told("WORKERS", "two")
    told("WORKER_ADDRESS", "train:2222")
    told("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(ValueError, match=r"to have \{\} in place of the index, got 'two', '0' and 'train:2222'"):
        distributed.join_worker_group()


def test_the_training_command_refuses_wrong_settings_before_training(
    told, small_dataset, small_encoder, tmp_path, capsys
):
    paths = {"dataset": small_dataset, "encoder": small_encoder, "scorer": tmp_path / "s", "checkpoints": tmp_path}
    command = [f"--{name}={path}" for name, path in paths.items()]
    for setting, message in {
        "epochs": "expected a setting as NAME=VALUE, got 'epochs'",
        "epoch=3": "Training has no setting 'epoch'",
        "devices=two": "devices must be one of ['one', 'all', 'workers'], got 'two'",
        "devices=workers": "nothing tells this process of them",
    }.items():
        assert main([*command, "--set", setting]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_the_training_command_writes_the_bundle_and_its_report(told, small_dataset, small_encoder, google, capsys):
    storage.upload_tree(small_dataset, "gs://bucket/dataset")
    storage.upload_tree(small_encoder, "gs://bucket/encoder")
    uris = {name: f"gs://bucket/{name}" for name in ("dataset", "encoder", "scorer", "checkpoints")}
    command = [f"--{name}={uri}" for name, uri in uris.items()]
    assert main([*command, "--revision=abc", "--set", "scale=36", "head_epochs=1", "epochs=0"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["training_photos"] == 64
    assert storage.read_bytes("gs://bucket/scorer/report.html").startswith(b"<!")
    assert storage.read_json("gs://bucket/scorer/bundle.json")["revision"] == "abc"
