"""Seconds for advice on a 12-megapixel photo, including decoding, search and previews.

    python -m tests.benchmarks.advice_time [VERSION]

VERSION is the folder of a published version. Without one, the default network is exported with random weights; with
PORTRAITS_DATA set, a second export reads YuNet's faces with the FaceNet in that folder. The network runs on one thread,
without TensorFlow, as in the server. The portrait is two stops too dark, tilted and has a small face. Two scorers are
timed on it: the network, and an eager one that adds points for what the edits change, so that most edits seem to gain
and have to be verified. Several rounds; medians.
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
    """Print the seconds; return 1 if the eager scorer takes longer than the target."""
    data, folder_of_data, longest = photo(), os.environ.get("PORTRAITS_DATA", ""), 0.0
    with tempfile.TemporaryDirectory() as folder:
        versions = sys.argv[1:2] or [
            exported(folder),
            *([exported(f"{folder}/faces", folder_of_data)] if folder_of_data else []),
        ]
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
    """Return the median seconds over the rounds."""
    settings, spent = AdviceSettings(), []
    score, hold = score_functions(
        scorer,
        lambda inputs: np.array([scorer.predict(stack_inputs([photo_inputs]))["mean"][0] for photo_inputs in inputs]),
    )

    def with_bonus(by: ScoreFn) -> ScoreFn:
        return lambda pictures: by(pictures) + more(pictures)

    for _ in range(ROUNDS):
        began = time.perf_counter()
        image = search.working_copy(data, settings, scorer.settings)
        decoded = time.perf_counter()
        detected = faces(scorer, image)
        find = scorer.detector.find if scorer.detector else None
        advice = search.advise(
            image, with_bonus(score), detected, settings, scored_side=scorer.settings.shorter_side, find_faces=find,
            fix_face=(lambda picture: with_bonus(hold(picture))) if hold else None,
        )  # fmt: skip
        spent.append((time.perf_counter() - began, decoded - began))
    total, decoding = (statistics.median(column) for column in zip(*spent, strict=True))
    ms = 1000 * (total - decoding) / advice.scorings
    print(
        f"{what}: {total:.2f} s, of which decoding {decoding:.2f} s; {advice.scorings} scorings, {ms:.1f} ms each with"
        f" their share of the edits; {len(advice.suggestions)} edits advised",
        flush=True,
    )
    return total


def faces(scorer: litert_model.LiteRTScorer, image: Image.Image) -> list[Face]:
    """Return the faces that the version's detector finds, or the drawn face."""
    return (scorer.detector.find(image) if scorer.detector else []) or [face(**asdict(DRAWN))]


def eagerness(pictures: list[Image.Image]) -> np.ndarray:
    """Return bonus points for brightness, warm colours and detail."""
    pixels = [np.asarray(picture.reduce(4), float) for picture in pictures]
    return np.array([0.5 * stops(picture) + colour(picture) + 20 * detail(picture) for picture in pixels])


def photo() -> bytes:
    """Return a JPEG as from a camera: with sensor noise."""
    small = draw_portrait(DRAWN, 774)
    pixels = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(1).normal(0, 4, (*pixels.shape[:2], 1)).astype(np.float32)
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def exported(folder: str, place: str = "") -> str:
    """Export the default network with random weights in a subprocess, which keeps TensorFlow out of this process.

    Args:
        folder: Folder of the version.
        place: Folder of the real portraits and weights, for a network with faces like the README's best scorer; ""
            exports a network without faces.
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
