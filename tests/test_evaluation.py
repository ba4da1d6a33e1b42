"""The test split is scored once a photo, the gates say what they should, and the decision is always written."""

import io
import json
import math
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.evaluation import report
from components.evaluation.champion import Champion
from components.evaluation.evaluate import evaluate
from components.evaluation.gates import decide
from components.evaluation.measurements import Estimate, Measurements, measure
from components.evaluation.predictions import Predictions, predict
from components.scorer import bundle, channels, metrics, photos, published
from components.scorer.page import LARGEST
from components.scorer.settings import Evaluation
from components.scorer.workspace import Workspace
from tests.conftest import votes_around

SETTINGS = Evaluation(bootstrap=60)
GATES = ["Ranks photos as people do", "Votes as people do", "Does not collapse to the middle"]
CHAMPION_GATE = "Not worse than the champion"


@dataclass
class Rater:
    """Stands in for a scorer: it sees a photo's brightness, which is the drawn photos' truth, through noise."""

    noise: float = 0.3
    seed: int = 0
    data_fingerprint: str = "data"
    revision: str = "abc"
    seen: list[bytes] = field(default_factory=list)

    def score(self, photos: list[bytes]) -> np.ndarray:
        self.seen += photos
        return np.array([votes_around(self.mean(data)) for data in photos])

    def mean(self, data: bytes) -> float:
        brightness = np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean() / 255
        return 1 + 9 * brightness + self.noise * np.random.default_rng(zlib.crc32(data) + self.seed).normal()


class Constant(Rater):
    def mean(self, data):
        return 5.5


class Broken(Rater):
    def score(self, photos):
        return np.full((len(photos), 10), np.nan)


class Wordy(Rater):
    def score(self, photos):
        return np.ones((len(photos), 3))


@pytest.fixture
def run(small_dataset, tmp_path, monkeypatch):
    """Evaluate a stand-in, with another one published as version 3 when given."""

    def evaluated(scorer=None, champion=None, settings=SETTINGS, dataset=small_dataset):
        models = str(tmp_path / "models")
        monkeypatch.setattr(bundle, "load", lambda folder: scorer or Rater())
        if champion:
            channels.switch(models, "portraits", 3)
            monkeypatch.setattr(published, "load", lambda uri: champion if uri.endswith("portraits/3") else None)
        return evaluate(
            dataset,
            tmp_path / "scorer",
            tmp_path / "out" / "report",
            models=models,
            name="portraits",
            settings=settings,
            workspace=Workspace(str(tmp_path / "workspace"), "run-1"),
            revision="def",
        )

    return evaluated


def written(tmp_path, name="decision.json"):
    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((tmp_path / "out" / name).read_text(), parse_constant=no_constant)


def gate(decision, name):
    return next(gate for gate in decision.gates if gate.name == name)


def test_predictions_have_each_photo_of_the_test_split_once_and_no_other(run, small_dataset, tmp_path):
    scorer = Rater()
    run(scorer)
    records = list(photos.records(small_dataset, "test"))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert rows.photo_id.tolist() == [record["photo_id"] for record in records]
    assert scorer.seen == [record["photo"] for record in records]  # 40 of them: the last batch is smaller
    assert set(rows.split) == {"test"}


def test_predictions_say_what_the_scorer_and_people_say(run, small_dataset, tmp_path):
    run(Rater(noise=1), champion=Rater(noise=2))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    votes = [f"p{score}" for score in range(1, 11)]
    assert list(rows) == [
        *("photo_id", "mean", "std", *votes, "truth_mean", "truth_std", "raters", "split"),
        *("champion_mean", "side"),
    ]
    record = next(iter(photos.records(small_dataset, "test")))
    row = rows.iloc[0]
    assert rows[votes].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(rows)), abs=1e-4)
    assert row[votes].to_numpy(float) == pytest.approx(Rater(noise=1).score([record["photo"]])[0], abs=1e-5)
    assert row["mean"] == pytest.approx(row[votes].to_numpy(float) @ np.arange(1, 11), abs=1e-4)
    assert row["truth_mean"] == pytest.approx(metrics.mean_scores(record["votes"][None])[0], abs=1e-4)
    assert (row["raters"], row["side"]) == (12, record["attributes"]["side"])


def test_an_attribute_named_as_a_column_does_not_take_its_place():
    votes = votes_around(4)[None]
    predictions = Predictions(["a"], votes, np.array([3]), pd.DataFrame([{"mean": "kind"}]), votes)
    row = predictions.table().iloc[0]
    assert row["mean"] == pytest.approx(4, abs=0.01)
    assert row["attribute_mean"] == "kind"


def test_the_metrics_are_those_of_the_predictions(run, tmp_path):
    found = run(Rater(noise=1.5))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    for name in ("srcc", "lcc", "krcc", "mae", "rmse", "spread", "accuracy"):
        expected = float(getattr(metrics, name)(rows.truth_mean.to_numpy(), rows["mean"].to_numpy()))
        assert found.metrics[f"test_{name}"] == pytest.approx(expected, abs=1e-4)
        saved = written(tmp_path, "metrics.json")["challenger"][name]
        assert saved["value"] == found.metrics[f"test_{name}"]
        assert saved["low"] <= saved["value"] <= saved["high"]


def test_kubeflow_gets_finite_floats_and_curves_of_one_length(run):
    found = run(Rater(noise=1), champion=Rater(noise=2))
    assert all(name.startswith("test_") and type(value) is float for name, value in found.metrics.items())
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert found.metrics["test_photos"] == 40
    assert found.metrics["test_champion_srcc"] < found.metrics["test_srcc"]
    assert sum(map(sum, found.confusion)) == 40
    assert len({len(curve) for curve in found.roc.values()}) == 1
    assert all(math.isfinite(value) for curve in found.roc.values() for value in curve)


def test_the_first_model_passes_the_champion_gate_and_the_decision_says_so(run, tmp_path):
    found = run()
    assert found.passed
    assert gate(found.decision, CHAMPION_GATE).verdict == "passed"
    assert "no champion yet" in gate(found.decision, CHAMPION_GATE).reason
    saved = written(tmp_path)
    assert (saved["verdict"], saved["publish"], saved["champion"]) == ("publish", True, None)
    assert [gate["name"] for gate in saved["gates"]] == [*GATES, CHAMPION_GATE]
    assert all(set(gate) == {"name", "metric", "value", "threshold", "verdict", "reason"} for gate in saved["gates"])


def test_the_decision_lies_with_the_report_and_in_the_workspace(run, tmp_path):
    run()
    there = Path(Workspace(str(tmp_path / "workspace"), "run-1").decision).read_text()
    assert json.loads(there) == written(tmp_path)
    assert written(tmp_path)["run"] == "run-1"


def test_the_champion_is_scored_on_the_same_photos_in_the_same_order(run):
    scorer, champion = Rater(), Rater()
    run(scorer, champion)
    assert champion.seen == scorer.seen


def test_a_scorer_equal_to_the_champion_loses_nothing_and_passes(run, tmp_path):
    found = run(Rater(noise=1), champion=Rater(noise=1))
    assert gate(found.decision, CHAMPION_GATE).value == 0
    assert gate(found.decision, CHAMPION_GATE).verdict == "passed"
    difference = written(tmp_path, "metrics.json")["difference"]
    assert all((each["low"], each["high"]) == (0, 0) for each in difference.values())


def test_a_scorer_worse_than_the_champion_is_refused_in_words(run, tmp_path):
    found = run(Rater(noise=2), champion=Rater(noise=0.1))
    assert not found.passed
    assert gate(found.decision, CHAMPION_GATE).verdict == "failed"
    saved = written(tmp_path)
    assert saved["verdict"] == "refused"
    assert saved["champion"]["version"] == 3
    assert [reason for reason in saved["reasons"] if reason.startswith(CHAMPION_GATE) and "version 3" in reason]


def test_a_scorer_better_than_the_champion_passes(run):
    found = run(Rater(noise=0.1), champion=Rater(noise=2))
    assert found.passed
    assert gate(found.decision, CHAMPION_GATE).value > 0


@pytest.mark.parametrize("champion", [Broken(), Wordy(), Constant()])
def test_a_champion_that_gives_no_usable_answer_fails_the_evaluation_and_nothing_passes(run, champion, tmp_path):
    found = run(champion=champion)
    assert not found.passed
    assert found.decision.verdict == "failed"
    assert gate(found.decision, CHAMPION_GATE).verdict == "not judged"
    assert all(gate(found.decision, name).verdict == "passed" for name in GATES)
    assert written(tmp_path)["verdict"] == "failed"


def test_a_champion_that_cannot_be_loaded_is_told_in_the_decision_and_on_the_page(run, tmp_path):
    channels.switch(str(tmp_path / "models"), "portraits", 7)
    found = run()
    assert found.decision.verdict == "failed"
    saved = written(tmp_path)
    assert saved["champion"]["version"] == 7
    assert "expected a published version" in saved["champion"]["error"]
    assert saved["champion"]["uri"].endswith("models/portraits/7")
    assert "Failed: not every gate could be judged" in (tmp_path / "out" / "report").read_text()
    assert found.metrics["test_srcc"] > 0.9


def test_unreadable_channels_are_no_missing_champion(run, tmp_path):
    (tmp_path / "models" / "portraits").mkdir(parents=True)
    (tmp_path / "models" / "portraits" / "channels.json").write_text("{half")
    found = run()
    assert found.decision.verdict == "failed"
    assert "channels.json" in gate(found.decision, CHAMPION_GATE).reason


def test_a_constant_scorer_is_refused_with_a_clear_reason(run, tmp_path):
    found = run(Constant(), champion=Rater())
    assert found.decision.verdict == "refused"
    assert "every photo gets the same score" in gate(found.decision, "Ranks photos as people do").reason
    assert gate(found.decision, "Does not collapse to the middle").value == pytest.approx(0)
    assert gate(found.decision, CHAMPION_GATE).verdict == "failed"
    assert "test_srcc" not in found.metrics
    assert written(tmp_path, "metrics.json")["challenger"]["srcc"]["value"] is None
    assert "Refused" in (tmp_path / "out" / "report").read_text()


def test_a_scorer_that_answers_with_no_numbers_fails_every_gate(run, tmp_path):
    found = run(Broken())
    assert found.decision.verdict == "refused"
    assert all(gate(found.decision, name).verdict == "failed" for name in GATES)
    assert "a prediction is no number" in written(tmp_path)["reasons"][0]
    assert found.roc["threshold"] == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (GATES[0], replace(SETTINGS, minimum_srcc=1)),
        (GATES[1], replace(SETTINGS, maximum_emd=0)),
        (GATES[2], replace(SETTINGS, minimum_spread=9)),
        (CHAMPION_GATE, replace(SETTINGS, champion_margin=-1)),
    ],
)
def test_each_gate_can_refuse_alone(run, name, settings):
    found = run(Rater(noise=1), champion=Rater(noise=1, seed=1), settings=settings)
    assert [gate.name for gate in found.decision.gates if gate.verdict != "passed"] == [name]
    assert found.decision.verdict == "refused"


def measured(srcc=0.7, emd=0.5, spread=0.8, difference=(0.0, -0.03, 0.03), champion=0.7):
    ours = {name: Estimate(0.5, 0.4, 0.6) for name in metrics.METRICS}
    ours |= {"srcc": Estimate(srcc), "emd": Estimate(emd), "spread": Estimate(spread)}
    theirs = {name: Estimate(champion) for name in metrics.METRICS}
    between = {name: Estimate(*difference) for name in metrics.METRICS}
    return Measurements(300, ours, theirs, between, [], [[1, 0], [0, 1]], {})


CHAMPION = Champion("models/portraits/3", 3, np.ones((300, 10)))


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        ((0.01, -0.02, 0.04), "passed"),
        ((-0.02, -0.05, 0.01), "passed"),  # the whole margin, by what may be chance
        ((-0.021, -0.05, 0.01), "failed"),  # more than the margin
        ((-0.005, -0.008, -0.002), "failed"),  # within the margin, but a sure loss
        ((math.nan, math.nan, math.nan), "failed"),
    ],
)
def test_a_loss_against_the_champion_passes_only_within_the_margin_and_by_chance(difference, verdict):
    decision = decide(measured(difference=difference), CHAMPION, SETTINGS)
    assert gate(decision, CHAMPION_GATE).verdict == verdict


numbers = st.floats(-2, 2) | st.just(math.nan)


@given(numbers, numbers, numbers, st.tuples(numbers, numbers, numbers), st.booleans(), st.booleans())
def test_nothing_is_published_unless_every_gate_passed_on_a_number(srcc, emd, spread, difference, crowned, broken):
    champion = replace(CHAMPION, error="OSError: gone" if broken else "") if crowned else None
    decision = decide(measured(srcc, emd, spread, difference), champion, SETTINGS)
    good = srcc >= SETTINGS.minimum_srcc and emd <= SETTINGS.maximum_emd and spread >= SETTINGS.minimum_spread
    stands = not crowned or (not broken and difference[0] >= -SETTINGS.champion_margin and not difference[2] < 0)
    assert (decision.verdict == "publish") == (good and stands)
    assert (decision.verdict == "failed") == (crowned and broken)
    assert decision.reasons


def test_an_evaluation_that_breaks_off_leaves_a_decision_that_says_why(run, tmp_path):
    with pytest.raises(ValueError, match="expected votes"):
        run(Wordy())
    saved = written(tmp_path)
    assert (saved["verdict"], saved["publish"], saved["gates"]) == ("failed", False, [])
    assert "expected votes [32, 10] of the scorer, got [32, 3]" in saved["reasons"][0]
    assert json.loads(Path(Workspace(str(tmp_path / "workspace"), "run-1").decision).read_text()) == saved


def test_a_data_set_without_test_photos_is_one_clear_error(run, tmp_path):
    from components.ingestion import builder
    from tests.conftest import example

    builder.write(tmp_path / "dataset", {"train": [[example(1)]]}, ["side"])
    with pytest.raises(ValueError, match="the test split has no photo"):
        run(dataset=tmp_path / "dataset")
    assert written(tmp_path)["verdict"] == "failed"


def test_a_true_bundle_stands_against_itself_published(small_dataset, small_scorer, tmp_path):
    models = str(tmp_path / "models")
    published.export(bundle.load(small_scorer), tmp_path / "models" / "portraits" / "1")
    channels.switch(models, "portraits", 1)
    found = evaluate(
        small_dataset,
        small_scorer,
        tmp_path / "out" / "report",
        models=models,
        name="portraits",
        settings=SETTINGS,
        workspace=Workspace(str(tmp_path / "workspace"), "run-1"),
        results=tmp_path / "results",
    )
    assert found.metrics["test_difference_emd"] == pytest.approx(0, abs=1e-4)
    assert {file.name for file in (tmp_path / "results").iterdir()} == {
        "decision.json",
        "metrics.json",
        "predictions.csv",
    }
    assert json.loads((tmp_path / "results" / "decision.json").read_text())["champion"]["version"] == 1


def simulated(count=300, attributes=None, seed=0):
    """Predictions of photos whose truth is known, with a bias for half of them."""
    rng = np.random.default_rng(seed)
    latent = rng.uniform(2, 9, count)
    kind = np.arange(count) % 2 == 0
    predicted = np.clip(latent + np.where(kind, 0.5, -0.5) + rng.normal(0, 0.3, count), 1, 10)
    return Predictions(
        [f"{number}.jpg" for number in range(count)],
        np.array([votes_around(mean) for mean in latent]),
        np.full(count, 9),
        pd.DataFrame(attributes or {"tone": np.where(kind, "light", "dark")}),
        np.array([votes_around(mean) for mean in predicted]),
    )


def test_a_bias_against_a_group_shows_with_its_sign():
    slices = {each.value: each for each in measure(simulated(), None, SETTINGS).slices}
    assert (slices["light"].photos, slices["dark"].photos) == (150, 150)
    assert slices["light"].metrics["bias"].low > 0.3
    assert slices["dark"].metrics["bias"].high < -0.3


def test_groups_too_small_for_an_interval_have_none_and_missing_values_are_called_unknown():
    found = measure(simulated(30, {"job": ["nurse"] * 20 + ["cook"] * 7 + [""] * 3}), None, SETTINGS).slices
    assert [(each.value, each.photos) for each in found] == [("nurse", 20), ("cook", 7), ("unknown", 3)]
    assert [math.isfinite(each.metrics["mae"].low) for each in found] == [True, False, False]


def test_each_photo_is_read_in_small_batches_not_all_at_once():
    held = []

    def records():
        for number in range(100):
            held.append(number)
            yield {"photo": b"", "photo_id": str(number), "votes": np.ones(10) / 10, "raters": 1, "attributes": {}}

    class Watching:
        def score(self, photos):
            assert len(held) - self.done <= 33
            self.done += len(photos)
            return np.ones((len(photos), 10)) / 10

        done = 0

    assert len(predict(records, Watching(), 100).photo_ids) == 100


def page_of(predictions, faces=None, settings=SETTINGS, champion=None, tmp_path=None):
    found = measure(predictions, champion.votes if champion else None, settings)
    decision = decide(found, champion, settings)
    report.write_report(
        tmp_path / "page", predictions, found, decision, champion, settings, {"model": "portraits"}, 0.94, faces or {}
    )
    return (tmp_path / "page").read_text()


def test_the_page_says_the_verdict_first_then_the_gates_and_names_the_extremes(tmp_path):
    predictions = simulated()
    html = page_of(predictions, tmp_path=tmp_path)
    assert html.index("Publish: the scorer passed all 4 gates.") < html.index("<h2>Gates") < html.index("<h2>Metrics")
    best = predictions.photo_ids[int(np.argmax(metrics.mean_scores(predictions.truth)))]
    assert html.index("Best and worst by people") < html.index(f">{best}<")
    assert "a perfect scorer has LCC 0.94" in html


def test_the_extremes_are_the_ten_at_each_end_by_people_and_by_the_scorer():
    predictions = simulated()
    found = report.extremes(predictions)
    for votes in (predictions.truth, predictions.scorer):
        order = np.argsort(metrics.mean_scores(votes))
        assert {predictions.photo_ids[place] for place in (*order[:10], *order[-10:])} <= found
    assert 20 <= len(found) <= 40


@pytest.mark.parametrize(("show", "shown"), [(False, 0), (True, 40)])
def test_photos_are_on_the_page_only_where_that_is_asked_for(run, tmp_path, show, shown):
    run(settings=replace(SETTINGS, show_photos=show))
    html = (tmp_path / "out" / "report").read_text()
    assert html.count("<img") == shown
    assert ("The photos are not shown" in html) == (not show)


def test_an_attribute_cannot_write_markup_into_the_page(tmp_path):
    html = page_of(simulated(20, {"<script>": ["<img src=x>"] * 20}), tmp_path=tmp_path)
    assert "<script" not in html
    assert "<img" not in html


def test_a_page_of_many_photos_stays_small(tmp_path):
    predictions = simulated(20_000)
    html = page_of(predictions, settings=replace(SETTINGS, bootstrap=5), tmp_path=tmp_path)
    assert len(html.encode()) < LARGEST / 5
    assert "data:image/png" in html  # the scatter became a picture


@pytest.mark.parametrize("count", [1, 2])
def test_a_page_of_a_photo_or_two_can_be_written(tmp_path, count):
    assert f"{count} photos of the test split" in page_of(simulated(count), tmp_path=tmp_path)
