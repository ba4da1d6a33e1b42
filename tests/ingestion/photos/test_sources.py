"""Photo sources: which photos are listed, under which ids, and which are excluded."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image

from components.ingestion.photos.sources import SUFFIXES, list_photos, open_source
from components.ingestion.ratings.ratings import read_ratings
from components.scorer import storage
from components.scorer.batch import shards
from components.scorer.imaging import decoding
from components.scorer.settings import Ingestion
from tests.fakes import gcs, s3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    return path


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def ids(uri: object, scratch: object = "") -> list[str]:
    return [photo for photo, _ in list_photos(str(uri), str(scratch))]


# --- Folders


def test_photos_at_any_depth_are_listed_in_the_order_of_their_paths(folder):
    put(folder, "b.jpg", "a/z.png", "a/y/x.webp", "a.gif")
    assert ids(folder) == ["a.gif", "a/y/x.webp", "a/z.png", "b.jpg"]


def test_the_address_of_each_photo_gives_its_bytes(folder):
    put(folder, "a/b.jpg")
    [(photo, uri)] = list_photos(str(folder))
    assert storage.read_bytes(uri) == b"a/b.jpg"
    assert os.path.isabs(uri)
    assert list_photos(f"file://{folder}") == [(photo, uri)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_photo_suffix_is_recognised_in_upper_case_too(folder, suffix):
    put(folder, f"a{suffix}", f"b{suffix.upper()}")
    assert len(ids(folder)) == 2


def test_every_readable_format_has_its_suffixes():
    assert {".hif", ".heic", ".avif", ".jpe", ".jpg", ".jfif", ".mpo", ".tif", ".webp", ".gif", ".bmp"} < set(SUFFIXES)


def photo_of(format):
    stream = io.BytesIO()
    Image.new("RGB", (80, 90), "teal").save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize("format", decoding.FORMATS)
def test_a_photo_without_a_suffix_in_a_folder_is_recognised_by_its_content(folder, format):
    folder.mkdir(exist_ok=True)
    (folder / "portrait").write_bytes(photo_of(format))
    (folder / "notes").write_bytes(b"no photo at all, but some text")
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    assert ids(folder) == ["portrait"]
    assert [file.name for file in shards.list_photos(str(folder))] == ["portrait"]


def test_hidden_files_and_other_files_are_skipped(folder):
    put(folder, "a.jpg", ".b.jpg", ".cache/c.jpg", "__MACOSX/._a.jpg", "ratings.csv", "jpg", "Thumbs.db")
    assert ids(folder) == ["a.jpg"]


def test_a_link_out_of_the_folder_is_excluded(folder, tmp_path):
    put(folder, "a.jpg")
    put(tmp_path / "elsewhere", "b.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(folder))
    assert [photo for photo, _ in source.photos()] == ["a.jpg"]
    assert {exclusion.photo: exclusion.reason for exclusion in source.left_out} == {
        "link.jpg": "path outside the folder",
        "more": "path outside the folder",
    }


def test_links_within_the_folder_are_followed_once(folder):
    put(folder, "a/b.jpg")
    (folder / "c.jpg").symlink_to(folder / "a" / "b.jpg")
    (folder / "a" / "loop").symlink_to(folder)
    source = open_source(str(folder))
    assert [photo for photo, _ in source.photos()] == ["a/b.jpg", "c.jpg"]
    assert source.left_out == []


def test_a_link_to_a_folder_of_photos_is_read(folder, tmp_path):
    put(folder, "a.jpg")
    (tmp_path / "link").symlink_to(folder)
    assert ids(tmp_path / "link") == ["a.jpg"]


def test_a_name_that_is_not_utf8_is_excluded(folder):
    put(folder, "a.jpg")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))).write_bytes(b"photo")
    source = open_source(str(folder))
    assert [photo for photo, _ in source.photos()] == ["a.jpg"]
    assert [(exclusion.photo, exclusion.reason) for exclusion in source.left_out] == [("caf?.jpg", "unreadable")]


def test_an_error_for_a_missing_folder_names_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder of photos at .*/nothing, found none"):
        ids(tmp_path / "nothing")


def test_a_folder_without_photos_is_refused(folder):
    put(folder, "readme.txt")
    with pytest.raises(ValueError, match=r"expected photos \(\.apng, .*\) in .*/photos, found none"):
        ids(folder)


def test_a_source_can_be_pickled(folder):
    put(folder, "a.jpg")
    assert list(pickle.loads(pickle.dumps(open_source(str(folder)))).photos()) == list_photos(str(folder))


# --- Buckets


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Yield the address of an empty folder in a bucket of each cloud."""
    if request.param == "gs":
        with gcs.Server("bucket") as server:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
            yield "gs://bucket/place"
        return
    with s3.Server() as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        boto3.client("s3").create_bucket(Bucket="photos-of-sources")
        yield "s3://photos-of-sources/place"


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["gs", "s3"], indirect=True)
def test_a_photo_without_a_suffix_in_a_bucket_is_recognised_by_its_content(bucket):
    bucket += "-without-suffixes"
    storage.write_bytes(f"{bucket}/portrait", photo_of("JPEG") + bytes(100))
    storage.write_bytes(f"{bucket}/notes", b"no photo at all, but some text that is longer than that")
    storage.write_bytes(f"{bucket}/empty", b"")
    assert list_photos(bucket) == [("portrait", f"{bucket}/portrait")]


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["gs", "s3"], indirect=True)
def test_photos_in_a_bucket_are_listed_at_any_depth(bucket):
    for name in ("b.jpg", "a/c.PNG", ".hidden.jpg", "a/notes.txt"):
        storage.write_bytes(f"{bucket}/{name}", name.encode())
    storage.write_bytes(f"{bucket}-beside/d.jpg", b"d")
    listing = list_photos(bucket)
    assert [photo for photo, _ in listing] == ["a/c.PNG", "b.jpg"]
    assert storage.read_bytes(listing[0][1]) == b"a/c.PNG"


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
def test_a_bucket_without_photos_is_refused(bucket):
    with pytest.raises(ValueError, match=r"expected photos .* in gs://bucket/place, found none"):
        list_photos(bucket)


def versions(uri: object, scratch: object = "") -> list[str]:
    source = open_source(str(uri), str(scratch))
    return [source.versions[address] for _, address in source.photos()]


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["gs", "s3"], indirect=True)
def test_a_photo_replaced_under_its_name_gets_another_version(bucket, folder):
    for source in (bucket + "-replaced", str(folder)):
        for name in ("a.jpg", "b.jpg"):
            storage.write_bytes(f"{source}/{name}", b"before")
        before = versions(source)
        assert versions(source) == before
        storage.write_bytes(f"{source}/a.jpg", b"after!")
        after = versions(source)
        assert (after[0] != before[0], after[1] == before[1]) == (True, True)


# --- TFDS


def pixels(number: int) -> np.ndarray:
    return np.full((4, 5, 3), number, np.uint8)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Make a TFDS_DATA_DIR with four data sets of version 1.0.0."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    text = tfds.features.Text()

    def write(name: str, features: dict, splits: dict) -> None:
        folder = root / name / "1.0.0"
        folder.mkdir(parents=True)
        identity = tfds.core.dataset_info.DatasetIdentity(
            name=name, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=name
        )
        info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2, overwrite=False)
        writer.initialize_splits(list(splits))
        writer.add_examples(splits)
        writer.close_all()

    write(
        "faces",
        {"label": np.int64, "image": image, "file_name": text},
        {
            "train": [{"label": 1, "image": pixels(n), "file_name": f"{n}.png"} for n in range(3)],
            "test": [{"label": 1, "image": pixels(9), "file_name": "sub/9"}],
        },
    )
    write("unnamed", {"photo": image}, {"train": [{"photo": pixels(n)} for n in range(3)]})
    write(
        "awkward",
        {"image": image, "id": text},
        {"train": [{"image": pixels(n), "id": name} for n, name in enumerate(("ann", "ann", "../out"))]},
    )
    write("words", {"text": text}, {"train": [{"text": "a"}]})
    return root


@pytest.fixture
def tfds_dir(data_dir, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    return data_dir


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["tfds:faces", "tfds:faces:1.0.0", "tfds:{}/faces/1.0.0"])
def test_a_tfds_data_set_gives_all_its_splits(tfds_dir, tmp_path, uri):
    assert ids(uri.format(tfds_dir), tmp_path) == ["test/sub/9.png", "train/0.png", "train/1.png", "train/2.png"]


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["tfds:faces/train", "tfds:faces:1.0.0/train", "tfds:{}/faces/1.0.0/train"])
def test_a_tfds_data_set_gives_one_split(tfds_dir, tmp_path, uri):
    assert ids(uri.format(tfds_dir), tmp_path) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("uri", ["tfds:faces", "tfds:{}/faces/1.0.0"])
@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_tfds_data_set_cannot_name_a_module_to_import(tfds_dir, tmp_path, monkeypatch, uri, key):
    shutil.copytree(tfds_dir, tmp_path / "data")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported.py").write_text(f"open({str(tmp_path / 'done')!r}, 'w')\nclass Feature: pass\n")
    file = tmp_path / "data" / "faces" / "1.0.0" / "features.json"
    features = json.loads(file.read_text())
    label = features["featuresDict"]["features"]["label"]
    label[key] = "imported.Feature"
    if key != "pythonClassName":
        del label["pythonClassName"]
    file.write_text(json.dumps(features))
    with pytest.raises(ValueError, match=r"expected only features of tensorflow_datasets .* 'imported.Feature'"):
        list_photos(uri.format(tmp_path / "data"), str(tmp_path / "scratch"))
    assert not (tmp_path / "done").exists()


@pytest.mark.slow
def test_a_tfds_photo_is_written_with_its_pixels(tfds_dir, tmp_path):

    uri = dict(list_photos("tfds:faces/train", str(tmp_path)))["2.png"]
    assert np.array_equal(np.asarray(Image.open(uri)), pixels(2))


@pytest.mark.slow
def test_tfds_photos_are_written_one_at_a_time_while_iterating(tfds_dir, tmp_path):
    photos = open_source("tfds:faces/train", str(tmp_path)).photos()
    next(photos)
    assert len(list(tmp_path.rglob("*.png"))) == 1


@pytest.mark.slow
def test_tfds_photos_without_names_have_stable_ids(tfds_dir, tmp_path):
    photo_ids = ids("tfds:unnamed", tmp_path / "a")
    assert len(set(photo_ids)) == 3
    assert ids("tfds:unnamed", tmp_path / "b") == photo_ids


@pytest.mark.slow
def test_repeated_tfds_names_stay_apart_and_names_out_of_the_folder_are_excluded(tfds_dir, tmp_path):
    source = open_source("tfds:awkward", str(tmp_path / "scratch"))
    listing = dict(source.photos())
    assert len(listing) == 2
    assert len({storage.read_bytes(uri) for uri in listing.values()}) == 2
    assert [exclusion.reason for exclusion in source.left_out] == ["path outside the folder"]
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_the_version_of_a_tfds_photo_depends_on_its_content(tfds_dir, tmp_path):
    before = versions("tfds:faces/train", tmp_path / "scratch")
    assert versions("tfds:faces/train", tmp_path / "scratch") == before
    assert len(set(before)) == 3


@pytest.mark.slow
def test_two_tfds_splits_share_a_scratch_folder_without_collisions(tfds_dir, tmp_path):
    train, test = (dict(list_photos(f"tfds:faces/{split}", str(tmp_path))) for split in ("train", "test"))
    assert not set(train.values()) & set(test.values())


@pytest.mark.parametrize("uri", ["tfds:nothing", "tfds:faces/validation", "tfds:faces:2.0.0", "tfds:/nowhere/1.0.0"])
def test_an_error_for_a_missing_tfds_data_set_names_its_address(tfds_dir, tmp_path, uri):
    with pytest.raises(FileNotFoundError, match=rf"expected a data set of TFDS at {uri}, found none; .*TFDS_DATA_DIR"):
        ids(uri, tmp_path)


def test_a_tfds_data_set_without_an_image_feature_is_refused(tfds_dir, tmp_path):
    with pytest.raises(ValueError, match=r"expected an image feature in tfds:words, got \['text'\]"):
        ids("tfds:words", tmp_path)


def test_an_invalid_tfds_address_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected tfds:name\[:version\]\[/split\], got tfds:"):
        ids("tfds:", tmp_path)


# --- The sample


@pytest.mark.slow
def test_the_sample_source_has_photos_unlabelled_photos_ratings_and_attributes(tmp_path):
    source = open_source("sample:labelled=6&unlabelled=2&seed=3", str(tmp_path))
    photos = [photo for photo, _ in source.photos()]
    assert len(photos) == 6
    assert len(ids(source.unlabelled)) == 2
    assert set(read_ratings(source.ratings, Ingestion()).table.index) == set(photos)
    assert Path(source.attributes).is_file()


def test_the_sample_source_is_drawn_only_once(tmp_path):
    uri = "sample:labelled=2&unlabelled=0"
    first = list_photos(uri, str(tmp_path))
    drawn_at = Path(first[0][1]).stat().st_mtime_ns
    assert list_photos(uri, str(tmp_path)) == first
    assert Path(first[0][1]).stat().st_mtime_ns == drawn_at


@pytest.mark.parametrize("uri", ["sample:x", "sample:labelled=-1", "sample:size=4"])
def test_an_unknown_option_of_the_sample_is_refused(tmp_path, uri):
    with pytest.raises(ValueError, match=f"expected sample: or sample:labelled=.*, got {uri}"):
        ids(uri, tmp_path)


def test_sources_that_write_photos_need_a_scratch_folder():
    with pytest.raises(ValueError, match="expected a scratch folder to write the photos of sample: to"):
        ids("sample:")


def test_a_folder_with_only_links_out_of_it_is_refused_with_their_number(folder, tmp_path):
    put(tmp_path / "cache", "1", "2")
    for name in ("1", "2", "3"):
        (folder / f"{name}.jpg").symlink_to(tmp_path / "cache" / name)
    with pytest.raises(ValueError, match=r"found none but 3 links that lead out of this folder \(1 of them to files"):
        ids(folder)


def test_a_broken_link_is_excluded_as_unreadable(folder):
    put(folder, "a.jpg")
    (folder / "b.jpg").symlink_to(folder / ".git" / "annex" / "b.jpg")
    source = open_source(str(folder))
    assert [photo for photo, _ in source.photos()] == ["a.jpg"]
    assert [(exclusion.photo, exclusion.reason) for exclusion in source.left_out] == [("b.jpg", "unreadable")]
