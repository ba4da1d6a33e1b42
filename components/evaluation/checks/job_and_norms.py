"""What the scorer is told and asked beside the photo, where the data knows the truth: the job, and upload norms."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any

import numpy as np
from PIL import Image

from components.evaluation.checks import champion_comparison
from components.evaluation.checks.champion_comparison import Comparison
from components.evaluation.checks.predictions import BATCH, Predictions, Records
from components.scorer.artifacts.bundle import Bundle
from components.scorer.faces.detector import Detector
from components.scorer.metrics import regression
from components.scorer.settings import SCORES, Evaluation
from components.scorer.upload_norms import accuracy, check, policy
from components.scorer.upload_norms.accuracy import Judgement
from components.scorer.upload_norms.policy import Finding

_FEWEST = 3  # photos of which a correlation can be told


@dataclass(frozen=True)
class Effect:
    """What telling one job does to the photos of people who offer it.

    Attributes:
        job: its name.
        photos: how many.
        moved: score points by which the mean score changes on average.
        people: score points by which people's scores differ from the scorer's without the job, on average.
    """

    job: str
    photos: int
    moved: float
    people: float


@dataclass(frozen=True)
class Told:
    """The scorer with the job told, held against the same scorer without it, and the norms against the data.

    Attributes:
        effects: of each job that the scorer knows and the test split has.
        comparison: with the job told as challenger, without as champion, on the photos whose job is known; None where
            there are too few.
        norms: those of which a column of the data knows the truth.
    """

    effects: list[Effect]
    comparison: Comparison | None
    norms: list[Judgement]


def find(scorer: Bundle, records: Records, predictions: Predictions, settings: Evaluation) -> Told:
    """Find out what the job and the norms are worth on the test split.

    Args:
        scorer: the challenger.
        records: of the test split.
        predictions: what people and the scorer, not told the job, say of it.
        settings: of the comparison.
    """
    column = scorer.told.column
    jobs = list(predictions.attributes[column]) if column in predictions.attributes else [""] * len(predictions.truth)
    rules = policy.load(scorer.norms or None)
    known = {norm.attribute for norm in rules.norms} & set(predictions.attributes)
    if not known and not any(job in scorer.jobs for job in jobs):
        return Told([], None, [])
    votes, findings = _asked(scorer, records, jobs, rules)
    columns = {name: list(predictions.attributes[name]) for name in known}
    return Told(*_jobs(scorer, votes, jobs, predictions, settings), accuracy.judge(rules, findings, columns))


def _asked(
    scorer: Bundle, records: Records, jobs: Sequence[str], rules: policy.Norms
) -> tuple[np.ndarray, list[list[Finding]]]:
    """Votes ``[n, 10]`` with the job told, and each photo's findings; no votes of a scorer that can be told none."""
    detector = Detector(scorer.detector) if scorer.detector else None
    votes, findings = [np.empty((0, len(SCORES)))], []
    pairs = zip((record["photo"] for record in records()), jobs, strict=True)
    for batch in iter(lambda: list(islice(pairs, BATCH)), []):
        photos, told = (list(each) for each in zip(*batch, strict=True))
        shares = np.empty((len(photos), 0))
        if scorer.heads is not None:
            answers = scorer.answers(photos, told)
            votes.append(answers["votes"])
            shares = answers["attributes"]
        for photo, job, probabilities in zip(photos, told, shares, strict=True):
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            faces = detector.find(image) if detector else None
            attributes = dict(zip(scorer.attributes, map(float, probabilities), strict=True))
            findings.append(check.check(rules, image, faces, attributes, image.size, job))
    return np.concatenate(votes), findings


def _jobs(
    scorer: Bundle, votes: np.ndarray, jobs: Sequence[str], predictions: Predictions, settings: Evaluation
) -> tuple[list[Effect], Comparison | None]:
    if not scorer.jobs:
        return [], None
    told = np.array([job in scorer.jobs for job in jobs])
    before, after, people = (regression.mean_scores(each) for each in (predictions.scorer, votes, predictions.truth))
    effects = [
        Effect(job, int(own.sum()), float((after - before)[own].mean()), float((people - before)[own].mean()))
        for job in scorer.jobs
        if (own := np.array([each == job for each in jobs])).any()
    ]
    if told.sum() < _FEWEST:
        return effects, None
    groups = list(compress(predictions.groups, told)) if len(predictions.groups) else None
    rows: list[Any] = [each[told] for each in (predictions.truth, votes, predictions.scorer)]
    return effects, champion_comparison.compare(*rows, settings, groups=groups)
