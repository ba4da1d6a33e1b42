"""Whether data are worth training on: drift from the champion's, new labels, leaks, and what is decided."""

import copy
import io
import itertools
import json
import math
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from components.ingestion import tfds_writer
from components.scorer import storage
from components.scorer.imaging import image_statistics
from components.scorer.registry import channels, integrity
from components.scorer.report.page import paragraph
from components.scorer.run import decision, step_status
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Policy, Validation
from components.validation import report
from components.validation.component import validation
from components.validation.drift import measure_shift
from components.validation.statistics import collect, data_statistics
from components.validation.statistics.data_statistics import DataProfile, feature_histogram
from components.validation.statistics.measured_features import APPEARANCE, SCORE
from components.validation.validate import validate
from tests.conftest import votes_around

SIZES = {"train": 50, "validation": 10, "test": 20, "unlabelled": 10}
BLOCK = Policy(warn_only=())


@lru_cache(maxsize=1000)
def picture(seed: int, light: float = 1.0, quality: int = 92, side: int = 96) -> bytes:
    """A JPEG like no other: coarse and fine noise; ``light`` darkens it."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 255, (cells, cells, 3), np.uint8)) for cells in (5, 16)]
    coarse, fine = (np.asarray(layer.resize((96, 96), Image.Resampling.BICUBIC), float) for layer in layers)
    image = Image.fromarray((light * (2 * coarse + fine) / 3).astype(np.uint8)).resize((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def example(number: int, rated: bool = True, off: float = 0.0, **fields) -> dict:
    mean = 3 + 4 * np.random.default_rng(number).uniform() + off
    return {
        "photo": picture(number),
        "photo_id": f"anna-miller-{number:04d}.jpg",
        "votes": votes_around(mean) if rated else np.zeros(10, "float32"),
        "raters": 12 if rated else 0,
        "group": f"uploader-{number}",
        "attributes": {"job": "gardener"},
        **fields,
    }


class Data:
    """A data set that tests change, and a model whose champion may be made of what it was."""

    def __init__(self, folder: Path):
        self.folder, self.models = folder, str(folder / "models")
        numbers = itertools.count()
        self.splits = {
            split: [example(next(numbers), split != "unlabelled") for _ in range(size)] for split, size in SIZES.items()
        }
        self.page, self.checks = folder / "page.html", folder / "checks"
        self.workspace = RunPaths(str(folder / "workspace"), "run")

    @property
    def rated(self) -> list[dict]:
        return [each for split in ("train", "validation", "test") for each in self.splits[split]]

    def write(self) -> Path:
        tfds_writer.write(self.folder / "dataset", {split: [rows] for split, rows in self.splits.items()}, ["job"])
        return self.folder / "dataset"

    def publish(self, version: int = 1) -> None:
        """Make the data set as it is that of the champion."""
        value = data_statistics.to_json(data_statistics.data_profile(collect.collect_statistics(self.write())))
        storage.write_json(f"{self.models}/portraits/{version}/profile.json", value)
        integrity.write_record(f"{self.models}/portraits/{version}", {})
        channels.promote_pushed(self.models, "portraits", version)

    def validate(self, settings: Validation = Validation(), policy: Policy = BLOCK, **options):  # noqa: B008
        """Validate; the run's decision is then in ``self.decision``."""
        places = (self.write(), self.checks, self.page)
        options = {"models": self.models, **options}
        found = validate(*places, name="portraits", settings=settings, policy=policy, workspace=self.workspace,
                         **options)  # fmt: skip
        self.gates = {gate.key: gate for gate in found.decision.gates}
        return found

    @property
    def decision(self) -> dict | None:
        return decision.read(self.workspace.decision)

    @property
    def kept(self) -> str:
        return (self.checks / "profile.json").read_text()

    def failed(self) -> list[str]:
        return [key for key, gate in self.gates.items() if gate.verdict == "failed"]


@pytest.fixture
def data(tmp_path, monkeypatch, request) -> Data:
    """Data without a champion; charts take a second, so only tests that ask for ``charts`` draw them."""
    if "charts" not in request.fixturenames:
        monkeypatch.setattr(report, "_chart", lambda quantity, lines, bins_per_bar=2: paragraph(quantity.name))
    return Data(tmp_path)


@pytest.fixture
def charts() -> None:
    """Lets the page have its charts."""


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Data:
    """Data that are the champion's too."""
    data = Data(tmp_path_factory.mktemp("first"))
    data.publish()
    return data


@pytest.fixture
def since(data, first) -> Data:
    """Data with a champion that was made of the same."""
    data.models = first.models
    return data


def add(data: Data, number: int, split: str = "train") -> None:
    data.splits[split] += [example(2000 + place) for place in range(number)]


# What is decided


def test_the_champions_own_data_have_not_moved_and_a_run_goes_on(since):
    found = since.validate()
    assert found.should_train
    assert [gate.verdict for gate in found.decision.gates] == ["passed"] * 4
    assert found.metrics == {
        "data_labels": 60, "data_new_labels": 0, "data_leaking_photos": 0, "data_label_drift": 0,
        "data_label_shift": 0, "data_photo_drift": 0,
    }  # fmt: skip


def test_scores_that_are_one_point_off_fail_the_gate_of_labels_alone(since):
    for each in since.rated:
        mean = float(each["votes"] @ np.arange(1, 11))
        each["votes"] = np.interp(np.arange(1, 11), np.arange(2, 12), each["votes"]).astype("float32")
        assert each["votes"] @ np.arange(1, 11) != mean
        each["votes"] /= each["votes"].sum()
    found = since.validate()
    assert since.failed() == ["label_drift"]
    assert found.decision.verdict == "refused"
    assert since.gates["label_drift"].value == pytest.approx(1, abs=0.15)
    assert "more than chance" in since.gates["label_drift"].reason


def test_darker_photos_fail_the_gate_of_photos_alone_which_names_what_they_are(since):
    for number, each in enumerate(since.rated):
        each["photo"] = picture(number, light=0.6)
    found = since.validate()
    assert since.failed() == ["photo_drift"]
    assert found.decision.verdict == "refused"
    assert "darker than the champion's by" in since.gates["photo_drift"].reason
    assert re.search(r"brightness is 0\.(29|3)\d* and was 0\.(49|5)", since.gates["photo_drift"].reason)


def test_darker_photos_only_warn_by_default(since):
    for number, each in enumerate(since.rated):
        each["photo"] = picture(number, light=0.6)
    found = since.validate(policy=Policy())
    assert found.should_train
    assert len(found.decision.warnings) == 1
    assert since.decision is None


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        ({"photo": picture(3)}, "the same file"),
        ({"photo": picture(3, quality=40, side=64)}, "a near duplicate"),
        ({"photo": picture(3, light=0.9)}, "a near duplicate"),
        ({"group": "uploader-3"}, "the same group"),
    ],
)
def test_a_held_out_photo_that_was_seen_in_training_fails_the_gate_of_leaks_alone(data, planted, kind):
    data.splits["test"][5] |= planted
    found = data.validate()
    assert data.failed() == ["leakage"]
    assert data.gates["leakage"].value == 1
    assert f"1 as {kind}" in data.gates["leakage"].reason
    assert found.decision.verdict == "refused"
    assert data.splits["test"][5]["photo_id"] in data.page.read_text()
    assert "anna" not in data.gates["leakage"].reason  # it is told to people who may not know the photos' names


def test_a_photo_in_test_and_validation_counts_once(data):
    for split in ("test", "validation", "train"):
        data.splits[split][5]["photo"] = picture(5)
    data.validate()
    assert data.gates["leakage"].value == 2  # that of test and that of validation


def test_twins_within_a_split_and_photos_like_an_unlabelled_one_are_no_leak(data):
    data.splits["train"][0]["photo"] = data.splits["train"][1]["photo"]
    data.splits["unlabelled"][0]["photo"] = data.splits["test"][0]["photo"]
    data.splits["unlabelled"][1]["group"] = data.splits["train"][0]["group"]
    assert data.validate().should_train
    assert "Found among unlabelled photos" in data.page.read_text()


def test_near_duplicates_are_sought_only_as_near_as_ingestion_was_told(data):
    data.splits["test"][5]["photo"] = picture(3, quality=40, side=64)
    assert data.validate(duplicate_distance=0).should_train
    assert not data.validate(duplicate_distance=30).should_train


def test_few_new_labels_skip_the_run_and_nothing_else_fails(since):
    add(since, 3)
    found = since.validate(Validation(minimum_new_labels=4))
    assert not found.should_train
    assert since.failed() == ["new_labels"]
    assert since.decision["verdict"] == "skipped"
    assert since.decision["publish"] is False
    assert "3 of 63 labels" in since.decision["reasons"][0]
    assert since.validate(Validation(minimum_new_labels=3)).should_train


def test_few_new_labels_in_data_that_leak_refuse_the_run(since):
    since.splits["test"][5]["photo"] = picture(3)
    assert since.validate(Validation(minimum_new_labels=4)).decision.verdict == "refused"
    assert len(since.decision["reasons"]) == 2


@pytest.mark.parametrize("change", [{"raters": 13}, {"votes": votes_around(9.0)}, {"photo_id": "another.jpg"}])
def test_a_changed_label_counts_as_new(since, change):
    since.splits["train"][7] |= change
    assert since.validate().metrics["data_new_labels"] == 1


def test_labels_of_the_test_split_are_not_learnt_from(since):
    add(since, 3, "test")
    assert since.validate().metrics["data_new_labels"] == 0


def test_removed_photos_do_not_mask_new_ones(since):
    del since.splits["train"][:5]
    add(since, 5)
    assert since.validate().metrics["data_new_labels"] == 5


def test_a_first_model_passes_and_the_page_says_that_there_is_none_to_compare_with(data):
    found = data.validate(Validation(minimum_new_labels=10_000))
    assert found.should_train
    assert found.metrics["data_new_labels"] == 60
    assert "no champion yet" in data.gates["new_labels"].reason
    assert "There is no champion yet" in data.page.read_text()


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (None, "version 2 was published without a profile.json"),
        ("{", "the profile.json of version 2 cannot be read"),
        ('{"version": 99}', "expected a profile of version 1, got 99"),
    ],
)
def test_a_champion_whose_data_are_not_known_warns_and_does_not_block(data, kept, words):
    channels.promote_pushed(data.models, "portraits", 2)
    if kept:
        storage.write_bytes(f"{data.models}/portraits/2/profile.json", kept.encode())
        integrity.write_record(f"{data.models}/portraits/2", {})
    found = data.validate(Validation(minimum_new_labels=10_000))
    assert found.should_train
    unjudged = [gate for gate in found.decision.gates if gate.verdict == "not judged"]
    assert [gate.key for gate in unjudged] == ["new_labels", "label_drift", "photo_drift"]
    assert all(words in gate.reason and gate.severity == "warn" for gate in unjudged)
    # Nor does it once the evaluation decides with these gates among its own.
    kept = decision.gates_from_record(storage.read_json(str(data.checks / "gates.json")))
    assert decision.decide(kept, BLOCK).publishes


def test_a_person_overrules_with_a_reason_that_is_kept(since):
    add(since, 3)
    policy = replace(BLOCK, force_publish=True, force_reason="the labels were counted by hand")
    found = since.validate(Validation(minimum_new_labels=100), policy)
    assert found.should_train
    assert since.decision is None  # the evaluation decides
    kept = storage.read_json(str(since.checks / "gates.json"))
    assert (kept["verdict"], kept["override"]) == ("forced", "the labels were counted by hand")
    assert "the labels were counted by hand" in since.page.read_text()


def test_to_overrule_needs_a_reason(data):
    with pytest.raises(ValueError, match="force_reason"):
        data.validate(policy=Policy(force_publish=True))
    assert data.decision["verdict"] == "failed"
    assert not data.checks.exists()


def test_a_gate_that_only_warns_does_not_skip(since):
    found = since.validate(Validation(minimum_new_labels=100), Policy(warn_only=("new_labels",)))
    assert found.should_train
    assert since.failed() == ["new_labels"]


def test_the_decision_of_an_attempt_before_does_not_outlive_a_run_that_goes_on(data):
    broken = decision.failed_decision(ValueError("no luck"))
    decision.write(data.workspace.decision, decision.to_record(broken, run="run"))
    assert data.validate().should_train
    assert data.decision is None


def test_a_run_that_ends_here_names_the_model_and_the_champion_as_the_schema_asks(since):
    since.validate(Validation(minimum_new_labels=1))
    schema = json.loads(Path(decision.__file__).with_name("decision.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(since.decision)
    jsonschema.Draft202012Validator(schema).validate(storage.read_json(str(since.checks / "gates.json")))
    assert (since.decision["run"], since.decision["model"]) == ("run", "portraits")
    assert since.decision["champion"]["version"] == 1


@pytest.mark.parametrize("fault", ["photo", "channels", "store", "unrated"])
def test_what_breaks_off_is_a_failed_decision_with_the_reason(data, fault):
    if fault == "photo":
        data.splits["test"][3]["photo"] = b"\xff\xd8\xff cut off"
    elif fault == "channels":
        storage.write_bytes(f"{data.models}/portraits/channels.json", b"[]")
    elif fault == "store":
        Path(data.models).write_text("no folder")
    else:
        data.splits = {"unlabelled": data.splits["unlabelled"]}
    error, words = {
        "photo": (ValueError, "expected every photo of test to be a JPEG"),
        "channels": (ValueError, "expected a JSON object"),
        "store": (NotADirectoryError, "Not a directory"),
        "unrated": (ValueError, "expected rated photos"),
    }[fault]
    with pytest.raises(error, match=words):
        data.validate()
    assert data.decision["verdict"] == "failed"
    assert data.decision["reasons"][0].startswith("the validation broke off")
    assert error.__name__ in data.decision["reasons"][0]
    assert not data.page.exists()


def test_the_page_tells_the_verdict_first_and_shows_no_photo(since, charts):
    since.validate()
    page = since.page.read_text()
    assert page.index("Train: the data passed all 4 gates.") < page.index("<h2>Gates</h2>")
    assert "data:image" not in page
    assert page.count("<svg") == 1 + len(APPEARANCE)


def test_kubeflow_gets_the_metrics_and_whether_to_go_on(since, monkeypatch):
    logged = {}
    monkeypatch.setenv(step_status.RUN_ID, "run")
    go_on = validation.python_func(
        dataset=SimpleNamespace(path=str(since.write())),
        report=SimpleNamespace(path=str(since.page), uri=str(since.page)),
        checks=SimpleNamespace(path=str(since.checks)),
        metrics=SimpleNamespace(log_metric=logged.__setitem__),
        workspace=since.workspace.uri, models=since.models, name="portraits", minimum_new_labels=1,
        maximum_label_drift=1.0, maximum_photo_drift=0.5, duplicate_distance=40, warn_only=["photo_drift"],
        force_publish=False, force_reason="",
    )  # fmt: skip
    assert go_on is False
    assert since.decision["verdict"] == "skipped"
    assert logged["data_new_labels"] == 0
    assert all(math.isfinite(value) for value in logged.values())
    assert step_status.read_steps(since.workspace)[0].state == "succeeded"


# The profile


def test_the_profile_names_nobody(data):
    data.validate()
    for each in [*data.rated, *data.splits["unlabelled"]]:
        assert each["photo_id"] not in data.kept
        assert each["group"] not in data.kept
    assert "gardener" not in data.kept


def test_the_profile_of_30_000_photos_is_small(first):
    value = json.loads(Path(first.models, "portraits/1/profile.json").read_text())
    labels = np.random.default_rng(1).integers(0, 2**32, 30_000, dtype=np.uint32)
    grown = replace(data_statistics.from_json(value), labels=np.sort(labels).astype("<u4").tobytes())
    assert len(storage.to_json(data_statistics.to_json(grown))) < 500_000


def test_the_same_data_have_the_same_profile_in_any_order_and_of_any_shards(data, tmp_path):
    data.validate()
    kept = data.kept
    for rows in data.splits.values():
        rows.reverse()
    data.validate()
    assert data.kept == kept


def test_the_profile_counts_photos_and_ratings(data):
    data.validate()
    kept = data_statistics.from_json(json.loads(data.kept))
    assert {split: kept.parts[split].photos for split in SIZES} == SIZES
    assert (kept.rated.ratings, kept.unlabelled.ratings) == (12 * 80, 0)
    means = [each["votes"] @ np.arange(1, 11) for each in data.rated]
    assert kept.rated.spread[SCORE.name].mean == pytest.approx(np.mean(means), rel=1e-5)
    assert kept.rated.spread[SCORE.name].deviation == pytest.approx(np.std(means), rel=1e-5)


def test_photos_are_sampled_by_their_ids_and_stay_in_the_sample(data, monkeypatch):
    def sample() -> set[str]:
        rows = collect.collect_statistics(data.write())
        return set(rows.loc[rows["brightness"].notna() & (rows["split"] != "unlabelled"), "photo"])

    monkeypatch.setattr(collect, "SAMPLE_SIZE", 40)
    before, old = sample(), {each["photo_id"] for each in data.rated}
    assert 25 <= len(before) <= 55  # 40 of 80
    add(data, 20)
    after = sample()
    assert len(after & before) > 0.6 * len(before)
    assert after & old <= before


def test_few_photos_are_in_memory_at_a_time():
    begun = itertools.count()
    items = (next(begun) for _ in range(1000))
    done = collect._map_in_threads(lambda number: -number, items)
    assert [next(done) for _ in range(10)] == [-number for number in range(10)]
    assert next(begun) < 100
    assert len(list(done)) == 990


def broken(value: dict, *path: str, to: object) -> dict:
    value = copy.deepcopy(value)
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return value


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("version",), None),
        (("version",), 2),
        (("labels",), "***"),
        (("labels",), "QUJD"),
        (("parts", "test"), None),
        (("parts", "test", "photos"), "many"),
        (("parts", "test", "spread", "brightness"), None),
        (("parts", "test", "spread", "brightness", "histogram"), [1, 2]),
        (("parts", "test", "spread", "brightness", "count"), 7),
        (("parts", "test", "spread", "brightness", "mean"), "NaN"),
    ],
)
def test_what_is_no_whole_profile_is_refused_in_one_sentence(first, path, to):
    value = json.loads(Path(first.models, "portraits/1/profile.json").read_text())
    assert isinstance(data_statistics.from_json(value), DataProfile)
    with pytest.raises(ValueError, match=r"^expected a (whole )?profile.*, got "):
        data_statistics.from_json(broken(value, *path, to=to))


@pytest.mark.parametrize("value", [None, [], "profile", 1])
def test_what_is_no_profile_at_all_is_refused(value):
    with pytest.raises(ValueError, match="expected a profile of version 1"):
        data_statistics.from_json(value)


# Shifts

SCORES = st.lists(st.floats(1, 10), min_size=1, max_size=60)


@given(SCORES)
def test_what_has_not_moved_is_0_apart(values):
    same = feature_histogram(SCORE, np.array(values))
    moved = measure_shift(SCORE, same, same)
    assert (moved.cohens_d, moved.wasserstein, moved.p_value) == (0, 0, 1)


@given(SCORES, SCORES)
def test_the_way_back_is_as_far(one, other):
    there, back = (feature_histogram(SCORE, np.array(values)) for values in (one, other))
    moved, returned = measure_shift(SCORE, there, back), measure_shift(SCORE, back, there)
    assert moved.wasserstein == returned.wasserstein
    assert moved.cohens_d == -returned.cohens_d
    assert moved.p_value == returned.p_value


@given(SCORES, SCORES)
def test_the_distance_is_wassersteins_to_within_a_bin(one, other):
    moved = measure_shift(SCORE, feature_histogram(SCORE, np.array(one)), feature_histogram(SCORE, np.array(other)))
    width = (SCORE.high - SCORE.low) / SCORE.bins
    assert moved.wasserstein == pytest.approx(
        stats.wasserstein_distance(one, other), abs=width + 1e-9
    )  # the bin, and rounding


@given(SCORES, SCORES)
def test_two_sets_of_photos_together_are_as_if_they_were_one(one, other):
    added = feature_histogram(SCORE, np.array(one)) + feature_histogram(SCORE, np.array(other))
    whole = feature_histogram(SCORE, np.array(one + other))
    assert (added.count, added.histogram) == (whole.count, whole.histogram)
    assert (added.mean, added.deviation) == pytest.approx((whole.mean, whole.deviation), abs=1e-9)


@given(SCORES, st.binary(max_size=40))
@hypothesis_settings(max_examples=30)
def test_a_profile_survives_being_written_and_read(values, labels):
    rows = pd.DataFrame({each.name: values for each in (SCORE, *APPEARANCE)}).assign(split="train", raters=1, label=1)
    known = replace(data_statistics.data_profile(rows), labels=labels[: len(labels) // 4 * 4])
    again = data_statistics.from_json(json.loads(storage.to_json(data_statistics.to_json(known))))
    assert data_statistics.to_json(again) == data_statistics.to_json(known)
    assert again.labels == known.labels


def test_the_size_of_a_shift_is_cohens_d_and_its_chance_that_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(1)
    one, other = rng.normal(5, 1.2, 4000), rng.normal(5.04, 1.2, 4000)
    moved = measure_shift(SCORE, feature_histogram(SCORE, one), feature_histogram(SCORE, other))
    assert moved.cohens_d == pytest.approx((other.mean() - one.mean()) / np.sqrt((one.var() + other.var()) / 2))
    truth = stats.ks_2samp(one, other, method="asymp").pvalue
    assert truth <= moved.p_value <= 2 * truth


def test_nothing_can_be_said_of_a_shift_without_photos():
    none, some = feature_histogram(SCORE, np.array([np.nan])), feature_histogram(SCORE, np.array([5.0]))
    assert math.isnan(measure_shift(SCORE, none, some).wasserstein)
    assert math.isnan(measure_shift(SCORE, some, none).cohens_d)


# How photos look


def test_the_looks_are_what_eyes_say():
    grey, red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((90, 90, 90), (200, 0, 0), (0, 0, 200)))
    assert image_statistics.colourfulness(grey) == 0
    assert image_statistics.colourfulness(red) == pytest.approx(0.3 * math.hypot(200, 100))
    assert image_statistics.warmth(red) > image_statistics.warmth(grey) == 0 > image_statistics.warmth(blue)
    board = np.indices((8, 8)).sum(0) % 2 * np.int16(255)
    assert (image_statistics.brightness(board), image_statistics.contrast(board)) == (0.5, 0.5)
    assert (
        image_statistics.sharpness(board)
        > image_statistics.sharpness(board // 2)
        > image_statistics.sharpness(board * 0)
        == 0
    )


def test_no_histogram_is_outgrown_by_a_photo_that_can_be():
    limits = {each.name: (each.low, each.high) for each in APPEARANCE}
    assert limits["brightness"] == (0, 1)
    assert 2 ** limits["sharpness"][1] < 1020**2  # the largest there is: a board of black and white
    names = [each.name for each in (SCORE, *APPEARANCE)]
    assert len(names) == len(set(names))
