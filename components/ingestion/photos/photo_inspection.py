"""Inspection of photos: each is decoded, checked, measured and stored as a small JPEG, on all cores or by Apache Beam.

Photos are inspected in chunks. A chunk writes two files to a folder: its JPEGs concatenated (``….jpegs``), then the
measurements (``….json``). The second file marks the chunk as complete. Both names are a hash of the chunk's photos (id,
address and version) and settings. So an ingestion that was killed and restarted continues from the complete chunks.
Half-written files and files of other photos or settings cannot be mistaken for them.

Faces are detected on the stored photo, decoded again, as all later steps read this version. The embeddings are in a
third file (``….embeddings``), float32, concatenated.
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
"""Photos in a chunk: some seconds of work that a kill loses, and some 5 MB of stored photos."""

TYPES = MappingProxyType(
    {
        "photo": "str", "sha256": "str", "phash": "object", "width": "int64", "height": "int64",
        "brightness": "float64", "sharpness": "float64", "spool": "str", "offset": "int64", "length": "int64",
        "face_count": "int64", "face_confidence": "float64", "face_box": "object", "face_landmarks": "object",
        "face_place": "int64",
    }
)  # fmt: skip
"""Columns of `Inspections.table` and their types, which do not depend on the photos, even if there are none."""

UNSEEN = MappingProxyType(
    {"face_count": 0, "face_confidence": 0.0, "face_box": None, "face_landmarks": None, "face_place": -1}
)
"""Values of the face columns for a photo whose faces were not analysed. Every table has these columns."""


@dataclass(frozen=True)
class Inspected:
    """A usable photo.

    Attributes:
        photo_id: Photo id.
        data: Stored photo: an upright sRGB JPEG without metadata.
        sha256: SHA-256 of the source file, hexadecimal.
        phash: Perceptual hash, see `perceptual_hash.perceptual_hash`.
        width, height: Size of the upright original, pixels.
        brightness: Mean luma (ITU-R 601), 0 to 1.
        sharpness: Sharpness of the `perceptual_hash.grey_square`, see `image_statistics.sharpness`.
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
    """A group of photos to inspect, complete for another process or machine.

    Attributes:
        photos: Id and address of each photo, and optionally its version, which makes an outdated chunk detectable.
        settings: Ingestion settings.
        folder: Address of the folder that receives the chunk's files.
        faces: Address of the face weights, whose last part identifies them (see `embedder`). Empty: no face analysis.
    """

    photos: tuple[tuple[str, ...], ...]
    settings: Ingestion
    folder: str
    faces: str = ""

    @property
    def name(self) -> str:
        """Hash of the chunk's inputs: photos, settings, Pillow's version and face weights."""
        s = self.settings
        inputs = (s.minimum_side, s.maximum_pixels, s.shorter_side, s.jpeg_quality, PIL.__version__)
        if self.faces:
            inputs = (*inputs, self.faces.rpartition("/")[2])
        return hashlib.sha256(repr((self.photos, inputs)).encode()).hexdigest()[:32]

    @property
    def spool(self) -> str:
        """Address of the stored photos."""
        return storage.join(self.folder, f"{self.name}.jpegs")

    @property
    def index(self) -> str:
        """Address of the measurements, which are written last."""
        return storage.join(self.folder, f"{self.name}.json")


@dataclass(frozen=True)
class Inspections:
    """The inspection results of many photos.

    Attributes:
        table: One row a usable photo, in the input's order, with the columns ``TYPES``. They are ``photo``, the fields
            of `Inspected`, the position of the stored photo and the face columns. `read_photo` takes ``spool``,
            ``offset`` and ``length``; `read_embedding` takes ``spool`` and ``face_place``. The face columns hold
            ``UNSEEN`` if faces were not analysed.
        left_out: Exclusions of the other photos.
    """

    table: "pd.DataFrame"
    left_out: list[LeftOut]


def inspect(photo_id: str, data: bytes, settings: Ingestion) -> Inspected | LeftOut:
    """Normalise and measure one photo.

    Args:
        photo_id: Photo id.
        data: Encoded photo.
        settings: Ingestion settings, see `decoding.decode`.

    Returns:
        The inspected photo, or its exclusion.
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
    """Inspect photos on all cores, or on a Beam runner. Complete chunks of an earlier call are reused.

    Each worker holds one decoded photo, the photos read ahead and the JPEGs of one chunk in memory.

    Args:
        photos: Id and address of each photo, and optionally its version.
        settings: Ingestion settings.
        folder: Address for the chunks' files; Beam workers on other machines must reach it. The caller removes it.
        beam_options: Options of an Apache Beam runner. Empty: the cores of this machine.
        faces: Address of the face weights, see `Chunk`; Beam workers on other machines must reach it.

    Raises:
        OSError: The storage failed. A missing photo is not an error.
        RuntimeError: A worker process died.
    """
    all_photos = list(photos)
    starts = range(0, len(all_photos), CHUNK)
    chunks = [Chunk(tuple(all_photos[start : start + CHUNK]), settings, folder, faces) for start in starts]
    existing = {file.uri for file in storage.files(folder)}
    missing = [chunk for chunk in chunks if chunk.index not in existing]
    if missing and beam_options:
        parallel_map.on_beam(inspect_chunk, missing, beam_options, "inspect photos")
    elif missing:
        done = parallel_map.on_processes(inspect_chunk, missing)
        deque(track(done, f"inspecting photos in chunks of {CHUNK}", len(missing)), maxlen=0)
    return _collected(chunks)


def inspect_chunk(chunk: Chunk) -> None:
    """Inspect the photos of a chunk and write its files. An unreadable photo is excluded.

    Raises:
        OSError: The storage failed. A missing photo is not an error.
    """
    address, spool, rows, left_out = chunk.spool, bytearray(), [], []
    for photo_id, future in storage.read_ahead(chunk.photos):
        inspected = _inspected(photo_id, future, chunk.settings)
        if isinstance(inspected, LeftOut):
            left_out.append(asdict(inspected))
            continue
        row = {"photo": photo_id, **asdict(inspected), "phash": inspected.phash.hex()}
        row |= {"spool": address, "offset": len(spool), "length": len(inspected.data)}
        rows.append({column: row[column] for column in TYPES if column in row})
        spool += inspected.data
    if chunk.faces:
        storage.write_bytes(_embeddings(address), _look_at_faces(chunk.faces, spool, rows))
    storage.write_bytes(address, bytes(spool))
    storage.write_json(chunk.index, {"rows": rows, "left_out": left_out})


def read_photo(spool: str, offset: int, length: int) -> bytes:
    """Return the stored JPEG at a position from `Inspections.table`."""
    return _piece(spool, offset, length)


def read_embedding(spool: str, place: int, size: int) -> np.ndarray:
    """Return a face embedding, float32 ``[size]``, at a position from `Inspections.table`."""
    n_bytes = size * np.dtype("<f4").itemsize
    return np.frombuffer(_piece(_embeddings(spool), place * n_bytes, n_bytes), "<f4")


def _embeddings(spool: str) -> str:
    """Return the address of a chunk's embeddings."""
    return spool.removesuffix(".jpegs") + ".embeddings"


def _piece(address: str, offset: int, length: int) -> bytes:
    if storage.is_remote(address):
        return _remote(address)[offset : offset + length]
    with open(address.removeprefix("file://"), "rb") as file:
        file.seek(offset)
        return file.read(length)


_remote = lru_cache(maxsize=8)(storage.read_bytes)  # photos are mostly read in sequence


def _look_at_faces(weights: str, spool: bytearray, rows: list[dict[str, Any]]) -> bytes:
    """Add the face analysis of each stored photo to its row. Return the concatenated embeddings."""
    reader, embeddings = _reader(weights), bytearray()
    from components.scorer.faces import (
        analyzer,  # imported already by `_reader`
        embedder,
    )

    for start in range(0, len(rows), embedder.BATCH):
        batch = rows[start : start + embedder.BATCH]
        stored = [spool[row["offset"] : row["offset"] + row["length"]] for row in batch]
        for index, analysis in enumerate(reader.read_all([Image.open(BytesIO(data)) for data in stored]), start):
            face = analyzer.record(analysis)["face"]
            values = (face["count"], float(face["confidence"]), face["box"].tolist(), face["landmarks"].tolist(), index)
            rows[index] |= dict(zip(UNSEEN, values, strict=True))
            embeddings += analysis.embedding.astype("<f4").tobytes()
    return bytes(embeddings)


@once
def _reader(weights: str) -> "Reader":
    """Load the face analyser, once for all chunks of a process.

    On Beam, the threads of a process share it.
    """
    from components.scorer.faces.analyzer import Reader  # imported here: OpenCV and LiteRT are needed for faces only

    return Reader.load(weights)


def _inspected(photo_id: str, future: Future[bytes], settings: Ingestion) -> Inspected | LeftOut:
    try:
        data = future.result()
    except storage.MISSING as error:
        return LeftOut(photo_id, "unreadable", f"cannot be read: {error.strerror or error}")
    except OSError as error:
        raise storage.StorageError(redacted(str(error).replace(photo_id, shape(photo_id)))) from None
    return inspect(photo_id, data, settings)


def _collected(chunks: list[Chunk]) -> Inspections:
    import pandas as pd  # imported here to keep the workers small: they do not need pandas

    indexes = [storage.read_json(chunk.index) for chunk in chunks]
    rows = [{**UNSEEN, **row, "phash": bytes.fromhex(row["phash"])} for index in indexes for row in index["rows"]]
    table = pd.DataFrame(rows, columns=list(TYPES)).astype(dict(TYPES))
    return Inspections(table, [LeftOut(**values) for index in indexes for values in index["left_out"]])
