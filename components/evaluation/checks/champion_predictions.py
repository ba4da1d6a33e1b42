"""The published model that a new one has to stand up to."""

from dataclasses import dataclass

import numpy as np

from components.evaluation.checks.predictions import Records, votes
from components.scorer import storage
from components.scorer.quoting import in_short
from components.scorer.registry import channels


@dataclass(frozen=True)
class Champion:
    """The champion and its votes on the test split, or the reason why there are none.

    Attributes:
        uri: its version folder, or the model's folder when not even the version is known.
        version: its number; None likewise.
        votes: float [n, 10]; None when it could not be scored.
        error: why it could not be scored; empty when it was.
    """

    uri: str
    version: int | None
    votes: np.ndarray | None = None
    error: str = ""

    @property
    def title(self) -> str:
        """What people call it."""
        return "the champion" if self.version is None else f"the champion, version {self.version},"


def score_champion(models: str, name: str, records: Records, total: int) -> Champion | None:
    """Score the champion on the test split.

    Whatever goes wrong with it is told and not raised: the report on the new scorer is worth having, and a
    champion that cannot be loaded must neither stop it nor let the new one pass.

    Args:
        models: address of all models.
        name: of the model.
        records: of the test split.
        total: how many.

    Returns:
        None when no champion was ever named.
    """
    uri, version = channels.folder(models, name), None
    try:
        version = channels.read(models, name).get("champion")
        if version is None:
            return None
        uri = storage.join(uri, str(version))
        from components.scorer.artifacts import saved_model  # with TensorFlow, which deciding does without

        return Champion(uri, version, votes(records, saved_model.load(uri), total))
    except Exception as error:  # a foreign artefact may fail in any way
        return Champion(uri, version, error=in_short(error))
