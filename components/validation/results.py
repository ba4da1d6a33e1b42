"""Results of a validation, before its gates judge them."""

from dataclasses import dataclass, field
from pathlib import Path

from components.validation.drift import DriftReport, measure_drift
from components.validation.leakage import LeakageReport, find_leakage
from components.validation.reference_champion import ChampionProfile
from components.validation.statistics.collect import collect_statistics
from components.validation.statistics.data_statistics import (
    LABEL_SPLITS,
    DataProfile,
    data_profile,
    is_new,
    split_statistics,
)


@dataclass(frozen=True)
class ValidationResults:
    """Validation results of a data set.

    Attributes:
        profile: Profile of the data set.
        champion: Published model; None if there is none.
        label_count: Number of labels in the splits that a scorer learns from.
        new_label_count: Number of these labels that are new or changed since the champion; all of them without a
            champion's profile.
        leakage: Held-out photos that are also in other splits.
        champion_drift: Drift of the rated photos from the champion's; None without a champion's profile.
        other_drifts: Further comparisons, shown and not judged.
    """

    profile: DataProfile
    champion: ChampionProfile | None
    label_count: int
    new_label_count: int
    leakage: LeakageReport
    champion_drift: DriftReport | None = None
    other_drifts: list[DriftReport] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """True if the champion's profile is known."""
        return self.champion_drift is not None

    def metrics(self) -> dict[str, float]:
        """Return the pipeline's metrics, by names that no other step uses; values may be NaN."""
        figures: dict[str, float] = {
            "data_labels": self.label_count,
            "data_new_labels": self.new_label_count,
            "data_leaking_photos": self.leakage.photo_count,
        }
        if self.champion_drift:
            score, largest = self.champion_drift.score_shift, self.champion_drift.largest_shift
            figures |= {"data_label_drift": score.wasserstein, "data_label_shift": score.after - score.before}
            figures |= {"data_photo_drift": abs(largest[1].cohens_d)} if largest else {}
        return {name: float(value) for name, value in figures.items()}


def collect_results(
    dataset: str | Path, champion: ChampionProfile | None, duplicate_distance: int
) -> ValidationResults:
    """Validate a data set.

    Args:
        dataset: TFDS directory.
        champion: Published model, or None.
        duplicate_distance: Hamming distance of near duplicates in ingestion, bits.

    Raises:
        ValueError: No photo is rated, or a photo cannot be decoded.
    """
    rows = collect_statistics(dataset)
    current, reference = data_profile(rows), champion.profile if champion else None
    new = is_new(rows, reference)
    within = [
        measure_drift(current.parts["train"], current.parts["test"], ("train", "test")),
        measure_drift(current.unlabelled, current.rated, ("unlabelled", "rated")),
    ]
    required = (
        current,
        champion,
        int(rows["split"].isin(LABEL_SPLITS).sum()),
        int(new.sum()),
        find_leakage(rows, duplicate_distance),
    )
    if reference is None:
        return ValidationResults(*required, other_drifts=within)
    since = measure_drift(reference.rated, current.rated, ("the champion's rated", "rated"))
    other_drifts = [
        measure_drift(reference.rated, split_statistics(rows[new]), ("the champion's rated", "new or changed")),
        measure_drift(reference.unlabelled, current.unlabelled, ("the champion's unlabelled", "unlabelled")),
    ]
    return ValidationResults(*required, since, [*other_drifts, *within])
