"""Model card of a published version: provenance, intended use, limits and measurements.

The sections are those of Mitchell et al., "Model Cards for Model Reporting", 2019, https://arxiv.org/abs/1810.03993:
model, intended use, factors, metrics, data, quantitative analyses, ethical considerations, caveats.

The figures come from files of earlier steps. Some files or figures may be missing: a missing figure is left out and
never keeps a version from being published.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from components.push.markdown_and_html import Banner, Block, Code, Document, Interval, Items, Table
from components.scorer.run import decision

MARKDOWN, HTML = "model_card.md", "model_card.html"


@dataclass(frozen=True)
class CardInputs:
    """Inputs of the model card.

    Attributes:
        name: Name of the model.
        version: Version number.
        uri: Address of the version's folder.
        date: Date of publication, ISO 8601.
        run: Id of the pipeline's run.
        revision: Git revision of the code that trained the scorer.
        scorer: SHA-256 of the trained bundle.
        data_fingerprint: Fingerprint of the training data set.
        settings: Settings of the network and its training, by phase.
        decision: Record of the decision, see ``decision.schema.json``.
        metrics: Content of the evaluation's ``metrics.json``.
        ingestion: Content of the data set's ``ingestion.json``.
        sources: Addresses of the data, by content.
        consent: Where the photographed people's consent is documented.
        images: References of the container images, by name.
        faces: Description of the face inputs and of the networks that compute them.
        stages: Stages of a photo before scoring, if the scorer reads faces; see ``face_inputs.Stage``.
        inputs: Inputs of the SavedModel's signature.
    """

    name: str
    version: int
    uri: str
    date: str
    run: str
    revision: str
    scorer: str
    data_fingerprint: str
    settings: Mapping[str, Mapping[str, Any]]
    decision: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    ingestion: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    consent: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    faces: str = ""
    stages: Sequence[str] = ()
    inputs: Sequence[str] = ("image_bytes",)


@dataclass(frozen=True)
class ModelCard:
    """Model card as Markdown and as HTML."""

    markdown: str
    html: str

    def write(self, folder: str | Path) -> None:
        """Write both files into a folder."""
        Path(folder, MARKDOWN).write_text(self.markdown, encoding="utf-8")
        Path(folder, HTML).write_text(self.html, encoding="utf-8")


def build_card(card_inputs: CardInputs) -> ModelCard:
    """Build the model card of a version."""
    document = Document(
        f"Model card: {card_inputs.name}, version {card_inputs.version}",
        "A scorer of portrait photos: it says how people would rate a photo from 1 to 10. "
        f"Published on {card_inputs.date} by run {card_inputs.run}.",
    )
    document.section("", *_verdict(card_inputs))
    document.section("Model", _model(card_inputs))
    document.section("Intended use", Items(_USES))
    document.section("What it must not be used for", Items(_MISUSES))
    document.section("Data", *_data(card_inputs))
    document.section("Metrics", *_metrics(card_inputs))
    document.section("Metrics by slice", *_slices(card_inputs))
    document.section("Calibration", _figures_table(card_inputs, "calibration"))
    document.section("Behaviour on changed photos", *_behaviour(card_inputs))
    document.section("Serving", _figures_table(card_inputs, "serving"))
    document.section("Gates", _gates(card_inputs))
    document.section("Limits", Items(_limits(card_inputs)))
    document.section("How to load it", *_loading(card_inputs))
    document.section("Lineage", *_lineage(card_inputs))
    document.section("Settings", Table(list(_settings(card_inputs))))
    document.section("", "This card follows Mitchell et al., Model Cards for Model Reporting, 2019, arXiv:1810.03993.")
    return ModelCard(document.markdown(), document.page().html())


_USES = (
    "Ordering photos by how well people would rate them as portraits, as one signal beside others.",
    "Advice to the owner of a photo, who sees the score first and can choose another photo.",
    "Choosing among several photos of one person the one that people would rate highest.",
    "Made for photos like those it was trained on: portraits of one person, judged as photos.",
)

_MISUSES = (
    "Hiring, admission, lending or any other decision on a person by itself or as a large part of it.",
    "Ranking people, unless they know of it and can change the photo before it counts.",
    "Identifying a person, or telling whether two photos show the same one.",
    "Inferring character, ability, trustworthiness, emotion, health, age, gender, ethnicity or membership in a group.",
    "Photos of people who have not agreed to be scored, and photos of children without their guardians.",
    "Training people to look alike: a low score is no fault of the person.",
)


def _verdict(card_inputs: CardInputs) -> list[Block]:
    decided = decision.from_record(card_inputs.decision)
    blocks: list[Block] = [Banner(None if decided.verdict == "forced" or decided.warnings else True, decided.summary)]
    if decided.verdict == "forced":
        blocks += ["A person published this version although these gates said no:", Items(decided.reasons)]
    if decided.warnings:
        blocks += ["Warnings, which block nothing:", Items(decided.warnings)]
    return blocks


def _model(card_inputs: CardInputs) -> Table:
    pretraining, training = (_dict_or_empty(card_inputs.settings.get(phase)) for phase in ("pretraining", "training"))
    crop = pretraining.get("crop")
    return Table(
        _name_value_rows(
            {
                "name": card_inputs.name,
                "version": str(card_inputs.version),
                "published": card_inputs.date,
                "network": " ".join(
                    filter(None, [str(pretraining.get("backbone", "")), _options(pretraining.get("backbone_options"))])
                ),
                "started from": pretraining.get("weights") or pretraining.get("start", ""),
                "reads": f"the middle {crop} by {crop} pixels of a photo scaled to {training.get('scale')}"
                if crop
                else "",
                "faces": card_inputs.faces,
                "stages": ", ".join(card_inputs.stages),
                "answers": "the share of people who would give each score from 1 to 10, their mean and deviation",
                "method": "NIMA: Neural Image Assessment (Talebi and Milanfar, 2018, arXiv:1709.05424)",
            }
        )
    )


def _options(value: Any) -> str:
    return f"({json.dumps(value)})" if value else ""


def _data(card_inputs: CardInputs) -> list[Block]:
    ingestion, ratings = card_inputs.ingestion, _dict_or_empty(card_inputs.ingestion.get("ratings"))
    counts = {name: n for name, n in _dict_or_empty(ingestion.get("counts")).items() if _number_or_none(n) is not None}
    excluded = [
        {"left out because": reason, "photos": n} for reason, n in _dict_or_empty(ingestion.get("reasons")).items()
    ]
    attributes = [name for name in _list_or_empty(ingestion.get("attributes")) if isinstance(name, str)]
    consent = card_inputs.consent.strip() or (
        "not stated. Whoever uses this model has to find out first whether the people in the photos have agreed."
    )
    return [
        f"Consent of the photographed people: {consent}",
        Table([{"split": name, "photos": number} for name, number in counts.items()]),
        " ".join(_rating_sentences(ratings, _dict_or_empty(ingestion.get("reliability")))),
        f"Attributes that are known of the photos: {', '.join(attributes)}." if attributes else "",
        Table(_name_value_rows(card_inputs.sources, "source", "address")),
        Table(excluded),
        Items([note for note in _list_or_empty(ingestion.get("notes")) if isinstance(note, str)]),
    ]


def _rating_sentences(ratings: Mapping[str, Any], reliability: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on the number of people's ratings and on their agreement."""
    n_ratings, n_people = _number_or_none(ratings.get("number")), _number_or_none(ratings.get("people"))
    fewest, most = _number_or_none(ratings.get("least_a_photo")), _number_or_none(ratings.get("most_a_photo"))
    if n_ratings:
        raters = f" by {n_people:,} people" if n_people else " by people who are not told apart"
        span = f", {fewest:,} to {most:,} a photo" if fewest is not None and most is not None else ""
        yield f"{n_ratings:,} ratings{raters}{span}."
    if n_unknown := _number_or_none(ratings.get("photos_without_number")):
        yield f"How many people rated {n_unknown:,} {'more ' if n_ratings else ''}photos is not known."
    if (n_groups := _number_or_none(ratings.get("groups"))) is not None:
        yield f"The rated photos form {n_groups:,} groups (one person's, or alike), none of which is in two splits."
    if (reliability_value := _number_or_none(reliability.get("spearman_brown"))) is not None:
        yield f"Split-half reliability of people's mean scores (Spearman-Brown): {reliability_value:.3f}."


_METRIC_TITLES = {
    "srcc": "SRCC, rank correlation with people",
    "lcc": "LCC, linear correlation with people",
    "krcc": "KRCC, share of pairs in the same order, scaled to -1 to 1",
    "emd": "EMD between predicted and people's votes, score points",
    "mae": "MAE of the mean score, score points",
    "rmse": "RMSE of the mean score, score points",
    "bias": "bias: mean error, score points",
    "spread": "spread of the scores over that of people's means",
    "accuracy": "accuracy of calling a photo high or low",
}


def _metrics(card_inputs: CardInputs) -> list[Block]:
    metrics = card_inputs.metrics
    scorers = {"this version": "challenger", "champion before it": "champion", "difference": "difference"}
    columns = {title: _dict_or_empty(metrics.get(key)) for title, key in scorers.items()}
    ceiling = _dict_or_empty(metrics.get("ceiling"))
    references = {
        "people's ceiling": _dict_or_empty(ceiling.get("perfect")),
        "one person": _dict_or_empty(ceiling.get("human")),
    }
    known_metrics = [metric for metric in _METRIC_TITLES if metric in columns["this version"]]
    other_metrics = [metric for metric in columns["this version"] if metric not in _METRIC_TITLES]
    rows = [
        {"metric": _METRIC_TITLES.get(metric, metric)}
        | {title: _interval_or_none(values.get(metric)) for title, values in columns.items() if values}
        | {title: _number_or_none(values.get(metric)) for title, values in references.items() if values}
        for metric in (*known_metrics, *other_metrics)
    ]
    photos, confidence = (
        _number_or_none(metrics.get("photos")),
        _number_or_none(_dict_or_empty(metrics.get("settings")).get("confidence")),
    )
    interval = f"{100 * confidence:g} % bootstrap intervals" if confidence is not None else "bootstrap intervals"
    return [
        f"On the {photos:,} photos of the test split, with {interval}." if photos is not None else "",
        "" if rows else "No metrics lay beside the scorer.",
        Table(rows),
        "People's ceiling is what a scorer reaches that knows each photo's true mean; one person is a single rater "
        "against the mean of the others."
        if any(references.values())
        else "",
        _champion_sentence(card_inputs),
        _comparison(card_inputs),
    ]


def _comparison(card_inputs: CardInputs) -> Table:
    """Return the paired differences from the champion, which the gates judge."""
    rows = [
        {
            "metric": metric.upper(),
            "this version": _number_or_none(difference.get("challenger")),
            "champion before it": _number_or_none(difference.get("champion")),
            "paired difference": _interval_or_none(difference),
            "photos needed to tell": _number_or_none(difference.get("photos_needed")),
        }
        for metric, difference in _dict_or_empty(card_inputs.metrics.get("comparison")).items()
        if isinstance(difference, Mapping)
    ]
    return Table(rows, "Against the champion on the same photos, drawn in pairs")


def _champion_sentence(card_inputs: CardInputs) -> str:
    champion = card_inputs.decision["champion"]
    if champion is None:
        return "There was no champion: this is the model's first version, or none was named."
    version = champion["version"]
    named = "The champion before it" + ("" if version is None else f" was version {version}")
    return f"{named}, which could not be scored: {champion['error']}" if champion["error"] else f"{named}."


_SLICE_TITLES = {
    "photos": "photos",
    "people": "people's mean",
    "scorer": "scorer's mean",
    "srcc": "SRCC",
    "mae": "MAE",
    "bias": "bias",
    "gap": "gap",
}


def _slices(card_inputs: CardInputs) -> list[Block]:
    slices = card_inputs.metrics.get("slices")
    rows = []
    for row in _dicts_in(slices) or _dicts_in(_dict_or_empty(slices).get("slices")):
        figures = {name: _cell_value(value) for name, value in {**row, **_dict_or_empty(row.get("metrics"))}.items()}
        rows.append(
            {name: str(row.get(name, "")) for name in ("attribute", "value")}
            | {title: figures[name] for name, title in _SLICE_TITLES.items() if figures.get(name) is not None}
        )
    if not rows:
        return ["The photos' attributes are not known, so it is not known either whether a group is scored unfairly."]
    return [
        "Bias is the mean error in score points; the gap is how far a slice is scored too low (below 0) or too high "
        "beside the other photos, people's own ratings allowed for. A slice of few photos has a wide interval.",
        Table(rows),
    ]


def _behaviour(card_inputs: CardInputs) -> list[Block]:
    behaviour = _dict_or_empty(card_inputs.metrics.get("behaviour"))
    rows = [
        {
            "change": str(row.get("change", "")),
            "people would": "like it less" if row.get("worse") else "see no change",
            "mean change of the score": _interval_or_none({**row, "value": row.get("mean")}),
            "largest": _number_or_none(row.get("largest")),
        }
        for row in _dicts_in(behaviour.get("responses"))
    ]
    return [Table(rows, "Score points by which photos of the test split moved when they were changed")] if rows else []


def _figures_table(card_inputs: CardInputs, key: str) -> Table:
    """Return a table of all figures of one topic of ``metrics.json``."""
    return Table([{"figure": name, "value": value} for name, value in _iter_figures(card_inputs.metrics.get(key))])


def _iter_figures(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the figures and words in nested objects with their path in words; lists (single photos) are skipped."""
    if (cell := _cell_value(value)) not in (None, ""):
        yield path, cell
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _iter_figures(item, f"{path} {name}".strip().replace("_", " "))


def _gates(card_inputs: CardInputs) -> Table:
    signs = {"passed": "✓ passed", "failed": "✗ failed", "not judged": "! not judged"}
    return Table(
        [
            {
                "gate": gate["name"],
                "verdict": signs[gate["verdict"]] + (", warns only" if gate["severity"] == "warn" else ""),
                "value": gate["value"],
                "threshold": gate["threshold"],
                "reason": gate["reason"],
            }
            for gate in card_inputs.decision["gates"]
        ]
    )


def _limits(card_inputs: CardInputs) -> list[str]:
    perturbation = _dict_or_empty(_dict_or_empty(card_inputs.metrics.get("behaviour")).get("perturbation"))
    mean_rise, budget = _number_or_none(perturbation.get("rise")), _number_or_none(perturbation.get("budget"))
    measured = (
        f" Measured: changes of at most {budget:g} of 255 at each pixel raised scores by {mean_rise:.2f} points on"
        " average."
        if mean_rise is not None and budget is not None
        else " How far was not measured for this version."
    )
    return [
        "A score is about a photo and says nothing of the person: not of ability, character or worth.",
        "It repeats the taste of those who rated, with their culture and prejudices; others may rate otherwise.",
        "On photos unlike those it was trained on (several people, no face, drawings, other cameras, heavy editing, "
        "groups of people who are rare in the data) its scores mean little, and it does not say so.",
        "What people like and how they photograph changes: scores drift from people's taste until it is trained anew.",
        "Differences below the error above are no differences: two photos with nearly the same score are equals.",
        "Whoever knows the model can change a photo invisibly so that its score rises." + measured,
    ]


def _loading(card_inputs: CardInputs) -> list[Block]:
    photo = 'photo = open("portrait.jpg", "rb").read()  # upright: EXIF orientation is not heeded\n'
    print_line = 'print(answer["mean"], answer["std"], answer["distribution"])'
    steps: list[Block]
    if card_inputs.stages:
        faces = " and ".join(card_inputs.inputs[1:])
        steps = [
            f"The version lies at {card_inputs.uri}.",
            Banner(
                None,
                f"The SavedModel is not all of this scorer. Beside image_bytes its signatures take {faces}, which the "
                f"stages {', '.join(card_inputs.stages[:-1])} find out; a photo alone is refused, not scored worse. "
                "TensorFlow Serving and KServe's TensorFlow runtime do not run these stages: serve the version by this "
                "project's server, which takes photos alone, or run them before, as portable/portable.json says, with "
                "the weights in portable/faces.",
            ),
            "With this project's code, which runs them:",
            Code(
                "from components.scorer.artifacts import saved_model\n\n"
                f'scorer = saved_model.load("{card_inputs.uri}")\n{photo}answer = scorer.answers([photo])\n{print_line}'
            ),
        ]
    else:
        steps = [
            f"The version lies at {card_inputs.uri}. With TensorFlow alone, from a local copy of that folder:",
            Code(
                "import tensorflow as tf\n\n"
                f'model = tf.saved_model.load("{card_inputs.version}").signatures["serving_default"]\n'
                f"{photo}answer = model(image_bytes=tf.constant([photo]))\n{print_line}"
            ),
        ]
    return [
        *steps,
        "A folder of photos, with the preparation that the training photos had:",
        Code(f"python -m pipeline score {card_inputs.uri} PHOTOS --out scores.csv", "text"),
    ]


def _lineage(card_inputs: CardInputs) -> list[Block]:
    provenance = {
        "run": card_inputs.run,
        "code that trained it (git)": card_inputs.revision,
        "code that judged it (git)": card_inputs.decision["revision"],
        "data it was trained on": card_inputs.data_fingerprint,
        "data it was judged on": card_inputs.decision["data"],
        "scorer (SHA-256)": card_inputs.scorer,
        **{f"image {name}": image for name, image in card_inputs.images.items()},
    }
    tagged = [name for name, image in card_inputs.images.items() if "@sha256:" not in image]
    return [
        Table([{"what": name, "value": value or "unknown"} for name, value in provenance.items()]),
        f"Named by a tag, which may point elsewhere later, and not by a digest: {', '.join(tagged)}." if tagged else "",
    ]


def _settings(card_inputs: CardInputs) -> Iterator[dict[str, str]]:
    phases = {
        "ingestion": card_inputs.ingestion.get("settings"),
        **card_inputs.settings,
        "evaluation": card_inputs.metrics.get("settings"),
    }
    for phase, settings in phases.items():
        for name, value in _dict_or_empty(settings).items():
            yield {"phase": phase, "setting": name, "value": value if isinstance(value, str) else json.dumps(value)}


# Readers of other steps' files: each of these functions accepts any JSON value.


def _dict_or_empty(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list_or_empty(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts_in(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in _list_or_empty(value) if isinstance(row, Mapping)]


def _number_or_none(value: Any) -> Any:
    """Return the value if it is a finite number, else None."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _cell_value(value: Any) -> Any:
    """Return a value as a table cell; None if it cannot be shown in a cell."""
    if isinstance(value, bool | str):
        return value
    return _interval_or_none(value) if isinstance(value, Mapping) else _number_or_none(value)


def _interval_or_none(value: Any) -> Interval | None:
    """Return a value with its interval as far as it is known; None without a value."""
    figures = (_number_or_none(_dict_or_empty(value).get(name)) for name in ("value", "low", "high"))
    value, low, high = (math.nan if figure is None else figure for figure in figures)
    return None if math.isnan(value) else Interval(value, low, high)


def _name_value_rows(values: Mapping[str, Any], name: str = "what", value: str = "value") -> list[dict[str, Any]]:
    """Return table rows of the non-empty values."""
    return [{name: key, value: item} for key, item in values.items() if item]
