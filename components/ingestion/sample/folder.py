"""Files of the sample: photos, unlabelled photos, ratings, attributes and the ground truth."""

import csv
import os
import shutil
from collections.abc import Iterator
from dataclasses import astuple, fields
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.ingestion.sample.drawing import draw_portrait
from components.ingestion.sample.portrait import Portrait, latent_quality, random_portrait
from components.ingestion.sample.raters import SimulatedRaters

SIDE = 320  # pixels: width of a photo
RATER_COUNT = 60
RATINGS_PER_PHOTO = (8, 16)  # minimum and maximum number of ratings of a photo

_COPY_INTERVAL = 50  # the last of every 50 photos is a copy
_QUALITY = 90  # JPEG quality
_ORIENTATION, _TURNED_LEFT = 0x0112, 6  # EXIF tag; its value for pixels stored rotated 90° to the left


class SampleFiles(NamedTuple):
    """Paths of the parts of a sample."""

    photos: Path
    unlabelled: Path
    ratings: Path
    attributes: Path
    truth: Path


class _Photo(NamedTuple):
    name: str
    data: bytes
    portrait: Portrait
    copy_of: str = ""


def draw_sample(folder: str | Path, *, labelled: int = 600, unlabelled: int = 300, seed: int = 1) -> SampleFiles:
    """Draw a sample: portraits, simulated ratings and the ground truth.

    The sample is written atomically. It consists of:

    * ``photos/``: ``labelled`` usable photos. Every 50th is a copy of an earlier one, alternately exact and smaller
      with stronger compression. A few are PNG, WebP or JPEG with an EXIF orientation. With 50 photos or more, there are
      also three flawed photos that ingestion must exclude: an unreadable one, one that is too small and one without
      ratings. The ratings then also name a photo that does not exist;
    * ``unlabelled/``: ``unlabelled`` photos; every 50th is a near copy of a rated one;
    * ``ratings.csv`` (photo,rater,score): one row a rating, scores from 1 to 10;
    * ``attributes.csv`` (photo,job,skin,child,sunglasses): one row a rated photo, without the flawed ones;
    * ``truth.csv`` (photo,quality,copy_of,skin and every field of ``Portrait``): one row a photo, rated or not, without
      the flawed ones.

    A portrait depends only on the seed and its number, so a larger sample contains the smaller one.

    Args:
        folder: Folder to write; must be empty or not exist. After an error, it contains nothing.
        labelled: Number of rated photos, at least 0.
        unlabelled: Number of photos without ratings, at least 0.
        seed: Random seed, at least 0; the same seed writes the same bytes.

    Returns:
        The paths of the five parts.

    Raises:
        ValueError: The folder is not empty, or a number is negative.
    """
    folder = Path(folder)
    for name, number in {"labelled": labelled, "unlabelled": unlabelled, "seed": seed}.items():
        if number < 0:
            raise ValueError(f"{name} must be 0 or more, got {number}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the sample needs an empty folder, and {folder} is not empty; remove it or name another one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(_sample_files(draft), labelled, unlabelled, seed)
        draft.chmod(0o755)  # mkdtemp's mode would exclude other users
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _sample_files(folder)


def _sample_files(folder: Path) -> SampleFiles:
    return SampleFiles(
        folder / "photos", folder / "unlabelled", *(folder / f"{n}.csv" for n in ("ratings", "attributes", "truth"))
    )


def _write(sample: SampleFiles, labelled: int, unlabelled: int, seed: int) -> None:
    sample.photos.mkdir()
    sample.unlabelled.mkdir()
    ratings, attributes, truth = [], [], []
    raters = SimulatedRaters(RATER_COUNT, np.random.default_rng([seed, 0]))
    for number, photo in enumerate(_rated_photos(labelled, seed)):
        (sample.photos / photo.name).write_bytes(photo.data)
        ratings += _rating_rows(
            photo.name, latent_quality(photo.portrait), raters, np.random.default_rng([seed, 1, number])
        )
        attributes.append(_attribute_row(photo))
        truth.append(_truth_row(photo))
    for photo in _unlabelled_photos(unlabelled, labelled, seed):
        (sample.unlabelled / photo.name).write_bytes(photo.data)
        truth.append(_truth_row(photo))
    if labelled >= _COPY_INTERVAL:
        for name, data in _flawed_files(seed).items():
            (sample.photos / name).write_bytes(data)
        for number, name in enumerate(("broken.jpg", "thumbnail.jpg", "missing.jpg")):
            ratings += _rating_rows(name, 5, raters, np.random.default_rng([seed, 2, number]))
    _write_table(sample.ratings, ["photo", "rater", "score"], ratings)
    _write_table(sample.attributes, ["photo", "job", "skin", "child", "sunglasses"], attributes)
    _write_table(sample.truth, ["photo", "quality", "copy_of", "skin", *(f.name for f in fields(Portrait))], truth)


def _write_table(path: Path, columns: list[str], rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _rating_rows(
    photo: str, quality: float, raters: SimulatedRaters, rng: np.random.Generator
) -> list[tuple[str, str, int]]:
    number = int(rng.integers(RATINGS_PER_PHOTO[0], RATINGS_PER_PHOTO[1], endpoint=True))
    return [(photo, f"rater-{rater:02}", score) for rater, score in raters.rate(quality, number, rng)]


def _attribute_row(photo: _Photo) -> tuple[str, ...]:
    portrait = photo.portrait
    return (
        photo.name,
        portrait.job,
        portrait.skin,
        *("yes" if value else "no" for value in (portrait.child, portrait.sunglasses)),
    )


def _truth_row(photo: _Photo) -> tuple:
    portrait = photo.portrait
    return (photo.name, round(latent_quality(portrait), 3), photo.copy_of, portrait.skin, *astuple(portrait))


def _portrait(seed: int, stream: int, number: int) -> Portrait:
    return random_portrait(np.random.default_rng([seed, stream, number]))


def _rated_photos(labelled: int, seed: int) -> Iterator[_Photo]:
    """Yield the usable rated photos in order."""
    for number in range(labelled):
        if number % _COPY_INTERVAL < _COPY_INTERVAL - 1:
            yield _original_photo(number, seed)
            continue
        original = _original_photo(number - _COPY_INTERVAL // 2, seed)
        exact = number // _COPY_INTERVAL % 2 == 0
        data = original.data if exact else _near_copy(original.portrait)
        yield _Photo(f"portrait-{number:04}.jpg", data, original.portrait, original.name)


def _original_photo(number: int, seed: int) -> _Photo:
    """Return a rated photo that is not a copy, in the file format of its number."""
    portrait = _portrait(seed, 3, number)
    image, name = draw_portrait(portrait, SIDE), f"portrait-{number:04}"
    match number % (_COPY_INTERVAL // 2):  # copies are made of number 24 of each 25, a plain JPEG
        case 7:
            return _Photo(f"{name}.png", _encode(image, "PNG"), portrait)
        case 11:
            return _Photo(f"{name}.webp", _encode(image, "WEBP", quality=_QUALITY), portrait)
        case 16:
            exif = Image.Exif()
            exif[_ORIENTATION] = _TURNED_LEFT
            return _Photo(f"{name}.jpg", _encode_jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=exif), portrait)
        case _:
            return _Photo(f"{name}.jpg", _encode_jpeg(image), portrait)


def _unlabelled_photos(unlabelled: int, labelled: int, seed: int) -> Iterator[_Photo]:
    """Yield the unlabelled photos in order."""
    for number in range(unlabelled):
        name = f"unlabelled-{number:04}.jpg"
        if labelled and number % _COPY_INTERVAL == _COPY_INTERVAL - 1:
            rated = _original_photo(number % min(labelled, _COPY_INTERVAL - 1), seed)
            yield _Photo(name, _near_copy(rated.portrait), rated.portrait, rated.name)
        else:
            portrait = _portrait(seed, 4, number)
            yield _Photo(name, _encode_jpeg(draw_portrait(portrait, SIDE)), portrait)


def _flawed_files(seed: int) -> dict[str, bytes]:
    """Return the files that ingestion must exclude, by name."""
    image = draw_portrait(_portrait(seed, 5, 0), SIDE)
    jpeg = _encode_jpeg(image)
    return {
        "broken.jpg": jpeg[: len(jpeg) // 3],  # a truncated upload
        "thumbnail.jpg": _encode_jpeg(image.resize((48, 60))),
        "unrated.jpg": _encode_jpeg(draw_portrait(_portrait(seed, 5, 1), SIDE)),
    }


def _near_copy(portrait: Portrait) -> bytes:
    """Return the photo as another website would store it: smaller, with stronger compression."""
    image = draw_portrait(portrait, SIDE)
    return _encode_jpeg(
        image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS), quality=75
    )


def _encode_jpeg(image: Image.Image, quality: int = _QUALITY, **options) -> bytes:
    return _encode(image, "JPEG", quality=quality, **options)


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
