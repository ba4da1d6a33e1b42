"""Worker processes: they end with the ingestion, also if it is killed, and their errors reach the caller."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import time
from components.ingestion.photos import parallel_map

def work(item):
    time.sleep(0.2)

if __name__ == "__main__":
    for _ in parallel_map.on_processes(work, range(600)):
        print("working", flush=True)
"""


def test_workers_end_when_the_ingestion_is_killed(tmp_path):
    (tmp_path / "work.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ingestion = subprocess.Popen([sys.executable, tmp_path / "work.py"], env=environment, stdout=subprocess.PIPE)
    assert ingestion.stdout.readline() == b"working\n"
    workers = psutil.Process(ingestion.pid).children(recursive=True)
    assert workers
    ingestion.send_signal(signal.SIGKILL)
    ingestion.wait()
    _, running = psutil.wait_procs(workers, timeout=20)
    assert [worker for worker in running if worker.status() != psutil.STATUS_ZOMBIE] == []


def test_an_error_in_a_worker_reaches_the_caller(tmp_path):
    (tmp_path / "work.py").write_text(SCRIPT.replace("time.sleep(0.2)", "raise ValueError(f'item {item}')"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, tmp_path / "work.py"], env=environment, capture_output=True, text=True)
    assert process.returncode == 1
    assert "ValueError: item " in process.stderr
