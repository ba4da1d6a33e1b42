"""A version with a changed file is neither loaded nor served nor promoted."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.checks.champion_predictions import score_champion
from components.scorer import storage
from components.scorer.artifacts import bundle, litert_model, promotion, saved_model
from components.scorer.batch import score_many
from components.scorer.batch.score_folder import score_folder
from components.scorer.explain import page
from components.scorer.registry import channels, integrity
from components.validation.reference_champion import read_champion
from images.serving.inference import version_source
from images.serving.settings import ServerSettings
from tests.builders.servers import Here, until
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

NAME = "portraits"
SAVED_MODEL, NETWORK = "variables/variables.data-00000-of-00001", "portable/scorer.tflite"
FILES = ("saved_model.pb", SAVED_MODEL, NETWORK, "portable/portable.json", "bundle/scorer.keras", "profile.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_scorer) -> Path:
    """Models folder with versions 1 and 2 of one model in push's layout; version 2 is the champion."""
    models = tmp_path_factory.mktemp("models")
    first, second = (Path(channels.address(str(models), NAME, version)) for version in (1, 2))
    scorer = bundle.load(small_scorer)
    saved_model.export(scorer, first)
    saved_model.export_litert(scorer, first, NAME)
    shutil.copytree(small_scorer, first / saved_model.BUNDLE_FOLDER)
    (first / "profile.json").write_text("{}")
    shutil.copytree(first, second)
    for number, folder in enumerate((first, second), 1):
        integrity.write_record(folder, {"version": number})
        channels.promote_pushed(str(models), NAME, number, why="a test")
    return models


@pytest.fixture
def models(whole, tmp_path) -> Path:
    """Copy of the models folder that the test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "models"))


def version(models: Path, number: int) -> Path:
    return models / NAME / str(number)


def flip(file: Path, bits: int = 2000) -> None:
    """Flip bits in the middle half of a file, away from the header and the end."""
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    positions = np.random.default_rng(0).integers(len(data) // 4, len(data) - len(data) // 4, min(bits, len(data) // 2))
    data[np.unique(positions)] ^= 1
    file.write_bytes(data.tobytes())


def refused(name: str) -> str:
    return rf"{name} is not as it was published: expected SHA-256 \w{{12}}…, got SHA-256 \w{{12}}…; copy it back"


# The digests


def test_the_record_holds_the_digest_of_every_file_but_itself(models):
    record = storage.read_json(str(version(models, 1) / "version.json"))
    assert set(record["files"]) == {file.name for file in storage.list_files(str(version(models, 1)))} - {
        "version.json"
    }
    assert record["version"] == 1
    integrity.check_files(version(models, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(0, 7))
def test_a_single_flipped_bit_is_detected_at_any_position(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("version")
    data = bytearray(range(250)) * 4
    (folder / "file").write_bytes(data)
    integrity.write_record(folder, {})
    data[place] ^= 1 << bit
    (folder / "file").write_bytes(data)
    with pytest.raises(ValueError, match=refused("file") + " from where it is whole, or let another version answer"):
        integrity.check_files(folder)


def test_a_missing_file_and_an_additional_file_are_named(models):
    folder = version(models, 1)
    (folder / "portable" / "norms.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"portable/norms.json is not as .*: expected no such file, got SHA-256 \w{12}…; remove it"
    ):
        litert_model.load(str(folder))
    (folder / "portable" / "norms.json").unlink()
    (folder / SAVED_MODEL).unlink()
    with pytest.raises(ValueError, match=rf"{SAVED_MODEL} is not as .*: expected SHA-256 \w{{12}}…, got no such file;"):
        saved_model.load(str(folder))


@pytest.mark.parametrize("files", ["a list", ["saved_model.pb"], {"saved_model.pb": 1}, None])
def test_a_record_with_malformed_digests_is_refused(models, files):
    storage.write_json(str(version(models, 1) / "version.json"), {"files": files})
    with pytest.raises(
        ValueError, match=r"expected /.*/version.json to name each file .* under files, got another value; publish"
    ):
        litert_model.load(str(version(models, 1)))


# Without digests


def without_a_record(folder: Path) -> None:
    (folder / "version.json").unlink()


def without_digests(folder: Path) -> None:
    storage.write_json(str(folder / "version.json"), {"version": 2, "files": {}})


WITHOUT = {without_a_record: "no such file", without_digests: "no digests"}


def unnamed(came: str) -> str:
    return (
        rf"expected .*version\.json to name each file of the version with its SHA-256 under files, got {came};"
        r" publish the scorer again in a new run, or let another version answer \(python -m pipeline models rollback\)"
    )


@pytest.fixture(params=WITHOUT)
def bare(request, models) -> str:
    """Remove the digests of version 2 and return the pattern of the expected error."""
    request.param(version(models, 2))
    return unnamed(WITHOUT[request.param])


@pytest.mark.parametrize("load", [saved_model.load, litert_model.load, saved_model.load_bundle])
def test_a_version_without_digests_is_not_loaded(models, bare, load):
    with pytest.raises(ValueError, match=bare):
        load(str(version(models, 2)))


def test_a_version_without_digests_is_neither_promoted_nor_rolled_back_to(models, bare):
    promotion.rollback(str(models), NAME, why="to the sound one")
    channels_before = (models / NAME / "channels.json").read_bytes()
    with pytest.raises(ValueError, match=f"no channel was moved: .*{bare}"):
        promotion.promote(str(models), NAME, 2, why="a test")
    with pytest.raises(ValueError, match=f"no channel was moved: .*{bare}"):
        promotion.rollback(str(models), NAME, why="a test")
    assert (models / NAME / "channels.json").read_bytes() == channels_before


def test_a_version_without_digests_scores_no_photos(models, bare, tmp_path):
    storage.write_bytes(str(tmp_path / "photos" / "a.jpg"), drawn_photo(0.5, size=(80, 96)))
    with pytest.raises(ValueError, match=bare):
        score_folder(str(models), str(tmp_path / "photos"), tmp_path / "scores.csv")
    with pytest.raises(ValueError, match=bare):
        score_many.score_and_rank(str(models), str(tmp_path / "photos"), str(tmp_path / "shards"))


def test_evaluation_and_validation_report_a_champion_without_digests(models, bare):
    assert re.search(bare, score_champion(str(models), NAME, lambda: iter([]), 0).error)
    assert re.search(bare, read_champion(str(models), NAME).error)


def test_no_file_of_a_version_without_digests_is_fetched_from_a_bucket(models, bare, amazon, tmp_path):
    storage.upload_tree(version(models, 2), "s3://bucket/models/portraits/2")
    with pytest.raises(ValueError, match=f"s3://bucket/.*{bare.removeprefix('expected .*')}"):
        version_source.fetch_version("s3://bucket/models/portraits/2", fetching(tmp_path))
    assert [file for file in (tmp_path / "kept").rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_a_server_keeps_its_version_if_the_new_champion_has_no_digests(models, bare):
    promotion.rollback(str(models), NAME, why="a test")
    with Here(ServerSettings(workers=1, interval=0.05, model=str(models))) as server:
        channels.set_channel(str(models), NAME, 2, why="by hand")
        until(lambda: server.state.version_manager.failure, "the failure is told")
        assert re.search(bare, server.state.version_manager.failure["why"])
        assert server.get("/ready").json()["version"] == "1"


# Promotion and rollback


@pytest.mark.parametrize("name", FILES)
def test_no_channel_is_moved_to_a_version_with_a_changed_file(models, name):
    flip(version(models, 1) / name)
    channels_before = (models / NAME / "channels.json").read_bytes()
    with pytest.raises(ValueError, match=f"no channel was moved: .*{refused(name)}"):
        promotion.promote(str(models), NAME, 1, why="a test")
    with pytest.raises(ValueError, match=f"no channel was moved: .*{refused(name)}"):
        promotion.rollback(str(models), NAME, why="a test")
    assert (models / NAME / "channels.json").read_bytes() == channels_before


@pytest.mark.parametrize("place", ["on a disk", "in a bucket"])
def test_each_file_of_a_version_is_hashed_once_before_its_promotion(models, amazon, monkeypatch, place):
    uri, hashed, sha256 = str(models), [], integrity.sha256
    if place == "in a bucket":
        uri = "s3://bucket/models"
        storage.upload_tree(models, uri)
    monkeypatch.setattr(integrity, "sha256", lambda path: hashed.append(path) or sha256(path))
    promotion.promote(uri, NAME, 1, channel="challenger", why="a test")
    names = storage.read_json(str(version(models, 1) / "version.json"))["files"]
    assert sorted(str(path).partition("/1/")[2] for path in hashed) == sorted(names)


def test_a_version_in_a_bucket_is_checked_before_its_promotion(models, amazon):
    storage.upload_tree(models, "s3://bucket/models")
    promotion.rollback("s3://bucket/models", NAME, why="sound")
    flip(version(models, 2) / NETWORK)
    storage.upload_tree(models, "s3://bucket/models")
    with pytest.raises(
        ValueError, match=rf"no channel was moved: ValueError: s3://bucket/models/portraits/2/{refused(NETWORK)}"
    ):
        promotion.promote("s3://bucket/models", NAME, 2, channel="challenger", why="a test")


# Loading


def test_each_loader_checks_the_files_that_it_loads(models):
    uri = str(version(models, 1))
    loads = {
        "saved_model.pb": saved_model.load,
        NETWORK: litert_model.load,
        "bundle/scorer.keras": saved_model.load_bundle,
    }
    for name, load in loads.items():
        load(uri)
        flip(version(models, 1) / name)
        with pytest.raises(ValueError, match=refused(name)):
            load(uri)


def test_a_changed_version_neither_scores_nor_ranks_nor_explains_photos(models, tmp_path):
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(drawn_photo(0.5, size=(80, 96)))
    for name in (SAVED_MODEL, NETWORK, "bundle/scorer.keras"):
        flip(version(models, 2) / name)
    with pytest.raises(ValueError, match=refused(SAVED_MODEL)):
        score_folder(str(models), str(photo.parent), tmp_path / "scores.csv")
    with pytest.raises(ValueError, match=refused(NETWORK)):
        score_many.score_and_rank(str(models), str(photo.parent), str(tmp_path / "shards"))
    with pytest.raises(ValueError, match=refused("bundle/scorer.keras")):
        page.explain(str(models), [str(photo)], tmp_path / "explained")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("photos", "models")] == []


def test_evaluation_and_validation_report_a_changed_champion(models):
    flip(version(models, 2) / SAVED_MODEL)
    storage.write_json(str(version(models, 2) / "profile.json"), {"changed": True})
    champion = score_champion(str(models), NAME, lambda: iter([]), 0)
    assert champion.votes is None
    assert "is not as it was published" in champion.error
    assert "profile.json is not as it was published" in read_champion(str(models), NAME).error


# Serving

ONE = "s3://bucket/models/portraits/1"


def fetching(folder: Path) -> ServerSettings:
    return ServerSettings(model=ONE, folder=str(folder / "kept"))


def test_a_server_keeps_its_version_if_the_new_champion_was_changed(models):
    promotion.rollback(str(models), NAME, why="a test")
    flip(version(models, 2) / NETWORK)
    with Here(ServerSettings(workers=1, interval=0.05, model=str(models))) as server:
        channels.set_channel(str(models), NAME, 2, why="by hand")
        until(lambda: server.get("/ready").json()["failing"], "the failure is told")
        assert f"{NETWORK} is not as it was published" in server.state.version_manager.failure["why"]
        assert server.get("/ready").json()["version"] == "1"


def test_a_version_changed_in_its_bucket_is_not_fetched(models, amazon, tmp_path):
    flip(version(models, 1) / NETWORK)
    storage.upload_tree(models, "s3://bucket/models")
    with pytest.raises(ValueError, match=rf"s3://bucket/models/portraits/1/{refused(NETWORK)}"):
        version_source.fetch_version(ONE, fetching(tmp_path))
    assert not list((tmp_path / "kept").rglob("*.tflite"))


def test_a_fetched_version_changed_on_the_disk_is_fetched_again(models, amazon, tmp_path):
    storage.upload_tree(models, "s3://bucket/models")
    folder = Path(version_source.fetch_version(ONE, fetching(tmp_path)))
    flip(folder / NETWORK)
    with pytest.raises(ValueError, match=refused(NETWORK)):
        litert_model.load(str(folder))
    assert version_source.fetch_version(ONE, fetching(tmp_path)) == str(folder)
    assert litert_model.load(str(folder)).version == 1
