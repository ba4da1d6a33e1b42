"""Validation report: the verdict, then the data compared with the champion's. It shows no photo."""

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from components.scorer.report.page import Page, chart, gallery, mark, paragraph, table, verdict
from components.scorer.run.decision import Decision, GateResult
from components.validation.drift import DriftReport, FeatureShift
from components.validation.leakage import KINDS
from components.validation.results import ValidationResults
from components.validation.statistics.collect import SAMPLE_SIZE
from components.validation.statistics.data_statistics import (
    RATED_SPLITS,
    DataProfile,
    FeatureHistogram,
    SplitStatistics,
)
from components.validation.statistics.measured_features import APPEARANCE, SCORE, MeasuredFeature

# Colours of medium brightness, distinct for colour-blind people (Okabe and Ito's orange and blue).
_RATED, _UNLABELLED, _CHAMPION = "#1f97dc", "#e69f00", "#8c8c8c"

_MAX_LISTED = 50  # maximum number of leaking photos to list


def write_report(file: str | Path, results: ValidationResults, decision: Decision, summary: str) -> None:
    """Write the validation report.

    Args:
        file: Path of the HTML file.
        results: Validation results.
        decision: Gates and the verdict.
        summary: Summary of the decision.
    """
    rated, unlabelled = results.profile.rated.photos, results.profile.unlabelled.photos
    page = Page(
        "Validation of the data", f"{rated:,} rated and {unlabelled:,} unlabelled photos. {_champion_sentence(results)}"
    )
    ok = {"publish": True, "refused": False}.get(decision.verdict)
    page.section("", verdict(ok, summary), *(paragraph(_capital(reason)) for reason in decision.reasons))
    page.section("Gates", table([_gate(gate) for gate in decision.gates]))
    page.section("What there is", *_counts(results))
    page.section("Labels", *_labels(results))
    page.section("How the photos look", *_appearance(results))
    page.section("How far apart", *_comparisons(results))
    page.section("Leakage", *_leakage(results))
    page.write(file)


def _champion_sentence(results: ValidationResults) -> str:
    if results.champion is None:
        return "There is no champion yet to compare them with."
    if not results.comparable:
        return f"They cannot be compared with the champion's: {results.champion.error}."
    return f"The champion is version {results.champion.version}."


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _gate(gate: GateResult) -> dict[str, Any]:
    ok = {"passed": True, "failed": None if gate.severity == "warn" else False}.get(gate.verdict)
    return {
        "gate": gate.name,
        "verdict": mark(ok, gate.verdict),
        "if not": "warns" if gate.severity == "warn" else "stops the run",
        "value": _without_decimals(gate.value),
        "limit": _without_decimals(gate.threshold),
        "reason": _capital(gate.reason) + ".",
    }


def _without_decimals(value: float) -> float:
    """Return a count without decimals, any other value unchanged."""
    return int(value) if value == 0 or (value >= 2 and value.is_integer()) else value


def _counts(results: ValidationResults) -> list[Markup]:
    reference = results.champion.profile if results.champion else None
    rows = []
    for split in (*reversed(RATED_SPLITS), "unlabelled"):
        statistics = results.profile.parts[split]
        row = {"split": split, "photos": statistics.photos}
        row |= {"champion": reference.parts[split].photos} if reference else {}
        rows.append({**row, "ratings": statistics.ratings or None, "mean score": statistics.spread[SCORE.name].mean})
    summary = (
        f"{results.new_label_count:,} of the {results.label_count:,} labels of train and validation are new or changed"
        + (f" since version {results.champion.version}." if results.champion and reference else ": all are.")
    )
    return [table(rows), paragraph(summary)]


def _labels(results: ValidationResults) -> list[Markup]:
    reference = _champion_profile(results)
    lines = [("now", results.profile.rated, _RATED, "-")]
    lines += [("champion", reference.rated, _CHAMPION, "--")] if reference else []
    histogram = _chart(SCORE, lines, bins_per_bar=5)
    if reference is None or results.champion_drift is None:
        return [gallery([histogram])]
    shift = results.champion_drift.score_shift
    figures = table(
        [
            {"figure": "mean", "now": shift.after, "champion": shift.before},
            *(
                {"figure": name, "now": statistic(results.profile.rated), "champion": statistic(reference.rated)}
                for name, statistic in (("deviation", _deviation), ("photos", lambda part: part.photos))
            ),
        ]
    )
    note = (
        f"The two lie {shift.wasserstein:.3f} points apart: that is how far, on average, a score would have to be"
        f" moved to make one of the other (Wasserstein distance). {_chance_sentence(shift)}"
    )
    return [gallery([histogram, figures]), paragraph(note)]


def _appearance(results: ValidationResults) -> list[Markup]:
    reference = _champion_profile(results)
    lines = [("rated", results.profile.rated, _RATED, "-")]
    lines += [("unlabelled", results.profile.unlabelled, _UNLABELLED, "-")] if results.profile.unlabelled.photos else []
    lines += [("champion's rated", reference.rated, _CHAMPION, "--")] if reference else []
    note = (
        f"Measured on {_measured(results.profile.rated):,} rated and {_measured(results.profile.unlabelled):,} "
        f"unlabelled photos, drawn by chance where there are more than {SAMPLE_SIZE:,}. Sharpness, shape, size and "
        "detail are averaged as ratios."
    )
    rows = []
    for feature in APPEARANCE:
        means = {name: f"{feature.to_display_unit(part.spread[feature.name].mean):.3g}" for name, part, _, _ in lines}
        row: dict[str, str | None] = {"look": feature.name, **means}
        if results.champion_drift:
            shift = results.champion_drift.shifts[feature.name]
            row |= {"shift": _format_effect_size(shift, feature), "chance": _format_p_value(shift)}
        rows.append(row)
    blocks = [paragraph(note), table(rows)]
    if results.champion_drift:
        blocks.append(
            paragraph(
                "Shift: difference of the means of rated photos from the champion's, in standard deviations; .2 is "
                "small, .5 medium, .8 large (Cohen). Chance: how often two samples of the same photos would differ as "
                "much (Kolmogorov and Smirnov); with many photos it is small however little they differ."
            )
        )
    return [*blocks, gallery([_chart(feature, lines) for feature in APPEARANCE])]


def _comparisons(results: ValidationResults) -> list[Markup]:
    drifts = [*([results.champion_drift] if results.champion_drift else []), *results.other_drifts]
    rows = [
        {
            "from": drift.before,
            "to": drift.after,
            "photos": f"{drift.photos[0]:,} → {drift.photos[1]:,}",
            "scores, points": _format_signed(drift.score_shift.after - drift.score_shift.before, 2),
            "looks most": _largest_shift(drift),
        }
        for drift in drifts
        if all(drift.photos)
    ]
    note = (
        "How far the means of the right side lie from those of the left. New photos among many old ones hardly move "
        "the whole, so they are also compared on their own. The splits of one data set should lie near each other."
    )
    return [paragraph(note), table(rows)]


def _largest_shift(drift: DriftReport) -> str | None:
    if drift.largest_shift is None:
        return None
    feature, shift = drift.largest_shift
    return f"{feature.more if shift.cohens_d > 0 else feature.less} by {abs(shift.cohens_d):.2f} deviations"


def _leakage(results: ValidationResults) -> list[Markup]:
    leakage = results.leakage
    criteria = "the same file, in the same group"
    if leakage.distance is not None:
        criteria += f", or looks alike (perceptual hashes differ in at most {leakage.distance} of 256 bits)"
    blocks = [
        paragraph(
            f"Each photo that is held out was looked for in the other splits: it leaks when it is there as {criteria}. "
            "Among unlabelled photos all files and groups were searched, but only the measured photos for their look; "
            "these do not count, as nobody's score of them is learnt."
        )
    ]
    for pool, matches in (("rated", leakage.matches), ("unlabelled", leakage.unlabelled_matches)):
        if matches.empty:
            blocks.append(paragraph(f"None was found among {pool} photos."))
            continue
        counts = matches.groupby(["split", "other_split", "kind"]).size()
        splits = dict.fromkeys(zip(matches["split"], matches["other_split"], strict=True))
        rows = [
            {
                "held out": held_out,
                "seen in": other_split,
                **{kind: int(counts.get((held_out, other_split, kind), 0)) for kind in KINDS},
            }
            for held_out, other_split in splits
        ]
        listed = matches.rename(columns={"photo": "held out", "other": "like", "other_split": "of", "kind": "as"})
        blocks += [table(rows, f"Found among {pool} photos"), table(listed.to_dict("records"), max_rows=_MAX_LISTED)]
    return blocks


def _champion_profile(results: ValidationResults) -> DataProfile | None:
    return results.champion.profile if results.champion else None


def _deviation(part: SplitStatistics) -> float:
    return part.spread[SCORE.name].deviation


def _measured(part: SplitStatistics) -> int:
    return part.spread[APPEARANCE[0].name].count


def _chance_sentence(shift: FeatureShift) -> str:
    return f"By chance, two samples of the same photos would differ as much in {_format_p_value(shift)} of cases."


def _format_p_value(shift: FeatureShift) -> str | None:
    if not np.isfinite(shift.p_value):
        return None
    return "under 0.1 %" if shift.p_value < 0.001 else f"{100 * shift.p_value:.{1 if shift.p_value < 0.1 else 0}f} %"


def _format_effect_size(shift: FeatureShift, feature: MeasuredFeature) -> str | None:
    if (text := _format_signed(shift.cohens_d, 2)) is None:
        return None
    word = feature.more if shift.cohens_d > 0 else feature.less
    return text + (f", {word}" if abs(shift.cohens_d) >= 0.2 else "")  # below .2 the effect is not even small (Cohen)


def _format_signed(value: float, digits: int) -> str | None:
    if not np.isfinite(value):
        return None
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _chart(
    feature: MeasuredFeature, lines: list[tuple[str, SplitStatistics, str, str]], bins_per_bar: int = 2
) -> Markup:
    """Return a chart of the fraction of photos by value; `bins_per_bar` histogram bins make one bar."""
    figure = Figure(figsize=(4.5, 2.7))
    axes = figure.add_axes((0.15, 0.18, 0.82, 0.71))  # fixed layout for these charts: computing one takes seconds
    edges = feature.to_display_unit(feature.edges[::bins_per_bar])
    curves = [
        (name, _bar_fractions(part.spread[feature.name], bins_per_bar), colour, line)
        for name, part, colour, line in lines
    ]
    for name, fractions, colour, line in curves:
        axes.stairs(fractions, edges, color=colour, linestyle=line, linewidth=1.8, label=name)
    filled = np.flatnonzero(np.sum([fractions for _, fractions, _, _ in curves], axis=0))
    axes.set(xlabel=f"{feature.name}: {feature.meaning}", ylabel="share of photos")
    if feature.scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if len(filled):
        low, high = edges[max(filled[0] - 1, 0)], edges[min(filled[-1] + 2, len(edges) - 1)]
        axes.set_xlim(low, high)
        if feature.scale == "log":  # as many round ticks as fit
            axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        figure.legend(loc="upper center", ncols=len(lines), frameon=False, fontsize=9)
    return chart(figure, f"How {feature.name} is spread over the photos: {', '.join(name for name, *_ in lines)}")


def _bar_fractions(distribution: FeatureHistogram, bins_per_bar: int) -> np.ndarray:
    """Return the fraction of photos in each bar of `bins_per_bar` histogram bins."""
    counts = np.reshape(distribution.histogram, (-1, bins_per_bar)).sum(axis=1)
    return counts / max(distribution.count, 1)
