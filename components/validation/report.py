"""The page of a validation: the verdict first, then how the data lie beside the champion's. It shows no photo."""

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from components.scorer.report.page import Page, chart, gallery, mark, table, text, verdict
from components.scorer.run.decision import Decision, Gate
from components.validation.drift import Drift, Shift
from components.validation.leakage import KINDS
from components.validation.results import Findings
from components.validation.statistics.collect import SAMPLE
from components.validation.statistics.data_statistics import RATED, Distribution, Part
from components.validation.statistics.measured_features import APPEARANCE, SCORE, Quantity

# Of middling brightness, and told apart by people who see no red or green (Okabe and Ito's orange and blue).
_RATED, _UNLABELLED, _CHAMPION = "#1f97dc", "#e69f00", "#8c8c8c"

_NAMED = 50  # photos that leak and are named


def write_report(file: str | Path, found: Findings, decided: Decision, words: str) -> None:
    """Write the page.

    Args:
        file: where to.
        found: about the data set.
        decided: the gates and what they lead to.
        words: what becomes of the run.
    """
    rated, unlabelled = found.profile.rated.photos, found.profile.unlabelled.photos
    page = Page("Validation of the data", f"{rated:,} rated and {unlabelled:,} unlabelled photos. {_beside(found)}")
    ok = {"publish": True, "refused": False}.get(decided.verdict)
    page.section("", verdict(ok, words), *(text(_capital(reason)) for reason in decided.reasons))
    page.section("Gates", table([_gate(gate) for gate in decided.gates]))
    page.section("What there is", *_counts(found))
    page.section("Labels", *_labels(found))
    page.section("How the photos look", *_looks(found))
    page.section("How far apart", *_comparisons(found))
    page.section("Leakage", *_leakage(found))
    page.write(file)


def _beside(found: Findings) -> str:
    if found.champion is None:
        return "There is no champion yet to compare them with."
    if not found.comparable:
        return f"They cannot be compared with the champion's: {found.champion.error}."
    return f"The champion is version {found.champion.version}."


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _gate(gate: Gate) -> dict[str, Any]:
    ok = {"passed": True, "failed": None if gate.severity == "warn" else False}.get(gate.verdict)
    return {
        "gate": gate.name,
        "verdict": mark(ok, gate.verdict),
        "if not": "warns" if gate.severity == "warn" else "stops the run",
        "value": _whole(gate.value),
        "limit": _whole(gate.threshold),
        "reason": _capital(gate.reason) + ".",
    }


def _whole(value: float) -> float:
    """Counts without decimals."""
    return int(value) if value == 0 or (value >= 2 and value.is_integer()) else value


def _counts(found: Findings) -> list[Markup]:
    before = found.champion.profile if found.champion else None
    rows = []
    for split in (*reversed(RATED), "unlabelled"):
        now = found.profile.parts[split]
        row = {"split": split, "photos": now.photos}
        row |= {"champion": before.parts[split].photos} if before else {}
        rows.append({**row, "ratings": now.ratings or None, "mean score": now.spread[SCORE.name].mean})
    words = f"{found.new:,} of the {found.learnt:,} labels of train and validation are new or changed"
    return [table(rows), text(words + (f" since version {found.champion.version}." if before else ": all are."))]


def _labels(found: Findings) -> list[Markup]:
    before = _before(found)
    shown = [("now", found.profile.rated, _RATED, "-")]
    shown += [("champion", before.rated, _CHAMPION, "--")] if before else []
    histogram = _chart(SCORE, shown, every=5)
    if found.since is None:
        return [gallery([histogram])]
    moved = found.since.score
    figures = table(
        [
            {"figure": "mean", "now": moved.after, "champion": moved.before},
            *(
                {"figure": name, "now": pick(found.profile.rated), "champion": pick(before.rated)}
                for name, pick in (("deviation", _deviation), ("photos", lambda part: part.photos))
            ),
        ]
    )
    words = (
        f"The two lie {moved.distance:.3f} points apart: that is how far, on average, a score would have to be moved "
        f"to make one of the other (Wasserstein distance). {_chance(moved)}"
    )
    return [gallery([histogram, figures]), text(words)]


def _looks(found: Findings) -> list[Markup]:
    before = _before(found)
    lines = [("rated", found.profile.rated, _RATED, "-")]
    lines += [("unlabelled", found.profile.unlabelled, _UNLABELLED, "-")] if found.profile.unlabelled.photos else []
    lines += [("champion's rated", before.rated, _CHAMPION, "--")] if before else []
    words = (
        f"Measured on {_measured(found.profile.rated):,} rated and {_measured(found.profile.unlabelled):,} unlabelled "
        f"photos, drawn by chance where there are more than {SAMPLE:,}. Sharpness, shape, size and detail are averaged "
        "as ratios."
    )
    rows = []
    for each in APPEARANCE:
        means = {name: f"{each.shown(part.spread[each.name].mean):.3g}" for name, part, _, _ in lines}
        row = {"look": each.name, **means}
        if found.since:
            moved = found.since.shifts[each.name]
            row |= {"shift": _size(moved, each), "chance": _p(moved)}
        rows.append(row)
    blocks = [text(words), table(rows)]
    if found.since:
        blocks.append(
            text(
                "Shift: difference of the means of rated photos from the champion's, in standard deviations; .2 is "
                "small, .5 medium, .8 large (Cohen). Chance: how often two samples of the same photos would differ as "
                "much (Kolmogorov and Smirnov); with many photos it is small however little they differ."
            )
        )
    return [*blocks, gallery([_chart(each, lines) for each in APPEARANCE])]


def _comparisons(found: Findings) -> list[Markup]:
    drifts = [*([found.since] if found.since else []), *found.others]
    rows = [
        {"from": each.before, "to": each.after, "photos": f"{each.photos[0]:,} → {each.photos[1]:,}"}
        | {"scores, points": _signed(each.score.after - each.score.before, 2), "looks most": _most(each)}
        for each in drifts
        if all(each.photos)
    ]
    words = (
        "How far the means of the right side lie from those of the left. New photos among many old ones hardly move "
        "the whole, so they are also compared on their own. The splits of one data set should lie near each other."
    )
    return [text(words), table(rows)]


def _most(each: Drift) -> str | None:
    if each.largest is None:
        return None
    quantity, moved = each.largest
    return f"{quantity.more if moved.size > 0 else quantity.less} by {abs(moved.size):.2f} deviations"


def _leakage(found: Findings) -> list[Markup]:
    leaks = found.leakage
    how = "the same file, in the same group"
    if leaks.distance is not None:
        how += f", or looks alike (perceptual hashes differ in at most {leaks.distance} of 256 bits)"
    blocks = [
        text(
            f"Each photo that is held out was looked for in the other splits: it leaks when it is there as {how}. "
            "Among unlabelled photos all files and groups were searched, but only the measured photos for their look; "
            "these do not count, as nobody's score of them is learnt."
        )
    ]
    for where, seen in (("rated", leaks.found), ("unlabelled", leaks.unlabelled)):
        if seen.empty:
            blocks.append(text(f"None was found among {where} photos."))
            continue
        counts = seen.groupby(["split", "other_split", "kind"]).size()
        splits = dict.fromkeys(zip(seen["split"], seen["other_split"], strict=True))
        rows = [
            {"held out": held, "seen in": other, **{kind: int(counts.get((held, other, kind), 0)) for kind in KINDS}}
            for held, other in splits
        ]
        named = seen.rename(columns={"photo": "held out", "other": "like", "other_split": "of", "kind": "as"})
        blocks += [table(rows, f"Found among {where} photos"), table(named.to_dict("records"), most=_NAMED)]
    return blocks


def _before(found: Findings):
    return found.champion.profile if found.champion else None


def _deviation(part: Part) -> float:
    return part.spread[SCORE.name].deviation


def _measured(part: Part) -> int:
    return part.spread[APPEARANCE[0].name].count


def _chance(moved: Shift) -> str:
    return f"By chance, two samples of the same photos would differ as much in {_p(moved)} of cases."


def _p(moved: Shift) -> str | None:
    if not np.isfinite(moved.p):
        return None
    return "under 0.1 %" if moved.p < 0.001 else f"{100 * moved.p:.{1 if moved.p < 0.1 else 0}f} %"


def _size(moved: Shift, quantity: Quantity) -> str | None:
    if not np.isfinite(moved.size):
        return None
    word = quantity.more if moved.size > 0 else quantity.less
    return _signed(moved.size, 2) + (f", {word}" if abs(moved.size) >= 0.2 else "")  # below .2 not even small


def _signed(value: float, digits: int) -> str | None:
    if not np.isfinite(value):
        return None
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _chart(quantity: Quantity, lines: list[tuple[str, Part, str, str]], every: int = 2) -> Markup:
    """Share of photos by value; ``every`` so many bins of the histograms are one here."""
    figure = Figure(figsize=(4.5, 2.7))
    axes = figure.add_axes((0.15, 0.18, 0.82, 0.71))  # as each of these charts needs it; to find it out takes seconds
    edges = quantity.shown(quantity.edges[::every])
    shares = [(name, _share(part.spread[quantity.name], every), colour, line) for name, part, colour, line in lines]
    for name, share, colour, line in shares:
        axes.stairs(share, edges, color=colour, linestyle=line, linewidth=1.8, label=name)
    filled = np.flatnonzero(np.sum([share for _, share, _, _ in shares], axis=0))
    axes.set(xlabel=f"{quantity.name}: {quantity.meaning}", ylabel="share of photos")
    if quantity.scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if len(filled):
        low, high = edges[max(filled[0] - 1, 0)], edges[min(filled[-1] + 2, len(edges) - 1)]
        axes.set_xlim(low, high)
        if quantity.scale == "log":  # as many round numbers as have room
            axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        figure.legend(loc="upper center", ncols=len(lines), frameon=False, fontsize=9)
    return chart(figure, f"How {quantity.name} is spread over the photos: {', '.join(name for name, *_ in lines)}")


def _share(spread: Distribution, every: int) -> np.ndarray:
    counts = np.reshape(spread.histogram, (-1, every)).sum(axis=1)
    return counts / max(spread.count, 1)
