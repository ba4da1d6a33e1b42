"""Evaluation: each test photo is scored once, the page gives the reasons, and a decision is always written."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.evaluation import export_probe, report
from components.evaluation.checks.champion_predictions import ChampionPredictions
from components.evaluation.checks.predictions import Predictions, predict
from components.evaluation.evaluate import evaluate
from components.evaluation.example_photos import ExamplePhotos
from components.evaluation.results import evaluate_scorer
from components.scorer.artifacts import bundle, saved_model
from components.scorer.data import photos
from components.scorer.metrics import regression
from components.scorer.registry import channels, integrity
from components.scorer.report.page import MAX_BYTES
from components.scorer.run.decision import GateResult, decide, to_record, write
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Policy
from tests.builders import designed
from tests.builders.evaluations import NOISY, PHOTOS, SERVED, SETTINGS, SOUND
from tests.conftest import votes_around

pytestmark = pytest.mark.slow

POLICY = Policy(warn_only=())


@dataclass
class Watched:
    """A scorer that records the photos it is asked to score."""

    scorer: bundle.TrainedScorer
    asked: list[bytes] = field(default_factory=list)

    def score(self, photos: list[bytes]) -> np.ndarray:
        self.asked += photos
        return self.scorer.score(photos)

    def __getattr__(self, name):
        return getattr(self.scorer, name)


class Broken(Watched):
    def score(self, photos):
        return np.full((len(photos), 10), np.nan)


class Wordy(Watched):
    def score(self, photos):
        return np.ones((len(photos), 3))


def seeing(kind=Watched, **features) -> Watched:
    return kind(designed.scorer(**(features or SOUND)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return designed.dataset(tmp_path_factory.mktemp("designed") / "dataset", PHOTOS)


@pytest.fixture
def run(dataset, tmp_path, monkeypatch):
    """Evaluate a designed scorer; a given champion is published as version 3."""
    monkeypatch.setattr(export_probe, "probe", lambda *asked: SERVED)

    def evaluated(scorer=None, champion=None, settings=SETTINGS, dataset=dataset, policy=POLICY, checks=""):
        models = str(tmp_path / "models")
        monkeypatch.setattr(bundle, "load", lambda folder: scorer or seeing())
        if champion:
            channels.promote_pushed(models, "portraits", 3)
            monkeypatch.setattr(saved_model, "load", lambda uri: champion if uri.endswith("portraits/3") else None)
        return evaluate(
            dataset,
            tmp_path / "scorer",
            tmp_path / "out" / "report",
            models=models,
            name="portraits",
            settings=settings,
            policy=policy,
            workspace=RunPaths(str(tmp_path / "workspace"), "run-1"),
            checks=checks,
            revision="def",
        )

    return evaluated


def written(tmp_path, name="decision.json"):
    def refuse_constant(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((tmp_path / "out" / name).read_text(), parse_constant=refuse_constant)


def gate(decision, key):
    return next(judged_gate for judged_gate in decision.gates if judged_gate.key == key)


def test_the_predictions_have_each_photo_of_the_test_split_once_and_no_other(run, dataset, tmp_path):
    scorer = seeing()
    run(scorer)
    records = list(photos.records(dataset, "test"))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert rows.photo_id.tolist() == [record["photo_id"] for record in records]
    assert scorer.asked[:PHOTOS] == [record["photo"] for record in records]  # 48 of them: the last batch is smaller
    assert set(rows.split) == {"test"}


def test_the_predictions_have_the_votes_of_the_scorer_and_of_people(run, dataset, tmp_path):
    run(seeing(**NOISY), champion=seeing())
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    votes = [f"p{score}" for score in range(1, 11)]
    assert list(rows) == [
        *("photo_id", "mean", "std", *votes, "truth_mean", "truth_std", "raters", "split"),
        *("champion_mean", "light"),
    ]
    record = next(iter(photos.records(dataset, "test")))
    row = rows.iloc[0]
    assert rows[votes].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(rows)), abs=1e-4)
    assert row[votes].to_numpy(float) == pytest.approx(seeing(**NOISY).score([record["photo"]])[0], abs=1e-5)
    assert row["mean"] == pytest.approx(row[votes].to_numpy(float) @ np.arange(1, 11), abs=1e-4)
    assert row["truth_mean"] == pytest.approx(regression.mean_scores(record["votes"][None])[0], abs=1e-4)
    assert (row["raters"], row["light"]) == (designed.RATERS, record["attributes"]["light"])


def test_an_attribute_named_like_a_column_gets_a_prefix():
    votes = votes_around(4)[None]
    predictions = Predictions(["a"], votes, np.array([3]), pd.DataFrame([{"mean": "kind"}]), votes)
    row = predictions.to_table().iloc[0]
    assert row["mean"] == pytest.approx(4, abs=0.01)
    assert row["attribute_mean"] == "kind"


def test_the_metrics_are_computed_from_the_predictions(run, tmp_path):
    outputs = run(seeing(**NOISY))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    for name in ("srcc", "lcc", "krcc", "mae", "rmse", "spread", "accuracy"):
        expected = float(getattr(regression, name)(rows.truth_mean.to_numpy(), rows["mean"].to_numpy()))
        assert outputs.metrics[f"test_{name}"] == pytest.approx(expected, abs=2e-3)  # the file rounds
        saved = written(tmp_path, "metrics.json")["challenger"][name]
        assert saved["value"] == outputs.metrics[f"test_{name}"]
        assert saved["low"] <= saved["value"] <= saved["high"]


def test_kubeflow_gets_finite_floats_and_curves_of_one_length(run):
    outputs = run(seeing(), champion=seeing(**NOISY))
    assert all(name.startswith("test_") and type(value) is float for name, value in outputs.metrics.items())
    assert all(math.isfinite(value) for value in outputs.metrics.values())
    assert outputs.metrics["test_photos"] == PHOTOS
    assert outputs.metrics["test_champion_srcc"] < outputs.metrics["test_srcc"]
    assert sum(map(sum, outputs.confusion)) == PHOTOS
    assert len({len(curve) for curve in outputs.roc.values()}) == 1
    assert all(math.isfinite(value) for curve in outputs.roc.values() for value in curve)


def test_the_first_model_passes_the_champion_gates_and_the_reason_says_so(run, tmp_path):
    outputs = run()
    assert outputs.passed
    assert gate(outputs.decision, "champion_srcc").verdict == "passed"
    assert "first model" in gate(outputs.decision, "champion_srcc").reason
    saved = written(tmp_path)
    assert (saved["verdict"], saved["publish"], saved["champion"]) == ("publish", True, None)


def test_the_decision_is_written_beside_the_report_and_in_the_workspace(run, tmp_path):
    run()
    workspace_text = Path(RunPaths(str(tmp_path / "workspace"), "run-1").decision).read_text()
    assert json.loads(workspace_text) == written(tmp_path)
    assert written(tmp_path)["run"] == "run-1"


def test_the_gates_of_validation_are_part_of_the_decision(run, tmp_path):
    validation_gate = GateResult("leakage", "No leakage", "photos", 3, 0, "failed", "three photos are in two splits.")
    write(str(tmp_path / "checks" / "gates.json"), to_record(decide([validation_gate], POLICY)))
    outputs = run(checks=tmp_path / "checks")
    assert outputs.decision.gates[0] == validation_gate
    assert outputs.decision.verdict == "refused"


def test_an_override_publishes_despite_a_failed_gate_and_the_decision_has_its_reason(run, tmp_path):
    outputs = run(policy=Policy((), True, "the old version is unfair"), settings=replace(SETTINGS, minimum_srcc=1))
    assert outputs.passed
    saved = written(tmp_path)
    assert (saved["verdict"], saved["publish"], saved["override"]) == ("forced", True, "the old version is unfair")
    assert "the old version is unfair" in (tmp_path / "out" / "report").read_text()


def test_a_failed_gate_that_only_warns_does_not_prevent_publication_and_is_reported(run, tmp_path):
    outputs = run(policy=Policy(warn_only=("srcc",)), settings=replace(SETTINGS, minimum_srcc=1))
    assert outputs.decision.verdict == "publish"
    assert "Ranks photos as people do" in written(tmp_path)["warnings"][0]
    assert "warns" in (tmp_path / "out" / "report").read_text()


def test_the_champion_is_scored_on_the_same_photos_in_the_same_order(run):
    scorer, champion = seeing(), seeing()
    run(scorer, champion)
    assert champion.asked == scorer.asked[:PHOTOS]


def test_a_scorer_worse_than_the_champion_is_refused_and_the_reason_names_the_champion(run, tmp_path):
    outputs = run(seeing(**NOISY), champion=seeing(), settings=replace(SETTINGS, champion_margin=0.01))
    assert not outputs.passed
    assert gate(outputs.decision, "champion_srcc").verdict == "failed"
    saved = written(tmp_path)
    assert (saved["verdict"], saved["champion"]["version"]) == ("refused", 3)
    assert any("version 3" in reason for reason in saved["reasons"])


@pytest.mark.parametrize("champion", [seeing(Broken), seeing(Wordy), seeing(intercept=5.5)])
def test_a_champion_without_usable_votes_fails_the_evaluation(run, champion, tmp_path):
    outputs = run(champion=champion)
    assert not outputs.passed
    assert outputs.decision.verdict == "failed"
    assert gate(outputs.decision, "champion_srcc").verdict == "not judged"
    assert all(
        judged_gate.verdict == "passed"
        for judged_gate in outputs.decision.gates
        if not judged_gate.key.startswith("champion")
    )
    assert written(tmp_path)["verdict"] == "failed"


def test_a_champion_that_cannot_be_loaded_is_reported_in_the_decision_and_on_the_page(run, tmp_path):
    channels.promote_pushed(str(tmp_path / "models"), "portraits", 7)
    outputs = run()
    assert outputs.decision.verdict == "failed"
    saved = written(tmp_path)
    assert saved["champion"]["version"] == 7
    assert "expected a published version" in saved["champion"]["error"]
    assert saved["champion"]["uri"].endswith("models/portraits/7")
    assert "Failed: not every gate could be judged" in (tmp_path / "out" / "report").read_text()
    assert outputs.metrics["test_srcc"] > 0.9


def test_unreadable_channels_fail_the_evaluation_and_do_not_count_as_no_champion(run, tmp_path):
    (tmp_path / "models" / "portraits").mkdir(parents=True)
    (tmp_path / "models" / "portraits" / "channels.json").write_text("{half")
    outputs = run()
    assert outputs.decision.verdict == "failed"
    assert "channels.json" in gate(outputs.decision, "champion_srcc").reason


def test_a_constant_scorer_is_refused_with_a_clear_reason(run, tmp_path):
    outputs = run(seeing(intercept=5.5), champion=seeing())
    assert outputs.decision.verdict == "refused"
    assert "every photo gets the same score" in gate(outputs.decision, "srcc").reason
    assert gate(outputs.decision, "champion_srcc").verdict == "failed"
    assert "test_srcc" not in outputs.metrics
    assert written(tmp_path, "metrics.json")["challenger"]["srcc"]["value"] is None
    assert "Refused" in (tmp_path / "out" / "report").read_text()


def test_a_scorer_that_returns_nan_is_refused(run, tmp_path):
    outputs = run(seeing(Broken))
    assert outputs.decision.verdict == "refused"
    assert "a prediction is no number" in gate(outputs.decision, "srcc").reason
    assert outputs.roc["threshold"] == []


def test_an_evaluation_that_fails_leaves_a_decision_with_the_error(run, tmp_path):
    with pytest.raises(ValueError, match="expected votes"):
        run(seeing(Wordy))
    saved = written(tmp_path)
    assert (saved["verdict"], saved["publish"], saved["gates"]) == ("failed", False, [])
    assert "expected votes [32, 10] of the scorer, got [32, 3]" in saved["reasons"][0]
    assert json.loads(Path(RunPaths(str(tmp_path / "workspace"), "run-1").decision).read_text()) == saved


def test_a_data_set_without_test_photos_is_refused_and_the_decision_is_failed(run, tmp_path):
    from components.ingestion import tfds_writer
    from tests.conftest import example

    tfds_writer.write(tmp_path / "dataset", {"train": [[example(1)]]}, ["side"])
    with pytest.raises(ValueError, match="the test split has no photo"):
        run(dataset=tmp_path / "dataset")
    assert written(tmp_path)["verdict"] == "failed"


def test_a_saved_bundle_is_evaluated_against_its_own_published_version(dataset, tmp_path):
    designed.scorer(**SOUND).save(tmp_path / "scorer")
    saved_model.export(designed.scorer(**SOUND), tmp_path / "models" / "portraits" / "1")
    integrity.write_record(tmp_path / "models" / "portraits" / "1", {})
    channels.promote_pushed(str(tmp_path / "models"), "portraits", 1)
    outputs = evaluate(
        dataset,
        tmp_path / "scorer",
        tmp_path / "out" / "report",
        models=str(tmp_path / "models"),
        name="portraits",
        settings=replace(SETTINGS, maximum_latency=60_000),
        policy=POLICY,
        workspace=RunPaths(str(tmp_path / "workspace"), "run-1"),
        results=tmp_path / "results",
    )
    assert outputs.decision.verdict == "publish", outputs.decision.reasons
    assert outputs.metrics["test_difference_emd"] == pytest.approx(0, abs=1e-4)
    files = {file.name for file in (tmp_path / "results").iterdir()}
    assert files == {"decision.json", "metrics.json", "predictions.csv"}
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["serving"]["size_megabytes"] > 0
    assert metrics["seconds"]["serving"] > 0


def test_photos_are_read_in_small_batches_and_not_all_at_once():
    read_numbers = []

    def records():
        for number in range(100):
            read_numbers.append(number)
            yield {"photo": b"", "photo_id": str(number), "votes": np.ones(10) / 10, "raters": 1, "attributes": {}}

    class BatchChecker:
        def score(self, photos):
            assert len(read_numbers) - self.done <= 33
            self.done += len(photos)
            return np.ones((len(photos), 10)) / 10

        done = 0

    assert len(predict(records, BatchChecker(), 100).photo_ids) == 100


@pytest.fixture
def found(dataset, monkeypatch, tmp_path):
    """Evaluate a sound scorer with a noisy champion; return the results and the records."""
    from functools import partial

    monkeypatch.setattr(export_probe, "probe", lambda *asked: SERVED)
    monkeypatch.setattr(saved_model, "load", lambda uri: seeing(**NOISY))
    channels.promote_pushed(str(tmp_path), "portraits", 3)
    records = partial(photos.records, dataset, "test")
    return evaluate_scorer(designed.scorer(**SOUND), records, PHOTOS, str(tmp_path), "portraits", SETTINGS), records


def page_of(found, tmp_path, settings=SETTINGS, **changed):
    findings, records = found
    decision = decide([GateResult("srcc", "Ranks photos as people do", "SRCC", 0.9, 0.5, "passed", "it does.")], POLICY)
    findings = replace(findings, **changed)
    provenance = {"model": "portraits"}
    report.write_report(tmp_path / "page", findings, decision, designed.scorer(**SOUND), records, settings, provenance)
    return (tmp_path / "page").read_text()


def test_the_page_has_the_verdict_then_the_gates_then_the_metrics_and_names_the_best_photo(run, tmp_path):
    run()
    html = (tmp_path / "out" / "report").read_text()
    assert html.index("Publish: the scorer passed all") < html.index("<h2>Gates") < html.index("<h2>Metrics")
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    best_photo = rows.photo_id[rows.truth_mean.idxmax()]
    assert html.index("Best by people") < html.index(f">{best_photo}<")


def test_the_page_shows_the_ceiling_and_the_human_metric_of_every_correlation(found, tmp_path):
    html = page_of(found, tmp_path)
    assert "ceiling" in html
    for name in ("lcc", "srcc", "krcc"):
        assert f"{found[0].ceiling.perfect[name]:.3f}" in html
        assert f"{found[0].ceiling.human[name]:.3f}" in html


def test_the_page_names_the_photo_whose_score_moved_most_since_the_champion(found, tmp_path):
    html = page_of(found, tmp_path)
    predictions, champion = found[0].predictions, found[0].champion
    changes = np.abs(regression.mean_scores(predictions.scorer) - regression.mean_scores(champion.votes))
    most_changed = predictions.photo_ids[int(changes.argmax())]
    assert html.index("Moved most since the champion") < html.rindex(f">{most_changed}<")


def test_the_rankings_are_the_best_and_worst_ten_by_people_and_by_the_scorer(found):
    rankings = report.rankings(found[0])
    for judge, votes in (("people", found[0].predictions.truth), ("the scorer", found[0].predictions.scorer)):
        order = np.argsort(regression.mean_scores(votes), kind="stable")
        assert set(rankings[f"Worst by {judge}"]) == set(order[:10])
        assert set(rankings[f"Best by {judge}"]) == set(order[-10:])


@pytest.mark.parametrize("show", [False, True])
def test_photos_and_heat_maps_are_on_the_page_only_with_show_photos(run, tmp_path, show):
    run(settings=replace(SETTINGS, show_photos=show))
    html = (tmp_path / "out" / "report").read_text()
    assert html.count("<img") == (2 * 60 + 2 * 4 if show else 0)  # six rankings of ten, and four enhanced ones
    assert ("The photos are not shown" in html) == (not show)


def test_an_attribute_cannot_write_markup_into_the_page(found, tmp_path):
    from components.evaluation.checks.slices import measure_slices

    attributes = pd.DataFrame({"<script>": ["<img src=x>"] * PHOTOS})
    predictions = replace(found[0].predictions, attributes=attributes)
    html = page_of(found, tmp_path, slices=measure_slices(predictions, SETTINGS))
    assert "<script" not in html
    assert "<img" not in html


def test_the_page_of_many_photos_stays_small(found, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "gather", lambda *asked: ExamplePhotos())  # these photos are not in the data set
    predictions = simulated(20_000)
    champion = ChampionPredictions("models/portraits/3", 3, predictions.truth)
    html = page_of(found, tmp_path, predictions=predictions, champion=champion)
    assert len(html.encode()) < MAX_BYTES / 5
    assert "data:image/png" in html  # the scatter became a picture


def simulated(count: int) -> Predictions:
    """Return random predictions of ``count`` photos."""
    rng = np.random.default_rng(0)
    latent = rng.uniform(2, 9, count)
    return Predictions(
        [f"{number}.jpg" for number in range(count)],
        np.array([votes_around(mean) for mean in latent]),
        np.full(count, 9),
        pd.DataFrame({"tone": ["light"] * count}),
        np.array([votes_around(mean) for mean in np.clip(latent + rng.normal(0, 0.3, count), 1, 10)]),
    )


@pytest.mark.parametrize("count", [1, 2])
def test_an_evaluation_of_one_or_two_photos_is_refused_and_writes_a_page(run, tmp_path, count):
    outputs = run(dataset=designed.dataset(tmp_path / "few", count))
    assert outputs.decision.verdict == "refused"
    assert f"{count} photos of the test split" in (tmp_path / "out" / "report").read_text()
