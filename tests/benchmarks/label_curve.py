"""Number of labels needed: photos to train on, by raters of each photo.

    python -m tests.benchmarks.label_curve WORK --photos … --ratings … --attributes … --set …

Options and folder are those of ``cross_validation``. The scorer with photo, face and embedding has a ridge head. It is
fitted to a fraction of the photos outside the fold, with the ratings of a number of each photo's raters, drawn without
replacement (a photo with fewer raters keeps all). It predicts the fold's photos, and is compared with the mean of all
their raters. Prints a table, and writes ``label_curve.json`` and ``label_curve.png``.
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
"""Raters of each photo; 0 uses all."""


def main() -> None:
    """Compute missing results, print the table, and write the results."""
    options = protocol.parser(__doc__).parse_args()
    work = Path(options.work)
    parameters, training = protocol.settings(options)
    inputs, known = protocol.features(work, options, parameters)
    counts = np.rint(known.votes * protocol.raters(work)[:, None]).astype(int)
    predicted, sizes = {}, {}
    for share in SHARES:
        for raters in RATERS:
            name = f"{share:.0%} of the photos, {raters or 'all'} raters"
            if options.kept and not protocol.is_kept(work / "label_curve", name, options.seeds):
                continue
            fit_and_predict = learning(inputs, counts, share, raters, training)
            predicted[name] = protocol.held_out(work / "label_curve", name, known, options.seeds, fit_and_predict)
            sizes[name] = _size(known, counts, share, raters)
            print(protocol.line(name, protocol.figures(known.votes, predicted[name])), flush=True)
    full = f"{SHARES[-1]:.0%} of the photos, all raters"
    cells = protocol.compared(known, predicted, full)
    cells = {name: sizes[name] | result for name, result in cells.items()}
    results = protocol.about(known, predicted, parameters) | {"cells": cells, "said": said(cells)}
    print(f"\nagainst all labels, paired, 95 % by resampling groups\n{protocol.gains(cells)}\n\n{results['said']}")
    protocol.write(work, "label_curve", results, draw(cells, len(known.votes)))


def learning(seen: Seen, counts: np.ndarray, share: float, raters: int, training: Training) -> protocol.Answer:
    """Return a function that fits to some photos with some of the ratings of each.

    Args:
        seen: Inputs of n photos.
        counts: Number of ratings by score, int ``[n, 10]``.
        share: Fraction of the photos outside the fold.
        raters: Most raters of each photo; 0 uses all.
        training: Settings.
    """
    variant = BEST if EMBEDDING in seen else WHOLE
    seen = protocol.visible(variant, seen)

    def fit_and_predict(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        votes = some_raters(counts, raters, seed)
        indices = protocol.drawn(train, share, seed)
        head = protocol.fitted(variant, seen, votes / votes.sum(1, keepdims=True), indices, training)
        return protocol.said(head, seen, test)

    return fit_and_predict


def some_raters(counts: np.ndarray, raters: int, seed: int) -> np.ndarray:
    """Return the ratings of at most ``raters`` people for each photo, drawn without replacement, int ``[n, 10]``."""
    if not raters:
        return counts
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.multivariate_hypergeometric(photo_counts, min(raters, photo_counts.sum())) for photo_counts in counts]
    )


def _size(known: Known, counts: np.ndarray, share: float, raters: int) -> dict[str, float]:
    """Return the size of the training data, mean over folds."""
    photos = share * len(known.votes) * (1 - 1 / protocol.FOLDS)
    ratings_a_photo = np.minimum(counts.sum(1), raters).mean() if raters else counts.sum(1).mean()
    return {"learnt_photos": photos, "raters": float(ratings_a_photo), "ratings": photos * float(ratings_a_photo)}


def said(cells: dict[str, Any]) -> str:
    """Return sentences about the results."""
    rows = [result | {"name": name} for name, result in cells.items()]
    full = rows[-1]
    similar = [row for row in rows if "gain" in row and row["gain"]["lcc"][0] > -0.01]
    cheapest = min(similar or [full], key=lambda row: row["ratings"])
    half = next(row for row in rows if row["name"] == f"{SHARES[-2]:.0%} of the photos, all raters")
    spread = _nearest([row for row in rows if row["learnt_photos"] == full["learnt_photos"]], half["ratings"])
    return (
        f"All {full['ratings']:,.0f} ratings give LCC {full['lcc']:.3f}; within .01 of it come"
        f" {cheapest['ratings']:,.0f} ({cheapest['name']}). Half of the photos, with all their raters, lose"
        f" {-half['gain']['lcc'][0]:.3f}; {spread['ratings']:,.0f} ratings spread over all photos"
        f" lose {-spread['gain']['lcc'][0]:.3f}."
    )


def _nearest(rows: list[dict[str, Any]], ratings: float) -> dict[str, Any]:
    return min((row for row in rows if "gain" in row), key=lambda row: abs(row["ratings"] - ratings))


def draw(cells: dict[str, Any], photos: int) -> Figure:
    """Draw LCC by number of ratings, with a line for each number of raters."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, raters in enumerate(RATERS):
        line_cells = [cell for name, cell in cells.items() if name.endswith(f", {raters or 'all'} raters")]
        label = "1 rater" if raters == 1 else f"{raters or 'all'} raters"
        ratings = [cell["ratings"] for cell in line_cells]
        axes.plot(ratings, [cell["lcc"] for cell in line_cells], "o-", color=f"C{index}", label=f"{label} a photo")
        low, high = zip(*(cell["interval"]["lcc"] for cell in line_cells), strict=True)
        axes.fill_between(ratings, low, high, color=f"C{index}", alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("ratings that are learnt from")
    axes.set_ylabel(f"LCC with people's mean scores ({photos:,} photos; bands: 95 %)")
    axes.legend(title="the points of a line: 10, 25, 50, 100 % of the photos")
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
