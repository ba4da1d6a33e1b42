"""Training by two workers on this machine: what one process learns, written by the chief, also after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.scorer.artifacts import bundle
from tests.conftest import example

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, LONGER = 3, 8
SETTINGS = ("scale=36", "head_epochs=2", f"epochs={EPOCHS}", "dropout=0", "batch_size=12", "learning_rate=1e-5")


def start(dataset: Path, encoder: Path, folder: Path, settings: Sequence[str], **environment: str) -> subprocess.Popen:
    """A training process; what it says goes to a file of its own."""
    places = {
        "dataset": dataset,
        "encoder": encoder,
        "scorer": folder / "scorer",
        "checkpoints": folder / "checkpoints",
    }
    command = [sys.executable, "-m", "components.training"]
    command += [f"--{name}={place}" for name, place in places.items()] + ["--set", *settings]
    # Without oneDNN, whose sums depend on a batch's size: in a network as small and rough as this what differs by 1e-7
    # at the start, in one process too, differs by 1e-3 after an epoch.
    plain = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / f"log-{environment.get('JOB_COMPLETION_INDEX', '0')}-{time.monotonic_ns()}").open("w")
    return subprocess.Popen(command, cwd=ROOT, env=plain | environment, stdout=log, stderr=subprocess.STDOUT)


def free() -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def both(dataset: Path, encoder: Path, folder: Path, settings: Sequence[str]) -> list[subprocess.Popen]:
    """Two workers that know each other by TF_CONFIG."""
    addresses = [f"127.0.0.1:{port}" for port in free()]
    configs = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
    told = [{"TF_CONFIG": json.dumps(config), "JOB_COMPLETION_INDEX": str(n)} for n, config in enumerate(configs)]
    return [start(dataset, encoder, folder, (*settings, "devices=workers"), **each) for each in told]


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("log-*")))


def end(processes: Sequence[subprocess.Popen], folder: Path) -> None:
    for process in processes:
        assert process.wait(600) == 0, said(folder)


@pytest.fixture(scope="module")
def alone(small_dataset, small_encoder, tmp_path_factory) -> bundle.TrainedScorer:
    """What one process learns."""
    folder = tmp_path_factory.mktemp("alone")
    end([start(small_dataset, small_encoder, folder, SETTINGS)], folder)
    return bundle.load(folder / "scorer")


@pytest.fixture(scope="module")
def together(small_dataset, small_encoder, tmp_path_factory) -> Path:
    """The folder of a training by two workers."""
    folder = tmp_path_factory.mktemp("together")
    end(both(small_dataset, small_encoder, folder, SETTINGS), folder)
    return folder


def test_two_workers_have_the_losses_and_weights_of_one_process_on_the_same_batches(alone, together):
    # Batches of 12 from 64 photos: the last holds four, two for each worker.
    learnt = bundle.load(together / "scorer")
    assert set(learnt.history) == set(alone.history)
    for name in set(alone.history) - {"seconds", "head_seconds"}:
        assert len(learnt.history[name]) == (2 if name.startswith("head_") else EPOCHS)
        np.testing.assert_allclose(learnt.history[name], alone.history[name], rtol=0, atol=1e-4)
    assert len(set(alone.history["val_loss"])) == EPOCHS  # it moves


def test_two_workers_give_the_scores_of_one_process(alone, together):
    photos = [example(number)["photo"] for number in range(500, 508)]
    np.testing.assert_allclose(bundle.load(together / "scorer").score(photos), alone.score(photos), atol=1e-3)


def test_only_the_chief_writes(together):
    chief, other = (said_by(together, index) for index in (0, 1))
    assert "worker 0 of 2, the chief" in chief
    assert "worker 1 of 2\n" in other
    saved = {path.name for path in (together / "checkpoints" / "all").iterdir()}
    assert f"epoch-{EPOCHS:04}.json" in saved
    assert (together / "scorer" / "report.html").read_text().startswith("<!")
    figures = [json.loads(text.strip().splitlines()[-1]) for text in (chief, other)]
    assert figures[0]["validation_loss"] == pytest.approx(figures[1]["validation_loss"], abs=1e-7)


def said_by(folder: Path, index: int) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(f"log-{index}-*")))


def wait_for(file: Path, processes: Sequence[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 500
    while not file.exists() and time.monotonic() < deadline and all(each.poll() is None for each in processes):
        time.sleep(0.02)
    assert file.exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_is_killed_ends_the_other_and_both_go_on_when_started_anew(
    small_dataset, small_encoder, tmp_path, killed
):
    settings = (*SETTINGS, "head_epochs=1", f"epochs={LONGER}", "learning_rate=1e-6")
    first = both(small_dataset, small_encoder, tmp_path, settings)
    wait_for(tmp_path / "checkpoints" / "all" / "epoch-0002.json", first)
    first[killed].send_signal(signal.SIGKILL)
    assert first[1 - killed].wait(300) == 1, said(tmp_path)  # for which Kubernetes starts it anew
    assert not (tmp_path / "scorer").exists()

    again = both(small_dataset, small_encoder, tmp_path, settings)
    whole = start(small_dataset, small_encoder, tmp_path / "whole", settings)
    end([*again, whole], tmp_path)
    assert "training the network: going on from epoch" in said(tmp_path)
    resumed, expected = bundle.load(tmp_path / "scorer"), bundle.load(tmp_path / "whole" / "scorer")
    for name in ("loss", "val_loss"):
        assert len(resumed.history[name]) == LONGER
        np.testing.assert_allclose(resumed.history[name], expected.history[name], rtol=0, atol=1e-4)
