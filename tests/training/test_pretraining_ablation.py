"""What the pipeline's own pretraining is worth: measured on validation photos, told where it is not surely a gain."""

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

HELPS = PretrainingAblation(0.6, 0.4, 0.1, 0.3, fitted_photos=200, validation_photos=100)
PASSED = GateResult("srcc", "Ranks photos as people do", "SRCC", 0.6, 0.5, "passed", "SRCC is .6.")


def rated(photos: int, noise: float, seed: int) -> np.ndarray:
    """Votes for photos that are better and better, off by so many points."""
    means = np.linspace(3, 8, photos) + noise * np.random.default_rng(seed).normal(size=photos)
    return np.stack([votes_around(mean) for mean in np.clip(means, 2, 9)])


def reader(dataset: Path, **changes) -> FeatureExtractor:
    return FeatureExtractor(
        dataset, SMALL["crop"], from_parameters(Training, scale=36, **changes), HeadSpec(), PHOTO_ONLY
    )


def test_a_large_gain_is_sure_and_warns_of_nothing():
    found = compare(rated(60, 0, 0), rated(60, 0.5, 1), rated(60, 5, 2), 100, [""] * 60)
    assert found.is_significant
    assert found.warning == ""
    assert str(found).startswith("Pretraining helps: ")
    assert found.low < found.gain < found.high


def test_a_gain_by_chance_is_not_sure_and_the_warning_gives_its_interval():
    found = compare(rated(60, 0, 0), rated(60, 2, 1), rated(60, 2, 2), 100, [""] * 60)
    assert found.low < 0 < found.high
    assert found.warning.startswith("Pretraining is not seen to help: ")
    assert f"{found.gain:+.3f} ({found.low:+.3f} to {found.high:+.3f}, 95 %)" in found.warning


def test_harm_is_called_harm():
    assert str(replace(HELPS, untrained=0.8, low=-0.3, high=-0.1)).startswith("Pretraining does harm: ")


def test_the_interval_is_wider_where_photos_come_in_groups():
    alone, together = (
        compare(rated(60, 0, 0), rated(60, 1, 1), rated(60, 2, 2), 100, groups)
        for groups in ([""] * 60, [str(place // 15) for place in range(60)])
    )
    assert together.high - together.low != alone.high - alone.low
    assert together.gain == alone.gain


def test_where_nothing_can_be_told_that_is_said_and_no_number_is_made_up():
    same = rated(1, 0, 0).repeat(5, axis=0)
    found = compare(rated(5, 0, 0), same, same, 10, [""] * 5)
    assert found.metrics == {}
    assert found.warning.startswith("Whether pretraining helps cannot be told: ")


def test_nothing_is_weighed_where_the_pipeline_did_not_pretrain(small_dataset, small_encoder):
    assert run_ablation(reader(small_dataset), small_encoder) is None


@pytest.fixture(scope="module")
def trained(small_dataset, small_encoder, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """A training from an encoder that is said to be pretrained, and is not."""
    folder = tmp_path_factory.mktemp("worth")
    network, _ = bundle.load_encoder(small_encoder)
    bundle.save_encoder(network, from_parameters(Pretraining, start="denoising", **SMALL), folder / "encoder")
    settings = from_parameters(Training, scale=36, head_epochs=1, epochs=0)
    found = train(
        small_dataset, folder / "encoder", folder / "scorer", folder / "report.html",
        settings=settings, checkpoints=str(folder / "checkpoints"), fingerprint="data",
    )  # fmt: skip
    return folder, found


def test_training_measures_it_on_the_validation_photos_and_says_so_on_its_page(trained):
    folder, found = trained
    assert found["pretraining_gain_low"] <= found["pretraining_gain"]
    page = (folder / "report.html").read_text()
    assert "Whether pretraining helps" in page
    assert "fitted to 64 photos and asked about 24 others" in page
    assert f"{found['pretraining_gain']:+.3f} (" in page


def test_random_weights_that_pass_for_pretrained_are_warned_of_in_the_bundle(trained):
    (note,) = bundle.load(trained[0] / "scorer").notes
    assert note.startswith("Pretraining ")
    assert note.endswith("ImageNet weights (start=imagenet) or more photos and epochs may do better.")


def test_the_same_training_weighs_the_same(trained, small_dataset):
    again = run_ablation(reader(small_dataset), trained[0] / "encoder")
    assert again.metrics == regression.finite_figures({name: trained[1][name] for name in again.metrics})


def test_a_note_is_a_warning_that_blocks_nothing_and_survives_the_record():
    made = decision.decide([PASSED], Policy(), ["Pretraining is not seen to help."])
    assert made.verdict == "publish"
    assert made.warnings == ["Pretraining is not seen to help."]
    assert made.summary.endswith("1 warning.")
    after = decision.from_record(decision.with_publication(decision.to_record(made), 3, "models/3"))
    assert after.warnings == made.warnings
    assert decision.with_failure(decision.to_record(made), "push broke off", "run")["warnings"] == made.warnings
