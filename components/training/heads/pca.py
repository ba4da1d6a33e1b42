"""Principal components of embeddings and features, fitted on the training photos."""

import numpy as np

from components.scorer.model.inputs import Components

_FLAT = 1e-6  # of the largest deviation, or variance: what varies less does not vary


def principal_components(embeddings: np.ndarray, most: int) -> Components | None:
    """The directions in which faces differ most, each number of the embedding taken in units of its own deviation.

    The components come in the order of their variances and are left as far apart as those are (no whitening: the last
    ones are mostly noise), all together scaled so that a face's squared length is 1 on average. Their signs are such
    that the largest part of each axis is positive: the same embeddings give the same components.

    Args:
        embeddings: float ``[n, size]``, of the faces of the training split alone.
        most: components to keep. There are fewer where faces do not differ in as many directions.

    Returns:
        None where faces do not differ at all, or nothing is to be kept.
    """
    centre = embeddings.mean(0, dtype=float) if len(embeddings) else np.zeros(embeddings.shape[1])
    spread = embeddings.std(0, dtype=float) if len(embeddings) else centre
    varies = spread > _FLAT * spread.max(initial=0)
    unit = np.where(varies, spread, np.inf)
    standard = (embeddings - centre) / unit
    axes, variances = principal_axes(standard, most)
    if not len(variances):
        return None
    axes = _signed(axes / unit[:, None] / np.sqrt(variances.sum()))
    return Components(centre.astype("float32"), axes.astype("float32"))


def principal_axes(centred: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which rows differ most, and how much.

    Args:
        centred: float ``[n, c]``, whose means are 0.
        most: directions wanted; there are fewer where rows do not differ in as many.

    Returns:
        Axes of length 1 ``[c, k]``, the largest part of each positive, and the variances along them ``[k]``, largest
        first.
    """
    # Of few long rows the products of rows tell the same as those of columns, for far less.
    wide = len(centred) < centred.shape[1]
    values, vectors = np.linalg.eigh((centred @ centred.T if wide else centred.T @ centred).astype(float))
    order = np.argsort(-values, kind="stable")[:most]
    order = order[values[order] > _FLAT * values.max(initial=0)]
    axes = centred.T @ vectors[:, order] / np.sqrt(values[order]) if wide else vectors[:, order]
    return _signed(axes), values[order] / max(len(centred), 1)


def _signed(axes: np.ndarray) -> np.ndarray:
    """Axes ``[c, k]``, turned so that the largest part of each is positive."""
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
