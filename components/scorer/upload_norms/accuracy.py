"""Accuracy of the upload norms: precision and recall against people's labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.scorer.upload_norms.policy import NormResult, UploadNorm, UploadPolicy


@dataclass(frozen=True)
class NormAccuracy:
    """Accuracy of one norm on photos whose label is in a column of the data set.

    Attributes:
        key: Key of the norm.
        attribute: Name of the column.
        photos: Number of photos with a label on which the norm was checked.
        broken: Number of these photos that the label calls broken.
        found: Number of these photos that the norm calls broken.
        right: Number of these photos that both call broken (true positives).
        unchecked: Number of photos with a label on which the norm could not be checked.
    """

    key: str
    attribute: str
    photos: int
    broken: int
    found: int
    right: int
    unchecked: int

    @property
    def precision(self) -> float:
        """``right / found``, 0 to 1; NaN if ``found`` is 0."""
        return self.right / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """``right / broken``, 0 to 1; NaN if ``broken`` is 0."""
        return self.right / self.broken if self.broken else math.nan


def measure_accuracy(
    norms: UploadPolicy, findings: Sequence[Sequence[NormResult]], columns: Mapping[str, Sequence[str]]
) -> list[NormAccuracy]:
    """Compare the findings on n photos with the data set's labels.

    Args:
        norms: Norms that were checked.
        findings: Findings of each photo, in the order of the norms.
        columns: Data set attributes by name, each with n values; "" if a photo has no value.

    Returns:
        The accuracy of each norm whose column exists, in the order of the norms.
    """
    return [
        _norm_accuracy(norm, [photo[index] for photo in findings], columns[norm.attribute])
        for index, norm in enumerate(norms.norms)
        if norm.attribute in columns
    ]


def _norm_accuracy(norm: UploadNorm, findings: Sequence[NormResult], values: Sequence[str]) -> NormAccuracy:
    labelled = [(finding, value == norm.yes) for finding, value in zip(findings, values, strict=True) if value]
    checked = [(not finding.kept, broken) for finding, broken in labelled if finding.kept is not None]
    return NormAccuracy(
        norm.key,
        norm.attribute,
        photos=len(checked),
        broken=sum(broken for _, broken in checked),
        found=sum(flagged for flagged, _ in checked),
        right=sum(flagged and broken for flagged, broken in checked),
        unchecked=len(labelled) - len(checked),
    )
