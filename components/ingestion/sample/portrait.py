"""Properties of a synthetic portrait, and its quality."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log2
from typing import Any, Literal, get_args

import numpy as np

Skin = Literal["light", "medium", "dark"]
Hair = Literal["short", "long", "bob", "bun", "curls", "afro", "bald", "headscarf"]
Scene = Literal["studio", "room", "garden", "city"]
Neckline = Literal["round", "v", "collar"]
Eyewear = Literal["none", "glasses", "sunglasses"]
Job = Literal["child carer", "senior carer", "tutor", "cleaner", "pet carer"]

SKIN_TONES = 8
"""Number of skin tones, from the lightest (0) to the darkest (7)."""

HAIR_COLOURS = 8
DARK_HAIR = (0, 1, 2)
GREY_HAIR = HAIR_COLOURS - 1

CLOTHES_COLOURS = 10
"""Number of clothes colours."""

CHILD_EFFECT: dict[Job, float] = {
    "child carer": 1.8,
    "senior carer": -0.8,
    "tutor": -1.8,
    "cleaner": -1.4,
    "pet carer": -0.8,
}
"""Score points that a child beside the person adds, by the person's job. The largest match sunglasses."""

CHILD_SHARE = 0.4
"""Share of the portraits with a child: large enough that a few hundred portraits show the effect of the job."""


@dataclass(frozen=True)
class Portrait:
    """All properties of a portrait. The defaults give a good one.

    Lengths are shares of the photo, so a portrait looks the same at every side.
    """

    skin_tone: int = 3  # 0 to TONES - 1
    hair: Hair = "short"
    hair_colour: int = 1  # 0 to HAIR_COLOURS - 1
    face_width: float = 0.74  # share of half the head's height
    beard: bool = False
    eyewear: Eyewear = "none"
    smile: float = 0.6  # -1 (corners of the mouth down) to 1 (laughing)
    clothes: int = 0  # 0 to CLOTHES - 1
    neckline: Neckline = "round"
    scene: Scene = "studio"
    scene_hue: float = 0.6  # 0 to 1, around the colour circle
    scene_seed: int = 0  # seed of the objects in the background
    light: float = 0.5  # -1 (from the left) to 1 (from the right)
    warmth: float = 0.0  # -1 (blue) to 1 (orange)
    child: bool = False  # beside the person
    child_hair: Hair = "bob"
    child_side: Literal[-1, 1] = 1  # left or right of the person
    job: Job = "child carer"  # stated by the person, not visible on the photo
    x: float = 0.5  # centre of the head (without a child), share of the width
    y: float = 0.42  # centre of the head, share of the height
    size: float = 0.42  # height of the head, share of the photo's height
    tilt: float = 0.0  # clockwise rotation of the camera, degrees
    exposure: float = 0.0  # exposure error in stops: positive is over-, negative underexposed
    blur: float = 0.0  # standard deviation of the Gaussian blur, in hundredths of the photo's width

    @property
    def skin(self) -> Skin:
        """Skin tone as one of three bands."""
        return get_args(Skin)[min(2, self.skin_tone * 3 // SKIN_TONES)]

    @property
    def sunglasses(self) -> bool:
        """True if sunglasses hide the eyes."""
        return self.eyewear == "sunglasses"


ASPECT = 1.25
"""Height of a photo over its width."""

CHILD_SIZE = 0.78
"""Height of the child's head over the person's."""


def head_centres(portrait: Portrait) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the centres of the heads of the person and of the child.

    Args:
        portrait: Properties of the portrait. With a child, the person moves aside to make room.

    Returns:
        Two points (x, y) as shares of the photo's width and height. The second is undefined without a child.
    """
    unit = portrait.size / 2
    aside = 0.7 * portrait.child_side * portrait.child
    person = (portrait.x - aside * unit * ASPECT, portrait.y)
    child = (person[0] + 1.55 * portrait.child_side * unit * ASPECT, portrait.y + 0.8 * unit)
    return person, child


def cut_share(portrait: Portrait) -> float:
    """Return the share of the person's head box that is outside the photo, 0 to 1."""
    (x, y), _ = head_centres(portrait)
    half_width, half_height = portrait.face_width * portrait.size / 2 * ASPECT, portrait.size / 2
    inside = _overlap(x, half_width) * _overlap(y, half_height)
    return 1 - inside


def _overlap(centre: float, half: float) -> float:
    """Return the share of the interval of half-width ``half`` around ``centre`` that lies in 0 to 1."""
    return max(0.0, min(1.0, centre + half) - max(0.0, centre - half)) / (2 * half)


def latent_quality(portrait: Portrait) -> float:
    """Return the score that unbiased, noise-free raters would all give.

    It is a sum of effects in score points, clipped to 1 to 10. A flaw costs nothing until it is noticeable. Skin tone,
    hair, beard, glasses, clothes and background have no effect. The effect sizes are invented, and large enough for a
    small network to learn.

    Args:
        portrait: Properties of the portrait.

    Returns:
        Quality from 1 to 10.
    """
    off_centre = hypot(portrait.x - 0.5, portrait.y - 0.42)
    doublings = abs(log2(portrait.size / 0.42))
    quality = (
        7.5
        - 3.2 * (1 - exp(-portrait.blur / 0.8))
        - 1.5 * max(0, abs(portrait.exposure) - 0.3)
        - 1.3 * max(0, doublings - 0.3)
        - 5.0 * max(0, off_centre - 0.06)
        - 3.0 * cut_share(portrait)
        - 0.05 * max(0, abs(portrait.tilt) - 6)
        - 1.7 * portrait.sunglasses
        + 1.0 * portrait.smile
        + CHILD_EFFECT[portrait.job] * portrait.child
    )
    return min(10.0, max(1.0, quality))


def random_portrait(rng: np.random.Generator) -> Portrait:
    """Return a portrait with every property drawn at random, including flaws.

    The person's properties (skin tone, hair, clothes, ...) are independent of the quality of the photo. Flaws occur
    together, because some people take photos in haste.

    Args:
        rng: Random generator; the same state gives the same portrait.

    Returns:
        The portrait.
    """

    def one_of(choices: Sequence, chances: Sequence[float] | None = None) -> Any:
        return choices[int(rng.choice(len(choices), p=chances))]

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def normal(mean: float, deviation: float) -> float:
        return float(rng.normal(mean, deviation))

    haste = uniform(0, 1)  # haste of the photographer: more and larger flaws

    def unless_hasty(usual: float, flawed: float, chance: float) -> float:
        return round(flawed if rng.random() < 2 * haste * chance else usual, 3)

    skin_tone, child = int(rng.integers(SKIN_TONES)), bool(rng.random() < CHILD_SHARE)
    size = unless_hasty(0.42 * 2 ** normal(0, 0.12), one_of((uniform(0.2, 0.28), uniform(0.6, 0.8))), chance=0.2)
    return Portrait(
        skin_tone=skin_tone,
        hair=one_of(get_args(Hair)),
        hair_colour=one_of(range(HAIR_COLOURS) if skin_tone < SKIN_TONES // 2 else (*DARK_HAIR, GREY_HAIR)),
        face_width=round(uniform(0.68, 0.8), 3),
        beard=bool(rng.random() < 0.2),
        eyewear=one_of(get_args(Eyewear), (0.7, 0.15, 0.15)),
        smile=round(min(1.0, max(-1.0, normal(0.45, 0.4))), 3),
        clothes=one_of(range(CLOTHES_COLOURS)),
        neckline=one_of(get_args(Neckline)),
        scene=one_of(get_args(Scene)),
        scene_hue=round(uniform(0, 1), 3),
        scene_seed=int(rng.integers(2**31)),
        light=round(one_of((-1, 1)) * uniform(0.3, 1), 3),
        warmth=round(uniform(-1, 1), 3),
        child=child,
        child_hair=one_of(("short", "bob", "bun", "curls")),
        child_side=one_of((-1, 1)),
        job=one_of(get_args(Job)),
        x=unless_hasty(normal(0.5, 0.03), 0.5 + one_of((-1, 1)) * uniform(0.15, 0.35), chance=0.15),
        y=unless_hasty(normal(0.42, 0.02), 0.45 + one_of((-1, 1)) * uniform(0.2, 0.35), chance=0.15),
        size=min(size, 0.44) if child else size,  # so that both heads fit on the photo
        tilt=unless_hasty(normal(0, 2), one_of((-1, 1)) * uniform(15, 40), chance=0.2),
        exposure=unless_hasty(normal(0, 0.15), one_of((uniform(-2.5, -1), uniform(0.7, 1.6))), chance=0.35),
        blur=unless_hasty(0, uniform(0.5, 1) * (0.5 + 1.5 * haste), chance=0.4),
    )
