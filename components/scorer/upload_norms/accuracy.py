"""How well the results of upload norms agree with people's labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.scorer.upload_norms.policy import Finding, Norm, Norms


@dataclass(frozen=True)
class Judgement:
    """How often a norm was right on photos whose truth a column of the data set knows.

    Attributes:
        key: of the norm.
        attribute: the column.
        photos: on which the norm was checked and the column has a value.
        broken: of these, on which the column says that the norm is broken.
        found: of these, on which the norm was found broken.
        right: of the found ones, those on which the column says so too.
        unchecked: photos with a value on which the norm could not be checked.
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
        """Share of the found ones that are right; NaN when nothing was found."""
        return self.right / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """Share of the broken ones that were found; NaN when none is."""
        return self.right / self.broken if self.broken else math.nan


def judge(norms: Norms, findings: Sequence[Sequence[Finding]], columns: Mapping[str, Sequence[str]]) -> list[Judgement]:
    """Hold the findings on n photos against what the data set knows of them.

    Args:
        norms: that were checked.
        findings: of each photo.
        columns: the data set's attributes by name, each with n values; "" where a photo has none.

    Returns:
        One judgement for each norm whose column is there, in the order of the norms.
    """
    return [
        _judgement(norm, [photo[place] for photo in findings], columns[norm.attribute])
        for place, norm in enumerate(norms.norms)
        if norm.attribute in columns
    ]


def _judgement(norm: Norm, findings: Sequence[Finding], values: Sequence[str]) -> Judgement:
    known = [(finding, value == norm.yes) for finding, value in zip(findings, values, strict=True) if value]
    checked = [(not finding.kept, broken) for finding, broken in known if finding.kept is not None]
    return Judgement(
        norm.key,
        norm.attribute,
        photos=len(checked),
        broken=sum(broken for _, broken in checked),
        found=sum(found for found, _ in checked),
        right=sum(found and broken for found, broken in checked),
        unchecked=len(known) - len(checked),
    )
