"""Whether a photo that is held out was seen before, under this name or another.

Ingestion keeps such photos together. This looks again at what is in the data set and trusts nothing that ingestion
noted but the groups, so that a fault there, or a data set made otherwise, is found before a scorer is judged by it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.scorer.imaging import perceptual_hash
from components.validation.statistics.data_statistics import RATED

STORING = 8
"""Bits by which storing photos moves the distance of two of them: at most 6 among 20,000 pairs of portraits. A pair is
near here when ingestion was sure to call it so."""

KINDS = ("the same file", "a near duplicate", "the same group")
"""Ways to be seen before, the plainest first."""

COLUMNS = ("photo", "split", "other", "other_split", "kind")


@dataclass(frozen=True)
class Leakage:
    """Photos that are held out, and what else of the data set shows them.

    Attributes:
        found: a row for each photo and each split that it was found in: ``COLUMNS``. ``photo`` is in the rarer of the
            two splits (see `RATED`), ``other`` is one photo of the other, ``kind`` the plainest of `KINDS`.
        unlabelled: the same for photos in the unlabelled split, of which only the sampled ones can be near. Nobody's
            score of them is learnt, so they are shown and not judged.
        distance: of perceptual hashes up to which photos are near; None when only the same files are.
    """

    found: pd.DataFrame
    unlabelled: pd.DataFrame
    distance: int | None

    @property
    def photos(self) -> int:
        """How many of the photos that are held out were seen in another rated split."""
        return len(self.found[["split", "photo"]].drop_duplicates())


def search(rows: pd.DataFrame, duplicate_distance: int) -> Leakage:
    """Look for photos that are held out among the others.

    Args:
        rows: of a survey.
        duplicate_distance: of perceptual hashes, as ingestion was told.
    """
    distance = duplicate_distance - STORING if duplicate_distance >= STORING else None
    rows, near = _placed(rows, distance)
    pairs = [(held, other) for place, held in enumerate(RATED) for other in RATED[place + 1 :]]
    rated = [_between(rows, near, held, other) for held, other in pairs]
    others = [_between(rows, near, held, "unlabelled") for held in RATED[:-1]]
    return Leakage(pd.concat(rated, ignore_index=True), pd.concat(others, ignore_index=True), distance)


def _placed(rows: pd.DataFrame, distance: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with the ``place`` of their hash among the distinct ones, -1 without; and the places that are near.

    These are pairs ``one`` and ``other``, both ways round, and each place with itself.
    """
    hashed = rows["hash"].notna().to_numpy()
    hashes = np.frombuffer(b"".join(rows["hash"][hashed]), np.uint8).reshape(-1, perceptual_hash.BITS // 8)
    distinct, inverse = np.unique(hashes, axis=0, return_inverse=True)
    places = np.full(len(rows), -1)
    places[hashed] = inverse.ravel()
    pairs, own = np.empty((0, 2), int), np.empty(0, int)
    if distance is not None:
        pairs, own = perceptual_hash.near_duplicates(distinct, distance), np.arange(len(distinct))
    one, other = (np.concatenate([pairs[:, side], pairs[:, 1 - side], own]) for side in (0, 1))
    return rows.assign(place=places), pd.DataFrame({"one": one, "other": other})


def _between(rows: pd.DataFrame, near: pd.DataFrame, held: str, other: str) -> pd.DataFrame:
    """The photos of one split that are found in another one."""
    mine, theirs = rows[rows["split"] == held], rows[rows["split"] == other]
    hashed = theirs[theirs["place"] >= 0]
    beside = near.assign(photo=near["other"].map(_first(hashed, "place"))).dropna()
    partners = {
        "the same file": mine["content"].map(_first(theirs, "content")),
        "a near duplicate": mine["place"].map(_first(beside, "one")),
        "the same group": mine["group"].map(_first(theirs[theirs["group"] != ""], "group")),
    }
    found = [
        pd.DataFrame({"photo": mine["photo"], "split": held, "other": partner, "other_split": other, "kind": kind})
        for kind, partner in partners.items()
    ]
    every = pd.concat(found).dropna(subset="other").drop_duplicates("photo")
    return every.sort_values("photo")[list(COLUMNS)]


def _first(rows: pd.DataFrame, key: str) -> pd.Series:
    """The first photo with each value of a column."""
    return rows.drop_duplicates(key).set_index(key)["photo"]
