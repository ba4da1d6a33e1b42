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

from components.ingestion.exclusions import Exclusion
from components.ingestion.photos import parallel_map
from components.scorer import storage
from components.scorer.imaging import decoding, image_statistics, perceptual_hash
from components.scorer.once import once
from components.scorer.progress import track
from components.scorer.redaction import redact, redact_path
from components.scorer.settings import Ingestion

if TYPE_CHECKING:
    import pandas as pd

    from components.scorer.faces.analyzer import FaceAnalyzer

CHUNK_SIZE = 128
"""Photos in a chunk: some seconds of work that a kill loses, and some 5 MB of stored photos."""

COLUMN_TYPES = MappingProxyType(
    {
        "photo": "str", "sha256": "str", "phash": "object", "width": "int64", "height": "int64",
        "brightness": "float64", "sharpness": "float64", "spool": "str", "offset": "int64", "length": "int64",
        "face_count": "int64", "face_confidence": "float64", "face_box": "object", "face_landmarks": "object",
        "face_place": "int64",
    }
)  # fmt: skip
"""Columns of `InspectionResults.table` and their types, which do not depend on the photos, even if there are none."""

NO_FACE_ANALYSIS = MappingProxyType(
    {"face_count": 0, "face_confidence": 0.0, "face_box": None, "face_landmarks": None, "face_place": -1}
)
"""Values of the face columns for a photo whose faces were not analysed. Every table has these columns."""


@dataclass(frozen=True)
class InspectedPhoto:
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
class InspectionChunk:
    """A group of photos to inspect, complete for another process or machine.

    Attributes:
        photos: Id and address of each photo, and optionally its version, which makes an outdated chunk detectable.
        settings: Ingestion settings.
        folder: Address of the folder that receives the chunk's files.
        face_weights: Address of the face weights, whose last part identifies them (see `embedder`). Empty: no face
            analysis.
    """

    photos: tuple[tuple[str, ...], ...]
    settings: Ingestion
    folder: str
    face_weights: str = ""

    @property
    def name(self) -> str:
        """Hash of the chunk's inputs: photos, settings, Pillow's version and face weights."""
        s = self.settings
        weights = (self.face_weights.rpartition("/")[2],) if self.face_weights else ()
        inputs = (s.minimum_side, s.maximum_pixels, s.shorter_side, s.jpeg_quality, PIL.__version__, *weights)
        return hashlib.sha256(repr((self.photos, inputs)).encode()).hexdigest()[:32]

    @property
    def photos_uri(self) -> str:
        """Address of the stored photos."""
        return storage.join(self.folder, f"{self.name}.jpegs")

    @property
    def index_uri(self) -> str:
        """Address of the measurements, which are written last."""
        return storage.join(self.folder, f"{self.name}.json")


@dataclass(frozen=True)
class InspectionResults:
    """The inspection results of many photos.

    Attributes:
        table: One row a usable photo, in the input's order, with the columns ``COLUMN_TYPES``. They are ``photo``, the
            fields of `InspectedPhoto`, the position of the stored photo and the face columns. `read_photo` takes
            ``spool``, ``offset`` and ``length``; `read_embedding` takes ``spool`` and ``face_place``. The face columns
            hold ``NO_FACE_ANALYSIS`` if faces were not analysed.
        left_out: Exclusions of the other photos.
    """

    table: "pd.DataFrame"
    left_out: list[Exclusion]


def inspect_photo(photo_id: str, data: bytes, settings: Ingestion) -> InspectedPhoto | Exclusion:
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
    except decoding.UnusablePhotoError as error:
        return Exclusion(photo_id, error.reason, error.detail)
    square = perceptual_hash.grey_square(image)
    levels = np.asarray(square, np.int16)
    return InspectedPhoto(
        photo_id=photo_id,
        data=decoding.encode(image, settings),
        sha256=hashlib.sha256(data).hexdigest(),
        phash=perceptual_hash.perceptual_hash(square),
        width=width,
        height=height,
        brightness=image_statistics.brightness(levels),
        sharpness=image_statistics.sharpness(levels),
    )


def inspect_photos(
    photos: Iterable[tuple[str, ...]],
    settings: Ingestion,
    folder: str,
    *,
    beam_options: str = "",
    face_weights: str = "",
) -> InspectionResults:
    """Inspect photos on all cores, or on a Beam runner. Complete chunks of an earlier call are reused.

    Each worker holds one decoded photo, the photos read ahead and the JPEGs of one chunk in memory.

    Args:
        photos: Id and address of each photo, and optionally its version.
        settings: Ingestion settings.
        folder: Address for the chunks' files; Beam workers on other machines must reach it. The caller removes it.
        beam_options: Options of an Apache Beam runner. Empty: the cores of this machine.
        face_weights: Address of the face weights, see `InspectionChunk`; Beam workers on other machines must reach it.

    Raises:
        OSError: The storage failed. A missing photo is not an error.
        RuntimeError: A worker process died.
    """
    all_photos = list(photos)
    starts = range(0, len(all_photos), CHUNK_SIZE)
    chunks = [
        InspectionChunk(tuple(all_photos[start : start + CHUNK_SIZE]), settings, folder, face_weights)
        for start in starts
    ]
    existing = {file.uri for file in storage.list_files(folder)}
    missing = [chunk for chunk in chunks if chunk.index_uri not in existing]
    if missing and beam_options:
        parallel_map.on_beam(inspect_chunk, missing, beam_options, "inspect photos")
    elif missing:
        done = parallel_map.on_processes(inspect_chunk, missing)
        deque(track(done, f"inspecting photos in chunks of {CHUNK_SIZE}", len(missing)), maxlen=0)
    return _collect_results(chunks)


def inspect_chunk(chunk: InspectionChunk) -> None:
    """Inspect the photos of a chunk and write its files. An unreadable photo is excluded.

    Raises:
        OSError: The storage failed. A missing photo is not an error.
    """
    address, spool, rows, left_out = chunk.photos_uri, bytearray(), [], []
    for photo_id, future in storage.read_ahead(chunk.photos):
        inspected = _inspect_download(photo_id, future, chunk.settings)
        if isinstance(inspected, Exclusion):
            left_out.append(asdict(inspected))
            continue
        row = {"photo": photo_id, **asdict(inspected), "phash": inspected.phash.hex()}
        row |= {"spool": address, "offset": len(spool), "length": len(inspected.data)}
        rows.append({column: row[column] for column in COLUMN_TYPES if column in row})
        spool += inspected.data
    if chunk.face_weights:
        storage.write_bytes(_embeddings_uri(address), _analyze_faces(chunk.face_weights, spool, rows))
    storage.write_bytes(address, bytes(spool))
    storage.write_json(chunk.index_uri, {"rows": rows, "left_out": left_out})


def read_photo(spool: str, offset: int, length: int) -> bytes:
    """Return the stored JPEG at a position from `InspectionResults.table`."""
    return _read_range(spool, offset, length)


def read_embedding(spool: str, index: int, size: int) -> np.ndarray:
    """Return a face embedding, float32 ``[size]``, at a position from `InspectionResults.table`."""
    n_bytes = size * np.dtype("<f4").itemsize
    return np.frombuffer(_read_range(_embeddings_uri(spool), index * n_bytes, n_bytes), "<f4")


def _embeddings_uri(spool: str) -> str:
    """Return the address of a chunk's embeddings."""
    return spool.removesuffix(".jpegs") + ".embeddings"


def _read_range(address: str, offset: int, length: int) -> bytes:
    if storage.is_remote(address):
        return _read_remote(address)[offset : offset + length]
    with open(address.removeprefix("file://"), "rb") as file:
        file.seek(offset)
        return file.read(length)


_read_remote = lru_cache(maxsize=8)(storage.read_bytes)  # photos are mostly read in sequence


def _analyze_faces(weights: str, spool: bytearray, rows: list[dict[str, Any]]) -> bytes:
    """Add the face analysis of each stored photo to its row. Return the concatenated embeddings."""
    reader, embeddings = _load_analyzer(weights), bytearray()
    from components.scorer.faces import (
        analyzer,  # imported already by `_load_analyzer`
        embedder,
    )

    for start in range(0, len(rows), embedder.BATCH):
        batch = rows[start : start + embedder.BATCH]
        stored = [spool[row["offset"] : row["offset"] + row["length"]] for row in batch]
        for index, analysis in enumerate(reader.analyze_all([Image.open(BytesIO(data)) for data in stored]), start):
            face = analyzer.to_features(analysis)["face"]
            values = (face["count"], float(face["confidence"]), face["box"].tolist(), face["landmarks"].tolist(), index)
            rows[index] |= dict(zip(NO_FACE_ANALYSIS, values, strict=True))
            embeddings += analysis.embedding.astype("<f4").tobytes()
    return bytes(embeddings)


@once
def _load_analyzer(weights: str) -> "FaceAnalyzer":
    """Load the face analyser, once for all chunks of a process.

    On Beam, the threads of a process share it.

    Raises:
        FileNotFoundError: There are no face weights at this address.
    """
    from components.scorer.faces.analyzer import (
        FaceAnalyzer,  # imported here: OpenCV and LiteRT are needed for faces only
    )

    if (loaded := FaceAnalyzer.load(weights)) is None:
        raise FileNotFoundError(f"there are no face weights at {weights}: can every worker read this address?")
    return loaded


def _inspect_download(photo_id: str, future: Future[bytes], settings: Ingestion) -> InspectedPhoto | Exclusion:
    try:
        data = future.result()
    except storage.UNREADABLE_ERRORS as error:
        return Exclusion(photo_id, "unreadable", f"cannot be read: {error.strerror or error}")
    except OSError as error:
        raise storage.StorageError(redact(str(error).replace(photo_id, redact_path(photo_id)))) from None
    return inspect_photo(photo_id, data, settings)


def _collect_results(chunks: list[InspectionChunk]) -> InspectionResults:
    import pandas as pd  # imported here to keep the workers small: they do not need pandas

    indexes = [storage.read_json(chunk.index_uri) for chunk in chunks]
    rows = [
        {**NO_FACE_ANALYSIS, **row, "phash": bytes.fromhex(row["phash"])} for index in indexes for row in index["rows"]
    ]
    table = pd.DataFrame(rows, columns=list(COLUMN_TYPES)).astype(dict(COLUMN_TYPES))
    return InspectionResults(table, [Exclusion(**values) for index in indexes for values in index["left_out"]])
