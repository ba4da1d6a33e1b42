"""Two workers on this machine train as one process does; only the chief writes; killed workers can be restarted."""

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
    """Start a training process that writes its output to an own file."""
    paths = {
        "dataset": dataset,
        "encoder": encoder,
        "scorer": folder / "scorer",
        "checkpoints": folder / "checkpoints",
    }
    command = [sys.executable, "-m", "components.training"]
    command += [f"--{name}={path}" for name, path in paths.items()] + ["--set", *settings]
    # Without oneDNN: its sums depend on the batch size. In a network as small as this one, a difference of 1e-7 at the
    # start grows to 1e-3 after an epoch, in one process too.
    base_environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / f"log-{environment.get('JOB_COMPLETION_INDEX', '0')}-{time.monotonic_ns()}").open("w")
    return subprocess.Popen(command, cwd=ROOT, env=base_environment | environment, stdout=log, stderr=subprocess.STDOUT)


def free() -> list[int]:
    """Return two free ports."""
    sockets = [socket.socket() for _ in range(2)]
    for bound_socket in sockets:
        bound_socket.bind(("127.0.0.1", 0))
    ports = [bound_socket.getsockname()[1] for bound_socket in sockets]
    for bound_socket in sockets:
        bound_socket.close()
    return ports


def both(dataset: Path, encoder: Path, folder: Path, settings: Sequence[str]) -> list[subprocess.Popen]:
    """Start two workers that know each other through TF_CONFIG."""
    addresses = [f"127.0.0.1:{port}" for port in free()]
    configs = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
    environments = [
        {"TF_CONFIG": json.dumps(config), "JOB_COMPLETION_INDEX": str(number)} for number, config in enumerate(configs)
    ]
    return [
        start(dataset, encoder, folder, (*settings, "devices=workers"), **environment) for environment in environments
    ]


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("log-*")))


def end(processes: Sequence[subprocess.Popen], folder: Path) -> None:
    for process in processes:
        assert process.wait(600) == 0, said(folder)


@pytest.fixture(scope="module")
def alone(small_dataset, small_encoder, tmp_path_factory) -> bundle.TrainedScorer:
    """Scorer trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    end([start(small_dataset, small_encoder, folder, SETTINGS)], folder)
    return bundle.load(folder / "scorer")


@pytest.fixture(scope="module")
def together(small_dataset, small_encoder, tmp_path_factory) -> Path:
    """Folder of a training by two workers."""
    folder = tmp_path_factory.mktemp("together")
    end(both(small_dataset, small_encoder, folder, SETTINGS), folder)
    return folder


def test_two_workers_and_one_process_have_the_same_losses(alone, together):
    # Batches of 12 from 64 photos: the last holds four, two for each worker.
    trained = bundle.load(together / "scorer")
    assert set(trained.history) == set(alone.history)
    for name in set(alone.history) - {"seconds", "head_seconds"}:
        assert len(trained.history[name]) == (2 if name.startswith("head_") else EPOCHS)
        np.testing.assert_allclose(trained.history[name], alone.history[name], rtol=0, atol=1e-4)
    assert len(set(alone.history["val_loss"])) == EPOCHS  # the loss changes


def test_two_workers_and_one_process_give_the_same_scores(alone, together):
    photos = [example(number)["photo"] for number in range(500, 508)]
    np.testing.assert_allclose(bundle.load(together / "scorer").score(photos), alone.score(photos), atol=1e-3)


def test_only_the_chief_writes_files(together):
    chief, second = (said_by(together, index) for index in (0, 1))
    assert "worker 0 of 2, the chief" in chief
    assert "worker 1 of 2\n" in second
    checkpoint_files = {path.name for path in (together / "checkpoints" / "all").iterdir()}
    assert f"epoch-{EPOCHS:04}.json" in checkpoint_files
    assert (together / "scorer" / "report.html").read_text().startswith("<!")
    summaries = [json.loads(text.strip().splitlines()[-1]) for text in (chief, second)]
    assert summaries[0]["validation_loss"] == pytest.approx(summaries[1]["validation_loss"], abs=1e-7)


def said_by(folder: Path, index: int) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(f"log-{index}-*")))


def wait_for(file: Path, processes: Sequence[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 500
    while not file.exists() and time.monotonic() < deadline and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    assert file.exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_worker_ends_the_other_and_both_resume_when_restarted(small_dataset, small_encoder, tmp_path, killed):
    settings = (*SETTINGS, "head_epochs=1", f"epochs={LONGER}", "learning_rate=1e-6")
    workers = both(small_dataset, small_encoder, tmp_path, settings)
    wait_for(tmp_path / "checkpoints" / "all" / "epoch-0002.json", workers)
    workers[killed].send_signal(signal.SIGKILL)
    assert workers[1 - killed].wait(300) == 1, said(tmp_path)  # Kubernetes restarts a worker with this exit code
    assert not (tmp_path / "scorer").exists()

    restarted = both(small_dataset, small_encoder, tmp_path, settings)
    single = start(small_dataset, small_encoder, tmp_path / "whole", settings)
    end([*restarted, single], tmp_path)
    assert "training the network: going on from epoch" in said(tmp_path)
    resumed, expected = bundle.load(tmp_path / "scorer"), bundle.load(tmp_path / "whole" / "scorer")
    for name in ("loss", "val_loss"):
        assert len(resumed.history[name]) == LONGER
        np.testing.assert_allclose(resumed.history[name], expected.history[name], rtol=0, atol=1e-4)
