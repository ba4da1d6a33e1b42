"""What is followed from one data set to the next: the scores, and how the photos look."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from components.scorer.imaging import image_statistics, perceptual_hash


@dataclass(frozen=True)
class Quantity:
    """A number that each photo has, and how its distribution is kept.

    What varies by ratios (file sizes, sharpness) is kept as logarithms to base 2, whose mean a few odd photos cannot
    carry away.

    Attributes:
        name: in the profile and on the page.
        meaning: of the number, in words.
        low, high: ends of the histogram, as the number is kept; what lies beyond is counted in the last bin.
        bins: of the histogram.
        more, less: what photos with more of it are.
        least: standard deviation below which differences mean nothing; it stands in for a smaller one.
        scale: whether the number is kept as it is or as its logarithm.
    """

    name: str
    meaning: str
    low: float
    high: float
    bins: int
    more: str
    less: str
    least: float
    scale: Literal["linear", "log"] = "linear"

    @property
    def edges(self) -> np.ndarray:
        """Of the bins, as the number is kept: float ``[bins + 1]``."""
        return np.linspace(self.low, self.high, self.bins + 1)

    def shown(self, kept: float | np.ndarray) -> float | np.ndarray:
        """A kept number as people read it; of a mean of logarithms, the geometric mean."""
        return np.exp2(kept) if self.scale == "log" else kept


SCORE = Quantity("mean score", "of a photo's votes, 1 to 10", 1, 10, 180, "higher scores", "lower scores", 0.05)
"""Bins of a twentieth of a point: finer than what one vote of twenty moves."""

APPEARANCE = (
    Quantity("brightness", "mean luma, 0 black to 1 white", 0, 1, 50, "brighter", "darker", 0.005),
    Quantity("contrast", "deviation of luma, 0 to 0.5", 0, 0.5, 50, "richer in contrast", "poorer in contrast", 0.005),
    Quantity("sharpness", "variance of the Laplacian", 0, 15, 60, "sharper", "softer", 0.05, "log"),
    Quantity("colourfulness", "0 grey to 110 extreme", 0, 120, 60, "more colourful", "paler", 0.5),
    Quantity("warmth", "red over blue, -1 to 1", -0.5, 0.5, 50, "warmer", "cooler", 0.005),
    Quantity("shape", "width over height", -2, 2, 48, "wider", "taller", 0.02, "log"),
    Quantity("size", "pixels of the shorter side", 5, 12, 56, "larger", "smaller", 0.05, "log"),
    Quantity("detail", "bits a pixel of the file", -3, 5, 48, "fuller of detail", "poorer in detail", 0.05, "log"),
)  # fmt: skip
"""How a photo of the data set looks. ``size`` and ``detail`` also follow changes of ingestion's own settings."""


def measure(image: Image.Image, size: int) -> dict[str, float]:
    """The numbers of ``APPEARANCE``, as they are kept.

    Args:
        image: upright picture in mode RGB; photos scaled while decoding tell ``size`` too small, so it is not.
        size: bytes of the file.
    """
    width, height = image.size
    square = image.resize((perceptual_hash.SQUARE, perceptual_hash.SQUARE), Image.Resampling.BILINEAR)
    luma, pixels = np.asarray(square.convert("L"), np.int16), np.asarray(square)
    return {
        "brightness": image_statistics.brightness(luma),
        "contrast": image_statistics.contrast(luma),
        "sharpness": float(np.log2(max(1.0, image_statistics.sharpness(luma)))),
        "colourfulness": image_statistics.colourfulness(pixels),
        "warmth": image_statistics.warmth(pixels),
        "shape": float(np.log2(width / height)),
        "size": float(np.log2(min(width, height))),
        "detail": float(np.log2(8 * size / (width * height))),
    }
