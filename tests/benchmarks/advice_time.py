"""Seconds that advice on a 12-megapixel photo takes, decoding, search and previews included.

    python -m tests.benchmarks.advice_time [VERSION]

VERSION is the folder of a published version; without one, the default network is exported with random weights. The
network answers on one thread, without TensorFlow, as in the server. Two scorers are timed, on a portrait taken two
stops too dark, tilted and with a small face: the network as it is, and the network with points added for what the edits
change, so that most of them look as if they gain and have to be settled. Some rounds; medians.
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
from components.scorer import advice, portable
from components.scorer.faces import Face
from components.scorer.settings import Advising
from tests.test_advice import colour, detail, face, stops

TARGET = 2.0  # seconds
ROUNDS = 5
SIZE = (3096, 3870)
DRAWN = Portrait(exposure=-2.0, tilt=5.0, size=0.25, x=0.56, scene_hue=0.1, clothes=4)


def main() -> int:
    """Print the seconds; 1 when the eager scorer takes longer than the target."""
    with tempfile.TemporaryDirectory() as folder:
        version = sys.argv[1] if len(sys.argv) > 1 else exported(folder)
        scorer = portable.load(version)
        data = photo()
        print(f"{SIZE[0]} x {SIZE[1]} pixels, {len(data) / 1e6:.1f} MB; network of {scorer.crop} px", flush=True)
        plain = measured(scorer, data, "as it is", lambda pictures: 0.0)
        worst = measured(scorer, data, "eager", eagerness)
    print(f"longest: {max(plain, worst):.2f} s (target: at most {TARGET:g})")
    return int(max(plain, worst) > TARGET)


def measured(
    scorer: portable.Portable, data: bytes, what: str, more: Callable[[list[Image.Image]], np.ndarray | float]
) -> float:
    """The median seconds over some rounds."""
    settings, spent = Advising(), []

    def score(pictures: list[Image.Image]) -> np.ndarray:
        means = [scorer.answer(scorer.pixels(picture)[None])["mean"][0] for picture in pictures]
        return np.array(means) + more(pictures)

    for _ in range(ROUNDS):
        began = time.perf_counter()
        image = advice.working(data, settings, scorer.settings)
        decoded = time.perf_counter()
        found = faces(scorer, image)
        looks = scorer.detector.find if scorer.detector else None
        told = advice.advise(image, score, found, settings, side=scorer.settings.shorter_side, find_faces=looks)
        spent.append((time.perf_counter() - began, decoded - began))
    whole, decoding = (statistics.median(column) for column in zip(*spent, strict=True))
    each = 1000 * (whole - decoding) / told.scorings
    print(
        f"{what}: {whole:.2f} s, of which decoding {decoding:.2f} s; {told.scorings} scorings, {each:.1f} ms each with"
        f" their share of the edits; {len(told.suggestions)} edits advised",
        flush=True,
    )
    return whole


def faces(scorer: portable.Portable, image: Image.Image) -> list[Face]:
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


def exported(folder: str) -> str:
    """The default network, by a process of its own: this one stays without TensorFlow."""
    code = (
        "import sys; from pathlib import Path\n"
        "from components.scorer import bundle, model, published\n"
        "from components.scorer.settings import Pretraining, Training, from_parameters\n"
        "settings = from_parameters(Pretraining, start='none')\n"
        "scorer = model.build_scorer(model.build_encoder(settings), dropout=0.5)\n"
        "published.export_portable(bundle.Bundle(scorer, settings, Training(), '', '', {}), sys.argv[1])\n"
        "Path(sys.argv[1], 'saved_model.pb').touch()\n"
    )
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, env=environment)
    return folder


if __name__ == "__main__":
    sys.exit(main())
