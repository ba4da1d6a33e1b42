"""HTML report of an evaluation: the verdict, the gates, and then the measurements behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from components.evaluation import charts
from components.evaluation.charts import ForestRow
from components.evaluation.checks.champion_comparison import Comparison, MetricDifference
from components.evaluation.checks.job_and_norms import JobAndNormResults
from components.evaluation.checks.metric_estimates import Estimate
from components.evaluation.checks.predictions import Records
from components.evaluation.checks.rater_ceiling import RaterCeiling
from components.evaluation.checks.slices import Slice
from components.evaluation.example_photos import ExamplePhotos, gather, rankings
from components.evaluation.results import EvaluationResults
from components.scorer.artifacts.bundle import TrainedScorer
from components.scorer.fit.checkpoints import best_epoch
from components.scorer.metrics import regression
from components.scorer.report import learning_curves
from components.scorer.report.page import Page, chart, gallery, mark, pair, paragraph, photo, table, verdict
from components.scorer.run.decision import Decision, GateResult
from components.scorer.settings import Evaluation
from components.scorer.upload_norms.accuracy import NormAccuracy

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
"""Display name and meaning of each metric."""

_PHOTO_SIDE = 112  # pixels of a photo on the page


def write_report(
    file: str | Path,
    results: EvaluationResults,
    decision: Decision,
    scorer: TrainedScorer,
    records: Records,
    settings: Evaluation,
    metadata: Mapping[str, Any],
) -> None:
    """Write the HTML report.

    Args:
        file: Path of the HTML page.
        results: Results of the evaluation.
        decision: Verdict and gates.
        scorer: The challenger, for its heat maps, face inputs and learning curves.
        records: Records of the test split, for the photos shown.
        settings: Evaluation settings.
        metadata: Metadata of the run, the data, the scorer and the code, by name.
    """
    examples = gather(results, scorer, records, settings)
    page = Page(f"Evaluation of {metadata['model']}", f"{results.measured.photos:,} photos of the test split.")
    page.section("", *_verdict(decision))
    # Gates that did not pass come first; the sort is stable.
    page.section("Gates", table([_gate_row(gate) for gate in sorted(decision.gates, key=_passed)]))
    page.section("Metrics", *_metrics(results, settings))
    page.section("Scorer and people", *_agreement(results))
    if results.comparison:
        page.section("Against the champion", *_champion_comparison(results.comparison, settings))
    if results.slices.slices:
        page.section("By attribute", *_by_attribute(results.slices.slices, settings))
    if results.job_and_norms.effects:
        page.section("With the job told", *_job_effects(results.job_and_norms, settings))
    page.section("Upload norms", *_norms(results.job_and_norms.norms))
    page.section("On changed photos", *_behaviour(results, examples, settings, bool(scorer.model_inputs)))
    page.section("As it is served", *_serving(results))
    page.section("Faces", paragraph(scorer.face_summary))
    page.section("Learning curves", *_learning(scorer))
    if examples.heat:
        page.section("Photos", "Beside each photo: orange places raise its score, purple ones lower it.")
    for title, indices in rankings(results).items():
        page.section(title, *_photos(results, indices, examples, moved="champion" in title))
    if not settings.show_photos:
        page.section("", "The photos are not shown: show_photos is off, since they are people's faces.")
    page.section("Origin", table([{"what": name.replace("_", " "), "value": str(metadata[name])} for name in metadata]))
    page.write(file)


def _verdict(decision: Decision) -> list[Markup]:
    ok = {"publish": True, "refused": False}.get(decision.verdict)
    blocks = [verdict(ok, decision.summary), *(paragraph(reason) for reason in decision.reasons)]
    if decision.warnings:
        blocks.append(paragraph("Warnings, which do not keep it from being published:"))
        blocks += [paragraph(warning) for warning in decision.warnings]
    return blocks


def _passed(gate: GateResult) -> bool:
    return gate.verdict == "passed"


def _gate_row(gate: GateResult) -> dict[str, Any]:
    ok = {"passed": True, "failed": False}.get(gate.verdict)
    warns = gate.severity == "warn" and not ok
    return {
        "gate": gate.name,
        "verdict": mark(None, "warns") if warns else mark(ok, gate.verdict),
        "reason": gate.reason,
        "key": gate.key,
    }


def _metrics(results: EvaluationResults, settings: Evaluation) -> list[Markup]:
    """Return the table of metrics of scorer, champion and people, and the table of their meanings."""
    measured = results.measured
    columns = {"scorer": measured.challenger, "champion": measured.champion, "difference": measured.difference}
    rows = [
        {
            "metric": title,
            **{scorer_name: _format_estimate(values[name]) for scorer_name, values in columns.items() if values},
            **_ceiling_columns(results.ceiling, name),
        }
        for name, (title, _) in _METRICS.items()
    ]
    meanings = [
        {"metric": title, "meaning": meaning.format(threshold=settings.accuracy_threshold)}
        for title, meaning in _METRICS.values()
    ]
    blocks = [table(rows)]
    if results.champion is None:
        blocks.append(paragraph("There is no champion to compare with yet."))
    elif results.champion.error:
        blocks.append(paragraph(f"Without a comparison, as {results.champion.title} could not be scored."))
    if results.ceiling:
        blocks.append(
            paragraph(
                f"People do not fully agree either ({results.ceiling.raters:.0f} of them a photo). The ceiling is what"
                " a scorer reaches that knows every photo's true mean, from halves of the raters (Spearman-Brown);"
                " one human is a single rater against the mean of the others."
            )
        )
    words = (
        f"Below each number is its {100 * settings.confidence:g} % interval over {settings.bootstrap:,} draws of"
        f" {measured.photos:,} photos with replacement; a difference is taken on the same draws."
    )
    return [*blocks, paragraph(words), table(meanings)]


def _ceiling_columns(ceiling: RaterCeiling | None, metric: str) -> dict[str, float | None]:
    if ceiling is None:
        return {}
    return {"one human": ceiling.human.get(metric), "ceiling": ceiling.perfect.get(metric)}


def _agreement(results: EvaluationResults) -> list[Markup]:
    votes, calibrated = results.champion.votes if results.champion else None, results.calibration
    points = [(item.predicted, item.people, item.low, item.high) for item in calibrated.bins]
    words = (
        f"Where the scorer says a point more, people say {calibrated.slope.value:.2f} more: 1 is calibrated, above 1"
        f" its scores lie too close together. It rates {100 * calibrated.outside_scorer.value:.0f} % of the photos"
        f" outside 4 to 7, people {100 * calibrated.outside_people.value:.0f} %."
    )
    return [
        gallery(
            [
                chart(charts.scatter(results.predictions, points), "Each photo's mean score by people and the scorer"),
                chart(charts.distributions(results.predictions, votes), "How often each mean score is given"),
            ]
        ),
        paragraph(words),
    ]


def _champion_comparison(compared: Comparison, settings: Evaluation) -> list[Markup]:
    differences = {"SRCC": compared.srcc, "LCC": compared.lcc, "EMD": compared.emd}
    rows = [
        ForestRow(name, difference.value, difference.low, difference.high)
        if name != "EMD"  # a smaller EMD is better: its sign is changed, so that better is to the right in every row
        else ForestRow(f"{name}, less of it", -difference.value, -difference.high, -difference.low)
        for name, difference in differences.items()
    ]
    numbers = [
        {
            "metric": name,
            "scorer": difference.challenger,
            "champion": difference.champion,
            "difference": _format_estimate(Estimate(difference.value, difference.low, difference.high)),
            "sure to be": _bound_text(name, difference),
            "Williams p": difference.williams.p if difference.williams else None,
            "photos needed": _whole_number(difference.photos_needed),
        }
        for name, difference in differences.items()
    ]
    words = (
        f"Both on the same {compared.photos:,} photos; their scores correlate {compared.likeness:.2f} by rank. Sure to"
        f" be is the bound that the true difference keeps but for a chance of {100 * settings.significance:g} %; the"
        " margins of the gates are held against it. Photos needed says on how many test photos a challenger that is"
        " equal to the champion would be told from one that is worse by the margin."
    )
    drawn = charts.forest(rows, "gain over the champion (to the right: better)")
    return [chart(drawn, "Gain over the champion with intervals"), table(numbers), paragraph(words)]


def _bound_text(metric: str, difference: MetricDifference) -> str:
    """Return the one-sided bound that the metric's gate tests, in words."""
    below, value = ("at most", difference.upper) if metric == "EMD" else ("at least", difference.lower)
    return f"{below} {value:+.3f}" if np.isfinite(value) else "unknown"


def _whole_number(number: float) -> str | None:
    return f"{number:,.0f}" if np.isfinite(number) else None


def _by_attribute(slices: Sequence[Slice], settings: Evaluation) -> list[Markup]:
    judged = [item for item in slices if item.judged]
    blocks = []
    if judged:
        gaps, limit = [(item.title, item.gap) for item in judged], settings.maximum_slice_gap
        bars = [ForestRow(title, gap.value, gap.low, gap.high, abs(gap.value) > limit) for title, gap in gaps]
        drawn = charts.forest(bars, "scored too low (below 0) or too high, score points", (-limit, limit))
        blocks.append(chart(drawn, "How far each slice is scored too low or too high"))
    blocks.append(
        paragraph(
            "The gap is how far photos of a slice are scored too low or too high beside all others, after people's own"
            " ratings are allowed for; its interval is corrected for the number of slices. Same opinion compares photos"
            " that people rate alike. A mean error above 0 says that the scorer is kinder than people. Slices of fewer"
            f" than {settings.minimum_slice} photos are shown and not judged."
        )
    )
    for attribute in dict.fromkeys(item.attribute for item in slices):
        rows = [
            {
                attribute: item.value,
                "photos": item.photos,
                "people": item.people,
                "scorer": item.scorer,
                "SRCC": _format_estimate(item.metrics["srcc"]),
                "MAE": _format_estimate(item.metrics["mae"]),
                "mean error": _format_estimate(item.metrics["bias"]),
                "same opinion": _format_estimate(item.adjusted),
                "gap": _format_estimate(item.gap),
            }
            for item in slices
            if item.attribute == attribute
        ]
        blocks.append(table(rows))
    return blocks


def _job_effects(results: JobAndNormResults, settings: Evaluation) -> list[Markup]:
    """Return the section on the effect of the job input."""
    rows = [
        {"job": item.job, "photos": item.photos, "telling it moves the score by": f"{item.moved:+.2f}",
         "people differ from the untold score by": f"{item.people:+.2f}"}
        for item in results.effects
    ]  # fmt: skip
    blocks = [paragraph("The gates judge the scorer without the job. Told it, on the photos whose job is known:")]
    if results.comparison is None:
        blocks.append(paragraph("too few photos to compare."))
    else:
        differences = {name: getattr(results.comparison, name) for name in ("srcc", "lcc", "emd")}
        blocks.append(
            table(
                [
                    {
                        "metric": name.upper(),
                        "told": f"{item.challenger:.3f}",
                        "not told": f"{item.champion:.3f}",
                        f"difference ({100 * settings.confidence:g} %)": (
                            f"{item.value:+.3f} ({item.low:+.3f} to {item.high:+.3f})"
                        ),
                    }
                    for name, item in differences.items()
                ]
            )
        )
    return [*blocks, table(rows)]


def _norms(judged: Sequence[NormAccuracy]) -> list[Markup]:
    """Return the table of the norms' precision and recall, for norms with true values in the data set."""
    if not judged:
        return [paragraph("No column of the data knows whether a photo keeps a norm: their precision cannot be told.")]
    two_digits = "{:.2f}".format
    return [
        table(
            [
                {
                    "norm": item.key,
                    "photos": item.photos,
                    "broken": item.broken,
                    "found": item.found,
                    "precision": two_digits(item.precision) if item.found else "nothing found",
                    "recall": two_digits(item.recall) if item.broken else "none broken",
                    "could not be checked": item.unchecked,
                }
                for item in judged
            ]
        )
    ]


def _behaviour(
    results: EvaluationResults, examples: ExamplePhotos, settings: Evaluation, has_face_inputs: bool
) -> list[Markup]:
    behaviours = results.robustness
    rows = [
        ForestRow(
            response.change,
            response.mean,
            response.low,
            response.high,
            response.worse and response.low > 0 and response.mean > settings.maximum_rise,
        )
        for response in behaviours.responses
    ]
    blocks = [
        paragraph(
            f"{len(behaviours.before)} test photos, changed: what makes a photo worse must not raise its score, and"
            " what nobody sees must not move it."
        ),
        chart(charts.forest(rows, "mean change of the score, score points"), "How scores respond to changes"),
    ]
    if behaviours.perturbation:
        attack = behaviours.perturbation
        blocks.append(
            paragraph(
                f"Made for this scorer by its own gradient, a change that nobody sees (at most {attack.budget:g} of 255"
                f" a pixel, {attack.steps} steps) moves {len(attack.before)} of them from {np.mean(attack.before):.2f}"
                f" to {np.mean(attack.after):.2f} on average.{_FIXED_FACE_NOTE if has_face_inputs else ''}"
            )
        )
    return [*blocks, *_enhancement(examples)]


_FIXED_FACE_NOTE = " What is read of the face is held while the photo changes."


def _enhancement(examples: ExamplePhotos) -> list[Markup]:
    """Return the section on gradient ascent (a hundred steps, without a bound on the change); empty without one."""
    if examples.enhancement is None:
        return []
    before, after = examples.enhancement[0], examples.enhancement[-1]
    blocks = [
        paragraph(
            f"Enhanced for a higher score in {len(examples.enhancement) - 1} steps without such a bound, {len(before)}"
            f" photos of middling score go from {before.mean():.2f} to {after.mean():.2f}. Most of that is noise made"
            " for this network, so it says how easily the score is fooled, and is no advice to anybody."
        ),
        chart(charts.trajectory(examples.enhancement), "Scores of photos on the way of their enhancement"),
    ]
    if examples.enhanced:
        blocks.append(
            gallery(
                [
                    pair(
                        [
                            photo(image_before, f"{start:.2f}", _PHOTO_SIDE),
                            photo(image_after, f"{end:.2f} enhanced", _PHOTO_SIDE),
                        ]
                    )
                    for (image_before, image_after), start, end in zip(examples.enhanced, before, after, strict=True)
                ]
            )
        )
    return blocks


def _serving(results: EvaluationResults) -> list[Markup]:
    result = results.export_probe
    if result.error:
        return [paragraph(f"The exported model did not answer as it should: {result.error}.")]
    rows = {
        "one photo, median": (result.latency_median, "ms"),
        "one photo, 95th percentile": (result.latency_95, "ms"),
        "batch of 32": (result.batch_milliseconds, "ms"),
        "loading": (result.load_seconds, "s"),
        "memory": (result.memory_megabytes, "MB"),
        "size": (result.size_megabytes, "MB"),
    }
    words = f"The exported model in a fresh process on this step's CPU, asked about {result.photos} photos."
    shown = [{"what": label, "value": f"{value:,.1f} {unit}"} for label, (value, unit) in rows.items()]
    return [paragraph(words), table(shown)]


def _learning(scorer: TrainedScorer) -> list[Markup]:
    """Return the loss curves by epoch, for the head's phase and for the whole network's phase."""
    history = scorer.history
    phases = {
        "The head": {measure: history.get(f"head_{measure}", []) for measure in ("loss", "val_loss")},
        "The whole network": {measure: history.get(measure, []) for measure in ("loss", "val_loss")},
    }
    drawn = [
        chart(
            learning_curves.plot(of_phase, best_epoch(of_phase), "squared EMD", "validation", phase),
            f"{phase}: loss by epoch",
        )
        for phase, of_phase in phases.items()
        if all(of_phase.values()) and len(of_phase["loss"]) > 1
    ]
    return [gallery(drawn)] if drawn else [paragraph("There is no curve: no phase of the training had several epochs.")]


def _photos(results: EvaluationResults, indices: Sequence[int], examples: ExamplePhotos, moved: bool) -> list[Markup]:
    """Return photos beside their heat maps if photos may be shown, else a table."""
    predictions = results.predictions
    truth, predicted = regression.mean_scores(predictions.truth), regression.mean_scores(predictions.scorer)
    champion = results.champion.votes if moved and results.champion else None
    before = regression.mean_scores(champion) if champion is not None else None
    if not examples.photos:
        rows = [
            {
                "photo": predictions.photo_ids[index],
                "people": truth[index],
                "people's deviation": regression.vote_deviations(predictions.truth[index : index + 1])[0],
                **({"champion": before[index]} if before is not None else {}),
                "scorer": predicted[index],
            }
            for index in indices
        ]
        return [table(rows)]
    shown = []
    for index in indices:
        name = predictions.photo_ids[index]
        champion_text = f", champion {before[index]:.2f}" if before is not None else ""
        shown.append(
            pair(
                [
                    photo(examples.photos[name], f"people {truth[index]:.2f}{champion_text}", _PHOTO_SIDE),
                    photo(examples.heat[name], f"scorer {predicted[index]:.2f}", _PHOTO_SIDE),
                ]
            )
        )
    return [gallery(shown)]


def _format_estimate(estimate: Estimate) -> Markup | None:
    """Format a value with its interval below; None if the value is not finite."""
    if not np.isfinite(estimate.value):
        return None
    value, low, high = (f"{number:.3f}".replace("-", "\N{MINUS SIGN}") for number in astuple(estimate))
    ends = Markup("<small>{} to {}</small>").format(low, high) if np.isfinite(estimate.low) else ""
    return Markup('<span class="estimate">{}{}</span>').format(value, ends)
