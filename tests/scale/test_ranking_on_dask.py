"""Ranking by several processes writes the same files as one process, also after all processes were killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.scorer.batch import shards
from components.scorer.batch.score_many import score_and_rank
from tests.conftest import drawn_photo

ROOT = Path(__file__).resolve().parents[2]
NUMBER = 1200  # small photos: some seconds of work in five shards


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    drawn = [drawn_photo(0.1 + 0.01 * number, number, size=(80, 96)) for number in range(80)]
    for number in range(NUMBER):
        (folder / f"{number:04}.jpg").write_bytes(drawn[number % len(drawn)])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    return folder


@pytest.fixture(scope="module")
def alone(small_models, photos, tmp_path_factory) -> Path:
    """Folder with the scores that one process writes."""
    out = tmp_path_factory.mktemp("alone")
    score_and_rank(
        str(small_models), str(photos), str(out), beam_options="--runner=DirectRunner --direct_running_mode=in_memory"
    )
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def start(models: Path, photos: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline", "score", str(models), str(photos), "--shards", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def done(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.csv")}


def test_a_ranking_whose_processes_were_all_killed_resumes_to_the_same_files(small_models, photos, alone, tmp_path):
    killed = start(small_models, photos, tmp_path)
    deadline = time.monotonic() + 120
    while not done(tmp_path) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(killed.pid).children(recursive=True)
    for process in [psutil.Process(killed.pid), *workers]:
        process.send_signal(signal.SIGKILL)
    killed.wait(30)
    psutil.wait_procs(workers, timeout=20)
    shards_before = done(tmp_path)
    assert 0 < len(shards_before) < -(-NUMBER // shards.PHOTOS_PER_SHARD)
    assert not (tmp_path / "order.csv").exists()

    resumed = start(small_models, photos, tmp_path)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 1, output  # for the broken photo
    assert shards_before.items() <= done(tmp_path).items()
    assert files(tmp_path) == files(alone)
    assert "broken" not in output


def test_workers_end_when_the_ranking_is_killed(small_models, photos, tmp_path):
    killed = start(small_models, photos, tmp_path)
    deadline = time.monotonic() + 120
    while not done(tmp_path) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(killed.pid).children(recursive=True)
    assert len(workers) >= min(2, os.cpu_count() or 1)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []
