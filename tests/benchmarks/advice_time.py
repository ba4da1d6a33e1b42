"""Seconds that advice on a 12-megapixel photo takes, decoding, search and previews included.

    python -m tests.benchmarks.advice_time [VERSION]

VERSION is the folder of a published version; without one, the default network is exported with random weights and, with
PORTRAITS_DATA set, once more so that it reads YuNet's faces by the FaceNet that lies there. The network answers on one
thread, without TensorFlow, as in the server. Two scorers are timed, on a portrait taken two stops too dark, tilted and
with a small face: the network as it is, and the network with points added for what the edits change, so that most of
them look as if they gain and have to be settled. Some rounds; medians.
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from PIL import Image

from components.ingestion.sample import Portrait, draw_portrait
from components.scorer.advice import search
from components.scorer.advice.edit_session import ScoreFn
from components.scorer.artifacts import litert_model
from components.scorer.faces.face_inputs import stack_inputs
from components.scorer.faces.geometry import Face
from components.scorer.settings import AdviceSettings
from images.serving.inference.advice_queue import score_functions
from tests.builders.advised_photos import colour, detail, face, stops

TARGET = 2.0  # seconds
ROUNDS = 5
SIZE = (3096, 3870)
DRAWN = Portrait(exposure=-2.0, tilt=5.0, size=0.25, x=0.56, scene_hue=0.1, clothes=4)


def main() -> int:
    """Print the seconds; 1 when the eager scorer takes longer than the target."""
    data, place, longest = photo(), os.environ.get("PORTRAITS_DATA", ""), 0.0
    with tempfile.TemporaryDirectory() as folder:
        versions = sys.argv[1:2] or [exported(folder), *([exported(f"{folder}/faces", place)] if place else [])]
        for version in versions:
            scorer = litert_model.load(version)
            reads = (
                f", reads faces in {scorer.face_input_spec.embedding} numbers"
                if scorer.face_input_spec.uses_faces
                else ""
            )
            print(
                f"{SIZE[0]} x {SIZE[1]} pixels, {len(data) / 1e6:.1f} MB; network of {scorer.crop} px{reads}",
                flush=True,
            )
            plain = measured(scorer, data, "as it is", lambda pictures: 0.0)
            longest = max(longest, plain, measured(scorer, data, "eager", eagerness))
    print(f"longest: {longest:.2f} s (target: at most {TARGET:g})")
    return int(longest > TARGET)


def measured(
    scorer: litert_model.LiteRTScorer, data: bytes, what: str, more: Callable[[list[Image.Image]], np.ndarray | float]
) -> float:
    """The median seconds over some rounds."""
    settings, spent = AdviceSettings(), []
    score, hold = score_functions(
        scorer, lambda given: np.array([scorer.predict(stack_inputs([one]))["mean"][0] for one in given])
    )

    def eager(by: ScoreFn) -> ScoreFn:
        return lambda pictures: by(pictures) + more(pictures)

    for _ in range(ROUNDS):
        began = time.perf_counter()
        image = search.working_copy(data, settings, scorer.settings)
        decoded = time.perf_counter()
        found = faces(scorer, image)
        looks = scorer.detector.find if scorer.detector else None
        told = search.advise(
            image, eager(score), found, settings, scored_side=scorer.settings.shorter_side, find_faces=looks,
            fix_face=(lambda picture: eager(hold(picture))) if hold else None,
        )  # fmt: skip
        spent.append((time.perf_counter() - began, decoded - began))
    whole, decoding = (statistics.median(column) for column in zip(*spent, strict=True))
    each = 1000 * (whole - decoding) / told.scorings
    print(
        f"{what}: {whole:.2f} s, of which decoding {decoding:.2f} s; {told.scorings} scorings, {each:.1f} ms each with"
        f" their share of the edits; {len(told.suggestions)} edits advised",
        flush=True,
    )
    return whole


def faces(scorer: litert_model.LiteRTScorer, image: Image.Image) -> list[Face]:
    """By the version's own detector, or where the face was drawn."""
    return (scorer.detector.find(image) if scorer.detector else []) or [face(**asdict(DRAWN))]


def eagerness(pictures: list[Image.Image]) -> np.ndarray:
    """Points for light, warm colours and detail."""
    pixels = [np.asarray(picture.reduce(4), float) for picture in pictures]
    return np.array([0.5 * stops(one) + colour(one) + 20 * detail(one) for one in pixels])


def photo() -> bytes:
    """A JPEG as a camera writes it: with a sensor's noise."""
    small = draw_portrait(DRAWN, 774)
    pixels = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(1).normal(0, 4, (*pixels.shape[:2], 1)).astype(np.float32)
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def exported(folder: str, place: str = "") -> str:
    """The default network with random weights, by a process of its own: this one stays without TensorFlow.

    Args:
        folder: receives the version.
        place: that of the real portraits and weights, for a network that reads faces as the README's best scorer does;
            "": it reads none.
    """
    code = (
        "import sys; from pathlib import Path\n"
        "from components.scorer.artifacts import bundle, saved_model\n"
        "from components.scorer.faces import embedder, weight_files\n"
        "from components.scorer.model import encoder, network\n"
        "from components.scorer.registry import integrity\n"
        "from components.scorer.parameters import from_parameters\n"
        "from components.scorer.settings import Faces, Pretraining, Training\n"
        "from components.scorer.model.inputs import ModelInputs\n"
        "folder, place = Path(sys.argv[1]), sys.argv[2]\n"
        "settings = from_parameters(Pretraining, start='none')\n"
        "weights = Path(place, 'weights')\n"
        "names = {'face_detector': 'yunet_n_640_640.onnx', 'face_embedder': 'facenet_128.keras'} if place else {}\n"
        "given = {name: str(weights / file) for name, file in names.items()}\n"
        "layers = ['AvgPool', 'Block17_10_Activation'] if place else []\n"
        "weight_files.prepare(from_parameters(Faces, face_layers=layers, **given), folder / 'weights')\n"
        "files = {file.name: file.read_bytes() for file in (folder / 'weights').glob('*')}\n"
        "size = embedder.embedding_size(folder / 'weights') if place else 0\n"
        "sight = ModelInputs(True, size, Training.embedding_size) if place else ModelInputs()\n"
        "scorer = network.build_scorer(encoder.build_encoder(settings), 0.5, sight)\n"
        "scorer = bundle.TrainedScorer(scorer, settings, Training(), '', '', {}, faces=files)\n"
        "saved_model.export_litert(scorer, folder)\n"
        "Path(folder, 'saved_model.pb').touch()\n"
        "integrity.write_record(folder, {})\n"
    )
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code, folder, place], check=True, stdout=subprocess.DEVNULL, env=environment)
    return folder


if __name__ == "__main__":
    sys.exit(main())
