"""Score shards: files with the scores of some photos each, written by any worker and merged at the end.

    <address>/shards/<place>-of-<number>-<digest>.csv|.parquet   photo,mean,std,p1,…,p10, in the order of the photos
    <address>/shards/<place>-of-<number>-<digest>.problems.csv   photo,reason of photos that could not be scored

The digest covers all inputs of the shard: photos and their versions, scorer and job. So an existing shard is reused
only for the same photos and the same scorer.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

from components.scorer import storage
from components.scorer.imaging import decoding
from components.scorer.settings import SCORES

FileFormat = Literal["csv", "parquet"]

COLUMNS = ("photo", "mean", "std", *(f"p{score}" for score in SCORES))

PHOTOS_PER_SHARD = 256
"""Number of photos per shard: about ten seconds of work, which a killed worker loses, in about 20 KB."""

FOLDER = "shards"
_FILE_NAME = re.compile(r"\d{5,}-of-\d{5,}-[0-9a-f]{16}\.(problems\.csv|csv|parquet)")


class PhotoError(NamedTuple):
    """Photo that could not be scored, by its path below the address of the photos, and the reason."""

    photo: str
    reason: str


@dataclass(frozen=True)
class ScoringShard:
    """Photos to score, with all that another process or machine needs to score them.

    Attributes:
        photos: Path below the common address, full address, and version of each photo.
        job: Job that the people on the photos offer to do; "" if unknown.
        folder: Address that receives the shard's files.
        name: File name without suffix.
        form: File format of the scores.
    """

    photos: tuple[tuple[str, str, str], ...]
    job: str
    folder: str
    name: str
    form: FileFormat

    @property
    def uri(self) -> str:
        """Address of the scores file. It is written last, so it marks a complete shard."""
        return storage.join(self.folder, f"{self.name}.{self.form}")

    @property
    def problems_uri(self) -> str:
        """Address of the problems file, which exists only if there are problems."""
        return storage.join(self.folder, f"{self.name}.problems.csv")


@dataclass(frozen=True)
class ShardResult:
    """Result of a shard.

    Attributes:
        shard: Shard that was scored.
        photos: Paths of the photos that were scored, in the shard's order.
        score_rows: Mean, standard deviation and ten votes of each of these photos.
        problems: Photos that could not be scored.
    """

    shard: ScoringShard
    photos: list[str]
    score_rows: list[list[float]]
    problems: list[PhotoError]

    def write(self) -> None:
        """Write the shard's files, the scores last."""
        if self.problems:
            storage.write_bytes(self.shard.problems_uri, to_csv(PhotoError._fields, self.problems))
        to_bytes = {"csv": _csv, "parquet": _parquet}[self.shard.form]
        storage.write_bytes(self.shard.uri, to_bytes(self.photos, self.score_rows))


def list_photos(photos: str) -> list[storage.File]:
    """Return the photos below an address; other files are skipped, see `decoding.is_photo`.

    Raises:
        ValueError: There is no photo.
    """
    files = [
        file
        for file in storage.list_files(photos)
        if decoding.is_photo(file.name, partial(storage.read_first_bytes, file))
    ]
    if not files:
        raise ValueError(f"expected photos at {photos}, found none")
    return files


def make_shards(
    photos: Sequence[storage.File], scorer: str, job: str, address: str, form: FileFormat
) -> list[ScoringShard]:
    """Split photos into shards of `PHOTOS_PER_SHARD`, in their order.

    Args:
        photos: All photos.
        scorer: Address of the published version.
        job: Job given to the scorer; "" if unknown.
        address: Address that receives all files.
        form: ``"csv"`` or ``"parquet"``.

    Raises:
        ValueError: ``form`` is another format.
    """
    if form not in get_args(FileFormat):
        raise ValueError(f"expected the form of the shards to be one of {list(get_args(FileFormat))}, got {form!r}")
    parts = [photos[start : start + PHOTOS_PER_SHARD] for start in range(0, len(photos), PHOTOS_PER_SHARD)]
    shards = []
    for index, part in enumerate(parts):
        photo_keys = tuple((file.name, file.uri, file.version) for file in part)
        digest = hashlib.sha256(repr((photo_keys, scorer, job)).encode()).hexdigest()[:16]
        name = f"{index:05}-of-{len(parts):05}-{digest}"
        shards.append(ScoringShard(photo_keys, job, storage.join(address, FOLDER), name, form))
    return shards


def existing_files(address: str) -> set[str]:
    """Return the addresses of all shard files below an address, for any photos and scorer."""
    return {file.uri for file in storage.list_files(storage.join(address, FOLDER)) if _FILE_NAME.fullmatch(file.name)}


def read_scores(shard: ScoringShard) -> Iterator[tuple[str, float, float]]:
    """Yield path, mean and standard deviation of each scored photo from the shard's file."""
    data = storage.read_bytes(shard.uri)
    if shard.form == "csv":
        rows = csv.DictReader(io.StringIO(data.decode()))
        yield from ((row["photo"], float(row["mean"]), float(row["std"])) for row in rows)
        return
    import pyarrow.parquet as pq

    columns = pq.read_table(io.BytesIO(data), columns=["photo", "mean", "std"]).to_pydict()
    yield from zip(columns["photo"], columns["mean"], columns["std"], strict=True)


def read_problems(shard: ScoringShard) -> list[PhotoError]:
    """Return the photos of a shard that could not be scored, from its problems file."""
    rows = csv.DictReader(io.StringIO(storage.read_bytes(shard.problems_uri).decode()))
    return [PhotoError(**row) for row in rows]


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Return a CSV file with a header row, as bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _csv(photos: list[str], score_rows: list[list[float]]) -> bytes:
    rows = ((photo, *(f"{value:.4f}" for value in values)) for photo, values in zip(photos, score_rows, strict=True))
    return to_csv(COLUMNS, list(rows))


def _parquet(photos: list[str], score_rows: list[list[float]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = list(zip(*score_rows, strict=True)) or [()] * (len(COLUMNS) - 1)
    columns = [pa.array(photos, pa.string()), *(pa.array(map(float, values), pa.float32()) for values in numbers)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, names=list(COLUMNS)), sink)
    return sink.getvalue()
