"""Assignment of photos to duplicate groups and splits, and the register of splits.

Two photos are linked if their perceptual hashes are near or if they have the same group (uploader or person). Linked
photos stay in one split. A scorer looks better than it is on a near duplicate of a training photo. A photo with a split
from the input or from an earlier run is an anchor. A new photo follows the anchors that it is linked to. If they are in
several splits, the photo is excluded.

The register stores every drawn split with the photo's hash. So photos keep their splits when others are added, and a
new photo follows a near duplicate that was deleted from the folder.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.ingestion.exclusions import Exclusion
from components.scorer import storage
from components.scorer.imaging.perceptual_hash import HASH_BITS, near_duplicates
from components.scorer.settings import Ingestion

RATED_SPLITS = ("test", "validation", "train")
"""The splits of rated photos in order of precedence. If two claim a photo, the first wins: the rarer, and test first.
"""

REGISTER_COLUMNS = ("photo", "sha256", "phash", "group", "split")
"""Columns of the register. ``phash`` is 64 hexadecimal digits; ``group`` is the input's group, or empty."""

_ATTEMPTS = 10  # to write the register; an attempt fails only if another run wrote it in between


@dataclass(frozen=True)
class SplitAssignment:
    """The split assignment of one run.

    Attributes:
        table: Rows of the photos in the data set, with ``split`` and ``group`` filled in. All other columns and every
            column's type are unchanged.
        left_out: Exclusions of all other photos.
        register: The register with the photos of this run.
    """

    table: pd.DataFrame
    left_out: list[Exclusion]
    register: pd.DataFrame


def register_and_assign(
    uri: str,
    photos: pd.DataFrame,
    settings: Ingestion,
    check: Callable[[SplitAssignment], None] = lambda assigned: None,
) -> SplitAssignment:
    """Assign the photos and write the register, so that concurrent runs agree on every split.

    Args:
        uri: Address of the register, a CSV file; it need not exist.
        photos: One row a photo, columns as in ``assign``.
        settings: Ingestion settings, as in ``assign``.
        check: Called with the assignment before the register is written. If it raises, the register stays unchanged.

    Raises:
        ValueError: The file is not a register.
        storage.WriteConflict: Other runs wrote the register at every attempt.
    """
    attempts_left = _ATTEMPTS
    while True:
        attempts_left -= 1
        data, version = storage.read_versioned(uri)
        register = _read_register(uri, data)
        assigned = assign(with_validation(photos, register, settings), register, settings)
        check(assigned)
        csv = assigned.register.to_csv(index=False).encode()
        try:
            if csv != data:
                storage.write_if(uri, csv, version)
            return assigned
        except storage.WriteConflict:
            if not attempts_left:
                raise


def empty_register() -> pd.DataFrame:
    """Return an empty register."""
    return pd.DataFrame({column: pd.Series(dtype=str) for column in REGISTER_COLUMNS})


def assign(photos: pd.DataFrame, register: pd.DataFrame, settings: Ingestion) -> SplitAssignment:
    """Give every photo its group and its split, or exclude it.

    1. A photo with a split from the input, or whose content is in the register, is an anchor. Of linked anchors in
       different splits, the stronger keeps its split. An anchor that keeps its registered split is stronger than one
       whose input split is new. Then the order of ``RATED_SPLITS`` decides.
    2. A new photo that is linked to anchors of several splits is excluded.
    3. Linked new photos go to the split of their anchors. If the anchors are in several splits, the first of
      ``RATED_SPLITS``
       wins, and the photos linked to the others are excluded.
    4. Linked new photos without anchors draw their split by a hash. The hash key is their smallest group name, or the
       smallest SHA-256 of their contents if none has a group.
    5. An unlabelled photo is excluded if it is near a rated photo, or if its group is held out. Pretraining reads the
       rated photo already or must not see it. Unlabelled and training photos may share a group.

    Exact duplicates are near duplicates at distance 0. All are kept in one split, as each may have votes. The result
    does not depend on the order of the photos.

    Args:
        photos: One row a photo. Columns are ``photo``, ``sha256`` (hexadecimal), ``phash`` (32 bytes), ``labelled``
            (bool), ``split`` and ``group`` (from the input, or ``""``). Other columns are passed on.
        register: Register of the earlier runs, or ``empty_register()``.
        settings: Ingestion settings; ``duplicate_distance``, ``validation_share`` and ``test_share`` are used.
    """
    photos = photos.reset_index(drop=True)
    rows = _link_table(photos, register)
    links = _DuplicateGraph(rows, settings.duplicate_distance)
    labelled, is_current = rows["labelled"].to_numpy(bool), np.arange(len(rows)) < len(photos)
    split = _resolve_anchors(rows, links)  # rule 1

    free = labelled & (rows["anchor"].to_numpy() == "")
    touched = links.linked_splits(split)
    free &= touched.sum(1) <= 1  # rule 2
    strongest = _first_linked_split(touched, links.components(free), free)
    free &= ~touched.any(1) | (touched.argmax(1) == strongest)  # rule 3
    components = links.components(free)  # again, because excluded photos no longer link others
    strongest = _first_linked_split(touched, components, free)
    drawn = _draw_splits(_component_keys(rows, components, free), settings)  # rule 4
    split = np.where(
        free, np.where(strongest < len(RATED_SPLITS), np.array([*RATED_SPLITS, ""])[strongest], drawn), split
    )

    # Rule 5.
    near = links.linked_splits(np.where(is_current, split, ""), groups=False).any(1)
    held_out = links.linked_splits(split)[:, [RATED_SPLITS.index("test"), RATED_SPLITS.index("validation")]].any(1)
    split = np.where(~labelled & ~near & ~held_out, "unlabelled", split)
    return _build_assignment(photos, rows, links, split, register)


def lacks_validation(photos: pd.DataFrame) -> bool:
    """Return whether the input's splits name training photos but no validation photos."""
    input_splits = set(photos.loc[photos["labelled"], "split"])
    return "train" in input_splits and "validation" not in input_splits


def with_validation(photos: pd.DataFrame, register: pd.DataFrame, settings: Ingestion) -> pd.DataFrame:
    """Move some photos from the input's training split to validation, if the input has no validation split.

    Published splits rarely have a validation part, and training needs one. Photos in the register keep their split.
    """
    if not lacks_validation(photos):
        return photos
    share = settings.validation_share / (1 - settings.test_share)  # share of the photos outside the test split
    two_way = replace(settings, test_share=0.0, validation_share=share)
    keys = [group or phash.hex() for group, phash in zip(photos["group"], photos["phash"], strict=True)]
    split_by_hash = dict(zip(register["sha256"], register["split"], strict=True))
    registered = photos["sha256"].map(lambda sha256: split_by_hash.get(sha256, "test")).to_numpy()
    drawn = np.where(registered == "test", _draw_splits(np.array(keys, object), two_way), registered)
    return photos.assign(split=np.where(photos["split"] == "train", drawn, photos["split"]))


class _DuplicateGraph:
    """Graph of the links between photos, through distinct hashes and input groups.

    A photo uploaded ten thousand times has fifty million pairs, but one hash.
    """

    def __init__(self, rows: pd.DataFrame, distance: int):
        hashes = np.frombuffer(b"".join(rows["phash"]), np.uint8).reshape(len(rows), HASH_BITS // 8)
        distinct, hash_index = np.unique(hashes, axis=0, return_inverse=True)
        self._hash_of_photo, self._hash_count = hash_index.ravel(), len(distinct)
        self._near_pairs = near_duplicates(distinct, distance)
        names, self._group_of_photo = np.unique(np.array(["", *rows["group"]], object), return_inverse=True)
        self._group_of_photo, self._group_count = self._group_of_photo[1:] - 1, len(names) - 1  # -1: without a group

    def linked_splits(self, split: np.ndarray, groups: bool = True) -> np.ndarray:
        """Return whether each photo is linked to a photo of each split, bool ``[n, len(HELD)]``.

        If `groups` is False, only links by hash count.
        """
        in_split = split[:, None] == np.array(RATED_SPLITS)
        by_hash = np.zeros((self._hash_count, len(RATED_SPLITS)), bool)
        np.logical_or.at(by_hash, self._hash_of_photo, in_split)
        by_near_hash = by_hash.copy()
        for first, second in (self._near_pairs.T, self._near_pairs.T[::-1]):
            np.logical_or.at(by_near_hash, first, by_hash[second])
        # The last row is for photos without a group.
        by_group = np.zeros((self._group_count + 1, len(RATED_SPLITS)), bool)
        np.logical_or.at(by_group, self._group_of_photo, in_split)
        by_group[-1] = False
        return (
            by_near_hash[self._hash_of_photo] | by_group[self._group_of_photo]
            if groups
            else by_near_hash[self._hash_of_photo]
        )

    def components(self, chosen: np.ndarray) -> np.ndarray:
        """Return the connected component of each photo, int ``[n]``, using only links among the chosen photos."""
        photos, grouped = np.flatnonzero(chosen), np.flatnonzero(chosen & (self._group_of_photo >= 0))
        first_hash, first_group = len(chosen), len(chosen) + self._hash_count
        present = np.zeros(self._hash_count, bool)
        present[self._hash_of_photo[photos]] = True
        near = self._near_pairs[present[self._near_pairs].all(1)]
        sources = [photos, grouped, first_hash + near[:, 0]]
        targets = [
            first_hash + self._hash_of_photo[photos],
            first_group + self._group_of_photo[grouped],
            first_hash + near[:, 1],
        ]
        edges = np.concatenate(sources), np.concatenate(targets)
        n_nodes = first_group + self._group_count
        graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(n_nodes, n_nodes))
        return connected_components(graph, directed=False)[1][: len(chosen)]


def _link_table(photos: pd.DataFrame, register: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each photo, then one for each registered photo that is not among them.

    The table has only columns that the register can fill. Absent photos have no size and no position in a file, and
    missing values would turn integer columns into floats.

    Args:
        photos: Photos as in `assign`, indexed from 0.
        register: Register as in `assign`.

    Returns:
        Columns ``sha256``, ``phash``, ``group`` and ``labelled`` as in `assign`, ``anchor`` (a split, or ``""`` for no
        anchor) and ``keeps`` (bool). ``keeps`` is True for an anchor that stays in its registered split, False for one
        whose input split is new.
    """
    split_by_hash = dict(zip(register["sha256"], register["split"], strict=True))
    registered = photos["sha256"].map(lambda sha256: split_by_hash.get(sha256, "")).where(photos["labelled"], "")
    anchor = photos["split"].where(photos["split"] != "", registered).where(photos["labelled"], "")
    columns = ["sha256", "phash", "group", "labelled"]
    current = photos[columns].assign(anchor=anchor, keeps=(anchor == registered) & (registered != ""))

    rated = pd.MultiIndex.from_frame(photos.loc[photos["labelled"], ["photo", "sha256"]])
    moved = photos.loc[(anchor != registered) & (registered != ""), "sha256"]
    absent = ~pd.MultiIndex.from_frame(register[["photo", "sha256"]]).isin(rated) & ~register["sha256"].isin(moved)
    absent_rows = register[absent].assign(
        phash=[bytes.fromhex(value) for value in register["phash"][absent]], labelled=True
    )
    absent_rows = absent_rows[columns].assign(anchor=register["split"][absent], keeps=True)
    return pd.concat([current, absent_rows], ignore_index=True)


def _resolve_anchors(rows: pd.DataFrame, links: _DuplicateGraph) -> np.ndarray:
    """Return the split of each anchor that keeps it, strongest anchors first. Empty for all other photos."""
    anchor, keeps = rows["anchor"].to_numpy(), rows["keeps"].to_numpy(bool)
    split = np.full(len(rows), "", dtype="U10")
    for registered in (True, False):
        for index, name in enumerate(RATED_SPLITS):
            claims = (anchor == name) & (keeps == registered)
            linked_elsewhere = np.delete(links.linked_splits(split), index, axis=1).any(1)
            split[claims & ~linked_elsewhere] = name
    return split


def _first_linked_split(touched: np.ndarray, components: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the index in ``RATED_SPLITS`` of the first split that each photo's component is linked to.

    The index is ``len(HELD)`` if the component is linked to none.
    """
    first = np.where(touched.any(1), touched.argmax(1), len(RATED_SPLITS))
    by_component = np.full(components.max(initial=0) + 1, len(RATED_SPLITS))
    np.minimum.at(by_component, components[chosen], first[chosen])
    return by_component[components]


def _component_keys(rows: pd.DataFrame, components: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return a key of each photo's component, independent of the order of the photos.

    The key is the component's smallest group, or its smallest SHA-256 if it has no group.
    """
    photo_keys = [
        f"group {group}" if group else f"sha256 {sha256}"
        for group, sha256 in zip(rows["group"], rows["sha256"], strict=True)
    ]
    distinct, key_index = np.unique(np.array(photo_keys, object), return_inverse=True)
    by_component = np.full(components.max(initial=0) + 1, len(distinct) - 1)
    np.minimum.at(by_component, components[chosen], key_index[chosen])
    return distinct[by_component[components]]


def _draw_splits(keys: np.ndarray, settings: Ingestion) -> np.ndarray:
    """Draw the split of each key by its hash, with the shares of the settings."""
    distinct, key_index = np.unique(keys, return_inverse=True)
    hashes = [hashlib.sha256(key.encode()).digest()[:8] for key in distinct]
    share = np.array([int.from_bytes(digest, "big") / 2**64 for digest in hashes])
    held_out = np.where(share < settings.test_share, "test", "validation")
    return np.where(share < settings.test_share + settings.validation_share, held_out, "train")[key_index]


def _build_assignment(
    photos: pd.DataFrame, rows: pd.DataFrame, links: _DuplicateGraph, split: np.ndarray, register: pd.DataFrame
) -> SplitAssignment:
    current, group = split[: len(photos)], np.full(len(photos), "", dtype=object)
    # From this run's photos only: absent photos are not part of the data set or its fingerprint.
    for pool in (np.isin(current, RATED_SPLITS), current == "unlabelled"):
        chosen = np.append(pool, np.zeros(len(rows) - len(photos), bool))
        keys = _component_keys(rows, links.components(chosen), chosen)[: len(photos)][pool]
        group[pool] = [key[6:] if key.startswith("group ") else key[7:23] for key in keys]
    touched = links.linked_splits(split)
    assigned = photos.assign(split=current)[current != ""]
    hashes = pd.Series([value.hex() for value in assigned["phash"]], assigned.index, str)
    return SplitAssignment(
        table=assigned.assign(group=group[assigned.index]),
        left_out=[
            _exclusion(photos.loc[index], rows.loc[index, "anchor"], touched[index])
            for index in np.flatnonzero(current == "")
        ],
        register=_update_register(
            assigned.assign(phash=hashes).loc[assigned["split"] != "unlabelled", list(REGISTER_COLUMNS)], register
        ),
    )


def _exclusion(photo: pd.Series, anchor: str, touched: np.ndarray) -> Exclusion:
    splits = " and ".join(name for name, linked in zip(RATED_SPLITS, touched, strict=True) if linked)
    if not photo["labelled"]:
        return Exclusion(photo["photo"], "near a rated photo", f"which is in {splits}")
    own_split = f"its own split is {anchor}, but it " if anchor else "it "
    return Exclusion(photo["photo"], "bridges two splits", f"{own_split}is linked to photos in {splits}")


def _update_register(entered: pd.DataFrame, register: pd.DataFrame) -> pd.DataFrame:
    """Return the register with the photos that entered this run.

    An entry that a new input split has moved replaces the old entry.
    """
    rows = pd.concat([entered, register[list(REGISTER_COLUMNS)]], ignore_index=True).drop_duplicates(
        ["photo", "sha256"]
    )
    split_by_hash = dict(zip(entered["sha256"], entered["split"], strict=True))
    current = [
        split_by_hash.get(sha256, split) == split for sha256, split in zip(rows["sha256"], rows["split"], strict=True)
    ]
    return rows[np.array(current, bool)].sort_values(["photo", "sha256"], ignore_index=True)


def _read_register(uri: str, data: bytes | None) -> pd.DataFrame:
    if data is None:
        return empty_register()
    try:
        register = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
        unknown = set(register["split"]) - set(RATED_SPLITS)
        valid = (
            tuple(register.columns) == REGISTER_COLUMNS
            and not unknown
            and (register["phash"].str.len() == HASH_BITS // 4).all()
        )
    except (ValueError, KeyError, UnicodeDecodeError):
        valid = False
    if not valid:
        raise ValueError(
            f"expected {uri} to be the register of splits with the columns {', '.join(REGISTER_COLUMNS)}; it is"
            " something else or was edited: restore it, or point the workspace elsewhere (splits are then drawn"
            " anew)"
        )
    return register
