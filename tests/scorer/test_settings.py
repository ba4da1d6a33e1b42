"""Settings are checked for type, choices and range; the error names the expected value."""

import pytest

from components.scorer.parameters import as_parameters, check_pretraining, from_parameters
from components.scorer.settings import Faces, Ingestion, Pretraining, Training


def test_whole_numbers_that_kubeflow_passes_as_floats_become_integers():
    settings = from_parameters(Ingestion, ava_tags=[17.0, 47.0], shorter_side=320.0)
    assert settings == Ingestion()


def test_settings_are_restored_from_their_parameters():
    first = from_parameters(Pretraining, backbone_options={"alpha": 0.5}, start="none")
    assert from_parameters(Pretraining, **as_parameters(first)) == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "given", "words"),
    [
        (Ingestion, {"rating_scale": "5-1"}, "rating_scale must be auto, or the lowest and the highest score such as"),
        (Ingestion, {"rating_scale": "stars"}, "rating_scale must be auto, or the lowest and the highest score such"),
        (Ingestion, {"ava_tags": ["x"]}, "ava_tags must be a list of whole numbers, got ['x']"),
        (Ingestion, {"ava_tags": [17.5]}, "ava_tags must be a whole number, got 17.5"),
        (Faces, {"face_scales": "1"}, "face_scales must be a list of numbers, got '1'"),
        (Faces, {"face_scales": [1, 3]}, "face_scales must be from 0.1 to 2, got 3"),
        (Ingestion, {"test_share": 0.7}, "test_share must be from 0 to 0.5, got 0.7"),
        (Ingestion, {"shorter_side": 320.5}, "shorter_side must be a whole number, got 320.5"),
        (Pretraining, {"start": "imagnet"}, "start must be one of ['autoencoder', "),
        (Training, {"mixed_precision": 1}, "mixed_precision must be bool, got 1"),
        (Training, {"dropuot": 0.5}, "Training has no setting 'dropuot'; expected one of ['averaging', "),
    ],
)
def test_a_wrong_value_gives_one_clear_error(settings, given, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared below
        from_parameters(settings, **given)
    assert str(error.value).startswith(words)


def test_a_crop_larger_than_the_photo_is_refused():
    with pytest.raises(ValueError, match=r"scale must be at least crop.* got 200 and 224"):
        check_pretraining(Pretraining(), scale=200)


def test_an_autoencoder_that_is_not_trained_is_refused():
    with pytest.raises(ValueError, match="pretraining_epochs of at least 1"):
        check_pretraining(from_parameters(Pretraining, epochs=0), scale=256)
