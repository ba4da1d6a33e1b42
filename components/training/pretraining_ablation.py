"""Whether the pipeline's own pretraining is worth it: what is learnt on its features against those of no pretraining.

Both networks stay as they are, and the same head is fitted on each in closed form, on the same training photos; both
are asked about the validation photos, never the test split. That costs two passes over some photos and seconds besides.
What epochs make of either network afterwards is another question, which costs as much as training does.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.metrics import bootstrap, regression
from components.scorer.model.inputs import WHOLE
from components.scorer.model.surgery import settle_batch_norms
from components.training.heads.ridge import fit_closed

if TYPE_CHECKING:
    from components.training.features import Reader

MOST = 2000
"""Photos of each split that are looked at: the interval of a gain then is some hundredths wide."""

_RESAMPLES = 1000


@dataclass(frozen=True)
class Worth:
    """What pretraining gains.

    Attributes:
        pretrained: SRCC of the head on the pretrained network's features, on validation photos; NaN where undefined.
        untrained: the same of the same network with random weights.
        low, high: ends of the 95 % interval of the difference, paired, by resampling groups; NaN where undefined.
        learnt: photos that the heads were fitted to.
        asked: validation photos.
    """

    pretrained: float
    untrained: float
    low: float
    high: float
    learnt: int
    asked: int

    @property
    def gain(self) -> float:
        """In SRCC."""
        return self.pretrained - self.untrained

    @property
    def sure(self) -> bool:
        """Whether it is surely one."""
        return self.low > 0

    def __str__(self) -> str:
        """The finding in one sentence."""
        seen = (
            f"the same head on frozen features, fitted to {self.learnt:,} photos and asked about {self.asked:,} others"
        )
        if not np.isfinite([self.gain, self.low]).all():
            return f"Whether pretraining helps cannot be told: {seen}, gives no rank correlation."
        verdict = "helps" if self.sure else "does harm" if self.high < 0 else "is not seen to help"
        return (
            f"Pretraining {verdict}: {seen}, has SRCC {self.pretrained:.3f} pretrained and {self.untrained:.3f} from"
            f" random weights: {self.gain:+.3f} ({self.low:+.3f} to {self.high:+.3f}, 95 %)."
        )

    @property
    def warning(self) -> str:
        """What people are to be warned of; empty where pretraining surely helps."""
        return "" if self.sure else f"{self} ImageNet weights (start=imagenet) or more photos and epochs may do better."

    @property
    def figures(self) -> dict[str, float]:
        """For the pipeline's metrics, by names that no other step uses; only those that are numbers."""
        return regression.finite({"pretraining_gain": self.gain, "pretraining_gain_low": self.low})


def weigh(reader: "Reader", encoder: str | Path) -> Worth | None:
    """What the pipeline's own pretraining gains.

    Args:
        reader: of the data set, for a scorer that sees the whole photo alone.
        encoder: folder of the encoder as pretraining wrote it.

    Returns:
        None where nothing was pretrained.
    """
    if not bundle.encoder_settings(encoder).unsupervised:
        return None
    network, _ = bundle.load_encoder(encoder)
    keras.utils.set_random_seed(reader.settings.seed)
    fresh = keras.models.clone_model(network)
    settle_batch_norms(fresh, next(iter(reader.plain("train")))[0])
    print("training: the same head on frozen features, pretrained and from random weights", flush=True)
    (pretrained, truth, learnt), (untrained, *_) = (_asked(reader, each) for each in (network, fresh))
    groups = photos.table(reader.dataset, "validation")["group"]
    return compare(truth, pretrained, untrained, learnt, [*groups[: len(truth)]])


def compare(truth: np.ndarray, pretrained: np.ndarray, untrained: np.ndarray, learnt: int, groups: list[str]) -> Worth:
    """Two heads' votes ``[n, 10]`` held against people's, paired."""
    every = [bootstrap.bootstrap(truth, each, resamples=_RESAMPLES, names=("srcc",), groups=groups)["srcc"]
             for each in (pretrained, untrained)]  # fmt: skip
    low, high = bootstrap.interval(every[0] - every[1])
    scores = (regression.mean_scores(each) for each in (truth, pretrained, untrained))
    people, *both = scores
    return Worth(*(float(regression.srcc(people, each)) for each in both), low, high, learnt, len(truth))


def _asked(reader: "Reader", network: keras.Model) -> tuple[np.ndarray, np.ndarray, int]:
    """What a head on a network's features says of validation photos, people's votes, and how many it learnt from."""
    encode = reader.encoding(network)

    def seen(split: str) -> tuple[np.ndarray, np.ndarray]:
        batches = itertools.islice(reader.plain(split), -(-MOST // reader.settings.batch_size))
        parts = [(encode(pixels)["pooled"], votes.numpy()) for pixels, votes in batches]
        features, votes = (np.concatenate(each)[:MOST] for each in zip(*parts, strict=True))
        return features, votes

    (features, votes), (others, truth) = seen("train"), seen("validation")
    head, _ = fit_closed({"pooled": features}, votes, WHOLE, None, reader.settings)
    return np.asarray(head([others])), truth, len(votes)
