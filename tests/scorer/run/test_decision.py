"""Gates make a decision; its record follows the JSON schema."""

import json
import math
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import get_args

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.scorer import quoting
from components.scorer.run import decision
from components.scorer.run.decision import Decision, GateOutcome, GateResult, Verdict, decide, to_record
from components.scorer.settings import GateKey, Policy

SCHEMA = json.loads(Path(decision.__file__).with_name("decision.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FORCE = Policy(warn_only=(), force_publish=True, force_reason="the champion is broken")
OUTCOMES = get_args(GateOutcome)

TEXT = st.text(min_size=1, max_size=30)
NUMBER = st.floats() | st.integers(-5, 5)
GATES = st.lists(
    st.builds(
        GateResult, st.sampled_from(get_args(GateKey)), TEXT, st.text(), NUMBER, NUMBER, st.sampled_from(OUTCOMES), TEXT
    ),
    min_size=1,
    max_size=6,
)
POLICIES = st.builds(
    lambda keys, reason: Policy(tuple(keys), bool(reason), reason),
    st.lists(st.sampled_from(get_args(GateKey)), max_size=6),
    st.just("") | st.text(min_size=1).filter(str.strip),
)


def gate(key: GateKey = "srcc", verdict: GateOutcome = "passed", **others) -> GateResult:
    return replace(GateResult(key, f"Gate {key}", key, 0.4, 0.5, verdict, f"{key} is .4."), **others)


def policy(*warn_only: GateKey) -> Policy:
    return Policy(warn_only=warn_only)


# Gates and verdict


@pytest.mark.parametrize(
    ("blocking", "warning", "force", "verdict"),
    [
        ("passed", "passed", False, "publish"),
        ("passed", "failed", False, "publish"),
        ("passed", "not judged", False, "publish"),
        ("failed", "passed", False, "refused"),
        ("failed", "not judged", False, "refused"),
        ("not judged", "passed", False, "failed"),
        ("not judged", "failed", False, "failed"),
        ("passed", "passed", True, "publish"),
        ("passed", "failed", True, "publish"),
        ("failed", "passed", True, "forced"),
        ("not judged", "passed", True, "forced"),
    ],
)
def test_blocking_gates_and_override_determine_the_verdict(blocking, warning, force, verdict):
    gates = [gate("srcc", blocking), gate("emd", "passed"), gate("noise", warning)]
    rules = replace(FORCE if force else policy(), warn_only=("noise",))
    assert decide(gates, rules).verdict == verdict


def test_a_gate_that_could_not_be_judged_outweighs_a_failed_gate():
    assert decide([gate("srcc", "failed"), gate("emd", "not judged")], policy()).verdict == "failed"


@pytest.mark.slow
@given(GATES, POLICIES)
def test_warn_only_gates_never_change_the_verdict(gates, rules):
    passed = [
        replace(gate_result, verdict="passed") if gate_result.key in rules.warn_only else gate_result
        for gate_result in gates
    ]
    assert decide(gates, rules).verdict == decide(passed, rules).verdict
    assert decide(gates, rules).reasons == decide(passed, rules).reasons


@pytest.mark.slow
@given(GATES, POLICIES)
def test_a_scorer_is_published_if_no_gate_blocks_or_a_person_forces_it(gates, rules):
    decided = decide(gates, rules)
    blocked = [
        gate_result
        for gate_result in gates
        if gate_result.key not in rules.warn_only and gate_result.verdict != "passed"
    ]
    assert decided.publishes == (not blocked or rules.force_publish)
    assert len(decided.reasons) == len(decided.gates_not_passed) == len(blocked)
    assert (decided.verdict == "forced") == bool(decided.override)


def test_a_gate_only_warns_by_policy_or_by_its_own_severity():
    decided = decide([gate("srcc"), gate("noise"), gate("leakage", "not judged", severity="warn")], policy("noise"))
    assert [gate_result.severity for gate_result in decided.gates] == ["block", "warn", "warn"]
    assert decided.verdict == "publish"


def test_a_failed_warn_only_gate_is_listed_as_a_warning():
    decided = decide([gate("srcc"), gate("noise", "failed")], policy("noise"))
    assert decided.reasons == []
    assert decided.warnings == ["Gate noise: noise is .4."]


def test_a_decision_without_gates_is_refused():
    with pytest.raises(ValueError, match="expected at least one gate to decide by, got none"):
        decide([], policy())


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_an_override_without_a_reason_is_refused(reason):
    with pytest.raises(ValueError, match="force_publish needs force_reason"):
        decide([gate()], replace(FORCE, force_reason=reason))


def test_the_reason_of_an_override_is_one_line():
    decided = decide([gate(verdict="failed")], replace(FORCE, force_reason=" agreed\n with Anna "))
    assert decided.override == "agreed with Anna"


def test_a_force_without_a_blocking_gate_leaves_no_override():
    assert decide([gate()], FORCE) == decide([gate()], policy())


# Summary


@pytest.mark.parametrize(
    ("made", "summary"),
    [
        (decide([gate(), gate("emd")], policy()), "Publish: the scorer passed all 2 gates."),
        (
            decide([gate(), gate("noise", "failed")], policy("noise")),
            "Publish: the scorer passed its 1 gate. 1 warning.",
        ),
        (decide([gate("noise")], policy("noise")), "Publish: the scorer had no gate to pass."),
        (
            decide([gate(), gate("emd", "failed"), gate("noise", "failed"), gate("shift", "failed")],
                   policy("noise", "shift")),
            "Refused: the scorer passed 1 of 2 gates. Nothing is published. 2 warnings.",
        ),
        (
            decide([gate(), gate("emd", "failed")], FORCE),
            "Forced by a person: the champion is broken. 1 of 2 gates said no.",
        ),
        (
            decide([gate(verdict="not judged")], policy()),
            "Failed: not every gate could be judged, and a person has to look. Nothing is published.",
        ),
        (Decision("skipped", ["3 new labels."]), "Skipped: there is too little new to train on. The champion stays."),
        (
            decision.failed_decision(ValueError("no photos")),
            "Failed: the run broke off before the gates could judge. Nothing is published.",
        ),
    ],
)  # fmt: skip
def test_the_summary_gives_the_verdict_in_words(made, summary):
    assert made.summary == summary


@pytest.mark.parametrize("made", [decide([gate()], policy()), decide([gate(verdict="not judged")], FORCE)])
def test_the_summary_of_a_failed_push_does_not_blame_the_gates(made):
    value = decision.with_failure(to_record(made), "push broke off: OSError: full", "run")
    assert value["summary"] == "Failed: the run broke off before the scorer could be published. Nothing is published."
    assert value["reasons"][0] == "push broke off: OSError: full"


@pytest.mark.slow
def test_an_error_is_quoted_in_one_line():
    assert quoting.one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert quoting.one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(quoting.one_line(ValueError("x" * 9999))) < 600


# The record


def every_record() -> dict[str, dict]:
    """Return a record of each verdict as the steps write it."""
    champion = {"uri": "gs://models/portraits/1", "version": 1, "error": ""}
    provenance = {
        "run": "run",
        "model": "portraits",
        "revision": "r",
        "data": "d",
        "trained_on": "d",
        "trained_by": "r",
    }
    publish = to_record(decide([gate(), gate("noise", "failed", value=math.nan)], policy("noise")), **provenance)
    forced = to_record(decide([gate(verdict="failed")], FORCE), champion=champion, **provenance)
    return {
        "publish": publish,
        "published": decision.with_publication(publish, 2, "gs://models/portraits/2"),
        "forced": forced,
        "forced and published": decision.with_publication(forced, 2, "gs://models/portraits/2"),
        "forced, then broken off": decision.with_failure(forced, "push broke off", "run"),
        "refused": to_record(decide([gate(verdict="failed", threshold=math.nan)], policy()), **provenance),
        "skipped": to_record(Decision("skipped", ["3 new labels."], [gate("new_labels", "failed")])),
        "failed": to_record(decision.failed_decision(OSError("disk full"))),
        "nobody wrote one": decision.with_failure(None, "training was killed", "run"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", every_record())
def test_the_record_of_each_verdict_follows_the_schema(name, tmp_path):
    decision.write(str(tmp_path / "decision.json"), every_record()[name])
    VALIDATOR.validate(decision.read(str(tmp_path / "decision.json")))


def test_the_tested_records_cover_every_verdict():
    assert {value["verdict"] for value in every_record().values()} == set(get_args(Verdict))


@pytest.mark.slow
@given(GATES, POLICIES)
def test_the_record_of_any_decision_follows_the_schema(gates, rules):
    VALIDATOR.validate(json.loads(json.dumps(to_record(decide(gates, rules)), allow_nan=False)))


@pytest.mark.parametrize(
    ("verdict", "wrong"),
    [
        ("published", {"published": None}),
        ("published", {"publish": False}),
        ("refused", {"publish": True}),
        ("refused", {"published": {"version": 1, "uri": "x"}}),
        ("refused", {"reasons": []}),
        ("forced", {"override": ""}),
        ("publish", {"published": {"version": 1, "uri": "x"}}),
        ("failed", {"verdict": "blessed"}),
        ("failed", {"extra": 1}),
        ("failed", {"schema_version": 2}),
    ],
)
def test_the_schema_refuses_a_record_that_contradicts_itself(verdict, wrong):
    assert not VALIDATOR.is_valid({**every_record()[verdict], **wrong})


@pytest.mark.slow
@pytest.mark.parametrize("name", every_record()["refused"])
def test_the_schema_requires_every_field(name):
    value = every_record()["refused"]
    del value[name]
    assert not VALIDATOR.is_valid(value)


def test_the_schema_is_a_valid_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_describes_every_field_and_allows_no_other():
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert len(objects) == 4
    for definition in objects:
        assert definition["additionalProperties"] is False
        assert set(definition["required"]) == set(definition["properties"])
        assert all(len(field["description"]) > 10 for field in definition["properties"].values())


def test_the_schema_lists_the_verdicts_and_gates_of_the_code():
    of_gate = SCHEMA["$defs"]["gate"]["properties"]
    assert tuple(SCHEMA["properties"]["verdict"]["enum"]) == get_args(Verdict)
    assert tuple(of_gate["verdict"]["enum"]) == OUTCOMES
    assert tuple(of_gate["key"]["enum"]) == get_args(GateKey)


def test_a_record_accepts_no_field_outside_the_schema():
    with pytest.raises(TypeError, match="unexpected keyword"):
        to_record(Decision("failed", ["why"]), author="anna")


@pytest.mark.slow
@given(GATES, POLICIES)
def test_a_decision_is_restored_from_its_record(gates, rules):
    decided = decide(gates, rules)
    restored = decision.from_record(json.loads(json.dumps(to_record(decided))))
    assert to_record(restored) == to_record(decided)
    assert (restored.verdict, restored.override, restored.summary) == (
        decided.verdict,
        decided.override,
        decided.summary,
    )


def test_a_nan_value_is_null_in_the_record_and_nan_in_the_restored_gate():
    value = to_record(decide([gate(value=math.nan, threshold=math.inf)], policy()))
    assert (value["gates"][0]["value"], value["gates"][0]["threshold"]) == (None, None)
    (restored,) = decision.gates_from_record(value)
    assert math.isnan(restored.value)
    assert math.isnan(restored.threshold)


def test_reading_a_missing_record_returns_none(tmp_path):
    assert decision.read(str(tmp_path / "decision.json")) is None


# Completed records


def test_a_publish_record_becomes_published_and_keeps_its_other_fields():
    original = every_record()["publish"]
    published = decision.with_publication(original, 2, "gs://models/portraits/2")
    changed = {"verdict", "summary", "published"}
    assert {name for name in published if published[name] != original[name]} == changed
    assert published["published"] == {"version": 2, "uri": "gs://models/portraits/2"}


def test_a_forced_record_stays_forced():
    published = every_record()["forced and published"]
    assert (published["verdict"], published["override"]) == ("forced", "the champion is broken")


def test_completing_twice_changes_nothing():
    published = every_record()["published"]
    assert decision.with_publication(published, 2, "gs://models/portraits/2") == published


@pytest.mark.slow
@pytest.mark.parametrize("name", ["refused", "skipped", "failed"])
def test_a_record_of_another_verdict_cannot_become_published(name):
    with pytest.raises(ValueError, match=f"expected a decision to publish, got '{name}'"):
        decision.with_publication(every_record()[name], 2, "gs://models/portraits/2")


def test_failing_twice_for_one_reason_records_it_once():
    failed = decision.with_failure(every_record()["publish"], "push broke off", "run")
    assert decision.with_failure(failed, "push broke off", "run") == failed


# Plain values


@dataclass(frozen=True)
class Measured:
    values: np.ndarray
    by_name: dict


def test_arrays_dataclasses_and_numpy_numbers_become_json_values():
    value = Measured(
        np.array([1.5, np.nan]), {1: np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "t": (1, None)}
    )
    plain = {"values": [1.5, None], "by_name": {"1": 0.5, "n": 3, "ok": True, "t": [1, None]}}
    assert decision.to_json_value(value) == plain
    assert json.loads(json.dumps(decision.to_json_value(value), allow_nan=False)) == plain


@pytest.mark.slow
@given(st.recursive(st.floats() | st.integers() | st.text() | st.booleans() | st.none(), st.lists, max_leaves=8))
def test_json_values_stay_unchanged(value):
    converted = decision.to_json_value(value)
    assert decision.to_json_value(converted) == converted
    json.dumps(converted, allow_nan=False)


def test_the_record_of_every_outcome_and_severity_follows_the_schema():
    for outcome, key in product(OUTCOMES, ("srcc", "noise")):
        VALIDATOR.validate(to_record(decide([gate(key, outcome)], policy("noise"))))
