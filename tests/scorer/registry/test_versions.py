"""Published versions are listed, promoted, rolled back and removed; the audit records every change."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.scorer import storage
from components.scorer.artifacts import promotion, saved_model
from components.scorer.registry import channels, versions
from pipeline.cli.main import main
from tests.builders.versions import NAME, complete, push, serving, write
from tests.fakes import gcs


@pytest.fixture(params=["folder", "google", "amazon"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    request.getfixturevalue(request.param)
    return {"google": "gs://bucket/models", "amazon": "s3://bucket/models"}[request.param]


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count each complete version as verified, for tests that need no network."""
    monkeypatch.setattr(promotion, "verify", complete)


def claimed(models: str, hours: float, *versions: int) -> None:
    """Set the versions' reservation times to so many hours ago, each by an own run."""
    uri = f"{models}/{NAME}/versions.json"
    owners = storage.read_json(uri) if storage.exists(uri) else {}
    when = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    for version in versions:
        owners[str(version)] = {"run": f"run-{version}", "scorer": "sha", **owners.get(str(version), {})}
        owners[str(version)]["claimed"] = when
    storage.write_json(uri, owners)


def there(models: str) -> list[str]:
    return storage.list_folders(f"{models}/{NAME}")


def replayed(models: str) -> dict:
    """Return the channels that follow from the audit; fail on a gap or a lost change."""
    current_channels: dict = {}
    for entry in channels.audit(models, NAME):
        if "removed" in entry:
            assert not set(entry["removed"]) & {*current_channels.values()}
            continue
        assert entry["from"] == current_channels.get(entry["channel"]), entry
        if entry["channel"] == "champion":
            current_channels["previous"] = entry["from"]
        current_channels[entry["channel"]] = entry["to"]
    return current_channels


# Promotion and rollback


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_any_earlier_version_can_be_promoted_to_any_channel(place: str) -> None:
    for run in "abc":
        push(place, run)
    assert promotion.promote(place, NAME, 1, why="best in May") == {"champion": 1, "previous": 3}
    promotion.promote(place, NAME, 2, channel="challenger", why="to compare")
    assert channels.read(place, NAME) == {"champion": 1, "previous": 3, "challenger": 2}


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_rolling_back_swaps_champion_and_previous(place: str) -> None:
    push(place, "a"), push(place, "b")
    assert promotion.rollback(place, NAME, why="worse on children") == {"champion": 1, "previous": 2}
    assert promotion.rollback(place, NAME, why="it was the light") == {"champion": 2, "previous": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_the_audit_names_who_when_why_from_and_to_of_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(tmp_path)
    monkeypatch.setenv("PIPELINE_USER", "ann")
    push(models, "run-a"), push(models, "run-b")
    promotion.rollback(models, NAME, why="worse\non  children")
    promotion.promote(models, NAME, 2, channel="canary", who="ben", why="a look")
    entries = channels.audit(models, NAME)
    keys = ("who", "action", "why", "channel", "from", "to")
    assert [tuple(entry[key] for key in keys) for entry in entries] == [
        ("run-a", "push", "passed", "champion", None, 1),
        ("run-b", "push", "passed", "champion", 1, 2),
        ("ann", "rollback", "worse on children", "champion", 2, 1),
        ("ben", "promote", "a look", "canary", None, 2),
    ]
    times = [datetime.fromisoformat(entry["when"]) for entry in entries]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)


def test_without_pipeline_user_the_audit_names_account_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_USER", raising=False)
    assert channels.current_user().count("@") == 1
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found: 12345")))
    assert channels.current_user().split("@")[0].isdecimal()


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_a_model_without_a_previous_version_cannot_be_rolled_back(tmp_path: Path) -> None:
    push(str(tmp_path), "a")
    with pytest.raises(ValueError, match="no previous version to roll back to"):
        promotion.rollback(str(tmp_path), NAME, why="why not")
    assert len(channels.audit(str(tmp_path), NAME)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"why": " "}, "expected a reason"),
        ({"channel": "previous"}, "'previous' follows the champion"),
        ({"channel": "audit"}, "expected a channel name"),
        ({"channel": "../x"}, "expected a channel name"),
        ({"channel": "note"}, "expected a version number as note"),
        ({"version": 7}, "version 7 cannot serve"),
    ],
)
def test_a_refused_promotion_leaves_the_channels_unchanged(tmp_path: Path, options: dict, words: str) -> None:
    models, file = str(tmp_path), tmp_path / NAME / "channels.json"
    storage.write_json(str(file), {"note": "mine"})
    push(models, "a")
    channels_before = file.read_bytes()
    with pytest.raises(ValueError, match=words):
        promotion.promote(models, NAME, **{"version": 1, "why": "because", **options})
    assert file.read_bytes() == channels_before


def test_channels_with_a_malformed_audit_are_refused(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / NAME / "channels.json"), {"champion": 1, "audit": ["x"]})
    with pytest.raises(ValueError, match=r"expected a list of objects as audit in .*channels\.json"):
        channels.promote_pushed(str(tmp_path), NAME, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_of_two_concurrent_rollbacks_one_succeeds_and_the_other_is_refused(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(place, "a"), push(place, "b")
    both_verified = threading.Barrier(2)
    monkeypatch.setattr(promotion, "verify", lambda *_: both_verified.wait(20))

    def attempt(who: str) -> str:
        try:
            promotion.rollback(place, NAME, who=who, why="worse")
        except ValueError as error:
            return str(error)
        return "done"

    with ThreadPoolExecutor(2) as pool:
        messages = sorted(pool.map(attempt, ["ann", "ben"]))
    assert messages[0] == "done"
    assert "the champion of portraits has just been moved by someone else: expected version 2, found 1" in messages[1]
    assert serving(place) == (1, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_a_rollback_whose_response_got_lost_is_done_once(google: gcs.Server) -> None:
    models = "gs://bucket/models"
    push(models, "a"), push(models, "b")
    google.fail(lambda request: request.method == "POST", "lost")
    assert promotion.rollback(models, NAME, why="worse") == {"champion": 1, "previous": 2}
    assert [entry["action"] for entry in channels.audit(models, NAME)] == ["push", "push", "rollback"]


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_a_change_whose_response_got_lost_does_not_overwrite_a_later_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(tmp_path)
    for run in "abc":
        push(models, run)
    write_if = storage.write_if

    def write_then_conflict(uri: str, data: bytes, version: str) -> None:
        write_if(uri, data, version)
        monkeypatch.setattr(storage, "write_if", write_if)
        promotion.promote(models, NAME, 2, who="ben", why="later")
        raise storage.WriteConflict("as the clouds say of a repeated write that has arrived")

    monkeypatch.setattr(storage, "write_if", write_then_conflict)
    promotion.promote(models, NAME, 1, who="ann", why="sooner")
    assert serving(models) == (2, 1)
    assert [entry["who"] for entry in channels.audit(models, NAME)][3:] == ["ann", "ben"]


# Pushes and manual changes


@pytest.mark.slow
def test_a_repeated_push_does_not_restore_a_rolled_back_version_and_a_newer_push_takes_over(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "verify", complete)
    push(place, "a"), push(place, "b")
    promotion.rollback(place, NAME, why="worse")
    assert push(place, "b") == 2
    assert serving(place) == (1, 2)
    assert push(place, "c") == 3
    assert serving(place) == (3, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_an_older_push_that_ends_after_a_rollback_does_not_become_champion(tmp_path: Path) -> None:
    models = str(tmp_path)
    push(models, "a")
    assert channels.reserve_version(models, NAME, "slow", "sha") == 2
    push(models, "b")
    promotion.rollback(models, NAME, why="worse")
    push(models, "slow")
    assert serving(models) == (1, 3)


def test_a_rollback_recorded_before_the_audit_existed_counts_too(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / NAME / "channels.json"), {"champion": 2, "previous": 5})
    assert channels.promote_pushed(str(tmp_path), NAME, 5) == {"champion": 2, "previous": 5}
    assert channels.promote_pushed(str(tmp_path), NAME, 6) == {"champion": 6, "previous": 2}


def test_a_push_of_a_removed_version_is_refused(tmp_path: Path) -> None:
    models = str(tmp_path)
    for run in "abc":
        push(models, run)
    assert [removed.version for removed in versions.collect_garbage(models, NAME, keep=0)] == [1]
    with pytest.raises(ValueError, match=r"version 1 of portraits was removed by .*: train or publish it again"):
        push(models, "a")
    assert there(models) == ["2", "3"]
    assert serving(models) == (3, 2)


# Verification


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, small_scorer: Path) -> Path:
    """Model with two sound versions, the second of them the champion, and a third version that returns NaN only."""
    from components.scorer.artifacts import bundle
    from components.scorer.registry import integrity

    models = tmp_path_factory.mktemp("models")
    scorer = bundle.load(small_scorer)
    for version in (1, 2):
        saved_model.export(scorer, models / NAME / str(version))
        integrity.write_record(models / NAME / str(version), {})
        channels.promote_pushed(str(models), NAME, version)
    scorer.model.get_layer("votes").bias.assign([np.nan] * 10)
    saved_model.export(scorer, models / NAME / "3")
    integrity.write_record(models / NAME / "3", {})
    return models


@pytest.mark.slow
def test_a_version_with_valid_votes_is_promoted_and_rolled_back(real: Path) -> None:
    promotion.promote(str(real), NAME, 1, channel="challenger", why="a look")
    assert serving(str(real)) == (2, 1)
    promotion.rollback(str(real), NAME, why="there")
    assert serving(str(real)) == (1, 2)
    promotion.rollback(str(real), NAME, why="and back")
    assert serving(str(real)) == (2, 1)


@pytest.mark.slow
def test_a_version_that_returns_nan_is_not_promoted(real: Path) -> None:
    channels_before = (real / NAME / "channels.json").read_bytes()
    with pytest.raises(ValueError, match=r"version 3 of portraits cannot serve, no channel was moved: .*nan"):
        promotion.promote(str(real), NAME, 3, why="new")
    assert (real / NAME / "channels.json").read_bytes() == channels_before


@pytest.mark.slow
@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_a_damaged_version_is_not_rolled_back_to(real: Path, tmp_path: Path, file: str, damage: str) -> None:
    storage.download_tree(str(real / NAME / "1"), tmp_path / NAME / "1")
    path = tmp_path / NAME / "1" / file
    data = path.read_bytes()
    path.unlink()
    if damage == "half":
        path.write_bytes(data[: len(data) // 2])
    storage.write_json(str(tmp_path / NAME / "channels.json"), {"champion": 2, "previous": 1})
    with pytest.raises(ValueError, match="version 1 of portraits cannot serve, no channel was moved"):
        promotion.rollback(str(tmp_path), NAME, why="worse")
    assert serving(str(tmp_path)) == (2, 1)


@pytest.mark.parametrize(
    "votes", [np.full((3, 10), 0.2), np.full((2, 10), 0.1), np.tile([1.5, -0.5, *[0] * 8], (3, 1))]
)
def test_invalid_votes_are_refused(tmp_path: Path, votes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class WrongScorer:
        def score(self, photos: list[bytes]) -> np.ndarray:
            return votes

    monkeypatch.setattr(saved_model, "load", lambda uri, verify_all: WrongScorer())
    with pytest.raises(ValueError, match="expected ten votes of 0 or more, summing to 1"):
        promotion.verify(str(tmp_path), NAME, 1)


# Removal


def collected(models: str, **options: object) -> list[int]:
    return [removed.version for removed in versions.collect_garbage(models, NAME, **{"keep": 0, **options})]


@pytest.mark.slow
def test_the_newest_versions_and_those_in_channels_stay(place: str) -> None:
    for run in "abcdef":
        push(place, run)
    channels.set_channel(place, NAME, 2, channel="canary", why="a look")
    assert collected(place, keep=3) == [1, 3]
    assert there(place) == ["2", "4", "5", "6"]
    assert collected(place) == [4]
    assert channels.audit(place, NAME)[-1]["removed"] == [4]


def test_a_version_named_anywhere_in_the_channels_file_stays(tmp_path: Path) -> None:
    models, file = str(tmp_path), str(tmp_path / NAME / "channels.json")
    for version in range(1, 7):
        write(models, version)
    storage.write_json(file, {"champion": 6, "canary": "1", "split": {"2": 0.9, "x": [3]}, "a": {"version": 4}})
    assert collected(models, dry_run=True) == collected(models) == [5]


def test_a_dry_run_lists_the_same_versions_and_removes_nothing(tmp_path: Path) -> None:
    models = str(tmp_path)
    for run in "abcd":
        push(models, run)
    write(models, 5)
    (tmp_path / NAME / "5" / "saved_model.pb").unlink()
    claimed(models, 25, 5)
    files_before = {file.name: storage.read_bytes(file.uri) for file in storage.list_files(models)}
    planned = list(versions.collect_garbage(models, NAME, keep=1, dry_run=True))
    assert {file.name: storage.read_bytes(file.uri) for file in storage.list_files(models)} == files_before
    assert planned == list(versions.collect_garbage(models, NAME, keep=1))
    assert [(version_info.version, version_info.state, version_info.bytes) for version_info in planned] == [
        (1, "complete", 15), (2, "complete", 15), (5, "incomplete", 10)
    ]  # fmt: skip


def test_with_an_age_limit_only_older_versions_are_removed(tmp_path: Path) -> None:
    models, today = str(tmp_path), datetime.now(UTC).date()
    for version, age in enumerate([40, 31, 30, 0], 1):
        write(models, version, date=(today - timedelta(days=age)).isoformat())
    write(models, 5)  # without a date
    storage.write_json(f"{models}/{NAME}/channels.json", {"champion": 1})
    assert collected(models, older_than=30) == [2]


def test_the_version_of_a_running_push_stays_for_a_day(tmp_path: Path) -> None:
    models = str(tmp_path)
    push(models, "a"), push(models, "b")
    for version in (3, 4):
        write(models, version)
    push(models, "e")
    claimed(models, 25, 3)
    claimed(models, 23, 4)
    assert collected(models) == [1, 3]
    assert there(models) == ["2", "4", "5"]


@pytest.mark.slow
def test_an_incomplete_version_is_removed_after_a_day_and_its_push_gets_a_new_number(place: str) -> None:
    push(place, "a")
    for version in (2, 3):
        storage.write_bytes(f"{place}/{NAME}/{version}/variables/x", b"half")
    claimed(place, 25, 2)
    claimed(place, 23, 3)
    assert collected(place) == [2]
    assert there(place) == ["1", "3"]
    assert push(place, "run-3") == 3
    assert push(place, "run-2") == 4


def test_a_push_repeated_after_a_day_keeps_its_version(tmp_path: Path) -> None:
    models = str(tmp_path)
    storage.write_bytes(f"{models}/{NAME}/1/variables/x", b"half")
    claimed(models, 25, 1)
    assert channels.reserve_version(models, NAME, "run-1", "sha") == 1
    assert collected(models) == []


def test_an_incomplete_version_of_unknown_age_stays_for_a_day(tmp_path: Path) -> None:
    models = str(tmp_path)
    storage.write_bytes(f"{models}/{NAME}/4/variables/x", b"half")
    storage.write_json(f"{models}/{NAME}/versions.json", {"4": {"run": "old", "scorer": "sha"}})
    assert collected(models, dry_run=True) == collected(models) == []
    assert set(channels.reservation_times(models, NAME)) == {4}
    claimed(models, 25, 4)
    assert collected(models) == [4]


def test_an_incomplete_version_in_a_channel_stays(tmp_path: Path) -> None:
    models = str(tmp_path)
    storage.write_bytes(f"{models}/{NAME}/1/variables/x", b"half")
    claimed(models, 25, 1)
    storage.write_json(f"{models}/{NAME}/channels.json", {"champion": 1})
    assert collected(models, dry_run=True) == collected(models) == []
    assert there(models) == ["1"]


def test_the_number_of_a_removed_version_is_never_reused(tmp_path: Path) -> None:
    models = str(tmp_path)
    push(models, "a"), push(models, "b")
    write(models, 9)  # copied there without a push
    assert collected(models) == [9]
    assert channels.reserve_version(models, NAME, "c", "sha") == 10


def test_an_interrupted_removal_is_completed_and_its_versions_cannot_be_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(tmp_path)
    for run in "abcd":
        push(models, run)
    monkeypatch.setattr(storage, "delete_tree", lambda uri: (_ for _ in ()).throw(storage.StorageError("no network")))
    with pytest.raises(storage.StorageError):
        collected(models)
    monkeypatch.undo()
    assert [version.state for version in versions.list_versions(models, NAME)] == [
        "complete",
        "complete",
        "removed",
        "removed",
    ]
    with pytest.raises(ValueError, match="version 2 of portraits was removed by"):
        promotion.promote(models, NAME, 2, why="still there")
    assert collected(models, keep=4, dry_run=True) == collected(models, keep=4) == [1, 2]
    assert len([entry for entry in channels.audit(models, NAME) if "removed" in entry]) == 1


def test_a_version_promoted_just_before_its_removal_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, mark_removed = str(tmp_path), channels.mark_removed
    for run in "abcd":
        push(models, run)

    def promote_then_remove(*arguments: object, **options: object) -> list[int]:
        channels.set_channel(models, NAME, 1, why="just now")
        return mark_removed(*arguments, **options)

    monkeypatch.setattr(channels, "mark_removed", promote_then_remove)
    assert collected(models) == [2]
    assert there(models) == ["1", "3", "4"]
    assert channels.audit(models, NAME)[-1]["removed"] == [2]


def test_a_version_removed_during_its_verification_is_not_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(tmp_path)
    for run in "abc":
        push(models, run)
    monkeypatch.setattr(promotion, "verify", lambda *_: collected(models))
    with pytest.raises(ValueError, match="version 1 of portraits was removed by"):
        promotion.promote(models, NAME, 1, why="just too late")
    assert serving(models) == (3, 2)


@pytest.mark.parametrize("wrong", [{"keep": -1}, {"older_than": -1}])
def test_negative_limits_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected numbers of 0 or more"):
        collected(str(tmp_path), **wrong)


# Random actions, in any order and concurrently


ACTIONS = st.tuples(st.sampled_from(["push", "retry", "promote", "canary", "rollback", "gc"]), st.integers(0, 5))


def act(models: str, action: str, number: int, runs: list[str]) -> None:
    """Run one action; ignore refusals."""
    try:
        if action == "push":
            runs.append(f"run-{len(runs)}-{threading.get_ident()}")
            push(models, runs[-1])
        elif action == "retry" and runs:
            push(models, runs[number % len(runs)])
        elif action in ("promote", "canary"):
            channel = "champion" if action == "promote" else action
            complete(models, NAME, 1 + number)
            channels.set_channel(models, NAME, 1 + number, channel=channel, why="a person's reason")
        elif action == "rollback":
            promotion.rollback(models, NAME, why="a person's reason")
        elif action == "gc":
            collected(models, keep=number)
    except (ValueError, FileNotFoundError):
        pass


def check(models: str) -> None:
    """Check the invariants of channels, audit and versions."""
    current_channels = {
        channel: version for channel, version in channels.read(models, NAME).items() if version is not None
    }
    assert current_channels == {
        channel: version for channel, version in replayed(models).items() if version is not None
    }
    for version in current_channels.values():
        assert storage.exists(f"{models}/{NAME}/{version}/saved_model.pb"), f"version {version} serves and is not there"
    assert current_channels.get("champion", 0) != current_channels.get("previous", -1)
    highest = 0
    for entry in channels.audit(models, NAME):
        if entry["action"] == "push":
            assert entry["to"] > highest
        highest = max(highest, entry["to"] or 0 if entry.get("channel") == "champion" else 0)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=25))
def test_actions_in_any_order_keep_channels_versions_and_audit_consistent(
    actions: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory, trusting: None
) -> None:
    models, runs = str(tmp_path_factory.mktemp("any")), []
    for action, number in actions:
        act(models, action, number, runs)
        check(models)


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_concurrent_actions_keep_channels_versions_and_audit_consistent(place: str) -> None:
    def person(seed: int) -> None:
        rng, runs = np.random.default_rng(seed), []
        for action in rng.permutation(["push", "push", "retry", "promote", "canary", "rollback", "gc", "retry"]):
            act(place, str(action), int(rng.integers(0, 5)), runs)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(person, range(4)))
    check(place)


# The list


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Models folder with a version of each state."""
    models = str(tmp_path / "models")
    gates = [{"key": "emd", "value": 0.8}, {"key": "srcc", "value": 0.6712}]
    record = {"date": "2026-05-01", "run": "may", "revision": "abc", "decision": {"verdict": "published"}}
    write(models, 1, **record, size=2_000_000)
    forced = {"verdict": "forced", "override": "the champion is broken", "gates": gates}
    write(models, 2, **record | {"run": "june", "decision": forced})
    write(models, 3)
    storage.write_bytes(f"{models}/{NAME}/3/version.json", b"{half")
    storage.write_bytes(f"{models}/{NAME}/10/variables/x", b"half")
    channels.promote_pushed(models, NAME, 1, who="may", why="passed")
    channels.promote_pushed(models, NAME, 2, who="june", why="forced")
    channels.set_channel(models, NAME, 12, channel="canary", who="ann", why="a look")
    return tmp_path / "models"


def test_the_list_holds_every_version_newest_first(told: Path) -> None:
    listed = versions.list_versions(str(told), NAME)
    assert [(version.version, version.state, version.channels) for version in listed] == [
        (12, "missing", ("canary",)),
        (10, "incomplete", ()),
        (3, "complete", ()),
        (2, "complete", ("champion",)),
        (1, "complete", ("previous",)),
    ]
    second = listed[3]
    assert (second.date, second.run, second.revision, second.srcc) == ("2026-05-01", "june", "abc", 0.6712)
    assert (second.verdict, second.override) == ("forced", "the champion is broken")


@pytest.mark.parametrize("base", ["", NAME])
def test_the_table_marks_forced_incomplete_and_missing_versions(told: Path, base: str, capsys) -> None:
    assert main(["models", "list", str(told / base), "--audit"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == NAME
    assert lines[1].split() == ["version", "channels", "date", "run", "revision", "verdict", "SRCC", "MB"]
    rows = {line.split()[0]: line for line in lines[2:7]}
    assert "MISSING" in rows["12"]
    assert "INCOMPLETE" in rows["10"]
    assert "FORCED: the champion is broken" in rows["2"]
    assert "0.671" in rows["2"]
    assert rows["1"].endswith("2.0")
    assert lines[-1].endswith("promote: canary none -> 12, by ann: a look")


def test_the_list_is_printed_as_json_on_request(told: Path, capsys) -> None:
    assert main(["models", "list", str(told), "--json", "--audit"]) == 0
    listing = json.loads(capsys.readouterr().out)[NAME]
    assert listing["channels"] == {"champion": 2, "previous": 1, "canary": 12}
    assert [version["version"] for version in listing["versions"]] == [12, 10, 3, 2, 1]
    assert listing["audit"] == channels.audit(str(told), NAME)


@pytest.mark.slow
@pytest.mark.parametrize(("uri", "server"), [("gs://bucket", "google"), ("s3://bucket", "amazon")])
def test_models_in_a_bucket_are_found(uri: str, server: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(server)
    write(uri, 1)
    write(f"{uri}/deep", 1)
    assert versions.list_models(f"{uri}/") == versions.list_models(f"{uri}/{NAME}/") == [(uri, NAME)]
    assert versions.resolve_model(f"{uri}/deep/{NAME}") == (f"{uri}/deep", NAME)


@pytest.mark.slow
def test_listing_loads_no_tensorflow(told: Path) -> None:
    code = "import sys; from pipeline.cli.main import main; main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "models", "list", str(told)]
    process = subprocess.run(
        command, cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, check=True
    )
    assert process.stdout.endswith("False\n")


# The command line


@pytest.mark.parametrize("command", ["", "list", "promote", "rollback", "gc"])
def test_each_subcommand_has_a_help_text(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["models", *command.split(), "--help"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m pipeline models")


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_the_command_line_promotes_rolls_back_and_removes_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_USER", "ann")
    for run in "abcd":
        push("models", run)
    commands = [
        ["promote", "models/portraits", "3", "--why", "better"],
        ["promote", "models/portraits/", "1", "--channel", "challenger", "--why", "a look"],
        ["rollback", "models/portraits", "--why", "worse"],
        ["gc", "models/portraits", "--keep", "0", "--dry-run"],
        ["gc", "models/portraits", "--keep", "0"],
    ]
    assert [main(["models", *command]) for command in commands] == [0] * len(commands)
    lines = capsys.readouterr().out.splitlines()
    today = datetime.now(UTC).date().isoformat()
    assert lines == [
        "portraits: champion is version 3, previous is version 4",
        "portraits: champion is version 3, previous is version 4, challenger is version 1",
        "portraits: champion is version 4, previous is version 3, challenger is version 1",
        f"version 2, complete, {today}: 15 bytes",
        "1 version, 15 bytes would go: nothing was removed",
        f"version 2, complete, {today}: 15 bytes",
        "1 version, 15 bytes removed",
    ]
    assert there("models") == ["1", "3", "4"]
    assert [entry["who"] for entry in channels.audit("models", NAME)] == [*"abcd", *["ann"] * 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["list", "nowhere"], "expected a model's folder"),
        (["list", ""], "got an empty one"),
        (["promote", "models", "1", "--why", "x"], "expected a model's folder, got that of the models ['portraits']"),
        (["promote", "models/portraits", "9", "--why", "x"], "version 9 of portraits cannot serve, no channel was"),
        (["promote", "models/portraits", "1", "--why", " "], "expected a reason"),
        (["rollback", "models/portraits", "--why", "x"], "no previous version to roll back to"),
        (["gc", "models/portraits", "--keep", "-1"], "expected numbers of 0 or more"),
    ],
)
def test_a_wrong_command_gives_one_clear_error(
    tmp_path: Path, command: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    push("models", "a")
    channels_before = Path("models/portraits/channels.json").read_bytes()
    assert main(["models", *command]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert Path("models/portraits/channels.json").read_bytes() == channels_before
