"""Correctness of advice on drawn portraits with one known flaw each, for a trained scorer.

    python -m tests.benchmarks.advice_truth MODEL

MODEL is a model that ``make run`` published, with simulated raters and drawn photos. Flawless portraits are drawn again
with one flaw, and advised. Printed for each flaw: how many get the edit that mends the flaw, in its direction; how many
get any advice; the score points that the first suggestion promises; and the points that it is worth by the formula of
the simulated raters. Edits that the formula does not know are worth nothing.
"""

import sys
from dataclasses import asdict, replace

import numpy as np
from PIL import Image

from components.ingestion.sample import Portrait, draw_portrait, latent_quality, random_portrait
from components.scorer.advice import edits, search
from components.scorer.artifacts import litert_model
from components.scorer.registry import channels
from components.scorer.settings import AdviceSettings
from tests.builders.advised_photos import face

PORTRAITS = 24
FLAWLESS = {"exposure": 0.0, "blur": 0.0, "tilt": 0.0, "size": 0.42, "x": 0.5, "y": 0.42, "child": False}
FLAWS = {
    "none": ({}, None, 0),
    "two stops too dark": ({"exposure": -2.0}, "brightness", 1),
    "a stop too dark": ({"exposure": -1.0}, "brightness", 1),
    "a stop and a half too bright": ({"exposure": 1.5}, "brightness", -1),
    "a head half as high as it should be": ({"size": 0.21}, "crop", 1),
    "leaning by 15 degrees": ({"tilt": 15.0}, "straighten", -1),
    "blurred": ({"blur": 1.0}, "sharpness", 1),
}


def main() -> None:
    """Print a line for each flaw."""
    scorer, rng = litert_model.load(channels.resolve(sys.argv[1])), np.random.default_rng(1)
    people = [replace(random_portrait(rng), **FLAWLESS, eyewear="none") for _ in range(PORTRAITS)]
    print(f"{'flaw':<38}mended  told  promised  worth")
    for flaw, (properties, mends, direction) in FLAWS.items():
        flawed = [replace(person, **properties) for person in people]
        advice_by_photo = [advised(scorer, portrait) for portrait in flawed]
        mended = sum(
            any(suggestion.edit == mends and suggestion.value * direction > 0 for suggestion in suggestions)
            for suggestions in advice_by_photo
        )
        firsts = [
            (portrait, suggestions[0])
            for portrait, suggestions in zip(flawed, advice_by_photo, strict=True)
            if suggestions
        ]
        promised = np.mean([first.gain for _, first in firsts]) if firsts else 0.0
        worth = np.mean([worth_of(portrait, first) for portrait, first in firsts]) if firsts else 0.0
        print(f"{flaw:<38}{mended if mends else '-':>6}{len(firsts):>6}{promised:>+10.2f}{worth:>+7.2f}", flush=True)


def advised(scorer: litert_model.LiteRTScorer, portrait: Portrait) -> tuple[search.Suggestion, ...]:
    """Return the suggestions for a drawn portrait."""

    def score(pictures: list[Image.Image]) -> np.ndarray:
        return np.array([scorer.predict(scorer.pixels(picture)[None])["mean"][0] for picture in pictures])

    image, drawn_faces = draw_portrait(portrait, 640), [face(**asdict(portrait))]
    return search.advise(
        image, score, drawn_faces, AdviceSettings(), scored_side=scorer.settings.shorter_side
    ).suggestions


def worth_of(portrait: Portrait, followed: search.Suggestion) -> float:
    """Return the true gain of the portrait from an edit."""
    better, value = portrait, followed.value
    match followed.edit:
        case "brightness":
            better = replace(portrait, exposure=portrait.exposure + value)
        case "straighten":
            better = replace(portrait, tilt=portrait.tilt + value)
        case "crop":
            frame = edits.crop_frame(value, face(**asdict(portrait)).box)
            centre = {"x": (portrait.x - frame.x) / frame.width, "y": (portrait.y - frame.y) / frame.height}
            better = replace(portrait, size=portrait.size / frame.height, **centre)
    return latent_quality(better) - latent_quality(portrait)


if __name__ == "__main__":
    main()
