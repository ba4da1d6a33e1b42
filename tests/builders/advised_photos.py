"""A drawn face, and measures of a photo's brightness, colour and detail."""

import cv2
import numpy as np

from components.ingestion.sample import Portrait
from components.ingestion.sample.portrait import ASPECT
from components.scorer.faces.geometry import Box, Face

GOOD = {"scene_hue": 0.1, "clothes": 4}
"""Properties of a portrait with usual light, contrast and colour."""


def face(**properties) -> Face:
    """Return the face of a drawn portrait."""
    portrait = Portrait(**{**GOOD, **properties})
    turn, half = np.radians(portrait.tilt), portrait.size / 2

    def to_photo(x: float, y: float) -> tuple[float, float]:
        across, down = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
        return portrait.x + across * half * ASPECT, portrait.y + down * half

    half_width = portrait.face_width * half * ASPECT
    box = Box(portrait.x - half_width, portrait.y - 0.7 * half, 2 * half_width, 1.7 * half)
    landmarks = ((-0.32, -0.05), (0.32, -0.05), (0, 0.2), (-0.25, 0.5), (0.25, 0.5))
    return Face(box, tuple(to_photo(x, y) for x, y in landmarks), 0.9)


def stops(photo: np.ndarray) -> float:
    """Return the mean brightness, stops."""
    return float(np.log2(((photo[::2, ::2] / 255) ** 2.2).mean() + 1e-6))


def colour(photo: np.ndarray) -> float:
    """Return red against blue light, stops."""
    means = ((photo[::2, ::2] / 255) ** 2.2).mean((0, 1))
    return float(np.log2(means[0] / means[2]))


def detail(photo: np.ndarray) -> float:
    """Return fine differences of luma as a fraction of coarse ones."""
    luma = photo.mean(axis=-1)
    return float(np.abs(luma - cv2.GaussianBlur(luma, (0, 0), 1.5)).mean() / luma.std())
