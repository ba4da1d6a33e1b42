"""Groups of linked photos, their splits, and the register that remembers them."""

import hashlib
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingestion import split_assignment
from components.scorer import storage
from components.scorer.settings import Ingestion

SETTINGS = Ingestion(duplicate_distance=16, validation_share=0.3, test_share=0.3)
HELD_OUT = ("validation", "test")


def photo(name, content, *, labelled=True, split="", group=""):
    """A row for ``assign`` whose photo is near that of another content if at most two bits of the two differ."""
    bits = [(content >> bit) & 1 for bit in range(32)]
    sha256 = hashlib.sha256(str(content).encode()).hexdigest()
    phash = np.packbits(np.repeat(bits, 8)).tobytes()
    return {"photo": name, "sha256": sha256, "phash": phash, "labelled": labelled, "split": split, "group": group}


def near(one, other):
    return sum((a ^ b).bit_count() for a, b in zip(one["phash"], other["phash"], strict=True)) <= 16


def assign(rows, register=None, options=SETTINGS):
    return split_assignment.assign(
        pd.DataFrame(rows), split_assignment.empty_register() if register is None else register, options
    )


def splits(assigned):
    return dict(zip(assigned.table["photo"], assigned.table["split"], strict=True))


@st.composite
def batches(draw, given_columns=True):
    """Photos in the batches in which they come; few contents, so that many are near or the same."""
    one_of = st.sampled_from
    contents = draw(st.lists(st.integers(0, 63), min_size=1, max_size=14))
    rows = [
        photo(
            f"{place}.jpg",
            content,
            labelled=draw(st.booleans()) or draw(st.booleans()),
            split=draw(one_of(["", "", "", *split_assignment.RATED_SPLITS])) if given_columns else "",
            group=draw(one_of(["", "", "", "anna", "bert"])) if given_columns else "",
        )
        for place, content in enumerate(contents)
    ]
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=2)))
    return [rows[:cut] for cut in [*cuts, len(rows)] if cut]


def runs(grown):
    """Each growing batch assigned with the register of the runs before."""
    register = split_assignment.empty_register()
    for rows in grown:
        assigned = assign(rows, register)
        register = assigned.register
        yield rows, assigned


@given(batches())
@settings(max_examples=60, deadline=None)
def test_near_duplicates_never_lie_in_different_splits(grown):
    for _, assigned in runs(grown):
        rows = assigned.table.to_dict("records")
        for place, one in enumerate(rows):
            for other in rows[:place]:
                assert not near(one, other) or one["split"] == other["split"]


@given(batches())
@settings(max_examples=60, deadline=None)
def test_old_photos_keep_their_split_as_photos_are_added(grown):
    before = {}
    for rows, assigned in runs(grown):
        now, rated = splits(assigned), {row["photo"] for row in rows if row["labelled"]}
        assert {name: now.get(name) for name in before} == before
        before = {name: split for name, split in now.items() if name in rated}


@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_given_split_is_honoured_or_the_photo_is_left_out(grown):
    for rows, assigned in runs(grown):
        now, left_out = splits(assigned), {entry.photo for entry in assigned.left_out}
        assert set(now) | left_out == {row["photo"] for row in rows}
        assert not set(now) & left_out
        for row in rows:
            if row["labelled"] and row["split"] and row["photo"] in now:
                assert now[row["photo"]] == row["split"]


@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_group_never_spans_two_splits(grown):
    for rows, assigned in runs(grown):
        # Pretraining reads unlabelled and training photos alike, so these two may share an uploader.
        sides = assigned.table["split"].replace("unlabelled", "train")
        assert (sides.groupby(assigned.table["group"]).nunique() == 1).all()
        given_group = assigned.table["photo"].map({row["photo"]: row["group"] for row in rows})
        assert (sides[given_group != ""].groupby(given_group).nunique() == 1).all()


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_photos_changes_nothing(grown, random):
    shuffled = [random.sample(rows, len(rows)) for rows in grown]
    for (_, one), (_, other) in zip(runs(grown), runs(shuffled), strict=True):
        by_photo = [a.table.sort_values("photo", ignore_index=True) for a in (one, other)]
        pd.testing.assert_frame_equal(*by_photo)
        assert sorted(map(repr, one.left_out)) == sorted(map(repr, other.left_out))
        pd.testing.assert_frame_equal(one.register, other.register)


@given(batches(given_columns=False))
@settings(max_examples=40, deadline=None)
def test_photos_without_given_splits_are_never_left_out_in_a_first_run(grown):
    rows = grown[-1]
    assert {row["photo"] for row in rows if row["labelled"]} <= set(splits(assign(rows)))


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_photos_that_go_leave_the_others_columns_types_and_splits_as_they_were(grown, random):
    came = pd.DataFrame([{**row, "offset": place, "known": True} for place, row in enumerate(grown[-1])])
    first = split_assignment.assign(came, split_assignment.empty_register(), SETTINGS)
    left = came[[random.random() < 0.5 for _ in range(len(came))]]
    second = split_assignment.assign(left, first.register, SETTINGS)
    before, after = splits(first), splits(second)
    stayed = left[left["labelled"] & left["photo"].isin(list(before))]["photo"]
    assert {name: after.get(name) for name in stayed} == {name: before[name] for name in stayed}
    own = left[left["photo"].isin(list(after))].drop(columns=["split", "group"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(second.table[list(own)].reset_index(drop=True), own)
    assert set(first.register.itertuples(index=False)) <= set(second.register.itertuples(index=False))
    assert second.register.dtypes.equals(split_assignment.empty_register().dtypes)


def test_near_duplicates_and_a_given_group_join_into_one_group():
    rows = [photo("a", 0b0), photo("b", 0b11), photo("c", 0b1111 << 8, group="anna"), photo("d", 0b11, group="anna")]
    table = assign(rows).table
    assert table["group"].tolist() == ["anna"] * 4
    assert table["split"].nunique() == 1


def test_a_photo_that_came_and_went_leaves_the_groups_as_they_were_before_it_came():
    rows = [photo("a", 0b0, split="train"), photo("b", 0b1111, split="train")]
    first = assign(rows)
    beside = assign([*rows, photo("between", 0b11, split="train")], first.register)
    assert beside.table["group"].nunique() == 1
    pd.testing.assert_frame_equal(assign(rows, beside.register).table, first.table)


def test_distance_beyond_the_setting_does_not_join():
    table = assign([photo("a", 0b0), photo("b", 0b111)]).table
    assert table["group"].nunique() == 2


def test_a_new_twin_of_an_old_photo_follows_it_even_when_the_old_one_is_gone():
    for split in split_assignment.RATED_SPLITS:
        old = assign([photo("old", 0, split=split)])
        assert splits(assign([photo("new", 1)], old.register)) == {"new": split}


def test_a_new_photo_between_two_splits_is_left_out_with_the_reason():
    rows = [photo("left", 0b0, split="train"), photo("right", 0b1111, split="test"), photo("between", 0b11)]
    assigned = assign(rows)
    assert splits(assigned) == {"left": "train", "right": "test"}
    (left_out,) = assigned.left_out
    assert (left_out.photo, left_out.reason) == ("between", "bridges two splits")
    assert left_out.detail == "it is linked to photos in test and train"


def test_a_chain_between_two_splits_goes_to_the_rarer_and_loses_its_link_to_the_other():
    chain = [photo(f"new {length}", (1 << length) - 1) for length in (2, 4, 6)]
    ends = [photo("train", 0, split="train"), photo("test", (1 << 8) - 1, split="test")]
    assigned = assign([*ends, *chain])
    assert splits(assigned) == {"train": "train", "test": "test", "new 4": "test", "new 6": "test"}
    assert [entry.photo for entry in assigned.left_out] == ["new 2"]


def test_of_twins_with_different_given_splits_the_test_photo_stays():
    assigned = assign([photo("a", 0, split="train"), photo("b", 0, split="test"), photo("c", 1, split="validation")])
    assert splits(assigned) == {"b": "test"}
    assert {entry.reason for entry in assigned.left_out} == {"bridges two splits"}


def test_validation_photos_are_drawn_from_training_when_none_is_given(tmp_path):
    uri = str(tmp_path / "splits.csv")
    rows = [photo(str(place), place * 0x9E3779B1 % 2**32, split="train") for place in range(300)]
    photos = pd.DataFrame([*rows, photo("test", 0x0F0F0F0F, split="test")])
    options = Ingestion(duplicate_distance=0, validation_share=0.2, test_share=0.2)
    first = split_assignment.register_and_assign(uri, photos, options)
    assert (first.table["split"] == "validation").mean() == pytest.approx(0.25, abs=0.06)
    assert first.table.loc[first.table["split"] == "test", "photo"].tolist() == ["test"]
    again = split_assignment.register_and_assign(uri, photos, replace(options, validation_share=0.4))
    assert splits(again) == splits(first)


def test_given_validation_photos_are_the_only_ones(tmp_path):
    rows = [photo(str(place), place << 8, split="train") for place in range(1, 50)]
    photos = pd.DataFrame([*rows, photo("held", 7, split="validation")])
    table = split_assignment.register_and_assign(str(tmp_path / "splits.csv"), photos, SETTINGS).table
    assert table.loc[table["split"] == "validation", "photo"].tolist() == ["held"]


def test_a_check_that_fails_leaves_the_register_as_it_was(tmp_path):
    def refuse(assigned):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        split_assignment.register_and_assign(
            str(tmp_path / "splits.csv"), pd.DataFrame([photo("a", 0)]), SETTINGS, refuse
        )
    assert not list(tmp_path.iterdir())


def test_an_old_photo_wins_over_a_new_twin_with_another_given_split():
    old = assign([photo("old", 0, split="train")])
    assigned = assign([photo("old", 0), photo("new", 1, split="test")], old.register)
    assert splits(assigned) == {"old": "train"}


def test_a_new_given_split_moves_an_old_photo():
    old = assign([photo("a", 0, split="train")])
    moved = assign([photo("a", 0, split="test")], old.register)
    assert splits(moved) == {"a": "test"}
    assert moved.register["split"].tolist() == ["test"]


def test_a_photo_changed_under_its_old_name_is_a_new_photo():
    first = assign([photo("a", 0, split="test")])
    second = assign([photo("a", 0xFFFF, split="train")], first.register)
    assert splits(second) == {"a": "train"}
    assert sorted(second.register["split"]) == ["test", "train"]


@pytest.mark.parametrize("split", split_assignment.RATED_SPLITS)
def test_an_unlabelled_twin_of_a_rated_photo_is_left_out(split):
    assigned = assign(
        [photo("rated", 0, split=split), photo("twin", 1, labelled=False), photo("far", 7, labelled=False)]
    )
    assert splits(assigned) == {"rated": split, "far": "unlabelled"}
    assert [(entry.photo, entry.reason) for entry in assigned.left_out] == [("twin", "near a rated photo")]


def test_unlabelled_photos_of_a_person_who_is_held_out_are_left_out():
    rows = [photo("u", 0xFF00, labelled=False, group="anna"), photo("v", 0xFF0000, labelled=False, group="bert")]
    held = [photo("r", 0, group="anna", split="test"), photo("s", 0xFF, group="bert", split="train")]
    assert splits(assign(rows + held)) == {"r": "test", "s": "train", "v": "unlabelled"}


def test_shares_are_those_of_the_settings():
    rows = [photo(str(place), place << 4, group=f"person {place}") for place in range(4000)]
    options = Ingestion(duplicate_distance=0, validation_share=0.1, test_share=0.2)
    share = assign(rows, options=options).table["split"].value_counts(normalize=True)
    assert share["test"] == pytest.approx(0.2, abs=0.02)
    assert share["validation"] == pytest.approx(0.1, abs=0.015)


@given(st.integers(0, 64), st.lists(st.binary(min_size=32, max_size=32), max_size=12), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_near_duplicates_are_those_of_comparing_all_with_all(distance, seeds, block, data):
    hashes = np.zeros((2 * len(seeds), 32), np.uint8)
    for place, seed in enumerate(seeds):
        hashes[2 * place] = np.frombuffer(seed, np.uint8)
        bits = np.unpackbits(hashes[2 * place])
        bits[data.draw(st.lists(st.integers(0, 255), max_size=distance + 2, unique=True))] ^= 1
        hashes[2 * place + 1] = np.packbits(bits)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1)
    expected = [(i, j) for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if apart[i, j] <= distance]
    assert [tuple(pair) for pair in split_assignment.near_duplicates(hashes, distance, block)] == expected


def test_a_photo_that_was_sent_in_ten_thousand_times_needs_no_memory_for_its_pairs():
    table = assign([photo(str(place), 0) for place in range(10_000)]).table
    assert table["split"].nunique() == table["group"].nunique() == 1


def test_two_runs_at_once_agree_on_every_split(tmp_path):
    uri = str(tmp_path / "workspace" / "splits.csv")
    outcomes, start = {}, threading.Barrier(4)

    def run(number):
        shared = [photo(f"shared {place}", place << 8) for place in range(20)]
        own = [photo(f"{number} {place}", (place << 8) | 1 << number) for place in range(20)]
        start.wait()
        outcomes[number] = splits(split_assignment.register_and_assign(uri, pd.DataFrame(own + shared), SETTINGS))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    register = pd.read_csv(uri, dtype=str)
    assert len(register) == 4 * 20 + 20
    final = dict(zip(register["photo"], register["split"], strict=True))
    assert all(final[name] == split for outcome in outcomes.values() for name, split in outcome.items())


def test_a_run_without_new_photos_does_not_write_the_register(tmp_path):
    uri = str(tmp_path / "splits.csv")
    rows = pd.DataFrame([photo("a", 0), photo("b", 0xFF, group='Anna, née "B"')])
    split_assignment.register_and_assign(uri, rows, SETTINGS)
    written = storage.read_versioned(uri)
    (tmp_path / "splits.csv").chmod(0o444)
    again = split_assignment.register_and_assign(uri, rows, SETTINGS)
    assert storage.read_versioned(uri) == written
    assert len(again.table) == 2


def test_a_register_that_is_none_stops_with_its_address(tmp_path):
    uri = tmp_path / "splits.csv"
    uri.write_text("photo,split\na.jpg,train\n")
    with pytest.raises(ValueError, match=r"splits\.csv to be the register of splits with the columns photo, sha256"):
        split_assignment.register_and_assign(str(uri), pd.DataFrame([photo("a", 0)]), SETTINGS)
