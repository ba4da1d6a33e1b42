"""Face inputs of a scorer, and the processing stages that produce them from a photo.

A scorer with face inputs needs a face that was detected, cropped and embedded. Its graph does none of this: OpenCV
detects the face and a separate network embeds it. So each version names its stages, and every user runs them by
`FaceInputSpec.build`: the bundle in training and evaluation, the published version, and the server. No TensorFlow is
imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from components.scorer.faces import geometry

if TYPE_CHECKING:
    from components.scorer.faces.analyzer import FaceAnalysis, FaceAnalyzer

Stage = Literal["normalise", "detect", "align", "embed", "score"]
"""Stages in their order. ``normalise``: upright, sRGB, small (``decoding``). ``detect``: the largest face and its
landmarks (``faces``). ``align``: the upright face crop for the embedder or the face view. ``embed``: crop to embedding.
``score``: pixels and face inputs to votes.
"""

NamedInputs = dict[str, np.ndarray]
"""Model inputs by name: of one photo, or of several photos with a leading batch axis."""

FACE, EMBEDDING, FOUND = "face", "embedding", "found"
"""Names of the face inputs, which follow ``pixels`` and precede ``job``."""


@dataclass(frozen=True)
class FaceInputSpec:
    """Face inputs of a scorer.

    Attributes:
        embedding: Size of the face embedding; 0 disables this input.
        view: Side of the face crop that is the network's second view, pixels; 0 disables this input.
        view_scale: Fraction of the face crop's side that the landmark template takes, see ``geometry.crop``.
    """

    embedding: int = 0
    view: int = 0
    view_scale: float = 0.0

    @property
    def uses_faces(self) -> bool:
        """True if the scorer needs a face detected."""
        return bool(self.embedding or self.view)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs between ``pixels`` and ``job``, in their order."""
        return (*([FACE] if self.view else []), *([EMBEDDING, FOUND] if self.embedding else []))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of these inputs for one photo, by name."""
        shapes = {FACE: (self.view, self.view, 3), EMBEDDING: (self.embedding,), FOUND: ()}
        return {name: shapes[name] for name in self.inputs}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages that a photo goes through, in their order."""
        stages = {"normalise", "score"} | ({"detect", "align"} if self.uses_faces else set())
        stages |= {"embed"} if self.embedding else set()
        return tuple(stage for stage in get_args(Stage) if stage in stages)

    def build(self, image: Image.Image, analysis: "FaceAnalysis") -> NamedInputs:
        """Return the face inputs of one photo.

        Args:
            image: Normalised photo, RGB.
            analysis: Face analysis of the photo.

        Returns:
            The arrays named by `inputs`: ``face`` float32 ``[view, view, 3]``, 0..255; ``embedding`` float32
            ``[embedding]``; ``found`` float32 ``[]``, 1 or 0.

        Raises:
            ValueError: The embedding has another size, so another embedder made it.
        """
        inputs: NamedInputs = {}
        if self.view:
            face_crop = geometry.crop(np.asarray(image.convert("RGB")), analysis.landmarks, self.view, self.view_scale)
            inputs[FACE] = face_crop.astype("float32")
        if self.embedding:
            embedding = np.asarray(analysis.embedding, "float32")
            if embedding.shape != (self.embedding,):
                raise ValueError(
                    f"expected an embedding of {self.embedding} numbers, as the scorer was trained on, got"
                    f" {embedding.size}: another embedder has read the face"
                )
            inputs |= {EMBEDDING: embedding, FOUND: np.asarray(analysis.has_face, "float32")}
        return inputs


NO_FACE_INPUTS = FaceInputSpec()
"""Specification of a scorer without face inputs."""


def face_inputs_of(photos: Sequence[bytes], analyzer: "FaceAnalyzer | None", spec: FaceInputSpec) -> NamedInputs:
    """Return the face inputs of encoded, normalised photos; empty if the model has none.

    Args:
        photos: Encoded photos, at least one.
        analyzer: Face analyser; None is allowed if the model has no face inputs.
        spec: Face inputs of the model.

    Returns:
        The inputs by name, with a leading batch axis.
    """
    if not spec.uses_faces:
        return {}
    images = [Image.open(BytesIO(photo)).convert("RGB") for photo in photos]
    assert analyzer is not None  # a scorer that uses faces is not loaded without their analyser
    analyses = analyzer.analyze_all(images, embed=bool(spec.embedding))
    return stack_inputs([spec.build(image, analysis) for image, analysis in zip(images, analyses, strict=True)])


def stack_inputs(photos: Sequence[Mapping[str, np.ndarray]]) -> NamedInputs:
    """Stack the inputs of several photos along a new batch axis."""
    if len(photos) == 1:  # most requests have one photo: a view avoids the copy
        return {name: np.asarray(value)[None] for name, value in photos[0].items()}
    return {name: np.stack([photo[name] for photo in photos]) for name in photos[0]}
