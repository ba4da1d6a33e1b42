"""Paired comparison of challenger and champion on the same photos, and the three champion gates.

Both scorers are measured on the same photos, and a photo that is hard for one scorer is mostly hard for the other.
The difference is therefore far more precise than either's own metrics. A paired cluster bootstrap draws the same
photos for both, in whole groups (an uploader, a person). The standard deviation of the difference over the draws is
the standard error (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 8).

A bound is the difference minus or plus Student's quantile times that error, or the quantile of the draws if it lies
farther out. For correlations the error of Williams' test is used if it is larger, since draws of few photos understate
the error of high correlations. This rule was chosen by simulation on 100 photos. There, the percentile, basic, BCa and
studentised bootstrap pass up to 9 % of the challengers that are worse by the margin, instead of 5 %.
``python -m tests.benchmarks.gate_power`` prints the error rates and the power of the gates.

The three gates are tests at the full level each. A challenger that is worse by the margin in one metric must still
pass that metric's gate, which happens with a chance of at most ``significance``. All gates have to be passed, so no
correction for several tests is due (intersection-union test: Berger, "Multiparameter hypothesis testing and acceptance
sampling", 1982). Three gates cost power instead: an equal challenger needs enough photos for each gate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from components.evaluation.checks.champion_predictions import ChampionPredictions
from components.scorer.metrics import bootstrap, regression, significance
from components.scorer.metrics.significance import WilliamsTest
from components.scorer.run.decision import GateOutcome, GateResult, gate_outcome
from components.scorer.settings import Evaluation, GateKey

Metric = Literal["srcc", "lcc", "emd"]

COMPARED_METRICS: tuple[Metric, ...] = ("srcc", "lcc", "emd")
"""Metrics of the comparison: rank correlation, linear correlation, and distance of the votes."""

POWER = 0.8
"""Power for which ``photos_needed`` is computed: the usual 0.8 (Cohen, 1988, section 2.4)."""

_MIN_UNITS = 4  # photos or groups: with fewer, neither the bootstrap nor Williams' test is informative


@dataclass(frozen=True)
class MetricDifference:
    """Difference of one metric between challenger and champion; undefined numbers are NaN.

    Attributes:
        challenger: Metric of the challenger.
        champion: Metric of the champion.
        value: Challenger minus champion. SRCC and LCC are better if larger, EMD if smaller.
        error: Standard error of the difference.
        low: Lower end of the two-sided interval at ``confidence``.
        high: Upper end of the two-sided interval at ``confidence``.
        lower: One-sided lower bound: the true difference is below it with a chance of ``significance``.
        upper: One-sided upper bound: the true difference is above it with a chance of ``significance``.
        photos_needed: Test photos on which a challenger one margin from its gate's limit passes with ``POWER``.
            Such a challenger equals the champion for non-inferiority, and is better by the margin for superiority.
            Infinite at margin 0.
        williams: Williams' test that the challenger's correlation is larger, for independent photos; None for EMD.
    """

    challenger: float
    champion: float
    value: float
    error: float
    low: float
    high: float
    lower: float
    upper: float
    photos_needed: float
    williams: WilliamsTest | None = None


@dataclass(frozen=True)
class Comparison:
    """Comparison of challenger and champion on the same photos.

    Attributes:
        photos: Number of photos.
        groups: Number of groups drawn by the bootstrap; equals ``photos`` if each photo is its own group.
        likeness: Rank correlation of the two scorers' mean scores; near 1, few photos distinguish the scorers.
        srcc: Difference in the rank correlation of mean scores with people's.
        lcc: Difference in the linear correlation of mean scores with people's.
        emd: Difference in the distance between votes and people's votes, in score points.
        fault: Reason why a metric of the challenger is undefined; empty if all are defined.
        champion_fault: Reason why a metric of the champion is undefined; empty if all are defined.
    """

    photos: int
    groups: int
    likeness: float
    srcc: MetricDifference
    lcc: MetricDifference
    emd: MetricDifference
    fault: str = ""
    champion_fault: str = ""

    @property
    def differences(self) -> dict[Metric, MetricDifference]:
        """Differences by metric, in the order of ``COMPARED_METRICS``."""
        return {metric: getattr(self, metric) for metric in COMPARED_METRICS}


def compare(
    truth: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    settings: Evaluation,
    groups: Sequence[str] | None = None,
) -> Comparison:
    """Compare two scorers by a bootstrap that draws the same photos for both.

    Args:
        truth: People's votes, float [n, 10].
        challenger: Votes of the challenger on the same photos in the same order, float [n, 10].
        champion: Votes of the champion on the same photos in the same order, float [n, 10].
        settings: Evaluation settings: resamples, seed, confidence, significance and margins.
        groups: Group labels of the n photos; photos with the same label are drawn together. A photo with the label "",
            or without labels, is its own group.

    Raises:
        ValueError: The shapes differ or are not [n, 10], or the number of labels is not n.
    """
    labels = () if groups is None else groups
    photos, units = len(truth), int(bootstrap.group_indices(labels, len(truth)).max(initial=-1)) + 1
    ours, theirs, each_other = (
        regression.all_metrics(first, second)
        for first, second in ((truth, challenger), (truth, champion), (challenger, champion))
    )
    our_draws, their_draws = (
        bootstrap.bootstrap(
            truth, votes, resamples=settings.bootstrap, seed=settings.seed, names=COMPARED_METRICS, groups=labels
        )
        for votes in (challenger, champion)
    )

    def difference(metric: Metric) -> MetricDifference:
        williams = None
        if metric != "emd":
            williams = significance.williams_test(ours[metric], theirs[metric], each_other[metric], photos)
        value, draws = ours[metric] - theirs[metric], our_draws[metric] - their_draws[metric]
        error = _standard_error(draws, units, williams)
        low, high = _bounds(value, draws, error, (1 - settings.confidence) / 2, units)
        lower, upper = _bounds(value, draws, error, settings.significance, units)
        return MetricDifference(
            challenger=ours[metric],
            champion=theirs[metric],
            value=value,
            error=error,
            low=low,
            high=high,
            lower=lower,
            upper=upper,
            photos_needed=photos_needed(error, photos, _margin(metric, settings), settings.significance),
            williams=williams,
        )

    return Comparison(
        photos,
        units,
        each_other["srcc"],
        difference("srcc"),
        difference("lcc"),
        difference("emd"),
        fault=_why_undefined(truth, challenger, ours),
        champion_fault=_why_undefined(truth, champion, theirs),
    )


def photos_needed(error: float, photos: int, distance: float, significance: float) -> float:
    """Return the sample size at which the gate's one-sided test has power ``POWER``.

    The standard error falls with the square root of the number of photos. A standard error of s on n photos thus
    gives: n · ((z(1 - significance) + z(POWER)) · s / distance)² photos. The formula is that of Chow, Shao and Wang
    ("Sample Size Calculations in Clinical Research", 2008, section 3.1) for one sample, here of paired differences.
    The observed difference is not used: it would ask for too many photos exactly when a good challenger was unlucky
    (Hoenig and Heisey, "The abuse of power", 2001).

    Args:
        error: Standard error of the difference on ``photos``.
        photos: Number of photos on which ``error`` was measured.
        distance: Distance of the true difference from the gate's limit, at least 0.
        significance: Level of the one-sided test.

    Returns:
        A whole number of test photos; NaN if ``error`` is not finite, infinite if ``distance`` is 0.
    """
    if not math.isfinite(error):
        return math.nan
    if not distance:
        return math.inf
    quantiles = stats.norm.isf(significance) + stats.norm.ppf(POWER)
    return float(math.ceil(photos * (quantiles * error / distance) ** 2))


def gates(
    comparison: Comparison | None, champion: ChampionPredictions | None, settings: Evaluation
) -> list[GateResult]:
    """Return the three gates that decide whether the challenger may replace the champion.

    In both modes the first model passes these gates without a comparison and must pass all other gates.

    * non-inferiority: the loss is within the margin at level ``significance``. A challenger that is worse by the
      margin passes at most that often; an equal challenger passes if there are enough photos.
    * superiority: SRCC is better at level ``significance``; LCC and EMD are not inferior.

    Args:
        comparison: Comparison of both; None if the champion could not be scored.
        champion: The champion; None if no champion was ever named.
        settings: Evaluation settings: mode, margins and significance.

    Returns:
        The gates ``champion_srcc``, ``champion_lcc`` and ``champion_emd``.
    """
    return [_gate(metric, comparison, champion, settings) for metric in COMPARED_METRICS]


_GATE_KEYS: dict[Metric, GateKey] = {"srcc": "champion_srcc", "lcc": "champion_lcc", "emd": "champion_emd"}
_NAMES: dict[Metric, str] = {"srcc": "Ranks photos", "lcc": "Scores photos", "emd": "Votes"}


def _gate(
    metric: Metric, comparison: Comparison | None, champion: ChampionPredictions | None, settings: Evaluation
) -> GateResult:
    superior, margin = _tests_superiority(metric, settings), _margin(metric, settings)
    side, limit = ("upper", margin) if metric == "emd" else ("lower", 0.0 if superior else -margin)

    def gate(verdict: GateOutcome, reason: str, bound: float = math.nan) -> GateResult:
        name = f"{_NAMES[metric]} {'better' if superior else 'no worse'} than the champion"
        metric_name = f"{side} bound of the difference in {metric.upper()}"
        return GateResult(_GATE_KEYS[metric], name, metric_name, bound, limit, verdict, reason)

    if champion is None:
        return gate("passed", "there is no champion yet; the first model passes unopposed and must pass all others.")
    if champion.error:
        return gate("not judged", f"{champion.title} could not be scored: {champion.error}")
    if comparison is None:
        return gate("not judged", f"{champion.title} was not scored.")
    difference = comparison.differences[metric]
    if not math.isfinite(difference.champion):
        why = comparison.champion_fault
        return gate("not judged", f"the {metric.upper()} of {champion.title} could not be computed ({why}).")
    if not math.isfinite(difference.challenger):
        why = comparison.fault
        return gate("failed", f"its {metric.upper()} could not be computed ({why}), and a missing metric fails.")
    if not math.isfinite(difference.error):
        return gate("failed", f"the test split of {comparison.photos} is too small to say how sure a difference is.")

    bound = difference.upper if metric == "emd" else difference.lower
    passed = bound <= limit if metric == "emd" else bound > limit if superior else bound >= limit
    sentence = _figures_text(metric, comparison, champion, settings) + "; " + _bound_text(metric, difference, settings)
    return gate(gate_outcome(passed), sentence + _remark(metric, comparison, passed, settings), bound)


def _figures_text(metric: Metric, comparison: Comparison, champion: ChampionPredictions, settings: Evaluation) -> str:
    result = comparison.differences[metric]
    grouped = comparison.groups < comparison.photos
    where = f"the same {comparison.photos:,} photos" + (f" of {comparison.groups:,} groups" if grouped else "")
    # Williams' test assumes independent photos; photos of one group are not independent.
    p_value = result.williams.p if result.williams and not grouped else math.nan
    test = f", Williams' one-sided p {p_value:.2g}" if math.isfinite(p_value) else ""
    return (
        f"{metric.upper()} {result.challenger:.3f} against {result.champion:.3f} of {champion.title} on {where}, "
        f"{result.value:+.4f} ({100 * settings.confidence:g} % interval {result.low:+.4f} to {result.high:+.4f}{test})"
    )


def _bound_text(metric: Metric, difference: MetricDifference, settings: Evaluation) -> str:
    sure = f"with {100 * (1 - settings.significance):g} % confidence the difference is"
    if metric == "emd":
        return f"{sure} at most {difference.upper:+.4f}, and it has to be at most {_margin(metric, settings):+g}"
    has_to_be = "above 0" if _tests_superiority(metric, settings) else f"at least {-_margin(metric, settings):+g}"
    return f"{sure} at least {difference.lower:+.4f}, and it has to be {has_to_be}"


def _remark(metric: Metric, comparison: Comparison, passed: bool, settings: Evaluation) -> str:
    """Return a remark on a certain loss that passes, or on a gate that failed for lack of photos."""
    difference, margin, superior = (
        comparison.differences[metric],
        _margin(metric, settings),
        _tests_superiority(metric, settings),
    )
    if passed:
        worse = difference.low > 0 if metric == "emd" else difference.high < 0
        return ". What is lost is within the margin, but it is no chance." if worse else "."
    gain = -difference.value if metric == "emd" else difference.value
    if gain <= 0 if superior else gain < -margin:
        return "."
    if not margin:
        return ". No number of photos can show that nothing at all is lost: that needs a margin above 0."
    alternative = f"a scorer that is better by {margin:g}" if superior else "a scorer as good as the champion"
    if difference.photos_needed <= comparison.photos:
        return f". {alternative.capitalize()} passes on so many photos four times in five, so this one is hardly that."
    return (
        f". These photos cannot tell: {alternative} passes four times in five only with about"
        f" {_round_up(difference.photos_needed):,} test photos."
    )


def _tests_superiority(metric: Metric, settings: Evaluation) -> bool:
    return metric == "srcc" and settings.champion_mode == "superiority"


def _margin(metric: Metric, settings: Evaluation) -> float:
    return settings.champion_margin_emd if metric == "emd" else settings.champion_margin


def _standard_error(draws: np.ndarray, units: int, williams: WilliamsTest | None) -> float:
    """Return the standard error of a difference from its draws; NaN for fewer than ``_MIN_UNITS`` units or 2 draws."""
    defined = draws[np.isfinite(draws)]
    if units < _MIN_UNITS or len(defined) < 2:
        return math.nan
    return float(np.fmax(defined.std(ddof=1), williams.error if williams else 0.0))


def _bounds(value: float, draws: np.ndarray, error: float, tail: float, units: int) -> tuple[float, float]:
    """Return a lower and an upper bound, each missed with a chance of ``tail``; NaN without an error."""
    if not math.isfinite(error):
        return math.nan, math.nan
    half_width = float(stats.t.isf(tail, units - 1)) * error
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return min(value - half_width, float(low)), max(value + half_width, float(high))


def _why_undefined(truth: np.ndarray, predicted: np.ndarray, metrics: dict[str, float]) -> str:
    """Return why one of the metrics is undefined; empty if all are defined."""
    if all(math.isfinite(metrics[metric]) for metric in COMPARED_METRICS):
        return ""
    if len(truth) < 2:
        return "there are too few photos"
    if not np.isfinite(regression.mean_scores(predicted)).all():
        return "a prediction is no number"
    return "every photo gets the same score" if math.isfinite(metrics["spread"]) else "people's mean scores do not vary"


def _round_up(photos: float) -> int:
    """Round a number of photos up to two significant digits: more digits would claim too much precision."""
    step = 10 ** max(math.floor(math.log10(max(photos, 1))) - 1, 0)
    return math.ceil(photos / step) * step
