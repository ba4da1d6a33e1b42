import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.scorer import storage
from components.scorer.registry import channels
from tests.fakes import gcs, s3

pytestmark = pytest.mark.slow

PLACES = ("folder", "gs", "s3")
SEGMENT = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty address of each kind."""
    if request.param == "folder":
        return str(tmp_path / "place")
    request.getfixturevalue({"gs": "google", "s3": "amazon"}[request.param])
    return f"{request.param}://bucket/place"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folder in the layout of a published version."""
    folder = tmp_path / "tree"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "version.json").write_text("{}")
    return folder


def names(uri: str) -> list[str]:
    return [file.name for file in storage.list_files(uri)]


# Addresses


@given(SEGMENT, st.lists(SEGMENT, max_size=4))
def test_joining_at_once_or_step_by_step_gives_the_same_address(bucket: str, parts: list[str]) -> None:
    parts = [part for part in parts if part != ".."]
    step_by_step = f"gs://{bucket}"
    for part in parts:
        step_by_step = storage.join(step_by_step, part)
    assert storage.join(f"gs://{bucket}/", *parts) == step_by_step


@pytest.mark.parametrize("part", ["..", "../secret", "a/../../b"])
def test_a_part_that_leads_upwards_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="leads upwards"):
        storage.join("/models", part)


@pytest.mark.parametrize("uri", ["ftp://host/file", "gs://", "file://host/share", "hdfs://a/b"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(uri: str) -> None:
    with pytest.raises(ValueError, match=r"expected a folder, file:///…, gs://bucket/… or s3://bucket/…, got"):
        storage.read_bytes(uri)


def test_an_empty_address_is_refused() -> None:
    with pytest.raises(ValueError, match="got an empty one"):
        list(storage.list_files(""))


def test_a_file_uri_is_the_path_it_names(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/100%25 odd.txt", b"x")
    assert (tmp_path / "100%25 odd.txt").read_bytes() == b"x"


# Every kind of storage


def test_written_bytes_are_read_again(place: str) -> None:
    uri = storage.join(place, "deep", "file.bin")
    storage.write_bytes(uri, b"\r\n\0--first")
    storage.write_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""
    storage.write_bytes(uri, b"\r\n\0--second\r\n")
    assert storage.read_bytes(uri) == b"\r\n\0--second\r\n"


def test_reading_a_missing_file_raises_file_not_found(place: str) -> None:
    with pytest.raises(FileNotFoundError, match="none here"):
        storage.read_bytes(storage.join(place, "none here"))


def test_exists_is_true_for_files_and_folders_and_false_for_name_prefixes(place: str) -> None:
    storage.write_bytes(storage.join(place, "folder", "file"), b"1")
    existing = [storage.exists(storage.join(place, name)) for name in ("folder/file", "folder", "fold", "folder/fi")]
    assert existing == [True, True, False, False]


def test_list_files_lists_every_depth_below_the_address_in_order_with_sizes(place: str) -> None:
    for name in ("a/2.jpg", "a/1.jpg", "a/b/Ä 3 (1).jpg", "ab/4.jpg"):
        storage.write_bytes(storage.join(place, name), name.encode())
    files = list(storage.list_files(storage.join(place, "a")))
    assert [file.name for file in files] == ["1.jpg", "2.jpg", "b/Ä 3 (1).jpg"]
    assert [storage.read_bytes(file.uri) for file in files] == [b"a/1.jpg", b"a/2.jpg", "a/b/Ä 3 (1).jpg".encode()]
    assert [file.size for file in files] == [7, 7, len("a/b/Ä 3 (1).jpg".encode())]


def test_a_version_in_a_listing_changes_when_the_file_does(place: str) -> None:
    uri = storage.join(place, "file")
    storage.write_bytes(uri, b"one")
    first_version = next(storage.list_files(place)).version
    assert next(storage.list_files(place)).version == first_version
    storage.write_bytes(uri, b"two")
    assert next(storage.list_files(place)).version != first_version


def test_a_missing_address_lists_nothing(place: str) -> None:
    assert names(place) == []
    assert storage.list_folders(place) == []


def test_list_folders_lists_direct_subfolders_only(place: str) -> None:
    for name in ("1/saved_model.pb", "2/variables/index", "10/a", "channels.json"):
        storage.write_bytes(storage.join(place, name), b"")
    assert storage.list_folders(place) == ["1", "10", "2"]


def test_a_listing_of_several_pages_is_complete(google: gcs.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "PAGE", 3)
    for name in "abcdefgh":
        storage.write_bytes(f"gs://bucket/{name}/file", b"")
    assert names("gs://bucket") == [f"{name}/file" for name in "abcdefgh"]
    assert storage.list_folders("gs://bucket") == list("abcdefgh")


def test_an_uploaded_tree_is_downloaded_unchanged(place: str, tree: Path, tmp_path: Path) -> None:
    storage.upload_tree(tree, place)
    storage.download_tree(place, tmp_path / "back")
    assert names(place) == names(str(tree)) == names(str(tmp_path / "back"))
    assert (tmp_path / "back" / "variables" / "variables.index").read_bytes() == b"index"


def test_downloading_an_empty_tree_raises_file_not_found(place: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected files below"):
        storage.download_tree(place, tmp_path / "back")


def test_deleting_a_tree_keeps_its_neighbours_and_can_be_repeated(place: str, tree: Path) -> None:
    storage.upload_tree(tree, storage.join(place, "1"))
    storage.upload_tree(tree, storage.join(place, "10"))
    storage.delete_tree(storage.join(place, "1"))
    storage.delete_tree(storage.join(place, "1"))
    assert storage.list_folders(place) == ["10"]


def test_deleting_a_file_removes_it(place: str) -> None:
    storage.write_bytes(storage.join(place, "a"), b"")
    storage.write_bytes(storage.join(place, "ab"), b"")
    storage.delete_tree(storage.join(place, "a"))
    assert names(place) == ["ab"]


@pytest.mark.parametrize("uri", ["/", "gs://bucket", "s3://bucket/"])
def test_a_whole_disk_or_bucket_is_never_deleted(uri: str) -> None:
    with pytest.raises(ValueError, match="everything there is"):
        storage.delete_tree(uri)


def test_json_is_read_back_unchanged_and_nan_is_refused(place: str) -> None:
    uri = storage.join(place, "value.json")
    storage.write_json(uri, {"name": "Zoë", "scores": [1, 2.5]})
    assert storage.read_json(uri) == {"name": "Zoë", "scores": [1, 2.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(uri, float("nan"))


def test_the_error_for_broken_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"champion": ')
    with pytest.raises(ValueError, match=r"expected JSON in .*broken\.json"):
        storage.read_json(str(tmp_path / "broken.json"))


# Many threads

COLD = """
import sys
import threading
import time

from components.scorer import storage

THREADS = 48
_, place, package, builder = sys.argv
failed, built = [], []


def read(first):
    time.sleep(first * 0.005)  # so that some come in the middle of another one's import
    try:
        for number in range(first, 240, THREADS):
            assert storage.read_bytes(f"{place}/{number}") == b"%d" % number
    except Exception as error:
        failed.append(repr(error))


def count(frame, event, argument):
    if event == "call" and frame.f_code.co_name == builder and package in frame.f_globals.get("__name__", ""):
        built.append(frame.f_code)


threading.setprofile(count)
threads = [threading.Thread(target=read, args=(first,)) for first in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed[:1], len(built))
"""
"""Reads 240 objects in 48 threads of a process without an imported client; prints a failure and the client count."""

BUILDERS = {"s3": ("botocore.session", "create_client"), "gs": ("google.cloud.storage.client", "__init__")}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_threads_of_a_fresh_process_read_hundreds_of_objects_through_one_client(
    scheme: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue({"gs": "google", "s3": "amazon"}[scheme])
    uri = f"{scheme}://bucket/place"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.write_bytes(f"{uri}/{number}", b"%d" % number), range(240)))
    command = [sys.executable, "-c", COLD, uri, *BUILDERS[scheme]]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[] 1", process.stdout


# Compare-and-swap


def test_a_write_with_an_old_version_conflicts_and_changes_nothing(place: str) -> None:
    uri = storage.join(place, "file")
    storage.write_if(uri, b"one", "")
    _, first = storage.read_versioned(uri)
    storage.write_if(uri, b"two", first)
    for stale in ("", first):
        with pytest.raises(storage.WriteConflict):
            storage.write_if(uri, b"three", stale)
    assert storage.read_versioned(uri)[0] == b"two"


def test_a_write_with_the_version_of_a_deleted_file_conflicts(place: str) -> None:
    uri = storage.join(place, "file")
    storage.write_if(uri, b"one", "")
    _, version = storage.read_versioned(uri)
    storage.delete_tree(uri)
    with pytest.raises(storage.WriteConflict):
        storage.write_if(uri, b"two", version)
    assert storage.read_versioned(uri) == (None, "")


def test_one_of_many_concurrent_creations_succeeds(place: str) -> None:
    uri = storage.join(place, "claim")

    def create(number: int) -> bool:
        try:
            storage.write_if(uri, b"%d" % number, "")
        except storage.WriteConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert storage.read_bytes(uri) == b"%d" % created.index(True)


def test_google_gets_one_request_for_each_object_and_none_for_the_bucket(google: gcs.Server) -> None:
    storage.write_bytes("gs://bucket/file", b"content")
    assert storage.read_bytes("gs://bucket/file") == b"content"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("gs://bucket/another")
    assert [(request.method, request.path) for request in google.requests] == [
        ("POST", "/upload/storage/v1/b/bucket/o"),
        ("GET", "/download/storage/v1/b/bucket/o/file"),
        ("GET", "/download/storage/v1/b/bucket/o/another"),
    ]


def test_a_conditional_write_whose_response_got_lost_counts_as_done(google: gcs.Server) -> None:
    google.fail(lambda request: request.method == "POST", "lost")
    storage.write_if("gs://bucket/file", b"mine", "")
    assert google.data("bucket") == {"file": b"mine"}


def test_concurrent_reservations_give_every_run_its_own_number(place: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda run: channels.reserve_version(place, "scorer", f"run-{run}", "sha"), range(6)))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


def _claim(place: str, start: "multiprocessing.synchronize.Barrier", run: int, found: multiprocessing.Queue) -> None:
    start.wait()
    for part in range(5):
        found.put(channels.reserve_version(place, "scorer", f"run-{run}", f"scorer-{part}"))


def test_reservations_by_several_processes_on_one_disk_are_all_different(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, reserved = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_claim, args=(str(tmp_path), start, run, reserved)) for run in range(4)]
    for worker in workers:
        worker.start()
    numbers = [reserved.get(timeout=30) for _ in range(20)]
    for worker in workers:
        worker.join()
    assert sorted(numbers) == list(range(1, 21))


# Channels


def test_a_run_that_reserves_again_gets_its_number_again(place: str) -> None:
    first = channels.reserve_version(place, "scorer", "run-a", "sha")
    channels.reserve_version(place, "scorer", "run-b", "sha")
    assert channels.reserve_version(place, "scorer", "run-a", "sha") == first == 1
    assert channels.reserve_version(place, "scorer", "run-a", "other scorer") == 3


def test_a_number_of_an_existing_folder_is_not_reserved_and_no_number_is_reserved_twice(tmp_path: Path) -> None:
    (tmp_path / "scorer" / "7").mkdir(parents=True)
    (tmp_path / "scorer" / "drafts").mkdir()
    assert channels.reserve_version(str(tmp_path), "scorer", "run-a", "sha") == 8
    (tmp_path / "scorer" / "7").rmdir()
    assert channels.reserve_version(str(tmp_path), "scorer", "run-b", "sha") == 9


def test_promoting_moves_the_champion_to_previous_and_keeps_other_entries(place: str) -> None:
    assert channels.read(place, "scorer") == {}
    storage.write_json(storage.join(place, "scorer", "channels.json"), {"note": "mine"})
    channels.promote_pushed(place, "scorer", 1)
    channels.promote_pushed(place, "scorer", 2)
    assert channels.read(place, "scorer") == {"note": "mine", "champion": 2, "previous": 1}


def test_promoting_the_champion_again_changes_nothing(place: str) -> None:
    channels.promote_pushed(place, "scorer", 1)
    channels.promote_pushed(place, "scorer", 2)
    assert channels.promote_pushed(place, "scorer", 2) == {"champion": 2, "previous": 1}


def test_concurrent_promotions_end_with_the_newest_version(place: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda version: channels.promote_pushed(place, "scorer", version), [3, 6, 1, 5, 2, 4]))
    current = channels.read(place, "scorer")
    assert current["champion"] == 6
    assert current["previous"] in (None, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("content", ["[1]", "{", '{"champion": "3"}', '{"champion": true}', '{"champion": 0}'])
def test_malformed_channels_are_named_and_not_changed(tmp_path: Path, content: str) -> None:
    file = tmp_path / "scorer" / "channels.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(ValueError, match=r"channels\.json"):
        channels.promote_pushed(str(tmp_path), "scorer", 4)
    assert file.read_text() == content


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "with space"])
def test_a_model_name_is_one_plain_folder_name(name: str) -> None:
    with pytest.raises(ValueError, match="expected a model name"):
        channels.folder("/models", name)


# Failures


@pytest.mark.parametrize("trouble", [503, 429, "reset", "half", "lost"])
def test_a_resumable_upload_survives_a_failure_in_its_middle(google: gcs.Server, trouble: gcs.Trouble) -> None:
    content = os.urandom(20 * MIB + 5)
    google.fail(lambda request: request.range.startswith(f"bytes {8 * MIB}-"), trouble)
    storage.write_bytes("gs://bucket/large", content)
    assert google.data("bucket")["large"] == content
    chunks = [request.range for request in google.requests if request.method == "PUT"]
    assert chunks.count(f"bytes 0-{8 * MIB - 1}/{len(content)}") == 1, "it went on and did not begin anew"
    assert len(chunks) > 3, "the trouble came"


@pytest.mark.parametrize("trouble", [503, "lost"])
def test_every_google_call_survives_one_failure(google: gcs.Server, trouble: gcs.Trouble, tree: Path) -> None:
    storage.upload_tree(tree, "gs://bucket/other")
    calls = [
        lambda: storage.write_bytes("gs://bucket/1/file", b"content"),
        lambda: storage.read_bytes("gs://bucket/1/file"),
        lambda: storage.read_versioned("gs://bucket/1/file"),
        lambda: storage.exists("gs://bucket/1/file"),
        lambda: list(storage.list_files("gs://bucket/1")),
        lambda: storage.list_folders("gs://bucket"),
        lambda: storage.delete_tree("gs://bucket/1"),
    ]
    for call in calls:
        google.fail(lambda request: "/o" in request.path, trouble)
        call()
    assert names("gs://bucket") == ["other/saved_model.pb", "other/variables/variables.index", "other/version.json"]


def test_s3_calls_survive_throttling(amazon: s3.Server) -> None:
    amazon.fail(lambda environ: True, 503, 503)
    storage.write_bytes("s3://bucket/file", b"content")
    amazon.fail(lambda environ: True, 503)
    assert storage.read_bytes("s3://bucket/file") == b"content"


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_dead_endpoint_fails_in_seconds_and_names_the_address(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", dead)
    monkeypatch.setenv("AWS_ENDPOINT_URL", dead)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setattr(storage, "DEADLINE", 2.0)
    monkeypatch.setattr(storage, "_S3_ATTEMPTS", 2)
    start = time.monotonic()
    with pytest.raises(storage.StorageError, match=f"cannot read {scheme}://bucket/file: .*check the address"):
        storage.read_bytes(f"{scheme}://bucket/file")
    assert time.monotonic() - start < 10


def test_the_deadline_of_a_call_is_below_a_minute() -> None:
    assert storage.DEADLINE + sum(storage.TIMEOUT) <= 65


@pytest.mark.parametrize(("place", "server"), [("gs", "google"), ("s3", "amazon")])
def test_the_error_for_a_missing_bucket_names_its_address(
    place: str, server: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(server)
    with pytest.raises(storage.StorageError, match=f"cannot write {place}://nowhere/file: .*bucket"):
        storage.write_bytes(f"{place}://nowhere/file", b"")
    with pytest.raises(storage.StorageError, match=f"cannot list {place}://nowhere/"):
        names(f"{place}://nowhere")


def test_an_interrupted_upload_leaves_no_saved_model(
    google: gcs.Server, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "DEADLINE", 1.0)
    google.fail(lambda request: request.method == "POST" and b"variables.index" in request.body, *[503] * 20)
    with pytest.raises(storage.StorageError, match=r"cannot write gs://bucket/1/variables/variables\.index"):
        storage.upload_tree(tree, "gs://bucket/1")
    assert "1/saved_model.pb" not in google.data("bucket")


def test_saved_model_is_uploaded_last_and_removed_first(google: gcs.Server, tree: Path) -> None:
    storage.upload_tree(tree, "gs://bucket/1")
    uploads = [request.body for request in google.requests if request.method == "POST"]
    assert len(uploads) == 3
    assert b"1/saved_model.pb" in uploads[-1]
    storage.delete_tree("gs://bucket/1")
    removed = [request.path for request in google.requests if request.method == "DELETE"]
    assert removed[0].endswith("1%2Fsaved_model.pb")


def test_an_object_name_outside_of_the_folder_is_not_downloaded(google: gcs.Server, tmp_path: Path) -> None:
    storage.write_bytes("gs://bucket/photos/../../outside.jpg", b"x")
    with pytest.raises(ValueError, match="leads upwards"):
        storage.download_tree("gs://bucket/photos", tmp_path / "deep" / "photos")
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_failed_local_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    storage.write_bytes(str(file), b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(str(file), "not bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_killed_writers_partial_file_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".channels.json.k2j3.partial").write_bytes(b"half")
    storage.write_if(str(tmp_path / "channels.json"), b"{}", "")
    assert names(str(tmp_path)) == ["channels.json"]


def test_a_written_file_has_the_default_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    storage.write_bytes(str(tmp_path / "written"), b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_reader_never_reads_a_partial_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "file.json")
    values = [{"n": number, "filling": "x" * 200_000} for number in range(2)]
    storage.write_json(uri, values[0])
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [storage.write_json(uri, values[number % 2]) for number in range(60)])
        while not writing.done():
            assert json.loads(Path(uri).read_bytes()) in values
