"""Each photo is read once, checked, measured and stored small, by all cores or by Apache Beam.

Photos are inspected in chunks. A chunk leaves two files in a folder: its photos as JPEGs one behind the
other (``….jpegs``), and then, as the sign that it is complete, what is known of them (``….json``). Both are named
by what the chunk consists of, each photo by its id, address and version there, so an ingestion that was killed and
started again goes on from the complete chunks, and neither half-written files nor those of other photos or settings
can be mistaken for them. Where faces are looked for, they are looked for on the photo as it is stored, decoded again,
which is what all later rooms have of it; where they are read, the embeddings lie in a third file (``….embeddings``),
float32, one behind the other.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import Image

from components.ingestion.exclusions import LeftOut
from components.ingestion.photos import parallel_map
from components.scorer import storage
from components.scorer.imaging import decoding, image_statistics, perceptual_hash
from components.scorer.once import once
from components.scorer.progress import track
from components.scorer.redaction import redacted, shape
from components.scorer.settings import Ingestion

if TYPE_CHECKING:
    import pandas as pd

    from components.scorer.faces.analyzer import Reader

CHUNK = 128
"""Photos in a chunk: some seconds of work, which is what a kill loses, and some 5 MB of stored photos."""

TYPES = MappingProxyType(
    {
        "photo": "str", "sha256": "str", "phash": "object", "width": "int64", "height": "int64",
        "brightness": "float64", "sharpness": "float64", "spool": "str", "offset": "int64", "length": "int64",
        "face_count": "int64", "face_confidence": "float64", "face_box": "object", "face_landmarks": "object",
        "face_place": "int64",
    }
)  # fmt: skip
"""Columns of `Inspections.table` and their types, whatever the photos, none included."""

UNSEEN = MappingProxyType(
    {"face_count": 0, "face_confidence": 0.0, "face_box": None, "face_landmarks": None, "face_place": -1}
)
"""What its columns of faces hold of a photo on which no face was looked for; each is there in every table."""


@dataclass(frozen=True)
class Inspected:
    """A photo that can be used.

    Attributes:
        photo_id: the photo's id.
        data: the photo as it is stored: an upright sRGB JPEG without metadata.
        sha256: of the source's bytes, hexadecimal.
        phash: see `perceptual_hash.perceptual_hash`.
        width, height: pixels of the upright original.
        brightness: mean luma (ITU-R 601), 0 to 1.
        sharpness: see `image_statistics.sharpness`; on a `perceptual_hash.grey_square`.
    """

    photo_id: str
    data: bytes
    sha256: str
    phash: bytes
    width: int
    height: int
    brightness: float
    sharpness: float


@dataclass(frozen=True)
class Chunk:
    """Some photos to inspect, with all that it takes to do so in another process or on another machine.

    Attributes:
        photos: of each its id and its address, and perhaps its version there, by which a chunk is known to be
            out of date.
        settings: of the ingestion.
        folder: address that receives the chunk's files.
        faces: address of the weights that find and read faces, whose last part tells them from others (see
            `embedder`); empty: faces are not looked for.
    """

    photos: tuple[tuple[str, ...], ...]
    settings: Ingestion
    folder: str
    faces: str = ""

    @property
    def name(self) -> str:
        """Hash of what the chunk's files depend on."""
        s = self.settings
        made = (s.minimum_side, s.maximum_pixels, s.shorter_side, s.jpeg_quality, PIL.__version__)
        if self.faces:
            made = (*made, self.faces.rpartition("/")[2])
        return hashlib.sha256(repr((self.photos, made)).encode()).hexdigest()[:32]

    @property
    def spool(self) -> str:
        """Address of the stored photos."""
        return storage.join(self.folder, f"{self.name}.jpegs")

    @property
    def index(self) -> str:
        """Address of what is known of the photos; written last."""
        return storage.join(self.folder, f"{self.name}.json")


@dataclass(frozen=True)
class Inspections:
    """What is known of many photos.

    Attributes:
        table: a row for each photo that can be used, in the order given. Columns ``TYPES``: ``photo``, the fields of
            `Inspected`, and where the stored photo lies: `read_photo` takes ``spool``, ``offset`` and ``length``; then
            what the data set keeps of its faces, or ``UNSEEN``: `read_embedding` takes ``spool`` and ``face_place``.
        left_out: the other photos.
    """

    table: "pd.DataFrame"
    left_out: list[LeftOut]


def inspect(photo_id: str, data: bytes, settings: Ingestion) -> Inspected | LeftOut:
    """Normalise and measure one photo.

    Args:
        photo_id: the photo's id.
        data: the encoded photo.
        settings: see `decoding.decode`.

    Returns:
        The photo, or why it is left out.
    """
    try:
        image, width, height = decoding.decode(data, settings)
    except decoding.Unusable as error:
        return LeftOut(photo_id, error.reason, error.detail)
    square = perceptual_hash.grey_square(image)
    levels = np.asarray(square, np.int16)
    return Inspected(
        photo_id=photo_id,
        data=decoding.encode(image, settings),
        sha256=hashlib.sha256(data).hexdigest(),
        phash=perceptual_hash.perceptual_hash(square),
        width=width,
        height=height,
        brightness=image_statistics.brightness(levels),
        sharpness=image_statistics.sharpness(levels),
    )


def inspect_all(
    photos: Iterable[tuple[str, ...]], settings: Ingestion, folder: str, *, beam_options: str = "", faces: str = ""
) -> Inspections:
    """Inspect photos on all cores, or on a Beam runner; what an earlier call left complete is not done again.

    Memory is bounded by what the workers hold: one decoded photo, the photos read ahead and a chunk's JPEGs each.

    Args:
        photos: of each its id and its address, and perhaps its version there.
        settings: of the ingestion.
        folder: address for the chunks' files; Beam workers on other machines must reach it. The caller removes it.
        beam_options: options of an Apache Beam runner; empty: the cores of this machine.
        faces: as in `Chunk`; Beam workers on other machines must reach it.

    Raises:
        OSError: the storage failed, other than by not having a photo.
        RuntimeError: a worker process died.
    """
    every = list(photos)
    starts = range(0, len(every), CHUNK)
    chunks = [Chunk(tuple(every[start : start + CHUNK]), settings, folder, faces) for start in starts]
    there = {file.uri for file in storage.files(folder)}
    missing = [chunk for chunk in chunks if chunk.index not in there]
    if missing and beam_options:
        parallel_map.on_beam(inspect_chunk, missing, beam_options, "inspect photos")
    elif missing:
        done = parallel_map.on_processes(inspect_chunk, missing)
        deque(track(done, f"inspecting photos in chunks of {CHUNK}", len(missing)), maxlen=0)
    return _collected(chunks)


def inspect_chunk(chunk: Chunk) -> None:
    """Inspect the photos of a chunk and write its files. A photo that cannot be read is left out.

    Raises:
        OSError: the storage failed, other than by not having a photo.
    """
    address, spool, rows, left_out = chunk.spool, bytearray(), [], []
    for photo_id, reading in storage.read_ahead(chunk.photos):
        found = _inspected(photo_id, reading, chunk.settings)
        if isinstance(found, LeftOut):
            left_out.append(asdict(found))
            continue
        row = {"photo": photo_id, **asdict(found), "phash": found.phash.hex()}
        row |= {"spool": address, "offset": len(spool), "length": len(found.data)}
        rows.append({column: row[column] for column in TYPES if column in row})
        spool += found.data
    if chunk.faces:
        storage.write_bytes(_embeddings(address), _look_at_faces(chunk.faces, spool, rows))
    storage.write_bytes(address, bytes(spool))
    storage.write_json(chunk.index, {"rows": rows, "left_out": left_out})


def read_photo(spool: str, offset: int, length: int) -> bytes:
    """A stored photo: the JPEG at a place of `Inspections.table`."""
    return _piece(spool, offset, length)


def read_embedding(spool: str, place: int, size: int) -> np.ndarray:
    """A face's embedding, float32 ``[size]``, at a place of `Inspections.table`."""
    width = size * np.dtype("<f4").itemsize
    return np.frombuffer(_piece(_embeddings(spool), place * width, width), "<f4")


def _embeddings(spool: str) -> str:
    """Address of the embeddings of a chunk's photos."""
    return spool.removesuffix(".jpegs") + ".embeddings"


def _piece(address: str, offset: int, length: int) -> bytes:
    if storage.is_remote(address):
        return _remote(address)[offset : offset + length]
    with open(address.removeprefix("file://"), "rb") as file:
        file.seek(offset)
        return file.read(length)


_remote = lru_cache(maxsize=8)(storage.read_bytes)  # photos are mostly asked for one after the other


def _look_at_faces(weights: str, spool: bytearray, rows: list[dict[str, Any]]) -> bytes:
    """Enter what is seen of each stored photo's faces into its row; the embeddings one behind the other."""
    reader, embeddings = _reader(weights), bytearray()
    from components.scorer.faces import (
        analyzer,  # imported by now, see `_reader`
        embedder,
    )

    for start in range(0, len(rows), embedder.BATCH):
        some = rows[start : start + embedder.BATCH]
        stored = [spool[row["offset"] : row["offset"] + row["length"]] for row in some]
        for place, seen in enumerate(reader.read_all([Image.open(BytesIO(data)) for data in stored]), start):
            face = analyzer.record(seen)["face"]
            values = (face["count"], float(face["confidence"]), face["box"].tolist(), face["landmarks"].tolist(), place)
            rows[place] |= dict(zip(UNSEEN, values, strict=True))
            embeddings += seen.embedding.astype("<f4").tobytes()
    return bytes(embeddings)


@once
def _reader(weights: str) -> "Reader":
    """What finds and reads faces, of all chunks of one process: on Beam its threads share it."""
    from components.scorer.faces.analyzer import Reader  # here, for without faces OpenCV and LiteRT are of no use

    return Reader.load(weights)


def _inspected(photo_id: str, reading: Future[bytes], settings: Ingestion) -> Inspected | LeftOut:
    try:
        data = reading.result()
    except storage.MISSING as error:
        return LeftOut(photo_id, "unreadable", f"cannot be read: {error.strerror or error}")
    except OSError as error:
        raise storage.StorageError(redacted(str(error).replace(photo_id, shape(photo_id)))) from None
    return inspect(photo_id, data, settings)


def _collected(chunks: list[Chunk]) -> Inspections:
    import pandas as pd  # here, so that the workers, which have no use for it, stay small

    indexes = [storage.read_json(chunk.index) for chunk in chunks]
    rows = [{**UNSEEN, **row, "phash": bytes.fromhex(row["phash"])} for index in indexes for row in index["rows"]]
    table = pd.DataFrame(rows, columns=list(TYPES)).astype(dict(TYPES))
    return Inspections(table, [LeftOut(**values) for index in indexes for values in index["left_out"]])
