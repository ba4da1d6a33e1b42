"""A report is one self-contained page; it escapes its content and stays small."""

import base64
import io
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from components.scorer.report import page
from components.scorer.report.page import Page


class Parsed(HTMLParser):
    """Parser that collects the tags with their attributes and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def figure():
    chart = Figure(figsize=(4.5, 3))
    axes = chart.subplots()
    axes.scatter([1, 2], [3, 4], label="photos")
    axes.axvline(1.5, color="black")
    axes.set_xlabel("by people & co")
    axes.legend()
    return chart


def encoded(size=(900, 600), kind="PNG"):
    data = io.BytesIO()
    Image.new("RGB", size, "teal").save(data, kind)
    return data.getvalue()


def whole_page():
    report = Page("A report", "of everything")
    report.section("", page.verdict(True, "yes"))
    report.section("Charts", "in words", page.gallery([page.chart(figure(), "two points")]))
    report.section("Rows", page.table([{"name": "a", "n": 3}], "three"), page.photo(encoded(), "a.jpg"))
    return report.html()


@pytest.mark.slow
def test_the_page_loads_no_other_resource():
    for tag, attributes in Parsed(whole_page()).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in whole_page()
    assert "url(http" not in whole_page()


@pytest.mark.slow
def test_every_tag_is_closed_in_order():
    assert Parsed(whole_page()).open == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [
        lambda words: words,
        page.paragraph,
        lambda words: page.verdict(False, words),
        lambda words: page.table([{words: 1}, {"name": words}, {"name": page.mark(None, words)}], words),
        lambda words: page.chart(figure(), words),
        lambda words: page.photo(encoded(), words),
    ],
)
def test_content_of_a_page_is_text_and_never_markup(block):
    report = Page('<img src="x">', "<script>")
    report.section("<b>", block('"><script>alert(1)</script>'))
    tags = [tag for tag, attributes in Parsed(report.html()).tags if attributes.get("src") is not None]
    assert "<script" not in report.html()
    assert tags in ([], ["img"])
    assert 'src="x"' not in report.html()


@pytest.mark.slow
def test_a_charts_text_is_escaped_and_its_black_and_white_are_the_pages_colours():
    drawing = page.chart(figure(), "two points")
    assert "by people &amp; co" in drawing
    assert "#000000" not in drawing
    assert "#ffffff" not in drawing
    assert "currentColor" in drawing


@pytest.mark.slow
def test_the_same_figure_gives_the_same_bytes():
    assert page.chart(figure(), "x") == page.chart(figure(), "x")


@pytest.mark.slow
def test_ids_are_unique_on_a_page_of_several_charts():
    tags = Parsed(page.chart(figure(), "one") + page.chart(figure(), "two")).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (-2.5, "&minus;2.500"),
        (None, "&ndash;"),
        (float("nan"), "&ndash;"),
        (True, "yes"),
        ("a b", "a b"),
    ],
)
def test_a_cell_shows_a_readable_value(value, shown):
    assert f">{shown}</td>" in page.table([{"value": value}])


def test_a_table_has_a_column_for_every_key_and_counts_the_rows_left_out():
    html = page.table([{"a": 1}, {"b": 2}, {"a": 3}], max_rows=2)
    assert html.index(">a</th>") < html.index(">b</th>")
    assert "… and 1 more" in html
    assert ">3<" not in html


def test_a_table_with_sentences_is_marked_as_a_list_and_a_table_of_numbers_is_not():
    assert 'class="list"' in page.table([{"n": 1, "why": "a reason of many words " * 4}])
    assert 'class="list"' not in page.table([{"n": 1, "why": "short"}])


def test_a_photo_becomes_a_small_upright_jpeg():
    rotated = Image.new("RGB", (900, 600), "teal")
    exif = rotated.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    data = io.BytesIO()
    rotated.save(data, "JPEG", exif=exif)
    source = dict(Parsed(page.photo(data.getvalue(), "x", side=120)).tags)["img"]["src"]
    thumbnail = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (80, 120))


def test_a_page_that_is_too_large_is_refused_and_not_written(tmp_path):
    report = Page("Large")
    report.section("", "x" * page.MAX_BYTES)
    with pytest.raises(ValueError, match=r"'Large' has 5,00\d,\d+ bytes, expected at most 5,000,000"):
        report.write(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_is_written_with_its_parent_folders(tmp_path):
    Page("Größe").write(tmp_path / "a" / "report")
    assert "Größe" in (tmp_path / "a" / "report").read_text("utf-8")
