"""How many labels are enough: photos that are learnt from, by raters of each.

    python -m tests.benchmarks.label_curve WORK --photos … --ratings … --attributes … --set …

As ``cross_validation``, of which it uses the options and the folder. The scorer that sees photo, face and embedding
learns, in closed form, from a share of the photos outside the fold and, of each, from the ratings of so many of its
raters, drawn without replacement (a photo that has fewer keeps all). It is asked about the fold's photos, and held
against the mean of all their raters. Prints a table, and writes ``label_curve.json`` and ``label_curve.png``.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from components.scorer.faces.face_inputs import EMBEDDING
from tests.benchmarks import protocol
from tests.benchmarks.protocol import BEST, WHOLE, Known, Seen, Training

SHARES = (0.1, 0.25, 0.5, 1.0)
RATERS = (1, 3, 6, 12, 0)
"""Of each photo; 0: all."""


def main() -> None:
    """Compute what is missing, print the table, and write the results."""
    given = protocol.parser(__doc__).parse_args()
    work = Path(given.work)
    parameters, training = protocol.settings(given)
    seen, known = protocol.features(work, given, parameters)
    counts = np.rint(known.votes * protocol.raters(work)[:, None]).astype(int)
    predicted, sizes = {}, {}
    for share in SHARES:
        for raters in RATERS:
            name = f"{share:.0%} of the photos, {raters or 'all'} raters"
            if given.kept and not protocol.is_kept(work / "label_curve", name, given.seeds):
                continue
            answer = learning(seen, counts, share, raters, training)
            predicted[name] = protocol.held_out(work / "label_curve", name, known, given.seeds, answer)
            sizes[name] = _size(known, counts, share, raters)
            print(protocol.line(name, protocol.figures(known.votes, predicted[name])), flush=True)
    full = f"{SHARES[-1]:.0%} of the photos, all raters"
    cells = protocol.compared(known, predicted, full)
    cells = {name: sizes[name] | found for name, found in cells.items()}
    results = protocol.about(known, predicted, parameters) | {"cells": cells, "said": said(cells)}
    print(f"\nagainst all labels, paired, 95 % by resampling groups\n{protocol.gains(cells)}\n\n{results['said']}")
    protocol.write(work, "label_curve", results, draw(cells, len(known.votes)))


def learning(seen: Seen, counts: np.ndarray, share: float, raters: int, training: Training) -> protocol.Answer:
    """Learning from some photos by some of the ratings of each.

    Args:
        seen: of n photos.
        counts: ratings by score, int ``[n, 10]``.
        share: of the photos outside the fold.
        raters: of each photo at most; 0: all.
        training: settings.
    """
    variant = BEST if EMBEDDING in seen else WHOLE
    seen = protocol.visible(variant, seen)

    def answer(learnt: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
        votes = some_raters(counts, raters, seed)
        some = protocol.drawn(learnt, share, seed)
        head = protocol.fitted(variant, seen, votes / votes.sum(1, keepdims=True), some, training)
        return protocol.said(head, seen, asked)

    return answer


def some_raters(counts: np.ndarray, raters: int, seed: int) -> np.ndarray:
    """The ratings of so many people of each photo's, drawn without replacement, int ``[n, 10]``; 0: all."""
    if not raters:
        return counts
    rng = np.random.default_rng(seed)
    return np.stack([rng.multivariate_hypergeometric(each, min(raters, each.sum())) for each in counts])


def _size(known: Known, counts: np.ndarray, share: float, raters: int) -> dict[str, float]:
    """How much is learnt from, mean over folds."""
    photos = share * len(known.votes) * (1 - 1 / protocol.FOLDS)
    each = np.minimum(counts.sum(1), raters).mean() if raters else counts.sum(1).mean()
    return {"learnt_photos": photos, "raters": float(each), "ratings": photos * float(each)}


def said(cells: dict[str, Any]) -> str:
    """What the figures say, in a few sentences."""
    rows = [found | {"name": name} for name, found in cells.items()]
    whole = rows[-1]
    alike = [each for each in rows if "gain" in each and each["gain"]["lcc"][0] > -0.01]
    least = min(alike or [whole], key=lambda each: each["ratings"])
    photos = next(each for each in rows if each["name"] == f"{SHARES[-2]:.0%} of the photos, all raters")
    raters = _nearest([each for each in rows if each["learnt_photos"] == whole["learnt_photos"]], photos["ratings"])
    return (
        f"All {whole['ratings']:,.0f} ratings give LCC {whole['lcc']:.3f}; within .01 of it come"
        f" {least['ratings']:,.0f} ({least['name']}). Half of the photos, with all their raters, lose"
        f" {-photos['gain']['lcc'][0]:.3f}; {raters['ratings']:,.0f} ratings spread over all photos"
        f" lose {-raters['gain']['lcc'][0]:.3f}."
    )


def _nearest(rows: list[dict[str, Any]], ratings: float) -> dict[str, Any]:
    return min((each for each in rows if "gain" in each), key=lambda each: abs(each["ratings"] - ratings))


def draw(cells: dict[str, Any], photos: int) -> Figure:
    """LCC over the ratings learnt from, a line for each number of raters."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for place, raters in enumerate(RATERS):
        found = [each for name, each in cells.items() if name.endswith(f", {raters or 'all'} raters")]
        label = "1 rater" if raters == 1 else f"{raters or 'all'} raters"
        at = [each["ratings"] for each in found]
        axes.plot(at, [each["lcc"] for each in found], "o-", color=f"C{place}", label=f"{label} a photo")
        low, high = zip(*(each["interval"]["lcc"] for each in found), strict=True)
        axes.fill_between(at, low, high, color=f"C{place}", alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("ratings that are learnt from")
    axes.set_ylabel(f"LCC with people's mean scores ({photos:,} photos; bands: 95 %)")
    axes.legend(title="the points of a line: 10, 25, 50, 100 % of the photos")
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
