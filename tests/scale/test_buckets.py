"""Photos and versions in S3 are read by threads and processes of fresh interpreters, up to twenty times each.

Concurrent first use of a client fails now and then, and only in a process that has never used the client. So each test
starts new interpreters. If a whole command starts slowly, the test runs only the part that reads the bucket.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from components.scorer import storage
from components.scorer.registry import channels
from tests.conftest import drawn_photo

ROOT = Path(__file__).resolve().parents[2]
TIMES = 20
NUMBER = 200
INSPECT = """
import sys
from components.ingestion.photos import photo_inspection
from components.scorer import storage
from components.scorer.settings import Ingestion

if __name__ == "__main__":
    photos = [(file.name, file.uri, file.version) for file in storage.list_files("s3://bucket/photos")]
    photo_inspection.CHUNK_SIZE = 50
    settings = Ingestion(minimum_side=32)
    inspections = photo_inspection.inspect_photos(photos, settings, sys.argv[1], beam_options=sys.argv[2])
    print(len(inspections.table))
"""
"""Inspects every photo with an own working folder, on processes of this machine or on the given Beam runner."""

BEAM = "--runner=DirectRunner --direct_running_mode={} --direct_num_workers=2"

FETCH = """
import sys
from images.serving.inference import version_source
from images.serving.settings import ServerSettings

settings = ServerSettings(model="s3://bucket/models/portraits", folder=sys.argv[1])
print(version_source.fetch_version(version_source.resolve_source(settings).current_uri(), settings))
"""
"""Fetches the champion as a server does before it starts its workers."""

READ = """
import sys
from concurrent.futures import ThreadPoolExecutor
from components.scorer import storage
from components.scorer.imaging import decoding
from components.scorer.settings import Ingestion

def read(number):
    return decoding.normalise(storage.read_bytes(f"s3://bucket/photos/{number}.jpg"), Ingestion(minimum_side=32))

with ThreadPoolExecutor() as pool:
    print(len(list(pool.map(read, range(int(sys.argv[1]))))))
"""
"""Reads photos as `score_folder.score_folder` does, in the first threads of the process and without TensorFlow."""


@pytest.fixture(scope="module")
def bucket(small_scorer) -> None:
    """Bucket with 200 photos, their ratings and a published model; its server handles concurrent requests."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="bucket")
        photo = drawn_photo(0.5, size=(80, 96))
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda photo_number: storage.write_bytes(f"s3://bucket/photos/{photo_number}.jpg", photo),
                    range(NUMBER),
                )
            )
        ratings = "".join(f"{number}.jpg,{1 + number % 10},9\n" for number in range(NUMBER))
        storage.write_bytes("s3://bucket/ratings.csv", f"photo,mean,count\n{ratings}".encode())
        _publish(small_scorer)
        yield
    server.stop()


def _publish(small_scorer: Path) -> None:
    """Publish a version into the bucket as the champion."""
    import tempfile

    from components.scorer.artifacts import bundle, saved_model
    from components.scorer.registry import integrity

    with tempfile.TemporaryDirectory() as folder:
        scorer = bundle.load(small_scorer)
        saved_model.export(scorer, folder, "portraits")
        saved_model.export_litert(scorer, folder, "portraits", error=0.7)
        integrity.write_record(folder, {"version": 1})
        storage.upload_tree(folder, channels.address("s3://bucket/models", "portraits", 1))
    channels.promote_pushed("s3://bucket/models", "portraits", 1, why="the first")


def fresh(*command: str) -> str:
    """Run a new interpreter and return the last line of its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.strip().splitlines()[-1]


@pytest.fixture
def code(bucket, tmp_path):
    """Function that runs one of the scripts above in a new interpreter."""

    def run(text: str, *arguments: str) -> str:
        file = tmp_path / "code.py"
        file.write_text(text)
        return fresh(str(file), *arguments)

    return run


def test_processes_of_fresh_interpreters_inspect_all_photos(code, tmp_path):
    for attempt in range(TIMES):
        assert code(INSPECT, str(tmp_path / str(attempt)), "") == str(NUMBER)


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_beam_in_fresh_interpreters_inspects_all_photos(code, tmp_path, mode):
    for attempt in range(TIMES // 2):
        assert code(INSPECT, str(tmp_path / str(attempt)), BEAM.format(mode)) == str(NUMBER)


def test_fresh_interpreters_check_a_run_on_a_bucket(bucket):
    for _ in range(TIMES):
        fresh("-m", "pipeline", "check", "--photos", "s3://bucket/photos", "--ratings", "s3://bucket/ratings.csv")


def test_fresh_interpreters_fetch_a_version_for_a_server(code, tmp_path):
    for attempt in range(TIMES):
        folder = code(FETCH, str(tmp_path / str(attempt)))
        assert Path(folder, "portable", "scorer.tflite").is_file()


def test_threads_of_fresh_interpreters_read_all_photos(code):
    for _ in range(TIMES):
        assert code(READ, str(NUMBER)) == str(NUMBER)


def test_fresh_interpreters_score_all_photos(bucket, tmp_path):
    for attempt in range(TIMES // 5):
        out = tmp_path / f"{attempt}.csv"
        fresh("-m", "pipeline", "score", "s3://bucket/models/portraits", "s3://bucket/photos", "--out", str(out))
        assert len(out.read_text().splitlines()) == 1 + NUMBER
