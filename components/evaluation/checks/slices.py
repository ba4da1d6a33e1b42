"""Whom a scorer serves worse: its metrics by attribute, and the slices that it scores too low or too high.

A slice is scored too low by how much its mean error falls below that of all other photos, after allowing for people's
own ratings. What is to be allowed is the difficulty: a scorer that knows little keeps to the middle, and then it is
harsh on all whom people rate high. There are two ways of keeping to the middle, and each looks unfair by the other's
measure (Lord, "A paradox in the interpretation of group comparisons", 1967; no scorer short of a perfect one satisfies
both where people rate slices differently: Kleinberg, Mullainathan and Raghavan, 2016):

* towards the mean of all photos: the mean errors of slices then *differ*, but photos that people rate alike are scored
  alike, so that the *adjusted* difference (of analysis of covariance: prediction = slope x people's mean + slice) is 0;
* towards the slice's own mean, as a network does that makes the best of what the photo shows: then the difference is
  0, and the adjusted one is not.

Without unfairness, a slice's mean prediction thus differs from the others' by as much as people's means do, or by that
shrunk as the scorer shrinks differences within slices, or by something between. Only what lies outside is held against
the scorer: to set a slice further down than people do, or to lift it less than it lifts anybody. That is the middle one
of the difference, the adjusted difference and 0. The two are the bounds between which the effect of belonging to a
slice lies when either may be the right allowance (Ding and Li, "A bracketing relationship between
difference-in-differences and lagged-dependent-variable adjustment", 2019); to go beyond what people do is what Zhao et
al. ("Men also like shopping", 2017) call to amplify a bias. Both are shown all the same.

The rule takes people's ratings for what they are. Where raters are unfair to a slice, a scorer that learns it of them
passes.

Where the data set says where faces are, photos are sliced by their number, too, and by how sure the detector is of the
one that is read: it is less so of faces that are turned away or covered.
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
from components.scorer.run.decision import Gate, outcome
from components.scorer.settings import Evaluation

SLICED = ("srcc", "mae", "bias")
"""What is measured by attribute: whether photos are ranked, how far off, and to which side."""

_FEWEST = 10  # photos for an interval: resamples of fewer know too little of what was not seen
_UNSURE = 0.9  # of the detector's confidence: it is surer of 98 % of the faces on portraits
_VALUES = 20  # of an attribute, the most frequent: more are names rather than groups
_LEAST_RELIABILITY = 0.25  # of people's means within slices; where it is said to be less, correcting for it is a guess


@dataclass(frozen=True)
class Slice:
    """The scorer on the photos with one value of an attribute, or of several that are crossed.

    Attributes:
        attribute: its name; of crossed ones ``gender*ethnicity``.
        value: "unknown" where it is empty; of crossed ones ``female, asian``.
        photos: how many.
        judged: whether there are enough of them, and of others, to judge by.
        people: their mean of people's means.
        scorer: their mean of the scorer's.
        metrics: those of ``SLICED``, each with an interval of its own.
        beside: their SRCC less the mean SRCC of the attribute's other slices; NaN where there is none of a fair size.
        difference: their mean error less that of all other photos, in score points.
        adjusted: the same at equal opinion of people.
        gap: how far the slice is scored too low (below 0) or too high, whichever of the two is allowed for.

    The upper ends of ``beside`` hold together for all judged slices, and so do the intervals of ``difference``,
    ``adjusted`` and ``gap``.
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
        """What people call it."""
        return f"{self.attribute} = {self.value}"


@dataclass(frozen=True)
class Slices:
    """All slices.

    Attributes:
        slices: by attribute, the most frequent value first.
        slopes: by attribute, how many points the scorer's mean rises within a slice where people's rises by one.
        fault: why nothing can be measured; empty when it can.
    """

    slices: list[Slice]
    slopes: dict[str, float]
    fault: str = ""

    @property
    def judged(self) -> list[Slice]:
        """Those that the gates judge."""
        return [each for each in self.slices if each.judged]


def check(attributes: pd.DataFrame, settings: Evaluation) -> None:
    """Refuse crossings of attributes that there are not.

    Args:
        attributes: a column an attribute.
        settings: with ``crossings``.

    Raises:
        ValueError: names the attributes that there are.
    """
    for crossing in settings.crossings:
        names, there = _crossed(crossing), [str(name) for name in attributes]
        if len(set(names)) < 2 or not set(names) <= set(there):
            raise ValueError(
                f'crossings must name two attributes or more, as in "gender*ethnicity", among {there}; got {crossing!r}'
            )


def by_attribute(predictions: Predictions) -> pd.DataFrame:
    """What the photos are sliced by: their attributes, and ``faces`` and ``face confidence`` where they are known.

    An attribute of one of these names takes its place.
    """
    found = predictions.faces
    if "face_count" not in found:
        return predictions.attributes
    words = {
        "faces": found["face_count"].clip(0, 2).map({0: "none", 1: "one", 2: "several"}),
        "face confidence": np.select(
            [found["face_count"] == 0, found["face_confidence"] < _UNSURE], ["no face", "low"], "high"
        ),
    }
    new = {name: values for name, values in words.items() if name not in predictions.attributes}
    return predictions.attributes.assign(**new)


def slice_all(predictions: Predictions, settings: Evaluation) -> Slices:
    """Measure the scorer on each value of each attribute and of each crossing, at most the twenty most frequent.

    Intervals are of photos drawn again and again, all slices by the same draws. Those of what the gate judges are
    corrected for the number of slices by the largest of the studentised deviations of each draw, the single-step maxT
    of Westfall and Young ("Resampling-based multiple testing", 1993): unlike Bonferroni's or Holm's
    correction it makes use of slices that overlap or mirror each other, and yields intervals.

    Args:
        predictions: of the test split.
        settings: crossings, smallest slice, resamples, confidence and seed.

    Raises:
        ValueError: see ``check``.
    """
    known = by_attribute(predictions)
    check(known, settings)
    photos = _Photos.of(predictions)
    partitions = _partitions(known, settings.crossings)
    fault = regression.why_undefined(photos.truth, photos.predicted)
    if not partitions:
        return Slices([], {}, fault)
    once = np.ones((1, len(photos.truth)))
    whole = _measure(photos, partitions, once)
    draws = {name: values[:0] for name, values in whole.items()}
    if not fault:
        of_photo = bootstrap.cluster(predictions.groups, len(photos.truth))
        drawn = bootstrap.redraws(of_photo, settings.bootstrap, settings.seed)
        parts = [_measure(photos, partitions, weights) for weights in drawn]
        draws = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    slopes = {each.name: float(_slope(photos.sums(each, once))[0]) for each in partitions}
    return Slices(_slices(photos, partitions, whole, draws, settings), slopes, fault)


def gates(slices: Slices, settings: Evaluation) -> list[Gate]:
    """Whether every slice is ranked well enough, and none scored too low or too high.

    Both rule out chance, as among many small slices one always looks bad: of twelve slices of 30 photos that are all
    ranked with an SRCC of .6, the lowest is found below .3 in one evaluation of three. A slice fails the floor when its
    SRCC is below and chance explains neither that nor, all slices considered, that others of the attribute are ranked
    better. It fails the gap when that is too large and its corrected interval excludes 0.
    """
    return [_floor(slices, settings), _gap(slices, settings)]


def _floor(slices: Slices, settings: Evaluation) -> Gate:
    def gate(passed: bool, reason: str, value: float = math.nan) -> Gate:
        return Gate("slice_floor", "Ranks photos of every slice", "lowest SRCC of a slice", value,
                    settings.minimum_slice_srcc, outcome(passed), reason)  # fmt: skip

    if not slices.judged:
        return gate(True, _nothing_to_judge(slices, settings))
    undefined = [each for each in slices.judged if not math.isfinite(each.metrics["srcc"].value)]
    if undefined:
        why = slices.fault or "within it people or the scorer score all alike"
        title = undefined[0].title
        return gate(False, f"the SRCC of {title} could not be computed ({why}), and a missing metric fails.")
    order = sorted(slices.judged, key=lambda each: each.metrics["srcc"].value)
    below = [each for each in order if each.metrics["srcc"].value < settings.minimum_slice_srcc]
    certain = [each for each in below if _ranked_worse(each, settings)]
    worst = (certain or order)[0]
    srcc = worst.metrics["srcc"]
    found = (
        f"of {_count(len(order))}, {worst.title} has {'an' if certain else 'the lowest'} SRCC of {srcc.value:.3f}"
        f" ({srcc.interval(settings.confidence)} on {worst.photos:,} photos);"
        f" it has to be at least {settings.minimum_slice_srcc:g}"
    )
    if certain:
        return gate(False, f"{found}, and chance is ruled out.{_more(certain)}", srcc.value)
    chance = ", which so few photos may miss by chance" if below else ""
    return gate(True, f"{found}{chance}.{_too_small(slices, settings)}", srcc.value)


def _gap(slices: Slices, settings: Evaluation) -> Gate:
    def gate(passed: bool, reason: str, value: float = math.nan) -> Gate:
        return Gate("slice_gap", "Scores no slice too low or too high", "largest gap of a slice, points", value,
                    settings.maximum_slice_gap, outcome(passed), reason)  # fmt: skip

    if not slices.judged:
        return gate(True, _nothing_to_judge(slices, settings))
    if slices.fault or not all(math.isfinite(each.gap.value) for each in slices.judged):
        why = slices.fault or "within slices people score all alike"
        return gate(False, f"gaps between slices could not be computed ({why}), and a missing metric fails.")
    # Of two slices that mirror each other, the one that is scored too low is the one to be named.
    order = sorted(slices.judged, key=lambda each: (-round(abs(each.gap.value), 9), each.gap.value))
    beyond = [each for each in order if abs(each.gap.value) > settings.maximum_slice_gap]
    certain = [each for each in beyond if _excludes_zero(each.gap)]
    if certain:
        reason = (
            f"{certain[0].title} is scored {_how_far(certain[0], len(order), settings)}; at most"
            f" {settings.maximum_slice_gap:g} is allowed, and chance is ruled out.{_more(certain)}"
        )
        return gate(False, reason, certain[0].gap.value)
    if beyond:
        reason = (
            f"{beyond[0].title} is scored {_how_far(beyond[0], len(order), settings)}; that is more than the"
            f" {settings.maximum_slice_gap:g} allowed, but may be chance: about {_needed(beyond[0]):,} photos of it"
            " would tell."
        )
    else:
        reason = (
            f"the largest gap of {_count(len(order))} is that of {order[0].title}, scored"
            f" {_how_far(order[0], len(order), settings)}; at most {settings.maximum_slice_gap:g} is allowed."
        )
    return gate(True, reason + _at_equal_opinion(order, settings) + _too_small(slices, settings), order[0].gap.value)


def _ranked_worse(of: Slice, settings: Evaluation) -> bool:
    """Whether chance is ruled out: of being below the floor, or of being below the attribute's other slices."""
    if of.metrics["srcc"].high < settings.minimum_slice_srcc:
        return True
    return not math.isfinite(of.beside.value) or of.beside.high < 0


def _more(failing: Sequence[Slice]) -> str:
    more = len(failing) - 1
    return f" So it is with {_count(more)} more." if more else ""


def _how_far(of: Slice, judged: int, settings: Evaluation) -> str:
    side = "too low" if of.gap.value < 0 else "too high"
    return (
        f"{abs(of.gap.value):.2f} points {side} beside all others, people's ratings allowed for"
        f" ({100 * settings.confidence:g} % interval {of.gap.low:+.2f} to {of.gap.high:+.2f}, corrected for"
        f" {_count(judged)}, on {of.photos:,} photos)"
    )


def _needed(of: Slice) -> int:
    """Photos with which a gap of this size would exclude 0: intervals narrow with the root of the photos."""
    wide = max((each.high - each.low) / 2 / abs(each.value) for each in (of.difference, of.adjusted))
    return 10 * math.ceil(of.photos * wide**2 / 10)


def _at_equal_opinion(slices: Sequence[Slice], settings: Evaluation) -> str:
    """What people should know even where it is no fault of the scorer's alone."""
    told = [
        each
        for each in slices
        if abs(each.adjusted.value) > settings.maximum_slice_gap and _excludes_zero(each.adjusted)
    ]
    if not told:
        return ""
    most = min(told, key=lambda each: each.adjusted.value)
    side = "lower" if most.adjusted.value < 0 else "higher"
    return (
        f" To be known: among photos that people rate alike, {most.title} is scored {abs(most.adjusted.value):.2f}"
        f" points {side} than others. That is not held against the scorer, as its mean error there is"
        f" {most.difference.value:+.2f} beside the others'."
    )


def _excludes_zero(estimate: Estimate) -> bool:
    return estimate.low > 0 or estimate.high < 0


def _nothing_to_judge(slices: Slices, settings: Evaluation) -> str:
    if not slices.slices:
        return "no attributes were given to slice the test photos by."
    return (
        f"none of {_count(len(slices.slices))} can be judged: it takes {settings.minimum_slice:,} photos of a slice"
        " and as many others."
    )


def _too_small(slices: Slices, settings: Evaluation) -> str:
    small = len(slices.slices) - len(slices.judged)
    if not small:
        return ""
    return f" Not judged: {_count(small)} with fewer than {settings.minimum_slice:,} photos, or as few others beside."


def _count(slices: int) -> str:
    return f"{slices} slice" + ("" if slices == 1 else "s")


def _crossed(crossing: str) -> list[str]:
    return [name.strip() for name in crossing.split("*")]


@dataclass(frozen=True)
class _Partition:
    """The photos parted by an attribute: places of each shown value's photos, and last those of all the others."""

    name: str
    values: list[str]
    places: list[np.ndarray]


def _partitions(attributes: pd.DataFrame, crossings: Sequence[str]) -> list[_Partition]:
    known = {str(name): attributes[name].astype(str).replace("", "unknown") for name in attributes}
    for crossing in crossings:
        first, *others = _crossed(crossing)
        known[crossing] = known[first].str.cat([known[name] for name in others], sep=", ")
    found = []
    for name, column in known.items():
        shown = column.value_counts().index[:_VALUES]
        code = shown.get_indexer(column)
        places = [np.flatnonzero(code == number) for number in (*range(len(shown)), -1)]
        found.append(_Partition(name, list(shown), places))
    return found


@dataclass(frozen=True)
class _Photos:
    """Mean scores of the photos, [n], and what is summed over them, [n, 8]: see ``_measure``."""

    truth: np.ndarray
    predicted: np.ndarray
    parts: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions) -> "_Photos":
        truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
        # From the middle of the scores, so that squares stay small beside what they are to tell apart.
        t, p, error = truth - truth.mean(), predicted - truth.mean(), predicted - truth
        # The variance of the mean of k votes: theirs, with k - 1 as denominator, over k. A single vote tells none, nor
        # do votes whose number is known of no photo.
        raters = predictions.raters
        raters = np.where(raters > 0, raters, rater_agreement.typical_raters(raters))
        noise = np.where(raters > 1, regression.deviations(predictions.truth) ** 2 / np.maximum(raters - 1, 1), 0)
        return cls(truth, predicted, np.stack([np.ones(len(t)), t, p, t * t, t * p, noise, error, abs(error)], axis=1))

    def sums(self, partition: _Partition, weights: np.ndarray) -> np.ndarray:
        """Of each part of a partition, [draws, parts, 8], for weights [draws, n]."""
        return np.stack([weights[:, here] @ self.parts[here] for here in partition.places], axis=1)

    def srcc(self, here: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Of the photos in these places, [draws]."""
        return bootstrap.weighted_srcc(self.truth[here], self.predicted[here], weights[:, here])


def _measure(photos: _Photos, partitions: Sequence[_Partition], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each shown slice of each partition on photos taken ``weights`` [draws, n] times: values [draws, slices]."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*SLICED, "beside", "difference", "adjusted")}
    for partition in partitions:
        sums = photos.sums(partition, weights)
        shown, others = sums[:, :-1], sums.sum(axis=1, keepdims=True) - sums[:, :-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, beside = shown / shown[..., :1], others / others[..., :1]
        more = mean - beside
        people, scorer, error, distance = more[..., 1], more[..., 2], mean[..., 6], mean[..., 7]
        srcc = np.stack([photos.srcc(here, weights) for here in partition.places[:-1]], axis=1)
        found["srcc"].append(srcc)
        found["beside"].append(srcc - _mean_of_others(srcc, partition))
        found["mae"].append(distance)
        found["bias"].append(error)
        found["difference"].append(scorer - people)
        found["adjusted"].append(scorer - _slope(sums)[:, None] * people)
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def _mean_of_others(srcc: np.ndarray, partition: _Partition) -> np.ndarray:
    """The mean, by photos, of the SRCC of the other slices, [draws, slices]; NaN where there is none of a fair size."""
    photos = np.array([len(here) for here in partition.places[:-1]], float)
    photos = np.where((photos >= _FEWEST) & np.isfinite(srcc), photos, 0)
    parts = photos * np.where(photos > 0, srcc, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (parts.sum(axis=1, keepdims=True) - parts) / (photos.sum(axis=1, keepdims=True) - photos)


def _slope(sums: np.ndarray) -> np.ndarray:
    """The scorer's rise where people's mean rises by a point, within slices, [draws] of sums [draws, parts, 8].

    People's means carry the raters' noise, which flattens the regression on them; the slope is corrected by their
    reliability within slices (Fuller, "Measurement error models", 1987). Otherwise a perfect scorer would
    seem to favour slices that people rate high.
    """
    n, t, p, tt, tp, noise, *_ = np.moveaxis(sums, -1, 0)
    taken = np.maximum(n, 1)
    within, together = (tt - t * t / taken).sum(axis=1), (tp - t * p / taken).sum(axis=1)
    photos, parts = n.sum(axis=1), (n > 0).sum(axis=1)
    true = within - noise.sum(axis=1) * (1 - parts / photos)
    with np.errstate(invalid="ignore", divide="ignore"):
        return together / np.maximum(true, _LEAST_RELIABILITY * within)


def _slices(
    photos: _Photos,
    partitions: Sequence[_Partition],
    whole: dict[str, np.ndarray],
    draws: dict[str, np.ndarray],
    settings: Evaluation,
) -> list[Slice]:
    """All slices with their intervals, from values [1, slices] on all photos and [draws, slices] on draws."""
    parts = [
        (each.name, value, here)
        for each in partitions
        for value, here in zip(each.values, each.places[:-1], strict=True)
    ]
    judged = [min(len(here), len(photos.truth) - len(here)) >= settings.minimum_slice for *_, here in parts]
    ends = _ends(whole, draws, np.array(judged, bool), settings)
    found = []
    for place, (attribute, value, here) in enumerate(parts):

        def estimate(name: str, place: int = place, few: bool = len(here) < _FEWEST) -> Estimate:
            value = float(whole[name][0, place])
            return Estimate(value) if few else Estimate(value, *(float(end) for end in ends[name][:, place]))

        difference, adjusted = estimate("difference"), estimate("adjusted")
        # The middle one rises with each of the two, so that its interval ends in the middle ones of theirs.
        gap = np.median([astuple(difference), astuple(adjusted), (0.0, 0.0, 0.0)], axis=0)
        found.append(
            Slice(
                attribute=attribute,
                value=value,
                photos=len(here),
                judged=judged[place],
                people=float(photos.truth[here].mean()),
                scorer=float(photos.predicted[here].mean()),
                metrics={name: estimate(name) for name in SLICED},
                beside=estimate("beside"),
                difference=difference,
                adjusted=adjusted,
                gap=Estimate(*gap.tolist()),
            )
        )
    return found


def _ends(
    whole: dict[str, np.ndarray], draws: dict[str, np.ndarray], judged: np.ndarray, settings: Evaluation
) -> dict[str, np.ndarray]:
    """The ends of the intervals, [2, slices] by name: corrected ones of what the gate judges."""
    slices = len(judged)
    found = {
        name: np.array([bootstrap.interval(draws[name][:, place], settings.confidence) for place in range(slices)]).T
        for name in SLICED
    }
    # Of ``beside`` the upper end alone is judged, so that each end may be missed as often as a gap's two together.
    families = {("beside",): 2 * settings.confidence - 1, ("difference", "adjusted"): settings.confidence}
    for together, confidence in families.items():
        found |= _ends_together({name: (whole[name], draws[name]) for name in together}, judged, confidence)
    return found


def _ends_together(
    compared: dict[str, tuple[np.ndarray, np.ndarray]], judged: np.ndarray, confidence: float
) -> dict[str, np.ndarray]:
    """The ends of intervals that hold together, [2, slices] by name, from values [1, slices] and draws of them."""
    away = {name: draws - whole for name, (whole, draws) in compared.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what is NaN in all draws, or of no draws
        scale = {name: np.nanstd(values, axis=0) for name, values in away.items()}
        studentised = [np.abs(values / scale[name])[:, judged] for name, values in away.items()]
        largest = np.nanmax(studentised, axis=(0, 2), initial=0)
        factor = np.quantile(largest, confidence) if len(largest) and judged.any() else np.nan
    return {name: whole + factor * np.outer([-1, 1], scale[name]) for name, (whole, _) in compared.items()}
