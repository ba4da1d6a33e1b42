"""The report of an ingestion: what came in, how it was rated, what was left out and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from components.ingestion.exclusions import REASONS
from components.ingestion.ratings.ratings import SCHEMAS
from components.ingestion.summary import SPLITS, Outcome
from components.scorer.report.page import Page, chart, gallery, photo, table, text

BLUE, ORANGE = "#3b82c4", "#d97b29"  # of middling brightness: legible on light and on dark
_FILES = 300  # of the photos left out that the page names; ingestion.json names all
_VALUES = 30  # of an attribute that the page counts


def page(outcome: Outcome, crops: Mapping[str, Sequence[bytes]] | None = None) -> Page:
    """The page; it shows no photo but the crops of faces that it is given.

    Args:
        outcome: what became of the photos.
        crops: encoded pictures by what they are examples of; None: none are to be shown.
    """
    shown = Page(
        "Ingestion",
        f"{len(outcome.labelled):,} rated and {outcome.counts['unlabelled']:,} unlabelled photos make the data set; "
        f"{sum(outcome.reasons.values()):,} were left out.",
    )
    shown.section("Data set", *_dataset(outcome))
    shown.section("Ratings", *_ratings(outcome))
    shown.section("How far people agree", *_agreement(outcome))
    shown.section("Photos", *_photos(outcome))
    if outcome.faces:
        shown.section("Faces", *_faces(outcome, crops))
    if outcome.attributes:
        shown.section("Splits by attribute", gallery([_by_attribute(outcome, name) for name in outcome.attributes]))
    shown.section("Left out", *_left_out(outcome))
    return shown


def _dataset(outcome: Outcome) -> list[str]:
    rows = []
    for split in SPLITS:
        photos = outcome.table[outcome.table["split"] == split]
        row = {"split": split, "photos": len(photos), "groups": photos["group"].nunique()}
        rated = outcome.labelled[outcome.labelled["split"] == split]
        if len(rated):
            told = int(rated["raters"].sum()) or None
            row |= {"mean score": rated["mean"].mean(), "spread": rated["mean"].std(ddof=0), "ratings": told}
        rows.append(row)
    size = outcome.labelled.groupby("group").size()
    grouped = int(size[size > 1].sum())
    return [
        table(rows, "Spread: standard deviation of the photos' mean scores"),
        text(
            f"{grouped:,} rated photos share a group with another one: near or exact duplicates, or the same uploader "
            "or person where a group was given. A group never spans two of the rated splits, and photos keep their "
            "split as others are added."
        ),
        text(f"Fingerprint {outcome.fingerprint[:16]}: the same for the same photos, ratings and splits."),
    ]


def _ratings(outcome: Outcome) -> list[str]:
    rated = outcome.labelled
    blocks = [text(f"The ratings were recognised as: {SCHEMAS[outcome.schema]}."), *map(text, outcome.notes)]
    charts = [
        _histogram("Mean score", {"": rated["mean"]}, np.arange(1, 10.01, 0.25), "photos", share=False),
    ]
    if (rated["raters"] > 0).any():
        told = rated.loc[rated["raters"] > 0, "raters"]
        low, high = int(told.min()), int(told.max())
        step = max(1, -(-(high - low + 1) // 40))  # at most 40 bars
        charts.append(
            _histogram("Raters a photo", {"": told}, np.arange(low, high + step + 1, step) - 0.5, "photos", share=False)
        )
    else:
        blocks.append(text("The ratings do not say how many people rated a photo."))
    return [*blocks, gallery(charts)]


def _agreement(outcome: Outcome) -> list[str]:
    found = outcome.reliability
    if found is None:
        return [text("These ratings do not tell: it takes single ratings or vote counts, two or more a photo.")]
    figures = {
        "split-half correlation": (found.split_half, "of the means by one half of the raters with those by the other"),
        "reliability": (found.spearman_brown, "of the means by all raters, after Spearman and Brown"),
        "ceiling": (found.ceiling, "the highest LCC that a perfect scorer could reach"),
    }
    rows = [{"figure": name, "value": value, "meaning": words} for name, (value, words) in figures.items()]
    return [
        text(
            f"The raters were parted at random {found.splits} times, with {found.photos:,.0f} photos rated by both "
            f"halves. No scorer can agree with these ratings beyond an LCC of about {found.ceiling:.2f}: what is "
            "missing to 1 is the raters' own noise, and only more raters a photo raise it."
        ),
        table(rows),
    ]


def _photos(outcome: Outcome) -> list[str]:
    unlabelled = outcome.table["split"] == "unlabelled"
    sides = {"rated": outcome.table[~unlabelled], "unlabelled": outcome.table[unlabelled]}
    sides = {name: photos for name, photos in sides.items() if len(photos)}

    def shown(what: str, values: dict[str, pd.Series], bins: np.ndarray, **options: Any) -> str:
        return _histogram(what, values, bins, "share of photos", **options)

    brightness = {name: photos["brightness"] for name, photos in sides.items()}
    shorter = {name: photos[["width", "height"]].min(axis=1) for name, photos in sides.items()}
    sharpness = {name: photos["sharpness"].clip(lower=1) for name, photos in sides.items()}
    return [
        text(
            "Brightness is the mean luma, from 0 (black) to 1 (white). Sharpness is the variance of the Laplacian at "
            "a side of 256 pixels; below some 100 a portrait looks soft. The size is that of the original photo."
        ),
        gallery(
            [
                shown("Brightness", brightness, np.linspace(0, 1, 41)),
                shown("Sharpness", sharpness, _log_bins(sharpness), log=True),
                shown("Shorter side, pixels", shorter, _log_bins(shorter), log=True),
            ]
        ),
    ]


def _faces(outcome: Outcome, crops: Mapping[str, Sequence[bytes]] | None) -> list[str]:
    rows = []
    for split in SPLITS[:-1]:
        counts = outcome.labelled.loc[outcome.labelled["split"] == split, "face_count"]
        row = {"no face": counts == 0, "one": counts == 1, "several": counts > 1}
        rows.append({"split": split, **{name: int(which.sum()) for name, which in row.items()}})
    size = outcome.faces.get("size", 0)
    read = f"The largest one is read by a network that says {size:,} numbers of it. " if size else ""
    confidence = outcome.labelled.loc[outcome.labelled["face_count"] > 0, "face_confidence"]
    shown = []
    if len(confidence):
        shown.append(gallery([
            _histogram("Confidence that it is a face", {"": confidence}, np.linspace(0.6, 1, 41), "photos", share=False)
        ]))  # fmt: skip
    if crops is None:
        shown.append(text("The faces are not shown: show_photos is off."))
    for what, pictures in (crops or {}).items():
        shown += [text(what), gallery([photo(data, side=112) for data in pictures])]
    return [
        text(
            f"Faces were looked for on the rated photos. {read}A photo without a face stays in the data set, and is "
            "known as one; low confidence mostly means that a face is covered, turned aside or small."
        ),
        table(rows),
        *shown,
    ]


def _by_attribute(outcome: Outcome, name: str) -> str:
    values = outcome.table["attributes"].map(lambda attributes: attributes[name])
    # Mostly, attributes are known of the rated photos only.
    splits = [split for split in SPLITS if (values[outcome.table["split"] == split] != "").any()]
    rows = outcome.table["split"].isin(splits)
    counts = Counter(zip(values[rows], outcome.table["split"][rows], strict=True))
    totals = Counter(values[rows])
    return table(
        [
            {name: value or "unknown", **{split: counts[value, split] for split in splits}}
            for value in sorted(totals, key=lambda value: (value == "", -totals[value], value))
        ],
        most=_VALUES,
    )


def _left_out(outcome: Outcome) -> list[str]:
    if not outcome.reasons:
        return [text("No photo was left out.")]
    sides = {"rated": outcome.rated, "unlabelled": outcome.unlabelled}
    reasons = [
        {
            "reason": reason,
            **{name: sum(entry.reason == reason for entry in side.left_out) for name, side in sides.items()},
            "meaning": REASONS[reason],
        }
        for reason in outcome.reasons
    ]
    order = list(outcome.reasons)
    files = [
        {"photo": entry.photo, "of": name, "reason": entry.reason, "detail": entry.detail}
        for name, side in sides.items()
        for entry in sorted(side.left_out, key=lambda entry: (order.index(entry.reason), entry.photo))
    ]
    return [
        table(
            reasons, f"Of {outcome.rated.considered:,} rated and {outcome.unlabelled.considered:,} unlabelled photos"
        ),
        table(files, "Each of them; ingestion.json in the data set has the whole list", most=_FILES),
    ]


def _histogram(
    what: str,
    values: dict[str, Sequence[float] | pd.Series],
    bins: np.ndarray,
    unit: str,
    *,
    share: bool = True,
    log: bool = False,
) -> str:
    """A chart of how values are spread; several kinds lie over each other."""
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.subplots()
    for (name, numbers), colour in zip(values.items(), (BLUE, ORANGE), strict=False):
        counts = np.histogram(np.clip(numbers, bins[0], bins[-1]), bins)[0]
        heights = counts / counts.sum() if share else counts
        axes.stairs(heights, bins, fill=True, color=colour, alpha=0.6, label=name or None)
    axes.set(xlabel=what, ylabel=unit)
    axes.spines[["top", "right"]].set_visible(False)
    if log:
        axes.set_xscale("log")
        leading = (1, 2, 5) if bins[-1] < 300 * bins[0] else (1,)  # as many as have room
        round_numbers = [first * 10**power for power in range(6) for first in leading]
        axes.set_xticks([n for n in round_numbers if bins[0] <= n <= bins[-1]])
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(values) > 1:
        axes.legend(frameon=False)
    median = ", ".join(f"{name} median {np.median(v):.4g}".strip() for name, v in values.items())
    return chart(figure, f"Histogram: {what.lower()} ({median})")


def _log_bins(values: dict[str, pd.Series]) -> np.ndarray:
    """Bins of equal ratio; a decade at least, or the axis would have no round number to be labelled with."""
    low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    return np.geomspace(min(low / 1.2, 100), max(high * 1.2, 1000), 41)
