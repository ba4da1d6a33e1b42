"""Photo inspection: the measurements of one photo, and the resumable inspection of many photos."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

from components.ingestion.exclusions import Exclusion
from components.ingestion.photos import photo_inspection
from components.ingestion.photos.photo_inspection import (
    InspectedPhoto,
    InspectionChunk,
    inspect_chunk,
    inspect_photo,
    inspect_photos,
    read_photo,
)
from components.scorer import storage
from components.scorer.imaging.decoding import decode_image, normalise
from components.scorer.settings import Ingestion
from tests.builders.ingestions import jpeg
from tests.fakes import gcs

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = Ingestion()


def scenery(seed: int, width: int = 400, height: int = 500) -> Image.Image:
    """Return a picture with detail of all sizes, as photographs have; each seed gives another picture."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128, np.float32)
    for cells in (3, 6, 12, 24, 48, 96):
        noise = rng.normal(0, 100 / cells**0.5, (cells, cells)).astype(np.float32)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))[..., None]
    return Image.fromarray(np.clip(total * rng.uniform(0.7, 1, 3), 0, 255).astype(np.uint8))


def inspected(image: Image.Image, **options: object) -> InspectedPhoto:
    photo = inspect_photo("photo.jpg", jpeg(image, **options), SETTINGS)
    assert isinstance(photo, InspectedPhoto)
    return photo


def distance(one: InspectedPhoto, other: InspectedPhoto) -> int:
    return int(np.bitwise_count(np.frombuffer(one.phash, np.uint8) ^ np.frombuffer(other.phash, np.uint8)).sum())


def test_an_inspected_photo_has_normalised_bytes_and_the_hash_of_its_source():
    data = jpeg(scenery(1))
    photo = inspect_photo("anna/1.jpg", data, SETTINGS)
    assert (photo.photo_id, photo.data) == ("anna/1.jpg", normalise(data, SETTINGS))
    assert photo.sha256 == hashlib.sha256(data).hexdigest()
    assert pickle.loads(pickle.dumps(photo)) == photo


@pytest.mark.slow
def test_the_size_is_that_of_the_upright_original():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo = inspected(scenery(1, 1600, 1200), exif=exif)
    assert (photo.width, photo.height) == (1200, 1600)


def test_the_perceptual_hash_equals_imagehashs_phash_of_256_bits():
    data = jpeg(scenery(1))
    square = ImageOps.grayscale(decode_image(data, SETTINGS)).resize((256, 256), Image.Resampling.BILINEAR)
    expected = imagehash.phash(square, hash_size=16)
    assert inspect_photo("a", data, SETTINGS).phash.hex() == str(expected)
    assert len(bytes.fromhex(str(expected))) == 32


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "alter",
    [
        lambda image: jpeg(image, quality=30),
        lambda image: jpeg(image.reduce(2)),
        lambda image: jpeg(image.crop((6, 7, 394, 493))),
        lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
        lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.9)),
        lambda image: jpeg(ImageOps.grayscale(image)),
    ],
    ids=["re-encoded", "halved", "trimmed", "brighter", "darker", "grey"],
)
def test_a_near_duplicate_lies_within_duplicate_distance(seed, alter):
    image = scenery(seed)
    near_duplicate = inspect_photo("near", alter(image), SETTINGS)
    assert distance(inspected(image), near_duplicate) <= SETTINGS.duplicate_distance


def test_other_photos_and_mirrored_photos_lie_beyond_duplicate_distance():
    photos = [inspected(scenery(seed)) for seed in range(8)]
    photos.append(inspected(ImageOps.mirror(scenery(0))))
    distances = [distance(photo, earlier) for index, photo in enumerate(photos) for earlier in photos[:index]]
    assert min(distances) > SETTINGS.duplicate_distance


def test_real_portraits_lie_beyond_duplicate_distance_and_their_near_duplicates_within(portraits):
    paths = sorted((portraits / "data" / "mebeauty" / "photos").rglob("*.jpg"))[::40]
    photos = [inspect_photo("photo", path.read_bytes(), SETTINGS) for path in paths]
    hashes = np.array([np.frombuffer(photo.phash, np.uint8) for photo in photos])
    distances = np.bitwise_count(hashes[:, None] ^ hashes).sum(-1)[np.triu_indices(len(hashes), 1)]
    assert distances.min() > SETTINGS.duplicate_distance
    for path, photo in zip(paths, photos, strict=True):
        with Image.open(path) as image:
            near_duplicate = inspected(image.convert("RGB").reduce(2), quality=30)
        assert distance(photo, near_duplicate) <= SETTINGS.duplicate_distance


@pytest.mark.parametrize("grey", [0, 51, 128, 255])
def test_brightness_is_the_mean_luma_from_0_to_1(grey):
    assert inspected(Image.new("RGB", (100, 100), (grey,) * 3)).brightness == pytest.approx(grey / 255, abs=0.005)


def test_brightness_weighs_green_over_red_over_blue():
    green, red, blue = (inspected(Image.new("RGB", (100, 100), colour)) for colour in ("lime", "red", "blue"))
    assert green.brightness > 0.5 > red.brightness > 0.2 > blue.brightness > 0.05


@pytest.mark.slow
def test_sharpness_falls_with_every_step_of_blur():
    blurred = [scenery(1).filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 2, 4, 8)]
    values = [inspected(image).sharpness for image in blurred]
    assert values == sorted(values, reverse=True)
    assert values[0] > 10 * values[-1]


@pytest.mark.slow
def test_sharpness_does_not_depend_on_the_number_of_pixels():
    sharpness = [inspected(scenery(1).resize((side, side)), quality=97).sharpness for side in (500, 1000, 2000)]
    assert max(sharpness) < 1.15 * min(sharpness)


def test_sharpness_is_the_variance_of_the_laplacian():
    data = jpeg(scenery(1))
    square = ImageOps.grayscale(decode_image(data, SETTINGS)).resize((256, 256), Image.Resampling.BILINEAR)
    laplacian = ndimage.laplace(np.asarray(square, float))[1:-1, 1:-1]
    assert inspect_photo("a", data, SETTINGS).sharpness == pytest.approx(laplacian.var())


def test_a_photo_without_an_edge_has_sharpness_0():
    assert inspected(Image.new("RGB", (100, 100), "grey")).sharpness == 0


@pytest.mark.parametrize(
    ("data", "settings", "reason"),
    [
        (b"no photo", SETTINGS, "unreadable"),
        (jpeg(scenery(1)), replace(SETTINGS, maximum_pixels=100_000), "bomb"),
        (jpeg(scenery(1, 60, 90)), SETTINGS, "too small"),
    ],
)
def test_an_unusable_photo_is_excluded_with_its_reason(data, settings, reason):
    exclusion = inspect_photo("a.jpg", data, settings)
    assert isinstance(exclusion, Exclusion)
    assert (exclusion.photo, exclusion.reason) == ("a.jpg", reason)
    assert exclusion.detail


def test_inspection_workers_import_neither_tensorflow_nor_pandas():
    code = "import sys; from components.ingestion.photos import photo_inspection; "
    code += "print({'tensorflow', 'keras', 'pandas'} & {*sys.modules})"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"


@pytest.fixture
def photos(tmp_path) -> list[tuple[str, str]]:
    """Return ids and addresses of ten photos. The fourth is damaged and the seventh is missing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        data = jpeg(scenery(number))
        (folder / f"{number}.jpg").write_bytes(data if number != 3 else data[:500])
    (folder / "6.jpg").unlink()
    return [(f"{number}.jpg", str(folder / f"{number}.jpg")) for number in range(10)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(photo_inspection, "CHUNK_SIZE", 4)


@pytest.fixture
def spool(tmp_path) -> str:
    return str(tmp_path / "spool")


def files(spool: str) -> dict[str, tuple[int, int]]:
    """Return modification time and inode of each file in a folder; both change when a file is written again."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path(spool).iterdir()}


@pytest.mark.usefixtures("small_chunks")
def test_inspected_photos_become_table_rows_in_their_order(photos, spool):
    table = inspect_photos(photos, SETTINGS, spool).table
    assert list(table["photo"]) == [f"{number}.jpg" for number in (0, 1, 2, 4, 5, 7, 8, 9)]
    assert table.dtypes.astype(str).to_dict() == photo_inspection.COLUMN_TYPES
    for row in table.itertuples():
        data = Path(photos[int(row.photo[0])][1]).read_bytes()
        photo = inspect_photo(row.photo, data, SETTINGS)
        assert read_photo(row.spool, row.offset, row.length) == photo.data
        for column in ("sha256", "phash", "width", "height", "brightness", "sharpness"):
            assert getattr(row, column) == getattr(photo, column)


@pytest.mark.usefixtures("small_chunks")
def test_unreadable_photos_are_excluded_from_the_table(photos, spool):
    damaged, missing = inspect_photos(photos, SETTINGS, spool).left_out
    assert (damaged.photo, damaged.reason) == ("3.jpg", "unreadable")
    assert missing == Exclusion("6.jpg", "unreadable", "cannot be read: No such file or directory")


def test_without_a_usable_photo_the_table_is_empty_with_the_same_columns_and_types(photos, spool):
    inspections = inspect_photos(photos[3:4], SETTINGS, spool)
    assert (len(inspections.table), len(inspections.left_out)) == (0, 1)
    assert inspections.table.dtypes.astype(str).to_dict() == photo_inspection.COLUMN_TYPES


@pytest.mark.usefixtures("small_chunks")
def test_complete_chunks_are_not_inspected_again(photos, spool):
    first = inspect_photos(photos, SETTINGS, spool)
    before = files(spool)
    lost_index = next(name for name in before if name.endswith(".json"))
    Path(spool, lost_index).unlink()
    again = inspect_photos(photos, SETTINGS, spool)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.left_out == first.left_out
    written = {name for name, state in files(spool).items() if before[name] != state}
    assert written == {lost_index, lost_index.replace(".json", ".jpegs")}


@pytest.mark.parametrize(
    ("photos", "changed"),
    [
        ((("a.jpg", "/b/a.jpg", "1"),), {"jpeg_quality": 50}),
        ((("a.jpg", "/b/a.jpg", "1"),), {"shorter_side": 256}),
        ((("a.jpg", "/b/a.jpg", "2"),), {}),
        ((("a.jpg", "/c/a.jpg", "1"),), {}),
        ((("a.jpg", "/b/a.jpg", "1"), ("b.jpg", "/b/b.jpg", "1")), {}),
    ],
)
def test_chunks_of_other_photos_versions_or_settings_are_not_reused(photos, changed):
    first = InspectionChunk((("a.jpg", "/b/a.jpg", "1"),), SETTINGS, "folder")
    assert InspectionChunk(photos, replace(SETTINGS, **changed), "folder").index_uri != first.index_uri


def test_settings_without_effect_on_photos_keep_chunks_complete():
    photos = (("a.jpg", "/b/a.jpg"),)
    other_settings = replace(SETTINGS, test_share=0.3, duplicate_distance=10)
    assert (
        InspectionChunk(photos, other_settings, "folder").index_uri
        == InspectionChunk(photos, SETTINGS, "folder").index_uri
    )


@pytest.mark.usefixtures("small_chunks")
def test_an_inspection_killed_half_way_resumes_from_its_complete_chunks(tmp_path, spool):
    folder = tmp_path / "photos"
    folder.mkdir()
    data = [jpeg(scenery(number, 900, 1200)) for number in range(4)]
    for number in range(40):
        (folder / f"{number:02}.jpg").write_bytes(data[number % 4])
    photos = [(path.name, str(path)) for path in sorted(folder.iterdir())]
    code = (
        "from components.ingestion.photos import photo_inspection; from components.scorer.settings import Ingestion\n"
        f"photo_inspection.CHUNK_SIZE = 4\nif __name__ == '__main__':"
        f" photo_inspection.inspect_photos({photos}, Ingestion(), {spool!r})"
    )
    script = tmp_path / "killed.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(Path(spool).glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    complete_indexes = {name: state for name, state in files(spool).items() if name.endswith(".json")}
    assert 0 < len(complete_indexes) < 10
    resumed = inspect_photos(photos, SETTINGS, spool).table
    assert complete_indexes.items() <= files(spool).items()
    assert list(resumed["photo"]) == [photo for photo, _ in photos]
    for row in resumed.itertuples():
        source = Path(folder, row.photo).read_bytes()
        assert read_photo(row.spool, row.offset, row.length) == normalise(source, SETTINGS)


@pytest.mark.slow
def test_a_chunk_without_its_index_is_not_complete(photos, spool):
    chunk = InspectionChunk(tuple(photos[:2]), SETTINGS, spool)
    storage.write_bytes(chunk.photos_uri, b"what a kill left")
    row = inspect_photos(photos[:2], SETTINGS, spool).table.iloc[1]
    assert read_photo(row.spool, row.offset, row.length) == normalise(Path(photos[1][1]).read_bytes(), SETTINGS)


@pytest.fixture
def google(monkeypatch) -> Iterator[gcs.Server]:
    with gcs.Server("bucket") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


def uploaded(photos: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Upload the photos to the bucket, and return their ids and addresses, including the missing photo."""
    for photo, path in photos:
        if Path(path).exists():
            storage.write_bytes(f"gs://bucket/photos/{photo}", Path(path).read_bytes())
    return tuple((photo, f"gs://bucket/photos/{photo}") for photo, _ in photos)


@pytest.mark.usefixtures("google")
def test_chunks_in_a_bucket_equal_chunks_in_a_folder(photos, spool):
    remote = InspectionChunk(uploaded(photos), SETTINGS, "gs://bucket/spool")
    local = InspectionChunk(tuple(photos), SETTINGS, spool)
    for chunk in (local, remote):
        inspect_chunk(chunk)
    assert storage.read_bytes(remote.photos_uri) == storage.read_bytes(local.photos_uri)
    row = storage.read_json(remote.index_uri)["rows"][5]
    assert read_photo(row["spool"], row["offset"], row["length"]) == normalise(
        Path(photos[7][1]).read_bytes(), SETTINGS
    )
    assert {photo["photo"] for photo in storage.read_json(remote.index_uri)["left_out"]} == {"3.jpg", "6.jpg"}


def test_a_storage_outage_stops_the_chunk_and_excludes_no_photo(photos, spool, google, monkeypatch):
    chunk = InspectionChunk(uploaded(photos), SETTINGS, spool)
    monkeypatch.setattr(storage, "DEADLINE", 1.0)
    google.fail(lambda request: request.method == "GET" and "8.jpg" in request.path, *[503] * 100)
    with pytest.raises(storage.StorageError, match=r"cannot read gs://•••/•••/•••\.jpg"):
        inspect_chunk(chunk)
    assert not storage.exists(chunk.index_uri)
    assert not storage.exists(chunk.photos_uri)


def test_a_worker_without_the_face_weights_says_where_it_looked(photos, spool, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no face weights at .*another machine"):
        inspect_chunk(InspectionChunk(tuple(photos), SETTINGS, spool, str(tmp_path / "another machine")))


@pytest.mark.slow
def test_a_failure_in_a_worker_reaches_the_caller(photos, spool):
    Path(spool).write_text("a file where the folder should be")
    with pytest.raises(OSError, match="spool"):
        inspect_photos(photos, SETTINGS, spool)


@pytest.mark.usefixtures("small_chunks")
def test_beam_gives_the_same_table_as_processes(photos, spool, tmp_path):
    pytest.importorskip("apache_beam")
    by_beam = inspect_photos(photos, SETTINGS, str(tmp_path / "beam"), beam_options="--runner=DirectRunner")
    by_processes = inspect_photos(photos, SETTINGS, spool)
    columns = [column for column in photo_inspection.COLUMN_TYPES if column != "spool"]
    pd.testing.assert_frame_equal(by_beam.table[columns], by_processes.table[columns])
    assert by_beam.left_out == by_processes.left_out
    for beam_row, process_row in zip(by_beam.table.itertuples(), by_processes.table.itertuples(), strict=True):
        assert read_photo(beam_row.spool, beam_row.offset, beam_row.length) == read_photo(
            process_row.spool, process_row.offset, process_row.length
        )
