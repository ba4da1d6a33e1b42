"""Auxiliary heads of a scorer: adaptation of the votes to a job, and classifiers of attributes such as sunglasses.

The heads read the input of the scorer's last layer, ``[n, c]``: the pooled features and the face features.

* The job tilts the votes (`JobTilt`), so that the same features count differently for another job. For the unknown
  job, 0, the votes are those of the scorer.
* Attributes are predicted by logistic regression. They never change the scores.

``components.training`` fits both after the scorer. They never change the scorer's own weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from components.scorer.jobs import UNKNOWN
from components.scorer.model.network import last_layer_input as features_of
from components.scorer.settings import SCORES, Training

_MIN_PHOTOS = 5  # rated training photos with an attribute, and as many without, that a classifier needs


@dataclass(frozen=True)
class HeadSpec:
    """Specification of a scorer's auxiliary heads.

    Attributes:
        column: Column of the data set's attributes that holds the job.
        jobs: Names of the known jobs, whose ids are 1, 2, …
        attributes: Attribute columns that are predicted, with the value of each that counts as yes.
    """

    column: str = ""
    jobs: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether there is any job or attribute."""
        return bool(self.jobs or self.attributes)


def detect_heads(table: pd.DataFrame, settings: Training, attributes: dict[str, str]) -> HeadSpec:
    """Return the heads that a data set has enough photos for.

    Args:
        table: Attributes of the rated training photos, one column each; texts, empty where unknown.
        settings: Training settings: the column of the job, and the minimum number of photos of a job.
        attributes: Wanted attribute columns, with the value of each that counts as yes. Columns that are missing, or
            that have too few photos with or without the attribute, are left out.
    """
    jobs: tuple[str, ...] = ()
    if settings.job in table:
        counts = table[settings.job].value_counts()
        jobs = tuple(sorted(job for job in counts.index if job and counts[job] >= settings.minimum_job))
    learnable = {}
    for column, yes in attributes.items():
        if column in table:
            known = table[column][table[column] != ""]
            if min((known == yes).sum(), (known != yes).sum()) >= _MIN_PHOTOS:
                learnable[column] = yes
    return HeadSpec(settings.job if jobs else "", jobs, learnable)


@keras.saving.register_keras_serializable("portrait_scorer")
class JobTilt(keras.layers.Layer):
    """Exponential tilting of votes by job: ``p(s) · exp(t · (s - 5.5))``, normalised.

    The strength is ``t = f · slope[job] + offset[job]``. Tilting moves a distribution's mean and keeps its form (Efron,
    "Exponential Families in Theory and Practice", 2022, section 1.2). The votes themselves are learned once for all
    jobs. A job has one number a feature, so few photos are enough to fit it.

    In logits a job is another kernel, ``kernel + slope · (s - 5.5)``, for which class activation maps keep their closed
    form. The unknown job has neither slope nor offset: its votes stay the same to the last bit.

    Args:
        jobs: Number of known jobs.
    """

    def __init__(self, jobs: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.jobs = jobs

    def build(self, features_shape: tuple, votes_shape: tuple, job_shape: tuple) -> None:
        """Create ``slopes`` ``[jobs, c]`` and ``offsets`` ``[jobs]``."""
        self.slopes = self.add_weight(name="slopes", shape=(self.jobs, features_shape[-1]), initializer="zeros")
        self.offsets = self.add_weight(name="offsets", shape=(self.jobs,), initializer="zeros")

    def call(self, features, votes, job):
        """Return tilted votes ``[n, 10]`` for features ``[n, c]`` and job ids int ``[n]``: 0 unknown, 1 the first."""
        slope, offset = self._rows_of_jobs(self.slopes, job), self._rows_of_jobs(self.offsets, job)
        steps = (ops.sum(features * slope, axis=-1) + offset)[:, None] * _centred_scores()
        tilted = votes * ops.exp(steps - ops.max(steps, axis=-1, keepdims=True))
        return ops.where(job[:, None] == UNKNOWN, votes, tilted / ops.sum(tilted, axis=-1, keepdims=True))

    def kernel_change(self, job):
        """Return the change of the logits' kernel for job ids ``[n]``: ``[n, c, 10]``."""
        return self._rows_of_jobs(self.slopes, job)[..., None] * _centred_scores()

    def compute_output_shape(self, features_shape: tuple, votes_shape: tuple, job_shape: tuple) -> tuple:
        """Return the shape of the votes."""
        return votes_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "jobs": self.jobs}

    @staticmethod
    def _rows_of_jobs(table, job):
        """Return the rows of a table for job ids; zeros for the unknown job."""
        return ops.take(ops.pad(table, [[1, 0], *[[0, 0]] * (len(table.shape) - 1)]), job, axis=0)


def _centred_scores():
    """Return the scores 1..10 less their mean, 5.5, float32 ``[10]``."""
    return ops.convert_to_tensor([score - np.mean(SCORES) for score in SCORES], "float32")


def build_heads(
    scorer: keras.Model,
    head_spec: HeadSpec,
    tilt_weights: Sequence[np.ndarray] = (),
    attribute_weights: Sequence[np.ndarray] = (),
) -> keras.Model:
    """Build the heads as a model of their own.

    Args:
        scorer: A flat model whose last layer is ``votes``.
        head_spec: Specification of the heads.
        tilt_weights: Weights of `JobTilt`: slopes ``[jobs, c]`` and offsets ``[jobs]``. Needed if any job is known.
        attribute_weights: Weights ``[c, k]`` and intercepts ``[k]`` of the attributes' logistic regressions. Needed if
            there are any attributes.

    Returns: A flat model of ``features`` float32 ``[n, c]`` and ``job`` int32 ``[n]``. It gives ``votes`` ``[n, 10]``,
        which for job 0 are the scorer's, and ``attribute_weights`` ``[n, k]``, each the probability of yes, if there
        are any.
    """
    weights = scorer.get_layer("votes").get_weights()
    features = keras.Input((len(weights[0]),), name="features")
    job = keras.Input((), dtype="int32", name="job")
    softmax = keras.layers.Dense(len(SCORES), activation="softmax", name="votes", dtype="float32")
    outputs = {"votes": softmax(features)}
    softmax.set_weights(weights)
    if head_spec.jobs:
        tilt = JobTilt(len(head_spec.jobs), name="tilt", dtype="float32")
        outputs["votes"] = tilt(features, outputs["votes"], job)
        tilt.set_weights(tilt_weights)
    if head_spec.attributes:
        regression = keras.layers.Dense(
            len(head_spec.attributes), activation="sigmoid", name="attributes", dtype="float32"
        )
        outputs["attributes"] = regression(features)
        regression.set_weights(attribute_weights)
    return keras.Model([features, job], outputs, name="heads")


def attach_heads(scorer: keras.Model, heads: keras.Model) -> keras.Model:
    """Build a scorer that takes the job and gives attributes.

    Args:
        scorer: A flat model whose last layer reads ``[n, c]``.
        heads: Model of `build_heads`.

    Returns: A flat model that shares the layers of both. It takes the scorer's inputs and ``job``, int32 ``[n]``, and
        gives the outputs of the heads.
    """
    job = keras.Input((), dtype="int32", name="job")
    return keras.Model([*scorer.inputs, job], heads.call([features_of(scorer), job]), name="scorer_with_heads")
