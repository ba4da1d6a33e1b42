"""The rating forms of the README's table as files: each header as documented, with drawn scores."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conftest import drawn_photo

README = Path(__file__).resolve().parents[2] / "README.md"


def headers() -> list[str]:
    """Return the code in the table's second column: headers, ``AVA.txt`` and a JSON item."""
    head = r"^\| form \| columns \|\n\| --- \| --- \|\n"
    (rows,) = re.findall(rf"{head}((?:\|.*\n)+)", README.read_text("utf-8"), re.MULTILINE)
    codes = [code for row in rows.splitlines() for code in re.findall(r"`([^`]+)`", row.split("|")[2])]
    complete = [code for code in codes if "," in code or "." in code]
    means = next(code for code in complete if code == "photo,mean")
    return [*complete, ",".join([means, *(code for code in codes if code in ("std", "count"))])]


def expanded(header: str) -> list[str]:
    """Return a header's columns; ``c1,c2,…,c5`` is expanded."""
    columns = header.split(",")
    while "…" in columns:
        index = columns.index("…")
        prefix, first = re.fullmatch(r"(\D*)(\d+)", columns[index - 1]).groups()
        last = int(re.fullmatch(r"\D*(\d+)", columns[index + 1])[1])
        columns[index : index + 1] = [f"{prefix}{number}" for number in range(int(first) + 1, last)]
    return columns


def scores(truth: Sequence[float], raters: int, levels: Sequence[int], seed: int = 1) -> np.ndarray:
    """Return whole scores [photos, raters] on a scale, for photos of a true score from 1 to 10."""
    rng = np.random.default_rng(seed)
    of_ten = np.array(truth)[:, None] + rng.normal(0, 0.6, raters) + rng.normal(0, 1.2, (len(truth), raters))
    low, high = levels[0], levels[-1]
    return np.clip(np.rint(low + (of_ten - 1) / 9 * (high - low)), low, high).astype(int)


def photos(folder: Path, count: int) -> list[str]:
    """Draw photos into a new folder, each brighter than the one before, and return their names."""
    folder.mkdir()
    names = [f"{number:04}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(drawn_photo(0.1 + 0.8 * number / count, number, (64, 80)))
    return names


def write(folder: Path, header: str, photos: Sequence[str], truth: Sequence[float]) -> tuple[Path, np.ndarray]:
    """Write a file of ratings in the form of a header of the table, by 25 raters a photo.

    Args:
        folder: Folder of the file.
        header: One of `headers`.
        photos: File names of the photos.
        truth: True score of each photo, from 1 to 10.

    Returns:
        The file, and the photos' means on the scale 1 to 10.
    """
    columns = expanded(header)
    numbers = [int(match[1]) for name in columns if (match := re.fullmatch(r"c?(\d+)", name))]
    levels = range(min(numbers), max(numbers) + 1) if numbers else range(1, 11)
    ratings = scores(truth, 25, levels)
    counts = np.stack([(ratings == level).sum(axis=1) for level in levels], axis=1)
    means = 1 + 9 * (ratings.mean(axis=1) - levels[0]) / (levels[-1] - levels[0])
    if header.startswith("{"):
        items = [{"image_id": photo, "label": label} for photo, label in zip(photos, counts.tolist(), strict=True)]
        (folder / "labels.json").write_text(json.dumps(items))
        return folder / "labels.json", means
    if header == "AVA.txt":
        ids = pd.DataFrame({"image_id": [Path(photo).stem for photo in photos]})
        rows = pd.concat([ids, pd.DataFrame(counts).assign(tag=17, second=0, challenge=1)], axis=1)
        rows.to_csv(folder / header, sep=" ", header=False)
        return folder / header, means
    if "rater1" in columns:
        is_rated = np.random.default_rng(2).random(ratings.shape) < 0.9
        table = pd.DataFrame(np.where(is_rated, ratings, np.nan), columns=columns[1:]).astype("Int64")
        means = np.nanmean(np.where(is_rated, ratings, np.nan), axis=1)
    elif numbers:
        table = pd.DataFrame(counts, columns=columns[1:])
    else:
        table = pd.DataFrame({"mean": means.round(3), "std": ratings.std(axis=1).round(3), "count": 25})
    table.insert(0, "photo", photos)
    if "rater" in columns:
        table = pd.DataFrame(ratings).assign(photo=photos).melt("photo", var_name="rater", value_name="score")
    table[columns].to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv", means
