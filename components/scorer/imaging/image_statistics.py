"""What a photo looks like, in numbers that a machine can follow over time; they say nothing of who is on it.

All are taken on a square of one size (`perceptual_hash.SQUARE`), so that photos of all sizes compare.
"""

import numpy as np


def brightness(luma: np.ndarray) -> float:
    """Mean luma, 0 (black) to 1 (white), of levels ``[h, w]`` from 0 to 255."""
    return float(luma.mean()) / 255


def contrast(luma: np.ndarray) -> float:
    """Standard deviation of the luma, 0 to 0.5 (Peli, "Contrast in complex images", 1990), of levels as above."""
    return float(luma.std()) / 255


def sharpness(luma: np.ndarray) -> float:
    """Variance of the Laplacian of levels as above.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000. Unsigned levels would wrap around.

    Args:
        luma: int16 or float ``[h, w]``, 0 to 255.
    """
    across = luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((across + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4 * luma[1:-1, 1:-1]).var())


def colourfulness(pixels: np.ndarray) -> float:
    """0 (grey) to some 110 (extremely colourful), of levels ``[h, w, 3]`` from 0 to 255.

    Hasler and Süsstrunk, "Measuring colourfulness in natural images", 2003, equation of M⁽³⁾.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def warmth(pixels: np.ndarray) -> float:
    """How much more red than blue there is, -1 to 1, in levels ``[h, w, 3]`` from 0 to 255."""
    return float(pixels[..., 0].mean() - pixels[..., 2].mean()) / 255
