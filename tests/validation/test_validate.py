"""Validation of a data set: drift from the champion's data, new labels, leaks and the decision."""

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

pytestmark = pytest.mark.slow

SIZES = {"train": 50, "validation": 10, "test": 20, "unlabelled": 10}
BLOCK = Policy(warn_only=())


@lru_cache(maxsize=1000)
def picture(seed: int, light: float = 1.0, quality: int = 92, side: int = 96) -> bytes:
    """Return a unique JPEG of coarse and fine noise, darkened by a factor ``light`` below 1."""
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
    """A data set that tests change, and a models folder for a champion trained on it."""

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
        return [record for split in ("train", "validation", "test") for record in self.splits[split]]

    def write(self) -> Path:
        tfds_writer.write(self.folder / "dataset", {split: [rows] for split, rows in self.splits.items()}, ["job"])
        return self.folder / "dataset"

    def publish(self, version: int = 1) -> None:
        """Publish a champion with the profile of the current data set."""
        value = data_statistics.to_json(data_statistics.data_profile(collect.collect_statistics(self.write())))
        storage.write_json(f"{self.models}/portraits/{version}/profile.json", value)
        integrity.write_record(f"{self.models}/portraits/{version}", {})
        channels.promote_pushed(self.models, "portraits", version)

    def validate(self, settings: Validation = Validation(), policy: Policy = BLOCK, **options):  # noqa: B008
        """Validate the data set and keep its gates in ``self.gates``."""
        paths = (self.write(), self.checks, self.page)
        options = {"models": self.models, **options}
        result = validate(*paths, name="portraits", settings=settings, policy=policy, workspace=self.workspace,
                         **options)  # fmt: skip
        self.gates = {gate.key: gate for gate in result.decision.gates}
        return result

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
    """Data without a champion; only tests with the fixture ``charts`` draw charts, which take a second."""
    if "charts" not in request.fixturenames:
        monkeypatch.setattr(report, "_chart", lambda quantity, lines, bins_per_bar=2: paragraph(quantity.name))
    return Data(tmp_path)


@pytest.fixture
def charts() -> None:
    """Marks tests that draw the charts of the page."""


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Data:
    """Data with a champion of the same data."""
    data = Data(tmp_path_factory.mktemp("first"))
    data.publish()
    return data


@pytest.fixture
def since(data, first) -> Data:
    """Changeable data with the champion of the same data."""
    data.models = first.models
    return data


def add(data: Data, number: int, split: str = "train") -> None:
    data.splits[split] += [example(2000 + offset) for offset in range(number)]


# Decisions


def test_the_champions_own_data_pass_all_gates(since):
    result = since.validate()
    assert result.should_train
    assert [gate.verdict for gate in result.decision.gates] == ["passed"] * 4
    assert result.metrics == {
        "data_labels": 60, "data_new_labels": 0, "data_leaking_photos": 0, "data_label_drift": 0,
        "data_label_shift": 0, "data_photo_drift": 0,
    }  # fmt: skip


def test_scores_shifted_by_one_point_fail_the_label_drift_gate_only(since):
    for record in since.rated:
        mean = float(record["votes"] @ np.arange(1, 11))
        record["votes"] = np.interp(np.arange(1, 11), np.arange(2, 12), record["votes"]).astype("float32")
        assert record["votes"] @ np.arange(1, 11) != mean
        record["votes"] /= record["votes"].sum()
    result = since.validate()
    assert since.failed() == ["label_drift"]
    assert result.decision.verdict == "refused"
    assert since.gates["label_drift"].value == pytest.approx(1, abs=0.15)
    assert "more than chance" in since.gates["label_drift"].reason


def test_darker_photos_fail_the_photo_drift_gate_only_and_its_reason_names_brightness(since):
    for number, record in enumerate(since.rated):
        record["photo"] = picture(number, light=0.6)
    result = since.validate()
    assert since.failed() == ["photo_drift"]
    assert result.decision.verdict == "refused"
    assert "darker than the champion's by" in since.gates["photo_drift"].reason
    assert re.search(r"brightness is 0\.(29|3)\d* and was 0\.(49|5)", since.gates["photo_drift"].reason)


def test_darker_photos_only_warn_by_default(since):
    for number, record in enumerate(since.rated):
        record["photo"] = picture(number, light=0.6)
    result = since.validate(policy=Policy())
    assert result.should_train
    assert len(result.decision.warnings) == 1
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
def test_a_held_out_photo_in_the_training_split_fails_the_leakage_gate_only(data, planted, kind):
    data.splits["test"][5] |= planted
    result = data.validate()
    assert data.failed() == ["leakage"]
    assert data.gates["leakage"].value == 1
    assert f"1 as {kind}" in data.gates["leakage"].reason
    assert result.decision.verdict == "refused"
    assert data.splits["test"][5]["photo_id"] in data.page.read_text()
    assert "anna" not in data.gates["leakage"].reason  # recipients of the reason may not see photo names


def test_a_photo_in_train_validation_and_test_counts_once_for_each_held_out_split(data):
    for split in ("test", "validation", "train"):
        data.splits[split][5]["photo"] = picture(5)
    data.validate()
    assert data.gates["leakage"].value == 2  # the photo of test and the photo of validation


def test_duplicates_within_a_split_or_among_unlabelled_photos_are_not_leaks(data):
    data.splits["train"][0]["photo"] = data.splits["train"][1]["photo"]
    data.splits["unlabelled"][0]["photo"] = data.splits["test"][0]["photo"]
    data.splits["unlabelled"][1]["group"] = data.splits["train"][0]["group"]
    assert data.validate().should_train
    assert "Found among unlabelled photos" in data.page.read_text()


def test_near_duplicates_are_found_within_the_distance_of_ingestion(data):
    data.splits["test"][5]["photo"] = picture(3, quality=40, side=64)
    assert data.validate(duplicate_distance=0).should_train
    assert not data.validate(duplicate_distance=30).should_train


def test_too_few_new_labels_skip_the_run(since):
    add(since, 3)
    result = since.validate(Validation(minimum_new_labels=4))
    assert not result.should_train
    assert since.failed() == ["new_labels"]
    assert since.decision["verdict"] == "skipped"
    assert since.decision["publish"] is False
    assert "3 of 63 labels" in since.decision["reasons"][0]
    assert since.validate(Validation(minimum_new_labels=3)).should_train


def test_too_few_new_labels_in_leaking_data_refuse_the_run(since):
    since.splits["test"][5]["photo"] = picture(3)
    assert since.validate(Validation(minimum_new_labels=4)).decision.verdict == "refused"
    assert len(since.decision["reasons"]) == 2


@pytest.mark.parametrize("change", [{"raters": 13}, {"votes": votes_around(9.0)}, {"photo_id": "another.jpg"}])
def test_a_changed_label_counts_as_new(since, change):
    since.splits["train"][7] |= change
    assert since.validate().metrics["data_new_labels"] == 1


def test_new_labels_of_the_test_split_do_not_count(since):
    add(since, 3, "test")
    assert since.validate().metrics["data_new_labels"] == 0


def test_removed_photos_do_not_mask_new_ones(since):
    del since.splits["train"][:5]
    add(since, 5)
    assert since.validate().metrics["data_new_labels"] == 5


def test_a_first_model_passes_and_the_page_says_that_there_is_no_champion(data):
    result = data.validate(Validation(minimum_new_labels=10_000))
    assert result.should_train
    assert result.metrics["data_new_labels"] == 60
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
def test_a_champion_with_an_unreadable_profile_warns_and_does_not_block(data, kept, words):
    channels.promote_pushed(data.models, "portraits", 2)
    if kept:
        storage.write_bytes(f"{data.models}/portraits/2/profile.json", kept.encode())
        integrity.write_record(f"{data.models}/portraits/2", {})
    result = data.validate(Validation(minimum_new_labels=10_000))
    assert result.should_train
    unjudged = [gate for gate in result.decision.gates if gate.verdict == "not judged"]
    assert [gate.key for gate in unjudged] == ["new_labels", "label_drift", "photo_drift"]
    assert all(words in gate.reason and gate.severity == "warn" for gate in unjudged)
    # These gates do not block the decision of evaluation either.
    kept = decision.gates_from_record(storage.read_json(str(data.checks / "gates.json")))
    assert decision.decide(kept, BLOCK).publishes


def test_an_override_trains_and_its_reason_is_kept(since):
    add(since, 3)
    policy = replace(BLOCK, force_publish=True, force_reason="the labels were counted by hand")
    result = since.validate(Validation(minimum_new_labels=100), policy)
    assert result.should_train
    assert since.decision is None  # the evaluation decides
    record = storage.read_json(str(since.checks / "gates.json"))
    assert (record["verdict"], record["override"]) == ("forced", "the labels were counted by hand")
    assert "the labels were counted by hand" in since.page.read_text()


def test_an_override_without_a_reason_is_refused(data):
    with pytest.raises(ValueError, match="force_reason"):
        data.validate(policy=Policy(force_publish=True))
    assert data.decision["verdict"] == "failed"
    assert not data.checks.exists()


def test_a_warn_only_gate_does_not_skip_the_run(since):
    result = since.validate(Validation(minimum_new_labels=100), Policy(warn_only=("new_labels",)))
    assert result.should_train
    assert since.failed() == ["new_labels"]


def test_a_passing_validation_deletes_the_decision_of_an_earlier_attempt(data):
    failed = decision.failed_decision(ValueError("no luck"))
    decision.write(data.workspace.decision, decision.to_record(failed, run="run"))
    assert data.validate().should_train
    assert data.decision is None


def test_the_decision_of_a_skipped_run_follows_the_schema_and_names_the_champion(since):
    since.validate(Validation(minimum_new_labels=1))
    schema = json.loads(Path(decision.__file__).with_name("decision.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(since.decision)
    jsonschema.Draft202012Validator(schema).validate(storage.read_json(str(since.checks / "gates.json")))
    assert (since.decision["run"], since.decision["model"]) == ("run", "portraits")
    assert since.decision["champion"]["version"] == 1


@pytest.mark.parametrize("fault", ["photo", "channels", "store", "unrated"])
def test_an_error_leaves_a_failed_decision_with_the_reason(data, fault):
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


def test_the_page_begins_with_the_verdict_and_shows_no_photo(since, charts):
    since.validate()
    page = since.page.read_text()
    assert page.index("Train: the data passed all 4 gates.") < page.index("<h2>Gates</h2>")
    assert "data:image" not in page
    assert page.count("<svg") == 1 + len(APPEARANCE)


def test_the_component_returns_the_decision_and_logs_the_metrics(since, monkeypatch):
    logged = {}
    monkeypatch.setenv(step_status.RUN_ID, "run")
    should_train = validation.python_func(
        dataset=SimpleNamespace(path=str(since.write())),
        report=SimpleNamespace(path=str(since.page), uri=str(since.page)),
        checks=SimpleNamespace(path=str(since.checks)),
        metrics=SimpleNamespace(log_metric=logged.__setitem__),
        workspace=since.workspace.uri, models=since.models, name="portraits", minimum_new_labels=1,
        maximum_label_drift=1.0, maximum_photo_drift=0.5, duplicate_distance=40, warn_only=["photo_drift"],
        force_publish=False, force_reason="",
    )  # fmt: skip
    assert should_train is False
    assert since.decision["verdict"] == "skipped"
    assert logged["data_new_labels"] == 0
    assert all(math.isfinite(value) for value in logged.values())
    assert step_status.read_steps(since.workspace)[0].state == "succeeded"


# The profile


def test_the_profile_holds_no_names(data):
    data.validate()
    for record in [*data.rated, *data.splits["unlabelled"]]:
        assert record["photo_id"] not in data.kept
        assert record["group"] not in data.kept
    assert "gardener" not in data.kept


def test_the_profile_of_30_000_photos_is_below_500_kb(first):
    value = json.loads(Path(first.models, "portraits/1/profile.json").read_text())
    labels = np.random.default_rng(1).integers(0, 2**32, 30_000, dtype=np.uint32)
    large_profile = replace(data_statistics.from_json(value), labels=np.sort(labels).astype("<u4").tobytes())
    assert len(storage.to_json(data_statistics.to_json(large_profile))) < 500_000


def test_the_profile_does_not_depend_on_the_order_of_photos(data, tmp_path):
    data.validate()
    profile = data.kept
    for rows in data.splits.values():
        rows.reverse()
    data.validate()
    assert data.kept == profile


def test_the_profile_counts_photos_and_ratings(data):
    data.validate()
    profile = data_statistics.from_json(json.loads(data.kept))
    assert {split: profile.parts[split].photos for split in SIZES} == SIZES
    assert (profile.rated.ratings, profile.unlabelled.ratings) == (12 * 80, 0)
    means = [record["votes"] @ np.arange(1, 11) for record in data.rated]
    assert profile.rated.spread[SCORE.name].mean == pytest.approx(np.mean(means), rel=1e-5)
    assert profile.rated.spread[SCORE.name].deviation == pytest.approx(np.std(means), rel=1e-5)


def test_the_sample_is_stable_when_photos_are_added(data, monkeypatch):
    def sample() -> set[str]:
        rows = collect.collect_statistics(data.write())
        return set(rows.loc[rows["brightness"].notna() & (rows["split"] != "unlabelled"), "photo"])

    monkeypatch.setattr(collect, "SAMPLE_SIZE", 40)
    first_sample, old_ids = sample(), {record["photo_id"] for record in data.rated}
    assert 25 <= len(first_sample) <= 55  # 40 of 80
    add(data, 20)
    second_sample = sample()
    assert len(second_sample & first_sample) > 0.6 * len(first_sample)
    assert second_sample & old_ids <= first_sample


def test_few_photos_are_in_memory_at_once():
    started = itertools.count()
    items = (next(started) for _ in range(1000))
    results = collect._map_in_threads(lambda number: -number, items)
    assert [next(results) for _ in range(10)] == [-number for number in range(10)]
    assert next(started) < 100
    assert len(list(results)) == 990


def broken(value: dict, *path: str, to: object) -> dict:
    value = copy.deepcopy(value)
    parent = value
    for name in path[:-1]:
        parent = parent[name]
    if to is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = to
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
def test_a_damaged_profile_is_refused_in_one_sentence(first, path, to):
    value = json.loads(Path(first.models, "portraits/1/profile.json").read_text())
    assert isinstance(data_statistics.from_json(value), DataProfile)
    with pytest.raises(ValueError, match=r"^expected a (whole )?profile.*, got "):
        data_statistics.from_json(broken(value, *path, to=to))


@pytest.mark.parametrize("value", [None, [], "profile", 1])
def test_a_value_that_is_not_a_profile_is_refused(value):
    with pytest.raises(ValueError, match="expected a profile of version 1"):
        data_statistics.from_json(value)


# Shifts

SCORES = st.lists(st.floats(1, 10), min_size=1, max_size=60)


@given(SCORES)
def test_equal_histograms_have_no_shift(values):
    histogram = feature_histogram(SCORE, np.array(values))
    shift = measure_shift(SCORE, histogram, histogram)
    assert (shift.cohens_d, shift.wasserstein, shift.p_value) == (0, 0, 1)


@given(SCORES, SCORES)
def test_the_shift_is_symmetric_up_to_its_sign(one, other):
    first, second = (feature_histogram(SCORE, np.array(values)) for values in (one, other))
    shift, reverse_shift = measure_shift(SCORE, first, second), measure_shift(SCORE, second, first)
    assert shift.wasserstein == reverse_shift.wasserstein
    assert shift.cohens_d == -reverse_shift.cohens_d
    assert shift.p_value == reverse_shift.p_value


@given(SCORES, SCORES)
def test_the_distance_equals_scipys_wasserstein_distance_to_within_a_bin(one, other):
    shift = measure_shift(SCORE, feature_histogram(SCORE, np.array(one)), feature_histogram(SCORE, np.array(other)))
    width = (SCORE.high - SCORE.low) / SCORE.bins
    # One bin plus rounding.
    assert shift.wasserstein == pytest.approx(stats.wasserstein_distance(one, other), abs=width + 1e-9)


@given(SCORES, SCORES)
def test_the_sum_of_two_histograms_is_the_histogram_of_both_sets(one, other):
    summed = feature_histogram(SCORE, np.array(one)) + feature_histogram(SCORE, np.array(other))
    joint = feature_histogram(SCORE, np.array(one + other))
    assert (summed.count, summed.histogram) == (joint.count, joint.histogram)
    assert (summed.mean, summed.deviation) == pytest.approx((joint.mean, joint.deviation), abs=1e-9)


@given(SCORES, st.binary(max_size=40))
@hypothesis_settings(max_examples=30)
def test_a_profile_is_restored_from_its_json(values, labels):
    rows = pd.DataFrame({feature.name: values for feature in (SCORE, *APPEARANCE)}).assign(
        split="train", raters=1, label=1
    )
    profile = replace(data_statistics.data_profile(rows), labels=labels[: len(labels) // 4 * 4])
    restored = data_statistics.from_json(json.loads(storage.to_json(data_statistics.to_json(profile))))
    assert data_statistics.to_json(restored) == data_statistics.to_json(profile)
    assert restored.labels == profile.labels


def test_a_shift_has_cohens_d_and_the_p_value_of_the_kolmogorov_smirnov_test():
    rng = np.random.default_rng(1)
    first, second = rng.normal(5, 1.2, 4000), rng.normal(5.04, 1.2, 4000)
    shift = measure_shift(SCORE, feature_histogram(SCORE, first), feature_histogram(SCORE, second))
    assert shift.cohens_d == pytest.approx((second.mean() - first.mean()) / np.sqrt((first.var() + second.var()) / 2))
    p_value = stats.ks_2samp(first, second, method="asymp").pvalue
    assert p_value <= shift.p_value <= 2 * p_value


def test_a_shift_without_photos_is_nan():
    empty, single = feature_histogram(SCORE, np.array([np.nan])), feature_histogram(SCORE, np.array([5.0]))
    assert math.isnan(measure_shift(SCORE, empty, single).wasserstein)
    assert math.isnan(measure_shift(SCORE, single, empty).cohens_d)


# Image statistics


def test_image_statistics_match_simple_images():
    grey, red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((90, 90, 90), (200, 0, 0), (0, 0, 200)))
    assert image_statistics.colourfulness(grey) == 0
    assert image_statistics.colourfulness(red) == pytest.approx(0.3 * math.hypot(200, 100))
    assert image_statistics.warmth(red) > image_statistics.warmth(grey) == 0 > image_statistics.warmth(blue)
    checkerboard = np.indices((8, 8)).sum(0) % 2 * np.int16(255)
    assert (image_statistics.brightness(checkerboard), image_statistics.contrast(checkerboard)) == (0.5, 0.5)
    assert (
        image_statistics.sharpness(checkerboard)
        > image_statistics.sharpness(checkerboard // 2)
        > image_statistics.sharpness(checkerboard * 0)
        == 0
    )


def test_histogram_limits_hold_every_possible_photo():
    limits = {feature.name: (feature.low, feature.high) for feature in APPEARANCE}
    assert limits["brightness"] == (0, 1)
    assert 2 ** limits["sharpness"][1] < 1020**2  # the maximum: a black and white checkerboard
    names = [feature.name for feature in (SCORE, *APPEARANCE)]
    assert len(names) == len(set(names))
