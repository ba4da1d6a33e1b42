"""Data profile: statistics of a data set in some hundred kilobytes, for comparison with later data sets.

The profile is published with each version as ``profile.json`` and outlives the photos. It holds counts, histograms
and 32-bit hashes. No photo or person can be identified by it.
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

from components.validation.statistics.measured_features import APPEARANCE, SCORE, MeasuredFeature

FORMAT_VERSION = 1
"""Version of the format; raised whenever a feature, its histogram or the content of a label's hash changes."""

PROFILE_FILE = "profile.json"
"""File name, in validation's output folder and in a published version's folder."""

RATED_SPLITS = ("test", "validation", "train")
"""Splits of rated photos, the rarest first."""

LABEL_SPLITS = ("train", "validation")
"""Splits whose labels a scorer is trained or selected on."""


@dataclass(frozen=True)
class FeatureHistogram:
    """Distribution of a feature over photos.

    Attributes:
        count: Number of photos.
        mean: Mean; NaN without photos.
        deviation: Population standard deviation; NaN without photos.
        histogram: Number of photos in each of the feature's bins.
    """

    count: int
    mean: float
    deviation: float
    histogram: tuple[int, ...]

    def __add__(self, other: "FeatureHistogram") -> "FeatureHistogram":
        """Return the distribution over both sets of photos."""
        non_empty = [part for part in (self, other) if part.count]
        count = self.count + other.count
        mean = sum(part.count * part.mean for part in non_empty) / count if count else math.nan
        variance = sum(part.count * (part.deviation**2 + (part.mean - mean) ** 2) for part in non_empty)
        histogram = tuple(map(add, self.histogram, other.histogram))
        return FeatureHistogram(count, mean, math.sqrt(variance / count) if count else math.nan, histogram)


def feature_histogram(feature: MeasuredFeature, values: pd.Series | np.ndarray) -> FeatureHistogram:
    """Return the distribution of stored values; NaN values are left out."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    histogram = tuple(np.histogram(values.clip(feature.low, feature.high), feature.edges)[0].tolist())
    if not len(values):
        return FeatureHistogram(0, math.nan, math.nan, histogram)
    mean = math.fsum(values) / len(values)  # exact sum: the order of the photos does not matter
    deviation = math.sqrt(math.fsum((values - mean) ** 2) / len(values))
    return FeatureHistogram(len(values), mean, deviation, histogram)


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of some photos of a data set.

    Attributes:
        photos: Number of photos.
        ratings: Number of people's ratings, of the photos for which it is known.
        spread: Distribution of each feature by name; the mean score has no photos in the unlabelled split.
    """

    photos: int
    ratings: int
    spread: Mapping[str, FeatureHistogram]

    def __add__(self, other: "SplitStatistics") -> "SplitStatistics":
        """Return the statistics of both sets of photos."""
        spread = {name: self.spread[name] + other.spread[name] for name in self.spread}
        return SplitStatistics(self.photos + other.photos, self.ratings + other.ratings, spread)


def split_statistics(rows: pd.DataFrame) -> SplitStatistics:
    """Return the statistics of some rows of `survey`."""
    spread = {feature.name: feature_histogram(feature, rows[feature.name]) for feature in (SCORE, *APPEARANCE)}
    return SplitStatistics(len(rows), int(rows["raters"].sum()), spread)


@dataclass(frozen=True)
class DataProfile:
    """Data profile of a data set.

    Attributes:
        parts: Statistics by split; splits without photos are included.
        labels: Sorted hashes of the labels in `LABEL_SPLITS`, 4 bytes each, little-endian.
    """

    parts: Mapping[str, SplitStatistics]
    labels: bytes

    @property
    def rated(self) -> SplitStatistics:
        """Statistics of the rated photos of all splits."""
        return reduce(add, (self.parts[split] for split in RATED_SPLITS))

    @property
    def unlabelled(self) -> SplitStatistics:
        """Statistics of the unlabelled photos."""
        return self.parts["unlabelled"]


def data_profile(rows: pd.DataFrame) -> DataProfile:
    """Return the data profile of the rows of `survey`."""
    parts = {split: split_statistics(rows[rows["split"] == split]) for split in (*RATED_SPLITS, "unlabelled")}
    label_hashes = np.unique(rows.loc[rows["split"].isin(LABEL_SPLITS), "label"].to_numpy(np.uint32))
    return DataProfile(parts, label_hashes.astype("<u4").tobytes())


def is_new(rows: pd.DataFrame, champion: DataProfile | None) -> np.ndarray:
    """Return a mask ``[n]`` of rows in `LABEL_SPLITS` whose label is new or changed since the champion.

    A new label matches a known hash by chance with probability n / 4 billion, n being the champion's number of labels.
    """
    known_labels = np.frombuffer(champion.labels, "<u4") if champion else np.empty(0, "<u4")
    return rows["split"].isin(LABEL_SPLITS).to_numpy() & ~np.isin(rows["label"].to_numpy(), known_labels)


def to_json(value: DataProfile) -> dict[str, Any]:
    """Return the profile as a JSON value; means without photos are null."""
    parts = {
        split: {
            **asdict(statistics),
            "spread": {name: _histogram_to_json(values) for name, values in statistics.spread.items()},
        }
        for split, statistics in value.parts.items()
    }
    return {"version": FORMAT_VERSION, "parts": parts, "labels": base64.b64encode(value.labels).decode()}


def from_json(value: Any) -> DataProfile:
    """Return the profile of a JSON value.

    Raises:
        ValueError: The value is no profile, or has another version.
    """
    version = value.get("version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"expected a profile of version {FORMAT_VERSION}, got {version or type(value).__name__!r}")
    try:
        parts = {split: _statistics_from_json(value["parts"][split]) for split in (*RATED_SPLITS, "unlabelled")}
        labels = base64.b64decode(value["labels"], validate=True)
        if len(labels) % 4:
            raise ValueError("labels of 4 bytes each are cut off")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a whole profile, got one that is damaged: {type(error).__name__} {error}") from None
    return DataProfile(parts, labels)


def _histogram_to_json(value: FeatureHistogram) -> dict[str, Any]:
    mean, deviation = (value.mean, value.deviation) if value.count else (None, None)
    return {"count": value.count, "mean": mean, "deviation": deviation, "histogram": list(value.histogram)}


def _statistics_from_json(value: dict[str, Any]) -> SplitStatistics:
    spread = {
        feature.name: _histogram_from_json(feature, value["spread"][feature.name]) for feature in (SCORE, *APPEARANCE)
    }
    return SplitStatistics(int(value["photos"]), int(value["ratings"]), spread)


def _histogram_from_json(feature: MeasuredFeature, value: dict[str, Any]) -> FeatureHistogram:
    count, histogram = int(value["count"]), tuple(map(int, value["histogram"]))
    if len(histogram) != feature.bins or sum(histogram) != count or min(histogram) < 0:
        raise ValueError(f"the histogram of {feature.name} does not hold {count} photos in {feature.bins} bins")
    mean, deviation = (float(value[name]) if count else math.nan for name in ("mean", "deviation"))
    if count and not (math.isfinite(mean) and deviation >= 0):
        raise ValueError(f"the mean and deviation of {feature.name} are {mean} and {deviation}")
    return FeatureHistogram(count, mean, deviation, histogram)
