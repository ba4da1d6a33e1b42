"""The faces of a photo and the embedding of the most prominent one, found by one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.scorer import storage
from components.scorer.faces import geometry
from components.scorer.faces.detector import Detector
from components.scorer.faces.embedder import ABOUT, DETECTOR, EMBEDDERS, About, Embedder
from components.scorer.faces.geometry import Face


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of the faces of a photo.

    Attributes:
        faces: largest first; the first one is the one that is read.
        embedding: of it, float32 ``[size]``; zeros without a face, and where it was not asked for.
    """

    faces: tuple[Face, ...]
    embedding: np.ndarray

    @property
    def found(self) -> bool:
        """Whether there is a face."""
        return bool(self.faces)

    @property
    def landmarks(self) -> np.ndarray:
        """Of the face that is read, in shares of the photo, float32 ``[5, 2]``; zeros without a face."""
        return np.array(self.faces[0].landmarks if self.faces else np.zeros((5, 2)), "float32")


class Reader:
    """What finds and reads the face of a photo. Threads may share it."""

    def __init__(self, detector: Detector, embedder: Embedder | None = None, about: Mapping[str, Any] | None = None):
        self.detector, self.embedder = detector, embedder
        self.about = dict(about or {"sha256": {"detector": detector.sha256}})

    @classmethod
    def load(cls, folder: str | Path, threads: int = 1) -> "Reader | None":
        """Load what ``weight_files.prepare`` wrote.

        Args:
            folder: its address, local, ``gs://`` or ``s3://``.
            threads: that one search or reading may use.

        Returns:
            The reader; None where there is no such folder.

        Raises:
            ValueError: what is there cannot be used.
        """
        place = str(folder)
        try:
            about = storage.read_json(storage.join(place, ABOUT))
            detector = Detector(storage.read_bytes(storage.join(place, DETECTOR)), threads=threads)
        except FileNotFoundError:
            return None
        if "kind" not in about:
            return cls(detector, None, about)
        if missing := [each.name for each in fields(About) if each.name not in about]:
            raise ValueError(
                f"{storage.join(place, ABOUT)} lacks {missing}, which this version writes: it is of another one; ingest"
                " or train again"
            )
        how = About(**{each.name: about[each.name] for each in fields(About)} | {"scales": (*about["scales"],)})
        file = storage.join(place, EMBEDDERS[how.kind])
        network = storage.read_bytes(file) if storage.is_remote(file) else file.removeprefix("file://")
        return cls(detector, Embedder(network, how, threads), about)

    @property
    def size(self) -> int:
        """Of an embedding; 0: faces are found and not read."""
        return self.embedder.size * len(self.embedder.about.scales) if self.embedder else 0

    def read(self, image: Image.Image, want_embedding: bool = True) -> Seen:
        """See `read_all`."""
        return self.read_all([image], want_embedding)[0]

    def read_all(self, images: Sequence[Image.Image], want_embedding: bool = True) -> list[Seen]:
        """Find the faces of photos and read the largest of each.

        Args:
            images: upright sRGB photos as they are decoded from the data set's JPEGs.
            want_embedding: whether faces are to be read, too.
        """
        found = [tuple(self.detector.find(image)) for image in images]
        embeddings = np.zeros((len(images), self.size), "float32")
        with_face = [place for place, those in enumerate(found) if those]
        if want_embedding and self.size and with_face:
            crops = [self.crops(images[place], found[place][0].landmarks) for place in with_face]
            embeddings[with_face] = self.embedder.embed(np.concatenate(crops)).reshape(len(with_face), -1)
        return [Seen(those, embedding) for those, embedding in zip(found, embeddings, strict=True)]

    def crops(self, image: Image.Image, landmarks: Any) -> np.ndarray:
        """A face as the embedder reads it: uint8 ``[scales, side, side, 3]``; see ``geometry.crop``."""
        how, pixels = self.embedder.about, np.asarray(image.convert("RGB"))
        return np.stack([geometry.crop(pixels, landmarks, how.side, scale) for scale in how.scales])


def unseen(size: int) -> Seen:
    """Of a photo that was not looked at: no face."""
    return Seen((), np.zeros(size, "float32"))


def record(seen: Seen) -> dict[str, Any]:
    """What the data set keeps of a photo's faces; see ``ingestion.builder.features``."""
    box, confidence = (seen.faces[0].box, seen.faces[0].confidence) if seen.found else (np.zeros(4), 0.0)
    face = {
        "count": len(seen.faces),
        "confidence": np.float32(confidence),
        "box": np.array(box, "float32"),
        "landmarks": seen.landmarks,
    }
    return {"face": face, **({"embedding": seen.embedding} if len(seen.embedding) else {})}
