"""All that a validation finds out about a data set, before it is judged."""

from dataclasses import dataclass, field
from pathlib import Path

from components.validation.drift import Drift, drift
from components.validation.leakage import Leakage, search
from components.validation.reference_champion import Champion
from components.validation.statistics.collect import survey
from components.validation.statistics.data_statistics import LEARNT, Profile, is_new, part, profile


@dataclass(frozen=True)
class Findings:
    """What is known of a data set.

    Attributes:
        profile: of the data set.
        champion: the published model; None when there is none.
        learnt: labels of the splits that a scorer learns from.
        new: those of them that the champion's data lack or have otherwise; all of them without such data.
        leakage: what is held out and was seen.
        since: how the rated photos moved since the champion's; None without such data.
        others: further comparisons, which are shown and not judged.
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
        """Whether there is a champion whose data are known."""
        return self.since is not None

    def figures(self) -> dict[str, float]:
        """Numbers for the pipeline's metrics, perhaps NaN; their names occur in no other step."""
        figures = {"data_labels": self.learnt, "data_new_labels": self.new, "data_leaking_photos": self.leakage.photos}
        if self.since:
            score, largest = self.since.score, self.since.largest
            figures |= {"data_label_drift": score.distance, "data_label_shift": score.after - score.before}
            figures |= {"data_photo_drift": abs(largest[1].size)} if largest else {}
        return {name: float(value) for name, value in figures.items()}


def find(dataset: str | Path, champion: Champion | None, duplicate_distance: int) -> Findings:
    """Look at a data set.

    Args:
        dataset: TFDS directory.
        champion: the published model, if any.
        duplicate_distance: of perceptual hashes, as ingestion was told.

    Raises:
        ValueError: no photo is rated, or a photo cannot be decoded.
    """
    rows = survey(dataset)
    now, before = profile(rows), champion.profile if champion else None
    new = is_new(rows, before)
    within = [
        drift(now.parts["train"], now.parts["test"], ("train", "test")),
        drift(now.unlabelled, now.rated, ("unlabelled", "rated")),
    ]
    known = (now, champion, int(rows["split"].isin(LEARNT).sum()), int(new.sum()), search(rows, duplicate_distance))
    if before is None:
        return Findings(*known, others=within)
    since = drift(before.rated, now.rated, ("the champion's rated", "rated"))
    others = [
        drift(before.rated, part(rows[new]), ("the champion's rated", "new or changed")),
        drift(before.unlabelled, now.unlabelled, ("the champion's unlabelled", "unlabelled")),
    ]
    return Findings(*known, since, [*others, *within])
