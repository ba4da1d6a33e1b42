"""Report page of an ingestion: the photos and their ratings, the data set, and the exclusions with their reasons."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from components.ingestion.exclusions import REASONS
from components.ingestion.ratings.ratings import SCHEMAS
from components.ingestion.summary import SPLITS, IngestionSummary
from components.scorer.report.page import Page, chart, gallery, paragraph, photo, table

BLUE, ORANGE = "#3b82c4", "#d97b29"  # of medium brightness: legible on light and dark backgrounds
_MAX_FILES = 300  # maximum number of excluded photos on the page; ingestion.json lists all
_MAX_VALUES = 30  # maximum number of attribute values on the page


def build_page(summary: IngestionSummary, crops: Mapping[str, Sequence[bytes]] | None = None) -> Page:
    """Build the report page. It shows no photos except the given face crops.

    Args:
        summary: Summary of the ingestion.
        crops: Encoded face crops by their caption. None: the report shows no faces.
    """
    report_page = Page(
        "Ingestion",
        f"{len(summary.labelled):,} rated and {summary.counts['unlabelled']:,} unlabelled photos make the data set; "
        f"{sum(summary.reasons.values()):,} were left out.",
    )
    report_page.section("Data set", *_data_set_blocks(summary))
    report_page.section("Ratings", *_rating_blocks(summary))
    report_page.section("How far people agree", *_agreement_blocks(summary))
    report_page.section("Photos", *_photo_blocks(summary))
    if summary.face_weights:
        report_page.section("Faces", *_face_blocks(summary, crops))
    if summary.attributes:
        report_page.section(
            "Splits by attribute", gallery([_attribute_table(summary, name) for name in summary.attributes])
        )
    report_page.section("Left out", *_exclusion_blocks(summary))
    return report_page


def _data_set_blocks(summary: IngestionSummary) -> list[str]:
    rows = []
    for split in SPLITS:
        photos = summary.table[summary.table["split"] == split]
        row = {"split": split, "photos": len(photos), "groups": photos["group"].nunique()}
        rated = summary.labelled[summary.labelled["split"] == split]
        if len(rated):
            n_ratings = int(rated["raters"].sum()) or None
            row |= {"mean score": rated["mean"].mean(), "spread": rated["mean"].std(ddof=0), "ratings": n_ratings}
        rows.append(row)
    size = summary.labelled.groupby("group").size()
    grouped = int(size[size > 1].sum())
    return [
        table(rows, "Spread: standard deviation of the photos' mean scores"),
        paragraph(
            f"{grouped:,} rated photos share a group with another one: near or exact duplicates, or the same uploader "
            "or person where a group was given. A group never spans two of the rated splits, and photos keep their "
            "split as others are added."
        ),
        paragraph(f"Fingerprint {summary.fingerprint[:16]}: the same for the same photos, ratings and splits."),
    ]


def _rating_blocks(summary: IngestionSummary) -> list[str]:
    rated = summary.labelled
    blocks = [paragraph(f"The ratings were recognised as: {SCHEMAS[summary.schema]}."), *map(paragraph, summary.notes)]
    charts = [
        _histogram("Mean score", {"": rated["mean"]}, np.arange(1, 10.01, 0.25), "photos", share=False),
    ]
    if (rated["raters"] > 0).any():
        raters = rated.loc[rated["raters"] > 0, "raters"]
        low, high = int(raters.min()), int(raters.max())
        step = max(1, -(-(high - low + 1) // 40))  # at most 40 bars
        charts.append(
            _histogram(
                "Raters a photo", {"": raters}, np.arange(low, high + step + 1, step) - 0.5, "photos", share=False
            )
        )
    else:
        blocks.append(paragraph("The ratings do not say how many people rated a photo."))
    return [*blocks, gallery(charts)]


def _agreement_blocks(summary: IngestionSummary) -> list[str]:
    result = summary.reliability
    if result is None:
        return [paragraph("These ratings do not tell: it takes single ratings or vote counts, two or more a photo.")]
    figures = {
        "split-half correlation": (
            result.split_half,
            "of the means by one half of the raters with those by the other",
        ),
        "reliability": (result.spearman_brown, "of the means by all raters, after Spearman and Brown"),
        "ceiling": (result.ceiling, "the highest LCC that a perfect scorer could reach"),
    }
    rows = [{"figure": name, "value": value, "meaning": meaning} for name, (value, meaning) in figures.items()]
    return [
        paragraph(
            f"The raters were parted at random {result.splits} times, with {result.photos:,.0f} photos rated by both "
            f"halves. No scorer can agree with these ratings beyond an LCC of about {result.ceiling:.2f}: what is "
            "missing to 1 is the raters' own noise, and only more raters a photo raise it."
        ),
        table(rows),
    ]


def _photo_blocks(summary: IngestionSummary) -> list[str]:
    unlabelled = summary.table["split"] == "unlabelled"
    pools = {"rated": summary.table[~unlabelled], "unlabelled": summary.table[unlabelled]}
    pools = {name: photos for name, photos in pools.items() if len(photos)}

    def histogram(label: str, values: dict[str, pd.Series], bins: np.ndarray, **options: Any) -> str:
        return _histogram(label, values, bins, "share of photos", **options)

    brightness = {name: photos["brightness"] for name, photos in pools.items()}
    shorter = {name: photos[["width", "height"]].min(axis=1) for name, photos in pools.items()}
    sharpness = {name: photos["sharpness"].clip(lower=1) for name, photos in pools.items()}
    return [
        paragraph(
            "Brightness is the mean luma, from 0 (black) to 1 (white). Sharpness is the variance of the Laplacian at "
            "a side of 256 pixels; below some 100 a portrait looks soft. The size is that of the original photo."
        ),
        gallery(
            [
                histogram("Brightness", brightness, np.linspace(0, 1, 41)),
                histogram("Sharpness", sharpness, _log_bins(sharpness), log=True),
                histogram("Shorter side, pixels", shorter, _log_bins(shorter), log=True),
            ]
        ),
    ]


def _face_blocks(summary: IngestionSummary, crops: Mapping[str, Sequence[bytes]] | None) -> list[str]:
    rows = []
    for split in SPLITS[:-1]:
        counts = summary.labelled.loc[summary.labelled["split"] == split, "face_count"]
        row = {"no face": counts == 0, "one": counts == 1, "several": counts > 1}
        rows.append({"split": split, **{name: int(mask.sum()) for name, mask in row.items()}})
    size = (summary.face_weights or {}).get("size", 0)
    network = f"The largest one is read by a network that says {size:,} numbers of it. " if size else ""
    confidence = summary.labelled.loc[summary.labelled["face_count"] > 0, "face_confidence"]
    blocks = []
    if len(confidence):
        blocks.append(gallery([
            _histogram("Confidence that it is a face", {"": confidence}, np.linspace(0.6, 1, 41), "photos", share=False)
        ]))  # fmt: skip
    if crops is None:
        blocks.append(paragraph("The faces are not shown: show_photos is off."))
    for caption, pictures in (crops or {}).items():
        blocks += [paragraph(caption), gallery([photo(data, side=112) for data in pictures])]
    return [
        paragraph(
            f"Faces were looked for on the rated photos. {network}A photo without a face stays in the data set, and is "
            "known as one; low confidence mostly means that a face is covered, turned aside or small."
        ),
        table(rows),
        *blocks,
    ]


def _attribute_table(summary: IngestionSummary, name: str) -> str:
    values = summary.table["attributes"].map(lambda attributes: attributes[name])
    # Splits with a value only: attributes are often known for rated photos only.
    splits = [split for split in SPLITS if (values[summary.table["split"] == split] != "").any()]
    rows = summary.table["split"].isin(splits)
    counts = Counter(zip(values[rows], summary.table["split"][rows], strict=True))
    totals = Counter(values[rows])
    return table(
        [
            {name: value or "unknown", **{split: counts[value, split] for split in splits}}
            for value in sorted(totals, key=lambda value: (value == "", -totals[value], value))
        ],
        max_rows=_MAX_VALUES,
    )


def _exclusion_blocks(summary: IngestionSummary) -> list[str]:
    if not summary.reasons:
        return [paragraph("No photo was left out.")]
    pools = {"rated": summary.rated, "unlabelled": summary.unlabelled}
    reasons = [
        {
            "reason": reason,
            **{name: sum(entry.reason == reason for entry in pool.left_out) for name, pool in pools.items()},
            "meaning": REASONS[reason],
        }
        for reason in summary.reasons
    ]
    order = list(summary.reasons)
    files = [
        {"photo": entry.photo, "of": name, "reason": entry.reason, "detail": entry.detail}
        for name, pool in pools.items()
        for entry in sorted(pool.left_out, key=lambda entry: (order.index(entry.reason), entry.photo))
    ]
    return [
        table(
            reasons, f"Of {summary.rated.considered:,} rated and {summary.unlabelled.considered:,} unlabelled photos"
        ),
        table(files, "Each of them; ingestion.json in the data set has the whole list", max_rows=_MAX_FILES),
    ]


def _histogram(
    label: str,
    values: dict[str, Sequence[float] | pd.Series],
    bins: np.ndarray,
    unit: str,
    *,
    share: bool = True,
    log: bool = False,
) -> str:
    """Return a histogram of values as a chart; several series are overlaid."""
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.subplots()
    for (name, numbers), colour in zip(values.items(), (BLUE, ORANGE), strict=False):
        counts = np.histogram(np.clip(numbers, bins[0], bins[-1]), bins)[0]
        heights = counts / counts.sum() if share else counts
        axes.stairs(heights, bins, fill=True, color=colour, alpha=0.6, label=name or None)
    axes.set(xlabel=label, ylabel=unit)
    axes.spines[["top", "right"]].set_visible(False)
    if log:
        axes.set_xscale("log")
        leading = (1, 2, 5) if bins[-1] < 300 * bins[0] else (1,)  # as many as fit
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
    return chart(figure, f"Histogram: {label.lower()} ({median})")


def _log_bins(values: dict[str, pd.Series]) -> np.ndarray:
    """Return bins of equal ratio over at least a decade, so that the axis has a round number as a label."""
    low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    return np.geomspace(min(low / 1.2, 100), max(high * 1.2, 1000), 41)
