"""Leakage check: held-out photos that are also in another split, under any name.

Ingestion keeps such photos in one split. This check searches the data set itself and takes nothing from ingestion but
the groups. A fault of ingestion, or a data set made otherwise, is thus found before a scorer is evaluated.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.scorer.imaging import perceptual_hash
from components.validation.statistics.data_statistics import RATED_SPLITS

STORAGE_ERROR_BITS = 8
"""Bits by which storing two photos changes their Hamming distance: at most 6 among 20,000 pairs of portraits.

A pair counts as near here if ingestion was certain to call it near.
"""

KINDS = ("the same file", "a near duplicate", "the same group")
"""Kinds of leakage, the most obvious first."""

COLUMNS = ("photo", "split", "other", "other_split", "kind")
"""Columns of `LeakageReport.matches`."""


@dataclass(frozen=True)
class LeakageReport:
    """Held-out photos and their matches in other splits.

    Attributes:
        matches: Matches between rated splits, one row per photo and other split, with `COLUMNS`. ``photo`` is
            in the rarer of the two splits (see `RATED_SPLITS`), ``other`` is a matching photo of the other split,
            ``kind`` the most obvious of `KINDS`.
        unlabelled_matches: Matches in the unlabelled split, with the same columns. Near duplicates are searched among
            sampled photos only. These matches are shown and not judged, as no score of unlabelled photos is learnt.
        distance: Maximum Hamming distance of the perceptual hashes of near duplicates. None if only identical files and
            groups are searched.
    """

    matches: pd.DataFrame
    unlabelled_matches: pd.DataFrame
    distance: int | None

    @property
    def photo_count(self) -> int:
        """Number of held-out photos found in another rated split."""
        return len(self.matches[["split", "photo"]].drop_duplicates())


def find_leakage(rows: pd.DataFrame, duplicate_distance: int) -> LeakageReport:
    """Find held-out photos that are also in another split.

    Args:
        rows: Rows of `survey`.
        duplicate_distance: Hamming distance of near duplicates in ingestion, bits.
    """
    distance = duplicate_distance - STORAGE_ERROR_BITS if duplicate_distance >= STORAGE_ERROR_BITS else None
    rows, near = _index_hashes(rows, distance)
    pairs = [(held_out, other) for index, held_out in enumerate(RATED_SPLITS) for other in RATED_SPLITS[index + 1 :]]
    rated = [_find_matches(rows, near, held_out, other) for held_out, other in pairs]
    unlabelled = [_find_matches(rows, near, held_out, "unlabelled") for held_out in RATED_SPLITS[:-1]]
    return LeakageReport(pd.concat(rated, ignore_index=True), pd.concat(unlabelled, ignore_index=True), distance)


def _index_hashes(rows: pd.DataFrame, distance: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with the index of their hash, and the index pairs of near hashes.

    The column ``place`` is an index into the distinct hashes, or -1 without a hash. The pairs have the columns ``one``
    and ``other``. They hold each pair both ways round, and each index with itself.
    """
    has_hash = rows["hash"].notna().to_numpy()
    hashes = np.frombuffer(b"".join(rows["hash"][has_hash]), np.uint8).reshape(-1, perceptual_hash.HASH_BITS // 8)
    distinct, inverse = np.unique(hashes, axis=0, return_inverse=True)
    hash_indices = np.full(len(rows), -1)
    hash_indices[has_hash] = inverse.ravel()
    pairs, itself = np.empty((0, 2), int), np.empty(0, int)
    if distance is not None:
        pairs, itself = perceptual_hash.near_duplicates(distinct, distance), np.arange(len(distinct))
    left, right = (np.concatenate([pairs[:, side], pairs[:, 1 - side], itself]) for side in (0, 1))
    return rows.assign(place=hash_indices), pd.DataFrame({"one": left, "other": right})


def _find_matches(rows: pd.DataFrame, near: pd.DataFrame, split: str, other_split: str) -> pd.DataFrame:
    """Return the photos of one split that match a photo of another split."""
    split_rows, other_rows = rows[rows["split"] == split], rows[rows["split"] == other_split]
    hashed_rows = other_rows[other_rows["place"] >= 0]
    near_photos = near.assign(photo=near["other"].map(_first_photo(hashed_rows, "place"))).dropna()
    partners = {
        "the same file": split_rows["content"].map(_first_photo(other_rows, "content")),
        "a near duplicate": split_rows["place"].map(_first_photo(near_photos, "one")),
        "the same group": split_rows["group"].map(_first_photo(other_rows[other_rows["group"] != ""], "group")),
    }
    matches = [
        pd.DataFrame(
            {"photo": split_rows["photo"], "split": split, "other": partner, "other_split": other_split, "kind": kind}
        )
        for kind, partner in partners.items()
    ]
    all_matches = pd.concat(matches).dropna(subset="other").drop_duplicates("photo")
    return all_matches.sort_values("photo")[list(COLUMNS)]


def _first_photo(rows: pd.DataFrame, key: str) -> pd.Series:
    """Return the first photo with each value of a column."""
    return rows.drop_duplicates(key).set_index(key)["photo"]
