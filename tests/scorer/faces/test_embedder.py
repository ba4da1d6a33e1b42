"""Face embedder: every file format gives the same embeddings, and an unusable file is refused with the reason."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.scorer import storage
from components.scorer.faces import embedder, geometry, weight_files
from components.scorer.faces.analyzer import FaceAnalyzer
from components.scorer.faces.embedder import Embedder, EmbedderSpec
from components.scorer.parameters import from_parameters
from components.scorer.settings import Faces
from tests.builders import designed_faces
from tests.builders.designed_faces import READ, SIDE, SIZE
from tests.conftest import drawn_photo

PLAIN = {"face_preprocessing": "none", "face_precision": "float16", "face_mirror": False}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, str]:
    """Return the settings that name the files of the designed detector and embedder."""
    return designed_faces.write(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("keras") / "e.keras"
    designed_faces.write_keras(file)
    return file


@pytest.fixture(scope="module")
def exported(given, keras_file, tmp_path_factory) -> Path:
    """Return a folder with the exported Keras embedder: the layers `pooled` and `first`, in float16."""
    folder = tmp_path_factory.mktemp("exported")
    settings = {**given, "face_embedder": str(keras_file), "face_layers": ("pooled", "first"), **PLAIN}
    weight_files.prepare(Faces(**settings), folder)
    return folder


def prepared(folder: Path, given: dict[str, str], **settings) -> FaceAnalyzer:
    weight_files.prepare(from_parameters(Faces, **given, **settings), folder)
    return FaceAnalyzer.load(folder)


def crops(number: int = 3, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, side, side, 3), np.uint8)


def photo(*places: tuple[float, float], colour=designed_faces.MAGENTA, seed: int = 1) -> Image.Image:
    return Image.open(io.BytesIO(designed_faces.marked(drawn_photo(0.5, seed, (160, 200)), *places, colour=colour)))


def test_loading_a_folder_without_weights_gives_no_analyzer(tmp_path):
    assert FaceAnalyzer.load(tmp_path) is None
    assert weight_files.prepare(Faces(), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_largest_face_is_embedded(given, tmp_path):
    face_analyzer = prepared(tmp_path, given)
    one_face = designed_faces.marked(drawn_photo(0.5, 1, (160, 200)), (0.2, 0.15))
    image = Image.open(io.BytesIO(designed_faces.marked(one_face, (0.6, 0.6), colour=designed_faces.YELLOW)))
    analysis = face_analyzer.analyze(image)
    assert [face.area for face in analysis.faces] == sorted((face.area for face in analysis.faces), reverse=True)
    assert len(analysis.faces) == 2
    scales = Faces().face_scales
    face_crops = [geometry.crop(np.asarray(image), analysis.faces[0].landmarks, SIDE, scale) for scale in scales]
    np.testing.assert_allclose(
        analysis.embedding, face_analyzer.embedder.embed(np.stack(face_crops)).ravel(), atol=1e-5
    )


def test_the_embedding_of_a_photo_without_a_face_is_zeros(given, tmp_path):
    analysis = prepared(tmp_path, given).analyze(photo())
    assert (analysis.has_face, analysis.faces) == (False, ())
    assert (analysis.embedding.shape, analysis.embedding.any(), analysis.landmarks.any()) == ((READ,), False, False)


@pytest.mark.slow
def test_a_batch_of_photos_is_analysed_as_each_photo_alone(given, tmp_path):
    face_analyzer = prepared(tmp_path, given)
    images = [photo(*[(0.5, 0.5)] * (number % 3 > 0), seed=number) for number in range(20)]
    for batched, alone in zip(face_analyzer.analyze_all(images), map(face_analyzer.analyze, images), strict=True):
        assert batched.faces == alone.faces
        np.testing.assert_allclose(batched.embedding, alone.embedding, atol=1e-5)


def test_threads_can_share_an_embedder(given, tmp_path):
    face_analyzer = prepared(tmp_path, given)
    batches = [crops(number) for number in range(1, 9)]
    alone = [face_analyzer.embedder.embed(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for expected, threaded in zip(alone, pool.map(face_analyzer.embedder.embed, batches), strict=True):
            np.testing.assert_array_equal(expected, threaded)


def test_analysis_without_embedding_finds_faces_only(given, tmp_path):
    face_analyzer = prepared(tmp_path, given)
    analysis = face_analyzer.analyze(photo((0.5, 0.5)), embed=False)
    assert analysis.has_face
    assert not analysis.embedding.any()


def test_an_analyzer_with_only_a_detector_finds_faces(given, tmp_path):
    face_analyzer = prepared(tmp_path, {"face_detector": given["face_detector"]})
    assert (face_analyzer.size, face_analyzer.metadata["sha256"].keys()) == (0, {"detector"})
    assert face_analyzer.analyze(photo((0.5, 0.5))).has_face
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.onnx", "faces.json"]


def test_the_embedding_is_the_mean_over_the_crop_and_its_mirror_image(given, tmp_path):
    mirrored = prepared(tmp_path / "both", given)
    plain = prepared(tmp_path / "one", given, face_mirror=False)
    batch = crops()
    expected = (plain.embedder.embed(batch) + plain.embedder.embed(batch[:, :, ::-1])) / 2
    np.testing.assert_allclose(mirrored.embedder.embed(batch), expected, atol=1e-5)
    np.testing.assert_allclose(mirrored.embedder.embed(batch[:, :, ::-1]), expected, atol=1e-5)


def kernel() -> np.ndarray:
    """Return the designed embedder's kernel, float32 [size / 4, 3, side / 2, side / 2]."""
    return np.random.default_rng(0).normal(0, 0.1, (SIZE // 4, 3, SIDE // 2, SIDE // 2)).astype("float32")


BY_HAND = {
    "none": lambda x: x,
    "tf": lambda x: x / 127.5 - 1,
    "torch": lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "arcface": lambda x: (x - 127.5) / 128,
    "vggface": lambda x: x[..., ::-1] - [93.594, 104.7624, 129.1863],
    "facenet": lambda x: np.stack([(crop - crop.mean()) / max(crop.std(), 1 / np.sqrt(crop.size)) for crop in x]),
}


@pytest.mark.parametrize("preprocessing", BY_HAND)
def test_each_preprocessing_mode_matches_its_formula(preprocessing, given, tmp_path):
    batch = crops()
    x = BY_HAND[preprocessing](batch.astype(float))
    half = SIDE // 2
    quarters = [x[:, top : top + half, left : left + half] for top in (0, half) for left in (0, half)]
    expected = np.stack([np.einsum("nyxc,kcyx->nk", quarter, kernel()) for quarter in quarters], -1).reshape(3, -1)
    face_analyzer = prepared(tmp_path, given, face_preprocessing=preprocessing, face_mirror=False)
    np.testing.assert_allclose(face_analyzer.embedder.embed(batch), expected, rtol=1e-3, atol=1e-2)


def test_the_embedding_of_a_crop_of_one_colour_is_finite(given, tmp_path):
    assert np.isfinite(prepared(tmp_path, given).embedder.embed(np.full((1, SIDE, SIDE, 3), 7, np.uint8))).all()


@pytest.mark.slow
def test_a_keras_embedder_gives_the_outputs_of_the_chosen_layers_in_their_order(exported, keras_file):
    import keras

    network = keras.saving.load_model(keras_file, compile=False)
    layer_outputs = keras.Model(network.input, [network.get_layer(name).output for name in ("pooled", "first")])
    batch = crops(5)
    pooled, maps = (np.asarray(output) for output in layer_outputs(batch.astype("float32")))
    expected = np.concatenate([pooled, maps.mean((1, 2)), maps.std((1, 2))], axis=1)
    embeddings = FaceAnalyzer.load(exported).embedder.embed(batch)
    assert embeddings.shape == (5, 24)
    np.testing.assert_allclose(embeddings, expected, rtol=2e-3, atol=0.2)  # of 255; the weights are float16


@pytest.mark.slow
def test_the_metadata_hold_the_digest_of_the_source_file(exported, keras_file):
    metadata = json.loads((exported / "faces.json").read_text())
    assert metadata["sha256"]["embedder"] == hashlib.sha256(keras_file.read_bytes()).hexdigest()
    assert (metadata["kind"], metadata["layers"], metadata["size"]) == ("litert", ["pooled", "first"], 24)


@pytest.mark.slow
def test_metadata_of_an_older_version_are_refused_with_the_missing_keys(exported, tmp_path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    metadata = json.loads((exported / "faces.json").read_text())
    (tmp_path / "faces.json").write_text(
        json.dumps({name: value for name, value in metadata.items() if name != "scales"})
    )
    with pytest.raises(ValueError, match=r"lacks \['scales'\], which this version writes"):
        FaceAnalyzer.load(tmp_path)


@pytest.mark.slow
def test_a_litert_file_is_copied_unchanged_and_gives_the_same_embeddings(exported, given, tmp_path):
    file = exported / "embedder.tflite"
    face_analyzer = prepared(tmp_path, {**given, "face_embedder": str(file)}, **PLAIN)
    np.testing.assert_array_equal(
        face_analyzer.embedder.embed(crops()), FaceAnalyzer.load(exported).embedder.embed(crops())
    )
    assert (tmp_path / "embedder.tflite").read_bytes() == file.read_bytes()
    assert not (tmp_path / "embedder.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "agrees", "expected"),
    [
        ("int8", ("int8", "float16", "float32"), "int8"),
        ("float16", ("int8", "float16", "float32"), "float16"),
        ("float32", ("int8", "float16", "float32"), "float32"),
        ("int8", ("float16", "float32"), "float16"),
        ("int8", ("float32",), "float32"),
    ],
)
def test_an_export_uses_a_higher_precision_where_the_wanted_one_disagrees_with_keras(
    wanted, agrees, expected, exported, given, keras_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        weight_files, "MIN_COSINE", {name: -1.0 if name in agrees else 1.1 for name in weight_files.MIN_COSINE}
    )
    settings = {**given, "face_embedder": str(keras_file), "face_layers": ("pooled", "first"), **PLAIN}
    metadata = weight_files.prepare(Faces(**settings | {"face_precision": wanted}), tmp_path)
    assert metadata["precision"] == expected
    float16_bytes, file_bytes = ((folder / "embedder.tflite").stat().st_size for folder in (exported, tmp_path))
    if expected == "float32":
        assert file_bytes - float16_bytes > 8 * 5 * 5 * 3  # two more bytes a weight
    if expected == "float16":
        assert file_bytes == float16_bytes


@pytest.mark.parametrize(
    "shape", [("n", 3, SIDE, SIDE), (1, 3, SIDE, SIDE)], ids=["any number of crops", "one crop at a time"]
)
def test_an_onnx_embedder_takes_any_number_of_crops(shape, given, tmp_path):
    (tmp_path / "e.onnx").write_bytes(designed_faces.embedder(shape=shape))
    face_analyzer = prepared(tmp_path / "faces", {**given, "face_embedder": str(tmp_path / "e.onnx")})
    assert face_analyzer.embedder.embed(crops(20)).shape == (20, SIZE)
    assert face_analyzer.embedder.embed(crops(20)[:0]).shape == (0, SIZE)


def test_a_litert_embedder_with_a_batch_size_of_one_takes_many_crops(given, tmp_path):
    import tensorflow as tf

    mean = tf.function(lambda pixels: tf.reduce_mean(pixels, (1, 2)))
    concrete_function = mean.get_concrete_function(tf.TensorSpec([1, SIDE, SIDE, 3]))
    network = tf.lite.TFLiteConverter.from_concrete_functions([concrete_function], mean).convert()
    (tmp_path / "one.tflite").write_bytes(network)
    face_analyzer = prepared(tmp_path / "faces", {**given, "face_embedder": str(tmp_path / "one.tflite")}, **PLAIN)
    np.testing.assert_allclose(face_analyzer.embedder.embed(crops(3)), crops(3).mean((1, 2)), rtol=1e-5)


def test_copied_weights_give_the_same_embeddings(given, tmp_path):
    source = prepared(tmp_path / "one", given)
    assert embedder.copy_weights(tmp_path / "one", tmp_path / "deep" / "other")
    copied = FaceAnalyzer.load(tmp_path / "deep" / "other")
    assert copied.metadata == source.metadata
    np.testing.assert_array_equal(copied.embedder.embed(crops()), source.embedder.embed(crops()))
    assert not embedder.copy_weights(tmp_path / "nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_weights_in_a_bucket_are_copied_and_loaded_from_there(given, tmp_path, google):
    source = prepared(tmp_path, given)
    assert embedder.copy_weights(tmp_path, "gs://bucket/faces")
    np.testing.assert_array_equal(
        FaceAnalyzer.load("gs://bucket/faces").embedder.embed(crops()), source.embedder.embed(crops())
    )


@pytest.mark.slow
def test_face_analysis_imports_neither_tensorflow_nor_keras_and_prints_nothing(exported):
    code = (
        "import sys; from PIL import Image; from components.scorer.faces.analyzer import FaceAnalyzer\n"
        "FaceAnalyzer.load(sys.argv[1]).analyze(Image.new('RGB', (160, 200)))\n"
        "print([name for name in ('tensorflow', 'keras', 'pandas', 'scipy', 'matplotlib') if name in sys.modules])\n"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.run([sys.executable, "-c", code, str(exported)], cwd=root, capture_output=True, check=True)
    assert (process.stdout.strip(), process.stderr) == (b"[]", b"")


def refused(given: dict[str, str], folder: Path, kind: type[Exception] = ValueError, **settings) -> str:
    with pytest.raises(kind) as raised:
        weight_files.prepare(from_parameters(Faces, **{**given, **settings}), folder)
    return str(raised.value)


@pytest.mark.parametrize(
    ("shape", "shown"),
    [(("n", 3, 24, 32), "[?, 3, 24, 32]"), (("n", 1, 24, 24), "[?, 1, 24, 24]"), ((4, 3, 24, 24), "[4, 3, 24, 24]")],
    ids=["not square", "grey", "four at a time"],
)
def test_an_onnx_network_with_another_input_shape_is_refused(shape, shown, given, tmp_path):
    (tmp_path / "e.onnx").write_bytes(designed_faces.embedder(shape=shape))
    message = refused(given, tmp_path / "faces", face_embedder=str(tmp_path / "e.onnx"))
    assert f"expected a network of square RGB pictures, float32 [n, side, side, 3], got one of {shown}" in message


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, 24, 1), (None, None, 3)])
def test_a_keras_network_with_another_input_shape_is_refused(shape, given, tmp_path):
    designed_faces.write_keras(tmp_path / "e.keras", shape)
    message = refused(given, tmp_path / "faces", face_embedder=str(tmp_path / "e.keras"))
    assert "face_embedder" in message
    assert "expected a network of square RGB pictures" in message


@pytest.mark.slow
def test_an_unknown_layer_is_refused_with_similar_layer_names(given, keras_file, tmp_path):
    message = refused(given, tmp_path, face_embedder=str(keras_file), face_layers=["Pooled"])
    assert "expected face_layers among its 4 layers, got 'Pooled'; like it are ['pooled']" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("e.onnx", b"nothing", "expected an ONNX network, got 7 bytes that are none"),
        ("e.onnx", b"", "expected an ONNX network, got 0 bytes"),
        ("e.tflite", b"nothing", "expected a LiteRT network, got 7 bytes that cannot be loaded"),
        ("e.keras", b"nothing", "expected a .keras file of a network of layers, got 7 bytes that are none"),
        ("e.pb", b"nothing", "expected a file that ends in .keras, .tflite, .onnx or deepface:NAME"),
    ],
)
def test_a_file_without_a_network_is_refused(name, content, words, given, tmp_path):
    (tmp_path / name).write_bytes(content)
    message = refused(given, tmp_path / "faces", face_embedder=str(tmp_path / name))
    assert message.startswith(f"face_embedder {tmp_path / name}: ")
    assert words in message


def test_an_onnx_file_that_opencv_cannot_run_is_refused_and_nothing_is_printed(given, tmp_path, capfd):
    from onnx import helper

    shapes = [helper.make_tensor_value_info(tensor_name, 1, [1, 3, 24, 24]) for tensor_name in ("input", "output")]
    node = helper.make_node("NoSuchThing", ["input"], ["output"], domain="elsewhere")
    graph = helper.make_graph([node], "strange", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("elsewhere", 1)])
    (tmp_path / "e.onnx").write_bytes(model.SerializeToString())
    message = refused(given, tmp_path / "faces", face_embedder=str(tmp_path / "e.onnx"))
    assert "expected an ONNX file that OpenCV can run, got" in message
    assert "\n" not in message
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_keras_file_without_weights_is_refused(given, keras_file, tmp_path):
    with zipfile.ZipFile(keras_file) as complete, zipfile.ZipFile(tmp_path / "e.keras", "w") as without_weights:
        for name in ("metadata.json", "config.json"):
            without_weights.writestr(name, complete.read(name))
    message = refused(given, tmp_path / "faces", face_embedder=str(tmp_path / "e.keras"))
    assert "expected a .keras file that Keras" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["face_detector", "face_embedder"])
def test_a_file_with_another_digest_is_refused_and_one_with_the_right_digest_is_accepted(name, given, tmp_path):
    message = refused(given, tmp_path, **{f"{name}_sha256": "0" * 64})
    assert f"expected a file whose SHA-256 is {name}_sha256, {'0' * 64}, got" in message
    digest = hashlib.sha256(Path(given[name]).read_bytes()).hexdigest()
    assert prepared(tmp_path, given, **{f"{name}_sha256": digest.upper()}).metadata["sha256"][name[5:]] == digest


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["/nowhere/e.onnx", "gs://bucket/gone.onnx"])
def test_an_address_without_a_file_is_refused_and_named(uri, given, tmp_path, google):
    message = refused(given, tmp_path, FileNotFoundError, face_embedder=uri)
    assert message == f"face_embedder {uri}: there is nothing at this address"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"face_embedder": "e.onnx"}, "face_embedder needs face_detector"),
        ({"face_embedder_sha256": "ab"}, "face_embedder_sha256 is given without face_embedder"),
        ({"face_scales": []}, "face_scales must name at least one scale"),
        (
            {"face_detector": "d", "face_embedder": "e.onnx", "face_layers": ["a"]},
            "face_layers names layers of a .keras",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words, tmp_path):
    assert words in refused({}, tmp_path, **settings)


def test_crops_of_another_size_are_refused(given, tmp_path):
    with pytest.raises(ValueError, match=r"expected crops \[n, 24, 24, 3\], got \[1, 25, 25, 3\]"):
        prepared(tmp_path, given).embedder.embed(crops(1, 25))


def test_an_embedder_of_another_size_than_its_spec_is_refused(given):
    spec = EmbedderSpec("onnx", "none", SIDE, (0.8,), False, SIZE + 1, channels_first=True)
    with pytest.raises(ValueError, match="expected an embedder that gives 13 values, got one that gives 12"):
        Embedder(storage.read_bytes(given["face_embedder"]), spec)


def test_a_crop_that_shrinks_a_face_averages_its_pixels():
    rng = np.random.default_rng(0)
    # One pixel high, two wide.
    stripes = np.repeat(rng.integers(0, 2, (800, 400, 1), np.uint8) * 255, 2, 1).repeat(3, 2)
    landmarks = (geometry.TEMPLATE / 112 - 0.5) * 0.9 + 0.5
    face_crop = geometry.crop(stripes, landmarks, 60, 1.0).astype(float)
    assert face_crop.std() < 20  # point sampling would keep the deviation of the stripes, above 80


def test_a_larger_scale_crops_tighter_and_the_crop_is_shifted_upwards():
    pixels = np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[:, None, None], (200, 200, 3))
    landmarks = (geometry.TEMPLATE / 112 - 0.5) * 0.3 + 0.5
    tight, loose = (
        geometry.crop(pixels, landmarks, 64, scale, up_shift=0)[:, 32, 0].astype(float) for scale in (1, 0.5)
    )
    assert np.ptp(loose) == pytest.approx(2 * np.ptp(tight), rel=0.1)
    assert loose.mean() == pytest.approx(tight.mean(), abs=2)
    assert geometry.crop(pixels, landmarks, 64, 0.5, up_shift=0.1)[:, 32, 0].mean() < loose.mean() - 5


def facenet(portraits: Path, name: str) -> dict[str, str]:
    weights = portraits / "weights"
    return {"face_detector": str(weights / "yunet_n_640_640.onnx"), "face_embedder": str(weights / name)}


@pytest.mark.slow
def test_facenet_separates_people_and_is_robust_to_resizing_and_recompression(portraits, tmp_path):
    files = sorted((portraits / "data" / "mebeauty" / "photos").rglob("*.jpg"))[:240:20]
    face_analyzer = prepared(tmp_path, facenet(portraits, "facenet_512.tflite"))
    images = [Image.open(file).convert("RGB") for file in files]
    recompressed = []
    for image in images:
        stream = io.BytesIO()
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(stream, "JPEG", quality=70)
        recompressed.append(Image.open(stream))
    original, changed = (
        np.stack([analysis.embedding for analysis in face_analyzer.analyze_all(batch)])
        for batch in (images, recompressed)
    )
    unit_vectors = [
        embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) for embeddings in (original, changed)
    ]
    cosines = unit_vectors[0] @ unit_vectors[1].T
    assert (face_analyzer.embedder.size, face_analyzer.size) == (512, 1024)
    assert np.diag(cosines).min() > 0.9
    assert np.median(cosines[~np.eye(len(files), dtype=bool)]) < 0.4
