"""Heads: the job counts where it is told, the unknown job changes nothing, attributes are learnt and found."""

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

JOBS = ("carer", "tutor")
ATTRIBUTES = ["job", "sunglasses"]
QUICK = from_parameters(Evaluation, bootstrap=50)


def settings(**changes) -> Training:
    given = {"scale": 36, "head_epochs": 30, "epochs": 1, "dropout": 0.0, "batch_size": 8, "head_learning_rate": 1e-2}
    return from_parameters(Training, **{**given, "camera_faults": 0.0, **changes})


def example(number: int) -> dict:
    """A photo that carers' raters like bright and tutors' dark; dark ones wear sunglasses. Some tell nothing."""
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
        folder, {name: [[example(next(numbers)) for _ in range(n)]] for name, n in sizes.items()}, ATTRIBUTES
    )
    return folder


def run(dataset: Path, encoder: Path, folder: Path, given: Training) -> bundle.TrainedScorer:
    places = {"checkpoints": str(folder / "checkpoints"), "fingerprint": "data"}
    train(dataset, encoder, folder / "scorer", folder / "report.html", settings=given, **places)
    return bundle.load(folder / "scorer")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """An encoder whose features are light, dark and middling: what the examples' raters look at."""
    return light_encoder(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def scorer(told_dataset, encoder, tmp_path_factory) -> bundle.TrainedScorer:
    return run(told_dataset, encoder, tmp_path_factory.mktemp("heads"), settings())


@pytest.fixture(scope="module")
def tested(told_dataset) -> list[dict]:
    return list(photos.records(told_dataset, "test"))


def means(votes: np.ndarray) -> np.ndarray:
    return votes @ np.array(SCORES)


def test_what_counts_differently_by_job_is_learnt(scorer):
    pair = [drawn_photo(0.2, 5000), drawn_photo(0.8, 5001)]
    (dark_carer, bright_carer), (dark_tutor, bright_tutor) = (means(scorer.score(pair, [job] * 2)) for job in JOBS)
    assert bright_carer - dark_carer > 2
    assert dark_tutor - bright_tutor > 2


def test_telling_the_job_brings_votes_nearer_to_peoples(scorer, tested):
    known = [record for record in tested if record["attributes"]["job"]]
    truth = means(np.stack([record["votes"] for record in known]))
    data, jobs = [record["photo"] for record in known], [record["attributes"]["job"] for record in known]
    told, untold = np.abs(means(scorer.score(data, jobs)) - truth), np.abs(means(scorer.score(data)) - truth)
    assert told.mean() < untold.mean() / 2


def test_the_unknown_job_is_the_scorer_to_the_last_bit(scorer, tested):
    data = [record["photo"] for record in tested]
    np.testing.assert_array_equal(scorer.score(data, [""] * len(data)), scorer.score(data))


def test_a_job_that_the_scorer_does_not_know_counts_as_unknown(scorer, tested):
    data = [tested[0]["photo"]]
    np.testing.assert_array_equal(scorer.score(data, ["astronaut"]), scorer.score(data))


def test_an_attribute_of_the_data_is_learnt(scorer, tested):
    known = [record for record in tested if record["attributes"]["sunglasses"]]
    truth = np.array([record["attributes"]["sunglasses"] == "yes" for record in known])
    found = scorer.predict([record["photo"] for record in known], [""] * len(known))["attributes"]
    assert found.shape == (len(known), 1)
    assert ((found[:, 0] > 0.5) == truth).mean() > 0.85


def test_the_attributes_never_move_the_scores(told_dataset, encoder, tmp_path):
    (tmp_path / "none.json").write_text('{"norms": []}')
    few = {"head_epochs": 1, "epochs": 1}
    with_one = run(told_dataset, encoder, tmp_path / "one", settings(**few))
    without = run(told_dataset, encoder, tmp_path / "none", settings(norms=str(tmp_path / "none.json"), **few))
    assert (with_one.attributes, without.attributes) == (("sunglasses",), ())
    for one, other in zip(with_one.model.get_weights(), without.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_learning_the_job_never_moves_the_scorer(told_dataset, encoder, tmp_path):
    few = {"head_epochs": 1, "epochs": 1}
    with_jobs = run(told_dataset, encoder, tmp_path / "jobs", settings(**few))
    without = run(told_dataset, encoder, tmp_path / "none", settings(job="none", **few))
    assert (with_jobs.jobs, without.jobs) == (JOBS, ())
    for one, other in zip(with_jobs.model.get_weights(), without.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_bundle_with_heads_comes_back_as_it_was_saved(scorer, tested, tmp_path):
    scorer.save(tmp_path)
    again = bundle.load(tmp_path)
    data, jobs = [record["photo"] for record in tested], [record["attributes"]["job"] for record in tested]
    for name, values in scorer.predict(data, jobs).items():
        np.testing.assert_array_equal(again.predict(data, jobs)[name], values)
    assert (again.jobs, again.attributes, again.norms) == (JOBS, ("sunglasses",), scorer.norms)


def test_without_a_job_or_attribute_in_the_data_training_is_what_it_was(small_dataset, small_encoder, tmp_path):
    scorer = run(small_dataset, small_encoder, tmp_path, settings(head_epochs=1))
    assert (scorer.heads, scorer.jobs, scorer.attributes) == (None, (), ())
    assert sorted(scorer.history) == ["head_loss", "head_seconds", "head_val_loss", "loss", "seconds", "val_loss"]
    assert scorer.predict([drawn_photo(0.4)], ["carer"])["attributes"].shape == (1, 0)


def test_rare_jobs_count_as_unknown_and_too_rare_attributes_are_not_learnt():
    table = pd.DataFrame({"job": ["a"] * 6 + ["b"] * 2 + [""] * 4, "hat": ["yes"] * 3 + ["no"] * 9, "cap": ["x"] * 12})
    wanted = {"hat": "yes", "cap": "x", "scarf": "yes"}
    assert detect_heads(table, from_parameters(Training, minimum_job=3), wanted) == HeadSpec("job", ("a",), {})
    table["hat"] = ["yes"] * 6 + ["no"] * 6
    assert detect_heads(table, from_parameters(Training, minimum_job=7), wanted) == HeadSpec("", (), {"hat": "yes"})


def test_more_jobs_than_photos_are_refused(scorer):
    with pytest.raises(ValueError, match="a job, or an empty text, for each of 1 photos, got 2"):
        scorer.score([drawn_photo(0.4)], ["carer", "tutor"])


def test_the_job_tilts_votes_by_what_a_photo_shows_and_the_unknown_leaves_them():
    layer, features = JobTilt(2), np.array([[1.0, 2.0]] * 3, "float32")
    votes, jobs = np.stack([votes_around(5)] * 3), np.array([0, 1, 2])
    layer(features, votes, jobs)
    layer.set_weights([np.array([[0.5, 0], [0, -0.3]]), np.array([0, 0.1])])
    tilted = votes[1:] * np.exp(np.array([[0.5], [-0.5]]) * np.array(SCORES))
    expected = [votes[0], *(tilted / tilted.sum(axis=1, keepdims=True))]
    np.testing.assert_allclose(layer(features, votes, jobs), expected, atol=1e-6)


def test_the_heads_share_one_last_layer(scorer):
    for one, other in zip(
        scorer.model.get_layer("votes").get_weights(), scorer.heads.get_layer("votes").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def rated(number: int, seed: int, slope: float) -> JobTrainingData:
    """Photos whose second feature speaks for the first job and against the second; a scorer that does not know."""
    rng = np.random.default_rng(seed)
    features, told = rng.normal(2, 3, (number, 4)), np.arange(number) % 3
    tilts = (slope * (features[:, 1] - 2) + 0.2) * np.array([0, 1, -1])[told]
    scorer = np.tile(votes_around(5.5), (number, 1))
    people = scorer * np.exp(tilts[:, None] * (np.array(SCORES) - 5.5))
    counts = [rng.multinomial(15, each / each.sum()) for each in people]
    return JobTrainingData(features, scorer, np.array(counts) / 15, told)


def test_what_counts_for_a_job_is_found_with_its_size():
    slopes, offsets = fit_job_tilts(rated(600, 1, 0.15), rated(200, 2, 0.15), 2)
    np.testing.assert_allclose(slopes, [[0, 0.15, 0, 0], [0, -0.15, 0, 0]], atol=0.03)
    np.testing.assert_allclose(offsets + slopes @ np.full(4, 2), [0.2, -0.2], atol=0.05)


def test_telling_a_job_changes_nothing_where_that_would_not_help_with_other_photos():
    others = rated(60, 2, 0.3)
    swapped = others._replace(jobs=np.array([0, 2, 1])[others.jobs])
    slopes, offsets = fit_job_tilts(rated(60, 1, 0.3), swapped, 2)
    assert not slopes.any()
    assert not offsets.any()


def test_photos_of_unknown_jobs_teach_none():
    train, others = rated(90, 1, 0.3), rated(60, 2, 0.3)
    strange = np.where((train.jobs == 0)[:, None], train.people_votes[::-1], train.people_votes)
    for one, other in zip(
        fit_job_tilts(train, others, 2), fit_job_tilts(train._replace(people_votes=strange), others, 2), strict=True
    ):
        np.testing.assert_array_equal(one, other)


OFFERED = tuple(CHILD_EFFECT)  # the sample's jobs


def looks(portrait: Portrait) -> list[float]:
    """What is yellow, red, light and striped on the lower half of a drawn photo."""
    red, green, blue = np.asarray(draw_portrait(portrait, 32), float).transpose(2, 0, 1)[:, 20:] / 255
    yellow, reddish = np.minimum(red, green) - blue, red - np.maximum(green, blue)
    return [yellow.max(), reddish.max(), green.mean(), float(np.abs(np.diff(green, axis=0)).mean())]


def drawn_and_rated(numbers: range) -> JobTrainingData:
    """Portraits of the embedded sample by their looks, rated by its raters; a scorer that gives all the same votes."""
    portraits = [random_portrait(np.random.default_rng([1, 3, number])) for number in numbers]
    raters, rng = SimulatedRaters(60, np.random.default_rng(1)), np.random.default_rng(2)
    scores = [[score for _, score in raters.rate(latent_quality(portrait), 12, rng)] for portrait in portraits]
    people = np.array([np.bincount(each, minlength=11)[1:] / 12 for each in scores])
    jobs = np.array([1 + OFFERED.index(portrait.job) for portrait in portraits])
    return JobTrainingData(np.array([*map(looks, portraits)]), np.tile(people.mean(0), (len(people), 1)), people, jobs)


def test_what_the_samples_raters_prefer_by_job_can_be_learnt_from_its_photos():
    """The same portraits with the child and without: it speaks more for a child carer than for a tutor."""
    slopes, _ = fit_job_tilts(drawn_and_rated(range(240)), drawn_and_rated(range(240, 320)), len(OFFERED))
    fresh = [random_portrait(np.random.default_rng([9, number])) for number in range(100)]
    adds = [np.subtract(looks(each), looks(replace(each, child=False))) for each in fresh if each.child]
    carer, tutor = (np.array(adds) @ slopes[OFFERED.index(job)] for job in ("child carer", "tutor"))
    assert (carer > tutor).mean() > 0.8


def test_an_attribute_is_a_penalised_logistic_regression_on_the_known_photos():
    rng = np.random.default_rng(1)
    features = rng.normal(3, 2, (400, 5))
    values = (rng.random(400) < 1 / (1 + np.exp(-(features[:, 0] - features[:, 1])))).astype(float)
    unknown = np.where(rng.random(400) < 0.2, -1, values)
    weights, intercept = fit_attribute((features[:300], unknown[:300]), (features[300:], unknown[300:]))
    np.testing.assert_allclose(weights, [1, -1, 0, 0, 0], atol=0.3)
    assert abs(np.mean(1 / (1 + np.exp(-(features @ weights + intercept)))) - values.mean()) < 0.05


def test_an_attribute_that_features_do_not_tell_is_no_head():
    rng = np.random.default_rng(1)
    features, values = rng.normal(size=(400, 30)), (rng.random(400) < 0.2).astype(float)
    assert fit_attribute((features[:300], values[:300]), (features[300:], values[300:])) is None
    assert fit_attribute((features[:300], values[:300]), (features[300:], np.full(100, -1.0))) is None


def test_norms_that_cannot_be_read_are_named_before_anything_is_trained(told_dataset, encoder, tmp_path):
    (tmp_path / "norms.json").write_text('{"norms": [{}]}')
    with pytest.raises(ValueError, match=r"norms: .*norms\.json: norm 1: expected .*detector"):
        run(told_dataset, encoder, tmp_path, settings(norms=str(tmp_path / "norms.json")))
    with pytest.raises(FileNotFoundError, match=r"norms: expected a file at '/nowhere/n\.json', there is none"):
        run(told_dataset, encoder, tmp_path, settings(norms="/nowhere/n.json"))
    assert not (tmp_path / "checkpoints").exists()


def test_the_bundle_carries_the_norms_in_force(told_dataset, encoder, tmp_path, scorer):
    assert policy.load(scorer.norms) == policy.load()


def test_a_data_set_without_attributes_has_none(tmp_path):
    plain = [{**example(number), "attributes": {}} for number in range(3)]
    tfds_writer.write(tmp_path / "dataset", {"train": [plain]}, [])
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


def test_the_published_version_answers_with_the_job_as_the_scorer_does(scorer, version, tested):
    data, jobs = asked(tested)
    expected, found = scorer.predict(data, jobs), saved_model.load(version).predict(data, jobs=jobs)
    np.testing.assert_allclose(found["distribution"], expected["votes"], atol=1e-5)
    np.testing.assert_allclose(found["mean"], means(expected["votes"]), atol=1e-5)


def test_the_portable_network_answers_with_the_job_as_the_scorer_does(scorer, version, tested):
    data, jobs = asked(tested)
    served = litert_model.load(version)
    found = served.predict(np.stack([served.pixels(photo) for photo in data]), jobs)
    expected = scorer.predict(data, jobs)
    assert (served.jobs, served.attributes) == (JOBS, ("sunglasses",))
    np.testing.assert_allclose(found["distribution"], expected["votes"], atol=saved_model.TOLERANCE)
    np.testing.assert_allclose(found["attributes"], expected["attributes"], atol=saved_model.TOLERANCE)


@pytest.mark.parametrize("job", [0, 1, 2])
def test_what_a_place_gains_for_a_job_is_what_the_score_loses_without_it(scorer, job):
    """Each place of the last feature map left out of the pooling in turn, and the rest scored by the heads."""
    pixels = scorer.pixels(tf.constant([drawn_photo(0.3, 1), drawn_photo(0.7, 2)]))
    pooling = scorer.model.get_layer("pooled")
    features = keras.Model(scorer.model.input, pooling.input)(pixels).numpy()
    found = serving_outputs.build_cam_model(scorer.model, scorer.heads)([pixels, tf.fill([2], job)])
    places = features.reshape(2, -1, features.shape[-1])
    without = [
        means(
            scorer.heads([tf.constant(np.delete(places, place, axis=1).mean(axis=1)), tf.fill([2], job)])[
                "votes"
            ].numpy()
        )
        for place in range(places.shape[1])
    ]
    gains = found["mean"].numpy()[:, None] - np.stack(without, axis=1)
    np.testing.assert_allclose(found["gains"].numpy().reshape(2, -1), gains, atol=1e-4)
    assert np.ptp(gains) > 0.001


def test_the_unknown_job_of_the_published_version_is_what_it_says_without(version, tested):
    data, _ = asked(tested)
    loaded = saved_model.load(version)
    np.testing.assert_allclose(
        loaded.predict(data, jobs=[""] * len(data))["mean"], loaded.predict(data)["mean"], atol=1e-6
    )


def test_a_name_that_nobody_knows_counts_as_unknown_within_the_saved_model(version, tested):
    signature = saved_model.load(version)._saved_model.signatures[saved_model.WITH_JOB]
    data = tf.constant([tested[0]["photo"]] * 3)
    strange, unknown, known = signature(image_bytes=data, job=tf.constant(["astronaut", "", "carer"]))["mean"].numpy()
    assert strange == unknown != known


def test_a_job_that_a_version_does_not_know_is_refused_with_those_that_it_knows(version, tested):
    served, photo = litert_model.load(version), tested[0]["photo"]
    words = r"expected a job among \['carer', 'tutor'\], or none, got 'astronaut'"
    with pytest.raises(ValueError, match=words):
        served.predict(served.pixels(photo)[None], ["astronaut"])
    with pytest.raises(ValueError, match=words):
        saved_model.load(version).predict([photo], jobs=["astronaut"])
    with pytest.raises(ValueError, match="for each of 1 photos, got 2"):
        served.predict(served.pixels(photo)[None], ["carer", "tutor"])


def test_a_folder_is_scored_with_the_job_that_the_command_line_tells(version, tested, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bright.jpg").write_bytes(drawn_photo(0.8, 5001, size=(96, 128)))
    found = {}
    for job in JOBS:
        options = ["score", version, str(tmp_path / "photos"), "--out", str(tmp_path / "s.csv"), "--job", job]
        assert main(options) == 0
        found[job] = float(pd.read_csv(tmp_path / "s.csv")["mean"][0])
    assert found["carer"] - found["tutor"] > 2
    assert main(["score", version, str(tmp_path / "photos"), "--out", str(tmp_path / "s.csv"), "--job", "x"]) == 2
    assert "can be told one of the jobs ['carer', 'tutor'], got 'x'" in capsys.readouterr().err


def test_the_version_brings_the_norms_of_its_bundle(version):
    assert litert_model.load(version).norms == policy.load()


# What the evaluation tells of them


@pytest.fixture(scope="module")
def evaluated(scorer, told_dataset) -> job_and_norms.JobAndNormResults:
    records = partial(photos.records, told_dataset, "test")
    return job_and_norms.evaluate_job_and_norms(scorer, records, predict(records, scorer, 45), QUICK)


def test_telling_the_job_is_held_against_not_telling_it(evaluated):
    assert evaluated.comparison.photos == 30
    assert evaluated.comparison.srcc.low > 0


def test_each_job_tells_how_far_it_moves_the_score(evaluated, scorer, told_dataset):
    assert [(each.job, each.photos) for each in evaluated.effects] == [("carer", 15), ("tutor", 15)]
    records = [each for each in photos.records(told_dataset, "test") if each["attributes"]["job"] == "carer"]
    data = [each["photo"] for each in records]
    moved = (scorer.score(data, ["carer"] * 15) - scorer.score(data)) @ np.array(SCORES)
    assert evaluated.effects[0].moved == pytest.approx(moved.mean(), abs=1e-4)


def test_norms_are_judged_where_a_column_knows(evaluated):
    (judged,) = evaluated.norms
    assert (judged.key, judged.attribute) == ("sunglasses", "sunglasses")
    assert judged.precision > 0.8
    assert judged.recall > 0.8


def test_without_jobs_or_columns_there_is_nothing_to_tell(small_scorer, small_dataset):
    plain, records = bundle.load(small_scorer), partial(photos.records, small_dataset, "test")
    assert job_and_norms.evaluate_job_and_norms(
        plain, records, predict(records, plain, 40), QUICK
    ) == job_and_norms.JobAndNormResults([], None, [])


def test_the_page_tells_what_the_job_and_the_norms_are_worth(evaluated):
    words = " ".join(report._job_effects(evaluated, QUICK) + report._norms(evaluated.norms))
    assert "telling it moves the score by" in words
    assert "sunglasses" in words
    assert "their precision cannot be told" in " ".join(report._norms([]))


def test_a_scorer_that_knows_jobs_and_no_attribute_is_judged_too(scorer, told_dataset):
    plain = replace(scorer, head_spec=replace(scorer.head_spec, attributes={}), heads=_without_attributes(scorer.heads))
    assert plain.predict([drawn_photo(0.5, 1)] * 3, ["carer"] * 3)["attributes"].shape == (3, 0)
    records = partial(photos.records, told_dataset, "test")
    found = job_and_norms.evaluate_job_and_norms(plain, records, predict(records, plain, 45), QUICK)
    assert found.comparison.photos == 30
    assert found.norms[0].unchecked == sum(bool(row["attributes"]["sunglasses"]) for row in records())


def test_norms_are_judged_by_pixels_where_nothing_is_learnt(scorer, told_dataset):
    plain, records = replace(scorer, head_spec=HeadSpec(), heads=None), partial(photos.records, told_dataset, "test")
    found = job_and_norms.evaluate_job_and_norms(plain, records, predict(records, plain, 45), QUICK)
    assert (found.effects, found.comparison) == ([], None)
    assert [each.key for each in found.norms] == ["sunglasses"]


def _without_attributes(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, {"votes": model.output["votes"]}, name="heads")
