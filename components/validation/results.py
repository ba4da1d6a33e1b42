"""Results of a validation, before its gates judge them."""

from dataclasses import dataclass, field
from pathlib import Path

from components.validation.drift import Drift, drift
from components.validation.leakage import Leakage, search
from components.validation.reference_champion import Champion
from components.validation.statistics.collect import survey
from components.validation.statistics.data_statistics import LEARNT, Profile, is_new, part, profile


@dataclass(frozen=True)
class Findings:
    """Validation results of a data set.

    Attributes:
        profile: Profile of the data set.
        champion: Published model; None if there is none.
        learnt: Number of labels in the splits that a scorer learns from.
        new: Number of these labels that are new or changed since the champion; all of them without a champion's
            profile.
        leakage: Held-out photos that are also in other splits.
        since: Drift of the rated photos from the champion's; None without a champion's profile.
        others: Further comparisons, shown and not judged.
    """

    profile: Profile
    champion: Champion | None
    learnt: int
    new: int
    leakage: Leakage
    since: Drift | None = None
    others: list[Drift] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """True if the champion's profile is known."""
        return self.since is not None

    def figures(self) -> dict[str, float]:
        """Return the pipeline's metrics, by names that no other step uses; values may be NaN."""
        figures = {"data_labels": self.learnt, "data_new_labels": self.new, "data_leaking_photos": self.leakage.photos}
        if self.since:
            score, largest = self.since.score, self.since.largest
            figures |= {"data_label_drift": score.distance, "data_label_shift": score.after - score.before}
            figures |= {"data_photo_drift": abs(largest[1].size)} if largest else {}
        return {name: float(value) for name, value in figures.items()}


def find(dataset: str | Path, champion: Champion | None, duplicate_distance: int) -> Findings:
    """Validate a data set.

    Args:
        dataset: TFDS directory.
        champion: Published model, or None.
        duplicate_distance: Hamming distance of near duplicates in ingestion, bits.

    Raises:
        ValueError: No photo is rated, or a photo cannot be decoded.
    """
    rows = survey(dataset)
    current, reference = profile(rows), champion.profile if champion else None
    new = is_new(rows, reference)
    within = [
        drift(current.parts["train"], current.parts["test"], ("train", "test")),
        drift(current.unlabelled, current.rated, ("unlabelled", "rated")),
    ]
    required = (
        current,
        champion,
        int(rows["split"].isin(LEARNT).sum()),
        int(new.sum()),
        search(rows, duplicate_distance),
    )
    if reference is None:
        return Findings(*required, others=within)
    since = drift(reference.rated, current.rated, ("the champion's rated", "rated"))
    other_drifts = [
        drift(reference.rated, part(rows[new]), ("the champion's rated", "new or changed")),
        drift(reference.unlabelled, current.unlabelled, ("the champion's unlabelled", "unlabelled")),
    ]
    return Findings(*required, since, [*other_drifts, *within])
