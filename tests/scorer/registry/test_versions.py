"""Published versions in people's hands: listed, promoted, rolled back and removed, with every change in the audit."""

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
    """Versions need only be complete to count as verified, for what does not depend on a network."""
    monkeypatch.setattr(promotion, "verify", complete)


def claimed(models: str, hours: float, *versions: int) -> None:
    """Let versions be claimed so long ago, each by a run of its own."""
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
    """The channels that the audit tells of; a gap or a lost change fails."""
    named: dict = {}
    for entry in channels.audit(models, NAME):
        if "removed" in entry:
            assert not set(entry["removed"]) & {*named.values()}
            continue
        assert entry["from"] == named.get(entry["channel"]), entry
        if entry["channel"] == "champion":
            named["previous"] = entry["from"]
        named[entry["channel"]] = entry["to"]
    return named


# Promoting and rolling back


@pytest.mark.usefixtures("trusting")
def test_promoting_may_go_back_to_any_version_and_says_what_was_before(place: str) -> None:
    for run in "abc":
        push(place, run)
    assert promotion.promote(place, NAME, 1, why="best in May") == {"champion": 1, "previous": 3}
    promotion.promote(place, NAME, 2, channel="challenger", why="to compare")
    assert channels.read(place, NAME) == {"champion": 1, "previous": 3, "challenger": 2}


@pytest.mark.usefixtures("trusting")
def test_rolling_back_swaps_champion_and_previous(place: str) -> None:
    push(place, "a"), push(place, "b")
    assert promotion.rollback(place, NAME, why="worse on children") == {"champion": 1, "previous": 2}
    assert promotion.rollback(place, NAME, why="it was the light") == {"champion": 2, "previous": 1}


@pytest.mark.usefixtures("trusting")
def test_every_change_says_who_when_why_from_and_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = str(tmp_path)
    monkeypatch.setenv("PIPELINE_USER", "ann")
    push(models, "run-a"), push(models, "run-b")
    promotion.rollback(models, NAME, why="worse\non  children")
    promotion.promote(models, NAME, 2, channel="canary", who="ben", why="a look")
    found = channels.audit(models, NAME)
    keys = ("who", "action", "why", "channel", "from", "to")
    assert [tuple(entry[key] for key in keys) for entry in found] == [
        ("run-a", "push", "passed", "champion", None, 1),
        ("run-b", "push", "passed", "champion", 1, 2),
        ("ann", "rollback", "worse on children", "champion", 2, 1),
        ("ben", "promote", "a look", "canary", None, 2),
    ]
    times = [datetime.fromisoformat(entry["when"]) for entry in found]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)


def test_without_a_name_in_the_environment_account_and_machine_act(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_USER", raising=False)
    assert channels.current_user().count("@") == 1
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found: 12345")))
    assert channels.current_user().split("@")[0].isdecimal()


@pytest.mark.usefixtures("trusting")
def test_a_model_without_a_previous_version_cannot_be_rolled_back(tmp_path: Path) -> None:
    push(str(tmp_path), "a")
    with pytest.raises(ValueError, match="no previous version to roll back to"):
        promotion.rollback(str(tmp_path), NAME, why="why not")
    assert len(channels.audit(str(tmp_path), NAME)) == 1


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
def test_what_cannot_be_promoted_leaves_the_channels_alone(tmp_path: Path, options: dict, words: str) -> None:
    models, file = str(tmp_path), tmp_path / NAME / "channels.json"
    storage.write_json(str(file), {"note": "mine"})
    push(models, "a")
    before = file.read_bytes()
    with pytest.raises(ValueError, match=words):
        promotion.promote(models, NAME, **{"version": 1, "why": "because", **options})
    assert file.read_bytes() == before


def test_channels_whose_audit_is_none_are_named_and_left_alone(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / NAME / "channels.json"), {"champion": 1, "audit": ["x"]})
    with pytest.raises(ValueError, match=r"expected a list of objects as audit in .*channels\.json"):
        channels.promote_pushed(str(tmp_path), NAME, 2)


@pytest.mark.usefixtures("trusting")
def test_of_two_people_who_roll_back_at_once_one_is_told_and_the_other_obeyed(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(place, "a"), push(place, "b")
    both_have_looked = threading.Barrier(2)
    monkeypatch.setattr(promotion, "verify", lambda *_: both_have_looked.wait(20))

    def attempt(who: str) -> str:
        try:
            promotion.rollback(place, NAME, who=who, why="worse")
        except ValueError as error:
            return str(error)
        return "done"

    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(attempt, ["ann", "ben"]))
    assert said[0] == "done"
    assert "the champion of portraits has just been moved by someone else: expected version 2, found 1" in said[1]
    assert serving(place) == (1, 2)


@pytest.mark.usefixtures("trusting")
def test_a_rollback_whose_answer_got_lost_is_done_once(google: gcs.Server) -> None:
    place = "gs://bucket/models"
    push(place, "a"), push(place, "b")
    google.fail(lambda request: request.method == "POST", "lost")
    assert promotion.rollback(place, NAME, why="worse") == {"champion": 1, "previous": 2}
    assert [entry["action"] for entry in channels.audit(place, NAME)] == ["push", "push", "rollback"]


@pytest.mark.usefixtures("trusting")
def test_a_change_whose_answer_got_lost_is_not_made_again_over_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(tmp_path)
    for run in "abc":
        push(models, run)
    write_if = storage.write_if

    def losing(uri: str, data: bytes, version: str) -> None:
        write_if(uri, data, version)
        monkeypatch.setattr(storage, "write_if", write_if)
        promotion.promote(models, NAME, 2, who="ben", why="later")
        raise storage.WriteConflict("as the clouds say of a repeated write that has arrived")

    monkeypatch.setattr(storage, "write_if", losing)
    promotion.promote(models, NAME, 1, who="ann", why="sooner")
    assert serving(models) == (2, 1)
    assert [entry["who"] for entry in channels.audit(models, NAME)][3:] == ["ann", "ben"]


# A push beside a person


def test_a_version_that_was_rolled_back_does_not_return_by_its_push_but_a_newer_one_takes_over(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "verify", complete)
    push(place, "a"), push(place, "b")
    promotion.rollback(place, NAME, why="worse")
    assert push(place, "b") == 2
    assert serving(place) == (1, 2)
    assert push(place, "c") == 3
    assert serving(place) == (3, 1)


@pytest.mark.usefixtures("trusting")
def test_an_older_push_that_ends_after_a_rollback_does_not_take_over(tmp_path: Path) -> None:
    models = str(tmp_path)
    push(models, "a")
    assert channels.reserve_version(models, NAME, "slow", "sha") == 2
    push(models, "b")
    promotion.rollback(models, NAME, why="worse")
    push(models, "slow")
    assert serving(models) == (1, 3)


def test_a_rollback_by_hand_from_before_the_audit_counts_too(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / NAME / "channels.json"), {"champion": 2, "previous": 5})
    assert channels.promote_pushed(str(tmp_path), NAME, 5) == {"champion": 2, "previous": 5}
    assert channels.promote_pushed(str(tmp_path), NAME, 6) == {"champion": 6, "previous": 2}


def test_a_push_that_tries_a_removed_version_again_is_refused(tmp_path: Path) -> None:
    models = str(tmp_path)
    for run in "abc":
        push(models, run)
    assert [gone.version for gone in versions.collect_garbage(models, NAME, keep=0)] == [1]
    with pytest.raises(ValueError, match=r"version 1 of portraits was removed by .*: train or publish it again"):
        push(models, "a")
    assert there(models) == ["2", "3"]
    assert serving(models) == (3, 2)


# Verified


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, small_scorer: Path) -> Path:
    """A model with two true versions, the second its champion, and a third that answers nothing but NaN."""
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


def test_a_version_that_answers_is_promoted_and_rolled_back(real: Path) -> None:
    promotion.promote(str(real), NAME, 1, channel="challenger", why="a look")
    assert serving(str(real)) == (2, 1)
    promotion.rollback(str(real), NAME, why="there")
    assert serving(str(real)) == (1, 2)
    promotion.rollback(str(real), NAME, why="and back")
    assert serving(str(real)) == (2, 1)


def test_a_version_that_answers_nan_is_not_promoted(real: Path) -> None:
    before = (real / NAME / "channels.json").read_bytes()
    with pytest.raises(ValueError, match=r"version 3 of portraits cannot serve, no channel was moved: .*nan"):
        promotion.promote(str(real), NAME, 3, why="new")
    assert (real / NAME / "channels.json").read_bytes() == before


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
def test_votes_that_are_none_are_refused(tmp_path: Path, votes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def score(self, photos: list[bytes]) -> np.ndarray:
            return votes

    monkeypatch.setattr(saved_model, "load", lambda uri, verify_all: Wrong())
    with pytest.raises(ValueError, match="expected ten votes of 0 or more, summing to 1"):
        promotion.verify(str(tmp_path), NAME, 1)


# Removing


def collected(models: str, **options: object) -> list[int]:
    return [gone.version for gone in versions.collect_garbage(models, NAME, **{"keep": 0, **options})]


def test_the_newest_and_what_channels_name_stay(place: str) -> None:
    for run in "abcdef":
        push(place, run)
    channels.set_channel(place, NAME, 2, channel="canary", why="a look")
    assert collected(place, keep=3) == [1, 3]
    assert there(place) == ["2", "4", "5", "6"]
    assert collected(place) == [4]
    assert channels.audit(place, NAME)[-1]["removed"] == [4]


def test_a_version_that_a_person_has_written_into_the_file_stays_in_whatever_form(tmp_path: Path) -> None:
    models, file = str(tmp_path), str(tmp_path / NAME / "channels.json")
    for version in range(1, 7):
        write(models, version)
    storage.write_json(file, {"champion": 6, "canary": "1", "split": {"2": 0.9, "x": [3]}, "a": {"version": 4}})
    assert collected(models, dry_run=True) == collected(models) == [5]


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    models = str(tmp_path)
    for run in "abcd":
        push(models, run)
    write(models, 5)
    (tmp_path / NAME / "5" / "saved_model.pb").unlink()
    claimed(models, 25, 5)
    before = {file.name: storage.read_bytes(file.uri) for file in storage.list_files(models)}
    said = list(versions.collect_garbage(models, NAME, keep=1, dry_run=True))
    assert {file.name: storage.read_bytes(file.uri) for file in storage.list_files(models)} == before
    assert said == list(versions.collect_garbage(models, NAME, keep=1))
    assert [(gone.version, gone.state, gone.bytes) for gone in said] == [
        (1, "complete", 15), (2, "complete", 15), (5, "incomplete", 10)
    ]  # fmt: skip


def test_only_what_is_older_goes_where_an_age_is_given(tmp_path: Path) -> None:
    models, today = str(tmp_path), datetime.now(UTC).date()
    for version, age in enumerate([40, 31, 30, 0], 1):
        write(models, version, date=(today - timedelta(days=age)).isoformat())
    write(models, 5)  # nobody knows since when
    storage.write_json(f"{models}/{NAME}/channels.json", {"champion": 1})
    assert collected(models, older_than=30) == [2]


def test_the_version_of_a_push_under_way_stays_for_a_day(tmp_path: Path) -> None:
    models = str(tmp_path)
    push(models, "a"), push(models, "b")
    for version in (3, 4):
        write(models, version)
    push(models, "e")
    claimed(models, 25, 3)
    claimed(models, 23, 4)
    assert collected(models) == [1, 3]
    assert there(models) == ["2", "4", "5"]


def test_a_half_written_version_goes_a_day_after_its_claim_and_its_push_takes_a_new_number(place: str) -> None:
    push(place, "a")
    for version in (2, 3):
        storage.write_bytes(f"{place}/{NAME}/{version}/variables/x", b"half")
    claimed(place, 25, 2)
    claimed(place, 23, 3)
    assert collected(place) == [2]
    assert there(place) == ["1", "3"]
    assert push(place, "run-3") == 3
    assert push(place, "run-2") == 4


def test_a_push_that_is_tried_again_after_a_day_is_under_way_again(tmp_path: Path) -> None:
    models = str(tmp_path)
    storage.write_bytes(f"{models}/{NAME}/1/variables/x", b"half")
    claimed(models, 25, 1)
    assert channels.reserve_version(models, NAME, "run-1", "sha") == 1
    assert collected(models) == []


def test_a_half_written_version_of_unknown_age_gets_a_day(tmp_path: Path) -> None:
    models = str(tmp_path)
    storage.write_bytes(f"{models}/{NAME}/4/variables/x", b"half")
    storage.write_json(f"{models}/{NAME}/versions.json", {"4": {"run": "old", "scorer": "sha"}})
    assert collected(models, dry_run=True) == collected(models) == []
    assert set(channels.reservation_times(models, NAME)) == {4}
    claimed(models, 25, 4)
    assert collected(models) == [4]


def test_an_incomplete_version_that_a_channel_names_stays(tmp_path: Path) -> None:
    models = str(tmp_path)
    storage.write_bytes(f"{models}/{NAME}/1/variables/x", b"half")
    claimed(models, 25, 1)
    storage.write_json(f"{models}/{NAME}/channels.json", {"champion": 1})
    assert collected(models, dry_run=True) == collected(models) == []
    assert there(models) == ["1"]


def test_the_number_of_a_removed_version_is_never_given_again(tmp_path: Path) -> None:
    models = str(tmp_path)
    push(models, "a"), push(models, "b")
    write(models, 9)  # copied there, by no push
    assert collected(models) == [9]
    assert channels.reserve_version(models, NAME, "c", "sha") == 10


def test_a_removal_that_breaks_off_is_taken_up_and_nothing_is_promoted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = str(tmp_path)
    for run in "abcd":
        push(models, run)
    monkeypatch.setattr(storage, "delete_tree", lambda uri: (_ for _ in ()).throw(storage.StorageError("no network")))
    with pytest.raises(storage.StorageError):
        collected(models)
    monkeypatch.undo()
    assert [each.state for each in versions.list_versions(models, NAME)] == [
        "complete",
        "complete",
        "removed",
        "removed",
    ]
    with pytest.raises(ValueError, match="version 2 of portraits was removed by"):
        promotion.promote(models, NAME, 2, why="still there")
    assert collected(models, keep=4, dry_run=True) == collected(models, keep=4) == [1, 2]
    assert len([entry for entry in channels.audit(models, NAME) if "removed" in entry]) == 1


def test_a_version_promoted_while_it_was_about_to_go_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, remove = str(tmp_path), channels.mark_removed
    for run in "abcd":
        push(models, run)

    def late(*arguments: object, **options: object) -> list[int]:
        channels.set_channel(models, NAME, 1, why="just now")
        return remove(*arguments, **options)

    monkeypatch.setattr(channels, "mark_removed", late)
    assert collected(models) == [2]
    assert there(models) == ["1", "3", "4"]
    assert channels.audit(models, NAME)[-1]["removed"] == [2]


def test_a_version_removed_while_it_was_verified_is_not_promoted(
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


# Whatever happens, in any order and at once


ACTIONS = st.tuples(st.sampled_from(["push", "retry", "promote", "canary", "rollback", "gc"]), st.integers(0, 5))


def act(models: str, action: str, number: int, runs: list[str]) -> None:
    """One action; what the place refuses is no failure."""
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
    """What holds after anything."""
    named = {channel: version for channel, version in channels.read(models, NAME).items() if version is not None}
    assert named == {channel: version for channel, version in replayed(models).items() if version is not None}
    for version in named.values():
        assert storage.exists(f"{models}/{NAME}/{version}/saved_model.pb"), f"version {version} serves and is not there"
    assert named.get("champion", 0) != named.get("previous", -1)
    highest = 0
    for entry in channels.audit(models, NAME):
        if entry["action"] == "push":
            assert entry["to"] > highest
        highest = max(highest, entry["to"] or 0 if entry.get("channel") == "champion" else 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=25))
def test_in_any_order_channels_name_what_is_there_and_the_audit_tells_how_it_came(
    actions: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory, trusting: None
) -> None:
    models, runs = str(tmp_path_factory.mktemp("any")), []
    for action, number in actions:
        act(models, action, number, runs)
        check(models)


@pytest.mark.usefixtures("trusting")
def test_at_once_channels_name_what_is_there_and_the_audit_tells_how_it_came(place: str) -> None:
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
    """A model with a version of each kind."""
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


def test_the_list_tells_of_every_version_newest_first(told: Path) -> None:
    found = versions.list_versions(str(told), NAME)
    assert [(each.version, each.state, each.channels) for each in found] == [
        (12, "missing", ("canary",)),
        (10, "incomplete", ()),
        (3, "complete", ()),
        (2, "complete", ("champion",)),
        (1, "complete", ("previous",)),
    ]
    second = found[3]
    assert (second.date, second.run, second.revision, second.srcc) == ("2026-05-01", "june", "abc", 0.6712)
    assert (second.verdict, second.override) == ("forced", "the champion is broken")


@pytest.mark.parametrize("base", ["", NAME])
def test_the_table_marks_what_was_forced_and_what_is_not_whole(told: Path, base: str, capsys) -> None:
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


def test_the_list_is_json_where_a_program_reads_it(told: Path, capsys) -> None:
    assert main(["models", "list", str(told), "--json", "--audit"]) == 0
    found = json.loads(capsys.readouterr().out)[NAME]
    assert found["channels"] == {"champion": 2, "previous": 1, "canary": 12}
    assert [each["version"] for each in found["versions"]] == [12, 10, 3, 2, 1]
    assert found["audit"] == channels.audit(str(told), NAME)


@pytest.mark.parametrize(("uri", "server"), [("gs://bucket", "google"), ("s3://bucket", "amazon")])
def test_models_in_a_bucket_are_found(uri: str, server: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(server)
    write(uri, 1)
    write(f"{uri}/deep", 1)
    assert versions.list_models(f"{uri}/") == versions.list_models(f"{uri}/{NAME}/") == [(uri, NAME)]
    assert versions.resolve_model(f"{uri}/deep/{NAME}") == (f"{uri}/deep", NAME)


def test_listing_loads_no_tensorflow(told: Path) -> None:
    code = "import sys; from pipeline.cli.main import main; main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "models", "list", str(told)]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


# The command line


@pytest.mark.parametrize("command", ["", "list", "promote", "rollback", "gc"])
def test_each_verb_explains_itself(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["models", *command.split(), "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m pipeline models")


@pytest.mark.usefixtures("trusting")
def test_versions_are_promoted_rolled_back_and_removed_from_the_command_line(
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
def test_what_cannot_be_done_is_one_clear_error(
    tmp_path: Path, command: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    push("models", "a")
    before = Path("models/portraits/channels.json").read_bytes()
    assert main(["models", *command]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert Path("models/portraits/channels.json").read_bytes() == before
