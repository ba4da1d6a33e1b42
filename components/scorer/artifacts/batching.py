"""Encoded photos passed to a function in batches."""

from collections.abc import Callable, Sequence

import numpy as np

Explained = dict[str, np.ndarray]
"""``mean``, ``std``, ``distribution``, and maps as of ``serving_outputs.closed_form``."""


def in_batches(function: Callable, photos: Sequence[bytes], batch_size: int) -> Explained:
    """The arrays that a function gives for encoded photos, a few at a time.

    Raises:
        ValueError: there is no photo.
    """
    if not photos:
        raise ValueError("expected at least one photo to explain, got none")
    batches = [function(photos[start : start + batch_size]) for start in range(0, len(photos), batch_size)]
    return {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}
