"""Whole photo against face crop: the portrait paper's tables 1 and 3, on portraits rated by people.

    python -m tests.benchmarks.whole_or_face WORK --photos … --ratings … --attributes … --set …

As ``cross_validation``, of which it uses the options and the folder. The paper is "NIMA: Neural Aesthetic Portrait
Image Assessment" (X. Hou et al., project report, Stanford CS231n, https://houxiru.github.io/projects/nima). Its figures
in text were at hand, its tables were not: what they are to show was given as "whole photo against face crop, the 1.15
bound, the affine lower bound by the maximum, with statistics", and is read here as follows.

* Whole photo against face crop (table 1): one backbone sees the photo or the upright crop of its largest face, the head
  is learnt from the same photos, and both are asked about the same others. Accuracy, LCC, SRCC and MAE of each, the
  paired difference by resampling groups, and Williams' test of the two correlations.
* The 1.15 bound (table 3): the share of photos of which one score is at most 1.15 times the other, either way round,
  and the ratio below which 95 % of the photos stay.
* The affine lower bound by the maximum (table 3): the line ``a + b · m`` in a photo's higher score m below which its
  lower score falls for 5 % of the photos (Koenker and Bassett, "Regression Quantiles", 1978), and how often it
  does on folds from which the line was not learnt.

Of a photo with several faces (25 of 1,989) the largest is taken. Writes ``whole_or_face.json`` and ``.png``.
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
"""Share of photos that may lie below a lower bound, or above an upper one."""


def main() -> None:
    """Compute what is missing, print the figures, and write the results."""
    given = protocol.parser(__doc__).parse_args()
    work = Path(given.work)
    parameters, training = protocol.settings(given)
    seen, known = protocol.features(work, given, parameters)
    if "pooled_face" not in seen:
        raise SystemExit("there is no face to see: give a face_detector, and leave face_view on")
    predicted = {}
    for variant in (WHOLE, FACE):
        answer = protocol.learning(variant, seen, known.votes, training)
        predicted[variant.name] = protocol.held_out(work / "predicted", variant.name, known, given.seeds, answer)
    variants = protocol.compared(known, predicted, WHOLE.name)
    for name, found in variants.items():
        print(protocol.line(name, found))
    whole, face = (predicted[variant.name] @ np.array(SCORES) for variant in (WHOLE, FACE))
    apart = statistics(known, whole, face)
    results = protocol.about(known, predicted, parameters) | {"variants": variants, "statistics": apart}
    print(f"\nagainst the whole photo, paired, 95 % by resampling groups\n{protocol.gains(variants)}\n\n{said(apart)}")
    protocol.write(work, "whole_or_face", results | {"said": said(apart)}, draw(whole[0], face[0], apart))


def statistics(known: Known, whole: np.ndarray, face: np.ndarray) -> dict[str, Any]:
    """How two scores of each photo lie to each other; means over seeds, intervals by resampling groups.

    Args:
        known: of n photos.
        whole: scores by the whole photo ``[seeds, n]``.
        face: by the face.
    """
    truth = known.truth
    with_people = [[float(regression.lcc(truth, each)) for each in every] for every in (whole, face)]
    between = float(np.mean([regression.lcc(*pair) for pair in zip(whole, face, strict=True)]))
    test = significance.williams_test(*(float(np.mean(each)) for each in with_people), between, len(truth))
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
    """The line in ``higher`` below which a share of ``lower`` lies: intercept and slope of a quantile regression.

    It is the linear programme that weighs what lies above the line by the share and what lies below by the rest.
    """
    n = len(higher)
    line = np.column_stack([np.ones(n), higher])
    found = linprog(
        np.concatenate([np.zeros(2), np.full(n, share), np.full(n, 1 - share)]),
        A_eq=sparse.hstack([line, sparse.eye_array(n), -sparse.eye_array(n)], format="csr"),
        b_eq=lower,
        bounds=[(None, None)] * 2 + [(0, None)] * (2 * n),
        method="highs",
    )
    return float(found.x[0]), float(found.x[1])


def below(higher: np.ndarray, lower: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """The share of photos below a line that was learnt from the other folds."""
    under = np.zeros(len(higher), bool)
    for fold in protocol.folds(groups, seed):
        intercept, slope = lower_bound(higher[~fold], lower[~fold])
        under[fold] = lower[fold] < intercept + slope * higher[fold]
    return float(under.mean())


def _interval(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """The mean, and the ends of its 95 % interval."""
    draws = [
        weights @ values / weights.sum(1) for weights in bootstrap.resample_counts(groups, protocol.RESAMPLES, seed=1)
    ]
    return [float(values.mean()), *bootstrap.percentile_interval(np.concatenate(draws))]


def said(found: dict[str, Any]) -> str:
    """What the statistics say, in plain sentences."""
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
    """Each photo's two scores, the factor and the line."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.plot(whole, face, ".", markersize=3, alpha=0.5, color="tab:blue")
    ends = np.array([min(whole.min(), face.min()), max(whole.max(), face.max())])
    axes.plot(ends, ends, color="black", linewidth=1, label="equal")
    for place, factor in enumerate((BOUND, 1 / BOUND)):
        axes.plot(ends, factor * ends, "--", color="tab:orange", label=None if place else f"a factor of {BOUND}")
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
