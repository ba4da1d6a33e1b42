"""Batched calls of a function of encoded photos."""

from collections.abc import Callable, Sequence

import numpy as np

ExplanationOutputs = dict[str, np.ndarray]
"""Arrays ``mean``, ``std``, ``distribution`` and the maps, by the names of ``serving_outputs.build_cam_model``."""


def in_batches(function: Callable, photos: Sequence[bytes], batch_size: int) -> ExplanationOutputs:
    """Return the arrays that a function gives for encoded photos, called with one batch at a time.

    Args:
        function: Function from a list of photos to tensors by name, with a batch axis first.
        photos: Encoded photos, at least one.
        batch_size: Largest number of photos of a call.

    Raises:
        ValueError: There is no photo.
    """
    if not photos:
        raise ValueError("expected at least one photo to explain, got none")
    batches = [function(photos[start : start + batch_size]) for start in range(0, len(photos), batch_size)]
    return {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}
