"""The life of a data set: what comes, goes and changes between ten runs of a workspace, and what holds after each.

A life is drawn by its seed: every change that photos, ratings and the tables about them go through occurs once, in any
order, and one run is killed. What is expected is worked out here anew, from the files alone.
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
    """A photo as its owner knows it; without scores nobody rated it."""

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
    """Photos by where they lie and what they are called, and the changes that they go through.

    Attributes:
        rated, unlabelled: the folders: photos by name. Photos of the first may have no scores, too.
        lost: ratings of photos that are not there.
        marks: places of the faces that a photo shows.
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
        self.copied()  # near duplicates and doubles are there from the start
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
        """Run again on what was there."""

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
        """A rated photo; the first ones, by which no split runs dry, are left alone."""
        return str(self.rng.choice(sorted(name for name in self.rated if self.rated[name].scores)[12:]))

    def _changed(self, name: str, **values: object) -> None:
        self.rated[name] = replace(self.rated[name], **values)

    @property
    def listed(self) -> dict[str, Photo]:
        """The rated photos."""
        return {name: photo for name, photo in self.rated.items() if photo.scores}


def _opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def _saved(data: bytes, quality: int) -> bytes:
    return jpeg(_opened(data), quality)


class Workplace:
    """Where an owner's photos are ingested, run after run."""

    def __init__(self, folder: Path, workspace: str, settings: Ingestion, faces: Faces) -> None:
        self.folder, self.workspace, self.settings, self.faces = folder, workspace, settings, faces
        self.run = 0
        self.fingerprints: dict[frozenset, str] = {}

    def call(self, owner: Owner, name: str = "photos", again: bool = False) -> dict:
        """The arguments of the next ingestion, or once more of the last, once the files lie as the owner has them."""
        self.run += not again
        place = self.folder / name
        for part, there in (("rated", owner.rated), ("unlabelled", owner.unlabelled)):
            for path in [path for path in (place / part).rglob("*") if path.is_file()]:
                path.unlink()
            for photo, about in there.items():
                (place / part / photo).parent.mkdir(parents=True, exist_ok=True)
                (place / part / photo).write_bytes(about.data)
        scores = owner.lost | {photo: about.scores for photo, about in owner.rated.items()}
        rows = [(photo, f"rater {r}", score) for photo, own in scores.items() for r, score in enumerate(own)]
        pd.DataFrame(rows, columns=["photo", "rater", "score"]).to_csv(place / "ratings.csv", index=False)
        # Of one name, the rated photo and the unlabelled one are told apart by nothing: what is said holds of both.
        known = owner.unlabelled | owner.rated
        about = [(photo, each.group, each.split, len(photo)) for photo, each in known.items()]
        pd.DataFrame(about, columns=["photo", "group", "split", "length"]).to_csv(place / "about.csv", index=False)
        out = self.folder / "out" / str(self.run)
        return {
            "photos": str(place / "rated"), "ratings": str(place / "ratings.csv"), "dataset": str(out / "dataset"),
            "report": str(out / "report.html"), "unlabelled": str(place / "unlabelled"),
            "attributes": str(place / "about.csv"), "workspace": RunPaths(self.workspace, f"run-{self.run}"),
            "settings": self.settings, "faces": self.faces,
        }  # fmt: skip

    def register(self) -> bytes:
        return storage.read_versioned(RunPaths(self.workspace, "").splits)[0] or b""

    def ingest(self, owner: Owner, name: str = "photos", again: bool = False) -> None:
        """Ingest and hold everything against what is expected."""
        before, call = _rows(self.register()), self.call(owner, name, again)
        shown = ingest.build_page
        outcomes = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                photo_inspection, "CHUNK_SIZE", 16 if self.run % 4 == 1 else 128
            )  # of one chunk no process is made
            patched.setattr(ingest, "page", lambda outcome, crops: outcomes.append(outcome) or shown(outcome, crops))
            found = ingest.ingest(**call)
        dataset, after = Path(call["dataset"]), _rows(self.register())
        splits = {split: [*photos.records(dataset, split)] for split in photos.counts(dataset)}
        rated = {
            each["photo_id"]: {**each, "split": split}
            for split in split_assignment.RATED_SPLITS
            for each in splits.get(split, ())
        }
        unlabelled = {each["photo_id"]: each for each in splits.get("unlabelled", ())}
        record = json.loads((dataset / "ingestion.json").read_text())

        assert sum(map(len, splits.values())) == len(rated) + len(unlabelled)
        _check_types(outcomes[0].table)
        _check_all_are_accounted_for(owner, rated, unlabelled, record)
        _check_votes(owner, rated, unlabelled)
        _check_splits(owner, rated, before)
        _check_nothing_is_parted(owner, rated, unlabelled, after, self.settings)
        _check_register(owner, rated, before, after)
        _check_groups(owner, rated, unlabelled, self.settings)
        self._check_fingerprint(owner, rated, unlabelled, found["fingerprint"])
        _check_training_reads(dataset, self.settings, bool(self.faces.face_detector))
        assert not storage.exists(call["workspace"].checkpoints("ingestion"))

    def killed(self, owner: Owner, after: int) -> None:
        """An ingestion that dies after so many writes, with its process and whatever it had in its hands."""
        call = self.folder / "call.pickle"
        call.write_bytes(pickle.dumps((self.call(owner), after)))
        code = f"from tests.end_to_end.life import _die; _die({str(call)!r})"
        ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True)
        assert ended.returncode == 9, ended.stderr.decode()

    def _check_fingerprint(self, owner: Owner, rated: dict, unlabelled: dict, fingerprint: str) -> None:
        """It is the same for the same data, and for no other."""
        data = frozenset(
            (photo, own[photo].sha256, each.get("split"), each["group"], each["raters"], each["votes"].tobytes())
            for entered, own in ((rated, owner.rated), (unlabelled, owner.unlabelled))
            for photo, each in entered.items()
        )
        assert self.fingerprints.setdefault(data, fingerprint) == fingerprint
        assert len(set(self.fingerprints.values())) == len(self.fingerprints)


def _die(call: str) -> None:
    """Ingest, and end this process at a write, as SIGKILL would: nothing is tidied up."""
    arguments, left = pickle.loads(Path(call).read_bytes())

    def dying(write: Callable) -> Callable:
        def written(*given: object, **more: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                os._exit(9)
            write(*given, **more)

        return written

    for place, name in (
        (storage, "write_bytes"),
        (storage, "write_if"),
        (tfds_writer, "write"),
        (tfds_writer, "_describe"),
    ):
        setattr(place, name, dying(getattr(place, name)))
    ingest.ingest(**arguments)


def _rows(register: bytes) -> pd.DataFrame:
    """The register by name and content of the photos."""
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
    wanted = {
        **photo_inspection.COLUMN_TYPES,
        "labelled": "bool",
        "raters": "int64",
        **dict.fromkeys(VOTE_COLUMNS, "float64"),
    }
    wanted |= {"split": "str", "group": "str", "attributes": "object"}
    assert {name: str(kind) for name, kind in table.dtypes.items()} == wanted


def _check_all_are_accounted_for(owner: Owner, rated: dict, unlabelled: dict, record: dict) -> None:
    """Each photo is in the data set or was left out for a reason that holds."""
    reasons = {(each["photo"], each["unlabelled"]): each["reason"] for each in record["left_out"]}
    late = {photo for (photo, side), reason in reasons.items() if not side and reason == "bridges two splits"}
    assert set(rated) == set(owner.listed) - late
    assert {photo for (photo, side), reason in reasons.items() if reason == "no photo"} == set(owner.lost)
    silent = {photo for photo, about in owner.rated.items() if not about.scores}
    assert {photo for (photo, side), reason in reasons.items() if reason == "no rating"} == silent
    twins = {photo for (photo, side), reason in reasons.items() if side and reason == "near a rated photo"}
    assert set(unlabelled) == set(owner.unlabelled) - twins
    assert record["counts"]["unlabelled"] == len(unlabelled)


def _check_votes(owner: Owner, rated: dict, unlabelled: dict) -> None:
    for photo, each in rated.items():
        votes = np.bincount(owner.rated[photo].scores, minlength=11)[1:] / RATERS
        np.testing.assert_allclose(each["votes"], votes, atol=1e-6)
        assert each["raters"] == RATERS
        assert each["attributes"] == {"length": str(len(photo))}
    assert not any(each["votes"].any() or each["raters"] for each in unlabelled.values())


def _check_splits(owner: Owner, rated: dict, before: pd.DataFrame) -> None:
    """A photo keeps the split that it had, also after it was away; a split that is given is honoured."""
    known = dict(zip(before.index.get_level_values("sha256") if len(before) else (), before["split"], strict=True))
    given = {about.split for about in owner.listed.values()}
    drawn = "train" in given and "validation" not in given  # of those given to training, some are for validation
    for photo, each in rated.items():
        own = owner.rated[photo]
        if own.split:
            assert each["split"] == own.split or (drawn and own.split == "train" and each["split"] == "validation")
        elif own.sha256 in known:
            assert each["split"] == known[own.sha256]
    free = not any(about.split or about.group for about in owner.listed.values())
    if free and not set(before["group"]) - {""}:
        assert {photo for photo, about in owner.listed.items() if about.sha256 in known} <= set(rated)


def _check_nothing_is_parted(
    owner: Owner, rated: dict, unlabelled: dict, after: pd.DataFrame, settings: Ingestion
) -> None:
    """Photos alike, or of one group, lie in one split, gone ones included; none that is held out is unlabelled."""
    near = _near([bytes.fromhex(value) for value in after["phash"]], settings)
    split = after["split"].to_numpy()
    assert (split[:, None] == split)[near].all()
    for name in GROUPS:
        assert len({each["split"] for photo, each in rated.items() if owner.rated[photo].group == name}) <= 1
    held = [bytes.fromhex(value) for value in after["phash"][after["split"] != "train"]]
    entered = [owner.rated[photo].phash for photo in rated]
    for photo in unlabelled:
        assert not _near([owner.unlabelled[photo].phash, *held, *entered], settings)[0, 1:].any()


def _near(hashes: list[bytes], settings: Ingestion) -> np.ndarray:
    bits = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1)
    return np.bitwise_count(bits[:, None] ^ bits).sum(-1) <= settings.duplicate_distance


def _check_register(owner: Owner, rated: dict, before: pd.DataFrame, after: pd.DataFrame) -> None:
    """It has this run's photos, and the earlier ones as they were unless a given split has moved them."""
    now = {owner.rated[photo].sha256: each["split"] for photo, each in rated.items()}
    for photo, each in rated.items():
        own = owner.rated[photo]
        row = after.loc[(photo, own.sha256)]
        assert (row["split"], row["phash"], row["group"]) == (each["split"], own.phash.hex(), own.group)
    kept = {key: split for key, split in before["split"].items() if now.get(key[1], split) == split}
    entered = {(photo, owner.rated[photo].sha256): each["split"] for photo, each in rated.items()}
    assert after["split"].to_dict() == kept | entered


def _check_groups(owner: Owner, rated: dict, unlabelled: dict, settings: Ingestion) -> None:
    """A group is what the data set's own photos make it, whatever lay beside them once."""
    for entered, there in ((rated, owner.rated), (unlabelled, owner.unlabelled)):
        known = owner.unlabelled | owner.rated
        own = {photo: (known[photo].group, there[photo].sha256) for photo in entered}
        linked = _near([there[photo].phash for photo in entered], settings)
        names = np.array([group for group, _ in own.values()], object)
        linked |= (names[:, None] == names) & (names != "")
        for _ in range(6):  # friends of friends, to the 64th
            linked = linked @ linked
        for place, (photo, each) in enumerate(entered.items()):
            friends = [known for known, is_one in zip(own.values(), linked[place], strict=True) if is_one]
            given = min((group for group, _ in friends if group), default="")
            assert each["group"] == (given or min(sha256 for _, sha256 in friends)[:16]), photo


def _check_training_reads(dataset: Path, settings: Ingestion, faces: bool) -> None:
    """Training's reading takes it, and validation, which trusts nothing, finds no photo in two splits."""
    assert photos.face_features(dataset).face == faces
    sizes = {"scale": 40, "crop": 32, "batch_size": 64}
    for made in (
        photos.batches(dataset, "train+validation+test", **sizes),
        photos.augmented_batches(dataset, "train", **sizes, seed=1, epoch=0),
    ):
        for pixels, votes in made.as_numpy_iterator():
            assert np.isfinite(pixels).all()
            np.testing.assert_allclose(votes.sum(1), 1, atol=1e-5)
    table = photos.table(dataset, "train")
    assert table["raters"].dtype == int
    assert len(photos.attributes(dataset, "train")) == len(table)
    assert leakage.find_leakage(collect.collect_statistics(dataset), settings.duplicate_distance).photo_count == 0


def live(seed: int, place: Workplace, runs: int = RUNS) -> None:
    """A life of so many runs: all changes in drawn order, some at a time, a killed run and another data set."""
    owner, rng = Owner(seed, bool(place.faces.face_detector)), np.random.default_rng(seed)
    other = Owner(seed + 1, bool(place.faces.face_detector))
    other.rated |= dict(list(owner.rated.items())[5:8])  # known to both, under the same names
    place.ingest(owner)
    changes = [[] for _ in range(runs - 1)]
    for number, change in enumerate(rng.permutation(Owner.CHANGES)):
        changes[number % len(changes)].append(change)
    killed, another = rng.choice(len(changes), 2, replace=False)
    for number, some in enumerate(changes):
        for change in some:
            getattr(owner, change)()
        if number == another:
            place.ingest(other, "other")
        if number == killed:
            place.killed(owner, after=int(rng.integers(1, 6)))
        place.ingest(owner, again=number == killed and bool(rng.integers(2)))


def place(folder: Path, workspace: str, *, faces: bool = False, **settings: str) -> Workplace:
    """A workplace with the settings of every life and some of its own; its data sets lie in the folder."""
    weights = Faces(**designed_faces.write(folder)) if faces else Faces()
    return Workplace(folder, workspace, replace(SETTINGS, **settings), weights)
