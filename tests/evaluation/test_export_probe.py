"""Export probe in a fresh process: each gate fails for the one scorer that was built to fail it, and for no other."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.evaluation import export_probe, export_probe_worker
from components.scorer.artifacts import bundle, saved_model
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.parameters import from_parameters
from components.scorer.registry import integrity
from components.scorer.run import decision
from components.scorer.settings import SCORES, Evaluation, Pretraining, Training
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

SETTINGS = Evaluation()
PHOTOS = [drawn_photo(0.1 + 0.1 * number, number) for number in range(8)]
KEYS = {"fresh_process", "batch", "agreement", "latency", "size"}


def scorer_with(layer: keras.Layer | None = None, kind: type[TrainedScorer] = TrainedScorer) -> TrainedScorer:
    """Return a scorer of brightness with an extra layer after its input."""
    pixels = keras.Input((32, 32, 3), name="pixels")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(layer(pixels) if layer else pixels)
    head = keras.layers.Dense(len(SCORES), activation="softmax", name="votes")
    model = keras.Model(pixels, head(pooled), name="scorer")
    scores = np.array(SCORES, float)
    head.set_weights([np.tile(scores / 100, (3, 1)), -(scores**2) / 2])
    return kind(model, from_parameters(Pretraining, start="none", crop=32), Training(scale=36))


class Neighbours(keras.layers.Layer):
    """Subtracts the batch mean, like batch normalisation left in training mode."""

    def call(self, pixels):
        return pixels - keras.ops.mean(pixels, axis=0, keepdims=True) / 2


class Slow(keras.layers.Layer):
    """Multiplies matrices to lose time, without effect on the output."""

    def call(self, pixels):
        matrix = tf.fill([300, 300], tf.reduce_mean(pixels) / 255)
        for _ in range(40):
            matrix = tf.tanh(tf.matmul(matrix, matrix) / 300)
        return pixels + 1e-9 * tf.reduce_mean(matrix)


class AtHome(keras.layers.Layer):
    """Calls back into the Python of the process that built it."""

    def call(self, pixels):
        return tf.ensure_shape(tf.numpy_function(lambda values: values, [pixels], tf.float32), [None, 32, 32, 3])

    def compute_output_shape(self, shape):
        return shape


class Skewed(TrainedScorer):
    """Resizes photos with Pillow in training, but with TensorFlow in serving."""

    def score(self, photos: list[bytes], batch_size: int = 32) -> np.ndarray:
        def pixels(photo: bytes) -> np.ndarray:
            picture = Image.fromarray(tf.io.decode_image(photo).numpy())
            return np.asarray(picture.resize((36, 36), Image.Resampling.NEAREST), "float32")[2:34, 2:34]

        return self.model(np.stack([pixels(photo) for photo in photos]), training=False).numpy()


def failed(found: export_probe.ExportProbeResult, settings: Evaluation = SETTINGS) -> set[str]:
    gates = export_probe.gates(found, settings)
    assert {gate.key for gate in gates} == KEYS
    return {gate.key for gate in gates if gate.verdict == "failed"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> export_probe.ExportProbeResult:
    """Probe a sound scorer from a working folder outside this project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        return export_probe.probe(scorer_with(), PHOTOS, SETTINGS)


def test_a_sound_scorer_passes_every_gate(sound):
    assert not failed(sound)
    assert sound.error == ""


def test_every_measure_of_a_sound_scorer_is_finite_and_plausible(sound):
    numbers = {name: value for name, value in vars(sound).items() if name != "error"}
    assert all(math.isfinite(value) and value >= 0 for value in numbers.values()), numbers
    assert sound.photos == export_probe_worker.BATCH  # repeated up to a full batch
    assert 0 < sound.latency_median <= sound.latency_95
    assert 50 < sound.memory_megabytes < 5000
    assert 0.01 < sound.size_megabytes < 2


def test_a_scorer_that_depends_on_the_batch_fails_only_the_batch_gate():
    assert failed(export_probe.probe(scorer_with(Neighbours()), PHOTOS, SETTINGS)) == {"batch"}


def test_a_scorer_served_other_pixels_than_in_training_fails_only_the_agreement_gate():
    assert failed(export_probe.probe(scorer_with(kind=Skewed), PHOTOS, SETTINGS)) == {"agreement"}


def test_a_slow_scorer_fails_only_the_latency_gate(sound):
    slow = export_probe.probe(scorer_with(Slow()), PHOTOS, SETTINGS)
    # The slow scorer takes many times as long as the sound one, also on a busy machine, so the limit is between both.
    limit = (sound.latency_median + slow.latency_median) / 2
    assert sound.latency_median < limit
    assert failed(slow, replace(SETTINGS, maximum_latency=limit)) == {"latency"}


def test_a_scorer_above_the_size_limit_fails_only_the_size_gate(sound):
    assert failed(sound, replace(SETTINGS, maximum_size=sound.size_megabytes / 2)) == {"size"}


def test_a_scorer_that_needs_the_process_that_built_it_fails_every_gate_but_size(tmp_path):
    scorer = scorer_with(AtHome())
    saved_model.export(scorer, tmp_path)
    integrity.write_record(tmp_path, {})
    # In the process that built it, the scorer works.
    scores_in_this_process = saved_model.load(str(tmp_path)).score(PHOTOS)
    np.testing.assert_allclose(scores_in_this_process, scorer.score(PHOTOS), atol=1e-5)

    probed = export_probe.probe(scorer, PHOTOS, SETTINGS)
    assert failed(probed) == KEYS - {"size"}  # only the size is measured without an answer
    assert "exit status 1" in probed.error
    assert all(probed.error in gate.reason for gate in export_probe.gates(probed, SETTINGS) if gate.verdict == "failed")


def test_a_process_that_answers_and_then_dies_fails_only_the_fresh_process_gate(sound):
    assert failed(replace(sound, error="it ended with exit status -11: ")) == {"fresh_process"}


def test_a_process_that_hangs_is_killed_and_reported(monkeypatch):
    monkeypatch.setattr(export_probe, "TIMEOUT", 0.2)
    probed = export_probe.probe(scorer_with(), PHOTOS, SETTINGS)
    assert probed.error == "it was not done within 0.2 seconds"
    assert failed(probed) == KEYS - {"size"}


def test_a_scorer_that_cannot_be_exported_fails_every_gate_and_the_error_says_why(monkeypatch):
    def refuse(*_):
        raise TypeError("no such operation\nand much more")

    monkeypatch.setattr(saved_model, "export", refuse)
    probed = export_probe.probe(scorer_with(), PHOTOS, SETTINGS)
    assert failed(probed) == KEYS
    assert probed.error == "the scorer could not be exported: TypeError: no such operation"


@pytest.mark.parametrize("measure", ["batch_difference", "agreement_difference", "latency_95", "size_megabytes"])
def test_a_nan_measure_fails_its_gate(measure, sound):
    (key,) = failed(replace(sound, **{measure: math.nan}))
    (gate,) = (gate for gate in export_probe.gates(replace(sound, **{measure: math.nan}), SETTINGS) if gate.key == key)
    assert measure.split("_")[0] == key
    assert "could not be measured" in gate.reason


def test_a_probe_without_photos_is_an_error():
    with pytest.raises(ValueError, match="expected photos"):
        export_probe.probe(scorer_with(), [], SETTINGS)


def test_a_probe_result_is_written_as_json(sound):
    assert decision.to_json_value(replace(sound, latency_95=math.nan))["latency_95"] is None


def test_a_bundle_scores_the_same_as_a_graph_and_eagerly(small_scorer):
    scorer = bundle.load(small_scorer)
    eager = scorer.model(scorer.pixels(tf.constant(PHOTOS)), training=False).numpy()
    # A graph folds batch normalisation into convolutions.
    np.testing.assert_allclose(scorer.score(PHOTOS), eager, atol=1e-4)
