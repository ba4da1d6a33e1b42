"""Messages show the shape of a photo's name and nothing of the name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.scorer.redaction import redacted, shape


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("anna_schmidt.jpg", "•••.jpg"),
        ("families/anna_schmidt_1987-03-01.JPG", "•••/•••.JPG"),
        ("/home/anna/schmidt.heic", "/•••/•••/•••.heic"),
        ("https://host/anna/1.png", "https://•••/•••/•••.png"),
        ("C:\\photos\\anna.jpeg", "C:\\•••\\•••.jpeg"),
        ("anna schmidt", "•••"),
        ("anna.schmidt", "•••"),
        ("Anna:Schmidt.jpg", "•••.jpg"),
        ("", ""),
    ],
)
def test_a_shape_keeps_scheme_depth_and_ending(name, shown):
    assert shape(name) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("there is no gs://b/p/anna schmidt.jpg: gone", "there is no gs://•••/•••/•••.jpg: gone"),
        ("[Errno 13] Permission denied: '/data/Anna Schmidt.jpg'", "[Errno 13] Permission denied: '/•••/•••.jpg'"),
        ("got ['anna.jpg', '7'] for anna.jpeg.", "got ['•••.jpg', '7'] for •••.jpeg."),
        ("can't read 'anna.jpg'", "can't read '•••.jpg'"),
        ('PosixPath("a/b.webp"), a/c.TIF', 'PosixPath("•••/•••.webp"), •••/•••.TIF'),
        ("expected ratings.csv in gs://bucket/photos (3 %)", "expected ratings.csv in gs://bucket/photos (3 %)"),
    ],
)
def test_names_of_photos_in_a_text_lose_all_but_their_shape(text, shown):
    assert redacted(text) == shown


_WORD = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=4, max_size=9).filter(
    lambda word: word not in "cannot read: gone heic Tiff"
)


@given(st.lists(_WORD, min_size=1, max_size=4), st.sampled_from([".jpg", ".PNG", ".heic", ".Tiff"]))
def test_no_word_of_a_path_survives(words, suffix):
    text = redacted(f"cannot read: /{'/'.join(words)}{suffix}: gone")
    assert not [word for word in words if word in text]
