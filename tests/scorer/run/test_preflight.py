"""What would stop a run is found before it starts: on this machine's disk and in buckets on loopback."""

import hashlib
import inspect
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from components.ingestion.component import ingestion
from components.scorer import storage
from components.scorer.parameters import as_parameters
from components.scorer.run.preflight import run_checks
from components.scorer.settings import Faces, Ingestion
from components.scorer.upload_norms import policy
from pipeline.cli.main import main
from tests.builders import designed_faces
from tests.fakes import gcs


@pytest.fixture(params=["folder", "google", "amazon"])
def given(request, tmp_path) -> dict[str, str]:
    """A run's addresses, all in order, on a disk or in a bucket."""
    places = {"folder": str(tmp_path), "google": "gs://bucket", "amazon": "s3://bucket"}
    if request.param != "folder":
        request.getfixturevalue(request.param)
    base = places[request.param]
    files = {
        "photos": "photos/a.jpg", "ratings": "ratings.csv", "weights": "net.keras",
        "norms": "norms.json", "face_detector": "yunet.onnx", "face_embedder": "embedder.onnx",
    }  # fmt: skip
    contents = {
        "norms": policy.BUILT_IN_POLICY.read_bytes(),
        "face_detector": designed_faces.detector(),
        "face_embedder": designed_faces.embedder(),
    }
    for what, name in files.items():
        storage.write_bytes(f"{base}/{name}", contents.get(what, b"content"))
    addresses = {what: f"{base}/{name}" for what, name in files.items()} | {"photos": f"{base}/photos"}
    digest = hashlib.sha256(contents["face_detector"]).hexdigest()
    return addresses | {"models": f"{base}/m", "workspace": f"{base}/w", "face_detector_sha256": digest}


def listing(given: dict[str, str]) -> list[str]:
    return [file.name for file in storage.list_files(given["photos"].removesuffix("/photos"))]


def test_a_run_in_order_is_said_to_be_so_and_nothing_is_left_behind(given):
    before = listing(given)
    said = run_checks(given)
    assert [line.split()[0] for line in said] == [
        "photos", "ratings", "models", "workspace", "weights", "norms", "face_detector", "face_embedder", "the", "the"
    ]  # fmt: skip
    assert listing(given) == before


@pytest.mark.parametrize("name", ["photos", "ratings", "weights", "norms", "face_detector", "face_embedder"])
def test_what_is_not_there_is_named(given, name):
    with pytest.raises(ValueError, match=rf"1 thing is wrong; {name} .*gone.*: there is nothing at this address"):
        run_checks(given | {name: given[name].replace(".", "/gone.") if "." in given[name] else given[name] + "/gone"})


def test_a_face_detector_or_embedder_that_is_none_is_refused(given):
    storage.write_bytes(given["face_embedder"], b"no network")
    wrong = {"face_detector": given["ratings"], "face_detector_sha256": ""}
    with pytest.raises(ValueError, match=r"2 things are wrong; face_detector .*of YuNet.*; face_embedder .*ONNX"):
        run_checks(given | wrong)


def test_everything_that_is_wrong_is_told_at_once(given):
    wrong = {"ratings": given["ratings"] + ".gz", "weights": given["ratings"], "face_detector_sha256": "0" * 64}
    with pytest.raises(ValueError, match=r"3 things are wrong; ratings .*; weights .*; face_detector ") as raised:
        run_checks(given | wrong)
    assert "expected a .keras or .weights.h5 file" in str(raised.value)
    assert f"expected a file whose SHA-256 is face_detector_sha256, {'0' * 64}, got" in str(raised.value)


def test_norms_that_training_would_refuse_are_refused_here(given):
    storage.write_bytes(given["norms"], b"no JSON")
    with pytest.raises(ValueError, match=r"wrong; norms .*expected norms as JSON"):
        run_checks(given)


def test_drawn_photos_and_empty_parameters_are_passed_over():
    assert len(run_checks({"photos": "sample:", "ratings": "", "unlabelled": "tfds:x", "epochs": 3})) == 1


def test_weights_of_another_digest_are_refused(given):
    digest = hashlib.sha256(storage.read_bytes(given["weights"])).hexdigest()
    assert run_checks(given | {"weights_sha256": digest.upper()}) == run_checks(given)
    with pytest.raises(ValueError, match=f"expected a file whose SHA-256 is weights_sha256, {'0' * 64}, got {digest}"):
        run_checks(given | {"weights_sha256": "0" * 64})


def test_a_digest_without_its_file_is_refused():
    with pytest.raises(ValueError, match="settings of faces: face_detector_sha256 is given without face_detector"):
        run_checks({"face_detector_sha256": "0" * 64})


def test_a_disk_that_is_full_is_told_with_what_is_left(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 2**29, 2**29))
    with pytest.raises(ValueError, match=r"the disk: expected 1 GiB to be free for the data set, there are 0\.50 GiB"):
        run_checks({})


def test_a_folder_below_a_file_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"models .*file is no folder that this user may write to"):
        run_checks({"models": str(tmp_path / "file" / "models")})


def without(google: gcs.Server, monkeypatch, forbidden) -> None:
    """Let the server refuse what a service account without some right would be refused."""
    answer = google.answer

    def guarded(request: gcs.Request):
        if forbidden(request):
            raise gcs.Refused(403, "the account lacks the right")
        return answer(request)

    monkeypatch.setattr(google, "answer", guarded)


def test_a_bucket_that_may_only_be_read_is_found_out_before_a_version_is_to_be_published(google, monkeypatch):
    without(google, monkeypatch, lambda request: "upload" in request.path)
    with pytest.raises(ValueError, match=r"models gs://bucket/models: .*403"):
        run_checks({"models": "gs://bucket/models"})


def test_photos_that_may_be_listed_and_not_read_are_found_out_and_none_is_named(google, monkeypatch):
    storage.write_bytes("gs://bucket/photos/jane.jpg", b"photo")
    without(google, monkeypatch, lambda request: "jane" in request.path)
    with pytest.raises(
        ValueError, match="photos gs://bucket/photos: its files are listed, but cannot be read"
    ) as raised:
        run_checks({"photos": "gs://bucket/photos"})
    assert "jane" not in str(raised.value)


def test_storage_that_heeds_no_conditions_is_refused_for_two_runs_would_overwrite_each_other(google, monkeypatch):
    answer = google.answer

    def heedless(request: gcs.Request):
        request.query.pop("ifGenerationMatch", None)
        return answer(request)

    monkeypatch.setattr(google, "answer", heedless)
    with pytest.raises(ValueError, match="workspace gs://bucket/w: two writers would overwrite each other"):
        run_checks({"workspace": "gs://bucket/w"})
    assert google.data("bucket") == {}


def test_a_bucket_that_is_not_there_is_named_and_keeps_nothing_else_from_being_told(google):
    with pytest.raises(ValueError, match=r"2 things are wrong; photos gs://typo/p: .*; models gs://typo/m: "):
        run_checks({"photos": "gs://typo/p", "models": "gs://typo/m"})


def test_ingestion_looks_before_it_reads_any_photo(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_ID", "run-7")
    monkeypatch.setattr("components.ingestion.ingest.ingest", lambda *_, **__: pytest.fail("photos were read"))
    kind = namedtuple("artifact", "path uri")
    arguments = dict.fromkeys(inspect.signature(ingestion.python_func).parameters, "")
    places = {name: kind(str(tmp_path / name), "") for name in ("dataset", "report", "metrics")}
    settings = as_parameters(Ingestion()) | as_parameters(Faces())
    numbers = {name: value for name, value in settings.items() if name in arguments}
    own = {"photos": "sample:", "workspace": str(tmp_path), "weights": str(tmp_path / "gone.keras")}
    with pytest.raises(ValueError, match="before anything is trained: 1 thing is wrong; weights "):
        ingestion.python_func(**arguments | numbers | places | own)


def check(tmp_path: Path, *more: str) -> int:
    (tmp_path / "photos").mkdir(exist_ok=True)
    (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
    (tmp_path / "r.csv").write_text("photo,mean\na.jpg,5\n")
    places = [f"--{name}={tmp_path / name}" for name in ("photos", "models", "workspace")]
    return main(["check", *places, f"--ratings={tmp_path / 'r.csv'}", *more])


def test_the_command_line_says_what_is_in_order(tmp_path, capsys):
    assert check(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "parameters: 4 given, each of them in its range" in printed
    assert f"models {tmp_path / 'models'} can be written to" in printed
    assert not os.path.exists(tmp_path / "models")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "weights=gone.keras"], "1 thing is wrong; weights "),
        (["--set", "epochs=-1"], "epochs must be from 0"),
        (["--set", f"norms={json.dumps('x')}"], "1 thing is wrong; norms "),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_error(tmp_path, capsys, more, words):
    assert check(tmp_path, *more) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1


def test_the_check_asks_for_no_more_than_a_run_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
    (tmp_path / "r.csv").write_text("photo,mean\na.jpg,5\n")
    assert main(["check", "--photos=photos", "--ratings=r.csv"]) == 0
    assert f"models {tmp_path}/build/models can be written to" in capsys.readouterr().out
    assert main(["check"]) == 0
    assert f"models {tmp_path}/build/sample/models can be written to" in capsys.readouterr().out
    assert main(["check", "--photos=photos"]) == 2
    assert "--photos needs --ratings" in capsys.readouterr().err


def test_ratings_of_other_photos_are_found_out_and_no_photo_is_named(tmp_path, capsys):
    assert check(tmp_path) == 0
    assert "the ratings are a mean score a photo, of 1 photos that are there." in capsys.readouterr().out
    (tmp_path / "r.csv").write_text("photo,mean\nanna.jpg,5\n")
    command = ["check", f"--photos={tmp_path / 'photos'}", f"--ratings={tmp_path / 'r.csv'}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "1 thing is wrong; the ratings: expected ratings of the photos, got none that can be used" in error
    assert "anna" not in error
