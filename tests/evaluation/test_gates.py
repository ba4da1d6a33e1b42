"""Evaluation gates: each fault fails its own gate and no other, and a sound scorer passes all gates."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from components.evaluation import export_probe
from components.evaluation.gates import all_gates
from components.evaluation.results import EvaluationResults, evaluate_scorer
from components.scorer.artifacts import saved_model
from components.scorer.data import photos
from components.scorer.registry import channels
from components.scorer.settings import Evaluation
from tests.builders import designed
from tests.builders.evaluations import SERVED

pytestmark = pytest.mark.slow

PHOTOS = 160
SETTINGS = Evaluation(bootstrap=200, behaviour_photos=32, perturbation_photos=2)
SOUND = designed.SOUND
WORSE = {**SOUND, "stripes": 40, "intercept": -1.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return designed.dataset(tmp_path_factory.mktemp("designed") / "dataset", PHOTOS)


@pytest.fixture
def judge(data, tmp_path, monkeypatch) -> Callable[..., EvaluationResults]:
    """Evaluate a designed scorer; a given champion is published as version 3."""
    # The probe has tests of its own: tests/evaluation/test_export_probe.py.
    monkeypatch.setattr(export_probe, "probe", lambda *asked: SERVED)

    def judged(features, champion=None, settings=SETTINGS):
        models = str(tmp_path / "models")
        if champion is not None:
            channels.promote_pushed(models, "portraits", 3)
            monkeypatch.setattr(saved_model, "load", lambda uri: champion)
        records = partial(photos.records, data, "test")
        results = evaluate_scorer(designed.scorer(**features), records, PHOTOS, models, "portraits", settings)
        return {gate.key: gate for gate in all_gates(results, settings)}

    return judged


def no(gates) -> set[str]:
    """Return the keys of the gates that did not pass."""
    return {key for key, gate in gates.items() if gate.verdict != "passed"}


def test_a_sound_scorer_passes_every_gate_with_and_without_a_champion(judge):
    assert no(judge(SOUND)) == set()
    assert no(judge(SOUND, champion=designed.scorer(**SOUND))) == set()


# By fault: the scorer's features, the settings that isolate the fault, and the gate that finds it.
FAULTS = {
    "noise": ({**SOUND, "stripes": 20, "intercept": 0.0}, {"minimum_srcc": 0.995, "maximum_rise": 9.0}, "srcc"),
    "too kind": ({**SOUND, "intercept": 2.8}, {"maximum_emd": 1.0}, "emd"),
    "worse than a constant": (
        {"warmth": 30.0, "intercept": -6.0}, {"maximum_emd": 2.0, "minimum_slope": 0.0}, "emd_floor"
    ),
    "too wide": ({"warmth": 17.0, "intercept": -0.9}, {"minimum_slope": 0.8}, "slope"),
    "collapsed": ({"warmth": 3.0, "intercept": 4.3}, {"minimum_outside": 0.0}, "spread"),
    "never high nor low": ({"warmth": 4.6, "intercept": 3.75}, {}, "outside"),
    "unfair to photos of plain ground": ({**SOUND, "green": 2.5, "intercept": 0.5}, {}, "slice_gap"),
    "cannot rank within a slice": (
        {**SOUND, "stripes": 20, "intercept": 0.0}, {"minimum_slice_srcc": 0.995, "maximum_rise": 9.0}, "slice_floor"
    ),
    "prefers the blurred": ({**SOUND, "stripes": -20, "intercept": 4.0}, {}, "blur"),
    "too few photos": (SOUND, {"minimum_test_photos": PHOTOS + 1}, "test_photos"),
    "easily perturbed": (SOUND, {"maximum_perturbation": 0.1}, "perturbation"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_scorer_with_one_fault_fails_only_the_gate_of_that_fault(judge, fault):
    features, settings, gate = FAULTS[fault]
    assert no(judge(features, settings=replace(SETTINGS, **settings))) == {gate}


def test_a_scorer_clearly_worse_than_the_champion_fails_only_the_champion_gates(judge):
    lenient = replace(SETTINGS, maximum_rise=9.0)  # this scorer takes noise for stripes
    gates = judge(WORSE, champion=designed.scorer(**SOUND), settings=lenient)
    assert no(gates) == {"champion_srcc", "champion_lcc", "champion_emd"}


def test_a_scorer_that_fails_against_the_champion_passes_without_a_champion(judge):
    assert no(judge(WORSE, settings=replace(SETTINGS, maximum_rise=9.0))) == set()


def test_the_champion_gate_compares_with_the_champion_and_not_with_the_scorer_itself(judge):
    assert judge(WORSE, champion=designed.scorer(**WORSE))["champion_srcc"].value == 0
    assert judge(WORSE, champion=designed.scorer(**SOUND))["champion_srcc"].value < 0
    assert judge(SOUND, champion=designed.scorer(**WORSE))["champion_srcc"].value > 0


def test_a_constant_scorer_fails_its_gates_and_raises_no_error(judge):
    gates = judge({"intercept": 5.5})
    assert {"srcc", "spread", "slope", "outside", "emd_floor", "slice_floor"} <= no(gates)


def test_a_champion_with_other_outputs_gives_the_verdict_not_judged_and_no_error(judge):
    class OtherOutputs:
        def score(self, photos):
            return np.ones((len(photos), 3))

    gates = judge(SOUND, champion=OtherOutputs())
    assert no(gates) == {"champion_srcc", "champion_lcc", "champion_emd"}
    assert {gates[key].verdict for key in no(gates)} == {"not judged"}
    assert "expected votes" in gates["champion_srcc"].reason


def test_a_slow_export_fails_only_the_latency_gate(judge, monkeypatch):
    monkeypatch.setattr(export_probe, "probe", lambda *asked: replace(SERVED, latency_95=900.0))
    assert no(judge(SOUND)) == {"latency"}


def test_without_a_champion_the_reason_of_the_champion_gate_says_so(judge):
    gates = judge(SOUND)
    assert "champion" in gates["champion_srcc"].reason
