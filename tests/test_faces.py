"""Faces: the geometry of a face, and YuNet's weights read, checked and used."""

import numpy as np
import pytest
from PIL import Image

from components.scorer import faces
from components.scorer.faces import Box, Face


def face(x=0.3, y=0.2, width=0.4, height=0.5, tilt=0.0, size=(320, 400)) -> Face:
    """A face whose landmarks are the template's, turned clockwise around the middle of its box."""
    angle = np.radians(tilt)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    landmarks = (faces.TEMPLATE - 56) / 112 * width * size[0] @ turn
    landmarks = landmarks / size + (x + width / 2, y + height / 2)
    return Face(Box(x, y, width, height), tuple(map(tuple, landmarks.tolist())), 0.9)


@pytest.mark.parametrize(
    ("box", "outside"),
    [((0, 0, 1, 1), 0), ((-0.25, 0.1, 0.5, 0.5), 0.5), ((0.75, 0.75, 0.5, 0.5), 0.75), ((1.5, 0, 0.5, 0.5), 1)],
)
def test_the_share_of_a_face_outside_the_photo_is_that_of_its_box(box, outside):
    assert face(*box).outside == pytest.approx(outside)


@pytest.mark.parametrize("tilt", [-60, -5, 0, 20, 90])
def test_the_tilt_is_the_turn_of_the_eyes_in_pixels(tilt):
    assert face(tilt=tilt).tilt((320, 400)) == pytest.approx(tilt + face().tilt((320, 400)))


def test_weights_that_are_no_network_are_refused():
    with pytest.raises(ValueError, match=r"expected the ONNX file of YuNet.*got 7 bytes"):
        faces.Detector(b"nothing")


def test_the_detector_finds_a_face_where_it_is_drawn(portraits):
    from components.ingestion.sample import Portrait, draw_portrait

    found = faces.Detector(portraits / "weights" / "yunet_n_640_640.onnx").find(draw_portrait(Portrait()))
    assert len(found) == 1
    middle = np.mean(found[0].landmarks, axis=0)
    assert middle == pytest.approx((0.5, 0.45), abs=0.04)


def test_a_photo_without_a_face_has_none(portraits):
    assert faces.Detector(portraits / "weights" / "yunet_n_640_640.onnx").find(Image.new("RGB", (320, 320))) == []
