"""Smooth shapes around a head of any position, size and tilt on a photo."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from components.ingestion.sample.portrait import Portrait

Colour = tuple[int, ...]
"""Red, green, blue and optionally opacity; 0 to 255."""

Points = Sequence[tuple[float, float]] | np.ndarray


class HeadPen:
    """Drawing tool in head units: the origin is the middle of the face, the chin is at y = 1, the crown at y = -1."""

    def __init__(self, image: Image.Image, portrait: Portrait, centre: tuple[float, float], height: float):
        """Create a pen.

        Args:
            image: Image to draw on; RGB (colours are tuples) or L (colours are integers).
            portrait: Portrait whose tilt rotates the whole photo around its (x, y).
            centre: Centre of the head before the rotation, as shares of the image's width and height.
            height: Height of the head, as share of the image's height.
        """
        self._draw = ImageDraw.Draw(image, "RGBA" if image.mode == "RGB" else "L")
        self._unit = height / 2 * image.height
        self._centre = np.multiply(centre, image.size)
        self._pivot = np.multiply((portrait.x, portrait.y), image.size)
        sine, cosine = np.sin(np.radians(portrait.tilt)), np.cos(np.radians(portrait.tilt))
        self._turn = np.array([[cosine, sine], [-sine, cosine]])

    def polygon(self, points: Points, colour: Colour | int) -> None:
        """Fill a polygon with these corners."""
        self._draw.polygon(self._pixels(points), fill=colour)

    def shape(self, points: Points, colour: Colour | int) -> None:
        """Fill a smooth closed shape through the points."""
        self.polygon(smooth(points, closed=True), colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour | int) -> None:
        """Fill an ellipse."""
        self.polygon(np.array([x, y]) + _CIRCLE * (rx, ry), colour)

    def line(self, points: Points, width: float, colour: Colour | int, closed: bool = False) -> None:
        """Draw a smooth line through the points, with round ends."""
        curve = smooth(points, closed)
        thick = max(1, round(width * self._unit))
        pixels = self._pixels([*curve, *curve[:2]] if closed else curve)
        # Joints of thin lines are not visible.
        self._draw.line(pixels, fill=colour, width=thick, joint="curve" if thick > 12 else None)
        if not closed and thick > 2:
            radius = thick / self._unit / 2
            for x, y in (curve[0], curve[-1]):
                self.oval(x, y, radius, radius, colour)

    def _pixels(self, points: Points) -> list[float]:
        """Convert head units to pixels: x, y, x, y, ..."""
        upright = self._centre + np.asarray(points, float) * self._unit
        return ((upright - self._pivot) @ self._turn + self._pivot).ravel().tolist()


def mirrored(points: Points) -> Points:
    """Return the points of the right half from top to bottom, then their mirror images back to the top."""
    return [*points, *((-x, y) for x, y in reversed(points) if x)]


def smooth(points: Points, closed: bool) -> np.ndarray:
    """Return a Catmull-Rom curve through the points, with eight steps from one point to the next.

    Args:
        points: n points.
        closed: True if the curve returns to the first point.

    Returns:
        float64 array [8 n, 2] if closed, else [8 (n - 1) + 1, 2].
    """
    points = np.asarray(points, float)
    padded = np.concatenate([points[-1:], points, points[:2]] if closed else [points[:1], points, points[-1:]])
    neighbours = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)])
    curve = np.einsum("sk,kpd->psd", _CATMULL_ROM, neighbours).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _catmull_rom(t: np.ndarray) -> np.ndarray:
    """Return the weights of four neighbouring points, [len(t), 4].

    ``t`` is the share of the way between the middle two points.
    """
    weights = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return np.stack(weights, axis=1) / 2


_CATMULL_ROM = _catmull_rom(np.arange(8) / 8)
_CIRCLE = np.stack([np.cos(np.arange(40) * np.pi / 20), np.sin(np.arange(40) * np.pi / 20)], axis=1)
