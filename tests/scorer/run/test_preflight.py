"""Preflight checks find errors before a run starts: on this machine's disk and in buckets on loopback."""

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
    """Valid addresses of a run, on a disk or in a bucket."""
    bases = {"folder": str(tmp_path), "google": "gs://bucket", "amazon": "s3://bucket"}
    if request.param != "folder":
        request.getfixturevalue(request.param)
    base = bases[request.param]
    files = {
        "photos": "photos/a.jpg", "ratings": "ratings.csv", "weights": "net.keras",
        "norms": "norms.json", "face_detector": "yunet.onnx", "face_embedder": "embedder.onnx",
    }  # fmt: skip
    contents = {
        "norms": policy.BUILT_IN_POLICY.read_bytes(),
        "face_detector": designed_faces.detector(),
        "face_embedder": designed_faces.embedder(),
    }
    for kind, name in files.items():
        storage.write_bytes(f"{base}/{name}", contents.get(kind, b"content"))
    addresses = {kind: f"{base}/{name}" for kind, name in files.items()} | {"photos": f"{base}/photos"}
    digest = hashlib.sha256(contents["face_detector"]).hexdigest()
    return addresses | {"models": f"{base}/m", "workspace": f"{base}/w", "face_detector_sha256": digest}


def listing(given: dict[str, str]) -> list[str]:
    return [file.name for file in storage.list_files(given["photos"].removesuffix("/photos"))]


@pytest.mark.slow
def test_a_valid_run_passes_every_check_and_no_file_is_left_behind(given):
    files_before = listing(given)
    lines = run_checks(given)
    assert [line.split()[0] for line in lines] == [
        "photos", "ratings", "models", "workspace", "weights", "norms", "face_detector", "face_embedder", "the", "the"
    ]  # fmt: skip
    assert listing(given) == files_before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos", "ratings", "weights", "norms", "face_detector", "face_embedder"])
def test_a_missing_input_is_named(given, name):
    with pytest.raises(ValueError, match=rf"1 thing is wrong; {name} .*gone.*: there is nothing at this address"):
        run_checks(given | {name: given[name].replace(".", "/gone.") if "." in given[name] else given[name] + "/gone"})


@pytest.mark.slow
def test_an_invalid_face_detector_or_embedder_is_refused(given):
    storage.write_bytes(given["face_embedder"], b"no network")
    wrong_addresses = {"face_detector": given["ratings"], "face_detector_sha256": ""}
    with pytest.raises(ValueError, match=r"2 things are wrong; face_detector .*of YuNet.*; face_embedder .*ONNX"):
        run_checks(given | wrong_addresses)


@pytest.mark.slow
def test_all_errors_are_reported_at_once(given):
    wrong_parameters = {
        "ratings": given["ratings"] + ".gz",
        "weights": given["ratings"],
        "face_detector_sha256": "0" * 64,
    }
    with pytest.raises(ValueError, match=r"3 things are wrong; ratings .*; weights .*; face_detector ") as raised:
        run_checks(given | wrong_parameters)
    assert "expected a .keras or .weights.h5 file" in str(raised.value)
    assert f"expected a file whose SHA-256 is face_detector_sha256, {'0' * 64}, got" in str(raised.value)


@pytest.mark.slow
def test_upload_norms_are_validated(given):
    storage.write_bytes(given["norms"], b"no JSON")
    with pytest.raises(ValueError, match=r"wrong; norms .*expected norms as JSON"):
        run_checks(given)


def test_the_drawn_sample_and_empty_parameters_are_not_checked():
    assert len(run_checks({"photos": "sample:", "ratings": "", "unlabelled": "tfds:x", "epochs": 3})) == 1


@pytest.mark.slow
def test_weights_of_another_digest_are_refused(given):
    digest = hashlib.sha256(storage.read_bytes(given["weights"])).hexdigest()
    assert run_checks(given | {"weights_sha256": digest.upper()}) == run_checks(given)
    with pytest.raises(ValueError, match=f"expected a file whose SHA-256 is weights_sha256, {'0' * 64}, got {digest}"):
        run_checks(given | {"weights_sha256": "0" * 64})


def test_a_digest_without_its_file_is_refused():
    with pytest.raises(ValueError, match="settings of faces: face_detector_sha256 is given without face_detector"):
        run_checks({"face_detector_sha256": "0" * 64})


def test_a_full_disk_is_reported_with_its_free_space(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 2**29, 2**29))
    with pytest.raises(ValueError, match=r"the disk: expected 1 GiB to be free for the data set, there are 0\.50 GiB"):
        run_checks({})


def test_a_folder_below_a_file_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"models .*file is no folder that this user may write to"):
        run_checks({"models": str(tmp_path / "file" / "models")})


def without(google: gcs.Server, monkeypatch, forbidden) -> None:
    """Make the server refuse the requests for which the service account lacks the right."""
    answer = google.answer

    def answer_with_rights(request: gcs.Request):
        if forbidden(request):
            raise gcs.Refused(403, "the account lacks the right")
        return answer(request)

    monkeypatch.setattr(google, "answer", answer_with_rights)


@pytest.mark.slow
def test_a_read_only_models_bucket_is_reported(google, monkeypatch):
    without(google, monkeypatch, lambda request: "upload" in request.path)
    with pytest.raises(ValueError, match=r"models gs://bucket/models: .*403"):
        run_checks({"models": "gs://bucket/models"})


@pytest.mark.slow
def test_unreadable_photos_are_reported_without_their_names(google, monkeypatch):
    storage.write_bytes("gs://bucket/photos/jane.jpg", b"photo")
    without(google, monkeypatch, lambda request: "jane" in request.path)
    with pytest.raises(
        ValueError, match="photos gs://bucket/photos: its files are listed, but cannot be read"
    ) as raised:
        run_checks({"photos": "gs://bucket/photos"})
    assert "jane" not in str(raised.value)


@pytest.mark.slow
def test_storage_without_conditional_writes_is_refused(google, monkeypatch):
    answer = google.answer

    def answer_without_conditions(request: gcs.Request):
        request.query.pop("ifGenerationMatch", None)
        return answer(request)

    monkeypatch.setattr(google, "answer", answer_without_conditions)
    with pytest.raises(ValueError, match="workspace gs://bucket/w: two writers would overwrite each other"):
        run_checks({"workspace": "gs://bucket/w"})
    assert google.data("bucket") == {}


@pytest.mark.slow
def test_every_missing_bucket_is_named(google):
    with pytest.raises(ValueError, match=r"2 things are wrong; photos gs://typo/p: .*; models gs://typo/m: "):
        run_checks({"photos": "gs://typo/p", "models": "gs://typo/m"})


def test_ingestion_runs_the_checks_before_it_reads_any_photo(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_ID", "run-7")
    monkeypatch.setattr("components.ingestion.ingest.ingest", lambda *_, **__: pytest.fail("photos were read"))
    artifact_type = namedtuple("artifact", "path uri")
    arguments = dict.fromkeys(inspect.signature(ingestion.python_func).parameters, "")
    artifacts = {name: artifact_type(str(tmp_path / name), "") for name in ("dataset", "report", "metrics")}
    settings = as_parameters(Ingestion()) | as_parameters(Faces())
    numbers = {name: value for name, value in settings.items() if name in arguments}
    run_parameters = {"photos": "sample:", "workspace": str(tmp_path), "weights": str(tmp_path / "gone.keras")}
    with pytest.raises(ValueError, match="before anything is trained: 1 thing is wrong; weights "):
        ingestion.python_func(**arguments | numbers | artifacts | run_parameters)


def check(tmp_path: Path, *more: str) -> int:
    (tmp_path / "photos").mkdir(exist_ok=True)
    (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
    (tmp_path / "r.csv").write_text("photo,mean\na.jpg,5\n")
    options = [f"--{name}={tmp_path / name}" for name in ("photos", "models", "workspace")]
    return main(["check", *options, f"--ratings={tmp_path / 'r.csv'}", *more])


def test_the_check_command_prints_the_passed_checks(tmp_path, capsys):
    assert check(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "parameters: 4 given, each of them in its range" in printed
    assert f"models {tmp_path / 'models'} can be written to" in printed
    assert not os.path.exists(tmp_path / "models")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "weights=gone.keras"], "1 thing is wrong; weights "),
        (["--set", "epochs=-1"], "epochs must be from 0"),
        (["--set", f"norms={json.dumps('x')}"], "1 thing is wrong; norms "),
    ],
)
def test_the_check_command_prints_all_errors_in_one_line(tmp_path, capsys, more, words):
    assert check(tmp_path, *more) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1


def test_the_check_command_has_the_defaults_of_the_run_command(tmp_path, monkeypatch, capsys):
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


def test_ratings_of_other_photos_are_reported_without_photo_names(tmp_path, capsys):
    assert check(tmp_path) == 0
    assert "the ratings are a mean score a photo, of 1 photos that are there." in capsys.readouterr().out
    (tmp_path / "r.csv").write_text("photo,mean\nanna.jpg,5\n")
    command = ["check", f"--photos={tmp_path / 'photos'}", f"--ratings={tmp_path / 'r.csv'}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "1 thing is wrong; the ratings: expected ratings of the photos, got none that can be used" in error
    assert "anna" not in error
