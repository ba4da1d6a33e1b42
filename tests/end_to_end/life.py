"""A data set's life cycle: changes to photos and tables between ten ingestions, and the invariants after each.

The seed determines the order of the changes; each kind of change occurs once, and one ingestion is killed. The expected
results are computed here independently, from the files alone.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.ingestion import ingest, split_assignment, tfds_writer
from components.ingestion.photos import photo_inspection
from components.ingestion.ratings.ratings import VOTE_COLUMNS
from components.scorer import storage
from components.scorer.data import photos
from components.scorer.imaging import perceptual_hash
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Faces, Ingestion
from components.validation import leakage
from components.validation.statistics import collect
from tests.builders import designed_faces
from tests.builders.ingestions import jpeg, picture

SETTINGS = Ingestion(minimum_side=32, validation_share=0.25, test_share=0.25, maximum_left_out=1.0)
RUNS = 10
GROUPS = ("anna", "007", "nan", "née Ö, «1»")
RATERS = 4


@dataclass(frozen=True)
class Photo:
    """A photo as its owner knows it; an unrated photo has no scores."""

    data: bytes = field(repr=False)
    scores: tuple[int, ...] = ()
    group: str = ""
    split: str = ""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def phash(self) -> bytes:
        return perceptual_hash.perceptual_hash(
            perceptual_hash.grey_square(Image.open(BytesIO(self.data)).convert("RGB"))
        )


class Owner:
    """The owner of the photos, whose methods change them.

    Attributes:
        rated, unlabelled: Photos of both folders by name. A photo in the rated folder may have no scores.
        lost: Scores of photos that were deleted, by name.
    """

    def __init__(self, seed: int, faces: bool) -> None:
        self.rng, self.marked, self.drawn = np.random.default_rng(seed), faces, 1000 * seed
        self.rated: dict[str, Photo] = {}
        self.unlabelled: dict[str, Photo] = {}
        self.lost: dict[str, tuple[int, ...]] = {}
        for number in range(26):
            self.rated[f"{number:03}.jpg"] = Photo(self._taken(), self._scores())
        for number in range(4):
            self.unlabelled[f"u/{number}.jpg"] = Photo(self._taken())
        self.copied()  # exact and near duplicates exist from the start
        self.edited()

    CHANGES = (
        "added", "added_unlabelled", "deleted", "deleted_alone", "replaced", "renamed", "copied", "copied_unlabelled",
        "edited", "saved_again", "turned", "unrated", "rated_again", "moved_out", "moved_in", "scored_anew", "grouped",
        "ungrouped", "given_a_split", "given_another_split", "freed_of_splits", "nothing",
    )  # fmt: skip

    def added(self) -> None:
        self.rated[self._name()] = Photo(self._taken(), self._scores())

    def added_unlabelled(self) -> None:
        self.unlabelled[self._name()] = Photo(self._taken())

    def deleted(self) -> None:
        for _ in range(2):
            del self.rated[self._one()]

    def deleted_alone(self) -> None:
        name = self._one()
        self.lost[name] = self.rated.pop(name).scores

    def replaced(self) -> None:
        self._changed(self._one(), data=self._taken())

    def renamed(self) -> None:
        self.rated[self._name()] = self.rated.pop(self._one())

    def copied(self) -> None:
        self.rated[self._name()] = replace(self.rated[self._one()], scores=self._scores(), group="", split="")

    def copied_unlabelled(self) -> None:
        name = self._one()
        self.unlabelled[name] = Photo(self.rated[name].data)

    def edited(self) -> None:
        self.rated[self._name()] = Photo(_saved(self.rated[self._one()].data, 60), self._scores())

    def saved_again(self) -> None:
        name = self._one()
        self._changed(name, data=_saved(self.rated[name].data, 85))

    def turned(self) -> None:
        name = self._one()
        self._changed(name, data=jpeg(_opened(self.rated[name].data).transpose(Image.Transpose.ROTATE_90), 95))

    def unrated(self) -> None:
        self._changed(self._one(), scores=())

    def rated_again(self) -> None:
        for name, photo in self.rated.items():
            if not photo.scores:
                self._changed(name, scores=self._scores())

    def moved_out(self) -> None:
        for _ in range(2):
            name = self._one()
            self.unlabelled[name] = replace(self.rated.pop(name), scores=())

    def moved_in(self) -> None:
        name = self.rng.choice(sorted(self.unlabelled))
        self.rated[name] = replace(self.unlabelled.pop(name), scores=self._scores())

    def scored_anew(self) -> None:
        self._changed(self._one(), scores=self._scores())

    def grouped(self) -> None:
        for name in self.rng.choice(sorted(self.rated), 3, replace=False):
            self._changed(name, group=str(self.rng.choice(GROUPS)))
        name = str(self.rng.choice(sorted(self.unlabelled)))
        self.unlabelled[name] = replace(self.unlabelled[name], group=str(self.rng.choice(GROUPS)))

    def ungrouped(self) -> None:
        for name in self.rated:
            self._changed(name, group="")

    def given_a_split(self) -> None:
        for name in self.rng.choice(sorted(self.rated), 4, replace=False):
            self._changed(name, split=str(self.rng.choice(split_assignment.RATED_SPLITS)))

    given_another_split = given_a_split

    def freed_of_splits(self) -> None:
        for name in self.rated:
            self._changed(name, split="")

    def nothing(self) -> None:
        """Change nothing, so that the same data are ingested again."""

    def _taken(self) -> bytes:
        self.drawn += 1
        data = jpeg(picture(self.drawn))
        places = [(), ((0.3, 0.3), (0.7, 0.7)), ((0.5, 0.5),)][min(self.drawn % 5, 2)]
        return designed_faces.marked(data, *places) if self.marked else data

    def _scores(self) -> tuple[int, ...]:
        return tuple(self.rng.integers(1, 11, RATERS).tolist())

    def _name(self) -> str:
        self.drawn += 1
        return f"{self.rng.choice(['', 'ä, b/', 'of the year/'])}{self.drawn}.jpg"

    def _one(self) -> str:
        """Return a random rated photo. The first photos are never chosen, so that no split becomes empty."""
        return str(self.rng.choice(sorted(name for name in self.rated if self.rated[name].scores)[12:]))

    def _changed(self, name: str, **values: object) -> None:
        self.rated[name] = replace(self.rated[name], **values)

    @property
    def listed(self) -> dict[str, Photo]:
        """Return the photos that have scores."""
        return {name: photo for name, photo in self.rated.items() if photo.scores}


def _opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def _saved(data: bytes, quality: int) -> bytes:
    return jpeg(_opened(data), quality)


class Workplace:
    """Ingests an owner's photos, run after run, and checks every outcome."""

    def __init__(self, folder: Path, workspace: str, settings: Ingestion, faces: Faces) -> None:
        self.folder, self.workspace, self.settings, self.faces = folder, workspace, settings, faces
        self.run = 0
        self.fingerprints: dict[frozenset, str] = {}

    def call(self, owner: Owner, name: str = "photos", again: bool = False) -> dict:
        """Write the owner's files; return the arguments of the next ingestion, or of the last one if ``again``."""
        self.run += not again
        root = self.folder / name
        for part, own_photos in (("rated", owner.rated), ("unlabelled", owner.unlabelled)):
            for path in [path for path in (root / part).rglob("*") if path.is_file()]:
                path.unlink()
            for photo, metadata in own_photos.items():
                (root / part / photo).parent.mkdir(parents=True, exist_ok=True)
                (root / part / photo).write_bytes(metadata.data)
        scores = owner.lost | {photo: metadata.scores for photo, metadata in owner.rated.items()}
        rows = [
            (photo, f"rater {rater}", score)
            for photo, photo_scores in scores.items()
            for rater, score in enumerate(photo_scores)
        ]
        pd.DataFrame(rows, columns=["photo", "rater", "score"]).to_csv(root / "ratings.csv", index=False)
        # A rated and an unlabelled photo of one name share their attributes: tables know photos by name alone.
        known = owner.unlabelled | owner.rated
        metadata = [(photo, own_photo.group, own_photo.split, len(photo)) for photo, own_photo in known.items()]
        pd.DataFrame(metadata, columns=["photo", "group", "split", "length"]).to_csv(root / "about.csv", index=False)
        output = self.folder / "out" / str(self.run)
        return {
            "photos": str(root / "rated"), "ratings": str(root / "ratings.csv"), "dataset": str(output / "dataset"),
            "report": str(output / "report.html"), "unlabelled": str(root / "unlabelled"),
            "attributes": str(root / "about.csv"), "workspace": RunPaths(self.workspace, f"run-{self.run}"),
            "settings": self.settings, "faces": self.faces,
        }  # fmt: skip

    def register(self) -> bytes:
        return storage.read_versioned(RunPaths(self.workspace, "").splits)[0] or b""

    def ingest(self, owner: Owner, name: str = "photos", again: bool = False) -> None:
        """Ingest the owner's photos and check the outcome against the expected one."""
        before, call = _rows(self.register()), self.call(owner, name, again)
        build_page = ingest.build_page
        summaries = []
        with pytest.MonkeyPatch.context() as patch:
            # A single chunk is inspected without worker processes.
            patch.setattr(photo_inspection, "CHUNK_SIZE", 16 if self.run % 4 == 1 else 128)
            patch.setattr(
                ingest, "build_page", lambda summary, crops: summaries.append(summary) or build_page(summary, crops)
            )
            metrics = ingest.ingest(**call)
        dataset, after = Path(call["dataset"]), _rows(self.register())
        splits = {split: [*photos.records(dataset, split)] for split in photos.counts(dataset)}
        rated = {
            entry["photo_id"]: {**entry, "split": split}
            for split in split_assignment.RATED_SPLITS
            for entry in splits.get(split, ())
        }
        unlabelled = {entry["photo_id"]: entry for entry in splits.get("unlabelled", ())}
        record = json.loads((dataset / "ingestion.json").read_text())

        assert sum(map(len, splits.values())) == len(rated) + len(unlabelled)
        _check_types(summaries[0].table)
        _check_all_are_accounted_for(owner, rated, unlabelled, record)
        _check_votes(owner, rated, unlabelled)
        _check_splits(owner, rated, before)
        _check_nothing_is_parted(owner, rated, unlabelled, after, self.settings)
        _check_register(owner, rated, before, after)
        _check_groups(owner, rated, unlabelled, self.settings)
        self._check_fingerprint(owner, rated, unlabelled, metrics["fingerprint"])
        _check_training_reads(dataset, self.settings, bool(self.faces.face_detector))
        assert not storage.exists(call["workspace"].checkpoints("ingestion"))

    def killed(self, owner: Owner, after: int) -> None:
        """Start an ingestion in a process that dies at write number ``after``."""
        call = self.folder / "call.pickle"
        call.write_bytes(pickle.dumps((self.call(owner), after)))
        code = f"from tests.end_to_end.life import _die; _die({str(call)!r})"
        process = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True)
        assert process.returncode == 9, process.stderr.decode()

    def _check_fingerprint(self, owner: Owner, rated: dict, unlabelled: dict, fingerprint: str) -> None:
        """Check that the fingerprint is the same exactly for the same data."""
        data = frozenset(
            (
                photo,
                own_photos[photo].sha256,
                entry.get("split"),
                entry["group"],
                entry["raters"],
                entry["votes"].tobytes(),
            )
            for entries, own_photos in ((rated, owner.rated), (unlabelled, owner.unlabelled))
            for photo, entry in entries.items()
        )
        assert self.fingerprints.setdefault(data, fingerprint) == fingerprint
        assert len(set(self.fingerprints.values())) == len(self.fingerprints)


def _die(call: str) -> None:
    """Ingest, and end this process at a write like SIGKILL would, without cleanup."""
    arguments, writes_left = pickle.loads(Path(call).read_bytes())

    def with_death(write: Callable) -> Callable:
        def write_or_die(*positional: object, **keywords: object) -> None:
            nonlocal writes_left
            writes_left -= 1
            if not writes_left:
                os._exit(9)
            write(*positional, **keywords)

        return write_or_die

    for module, name in (
        (storage, "write_bytes"),
        (storage, "write_if"),
        (tfds_writer, "write"),
        (tfds_writer, "_write_metadata"),
    ):
        setattr(module, name, with_death(getattr(module, name)))
    ingest.ingest(**arguments)


def _rows(register: bytes) -> pd.DataFrame:
    """Return the register's rows, indexed by the photos' names and content hashes."""
    if not register:
        return pd.DataFrame(columns=["phash", "group", "split"], index=pd.MultiIndex.from_arrays([[], []]))
    rows = pd.read_csv(StringIO(register.decode()), dtype=str, keep_default_na=False)
    assert tuple(rows) == split_assignment.REGISTER_COLUMNS
    rows = rows.set_index(["photo", "sha256"])
    assert rows.index.is_unique
    assert rows.index.is_monotonic_increasing
    assert set(rows["split"]) <= set(split_assignment.RATED_SPLITS)
    return rows


def _check_types(table: pd.DataFrame) -> None:
    expected = {
        **photo_inspection.COLUMN_TYPES,
        "labelled": "bool",
        "raters": "int64",
        **dict.fromkeys(VOTE_COLUMNS, "float64"),
    }
    expected |= {"split": "str", "group": "str", "attributes": "object"}
    assert {name: str(kind) for name, kind in table.dtypes.items()} == expected


def _check_all_are_accounted_for(owner: Owner, rated: dict, unlabelled: dict, record: dict) -> None:
    """Check that each photo is in the data set or was excluded for the right reason."""
    reasons = {(entry["photo"], entry["unlabelled"]): entry["reason"] for entry in record["left_out"]}
    bridging = {photo for (photo, side), reason in reasons.items() if not side and reason == "bridges two splits"}
    assert set(rated) == set(owner.listed) - bridging
    assert {photo for (photo, side), reason in reasons.items() if reason == "no photo"} == set(owner.lost)
    unrated = {photo for photo, own_photo in owner.rated.items() if not own_photo.scores}
    assert {photo for (photo, side), reason in reasons.items() if reason == "no rating"} == unrated
    near_rated = {photo for (photo, side), reason in reasons.items() if side and reason == "near a rated photo"}
    assert set(unlabelled) == set(owner.unlabelled) - near_rated
    assert record["counts"]["unlabelled"] == len(unlabelled)


def _check_votes(owner: Owner, rated: dict, unlabelled: dict) -> None:
    for photo, entry in rated.items():
        votes = np.bincount(owner.rated[photo].scores, minlength=11)[1:] / RATERS
        np.testing.assert_allclose(entry["votes"], votes, atol=1e-6)
        assert entry["raters"] == RATERS
        assert entry["attributes"] == {"length": str(len(photo))}
    assert not any(entry["votes"].any() or entry["raters"] for entry in unlabelled.values())


def _check_splits(owner: Owner, rated: dict, before: pd.DataFrame) -> None:
    """Check that given splits are used, and that photos keep their split, also after they were absent."""
    known_splits = dict(
        zip(before.index.get_level_values("sha256") if len(before) else (), before["split"], strict=True)
    )
    given_splits = {own_photo.split for own_photo in owner.listed.values()}
    # Without given validation photos, some photos given to training are drawn for validation.
    validation_is_drawn = "train" in given_splits and "validation" not in given_splits
    for photo, entry in rated.items():
        owned = owner.rated[photo]
        if owned.split:
            assert entry["split"] == owned.split or (
                validation_is_drawn and owned.split == "train" and entry["split"] == "validation"
            )
        elif owned.sha256 in known_splits:
            assert entry["split"] == known_splits[owned.sha256]
    nothing_given = not any(own_photo.split or own_photo.group for own_photo in owner.listed.values())
    if nothing_given and not set(before["group"]) - {""}:
        assert {photo for photo, own_photo in owner.listed.items() if own_photo.sha256 in known_splits} <= set(rated)


def _check_nothing_is_parted(
    owner: Owner, rated: dict, unlabelled: dict, after: pd.DataFrame, settings: Ingestion
) -> None:
    """Check that near duplicates and groups lie in one split, and that no unlabelled photo is near a held-out photo."""
    is_near = _near([bytes.fromhex(value) for value in after["phash"]], settings)
    split = after["split"].to_numpy()
    assert (split[:, None] == split)[is_near].all()
    for name in GROUPS:
        assert len({entry["split"] for photo, entry in rated.items() if owner.rated[photo].group == name}) <= 1
    held_out_hashes = [bytes.fromhex(value) for value in after["phash"][after["split"] != "train"]]
    rated_hashes = [owner.rated[photo].phash for photo in rated]
    for photo in unlabelled:
        assert not _near([owner.unlabelled[photo].phash, *held_out_hashes, *rated_hashes], settings)[0, 1:].any()


def _near(hashes: list[bytes], settings: Ingestion) -> np.ndarray:
    bits = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1)
    return np.bitwise_count(bits[:, None] ^ bits).sum(-1) <= settings.duplicate_distance


def _check_register(owner: Owner, rated: dict, before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check that the register has this run's photos, and earlier photos unchanged unless a given split moved them."""
    current_splits = {owner.rated[photo].sha256: entry["split"] for photo, entry in rated.items()}
    for photo, entry in rated.items():
        own_photo = owner.rated[photo]
        row = after.loc[(photo, own_photo.sha256)]
        assert (row["split"], row["phash"], row["group"]) == (entry["split"], own_photo.phash.hex(), own_photo.group)
    kept_splits = {key: split for key, split in before["split"].items() if current_splits.get(key[1], split) == split}
    new_splits = {(photo, owner.rated[photo].sha256): entry["split"] for photo, entry in rated.items()}
    assert after["split"].to_dict() == kept_splits | new_splits


def _check_groups(owner: Owner, rated: dict, unlabelled: dict, settings: Ingestion) -> None:
    """Check that a group depends only on this data set's photos, not on photos of earlier runs."""
    for entries, own_photos in ((rated, owner.rated), (unlabelled, owner.unlabelled)):
        all_photos = owner.unlabelled | owner.rated
        group_and_hash = {photo: (all_photos[photo].group, own_photos[photo].sha256) for photo in entries}
        linked = _near([own_photos[photo].phash for photo in entries], settings)
        names = np.array([group for group, _ in group_and_hash.values()], object)
        linked |= (names[:, None] == names) & (names != "")
        for _ in range(6):  # links over up to 64 steps
            linked = linked @ linked
        for index, (photo, entry) in enumerate(entries.items()):
            linked_photos = [
                pair for pair, is_linked in zip(group_and_hash.values(), linked[index], strict=True) if is_linked
            ]
            given_group = min((group for group, _ in linked_photos if group), default="")
            assert entry["group"] == (given_group or min(sha256 for _, sha256 in linked_photos)[:16]), photo


def _check_training_reads(dataset: Path, settings: Ingestion, faces: bool) -> None:
    """Check that training can read the data set, and that validation finds no photo in two splits."""
    assert photos.face_features(dataset).face == faces
    sizes = {"scale": 40, "crop": 32, "batch_size": 64}
    for batches in (
        photos.batches(dataset, "train+validation+test", **sizes),
        photos.augmented_batches(dataset, "train", **sizes, seed=1, epoch=0),
    ):
        for pixels, votes in batches.as_numpy_iterator():
            assert np.isfinite(pixels).all()
            np.testing.assert_allclose(votes.sum(1), 1, atol=1e-5)
    table = photos.table(dataset, "train")
    assert table["raters"].dtype == int
    assert len(photos.attributes(dataset, "train")) == len(table)
    assert leakage.find_leakage(collect.collect_statistics(dataset), settings.duplicate_distance).photo_count == 0


def live(seed: int, place: Workplace, runs: int = RUNS) -> None:
    """Live through ``runs`` ingestions: all changes in random order, a killed ingestion and another data set."""
    owner, rng = Owner(seed, bool(place.faces.face_detector)), np.random.default_rng(seed)
    other_owner = Owner(seed + 1, bool(place.faces.face_detector))
    other_owner.rated |= dict(list(owner.rated.items())[5:8])  # photos that both owners have under the same names
    place.ingest(owner)
    changes = [[] for _ in range(runs - 1)]
    for number, change in enumerate(rng.permutation(Owner.CHANGES)):
        changes[number % len(changes)].append(change)
    killed_run, run_of_other_owner = rng.choice(len(changes), 2, replace=False)
    for number, run_changes in enumerate(changes):
        for change in run_changes:
            getattr(owner, change)()
        if number == run_of_other_owner:
            place.ingest(other_owner, "other")
        if number == killed_run:
            place.killed(owner, after=int(rng.integers(1, 6)))
        place.ingest(owner, again=number == killed_run and bool(rng.integers(2)))


def place(folder: Path, workspace: str, *, faces: bool = False, **settings: str) -> Workplace:
    """Return a workplace with the default settings and the given changes; its data sets lie in the folder."""
    weights = Faces(**designed_faces.write(folder)) if faces else Faces()
    return Workplace(folder, workspace, replace(SETTINGS, **settings), weights)
