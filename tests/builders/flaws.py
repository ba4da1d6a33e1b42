"""Photos that break known upload norms: drawn portraits, and edits of known strength of any photo.

Each edit takes an RGB photo, and if needed its face and a random generator, and returns a new photo.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from components.ingestion.sample import Portrait, draw_portrait, random_portrait
from components.ingestion.sample.portrait import ASPECT, CHILD_SIZE, head_centres
from components.scorer.faces import geometry
from components.scorer.faces.geometry import Box, Face

SIDE = 320  # pixels: width of a drawn photo, also the width of a normalised photo
GAMMA = 2.2  # approximates sRGB


@dataclass(frozen=True)
class Case:
    """A drawn photo and its true properties.

    Attributes:
        image: Normalised photo, decoded from a JPEG file.
        faces: Faces where the heads were drawn, largest first; None if an edit moved them.
        size: Width and height of the original photo, pixels.
        job: Job that the person offers to do.
        truth: Whether each norm is broken, by its key; a missing norm is a borderline case.
        tone: Skin tone of the person, 0 (light) to 7 (dark).
    """

    image: Image.Image
    faces: list[Face] | None
    size: tuple[int, int]
    job: str
    truth: dict[str, bool]
    tone: int


def drawn_cases(number: int, seed: int) -> Iterator[Case]:
    """Yield drawn photos with known truth, in turns of five.

    Two are portraits as the sample draws them, one has shaded eyes, one is a screenshot. The fifth is a scene without
    people or another portrait, by turns.
    """
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        portrait = random_portrait(rng)
        match index % 5:
            case 2:
                yield _shaded_case(portrait, float(rng.uniform(1.7, 2.5)))
            case 3:
                yield _screen_case(portrait, SCREENS[index // 5 % len(SCREENS)], rng)
            case 4 if index % 2:
                yield _empty_case(replace(portrait, x=5.0, child=False))
            case _:
                yield _case(portrait)


def _case(portrait: Portrait) -> Case:
    image = jpeg(draw_portrait(portrait, SIDE))
    truth = truth_of(portrait)
    return Case(image, drawn_faces(portrait, image.size), image.size, portrait.job, truth, portrait.skin_tone)


def _shaded_case(portrait: Portrait, stops: float) -> Case:
    case = _case(replace(portrait, child=False, eyewear="none"))
    image = jpeg(eyes_shaded(case.image, case.faces[0], stops))
    return replace(case, image=image, truth=truth_of(replace(portrait, child=False, eyewear="none"), shaded=True))


def _screen_case(portrait: Portrait, kind: str, rng: np.random.Generator) -> Case:
    screen = screenshot(draw_portrait(portrait, SIDE), kind, rng)
    scale = SIDE / min(screen.size)
    image = jpeg(screen.resize([round(side * scale) for side in screen.size], Image.Resampling.LANCZOS))
    return Case(image, None, screen.size, portrait.job, {"screenshot": True}, portrait.skin_tone)


def _empty_case(portrait: Portrait) -> Case:
    image = jpeg(draw_portrait(portrait, SIDE))
    return Case(image, [], image.size, portrait.job, {"no_face": True, "screenshot": False}, portrait.skin_tone)


def truth_of(portrait: Portrait, shaded: bool = False) -> dict[str, bool]:
    """Return which norms a drawn portrait breaks (True) and keeps (False); borderline cases are left out.

    Borderline: a face cut off by less than a twentieth, exposure faults of .6 to 1.2 stops, blur below .5 hundredths.
    """
    face = drawn_faces(portrait, (SIDE, round(SIDE * ASPECT)))[0]
    child = portrait.child and portrait.job != "child carer"
    levels = {
        "no_face": (False, True),
        "screenshot": (False, True),
        "several_faces": (child, not child),
        "face_too_small": (portrait.size < 0.3, portrait.size > 0.32),
        "face_cut_off": (face.outside_fraction >= 0.05, face.margin >= 0.1),
        "sunglasses": (portrait.sunglasses, not portrait.sunglasses),
        "eyes_in_shadow": (shaded, not shaded and not portrait.sunglasses),
        "too_dark": (portrait.exposure <= -1.2, portrait.exposure >= -0.6),
        "blurred": (portrait.blur >= 0.5, portrait.blur == 0),
    }
    return {key: broken for key, (broken, kept) in levels.items() if broken or kept}


def drawn_faces(portrait: Portrait, size: tuple[int, int]) -> list[Face]:
    """Return the faces as YuNet finds them: relative to the head, as measured in 203 drawn portraits."""
    heads = [(head_centres(portrait)[0], portrait.size)]
    if portrait.child:
        heads.append((head_centres(portrait)[1], portrait.size * CHILD_SIZE))
    return [_drawn_face(portrait, centre, height, size) for centre, height in heads]


def _drawn_face(portrait: Portrait, centre: tuple[float, float], height: float, size: tuple[int, int]) -> Face:
    unit, pivot = height / 2 * size[1], np.multiply((portrait.x, portrait.y), size)
    sine, cosine = np.sin(np.radians(portrait.tilt)), np.cos(np.radians(portrait.tilt))
    turn = np.array([[cosine, sine], [-sine, cosine]])

    def to_photo(points) -> np.ndarray:
        upright = np.multiply(centre, size) + np.multiply(points, unit)
        return ((upright - pivot) @ turn + pivot) / size

    landmarks = to_photo([(-0.315, -0.01), (0.315, -0.01), (0, 0.336), (-0.27, 0.595), (0.27, 0.595)])
    (x, y), (width, high) = to_photo([(0, 0.2)])[0], np.divide((1.36 * unit, 1.72 * unit), size)
    box = Box(float(x - width / 2), float(y - high / 2), float(width), float(high))
    return Face(box, tuple(map(tuple, landmarks.tolist())), 0.93)


def jpeg(image: Image.Image, quality: int = 92) -> Image.Image:
    """Return the photo after a JPEG file of this quality."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def darkened(image: Image.Image, stops: float) -> Image.Image:
    """Return the photo underexposed by ``stops``; negative stops brighten it."""
    return _in_light(image, np.float32(0.5**stops))


def blurred(image: Image.Image, hundredths: float) -> Image.Image:
    """Return the photo out of focus: a Gaussian blur; standard deviation in hundredths of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(hundredths / 100 * min(image.size)))


def noisy(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo with sensor noise; standard deviation in levels of 255."""
    noise = rng.normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def eyes_shaded(image: Image.Image, face: Face, stops: float) -> Image.Image:
    """Return the photo with a soft shadow over both eyes of a face, as of a hat's brim; the cheeks keep their light."""
    shape = Image.new("L", (112, 112))
    paint = ImageDraw.Draw(shape)
    for x, y in geometry.TEMPLATE[:2]:
        paint.ellipse((x - 20, y - 18, x + 20, y + 16), fill=255)
    mask = _onto(np.asarray(shape.filter(ImageFilter.GaussianBlur(3))), image, face)
    return _in_light(image, 0.5 ** (stops * mask[..., None].astype(np.float32) / 255))


def in_sunglasses(image: Image.Image, face: Face, rng: np.random.Generator) -> Image.Image:
    """Return the photo with sunglasses over the eyes of a face: lenses of random shape, darkness and tint."""
    glasses = Image.new("RGBA", (448, 448))
    paint = ImageDraw.Draw(glasses)
    scale = 4.0
    half_width, up, down = rng.uniform(14.5, 18), rng.uniform(9, 13), rng.uniform(10, 17)
    frame = tuple(int(value) for value in rng.choice([(18, 16, 18), (60, 40, 26), (120, 105, 70), (12, 12, 14)]))
    lens = (*(int(value) for value in rng.uniform(8, 46) + rng.uniform(-8, 8, 3).clip(-6)), int(rng.uniform(215, 255)))
    corners = 4 * (min(half_width, up + down) if rng.random() < 0.5 else 7)
    for side, (x, y) in zip((-1, 1), geometry.TEMPLATE[:2], strict=True):
        box = [scale * value for value in (x - half_width + side * 1.5, y - up, x + half_width + side * 1.5, y + down)]
        paint.rounded_rectangle(box, corners, fill=lens, outline=(*frame, 255), width=7)
        paint.line(
            [scale * value for value in (x + side * (half_width + 1), y - 4, x + side * (half_width + 14), y - 3)],
            (*frame, 255),
            9,
        )
    paint.line([scale * value for value in (52, 48, 60, 48)], (*frame, 255), 10)
    if rng.random() < 0.4:
        shine = Image.new("RGBA", glasses.size)
        for x, y in geometry.TEMPLATE[:2]:
            ImageDraw.Draw(shine).line(
                [scale * value for value in (x - 9, y + 4, x + 4, y - 6)],
                (200, 210, 220, int(rng.uniform(30, 110))),
                14,
            )
        glasses.alpha_composite(shine.filter(ImageFilter.GaussianBlur(4)))
    pasted = _onto(np.asarray(glasses), image, face, scale)
    opacity = pasted[..., 3:] / 255
    return Image.fromarray((np.asarray(image) * (1 - opacity) + pasted[..., :3] * opacity).round().astype(np.uint8))


def side_by_side(image: Image.Image, other: Image.Image) -> Image.Image:
    """Return two photos side by side, each as high as the first."""
    other = other.resize((round(other.width * image.height / other.height), image.height), Image.Resampling.LANCZOS)
    both = Image.new("RGB", (image.width + other.width, image.height))
    both.paste(image)
    both.paste(other, (image.width, 0))
    return both


def cut_off(image: Image.Image, face: Face, share: float, side: str) -> Image.Image:
    """Return the photo cropped so that this share of the face's box is cut off at one side."""
    x, y, width, height = face.box
    edges = {
        "left": (x + share * width, 0, 1, 1),
        "right": (0, 0, x + (1 - share) * width, 1),
        "top": (0, y + share * height, 1, 1),
        "bottom": (0, 0, 1, y + (1 - share) * height),
    }[side]
    return image.crop(
        tuple(round(float(np.clip(edge, 0, 1)) * length) for edge, length in zip(edges, image.size * 2, strict=True))
    )


def far_away(image: Image.Image, share: float) -> Image.Image:
    """Return the photo at this share of its size in the middle of a blurred background."""
    background = ImageOps.fit(image, image.size).filter(ImageFilter.GaussianBlur(min(image.size) / 4))
    background = ImageOps.mirror(background)
    small = image.resize(tuple(round(length * share) for length in image.size), Image.Resampling.LANCZOS)
    mask = Image.new("L", small.size)
    inset = max(2, min(small.size) // 10)
    ImageDraw.Draw(mask).rectangle((inset, inset, small.width - inset, small.height - inset), fill=255)
    background.paste(
        small,
        ((image.width - small.width) // 2, (image.height - small.height) // 2),
        mask.filter(ImageFilter.GaussianBlur(inset / 2)),
    )
    return background


SCREENS = ("viewer", "profile", "chat", "full screen", "browser", "computer")
"""Kinds of screenshots; see `screenshot`."""


def screenshot(image: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """Return a screen with a photo on it; 1 pixel of the image stands for 2 or 3 of the screen.

    * ``viewer``: a gallery: the photo between bars of one colour, buttons below;
    * ``profile``: a page of an app: name, lines of text, a button;
    * ``chat``: the photo as a message between others;
    * ``full screen``: the photo over the whole phone, with the clock and signs of the status bar;
    * ``browser``: a page with an address bar;
    * ``computer``: a wide screen with a window and a task bar.
    """
    return {
        "viewer": _viewer,
        "profile": _profile,
        "chat": _chat,
        "full screen": _full_screen,
        "browser": _browser,
        "computer": _computer,
    }[kind](image, rng)


def _phone(rng: np.random.Generator, dark: bool) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple]:
    size = [(540, 1170), (540, 1200), (560, 996), (414, 896)][int(rng.integers(4))]
    screen = Image.new("RGB", size, (0, 0, 0) if dark else _light(rng))
    return screen, ImageDraw.Draw(screen), (235, 235, 235) if dark else (25, 25, 28)


def _light(rng: np.random.Generator) -> tuple[int, int, int]:
    return [(255, 255, 255), (242, 242, 247), (250, 250, 250)][int(rng.integers(3))]


def _status_bar(screen: Image.Image, ink: tuple, rng: np.random.Generator) -> None:
    paint, width = ImageDraw.Draw(screen), screen.width
    _write(paint, (24, 12), f"{rng.integers(24)}:{rng.integers(60):02}", 20, ink)
    paint.rectangle((width - 58, 16, width - 26, 30), outline=ink, width=2)
    paint.rectangle((width - 55, 19, width - 55 + int(rng.integers(6, 27)), 27), fill=ink)
    for bar in range(4):
        paint.rectangle((width - 120 + 7 * bar, 28 - 4 * bar, width - 116 + 7 * bar, 30), fill=ink)
    paint.arc((width - 88, 14, width - 66, 36), 225, 315, fill=ink, width=3)


def _write(paint: ImageDraw.ImageDraw, place: tuple, text: str, height: int, ink: tuple) -> None:
    paint.text(place, text, fill=ink, font=ImageFont.load_default(height))


def _lines(paint: ImageDraw.ImageDraw, left: int, top: int, width: int, number: int, ink: tuple, rng) -> None:
    """Write lines of text."""
    words = ("reliable", "kind", "carer", "with", "ten years", "experience", "children", "love", "outside", "first aid")
    for line in range(number):
        text = " ".join(words[int(i)] for i in rng.integers(len(words), size=max(2, width // 75)))
        _write(paint, (left, top + 24 * line), text[: width // 9], 16, ink)


def _viewer(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    screen, paint, ink = _phone(rng, dark=bool(rng.random() < 0.6))
    photo = ImageOps.contain(image, (screen.width, screen.height - 260), Image.Resampling.LANCZOS)
    screen.paste(photo, ((screen.width - photo.width) // 2, (screen.height - photo.height) // 2))
    _status_bar(screen, ink, rng)
    for button in range(4):
        x, y = screen.width * (1 + 2 * button) // 8, screen.height - 56
        paint.ellipse((x - 12, y - 12, x + 12, y + 12), outline=ink, width=3)
    return screen


def _profile(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    screen, paint, ink = _phone(rng, dark=bool(rng.random() < 0.3))
    margin = int(rng.choice([0, 16, 32]))
    top = int(rng.integers(90, 130))
    photo = ImageOps.fit(
        image, (screen.width - 2 * margin, round((screen.width - 2 * margin) * rng.uniform(0.9, 1.25)))
    )
    screen.paste(photo, (margin, top))
    _status_bar(screen, ink, rng)
    _write(paint, (24, 54), "< Profile", 24, ink)
    below = top + photo.height + 20
    _write(paint, (24, below), "Maria, 34", 30, ink)
    _lines(paint, 24, below + 48, screen.width - 48, max(0, (screen.height - below - 150) // 24), ink, rng)
    colour = tuple(int(level) for level in rng.integers(40, 220, 3))
    paint.rounded_rectangle((24, screen.height - 84, screen.width - 24, screen.height - 32), 20, fill=colour)
    return screen


def _chat(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    screen, paint, ink = _phone(rng, dark=bool(rng.random() < 0.4))
    _status_bar(screen, ink, rng)
    _write(paint, (60, 54), "Anna", 24, ink)
    photo = ImageOps.contain(image, (round(screen.width * 0.78), round(screen.height * 0.6)), Image.Resampling.LANCZOS)
    screen.paste(photo, (screen.width - photo.width - 16, 120))
    below = 140 + photo.height
    for message in range(3):
        top = below + 70 * message
        colour = tuple(int(level) for level in rng.integers(60, 200, 3))
        paint.rounded_rectangle((16, top, 16 + int(rng.uniform(0.4, 0.7) * screen.width), top + 52), 18, fill=colour)
        _lines(paint, 32, top + 14, 200, 1, (255, 255, 255), rng)
    paint.rounded_rectangle((16, screen.height - 70, screen.width - 80, screen.height - 24), 22, outline=ink, width=2)
    return screen


def _full_screen(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    screen, _, _ = _phone(rng, dark=True)
    screen.paste(ImageOps.fit(image, screen.size, Image.Resampling.LANCZOS))
    bright = np.asarray(screen.crop((0, 0, screen.width, 44)).convert("L")).mean() > 140
    _status_bar(screen, (15, 15, 15) if bright else (250, 250, 250), rng)
    return screen


def _browser(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    screen, paint, ink = _phone(rng, dark=False)
    _status_bar(screen, ink, rng)
    paint.rectangle((0, 44, screen.width, 104), fill=(228, 230, 235))
    paint.rounded_rectangle((20, 54, screen.width - 90, 94), 20, fill=(250, 250, 252))
    _write(paint, (44, 62), "example.org/carers/maria", 18, ink)
    _write(paint, (20, 124), "Find a carer near you", 30, ink)
    photo = ImageOps.contain(image, (screen.width - 40, round(screen.height * 0.5)), Image.Resampling.LANCZOS)
    screen.paste(photo, (20, 190))
    _lines(
        paint, 20, 210 + photo.height, screen.width - 40, max(0, (screen.height - 250 - photo.height) // 24), ink, rng
    )
    return screen


def _computer(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    screen = Image.new("RGB", (960, 600), tuple(int(level) for level in rng.integers(30, 130, 3)))
    paint = ImageDraw.Draw(screen)
    paint.rectangle((0, 566, 960, 600), fill=(32, 33, 38))
    for number in range(8):
        paint.rounded_rectangle(
            (12 + 40 * number, 571, 38 + 40 * number, 595), 6, fill=tuple(map(int, rng.integers(60, 255, 3)))
        )
    left, top = int(rng.integers(20, 120)), int(rng.integers(15, 50))
    paint.rectangle((left, top, left + 760, top + 500), fill=_light(rng))
    paint.rectangle((left, top, left + 760, top + 34), fill=(210, 212, 218))
    _write(paint, (left + 14, top + 7), "photo.jpg", 17, (30, 30, 30))
    photo = ImageOps.contain(image, (740, 450), Image.Resampling.LANCZOS)
    screen.paste(photo, (left + 380 - photo.width // 2, top + 42))
    return screen


def _in_light(image: Image.Image, gain: float | np.ndarray) -> Image.Image:
    """Return the photo with its linear light multiplied."""
    light = (np.asarray(image, np.float32) / 255) ** GAMMA * gain
    return Image.fromarray((np.clip(light, 0, 1) ** (1 / GAMMA) * 255).round().astype(np.uint8))


def _onto(drawn: np.ndarray, image: Image.Image, face: Face, scale: float = 1.0) -> np.ndarray:
    """Warp a drawing on the square of `geometry.TEMPLATE`, ``scale`` times as large, to the face on a photo."""
    transform = geometry.template_transform(image, face) * scale
    return cv2.warpAffine(drawn, transform, image.size, flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP)
