"""Single pass over a data set that collects one row per photo, for the profile and the leakage check."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from components.scorer.data import photos
from components.scorer.imaging import perceptual_hash
from components.scorer.metrics import regression
from components.scorer.progress import track
from components.validation.statistics.data_statistics import RATED_SPLITS
from components.validation.statistics.measured_features import APPEARANCE, SCORE, measure_appearance

SAMPLE_SIZE = 2000
"""Number of rated and of unlabelled photos to measure: a mean then has a standard error of .02 standard deviations."""

COLUMNS = (
    "photo", "split", "group", "raters", "label", "content", "hash", SCORE.name,
    *(feature.name for feature in APPEARANCE),
)  # fmt: skip
"""Columns of `collect_statistics`.

``photo`` is the photo's id. ``label`` is a hash (uint32) that changes with the id, the votes or the number of raters.
``content`` is a 16-byte hash of the file. ``hash`` is the perceptual hash of rated and sampled photos, else NaN. The
mean score is NaN for unlabelled photos. The features of `APPEARANCE` are NaN outside the sample.
"""

_MAX_PENDING = 64  # maximum number of photos in memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def collect_statistics(dataset: str | Path) -> pd.DataFrame:
    """Read every photo of a data set once, a few dozen in memory at a time, and return a table of rows.

    The sample of measured photos is drawn by a hash of their ids. It does not depend on their order, and photos stay in
    the sample from run to run. Sampling noise thus hardly affects comparisons.

    Args:
        dataset: TFDS directory.

    Returns:
        One row per photo, with `COLUMNS`.

    Raises:
        ValueError: No photo is rated, or a photo cannot be decoded.
    """
    counts = photos.counts(dataset)
    rated = sum(counts.get(split, 0) for split in RATED_SPLITS)
    if not rated:
        raise ValueError(
            f"expected rated photos in {', '.join(RATED_SPLITS)}, got {counts}: run ingestion with ratings"
        )
    fractions = {
        split: SAMPLE_SIZE / rated if split in RATED_SPLITS else SAMPLE_SIZE / counts[split]
        for split in counts
        if counts[split]
    }
    records = (
        (split, fraction, record) for split, fraction in fractions.items() for record in photos.records(dataset, split)
    )
    rows = list(track(_map_in_threads(_photo_row, records), "looking at the photos", sum(counts.values())))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"label": np.uint32})


def _photo_row(item: tuple[str, float, dict[str, Any]]) -> dict[str, Any]:
    split, fraction, record = item
    photo, data = record["photo_id"], record["photo"]
    row = {"photo": photo, "split": split, "group": record["group"], "raters": record["raters"]}
    row |= {"label": _label_hash(record), "content": hashlib.blake2b(data, digest_size=16).digest()}
    if split in RATED_SPLITS:
        row[SCORE.name] = float(regression.mean_scores(record["votes"][None].astype(float))[0])
    sampled = _sampling_draw(photo) < fraction
    if sampled or split in RATED_SPLITS:
        try:
            row |= _measure_photo(data, sampled)
        except Exception as error:  # decoders raise exceptions of many types on damaged files
            raise ValueError(
                f"expected every photo of {split} to be a JPEG, got {len(data):,} bytes that do not decode "
                f"({type(error).__name__}: {error}): run ingestion again"
            ) from error
    return row


def _measure_photo(data: bytes, sampled: bool) -> dict[str, Any]:
    with Image.open(io.BytesIO(data)) as opened:
        if not sampled:
            # The hash then differs in at most 4 bits from that of the full decode (measured).
            opened.draft(None, (perceptual_hash.SQUARE_SIDE, perceptual_hash.SQUARE_SIDE))
        image = opened.convert("RGB")
    appearance = measure_appearance(image, len(data)) if sampled else {}
    return {"hash": perceptual_hash.perceptual_hash(perceptual_hash.grey_square(image)), **appearance}


def _label_hash(record: dict[str, Any]) -> int:
    """Return a 32-bit hash of a photo's id, votes and raters. It confirms a known label but does not reveal one."""
    votes = np.rint(record["votes"] * 10_000).astype("<i2")  # smaller differences are rounding
    content = f"{record['photo_id']}\0{record['raters']}\0".encode() + votes.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=4, person=b"label").digest(), "big")


def _sampling_draw(photo: str) -> float:
    """Return a number in [0, 1) drawn by the photo's id alone."""
    return int.from_bytes(hashlib.blake2b(photo.encode(), digest_size=8, person=b"sample").digest(), "big") / 2**64


def _map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results in the order of the items; at most `_MAX_PENDING` are pending at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _MAX_PENDING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
