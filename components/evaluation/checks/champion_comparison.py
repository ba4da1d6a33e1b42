"""The challenger against the champion on the same photos, and the three gates that it has to pass to take its place.

Both scored the same photos, so their difference is far surer than either's own metrics: a photo that is hard for one
is mostly hard for the other. The photos are drawn again and again with replacement, the same for both, and in whole
groups (an uploader, a person) where groups have several photos; the spread of the difference over the draws is its
standard error (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 8).

A bound is the difference less or plus Student's quantile times that error, or the quantile of the draws where that
lies farther out; for correlations the error is that of Williams' test where it is the larger, as draws of few photos
understate the error of high correlations. This was chosen by simulation: on 100 photos the percentile, basic, BCa and
studentised bootstrap let through up to 9 % of the challengers that are worse by the margin, in place of 5 %. What the
gates let through and what they miss is printed by ``python -m tests.benchmarks.gate_power``.

Three gates ask three questions, each at the full level. A challenger that is worse by the margin in one metric is let
through only if it passes that metric's gate, for which the chance is at most ``significance`` whatever the other gates
say. As all of them have to be passed, no correction for several tests is due (the intersection-union test: Berger,
"Multiparameter hypothesis testing and acceptance sampling", 1982). Three gates cost power instead: an equal challenger
needs photos enough for each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from components.evaluation.checks.champion_predictions import Champion
from components.scorer.metrics import bootstrap, regression, significance
from components.scorer.metrics.significance import Williams
from components.scorer.run.decision import Gate, Outcome, outcome
from components.scorer.settings import Evaluation, GateKey

Metric = Literal["srcc", "lcc", "emd"]

COMPARED: tuple[Metric, ...] = ("srcc", "lcc", "emd")
"""What a challenger is compared by: the order of photos, their scores, their whole votes."""

POWER = 0.8
"""How often the number of photos asked for has to tell: four times in five, as is usual (Cohen, 1988, section 2.4)."""

_FEWEST = 4  # photos or groups: with fewer neither draws nor Williams' test say anything


@dataclass(frozen=True)
class Difference:
    """One metric of both on the same photos; NaN where the votes do not define a number.

    Attributes:
        challenger: its metric.
        champion: its metric.
        value: challenger minus champion. SRCC and LCC are the better the larger, EMD the smaller.
        error: standard error of the difference.
        low: lower end of its two-sided interval at ``confidence``.
        high: upper end of it.
        lower: one-sided bound: the true difference is below it with a chance of ``significance``.
        upper: the same from above.
        photos_needed: test photos on which a challenger one margin from its gate's limit passes with ``POWER``: one as
            good as the champion for non-inferiority, one better by the margin for superiority. Infinite at margin 0.
        williams: test that the challenger's correlation is the larger, as if photos were independent; None for EMD.
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
    williams: Williams | None = None


@dataclass(frozen=True)
class Comparison:
    """The challenger and the champion on the same photos.

    Attributes:
        photos: how many.
        groups: of photos that were drawn together; as many as photos where each stands for itself.
        likeness: rank correlation of the two scorers' mean scores: the nearer to 1, the fewer photos tell them apart.
        srcc: of mean scores with people's, by rank.
        lcc: of mean scores with people's, linear.
        emd: of votes to people's, in score points.
        fault: why a metric of the challenger is undefined; empty when none is.
        champion_fault: the same of the champion.
    """

    photos: int
    groups: int
    likeness: float
    srcc: Difference
    lcc: Difference
    emd: Difference
    fault: str = ""
    champion_fault: str = ""

    @property
    def differences(self) -> dict[Metric, Difference]:
        """By metric, in the order in which people read them."""
        return {metric: getattr(self, metric) for metric in COMPARED}


def compare(
    truth: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    settings: Evaluation,
    groups: Sequence[str] | None = None,
) -> Comparison:
    """Compare two scorers by a bootstrap that draws the same photos for both.

    Args:
        truth: float [n, 10], people's votes.
        challenger: float [n, 10], its votes on the same photos in the same order.
        champion: float [n, 10], its votes likewise.
        settings: resamples, seed, confidence, significance and margins.
        groups: n labels; photos with the same one are drawn together. "" or no labels: each photo for itself.

    Raises:
        ValueError: the shapes differ or are not [n, 10], or there are labels for more or fewer photos.
    """
    labels = () if groups is None else groups
    photos, units = len(truth), int(bootstrap.cluster(labels, len(truth)).max(initial=-1)) + 1
    ours, theirs, each_other = (
        regression.all(one, other) for one, other in ((truth, challenger), (truth, champion), (challenger, champion))
    )
    our_draws, their_draws = (
        bootstrap.bootstrap(
            truth, votes, resamples=settings.bootstrap, seed=settings.seed, names=COMPARED, groups=labels
        )
        for votes in (challenger, champion)
    )

    def difference(metric: Metric) -> Difference:
        williams = None
        if metric != "emd":
            williams = significance.williams(ours[metric], theirs[metric], each_other[metric], photos)
        value, draws = ours[metric] - theirs[metric], our_draws[metric] - their_draws[metric]
        error = _error(draws, units, williams)
        low, high = _ends(value, draws, error, (1 - settings.confidence) / 2, units)
        lower, upper = _ends(value, draws, error, settings.significance, units)
        return Difference(
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
        *(difference(metric) for metric in COMPARED),
        fault=_fault(truth, challenger, ours),
        champion_fault=_fault(truth, champion, theirs),
    )


def photos_needed(error: float, photos: int, distance: float, significance: float) -> float:
    """The test photos on which a true difference is told from its gate's limit with ``POWER``.

    The standard error falls with the square root of the number of photos. From s on n photos follow
    n · ((z(1 - significance) + z(POWER)) · s / distance)² photos (Chow, Shao and Wang, "Sample Size Calculations in
    Clinical Research", 2008, section 3.1, for one sample, here of paired differences). The observed difference has no
    part in it: a number that followed its chance would ask for too many photos just where a good challenger was
    unlucky (Hoenig and Heisey, "The abuse of power", 2001).

    Args:
        error: standard error of the difference on ``photos``.
        photos: that it was measured on.
        distance: of the true difference from the gate's limit, at least 0.
        significance: of the one-sided test.

    Returns:
        A whole number; NaN without an error, infinite for a distance of 0.
    """
    if not math.isfinite(error):
        return math.nan
    if not distance:
        return math.inf
    quantiles = stats.norm.isf(significance) + stats.norm.ppf(POWER)
    return float(math.ceil(photos * (quantiles * error / distance) ** 2))


def gates(comparison: Comparison | None, champion: Champion | None, settings: Evaluation) -> list[Gate]:
    """Whether the challenger may take the champion's place.

    In both modes the first model passes these gates unopposed and must pass all the others.

    * non-inferiority: what is lost is within the margin but for a chance of ``significance``. A challenger that is
      worse by the margin passes at most that often; one that is equal passes where there are photos enough.
    * superiority: SRCC is better but for that chance; LCC and EMD are not inferior.

    Args:
        comparison: of the two; None where the champion could not be scored.
        champion: None when none was ever named.
        settings: mode, margins and significance.

    Returns:
        ``champion_srcc``, ``champion_lcc`` and ``champion_emd``.
    """
    return [_gate(metric, comparison, champion, settings) for metric in COMPARED]


_KEYS: dict[Metric, GateKey] = {"srcc": "champion_srcc", "lcc": "champion_lcc", "emd": "champion_emd"}
_NAMES: dict[Metric, str] = {"srcc": "Ranks photos", "lcc": "Scores photos", "emd": "Votes"}


def _gate(metric: Metric, comparison: Comparison | None, champion: Champion | None, settings: Evaluation) -> Gate:
    superior, margin = _superior(metric, settings), _margin(metric, settings)
    side, limit = ("upper", margin) if metric == "emd" else ("lower", 0.0 if superior else -margin)

    def gate(verdict: Outcome, reason: str, bound: float = math.nan) -> Gate:
        name = f"{_NAMES[metric]} {'better' if superior else 'no worse'} than the champion"
        what = f"{side} bound of the difference in {metric.upper()}"
        return Gate(_KEYS[metric], name, what, bound, limit, verdict, reason)

    if champion is None:
        return gate("passed", "there is no champion yet; the first model passes unopposed and must pass all others.")
    if champion.error:
        return gate("not judged", f"{champion.title} could not be scored: {champion.error}")
    if comparison is None:
        return gate("not judged", f"{champion.title} was not scored.")
    found = comparison.differences[metric]
    if not math.isfinite(found.champion):
        why = comparison.champion_fault
        return gate("not judged", f"the {metric.upper()} of {champion.title} could not be computed ({why}).")
    if not math.isfinite(found.challenger):
        why = comparison.fault
        return gate("failed", f"its {metric.upper()} could not be computed ({why}), and a missing metric fails.")
    if not math.isfinite(found.error):
        return gate("failed", f"the test split of {comparison.photos} is too small to say how sure a difference is.")

    bound = found.upper if metric == "emd" else found.lower
    passed = bound <= limit if metric == "emd" else bound > limit if superior else bound >= limit
    sentence = _figures(metric, comparison, champion, settings) + "; " + _held_against(metric, found, settings)
    return gate(outcome(passed), sentence + _remark(metric, comparison, passed, settings), bound)


def _figures(metric: Metric, comparison: Comparison, champion: Champion, settings: Evaluation) -> str:
    found = comparison.differences[metric]
    grouped = comparison.groups < comparison.photos
    where = f"the same {comparison.photos:,} photos" + (f" of {comparison.groups:,} groups" if grouped else "")
    # Williams' test takes photos as independent, which those of one group are not.
    told = found.williams and math.isfinite(found.williams.p) and not grouped
    test = f", Williams' one-sided p {found.williams.p:.2g}" if told else ""
    return (
        f"{metric.upper()} {found.challenger:.3f} against {found.champion:.3f} of {champion.title} on {where}, "
        f"{found.value:+.4f} ({100 * settings.confidence:g} % interval {found.low:+.4f} to {found.high:+.4f}{test})"
    )


def _held_against(metric: Metric, found: Difference, settings: Evaluation) -> str:
    sure = f"with {100 * (1 - settings.significance):g} % confidence the difference is"
    if metric == "emd":
        return f"{sure} at most {found.upper:+.4f}, and it has to be at most {_margin(metric, settings):+g}"
    has_to_be = "above 0" if _superior(metric, settings) else f"at least {-_margin(metric, settings):+g}"
    return f"{sure} at least {found.lower:+.4f}, and it has to be {has_to_be}"


def _remark(metric: Metric, comparison: Comparison, passed: bool, settings: Evaluation) -> str:
    """What the figures mean where that is not plain: a real loss that passes, or photos that cannot tell."""
    found, margin, superior = comparison.differences[metric], _margin(metric, settings), _superior(metric, settings)
    if passed:
        worse = found.low > 0 if metric == "emd" else found.high < 0
        return ". What is lost is within the margin, but it is no chance." if worse else "."
    gain = -found.value if metric == "emd" else found.value
    if gain <= 0 if superior else gain < -margin:
        return "."
    if not margin:
        return ". No number of photos can show that nothing at all is lost: that needs a margin above 0."
    other = f"a scorer that is better by {margin:g}" if superior else "a scorer as good as the champion"
    if found.photos_needed <= comparison.photos:
        return f". {other.capitalize()} passes on so many photos four times in five, so this one is hardly that."
    return (
        f". These photos cannot tell: {other} passes four times in five only with about"
        f" {_rounded_up(found.photos_needed):,} test photos."
    )


def _superior(metric: Metric, settings: Evaluation) -> bool:
    return metric == "srcc" and settings.champion_mode == "superiority"


def _margin(metric: Metric, settings: Evaluation) -> float:
    return settings.champion_margin_emd if metric == "emd" else settings.champion_margin


def _error(draws: np.ndarray, units: int, williams: Williams | None) -> float:
    """The standard error of a difference from its draws; NaN where they say nothing about what was not drawn."""
    defined = draws[np.isfinite(draws)]
    if units < _FEWEST or len(defined) < 2:
        return math.nan
    return float(np.fmax(defined.std(ddof=1), williams.error if williams else 0.0))


def _ends(value: float, draws: np.ndarray, error: float, tail: float, units: int) -> tuple[float, float]:
    """Bounds that the true difference passes with a chance of ``tail`` each; NaN without an error."""
    if not math.isfinite(error):
        return math.nan, math.nan
    reach = float(stats.t.isf(tail, units - 1)) * error
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return min(value - reach, float(low)), max(value + reach, float(high))


def _fault(truth: np.ndarray, predicted: np.ndarray, found: dict[str, float]) -> str:
    """Why one of the metrics found is undefined; empty when none is."""
    if all(math.isfinite(found[metric]) for metric in COMPARED):
        return ""
    if len(truth) < 2:
        return "there are too few photos"
    if not np.isfinite(regression.mean_scores(predicted)).all():
        return "a prediction is no number"
    return "every photo gets the same score" if math.isfinite(found["spread"]) else "people's mean scores do not vary"


def _rounded_up(photos: float) -> int:
    """To two digits: more would promise too much."""
    step = 10 ** max(math.floor(math.log10(max(photos, 1))) - 1, 0)
    return math.ceil(photos / step) * step
