"""The pretraining ablation: gain on validation photos, and a warning if the gain is not significant."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.scorer.artifacts import bundle
from components.scorer.metrics import regression
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import PHOTO_ONLY
from components.scorer.parameters import from_parameters
from components.scorer.run import decision
from components.scorer.run.decision import GateResult
from components.scorer.settings import Policy, Pretraining, Training
from components.training.features import FeatureExtractor
from components.training.pretraining_ablation import PretrainingAblation, compare, run_ablation
from components.training.train import train
from tests.conftest import SMALL, votes_around

pytestmark = pytest.mark.slow

HELPS = PretrainingAblation(0.6, 0.4, 0.1, 0.3, fitted_photos=200, validation_photos=100)
PASSED = GateResult("srcc", "Ranks photos as people do", "SRCC", 0.6, 0.5, "passed", "SRCC is .6.")


def rated(photos: int, noise: float, seed: int) -> np.ndarray:
    """Return votes with rising means plus noise of this size in points."""
    means = np.linspace(3, 8, photos) + noise * np.random.default_rng(seed).normal(size=photos)
    return np.stack([votes_around(mean) for mean in np.clip(means, 2, 9)])


def reader(dataset: Path, **changes) -> FeatureExtractor:
    return FeatureExtractor(
        dataset, SMALL["crop"], from_parameters(Training, scale=36, **changes), HeadSpec(), PHOTO_ONLY
    )


def test_a_large_gain_is_significant_and_has_no_warning():
    ablation = compare(rated(60, 0, 0), rated(60, 0.5, 1), rated(60, 5, 2), 100, [""] * 60)
    assert ablation.is_significant
    assert ablation.warning == ""
    assert str(ablation).startswith("Pretraining helps: ")
    assert ablation.low < ablation.gain < ablation.high


def test_a_random_gain_is_not_significant_and_its_warning_gives_the_interval():
    ablation = compare(rated(60, 0, 0), rated(60, 2, 1), rated(60, 2, 2), 100, [""] * 60)
    assert ablation.low < 0 < ablation.high
    assert ablation.warning.startswith("Pretraining is not seen to help: ")
    assert f"{ablation.gain:+.3f} ({ablation.low:+.3f} to {ablation.high:+.3f}, 95 %)" in ablation.warning


def test_a_significant_loss_is_reported_as_harm():
    assert str(replace(HELPS, untrained=0.8, low=-0.3, high=-0.1)).startswith("Pretraining does harm: ")


def test_grouped_photos_change_the_interval_and_not_the_gain():
    ungrouped, grouped = (
        compare(rated(60, 0, 0), rated(60, 1, 1), rated(60, 2, 2), 100, groups)
        for groups in ([""] * 60, [str(index // 15) for index in range(60)])
    )
    assert grouped.high - grouped.low != ungrouped.high - ungrouped.low
    assert grouped.gain == ungrouped.gain


def test_an_undefined_gain_gives_a_warning_and_no_metrics():
    constant_votes = rated(1, 0, 0).repeat(5, axis=0)
    ablation = compare(rated(5, 0, 0), constant_votes, constant_votes, 10, [""] * 5)
    assert ablation.metrics == {}
    assert ablation.warning.startswith("Whether pretraining helps cannot be told: ")


def test_there_is_no_ablation_without_pretraining(small_dataset, small_encoder):
    assert run_ablation(reader(small_dataset), small_encoder) is None


@pytest.fixture(scope="module")
def trained(small_dataset, small_encoder, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """Folder and metrics of a training from random weights that are recorded as pretrained."""
    folder = tmp_path_factory.mktemp("worth")
    network, _ = bundle.load_encoder(small_encoder)
    bundle.save_encoder(network, from_parameters(Pretraining, start="denoising", **SMALL), folder / "encoder")
    settings = from_parameters(Training, scale=36, head_epochs=1, epochs=0)
    metrics = train(
        small_dataset, folder / "encoder", folder / "scorer", folder / "report.html",
        settings=settings, checkpoints=str(folder / "checkpoints"), fingerprint="data",
    )  # fmt: skip
    return folder, metrics


def test_training_runs_the_ablation_and_reports_it(trained):
    folder, metrics = trained
    assert metrics["pretraining_gain_low"] <= metrics["pretraining_gain"]
    page = (folder / "report.html").read_text()
    assert "Whether pretraining helps" in page
    assert "fitted to 64 photos and asked about 24 others" in page
    assert f"{metrics['pretraining_gain']:+.3f} (" in page


def test_the_bundle_warns_of_random_weights_recorded_as_pretrained(trained):
    (note,) = bundle.load(trained[0] / "scorer").notes
    assert note.startswith("Pretraining ")
    assert note.endswith("ImageNet weights (start=imagenet) or more photos and epochs may do better.")


def test_the_ablation_is_reproducible(trained, small_dataset):
    repeated = run_ablation(reader(small_dataset), trained[0] / "encoder")
    assert repeated.metrics == regression.finite_figures({name: trained[1][name] for name in repeated.metrics})


def test_a_note_is_a_non_blocking_warning_that_the_record_keeps():
    decided = decision.decide([PASSED], Policy(), ["Pretraining is not seen to help."])
    assert decided.verdict == "publish"
    assert decided.warnings == ["Pretraining is not seen to help."]
    assert decided.summary.endswith("1 warning.")
    restored = decision.from_record(decision.with_publication(decision.to_record(decided), 3, "models/3"))
    assert restored.warnings == decided.warnings
    assert decision.with_failure(decision.to_record(decided), "push broke off", "run")["warnings"] == decided.warnings
