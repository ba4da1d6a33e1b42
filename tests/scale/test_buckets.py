"""Photos and versions in S3, met first by threads and processes of fresh interpreters: twenty times over.

What several threads use for the first time at once fails now and then, and only in a process that has never used it. So
each claim is tried by new interpreters. Where a whole command takes long to start, most run its part that meets the
bucket.
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
"""Inspects every photo, with a folder of its own, on the processes of this machine or as options of Beam say."""

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
"""Reads photos as `score_folder.score_folder` does, by threads that nothing has gone before, and without TensorFlow."""


@pytest.fixture(scope="module")
def bucket(small_scorer) -> None:
    """Hundreds of photos, their ratings and a published model in a bucket of a server that answers many at once."""
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
            list(pool.map(lambda n: storage.write_bytes(f"s3://bucket/photos/{n}.jpg", photo), range(NUMBER)))
        ratings = "".join(f"{number}.jpg,{1 + number % 10},9\n" for number in range(NUMBER))
        storage.write_bytes("s3://bucket/ratings.csv", f"photo,mean,count\n{ratings}".encode())
        _publish(small_scorer)
        yield
    server.stop()


def _publish(small_scorer: Path) -> None:
    """Put a version into the bucket, as the champion."""
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
    """The last line that a new interpreter prints, which ends well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def code(bucket, tmp_path):
    """A way to run code of above in a new interpreter."""

    def run(text: str, *arguments: str) -> str:
        file = tmp_path / "code.py"
        file.write_text(text)
        return fresh(str(file), *arguments)

    return run


def test_photos_are_inspected_by_processes_of_a_fresh_interpreter_each_time(code, tmp_path):
    for time in range(TIMES):
        assert code(INSPECT, str(tmp_path / str(time)), "") == str(NUMBER)


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_photos_are_inspected_by_beam_in_a_fresh_interpreter_each_time(code, tmp_path, mode):
    for time in range(TIMES // 2):
        assert code(INSPECT, str(tmp_path / str(time)), BEAM.format(mode)) == str(NUMBER)


def test_a_run_on_a_bucket_is_checked_by_a_fresh_interpreter_each_time(bucket):
    for _ in range(TIMES):
        fresh("-m", "pipeline", "check", "--photos", "s3://bucket/photos", "--ratings", "s3://bucket/ratings.csv")


def test_a_version_is_fetched_for_a_server_by_a_fresh_interpreter_each_time(code, tmp_path):
    for time in range(TIMES):
        place = code(FETCH, str(tmp_path / str(time)))
        assert Path(place, "portable", "scorer.tflite").is_file()


def test_photos_are_read_for_their_scores_by_threads_of_a_fresh_interpreter_each_time(code):
    for _ in range(TIMES):
        assert code(READ, str(NUMBER)) == str(NUMBER)


def test_photos_are_scored_by_a_fresh_interpreter_each_time(bucket, tmp_path):
    for time in range(TIMES // 5):
        out = tmp_path / f"{time}.csv"
        fresh("-m", "pipeline", "score", "s3://bucket/models/portraits", "s3://bucket/photos", "--out", str(out))
        assert len(out.read_text().splitlines()) == 1 + NUMBER
