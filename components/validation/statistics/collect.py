"""One pass over a data set: a row for each photo, with what its profile and the search for leaks need of it."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from components.scorer.data import photos
from components.scorer.imaging import perceptual_hash
from components.scorer.metrics import regression
from components.scorer.progress import track
from components.validation.statistics.data_statistics import RATED
from components.validation.statistics.measured_features import APPEARANCE, SCORE, measure

SAMPLE = 2000
"""Rated photos, and unlabelled ones, that are measured: a mean is then known to .02 standard deviations."""

COLUMNS = (
    "photo", "split", "group", "raters", "label", "content", "hash", SCORE.name, *(each.name for each in APPEARANCE),
)  # fmt: skip
"""Columns of `survey`: ``photo`` its id; ``label`` 32 bits (uint32) that any change of id, votes or raters changes;
``content`` 16 bytes, the same for the same file; ``hash`` the perceptual hash of rated and sampled photos, else NaN;
the mean score of rated photos, else NaN; and the numbers of ``APPEARANCE``, NaN for photos outside the sample."""

_AHEAD = 64  # photos that are held in memory at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


def survey(dataset: str | Path) -> pd.DataFrame:
    """Look at every photo of a data set once; a few dozen are in memory at a time.

    Which photos are measured is drawn by a hash of their ids: it is the same whatever their order, and photos stay in
    the sample from run to run, so that the sample's own chance hardly moves what is compared.

    Args:
        dataset: TFDS directory.

    Returns:
        A row for each photo, with ``COLUMNS``.

    Raises:
        ValueError: no photo is rated, or a photo cannot be decoded.
    """
    counts = photos.counts(dataset)
    rated = sum(counts.get(split, 0) for split in RATED)
    if not rated:
        raise ValueError(f"expected rated photos in {', '.join(RATED)}, got {counts}: run ingestion with ratings")
    shares = {split: SAMPLE / rated if split in RATED else SAMPLE / counts[split] for split in counts if counts[split]}
    records = ((split, share, record) for split, share in shares.items() for record in photos.records(dataset, split))
    rows = list(track(_in_threads(_row, records), "looking at the photos", sum(counts.values())))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"label": np.uint32})


def _row(each: tuple[str, float, dict[str, Any]]) -> dict[str, Any]:
    split, share, record = each
    photo, data = record["photo_id"], record["photo"]
    row = {"photo": photo, "split": split, "group": record["group"], "raters": record["raters"]}
    row |= {"label": _label(record), "content": hashlib.blake2b(data, digest_size=16).digest()}
    if split in RATED:
        row[SCORE.name] = float(regression.mean_scores(record["votes"][None].astype(float))[0])
    sampled = _drawn(photo) < share
    if sampled or split in RATED:
        try:
            row |= _looked_at(data, sampled)
        except Exception as error:  # on damaged files the decoders raise nearly anything
            raise ValueError(
                f"expected every photo of {split} to be a JPEG, got {len(data):,} bytes that do not decode "
                f"({type(error).__name__}: {error}): run ingestion again"
            ) from error
    return row


def _looked_at(data: bytes, sampled: bool) -> dict[str, Any]:
    with Image.open(io.BytesIO(data)) as opened:
        if not sampled:
            opened.draft(
                None, (perceptual_hash.SQUARE, perceptual_hash.SQUARE)
            )  # measured at most 4 bits from the full decode
        image = opened.convert("RGB")
    looks = measure(image, len(data)) if sampled else {}
    return {"hash": perceptual_hash.perceptual_hash(perceptual_hash.grey_square(image)), **looks}


def _label(record: dict[str, Any]) -> int:
    """32 bits of a hash: who has the photo's name and all its votes can look for them, nobody can read them back."""
    votes = np.rint(record["votes"] * 10_000).astype("<i2")  # what differs by less was rounded otherwise
    known = f"{record['photo_id']}\0{record['raters']}\0".encode() + votes.tobytes()
    return int.from_bytes(hashlib.blake2b(known, digest_size=4, person=b"label").digest(), "big")


def _drawn(photo: str) -> float:
    """A number from 0 to 1 that the id alone draws, and nothing else in the data set's making depends on."""
    return int.from_bytes(hashlib.blake2b(photo.encode(), digest_size=8, person=b"sample").digest(), "big") / 2**64


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in the order of the items, of which a few are under way at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
