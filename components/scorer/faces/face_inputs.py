"""What a photo goes through before it is scored, and what of it the network is given.

A scorer that reads faces takes more than pixels: the face that was found, cut out and embedded. None of that lives in
its graph (OpenCV finds the face, a network of its own embeds it), so a version names its stages, and everybody runs
them by `Reads.given`: the bundle in training and evaluation, the published version, and the server. Nothing here
imports TensorFlow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from components.scorer.faces import geometry

if TYPE_CHECKING:
    from components.scorer.faces.analyzer import Reader, Seen

Stage = Literal["normalise", "detect", "align", "embed", "score"]
"""In their order. ``normalise``: upright, sRGB, small (``decoding``). ``detect``: the largest face and its landmarks
(``faces``). ``align``: the face upright on the embedder's square, or on that of the second view. ``embed``: the square
to an embedding. ``score``: pixels and what the stages before have found to votes."""

Given = dict[str, np.ndarray]
"""What the network is given by the name of its input: of one photo, or of several with a batch axis before."""

FACE, EMBEDDING, FOUND = "face", "embedding", "found"
"""Inputs of a network that reads faces, after ``pixels`` and before ``job``."""


@dataclass(frozen=True)
class Reads:
    """What a scorer reads of a photo beside its pixels.

    Attributes:
        embedding: numbers of the face's embedding; 0: it reads none.
        view: side of the face crop that is its second view, pixels; 0: it has none.
        view_scale: share of that crop's side that the landmarks' template takes, see ``geometry.crop``.
    """

    embedding: int = 0
    view: int = 0
    view_scale: float = 0.0

    @property
    def faces(self) -> bool:
        """Whether a face has to be looked for before a photo is scored."""
        return bool(self.embedding or self.view)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs between ``pixels`` and ``job``, in their order."""
        return (*([FACE] if self.view else []), *([EMBEDDING, FOUND] if self.embedding else []))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each of these inputs, of one photo."""
        every = {FACE: (self.view, self.view, 3), EMBEDDING: (self.embedding,), FOUND: ()}
        return {name: every[name] for name in self.inputs}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that a photo goes through."""
        used = {"normalise", "score"} | ({"detect", "align"} if self.faces else set())
        used |= {"embed"} if self.embedding else set()
        return tuple(stage for stage in get_args(Stage) if stage in used)

    def given(self, image: Image.Image, seen: "Seen") -> Given:
        """What the network is given of one photo beside its pixels.

        Args:
            image: normalised, RGB.
            seen: what was found on it.

        Returns:
            ``face`` float32 ``[view, view, 3]``, 0..255, ``embedding`` float32 ``[embedding]`` and ``found`` float32
            ``[]``, 1 or 0: those of `inputs`.

        Raises:
            ValueError: the embedding has another size: it is another embedder's.
        """
        given: Given = {}
        if self.view:
            cut = geometry.crop(np.asarray(image.convert("RGB")), seen.landmarks, self.view, self.view_scale)
            given[FACE] = cut.astype("float32")
        if self.embedding:
            embedding = np.asarray(seen.embedding, "float32")
            if embedding.shape != (self.embedding,):
                raise ValueError(
                    f"expected an embedding of {self.embedding} numbers, as the scorer was trained on, got"
                    f" {embedding.size}: another embedder has read the face"
                )
            given |= {EMBEDDING: embedding, FOUND: np.float32(seen.found)}
        return given


PHOTO_ALONE = Reads()
"""What a scorer reads that reads no face: nothing more."""


def read(photos: Sequence[bytes], reader: "Reader | None", reads: Reads) -> Given:
    """What the network is given of encoded, normalised photos beside their pixels; nothing where it reads no faces.

    Args:
        photos: n of them, at least one.
        reader: finds and reads their faces.
        reads: what the network reads.
    """
    if not reads.faces:
        return {}
    images = [Image.open(BytesIO(photo)).convert("RGB") for photo in photos]
    found = reader.read_all(images, want_embedding=bool(reads.embedding))
    return together([reads.given(image, seen) for image, seen in zip(images, found, strict=True)])


def together(photos: Sequence[Mapping[str, np.ndarray]]) -> Given:
    """What the network is given of several photos: each input with a batch axis before."""
    if len(photos) == 1:  # of the one photo that most requests bring nothing is copied
        return {name: np.asarray(value)[None] for name, value in photos[0].items()}
    return {name: np.stack([photo[name] for photo in photos]) for name in photos[0]}
