"""The model card of a published version: what it is, what it was made of, what it may be used for, and what not.

Its parts are those of Mitchell et al., "Model Cards for Model Reporting", 2019, https://arxiv.org/abs/1810.03993:
model, intended use, factors, metrics, data, quantitative analyses, ethical considerations, caveats.

The figures come from files of earlier steps, of which some may be missing or know fewer figures: what is not there is
not shown, and never keeps a version from being published.
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
class Facts:
    """What the card tells.

    Attributes:
        name: of the model.
        version: its number.
        uri: address of the version's folder.
        date: of its publication, ISO 8601.
        run: id of the pipeline's run.
        revision: git revision of the code that trained it.
        scorer: SHA-256 of the trained bundle.
        data_fingerprint: of the data set that it was trained on.
        settings: of the network and its training, by phase.
        decision: record of the decision, see ``decision.schema.json``.
        metrics: the evaluation's ``metrics.json``.
        ingestion: the data set's ``ingestion.json``.
        sources: addresses of the data, by what they hold.
        consent: where the photographed people's consent is documented.
        images: references of the container images, by name.
        faces: what it reads of faces, and by what.
        stages: that a photo goes through before it is scored, where the scorer reads faces; see ``face_inputs.Stage``.
        inputs: that the SavedModel's signature takes.
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
class Card:
    """The card in both forms."""

    markdown: str
    html: str

    def write(self, folder: str | Path) -> None:
        """Write both files into a folder."""
        Path(folder, MARKDOWN).write_text(self.markdown, encoding="utf-8")
        Path(folder, HTML).write_text(self.html, encoding="utf-8")


def card(facts: Facts) -> Card:
    """The card of a version."""
    document = Document(
        f"Model card: {facts.name}, version {facts.version}",
        "A scorer of portrait photos: it says how people would rate a photo from 1 to 10. "
        f"Published on {facts.date} by run {facts.run}.",
    )
    document.section("", *_verdict(facts))
    document.section("Model", _model(facts))
    document.section("Intended use", Items(_USES))
    document.section("What it must not be used for", Items(_MISUSES))
    document.section("Data", *_data(facts))
    document.section("Metrics", *_metrics(facts))
    document.section("Metrics by slice", *_slices(facts))
    document.section("Calibration", _numbers(facts, "calibration"))
    document.section("Behaviour on changed photos", *_behaviour(facts))
    document.section("Serving", _numbers(facts, "serving"))
    document.section("Gates", _gates(facts))
    document.section("Limits", Items(_limits(facts)))
    document.section("How to load it", *_loading(facts))
    document.section("Lineage", *_lineage(facts))
    document.section("Settings", Table(list(_settings(facts))))
    document.section("", "This card follows Mitchell et al., Model Cards for Model Reporting, 2019, arXiv:1810.03993.")
    return Card(document.markdown(), document.page().html())


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


def _verdict(facts: Facts) -> list[Block]:
    made = decision.of(facts.decision)
    blocks: list[Block] = [Banner(None if made.verdict == "forced" or made.warnings else True, made.summary)]
    if made.verdict == "forced":
        blocks += ["A person published this version although these gates said no:", Items(made.reasons)]
    if made.warnings:
        blocks += ["Warnings, which block nothing:", Items(made.warnings)]
    return blocks


def _model(facts: Facts) -> Table:
    pretraining, training = (_object(facts.settings.get(phase)) for phase in ("pretraining", "training"))
    crop = pretraining.get("crop")
    return Table(
        _pairs(
            {
                "name": facts.name,
                "version": str(facts.version),
                "published": facts.date,
                "network": " ".join(
                    filter(None, [str(pretraining.get("backbone", "")), _options(pretraining.get("backbone_options"))])
                ),
                "started from": pretraining.get("weights") or pretraining.get("start", ""),
                "reads": f"the middle {crop} by {crop} pixels of a photo scaled to {training.get('scale')}"
                if crop
                else "",
                "faces": facts.faces,
                "stages": ", ".join(facts.stages),
                "answers": "the share of people who would give each score from 1 to 10, their mean and deviation",
                "method": "NIMA: Neural Image Assessment (Talebi and Milanfar, 2018, arXiv:1709.05424)",
            }
        )
    )


def _options(value: Any) -> str:
    return f"({json.dumps(value)})" if value else ""


def _data(facts: Facts) -> list[Block]:
    ingested, ratings = facts.ingestion, _object(facts.ingestion.get("ratings"))
    counts = {name: n for name, n in _object(ingested.get("counts")).items() if _number(n) is not None}
    left_out = [{"left out because": reason, "photos": n} for reason, n in _object(ingested.get("reasons")).items()]
    attributes = [name for name in _list(ingested.get("attributes")) if isinstance(name, str)]
    consent = facts.consent.strip() or (
        "not stated. Whoever uses this model has to find out first whether the people in the photos have agreed."
    )
    return [
        f"Consent of the photographed people: {consent}",
        Table([{"split": name, "photos": number} for name, number in counts.items()]),
        " ".join(_rated(ratings, _object(ingested.get("reliability")))),
        f"Attributes that are known of the photos: {', '.join(attributes)}." if attributes else "",
        Table(_pairs(facts.sources, "source", "address")),
        Table(left_out),
        Items([note for note in _list(ingested.get("notes")) if isinstance(note, str)]),
    ]


def _rated(ratings: Mapping[str, Any], reliability: Mapping[str, Any]) -> Iterator[str]:
    """How much people's word there is, and how well they agree, in sentences."""
    number, people = _number(ratings.get("number")), _number(ratings.get("people"))
    least, most = _number(ratings.get("least_a_photo")), _number(ratings.get("most_a_photo"))
    if number:
        by = f" by {people:,} people" if people else " by people who are not told apart"
        span = f", {least:,} to {most:,} a photo" if least is not None and most is not None else ""
        yield f"{number:,} ratings{by}{span}."
    if without := _number(ratings.get("photos_without_number")):
        yield f"How many people rated {without:,} {'more ' if number else ''}photos is not known."
    if (groups := _number(ratings.get("groups"))) is not None:
        yield f"The rated photos form {groups:,} groups (one person's, or alike), none of which is in two splits."
    if (agreement := _number(reliability.get("spearman_brown"))) is not None:
        yield f"Split-half reliability of people's mean scores (Spearman-Brown): {agreement:.3f}."


_METRICS = {
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


def _metrics(facts: Facts) -> list[Block]:
    found = facts.metrics
    scorers = {"this version": "challenger", "champion before it": "champion", "difference": "difference"}
    columns = {title: _object(found.get(key)) for title, key in scorers.items()}
    of_people = _object(found.get("ceiling"))
    people = {"people's ceiling": _object(of_people.get("perfect")), "one person": _object(of_people.get("human"))}
    known = [metric for metric in _METRICS if metric in columns["this version"]]
    others = [metric for metric in columns["this version"] if metric not in _METRICS]
    rows = [
        {"metric": _METRICS.get(metric, metric)}
        | {title: _estimate(values.get(metric)) for title, values in columns.items() if values}
        | {title: _number(values.get(metric)) for title, values in people.items() if values}
        for metric in (*known, *others)
    ]
    photos, confidence = _number(found.get("photos")), _number(_object(found.get("settings")).get("confidence"))
    interval = f"{100 * confidence:g} % bootstrap intervals" if confidence is not None else "bootstrap intervals"
    return [
        f"On the {photos:,} photos of the test split, with {interval}." if photos is not None else "",
        "" if rows else "No metrics lay beside the scorer.",
        Table(rows),
        "People's ceiling is what a scorer reaches that knows each photo's true mean; one person is a single rater "
        "against the mean of the others."
        if any(people.values())
        else "",
        _against(facts),
        _comparison(facts),
    ]


def _comparison(facts: Facts) -> Table:
    """The paired differences from the champion, which the gates judge."""
    rows = [
        {
            "metric": metric.upper(),
            "this version": _number(found.get("challenger")),
            "champion before it": _number(found.get("champion")),
            "paired difference": _estimate(found),
            "photos needed to tell": _number(found.get("photos_needed")),
        }
        for metric, found in _object(facts.metrics.get("comparison")).items()
        if isinstance(found, Mapping)
    ]
    return Table(rows, "Against the champion on the same photos, drawn in pairs")


def _against(facts: Facts) -> str:
    champion = facts.decision["champion"]
    if champion is None:
        return "There was no champion: this is the model's first version, or none was named."
    version = champion["version"]
    named = "The champion before it" + ("" if version is None else f" was version {version}")
    return f"{named}, which could not be scored: {champion['error']}" if champion["error"] else f"{named}."


_OF_A_SLICE = {
    "photos": "photos",
    "people": "people's mean",
    "scorer": "scorer's mean",
    "srcc": "SRCC",
    "mae": "MAE",
    "bias": "bias",
    "gap": "gap",
}


def _slices(facts: Facts) -> list[Block]:
    found = facts.metrics.get("slices")
    rows = []
    for row in _rows(found) or _rows(_object(found).get("slices")):
        figures = {name: _cell(value) for name, value in {**row, **_object(row.get("metrics"))}.items()}
        rows.append(
            {name: str(row.get(name, "")) for name in ("attribute", "value")}
            | {title: figures[name] for name, title in _OF_A_SLICE.items() if figures.get(name) is not None}
        )
    if not rows:
        return ["The photos' attributes are not known, so it is not known either whether a group is scored unfairly."]
    return [
        "Bias is the mean error in score points; the gap is how far a slice is scored too low (below 0) or too high "
        "beside the other photos, people's own ratings allowed for. A slice of few photos has a wide interval.",
        Table(rows),
    ]


def _behaviour(facts: Facts) -> list[Block]:
    found = _object(facts.metrics.get("behaviour"))
    rows = [
        {
            "change": str(row.get("change", "")),
            "people would": "like it less" if row.get("worse") else "see no change",
            "mean change of the score": _estimate({**row, "value": row.get("mean")}),
            "largest": _number(row.get("largest")),
        }
        for row in _rows(found.get("responses"))
    ]
    return [Table(rows, "Score points by which photos of the test split moved when they were changed")] if rows else []


def _numbers(facts: Facts, key: str) -> Table:
    """Whatever figures a topic of ``metrics.json`` holds."""
    return Table([{"figure": name, "value": value} for name, value in _figures(facts.metrics.get(key))])


def _figures(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The figures and words in nested objects by their path in words; lists hold single photos and are passed over."""
    if (cell := _cell(value)) not in (None, ""):
        yield path, cell
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _figures(item, f"{path} {name}".strip().replace("_", " "))


def _gates(facts: Facts) -> Table:
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
            for gate in facts.decision["gates"]
        ]
    )


def _limits(facts: Facts) -> list[str]:
    perturbation = _object(_object(facts.metrics.get("behaviour")).get("perturbation"))
    rise, budget = _number(perturbation.get("rise")), _number(perturbation.get("budget"))
    measured = (
        f" Measured: changes of at most {budget:g} of 255 at each pixel raised scores by {rise:.2f} points on average."
        if rise is not None and budget is not None
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


def _loading(facts: Facts) -> list[Block]:
    photo = 'photo = open("portrait.jpg", "rb").read()  # upright: EXIF orientation is not heeded\n'
    said = 'print(answer["mean"], answer["std"], answer["distribution"])'
    if facts.stages:
        faces = " and ".join(facts.inputs[1:])
        how = [
            f"The version lies at {facts.uri}.",
            Banner(
                None,
                f"The SavedModel is not all of this scorer. Beside image_bytes its signatures take {faces}, which the "
                f"stages {', '.join(facts.stages[:-1])} find out; a photo alone is refused, not scored worse. "
                "TensorFlow Serving and KServe's TensorFlow runtime do not run these stages: serve the version by this "
                "project's server, which takes photos alone, or run them before, as portable/portable.json says, with "
                "the weights in portable/faces.",
            ),
            "With this project's code, which runs them:",
            Code(
                "from components.scorer.artifacts import saved_model\n\n"
                f'scorer = saved_model.load("{facts.uri}")\n{photo}answer = scorer.answers([photo])\n{said}'
            ),
        ]
    else:
        how = [
            f"The version lies at {facts.uri}. With TensorFlow alone, from a local copy of that folder:",
            Code(
                "import tensorflow as tf\n\n"
                f'model = tf.saved_model.load("{facts.version}").signatures["serving_default"]\n'
                f"{photo}answer = model(image_bytes=tf.constant([photo]))\n{said}"
            ),
        ]
    return [
        *how,
        "A folder of photos, with the preparation that the training photos had:",
        Code(f"python -m pipeline score {facts.uri} PHOTOS --out scores.csv", "text"),
    ]


def _lineage(facts: Facts) -> list[Block]:
    known = {
        "run": facts.run,
        "code that trained it (git)": facts.revision,
        "code that judged it (git)": facts.decision["revision"],
        "data it was trained on": facts.data_fingerprint,
        "data it was judged on": facts.decision["data"],
        "scorer (SHA-256)": facts.scorer,
        **{f"image {name}": reference for name, reference in facts.images.items()},
    }
    moving = [name for name, reference in facts.images.items() if "@sha256:" not in reference]
    return [
        Table([{"what": name, "value": value or "unknown"} for name, value in known.items()]),
        f"Named by a tag, which may point elsewhere later, and not by a digest: {', '.join(moving)}." if moving else "",
    ]


def _settings(facts: Facts) -> Iterator[dict[str, str]]:
    phases = {
        "ingestion": facts.ingestion.get("settings"),
        **facts.settings,
        "evaluation": facts.metrics.get("settings"),
    }
    for phase, settings in phases.items():
        for name, value in _object(settings).items():
            yield {"phase": phase, "setting": name, "value": value if isinstance(value, str) else json.dumps(value)}


# What files of other steps hold, whatever it is: each of these takes any JSON value.


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in _list(value) if isinstance(row, Mapping)]


def _number(value: Any) -> Any:
    """The value where it is a finite number, else None."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return value if number else None


def _cell(value: Any) -> Any:
    """What a table's cell shows of a value; None for one that is nothing for a cell."""
    if isinstance(value, bool | str):
        return value
    return _estimate(value) if isinstance(value, Mapping) else _number(value)


def _estimate(value: Any) -> Interval | None:
    """A value with its interval, however much of that is known; None where there is no value."""
    figures = (_number(_object(value).get(name)) for name in ("value", "low", "high"))
    value, low, high = (math.nan if figure is None else figure for figure in figures)
    return None if math.isnan(value) else Interval(value, low, high)


def _pairs(values: Mapping[str, Any], name: str = "what", value: str = "value") -> list[dict[str, Any]]:
    """A table's rows of those values that are there."""
    return [{name: key, value: each} for key, each in values.items() if each]
