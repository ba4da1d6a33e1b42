"""Fairness by slice: metrics per attribute value, and gates on ranking and on the score gap of each slice.

The gap of a slice is its mean error minus the mean error of all other photos, adjusted for people's own ratings. The
difficulty is the adjustment. A scorer that knows little shrinks its scores towards a mean, and is then harsh on every
slice that people rate high. Two ways of shrinking are possible, and each looks unfair by the other's measure (Lord, "A
paradox in the interpretation of group comparisons", 1967). Where people rate slices differently, only a perfect scorer
satisfies both measures (Kleinberg, Mullainathan and Raghavan, 2016):

* Shrinking towards the mean of all photos: the mean errors of slices *differ*, but photos that people rate alike are
  scored alike. The *adjusted* difference (analysis of covariance: prediction = slope x people's mean + slice) is 0.
* Shrinking towards the slice's own mean, as a network does that makes the best use of the photo. The difference is
  then 0, and the adjusted difference is not.

A fair scorer's slice means therefore differ by between two amounts: people's own difference, and that difference
shrunk by the scorer's slope within slices. Only values outside this range count against the scorer. The
gap is thus the median of the difference, the adjusted difference and 0. Difference and adjusted difference bracket the
effect of belonging to a slice when either adjustment may be right (Ding and Li, "A bracketing relationship between
difference-in-differences and lagged-dependent-variable adjustment", 2019). Exceeding people's own difference is bias
amplification (Zhao et al., "Men also like shopping", 2017). The report shows difference and adjusted difference too.

The rule takes people's ratings as true. If raters are unfair to a slice, a scorer that learns their bias passes.

If the data set has face features, photos are also sliced by the number of faces and by the detector's confidence in
the face that is read. The confidence is lower for faces that are turned away or covered.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd

from components.evaluation.checks.metric_estimates import Estimate, Estimates
from components.evaluation.checks.predictions import Predictions
from components.scorer.metrics import bootstrap, rater_agreement, regression
from components.scorer.run.decision import GateResult, gate_outcome
from components.scorer.settings import Evaluation

SLICE_METRICS = ("srcc", "mae", "bias")
"""Metrics of each slice: rank correlation, mean absolute error and mean error."""

_MIN_PHOTOS = 10  # photos that an interval needs: resamples of fewer photos represent the population too poorly
_LOW_CONFIDENCE = 0.9  # detector confidence below which a face is "low"; 98 % of the faces on portraits exceed it
_MAX_VALUES = 20  # the most frequent values of an attribute are kept: more values are names rather than groups
_MIN_RELIABILITY = 0.25  # lower bound on the reliability of people's means within slices: below it, it is a guess


@dataclass(frozen=True)
class Slice:
    """Metrics of the photos with one value of an attribute or of crossed attributes.

    Attributes:
        attribute: Name of the attribute; crossed attributes are joined, as in ``gender*ethnicity``.
        value: Value of the attribute; "unknown" if empty; crossed values are joined, as in ``female, asian``.
        photos: Number of photos.
        judged: True if the slice and its complement both have enough photos for the gates.
        people: Mean of people's mean scores.
        scorer: Mean of the scorer's mean scores.
        metrics: Metrics of ``SLICE_METRICS``, each with its own interval.
        beside: SRCC minus the mean SRCC of the attribute's other slices; NaN if no other slice has enough photos.
        difference: Mean error minus the mean error of all other photos, in score points.
        adjusted: The difference adjusted for people's ratings (analysis of covariance), in score points.
        gap: Median of 0, ``difference`` and ``adjusted``, in score points; negative = scored too low.

    The upper ends of ``beside`` are simultaneous over all judged slices. The intervals of ``difference``,
    ``adjusted`` and ``gap`` are simultaneous too.
    """

    attribute: str
    value: str
    photos: int
    judged: bool
    people: float
    scorer: float
    metrics: Estimates
    beside: Estimate
    difference: Estimate
    adjusted: Estimate
    gap: Estimate

    @property
    def title(self) -> str:
        """Display name, as in ``gender = female``."""
        return f"{self.attribute} = {self.value}"


@dataclass(frozen=True)
class SliceResults:
    """Results of all slices.

    Attributes:
        slices: Slices in order of their attributes, the most frequent value first.
        slopes: Slope by attribute: the rise of the scorer's mean score, within slices, for one point of people's.
        fault: Reason why nothing can be measured; empty if everything can.
    """

    slices: list[Slice]
    slopes: dict[str, float]
    fault: str = ""

    @property
    def judged(self) -> list[Slice]:
        """Slices with enough photos for the gates."""
        return [item for item in self.slices if item.judged]


def check_crossings(attributes: pd.DataFrame, settings: Evaluation) -> None:
    """Raise ValueError if a crossing names an unknown attribute or fewer than two attributes.

    Args:
        attributes: Table with one column for each attribute.
        settings: Evaluation settings; ``crossings`` is read.

    Raises:
        ValueError: A crossing is wrong. The message lists the known attributes.
    """
    for crossing in settings.crossings:
        names, known = _crossed_names(crossing), [str(name) for name in attributes]
        if len(set(names)) < 2 or not set(names) <= set(known):
            raise ValueError(
                f'crossings must name two attributes or more, as in "gender*ethnicity", among {known}; got {crossing!r}'
            )


def slicing_attributes(predictions: Predictions) -> pd.DataFrame:
    """Return the attributes to slice by, with columns ``faces`` and ``face confidence`` if face features are known.

    A data set attribute with one of these two names replaces the derived column.
    """
    faces = predictions.faces
    if "face_count" not in faces:
        return predictions.attributes
    derived = {
        "faces": faces["face_count"].clip(0, 2).map({0: "none", 1: "one", 2: "several"}),
        "face confidence": np.select(
            [faces["face_count"] == 0, faces["face_confidence"] < _LOW_CONFIDENCE], ["no face", "low"], "high"
        ),
    }
    added = {name: values for name, values in derived.items() if name not in predictions.attributes}
    return predictions.attributes.assign(**added)


def measure_slices(predictions: Predictions, settings: Evaluation) -> SliceResults:
    """Measure the scorer on each value of each attribute and crossing, at most the twenty most frequent values.

    Intervals are bootstrap intervals over photos; all slices share the draws. The intervals that the gates read are
    corrected for the number of slices by single-step maxT: the largest studentised deviation of each draw (Westfall
    and Young, "Resampling-based multiple testing", 1993). Unlike Bonferroni's or Holm's correction, maxT exploits
    slices that overlap or mirror each other, and yields intervals.

    Args:
        predictions: Predictions on the test split.
        settings: Evaluation settings: crossings, smallest slice, resamples, confidence and seed.

    Raises:
        ValueError: A crossing is wrong, as for ``check_crossings``.
    """
    attributes = slicing_attributes(predictions)
    check_crossings(attributes, settings)
    photos = _SliceSums.from_predictions(predictions)
    partitions = _partitions(attributes, settings.crossings)
    fault = regression.why_undefined(photos.truth, photos.predicted)
    if not partitions:
        return SliceResults([], {}, fault)
    ones = np.ones((1, len(photos.truth)))
    estimates = _measure(photos, partitions, ones)
    draws = {name: values[:0] for name, values in estimates.items()}
    if not fault:
        clusters = bootstrap.group_indices(predictions.groups, len(photos.truth))
        redraws = bootstrap.resample_counts(clusters, settings.bootstrap, settings.seed)
        measured = [_measure(photos, partitions, weights) for weights in redraws]
        draws = {name: np.concatenate([block[name] for block in measured]) for name in estimates}
    slopes = {partition.name: float(_slope(photos.sums(partition, ones))[0]) for partition in partitions}
    return SliceResults(_build_slices(photos, partitions, estimates, draws, settings), slopes, fault)


def gates(slices: SliceResults, settings: Evaluation) -> list[GateResult]:
    """Return the gate on the lowest SRCC of a slice and the gate on the largest score gap.

    Both gates rule out chance, since among many small slices one always looks bad. Of twelve slices of 30 photos with
    a true SRCC of .6, the lowest measures below .3 in one evaluation of three.

    A slice fails the floor gate if its SRCC is below the threshold and chance is ruled out: the upper end of its
    interval is below the threshold too, or its SRCC is certainly below that of the attribute's other slices. Without
    other slices of enough photos, the SRCC alone decides. A slice fails the gap gate if its gap is too large and the
    corrected interval excludes 0.
    """
    return [_floor_gate(slices, settings), _gap_gate(slices, settings)]


def _floor_gate(slices: SliceResults, settings: Evaluation) -> GateResult:
    def gate(passed: bool, reason: str, value: float = math.nan) -> GateResult:
        return GateResult("slice_floor", "Ranks photos of every slice", "lowest SRCC of a slice", value,
                    settings.minimum_slice_srcc, gate_outcome(passed), reason)  # fmt: skip

    if not slices.judged:
        return gate(True, _nothing_to_judge(slices, settings))
    undefined = [item for item in slices.judged if not math.isfinite(item.metrics["srcc"].value)]
    if undefined:
        why = slices.fault or "within it people or the scorer score all alike"
        title = undefined[0].title
        return gate(False, f"the SRCC of {title} could not be computed ({why}), and a missing metric fails.")
    order = sorted(slices.judged, key=lambda item: item.metrics["srcc"].value)
    below = [item for item in order if item.metrics["srcc"].value < settings.minimum_slice_srcc]
    certain = [item for item in below if _ranked_worse(item, settings)]
    worst = (certain or order)[0]
    srcc = worst.metrics["srcc"]
    sentence = (
        f"of {_count_slices(len(order))}, {worst.title} has {'an' if certain else 'the lowest'} SRCC of"
        f" {srcc.value:.3f} ({srcc.interval(settings.confidence)} on {worst.photos:,} photos); it has to be at least"
        f" {settings.minimum_slice_srcc:g}"
    )
    if certain:
        return gate(False, f"{sentence}, and chance is ruled out.{_others_failing(certain)}", srcc.value)
    chance = ", which so few photos may miss by chance" if below else ""
    return gate(True, f"{sentence}{chance}.{_not_judged_note(slices, settings)}", srcc.value)


def _gap_gate(slices: SliceResults, settings: Evaluation) -> GateResult:
    def gate(passed: bool, reason: str, value: float = math.nan) -> GateResult:
        return GateResult("slice_gap", "Scores no slice too low or too high", "largest gap of a slice, points", value,
                    settings.maximum_slice_gap, gate_outcome(passed), reason)  # fmt: skip

    if not slices.judged:
        return gate(True, _nothing_to_judge(slices, settings))
    if slices.fault or not all(math.isfinite(item.gap.value) for item in slices.judged):
        why = slices.fault or "within slices people score all alike"
        return gate(False, f"gaps between slices could not be computed ({why}), and a missing metric fails.")
    # Two slices that mirror each other have equal gaps: the slice that is scored too low comes first.
    order = sorted(slices.judged, key=lambda item: (-round(abs(item.gap.value), 9), item.gap.value))
    beyond = [item for item in order if abs(item.gap.value) > settings.maximum_slice_gap]
    certain = [item for item in beyond if _excludes_zero(item.gap)]
    if certain:
        reason = (
            f"{certain[0].title} is scored {_gap_text(certain[0], len(order), settings)}; at most"
            f" {settings.maximum_slice_gap:g} is allowed, and chance is ruled out.{_others_failing(certain)}"
        )
        return gate(False, reason, certain[0].gap.value)
    if beyond:
        reason = (
            f"{beyond[0].title} is scored {_gap_text(beyond[0], len(order), settings)}; that is more than the"
            f" {settings.maximum_slice_gap:g} allowed, but may be chance: about {_photos_needed(beyond[0]):,} photos"
            " of it would tell."
        )
    else:
        reason = (
            f"the largest gap of {_count_slices(len(order))} is that of {order[0].title}, scored"
            f" {_gap_text(order[0], len(order), settings)}; at most {settings.maximum_slice_gap:g} is allowed."
        )
    return gate(True, reason + _adjusted_note(order, settings) + _not_judged_note(slices, settings), order[0].gap.value)


def _ranked_worse(item: Slice, settings: Evaluation) -> bool:
    """Return whether chance is ruled out for a slice below the floor, by its interval or by the other slices."""
    if item.metrics["srcc"].high < settings.minimum_slice_srcc:
        return True
    return not math.isfinite(item.beside.value) or item.beside.high < 0


def _others_failing(failing: Sequence[Slice]) -> str:
    more = len(failing) - 1
    return f" So it is with {_count_slices(more)} more." if more else ""


def _gap_text(item: Slice, judged: int, settings: Evaluation) -> str:
    side = "too low" if item.gap.value < 0 else "too high"
    return (
        f"{abs(item.gap.value):.2f} points {side} beside all others, people's ratings allowed for"
        f" ({100 * settings.confidence:g} % interval {item.gap.low:+.2f} to {item.gap.high:+.2f}, corrected for"
        f" {_count_slices(judged)}, on {item.photos:,} photos)"
    )


def _photos_needed(item: Slice) -> int:
    """Return the photos needed for the interval of this gap to exclude 0; its width falls with their square root."""
    relative_width = max(
        (estimate.high - estimate.low) / 2 / abs(estimate.value) for estimate in (item.difference, item.adjusted)
    )
    return 10 * math.ceil(item.photos * relative_width**2 / 10)


def _adjusted_note(slices: Sequence[Slice], settings: Evaluation) -> str:
    """Return a note on the lowest certain adjusted difference, which alone fails no gate; empty if there is none."""
    certain = [
        item
        for item in slices
        if abs(item.adjusted.value) > settings.maximum_slice_gap and _excludes_zero(item.adjusted)
    ]
    if not certain:
        return ""
    lowest = min(certain, key=lambda item: item.adjusted.value)
    side = "lower" if lowest.adjusted.value < 0 else "higher"
    return (
        f" To be known: among photos that people rate alike, {lowest.title} is scored {abs(lowest.adjusted.value):.2f}"
        f" points {side} than others. That is not held against the scorer, as its mean error there is"
        f" {lowest.difference.value:+.2f} beside the others'."
    )


def _excludes_zero(estimate: Estimate) -> bool:
    return estimate.low > 0 or estimate.high < 0


def _nothing_to_judge(slices: SliceResults, settings: Evaluation) -> str:
    if not slices.slices:
        return "no attributes were given to slice the test photos by."
    return (
        f"none of {_count_slices(len(slices.slices))} can be judged: it takes {settings.minimum_slice:,} photos of a"
        " slice and as many others."
    )


def _not_judged_note(slices: SliceResults, settings: Evaluation) -> str:
    small = len(slices.slices) - len(slices.judged)
    if not small:
        return ""
    few = f"fewer than {settings.minimum_slice:,} photos, or as few others beside"
    return f" Not judged: {_count_slices(small)} with {few}."


def _count_slices(slices: int) -> str:
    return f"{slices} slice" + ("" if slices == 1 else "s")


def _crossed_names(crossing: str) -> list[str]:
    return [name.strip() for name in crossing.split("*")]


@dataclass(frozen=True)
class _Partition:
    """Photos partitioned by an attribute: indices by shown value, then the indices of all other photos."""

    name: str
    values: list[str]
    indices: list[np.ndarray]


def _partitions(attributes: pd.DataFrame, crossings: Sequence[str]) -> list[_Partition]:
    columns = {str(name): attributes[name].astype(str).replace("", "unknown") for name in attributes}
    for crossing in crossings:
        first, *rest = _crossed_names(crossing)
        columns[crossing] = columns[first].str.cat([columns[name] for name in rest], sep=", ")
    partitions = []
    for name, column in columns.items():
        shown = column.value_counts().index[:_MAX_VALUES]
        code = shown.get_indexer(column)
        indices = [np.flatnonzero(code == number) for number in (*range(len(shown)), -1)]
        partitions.append(_Partition(name, list(shown), indices))
    return partitions


@dataclass(frozen=True)
class _SliceSums:
    """Mean scores of the photos, [n], and the terms that ``_measure`` sums over photos, [n, 8]."""

    truth: np.ndarray
    predicted: np.ndarray
    terms: np.ndarray

    @classmethod
    def from_predictions(cls, predictions: Predictions) -> "_SliceSums":
        truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
        # Scores are centred before they are squared: large squares would lose precision.
        t, p, error = truth - truth.mean(), predicted - truth.mean(), predicted - truth
        # Variance of the mean of k votes: the sample variance (denominator k - 1) over k. It is taken as 0 for a
        # single vote, and if the number of raters is unknown for all photos.
        raters = predictions.raters
        raters = np.where(raters > 0, raters, rater_agreement.median_rater_count(raters))
        noise = np.where(raters > 1, regression.vote_deviations(predictions.truth) ** 2 / np.maximum(raters - 1, 1), 0)
        return cls(truth, predicted, np.stack([np.ones(len(t)), t, p, t * t, t * p, noise, error, abs(error)], axis=1))

    def sums(self, partition: _Partition, weights: np.ndarray) -> np.ndarray:
        """Return weighted sums over each part of a partition, [draws, parts, 8], for weights [draws, n]."""
        return np.stack([weights[:, indices] @ self.terms[indices] for indices in partition.indices], axis=1)

    def srcc(self, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weighted SRCC of the photos at these indices, [draws]."""
        return bootstrap.weighted_srcc(self.truth[indices], self.predicted[indices], weights[:, indices])


def _measure(photos: _SliceSums, partitions: Sequence[_Partition], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return values [draws, slices] by metric for each shown slice; photos count ``weights`` [draws, n] times."""
    results: dict[str, list[np.ndarray]] = {name: [] for name in (*SLICE_METRICS, "beside", "difference", "adjusted")}
    for partition in partitions:
        sums = photos.sums(partition, weights)
        shown, rest = sums[:, :-1], sums.sum(axis=1, keepdims=True) - sums[:, :-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, other_mean = shown / shown[..., :1], rest / rest[..., :1]
        difference = mean - other_mean
        people, scorer, error, distance = difference[..., 1], difference[..., 2], mean[..., 6], mean[..., 7]
        srcc = np.stack([photos.srcc(indices, weights) for indices in partition.indices[:-1]], axis=1)
        results["srcc"].append(srcc)
        results["beside"].append(srcc - _mean_of_others(srcc, partition))
        results["mae"].append(distance)
        results["bias"].append(error)
        results["difference"].append(scorer - people)
        results["adjusted"].append(scorer - _slope(sums)[:, None] * people)
    return {name: np.concatenate(parts, axis=1) for name, parts in results.items()}


def _mean_of_others(srcc: np.ndarray, partition: _Partition) -> np.ndarray:
    """Return the mean SRCC of the other slices, weighted by photos, [draws, slices]; NaN if none has enough photos."""
    photos = np.array([len(indices) for indices in partition.indices[:-1]], float)
    photos = np.where((photos >= _MIN_PHOTOS) & np.isfinite(srcc), photos, 0)
    parts = photos * np.where(photos > 0, srcc, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (parts.sum(axis=1, keepdims=True) - parts) / (photos.sum(axis=1, keepdims=True) - photos)


def _slope(sums: np.ndarray) -> np.ndarray:
    """Return the slope of scorer's on people's mean scores within slices, [draws], from sums [draws, parts, 8].

    Rater noise in people's means flattens the regression (attenuation). The slope is therefore corrected by the
    reliability of the means within slices (Fuller, "Measurement error models", 1987). Without the correction a perfect
    scorer would seem to favour slices that people rate high.
    """
    n, t, p, tt, tp, noise, *_ = np.moveaxis(sums, -1, 0)
    count = np.maximum(n, 1)
    variance, covariance = (tt - t * t / count).sum(axis=1), (tp - t * p / count).sum(axis=1)
    photos, parts = n.sum(axis=1), (n > 0).sum(axis=1)
    true_variance = variance - noise.sum(axis=1) * (1 - parts / photos)
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance / np.maximum(true_variance, _MIN_RELIABILITY * variance)


def _build_slices(
    photos: _SliceSums,
    partitions: Sequence[_Partition],
    values: dict[str, np.ndarray],
    draws: dict[str, np.ndarray],
    settings: Evaluation,
) -> list[Slice]:
    """Build all slices with intervals from values [1, slices] on all photos and [draws, slices] on draws."""
    parts = [
        (partition.name, value, indices)
        for partition in partitions
        for value, indices in zip(partition.values, partition.indices[:-1], strict=True)
    ]
    judged = [min(len(indices), len(photos.truth) - len(indices)) >= settings.minimum_slice for *_, indices in parts]
    bounds = _interval_ends(values, draws, np.array(judged, bool), settings)
    slices = []
    for index, (attribute, value, indices) in enumerate(parts):

        def estimate(name: str, index: int = index, few: bool = len(indices) < _MIN_PHOTOS) -> Estimate:
            value = float(values[name][0, index])
            return Estimate(value) if few else Estimate(value, *(float(end) for end in bounds[name][:, index]))

        difference, adjusted = estimate("difference"), estimate("adjusted")
        # The median is monotone in both differences, so its interval ends are the medians of theirs.
        gap = np.median([astuple(difference), astuple(adjusted), (0.0, 0.0, 0.0)], axis=0)
        slices.append(
            Slice(
                attribute=attribute,
                value=value,
                photos=len(indices),
                judged=judged[index],
                people=float(photos.truth[indices].mean()),
                scorer=float(photos.predicted[indices].mean()),
                metrics={name: estimate(name) for name in SLICE_METRICS},
                beside=estimate("beside"),
                difference=difference,
                adjusted=adjusted,
                gap=Estimate(*gap.tolist()),
            )
        )
    return slices


def _interval_ends(
    values: dict[str, np.ndarray], draws: dict[str, np.ndarray], judged: np.ndarray, settings: Evaluation
) -> dict[str, np.ndarray]:
    """Return interval ends, [2, slices] by metric; those that the gates read are corrected for multiplicity."""
    slices = len(judged)
    bounds = {
        name: np.array(
            [bootstrap.percentile_interval(draws[name][:, index], settings.confidence) for index in range(slices)]
        ).T
        for name in SLICE_METRICS
    }
    # The gate reads only the upper end of ``beside``: this one end may err as often as both ends of a gap together.
    families = {("beside",): 2 * settings.confidence - 1, ("difference", "adjusted"): settings.confidence}
    for names, confidence in families.items():
        bounds |= _simultaneous_ends({name: (values[name], draws[name]) for name in names}, judged, confidence)
    return bounds


def _simultaneous_ends(
    samples: dict[str, tuple[np.ndarray, np.ndarray]], judged: np.ndarray, confidence: float
) -> dict[str, np.ndarray]:
    """Return ends of simultaneous intervals (maxT), [2, slices] by metric, from (values [1, slices], draws)."""
    deviations = {name: draws - value for name, (value, draws) in samples.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # warns of values that are NaN in all draws, and of no draws
        scale = {name: np.nanstd(values, axis=0) for name, values in deviations.items()}
        studentised = [np.abs(values / scale[name])[:, judged] for name, values in deviations.items()]
        largest = np.nanmax(studentised, axis=(0, 2), initial=0)
        factor = np.quantile(largest, confidence) if len(largest) and judged.any() else np.nan
    return {name: value + factor * np.outer([-1, 1], scale[name]) for name, (value, _) in samples.items()}
