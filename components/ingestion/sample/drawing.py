"""Rendering of a portrait: people in front of a scene, with light, exposure and focus blur."""

import colorsys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from components.ingestion.sample.figure import draw_figure, draw_light
from components.ingestion.sample.pen import Colour, HeadPen
from components.ingestion.sample.portrait import (
    ASPECT,
    CHILD_SIZE,
    CLOTHES_COLOURS,
    DARK_HAIR,
    GREY_HAIR,
    Portrait,
    head_centres,
)

_SUPERSAMPLING = 2  # anti-aliasing: figures are drawn at twice the side and then reduced
_BLURRED_REDUCTION = 8  # light and background are blurred, so they are drawn at an eighth of the side
_MIN_SIDE = 16  # pixels; a smaller portrait is unrecognisable
_GAMMA = 2.2  # approximate gamma of sRGB


def draw_portrait(portrait: Portrait, side: int = 320) -> Image.Image:
    """Draw a portrait as a camera would have taken it.

    Args:
        portrait: Properties of the portrait.
        side: Width in pixels, at least 16; the height is ``ASPECT`` times the width.

    Returns:
        An RGB image. The same portrait and side give the same pixels.

    Raises:
        ValueError: The side is below 16 pixels.
    """
    if side < _MIN_SIDE:
        raise ValueError(f"side must be at least {_MIN_SIDE} pixels, got {side}; draw it larger and scale it down")
    size = (side, round(side * ASPECT))
    image = _background(portrait, size)
    light = Image.new("L", _reduced_size(size), 128)
    for looks, centre, height in _people(portrait):
        draw_figure(HeadPen(image, portrait, centre, height), looks, striped=height < portrait.size)
        draw_light(HeadPen(light, portrait, centre, height), looks)
    return _apply_camera(image.reduce(_SUPERSAMPLING), light, portrait)


def _people(portrait: Portrait) -> Iterator[tuple[Portrait, tuple[float, float], float]]:
    """Yield the people from back to front: looks, centre of the head, height of the head."""
    person, child = head_centres(portrait)
    yield portrait, person, portrait.size
    if portrait.child:
        looks = replace(portrait, hair=portrait.child_hair, face_width=0.86, beard=False, eyewear="none", smile=0.6)
        looks = replace(looks, neckline="round", clothes=(portrait.clothes + CLOTHES_COLOURS // 2) % CLOTHES_COLOURS)
        looks = replace(looks, hair_colour=DARK_HAIR[-1] if looks.hair_colour == GREY_HAIR else looks.hair_colour)
        yield looks, child, portrait.size * CHILD_SIZE


def _reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    return max(8, size[0] // _BLURRED_REDUCTION), max(8, size[1] // _BLURRED_REDUCTION)


def _background(portrait: Portrait, size: tuple[int, int]) -> Image.Image:
    """Draw the scene, out of focus and rotated with the camera."""
    width, height = _reduced_size(size)
    wide, high = round(width * 1.8), round(height * 1.8)  # margin for the rotation
    image = _gradient(portrait, (wide, high))
    _draw_objects(image, portrait)
    image = image.filter(ImageFilter.GaussianBlur(width * 0.022)).rotate(portrait.tilt, Image.Resampling.BILINEAR)
    left, top = (wide - width) // 2, (high - height) // 2
    image = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
    return image.resize((size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), Image.Resampling.NEAREST)


def _gradient(portrait: Portrait, size: tuple[int, int]) -> Image.Image:
    """Draw a wall or a sky that is lighter on the side of the light."""
    hue = portrait.scene_hue
    near, far = {
        "studio": (_hls_colour(hue, 0.72, 0.32), _hls_colour(hue, 0.45, 0.32)),
        "room": (_hls_colour(hue, 0.86, 0.25), _hls_colour(hue, 0.68, 0.22)),
        "garden": (_hls_colour(0.56, 0.88, 0.6), _hls_colour(0.57, 0.72, 0.55)),
        "city": (_hls_colour(0.6, 0.8, 0.35), _hls_colour(hue, 0.62, 0.3)),
    }[portrait.scene]
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    share = np.clip(np.hypot(x - 0.5 * portrait.light, y + 0.3) / 1.3, 0, 1)[..., None]
    return Image.fromarray((np.array(near) * (1 - share) + np.array(far) * share).round().astype(np.uint8))


def _draw_objects(image: Image.Image, portrait: Portrait) -> None:
    """Draw the objects of the scene on its background. Coordinates are shares of the image."""
    rng, hue, paint = np.random.default_rng(portrait.scene_seed), portrait.scene_hue, ImageDraw.Draw(image, "RGBA")
    scale = np.array(image.size * 2)

    def box(left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        paint.rectangle(tuple(scale * (left, top, right, bottom)), fill=colour)

    def disc(x: float, y: float, radius: float, colour: Colour) -> None:
        paint.ellipse(tuple(scale * (x, y, x, y) + image.width * radius * np.array([-1, -1, 1, 1])), fill=colour)

    match portrait.scene:
        case "room":
            window = rng.uniform(0.1, 0.6)
            shelf = (window + 0.45) % 0.75
            frame = _hls_colour(0.1, 0.95, 0.3)
            box(0, 0.82, 1, 1, _hls_colour(0.08, 0.35, 0.3))
            box(window, 0.18, window + 0.28, 0.52, frame)
            box(window + 0.02, 0.2, window + 0.26, 0.5, _hls_colour(0.55, 0.8, 0.5))
            box(window + 0.13, 0.2, window + 0.15, 0.5, frame)
            for left in shelf + 0.035 * np.arange(6):
                box(left, 0.62 - rng.uniform(0.08, 0.13), left + 0.03, 0.62, _hls_colour(rng.random(), 0.5, 0.4))
            box(shelf - 0.03, 0.62, shelf + 0.25, 0.64, _hls_colour(0.08, 0.3, 0.35))
        case "garden":
            box(0, 0.6, 1, 1, _hls_colour(0.27, 0.38, 0.4))
            for x, y, radius in rng.uniform((0.1, 0.2, 0.06), (0.9, 0.72, 0.16), (14, 3)):
                disc(x, y, radius, (*_hls_colour(rng.uniform(0.22, 0.36), rng.uniform(0.25, 0.55), 0.42), 210))
            for x, y in rng.uniform((0.1, 0.55), (0.9, 0.85), (12, 2)):
                disc(x, y, 0.018, (*_hls_colour(hue, 0.72, 0.7), 230))
        case "city":
            for left in np.arange(0, 1, 0.12):
                right = left + rng.uniform(0.1, 0.14)
                box(left, rng.uniform(0.2, 0.5), right, 1, _hls_colour(hue, rng.uniform(0.3, 0.5), 0.18))
            for x, y, radius in rng.uniform((0.1, 0.25, 0.012), (0.9, 0.85, 0.035), (18, 3)):
                disc(x, y, radius, (*_hls_colour(rng.uniform(0.05, 0.15), 0.75, 0.9), 120))


def _hls_colour(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = (round(255 * channel) for channel in colorsys.hls_to_rgb(hue % 1, lightness, saturation))
    return red, green, blue


def _apply_camera(image: Image.Image, light: Image.Image, portrait: Portrait) -> Image.Image:
    """Apply light, white balance, exposure and focus blur."""
    light = light.filter(ImageFilter.GaussianBlur(light.width * 0.17 * portrait.size))
    light = light.resize(image.size, Image.Resampling.BICUBIC)
    image = ImageChops.soft_light(image, Image.merge("RGB", [light] * 3))
    linear = (np.arange(256) / 255) ** _GAMMA
    gains = 2**portrait.exposure * (1 + 0.1 * portrait.warmth * np.array([1, 0, -1]))
    exposed = np.clip(255 * np.outer(gains, linear) ** (1 / _GAMMA), 0, 255)
    image = image.point(exposed.round().astype(int).ravel().tolist())
    return image.filter(ImageFilter.GaussianBlur(portrait.blur / 100 * image.width)) if portrait.blur else image
