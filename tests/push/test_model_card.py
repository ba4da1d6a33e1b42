"""The model card: what it must tell, in both forms, whatever the steps before have left."""

import html
import re
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from components.push.markdown_and_html import Code, Document, Items, Table, escape_markdown
from components.push.model_card import CardInputs, ModelCard, build_card
from components.scorer.run.decision import GateResult
from components.scorer.settings import Policy
from tests.builders.model_cards import CHAMPION, EMD, FACTS, evaluation_metrics, readable, record

SRCC = GateResult("srcc", "Ranks as people do", "SRCC", 0.31, 0.5, "failed", "SRCC is .31; it has to be at least .5.")
NOISE = GateResult(
    "noise", "Noise raises no score", "score points", float("nan"), 0.05, "failed", "noise raises by .3."
)
FORCE = Policy(("noise",), force_publish=True, force_reason="the champion is broken")


@pytest.fixture(scope="module", params=["markdown", "html"])
def words(request: pytest.FixtureRequest) -> str:
    """The whole card as it is read, in each form."""
    return readable(getattr(build_card(FACTS), request.param))


def both(facts: CardInputs) -> list[str]:
    made = build_card(facts)
    return [readable(made.markdown), readable(made.html)]


# What it tells


@pytest.mark.parametrize(("number", "words"), [(0, "rated 20 photos"), (900, "rated 20 more photos")])
def test_of_how_many_photos_the_number_of_raters_is_unknown_is_told(number, words):
    ratings = {"number": number, "photos_without_number": 20, "groups": 12}
    for said in both(replace(FACTS, ingestion={**FACTS.ingestion, "ratings": ratings})):
        assert f"How many people {words} is not known." in said


@pytest.mark.parametrize(
    "fact",
    [
        "portraits, version 3",
        "2026-11-22",
        "Published: the scorer passed its 1 gate.",
        "train 1,456", "unlabelled 6,000", "48,427 ratings by 308 people, 7 to 60 a photo", "1,980 groups",
        "0.869", "gender, age", "Scores from 0 to 5 were scaled.", "too small 17",
        "Consent of the photographed people: terms of use, section 4",
        "photos gs://the/photos", "ratings gs://the/ratings.csv",
        "On the 324 photos of the test split, with 90 % bootstrap intervals.",
        "SRCC, rank correlation with people 0.671 (0.571 to 0.771)",
        "The champion before it was version 2.",
        "gender*age female, old 40", "gender*age male | *young* 40", "-0.234 (-0.334 to -0.134)",
        "blurred by a hundredth like it less -0.300 (-0.400 to -0.200) 0.900",
        "slope 0.777", "latency 95 23.400",
        "people's ceiling one person SRCC, rank correlation with people 0.671 (0.571 to 0.771) 0.671 (0.571 to 0.771)"
        " 0.671 (0.571 to 0.771) 0.912 0.488",
        "SRCC 0.671 0.650 0.021 (-0.010 to 0.052) 1,200",
        "Votes as people do ✓ passed 0.800 1.500 EMD is .8; it has to be at most 1.5.",
        "Hiring, admission, lending", "Identifying a person", "Ranking people, unless they know of it",
        "Inferring character, ability, trustworthiness, emotion, health",
        "says nothing of the person", "taste of those who rated", "photos unlike those it was trained on", "drift",
        "at most 2 of 255 at each pixel raised scores by 1.53 points on average",
        "run-7", "trained-by", "judged-by", "data-print", "scorer-print", "registry/steps@sha256:0123",
        'tf.saved_model.load("3").signatures["serving_default"]',
        "python -m pipeline score gs://models/portraits/3",
        "ingestion minimum_side 64", "pretraining backbone MobileNet", "training dropout 0.75",
        'evaluation crossings ["a*b"]',
        "Model Cards for Model Reporting",
    ],
)  # fmt: skip
def test_the_card_tells(words, fact):
    assert fact in words


@pytest.mark.parametrize("private", ["anna.jpg", "0.123456789", "0.123 0.123"])
def test_the_card_holds_nothing_of_single_photos(words, private):
    assert private not in words


def test_an_override_stands_first_with_its_reason_and_what_was_overruled():
    for text in both(replace(FACTS, decision=record(SRCC, EMD, policy=FORCE))):
        assert "Forced by a person: the champion is broken. 1 of 2 gates said no." in text[:300]
        assert "Ranks as people do: SRCC is .31; it has to be at least .5." in text[:500]


def test_warnings_stand_first():
    for text in both(replace(FACTS, decision=record(EMD, NOISE))):
        assert "1 warning." in text[:300]
        assert "Noise raises no score: noise raises by .3." in text[:400]
        assert re.search(r"✗ failed, warns only \S 0.050 noise raises by .3.", text)


@pytest.mark.parametrize("consent", ["", "  "])
def test_consent_that_is_not_stated_is_said_to_be_so(consent):
    for text in both(replace(FACTS, consent=consent)):
        assert "Consent of the photographed people: not stated." in text


def test_an_image_named_by_a_tag_is_said_to_be_so(words):
    assert "Named by a tag" not in words
    for text in both(replace(FACTS, images={"steps": "registry/steps:latest"})):
        assert "Named by a tag, which may point elsewhere later, and not by a digest: steps." in text


@pytest.mark.parametrize(
    ("champion", "sentence"),
    [
        (None, "There was no champion"),
        ({**CHAMPION, "error": "ValueError: other signature"}, "version 2, which could not be scored: ValueError"),
        ({**CHAMPION, "version": None, "error": "gone"}, "The champion before it, which could not be scored: gone"),
    ],
)
def test_what_became_of_the_champion_is_told(champion, sentence):
    for text in both(replace(FACTS, decision=record(EMD, champion=champion))):
        assert sentence in text


# What is missing


def bare(facts: CardInputs = FACTS, **others: object) -> CardInputs:
    return replace(facts, metrics={}, ingestion={}, sources={}, consent="", images={}, settings={}, **others)


def test_without_any_figures_the_card_says_what_is_not_known():
    for text in both(bare()):
        assert "No metrics lay beside the scorer." in text
        assert "not known either whether a group is scored unfairly" in text
        assert "How far was not measured for this version." in text


@pytest.mark.parametrize("topic", evaluation_metrics())
def test_any_topic_of_the_metrics_may_be_missing_or_null(topic):
    without = {name: value for name, value in FACTS.metrics.items() if name != topic}
    both(replace(FACTS, metrics=without))
    both(replace(FACTS, metrics={**without, topic: None}))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in nested objects and lists, the first item standing for a list's."""
    below = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path, *(found for name, item in below for found in paths(item, (*path, name)))]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_value_of_another_steps_file_keeps_a_version_from_having_its_card(data):
    what = data.draw(st.sampled_from(["metrics", "ingestion"]))
    value = deepcopy(getattr(FACTS, what))
    *way, last = data.draw(st.sampled_from(paths(value)[1:]))
    place = value
    for name in way:
        place = place[name]
    place[last] = data.draw(JSON)
    made = build_card(replace(FACTS, **{what: value}))
    assert "What it must not be used for" in made.markdown
    assert "</html>" in made.html


# How it is written


@given(st.text() | st.text("\\`*_[](){}<>|~#+-=.!&;:/ a1\n", max_size=12))
@settings(max_examples=400, deadline=None)
def test_whatever_is_written_is_read_so_in_markdown(text):
    line = " ".join(text.split())
    document = Document("Title", line)
    document.section("", Items([line or "x"]), Table([{"column": line, "other": 1}]))
    read = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(document.markdown())
    cells = [html.unescape(cell) for cell in re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", read, re.DOTALL)]
    unknown = {0: "\N{REPLACEMENT CHARACTER}"}
    assert cells == ["column", "other", line.translate(unknown), "1"]
    for found in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", read, re.DOTALL):
        assert html.unescape(found) == (line or "x").translate(unknown)


@pytest.mark.parametrize("text", ["minimum_srcc is .5 (95 % of 3,000)", "gs://bucket/a-b_c", "Wer fragt: Anna & Bob?"])
def test_ordinary_text_is_written_as_it_is(text):
    assert escape_markdown(text) == text


def test_the_markdown_is_headings_lists_and_tables_that_github_reads():
    parsed = MarkdownIt("commonmark").enable("table").parse(build_card(FACTS).markdown)
    kinds = [token.type for token in parsed if token.level == 0]
    assert kinds.count("heading_open") == 15
    assert kinds.count("table_open") >= 10
    assert "html_block" not in kinds


def test_the_page_is_the_cards_text_and_needs_no_network():
    made = build_card(FACTS)
    assert "<script" not in made.html
    assert not re.findall(r"""(?:src|href)=["']?http|url\(|@import""", made.html)
    assert len(made.html) < 200_000


def test_text_of_people_is_no_markup():
    evil = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `a` **b** | c"
    made = build_card(replace(FACTS, consent=evil, decision=record(SRCC, policy=replace(FORCE, force_reason=evil))))
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(made.markdown)
    for page in (made.html, rendered):
        assert "<img" not in page
        assert "javascript:alert(1)" in readable(page) if page is rendered else readable(made.html)
        assert 'href="javascript' not in page
    assert evil in readable(made.markdown)
    assert evil in readable(made.html)


def test_what_is_empty_is_left_out():
    document = Document("Title")
    document.section("Empty", "", Items([]), Table([]), Code(""))
    document.section("Full", "text")
    assert document.markdown() == "# Title\n\n## Full\n\ntext\n"
    assert "Empty" not in document.page().html()


def test_both_files_are_written(tmp_path):
    ModelCard("# Ä", "<p>Ä").write(tmp_path)
    assert (tmp_path / "model_card.md").read_text("utf-8") == "# Ä"
    assert (tmp_path / "model_card.html").read_text("utf-8") == "<p>Ä"


def test_the_code_to_load_it_is_python():
    code = re.search(r"```python\n(.*?)```", build_card(FACTS).markdown, re.DOTALL)[1]
    compile(code, "card", "exec")
