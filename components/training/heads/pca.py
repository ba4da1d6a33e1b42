"""PCA of embeddings and features, fitted on the training photos."""

import numpy as np

from components.scorer.model.inputs import PCABasis

_MIN_VARIATION = 1e-6  # relative deviation or variance below which a feature or direction counts as constant


def principal_components(embeddings: np.ndarray, max_components: int) -> PCABasis | None:
    """Return the PCA basis of embeddings whose features are standardised; None if faces do not differ or
    `max_components` is 0.

    Components are ordered by variance and not whitened: the last ones are mostly noise. All together are scaled so that
    a face's squared length is 1 on average. The largest entry of each axis is positive, so that equal embeddings give
    equal components.

    Args:
        embeddings: Embeddings of the training split's faces, float ``[n, size]``.
        max_components: Maximum number of components. There are fewer if faces differ in fewer directions.
    """
    centre = embeddings.mean(0, dtype=float) if len(embeddings) else np.zeros(embeddings.shape[1])
    spread = embeddings.std(0, dtype=float) if len(embeddings) else centre
    is_varying = spread > _MIN_VARIATION * spread.max(initial=0)
    unit = np.where(is_varying, spread, np.inf)
    standard = (embeddings - centre) / unit
    axes, variances = principal_axes(standard, max_components)
    if not len(variances):
        return None
    axes = _fix_signs(axes / unit[:, None] / np.sqrt(variances.sum()))
    return PCABasis(centre.astype("float32"), axes.astype("float32"))


def principal_axes(centred: np.ndarray, max_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal axes of rows, and the variances along them.

    Args:
        centred: Rows of mean 0, float ``[n, c]``.
        max_components: Maximum number of axes. There are fewer if rows differ in fewer directions.

    Returns:
        Axes of length 1, ``[c, k]``, the largest entry of each positive, and their variances ``[k]``, largest first.
    """
    # For few long rows, the Gram matrix of the rows has the same eigenvalues as that of the columns and is smaller.
    wide = len(centred) < centred.shape[1]
    values, vectors = np.linalg.eigh((centred @ centred.T if wide else centred.T @ centred).astype(float))
    order = np.argsort(-values, kind="stable")[:max_components]
    order = order[values[order] > _MIN_VARIATION * values.max(initial=0)]
    axes = centred.T @ vectors[:, order] / np.sqrt(values[order]) if wide else vectors[:, order]
    return _fix_signs(axes), values[order] / max(len(centred), 1)


def _fix_signs(axes: np.ndarray) -> np.ndarray:
    """Return axes ``[c, k]``, each with its sign set so that its largest entry is positive."""
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
