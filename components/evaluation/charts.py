"""The charts of the evaluation's page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import regression

_VECTORS = 2000  # points of a scatter kept as shapes; more are drawn as a picture to keep the page small

# Of middling brightness, and told apart by people who see no red or green (Okabe and Ito's orange and blue).
PEOPLE, MODEL, QUIET, FAULT = "#e69f00", "#1f97dc", "#8c8c8c", "#d55e00"


class Row(NamedTuple):
    """A value with its interval, by its label; a fault is drawn in another colour."""

    label: str
    value: float
    low: float
    high: float
    fault: bool = False


def scatter(predictions: Predictions, bins: Sequence[tuple[float, float, float, float]]) -> Figure:
    """The scorer's mean score of each photo against people's, with the mean of people by tenths of the scores.

    Args:
        predictions: photo by photo.
        bins: mean prediction, people's mean there, and the ends of its interval.
    """
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    figure = Figure(figsize=(4.5, 4.4), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.plot([1, 10], [1, 10], color=QUIET, linewidth=1, linestyle="--", label="equal")
    many = len(truth) > _VECTORS
    axes.scatter(predicted, truth, s=6 if many else 14, alpha=0.3 if many else 0.45, color=MODEL, linewidths=0,
                 rasterized=many, label="a photo")  # fmt: skip
    if bins:
        where, value, low, high = np.transpose(bins)
        axes.errorbar(where, value, [value - low, high - value], fmt="o", markersize=4, color=PEOPLE, capsize=2,
                      label="people's mean by tenths")  # fmt: skip
    ends = whole_scores(truth, predicted)
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="the scorer's mean score", ylabel="people's")
    axes.set(xticks=np.arange(ends[0], ends[1] + 1), yticks=np.arange(ends[0], ends[1] + 1))
    axes.set_title("Each photo", fontsize=11)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def distributions(predictions: Predictions, champion: np.ndarray | None) -> Figure:
    """How often each mean score is given, by people, the scorer and the champion."""
    shown = [("people", predictions.truth, PEOPLE, "-"), ("scorer", predictions.scorer, MODEL, "-")]
    if champion is not None:
        shown.append(("champion", champion, QUIET, "--"))
    means = [regression.mean_scores(votes) for _, votes, _, _ in shown]
    low, high = whole_scores(*means)
    edges = np.arange(low, high + 0.25, 0.25)
    figure = Figure(figsize=(4.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for (label, _, colour, line), values in zip(shown, means, strict=True):
        axes.hist(values[np.isfinite(values)], edges, histtype="step", linewidth=1.8, color=colour, linestyle=line,
                  label=label)  # fmt: skip
    axes.set(xlabel="mean score", ylabel="photos")
    axes.set_title("All photos", fontsize=11)
    axes.legend(frameon=False)
    return figure


def forest(rows: Sequence[Row], words: str, band: tuple[float, float] | None = None, zero: bool = True) -> Figure:
    """Values with their intervals, one below the other.

    Args:
        rows: from top to bottom.
        words: what the values are, with their unit.
        band: what is allowed; an end may be infinite.
        zero: whether to mark 0.
    """
    figure = Figure(figsize=(7, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        colour = FAULT if row.fault else MODEL
        if np.isfinite([row.low, row.high]).all():
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(row.value, place, "s" if row.fault else "o", color=colour, markersize=6)
    values = [value for row in rows for value in row[1:4] if np.isfinite(value)] or [0.0]
    ends = [end for end in band or () if np.isfinite(end)] + ([0.0] if zero else [])
    low, high = min(values + ends), max(values + ends)
    margin = 0.06 * ((high - low) or 1.0)
    axes.set_xlim(low - margin, high + margin)
    if band:
        axes.axvspan(max(band[0], low - 2 * margin), min(band[1], high + 2 * margin), color=QUIET, alpha=0.18,
                     linewidth=0, label="allowed")  # fmt: skip
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, fontsize=9)
    if zero:
        axes.axvline(0, color=QUIET, linewidth=1)
    axes.set_yticks(places, [row.label for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(words)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def trajectory(means: np.ndarray) -> Figure:
    """Mean scores on the way of an enhancement, float [steps + 1, n]."""
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(means, color=MODEL, alpha=0.4, linewidth=1)
    axes.plot(np.mean(means, axis=1), color=PEOPLE, linewidth=2.2, label="mean of the photos")
    axes.set(xlabel="step", ylabel="mean score", ylim=(1, 10))
    axes.legend(frameon=False)
    return figure


def whole_scores(*means: np.ndarray) -> tuple[float, float]:
    """Whole scores around all that is shown."""
    values = np.concatenate(means)
    values = values[np.isfinite(values)]
    if not len(values):
        return 1.0, 10.0
    return max(1.0, np.floor(values.min())), min(10.0, np.ceil(values.max() + 0.01))
