"""Ranking by several processes: the same files as by one, also when all of them are killed in the middle."""

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
NUMBER = 1200  # of so small photos make some seconds of work, in five shards


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
    """What one process makes of the photos."""
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


def test_a_ranking_of_which_every_process_is_killed_goes_on_to_the_same_files(small_models, photos, alone, tmp_path):
    killed = start(small_models, photos, tmp_path)
    deadline = time.monotonic() + 120
    while not done(tmp_path) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(killed.pid).children(recursive=True)
    for process in [psutil.Process(killed.pid), *workers]:
        process.send_signal(signal.SIGKILL)
    killed.wait(30)
    psutil.wait_procs(workers, timeout=20)
    before = done(tmp_path)
    assert 0 < len(before) < -(-NUMBER // shards.PHOTOS_PER_SHARD)
    assert not (tmp_path / "order.csv").exists()

    again = start(small_models, photos, tmp_path)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 1, said  # for the broken photo
    assert before.items() <= done(tmp_path).items()
    assert files(tmp_path) == files(alone)
    assert "broken" not in said


def test_workers_end_when_the_ranking_is_killed(small_models, photos, tmp_path):
    killed = start(small_models, photos, tmp_path)
    deadline = time.monotonic() + 120
    while not done(tmp_path) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(killed.pid).children(recursive=True)
    assert len(workers) >= min(2, os.cpu_count() or 1)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    _, left = psutil.wait_procs(workers, timeout=30)
    assert [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE] == []
