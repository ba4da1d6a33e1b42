"""Predictions of the champion, the published model that a challenger is compared with."""

from dataclasses import dataclass

import numpy as np

from components.evaluation.checks.predictions import Records, predict_votes
from components.scorer import storage
from components.scorer.quoting import one_line
from components.scorer.registry import channels


@dataclass(frozen=True)
class ChampionPredictions:
    """Votes of the champion on the test split, or the reason why it could not be scored.

    Attributes:
        uri: Address of the version; address of the model if the version is unknown.
        version: Number of the version; None if unknown.
        votes: Votes, float [n, 10]; None if the champion could not be scored.
        error: Reason why the champion could not be scored; empty if it was.
    """

    uri: str
    version: int | None
    votes: np.ndarray | None = None
    error: str = ""

    @property
    def title(self) -> str:
        """Display name for sentences."""
        return "the champion" if self.version is None else f"the champion, version {self.version},"


def score_champion(models: str, name: str, records: Records, total: int) -> ChampionPredictions | None:
    """Score the champion on the test split.

    Errors are returned in ``ChampionProfile.error`` and not raised. A champion that cannot be loaded must neither stop
    the report on the challenger nor let the challenger pass.

    Args:
        models: Address of all models.
        name: Name of the model.
        records: Records of the test split.
        total: Number of records.

    Returns:
        The champion with votes or an error; None if no champion was ever named.
    """
    uri, version = channels.folder(models, name), None
    try:
        version = channels.read(models, name).get("champion")
        if version is None:
            return None
        uri = storage.join(uri, str(version))
        from components.scorer.artifacts import saved_model  # imports TensorFlow, which a decision does not need

        return ChampionPredictions(uri, version, predict_votes(records, saved_model.load(uri), total))
    except Exception as error:  # an artifact of another revision may fail in any way
        return ChampionPredictions(uri, version, error=one_line(error))
