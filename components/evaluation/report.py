"""The page of an evaluation: the verdict first, then what it rests on."""

from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from components.evaluation.champion import Champion
from components.evaluation.gates import Decision, Gate
from components.evaluation.measurements import Estimate, Measurements
from components.evaluation.predictions import Predictions
from components.scorer import metrics
from components.scorer.page import Page, chart, gallery, mark, photo, table, text, verdict
from components.scorer.settings import Evaluation

_TEN = 10  # photos at each end of a ranking
_VECTORS = 2000  # points of a scatter kept as shapes; more are drawn as a picture to keep the page small

# Of middling brightness, and told apart by people who see no red or green (Okabe and Ito's orange and blue).
_PEOPLE, _MODEL, _CHAMPION = "#e69f00", "#1f97dc", "#8c8c8c"

_METRICS = {
    "accuracy": (
        "Accuracy",
        "photos that both call high, at or above {threshold:g}, or low",
    ),
    "lcc": ("LCC", "linear correlation of mean scores, 1 is perfect"),
    "srcc": ("SRCC", "correlation of ranks, 1 is perfect"),
    "krcc": ("KRCC", "pairs of photos ranked as by people: 1 all, 0 half, -1 none"),
    "rmse": ("RMSE", "root of the mean squared error of mean scores, points"),
    "mae": ("MAE", "mean absolute error of mean scores, points"),
    "emd": ("EMD", "mean distance of predicted from people's votes, points"),
    "bias": ("Mean error", "above 0 the scorer is kinder than people, points"),
    "spread": ("Spread", "of predictions over that of people's means"),
}
"""What people call each metric, and what it says."""


def extremes(predictions: Predictions) -> set[str]:
    """The ids of the photos that the page names."""
    rankings = _rankings(predictions).values()
    return {predictions.photo_ids[place] for best, worst in rankings for place in (*best, *worst)}


def write_report(
    file: str | Path,
    predictions: Predictions,
    measured: Measurements,
    decision: Decision,
    champion: Champion | None,
    settings: Evaluation,
    origin: Mapping[str, Any],
    ceiling: float | None,
    faces: Mapping[str, bytes],
) -> None:
    """Write the page.

    Args:
        file: where to.
        predictions: photo by photo.
        measured: the metrics.
        decision: the verdict and the gates.
        champion: the published model, if any.
        settings: of this evaluation.
        origin: of the data, the scorer and the code, by name.
        ceiling: the LCC that a perfect scorer reaches with these raters, if known.
        faces: encoded photos by id; empty to show none.
    """
    page = Page(f"Evaluation of {origin['model']}", f"{measured.photos:,} photos of the test split, each scored once.")
    ok = {"publish": True, "refused": False, "failed": None}[decision.verdict]
    page.section("", verdict(ok, decision.summary), *(text(reason) for reason in decision.reasons if not ok))
    page.section("Gates", table([_gate_row(gate) for gate in decision.gates]))
    page.section("Metrics", *_metrics(measured, champion, settings, ceiling))
    votes = champion.votes if champion else None
    page.section(
        "Scorer and people",
        gallery(
            [
                chart(_scatter(predictions), "The scorer's mean score of each photo against people's"),
                chart(
                    _distributions(predictions, votes), "How often each mean score is given, by people and by models"
                ),
            ]
        ),
    )
    if measured.slices:
        page.section("By attribute", *_by_attribute(measured))
    for who, (best, worst) in _rankings(predictions).items():
        ends = [_photos(predictions, best, faces, "The ten best"), _photos(predictions, worst, faces, "The ten worst")]
        page.section(f"Best and worst by {who}", *(ends if faces else [gallery(ends)]))
    if not faces:
        page.section("", "The photos are not shown: show_photos is off, since they are people's faces.")
    page.section("Origin", table([{"what": name.replace("_", " "), "value": str(origin[name])} for name in origin]))
    page.write(file)


def _gate_row(gate: Gate) -> dict[str, Any]:
    return {
        "gate": gate.name,
        "verdict": mark({"passed": True, "failed": False}.get(gate.verdict), gate.verdict),
        "metric": gate.metric.replace("srcc", "SRCC").replace("emd", "EMD"),
        "value": gate.value,
        "threshold": gate.threshold,
        "reason": gate.reason,
    }


def _metrics(
    measured: Measurements, champion: Champion | None, settings: Evaluation, ceiling: float | None
) -> list[Markup]:
    """The table of metrics, the champion beside, what they mean and what limits them."""
    columns = {"scorer": measured.challenger, "champion": measured.champion, "difference": measured.difference}
    rows = [
        {"metric": short} | {who: _estimate(found[name]) for who, found in columns.items() if found}
        for name, (short, _) in _METRICS.items()
    ]
    meanings = [
        {"metric": short, "meaning": meaning.format(threshold=settings.accuracy_threshold)}
        for short, meaning in _METRICS.values()
    ]
    blocks = [gallery([table(rows), table(meanings)])]
    if champion is None:
        blocks.append(text("There is no champion to compare with yet."))
    elif champion.error:
        blocks.append(text(f"Without a comparison, as {champion.title} could not be scored."))
    if ceiling:
        blocks.append(
            text(f"People do not fully agree either: with these raters a perfect scorer has LCC {ceiling:.2f}.")
        )
    words = (
        f"Below each number is its {100 * settings.confidence:g} % interval over {settings.bootstrap:,} draws of"
        f" {measured.photos:,} photos with replacement; a difference is taken on the same draws."
    )
    return [*blocks, text(words)]


def _by_attribute(measured: Measurements) -> list[Markup]:
    words = (
        "A mean error above 0 says that the scorer is kinder to these photos than people are. Groups of fewer than ten"
        " photos have no interval; of an attribute with many values the twenty most frequent are shown."
    )
    tables = [
        table(
            [
                {each.attribute: each.value, "photos": each.photos}
                | {_METRICS[name][0]: _estimate(estimate) for name, estimate in each.metrics.items()}
                for each in measured.slices
                if each.attribute == attribute
            ]
        )
        for attribute in dict.fromkeys(each.attribute for each in measured.slices)
    ]
    return [text(words), gallery(tables)]


def _estimate(estimate: Estimate) -> Markup | None:
    """A value with its interval below."""
    if not np.isfinite(estimate.value):
        return None
    value, low, high = (f"{number:.3f}".replace("-", "\N{MINUS SIGN}") for number in astuple(estimate))
    ends = Markup("<small>{} to {}</small>").format(low, high) if np.isfinite(estimate.low) else ""
    return Markup('<span class="estimate">{}{}</span>').format(value, ends)


def _rankings(predictions: Predictions) -> dict[str, tuple[list[int], list[int]]]:
    """Places of the ten best photos and of the ten worst, by people and by the scorer; ties in stored order."""
    found = {}
    for who, votes in (("people", predictions.truth), ("the scorer", predictions.scorer)):
        order = np.argsort(-metrics.mean_scores(votes), kind="stable").tolist()
        found[who] = (order[:_TEN], order[::-1][:_TEN])
    return found


def _photos(predictions: Predictions, places: list[int], faces: Mapping[str, bytes], title: str) -> Markup:
    """A gallery where photos may be shown, else a table."""
    truth, predicted = metrics.mean_scores(predictions.truth), metrics.mean_scores(predictions.scorer)
    if not faces:
        rows = [
            {"photo": predictions.photo_ids[place], "people": truth[place], "scorer": predicted[place]}
            for place in places
        ]
        return table(rows, title)
    captions = [
        f"{predictions.photo_ids[place]}: people {truth[place]:.2f}, scorer {predicted[place]:.2f}" for place in places
    ]
    shown = [photo(faces[predictions.photo_ids[p]], words, 120) for p, words in zip(places, captions, strict=True)]
    return text(title) + gallery(shown)


def _scatter(predictions: Predictions) -> Figure:
    truth, predicted = metrics.mean_scores(predictions.truth), metrics.mean_scores(predictions.scorer)
    figure = Figure(figsize=(4.5, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.plot([1, 10], [1, 10], color=_CHAMPION, linewidth=1, linestyle="--", label="equal")
    many = len(truth) > _VECTORS
    axes.scatter(truth, predicted, s=6 if many else 14, alpha=0.4 if many else 0.7, color=_MODEL, linewidths=0,
                 rasterized=many)  # fmt: skip
    low, high = _range(truth, predicted)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="people's mean score", ylabel="scorer's")
    axes.set(xticks=np.arange(low, high + 1), yticks=np.arange(low, high + 1))
    axes.set_title("Each photo", fontsize=11)
    axes.legend(frameon=False, loc="upper left")
    return figure


def _distributions(predictions: Predictions, champion: np.ndarray | None) -> Figure:
    shown = [("people", predictions.truth, _PEOPLE, "-"), ("scorer", predictions.scorer, _MODEL, "-")]
    if champion is not None:
        shown.append(("champion", champion, _CHAMPION, "--"))
    means = [metrics.mean_scores(votes) for _, votes, _, _ in shown]
    low, high = _range(*means)
    edges = np.arange(low, high + 0.25, 0.25)
    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for (label, _, colour, line), values in zip(shown, means, strict=True):
        axes.hist(values[np.isfinite(values)], edges, histtype="step", linewidth=1.8, color=colour, linestyle=line,
                  label=label)  # fmt: skip
    axes.set(xlabel="mean score", ylabel="photos")
    axes.set_title("All photos", fontsize=11)
    axes.legend(frameon=False)
    return figure


def _range(*means: np.ndarray) -> tuple[float, float]:
    """Whole scores around all that is shown."""
    values = np.concatenate(means)
    values = values[np.isfinite(values)]
    if not len(values):
        return 1.0, 10.0
    return max(1.0, np.floor(values.min())), min(10.0, np.ceil(values.max() + 0.01))
