"""Several workers' parts of each batch are the batch; who they are is told, or refused in words."""

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


def parts(size: int, workers: int, rows: int) -> list[list[tuple[np.ndarray, ...]]]:
    """Of each worker its batches ``(given, truth, weights)``, of the numbers from 1."""
    numbers = tf.data.Dataset.range(1, size + 1).map(lambda n: (tf.cast(n, tf.float32), {"votes": [n, n]}))
    found = []
    for index in range(workers):
        made = photos.make_batches(numbers, workers * rows, shard=WorkerShard(index, workers))
        found.append([(given.numpy(), truth["votes"].numpy(), weights.numpy()) for given, truth, weights in made])
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5))
def test_the_parts_of_all_workers_are_the_batch_and_weigh_as_much(size, number, rows):
    found = parts(size, number, rows)
    steps = -(-size // (number * rows))
    assert [len(batches) for batches in found] == [steps] * number
    for step in range(steps):
        whole = list(range(1, size + 1))[step * number * rows :][: number * rows]
        together = [batches[step] for batches in found]
        assert all(given.shape == weights.shape == (rows,) for given, _, weights in together)
        real = [value for given, _, weights in together for value in given[weights > 0]]
        assert sorted(real) == whole
        weights = np.concatenate([weights for *_, weights in together])
        np.testing.assert_allclose(weights[weights > 0], number * rows / len(whole), rtol=1e-6)
        # So that the mean over all rows of what is weighted is the mean over the real ones.
        given = np.concatenate([given for given, *_ in together])
        assert (given * weights).mean() == pytest.approx(np.mean(whole), rel=1e-5)


def test_the_parts_of_photos_are_what_one_process_reads(small_dataset):
    read = {"scale": 36, "crop": 32, "batch_size": 12, "seed": 1, "epoch": 2, "camera_faults": 0.5}
    whole = [
        (pixels.numpy(), votes.numpy()) for pixels, votes in photos.augmented_batches(small_dataset, "train", **read)
    ]
    shares = [
        list(photos.augmented_batches(small_dataset, "train", **read, shard=WorkerShard(index, 2)))
        for index in range(2)
    ]
    for step, (pixels, votes) in enumerate(whole):
        for index, share in enumerate(shares):
            mine, truth, weights = (part.numpy() for part in share[step])
            real = weights > 0
            np.testing.assert_array_equal(mine[real], pixels[index::2])
            np.testing.assert_array_equal(truth[real], votes[index::2])


def test_what_photos_count_of_their_own_is_kept_in_the_parts():
    numbers = tf.data.Dataset.range(1, 6).map(lambda n: (n, n, tf.cast(n, tf.float32)))
    found = [list(photos.make_batches(numbers, 4, shard=WorkerShard(index, 2))) for index in range(2)]
    for step, size in ((0, 4), (1, 1)):  # the second batch has one photo of four
        for share in found:
            given, _, weights = (part.numpy() for part in share[step])
            np.testing.assert_allclose(weights, given * 4 / size)


def test_terms_that_compare_a_batch_s_photos_are_refused_where_a_worker_sees_a_part_of_it():
    with pytest.raises(ValueError, match="leave them at 0 with devices"):
        check_trainable(Training(devices="workers", rank_term=0.1), Pretraining(), {"train": 1, "validation": 1})


def test_a_batch_that_cannot_be_parted_evenly_is_refused():
    with pytest.raises(ValueError, match=r"batch_size to be a multiple of the number of workers, 3, got 32"):
        WorkerShard(0, 3).local_batch_size(32)


@pytest.fixture
def told(monkeypatch):
    """Nothing is told of any worker, but for what the test sets."""
    for name in ("TF_CONFIG", "WORKERS", "WORKER_ADDRESS", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def config(workers: int = 2, index: int = 1, kind: str = "worker", **more: list[str]) -> str:
    cluster = {"worker": [f"host-{n}:2222" for n in range(workers)], **more}
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
def test_workers_that_are_told_wrongly_or_not_at_all_are_refused(told, text, why):
    if text:
        told("TF_CONFIG", text)
    with pytest.raises(ValueError, match=why):
        distributed.join_worker_group()


def test_a_job_set_tells_its_pods_enough(told):
    told("WORKERS", "3")
    told("WORKER_ADDRESS", "train-node-0-{}.train:2222")
    told("JOB_COMPLETION_INDEX", "2")
    assert distributed._shard_from_environment() == WorkerShard(2, 3)
    made = json.loads(os.environ["TF_CONFIG"])
    assert made["cluster"] == {"worker": [f"train-node-0-{n}.train:2222" for n in range(3)]}
    assert made["task"] == {"type": "worker", "index": 2}


def test_what_a_job_set_tells_wrongly_is_refused(told):
    told("WORKERS", "two")
    told("WORKER_ADDRESS", "train:2222")
    told("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(ValueError, match=r"to have \{\} in place of the index, got 'two', '0' and 'train:2222'"):
        distributed.join_worker_group()


def test_the_command_says_what_is_wrong_before_it_trains(told, small_dataset, small_encoder, tmp_path, capsys):
    places = {"dataset": small_dataset, "encoder": small_encoder, "scorer": tmp_path / "s", "checkpoints": tmp_path}
    command = [f"--{name}={place}" for name, place in places.items()]
    for setting, why in {
        "epochs": "expected a setting as NAME=VALUE, got 'epochs'",
        "epoch=3": "Training has no setting 'epoch'",
        "devices=two": "devices must be one of ['one', 'all', 'workers'], got 'two'",
        "devices=workers": "nothing tells this process of them",
    }.items():
        assert main([*command, "--set", setting]) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_training_outside_of_the_pipeline_writes_the_bundle_and_its_page(
    told, small_dataset, small_encoder, google, capsys
):
    storage.upload_tree(small_dataset, "gs://bucket/dataset")
    storage.upload_tree(small_encoder, "gs://bucket/encoder")
    places = {name: f"gs://bucket/{name}" for name in ("dataset", "encoder", "scorer", "checkpoints")}
    command = [f"--{name}={place}" for name, place in places.items()]
    assert main([*command, "--revision=abc", "--set", "scale=36", "head_epochs=1", "epochs=0"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["training_photos"] == 64
    assert storage.read_bytes("gs://bucket/scorer/report.html").startswith(b"<!")
    assert storage.read_json("gs://bucket/scorer/bundle.json")["revision"] == "abc"
