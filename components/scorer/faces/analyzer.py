"""Face analysis of a photo: all faces, and the embedding of the largest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.scorer import storage
from components.scorer.faces import geometry
from components.scorer.faces.detector import FaceDetector
from components.scorer.faces.embedder import DETECTOR, EMBEDDERS, METADATA, Embedder, EmbedderSpec
from components.scorer.faces.geometry import Face


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """Face analysis of a photo.

    Attributes:
        faces: All faces, largest first. The first one is embedded.
        embedding: Embedding of the first face, float32 ``[size]``; zeros without a face or if it was not computed.
    """

    faces: tuple[Face, ...]
    embedding: np.ndarray

    @property
    def has_face(self) -> bool:
        """True if the photo has a face."""
        return bool(self.faces)

    @property
    def landmarks(self) -> np.ndarray:
        """Landmarks of the largest face as fractions of the photo's width and height, float32 ``[5, 2]``.

        Zeros without a face.
        """
        return np.array(self.faces[0].landmarks if self.faces else np.zeros((5, 2)), "float32")


class FaceAnalyzer:
    """Face analyser: detector and embedder. Threads may share it."""

    def __init__(
        self, detector: FaceDetector, embedder: Embedder | None = None, metadata: Mapping[str, Any] | None = None
    ):
        self.detector, self.embedder = detector, embedder
        self.metadata = dict(metadata or {"sha256": {"detector": detector.sha256}})

    @classmethod
    def load(cls, folder: str | Path, threads: int = 1) -> "FaceAnalyzer | None":
        """Load a folder that ``weight_files.prepare`` wrote.

        Args:
            folder: Address of the folder, local, ``gs://`` or ``s3://``.
            threads: Number of threads of one detection or one embedding.

        Returns:
            The analyser; None if there is no such folder.

        Raises:
            ValueError: The folder's files cannot be used.
        """
        uri = str(folder)
        try:
            metadata = storage.read_json(storage.join(uri, METADATA))
            detector = FaceDetector(storage.read_bytes(storage.join(uri, DETECTOR)), threads=threads)
        except FileNotFoundError:
            return None
        if "kind" not in metadata:
            return cls(detector, None, metadata)
        if missing := [field.name for field in fields(EmbedderSpec) if field.name not in metadata]:
            raise ValueError(
                f"{storage.join(uri, METADATA)} lacks {missing}, which this version writes: it is of another one;"
                " ingest or train again"
            )
        spec = EmbedderSpec(
            **{field.name: metadata[field.name] for field in fields(EmbedderSpec)} | {"scales": (*metadata["scales"],)}
        )
        embedder_path = storage.join(uri, EMBEDDERS[spec.kind])
        network = (
            storage.read_bytes(embedder_path)
            if storage.is_remote(embedder_path)
            else embedder_path.removeprefix("file://")
        )
        return cls(detector, Embedder(network, spec, threads), metadata)

    @property
    def size(self) -> int:
        """Embedding dimension; 0 if faces are detected but not embedded."""
        return self.embedder.size * len(self.embedder.spec.scales) if self.embedder else 0

    def analyze(self, image: Image.Image, embed: bool = True) -> FaceAnalysis:
        """Analyse one photo; see `read_all`."""
        return self.analyze_all([image], embed)[0]

    def analyze_all(self, images: Sequence[Image.Image], embed: bool = True) -> list[FaceAnalysis]:
        """Detect the faces of photos and embed the largest face of each.

        Args:
            images: Upright sRGB photos, decoded from the data set's JPEGs.
            embed: False skips the embedding.

        Returns:
            One analysis for each photo, in their order.
        """
        photo_faces = [tuple(self.detector.find(image)) for image in images]
        embeddings = np.zeros((len(images), self.size), "float32")
        with_face = [index for index, faces in enumerate(photo_faces) if faces]
        if embed and self.embedder is not None and with_face:
            crops = [self.crops(images[index], photo_faces[index][0].landmarks) for index in with_face]
            embeddings[with_face] = self.embedder.embed(np.concatenate(crops)).reshape(len(with_face), -1)
        return [FaceAnalysis(faces, embedding) for faces, embedding in zip(photo_faces, embeddings, strict=True)]

    def crops(self, image: Image.Image, landmarks: Any) -> np.ndarray:
        """Return the embedder's crops of a face, one for each scale, by ``geometry.crop``.

        Returns:
            uint8 ``[scales, side, side, 3]``, RGB.
        """
        assert self.embedder is not None  # only an embedder needs crops
        spec, pixels = self.embedder.spec, np.asarray(image.convert("RGB"))
        return np.stack([geometry.crop(pixels, landmarks, spec.side, scale) for scale in spec.scales])


def no_faces(size: int) -> FaceAnalysis:
    """Return the analysis of a photo without a face, its embedding zeros float32 ``[size]``."""
    return FaceAnalysis((), np.zeros(size, "float32"))


def to_features(analysis: FaceAnalysis) -> dict[str, Any]:
    """Return the face features that the data set stores of a photo; see ``ingestion.builder.features``.

    Returns:
        ``face``: count, confidence, box and landmarks; zeros without a face. ``embedding`` float32 ``[size]``, if the
        size is above 0.
    """
    box, confidence = (analysis.faces[0].box, analysis.faces[0].confidence) if analysis.has_face else (np.zeros(4), 0.0)
    face = {
        "count": len(analysis.faces),
        "confidence": np.float32(confidence),
        "box": np.array(box, "float32"),
        "landmarks": analysis.landmarks,
    }
    return {"face": face, **({"embedding": analysis.embedding} if len(analysis.embedding) else {})}
