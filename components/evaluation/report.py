"""The page of an evaluation: the verdict first, then the gates, then what they rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from components.evaluation import charts
from components.evaluation.charts import Row
from components.evaluation.checks.champion_comparison import Difference
from components.evaluation.checks.job_and_norms import Told
from components.evaluation.checks.metric_estimates import Estimate
from components.evaluation.checks.predictions import Records
from components.evaluation.checks.rater_ceiling import Ceiling
from components.evaluation.checks.slices import Slice
from components.evaluation.example_photos import Faces, gather, rankings
from components.evaluation.results import Findings
from components.scorer.artifacts.bundle import Bundle
from components.scorer.fit.checkpoints import best_epoch
from components.scorer.metrics import regression
from components.scorer.report import learning_curves
from components.scorer.report.page import Page, chart, gallery, mark, pair, photo, table, text, verdict
from components.scorer.run.decision import Decision, Gate
from components.scorer.settings import Evaluation
from components.scorer.upload_norms.accuracy import Judgement

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

_SIDE = 112  # pixels of a photo on the page


def write_report(
    file: str | Path,
    found: Findings,
    decision: Decision,
    scorer: Bundle,
    records: Records,
    settings: Evaluation,
    about: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        file: where to.
        found: all that was found out.
        decision: the verdict and the gates.
        scorer: the challenger, for what it looks at and how it learnt.
        records: of the test split, for photos that may be shown.
        settings: of this evaluation.
        about: the run, the data, the scorer and the code, by name.
    """
    faces = gather(found, scorer, records, settings)
    page = Page(f"Evaluation of {about['model']}", f"{found.measured.photos:,} photos of the test split.")
    page.section("", *_verdict(decision))
    # What did not pass comes first; the others keep their order.
    page.section("Gates", table([_gate_row(gate) for gate in sorted(decision.gates, key=_passed)]))
    page.section("Metrics", *_metrics(found, settings))
    page.section("Scorer and people", *_agreement(found))
    if found.comparison:
        page.section("Against the champion", *_against(found, settings))
    if found.slices.slices:
        page.section("By attribute", *_by_attribute(found.slices.slices, settings))
    if found.told.effects:
        page.section("With the job told", *_told_the_job(found.told, settings))
    page.section("Upload norms", *_norms(found.told.norms))
    page.section("On changed photos", *_behaviour(found, faces, settings, bool(scorer.sight)))
    page.section("As it is served", *_serving(found))
    page.section("Faces", text(scorer.reads))
    page.section("Learning curves", *_learning(scorer))
    if faces.heat:
        page.section("Photos", "Beside each photo: orange places raise its score, purple ones lower it.")
    for title, places in rankings(found).items():
        page.section(title, *_photos(found, places, faces, moved="champion" in title))
    if not settings.show_photos:
        page.section("", "The photos are not shown: show_photos is off, since they are people's faces.")
    page.section("Origin", table([{"what": name.replace("_", " "), "value": str(about[name])} for name in about]))
    page.write(file)


def _verdict(decision: Decision) -> list[Markup]:
    ok = {"publish": True, "refused": False}.get(decision.verdict)
    blocks = [verdict(ok, decision.summary), *(text(reason) for reason in decision.reasons)]
    if decision.warnings:
        blocks.append(text("Warnings, which do not keep it from being published:"))
        blocks += [text(warning) for warning in decision.warnings]
    return blocks


def _passed(gate: Gate) -> bool:
    return gate.verdict == "passed"


def _gate_row(gate: Gate) -> dict[str, Any]:
    ok = {"passed": True, "failed": False}.get(gate.verdict)
    warns = gate.severity == "warn" and not ok
    return {
        "gate": gate.name,
        "verdict": mark(None, "warns") if warns else mark(ok, gate.verdict),
        "reason": gate.reason,
        "key": gate.key,
    }


def _metrics(found: Findings, settings: Evaluation) -> list[Markup]:
    """The table of metrics, the champion and people beside, and what they mean."""
    measured = found.measured
    columns = {"scorer": measured.challenger, "champion": measured.champion, "difference": measured.difference}
    rows = [
        {"metric": short}
        | {who: _estimate(values[name]) for who, values in columns.items() if values}
        | _people(found.ceiling, name)
        for name, (short, _) in _METRICS.items()
    ]
    meanings = [
        {"metric": short, "meaning": meaning.format(threshold=settings.accuracy_threshold)}
        for short, meaning in _METRICS.values()
    ]
    blocks = [table(rows)]
    if found.champion is None:
        blocks.append(text("There is no champion to compare with yet."))
    elif found.champion.error:
        blocks.append(text(f"Without a comparison, as {found.champion.title} could not be scored."))
    if found.ceiling:
        blocks.append(
            text(
                f"People do not fully agree either ({found.ceiling.raters:.0f} of them a photo). The ceiling is what a"
                " scorer reaches that knows every photo's true mean, from halves of the raters (Spearman-Brown);"
                " one human is a single rater against the mean of the others."
            )
        )
    words = (
        f"Below each number is its {100 * settings.confidence:g} % interval over {settings.bootstrap:,} draws of"
        f" {measured.photos:,} photos with replacement; a difference is taken on the same draws."
    )
    return [*blocks, text(words), table(meanings)]


def _people(ceiling: Ceiling | None, metric: str) -> dict[str, float | None]:
    if ceiling is None:
        return {}
    return {"one human": ceiling.human.get(metric), "ceiling": ceiling.perfect.get(metric)}


def _agreement(found: Findings) -> list[Markup]:
    votes, calibrated = found.champion.votes if found.champion else None, found.calibration
    points = [(each.predicted, each.people, each.low, each.high) for each in calibrated.bins]
    words = (
        f"Where the scorer says a point more, people say {calibrated.slope.value:.2f} more: 1 is calibrated, above 1"
        f" its scores lie too close together. It rates {100 * calibrated.outside_scorer.value:.0f} % of the photos"
        f" outside 4 to 7, people {100 * calibrated.outside_people.value:.0f} %."
    )
    return [
        gallery(
            [
                chart(charts.scatter(found.predictions, points), "Each photo's mean score by people and the scorer"),
                chart(charts.distributions(found.predictions, votes), "How often each mean score is given"),
            ]
        ),
        text(words),
    ]


def _against(found: Findings, settings: Evaluation) -> list[Markup]:
    compared = found.comparison
    differences = {"SRCC": compared.srcc, "LCC": compared.lcc, "EMD": compared.emd}
    rows = [
        Row(name, each.value, each.low, each.high)
        if name != "EMD"  # of which less is better: turned round, so that better is to the right in every row
        else Row(f"{name}, less of it", -each.value, -each.high, -each.low)
        for name, each in differences.items()
    ]
    numbers = [
        {
            "metric": name,
            "scorer": each.challenger,
            "champion": each.champion,
            "difference": _estimate(Estimate(each.value, each.low, each.high)),
            "sure to be": _bound(name, each),
            "Williams p": each.williams.p if each.williams else None,
            "photos needed": _whole(each.photos_needed),
        }
        for name, each in differences.items()
    ]
    words = (
        f"Both on the same {compared.photos:,} photos; their scores correlate {compared.likeness:.2f} by rank. Sure to"
        f" be is the bound that the true difference keeps but for a chance of {100 * settings.significance:g} %; the"
        " margins of the gates are held against it. Photos needed says on how many test photos a challenger that is"
        " equal to the champion would be told from one that is worse by the margin."
    )
    drawn = charts.forest(rows, "gain over the champion (to the right: better)")
    return [chart(drawn, "Gain over the champion with intervals"), table(numbers), text(words)]


def _bound(metric: str, difference: Difference) -> str:
    """The one-sided bound on the side that matters."""
    below, value = ("at most", difference.upper) if metric == "EMD" else ("at least", difference.lower)
    return f"{below} {value:+.3f}" if np.isfinite(value) else "unknown"


def _whole(number: float) -> str | None:
    return f"{number:,.0f}" if np.isfinite(number) else None


def _by_attribute(slices: Sequence[Slice], settings: Evaluation) -> list[Markup]:
    judged = [each for each in slices if each.judged]
    blocks = []
    if judged:
        rows = [
            Row(each.title, *astuple(each.gap), fault=abs(each.gap.value) > settings.maximum_slice_gap)
            for each in judged
        ]
        band = (-settings.maximum_slice_gap, settings.maximum_slice_gap)
        drawn = charts.forest(rows, "scored too low (below 0) or too high, score points", band)
        blocks.append(chart(drawn, "How far each slice is scored too low or too high"))
    blocks.append(
        text(
            "The gap is how far photos of a slice are scored too low or too high beside all others, after people's own"
            " ratings are allowed for; its interval is corrected for the number of slices. Same opinion compares photos"
            " that people rate alike. A mean error above 0 says that the scorer is kinder than people. Slices of fewer"
            f" than {settings.minimum_slice} photos are shown and not judged."
        )
    )
    for attribute in dict.fromkeys(each.attribute for each in slices):
        rows = [
            {
                attribute: each.value,
                "photos": each.photos,
                "people": each.people,
                "scorer": each.scorer,
                "SRCC": _estimate(each.metrics["srcc"]),
                "MAE": _estimate(each.metrics["mae"]),
                "mean error": _estimate(each.metrics["bias"]),
                "same opinion": _estimate(each.adjusted),
                "gap": _estimate(each.gap),
            }
            for each in slices
            if each.attribute == attribute
        ]
        blocks.append(table(rows))
    return blocks


def _told_the_job(told: Told, settings: Evaluation) -> list[Markup]:
    """What changes when the scorer is told the job."""
    rows = [
        {"job": each.job, "photos": each.photos, "telling it moves the score by": f"{each.moved:+.2f}",
         "people differ from the untold score by": f"{each.people:+.2f}"}
        for each in told.effects
    ]  # fmt: skip
    blocks = [text("The gates judge the scorer without the job. Told it, on the photos whose job is known:")]
    if told.comparison is None:
        blocks.append(text("too few photos to compare."))
    else:
        found = {name: getattr(told.comparison, name) for name in ("srcc", "lcc", "emd")}
        blocks.append(
            table(
                [
                    {
                        "metric": name.upper(),
                        "told": f"{each.challenger:.3f}",
                        "not told": f"{each.champion:.3f}",
                        f"difference ({100 * settings.confidence:g} %)": (
                            f"{each.value:+.3f} ({each.low:+.3f} to {each.high:+.3f})"
                        ),
                    }
                    for name, each in found.items()
                ]
            )
        )
    return [*blocks, table(rows)]


def _norms(judged: Sequence[Judgement]) -> list[Markup]:
    """How often each norm is right, where the data knows."""
    if not judged:
        return [text("No column of the data knows whether a photo keeps a norm: their precision cannot be told.")]
    share = "{:.2f}".format
    return [
        table(
            [
                {
                    "norm": each.key,
                    "photos": each.photos,
                    "broken": each.broken,
                    "found": each.found,
                    "precision": share(each.precision) if each.found else "nothing found",
                    "recall": share(each.recall) if each.broken else "none broken",
                    "could not be checked": each.unchecked,
                }
                for each in judged
            ]
        )
    ]


def _behaviour(found: Findings, faces: Faces, settings: Evaluation, reads: bool) -> list[Markup]:
    behaviours = found.behaviours
    rows = [
        Row(
            each.change,
            each.mean,
            each.low,
            each.high,
            each.worse and each.low > 0 and each.mean > settings.maximum_rise,
        )
        for each in behaviours.responses
    ]
    blocks = [
        text(
            f"{len(behaviours.before)} test photos, changed: what makes a photo worse must not raise its score, and"
            " what nobody sees must not move it."
        ),
        chart(charts.forest(rows, "mean change of the score, score points"), "How scores respond to changes"),
    ]
    if behaviours.perturbation:
        done = behaviours.perturbation
        blocks.append(
            text(
                f"Made for this scorer by its own gradient, a change that nobody sees (at most {done.budget:g} of 255 a"
                f" pixel, {done.steps} steps) moves {len(done.before)} of them from {np.mean(done.before):.2f} to"
                f" {np.mean(done.after):.2f} on average.{_HELD if reads else ''}"
            )
        )
    return [*blocks, *_enhancement(faces)]


_HELD = " What is read of the face is held while the photo changes."


def _enhancement(faces: Faces) -> list[Markup]:
    """Gradient ascent without a bound on the change, as far as it goes in a hundred steps."""
    if faces.enhancement is None:
        return []
    before, after = faces.enhancement[0], faces.enhancement[-1]
    blocks = [
        text(
            f"Enhanced for a higher score in {len(faces.enhancement) - 1} steps without such a bound, {len(before)}"
            f" photos of middling score go from {before.mean():.2f} to {after.mean():.2f}. Most of that is noise made"
            " for this network, so it says how easily the score is fooled, and is no advice to anybody."
        ),
        chart(charts.trajectory(faces.enhancement), "Scores of photos on the way of their enhancement"),
    ]
    if faces.enhanced:
        blocks.append(
            gallery(
                [
                    pair([photo(was, f"{start:.2f}", _SIDE), photo(now, f"{end:.2f} enhanced", _SIDE)])
                    for (was, now), start, end in zip(faces.enhanced, before, after, strict=True)
                ]
            )
        )
    return blocks


def _serving(found: Findings) -> list[Markup]:
    served = found.serving
    if served.error:
        return [text(f"The exported model did not answer as it should: {served.error}.")]
    rows = {
        "one photo, median": (served.latency_median, "ms"),
        "one photo, 95th percentile": (served.latency_95, "ms"),
        "batch of 32": (served.batch_milliseconds, "ms"),
        "loading": (served.load_seconds, "s"),
        "memory": (served.memory_megabytes, "MB"),
        "size": (served.size_megabytes, "MB"),
    }
    words = f"The exported model in a fresh process on this step's CPU, asked about {served.photos} photos."
    shown = [{"what": what, "value": f"{value:,.1f} {unit}"} for what, (value, unit) in rows.items()]
    return [text(words), table(shown)]


def _learning(scorer: Bundle) -> list[Markup]:
    """The loss by epoch, of the head's phase and of the whole network's."""
    history = scorer.history
    phases = {
        "The head": {measure: history.get(f"head_{measure}") for measure in ("loss", "val_loss")},
        "The whole network": {measure: history.get(measure) for measure in ("loss", "val_loss")},
    }
    drawn = [
        chart(
            learning_curves.plot(of_phase, best_epoch(of_phase), "squared EMD", "validation", phase),
            f"{phase}: loss by epoch",
        )
        for phase, of_phase in phases.items()
        if all(of_phase.values()) and len(of_phase["loss"]) > 1
    ]
    return [gallery(drawn)] if drawn else [text("There is no curve: no phase of the training had several epochs.")]


def _photos(found: Findings, places: Sequence[int], faces: Faces, moved: bool) -> list[Markup]:
    """Photos beside what the scorer looked at where photos may be shown, else a table."""
    predictions = found.predictions
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    champion = found.champion.votes if moved and found.champion else None
    before = regression.mean_scores(champion) if champion is not None else None
    if not faces.photos:
        rows = [
            {
                "photo": predictions.photo_ids[place],
                "people": truth[place],
                "people's deviation": regression.deviations(predictions.truth[place : place + 1])[0],
                **({"champion": before[place]} if before is not None else {}),
                "scorer": predicted[place],
            }
            for place in places
        ]
        return [table(rows)]
    shown = []
    for place in places:
        name = predictions.photo_ids[place]
        was = f", champion {before[place]:.2f}" if before is not None else ""
        shown.append(
            pair(
                [
                    photo(faces.photos[name], f"people {truth[place]:.2f}{was}", _SIDE),
                    photo(faces.heat[name], f"scorer {predicted[place]:.2f}", _SIDE),
                ]
            )
        )
    return [gallery(shown)]


def _estimate(estimate: Estimate) -> Markup | None:
    """A value with its interval below."""
    if not np.isfinite(estimate.value):
        return None
    value, low, high = (f"{number:.3f}".replace("-", "\N{MINUS SIGN}") for number in astuple(estimate))
    ends = Markup("<small>{} to {}</small>").format(low, high) if np.isfinite(estimate.low) else ""
    return Markup('<span class="estimate">{}{}</span>').format(value, ends)
