"""Messages show the redacted shape of a photo's name only."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ingestion.ingest import ingest
from components.notification.notify import notify
from components.scorer import storage
from components.scorer.redaction import redact, redact_path
from components.scorer.run import step_status
from components.scorer.settings import Ingestion


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("anna_schmidt.jpg", "•••.jpg"),
        ("families/anna_schmidt_1987-03-01.JPG", "•••/•••.JPG"),
        ("/home/anna/schmidt.heic", "/•••/•••/•••.heic"),
        ("https://host/anna/1.png", "https://•••/•••/•••.png"),
        ("C:\\photos\\anna.jpeg", "C:\\•••\\•••.jpeg"),
        ("anna schmidt", "•••"),
        ("anna.schmidt", "•••"),
        ("Anna:Schmidt.jpg", "•••.jpg"),
        ("", ""),
    ],
)
def test_a_redacted_path_keeps_scheme_depth_and_suffix(name, shown):
    assert redact_path(name) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("there is no gs://b/p/anna schmidt.jpg: gone", "there is no gs://•••/•••/•••.jpg: gone"),
        ("[Errno 13] Permission denied: '/data/Anna Schmidt.jpg'", "[Errno 13] Permission denied: '/•••/•••.jpg'"),
        ("got ['anna.jpg', '7'] for anna.jpeg.", "got ['•••.jpg', '7'] for •••.jpeg."),
        ("can't read 'anna.jpg'", "can't read '•••.jpg'"),
        ('PosixPath("a/b.webp"), a/c.TIF', 'PosixPath("•••/•••.webp"), •••/•••.TIF'),
        ("expected ratings.csv in gs://bucket/photos (3 %)", "expected ratings.csv in gs://bucket/photos (3 %)"),
    ],
)
def test_photo_names_in_a_text_are_redacted(text, shown):
    assert redact(text) == shown


_WORD = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=4, max_size=9).filter(
    lambda word: word not in "cannot read: gone heic Tiff"
)


@pytest.mark.slow
@given(st.lists(_WORD, min_size=1, max_size=4), st.sampled_from([".jpg", ".PNG", ".heic", ".Tiff"]))
def test_no_word_of_a_path_remains(words, suffix):
    text = redact(f"cannot read: /{'/'.join(words)}{suffix}: gone")
    assert not [word for word in words if word in text]


ANNA = "anna_schmidt_1987-03-01"
RATINGS = {
    "all left out": "photo,mean\n{0}.jpg,5\n",
    "two values": "photo,mean\n{0},5\n{0},6\n",
    "two groups": "photo,rater,score,group\n{0},x,5,{0}\n{0},y,5,other\n",
    "two splits": "photo,mean,split\n{0},5,test\n{0},5,train\n",
    "no header": "{0}.jpg,5\n{0}.jpg,6\n",
    "no photo": "name of the person,mean\n{0},5\n",
    "shifted": "photo,mean\n5,{0}.jpg\n",
    "label too short": '[{{"image_id": "{0}", "label": [1]}}]',
    "by name": '{{"{0}": [1, 2]}}',
    "id in a list": '[{{"image_id": ["{0}"], "label": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}}]',
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", RATINGS)
def test_the_messages_of_a_failed_ingestion_hold_no_photo_name(fault, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(step_status.RUN_ID, "run-1")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"{ANNA}.jpg").write_bytes(b"rotten")
    (tmp_path / "ratings").write_text(RATINGS[fault].format(ANNA))
    workspace = str(tmp_path / "workspace")
    with (
        pytest.raises((ValueError, RuntimeError)) as raised,
        step_status.record_step("ingestion", workspace) as run_paths,
    ):
        ingest(
            str(tmp_path / "photos"), str(tmp_path / "ratings"), str(tmp_path / "dataset"), str(tmp_path / "page.html"),
            workspace=run_paths, settings=Ingestion(),
        )  # fmt: skip
    notify("FAILED", run_paths, message=f"[Errno 5] Input/output error: '/data/{ANNA}.jpg'")
    records = "".join(
        Path(file.uri).read_text() for uri in (run_paths.steps, run_paths.decision) for file in storage.list_files(uri)
    )
    messages = str(raised.value) + Path(run_paths.decision).read_text() + records + "".join(capfd.readouterr())
    assert "failed" in messages
    assert [word for word in ("anna", "schmidt", "1987") if word in messages] == []


def test_the_log_of_a_step_holds_a_librarys_error_without_photo_names(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(step_status.RUN_ID, "run-1")
    missing = tmp_path / f"{ANNA}.jpg"
    with pytest.raises(RuntimeError, match=r"OSError: .*/•••\.jpg"), step_status.record_step("training", str(tmp_path)):
        _read(missing)
    log = capfd.readouterr().err
    assert "FileNotFoundError: [Errno 2]" in log
    assert "schmidt" not in log


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise OSError(f"cannot read {path}") from error
