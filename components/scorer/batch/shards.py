"""Scores of many photos as files, each of some photos: made anywhere, found again, put together.

    <address>/shards/<place>-of-<number>-<digest>.csv|.parquet   photo,mean,std,p1,…,p10, in the order of the photos
    <address>/shards/<place>-of-<number>-<digest>.problems.csv   photo,reason, where a photo could not be scored

The digest is of what the shard depends on: its photos and their versions, the scorer and the job. So a shard that is
there need not be made again, and none of other photos or another scorer is taken for it.
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

Form = Literal["csv", "parquet"]

COLUMNS = ("photo", "mean", "std", *(f"p{score}" for score in SCORES))

PHOTOS = 256
"""Photos in a shard: some ten seconds of work, which is what a kill loses, in some 20 KB."""

FOLDER = "shards"
_NAME = re.compile(r"\d{5,}-of-\d{5,}-[0-9a-f]{16}\.(problems\.csv|csv|parquet)")


class Problem(NamedTuple):
    """A photo that could not be scored, by its path below the address of the photos."""

    photo: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """Some photos to score, with all that it takes to do so in another process or on another machine.

    Attributes:
        photos: of each its path below the address of all, its own address, and its version there.
        job: that the people on the photos offer to do; "" where it is not known.
        folder: address that receives the shard's files.
        name: of the files, without ending.
        form: of the scores' file.
    """

    photos: tuple[tuple[str, str, str], ...]
    job: str
    folder: str
    name: str
    form: Form

    @property
    def uri(self) -> str:
        """Address of the scores; written last, so that it tells that the shard is complete."""
        return storage.join(self.folder, f"{self.name}.{self.form}")

    @property
    def problems(self) -> str:
        """Address of the problems; there is no such file where there is none."""
        return storage.join(self.folder, f"{self.name}.problems.csv")


@dataclass(frozen=True)
class Scored:
    """What came of a shard.

    Attributes:
        shard: the shard.
        photos: those that were scored, in the shard's order.
        answers: of each mean, standard deviation and ten votes.
        problems: the others.
    """

    shard: Shard
    photos: list[str]
    answers: list[list[float]]
    problems: list[Problem]

    def write(self) -> None:
        """Write the shard's files."""
        if self.problems:
            storage.write_bytes(self.shard.problems, table(Problem._fields, self.problems))
        write = {"csv": _csv, "parquet": _parquet}[self.shard.form]
        storage.write_bytes(self.shard.uri, write(self.photos, self.answers))


def listed(photos: str) -> list[storage.File]:
    """The photos below an address; others are passed over, see `decoding.is_photo`.

    Raises:
        ValueError: there is none.
    """
    files = [
        file for file in storage.files(photos) if decoding.is_photo(file.name, partial(storage.read_beginning, file))
    ]
    if not files:
        raise ValueError(f"expected photos at {photos}, found none")
    return files


def parted(photos: Sequence[storage.File], scorer: str, job: str, address: str, form: Form) -> list[Shard]:
    """The shards of photos, in their order.

    Args:
        photos: all of them.
        scorer: address of the published version.
        job: that it is told.
        address: that receives everything.
        form: ``"csv"`` or ``"parquet"``.

    Raises:
        ValueError: the form is another.
    """
    if form not in get_args(Form):
        raise ValueError(f"expected the form of the shards to be one of {list(get_args(Form))}, got {form!r}")
    parts = [photos[start : start + PHOTOS] for start in range(0, len(photos), PHOTOS)]
    shards = []
    for place, part in enumerate(parts):
        told = tuple((file.name, file.uri, file.version) for file in part)
        digest = hashlib.sha256(repr((told, scorer, job)).encode()).hexdigest()[:16]
        name = f"{place:05}-of-{len(parts):05}-{digest}"
        shards.append(Shard(told, job, storage.join(address, FOLDER), name, form))
    return shards


def there(address: str) -> set[str]:
    """Addresses of the shards' files that an address holds, of whatever photos and scorer."""
    return {file.uri for file in storage.files(storage.join(address, FOLDER)) if _NAME.fullmatch(file.name)}


def scores(shard: Shard) -> Iterator[tuple[str, float, float]]:
    """Photo, mean and standard deviation of each photo that was scored, as the shard's file has them."""
    data = storage.read_bytes(shard.uri)
    if shard.form == "csv":
        rows = csv.DictReader(io.StringIO(data.decode()))
        yield from ((row["photo"], float(row["mean"]), float(row["std"])) for row in rows)
        return
    import pyarrow.parquet as pq

    columns = pq.read_table(io.BytesIO(data), columns=["photo", "mean", "std"]).to_pydict()
    yield from zip(columns["photo"], columns["mean"], columns["std"], strict=True)


def problems(shard: Shard) -> list[Problem]:
    """The photos of a shard that could not be scored."""
    rows = csv.DictReader(io.StringIO(storage.read_bytes(shard.problems).decode()))
    return [Problem(**row) for row in rows]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _csv(photos: list[str], answers: list[list[float]]) -> bytes:
    rows = ((photo, *(f"{value:.4f}" for value in answer)) for photo, answer in zip(photos, answers, strict=True))
    return table(COLUMNS, list(rows))


def _parquet(photos: list[str], answers: list[list[float]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = list(zip(*answers, strict=True)) or [()] * (len(COLUMNS) - 1)
    columns = [pa.array(photos, pa.string()), *(pa.array(map(float, values), pa.float32()) for values in numbers)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, names=list(COLUMNS)), sink)
    return sink.getvalue()
