"""Faces: the geometry of a face, and YuNet's weights read, checked and used."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.ingestion.sample import Portrait, draw_portrait
from components.scorer.faces import geometry
from components.scorer.faces.detector import FaceDetector
from components.scorer.faces.geometry import Box, Face
from tests.builders import flaws

ROOT = Path(__file__).resolve().parents[3]


def face(x=0.3, y=0.2, width=0.4, height=0.5, tilt=0.0, size=(320, 400)) -> Face:
    """A face whose landmarks are the template's, turned clockwise around the middle of its box."""
    angle = np.radians(tilt)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    landmarks = (geometry.TEMPLATE - 56) / 112 * width * size[0] @ turn
    landmarks = landmarks / size + (x + width / 2, y + height / 2)
    return Face(Box(x, y, width, height), tuple(map(tuple, landmarks.tolist())), 0.9)


@pytest.mark.parametrize(
    ("box", "outside"),
    [((0, 0, 1, 1), 0), ((-0.25, 0.1, 0.5, 0.5), 0.5), ((0.75, 0.75, 0.5, 0.5), 0.75), ((1.5, 0, 0.5, 0.5), 1)],
)
def test_the_share_of_a_face_outside_the_photo_is_that_of_its_box(box, outside):
    assert face(*box).outside_fraction == pytest.approx(outside)


@pytest.mark.parametrize("tilt", [-60, -5, 0, 20, 90])
def test_the_tilt_is_the_turn_of_the_eyes_in_pixels(tilt):
    assert face(tilt=tilt).tilt((320, 400)) == pytest.approx(tilt + face().tilt((320, 400)))


def test_the_margin_is_the_room_to_the_nearest_edge_and_negative_beyond_it():
    assert face(0.3, 0.25, 0.4, 0.5).margin == pytest.approx(0.5)
    assert face(-0.1, 0.25, 0.4, 0.5).margin == pytest.approx(-0.25)


def test_lengths_in_pixels_follow_the_photos_size():
    small, large = (320, 400), (640, 800)
    assert face().side(large) == pytest.approx(2 * face().side(small))
    assert face().eye_distance(large) == pytest.approx(2 * face().eye_distance(small))


def test_mirroring_twice_changes_nothing_and_turns_the_tilt_about():
    turned, size = face(x=0.1, tilt=12), (320, 400)
    there = geometry.mirror(turned)
    back = geometry.mirror(there)
    assert np.allclose(back.landmarks, turned.landmarks)
    assert back.box == pytest.approx(turned.box)
    assert there.tilt(size) == pytest.approx(-turned.tilt(size))
    assert there.landmarks[geometry.RIGHT_EYE][0] < there.landmarks[geometry.LEFT_EYE][0]


@pytest.mark.parametrize(("tilt", "width"), [(0, 0.5), (25, 0.3), (-40, 0.6)])
def test_an_aligned_face_has_its_landmarks_where_the_template_has_them(tilt, width):
    turned, size = face(width=width, tilt=tilt), (320, 400)
    way = geometry.template_transform(Image.new("RGB", size), turned)
    assert np.allclose(way @ np.c_[turned.points(size), np.ones(5)].T, geometry.TEMPLATE.T, atol=0.01)
    marked = np.zeros((400, 320, 3), np.uint8)
    x, y = turned.points(size)[geometry.LEFT_EYE].round().astype(int)
    marked[y - 2 : y + 3, x - 2 : x + 3] = 255
    rows, columns = np.nonzero(geometry.align(Image.fromarray(marked), turned)[..., 0] > 100)
    assert (columns.mean(), rows.mean()) == pytest.approx(tuple(geometry.TEMPLATE[geometry.LEFT_EYE]), abs=1.5)


def test_five_landmarks_in_one_place_are_no_error():
    point = Face(Box(0.5, 0.5, 0.1, 0.1), ((0.5, 0.5),) * 5, 0.9)
    assert geometry.align(Image.new("RGB", (64, 64)), point).shape == (112, 112, 3)


def test_weights_that_are_no_network_are_refused():
    with pytest.raises(ValueError, match=r"expected the ONNX file of YuNet.*got 7 bytes"):
        FaceDetector(b"nothing")


def test_another_network_is_refused():
    helper = pytest.importorskip("onnx.helper")
    shapes = [helper.make_tensor_value_info(name, 1, [1, 3, 64, 64]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "relu", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    with pytest.raises(ValueError, match=r"expected the ONNX file of YuNet"):
        FaceDetector(model.SerializeToString())


def test_weights_with_another_digest_are_refused_before_they_are_used():
    with pytest.raises(ValueError, match=r"expected face detector weights with the SHA-256 0000, got [0-9a-f]{64}"):
        FaceDetector(b"nothing", sha256="0000")


@pytest.mark.parametrize("confidence", [0, 1.1])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match=rf"confidence must be above 0 and at most 1, got {confidence}"):
        FaceDetector(b"nothing", confidence=confidence)


@pytest.fixture(scope="module")
def weights(portraits):
    return portraits / "weights" / "yunet_n_640_640.onnx"


@pytest.fixture(scope="module")
def detector(weights) -> FaceDetector:
    return FaceDetector(weights)


def test_a_file_and_its_content_find_the_same_and_know_their_digest(weights, detector):
    content = weights.read_bytes()
    other = FaceDetector(content, sha256=detector.sha256.upper())
    assert detector.sha256 == hashlib.sha256(content).hexdigest()
    assert other.find(draw_portrait(Portrait())) == detector.find(draw_portrait(Portrait()))


def test_loading_and_searching_print_nothing(weights):
    code = (
        "import sys; from PIL import Image; from components.scorer.faces.detector import FaceDetector\n"
        "FaceDetector(sys.argv[1]).find(Image.new('RGB', (320, 400)))\n"
        "try: FaceDetector(b'nothing')\n"
        "except ValueError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(weights)], cwd=ROOT, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    "portrait", [Portrait(), Portrait(skin_tone=7), Portrait(size=0.7), Portrait(x=0.35, size=0.3)]
)
def test_a_face_is_found_where_it_is_drawn(detector, portrait):
    image = draw_portrait(portrait)
    found = detector.find(image)
    assert len(found) == 1
    true = flaws.drawn_faces(portrait, image.size)[0]
    off = np.subtract(found[0].points(image.size), true.points(image.size))
    assert np.hypot(*off.T).max() < 0.3 * true.eye_distance(image.size)
    assert found[0].tilt(image.size) == pytest.approx(0, abs=8)


def test_the_largest_face_comes_first(detector):
    portrait = Portrait(child=True, size=0.4)
    found = detector.find(draw_portrait(portrait))
    assert len(found) == 2
    assert found[0].area > found[1].area
    assert found[0].box.x < found[1].box.x  # the child is on the right


def test_size_and_mode_of_the_photo_do_not_matter(detector):
    image = draw_portrait(Portrait(), 320)
    here = np.array(detector.find(image)[0].landmarks)
    for other in (image.resize((1600, 2000)), image.resize((128, 160)), image.convert("L"), image.convert("RGBA")):
        assert np.abs(here - detector.find(other)[0].landmarks).max() < 0.05


def test_a_strip_costs_no_more_than_a_photo(detector):
    assert detector.find(Image.new("RGB", (20_000, 64), "grey")) == []


def test_a_photo_without_a_face_has_none(detector):
    assert detector.find(draw_portrait(Portrait(x=5.0, scene="garden"))) == []
    assert detector.find(Image.new("RGB", (1, 1))) == []


def test_threads_share_a_detector(detector):
    images = [draw_portrait(Portrait(size=0.3 + 0.02 * number), 200 + 8 * number) for number in range(8)]
    alone = [detector.find(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.find, images * 3)) == alone * 3
