"""Ablation of the pipeline's own pretraining: features of the pretrained network against those of random weights.

Both networks stay frozen. `fit_ridge_head` fits the same head on each, with the same training photos, and both are
scored on validation photos, never on the test split. The cost is two passes over some photos and a few seconds. How
either network would do after fine-tuning by epochs is not measured: that costs as much as training.
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
from components.scorer.model.inputs import PHOTO_ONLY
from components.scorer.model.surgery import calibrate_batch_norms
from components.training.heads.ridge import fit_ridge_head

if TYPE_CHECKING:
    from components.training.features import FeatureExtractor

MAX_PHOTOS = 2000
"""Maximum number of photos per split: the interval of the gain is then some hundredths wide."""

_RESAMPLES = 1000


@dataclass(frozen=True)
class PretrainingAblation:
    """Result of the pretraining ablation.

    Attributes:
        pretrained: SRCC on validation photos of the head on the pretrained network's features; NaN if undefined.
        untrained: SRCC of the head on the features of the same network with random weights; NaN if undefined.
        low: Lower end of the 95 % paired bootstrap interval of the gain, resampled by groups; NaN if undefined.
        high: Upper end of that interval.
        fitted_photos: Number of photos that the heads were fitted on.
        validation_photos: Number of validation photos.
    """

    pretrained: float
    untrained: float
    low: float
    high: float
    fitted_photos: int
    validation_photos: int

    @property
    def gain(self) -> float:
        """SRCC gained by pretraining."""
        return self.pretrained - self.untrained

    @property
    def is_significant(self) -> bool:
        """True if the gain is significant: its whole 95 % interval lies above 0."""
        return self.low > 0

    def __str__(self) -> str:
        """Return the result as one sentence."""
        setup = (
            f"the same head on frozen features, fitted to {self.fitted_photos:,} photos and asked about"
            f" {self.validation_photos:,} others"
        )
        if not np.isfinite([self.gain, self.low]).all():
            return f"Whether pretraining helps cannot be told: {setup}, gives no rank correlation."
        verdict = "helps" if self.is_significant else "does harm" if self.high < 0 else "is not seen to help"
        return (
            f"Pretraining {verdict}: {setup}, has SRCC {self.pretrained:.3f} pretrained and {self.untrained:.3f} from"
            f" random weights: {self.gain:+.3f} ({self.low:+.3f} to {self.high:+.3f}, 95 %)."
        )

    @property
    def warning(self) -> str:
        """Warning for people; empty if pretraining helps significantly."""
        return (
            ""
            if self.is_significant
            else f"{self} ImageNet weights (start=imagenet) or more photos and epochs may do better."
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Finite pipeline metrics, by names that no other step uses."""
        return regression.finite_figures({"pretraining_gain": self.gain, "pretraining_gain_low": self.low})


def run_ablation(extractor: "FeatureExtractor", encoder: str | Path) -> PretrainingAblation | None:
    """Run the ablation of the pipeline's own pretraining.

    Args:
        extractor: Feature extractor of the data set, for a scorer without face inputs.
        encoder: Folder of the encoder that pretraining wrote.

    Returns:
        The result, or None if the encoder was not pretrained by the pipeline.
    """
    if not bundle.encoder_settings(encoder).unsupervised:
        return None
    network, _ = bundle.load_encoder(encoder)
    keras.utils.set_random_seed(extractor.settings.seed)
    random_network = keras.models.clone_model(network)
    calibrate_batch_norms(random_network, next(iter(extractor.eval_batches("train")))[0])
    print("training: the same head on frozen features, pretrained and from random weights", flush=True)
    (pretrained, truth, fitted_photos), (untrained, *_) = (
        _fit_and_predict(extractor, candidate) for candidate in (network, random_network)
    )
    groups = photos.table(extractor.dataset, "validation")["group"]
    return compare(truth, pretrained, untrained, fitted_photos, [*groups[: len(truth)]])


def compare(
    truth: np.ndarray, pretrained: np.ndarray, untrained: np.ndarray, fitted_photos: int, groups: list[str]
) -> PretrainingAblation:
    """Compare two heads' votes ``[n, 10]`` with people's, paired by photo.

    Args:
        truth: People's votes, ``[n, 10]``.
        pretrained: Votes of the head on pretrained features, ``[n, 10]``.
        untrained: Votes of the head on features of random weights, ``[n, 10]``.
        fitted_photos: Number of photos that the heads were fitted on.
        groups: Group of each photo, by which the bootstrap resamples.
    """
    samples = [bootstrap.bootstrap(truth, votes, resamples=_RESAMPLES, names=("srcc",), groups=groups)["srcc"]
               for votes in (pretrained, untrained)]  # fmt: skip
    low, high = bootstrap.percentile_interval(samples[0] - samples[1])
    people_scores, *head_scores = (regression.mean_scores(votes) for votes in (truth, pretrained, untrained))
    pretrained_srcc, untrained_srcc = (float(regression.srcc(people_scores, scores)) for scores in head_scores)
    return PretrainingAblation(pretrained_srcc, untrained_srcc, low, high, fitted_photos, len(truth))


def _fit_and_predict(extractor: "FeatureExtractor", network: keras.Model) -> tuple[np.ndarray, np.ndarray, int]:
    """Return a fitted head's votes on validation photos, people's votes, and the number of photos it was fitted on."""
    encode = extractor.encode_fn(network)

    def features_and_votes(split: str) -> tuple[np.ndarray, np.ndarray]:
        batches = itertools.islice(extractor.eval_batches(split), -(-MAX_PHOTOS // extractor.settings.batch_size))
        parts = [(encode(pixels)["pooled"], votes.numpy()) for pixels, votes in batches]
        features, votes = (np.concatenate(arrays)[:MAX_PHOTOS] for arrays in zip(*parts, strict=True))
        return features, votes

    (features, votes), (validation_features, truth) = features_and_votes("train"), features_and_votes("validation")
    head, _ = fit_ridge_head({"pooled": features}, votes, PHOTO_ONLY, None, extractor.settings)
    return np.asarray(head([validation_features])), truth, len(votes)
