"""Face geometry, and the YuNet detector: loading and checking its weights, and finding faces."""

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
    """Return a face with the landmarks of the template, rotated clockwise about the centre of its box."""
    angle = np.radians(tilt)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    landmarks = (geometry.TEMPLATE - 56) / 112 * width * size[0] @ rotation
    landmarks = landmarks / size + (x + width / 2, y + height / 2)
    return Face(Box(x, y, width, height), tuple(map(tuple, landmarks.tolist())), 0.9)


@pytest.mark.parametrize(
    ("box", "outside"),
    [((0, 0, 1, 1), 0), ((-0.25, 0.1, 0.5, 0.5), 0.5), ((0.75, 0.75, 0.5, 0.5), 0.75), ((1.5, 0, 0.5, 0.5), 1)],
)
def test_the_outside_fraction_is_the_area_of_the_box_outside_the_photo(box, outside):
    assert face(*box).outside_fraction == pytest.approx(outside)


@pytest.mark.parametrize("tilt", [-60, -5, 0, 20, 90])
def test_the_tilt_is_the_angle_of_the_line_between_the_eyes_in_pixels(tilt):
    assert face(tilt=tilt).tilt((320, 400)) == pytest.approx(tilt + face().tilt((320, 400)))


def test_the_margin_is_the_distance_to_the_nearest_edge_and_negative_outside():
    assert face(0.3, 0.25, 0.4, 0.5).margin == pytest.approx(0.5)
    assert face(-0.1, 0.25, 0.4, 0.5).margin == pytest.approx(-0.25)


def test_lengths_in_pixels_scale_with_the_photo():
    small, large = (320, 400), (640, 800)
    assert face().side(large) == pytest.approx(2 * face().side(small))
    assert face().eye_distance(large) == pytest.approx(2 * face().eye_distance(small))


def test_mirroring_negates_the_tilt_and_mirroring_twice_changes_nothing():
    tilted, size = face(x=0.1, tilt=12), (320, 400)
    mirrored = geometry.mirror(tilted)
    mirrored_twice = geometry.mirror(mirrored)
    assert np.allclose(mirrored_twice.landmarks, tilted.landmarks)
    assert mirrored_twice.box == pytest.approx(tilted.box)
    assert mirrored.tilt(size) == pytest.approx(-tilted.tilt(size))
    assert mirrored.landmarks[geometry.RIGHT_EYE][0] < mirrored.landmarks[geometry.LEFT_EYE][0]


@pytest.mark.parametrize(("tilt", "width"), [(0, 0.5), (25, 0.3), (-40, 0.6)])
def test_alignment_moves_the_landmarks_to_those_of_the_template(tilt, width):
    tilted, size = face(width=width, tilt=tilt), (320, 400)
    transform = geometry.template_transform(Image.new("RGB", size), tilted)
    assert np.allclose(transform @ np.c_[tilted.points(size), np.ones(5)].T, geometry.TEMPLATE.T, atol=0.01)
    eye_mark = np.zeros((400, 320, 3), np.uint8)
    x, y = tilted.points(size)[geometry.LEFT_EYE].round().astype(int)
    eye_mark[y - 2 : y + 3, x - 2 : x + 3] = 255
    rows, columns = np.nonzero(geometry.align(Image.fromarray(eye_mark), tilted)[..., 0] > 100)
    assert (columns.mean(), rows.mean()) == pytest.approx(tuple(geometry.TEMPLATE[geometry.LEFT_EYE]), abs=1.5)


def test_a_face_with_five_identical_landmarks_can_be_aligned():
    degenerate_face = Face(Box(0.5, 0.5, 0.1, 0.1), ((0.5, 0.5),) * 5, 0.9)
    assert geometry.align(Image.new("RGB", (64, 64)), degenerate_face).shape == (112, 112, 3)


def test_bytes_without_a_network_are_refused():
    with pytest.raises(ValueError, match=r"expected the ONNX file of YuNet.*got 7 bytes"):
        FaceDetector(b"nothing")


def test_an_onnx_network_other_than_yunet_is_refused():
    helper = pytest.importorskip("onnx.helper")
    shapes = [helper.make_tensor_value_info(name, 1, [1, 3, 64, 64]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "relu", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    with pytest.raises(ValueError, match=r"expected the ONNX file of YuNet"):
        FaceDetector(model.SerializeToString())


def test_weights_with_another_digest_are_refused_before_loading():
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


def test_a_detector_from_bytes_finds_the_same_faces_as_one_from_a_file(weights, detector):
    content = weights.read_bytes()
    from_bytes = FaceDetector(content, sha256=detector.sha256.upper())
    assert detector.sha256 == hashlib.sha256(content).hexdigest()
    assert from_bytes.find(draw_portrait(Portrait())) == detector.find(draw_portrait(Portrait()))


@pytest.mark.slow
def test_loading_and_detection_print_nothing(weights):
    code = (
        "import sys; from PIL import Image; from components.scorer.faces.detector import FaceDetector\n"
        "FaceDetector(sys.argv[1]).find(Image.new('RGB', (320, 400)))\n"
        "try: FaceDetector(b'nothing')\n"
        "except ValueError: pass\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(weights)], cwd=ROOT, capture_output=True, check=True)
    assert (process.stdout, process.stderr) == (b"", b"")


@pytest.mark.parametrize(
    "portrait", [Portrait(), Portrait(skin_tone=7), Portrait(size=0.7), Portrait(x=0.35, size=0.3)]
)
def test_a_face_is_found_where_it_is_drawn(detector, portrait):
    image = draw_portrait(portrait)
    faces = detector.find(image)
    assert len(faces) == 1
    drawn_face = flaws.drawn_faces(portrait, image.size)[0]
    offsets = np.subtract(faces[0].points(image.size), drawn_face.points(image.size))
    assert np.hypot(*offsets.T).max() < 0.3 * drawn_face.eye_distance(image.size)
    assert faces[0].tilt(image.size) == pytest.approx(0, abs=8)


def test_the_largest_face_comes_first(detector):
    portrait = Portrait(child=True, size=0.4)
    faces = detector.find(draw_portrait(portrait))
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert faces[0].box.x < faces[1].box.x  # the child is on the right


@pytest.mark.slow
def test_the_face_is_found_whatever_the_size_and_mode_of_the_photo(detector):
    image = draw_portrait(Portrait(), 320)
    landmarks = np.array(detector.find(image)[0].landmarks)
    for variant in (image.resize((1600, 2000)), image.resize((128, 160)), image.convert("L"), image.convert("RGBA")):
        assert np.abs(landmarks - detector.find(variant)[0].landmarks).max() < 0.05


def test_detection_works_on_a_long_strip(detector):
    assert detector.find(Image.new("RGB", (20_000, 64), "grey")) == []


def test_detection_finds_nothing_in_a_photo_without_a_face(detector):
    assert detector.find(draw_portrait(Portrait(x=5.0, scene="garden"))) == []
    assert detector.find(Image.new("RGB", (1, 1))) == []


@pytest.mark.slow
def test_threads_can_share_a_detector(detector):
    images = [draw_portrait(Portrait(size=0.3 + 0.02 * number), 200 + 8 * number) for number in range(8)]
    alone = [detector.find(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.find, images * 3)) == alone * 3
