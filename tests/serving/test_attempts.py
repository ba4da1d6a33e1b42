"""Photos decoded in a process of their own."""

import os

import pytest

from components.scorer.imaging import decoding
from components.scorer.imaging.decoding import UnusablePhotoError
from components.scorer.settings import Ingestion
from images.serving import attempts
from tests.conftest import drawn_photo

SETTINGS = Ingestion()
PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))


def _die(*_: object) -> None:
    os._exit(9)


def _sleep(there: object, *_: object) -> None:
    import time

    time.sleep(60)


def test_a_photo_decoded_apart_is_the_same():
    assert attempts.normalise_in_subprocess(PHOTO, SETTINGS, 60) == (decoding.normalise(PHOTO, SETTINGS), (90, 120))


def test_what_is_no_photo_is_refused_apart_as_here():
    with pytest.raises(UnusablePhotoError, match="expected a photo, got an empty file"):
        attempts.normalise_in_subprocess(b"", SETTINGS, 60)


@pytest.mark.parametrize(("end", "seconds", "words"), [(_die, 60, "ends the process"), (_sleep, 0.2, "within 0.2 s")])
def test_a_photo_that_ends_or_holds_its_process_is_unreadable(monkeypatch, end, seconds, words):
    monkeypatch.setattr(attempts, "_normalise", end)
    with pytest.raises(UnusablePhotoError, match=words) as caught:
        attempts.normalise_in_subprocess(PHOTO, SETTINGS, seconds)
    assert caught.value.reason == "unreadable"
