"""Perceptual hashes of photos and the search for pairs of near duplicates."""

import imagehash
import numpy as np
from PIL import Image

SQUARE_SIDE = 256
"""Side in pixels of the grey square on which photos are hashed and measured. One size makes photos of all sizes
comparable.
"""

HASH_BITS = 256
"""Length of a perceptual hash, bits."""


def grey_square(image: Image.Image) -> Image.Image:
    """Return the luma (ITU-R 601) of an image of any size as a square of side `SQUARE_SIDE`, mode L."""
    return image.convert("L").resize((SQUARE_SIDE, SQUARE_SIDE), Image.Resampling.BILINEAR)


def perceptual_hash(square: Image.Image) -> bytes:
    """Return the pHash of a `grey_square`, 32 bytes. Near duplicates have a small Hamming distance."""
    return np.packbits(imagehash.phash(square, hash_size=16).hash).tobytes()


def near_duplicates(hashes: np.ndarray, max_distance: int, block_size: int = 8192) -> np.ndarray:
    """Return all pairs of hashes within a Hamming distance, by comparing all with all on all cores.

    The cost is quadratic, but 50,000 photos take seconds. An index is no faster at the distances of near duplicates:
    two hashes that differ in 40 of 256 bits are sure to agree only on some stretch of 6 bits. Source: Norouzi, Punjani
    and Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014.

    Args:
        hashes: Hashes, uint8 ``[n, 32]``.
        max_distance: Largest Hamming distance of a pair, bits.
        block_size: Number of hashes compared at a time.

    Returns:
        Index pairs, int64 ``[m, 2]``, sorted, the smaller index first in each pair.
    """
    import faiss  # imported here: workers that only hash photos stay small

    index, pairs = faiss.IndexBinaryFlat(HASH_BITS), [np.empty((0, 2), np.int64)]
    for start in range(0, len(hashes), block_size):
        block_hashes = np.ascontiguousarray(hashes[start : start + block_size])
        index.add(block_hashes)  # a block is compared with itself and the earlier blocks
        offsets, _, smaller = index.range_search(block_hashes, max_distance + 1)  # the radius is exclusive
        larger = start + np.repeat(np.arange(len(block_hashes)), np.diff(offsets.astype(np.int64)))
        pairs.append(np.stack([smaller, larger], axis=1)[smaller < larger])
    all_pairs = np.concatenate(pairs)
    return all_pairs[np.lexsort(all_pairs.T[::-1])]
