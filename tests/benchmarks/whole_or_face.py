"""Whole photo against face crop: the portrait paper's tables 1 and 3, on portraits rated by people.

    python -m tests.benchmarks.whole_or_face WORK --photos … --ratings … --attributes … --set …

Options and folder are those of ``cross_validation``. The paper is "NIMA: Neural Aesthetic Portrait Image Assessment"
(X. Hou et al., project report, Stanford CS231n, https://houxiru.github.io/projects/nima). The figures in its text were
available, its tables were not. Their content was given as "whole photo against face crop, the 1.15 bound, the affine
lower bound by the maximum, with statistics", and is interpreted as follows.

* Whole photo against face crop (table 1): one backbone gets the photo or the upright crop of its largest face. The head
  is fitted to the same photos, and both predict the same other photos. Accuracy, LCC, SRCC and MAE of each, the paired
  difference by resampling groups, and Williams' test of the two correlations.
* The 1.15 bound (table 3): the fraction of photos whose scores differ by a factor of at most 1.15, and the factor that
  holds for 95 % of the photos.
* The affine lower bound by the maximum (table 3): the line ``a + b · m`` in a photo's higher score m that 5 % of the
  lower scores fall below (Koenker and Bassett, "Regression Quantiles", 1978), and the fraction below it in folds that
  the line was not fitted to.

For a photo with several faces (25 of 1,989) the largest is used. Writes ``whole_or_face.json`` and ``.png``.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import sparse
from scipy.optimize import linprog

from components.scorer.metrics import bootstrap, regression, significance
from components.scorer.settings import SCORES
from tests.benchmarks import protocol
from tests.benchmarks.protocol import FACE, WHOLE, Known

BOUND = 1.15
BELOW = 0.05
"""Fraction of photos that may lie below a lower bound, or above an upper one."""


def main() -> None:
    """Compute missing results, print the figures, and write the results."""
    options = protocol.parser(__doc__).parse_args()
    work = Path(options.work)
    parameters, training = protocol.settings(options)
    inputs, known = protocol.features(work, options, parameters)
    if "pooled_face" not in inputs:
        raise SystemExit("there is no face to see: give a face_detector, and leave face_view on")
    predicted = {}
    for variant in (WHOLE, FACE):
        fit_and_predict = protocol.learning(variant, inputs, known.votes, training)
        predicted[variant.name] = protocol.held_out(
            work / "predicted", variant.name, known, options.seeds, fit_and_predict
        )
    variants = protocol.compared(known, predicted, WHOLE.name)
    for name, result in variants.items():
        print(protocol.line(name, result))
    whole, face = (predicted[variant.name] @ np.array(SCORES) for variant in (WHOLE, FACE))
    compared = statistics(known, whole, face)
    results = protocol.about(known, predicted, parameters) | {"variants": variants, "statistics": compared}
    print(
        f"\nagainst the whole photo, paired, 95 % by resampling groups\n{protocol.gains(variants)}\n\n{said(compared)}"
    )
    protocol.write(work, "whole_or_face", results | {"said": said(compared)}, draw(whole[0], face[0], compared))


def statistics(known: Known, whole: np.ndarray, face: np.ndarray) -> dict[str, Any]:
    """Compare two scores of each photo; means over seeds, intervals by resampling groups.

    Args:
        known: Ratings of n photos.
        whole: Scores by the whole photo, ``[seeds, n]``.
        face: Scores by the face, ``[seeds, n]``.
    """
    truth = known.truth
    people_lccs = [
        [float(regression.lcc(truth, scores)) for scores in scores_by_seed] for scores_by_seed in (whole, face)
    ]
    between = float(np.mean([regression.lcc(*pair) for pair in zip(whole, face, strict=True)]))
    test = significance.williams_test(*(float(np.mean(lccs)) for lccs in people_lccs), between, len(truth))
    ratio = np.maximum(whole / face, face / whole)
    higher, lower = np.maximum(whole, face), np.minimum(whole, face)
    lines = [lower_bound(*pair) for pair in zip(higher, lower, strict=True)]
    return {
        "williams": {"t": test.t, "p": 2 * min(test.p, 1 - test.p)},
        "lcc_between": between,
        "difference": _interval((face - whole).mean(0), known.groups),
        "within": {
            "bound": BOUND,
            "both": _interval((ratio <= BOUND).mean(0), known.groups),
            "face_at_most": _interval((face <= BOUND * whole).mean(0), known.groups),
            "photo_at_most": _interval((whole <= BOUND * face).mean(0), known.groups),
            "ratio_of_95_percent": float(np.quantile(ratio, 1 - BELOW)),
        },
        "lower_bound": {
            "intercept": float(np.mean([line[0] for line in lines])),
            "slope": float(np.mean([line[1] for line in lines])),
            "below_elsewhere": float(
                np.mean([below(*pair, known.groups, seed) for seed, pair in enumerate(zip(higher, lower, strict=True))])
            ),
        },
    }


def lower_bound(higher: np.ndarray, lower: np.ndarray, share: float = BELOW) -> tuple[float, float]:
    """Return intercept and slope of a quantile regression: a share of ``lower`` lies below this line in ``higher``.

    The linear programme weights distances above the line by the share and distances below it by the rest.
    """
    n = len(higher)
    line = np.column_stack([np.ones(n), higher])
    solution = linprog(
        np.concatenate([np.zeros(2), np.full(n, share), np.full(n, 1 - share)]),
        A_eq=sparse.hstack([line, sparse.eye_array(n), -sparse.eye_array(n)], format="csr"),
        b_eq=lower,
        bounds=[(None, None)] * 2 + [(0, None)] * (2 * n),
        method="highs",
    )
    return float(solution.x[0]), float(solution.x[1])


def below(higher: np.ndarray, lower: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """Return the fraction of photos below a line that was fitted to the other folds."""
    is_below = np.zeros(len(higher), bool)
    for fold in protocol.folds(groups, seed):
        intercept, slope = lower_bound(higher[~fold], lower[~fold])
        is_below[fold] = lower[fold] < intercept + slope * higher[fold]
    return float(is_below.mean())


def _interval(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """Return the mean, and the ends of its 95 % interval."""
    draws = [
        weights @ values / weights.sum(1) for weights in bootstrap.resample_counts(groups, protocol.RESAMPLES, seed=1)
    ]
    return [float(values.mean()), *bootstrap.percentile_interval(np.concatenate(draws))]


def said(found: dict[str, Any]) -> str:
    """Return sentences about the statistics."""
    within, line = found["within"], found["lower_bound"]
    share, low, high = within["both"]
    mean, least, most = found["difference"]
    return (
        f"The face's score is {mean:+.3f} ({least:+.3f} to {most:+.3f}) from the photo's on average, and correlates by"
        f" {found['lcc_between']:.3f} with it; Williams' test of their correlations with people: t"
        f" {found['williams']['t']:.2f}, p {found['williams']['p']:.3g}. Of {share:.1%} ({low:.1%} to {high:.1%}) of"
        f" the photos the scores are within a factor of {BOUND}; those of 95 % are within"
        f" {within['ratio_of_95_percent']:.3f}. The lower score is above {line['intercept']:.2f} + {line['slope']:.2f}"
        f" times the higher one for 95 % of the photos; of photos from which the line was not learnt"
        f" {line['below_elsewhere']:.1%} are below it."
    )


def draw(whole: np.ndarray, face: np.ndarray, found: dict[str, Any]) -> Figure:
    """Draw each photo's two scores, the factor and the line."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.plot(whole, face, ".", markersize=3, alpha=0.5, color="tab:blue")
    ends = np.array([min(whole.min(), face.min()), max(whole.max(), face.max())])
    axes.plot(ends, ends, color="black", linewidth=1, label="equal")
    for index, factor in enumerate((BOUND, 1 / BOUND)):
        axes.plot(ends, factor * ends, "--", color="tab:orange", label=None if index else f"a factor of {BOUND}")
    line = found["lower_bound"]
    bound = line["intercept"] + line["slope"] * ends
    axes.plot(ends, bound, ":", color="tab:red", label="lower bound by the higher score (95 %)")
    axes.plot(bound, ends, ":", color="tab:red")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.set_xlabel("score by the whole photo")
    axes.set_ylabel("score by the face")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
