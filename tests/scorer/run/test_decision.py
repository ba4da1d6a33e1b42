"""From gates to a decision, and the record that other programs read."""

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


# From gates to a verdict


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
def test_the_blocking_gates_and_the_override_make_the_verdict(blocking, warning, force, verdict):
    gates = [gate("srcc", blocking), gate("emd", "passed"), gate("noise", warning)]
    rules = replace(FORCE if force else policy(), warn_only=("noise",))
    assert decide(gates, rules).verdict == verdict


def test_a_gate_that_cannot_be_judged_outweighs_one_that_failed():
    assert decide([gate("srcc", "failed"), gate("emd", "not judged")], policy()).verdict == "failed"


@given(GATES, POLICIES)
def test_gates_that_only_warn_never_change_the_verdict(gates, rules):
    passed = [replace(each, verdict="passed") if each.key in rules.warn_only else each for each in gates]
    assert decide(gates, rules).verdict == decide(passed, rules).verdict
    assert decide(gates, rules).reasons == decide(passed, rules).reasons


@given(GATES, POLICIES)
def test_only_passes_and_a_reason_publish(gates, rules):
    made = decide(gates, rules)
    blocked = [each for each in gates if each.key not in rules.warn_only and each.verdict != "passed"]
    assert made.publishes == (not blocked or rules.force_publish)
    assert len(made.reasons) == len(made.gates_not_passed) == len(blocked)
    assert (made.verdict == "forced") == bool(made.override)


def test_a_gate_warns_where_the_policy_or_the_gate_itself_says_so():
    made = decide([gate("srcc"), gate("noise"), gate("leakage", "not judged", severity="warn")], policy("noise"))
    assert [each.severity for each in made.gates] == ["block", "warn", "warn"]
    assert made.verdict == "publish"


def test_a_no_that_only_warns_is_told_as_a_warning():
    made = decide([gate("srcc"), gate("noise", "failed")], policy("noise"))
    assert made.reasons == []
    assert made.warnings == ["Gate noise: noise is .4."]


def test_without_a_gate_nothing_is_decided():
    with pytest.raises(ValueError, match="expected at least one gate to decide by, got none"):
        decide([], policy())


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_nobody_overrules_without_a_reason(reason):
    with pytest.raises(ValueError, match="force_publish needs force_reason"):
        decide([gate()], replace(FORCE, force_reason=reason))


def test_the_reason_of_an_override_is_one_line():
    made = decide([gate(verdict="failed")], replace(FORCE, force_reason=" agreed\n with Anna "))
    assert made.override == "agreed with Anna"


def test_a_force_that_nothing_needed_leaves_no_override():
    assert decide([gate()], FORCE) == decide([gate()], policy())


# In words


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
def test_the_summary_says_the_verdict_in_words(made, summary):
    assert made.summary == summary


@pytest.mark.parametrize("made", [decide([gate()], policy()), decide([gate(verdict="not judged")], FORCE)])
def test_a_push_that_broke_off_is_not_blamed_on_the_gates(made):
    value = decision.with_failure(to_record(made), "push broke off: OSError: full", "run")
    assert value["summary"] == "Failed: the run broke off before the scorer could be published. Nothing is published."
    assert value["reasons"][0] == "push broke off: OSError: full"


def test_an_error_is_told_in_one_line():
    assert quoting.one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert quoting.one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(quoting.one_line(ValueError("x" * 9999))) < 600


# The record


def every_record() -> dict[str, dict]:
    """A record of each verdict, as the steps write them."""
    champion = {"uri": "gs://models/portraits/1", "version": 1, "error": ""}
    about = {"run": "run", "model": "portraits", "revision": "r", "data": "d", "trained_on": "d", "trained_by": "r"}
    publish = to_record(decide([gate(), gate("noise", "failed", value=math.nan)], policy("noise")), **about)
    forced = to_record(decide([gate(verdict="failed")], FORCE), champion=champion, **about)
    return {
        "publish": publish,
        "published": decision.with_publication(publish, 2, "gs://models/portraits/2"),
        "forced": forced,
        "forced and published": decision.with_publication(forced, 2, "gs://models/portraits/2"),
        "forced, then broken off": decision.with_failure(forced, "push broke off", "run"),
        "refused": to_record(decide([gate(verdict="failed", threshold=math.nan)], policy()), **about),
        "skipped": to_record(Decision("skipped", ["3 new labels."], [gate("new_labels", "failed")])),
        "failed": to_record(decision.failed_decision(OSError("disk full"))),
        "nobody wrote one": decision.with_failure(None, "training was killed", "run"),
    }


@pytest.mark.parametrize("name", every_record())
def test_the_record_of_each_verdict_is_as_the_schema_says(name, tmp_path):
    decision.write(str(tmp_path / "decision.json"), every_record()[name])
    VALIDATOR.validate(decision.read(str(tmp_path / "decision.json")))


def test_the_records_tried_have_every_verdict():
    assert {value["verdict"] for value in every_record().values()} == set(get_args(Verdict))


@given(GATES, POLICIES)
def test_whatever_is_decided_its_record_is_as_the_schema_says(gates, rules):
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


@pytest.mark.parametrize("name", every_record()["refused"])
def test_the_schema_asks_for_every_field(name):
    value = every_record()["refused"]
    del value[name]
    assert not VALIDATOR.is_valid(value)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_describes_every_field_and_allows_no_other():
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert len(objects) == 4
    for each in objects:
        assert each["additionalProperties"] is False
        assert set(each["required"]) == set(each["properties"])
        assert all(len(about["description"]) > 10 for about in each["properties"].values())


def test_the_schema_knows_the_verdicts_and_the_gates_of_the_code():
    of_gate = SCHEMA["$defs"]["gate"]["properties"]
    assert tuple(SCHEMA["properties"]["verdict"]["enum"]) == get_args(Verdict)
    assert tuple(of_gate["verdict"]["enum"]) == OUTCOMES
    assert tuple(of_gate["key"]["enum"]) == get_args(GateKey)


def test_the_record_knows_no_field_that_the_schema_does_not():
    with pytest.raises(TypeError, match="unexpected keyword"):
        to_record(Decision("failed", ["why"]), author="anna")


@given(GATES, POLICIES)
def test_a_decision_comes_back_from_its_record(gates, rules):
    made = decide(gates, rules)
    again = decision.from_record(json.loads(json.dumps(to_record(made))))
    assert to_record(again) == to_record(made)
    assert (again.verdict, again.override, again.summary) == (made.verdict, made.override, made.summary)


def test_a_value_that_could_not_be_measured_is_null_in_the_record_and_nan_again_in_the_gate():
    value = to_record(decide([gate(value=math.nan, threshold=math.inf)], policy()))
    assert (value["gates"][0]["value"], value["gates"][0]["threshold"]) == (None, None)
    (again,) = decision.gates_from_record(value)
    assert math.isnan(again.value)
    assert math.isnan(again.threshold)


def test_no_record_is_none(tmp_path):
    assert decision.read(str(tmp_path / "decision.json")) is None


# Completing it


def test_a_record_to_publish_becomes_published_and_keeps_all_else():
    before = every_record()["publish"]
    after = decision.with_publication(before, 2, "gs://models/portraits/2")
    changed = {"verdict", "summary", "published"}
    assert {name for name in after if after[name] != before[name]} == changed
    assert after["published"] == {"version": 2, "uri": "gs://models/portraits/2"}


def test_a_forced_record_stays_forced():
    after = every_record()["forced and published"]
    assert (after["verdict"], after["override"]) == ("forced", "the champion is broken")


def test_completing_twice_changes_nothing():
    once = every_record()["published"]
    assert decision.with_publication(once, 2, "gs://models/portraits/2") == once


@pytest.mark.parametrize("name", ["refused", "skipped", "failed"])
def test_what_is_not_to_be_published_is_not_completed(name):
    with pytest.raises(ValueError, match=f"expected a decision to publish, got '{name}'"):
        decision.with_publication(every_record()[name], 2, "gs://models/portraits/2")


def test_failing_twice_for_one_reason_tells_it_once():
    once = decision.with_failure(every_record()["publish"], "push broke off", "run")
    assert decision.with_failure(once, "push broke off", "run") == once


# Plain values


@dataclass(frozen=True)
class Measured:
    values: np.ndarray
    by_name: dict


def test_plain_values_are_json_whatever_they_were():
    value = Measured(
        np.array([1.5, np.nan]), {1: np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "t": (1, None)}
    )
    plain = {"values": [1.5, None], "by_name": {"1": 0.5, "n": 3, "ok": True, "t": [1, None]}}
    assert decision.to_json_value(value) == plain
    assert json.loads(json.dumps(decision.to_json_value(value), allow_nan=False)) == plain


@given(st.recursive(st.floats() | st.integers() | st.text() | st.booleans() | st.none(), st.lists, max_leaves=8))
def test_plain_values_stay_as_they_are(value):
    once = decision.to_json_value(value)
    assert decision.to_json_value(once) == once
    json.dumps(once, allow_nan=False)


def test_every_outcome_and_severity_has_been_tried():
    for outcome, key in product(OUTCOMES, ("srcc", "noise")):
        VALIDATOR.validate(to_record(decide([gate(key, outcome)], policy("noise"))))
