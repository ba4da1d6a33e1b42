"""Measured features of photos, compared between data sets: the mean score and the photos' appearance."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from components.scorer.imaging import image_statistics, perceptual_hash

Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class MeasuredFeature:
    """Feature measured on each photo, and the histogram that stores its distribution.

    Features that vary by ratios (file size, sharpness) are stored as logarithms to base 2, so that a few outliers
    cannot dominate the mean.

    Attributes:
        name: Name in the profile and in the report.
        meaning: Meaning of the number, in words.
        low: Lower end of the histogram, in stored units; values below count in the first bin.
        high: Upper end of the histogram, in stored units; values above count in the last bin.
        bins: Number of bins.
        more: Adjective for photos with a higher value.
        less: Adjective for photos with a lower value.
        min_deviation: Minimum standard deviation of an effect size; smaller deviations are replaced by this one.
        scale: Stored scale: "linear" for the number itself, "log" for its logarithm.
    """

    name: str
    meaning: str
    low: float
    high: float
    bins: int
    more: str
    less: str
    min_deviation: float
    scale: Literal["linear", "log"] = "linear"

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, in stored units: float ``[bins + 1]``."""
        return np.linspace(self.low, self.high, self.bins + 1)

    def to_display_unit(self, value: Value) -> Value:
        """Convert a stored value to the unit that people read; a mean of logarithms becomes the geometric mean."""
        return np.exp2(value) if self.scale == "log" else value


SCORE = MeasuredFeature("mean score", "of a photo's votes, 1 to 10", 1, 10, 180, "higher scores", "lower scores", 0.05)
"""Mean score. Bins of 1/20 point are finer than the effect of one vote in twenty."""

APPEARANCE = (
    MeasuredFeature("brightness", "mean luma, 0 black to 1 white", 0, 1, 50, "brighter", "darker", 0.005),
    MeasuredFeature(
        "contrast", "deviation of luma, 0 to 0.5", 0, 0.5, 50, "richer in contrast", "poorer in contrast", 0.005
    ),
    MeasuredFeature("sharpness", "variance of the Laplacian", 0, 15, 60, "sharper", "softer", 0.05, "log"),
    MeasuredFeature("colourfulness", "0 grey to 110 extreme", 0, 120, 60, "more colourful", "paler", 0.5),
    MeasuredFeature("warmth", "red over blue, -1 to 1", -0.5, 0.5, 50, "warmer", "cooler", 0.005),
    MeasuredFeature("shape", "width over height", -2, 2, 48, "wider", "taller", 0.02, "log"),
    MeasuredFeature("size", "pixels of the shorter side", 5, 12, 56, "larger", "smaller", 0.05, "log"),
    MeasuredFeature(
        "detail", "bits a pixel of the file", -3, 5, 48, "fuller of detail", "poorer in detail", 0.05, "log"
    ),
)  # fmt: skip
"""Appearance features. ``size`` and ``detail`` also reflect changes of ingestion's settings."""


def measure_appearance(image: Image.Image, file_bytes: int) -> dict[str, float]:
    """Return the `APPEARANCE` features of a photo, in stored units.

    Args:
        image: Upright RGB image, decoded at full size: scaled decoding would make ``file_bytes`` too small.
        file_bytes: File size, bytes.
    """
    width, height = image.size
    square = image.resize((perceptual_hash.SQUARE_SIDE, perceptual_hash.SQUARE_SIDE), Image.Resampling.BILINEAR)
    luma, pixels = np.asarray(square.convert("L"), np.int16), np.asarray(square)
    return {
        "brightness": image_statistics.brightness(luma),
        "contrast": image_statistics.contrast(luma),
        "sharpness": float(np.log2(max(1.0, image_statistics.sharpness(luma)))),
        "colourfulness": image_statistics.colourfulness(pixels),
        "warmth": image_statistics.warmth(pixels),
        "shape": float(np.log2(width / height)),
        "size": float(np.log2(min(width, height))),
        "detail": float(np.log2(8 * file_bytes / (width * height))),
    }
