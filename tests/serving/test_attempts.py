"""Decode a photo in a process of its own."""

import os

import pytest

from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import UnusablePhotoError
from components.scorer.settings import Ingestion
from images.serving import attempts
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

SETTINGS = Ingestion()
PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))


def _die(*_: object) -> None:
    os._exit(9)


def _sleep(there: object, *_: object) -> None:
    import time

    time.sleep(60)


def test_a_photo_decoded_in_a_subprocess_is_the_same():
    assert attempts.normalise_in_subprocess(PHOTO, SETTINGS, 60) == (decoding.normalise(PHOTO, SETTINGS), (90, 120))


def test_an_empty_file_is_refused_in_a_subprocess():
    with pytest.raises(UnusablePhotoError, match="expected a photo, got an empty file"):
        attempts.normalise_in_subprocess(b"", SETTINGS, 60)


@pytest.mark.parametrize(("end", "seconds", "words"), [(_die, 60, "ends the process"), (_sleep, 0.2, "within 0.2 s")])
def test_a_photo_that_crashes_or_stalls_the_subprocess_is_unreadable(monkeypatch, end, seconds, words):
    monkeypatch.setattr(attempts, "_normalise", end)
    with pytest.raises(UnusablePhotoError, match=words) as caught:
        attempts.normalise_in_subprocess(PHOTO, SETTINGS, seconds)
    assert caught.value.reason == "unreadable"
