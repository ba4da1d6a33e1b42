"""Photos in S3, met by worker processes and threads of fresh interpreters: twenty times over."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.scorer import storage
from tests.conftest import drawn_photo

ROOT = Path(__file__).resolve().parents[2]
TIMES = 20
NUMBER = 300
CODE = """
import sys
from components.ingestion import inspection
from components.scorer import storage
from components.scorer.settings import Ingestion

if __name__ == "__main__":
    photos = [(file.name, file.uri, file.version) for file in storage.files("s3://bucket/photos")]
    inspection.CHUNK = 50
    found = inspection.inspect_all(photos, Ingestion(minimum_side=32), sys.argv[1])
    print(len(found.table), "photos")
"""
"""Inspects every photo, with a folder of its own."""


@pytest.fixture
def photos(amazon) -> None:
    """Hundreds of photos and their ratings in a bucket."""
    photo = drawn_photo(0.5, size=(80, 96))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.write_bytes(f"s3://bucket/photos/{n}.jpg", photo), range(NUMBER)))
    ratings = "".join(f"{number}.jpg,{1 + number % 10},9\n" for number in range(NUMBER))
    storage.write_bytes("s3://bucket/ratings.csv", f"photo,mean,count\n{ratings}".encode())


def fresh(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_photos_are_inspected_by_processes_of_a_fresh_interpreter_each_time(photos, tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    for time in range(TIMES):
        done = fresh(str(tmp_path / "code.py"), str(tmp_path / str(time)))
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip().splitlines()[-1] == f"{NUMBER} photos"


def test_a_run_on_a_bucket_is_checked_by_a_fresh_interpreter_each_time(photos):
    for _ in range(TIMES):
        done = fresh(
            "-m", "pipeline", "check", "--photos", "s3://bucket/photos", "--ratings", "s3://bucket/ratings.csv"
        )
        assert done.returncode == 0, done.stderr[-2000:]
