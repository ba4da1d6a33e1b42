"""Drawing of a person, from the hair behind the head to the glasses in front of it.

All lengths are head units (see ``HeadPen``). An outline of the right half is mirrored.
"""

from dataclasses import dataclass

import numpy as np
from PIL import ImageColor

from components.ingestion.sample.pen import Colour, HeadPen, Points, mirrored, smooth
from components.ingestion.sample.portrait import Portrait

_SKIN = ["#fbdcc8", "#f3c8a8", "#e6b088", "#d0966a", "#b07850", "#915d3c", "#75492f", "#5a3824"]
_HAIR = ["#1d1815", "#38271d", "#5a3a22", "#86562c", "#b98a4a", "#d9bd84", "#8f3d22", "#a9a6a2"]
_CLOTH = ["#2f6f8f", "#b8473d", "#f0ece2", "#3d7a57", "#35405e", "#d9a441", "#7a5a8c", "#5b6770", "#d98a94", "#2b2e33"]
_STRIPES = ((255, 221, 0), (220, 30, 30))
_DARK_EYES = (64, 40, 24)
_EYES = (_DARK_EYES, (52, 34, 22), (60, 92, 112), (74, 98, 62))


@dataclass(frozen=True)
class _Palette:
    """The colours of one person."""

    skin: Colour
    hair: Colour
    cloth: Colour
    scarf: Colour
    iris: Colour

    @classmethod
    def from_portrait(cls, looks: Portrait) -> "_Palette":
        return cls(
            skin=ImageColor.getrgb(_SKIN[looks.skin_tone]),
            hair=ImageColor.getrgb(_HAIR[looks.hair_colour]),
            cloth=ImageColor.getrgb(_CLOTH[looks.clothes]),
            scarf=ImageColor.getrgb(_CLOTH[(looks.clothes + 3) % len(_CLOTH)]),
            iris=_EYES[looks.hair_colour % len(_EYES)] if looks.skin_tone < 3 else _DARK_EYES,
        )


def draw_figure(pen: HeadPen, looks: Portrait, striped: bool = False) -> None:
    """Draw head and body.

    Args:
        pen: Pen on an RGB image, in the units of this head.
        looks: Appearance of the person; the pen holds the position.
        striped: True for broad stripes on the shirt. A small network detects stripes more easily than a second face.
    """
    palette = _Palette.from_portrait(looks)
    _hair_behind(pen, looks, palette)
    _body(pen, looks, palette)
    if striped:
        _stripes(pen)
    _head(pen, looks.face_width, palette.skin)
    _eyes(pen, looks.smile, palette)
    _nose(pen, palette.skin)
    if looks.beard and looks.hair != "headscarf":
        _beard(pen, looks.face_width, _mix(palette.hair, palette.skin, 0.15))
    _mouth(pen, looks.smile, palette.skin)
    _brows(pen, looks.smile, _darker(palette.hair, 0.25))
    _hair_in_front(pen, looks, palette)
    if looks.eyewear != "none":
        _eyewear(pen, looks)


def draw_light(pen: HeadPen, looks: Portrait) -> None:
    """Paint the light (above 128) and the shadow (below 128) on head and body.

    Args:
        pen: Pen on an L image, which the caller blurs, in the units of this head.
        looks: Appearance of the person; the light comes from ``looks.light``.
    """
    lit = float(np.sign(looks.light))
    depth = round(46 * abs(looks.light))
    width = looks.face_width
    pen.shape(mirrored([(0, 1.3), (1.1, 1.6), (1.5, 2), (1.6, 6), (0, 6)]), 122)
    pen.shape(_on_side(-lit, [(0.6, 1.5), (1.5, 2), (1.65, 6), (0.7, 6)]), 122 - depth)
    pen.shape(mirrored([(0, 0.98), (0.42, 0.85), (0.4, 1.25), (0, 1.4)]), 70)
    cheek = [(0.42, -0.95), (width, -0.5), (width + 0.05, 0.2), (0.5, 0.85), (0.45, 0.3)]
    pen.shape(_on_side(-lit, cheek), 128 - depth)
    temple = [(0.5, -0.75), (width - 0.12, -0.3), (width - 0.14, 0.3), (0.3, 0.2), (0.25, -0.5)]
    pen.shape(_on_side(lit, temple), 128 + depth)


def _on_side(side: float, points: Points) -> Points:
    """Return the points on the right side (1) or mirrored to the left side (-1)."""
    return [(side * x, y) for x, y in points]


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours with ``share`` of the second one."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _darker(colour: Colour, share: float) -> Colour:
    return _mix(colour, (20, 10, 16), share)


def _lighter(colour: Colour, share: float) -> Colour:
    return _mix(colour, (255, 250, 240), share)


def _hair_behind(pen: HeadPen, looks: Portrait, palette: _Palette) -> None:
    width, hair, dark = looks.face_width, palette.hair, _darker(palette.hair, 0.35)
    top = [(0, -1.2), (0.62, -1.03), (width + 0.2, 0.1)]
    match looks.hair:
        case "long":
            pen.shape(mirrored([*top, (width + 0.28, 1.2), (0.62, 2.05), (0, 1.9)]), dark)
        case "bob":
            pen.shape(mirrored([*top, (width + 0.16, 0.85), (0.5, 1.15), (0, 1.1)]), dark)
        case "bun":
            pen.oval(0, -1.22, 0.36, 0.34, hair)
            pen.oval(0.05, -1.3, 0.2, 0.16, _lighter(hair, 0.1))
        case "curls":
            for angle in np.linspace(-0.62, 1.62, 13) * np.pi:
                pen.oval(-(width + 0.12) * np.cos(angle), -0.3 - 0.82 * np.sin(angle), 0.27, 0.27, dark)
        case "afro":
            pen.oval(0, -0.5, width + 0.5, 1.08, _darker(hair, 0.12))
            pen.oval(0, -0.56, width + 0.42, 0.99, hair)
        case "headscarf":
            top = [(0, -1.2), (0.6, -1.02), (width + 0.22, -0.3), (width + 0.18, 0.6)]
            pen.shape(mirrored([*top, (0.75, 1.2), (1.05, 1.7), (0, 2.1)]), palette.scarf)


def _body(pen: HeadPen, looks: Portrait, palette: _Palette) -> None:
    cloth, trousers = palette.cloth, _mix(palette.cloth, (44, 48, 62), 0.85)
    pen.shape(
        mirrored([(0, 0.6), (0.36, 0.6), (0.37, 1.2), (0.62, 1.5), (0.5, 2), (0, 2.2)]), _darker(palette.skin, 0.1)
    )
    pen.polygon([(-1.14, 5.6), (1.14, 5.6), (1.2, 12), (-1.2, 12)], trousers)
    pen.polygon([(-0.03, 6.6), (0.03, 6.6), (0.12, 12), (-0.12, 12)], _darker(trousers, 0.5))
    hand = [(1.3, 5.3), (1.62, 5.3), (1.62, 5.9), (1.42, 6.1), (1.28, 5.8)]
    pen.shape(_on_side(-1, hand), palette.skin)
    pen.shape(hand, palette.skin)
    shoulder = [(0.36, 1.34), (0.5, 1.4), (1.15, 1.62), (1.5, 2)]
    arm = [(1.62, 2.8), (1.68, 4.2), (1.66, 5.4), (1.2, 5.5), (1.16, 5.75)]
    neckline = {
        "round": [(-0.36, 1.34), (-0.24, 1.56), (0, 1.64), (0.24, 1.56)],
        "v": [(-0.36, 1.34), (-0.2, 1.72), (0, 2.1), (0.2, 1.72)],
        "collar": [(-0.36, 1.34), (-0.18, 1.5), (0, 1.8), (0.18, 1.5)],
    }[looks.neckline]
    outline = smooth(mirrored([*shoulder, *arm]), closed=False)
    pen.polygon(np.concatenate([outline, smooth(neckline, closed=False)]), cloth)
    for side in (-1, 1):
        pen.line(_on_side(side, [(1.12, 2.75), (1.2, 3.6), (1.18, 5), (1.17, 5.6)]), 0.05, _darker(cloth, 0.3))
    if looks.neckline == "collar":
        for side in (-1, 1):
            pen.polygon(_on_side(side, [(0.38, 1.2), (0.62, 1.5), (0.36, 1.95), (0, 1.72)]), _lighter(cloth, 0.25))
        pen.line([(0, 1.8), (0, 3), (0, 5.6)], 0.03, _darker(cloth, 0.25))
    else:
        pen.line([*neckline, (0.36, 1.34)], 0.07, _darker(cloth, 0.15))
    if looks.hair == "headscarf":
        pen.shape(mirrored([(0, 0.8), (0.7, 0.7), (0.8, 1.3), (0.98, 1.75), (0.5, 2.05), (0, 2.12)]), palette.scarf)
        pen.line([(-0.62, 1.2), (-0.1, 1.5), (0.6, 1.62)], 0.04, _darker(palette.scarf, 0.2))
        pen.line([(-0.72, 1.5), (-0.1, 1.78), (0.5, 1.86)], 0.04, _darker(palette.scarf, 0.2))


def _stripes(pen: HeadPen) -> None:
    for number, top in enumerate(np.arange(1.7, 5.2, 0.8)):
        stripe = mirrored([(0, top), (1.42, top), (1.5, top + 0.42), (0, top + 0.42)])
        pen.polygon(stripe, _STRIPES[number % len(_STRIPES)])


def _head(pen: HeadPen, width: float, skin: Colour) -> None:
    for side in (-1, 1):
        pen.oval(side * (width + 0.02), 0.08, 0.13, 0.21, _darker(skin, 0.08))
        pen.oval(side * (width + 0.03), 0.1, 0.06, 0.12, _darker(skin, 0.25))
    cheek = [(0, -1), (0.45, -0.9), (width * 0.97, -0.45), (width, 0.1)]
    pen.shape(mirrored([*cheek, (width * 0.78 + 0.04, 0.6), (0.32, 0.94), (0, 1)]), skin)
    blush = (*_mix(skin, (226, 72, 72), 0.5), 24)
    for share in (1, 0.85, 0.7, 0.55, 0.4):
        for side in (-1, 1):
            pen.oval(side * width * 0.58, 0.36, 0.22 * share, 0.16 * share, blush)


def _eyes(pen: HeadPen, smile: float, palette: _Palette) -> None:
    squint = 0.03 * max(0.0, smile)
    for side in (-1, 1):
        x, y = side * 0.31, 0.02
        lid = [(x - 0.17, y + 0.02), (x - 0.08, y - 0.08), (x + 0.07, y - 0.09), (x + 0.17, y + 0.01)]
        pen.shape([*lid, (x, y + 0.09 - squint)], (250, 247, 242))
        pen.oval(x, y - 0.005, 0.083, 0.087 - squint / 2, palette.iris)
        pen.oval(x, y - 0.005, 0.042, 0.042, (12, 9, 9))
        pen.oval(x + 0.03, y - 0.035, 0.02, 0.02, (255, 255, 255))
        pen.line(lid, 0.035, _darker(palette.skin, 0.72))
        pen.line(
            [(x - 0.13, y + 0.08), (x, y + 0.11 - squint), (x + 0.13, y + 0.08)], 0.014, _darker(palette.skin, 0.3)
        )


def _brows(pen: HeadPen, smile: float, hair: Colour) -> None:
    inner = -0.2 - 0.05 * min(smile, 0)
    for side in (-1, 1):
        pen.line(_on_side(side, [(0.15, inner), (0.32, -0.25), (0.49, -0.17)]), 0.06, hair)


def _nose(pen: HeadPen, skin: Colour) -> None:
    shadow = _darker(skin, 0.25)
    pen.line([(0.06, 0.02), (0.08, 0.25), (0.14, 0.36)], 0.025, (*shadow, 130))
    pen.line([(-0.12, 0.38), (-0.05, 0.42), (0, 0.43), (0.05, 0.42), (0.12, 0.38)], 0.035, shadow)
    pen.oval(0, 0.3, 0.055, 0.06, (*_lighter(skin, 0.4), 90))


def _mouth(pen: HeadPen, smile: float, skin: Colour) -> None:
    lips = _mix(_darker(skin, 0.12), (176, 48, 58), 0.45)
    half, low = 0.24 + 0.06 * smile, 0.64 + 0.06 * smile
    corner = 0.64 - (0.09 if smile > 0 else 0.04) * smile
    upper = [(-half, corner), (-half / 2, low - 0.035), (0, low - 0.03), (half / 2, low - 0.035), (half, corner)]

    def under(middle: float, sides: float) -> Points:
        return [(half / 2, low + sides), (0, low + middle), (-half / 2, low + sides)]

    if smile > 0.35:
        drop = 0.06 + 0.14 * smile
        lower = under(0.8 * drop, 0.6 * drop)
        pen.shape([*upper, *lower], _darker(lips, 0.45))
        pen.shape([*upper, *under(0.35 * drop, 0.22 * drop)], (252, 249, 244))
        pen.line([upper[0], *reversed(lower), upper[-1]], 0.055, lips)
        pen.line(upper, 0.04, _darker(lips, 0.1))
    else:
        pen.shape([*upper, *under(0.09, 0.06)], lips)
        pen.shape([*upper, *under(-0.045, -0.06)], lips)
        pen.line(upper, 0.024, _darker(lips, 0.5))


def _beard(pen: HeadPen, width: float, hair: Colour) -> None:
    outside = mirrored([(width + 0.02, 0.05), (width * 0.78 + 0.07, 0.62), (0.36, 0.98), (0, 1.08)])
    inside = mirrored([(width - 0.06, 0.1), (0.48, 0.5), (0.22, 0.47), (0, 0.49)])
    pen.polygon(np.concatenate([smooth(outside, closed=False), smooth(inside, closed=False)[::-1]]), hair)


def _hair_in_front(pen: HeadPen, looks: Portrait, palette: _Palette) -> None:
    width, hair, shine = looks.face_width, palette.hair, _lighter(palette.hair, 0.1)
    temple = width + 0.05
    match looks.hair:
        case "bald":
            pen.oval(0.2, -0.72, 0.24, 0.12, (*_lighter(palette.skin, 0.5), 60))
        case "short":
            outside = [(-temple, -0.02), (-temple - 0.03, -0.6), (-0.5, -1.12), (0.1, -1.22), (0.6, -1.06)]
            right = [(temple + 0.02, -0.6), (temple, -0.02), (width - 0.06, -0.3), (width - 0.14, -0.55)]
            fringe = [(0.2, -0.6), (-0.3, -0.72), (-width + 0.12, -0.5), (-width + 0.05, -0.3)]
            pen.shape([*outside, *right, *fringe], hair)
            pen.line([(-0.35, -0.98), (0.1, -1.06), (0.5, -0.92)], 0.1, shine)
        case "long" | "bob":
            low = 1.5 if looks.hair == "long" else 0.9
            outside = [(0, -1.22), (0.62, -1.05), (temple + 0.12, -0.5), (temple + 0.2, 0.2), (temple + 0.2, low)]
            inside = [(temple - 0.12, low - 0.1), (temple - 0.08, 0.2), (width - 0.16, -0.4), (0.3, -0.74), (0, -0.84)]
            for side in (-1, 1):
                pen.shape(_on_side(side, [*outside, *inside]), hair)
                pen.line(_on_side(side, [(0.5, -0.9), (temple - 0.02, -0.45), (temple + 0.07, 0.1)]), 0.08, shine)
        case "bun":
            outside = [(0, -1.17), (0.5, -1.08), (temple + 0.02, -0.55), (temple, 0)]
            _fringe(pen, outside, [(width - 0.07, -0.36), (0.4, -0.72), (0, -0.8)], hair)
            pen.line([(-0.45, -0.9), (0, -1.02), (0.45, -0.9)], 0.08, shine)
        case "afro":
            outside = [(0, -1.25), (0.5, -1.15), (temple + 0.1, -0.6), (temple, 0)]
            _fringe(pen, outside, [(width - 0.08, -0.4), (0.4, -0.66), (0, -0.71)], hair)
        case "curls":
            for angle in np.linspace(0.02, 0.98, 9) * np.pi:
                x, y = -(width - 0.02) * np.cos(angle), -0.42 - 0.56 * np.sin(angle)
                pen.oval(x, y, 0.23, 0.21, hair)
                pen.oval(x + 0.04, y - 0.04, 0.12, 0.1, shine)
        case "headscarf":
            outside = [(0, -1.2), (0.6, -1.02), (width + 0.2, -0.3), (width + 0.14, 0.5), (0.55, 1.2), (0, 1.4)]
            edge = [(0, -0.72), (0.42, -0.62), (width - 0.1, -0.15), (width - 0.1, 0.4), (0.36, 0.88), (0, 0.97)]
            outer, inner = smooth(mirrored(outside), closed=True), smooth(mirrored(edge), closed=True)
            pen.polygon(np.concatenate([outer, outer[:1], inner[:1], inner[::-1]]), palette.scarf)
            pen.line(mirrored(edge), 0.03, _darker(palette.scarf, 0.25), closed=True)


def _fringe(pen: HeadPen, outside: Points, inside: Points, hair: Colour) -> None:
    """Fill the hair between crown and hairline. Both start at the top (or the temple) on the right."""
    half = [*outside, *inside]
    pen.shape([*_on_side(-1, half[:0:-1]), *half], hair)


def _eyewear(pen: HeadPen, looks: Portrait) -> None:
    dark = looks.sunglasses
    frame = (24, 22, 26) if dark else _darker(ImageColor.getrgb(_HAIR[(looks.hair_colour + 2) % 7]), 0.4)
    for side in (-1, 1):
        x = side * 0.33
        top, bottom = [(x - 0.25, -0.1), (x, -0.16), (x + 0.25, -0.1)], [(x + 0.22, 0.14), (x, 0.22), (x - 0.22, 0.14)]
        pen.shape([*top, *bottom], (22, 22, 28) if dark else (255, 255, 255, 36))
        if dark:
            pen.line([(x - 0.13, 0.06), (x + 0.05, -0.08)], 0.05, (96, 102, 112))
        pen.line([*top, *bottom], 0.045, frame, closed=True)
        pen.line(_on_side(side, [(0.57, -0.06), (looks.face_width + 0.01, -0.02)]), 0.05, frame)
    pen.line([(-0.09, -0.04), (0, -0.075), (0.09, -0.04)], 0.05, frame)
