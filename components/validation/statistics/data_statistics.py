"""A data set in some hundred kilobytes: what later data sets are compared with when the photos are long gone.

It travels with each published version as ``profile.json``. It holds counts, histograms and hashes of 32 bits, and
nothing by which a photo or a person could be named.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pandas as pd

from components.validation.statistics.measured_features import APPEARANCE, SCORE, Quantity

VERSION = 1
"""Of the format; raised whenever a quantity, its histogram or what a label's hash covers changes."""

NAME = "profile.json"
"""The file's name in validation's checks and in a published version's folder."""

RATED = ("test", "validation", "train")
"""The splits of rated photos, the rarest first."""

LEARNT = ("train", "validation")
"""The splits whose labels a scorer learns from or is chosen by."""


@dataclass(frozen=True)
class Distribution:
    """How a quantity is spread.

    Attributes:
        count: number of photos.
        mean: NaN without photos.
        deviation: standard deviation, over ``count``; NaN without photos.
        histogram: photos in each of the quantity's bins.
    """

    count: int
    mean: float
    deviation: float
    histogram: tuple[int, ...]

    def __add__(self, other: "Distribution") -> "Distribution":
        """That of both sets of photos together."""
        sides = [side for side in (self, other) if side.count]
        count = self.count + other.count
        mean = sum(side.count * side.mean for side in sides) / count if count else math.nan
        variance = sum(side.count * (side.deviation**2 + (side.mean - mean) ** 2) for side in sides)
        histogram = tuple(map(add, self.histogram, other.histogram))
        return Distribution(count, mean, math.sqrt(variance / count) if count else math.nan, histogram)


def distribution(quantity: Quantity, values: pd.Series | np.ndarray) -> Distribution:
    """Of values as they are kept; NaN is none."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    histogram = tuple(np.histogram(values.clip(quantity.low, quantity.high), quantity.edges)[0].tolist())
    if not len(values):
        return Distribution(0, math.nan, math.nan, histogram)
    mean = math.fsum(values) / len(values)  # to the last digit, so that the order of the photos does not matter
    deviation = math.sqrt(math.fsum((values - mean) ** 2) / len(values))
    return Distribution(len(values), mean, deviation, histogram)


@dataclass(frozen=True)
class Part:
    """Some photos of a data set.

    Attributes:
        photos: how many.
        ratings: by people, of the photos of which their number is known.
        spread: of each quantity, by its name; no photo has a score in the unlabelled part.
    """

    photos: int
    ratings: int
    spread: Mapping[str, Distribution]

    def __add__(self, other: "Part") -> "Part":
        """Both together."""
        spread = {name: self.spread[name] + other.spread[name] for name in self.spread}
        return Part(self.photos + other.photos, self.ratings + other.ratings, spread)


def part(rows: pd.DataFrame) -> Part:
    """Of some rows of a survey."""
    spread = {each.name: distribution(each, rows[each.name]) for each in (SCORE, *APPEARANCE)}
    return Part(len(rows), int(rows["raters"].sum()), spread)


@dataclass(frozen=True)
class Profile:
    """What is kept of a data set.

    Attributes:
        parts: by split; those without photos are there too.
        labels: the hashes of what was learnt from, each 4 bytes with the lowest first, sorted.
    """

    parts: Mapping[str, Part]
    labels: bytes

    @property
    def rated(self) -> Part:
        """The rated photos of all splits."""
        return reduce(add, (self.parts[split] for split in RATED))

    @property
    def unlabelled(self) -> Part:
        """The other photos."""
        return self.parts["unlabelled"]


def profile(rows: pd.DataFrame) -> Profile:
    """Of a survey's rows."""
    parts = {split: part(rows[rows["split"] == split]) for split in (*RATED, "unlabelled")}
    learnt = np.unique(rows.loc[rows["split"].isin(LEARNT), "label"].to_numpy(np.uint32))
    return Profile(parts, learnt.astype("<u4").tobytes())


def is_new(rows: pd.DataFrame, champion: Profile | None) -> np.ndarray:
    """Which rows hold a label to learn from that the champion never saw, or saw with other votes: bool ``[n]``.

    A label is taken for known by mistake about once in 4 billion divided by the number of the champion's labels.
    """
    known = np.frombuffer(champion.labels, "<u4") if champion else np.empty(0, "<u4")
    return rows["split"].isin(LEARNT).to_numpy() & ~np.isin(rows["label"].to_numpy(), known)


def to_json(value: Profile) -> dict[str, Any]:
    """The profile as a JSON value; without photos, means are null."""
    parts = {
        split: {**asdict(each), "spread": {name: _plain(one) for name, one in each.spread.items()}}
        for split, each in value.parts.items()
    }
    return {"version": VERSION, "parts": parts, "labels": base64.b64encode(value.labels).decode()}


def from_json(value: Any) -> Profile:
    """The profile of a JSON value.

    Raises:
        ValueError: it is none, or one of another version.
    """
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise ValueError(f"expected a profile of version {VERSION}, got {version or type(value).__name__!r}")
    try:
        parts = {split: _part(value["parts"][split]) for split in (*RATED, "unlabelled")}
        labels = base64.b64decode(value["labels"], validate=True)
        if len(labels) % 4:
            raise ValueError("labels of 4 bytes each are cut off")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a whole profile, got one that is damaged: {type(error).__name__} {error}") from None
    return Profile(parts, labels)


def _plain(value: Distribution) -> dict[str, Any]:
    mean, deviation = (value.mean, value.deviation) if value.count else (None, None)
    return {"count": value.count, "mean": mean, "deviation": deviation, "histogram": list(value.histogram)}


def _part(value: dict[str, Any]) -> Part:
    spread = {each.name: _distribution(each, value["spread"][each.name]) for each in (SCORE, *APPEARANCE)}
    return Part(int(value["photos"]), int(value["ratings"]), spread)


def _distribution(quantity: Quantity, value: dict[str, Any]) -> Distribution:
    count, histogram = int(value["count"]), tuple(map(int, value["histogram"]))
    if len(histogram) != quantity.bins or sum(histogram) != count or min(histogram) < 0:
        raise ValueError(f"the histogram of {quantity.name} does not hold {count} photos in {quantity.bins} bins")
    mean, deviation = (float(value[name]) if count else math.nan for name in ("mean", "deviation"))
    if count and not (math.isfinite(mean) and deviation >= 0):
        raise ValueError(f"the mean and deviation of {quantity.name} are {mean} and {deviation}")
    return Distribution(count, mean, deviation, histogram)
