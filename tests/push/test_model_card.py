"""The model card: its required facts in Markdown and HTML, with any input from the earlier steps."""

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
    """Readable text of the whole card in each format."""
    return readable(getattr(build_card(FACTS), request.param))


def both(facts: CardInputs) -> list[str]:
    card = build_card(facts)
    return [readable(card.markdown), readable(card.html)]


# Content


@pytest.mark.slow
@pytest.mark.parametrize(("number", "words"), [(0, "rated 20 photos"), (900, "rated 20 more photos")])
def test_the_card_counts_the_photos_with_an_unknown_number_of_raters(number, words):
    ratings = {"number": number, "photos_without_number": 20, "groups": 12}
    for text in both(replace(FACTS, ingestion={**FACTS.ingestion, "ratings": ratings})):
        assert f"How many people {words} is not known." in text


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
def test_the_card_holds_the_fact(words, fact):
    assert fact in words


@pytest.mark.parametrize("private", ["anna.jpg", "0.123456789", "0.123 0.123"])
def test_the_card_holds_no_data_of_single_photos(words, private):
    assert private not in words


def test_the_card_begins_with_an_override_its_reason_and_the_failed_gate():
    for text in both(replace(FACTS, decision=record(SRCC, EMD, policy=FORCE))):
        assert "Forced by a person: the champion is broken. 1 of 2 gates said no." in text[:300]
        assert "Ranks as people do: SRCC is .31; it has to be at least .5." in text[:500]


def test_the_card_begins_with_the_warnings():
    for text in both(replace(FACTS, decision=record(EMD, NOISE))):
        assert "1 warning." in text[:300]
        assert "Noise raises no score: noise raises by .3." in text[:400]
        assert re.search(r"✗ failed, warns only \S 0.050 noise raises by .3.", text)


@pytest.mark.parametrize("consent", ["", "  "])
def test_the_card_says_that_consent_is_not_stated(consent):
    for text in both(replace(FACTS, consent=consent)):
        assert "Consent of the photographed people: not stated." in text


def test_the_card_says_that_an_image_is_named_by_a_tag(words):
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
def test_the_card_names_the_champion_before_or_its_error(champion, sentence):
    for text in both(replace(FACTS, decision=record(EMD, champion=champion))):
        assert sentence in text


# Missing input


def bare(facts: CardInputs = FACTS, **others: object) -> CardInputs:
    return replace(facts, metrics={}, ingestion={}, sources={}, consent="", images={}, settings={}, **others)


def test_without_metrics_the_card_says_what_is_not_known():
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
    """Return every path in nested objects and lists; a list's first item represents all its items."""
    below = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path, *(nested for name, item in below for nested in paths(item, (*path, name)))]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_value_in_the_files_of_other_steps_gives_a_card(data):
    field = data.draw(st.sampled_from(["metrics", "ingestion"]))
    value = deepcopy(getattr(FACTS, field))
    *parents, last = data.draw(st.sampled_from(paths(value)[1:]))
    parent = value
    for name in parents:
        parent = parent[name]
    parent[last] = data.draw(JSON)
    card = build_card(replace(FACTS, **{field: value}))
    assert "What it must not be used for" in card.markdown
    assert "</html>" in card.html


# Format


@pytest.mark.slow
@given(st.text() | st.text("\\`*_[](){}<>|~#+-=.!&;:/ a1\n", max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_text_is_escaped_and_read_back_from_markdown(text):
    line = " ".join(text.split())
    document = Document("Title", line)
    document.section("", Items([line or "x"]), Table([{"column": line, "other": 1}]))
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(document.markdown())
    cells = [html.unescape(cell) for cell in re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", rendered, re.DOTALL)]
    unknown = {0: "\N{REPLACEMENT CHARACTER}"}
    assert cells == ["column", "other", line.translate(unknown), "1"]
    for paragraph in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", rendered, re.DOTALL):
        assert html.unescape(paragraph) == (line or "x").translate(unknown)


@pytest.mark.parametrize("text", ["minimum_srcc is .5 (95 % of 3,000)", "gs://bucket/a-b_c", "Wer fragt: Anna & Bob?"])
def test_ordinary_text_is_not_escaped(text):
    assert escape_markdown(text) == text


def test_the_markdown_parses_into_headings_lists_and_tables_without_html():
    parsed = MarkdownIt("commonmark").enable("table").parse(build_card(FACTS).markdown)
    kinds = [token.type for token in parsed if token.level == 0]
    assert kinds.count("heading_open") == 15
    assert kinds.count("table_open") >= 10
    assert "html_block" not in kinds


def test_the_html_page_is_small_and_needs_neither_scripts_nor_network():
    card = build_card(FACTS)
    assert "<script" not in card.html
    assert not re.findall(r"""(?:src|href)=["']?http|url\(|@import""", card.html)
    assert len(card.html) < 200_000


def test_text_from_people_is_never_markup():
    markup = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `a` **b** | c"
    card = build_card(replace(FACTS, consent=markup, decision=record(SRCC, policy=replace(FORCE, force_reason=markup))))
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(card.markdown)
    for page in (card.html, rendered):
        assert "<img" not in page
        assert "javascript:alert(1)" in readable(page) if page is rendered else readable(card.html)
        assert 'href="javascript' not in page
    assert markup in readable(card.markdown)
    assert markup in readable(card.html)


def test_empty_sections_are_left_out():
    document = Document("Title")
    document.section("Empty", "", Items([]), Table([]), Code(""))
    document.section("Full", "text")
    assert document.markdown() == "# Title\n\n## Full\n\ntext\n"
    assert "Empty" not in document.page().html()


def test_both_files_are_written(tmp_path):
    ModelCard("# Ä", "<p>Ä").write(tmp_path)
    assert (tmp_path / "model_card.md").read_text("utf-8") == "# Ä"
    assert (tmp_path / "model_card.html").read_text("utf-8") == "<p>Ä"


def test_the_cards_loading_code_is_valid_python():
    code = re.search(r"```python\n(.*?)```", build_card(FACTS).markdown, re.DOTALL)[1]
    compile(code, "card", "exec")
