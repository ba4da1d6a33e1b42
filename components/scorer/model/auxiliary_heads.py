"""What a scorer is told and asked beside the photo's votes: the job on offer, and attributes such as sunglasses.

A head reads what the scorer's last layer reads, ``[n, c]``: the pooled features, and what is seen of the face:

* the job tilts the votes by what the photo shows (`Tilt`), so that the same counts differently for another job; for the
  unknown job, 0, they stay as they are and the scorer is what it is without;
* attributes are found from them by logistic regression, which never moves the scores.

Both are fitted when the scorer is done, see ``components.training``: they read what it sees and never change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from components.scorer.jobs import UNKNOWN
from components.scorer.model.network import features as features_of
from components.scorer.settings import SCORES, Training

_FEWEST = 5  # rated training photos with an attribute, and as many without, from which it can be learnt


@dataclass(frozen=True)
class Heads:
    """What the heads of one scorer mean.

    Attributes:
        column: of the data set's attributes, that holds the job.
        jobs: the known ones, whose numbers are 1, 2, …
        attributes: columns that are learnt, with the value of each that counts as yes.
    """

    column: str = ""
    jobs: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to be told or asked."""
        return bool(self.jobs or self.attributes)


def find(table: pd.DataFrame, settings: Training, attributes: dict[str, str]) -> Heads:
    """What a data set has to tell.

    Args:
        table: attributes of the rated training photos, a column each, texts that are empty where unknown.
        settings: name the column of the job and how many photos a job has to have.
        attributes: columns that are wanted, with the value of each that counts as yes; those that the data set does not
            have, or of which it knows too few photos with or without, are left out.
    """
    jobs: tuple[str, ...] = ()
    if settings.job in table:
        photos = table[settings.job].value_counts()
        jobs = tuple(sorted(job for job in photos.index if job and photos[job] >= settings.minimum_job))
    learnt = {}
    for column, yes in attributes.items():
        if column in table:
            known = table[column][table[column] != ""]
            if min((known == yes).sum(), (known != yes).sum()) >= _FEWEST:
                learnt[column] = yes
    return Heads(settings.job if jobs else "", jobs, learnt)


@keras.saving.register_keras_serializable("portrait_scorer")
class Tilt(keras.layers.Layer):
    """Votes for a job: ``p(s) · exp(t · (s - 5.5))``, normalised, where ``t = f · slope[job] + offset[job]``.

    Exponential tilting moves a distribution's mean and keeps its form (Efron, "Exponential Families in Theory and
    Practice", 2022, section 1.2): what is learnt of the votes holds for every job, and what is learnt for a job is one
    number a feature, so that few photos tell it. In logits it is another kernel for the job, ``kernel + slope · (s -
    5.5)``, for which maps of what speaks for the score keep their closed form. The unknown job has neither slope nor
    offset: its votes stay as they are, to the last bit.

    Args:
        jobs: number of known jobs.
    """

    def __init__(self, jobs: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.jobs = jobs

    def build(self, features_shape: tuple, votes_shape: tuple, job_shape: tuple) -> None:
        """Make ``slopes`` ``[jobs, c]`` and ``offsets`` ``[jobs]``."""
        self.slopes = self.add_weight(name="slopes", shape=(self.jobs, features_shape[-1]), initializer="zeros")
        self.offsets = self.add_weight(name="offsets", shape=(self.jobs,), initializer="zeros")

    def call(self, features, votes, job):
        """Votes ``[n, 10]`` for features ``[n, c]`` and jobs, int ``[n]``: 0 unknown, 1 the first."""
        slope, offset = self._of(self.slopes, job), self._of(self.offsets, job)
        steps = (ops.sum(features * slope, axis=-1) + offset)[:, None] * _centred()
        tilted = votes * ops.exp(steps - ops.max(steps, axis=-1, keepdims=True))
        return ops.where(job[:, None] == UNKNOWN, votes, tilted / ops.sum(tilted, axis=-1, keepdims=True))

    def kernel(self, job):
        """What the kernel of the votes' logits gains for jobs, ``[n, c, 10]``."""
        return self._of(self.slopes, job)[..., None] * _centred()

    def compute_output_shape(self, features_shape: tuple, votes_shape: tuple, job_shape: tuple) -> tuple:
        """That of the votes."""
        return votes_shape

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the layer."""
        return {**super().get_config(), "jobs": self.jobs}

    @staticmethod
    def _of(table, job):
        """The rows of jobs, zero for the unknown."""
        return ops.take(ops.pad(table, [[1, 0], *[[0, 0]] * (len(table.shape) - 1)]), job, axis=0)


def _centred():
    """The scores less their middle."""
    return ops.convert_to_tensor([score - np.mean(SCORES) for score in SCORES], "float32")


def separate(
    scorer: keras.Model, heads: Heads, jobs: Sequence[np.ndarray] = (), attributes: Sequence[np.ndarray] = ()
) -> keras.Model:
    """The heads alone.

    Args:
        scorer: a flat model whose last layer is ``votes``.
        heads: what the heads mean.
        jobs: the slopes ``[jobs, c]`` and offsets ``[jobs]`` of `Tilt`, where any job is known.
        attributes: the weights ``[c, k]`` and intercepts ``[k]`` of the attributes' logistic regressions, likewise.

    Returns:
        A flat model: ``features`` float32 ``[n, c]`` and ``job`` int32 ``[n]`` to ``votes`` ``[n, 10]``, for job 0 the
        scorer's own, and, where there are any, ``attributes`` ``[n, k]``, each the probability of yes.
    """
    own = scorer.get_layer("votes").get_weights()
    features = keras.Input((len(own[0]),), name="features")
    job = keras.Input((), dtype="int32", name="job")
    last = keras.layers.Dense(len(SCORES), activation="softmax", name="votes", dtype="float32")
    outputs = {"votes": last(features)}
    last.set_weights(own)
    if heads.jobs:
        tilt = Tilt(len(heads.jobs), name="tilt", dtype="float32")
        outputs["votes"] = tilt(features, outputs["votes"], job)
        tilt.set_weights(jobs)
    if heads.attributes:
        regression = keras.layers.Dense(len(heads.attributes), activation="sigmoid", name="attributes", dtype="float32")
        outputs["attributes"] = regression(features)
        regression.set_weights(attributes)
    return keras.Model([features, job], outputs, name="heads")


def join(scorer: keras.Model, heads: keras.Model) -> keras.Model:
    """A scorer that is told jobs and gives attributes.

    Args:
        scorer: a flat model whose last layer reads ``[n, c]``.
        heads: from `separate`.

    Returns:
        A flat model that shares the layers of both: the scorer's inputs and ``job``, int32 ``[n]``, to what heads give.
    """
    job = keras.Input((), dtype="int32", name="job")
    return keras.Model([*scorer.inputs, job], heads.call([features_of(scorer), job]), name="told_scorer")
