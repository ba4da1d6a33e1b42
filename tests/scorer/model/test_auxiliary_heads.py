"""Auxiliary heads: a known job changes the score, the unknown job does not, and attributes are learnt."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from components.evaluation import report
from components.evaluation.checks import job_and_norms
from components.evaluation.checks.predictions import predict
from components.ingestion import tfds_writer
from components.ingestion.sample import Portrait, draw_portrait, latent_quality, random_portrait
from components.ingestion.sample.portrait import CHILD_EFFECT
from components.ingestion.sample.raters import SimulatedRaters
from components.scorer.artifacts import bundle, litert_model, saved_model
from components.scorer.data import photos
from components.scorer.model import serving_outputs
from components.scorer.model.auxiliary_heads import HeadSpec, JobTilt, detect_heads
from components.scorer.parameters import from_parameters
from components.scorer.registry import integrity
from components.scorer.settings import SCORES, Evaluation, Training
from components.scorer.upload_norms import policy
from components.training.heads.attributes import fit_attribute
from components.training.heads.job_tilt import JobTrainingData, fit_job_tilts
from components.training.train import train
from pipeline.cli.main import main
from tests.conftest import drawn_photo, light_encoder, votes_around

pytestmark = pytest.mark.slow

JOBS = ("carer", "tutor")
ATTRIBUTES = ["job", "sunglasses"]
QUICK = from_parameters(Evaluation, bootstrap=50)


def settings(**changes) -> Training:
    defaults = {
        "scale": 36,
        "head_epochs": 30,
        "epochs": 1,
        "dropout": 0.0,
        "batch_size": 8,
        "head_learning_rate": 1e-2,
    }
    return from_parameters(Training, **{**defaults, "camera_faults": 0.0, **changes})


def example(number: int) -> dict:
    """Return a record whose score rises with brightness for carers and falls with it for tutors.

    Dark photos have sunglasses. A third of the records has no job, and a fifth no sunglasses value.
    """
    brightness = float(np.random.default_rng(number).uniform(0.1, 0.9))
    job = (*JOBS, "")[number % 3]
    mean = {"carer": 2 + 7 * brightness, "tutor": 9 - 7 * brightness, "": 5.5}[job]
    sunglasses = "" if number % 5 == 0 else "yes" if brightness < 0.4 else "no"
    return {
        "photo": drawn_photo(brightness, number),
        "photo_id": f"{number:04d}.jpg",
        "votes": votes_around(mean),
        "raters": 12,
        "group": f"group-{number}",
        "attributes": {"job": job, "sunglasses": sunglasses},
    }


@pytest.fixture(scope="module")
def told_dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("told") / "dataset"
    numbers = iter(range(1000))
    sizes = {"train": 90, "validation": 30, "test": 45}
    tfds_writer.write(
        folder, {name: [[example(next(numbers)) for _ in range(size)]] for name, size in sizes.items()}, ATTRIBUTES
    )
    return folder


def run(dataset: Path, encoder: Path, folder: Path, given: Training) -> bundle.TrainedScorer:
    options = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    train(dataset, encoder, folder / "scorer", folder / "report.html", settings=given, **options)
    return bundle.load(folder / "scorer")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """Return an encoder whose features are light, dark and medium: what determines the ratings of the records."""
    return light_encoder(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def scorer(told_dataset, encoder, tmp_path_factory) -> bundle.TrainedScorer:
    return run(told_dataset, encoder, tmp_path_factory.mktemp("heads"), settings())


@pytest.fixture(scope="module")
def tested(told_dataset) -> list[dict]:
    return list(photos.records(told_dataset, "test"))


def means(votes: np.ndarray) -> np.ndarray:
    return votes @ np.array(SCORES)


def test_the_job_head_learns_opposite_preferences_of_two_jobs(scorer):
    pair = [drawn_photo(0.2, 5000), drawn_photo(0.8, 5001)]
    (dark_carer, bright_carer), (dark_tutor, bright_tutor) = (means(scorer.score(pair, [job] * 2)) for job in JOBS)
    assert bright_carer - dark_carer > 2
    assert dark_tutor - bright_tutor > 2


def test_the_job_input_halves_the_error_of_the_mean_scores(scorer, tested):
    with_job = [record for record in tested if record["attributes"]["job"]]
    truth = means(np.stack([record["votes"] for record in with_job]))
    data, jobs = [record["photo"] for record in with_job], [record["attributes"]["job"] for record in with_job]
    error_with_job, error_without_job = (
        np.abs(means(scorer.score(data, jobs)) - truth),
        np.abs(means(scorer.score(data)) - truth),
    )
    assert error_with_job.mean() < error_without_job.mean() / 2


def test_scores_for_the_unknown_job_equal_scores_without_a_job_exactly(scorer, tested):
    data = [record["photo"] for record in tested]
    np.testing.assert_array_equal(scorer.score(data, [""] * len(data)), scorer.score(data))


def test_a_job_that_is_not_in_the_head_spec_is_scored_as_unknown(scorer, tested):
    data = [tested[0]["photo"]]
    np.testing.assert_array_equal(scorer.score(data, ["astronaut"]), scorer.score(data))


def test_an_attribute_head_is_learnt_from_the_data(scorer, tested):
    labelled = [record for record in tested if record["attributes"]["sunglasses"]]
    truth = np.array([record["attributes"]["sunglasses"] == "yes" for record in labelled])
    probabilities = scorer.predict([record["photo"] for record in labelled], [""] * len(labelled))["attributes"]
    assert probabilities.shape == (len(labelled), 1)
    assert ((probabilities[:, 0] > 0.5) == truth).mean() > 0.85


def test_attribute_heads_do_not_change_the_weights_of_the_scorer(told_dataset, encoder, tmp_path):
    (tmp_path / "none.json").write_text('{"norms": []}')
    short = {"head_epochs": 1, "epochs": 1}
    with_head = run(told_dataset, encoder, tmp_path / "one", settings(**short))
    without_head = run(told_dataset, encoder, tmp_path / "none", settings(norms=str(tmp_path / "none.json"), **short))
    assert (with_head.attributes, without_head.attributes) == (("sunglasses",), ())
    for weight, expected in zip(with_head.model.get_weights(), without_head.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_job_head_does_not_change_the_weights_of_the_scorer(told_dataset, encoder, tmp_path):
    short = {"head_epochs": 1, "epochs": 1}
    with_head = run(told_dataset, encoder, tmp_path / "jobs", settings(**short))
    without_head = run(told_dataset, encoder, tmp_path / "none", settings(job="none", **short))
    assert (with_head.jobs, without_head.jobs) == (JOBS, ())
    for weight, expected in zip(with_head.model.get_weights(), without_head.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_saved_and_loaded_bundle_with_heads_predicts_the_same(scorer, tested, tmp_path):
    scorer.save(tmp_path)
    loaded = bundle.load(tmp_path)
    data, jobs = [record["photo"] for record in tested], [record["attributes"]["job"] for record in tested]
    for name, values in scorer.predict(data, jobs).items():
        np.testing.assert_array_equal(loaded.predict(data, jobs)[name], values)
    assert (loaded.jobs, loaded.attributes, loaded.norms) == (JOBS, ("sunglasses",), scorer.norms)


def test_training_on_data_without_jobs_or_attributes_makes_no_heads(small_dataset, small_encoder, tmp_path):
    scorer = run(small_dataset, small_encoder, tmp_path, settings(head_epochs=1))
    assert (scorer.heads, scorer.jobs, scorer.attributes) == (None, (), ())
    assert sorted(scorer.history) == ["head_loss", "head_seconds", "head_val_loss", "loss", "seconds", "val_loss"]
    assert scorer.predict([drawn_photo(0.4)], ["carer"])["attributes"].shape == (1, 0)


def test_jobs_and_attributes_with_too_few_photos_get_no_head():
    table = pd.DataFrame({"job": ["a"] * 6 + ["b"] * 2 + [""] * 4, "hat": ["yes"] * 3 + ["no"] * 9, "cap": ["x"] * 12})
    wanted = {"hat": "yes", "cap": "x", "scarf": "yes"}
    assert detect_heads(table, from_parameters(Training, minimum_job=3), wanted) == HeadSpec("job", ("a",), {})
    table["hat"] = ["yes"] * 6 + ["no"] * 6
    assert detect_heads(table, from_parameters(Training, minimum_job=7), wanted) == HeadSpec("", (), {"hat": "yes"})


def test_scoring_with_more_jobs_than_photos_is_refused(scorer):
    with pytest.raises(ValueError, match="a job, or an empty text, for each of 1 photos, got 2"):
        scorer.score([drawn_photo(0.4)], ["carer", "tutor"])


def test_a_job_tilt_depends_on_the_features_and_the_unknown_job_keeps_the_votes():
    layer, features = JobTilt(2), np.array([[1.0, 2.0]] * 3, "float32")
    votes, jobs = np.stack([votes_around(5)] * 3), np.array([0, 1, 2])
    layer(features, votes, jobs)
    layer.set_weights([np.array([[0.5, 0], [0, -0.3]]), np.array([0, 0.1])])
    tilted = votes[1:] * np.exp(np.array([[0.5], [-0.5]]) * np.array(SCORES))
    expected = [votes[0], *(tilted / tilted.sum(axis=1, keepdims=True))]
    np.testing.assert_allclose(layer(features, votes, jobs), expected, atol=1e-6)


def test_the_heads_have_the_votes_layer_of_the_scorer(scorer):
    for weight, head_weight in zip(
        scorer.model.get_layer("votes").get_weights(), scorer.heads.get_layer("votes").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, head_weight)


def rated(number: int, seed: int, slope: float) -> JobTrainingData:
    """Return data in which the second feature raises the score for job 1 and lowers it for job 2.

    The votes of the scorer are the same for every photo.
    """
    rng = np.random.default_rng(seed)
    features, jobs = rng.normal(2, 3, (number, 4)), np.arange(number) % 3
    tilts = (slope * (features[:, 1] - 2) + 0.2) * np.array([0, 1, -1])[jobs]
    scorer = np.tile(votes_around(5.5), (number, 1))
    people_votes = scorer * np.exp(tilts[:, None] * (np.array(SCORES) - 5.5))
    counts = [rng.multinomial(15, votes / votes.sum()) for votes in people_votes]
    return JobTrainingData(features, scorer, np.array(counts) / 15, jobs)


def test_fitting_job_tilts_recovers_slopes_and_offsets():
    slopes, offsets = fit_job_tilts(rated(600, 1, 0.15), rated(200, 2, 0.15), 2)
    np.testing.assert_allclose(slopes, [[0, 0.15, 0, 0], [0, -0.15, 0, 0]], atol=0.03)
    np.testing.assert_allclose(offsets + slopes @ np.full(4, 2), [0.2, -0.2], atol=0.05)


def test_job_tilts_that_do_not_help_on_validation_photos_are_zero():
    validation = rated(60, 2, 0.3)
    swapped = validation._replace(jobs=np.array([0, 2, 1])[validation.jobs])
    slopes, offsets = fit_job_tilts(rated(60, 1, 0.3), swapped, 2)
    assert not slopes.any()
    assert not offsets.any()


def test_photos_of_unknown_jobs_do_not_influence_the_job_tilts():
    training, validation = rated(90, 1, 0.3), rated(60, 2, 0.3)
    changed_votes = np.where((training.jobs == 0)[:, None], training.people_votes[::-1], training.people_votes)
    for expected, found in zip(
        fit_job_tilts(training, validation, 2),
        fit_job_tilts(training._replace(people_votes=changed_votes), validation, 2),
        strict=True,
    ):
        np.testing.assert_array_equal(expected, found)


OFFERED = tuple(CHILD_EFFECT)  # the jobs of the synthetic sample


def looks(portrait: Portrait) -> list[float]:
    """Return how yellow, red, light and striped the lower part of the drawn portrait is."""
    red, green, blue = np.asarray(draw_portrait(portrait, 32), float).transpose(2, 0, 1)[:, 20:] / 255
    yellow, reddish = np.minimum(red, green) - blue, red - np.maximum(green, blue)
    return [yellow.max(), reddish.max(), green.mean(), float(np.abs(np.diff(green, axis=0)).mean())]


def drawn_and_rated(numbers: range) -> JobTrainingData:
    """Return features and ratings of synthetic portraits; the scorer's votes are the same for every photo."""
    portraits = [random_portrait(np.random.default_rng([1, 3, number])) for number in numbers]
    raters, rng = SimulatedRaters(60, np.random.default_rng(1)), np.random.default_rng(2)
    scores = [[score for _, score in raters.rate(latent_quality(portrait), 12, rng)] for portrait in portraits]
    people_votes = np.array([np.bincount(photo_scores, minlength=11)[1:] / 12 for photo_scores in scores])
    jobs = np.array([1 + OFFERED.index(portrait.job) for portrait in portraits])
    return JobTrainingData(
        np.array([*map(looks, portraits)]), np.tile(people_votes.mean(0), (len(people_votes), 1)), people_votes, jobs
    )


def test_the_preferences_of_the_simulated_raters_by_job_can_be_learnt():
    """A child in the portrait raises the score more for a child carer than for a tutor."""
    slopes, _ = fit_job_tilts(drawn_and_rated(range(240)), drawn_and_rated(range(240, 320)), len(OFFERED))
    portraits = [random_portrait(np.random.default_rng([9, number])) for number in range(100)]
    differences = [
        np.subtract(looks(portrait), looks(replace(portrait, child=False))) for portrait in portraits if portrait.child
    ]
    carer, tutor = (np.array(differences) @ slopes[OFFERED.index(job)] for job in ("child carer", "tutor"))
    assert (carer > tutor).mean() > 0.8


def test_an_attribute_head_is_fitted_by_logistic_regression_on_the_labelled_photos():
    rng = np.random.default_rng(1)
    features = rng.normal(3, 2, (400, 5))
    values = (rng.random(400) < 1 / (1 + np.exp(-(features[:, 0] - features[:, 1])))).astype(float)
    labels = np.where(rng.random(400) < 0.2, -1, values)
    weights, intercept = fit_attribute((features[:300], labels[:300]), (features[300:], labels[300:]))
    np.testing.assert_allclose(weights, [1, -1, 0, 0, 0], atol=0.3)
    assert abs(np.mean(1 / (1 + np.exp(-(features @ weights + intercept)))) - values.mean()) < 0.05


def test_an_attribute_that_the_features_do_not_predict_gets_no_head():
    rng = np.random.default_rng(1)
    features, values = rng.normal(size=(400, 30)), (rng.random(400) < 0.2).astype(float)
    assert fit_attribute((features[:300], values[:300]), (features[300:], values[300:])) is None
    assert fit_attribute((features[:300], values[:300]), (features[300:], np.full(100, -1.0))) is None


def test_unreadable_norms_are_refused_before_training(told_dataset, encoder, tmp_path):
    (tmp_path / "norms.json").write_text('{"norms": [{}]}')
    with pytest.raises(ValueError, match=r"norms: .*norms\.json: norm 1: expected .*detector"):
        run(told_dataset, encoder, tmp_path, settings(norms=str(tmp_path / "norms.json")))
    with pytest.raises(FileNotFoundError, match=r"norms: expected a file at '/nowhere/n\.json', there is none"):
        run(told_dataset, encoder, tmp_path, settings(norms="/nowhere/n.json"))
    assert not (tmp_path / "checkpoints").exists()


def test_the_bundle_contains_the_built_in_norms(told_dataset, encoder, tmp_path, scorer):
    assert policy.load(scorer.norms) == policy.load()


def test_the_attribute_table_of_a_data_set_without_attributes_has_no_columns(tmp_path):
    records = [{**example(number), "attributes": {}} for number in range(3)]
    tfds_writer.write(tmp_path / "dataset", {"train": [records]}, [])
    assert photos.attributes(tmp_path / "dataset", "train").shape == (3, 0)


@pytest.fixture(scope="module")
def version(scorer, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "portraits" / "1"
    saved_model.export(scorer, folder, "portraits")
    saved_model.export_litert(scorer, folder, "portraits")
    integrity.write_record(folder, {})
    return str(folder)


def asked(tested: list[dict]) -> tuple[list[bytes], list[str]]:
    return [record["photo"] for record in tested], [record["attributes"]["job"] for record in tested]


def test_the_saved_model_predicts_with_a_job_as_the_scorer_does(scorer, version, tested):
    data, jobs = asked(tested)
    expected, predicted = scorer.predict(data, jobs), saved_model.load(version).predict(data, jobs=jobs)
    np.testing.assert_allclose(predicted["distribution"], expected["votes"], atol=1e-5)
    np.testing.assert_allclose(predicted["mean"], means(expected["votes"]), atol=1e-5)


def test_the_litert_network_predicts_with_a_job_as_the_scorer_does(scorer, version, tested):
    data, jobs = asked(tested)
    litert = litert_model.load(version)
    predicted = litert.predict(np.stack([litert.pixels(photo) for photo in data]), jobs)
    expected = scorer.predict(data, jobs)
    assert (litert.jobs, litert.attributes) == (JOBS, ("sunglasses",))
    np.testing.assert_allclose(predicted["distribution"], expected["votes"], atol=saved_model.TOLERANCE)
    np.testing.assert_allclose(predicted["attributes"], expected["attributes"], atol=saved_model.TOLERANCE)


@pytest.mark.parametrize("job", [0, 1, 2])
def test_the_gain_of_a_location_for_a_job_is_the_score_lost_without_it(scorer, job):
    """The reference leaves out each location of the last feature map in turn and scores the rest by the heads."""
    pixels = scorer.pixels(tf.constant([drawn_photo(0.3, 1), drawn_photo(0.7, 2)]))
    pooling = scorer.model.get_layer("pooled")
    features = keras.Model(scorer.model.input, pooling.input)(pixels).numpy()
    outputs = serving_outputs.build_cam_model(scorer.model, scorer.heads)([pixels, tf.fill([2], job)])
    locations = features.reshape(2, -1, features.shape[-1])
    scores_without = [
        means(
            scorer.heads([tf.constant(np.delete(locations, location, axis=1).mean(axis=1)), tf.fill([2], job)])[
                "votes"
            ].numpy()
        )
        for location in range(locations.shape[1])
    ]
    expected = outputs["mean"].numpy()[:, None] - np.stack(scores_without, axis=1)
    np.testing.assert_allclose(outputs["gains"].numpy().reshape(2, -1), expected, atol=1e-4)
    assert np.ptp(expected) > 0.001


def test_the_saved_model_scores_the_unknown_job_as_no_job(version, tested):
    data, _ = asked(tested)
    saved = saved_model.load(version)
    np.testing.assert_allclose(
        saved.predict(data, jobs=[""] * len(data))["mean"], saved.predict(data)["mean"], atol=1e-6
    )


def test_the_signature_of_the_saved_model_treats_an_unlisted_job_as_unknown(version, tested):
    signature = saved_model.load(version)._saved_model.signatures[saved_model.WITH_JOB]
    data = tf.constant([tested[0]["photo"]] * 3)
    unlisted, unknown, known = signature(image_bytes=data, job=tf.constant(["astronaut", "", "carer"]))["mean"].numpy()
    assert unlisted == unknown != known


def test_a_version_refuses_an_unlisted_job_and_lists_the_known_ones(version, tested):
    litert, photo = litert_model.load(version), tested[0]["photo"]
    message = r"expected a job among \['carer', 'tutor'\], or none, got 'astronaut'"
    with pytest.raises(ValueError, match=message):
        litert.predict(litert.pixels(photo)[None], ["astronaut"])
    with pytest.raises(ValueError, match=message):
        saved_model.load(version).predict([photo], jobs=["astronaut"])
    with pytest.raises(ValueError, match="for each of 1 photos, got 2"):
        litert.predict(litert.pixels(photo)[None], ["carer", "tutor"])


def test_the_score_command_passes_its_job_option_to_the_scorer(version, tested, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bright.jpg").write_bytes(drawn_photo(0.8, 5001, size=(96, 128)))
    scores = {}
    for job in JOBS:
        options = ["score", version, str(tmp_path / "photos"), "--out", str(tmp_path / "s.csv"), "--job", job]
        assert main(options) == 0
        scores[job] = float(pd.read_csv(tmp_path / "s.csv")["mean"][0])
    assert scores["carer"] - scores["tutor"] > 2
    assert main(["score", version, str(tmp_path / "photos"), "--out", str(tmp_path / "s.csv"), "--job", "x"]) == 2
    assert "can be told one of the jobs ['carer', 'tutor'], got 'x'" in capsys.readouterr().err


def test_the_version_contains_the_norms_of_its_bundle(version):
    assert litert_model.load(version).norms == policy.load()


# The evaluation of jobs and norms


@pytest.fixture(scope="module")
def evaluated(scorer, told_dataset) -> job_and_norms.JobAndNormResults:
    records = partial(photos.records, told_dataset, "test")
    return job_and_norms.evaluate_job_and_norms(scorer, records, predict(records, scorer, 45), QUICK)


def test_the_evaluation_compares_scores_with_and_without_the_job(evaluated):
    assert evaluated.comparison.photos == 30
    assert evaluated.comparison.srcc.low > 0


def test_the_evaluation_reports_the_mean_change_of_the_score_by_each_job(evaluated, scorer, told_dataset):
    assert [(item.job, item.photos) for item in evaluated.effects] == [("carer", 15), ("tutor", 15)]
    records = [item for item in photos.records(told_dataset, "test") if item["attributes"]["job"] == "carer"]
    data = [item["photo"] for item in records]
    changes = (scorer.score(data, ["carer"] * 15) - scorer.score(data)) @ np.array(SCORES)
    assert evaluated.effects[0].moved == pytest.approx(changes.mean(), abs=1e-4)


def test_norms_are_evaluated_against_the_attribute_columns(evaluated):
    (norm,) = evaluated.norms
    assert (norm.key, norm.attribute) == ("sunglasses", "sunglasses")
    assert norm.precision > 0.8
    assert norm.recall > 0.8


def test_the_job_and_norm_results_are_empty_without_jobs_or_columns(small_scorer, small_dataset):
    scorer, records = bundle.load(small_scorer), partial(photos.records, small_dataset, "test")
    assert job_and_norms.evaluate_job_and_norms(
        scorer, records, predict(records, scorer, 40), QUICK
    ) == job_and_norms.JobAndNormResults([], None, [])


def test_the_report_describes_the_effect_of_the_job_and_the_precision_of_the_norms(evaluated):
    text = " ".join(report._job_effects(evaluated, QUICK) + report._norms(evaluated.norms))
    assert "telling it moves the score by" in text
    assert "sunglasses" in text
    assert "their precision cannot be told" in " ".join(report._norms([]))


def test_a_scorer_with_jobs_and_without_attributes_is_evaluated(scorer, told_dataset):
    without_attributes = replace(
        scorer, head_spec=replace(scorer.head_spec, attributes={}), heads=_without_attributes(scorer.heads)
    )
    assert without_attributes.predict([drawn_photo(0.5, 1)] * 3, ["carer"] * 3)["attributes"].shape == (3, 0)
    records = partial(photos.records, told_dataset, "test")
    results = job_and_norms.evaluate_job_and_norms(
        without_attributes, records, predict(records, without_attributes, 45), QUICK
    )
    assert results.comparison.photos == 30
    assert results.norms[0].unchecked == sum(bool(record["attributes"]["sunglasses"]) for record in records())


def test_norms_of_a_scorer_without_heads_are_evaluated(scorer, told_dataset):
    without_heads, records = (
        replace(scorer, head_spec=HeadSpec(), heads=None),
        partial(photos.records, told_dataset, "test"),
    )
    results = job_and_norms.evaluate_job_and_norms(without_heads, records, predict(records, without_heads, 45), QUICK)
    assert (results.effects, results.comparison) == ([], None)
    assert [norm.key for norm in results.norms] == ["sunglasses"]


def _without_attributes(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, {"votes": model.output["votes"]}, name="heads")
