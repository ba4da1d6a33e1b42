"""Charts of the evaluation report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import regression

_MAX_VECTOR_POINTS = (
    2000  # points of a scatter chart drawn as vectors; more points are rasterised to keep the page small
)

# Medium brightness, and distinguishable without red-green vision (orange and blue of Okabe and Ito).
PEOPLE, MODEL, NEUTRAL, FAULT = "#e69f00", "#1f97dc", "#8c8c8c", "#d55e00"


class ForestRow(NamedTuple):
    """Row of a forest plot: a labelled value with its interval; ``fault`` selects the warning colour."""

    label: str
    value: float
    low: float
    high: float
    fault: bool = False


def scatter(predictions: Predictions, bins: Sequence[tuple[float, float, float, float]]) -> Figure:
    """Plot people's mean score of each photo against the scorer's, with calibration bins.

    Args:
        predictions: Votes of people and of the scorer.
        bins: Tuples (mean prediction, people's mean, lower end, upper end of its interval), one for each bin.
    """
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    figure = Figure(figsize=(4.5, 4.4), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.plot([1, 10], [1, 10], color=NEUTRAL, linewidth=1, linestyle="--", label="equal")
    is_large = len(truth) > _MAX_VECTOR_POINTS
    axes.scatter(predicted, truth, s=6 if is_large else 14, alpha=0.3 if is_large else 0.45, color=MODEL, linewidths=0,
                 rasterized=is_large, label="a photo")  # fmt: skip
    if bins:
        centres, value, low, high = np.transpose(bins)
        axes.errorbar(centres, value, [value - low, high - value], fmt="o", markersize=4, color=PEOPLE, capsize=2,
                      label="people's mean by tenths")  # fmt: skip
    limits = axis_limits(truth, predicted)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="the scorer's mean score", ylabel="people's")
    axes.set(xticks=np.arange(limits[0], limits[1] + 1), yticks=np.arange(limits[0], limits[1] + 1))
    axes.set_title("Each photo", fontsize=11)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def distributions(predictions: Predictions, champion: np.ndarray | None) -> Figure:
    """Plot histograms of the mean scores by people, the scorer and the champion.

    Args:
        predictions: Votes of people and of the scorer.
        champion: Votes of the champion, float [n, 10]; None without a champion.
    """
    series = [("people", predictions.truth, PEOPLE, "-"), ("scorer", predictions.scorer, MODEL, "-")]
    if champion is not None:
        series.append(("champion", champion, NEUTRAL, "--"))
    means = [regression.mean_scores(votes) for _, votes, _, _ in series]
    low, high = axis_limits(*means)
    edges = np.arange(low, high + 0.25, 0.25).tolist()
    figure = Figure(figsize=(4.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for (label, _, colour, line), values in zip(series, means, strict=True):
        axes.hist(values[np.isfinite(values)], edges, histtype="step", linewidth=1.8, color=colour, linestyle=line,
                  label=label)  # fmt: skip
    axes.set(xlabel="mean score", ylabel="photos")
    axes.set_title("All photos", fontsize=11)
    axes.legend(frameon=False)
    return figure


def forest(
    rows: Sequence[ForestRow], x_label: str, band: tuple[float, float] | None = None, zero: bool = True
) -> Figure:
    """Draw a forest plot: values with their intervals, one below the other.

    Args:
        rows: Rows from top to bottom.
        x_label: Label of the x axis, with the unit.
        band: Allowed range, shaded; an end may be infinite. None: no range.
        zero: True to mark 0.
    """
    figure = Figure(figsize=(7, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(rows))[::-1]
    for position, row in zip(positions, rows, strict=True):
        colour = FAULT if row.fault else MODEL
        if np.isfinite([row.low, row.high]).all():
            axes.plot([row.low, row.high], [position, position], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(row.value, position, "s" if row.fault else "o", color=colour, markersize=6)
    values = [value for row in rows for value in row[1:4] if np.isfinite(value)] or [0.0]
    ends = [end for end in band or () if np.isfinite(end)] + ([0.0] if zero else [])
    low, high = min(values + ends), max(values + ends)
    margin = 0.06 * ((high - low) or 1.0)
    axes.set_xlim(low - margin, high + margin)
    if band:
        axes.axvspan(max(band[0], low - 2 * margin), min(band[1], high + 2 * margin), color=NEUTRAL, alpha=0.18,
                     linewidth=0, label="allowed")  # fmt: skip
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, fontsize=9)
    if zero:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
    axes.set_yticks(positions, [row.label for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(x_label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def trajectory(means: np.ndarray) -> Figure:
    """Plot the mean scores of n photos during gradient ascent.

    Args:
        means: Mean scores by step, float [steps + 1, n].
    """
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(means, color=MODEL, alpha=0.4, linewidth=1)
    axes.plot(np.mean(means, axis=1), color=PEOPLE, linewidth=2.2, label="mean of the photos")
    axes.set(xlabel="step", ylabel="mean score", ylim=(1, 10))
    axes.legend(frameon=False)
    return figure


def axis_limits(*means: np.ndarray) -> tuple[float, float]:
    """Return axis limits in whole scores around all finite means, within 1..10; (1, 10) if there are none."""
    values = np.concatenate(means)
    values = values[np.isfinite(values)]
    if not len(values):
        return 1.0, 10.0
    return max(1.0, np.floor(values.min())), min(10.0, np.ceil(values.max() + 0.01))
