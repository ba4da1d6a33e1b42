"""Inputs of a model card, and the text of a card."""

import html
import json
import re

import numpy as np
from markdown_it import MarkdownIt

from components.evaluation.checks.calibration import Calibration
from components.evaluation.checks.champion_comparison import Comparison, MetricDifference
from components.evaluation.checks.metric_estimates import Estimate
from components.evaluation.checks.rater_ceiling import RaterCeiling
from components.evaluation.checks.robustness import AdversarialResult, CorruptionResponse, RobustnessResults
from components.evaluation.checks.slices import Slice, SliceResults
from components.evaluation.export_probe import ExportProbeResult
from components.push.model_card import CardInputs
from components.scorer.parameters import as_parameters
from components.scorer.run import decision
from components.scorer.run.decision import GateResult, decide, to_json_value
from components.scorer.settings import Policy, Pretraining, Training

EMD = GateResult("emd", "Votes as people do", "EMD", 0.8, 1.5, "passed", "EMD is .8; it has to be at most 1.5.")
CHAMPION = {"uri": "gs://models/portraits/2", "version": 2, "error": ""}


def record(*gates: GateResult, policy: Policy = Policy(("noise",)), **about: object) -> dict:  # noqa: B008
    base_record = decision.to_record(
        decide(gates, policy), run="run-7", revision="judged-by", data="data-print", **about
    )
    return decision.with_publication(base_record, 3, "gs://models/portraits/3")


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1)


def filled(kind: type, **known: object) -> object:
    """Return a dataclass of an evaluation with these fields; the other fields are estimates."""
    return kind(**{name: estimate(0.1) for name in kind.__dataclass_fields__} | known)


def evaluation_metrics() -> dict:
    """Return evaluation's metrics as ``metrics.json`` has them, made from its own dataclasses."""
    summary = {"photos": 324, "settings": {"confidence": 0.9, "minimum_srcc": 0.5, "crossings": ["a*b"]}}
    values = {name: estimate(value) for name, value in (("srcc", 0.671), ("mae", 0.714), ("bias", -0.075))}
    slices = [
        filled(Slice, attribute="gender*age", value=value, photos=40, metrics=values, gap=estimate(-0.234))
        for value in ("female, old", "male | *young*")
    ]
    changes = tuple(np.full(64, 0.123456789).tolist())
    response = CorruptionResponse("blur", "blurred by a hundredth", True, changes, -0.3, -0.4, -0.2, 0.1, 0.3, 0.9)
    perturbation = AdversarialResult(2.0, 100, (4.4,), (6.2,), 1.53, 2.9)
    difference = MetricDifference(0.671, 0.65, 0.021, 0.01, -0.01, 0.052, -0.005, 0.04, 1200)
    calibration = filled(Calibration, photos=324, bins=[], fault="", skill_bound=0.1, slope=estimate(0.777))
    topics = {
        "challenger": values,
        "champion": values,
        "difference": values,
        "slices": filled(SliceResults, slices=slices, slopes={"gender*age": 0.9}),
        "behaviour": RobustnessResults((5.0,) * 64, [response], perturbation),
        "calibration": calibration,
        "comparison": Comparison(324, 300, 0.9, difference, difference, difference),
        "ceiling": RaterCeiling({"srcc": 0.912}, {"srcc": 0.488}, 300, 24.4),
        "serving": ExportProbeResult(32, latency_95=23.4),
        "confusion": [[1, 2], [3, 4]],
    }
    return json.loads(json.dumps(to_json_value(summary | topics)))


FACTS = CardInputs(
    name="portraits",
    version=3,
    uri="gs://models/portraits/3",
    date="2026-11-22",
    run="run-7",
    revision="trained-by",
    scorer="scorer-print",
    data_fingerprint="data-print",
    settings={"pretraining": as_parameters(Pretraining()), "training": as_parameters(Training())},
    decision=record(EMD, champion=CHAMPION),
    metrics=evaluation_metrics(),
    ingestion={
        "counts": {"train": 1456, "validation": 209, "test": 324, "unlabelled": 6000},
        "ratings": {"number": 48427, "people": 308, "least_a_photo": 7, "most_a_photo": 60, "groups": 1980},
        "reliability": {"spearman_brown": 0.869},
        "attributes": ["gender", "age"],
        "notes": ["Scores from 0 to 5 were scaled."],
        "reasons": {"too small": 17},
        "left_out": [{"photo": "anna.jpg", "reason": "too small", "detail": "", "unlabelled": False}],
        "settings": {"minimum_side": 64},
    },
    sources={"photos": "gs://the/photos", "ratings": "gs://the/ratings.csv", "unlabelled": ""},
    consent="terms of use, section 4",
    images={"steps": "registry/steps@sha256:0123"},
)


def readable(html_or_markdown: str) -> str:
    """Return the text of a page or of rendered Markdown, without markup and on one line."""
    if not html_or_markdown.startswith("<!doctype"):
        html_or_markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(html_or_markdown)
    body = re.sub(r"<style>.*?</style>", "", html_or_markdown, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\N{MINUS SIGN}", "-").split())
