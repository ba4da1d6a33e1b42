"""When two photos show the same: perceptual hashes, and the pairs of them that are near."""

import imagehash
import numpy as np
from PIL import Image

SQUARE = 256
"""Pixels: the side of the grey square on which photos are hashed and measured, so that those of all sizes compare."""

BITS = 256
"""Of a perceptual hash."""


def grey_square(image: Image.Image) -> Image.Image:
    """The luma (ITU-R 601) of a picture of any size, mode L, with the side ``SQUARE``."""
    return image.convert("L").resize((SQUARE, SQUARE), Image.Resampling.BILINEAR)


def perceptual_hash(square: Image.Image) -> bytes:
    """The hash of a `grey_square`: 32 bytes; the Hamming distance of near duplicates is small."""
    return np.packbits(imagehash.phash(square, hash_size=16).hash).tobytes()


def near_duplicates(hashes: np.ndarray, distance: int, block: int = 8192) -> np.ndarray:
    """All pairs of hashes that differ in few bits, by comparing all with all on all cores.

    That is quadratic, but 50,000 photos take seconds. At the distances at which photos are near, an index is no faster:
    of two hashes that differ in 40 of 256 bits, only stretches of 6 bits are sure to agree somewhere
    (Norouzi, Punjani and Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014).

    Args:
        hashes: uint8 ``[n, 32]``.
        distance: the most bits in which the hashes of a pair differ.
        block: hashes compared at a time.

    Returns:
        int64 ``[m, 2]``, the smaller place first, sorted.
    """
    import faiss  # here, so that the workers that only hash photos stay small

    index, pairs = faiss.IndexBinaryFlat(BITS), [np.empty((0, 2), np.int64)]
    for start in range(0, len(hashes), block):
        some = np.ascontiguousarray(hashes[start : start + block])
        index.add(some)  # each block is compared with itself and those before it
        bounds, _, smaller = index.range_search(some, distance + 1)  # the radius is exclusive
        larger = start + np.repeat(np.arange(len(some)), np.diff(bounds.astype(np.int64)))
        pairs.append(np.stack([smaller, larger], axis=1)[smaller < larger])
    found = np.concatenate(pairs)
    return found[np.lexsort(found.T[::-1])]
