"""Split assignment: groups of linked photos, their splits, and the register that keeps them between runs."""

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
    """Return a row for ``assign``. Two photos are near duplicates if their contents differ in at most two bits."""
    bits = [(content >> bit) & 1 for bit in range(32)]
    sha256 = hashlib.sha256(str(content).encode()).hexdigest()
    phash = np.packbits(np.repeat(bits, 8)).tobytes()
    return {"photo": name, "sha256": sha256, "phash": phash, "labelled": labelled, "split": split, "group": group}


def near(one, other):
    return (
        sum((byte ^ other_byte).bit_count() for byte, other_byte in zip(one["phash"], other["phash"], strict=True))
        <= 16
    )


def assign(rows, register=None, options=SETTINGS):
    return split_assignment.assign(
        pd.DataFrame(rows), split_assignment.empty_register() if register is None else register, options
    )


def splits(assigned):
    return dict(zip(assigned.table["photo"], assigned.table["split"], strict=True))


@st.composite
def batches(draw, given_columns=True):
    """Draw growing batches of photos. Few contents make many photos near duplicates or copies."""
    one_of = st.sampled_from
    contents = draw(st.lists(st.integers(0, 63), min_size=1, max_size=14))
    rows = [
        photo(
            f"{index}.jpg",
            content,
            labelled=draw(st.booleans()) or draw(st.booleans()),
            split=draw(one_of(["", "", "", *split_assignment.RATED_SPLITS])) if given_columns else "",
            group=draw(one_of(["", "", "", "anna", "bert"])) if given_columns else "",
        )
        for index, content in enumerate(contents)
    ]
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=2)))
    return [rows[:cut] for cut in [*cuts, len(rows)] if cut]


def runs(grown):
    """Assign each growing batch with the register of the previous runs."""
    register = split_assignment.empty_register()
    for rows in grown:
        assigned = assign(rows, register)
        register = assigned.register
        yield rows, assigned


@pytest.mark.slow
@given(batches())
@settings(max_examples=60, deadline=None)
def test_near_duplicates_never_get_different_splits(grown):
    for _, assigned in runs(grown):
        rows = assigned.table.to_dict("records")
        for index, row in enumerate(rows):
            for earlier in rows[:index]:
                assert not near(row, earlier) or row["split"] == earlier["split"]


@pytest.mark.slow
@given(batches())
@settings(max_examples=60, deadline=None)
def test_old_photos_keep_their_split_when_photos_are_added(grown):
    earlier_splits = {}
    for rows, assigned in runs(grown):
        assigned_splits, rated = splits(assigned), {row["photo"] for row in rows if row["labelled"]}
        assert {name: assigned_splits.get(name) for name in earlier_splits} == earlier_splits
        earlier_splits = {name: split for name, split in assigned_splits.items() if name in rated}


@pytest.mark.slow
@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_given_split_is_used_or_the_photo_is_excluded(grown):
    for rows, assigned in runs(grown):
        assigned_splits, excluded = splits(assigned), {entry.photo for entry in assigned.left_out}
        assert set(assigned_splits) | excluded == {row["photo"] for row in rows}
        assert not set(assigned_splits) & excluded
        for row in rows:
            if row["labelled"] and row["split"] and row["photo"] in assigned_splits:
                assert assigned_splits[row["photo"]] == row["split"]


@pytest.mark.slow
@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_group_never_spans_two_splits(grown):
    for rows, assigned in runs(grown):
        # Pretraining reads unlabelled and training photos alike, so both may hold photos of one uploader.
        merged_splits = assigned.table["split"].replace("unlabelled", "train")
        assert (merged_splits.groupby(assigned.table["group"]).nunique() == 1).all()
        given_groups = assigned.table["photo"].map({row["photo"]: row["group"] for row in rows})
        assert (merged_splits[given_groups != ""].groupby(given_groups).nunique() == 1).all()


@pytest.mark.slow
@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_assignment_does_not_depend_on_the_order_of_photos(grown, random):
    shuffled = [random.sample(rows, len(rows)) for rows in grown]
    for (_, assigned), (_, shuffled_assigned) in zip(runs(grown), runs(shuffled), strict=True):
        by_photo = [result.table.sort_values("photo", ignore_index=True) for result in (assigned, shuffled_assigned)]
        pd.testing.assert_frame_equal(*by_photo)
        assert sorted(map(repr, assigned.left_out)) == sorted(map(repr, shuffled_assigned.left_out))
        pd.testing.assert_frame_equal(assigned.register, shuffled_assigned.register)


@pytest.mark.slow
@given(batches(given_columns=False))
@settings(max_examples=40, deadline=None)
def test_photos_without_given_splits_are_never_excluded_in_a_first_run(grown):
    rows = grown[-1]
    assert {row["photo"] for row in rows if row["labelled"]} <= set(splits(assign(rows)))


@pytest.mark.slow
@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_deleted_photos_do_not_change_the_columns_types_and_splits_of_the_others(grown, random):
    all_photos = pd.DataFrame([{**row, "offset": index, "known": True} for index, row in enumerate(grown[-1])])
    first = split_assignment.assign(all_photos, split_assignment.empty_register(), SETTINGS)
    remaining = all_photos[[random.random() < 0.5 for _ in range(len(all_photos))]]
    second = split_assignment.assign(remaining, first.register, SETTINGS)
    before, after = splits(first), splits(second)
    remaining_rated = remaining[remaining["labelled"] & remaining["photo"].isin(list(before))]["photo"]
    assert {name: after.get(name) for name in remaining_rated} == {name: before[name] for name in remaining_rated}
    expected_columns = (
        remaining[remaining["photo"].isin(list(after))].drop(columns=["split", "group"]).reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(second.table[list(expected_columns)].reset_index(drop=True), expected_columns)
    assert set(first.register.itertuples(index=False)) <= set(second.register.itertuples(index=False))
    assert second.register.dtypes.equals(split_assignment.empty_register().dtypes)


def test_near_duplicates_and_a_given_group_form_one_group():
    rows = [photo("a", 0b0), photo("b", 0b11), photo("c", 0b1111 << 8, group="anna"), photo("d", 0b11, group="anna")]
    table = assign(rows).table
    assert table["group"].tolist() == ["anna"] * 4
    assert table["split"].nunique() == 1


@pytest.mark.slow
def test_a_photo_added_and_removed_again_leaves_the_groups_unchanged():
    rows = [photo("a", 0b0, split="train"), photo("b", 0b1111, split="train")]
    first = assign(rows)
    with_photo_between = assign([*rows, photo("between", 0b11, split="train")], first.register)
    assert with_photo_between.table["group"].nunique() == 1
    pd.testing.assert_frame_equal(assign(rows, with_photo_between.register).table, first.table)


def test_photos_beyond_duplicate_distance_are_not_grouped():
    table = assign([photo("a", 0b0), photo("b", 0b111)]).table
    assert table["group"].nunique() == 2


@pytest.mark.slow
def test_a_near_duplicate_of_a_deleted_photo_gets_its_split():
    for split in split_assignment.RATED_SPLITS:
        earlier_run = assign([photo("old", 0, split=split)])
        assert splits(assign([photo("new", 1)], earlier_run.register)) == {"new": split}


def test_a_new_photo_linked_to_two_splits_is_excluded_with_the_reason():
    rows = [photo("left", 0b0, split="train"), photo("right", 0b1111, split="test"), photo("between", 0b11)]
    assigned = assign(rows)
    assert splits(assigned) == {"left": "train", "right": "test"}
    (exclusion,) = assigned.left_out
    assert (exclusion.photo, exclusion.reason) == ("between", "bridges two splits")
    assert exclusion.detail == "it is linked to photos in test and train"


def test_a_chain_between_two_splits_joins_the_rarer_and_its_link_to_the_other_is_excluded():
    chain = [photo(f"new {length}", (1 << length) - 1) for length in (2, 4, 6)]
    ends = [photo("train", 0, split="train"), photo("test", (1 << 8) - 1, split="test")]
    assigned = assign([*ends, *chain])
    assert splits(assigned) == {"train": "train", "test": "test", "new 4": "test", "new 6": "test"}
    assert [entry.photo for entry in assigned.left_out] == ["new 2"]


def test_of_near_duplicates_with_different_given_splits_only_the_test_photo_is_kept():
    assigned = assign([photo("a", 0, split="train"), photo("b", 0, split="test"), photo("c", 1, split="validation")])
    assert splits(assigned) == {"b": "test"}
    assert {entry.reason for entry in assigned.left_out} == {"bridges two splits"}


def test_validation_photos_are_drawn_from_training_if_none_are_given(tmp_path):
    uri = str(tmp_path / "splits.csv")
    rows = [photo(str(index), index * 0x9E3779B1 % 2**32, split="train") for index in range(300)]
    photos = pd.DataFrame([*rows, photo("test", 0x0F0F0F0F, split="test")])
    options = Ingestion(duplicate_distance=0, validation_share=0.2, test_share=0.2)
    first = split_assignment.register_and_assign(uri, photos, options)
    assert (first.table["split"] == "validation").mean() == pytest.approx(0.25, abs=0.06)
    assert first.table.loc[first.table["split"] == "test", "photo"].tolist() == ["test"]
    again = split_assignment.register_and_assign(uri, photos, replace(options, validation_share=0.4))
    assert splits(again) == splits(first)


def test_given_validation_photos_are_the_only_validation_photos(tmp_path):
    rows = [photo(str(index), index << 8, split="train") for index in range(1, 50)]
    photos = pd.DataFrame([*rows, photo("held", 7, split="validation")])
    table = split_assignment.register_and_assign(str(tmp_path / "splits.csv"), photos, SETTINGS).table
    assert table.loc[table["split"] == "validation", "photo"].tolist() == ["held"]


def test_a_failing_check_leaves_the_register_unchanged(tmp_path):
    def refuse(assigned):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        split_assignment.register_and_assign(
            str(tmp_path / "splits.csv"), pd.DataFrame([photo("a", 0)]), SETTINGS, refuse
        )
    assert not list(tmp_path.iterdir())


def test_an_old_photo_is_kept_over_a_new_near_duplicate_with_another_given_split():
    earlier_run = assign([photo("old", 0, split="train")])
    assigned = assign([photo("old", 0), photo("new", 1, split="test")], earlier_run.register)
    assert splits(assigned) == {"old": "train"}


def test_a_new_given_split_moves_an_old_photo():
    earlier_run = assign([photo("a", 0, split="train")])
    moved = assign([photo("a", 0, split="test")], earlier_run.register)
    assert splits(moved) == {"a": "test"}
    assert moved.register["split"].tolist() == ["test"]


def test_a_photo_replaced_under_its_name_is_a_new_photo():
    first = assign([photo("a", 0, split="test")])
    second = assign([photo("a", 0xFFFF, split="train")], first.register)
    assert splits(second) == {"a": "train"}
    assert sorted(second.register["split"]) == ["test", "train"]


@pytest.mark.parametrize("split", split_assignment.RATED_SPLITS)
def test_an_unlabelled_near_duplicate_of_a_rated_photo_is_excluded(split):
    assigned = assign(
        [photo("rated", 0, split=split), photo("twin", 1, labelled=False), photo("far", 7, labelled=False)]
    )
    assert splits(assigned) == {"rated": split, "far": "unlabelled"}
    assert [(entry.photo, entry.reason) for entry in assigned.left_out] == [("twin", "near a rated photo")]


def test_unlabelled_photos_of_a_held_out_group_are_excluded():
    unlabelled_rows = [
        photo("u", 0xFF00, labelled=False, group="anna"),
        photo("v", 0xFF0000, labelled=False, group="bert"),
    ]
    rated_rows = [photo("r", 0, group="anna", split="test"), photo("s", 0xFF, group="bert", split="train")]
    assert splits(assign(unlabelled_rows + rated_rows)) == {"r": "test", "s": "train", "v": "unlabelled"}


@pytest.mark.slow
def test_split_fractions_are_those_of_the_settings():
    rows = [photo(str(index), index << 4, group=f"person {index}") for index in range(4000)]
    options = Ingestion(duplicate_distance=0, validation_share=0.1, test_share=0.2)
    fraction = assign(rows, options=options).table["split"].value_counts(normalize=True)
    assert fraction["test"] == pytest.approx(0.2, abs=0.02)
    assert fraction["validation"] == pytest.approx(0.1, abs=0.015)


@pytest.mark.slow
@given(st.integers(0, 64), st.lists(st.binary(min_size=32, max_size=32), max_size=12), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_near_duplicates_equal_those_of_all_pairwise_comparisons(distance, seeds, block, data):
    hashes = np.zeros((2 * len(seeds), 32), np.uint8)
    for index, seed in enumerate(seeds):
        hashes[2 * index] = np.frombuffer(seed, np.uint8)
        bits = np.unpackbits(hashes[2 * index])
        bits[data.draw(st.lists(st.integers(0, 255), max_size=distance + 2, unique=True))] ^= 1
        hashes[2 * index + 1] = np.packbits(bits)
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1)
    expected = [(i, j) for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if distances[i, j] <= distance]
    assert [tuple(pair) for pair in split_assignment.near_duplicates(hashes, distance, block)] == expected


@pytest.mark.slow
def test_ten_thousand_copies_of_a_photo_are_grouped_without_listing_their_pairs():
    table = assign([photo(str(index), 0) for index in range(10_000)]).table
    assert table["split"].nunique() == table["group"].nunique() == 1


@pytest.mark.slow
def test_simultaneous_runs_agree_on_every_split(tmp_path):
    uri = str(tmp_path / "workspace" / "splits.csv")
    outcomes, start = {}, threading.Barrier(4)

    def run(number):
        shared_rows = [photo(f"shared {index}", index << 8) for index in range(20)]
        own_rows = [photo(f"{number} {index}", (index << 8) | 1 << number) for index in range(20)]
        start.wait()
        outcomes[number] = splits(
            split_assignment.register_and_assign(uri, pd.DataFrame(own_rows + shared_rows), SETTINGS)
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    register = pd.read_csv(uri, dtype=str)
    assert len(register) == 4 * 20 + 20
    final = dict(zip(register["photo"], register["split"], strict=True))
    assert all(final[name] == split for outcome in outcomes.values() for name, split in outcome.items())


@pytest.mark.slow
def test_a_run_without_new_photos_does_not_write_the_register(tmp_path):
    uri = str(tmp_path / "splits.csv")
    rows = pd.DataFrame([photo("a", 0), photo("b", 0xFF, group='Anna, née "B"')])
    split_assignment.register_and_assign(uri, rows, SETTINGS)
    written = storage.read_versioned(uri)
    (tmp_path / "splits.csv").chmod(0o444)
    again = split_assignment.register_and_assign(uri, rows, SETTINGS)
    assert storage.read_versioned(uri) == written
    assert len(again.table) == 2


def test_an_invalid_register_is_refused_with_its_address(tmp_path):
    uri = tmp_path / "splits.csv"
    uri.write_text("photo,split\na.jpg,train\n")
    with pytest.raises(ValueError, match=r"splits\.csv to be the register of splits with the columns photo, sha256"):
        split_assignment.register_and_assign(str(uri), pd.DataFrame([photo("a", 0)]), SETTINGS)
