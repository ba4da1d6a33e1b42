"""Effect of the job input on scores, and accuracy of the upload norms, where the data set has the true values."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, islice

import numpy as np
from PIL import Image

from components.evaluation.checks import champion_comparison
from components.evaluation.checks.champion_comparison import Comparison
from components.evaluation.checks.predictions import BATCH, Predictions, Records
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.faces.detector import FaceDetector
from components.scorer.metrics import regression
from components.scorer.settings import SCORES, Evaluation
from components.scorer.upload_norms import accuracy, check, policy
from components.scorer.upload_norms.accuracy import NormAccuracy
from components.scorer.upload_norms.policy import NormResult

_MIN_PHOTOS = 3  # photos that a correlation needs


@dataclass(frozen=True)
class JobEffect:
    """Effect of the job input on the photos of people who offer this job.

    Attributes:
        job: Name of the job.
        photos: Number of photos.
        moved: Mean change of the mean score by the job input, in score points.
        people: Mean of people's mean score minus the scorer's mean score without the job, in score points.
    """

    job: str
    photos: int
    moved: float
    people: float


@dataclass(frozen=True)
class JobAndNormResults:
    """Effect of the job input on scores, and accuracy of the upload norms.

    Attributes:
        effects: Effects of the jobs that the scorer knows and the test split has.
        comparison: Comparison of the scorer with the job input ("challenger") and without it ("champion"), on the
            photos whose job is known. None for fewer than three such photos.
        norms: Accuracy of the norms for which the data set has a column of true values.
    """

    effects: list[JobEffect]
    comparison: Comparison | None
    norms: list[NormAccuracy]


def evaluate_job_and_norms(
    scorer: TrainedScorer, records: Records, predictions: Predictions, settings: Evaluation
) -> JobAndNormResults:
    """Measure the effect of the job input and the accuracy of the upload norms on the test split.

    Args:
        scorer: The challenger.
        records: Records of the test split.
        predictions: Votes of people, and of the scorer without the job input, on the test split.
        settings: Evaluation settings of the comparison.
    """
    column = scorer.head_spec.column
    jobs = list(predictions.attributes[column]) if column in predictions.attributes else [""] * len(predictions.truth)
    rules = policy.load(scorer.norms or None)
    norm_attributes = {norm.attribute for norm in rules.norms} & set(predictions.attributes)
    if not norm_attributes and not any(job in scorer.jobs for job in jobs):
        return JobAndNormResults([], None, [])
    votes, findings = _predict_with_job(scorer, records, jobs, rules)
    columns = {name: list(predictions.attributes[name]) for name in norm_attributes}
    return JobAndNormResults(
        *_job_effects(scorer, votes, jobs, predictions, settings), accuracy.measure_accuracy(rules, findings, columns)
    )


def _predict_with_job(
    scorer: TrainedScorer, records: Records, jobs: Sequence[str], rules: policy.UploadPolicy
) -> tuple[np.ndarray, list[list[NormResult]]]:
    """Return votes ``[n, 10]`` with the job input, and the norm findings of each photo.

    A scorer without auxiliary heads yields votes ``[0, 10]``.
    """
    detector = FaceDetector(scorer.detector) if scorer.detector else None
    votes, findings = [np.empty((0, len(SCORES)))], []
    pairs = zip((record["photo"] for record in records()), jobs, strict=True)
    for batch in iter(lambda: list(islice(pairs, BATCH)), []):
        photos, batch_jobs = (list(column) for column in zip(*batch, strict=True))
        attribute_batch = np.empty((len(photos), 0))
        if scorer.heads is not None:
            outputs = scorer.predict(photos, batch_jobs)
            votes.append(outputs["votes"])
            attribute_batch = outputs["attributes"]
        for photo, job, probabilities in zip(photos, batch_jobs, attribute_batch, strict=True):
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            faces = detector.find(image) if detector else None
            attributes = dict(zip(scorer.attributes, map(float, probabilities), strict=True))
            findings.append(check.apply_policy(rules, image, faces, attributes, image.size, job))
    return np.concatenate(votes), findings


def _job_effects(
    scorer: TrainedScorer, votes: np.ndarray, jobs: Sequence[str], predictions: Predictions, settings: Evaluation
) -> tuple[list[JobEffect], Comparison | None]:
    if not scorer.jobs:
        return [], None
    has_job = np.array([job in scorer.jobs for job in jobs])
    before, after, people = (regression.mean_scores(rows) for rows in (predictions.scorer, votes, predictions.truth))
    effects = [
        JobEffect(
            job, int(is_job.sum()), float((after - before)[is_job].mean()), float((people - before)[is_job].mean())
        )
        for job in scorer.jobs
        if (is_job := np.array([photo_job == job for photo_job in jobs])).any()
    ]
    if has_job.sum() < _MIN_PHOTOS:
        return effects, None
    groups = list(compress(predictions.groups, has_job)) if len(predictions.groups) else None
    truth, told, untold = (array[has_job] for array in (predictions.truth, votes, predictions.scorer))
    return effects, champion_comparison.compare(truth, told, untold, settings, groups)
