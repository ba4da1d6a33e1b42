"""Image statistics for data monitoring: brightness, contrast, sharpness, colourfulness, warmth.

They do not identify the person. Callers compute them on a square of one size (`perceptual_hash.SQUARE_SIDE`), so that
photos of all sizes compare.
"""

import numpy as np


def brightness(luma: np.ndarray) -> float:
    """Return the mean luma, 0 (black) to 1 (white), of levels ``[h, w]`` from 0 to 255."""
    return float(luma.mean()) / 255


def contrast(luma: np.ndarray) -> float:
    """Return the standard deviation of the luma, 0 to 0.5 (RMS contrast), of levels ``[h, w]`` from 0 to 255.

    Source: Peli, "Contrast in complex images", 1990.
    """
    return float(luma.std()) / 255


def sharpness(luma: np.ndarray) -> float:
    """Return the variance of the Laplacian.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.

    Args:
        luma: int16 or float ``[h, w]``, 0 to 255. Unsigned levels would wrap around.
    """
    horizontal = luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((horizontal + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4 * luma[1:-1, 1:-1]).var())


def colourfulness(pixels: np.ndarray) -> float:
    """Return the colourfulness M⁽³⁾, 0 (grey) to about 110 (extreme), of levels ``[h, w, 3]`` from 0 to 255.

    Source: Hasler and Süsstrunk, "Measuring colourfulness in natural images", 2003.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def warmth(pixels: np.ndarray) -> float:
    """Return the mean red minus the mean blue, -1 to 1, of levels ``[h, w, 3]`` from 0 to 255."""
    return float(pixels[..., 0].mean() - pixels[..., 2].mean()) / 255
